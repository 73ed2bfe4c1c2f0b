//! The museum's rooms: faults of one subject, and what is said at the door.

use host::fault::{Catalogue, Fault};

/// What faults have in common. In the order in which a visitor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Free page hints.
    Hinting,
    /// What a balloon throws away.
    Discards,
    /// The record of what was written.
    DirtyTracking,
    /// From that record to what is still to be sent.
    Bitmaps,
    /// How a page travels.
    Encoding,
    /// The guest runs before its memory is there.
    Postcopy,
    /// Those who write guest memory and are no vCPUs.
    Devices,
    /// Migrations that do not end, or end too late.
    Convergence,
    /// Threads that wait for each other.
    Locks,
    /// Memory as it was at one moment.
    Snapshots,
    /// What is not QEMU.
    OtherVmms,
    /// What never shipped.
    Mutations,
    /// The balloon driver of Linux.
    Driver,
    /// The page allocator below it.
    Allocator,
    /// The way between the two sides.
    Transport,
    /// What was posted and never merged.
    Posted,
}

impl Room {
    /// Every room.
    pub const ALL: [Room; 16] = [
        Room::Hinting,
        Room::Discards,
        Room::DirtyTracking,
        Room::Bitmaps,
        Room::Encoding,
        Room::Postcopy,
        Room::Devices,
        Room::Convergence,
        Room::Locks,
        Room::Snapshots,
        Room::OtherVmms,
        Room::Mutations,
        Room::Driver,
        Room::Allocator,
        Room::Transport,
        Room::Posted,
    ];

    /// Returns where a fault stands: by its id, as the catalogues group them.
    ///
    /// # Panics
    /// When the id is none of its catalogue.
    pub fn of(fault: Fault) -> Room {
        match fault.catalogue() {
            Catalogue::Vmm => Room::of_vmm_id(fault.id()),
            Catalogue::Linux => match fault.id().trim_start_matches('B').parse().expect("an id of Linux's bugs") {
                0..30 => Room::Driver,
                30..38 => Room::Allocator,
                38_u32.. => Room::Transport,
            },
            Catalogue::Posted => Room::Posted,
            Catalogue::Mutation => Room::Mutations,
        }
    }

    /// Returns where an entry of the VMMs' catalogue stands, or would.
    ///
    /// # Panics
    /// When the id is none of that catalogue.
    pub fn of_vmm_id(id: &str) -> Room {
        match id.as_bytes()[0] {
            b'H' => Room::Hinting,
            b'B' => Room::Discards,
            b'K' => Room::DirtyTracking,
            b'Q' => Room::Bitmaps,
            b'E' => Room::Encoding,
            b'P' => Room::Postcopy,
            b'V' => Room::Devices,
            b'C' => Room::Convergence,
            b'L' => Room::Locks,
            b'S' => Room::Snapshots,
            b'X' => Room::OtherVmms,
            _ => panic!("{id} is in no catalogue"),
        }
    }

    /// Returns its name.
    pub fn title(self) -> &'static str {
        match self {
            Room::Hinting => "Free page hints",
            Room::Discards => "What a balloon throws away",
            Room::DirtyTracking => "The record of what was written",
            Room::Bitmaps => "Four bitmaps and a cursor",
            Room::Encoding => "How a page travels",
            Room::Postcopy => "Postcopy",
            Room::Devices => "Devices that write",
            Room::Convergence => "Migrations that do not end",
            Room::Locks => "Locks",
            Room::Snapshots => "Snapshots",
            Room::OtherVmms => "Other VMMs",
            Room::Mutations => "Three that never shipped",
            Room::Driver => "The driver",
            Room::Allocator => "The allocator",
            Room::Transport => "The transport",
            Room::Posted => "What was never merged",
        }
    }

    /// Returns what is said at the door.
    pub fn introduction(self) -> &'static str {
        match self {
            Room::Locks => {
                "A lock that is taken in two orders works until two threads take it at the same moment. Then nothing crashes and nothing is lost: the monitor \
                 does not answer any more."
            }
            Room::Hinting => {
                "A guest may say which of its pages are free, and the host leaves them out of the migration. A hint is true when it is given, and may be \
                 false when it is applied. So each round of hints has an id, the device has four states, and whatever can make a hint come late, or count \
                 twice, was once got wrong."
            }
            Room::Discards => {
                "A balloon takes pages from the guest, and the host throws away what they held. Throwing away cannot be taken back: a page too many, or a \
                 moment too early, and the guest reads zeros where its data was."
            }
            Room::DirtyTracking => {
                "Everything rests on the record of what was written. KVM keeps one by write protection or in rings, TCG keeps its own, and each is copied \
                 before it is cleared. These bugs are silent: the guest runs on, the migration reports success, and one page is old."
            }
            Room::Bitmaps => {
                "From that record to the list of what is still to be sent, a bit goes through bitmaps that are cut in words of 64 pages, while memory is cut in \
                 blocks that end where they like. A bit that falls between two of them is a page that nobody sends. One that stays for ever is a \
                 migration that never ends."
            }
            Room::Encoding => {
                "A page of zeros need not be sent. One that changed a little can be sent as the difference. Several channels are faster than one. Each of \
                 these savings is a belief about what the other side already has, and this room shows what happens when it has something else."
            }
            Room::Postcopy => {
                "The guest starts at the destination before its memory is there, and what it touches is asked for. Each page has to come exactly once: one that \
                 comes twice overwrites what the guest has written since, one that never comes stops a vCPU for ever."
            }
            Room::Devices => {
                "vCPUs are not the only ones who write guest memory. A network backend in a process of its own, a disk controller, a graphics card that was handed \
                 to the guest: each has its own way to say what it wrote, and each has at some time forgotten to."
            }
            Room::Convergence => {
                "Hardly a page is lost in here. These migrations do not end, or end too late, or slow the guest down for nothing, because somebody decides by a \
                 number that is wrong."
            }
            Room::Snapshots => {
                "A background snapshot holds memory as it was at one moment, though the guest goes on: every page is protected, and saved before it is first \
                 written. A page that was not protected after all is saved as it became."
            }
            Room::OtherVmms => {
                "Others wrote their own balloon and their own migration, in another language and with QEMU's history before their eyes. They met the same few \
                 ideas, and fell for some of the same ones."
            }
            Room::Mutations => {
                "These are no history. Somebody broke a QEMU 10.0.2 on purpose, to see what a real Linux guest would show of it. The third showed at once. Of \
                 the first two it showed nothing, in more than 80 migrations each: to lose a page, a store has to hit a window of a microsecond. Here it does, \
                 every time."
            }
            Room::Driver => {
                "Now to the other end of the queue. Linux's balloon driver takes pages from the allocator, tells the host, waits, and one day gives them back. \
                 Most of its bugs are about who holds a page in between; the guest notices them itself, late and somewhere else."
            }
            Room::Allocator => {
                "Below the driver, a page is free or it has an owner. These made it both for a moment, or neither for good. None is about balloons; a balloon, \
                 which takes and returns memory by the gigabyte, is how one meets them."
            }
            Room::Transport => {
                "Queues have to be found, interrupts have to arrive, and a change of the configuration may come when nobody is at home."
            }
            Room::Posted => {
                "Before the hints of today, other interfaces were posted and discussed, in which the host asks and the guest answers. These are faults of a \
                 careless device at the host's end of them."
            }
        }
    }
}
