//! Order constraints: which move has to wait for which event.
//!
//! A scenario's `after`, `before` and `[[order]]` all come down to edges "A before B". An edge holds B's actor back, at the door of the move
//! that would make B happen, until A has happened. Only the announced event of a move can be held back: what the same move emits behind
//! it is one with it. Where such an event comes before its time, the order is broken, and the run ends there.

use std::collections::BTreeMap;

use host::event::{Event, EventKind, PageRange, Pfn};
use host::fold::Fold;
use host::step::Move;

use crate::scenario::model::{PageName, Pattern, Scenario};

/// A pattern that is counted while the world runs.
#[derive(Debug, Clone)]
struct Tracked {
    pattern: Pattern,
    /// Events that matched kind and page so far.
    seen: u32,
}

impl Tracked {
    fn nth(&self) -> u32 {
        match &self.pattern {
            Pattern::Event { nth, .. } => *nth,
            Pattern::Injection(_) => 1,
        }
    }

    fn happened(&self) -> bool {
        self.seen >= self.nth()
    }
}

/// "`first` before `then`", as indices into the tracked patterns.
#[derive(Debug, Clone, Copy)]
struct Edge {
    first: usize,
    then: usize,
}

/// All constraints of a scenario, and what has happened of them.
#[derive(Debug, Clone)]
pub struct Gates {
    tracked: Vec<Tracked>,
    edges: Vec<Edge>,
    /// Kinds that some pattern names: all others pass unseen.
    kinds: Vec<bool>,
    /// The first edge that could not be kept.
    broken: Option<Edge>,
}

/// Where the frames of named pages stand, once known.
pub type Frames = BTreeMap<PageName, Pfn>;

impl Gates {
    /// Returns the constraints of a scenario.
    pub fn new(scenario: &Scenario) -> Self {
        let mut gates = Self { tracked: Vec::new(), edges: Vec::new(), kinds: vec![false; EventKind::ALL.len()], broken: None };
        for (index, injection) in scenario.injections.iter().enumerate() {
            let this = Pattern::Injection(index);
            for after in &injection.trigger.after {
                gates.edge(after, &this);
            }
            for before in &injection.before {
                gates.edge(&this, before);
            }
        }
        if let Some(start) = &scenario.migration.start {
            for after in &start.after {
                gates.track(after);
            }
        }
        for order in &scenario.orders {
            for pair in order.chain.windows(2) {
                gates.edge(&pair[0], &pair[1]);
            }
        }
        for may in &scenario.may {
            for pattern in may.trigger.after.iter().chain(&may.before) {
                gates.track(pattern);
            }
        }
        for pattern in [Some(&scenario.search.start()), scenario.search.until.as_ref()].into_iter().flatten() {
            gates.track(pattern);
        }
        gates
    }

    /// Adds "`first` before `then`" in the middle of a run. `seen` says how often the events of a pattern have happened.
    pub fn add(&mut self, first: &Pattern, then: &Pattern, seen: impl Fn(&Pattern) -> u32) {
        for pattern in [first, then] {
            let known = self.tracked.len();
            let index = self.track(pattern);
            if index == known {
                self.tracked[index].seen = seen(pattern);
            }
        }
        self.edge(first, then);
    }

    /// Adds what the future depends on to a hash: how often each pattern has happened, as far as that is asked for.
    pub fn fold(&self, tag: u64, fold: &mut Fold) {
        for (index, tracked) in (0..).zip(&self.tracked) {
            fold.word(tag, index, u64::from(tracked.seen.min(tracked.nth())));
        }
        if let Some(Edge { first, then }) = self.broken {
            fold.word(tag, u64::MAX, (first as u64) << 32 | then as u64);
        }
    }

    fn track(&mut self, pattern: &Pattern) -> usize {
        if let Some(index) = self.tracked.iter().position(|tracked| tracked.pattern == *pattern) {
            return index;
        }
        if let Pattern::Event { kind, page, .. } = pattern {
            self.kinds[*kind as usize] = true;
            if page.is_none() && per_page(*kind) {
                self.kinds[EventKind::RamPage as usize] = true;
            }
        }
        self.tracked.push(Tracked { pattern: pattern.clone(), seen: 0 });
        self.tracked.len() - 1
    }

    fn edge(&mut self, first: &Pattern, then: &Pattern) {
        let edge = Edge { first: self.track(first), then: self.track(then) };
        self.edges.push(edge);
    }

    /// Returns whether there is no constraint at all.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Returns whether any pattern speaks of the kind.
    pub fn looks_at(&self, kind: EventKind) -> bool {
        self.kinds[kind as usize]
    }

    /// Counts an event.
    pub fn happened(&mut self, event: &Event, frames: &Frames) {
        if !self.looks_at(event.kind()) {
            return;
        }
        let what = Move::of(event);
        for tracked in &mut self.tracked {
            if matches(&tracked.pattern, what, frames) {
                tracked.seen += 1;
            }
        }
        if self.broken.is_none() {
            let (tracked, edges) = (&self.tracked, &self.edges);
            self.broken = edges.iter().copied().find(|edge| tracked[edge.then].happened() && !tracked[edge.first].happened());
        }
    }

    /// Returns what came too early, and what it should have come behind.
    pub fn broken(&self) -> Option<(&Pattern, &Pattern)> {
        self.broken.map(|edge| (&self.tracked[edge.then].pattern, &self.tracked[edge.first].pattern))
    }

    /// Counts an injection.
    pub fn injected(&mut self, index: usize) {
        for tracked in &mut self.tracked {
            if tracked.pattern == Pattern::Injection(index) {
                tracked.seen += 1;
            }
        }
    }

    /// Returns whether an event pattern of the scenario has happened. Patterns that no constraint names are not counted.
    pub fn has_happened(&self, pattern: &Pattern) -> bool {
        self.tracked.iter().any(|tracked| tracked.pattern == *pattern && tracked.happened())
    }

    /// Returns what a move has to wait for, if anything.
    pub fn holds(&self, what: Move, frames: &Frames) -> Option<&Pattern> {
        if !self.looks_at(what.kind) {
            return None;
        }
        self.edges.iter().find_map(|edge| {
            let then = &self.tracked[edge.then];
            let next_is_the_one = then.seen + 1 == then.nth() && matches(&then.pattern, what, frames);
            (next_is_the_one && !self.tracked[edge.first].happened()).then_some(&self.tracked[edge.first].pattern)
        })
    }

    /// Returns what an injection has to wait for, if anything.
    pub fn holds_injection(&self, index: usize) -> Option<&Pattern> {
        self.edges.iter().find_map(|edge| {
            let held = self.tracked[edge.then].pattern == Pattern::Injection(index) && !self.tracked[edge.first].happened();
            held.then_some(&self.tracked[edge.first].pattern)
        })
    }
}

/// Kinds that an unnamed page's move fuses into [`EventKind::RamPage`].
pub const PER_PAGE: [EventKind; 4] = [EventKind::BitmapTake, EventKind::RamRead, EventKind::RamSend, EventKind::DstPlace];

fn per_page(kind: EventKind) -> bool {
    PER_PAGE.contains(&kind)
}

fn matches(pattern: &Pattern, what: Move, frames: &Frames) -> bool {
    let Pattern::Event { kind, page, nth: _ } = pattern else { return false };
    match page {
        None => *kind == what.kind || (what.kind == EventKind::RamPage && per_page(*kind)),
        Some(name) => {
            *kind == what.kind && frames.get(name).is_some_and(|pfn| what.range.is_some_and(|range: PageRange| range.contains(*pfn)))
        }
    }
}

fn injection_name(scenario: &Scenario, index: usize) -> Option<&String> {
    scenario.injections.iter().chain(&scenario.may).nth(index)?.name.as_ref()
}

/// Writes a pattern as the scenario file does.
pub fn pattern_text(pattern: &Pattern, scenario: &Scenario) -> String {
    match pattern {
        Pattern::Event { kind, page, nth } => {
            let page = page.as_ref().map(|page| format!("({page})")).unwrap_or_default();
            let nth = if *nth > 1 { format!("#{nth}") } else { String::new() };
            format!("{}{page}{nth}", kind.name())
        }
        Pattern::Injection(index) => match injection_name(scenario, *index) {
            Some(name) => name.clone(),
            None => format!("inject[{index}]"),
        },
    }
}
