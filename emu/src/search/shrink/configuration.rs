//! What a finding does not need: injections, tasks, memory, odd settings.
//!
//! Somebody else says whether a smaller scenario still fails; whatever it says yes to stays out. All is tried in one fixed order, what removes
//! most first, so that the result does not depend on anything but the answers.

use std::collections::BTreeSet;

use host::event::Actor;
use host::step::Costs;
use wire::platform::RAM_BYTES_MIN;

use crate::scenario::model::{
    Action, Driver, Guest, Host, Injection, Limits, Migration, Operation, PageName, PageSpec, Pattern, Profile, Task, Trigger,
};
use crate::scenario::{self, Scenario};

/// What a scenario was shrunk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The scenario.
    pub scenario: Scenario,
    /// Scenarios that were asked about.
    pub checks: u32,
    /// Simplifications that stayed.
    pub kept: u32,
}

/// Returns a smaller scenario about which `check` still says yes: that it fails as it did. Asks at most `checks_max` times, about scenarios only
/// that a file can say.
pub fn shrink_configuration(scenario: &Scenario, checks_max: u32, check: &mut dyn FnMut(&Scenario) -> bool) -> Configured {
    let mut shrinker = Shrinker { scenario: scenario.clone(), left: checks_max, kept: 0, check };
    shrinker.lists();
    shrinker.numbers();
    shrinker.defaults();
    shrinker.details();
    // What kept a page or a task in the file may be gone by now.
    shrinker.lists();
    Configured { scenario: shrinker.scenario, checks: checks_max - shrinker.left, kept: shrinker.kept }
}

/// A list of a scenario: how long it is, and the scenario without one of it, if it can do without.
struct List {
    len: fn(&Scenario) -> usize,
    without: fn(&Scenario, usize) -> Option<Scenario>,
}

struct Shrinker<'a> {
    scenario: Scenario,
    left: u32,
    kept: u32,
    check: &'a mut dyn FnMut(&Scenario) -> bool,
}

impl Shrinker<'_> {
    /// Goes on with a scenario if it is another one, can be written, and still fails.
    fn attempt(&mut self, candidate: Scenario) -> bool {
        if self.left == 0 || candidate == self.scenario || scenario::parse("", &scenario::to_toml(&candidate)).is_err() {
            return false;
        }
        self.left -= 1;
        let fails = (self.check)(&candidate);
        if fails {
            self.scenario = candidate;
            self.kept += 1;
        }
        fails
    }

    /// Tries what a change makes of the scenario.
    fn change(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.scenario.clone();
        change(&mut candidate);
        self.attempt(candidate)
    }

    /// Leaves out all of a list, or its second half, and then what else can be left out one by one, from its end.
    fn list(&mut self, list: &List) {
        let without_from = |scenario: &Scenario, from: usize| {
            let indices = (from..(list.len)(scenario)).rev();
            indices.fold(scenario.clone(), |less, index| (list.without)(&less, index).unwrap_or(less))
        };
        let len = (list.len)(&self.scenario);
        if len > 1 && !self.attempt(without_from(&self.scenario, 0)) {
            self.attempt(without_from(&self.scenario, len / 2));
        }
        for index in (0..(list.len)(&self.scenario)).rev() {
            if let Some(less) = (list.without)(&self.scenario, index) {
                self.attempt(less);
            }
        }
    }

    fn lists(&mut self) {
        let lists = [
            List { len: |scenario| scenario.may.len(), without: |scenario, index| changed(scenario, |less| less.may.remove(index)) },
            List { len: |scenario| scenario.injections.len(), without: without_injection },
            List { len: |scenario| scenario.faults.len(), without: |scenario, index| changed(scenario, |less| less.faults.remove(index)) },
            List { len: |scenario| scenario.orders.len(), without: |scenario, index| changed(scenario, |less| less.orders.remove(index)) },
            List {
                len: |scenario| scenario.guest.tasks.len(),
                without: |scenario, index| changed(scenario, |less| less.guest.tasks.remove(index)),
            },
            List { len: |scenario| operations(scenario).len(), without: without_operation },
            List { len: |scenario| scenario.pages.len(), without: without_page },
        ];
        lists.iter().for_each(|list| self.list(list));
    }

    /// Tries smaller numbers, the smallest first.
    fn numbers(&mut self) {
        for vcpus in 1..self.scenario.guest.vcpus {
            if self.change(|scenario| set_vcpus(scenario, vcpus)) {
                break;
            }
        }
        let mut ram = RAM_BYTES_MIN.next_power_of_two();
        while ram < self.scenario.guest.ram_bytes && !self.change(|scenario| scenario.guest.ram_bytes = ram) {
            ram *= 2;
        }
        for rounds in 1..self.scenario.migration.rounds_min {
            if self.change(|scenario| scenario.migration.rounds_min = rounds) {
                break;
            }
        }
        for (task, operation) in operations(&self.scenario) {
            let mut times = 1;
            while let Operation::Churn { times: now, .. } = self.scenario.guest.tasks[task].operations[operation] {
                if times >= now || self.change(|scenario| set_times(&mut scenario.guest.tasks[task].operations[operation], times)) {
                    break;
                }
                times *= 2;
            }
        }
    }

    /// Puts in place of each setting what goes without saying.
    fn defaults(&mut self) {
        let driver = self.scenario.guest.driver;
        self.change(|scenario| {
            scenario.host = scenario.host.varied(scenario.host.profile, Some(scenario.host.dirty_log), [driver, Driver::Hint]);
            scenario.guest.driver = Driver::Hint;
        });
        let driver = self.scenario.guest.driver;
        let qemu = self.scenario.host.varied(Profile::Qemu, None, [driver, driver]);
        self.change(|scenario| scenario.host = qemu);
        let (host, guest, migration) = (Host::of(self.scenario.host.profile, driver), Guest::default(), Migration::default());
        self.change(|scenario| scenario.host = host.clone());
        self.change(|scenario| {
            let (dirty_log, chunk_shift, initially_set) = (host.dirty_log, host.chunk_shift, host.initially_set);
            scenario.host = Host { dirty_log, chunk_shift, initially_set, ..scenario.host.clone() };
        });
        self.change(|scenario| scenario.host.chunk_shift = host.chunk_shift);
        self.change(|scenario| scenario.host.initially_set = host.initially_set);
        self.change(|scenario| scenario.host.hint_queue_size = host.hint_queue_size);
        self.change(|scenario| scenario.host.queue_size = host.queue_size);
        self.change(|scenario| scenario.host.balloon_pages = host.balloon_pages);
        self.change(|scenario| scenario.host.stats_interval_ns = host.stats_interval_ns);
        self.change(|scenario| scenario.host.host_page = host.host_page);
        self.change(|scenario| scenario.host.iothread = host.iothread);
        self.change(|scenario| scenario.host.rom = host.rom);
        self.change(|scenario| scenario.host.acknowledge_on_stop = host.acknowledge_on_stop);
        self.change(|scenario| scenario.host.all_locks = host.all_locks);
        self.change(|scenario| scenario.host.devices = host.devices.clone());
        if !self.change(|scenario| scenario.host.features = host.features) {
            self.features(host.features);
        }
        self.change(|scenario| scenario.guest.queue_numbering = guest.queue_numbering);
        self.change(|scenario| scenario.host.queue_numbering = host.queue_numbering);
        self.change(|scenario| scenario.host.walk = host.walk);
        self.change(|scenario| scenario.guest.features_refused = guest.features_refused);
        self.change(|scenario| scenario.guest.page_poison = guest.page_poison);
        self.change(|scenario| scenario.guest.init_on_alloc = guest.init_on_alloc);
        self.change(|scenario| scenario.guest.init_on_free = guest.init_on_free);
        self.change(|scenario| scenario.guest.late_probe = guest.late_probe);
        self.change(|scenario| scenario.guest.manners = guest.manners);
        let start = self.scenario.migration.start.clone();
        self.change(|scenario| scenario.migration = Migration { start, ..migration.clone() });
        self.change(|scenario| scenario.migration.start = migration.start.clone());
        self.change(|scenario| scenario.migration.bandwidth = migration.bandwidth);
        self.change(|scenario| scenario.migration.max_bandwidth = migration.max_bandwidth);
        self.change(|scenario| scenario.migration.downtime_limit_ns = migration.downtime_limit_ns);
        self.change(|scenario| scenario.migration.encoding = migration.encoding);
        self.change(|scenario| scenario.migration.complete_before_sync = migration.complete_before_sync);
        self.change(|scenario| scenario.migration.hints_first = migration.hints_first);
        self.change(|scenario| scenario.migration.modes = migration.modes.clone());
        self.change(|scenario| scenario.costs = Costs::default());
        self.change(|scenario| scenario.limits = Limits::default());
    }

    /// Takes back, bit by bit, what the device offers beside the usual.
    fn features(&mut self, usual: u64) {
        for bit in (0..u64::BITS).map(|bit| 1 << bit) {
            self.change(|scenario| scenario.host.features &= !bit | usual);
        }
    }

    /// Makes injections plainer.
    fn details(&mut self) {
        for index in 0..self.scenario.injections.len() {
            self.change(|scenario| scenario.injections[index].trigger.at_ns = None);
            self.change(|scenario| scenario.injections[index].trigger.delay_ns = 0);
            self.change(|scenario| scenario.injections[index].trigger.delay_insns = 0);
            self.change(|scenario| scenario.injections[index].before.clear());
            self.change(|scenario| match &mut scenario.injections[index].action {
                Action::Write { offset, pages, .. } => (*offset, *pages) = (0, 1),
                Action::ClearLog { pages, .. } | Action::Iommu { pages, .. } => *pages = 1,
                Action::Task(_) | Action::Monitor(_) | Action::RepeatId | Action::VhostQueue { .. } => {}
            });
        }
    }
}

/// Returns a scenario that was changed; what the change took out of it is let go.
fn changed<T>(scenario: &Scenario, change: impl FnOnce(&mut Scenario) -> T) -> Option<Scenario> {
    let mut changed = scenario.clone();
    change(&mut changed);
    Some(changed)
}

/// Returns every pattern of a scenario.
fn patterns(scenario: &mut Scenario) -> Vec<&mut Pattern> {
    let mut triggers: Vec<&mut Trigger> = scenario.migration.start.iter_mut().collect();
    let mut found: Vec<&mut Pattern> = scenario.orders.iter_mut().flat_map(|order| &mut order.chain).collect();
    found.extend(scenario.search.from.iter_mut().chain(&mut scenario.search.until));
    for Injection { trigger, before, .. } in scenario.injections.iter_mut().chain(&mut scenario.may) {
        triggers.push(trigger);
        found.extend(before);
    }
    found.extend(triggers.into_iter().flat_map(|trigger| &mut trigger.after));
    found
}

/// Returns the scenario without an injection that nothing refers to.
fn without_injection(scenario: &Scenario, index: usize) -> Option<Scenario> {
    let mut less = scenario.clone();
    less.injections.remove(index);
    for pattern in patterns(&mut less) {
        match pattern {
            Pattern::Injection(other) if *other == index => return None,
            Pattern::Injection(other) if *other > index => *other -= 1,
            Pattern::Injection(_) | Pattern::Event { .. } => {}
        }
    }
    Some(less)
}

/// Returns the places of all operations: the task's, and the operation's in it.
fn operations(scenario: &Scenario) -> Vec<(usize, usize)> {
    let places = |(task, Task { operations, .. }): (usize, &Task)| (0..operations.len()).map(move |operation| (task, operation));
    scenario.guest.tasks.iter().enumerate().flat_map(places).collect()
}

/// Returns the scenario without an operation; a task keeps its last one.
fn without_operation(scenario: &Scenario, index: usize) -> Option<Scenario> {
    let (task, operation) = operations(scenario)[index];
    let last = scenario.guest.tasks[task].operations.len() == 1;
    if last { None } else { changed(scenario, |less| less.guest.tasks[task].operations.remove(operation)) }
}

/// Returns the scenario without the name of a page that nothing refers to.
fn without_page(scenario: &Scenario, index: usize) -> Option<Scenario> {
    let mut less = scenario.clone();
    let (name, _): (PageName, PageSpec) = less.pages.iter().nth(index).map(|(name, spec)| (name.clone(), spec.clone()))?;
    less.pages.remove(&name);
    let written = less.injections.iter().chain(&less.may).filter_map(|injection| match &injection.action {
        Action::Write { page, .. } | Action::ClearLog { page, .. } | Action::VhostQueue { page, .. } | Action::Iommu { page, .. } => {
            Some(page.clone())
        }
        Action::Task(_) | Action::Monitor(_) | Action::RepeatId => None,
    });
    let mut named: BTreeSet<PageName> = written.chain(less.expect.sent.keys().cloned()).collect();
    named.extend(patterns(&mut less).into_iter().filter_map(|pattern| match pattern {
        Pattern::Event { page, .. } => page.clone(),
        Pattern::Injection(_) => None,
    }));
    (!named.contains(&name)).then_some(less)
}

/// Takes vCPUs away; what those did the last one does.
fn set_vcpus(scenario: &mut Scenario, vcpus: u8) {
    scenario.guest.vcpus = vcpus;
    for injection in scenario.injections.iter_mut().chain(&mut scenario.may) {
        if let Actor::Vcpu(vcpu) = &mut injection.by {
            *vcpu = (*vcpu).min(vcpus - 1);
        }
    }
    scenario.guest.tasks.iter_mut().for_each(|task| task.vcpu = task.vcpu.min(vcpus - 1));
}

fn set_times(operation: &mut Operation, new: u64) {
    if let Operation::Churn { times, .. } = operation {
        *times = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = r#"
        about = "much that does not matter"
        faults = ["hint-stop-skipped", "hint-keeps-k"]
        pages = { P = "first page of hint 1", Q = "page 1 of hint 1", R = "pfn 0x800" }
        [guest]
        ram = "64 MiB"
        vcpus = 3
        page_poison = true
        [[guest.task]]
        on = "vcpu0"
        do = [ { alloc = "A", order = 3 }, { free = "A" }, { churn = 500, seed = 3 }, { sleep = "1 ms" } ]
        [[guest.task]]
        on = "vcpu2"
        do = [ { oom = true } ]
        [host]
        hint_queue_size = 64
        stats_interval = "1 s"
        [migration]
        rounds_min = 5
        bandwidth = "2 GiB/s"
        [[inject]]
        monitor = "stop"
        at = "5 ms"
        [[inject]]
        write = { page = "P", byte = 0xBB, offset = 8 }
        by = "vcpu2"
        after = "hint.pop(P)"
        [[inject]]
        monitor = "cont"
        after = "vm.stop"
        [[order]]
        chain = ["inject[1]", "hint.apply(P)"]
        [costs]
        irq = "3 ms"
    "#;

    fn odd() -> Scenario {
        scenario::parse("odd.toml", ODD).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn what_does_not_matter_goes_and_what_matters_stays() {
        // The check stands for a defect that needs churning of 100 rounds or more, the write, and two rounds of the migration.
        let mut check = |scenario: &Scenario| {
            let churns = scenario.guest.tasks.iter().flat_map(|task| &task.operations);
            let churns = churns.filter(|operation| matches!(operation, Operation::Churn { times: 100.., .. })).count();
            let writes = scenario.injections.iter().filter(|injection| matches!(injection.action, Action::Write { .. })).count();
            churns == 1 && writes == 1 && scenario.migration.rounds_min >= 2 && scenario.host.hint_queue_size == 64
        };
        let Configured { scenario, checks, kept } = shrink_configuration(&odd(), 200, &mut check);
        assert!(check(&scenario) && checks <= 200 && kept > 10, "{checks} checks, {kept} kept");
        assert_eq!((scenario.guest.vcpus, scenario.guest.ram_bytes), (1, RAM_BYTES_MIN.next_power_of_two()));
        assert_eq!((scenario.faults.len(), scenario.pages.len(), scenario.injections.len()), (0, 1, 1));
        assert_eq!(scenario.guest.tasks, [Task { vcpu: 0, operations: vec![Operation::Churn { times: 128, seed: 3 }] }]);
        assert_eq!((scenario.migration.rounds_min, scenario.host.stats_interval_ns, scenario.guest.page_poison), (2, 0, false));
        assert_eq!(scenario.costs, Costs::default());
        assert_eq!(shrink_configuration(&odd(), 200, &mut check).scenario, scenario, "the same again");
        let text = scenario::to_toml(&scenario);
        assert!(text.lines().count() <= 30, "{text}");
    }

    #[test]
    fn orders_follow_an_injection_to_its_new_place() {
        let mut check = |scenario: &Scenario| !scenario.orders.is_empty();
        let shrunk = shrink_configuration(&odd(), 200, &mut check).scenario;
        assert_eq!(shrunk.orders[0].chain[0], Pattern::Injection(0));
        assert!(matches!(shrunk.injections.as_slice(), [Injection { action: Action::Write { .. }, .. }]));
        assert_eq!(shrunk.pages.len(), 1, "P is named, Q and R are not");
    }

    #[test]
    fn nothing_goes_where_all_matters_and_the_budget_is_kept() {
        let mut asked = 0;
        let mut check = |_: &Scenario| {
            asked += 1;
            false
        };
        let configured = shrink_configuration(&odd(), 7, &mut check);
        assert_eq!((configured.scenario, configured.checks, configured.kept), (odd(), 7, 0));
        assert_eq!(asked, 7);
    }
}
