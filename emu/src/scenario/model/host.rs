//! The host of a scenario: whose device it is, how it tracks writes, how its memory is divided.

use super::{Driver, Numbering};

/// The host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whose device it is.
    pub profile: Profile,
    /// How guest writes are tracked.
    pub dirty_log: DirtyLog,
    /// Pages per bit of C, as a power of two: 6..=31.
    pub chunk_shift: u8,
    /// All pages count as dirty, and none is write-protected, when logging starts (KVM_DIRTY_LOG_INITIALLY_SET; manual clear only).
    pub initially_set: bool,
    /// What else tracking needs.
    pub tracking: Tracking,
    /// Offered feature bits of the balloon.
    pub features: u64,
    /// How the device numbers its queues.
    pub queue_numbering: Numbering,
    /// How the host looks for free pages by itself (driver host-walk alone).
    pub walk: Walk,
    /// Size of the hint queue.
    pub hint_queue_size: u16,
    /// Size of the other queues but reporting's.
    pub queue_size: u16,
    /// Balloon target at boot, 4 KiB pages.
    pub balloon_pages: u32,
    /// The host asks for statistics this often, nanoseconds; 0: never.
    pub stats_interval_ns: u64,
    /// 4 KiB pages in a page of the host: nothing smaller can be discarded.
    pub host_page: u16,
    /// There is an iothread for hints; without it the balloon offers none.
    pub iothread: bool,
    /// Page 0 is ROM.
    pub rom: bool,
    /// The device says DONE by itself when the driver has no more to hint (profile firecracker alone).
    pub acknowledge_on_stop: bool,
    /// Locks for which there is no use in most scenarios are taken, too, wherever the real code takes them (`docs/locks.md`).
    pub all_locks: bool,
    /// Devices that write guest memory by themselves.
    pub devices: Devices,
    /// The RAM blocks that guest memory consists of, one behind the other; none: it is one.
    pub blocks: Vec<RamBlock>,
    /// Memory behind them that is plugged and unplugged.
    pub virtio_mem: Option<VirtioMem>,
}

impl Host {
    /// Returns what a profile's users get without asking, when their guest's driver is this.
    ///
    /// QEMU: hw/virtio/virtio-balloon.c virtio_balloon_device_realize() for the queues; statistics are always offered, page poison by default,
    /// hinting because it is what is tested here; the log is what KVM gives since Linux 5.7, with QEMU's `x-clear-bitmap-shift` of 18.
    /// Firecracker: 256 entries in each queue, a log without manual clear, hinting alone. Cloud Hypervisor: 128 entries, the same log, reporting alone. For a driver that was never merged the device offers what its series
    /// asks for.
    pub fn of(profile: Profile, driver: Driver) -> Self {
        use wire::balloon::queue_size;
        let (dirty_log, hint_queue_size, queue_size) = match profile {
            Profile::Qemu => (DirtyLog::ManualClear, queue_size::FREE_PAGE, queue_size::DEFAULT),
            Profile::Firecracker => (DirtyLog::GetClears, 256, 256),
            Profile::CloudHypervisor => (DirtyLog::GetClears, queue_size::FREE_PAGE, queue_size::DEFAULT),
        };
        let initially_set = dirty_log == DirtyLog::ManualClear;
        Self {
            profile,
            dirty_log,
            chunk_shift: Self::CHUNK_SHIFT,
            initially_set,
            tracking: Tracking::default(),
            features: default_features(profile, driver),
            queue_numbering: Numbering::Dense,
            walk: Walk::Naive,
            hint_queue_size,
            queue_size,
            balloon_pages: 0,
            stats_interval_ns: 0,
            blocks: Vec::new(),
            virtio_mem: None,
            host_page: 1,
            iothread: true,
            rom: false,
            acknowledge_on_stop: true,
            all_locks: false,
            devices: Devices::default(),
        }
    }

    /// Returns how much of memory the guest is not told of when it boots, bytes: what is not there until the last RAM block grows, and what is plugged
    /// and unplugged.
    pub fn untold_bytes(&self) -> u64 {
        let room = self.blocks.last().map_or(0, |block| block.room);
        (room + self.virtio_mem.as_ref().map_or(0, |mem| mem.pages)) * wire::platform::PAGE_SIZE
    }

    /// Chunk of C when nothing else is asked for: 1 GiB (QEMU: property `x-clear-bitmap-shift`).
    pub const CHUNK_SHIFT: u8 = 18;
}

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// Its name.
    pub name: String,
    /// Its length, pages.
    pub pages: u64,
    /// Its first ram_addr, pages.
    pub offset: u64,
    /// Pages at its end that are not there until it grows: of the last block alone.
    pub room: u64,
    /// The migration leaves it out: its memory is shared with the destination.
    pub ignored: bool,
}

impl RamBlock {
    /// Returns where a block lies behind others unless somebody asks for more: at the next multiple of 64 pages (QEMU: system/physmem.c
    /// find_ram_offset(), aligned since 2.12).
    pub fn offset_behind(blocks: &[RamBlock]) -> u64 {
        let end = blocks.iter().map(|block| block.offset + block.pages).max().unwrap_or(0);
        end.next_multiple_of(host::dirty::bitmap::WORD_PAGES)
    }

    /// Returns whether two blocks have ram_addrs in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.pages && other.offset < self.offset + self.pages
    }
}

/// A virtio-mem device: a RAM block of its own at the end of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioMem {
    /// All that it may ever have, pages.
    pub pages: u64,
    /// Pages of a block.
    pub block_pages: u64,
    /// Pages of the parts as which others see it.
    pub memslot_pages: u64,
    /// Blocks that are plugged from the start.
    pub plugged: Vec<u64>,
}

impl VirtioMem {
    /// Name of its RAM block.
    pub const NAME: &'static str = "vmem0";
}

/// Devices that write guest memory by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// How long a vhost backend takes to answer the order to log, nanoseconds; `None`: it logs at once.
    pub vhost_log_ack_ns: Option<u64>,
    /// Queues of the vhost device, two to a pair; 0: those that a scenario does not speak of.
    pub vhost_queues: u8,
    /// There is an assigned device.
    pub vfio: bool,
    /// The guest chooses the addresses that devices use.
    pub iommu: bool,
}

/// What tracking guest writes needs beside the log's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Entries of a vCPU's dirty ring (log `ring` only).
    pub ring_size: u32,
    /// How often the reaper looks at the rings, nanoseconds (log `ring` only).
    pub reap_interval_ns: u64,
    /// First pages of the memory slots behind the first (KVM's logs only).
    pub slots: Vec<u64>,
    /// System management mode has an address space of its own (KVM's logs only).
    pub smm: bool,
}

impl Default for Tracking {
    fn default() -> Self {
        let (ring_size, reap_interval_ns) = (host::dirty::ring::RING_SIZE, host::dirty::accel::REAP_INTERVAL_NS);
        Self { ring_size, reap_interval_ns, slots: Vec::new(), smm: false }
    }
}

/// Returns the feature bits that a device offers to a driver without being asked for more.
fn default_features(profile: Profile, driver: Driver) -> u64 {
    use wire::balloon::{feature, seed_feature};
    let stats = match profile {
        Profile::Qemu => feature::STATS_VQ | feature::PAGE_POISON,
        Profile::Firecracker => 0,
        // It knows no other.
        Profile::CloudHypervisor => return feature::PAGE_REPORTING,
    };
    match driver {
        // The request's queue is the fourth, so statistics come with it.
        Driver::V6 | Driver::V8 | Driver::V10 => feature::STATS_VQ | seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ,
        Driver::HostWalk => stats,
        Driver::Report => stats | feature::PAGE_REPORTING,
        Driver::Hint
        | Driver::V13
        | Driver::V16
        | Driver::V33
        | Driver::V33Thread
        | Driver::V33Pop
        | Driver::V33Alloc
        | Driver::PfnWalk
        | Driver::Balloon2012 => stats | feature::FREE_PAGE_HINT,
    }
}

/// Whose device and policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A hint clears bits.
    Qemu,
    /// A hint discards at once.
    Firecracker,
    /// Reports, no hints; the VMM's own writes stand in a bitmap of their own, and the first round is sparse.
    CloudHypervisor,
}

impl Profile {
    /// Every profile.
    pub const ALL: &'static [Profile] = &[Profile::Qemu, Profile::Firecracker, Profile::CloudHypervisor];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Qemu => "qemu",
            Profile::Firecracker => "firecracker",
            Profile::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

/// How guest writes are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyLog {
    /// KVM with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies, CLEAR clears and write-protects.
    ManualClear,
    /// KVM without it: GET copies, clears and write-protects.
    GetClears,
    /// KVM with dirty rings: each vCPU lists what it writes.
    Ring,
    /// HVF: a fault on a protected page marks D, CLEAR protects.
    Hvf,
    /// TCG: stores mark D, nothing else.
    Tcg,
}

impl DirtyLog {
    /// Every way.
    pub const ALL: &'static [DirtyLog] = &[DirtyLog::ManualClear, DirtyLog::GetClears, DirtyLog::Ring, DirtyLog::Hvf, DirtyLog::Tcg];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            DirtyLog::ManualClear => "manual-clear",
            DirtyLog::GetClears => "get-clears",
            DirtyLog::Ring => "ring",
            DirtyLog::Hvf => "hvf",
            DirtyLog::Tcg => "tcg",
        }
    }
}

/// How a host looks for free pages in the guest's memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// It trusts reference counts.
    Naive,
    /// It takes blocks in the buddy lists alone.
    Corrected,
}

impl Walk {
    /// Both ways.
    pub const ALL: &'static [Walk] = &[Walk::Naive, Walk::Corrected];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Walk::Naive => "naive",
            Walk::Corrected => "corrected",
        }
    }
}
