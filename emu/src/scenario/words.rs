//! The closed sets of words of the language, each word with its meaning: from the registries where one exists.

use host::event::{EventKind, LockId};
use host::fault::Fault;
use host::migration::encoding::{Compression, DestinationRam, ZeroPages};
use host::step::Await;
use wire::balloon::{feature, seed_feature};
use wire::switch::correct;

use super::model::{DirtyLog, Driver, Grain, How, Numbering, Profile, Target, Walk};
use super::vocabulary::Word;
use crate::outcome::{Blame, Verdict};

/// Feature bits by name.
pub(super) const FEATURES: &[(&str, u64, &str)] = &[
    ("must-tell-host", feature::MUST_TELL_HOST, "The host wants to be told before a page is taken back."),
    ("stats-vq", feature::STATS_VQ, "A queue for memory statistics exists."),
    ("deflate-on-oom", feature::DEFLATE_ON_OOM, "The guest may take pages back when it is out of memory."),
    ("free-page-hint", feature::FREE_PAGE_HINT, "A queue for free page hints exists."),
    ("page-poison", feature::PAGE_POISON, "The guest tells what it writes into free pages."),
    ("page-reporting", feature::PAGE_REPORTING, "A queue for free page reports exists."),
    ("hint-wait-on-ack", feature::HINT_WAIT_ON_ACK, "The driver waits for each hint's used buffer (proposal of January 2026)."),
    ("page-range", seed_feature::PAGE_RANGE, "Drivers v6, v8, v10: pages are told as ranges or chunks; the bit of free-page-hint."),
    ("host-req-vq", seed_feature::HOST_REQ_VQ, "Drivers v6, v8, v10: a queue for the host's requests exists; the bit of page-poison."),
];

/// Monitor commands that are a word.
pub(super) const COMMANDS: &[Word] = &[
    ("migrate", "Starts a migration."),
    ("cancel", "Cancels the migration."),
    ("stop", "Stops the VM."),
    ("cont", "Lets the VM run on."),
    ("reset-device", "Resets the balloon device alone."),
    ("system-reset", "Resets the whole machine (`system_reset`): memory keeps what it holds, and the guest boots anew."),
    ("unplug-balloon", "Takes the balloon device out of the machine."),
    ("grow-block", "The last RAM block grows into the room that it has."),
    ("break-link", "Breaks the link to the destination."),
    ("start-postcopy", "Switches the migration to postcopy (`migrate_start_postcopy`)."),
    ("recover", "Joins both sides of a postcopy whose link broke (`migrate_recover`, and `migrate` with `resume`)."),
    ("continue", "migrate_continue: a switchover that waits goes on."),
    ("postcopy-ram-on", "migrate-set-capabilities: postcopy-ram on, unless a migration runs."),
    ("postcopy-ram-off", "migrate-set-capabilities: postcopy-ram off, unless a migration runs."),
    ("stall-link", "The destination stops reading; nothing of the VMM's is needed for it."),
    ("resume-link", "The destination reads again."),
    ("yank", "Has the link shut past the main loop, whatever that waits for."),
    ("toggle-pam", "The guest changes who sees the memory at 0xC0000: its memory slot is deleted and created."),
    ("dirty-rate-start", "calc-dirty-rate starts to measure."),
    ("dirty-rate-stop", "The measurement ends."),
    ("plug-vcpu", "Plugs a vCPU that the guest never brings up."),
    ("fail-get", "The kernel refuses the next GET of the dirty log."),
    ("cancel-vcpu-dirty-limit", "Lifts the limits of all vCPUs."),
];

/// Who can be held up.
pub(super) const WAITERS: &[&str] = &["vcpu0", "vcpu1", "vcpu2", "vcpu3", "iothread", "main-loop", "migration", "dest", "return", "reaper"];

/// Returns what somebody can be held up by, as reports call it.
pub(super) fn held_up_by() -> Vec<&'static str> {
    let host = LockId::ALL.into_iter().map(LockId::name);
    let others = Await::ALL.into_iter().map(Await::name);
    host.chain(others).chain(["a used buffer"]).chain(wire::debug::lock::NAMES.iter().copied()).collect()
}

pub(super) fn waiters() -> Vec<Word> {
    WAITERS.iter().map(|who| (*who, "One of the VMM's threads, or a vCPU.")).collect()
}

pub(super) fn holds() -> Vec<Word> {
    held_up_by().into_iter().map(|what| (what, "A lock, or what somebody else does.")).collect()
}

/// Whom a violation may be blamed on.
pub(super) const BLAMES: &[Blame] = &[Blame::Host, Blame::Guest, Blame::Gap];

pub(super) fn features() -> Vec<Word> {
    FEATURES.iter().map(|(name, _, about)| (*name, *about)).collect()
}

pub(super) fn faults() -> Vec<Word> {
    Fault::ALL.iter().map(|fault| (fault.name(), fault.mechanism())).collect()
}

/// Returns all events by name.
pub(super) fn events() -> Vec<Word> {
    EventKind::ALL.iter().map(|kind| (kind.name(), kind.about().trim())).collect()
}

pub(super) fn drivers() -> Vec<Word> {
    Driver::ALL.iter().map(|driver| (driver.name(), driver.about().trim())).collect()
}

pub(super) fn corrections() -> Vec<Word> {
    correct::ALL.iter().map(|(_, name, about)| (*name, about.trim())).collect()
}

pub(super) fn numberings() -> Vec<Word> {
    let about = |numbering: &Numbering| match numbering {
        Numbering::Dense => "Without gaps, as Linux and QEMU do.",
        Numbering::Spec => "Each queue at its own index, as VIRTIO 1.2 says.",
    };
    Numbering::ALL.iter().map(|numbering| (numbering.name(), about(numbering))).collect()
}

pub(super) fn walks() -> Vec<Word> {
    let about = |walk: &Walk| match walk {
        Walk::Naive => "Whatever has no references is free.",
        Walk::Corrected => "Blocks in the buddy lists are free.",
    };
    Walk::ALL.iter().map(|walk| (walk.name(), about(walk))).collect()
}

pub(super) fn compressions() -> Vec<Word> {
    let about = |compression: &Compression| match compression {
        Compression::None => "Not at all.",
        Compression::Zlib => "By a library.",
        Compression::Qpl => "By an accelerator.",
    };
    Compression::ALL.iter().map(|compression| (compression.name(), about(compression))).collect()
}

pub(super) fn destination_rams() -> Vec<Word> {
    let about = |ram: &DestinationRam| match ram {
        DestinationRam::Used => "Something: firmware, or what a guest left there.",
        DestinationRam::Fresh => "Zeros.",
    };
    DestinationRam::ALL.iter().map(|ram| (ram.name(), about(ram))).collect()
}

pub(super) fn zero_pages() -> Vec<Word> {
    let about = |way: &ZeroPages| match way {
        ZeroPages::None => "Nobody: each page goes with its bytes.",
        ZeroPages::Legacy => "The migration thread, when it takes a page.",
        ZeroPages::Multifd => "The channels' senders, when they read it; without channels as legacy.",
    };
    ZeroPages::ALL.iter().map(|way| (way.name(), about(way))).collect()
}

pub(super) fn profiles() -> Vec<Word> {
    let about = |profile: &Profile| match profile {
        Profile::Qemu => "A hint clears bits.",
        Profile::Firecracker => "A hint discards at once.",
        Profile::CloudHypervisor => "Reports, no hints; the first round is sparse.",
    };
    Profile::ALL.iter().map(|profile| (profile.name(), about(profile))).collect()
}

pub(super) fn targets() -> Vec<Word> {
    vec![
        (Target::Buffer.name(), "A buffer of the guest's."),
        (Target::UsedRing(0).name(), "The used ring of a queue (vhost alone)."),
        (Target::AvailEvent.name(), "The avail event behind a queue's used ring (dma alone)."),
    ]
}

pub(super) fn dirty_logs() -> Vec<Word> {
    let about = |log: &DirtyLog| match log {
        DirtyLog::ManualClear => "KVM with manual clear: GET copies, CLEAR clears and write-protects.",
        DirtyLog::GetClears => "KVM without it: GET copies, clears and write-protects.",
        DirtyLog::Ring => "KVM with dirty rings: each vCPU lists what it writes.",
        DirtyLog::Hvf => "HVF: a fault on a protected page marks D, CLEAR protects.",
        DirtyLog::Tcg => "TCG: stores mark D, nothing else.",
    };
    DirtyLog::ALL.iter().map(|log| (log.name(), about(log))).collect()
}

pub(super) fn hows() -> Vec<Word> {
    let about = |how: &How| match how {
        How::Plain => "A plain store.",
        How::Atomic => "A locked read-modify-write (by a vCPU).",
        How::Smm => "A store in system management mode (by a vCPU).",
        How::Kvm => "KVM's own store, of a device that it emulates (by dma).",
    };
    How::ALL.iter().map(|how| (how.name(), about(how))).collect()
}

pub(super) fn grains() -> Vec<Word> {
    let about = |grain: &Grain| match grain {
        Grain::Event => "At each event and each lock.",
        Grain::Instruction => "Before each guest instruction, too.",
    };
    Grain::ALL.iter().map(|grain| (grain.name(), about(grain))).collect()
}

pub(super) fn verdicts() -> Vec<Word> {
    let about = |verdict: &Verdict| match verdict {
        Verdict::HostCrash => "The VMM died: an assertion of its own, or an access to what is not there.",
        Verdict::GuestCrash => "The guest panicked, or touched what it must not.",
        Verdict::LostPage => "A page's last write did not arrive.",
        Verdict::BrokenRule => "A rule was broken, though no page is lost.",
        Verdict::Leak => "Guest memory did not come back.",
        Verdict::OverSend => "A page was sent that the host knew it need not send.",
        Verdict::Deadlock => "Actors wait for each other in a circle.",
        Verdict::Unreachable => "The order that the scenario asks for cannot come about.",
        Verdict::Stall => "Nothing ended the run before its limits.",
        Verdict::Pass => "All is well.",
    };
    Verdict::ALL.iter().map(|verdict| (verdict.name(), about(verdict))).collect()
}

pub(super) fn blames() -> Vec<Word> {
    let about = |blame: &Blame| match blame {
        Blame::Host => "The host dropped what it was told.",
        Blame::Guest => "The guest used a page before the device had consumed its hint.",
        Blame::Gap => "Both sides kept the rules.",
    };
    BLAMES.iter().map(|blame| (blame.name(), about(blame))).collect()
}
