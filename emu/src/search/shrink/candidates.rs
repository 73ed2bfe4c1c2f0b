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
        let names: Vec<[Vec<Named>; 2]> =
            schedule.iter().map(|made| [made.happened.as_slice(), made.door()].map(|of| named(of, level, cost))).collect();
        let mut best = Best { list: Vec::new(), limit: level.limit(), worst: u32::MAX };
        let mut pair = |Swap { early, late }: Swap, extra: u32| {
            for (first, first_cost) in &names[early][0] {
                for (then, then_cost) in &names[late][1] {
                    best.take((first_cost + then_cost + extra, Edge { first: *first, then: *then }, Swap { early, late }, extra));
                }
            }
        };
        match level {
            Level::Conflicts => related(schedule, &mut pair),
            Level::All => all(schedule, &mut pair),
        }
        Self::of(best.finish(), cost)
    }

    fn of(sorted: Vec<Priced>, cost: &dyn Fn(Key) -> u32) -> Self {
        let named: BTreeSet<Happening> = sorted.iter().flat_map(|(_, edge, _, _)| [edge.first, edge.then]).collect();
        let costs = named.iter().map(|happening| cost_of(*happening, cost)).collect();
        let happenings: BTreeMap<Happening, usize> = named.into_iter().enumerate().map(|(index, happening)| (happening, index)).collect();
        let by_edge = sorted.iter().enumerate().map(|(index, (_, edge, _, _))| (*edge, index)).collect();
        let candidate = |(_, edge, swap, extra): Priced| {
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

/// A candidate with its cost in front, then what it costs beside its happenings.
type Priced = (u32, Edge, Swap, u32);
/// A happening and its cost.
type Named = (Happening, u32);

/// The cheapest candidates of very many.
struct Best {
    list: Vec<Priced>,
    limit: usize,
    /// What costs more is not among them.
    worst: u32,
}

impl Best {
    fn take(&mut self, candidate: Priced) {
        if candidate.0 > self.worst {
            return;
        }
        self.list.push(candidate);
        if self.list.len() >= 4 * self.limit {
            self.cut();
        }
    }

    /// Leaves the cheapest, each edge once.
    fn cut(&mut self) {
        self.list.sort_unstable();
        let mut seen = BTreeSet::new();
        self.list.retain(|(_, edge, _, _)| seen.insert(*edge));
        if self.list.len() > self.limit {
            self.list.truncate(self.limit);
            self.worst = self.list.last().map_or(self.worst, |(cost, _, _, _)| *cost);
        }
    }

    fn finish(mut self) -> Vec<Priced> {
        self.cut();
        self.list
    }
}

/// Returns under which happenings a move, or its announced event, is looked at: all, or the one that reads best and the best of its first event.
fn named(happened: &[Happening], level: Level, cost: &dyn Fn(Key) -> u32) -> Vec<Named> {
    let priced: Vec<Named> = happened.iter().map(|happening| (*happening, cost_of(*happening, cost))).collect();
    if level == Level::All {
        return priced;
    }
    let best = |list: &[Named]| list.iter().copied().min_by_key(|(happening, cost)| (*cost, *happening));
    let first_kind = priced.iter().take_while(|(other, _)| other.key.kind == happened[0].key.kind).count();
    let mut found: Vec<Named> = best(&priced).into_iter().chain(best(&priced[..first_kind])).collect();
    found.dedup();
    found
}

/// Gives every pair of moves of different actors.
fn all(schedule: &[Recorded], pair: &mut dyn FnMut(Swap, u32)) {
    for late in 0..schedule.len() {
        for early in (0..late).filter(|early| schedule[*early].id != schedule[late].id) {
            pair(Swap { early, late }, 0);
        }
    }
}

/// Gives the pairs that conflict, and those that a chain of conflicts orders when both are about a named page or an injection.
fn related(schedule: &[Recorded], pair: &mut dyn FnMut(Swap, u32)) {
    let mut before: Vec<FixedBitSet> = Vec::with_capacity(schedule.len());
    let named: Vec<bool> = schedule.iter().map(|made| made.happened.iter().any(|happening| happening.key.page != Key::NO_PAGE)).collect();
    for late in 0..schedule.len() {
        let mut past = FixedBitSet::with_capacity(schedule.len());
        for early in (0..late).rev() {
            let same = schedule[early].id == schedule[late].id;
            let conflict = !same && schedule[early].footprint.conflict(&schedule[late].footprint);
            let follows = !same && named[early] && named[late] && past.contains(early);
            if (conflict || follows)
                && let Some(swap) = nameable(schedule, Swap { early, late })
            {
                pair(swap, u32::from(!conflict));
            }
            if (same || conflict) && !past.contains(early) {
                past.insert(early);
                past.union_with(&before[early]);
            }
        }
        before.push(past);
    }
}

/// Returns the pair of moves that says the same or more, and can be named: a move that nobody sees is named by its actor's next, a move that
/// cannot be held back by its actor's previous.
fn nameable(schedule: &[Recorded], Swap { early, late }: Swap) -> Option<Swap> {
    let (first_id, then_id) = (schedule[early].id, schedule[late].id);
    let early = (early..late).find(|at| schedule[*at].id == first_id && !schedule[*at].happened.is_empty())?;
    let late = (early + 1..=late).rev().find(|at| schedule[*at].id == then_id && schedule[*at].announced > 0)?;
    Some(Swap { early, late })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::{Footprint, Objects};

    /// Returns a move that changes an object, with events of these kinds of which the first ones are announced.
    fn made(id: u16, kinds: &[u16], announced: usize) -> Recorded {
        let happened = kinds.iter().map(|kind| happening(*kind)).collect();
        let footprint = Footprint { objects: Objects { shared: 0, changed: 1 }, ..Footprint::default() };
        Recorded { id, happened, announced, footprint }
    }

    fn happening(kind: u16) -> Happening {
        Happening { key: Key { kind, page: Key::NO_PAGE }, nth: 1 }
    }

    fn orders(schedule: &[Recorded], level: Level) -> Vec<(u16, u16)> {
        let candidates = Candidates::new(schedule, level, &|key| u32::from(key.kind));
        (0..candidates.len()).map(|index| candidates.edge(index)).map(|edge| (edge.first.key.kind, edge.then.key.kind)).collect()
    }

    #[test]
    fn only_an_announced_event_waits() {
        let schedule = [made(0, &[1, 2], 1), made(1, &[3, 4], 1)];
        assert_eq!(orders(&schedule, Level::All), [(1, 3), (2, 3)]);
        assert_eq!(orders(&schedule, Level::Conflicts), [(1, 3)]);
    }

    #[test]
    fn moves_without_a_name_are_named_by_their_neighbours() {
        let schedule = [made(0, &[], 0), made(0, &[1], 1), made(1, &[2], 1), made(1, &[3], 0)];
        assert_eq!(orders(&schedule, Level::Conflicts), [(1, 2)]);
        let nothing_between = [made(0, &[], 0), made(1, &[3], 0)];
        assert_eq!(orders(&nothing_between, Level::Conflicts), []);
    }

    #[test]
    fn of_too_many_the_cheapest_stay() {
        let mut best = Best { list: Vec::new(), limit: 10, worst: u32::MAX };
        for number in (0..1000u16).rev() {
            best.take((u32::from(number), Edge { first: happening(number), then: happening(0) }, Swap { early: 0, late: 1 }, 0));
        }
        let costs: Vec<u32> = best.finish().into_iter().map(|(cost, _, _, _)| cost).collect();
        assert_eq!(costs, (0..10).collect::<Vec<u32>>());
    }

    #[test]
    fn a_run_breaks_what_comes_too_early_or_without_the_first() {
        let schedule = [made(0, &[1], 1), made(1, &[2], 1)];
        let candidates = Candidates::new(&schedule, Level::All, &|_| 0);
        let broken = |happened: &[(u16, u32)]| {
            let happened = happened.iter().map(|(kind, at)| (happening(*kind), *at)).collect();
            candidates.broken_by(&Run { ending: None, happened, ids: Vec::new() }).contains(0)
        };
        assert!(!broken(&[(1, 0), (2, 1)]) && !broken(&[(1, 0)]) && !broken(&[]));
        assert!(broken(&[(2, 0), (1, 1)]) && broken(&[(2, 0)]));
        assert!(broken(&[(1, 0), (2, 0)]), "in one move is not before");
    }
}
