//! How often each key has happened: which occurrence a search's constraint means.

use host::event::{Event, EventKind};
use host::fold::Fold;
use host::step::Move;

use crate::scenario::model::{Pattern, Scenario};
use crate::search::system::{Happening, Key};
use crate::world::World;
use crate::world::gates::{Frames, PER_PAGE};

/// Counts by kind, and by kind and named page.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    /// One row for "about any page or none", and one for each name in their order; kinds in each.
    rows: Vec<u32>,
}

impl Counts {
    /// Returns counts of nothing.
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self { rows: vec![0; EventKind::ALL.len() * (1 + scenario.pages.len())] }
    }

    fn place(key: Key) -> usize {
        let row = if key.page == Key::NO_PAGE { 0 } else { 1 + usize::from(key.page) };
        row * EventKind::ALL.len() + usize::from(key.kind)
    }

    fn add(&mut self, key: Key) -> Happening {
        let count = &mut self.rows[Self::place(key)];
        *count += 1;
        Happening { key, nth: *count }
    }

    /// Counts an event under every key that fits it, as constraints do. That some page was sent, one of thousands, is counted, and not told:
    /// an order that names the 317th page says nothing to anybody.
    fn happened(&mut self, what: Move, pages: impl Iterator<Item = u16>, happened: &mut Vec<Happening>) {
        let kind = what.kind as u16;
        if what.kind == EventKind::RamPage {
            self.pages(1);
        } else {
            let any = self.add(Key { kind, page: Key::NO_PAGE });
            if !PER_PAGE.contains(&what.kind) {
                happened.push(any);
            }
        }
        happened.extend(pages.map(|page| self.add(Key { kind, page })));
    }

    /// Counts pages that nobody named, sent each in one event.
    pub(in crate::world) fn pages(&mut self, count: u32) {
        for kind in PER_PAGE.into_iter().chain([EventKind::RamPage]) {
            self.rows[Self::place(Key { kind: kind as u16, page: Key::NO_PAGE })] += count;
        }
    }

    /// Returns how often an event of the scenario's patterns has happened.
    pub(super) fn seen(&self, pattern: &Pattern, scenario: &Scenario) -> u32 {
        match pattern {
            Pattern::Event { kind, page, nth: _ } => {
                let rank = |name| scenario.pages.keys().position(|page| page == name).expect("checked by the parser") as u16;
                self.rows[Self::place(Key { kind: *kind as u16, page: page.as_ref().map_or(Key::NO_PAGE, rank) })]
            }
            Pattern::Injection(_) => 0,
        }
    }

    /// Adds the counts to a hash.
    pub(super) fn fold(&self, tag: u64, fold: &mut Fold) {
        for (index, count) in (0..).zip(&self.rows) {
            if *count > 0 {
                fold.word(tag, index, u64::from(*count));
            }
        }
    }
}

/// Returns the ranks of the named pages that a move is about.
pub(super) fn named(what: Move, scenario: &Scenario, frames: &Frames) -> impl Iterator<Item = u16> {
    let names = what
        .range
        .map(|range| (0..).zip(scenario.pages.keys()).filter(move |(_, name)| frames.get(*name).is_some_and(|pfn| range.contains(*pfn))));
    names.into_iter().flatten().map(|(rank, _)| rank)
}

impl World {
    /// Counts an event, if a search wants to know.
    pub(in crate::world) fn count(&mut self, event: &Event) {
        if let Some(counts) = &mut self.state.counts {
            let what = Move::of(event);
            counts.happened(what, named(what, &self.scenario, &self.state.pages.frames), &mut self.happened);
        }
    }
}
