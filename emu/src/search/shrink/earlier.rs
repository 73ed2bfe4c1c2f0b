//! The same failure, sooner: a result that says "the fourth sync" is tried as "the first sync".

use super::candidates::Level;
use super::sample::{self, Guide, Style};
use super::{NotShrunk, Shrinker, Shrunk, recording};
use crate::search::system::{Edge, Happening, System};

/// Completions in which the moved result is looked for, in quick samples.
const PATIENCE: u32 = 16;

impl<S: System> Shrinker<'_, S> {
    /// Returns a result that needs fewer constraints, or as many on earlier happenings, if a schedule which fails likewise has one; otherwise the
    /// one that there is.
    pub(super) fn earlier(&mut self, mut best: Shrunk) -> Shrunk {
        self.exact = best.exact;
        while let Some(better) = self.sooner(&best) {
            best = better;
        }
        Shrunk { tries: self.tries, replays: self.replays, ..best }
    }

    /// Returns the first better result, of those that are tried. When the budget is used up, what there is is good enough.
    fn sooner(&mut self, best: &Shrunk) -> Option<Shrunk> {
        for by in distances(&best.edges) {
            for rest in [false, true] {
                let moved = moved(&best.edges, by, rest);
                if let Some(better) = self.solve_elsewhere(&moved, best).unwrap_or(None) {
                    return Some(better);
                }
            }
        }
        None
    }

    /// Looks for a schedule that fails under these constraints, and shrinks it; the system's schedule stays if nothing better comes of that.
    fn solve_elsewhere(&mut self, moved: &[Edge], best: &Shrunk) -> Result<Option<Shrunk>, NotShrunk> {
        let start = self.constrain(moved);
        let mut failing = None;
        for number in 0..self.options.samples_quick * PATIENCE {
            let style = Style::nth(number, 0, &[]);
            self.system.put_back(&start);
            let run = self.complete_here(style, sample::seed(self.options.seed, u32::MAX - self.tries, number))?;
            if self.fails(&run) {
                failing = Some(run.ids);
                break;
            }
        }
        let Some(ids) = failing else { return Ok(None) };
        self.constrain(&[]);
        let (schedule, _) = recording::record(self.system, &ids)?;
        let guide = Guide::new(&schedule);
        let old = (std::mem::replace(&mut self.schedule, schedule), std::mem::replace(&mut self.guide, guide));
        let limit = std::mem::replace(&mut self.edges_max, best.edges.len());
        let found = self.solve(Level::Conflicts, self.options.replays_max / 64);
        self.edges_max = limit;
        match found {
            Ok(found) if rank(&found.edges) < rank(&best.edges) => Ok(Some(found)),
            other => {
                (self.schedule, self.guide) = old;
                match other {
                    Err(NotShrunk::Budget) => Err(NotShrunk::Budget),
                    Ok(_) | Err(_) => Ok(None),
                }
            }
        }
    }
}

/// Returns constraints on happenings that come so many times sooner, where they came as often; of constraints that stay as they are, mostly about
/// how the run got there, nothing or all.
fn moved(edges: &[Edge], by: u32, rest: bool) -> Vec<Edge> {
    let sooner = |Happening { key, nth }: Happening| Happening { key, nth: if nth > by { nth - by } else { nth } };
    let moved = edges.iter().map(|edge| (edge, Edge { first: sooner(edge.first), then: sooner(edge.then) }));
    moved.filter(|(old, new)| rest || *old != new).map(|(_, new)| new).collect()
}

/// Returns by how many occurrences constraints are moved: so that the farthest becomes the first, so that the nearest that can be moved does, and
/// by less and less.
fn distances(edges: &[Edge]) -> Vec<u32> {
    let counts = || edges.iter().flat_map(|edge| [edge.first.nth, edge.then.nth]).filter(|nth| *nth > 1);
    let mut distances: Vec<u32> = counts().max().into_iter().chain(counts().min()).map(|nth| nth - 1).collect();
    while let Some(half) = distances.last().map(|distance| distance / 2).filter(|half| *half > 0) {
        distances.push(half);
    }
    distances.sort_unstable_by(|a, b| b.cmp(a));
    distances.dedup();
    distances
}

/// Returns how much a result says: fewer constraints are better, then earlier happenings.
fn rank(edges: &[Edge]) -> (usize, u32) {
    (edges.len(), edges.iter().map(|edge| edge.first.nth + edge.then.nth).sum())
}
