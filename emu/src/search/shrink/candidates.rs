//! Which "this before that" of the failing schedule may matter.

use std::collections::{BTreeMap, BTreeSet};

use fixedbitset::FixedBitSet;

use super::recording::Recorded;
use super::sample::{Run, Swap};
use crate::search::system::{Edge, Happening, Key};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Pairs of moves that conflict, and pairs about named pages of which one follows from the other.
    Conflicts,
    /// Every pair of moves, under every key.
    All,
}

impl Level {
    /// Most candidates: the ones that read best are kept.
    fn limit(self) -> usize {
        match self {
            Level::Conflicts => 4096,
            Level::All => 1 << 15,
        }
    }
}

/// An order that the failing schedule kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) edge: Edge,
    /// The moves that it stands for.
    pub(super) swap: Swap,
    /// Indices of the two in the table of happenings.
    ends: [usize; 2],
    /// What it costs beside its happenings.
    extra: u32,
}

/// All candidates, those that read best first.
#[derive(Debug, Clone)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    happenings: BTreeMap<Happening, usize>,
    /// By index of a happening: how badly it reads.
    costs: Vec<u32>,
    by_edge: BTreeMap<Edge, usize>,
}

/// How badly a happening reads: the key's own cost, and more the further a person has to count.
fn cost_of(happening: Happening, cost: &dyn Fn(Key) -> u32) -> u32 {
    cost(happening.key) + happening.nth.ilog2()
}

impl Candidates {
    pub(super) fn new(schedule: &[Recorded], level: Level, cost: &dyn Fn(Key) -> u32) -> Self {
        let mut found: BTreeMap<Edge, (Swap, u32)> = BTreeMap::new();
        let pairs = match level {
            Level::Conflicts => related(schedule),
            Level::All => all(schedule),
        };
        for Pair { swap, extra } in pairs {
            let (first, then) = match level {
                Level::Conflicts => (best_of(&schedule[swap.early].happened, cost), best_of(schedule[swap.late].door(), cost)),
                Level::All => (schedule[swap.early].happened.clone(), schedule[swap.late].door().to_vec()),
            };
            for edge in first.iter().flat_map(|first| then.iter().map(|then| Edge { first: *first, then: *then })) {
                let entry = found.entry(edge).or_insert((swap, extra));
                entry.1 = entry.1.min(extra);
            }
        }
        let mut sorted: Vec<(u32, Edge, Swap, u32)> = found
            .into_iter()
            .map(|(edge, (swap, extra))| (cost_of(edge.first, cost) + cost_of(edge.then, cost) + extra, edge, swap, extra))
            .collect();
        sorted.sort_unstable();
        sorted.truncate(level.limit());
        Self::of(sorted, cost)
    }

    fn of(sorted: Vec<(u32, Edge, Swap, u32)>, cost: &dyn Fn(Key) -> u32) -> Self {
        let named: BTreeSet<Happening> = sorted.iter().flat_map(|(_, edge, _, _)| [edge.first, edge.then]).collect();
        let costs = named.iter().map(|happening| cost_of(*happening, cost)).collect();
        let happenings: BTreeMap<Happening, usize> = named.into_iter().enumerate().map(|(index, happening)| (happening, index)).collect();
        let by_edge = sorted.iter().enumerate().map(|(index, (_, edge, _, _))| (*edge, index)).collect();
        let candidate = |(_, edge, swap, extra): (u32, Edge, Swap, u32)| {
            let ends = [edge.first, edge.then].map(|end| happenings[&end]);
            Candidate { edge, swap, ends, extra }
        };
        let list = sorted.into_iter().map(candidate).collect();
        Self { list, happenings, costs, by_edge }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn edge(&self, index: usize) -> Edge {
        self.list[index].edge
    }

    pub(super) fn index(&self, edge: &Edge) -> Option<usize> {
        self.by_edge.get(edge).copied()
    }

    /// Returns the moves that candidates stand for, each pair once, those that read best first.
    pub(super) fn swaps(&self) -> Vec<Swap> {
        let mut seen = BTreeSet::new();
        self.list.iter().map(|candidate| candidate.swap).filter(|swap| seen.insert(*swap)).collect()
    }

    /// Returns how badly a set reads: each happening counts once, so that constraints which share one are better.
    pub(super) fn cost(&self, set: &[usize]) -> u32 {
        let mut ends: Vec<usize> = set.iter().flat_map(|index| self.list[*index].ends).collect();
        ends.sort_unstable();
        ends.dedup();
        let extra: u32 = set.iter().map(|index| self.list[*index].extra).sum();
        extra + ends.into_iter().map(|end| self.costs[end]).sum::<u32>()
    }

    /// Returns how many chains a set falls into, if each constraint that can go on from another one does.
    pub(super) fn chains(&self, set: &[usize]) -> u32 {
        let ends: Vec<[usize; 2]> = set.iter().map(|index| self.list[*index].ends).collect();
        let from = |place: usize, end: usize| ends.iter().filter(|ends| ends[place] == end).count();
        let mut starts: Vec<usize> = ends.iter().map(|[first, _]| *first).collect();
        starts.sort_unstable();
        starts.dedup();
        let begun: usize = starts.into_iter().map(|start| from(0, start).saturating_sub(from(1, start))).sum();
        u32::try_from(begun).expect("fewer chains than constraints")
    }

    /// Returns the candidates that a run did not keep: any set without one of these allows that run.
    pub(super) fn broken_by(&self, run: &Run) -> FixedBitSet {
        let mut times = vec![u32::MAX; self.costs.len()];
        for (happening, at) in &run.happened {
            if let Some(index) = self.happenings.get(happening) {
                times[*index] = *at;
            }
        }
        let mut broken = FixedBitSet::with_capacity(self.list.len());
        for (index, candidate) in self.list.iter().enumerate() {
            let [first, then] = candidate.ends.map(|end| times[end]);
            if then != u32::MAX && first >= then {
                broken.insert(index);
            }
        }
        broken
    }
}

/// Returns the happenings of an event or a move that read best: the best of all, and the best of its first event.
fn best_of(happened: &[Happening], cost: &dyn Fn(Key) -> u32) -> Vec<Happening> {
    let best = |list: &[Happening]| list.iter().copied().min_by_key(|happening| (cost_of(*happening, cost), *happening));
    let Some(first) = happened.first() else { return Vec::new() };
    let first_kind: Vec<Happening> = happened.iter().copied().take_while(|other| other.key.kind == first.key.kind).collect();
    let mut found: Vec<Happening> = best(happened).into_iter().chain(best(&first_kind)).collect();
    found.dedup();
    found
}

/// Two moves, and what it costs to name them.
struct Pair {
    swap: Swap,
    extra: u32,
}

fn all(schedule: &[Recorded]) -> Vec<Pair> {
    let pairs = (0..schedule.len()).flat_map(|late| (0..late).map(move |early| Swap { early, late }));
    let apart = pairs.filter(|Swap { early, late }| schedule[*early].id != schedule[*late].id);
    apart.map(|swap| Pair { swap, extra: 0 }).collect()
}

/// Returns the pairs that conflict, and those that a chain of conflicts orders when both are about a named page or an injection.
fn related(schedule: &[Recorded]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut before: Vec<FixedBitSet> = Vec::with_capacity(schedule.len());
    let named = |at: usize| schedule[at].happened.iter().any(|happening| happening.key.page != Key::NO_PAGE);
    for late in 0..schedule.len() {
        let mut past = FixedBitSet::with_capacity(schedule.len());
        for early in (0..late).rev() {
            let same = schedule[early].id == schedule[late].id;
            let conflict = !same && schedule[early].footprint.conflict(&schedule[late].footprint);
            if conflict {
                pairs.extend(nameable(schedule, Swap { early, late }).map(|swap| Pair { swap, extra: 0 }));
            } else if !same && past.contains(early) && named(early) && named(late) {
                pairs.extend(nameable(schedule, Swap { early, late }).map(|swap| Pair { swap, extra: 1 }));
            }
            if (same || conflict) && !past.contains(early) {
                past.insert(early);
                past.union_with(&before[early]);
            }
        }
        before.push(past);
    }
    pairs
}

/// Returns the pair of moves that says the same or more, and can be named: a move that nobody sees is named by its actor's next, a move that
/// cannot be held back by its actor's previous.
fn nameable(schedule: &[Recorded], Swap { early, late }: Swap) -> Option<Swap> {
    let (first_id, then_id) = (schedule[early].id, schedule[late].id);
    let early = (early..late).find(|at| schedule[*at].id == first_id && !schedule[*at].happened.is_empty())?;
    let late = (early + 1..=late).rev().find(|at| schedule[*at].id == then_id && schedule[*at].announced > 0)?;
    Some(Swap { early, late })
}
