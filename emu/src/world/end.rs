//! How a run ended: verdict, waits, and what the scenario expected.

use std::collections::BTreeMap;

use host::event::{Actor, CmdId, Event};

use crate::oracle::{End as OracleEnd, guest_mm};
use crate::outcome::{BlockedTime, Facts, Outcome, PageFacts, Verdict, Violation, Wait};
use crate::report::{counted, ids, micros};
use crate::scenario::model::{BlockedExpect, CountExpect, Scenario, SentExpect, SpunExpect};
use crate::search::system::Ending;
use crate::world::gates::pattern_text;
use crate::world::inject::InjectionState;
use crate::world::observe::Observation;
use crate::world::{End, Readiness, World};

impl World {
    /// Judges a finished run.
    pub(super) fn finish(mut self, end: End) -> Outcome {
        self.judge(end)
    }

    /// Judges a finished run, and leaves the world without its trace.
    pub(super) fn judge(&mut self, end: End) -> Outcome {
        let Rest { waits, cycle, at_rest, ended } = self.rest(end);
        let broken_in_guest = self.broken_in_guest(at_rest);
        let insns = self.state.vcpus.iter().map(|vcpu| vcpu.insns).collect();
        let (time_ns, steps) = (self.state.now_ns, self.state.steps);
        let view = Observation { ram: &self.ram, vmm: &self.state.vmm };
        // Of equal stretches the first vCPU's.
        let longest = (0..self.machine.vcpus()).rev().map(|cpu| self.machine.irq_off(cpu)).max_by_key(|stretch| stretch.insns);
        let longest = longest.filter(|stretch| self.state.ready && stretch.insns > 0);
        let irq_off_insns_max = longest.map_or(0, |stretch| stretch.insns);
        let function = |address: u64| {
            self.image.symbolise(address).rsplit_once('+').map_or_else(|| self.image.symbolise(address), |(name, _)| name.to_owned())
        };
        let irq_off_in = longest.map(|stretch| function(stretch.from));
        let blocked = self.state.blocked.times(|slot| self.actor_of(slot), time_ns);
        // A look takes the lock, finds nothing, and releases it.
        let spun = self.state.spins.times(|slot| self.actor_of(slot), 2 * self.costs.lock_ns, time_ns);
        let end = OracleEnd { time_ns, insns, steps, at_rest, irq_off_insns_max, irq_off_in };
        let findings = self.state.oracle.clone().finish(&view, end);
        let pages = self.scenario.pages.keys().map(|name| {
            let pfn = self.state.pages.frames.get(name).copied();
            (name.clone(), findings.page(pfn, &view))
        });
        let pages: BTreeMap<String, PageFacts> = pages.collect();
        let (mut violations, facts) = (findings.violations, Facts { blocked, spun, ..findings.facts });
        // What is still broken was broken while the run lasted, mostly.
        let told: Vec<_> = violations.iter().map(|violation| (violation.rule, violation.page)).collect();
        violations.extend(broken_in_guest.into_iter().filter(|violation| !told.contains(&(violation.rule, violation.page))));
        let verdict = violations.iter().map(|violation| violation.verdict).chain([ended]).min().expect("at least one");
        let waits = if cycle.is_empty() { waits.into_iter().map(|open| open.wait).collect() } else { cycle };
        let mut outcome = Outcome {
            verdict,
            waits: if verdict == Verdict::Pass { Vec::new() } else { waits },
            violations,
            crash: self.state.crash.clone(),
            pages,
            facts,
            trace: std::mem::take(&mut self.trace),
            digest: self.digest.digest128(),
            unexpected: Vec::new(),
            asked: self.faults.asked(),
        };
        outcome.unexpected = unexpected(&self.scenario, &outcome);
        outcome
    }

    /// Returns how a run would be judged that ends here: what [`World::finish`] would say, less what only reports tell.
    pub(super) fn ending(&self, end: End) -> Ending {
        let Rest { at_rest, ended, .. } = self.rest(end);
        let view = Observation { ram: &self.ram, vmm: &self.state.vmm };
        let mut violations = self.state.oracle.violations_at_end(&view, &OracleEnd { at_rest, ..OracleEnd::default() });
        violations.extend(self.broken_in_guest(at_rest));
        let worst = violations.iter().map(|violation| (violation.verdict, violation.rule, violation.blame, violation.cause)).min();
        match worst {
            Some((verdict, rule, blame, cause)) if verdict <= ended => Ending { verdict, rule: Some(rule), blame: Some(blame), cause },
            Some(_) | None => Ending { verdict: ended, rule: None, blame: None, cause: None },
        }
    }

    /// Returns where everybody stands at the end.
    fn rest(&self, end: End) -> Rest {
        let (mut waits, cycle) = (self.waits(end), self.circle());
        let at_rest = end == End::Quiet && cycle.is_empty() && waits.is_empty();
        let sleepers = self.sleepers(end);
        // A vCPU that polls for what never comes does so for ever; the same vCPU of a VM that has moved is none of the source's any more.
        let polls = (0..self.state.vcpus.len()).any(|cpu| self.vcpu_next(cpu) == Readiness::UsedBuffer);
        let misses = (0..self.state.vcpus.len()).any(|cpu| matches!(self.vcpu_next(cpu), Readiness::Await(host::step::Await::Page)));
        let stuck = self.state.vmm.migration.status().is_running() || end == End::Limit || !sleepers.is_empty() || polls || misses;
        let gated = waits.iter().any(|wait| wait.gate);
        let ended = if self.state.host_crashed {
            Verdict::HostCrash
        } else if self.state.crash.is_some() {
            Verdict::GuestCrash
        } else if !cycle.is_empty() {
            Verdict::Deadlock
        } else if gated || self.unfired() {
            Verdict::Unreachable
        } else if stuck {
            Verdict::Stall
        } else {
            Verdict::Pass
        };
        waits.extend(sleepers);
        Rest { at_rest, waits, cycle, ended }
    }

    /// Returns what of a running guest will never end, because nobody can move any more: tasks with an operation before them,
    /// a work, and the way of the balloon to the size that the host wants.
    fn sleepers(&self, end: End) -> Vec<Open> {
        if end != End::Quiet || !self.state.ready || !self.state.vmm.vm.running {
            return Vec::new();
        }
        let sleeper = |who: String| {
            let (wants, waits_for) = ("to end".to_owned(), "something that nobody will do any more".to_owned());
            Open { gate: false, wait: Wait { who, wants, waits_for } }
        };
        let busy = (0..self.state.vcpus.len()).filter(|cpu| self.task_is_busy(*cpu));
        let tasks = busy.map(|cpu| sleeper(format!("the task on {}", Actor::Vcpu(cpu as u8))));
        let works = (self.state.works > 0).then(|| sleeper("a work of the guest's".to_owned()));
        let balloon = self.state.vmm.balloon.misses_target().then(|| sleeper("the balloon's way to its target".to_owned()));
        tasks.chain(works).chain(balloon).collect()
    }

    /// Returns the guest's own rules that are broken.
    fn broken_in_guest(&self, at_rest: bool) -> Vec<Violation> {
        if at_rest && self.state.ready && self.state.crash.is_none() && !self.state.host_crashed && self.state.vmm.vm.running {
            let mut broken = guest_mm::check(&self.ram);
            if self.scenario.guest.page_poison {
                broken.extend(guest_mm::check_poison(&self.ram));
            }
            broken
        } else if self.state.ready {
            guest_mm::check_zones(&self.ram)
        } else {
            Vec::new()
        }
    }

    /// Returns whether something is left that the scenario wanted done.
    fn unfired(&self) -> bool {
        self.state.injections.iter().take(self.scenario.injections.len()).any(|state| *state != InjectionState::Fired)
    }

    /// Returns who waits for what at the end.
    fn waits(&self, end: End) -> Vec<Open> {
        let mut waits = Vec::new();
        if let Some((then, first)) = self.state.gates.broken() {
            let last = self.trace.last().expect("an event broke the order");
            let wants = format!("{}, within another move", pattern_text(then, &self.scenario));
            let waits_for = format!("{}, which had to come first", pattern_text(first, &self.scenario));
            return vec![Open { gate: true, wait: Wait { who: last.actor.to_string(), wants, waits_for } }];
        }
        if end == End::Crash {
            return waits;
        }
        for (index, state) in self.state.injections.iter().enumerate() {
            if *state != InjectionState::Fired && !self.is_may(index) {
                waits.push(self.injection_wait(index));
            }
        }
        for slot in 0..self.state.vcpus.len() + self.hosts.len() {
            let (readiness, _) = self.readiness(slot);
            let held = self.held_back(slot, readiness).map(|pattern| pattern_text(pattern, &self.scenario));
            if let Some(waits_for) = held {
                let wants = match readiness {
                    Readiness::Ready(Some(what)) => self.move_text(what),
                    Readiness::Lock(lock) => lock.name().to_owned(),
                    Readiness::Ready(None)
                    | Readiness::GuestLock(_)
                    | Readiness::UsedBuffer
                    | Readiness::Await(_)
                    | Readiness::At(_)
                    | Readiness::Idle => String::new(),
                };
                waits.push(Open { gate: true, wait: Wait { who: self.actor_of(slot).to_string(), wants, waits_for } });
            } else if let Some(hold) = self.hold(slot, readiness) {
                waits.push(Open { gate: false, wait: self.wait_of(slot, hold) });
            }
        }
        waits
    }

    fn injection_wait(&self, index: usize) -> Open {
        let injection = self.injection(index);
        let who = pattern_text(&crate::scenario::model::Pattern::Injection(index), &self.scenario);
        let missing = injection.trigger.after.iter().find(|pattern| !self.state.gates.has_happened(pattern));
        let held = missing.or_else(|| self.state.gates.holds_injection(index));
        let waits_for = match (held, self.state.injections[index]) {
            (Some(pattern), _) => format!("{}, which never happened", pattern_text(pattern, &self.scenario)),
            (None, InjectionState::Armed { .. }) if !self.state.vmm.vm.running => format!("{} to run, but the VM is stopped", injection.by),
            (None, InjectionState::Armed { .. }) => format!("{} to be where it can be done, or its page to be known", injection.by),
            (None, InjectionState::Waiting | InjectionState::Fired) => "its time".to_owned(),
        };
        Open { gate: true, wait: Wait { who, wants: "to fire".to_owned(), waits_for } }
    }

    fn move_text(&self, what: host::step::Move) -> String {
        match what.range {
            Some(range) => format!("{} {range}", what.kind.name()),
            None => what.kind.name().to_owned(),
        }
    }
}

/// Where everybody stands at the end of a run.
struct Rest {
    /// Who waits for what.
    waits: Vec<Open>,
    /// A circle of those who wait for each other's locks.
    cycle: Vec<Wait>,
    /// Nobody has anything left to do.
    at_rest: bool,
    /// The verdict, if no rule is broken.
    ended: Verdict,
}

/// A wait, and whether it is a constraint's.
struct Open {
    gate: bool,
    wait: Wait,
}

/// Returns what differs from the scenario's expectations, a sentence each.
fn unexpected(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let expect = &scenario.expect;
    let mut differs = Vec::new();
    if outcome.verdict != expect.verdict {
        differs.push(format!("verdict is {}, expected {}", outcome.verdict.name(), expect.verdict.name()));
    }
    if let Some(blame) = expect.blame {
        let found = outcome.violations.iter().find(|violation| violation.verdict == outcome.verdict).map(|violation| violation.blame);
        if found != Some(blame) {
            let found = found.map_or("nobody", |blame| blame.name());
            differs.push(format!("blame is on {found}, expected {}", blame.name()));
        }
    }
    for (name, sent) in &expect.sent {
        differs.extend(unexpected_sent(name, sent, &outcome.pages[name]));
    }
    let Facts { rounds, cmd_ids, destination_cmd_id, irq_off_insns_max, .. } = &outcome.facts;
    if expect.rounds.is_some_and(|expected| expected != *rounds) {
        differs.push(format!("{}, expected {}", counted(*rounds, "sync"), expect.rounds.expect("checked")));
    }
    if let Some(expected) = &expect.cmd_ids {
        let expected: Vec<CmdId> = expected.iter().copied().map(CmdId).collect();
        if *cmd_ids != expected {
            differs.push(format!("command ids are {}, expected {}", ids(cmd_ids), ids(&expected)));
        }
    }
    if let Some(expected) = expect.destination_cmd_id
        && *destination_cmd_id != Some(CmdId(expected))
    {
        let found = destination_cmd_id.map_or("unknown".to_owned(), |id| id.to_string());
        differs.push(format!("the destination's command id is {found}, expected {expected:x}"));
    }
    if let Some(count) = expect.irq_off_insns {
        let what = "instructions with interrupts disabled";
        let low = count.min.filter(|min| irq_off_insns_max < min).map(|min| format!("at least {min}"));
        let bound = low.or_else(|| count.max.filter(|max| irq_off_insns_max > max).map(|max| format!("at most {max}")));
        differs.extend(bound.map(|bound| format!("the longest stretch is of {irq_off_insns_max} {what}, expected {bound}")));
    }
    differs.extend(expect.blocked.iter().filter_map(|expected| unexpected_wait(expected, &outcome.facts)));
    differs.extend(expect.spun.iter().filter_map(|expected| unexpected_spin(expected, &outcome.facts)));
    for (name, count) in &expect.events {
        differs.extend(unexpected_count(name, *count, outcome.trace.iter().map(|stamped| &stamped.event)));
    }
    differs
}

fn unexpected_wait(expected: &BlockedExpect, facts: &Facts) -> Option<String> {
    let fits = |time: &&BlockedTime| time.who == expected.who && expected.on.is_none_or(|on| on == time.on);
    let ns: u64 = facts.blocked.iter().filter(fits).map(|time| time.ns).sum();
    let missed = missed_time(expected.ns, ns)?;
    let on = expected.on.map_or(String::new(), |on| format!(" for {on}"));
    Some(format!("{} waited {} us{on}, expected {missed}", expected.who, micros(ns)))
}

fn unexpected_spin(expected: &SpunExpect, facts: &Facts) -> Option<String> {
    let ns = facts.spun.iter().find(|time| time.who == expected.who).map_or(0, |time| time.ns);
    let missed = missed_time(expected.ns, ns)?;
    Some(format!("{} spun for {} us, expected {missed}", expected.who, micros(ns)))
}

/// Returns the bound that a time does not keep.
fn missed_time(expected: CountExpect, ns: u64) -> Option<String> {
    match expected {
        CountExpect { min: Some(min), .. } if ns < min => Some(format!("at least {} us", micros(min))),
        CountExpect { max: Some(max), .. } if ns > max => Some(format!("at most {} us", micros(max))),
        CountExpect { .. } => None,
    }
}

fn unexpected_sent(name: &str, expect: &SentExpect, page: &PageFacts) -> Vec<String> {
    let mut differs = Vec::new();
    if page.pfn.is_none() {
        differs.push(format!("page {name} never came to be"));
    }
    if let Some(last) = expect.last
        && page.destination_byte != Some(last)
    {
        let found = page.destination_byte.map_or("nothing".to_owned(), |byte| format!("{byte:#04x}"));
        differs.push(format!("page {name} arrived as {found}, expected {last:#04x}"));
    }
    if expect.min.is_some_and(|min| page.sent < min) {
        differs.push(format!("page {name} was sent {}, expected at least {}", counted(page.sent, "time"), expect.min.expect("checked")));
    }
    if expect.max.is_some_and(|max| page.sent > max) {
        differs.push(format!("page {name} was sent {}, expected at most {}", counted(page.sent, "time"), expect.max.expect("checked")));
    }
    differs
}

fn unexpected_count<'e>(name: &str, expect: CountExpect, events: impl Iterator<Item = &'e Event>) -> Option<String> {
    let count = events.filter(|event| event.kind().name() == name).count() as u64;
    bound_missed(expect, count).map(|bound| format!("{name} happened {}, expected {bound}", counted(count, "time")))
}

/// Returns the bound that a number misses.
fn bound_missed(expect: CountExpect, count: u64) -> Option<String> {
    match expect {
        CountExpect { min: Some(min), .. } if count < min => Some(format!("at least {min}")),
        CountExpect { max: Some(max), .. } if count > max => Some(format!("at most {max}")),
        CountExpect { .. } => None,
    }
}
