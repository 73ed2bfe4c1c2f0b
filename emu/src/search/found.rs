//! A finding as a scenario file: what a search saw becomes orders between named events, which a person reads, edits and runs.

use std::collections::BTreeSet;

use host::event::EventKind;
use xxhash_rust::xxh3::xxh3_64;

use super::base32;
use super::shrink::{Shrunk, chains};
use super::system::{Ending, Happening, Key};
use crate::outcome::Verdict;
use crate::scenario::model::{Action, Expect, Found, Injection, Order, Pattern, Search, Trigger, Vary};
use crate::scenario::{self, Scenario};

/// Most characters of a file's name before its hash.
const NAME_CHARS_MAX: usize = 48;

/// Returns the scenario that shows a finding: `base` as it was searched, without what the search was free in, with what the failing run did of
/// it as injections, and with the constraints as orders.
pub fn scenario(base: &Scenario, shrunk: &Shrunk, ending: &Ending, provenance: Found) -> Scenario {
    assert!(ending.is_failure(), "{ending:?} is no finding");
    let names = Names::new(base, &shrunk.injected);
    let orders: Vec<Order> = chains(&shrunk.edges)
        .into_iter()
        .map(|chain| Order { chain: chain.into_iter().map(|happening| names.pattern(happening)).collect() })
        .collect();
    let mut injections = base.injections.clone();
    for may in &names.fired {
        let waits = orders.iter().any(|order| order.chain[1..].contains(&Pattern::Injection(injections.len())));
        injections.push(bound(&base.may[*may], waits, base));
    }
    Scenario {
        about: about(ending, &orders, base, &injections),
        witness: Vec::new(),
        injections,
        may: Vec::new(),
        orders: base.orders.iter().cloned().chain(orders).collect(),
        search: Search::default(),
        vary: Vary::default(),
        expect: Expect { verdict: ending.verdict, blame: ending.blame, ..Expect::default() },
        found: Some(provenance),
        ..base.clone()
    }
}

/// Returns what a search did as an injection of a run: no earlier than the search could have done it.
fn bound(may: &Injection, waits: bool, base: &Scenario) -> Injection {
    let waits = waits || may.trigger.at_ns.is_some() || !may.trigger.after.is_empty();
    let after = if waits { may.trigger.after.clone() } else { vec![base.search.start()] };
    Injection { trigger: Trigger { after, ..may.trigger.clone() }, ..may.clone() }
}

/// What keys are called in a scenario file.
struct Names<'a> {
    base: &'a Scenario,
    /// What happened of [`Scenario::may`], as indices: they stand behind the injections of the file.
    fired: Vec<usize>,
}

impl<'a> Names<'a> {
    fn new(base: &'a Scenario, injected: &BTreeSet<u16>) -> Self {
        let fired: Vec<usize> = injected.iter().filter_map(|index| usize::from(*index).checked_sub(base.injections.len())).collect();
        assert!(fired.iter().all(|may| *may < base.may.len()), "{fired:?} of {} possible injections", base.may.len());
        Self { base, fired }
    }

    fn pattern(&self, happening: Happening) -> Pattern {
        let Key { kind, page } = happening.key;
        if kind == Key::INJECTION {
            let index = usize::from(page);
            return Pattern::Injection(match index.checked_sub(self.base.injections.len()) {
                None => index,
                Some(may) => {
                    let place = self.fired.iter().position(|fired| *fired == may).expect("a constraint names what happened");
                    self.base.injections.len() + place
                }
            });
        }
        pattern(happening, self.base)
    }
}

/// Returns what a scenario file calls a happening. Injections go by their place among what the scenario does and may do.
pub fn pattern(happening: Happening, scenario: &Scenario) -> Pattern {
    let Happening { key: Key { kind, page }, nth } = happening;
    if kind == Key::INJECTION {
        return Pattern::Injection(page.into());
    }
    let kind = EventKind::ALL[usize::from(kind)];
    let page = (page != Key::NO_PAGE).then(|| scenario.pages.keys().nth(page.into()).expect("a page of the scenario").clone());
    Pattern::Event { kind, page, nth }
}

/// Returns a finding in a sentence.
fn about(ending: &Ending, orders: &[Order], base: &Scenario, injections: &[Injection]) -> String {
    let name = |pattern: &Pattern| match pattern {
        Pattern::Injection(index) => {
            injections[*index].name.clone().unwrap_or_else(|| format!("{pattern}, {},", deed(&injections[*index])))
        }
        Pattern::Event { .. } => pattern.to_string(),
    };
    let told: Vec<String> = orders.iter().map(|Order { chain }| chain.iter().map(name).collect::<Vec<String>>().join(" before ")).collect();
    let named = |pattern: &Pattern| match pattern {
        Pattern::Event { page, .. } => page.clone(),
        Pattern::Injection(_) => None,
    };
    let pages: BTreeSet<String> = orders.iter().flat_map(|order| &order.chain).filter_map(named).collect();
    let pages = if pages.is_empty() { base.pages.keys().cloned().collect() } else { pages };
    let what = match ending.verdict {
        Verdict::LostPage if pages.len() == 1 => format!("page {} is lost", pages.into_iter().collect::<String>()),
        Verdict::LostPage => "a page is lost".to_owned(),
        Verdict::HostCrash => "the VMM crashes".to_owned(),
        Verdict::GuestCrash => "the guest crashes".to_owned(),
        Verdict::Leak => "guest memory does not come back".to_owned(),
        Verdict::OverSend => "a page is sent needlessly".to_owned(),
        Verdict::Deadlock => "all wait for each other".to_owned(),
        Verdict::BrokenRule => format!("{} is broken", ending.rule.unwrap_or("a rule")),
        Verdict::Unreachable | Verdict::Stall | Verdict::Pass => unreachable!("no failure"),
    };
    match told.as_slice() {
        [] => format!("{what}, in any order"),
        _ => format!("{what}: {}", told.join("; ")),
    }
}

/// Returns a finding's scenario, which was changed since it was made, with what it is about in its present words.
pub fn retold(scenario: Scenario, ending: &Ending) -> Scenario {
    Scenario { about: about(ending, &scenario.orders, &scenario, &scenario.injections), ..scenario }
}

/// Returns what an injection does, in a few words.
fn deed(injection: &Injection) -> String {
    match &injection.action {
        Action::Write { page, .. } => format!("a write to {page} by {}", injection.by),
        Action::Task(_) => format!("an operation of {}", injection.by),
        Action::Monitor(_) => "a monitor command".to_owned(),
        Action::ClearLog { page, .. } => format!("a clearing of {page}'s log"),
        Action::RepeatId => "a repeated id".to_owned(),
        Action::VhostQueue { queue, .. } => format!("the setting up of queue {queue}"),
        Action::Iommu { map: true, page, .. } => format!("a mapping of {page}"),
        Action::Iommu { map: false, page, .. } => format!("an unmapping of {page}"),
    }
}

/// Returns the file's text.
pub fn text(scenario: &Scenario) -> String {
    scenario::to_toml(scenario)
}

/// Returns the file's name without its ending: the rule or the verdict, and a hash of what the file asks for. It is the same whoever finds it.
pub fn name(scenario: &Scenario, ending: &Ending) -> String {
    let word = ending.rule.unwrap_or(ending.verdict.name());
    assert!(word.len() <= NAME_CHARS_MAX, "{word} is too long for a file's name");
    format!("{word}-{}", base32::short(xxh3_64(scenario::to_toml(&nameless(scenario)).as_bytes()), 6))
}

/// Returns a scenario without what does not change its runs.
fn nameless(scenario: &Scenario) -> Scenario {
    Scenario { about: String::new(), found: None, ..scenario.clone() }
}

/// Whether a finding has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This file says the same, whoever found it, and whatever it is about: nothing is to be written.
    Known(String),
    /// No file has this name yet.
    New(String),
}

/// Returns where a finding belongs; `read` returns a file's text by its name without the ending, `None` when there is no such file. A file of
/// that name which says something else, since somebody has worked on it, is left alone.
pub fn place(scenario: &Scenario, ending: &Ending, read: &mut dyn FnMut(&str) -> Option<String>) -> Place {
    let first = name(scenario, ending);
    let names = std::iter::once(first.clone()).chain((2u32..).map(|suffix| format!("{first}-{suffix}")));
    for name in names {
        let Some(text) = read(&name) else { return Place::New(name) };
        if scenario::parse(&name, &text).is_ok_and(|there| nameless(&there) == nameless(scenario)) {
            return Place::Known(name);
        }
    }
    unreachable!("one of all names is free")
}

/// How well a person understands an order on events of a kind.
enum Reading {
    /// What a page goes through; hardly anything without the page.
    OfPage,
    /// A turning point of the run.
    Milestone,
    /// Something that comes often, or means little by itself.
    Detail,
    /// Machinery: locks, interrupts, ring entries.
    Machinery,
}

fn reading(kind: EventKind) -> Reading {
    use EventKind as K;
    match kind {
        K::GuestWrite
        | K::DmaWrite
        | K::VhostWrite
        | K::GuestHint
        | K::GuestReclaim
        | K::GuestReturn
        | K::GuestAlloc
        | K::GuestFree
        | K::GuestReport
        | K::GuestInflate
        | K::GuestDeflate
        | K::GuestIsolate
        | K::GuestPutback
        | K::GuestDequeue
        | K::GuestMigratePage
        | K::GuestMigrateDone
        | K::HintPop
        | K::HintApply
        | K::HintIgnore
        | K::HostDiscard
        | K::BalloonInflate
        | K::BalloonDeflate
        | K::BalloonReport
        | K::DirtyClear
        | K::BitmapTake
        | K::RamRead
        | K::RamSend
        | K::BitmapLoad
        | K::BitmapStore
        | K::DstDiscard
        | K::DstFault
        | K::DstRequest
        | K::SnapshotFault
        | K::SnapshotUnprotect
        | K::IommuUnmap
        | K::Pin
        | K::RamSkip
        | K::RamDelta
        | K::VfioWrite
        | K::VhostQueue
        | K::ReturnRequest
        | K::DstPlace => Reading::OfPage,
        K::GuestReady
        | K::GuestStart
        | K::GuestStop
        | K::GuestShrink
        | K::GuestOom
        | K::GuestMissing
        | K::HintRequest
        | K::HintAsk
        | K::HintStart
        | K::HintStop
        | K::HintDone
        | K::DirtyGet
        | K::DirtyMerge
        | K::VhostMerge
        | K::BitmapSync
        | K::DstStart
        | K::DstDevice
        | K::VmStop
        | K::VmStart
        | K::LinkDown
        | K::HostCrash
        | K::SlotDelete
        | K::SlotCreate
        | K::ChannelSync
        | K::PostcopyStart
        | K::DstEnd
        | K::LinkStall
        | K::LinkResume
        | K::SnapshotStart
        | K::DstRefuse
        | K::GuestRestart
        | K::MachineReset
        | K::MemPlug
        | K::MemUnplug
        | K::MemBusy
        | K::BitmapExclude
        | K::LimitSet
        | K::LimitPenalty
        | K::Monitor => Reading::Milestone,
        K::GuestAllocFail
        | K::GuestCmdId
        | K::GuestActual
        | K::GuestTask
        | K::GuestTaskDone
        | K::GuestNamed
        | K::GuestWarn
        | K::GuestCrash
        | K::DeviceStatus
        | K::DeviceBroken
        | K::ConfigCmdId
        | K::HintPush
        | K::DeviceKick
        | K::HintWake
        | K::HintQuiet
        | K::HintSleep
        | K::BalloonStats
        | K::BalloonOddStats
        | K::LogStart
        | K::LogStop
        | K::DirtyMark
        | K::AfterSync
        | K::MigrationState
        | K::Notify
        | K::IterateBegin
        | K::IterateEnd
        | K::RingFull
        | K::RingReap
        | K::RingReset
        | K::Throttle
        | K::VhostLogStart
        | K::ChannelFlush
        | K::HintNewId
        | K::VfioMerge
        | K::LimitRate
        | K::LimitSleep
        | K::Pass => Reading::Detail,
        K::GuestAdd
        | K::GuestGet
        | K::GuestKick
        | K::GuestIrq
        | K::GuestLock
        | K::GuestUnlock
        | K::GuestWork
        | K::GuestWorkDone
        | K::DeviceIrq
        | K::RateLimit
        | K::RamPage
        | K::LockTake
        | K::LockRelease
        | K::ChannelQueue
        | K::Inject => Reading::Machinery,
    }
}

/// Returns how badly a key of a scenario reads: what [`super::shrink::Options::cost`] asks for. The page that is lost, if it has a name, comes first.
pub fn cost(scenario: &Scenario, failing_page: Option<&str>) -> impl Fn(Key) -> u32 {
    let failing =
        failing_page.and_then(|name| scenario.pages.keys().position(|page| page == name)).and_then(|rank| u16::try_from(rank).ok());
    move |key| {
        if key.kind == Key::INJECTION {
            return 0;
        }
        let page = match (key.page, failing) {
            (Key::NO_PAGE, _) => 6,
            (page, Some(failing)) if page != failing => 2,
            (_, _) => 0,
        };
        match reading(EventKind::ALL[usize::from(key.kind)]) {
            Reading::OfPage => page,
            Reading::Milestone => 1,
            Reading::Detail => 4 + page.min(2),
            Reading::Machinery => 12,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Blame;
    use crate::search::system::Edge;
    use crate::world::{self, RunOptions};

    const BASE: &str = r#"
        about = "neutral"
        pages = { P = "first page of hint 1", Q = "page 1 of hint 1" }
        [[inject]]
        monitor = "stop"
        after = "bitmap.sync#3"
    "#;

    fn base() -> Scenario {
        let mut base = scenario::parse("base.toml", BASE).expect("a scenario");
        let write = r#"
            about = "may"
            pages = { P = "first page of hint 1" }
            inject = [{ write = { page = "P", byte = 0xBB }, by = "vcpu1" }, { write = { page = "P", byte = 0xCC }, by = "dma", name = "dma" }]
        "#;
        base.may = scenario::parse("may.toml", write).expect("a scenario").injections;
        base
    }

    fn kind(kind: EventKind) -> u16 {
        EventKind::ALL.iter().position(|other| *other == kind).expect("a kind") as u16
    }

    fn shrunk(edges: Vec<Edge>, injected: &[u16]) -> Shrunk {
        let injected = injected.iter().copied().collect();
        Shrunk { edges, injected, candidates: 9, tries: 2, replays: 400, sampled: 300, stalled: 0, exact: true, smallest: true }
    }

    fn lost() -> Ending {
        Ending { verdict: Verdict::LostPage, rule: Some("hinted-then-written-is-sent"), blame: Some(Blame::Host), cause: None }
    }

    fn provenance() -> Found {
        Found { scenario: "base.toml".to_owned(), seed: "lp1:pos:7-abc".to_owned(), strategy: "pos".to_owned(), schedules: 12 }
    }

    fn finding() -> Scenario {
        let event = |of, page, nth| Happening { key: Key { kind: kind(of), page }, nth };
        let write = Happening { key: Key { kind: Key::INJECTION, page: 2 }, nth: 1 };
        let sync = event(EventKind::BitmapSync, Key::NO_PAGE, 2);
        let apply = event(EventKind::HintApply, 0, 1);
        let edges = vec![Edge { first: write, then: sync }, Edge { first: sync, then: apply }];
        super::scenario(&base(), &shrunk(edges, &[0, 2]), &lost(), provenance())
    }

    #[test]
    fn a_finding_becomes_a_short_scenario_that_reads_back() {
        let finding = finding();
        assert_eq!(finding.about, "page P is lost: dma before bitmap.sync#2 before hint.apply(P)");
        assert_eq!((finding.injections.len(), finding.may.len()), (2, 0), "what did not happen is gone");
        assert_eq!(finding.injections[1].trigger.after, [base().search.start()], "no earlier than the search could");
        assert_eq!(finding.orders[0].chain[0], Pattern::Injection(1));
        let text = text(&finding);
        assert!(text.lines().count() <= 30, "{text}");
        let read = scenario::parse("found.toml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(read, finding, "{text}");
    }

    /// What no search has found here, but a real QEMU: a write between a hint's pop and its application.
    #[test]
    fn a_run_reproduces_what_a_search_found() {
        let base = r#"
            about = "neutral"
            host = { dirty_log = "manual-clear", chunk = "256 KiB" }
            pages = { P = "first page of hint 1" }
            [[may]]
            monitor = "stop"
            [[may]]
            write = { page = "P", byte = 0xBB }
            by = "vcpu1"
        "#;
        let base = scenario::parse("base.toml", base).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(world::run(&base, &RunOptions::default()).verdict, Verdict::Pass);
        let write = Happening { key: Key { kind: Key::INJECTION, page: 1 }, nth: 1 };
        let of_page = |of| Happening { key: Key { kind: kind(of), page: 0 }, nth: 1 };
        let edges =
            vec![Edge { first: of_page(EventKind::HintPop), then: write }, Edge { first: write, then: of_page(EventKind::HintApply) }];
        let ending = Ending { verdict: Verdict::LostPage, rule: None, blame: Some(Blame::Guest), cause: None };
        let finding = super::scenario(&base, &shrunk(edges, &[1]), &ending, provenance());
        assert_eq!(finding.about, "page P is lost: hint.pop(P) before inject[0], a write to P by vcpu1, before hint.apply(P)");
        let text = text(&finding);
        assert!(text.lines().count() <= 30 && scenario::lint("found.toml", &text).is_empty(), "{text}");
        let read = scenario::parse("found.toml", &text).expect("a scenario");
        assert_eq!(read, finding, "{text}");
        let outcome = world::run(&read, &RunOptions::default());
        assert_eq!(outcome.unexpected, Vec::<String>::new(), "{text}");
    }

    #[test]
    fn an_injection_that_waits_in_an_order_needs_no_other_trigger() {
        let stop = Happening { key: Key { kind: kind(EventKind::HintStop), page: Key::NO_PAGE }, nth: 1 };
        let write = Happening { key: Key { kind: Key::INJECTION, page: 1 }, nth: 1 };
        let finding = super::scenario(&base(), &shrunk(vec![Edge { first: stop, then: write }], &[1]), &lost(), provenance());
        assert_eq!(finding.injections[1].trigger, Trigger::default());
        assert!(scenario::lint("found.toml", &text(&finding)).is_empty(), "{}", text(&finding));
    }

    #[test]
    fn what_fails_in_any_order_says_so() {
        let ending = Ending { verdict: Verdict::GuestCrash, rule: None, blame: None, cause: None };
        let finding = super::scenario(&base(), &shrunk(vec![], &[]), &ending, provenance());
        assert_eq!(finding.about, "the guest crashes, in any order");
        assert!(name(&finding, &ending).starts_with("guest-crash-"));
    }

    #[test]
    fn a_name_says_what_is_in_the_file_and_not_who_found_it() {
        let finding = finding();
        let first = name(&finding, &lost());
        assert!(first.starts_with("hinted-then-written-is-sent-") && first.len() == 34, "{first}");
        let other = Scenario { found: None, about: "reworded".to_owned(), ..finding.clone() };
        assert_eq!(name(&other, &lost()), first);
        let edited = Scenario { orders: Vec::new(), ..finding.clone() };
        assert_ne!(name(&edited, &lost()), first);
        assert_eq!(place(&finding, &lost(), &mut |_| None), Place::New(first.clone()));
        assert_eq!(place(&finding, &lost(), &mut |_| Some(text(&other))), Place::Known(first.clone()));
        let mut read = |name: &str| (name == first).then(|| text(&edited));
        assert_eq!(place(&finding, &lost(), &mut read), Place::New(format!("{first}-2")));
    }

    #[test]
    fn the_lost_page_reads_best_and_locks_read_worst() {
        let base = base();
        let cost = cost(&base, Some("P"));
        let of = |of, page| cost(Key { kind: kind(of), page });
        assert!(of(EventKind::RamSend, 0) < of(EventKind::RamSend, 1));
        assert!(of(EventKind::RamSend, 1) < of(EventKind::RamSend, Key::NO_PAGE));
        assert!(of(EventKind::BitmapSync, Key::NO_PAGE) < of(EventKind::Notify, Key::NO_PAGE));
        assert!(of(EventKind::LockTake, Key::NO_PAGE) > of(EventKind::RamSend, Key::NO_PAGE));
    }
}
