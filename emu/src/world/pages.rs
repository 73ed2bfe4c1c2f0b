//! Named pages: from "first page of hint 1" to a frame, at the moment it is known.

use host::event::{Event, PageRange, Pfn};

use crate::scenario::model::{PageName, PageOf, PageSpec, Scenario};
use crate::world::gates::Frames;

/// Frames of the names that are known so far.
#[derive(Debug, Clone, Default)]
pub(super) struct NamedPages {
    /// The frames.
    pub(super) frames: Frames,
}

impl NamedPages {
    /// Returns the names whose frames are known from the start.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let fixed = scenario.pages.iter().filter_map(|(name, spec)| match spec {
            PageSpec::Pfn(pfn) => Some((name.clone(), Pfn(*pfn))),
            PageSpec::Hint { .. } | PageSpec::Allocation { .. } => None,
        });
        Self { frames: fixed.collect() }
    }

    /// Learns frames from an event that is about to happen; returns those newly known, in order of their names.
    pub(super) fn learn(&mut self, event: &Event, scenario: &Scenario, allocations: &[String]) -> Vec<(PageName, Pfn)> {
        let mut learnt = Vec::new();
        for (name, spec) in &scenario.pages {
            if self.frames.contains_key(name) {
                continue;
            }
            let found = match (spec, event) {
                (PageSpec::Hint { hint, page }, Event::GuestHint { range, number }) if hint == number => page_of(*page, *range),
                (PageSpec::Allocation { name, page }, Event::GuestNamed { name: index, range })
                    if allocations.get(*index as usize) == Some(name) =>
                {
                    page_of(*page, *range)
                }
                _ => None,
            };
            if let Some(pfn) = found {
                learnt.push((name.clone(), pfn));
            }
        }
        self.frames.extend(learnt.iter().cloned());
        learnt
    }
}

/// Returns the page of a block; `None` when the block is too small.
fn page_of(page: PageOf, range: PageRange) -> Option<Pfn> {
    match page {
        PageOf::Index(index) if index < range.count => Some(Pfn(range.first.0 + index)),
        PageOf::Index(_) => None,
        PageOf::Last => Some(Pfn(range.end().0 - 1)),
    }
}
