//! Hand-made outcomes for the tests of reports and of the command line.

use std::collections::{BTreeMap, BTreeSet};

use host::event::{Actor, CmdId, Event, EventKind, HintElement, HintStatus, MigrationStatus, PageRange, Pfn, PrecopyReason, Stamped};
use host::fault::Fault;

use super::Subject;
use crate::outcome::{Blame, BlockedTime, Facts, GuestCrash, Outcome, PageFacts, SpinTime, Verdict, Violation, Wait};

/// The page that is lost.
pub(crate) const P: Pfn = Pfn(0x207);
/// The control: hinted, never written.
pub(crate) const Q: Pfn = Pfn(0x208);

/// Returns an event with its time and actor.
pub(crate) fn at(at_ns: u64, actor: Actor, event: Event) -> Stamped {
    Stamped { at_ns, actor, event }
}

/// Returns where the outcomes came from.
pub(crate) fn subject() -> Subject {
    Subject {
        name: "scenarios/fail/hinting/stop-skipped.toml".to_string(),
        about: "page written right after its hint, before the device applies it".to_string(),
        faults: vec![Fault::HintStopSkipped],
        asked: BTreeSet::from([EventKind::HintPop, EventKind::HintApply]),
        injections: vec!["write = { page = \"P\", byte = 0xbb }, by vcpu1".to_string()],
    }
}

fn page(pfn: Pfn, sent: u64, source_byte: u8, destination_byte: Option<u8>) -> PageFacts {
    let equal = destination_byte == Some(source_byte);
    let excused = if pfn == Q { Some("hinted, not written since") } else { None };
    PageFacts { pfn: Some(pfn), sent, source_byte, destination_byte, equal, excused }
}

fn facts() -> Facts {
    Facts {
        time_ns: 1_234_567,
        insns: vec![100, 200],
        steps: 42,
        pages_normal: 4000,
        pages_zero: 80,
        pages_skipped: 16,
        pages_resent: 3,
        hints: 1,
        pages_hinted: 16,
        rounds: 2,
        bytes_sent: 16_384_000,
        downtime_ns: 300_000,
        cmd_ids: vec![CmdId(0), CmdId(0x8000_0001), CmdId(1)],
        destination_cmd_id: Some(CmdId(1)),
        migrations: vec![MigrationStatus::Completed],
        held_blocks: 0,
        pages_wrongly_resent: 0,
        pages_resent_hinted: 2,
        irq_off_insns_max: 900,
        irq_off_in: Some("guest::mm::page_alloc::rmqueue_bulk".to_string()),
        free_pages_min: Some(1500),
        free_pages_max_order_min: Some(1024),
        blocked: vec![BlockedTime { who: "iothread".to_string(), on: "bitmap_mutex".to_string(), ns: 7_000 }],
        spun: vec![SpinTime { who: "iothread".to_string(), ns: 9_000, looks: 90 }],
    }
}

fn trace() -> Vec<Stamped> {
    let block = PageRange::new(Pfn(0x200), 16);
    let id = CmdId(0x8000_0001);
    vec![
        at(1_000, Actor::Vcpu(0), Event::GuestReady),
        at(2_000, Actor::Migration, Event::MigrationState { from: MigrationStatus::Setup, to: MigrationStatus::Active }),
        at(2_500, Actor::Migration, Event::BitmapSync { round: 1, before: 4096, after: 4096 }),
        at(2_600, Actor::Migration, Event::Notify { reason: PrecopyReason::AfterBitmapSync, vm_running: true }),
        at(3_000, Actor::Vcpu(0), Event::GuestHint { range: block, number: 1 }),
        at(3_100, Actor::Vcpu(0), Event::GuestKick { queue: 3 }),
        at(4_000, Actor::Iothread, Event::HintPop { head: 0, element: HintElement::Pages(block) }),
        at(4_500, Actor::Injector, Event::Inject { index: 0 }),
        at(4_600, Actor::Vcpu(1), Event::GuestWrite { pfn: P, len: 8 }),
        at(5_000, Actor::Iothread, Event::HintApply { range: block, id, cleared: 16 }),
        at(5_500, Actor::Migration, Event::RamPage { pfn: Pfn(1), zero: false, round: 1 }),
        at(6_000, Actor::Migration, Event::RamPage { pfn: Pfn(2), zero: true, round: 1 }),
        at(7_000, Actor::Migration, Event::HintStop { from: HintStatus::Start }),
        at(9_000, Actor::Destination, Event::DstStart),
    ]
}

/// Returns a run that lost the page P.
pub(crate) fn lost_page() -> Outcome {
    let violation = Violation {
        rule: "hinted-then-written-is-sent",
        verdict: Verdict::LostPage,
        page: Some(P),
        write: Some(8),
        doom: Some(9),
        blame: Blame::Host,
        cause: None,
        what: "the write of 0xbb by vcpu1 at #8 was recorded in B only, and the hint of id 80000001 cleared it after the sync that had merged it"
            .to_string(),
    };
    Outcome {
        verdict: Verdict::LostPage,
        violations: vec![violation],
        waits: Vec::new(),
        crash: None,
        pages: BTreeMap::from([("P".to_string(), page(P, 0, 0xbb, Some(0))), ("Q".to_string(), page(Q, 0, 0, None))]),
        facts: facts(),
        trace: trace(),
        digest: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        unexpected: Vec::new(),
        asked: Fault::ALL.iter().copied().collect(),
    }
}

/// Returns a run without fault.
pub(crate) fn pass() -> Outcome {
    let mut outcome = lost_page();
    outcome.verdict = Verdict::Pass;
    outcome.violations.clear();
    outcome.pages.insert("P".to_string(), page(P, 1, 0xbb, Some(0xbb)));
    outcome.digest = 7;
    outcome
}

/// Returns a run that crashed while others waited.
pub(crate) fn crash() -> Outcome {
    let mut outcome = pass();
    outcome.verdict = Verdict::GuestCrash;
    outcome.waits =
        vec![Wait { who: "migration".to_string(), wants: "free_page_lock".to_string(), waits_for: "iothread, which holds it".to_string() }];
    outcome.crash = Some(GuestCrash {
        vcpu: 1,
        message: "panicked at balloon/hinting.rs: no block".to_string(),
        backtrace: vec!["panic+0x10".to_string(), "report_free_page_func+0x20".to_string()],
    });
    outcome
}
