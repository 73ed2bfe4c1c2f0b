//! Notifiers that run before somebody would be killed. Linux: mm/oom_kill.c, kernel/notifier.c blocking_notifier_call_chain().

use wire::debug;

use crate::arch::{self, read64, write64};
use crate::kernel::data;
use crate::kernel::mutex::Mutex;
use crate::mm::stats::{self, Event};

const SLOTS: u64 = 4;
const NOTIFIER_BYTES: u64 = 32;
const N_FUNC: u64 = 0;
const N_CTX: u64 = 8;
const N_PRIORITY: u64 = 16;
const TABLE: u64 = data::OOM_NOTIFIERS + 64;

/// A registered notifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomNotifier(u64);

impl OomNotifier {
    /// The one whose slot is at `addr`.
    pub const fn at(addr: u64) -> OomNotifier {
        OomNotifier(addr)
    }
    /// Address of the slot, for a driver that keeps it in its structure.
    pub const fn addr(self) -> u64 {
        self.0
    }
}

/// Guards the table and lets one thread at a time run the chain. Linux: oom_lock.
fn chain_lock() -> Mutex {
    Mutex::at(data::OOM_NOTIFIERS, debug::lock::OOM)
}

/// Registers `func(ctx, 0)`, which returns the pages that it freed; higher priorities run first. `None` when the table is full.
/// Linux: register_oom_notifier().
pub fn register_oom_notifier(priority: u64, func: fn(u64, u64) -> u64, ctx: u64) -> Option<OomNotifier> {
    chain_lock().lock();
    let slot = (0..SLOTS).map(|index| TABLE + index * NOTIFIER_BYTES).find(|slot| read64(slot + N_FUNC) == 0);
    if let Some(slot) = slot {
        write64(slot + N_CTX, ctx);
        write64(slot + N_PRIORITY, priority);
        write64(slot + N_FUNC, func as usize as u64);
    }
    chain_lock().unlock();
    slot.map(OomNotifier)
}

/// Forgets a notifier; it does not run any more when this returns. Linux: unregister_oom_notifier().
pub fn unregister_oom_notifier(notifier: OomNotifier) {
    chain_lock().lock();
    assert!(read64(notifier.0 + N_FUNC) != 0, "notifier is not registered");
    write64(notifier.0 + N_FUNC, 0);
    chain_lock().unlock();
}

/// The registered slot that comes behind `after` (priority falling, then place), if any.
fn next_slot(after: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let slots = (0..SLOTS).map(|index| TABLE + index * NOTIFIER_BYTES).filter(|slot| read64(slot + N_FUNC) != 0);
    // Inverted, so that the smallest pair comes first.
    let keys = slots.map(|slot| (u64::MAX - read64(slot + N_PRIORITY), slot));
    keys.filter(|&key| after.is_none_or(|after| key > after)).min()
}

/// Runs the notifiers; pages freed. Linux: out_of_memory(). Differs: with nothing freed it would kill a process; here there is
/// none, and the allocation fails.
pub fn out_of_memory() -> u64 {
    // As in Linux: who finds somebody else at it counts that as progress and tries its allocation again.
    if !chain_lock().try_lock() {
        crate::kernel::timer::sleep_ns(OOM_RETRY_NS);
        return 1;
    }
    arch::trace(debug::OOM, 0, 0);
    let mut freed = 0;
    let mut at = next_slot(None);
    while let Some(key) = at {
        freed += arch::call2(read64(key.1 + N_FUNC), read64(key.1 + N_CTX), 0);
        at = next_slot(Some(key));
    }
    if freed == 0 {
        stats::count(Event::OomKill, 1);
    }
    chain_lock().unlock();
    freed
}

/// Linux: schedule_timeout_uninterruptible(1), a tick of 4 ms.
const OOM_RETRY_NS: u64 = 4_000_000;

/// Makes the table empty.
pub(crate) fn init() {
    chain_lock().init();
    for index in 0..SLOTS {
        write64(TABLE + index * NOTIFIER_BYTES + N_FUNC, 0);
    }
}
