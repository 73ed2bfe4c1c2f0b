//! What a scenario does by itself, when, and in which order.

use host::dirty::command::TrackingCommand;
use host::event::{Actor, EventKind};

use super::{Operation, PageName};

/// What a name in `[pages]` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageSpec {
    /// This page frame.
    Pfn(u64),
    /// A page of the n-th hinted block of the run (from 1).
    Hint {
        /// Which block, from 1.
        hint: u32,
        /// Which page of it.
        page: PageOf,
    },
    /// A page of a task's named allocation, from the moment that it is first allocated.
    Allocation {
        /// The allocation.
        name: String,
        /// Which page of it.
        page: PageOf,
    },
}

/// Which page of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOf {
    /// The n-th, from 0.
    Index(u64),
    /// The last.
    Last,
}

/// Something that the scenario does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// Name for order chains; `inject[i]` always works.
    pub name: Option<String>,
    /// What is done.
    pub action: Action,
    /// By whom.
    pub by: Actor,
    /// When.
    pub trigger: Trigger,
    /// Events that may not happen before it.
    pub before: Vec<Pattern>,
}

/// What the tracking of writes takes an injected store for. The store itself is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum How {
    /// A plain one.
    #[default]
    Plain,
    /// A locked read-modify-write (by a vCPU).
    Atomic,
    /// One in system management mode (by a vCPU).
    Smm,
    /// KVM's own, of a device that it emulates (by dma).
    Kvm,
}

impl How {
    /// Every one.
    pub const ALL: &'static [How] = &[How::Plain, How::Atomic, How::Smm, How::Kvm];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            How::Plain => "plain",
            How::Atomic => "atomic",
            How::Smm => "smm",
            How::Kvm => "kvm",
        }
    }

    /// Returns whether this actor's stores can be such.
    pub fn fits(self, by: Actor) -> bool {
        match self {
            How::Plain => true,
            How::Atomic | How::Smm => matches!(by, Actor::Vcpu(_)),
            How::Kvm => by == Actor::Dma,
        }
    }
}

/// What an injection does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stores to a page: a machine store on a vCPU, a device write, or a vhost write.
    Write {
        /// The page.
        page: PageName,
        /// Byte offset of the store's 8 bytes.
        offset: u64,
        /// First byte stored; a number unique in the scenario follows.
        byte: u8,
        /// The store is all zero.
        zero: bool,
        /// Pages written (by devices): one store in each.
        pages: u64,
        /// What the tracking of writes takes it for.
        how: How,
        /// What of the guest's it is.
        target: Target,
    },
    /// A task operation on a vCPU.
    Task(Operation),
    /// A monitor command.
    Monitor(Command),
    /// A second log user clears its pages (by display).
    ClearLog {
        /// The first page.
        page: PageName,
        /// How many.
        pages: u64,
        /// It first gets the log of their slots, and merges it for everybody: a display's refresh.
        sync: bool,
    },
    /// A stray element on the hint queue that repeats the current id, as a duplicated or delayed buffer would be (by a vCPU).
    RepeatId,
    /// The guest sets a queue of the vhost device up (by a vCPU).
    VhostQueue {
        /// Where its used ring lies.
        page: PageName,
        /// Which queue.
        queue: u8,
    },
    /// The guest lets devices reach pages, or not any more (by a vCPU).
    Iommu {
        /// It lets them.
        map: bool,
        /// The first page.
        page: PageName,
        /// How many.
        pages: u64,
    },
}

/// What a device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// A buffer.
    #[default]
    Buffer,
    /// A queue's used ring.
    UsedRing(u8),
    /// The avail event behind a queue's used ring.
    AvailEvent,
}

impl Target {
    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Target::Buffer => "buffer",
            Target::UsedRing(_) => "used-ring",
            Target::AvailEvent => "avail-event",
        }
    }
}

/// A monitor command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `migrate`.
    Migrate,
    /// `migrate_cancel`.
    Cancel,
    /// `stop`.
    Stop,
    /// `cont`.
    Cont,
    /// `balloon`: the new target, in 4 KiB pages taken from the guest.
    Balloon {
        /// The target.
        pages: u32,
    },
    /// `migrate_continue`.
    Continue,
    /// `migrate-set-capabilities` with postcopy-ram.
    PostcopyRam {
        /// Whether it is to be on.
        on: bool,
    },
    /// `system_reset` of the balloon device alone.
    ResetDevice,
    /// `system_reset`.
    SystemReset,
    /// `device_del` of the balloon; its driver should be unbound by then.
    Unplug,
    /// The link breaks.
    BreakLink,
    /// The last RAM block grows.
    GrowBlock,
    /// `qom-set` of a virtio-mem device's `requested-size`.
    ResizeMem {
        /// Pages that are to be plugged.
        pages: u64,
    },
    /// `migrate_start_postcopy`.
    StartPostcopy,
    /// `migrate_recover`.
    Recover,
    /// The destination stops reading.
    StallLink,
    /// The destination reads again.
    ResumeLink,
    /// `yank`.
    Yank,
    /// Something about the tracking of writes.
    Tracking(TrackingCommand),
}

/// When an injection fires: once all its parts hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trigger {
    /// Not before this virtual time, nanoseconds.
    pub at_ns: Option<u64>,
    /// Not before these events.
    pub after: Vec<Pattern>,
    /// That long behind the last of the events, nanoseconds.
    pub delay_ns: u64,
    /// That many guest instructions of the injecting vCPU behind the last of the events.
    pub delay_insns: u64,
}

/// An event that a constraint speaks of: `kind`, `kind(P)`, `kind#2`, `inject[0]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// The n-th event of a kind (from 1), on a page if one is named.
    Event {
        /// The kind.
        kind: EventKind,
        /// The page, if one is named.
        page: Option<PageName>,
        /// Which of them, from 1.
        nth: u32,
    },
    /// An injection of this scenario.
    Injection(usize),
}

/// Events that must come in this order, each before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The chain, at least two.
    pub chain: Vec<Pattern>,
}
