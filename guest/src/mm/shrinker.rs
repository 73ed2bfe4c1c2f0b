//! Callbacks that give memory back when it is short. Linux: mm/shrinker.c.
//!
//! Differs: a table of four instead of a list; one node, no cgroups.

use wire::debug;

use crate::arch::{self, read64, write64};
use crate::kernel::data;
use crate::kernel::mutex::Mutex;
use crate::kernel::wait::{WaitQueue, wait_event};

const SLOTS: u64 = 4;
const SHRINKER_BYTES: u64 = 64;
const S_COUNT: u64 = 0;
const S_SCAN: u64 = 8;
const S_CTX: u64 = 16;
const S_DEFERRED: u64 = 24;
/// u64: 0 while not registered, 1, and one more for each reclaimer that runs it.
const S_REFS: u64 = 32;
const TABLE: u64 = data::SHRINKERS + 64;

/// Pages asked of a shrinker at a time. Linux: SHRINK_BATCH.
const BATCH: u64 = 128;
/// How eagerly objects are scanned, the higher the less. Linux: DEFAULT_SEEKS.
const SEEKS: u64 = 2;
/// What a `scan` function returns when it can make no progress. Linux: SHRINK_STOP.
pub const SHRINK_STOP: u64 = u64::MAX;

/// A registered shrinker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrinker(u64);

impl Shrinker {
    /// The one whose slot is at `addr`.
    pub const fn at(addr: u64) -> Shrinker {
        Shrinker(addr)
    }
    /// Address of the slot, for a driver that keeps it in its structure.
    pub const fn addr(self) -> u64 {
        self.0
    }
}

/// Guards the table's slots; reclaimers do not take it. Linux: shrinker_mutex.
fn table_lock() -> Mutex {
    Mutex::at(data::SHRINKERS, debug::lock::SHRINKER)
}

/// Who unregisters waits here until nobody runs the shrinker any more.
fn done() -> WaitQueue {
    WaitQueue::at(data::SHRINKERS + Mutex::BYTES)
}

/// Registers `count(ctx, 0)`, the pages that could be freed, and `scan(ctx, pages)`, which frees and returns pages freed or
/// [`SHRINK_STOP`]; `None` when the table is full. Several reclaimers may run both at a time. Linux: shrinker_alloc(), shrinker_register().
pub fn register_shrinker(count: fn(u64, u64) -> u64, scan: fn(u64, u64) -> u64, ctx: u64) -> Option<Shrinker> {
    table_lock().lock();
    let slot = slots().find(|slot| read64(slot + S_COUNT) == 0);
    if let Some(slot) = slot {
        write64(slot + S_COUNT, count as usize as u64);
        write64(slot + S_SCAN, scan as usize as u64);
        write64(slot + S_CTX, ctx);
        write64(slot + S_DEFERRED, 0);
        arch::xchg64(slot + S_REFS, 1);
    }
    table_lock().unlock();
    slot.map(Shrinker)
}

/// Forgets a shrinker; it does not run any more when this returns. Linux: shrinker_free().
pub fn unregister_shrinker(shrinker: Shrinker) {
    let refs = shrinker.0 + S_REFS;
    assert!(read64(refs) != 0, "shrinker is not registered");
    put(shrinker.0);
    wait_event(done(), || read64(refs) == 0);
    table_lock().lock();
    write64(shrinker.0 + S_COUNT, 0);
    table_lock().unlock();
}

fn slots() -> impl Iterator<Item = u64> {
    (0..SLOTS).map(|index| TABLE + index * SHRINKER_BYTES)
}

/// Takes a reference, unless the shrinker is being unregistered. Linux: shrinker_try_get().
fn try_get(slot: u64) -> bool {
    let mut refs = read64(slot + S_REFS);
    while refs != 0 {
        let found = arch::cmpxchg64(slot + S_REFS, refs, refs + 1);
        if found == refs {
            return true;
        }
        refs = found;
    }
    false
}

/// Drops a reference. Linux: shrinker_put().
fn put(slot: u64) {
    if arch::fetch_add64(slot + S_REFS, u64::MAX) == 1 {
        done().wake_up();
    }
}

/// Pages that a shrinker says it could free. Linux: shrinker.count_objects().
fn freeable(slot: u64) -> u64 {
    arch::call2(read64(slot + S_COUNT), read64(slot + S_CTX), 0)
}

/// Asks a shrinker for `pages` pages, with the tracepoint. Linux: shrinker.scan_objects().
fn scan(slot: u64, pages: u64) -> u64 {
    arch::trace(debug::SHRINK, pages, 0);
    arch::call2(read64(slot + S_SCAN), read64(slot + S_CTX), pages)
}

/// One shrinker at one priority: what it is asked grows as the priority falls; what is less than a batch is put off. Linux: do_shrink_slab().
fn do_shrink_slab(slot: u64, priority: u32) -> u64 {
    let freeable = freeable(slot);
    if freeable == 0 {
        return 0;
    }
    let deferred = arch::xchg64(slot + S_DEFERRED, 0);
    let delta = (freeable >> priority) * 4 / SEEKS;
    let mut total_scan = ((deferred >> priority) + delta).min(2 * freeable);
    let (mut scanned, mut freed) = (0, 0);
    while total_scan >= BATCH || total_scan >= freeable {
        let asked = BATCH.min(total_scan);
        let got = scan(slot, asked);
        if got == SHRINK_STOP {
            break;
        }
        freed += got;
        scanned += asked;
        total_scan -= asked;
    }
    let next = (deferred + delta).saturating_sub(scanned).min(2 * freeable);
    arch::fetch_add64(slot + S_DEFERRED, next);
    freed
}

/// Runs every shrinker at a priority; pages freed. Linux: shrink_slab().
pub(crate) fn shrink_slab(priority: u32) -> u64 {
    for_each(|slot| do_shrink_slab(slot, priority))
}

/// Runs every shrinker for `pages` pages at once, whatever its size: what a task's `SHRINK` asks. Linux: drop_slab().
/// Differs: Linux asks for everything that is freeable.
pub fn shrink_pages(pages: u64) -> u64 {
    for_each(|slot| {
        if freeable(slot) == 0 {
            return 0;
        }
        match scan(slot, pages) {
            SHRINK_STOP => 0,
            freed => freed,
        }
    })
}

fn for_each(mut run: impl FnMut(u64) -> u64) -> u64 {
    let mut freed = 0;
    for slot in slots() {
        if try_get(slot) {
            freed += run(slot);
            put(slot);
        }
    }
    freed
}

/// Makes the table empty.
pub(crate) fn init() {
    table_lock().init();
    done().init();
    for slot in slots() {
        write64(slot + S_COUNT, 0);
        write64(slot + S_REFS, 0);
    }
}
