//! The guest's own rules, looked at while a run by the clock lasts: after each of its steps, and at its tracepoints.
//!
//! Oracle and machine do not know each other: here guest code's stores and tracepoints are carried from the one to the other.

use host::event::{Event, PageRange};
use wire::debug;
use wire::switch::correct;

use crate::oracle::guest_calls::{Calls, Manners, Said};
use crate::oracle::guest_mm::steps::Steps;
use crate::scenario::model::{Driver, Scenario};
use crate::world::World;
use crate::world::exposed::Buffers;

/// What a run knows of its guest's rules.
#[derive(Debug, Clone)]
pub(super) struct GuestRules {
    calls: Calls,
    buffers: Buffers,
    /// `None`: the memory manager's rules are looked at when the run ends.
    steps: Option<Steps>,
    started: bool,
}

impl GuestRules {
    /// Returns what a run knows at its first instruction.
    pub(super) fn new(scenario: &Scenario, pages: u64) -> Self {
        let every = scenario.limits.check_mm;
        let steps = (every > 0).then(|| Steps::new(every, scenario.guest.page_poison));
        Self { calls: Calls::new(pages, manners(scenario)), buffers: Buffers::default(), steps, started: false }
    }

    /// The run goes on on another machine, which follows no stores yet.
    pub(super) fn resume(&mut self) {
        self.steps.iter_mut().for_each(Steps::look_again);
    }

    /// Takes note of an event.
    pub(super) fn happened(&mut self, event: &Event) {
        self.calls.happened(event);
        if matches!(event, Event::DeviceStatus { status: 0 }) {
            self.buffers.forget();
        }
    }

    /// Somebody beside guest code wrote.
    pub(super) fn wrote(&mut self, range: PageRange) {
        if let Some(steps) = &mut self.steps {
            range.pages().for_each(|pfn| steps.wrote(pfn));
        }
    }
}

/// What a driver does as it was posted, and is known for.
fn manners(scenario: &Scenario) -> Manners {
    let requests = matches!(scenario.guest.driver, Driver::V6 | Driver::V8 | Driver::V10);
    let works = scenario.guest.corrected & correct::REQUEST_CONTEXT != 0;
    Manners { mutex_in_interrupt: requests && !works, allocates_under_lock: requests }
}

impl World {
    /// A vCPU has said a tracepoint, and stands behind it.
    pub(super) fn guest_said(&mut self, cpu: usize, code: u32, a: u64, b: u64) {
        let Some(rules) = &mut self.rules else { return };
        let about_context = matches!(code, debug::LOCK | debug::SPIN | debug::UNLOCK | debug::ALLOC);
        let said = Said {
            cpu,
            code,
            a,
            b,
            stack: if about_context { self.machine.stack_pointer(cpu) } else { 0 },
            irqs_enabled: self.machine.irqs_enabled(cpu),
            in_handler: self.machine.in_handler(cpu),
        };
        rules.calls.said(&said, &self.ram);
        if code == debug::VQ_ADD
            && let Some(queue) = self.state.vmm.balloon.page_queue(a as u16)
        {
            rules.buffers.added(a as u16, queue, b as u16, &self.ram);
        }
        if let Some(address) = self.machine.take_enabled_in_handler(cpu) {
            rules.calls.enabled_in_handler(&self.image.symbolise(address));
        }
    }

    /// A step is complete: the rules that it may have broken are looked at.
    pub(super) fn check_guest(&mut self) {
        let Some(rules) = &mut self.rules else { return };
        let index = self.trace.len();
        let mut broken: Vec<_> = rules.calls.take_broken().collect();
        broken.extend(rules.buffers.taken(|queue| self.state.vmm.balloon.page_queue(queue), &self.ram));
        if let Some(steps) = rules.steps.as_mut().filter(|_| self.state.ready && self.state.crash.is_none()) {
            if !std::mem::replace(&mut rules.started, true) {
                steps.start(&self.ram);
            }
            self.machine.take_followed(steps.pending());
            if !steps.pending().is_empty() {
                let (more, seen) = steps.check(&self.ram, rules.calls.held(), rules.calls.exposed());
                broken.extend(more);
                self.machine.follow(&seen);
            }
        }
        for violation in broken {
            self.state.oracle.guest_broke(violation, index);
        }
    }
}
