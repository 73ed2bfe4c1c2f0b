//! How stores are tracked, and what a store is to whoever tracks it.

use super::ring::RING_SIZE;
use crate::event::Pfn;

/// How guest stores are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogMode {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies, CLEAR clears and write-protects.
    ManualClear {
        /// KVM_DIRTY_LOG_INITIALLY_SET: everything counts as dirty when logging starts, and nothing is write-protected.
        initially_set: bool,
    },
    /// KVM without it: GET copies, clears and write-protects.
    GetClears,
    /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: each vCPU lists what it writes; what KVM writes outside of vCPUs is in K.
    Ring,
    /// HVF: a fault on a write-protected page marks D, and CLEAR write-protects (QEMU: accel/hvf/hvf-all.c).
    Hvf,
    /// TCG: stores mark D.
    Tcg,
}

/// What a log is made from, beside its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackingOptions {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Places of a vCPU's ring.
    pub ring_size: u32,
    /// The reaper looks at the rings this often, nanoseconds.
    pub reap_interval_ns: u64,
    /// Target pages of a page of the host's: what a bit of K stands for.
    pub host_page: u16,
    /// First pages of the memory slots behind the first.
    pub slots: Vec<Pfn>,
    /// System management mode has an address space of its own.
    pub smm: bool,
}

/// The reaper's interval when nothing else is asked for (QEMU: kvm_dirty_ring_reaper_thread() sleeps a second).
pub const REAP_INTERVAL_NS: u64 = 1_000_000_000;

impl Default for TrackingOptions {
    fn default() -> Self {
        let (ring_size, reap_interval_ns) = (RING_SIZE, REAP_INTERVAL_NS);
        Self { vcpus: 1, ring_size, reap_interval_ns, host_page: 1, slots: Vec::new(), smm: false }
    }
}

/// What a vCPU's store is, beside plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StoreKind {
    /// Nothing.
    #[default]
    Plain,
    /// A locked read-modify-write.
    Atomic,
    /// In system management mode.
    Smm,
}

/// A vCPU's store as the log sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Which vCPU.
    pub cpu: u8,
    /// To which page.
    pub pfn: Pfn,
    /// How.
    pub kind: StoreKind,
}

impl Store {
    /// Returns a plain store.
    pub fn plain(cpu: u8, pfn: Pfn) -> Self {
        Self { cpu, pfn, kind: StoreKind::Plain }
    }
}
