//! Ranges of values that several keys share, each with its reason.

use wire::platform::{MAX_VCPUS, PAGE_SIZE, RAM_BYTES_MAX};

use super::Range;

pub(super) const fn range(min: u64, max: u64, why: &'static str) -> Range {
    Range { min, max, why }
}

/// TOML promises integers up to here.
pub(in crate::scenario) const INTEGER_MAX: u64 = i64::MAX as u64;
pub(super) const TIME: Range = range(0, 86_400_000_000_000, "a run is a matter of seconds; a day is the limit");
pub(super) const ANY: Range = range(0, INTEGER_MAX, "TOML's integers end at 2^63 - 1");
pub(super) const COUNT: Range = range(1, INTEGER_MAX, "0 would end the run before it starts");
pub(super) const COST: Range = range(0, 1_000_000_000, "no single move takes longer than a second");
pub(super) const RATE: Range = range(1, 1 << 40, "a link must move, and 1024 GiB/s is beyond any");
pub(super) const POISONED: Range = range(0, RAM_BYTES_MAX / PAGE_SIZE - 1, "no memory has more pages");
pub(super) const CHANNELS: Range = range(0, 8, "more would show nothing that eight do not");
pub(super) const XBZRLE: Range = range(1, 1 << 20, "more exceed any guest's pages");
pub(super) const EVERY: Range = range(1, 1_000_000, "more exceed any guest's pages");
pub(super) const ZONE: Range = range(0, 63, "no machine has more");
pub(super) const BYTE: Range = range(0, 255, "it is a byte");
pub(super) const PERCENT: Range = range(1, 100, "QEMU takes 1 to 100 percent");
pub(super) const SHARE: Range = range(1, 99, "a vCPU sleeps at most 99 percent of its time");
pub(super) const LIMIT: Range = range(1, 1 << 20, "no vCPU dirties a TiB in a second");
pub(super) const LIMIT_OR_NONE: Range = range(0, 1 << 20, "no vCPU dirties a TiB in a second");
pub(super) const ID: Range = range(0, u32::MAX as u64, "command ids have 32 bits");
pub(super) const ROOM: Range = range(0, 1024, "tables do not grow by more");
pub(super) const MEM_BLOCK: Range = range(1 << 20, 1 << 30, "QEMU's virtio-mem takes no blocks below 1 MiB");
pub(super) const MEM_SIZE: Range = range(1 << 20, RAM_BYTES_MAX, "it is a block at least, and no memory is larger");
pub(super) const MEM_BLOCKS: Range = range(0, RAM_BYTES_MAX >> 20, "no memory has more blocks");
pub(super) const RAM_ADDRS: Range = range(0, 2 * RAM_BYTES_MAX / PAGE_SIZE, "that much lies between no two blocks");
pub(super) const PAGES: Range = range(1, RAM_BYTES_MAX / PAGE_SIZE, "no memory has more pages");
pub(super) const VCPUS: Range = range(1, MAX_VCPUS as u64, "each has a mailbox page");
pub(super) const RING: Range = range(4, 1 << 16, "a vCPU has to get on between two exits, and KVM takes no more than 65536 entries");
pub(super) const REAP: Range = range(1, 1_000_000_000_000, "a reaper that never sleeps would never let go");
pub(super) const SLOT: Range = range(PAGE_SIZE, RAM_BYTES_MAX, "the first slot begins at 0, and no memory is larger");
pub(super) const CHUNK: Range = range(PAGE_SIZE << 6, PAGE_SIZE << 31, "QEMU's x-clear-bitmap-shift is 6..=31 pages, as a power of two");
/// 4 KiB, 64 KiB, 2 MiB and what lies between.
pub(super) const HOST_PAGE: Range = range(PAGE_SIZE, 2 << 20, "such are the pages of anonymous memory, and the smaller huge ones");
pub(super) const HINT_QUEUE: Range = range(2, 1024, "Linux does not probe with fewer than 2 entries, QEMU's queues end at 1024");
pub(super) const ARRAY: Range = range(1, 512, "an array is a page");
pub(super) const VHOST_QUEUES: Range = range(0, 7, "the model has eight queues");
pub(super) const QUEUE: Range = range(1, 1024, "QEMU's queues end at 1024");
pub(super) const AMOUNT: Range = range(PAGE_SIZE, RAM_BYTES_MAX, "at least a page, and no memory is larger");
