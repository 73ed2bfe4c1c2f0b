//! The smallest set of constraints that rules out every run which is known not to fail.
//!
//! A run that does not fail refutes every set whose constraints it keeps: so a set that suffices holds one that the run broke. That is a hitting
//! set, and as sets that suffice hit every clause, the smallest that hits those known so far is never larger than the smallest that suffices. A
//! run that got stuck refutes only the sets that hold it back where it stands.

use fixedbitset::FixedBitSet;

use super::candidates::Candidates;

/// Most sets that one search for the smallest looks at, before it takes what it has.
const NODES: u32 = 30_000;

/// What a refuting run asks of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    /// One of these must be in the set,
    pub(super) one_of: FixedBitSet,
    /// unless one of these is not. Empty: no way out.
    pub(super) unless: Vec<usize>,
}

impl Clause {
    fn is_kept_by(&self, set: &[usize]) -> bool {
        let open = self.unless.is_empty() || self.unless.iter().all(|edge| set.contains(edge));
        !open || set.iter().any(|edge| self.one_of.contains(*edge))
    }

    /// Returns whether this clause is kept by every set that keeps the other.
    fn follows_from(&self, other: &Clause) -> bool {
        other.one_of.is_subset(&self.one_of) && other.unless.iter().all(|edge| self.unless.contains(edge))
    }
}

/// What is known so far.
#[derive(Debug, Clone)]
pub(super) struct Cover {
    clauses: Vec<Clause>,
    /// By candidate: candidates of one group are in the same clauses.
    groups: Vec<usize>,
    groups_count: usize,
    /// No smaller set keeps all clauses.
    smallest: usize,
}

/// A set, and whether it is known that none is smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) edges: Vec<usize>,
    pub(super) smallest: bool,
}

impl Cover {
    pub(super) fn new(candidates: usize) -> Self {
        Self { clauses: Vec::new(), groups: vec![0; candidates], groups_count: 1, smallest: 0 }
    }

    /// Notes a clause. Clauses that say nothing more than others are left out.
    pub(super) fn add(&mut self, clause: Clause) {
        if self.clauses.iter().any(|known| clause.follows_from(known)) {
            return;
        }
        self.clauses.retain(|known| !known.follows_from(&clause));
        let mut split: Vec<[Option<usize>; 2]> = vec![[None; 2]; self.groups_count];
        let mut count = 0;
        for (candidate, group) in self.groups.iter_mut().enumerate() {
            let side = &mut split[*group][usize::from(clause.one_of.contains(candidate))];
            *group = *side.get_or_insert_with(|| {
                count += 1;
                count - 1
            });
        }
        // What a clause is conditional on is like no other.
        for candidate in &clause.unless {
            self.groups[*candidate] = count;
            count += 1;
        }
        self.groups_count = count;
        self.clauses.push(clause);
    }

    /// Returns the smallest set that keeps all clauses, the one that reads best among those; `None` when there is none up to the size.
    pub(super) fn best(&mut self, candidates: &Candidates, size_max: usize) -> Option<Set> {
        // Candidates stand in the order of their costs: the first of a group reads best.
        let mut first: Vec<Option<usize>> = vec![None; self.groups_count];
        for (candidate, group) in self.groups.iter().enumerate() {
            first[*group].get_or_insert(candidate);
        }
        let leads = |candidate: &usize| first[self.groups[*candidate]] == Some(*candidate);
        let branches = self.clauses.iter().map(|clause| clause.one_of.ones().filter(leads).collect()).collect();
        let excluded = FixedBitSet::with_capacity(self.groups.len());
        let mut search = Search { clauses: &self.clauses, branches, candidates, size: self.smallest, nodes: 0, best: None, excluded };
        while search.size <= size_max {
            search.dive(&mut Vec::new());
            if search.best.is_some() || search.nodes >= NODES {
                break;
            }
            search.size += 1;
        }
        let (best, smallest) = (search.best.take(), search.size);
        if let Some((_, edges)) = best {
            self.smallest = smallest;
            return Some(Set { edges: self.polish(edges, candidates), smallest: true });
        }
        if smallest > size_max {
            return None;
        }
        let edges = search.greedy(size_max)?;
        self.smallest = smallest;
        Some(Set { edges, smallest: false })
    }

    #[cfg(test)]
    pub(super) fn is_kept_by(&self, set: &[usize]) -> bool {
        self.clauses.iter().all(|clause| clause.is_kept_by(set))
    }

    /// Puts others of the same groups in place of edges, where that makes the set read better.
    fn polish(&self, mut set: Vec<usize>, candidates: &Candidates) -> Vec<usize> {
        let mut cost = candidates.cost(&set) + candidates.chains(&set);
        let mut better = true;
        while better {
            better = false;
            for place in 0..set.len() {
                let group = self.groups[set[place]];
                for other in (0..self.groups.len()).filter(|other| self.groups[*other] == group) {
                    let old = std::mem::replace(&mut set[place], other);
                    let new_cost = candidates.cost(&set) + candidates.chains(&set);
                    if new_cost < cost {
                        (cost, better) = (new_cost, true);
                    } else {
                        set[place] = old;
                    }
                }
            }
        }
        set
    }
}

/// A search for the set of a size that costs least.
struct Search<'a> {
    clauses: &'a [Clause],
    /// By clause: the leading candidate of each group in it.
    branches: Vec<Vec<usize>>,
    candidates: &'a Candidates,
    size: usize,
    nodes: u32,
    best: Option<(u32, Vec<usize>)>,
    /// Tried in place of what is tried now: sets with these have been seen.
    excluded: FixedBitSet,
}

impl Search<'_> {
    fn dive(&mut self, set: &mut Vec<usize>) {
        self.nodes += 1;
        let cost = self.candidates.cost(set);
        if self.nodes >= NODES || self.best.as_ref().is_some_and(|(best, _)| *best <= cost) {
            return;
        }
        let mut open = (0..self.clauses.len()).filter(|clause| !self.clauses[*clause].is_kept_by(set));
        if set.len() == self.size {
            if open.next().is_none() {
                self.take(cost, set);
            }
            return;
        }
        let Some(tightest) = open.min_by_key(|clause| self.branches[*clause].len()) else {
            self.take(cost, set);
            return;
        };
        let mut tried = Vec::new();
        for at in 0..self.branches[tightest].len() {
            let edge = self.branches[tightest][at];
            if self.excluded.contains(edge) {
                continue;
            }
            set.push(edge);
            self.dive(set);
            set.pop();
            self.excluded.insert(edge);
            tried.push(edge);
        }
        tried.into_iter().for_each(|edge| self.excluded.remove(edge));
    }

    /// Notes a set that keeps all clauses. Sets that fall apart in many chains read worse, but a set's cost without that only grows with it.
    fn take(&mut self, cost: u32, set: &[usize]) {
        let cost = cost + self.candidates.chains(set);
        if self.best.as_ref().is_none_or(|(best, _)| cost < *best) {
            self.best = Some((cost, set.to_vec()));
        }
    }

    /// Returns a set that is made by taking what keeps most clauses, again and again.
    fn greedy(&self, size_max: usize) -> Option<Vec<usize>> {
        let mut set = Vec::new();
        loop {
            let open: Vec<usize> = (0..self.clauses.len()).filter(|clause| !self.clauses[*clause].is_kept_by(&set)).collect();
            let Some(tightest) = open.iter().copied().min_by_key(|clause| self.branches[*clause].len()) else { return Some(set) };
            if set.len() == size_max {
                return None;
            }
            let keeps = |edge: usize| open.iter().filter(|clause| self.clauses[**clause].one_of.contains(edge)).count();
            set.push(self.branches[tightest].iter().copied().min_by_key(|edge| (std::cmp::Reverse(keeps(*edge)), *edge))?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::shrink::candidates::Level;
    use crate::search::shrink::recording::Recorded;
    use crate::search::system::{Footprint, Happening, Key};

    /// Returns candidates from as many moves of two actors in turns.
    fn candidates(moves: u16) -> Candidates {
        let made = |at: u16| {
            let happening = Happening { key: Key { kind: at, page: Key::NO_PAGE }, nth: 1 };
            Recorded { id: at % 2, happened: vec![happening], announced: 1, footprint: Footprint::default() }
        };
        let schedule: Vec<Recorded> = (0..moves).map(made).collect();
        Candidates::new(&schedule, Level::All, &|key| u32::from(key.kind))
    }

    fn clause(candidates: &Candidates, one_of: &[usize], unless: &[usize]) -> Clause {
        let mut bits = FixedBitSet::with_capacity(candidates.len());
        one_of.iter().for_each(|edge| bits.insert(*edge));
        Clause { one_of: bits, unless: unless.to_vec() }
    }

    #[test]
    fn the_smallest_set_wins_and_then_the_cheapest() {
        let candidates = candidates(8);
        let mut cover = Cover::new(candidates.len());
        assert_eq!(cover.best(&candidates, 4), Some(Set { edges: vec![], smallest: true }));
        cover.add(clause(&candidates, &[3, 5], &[]));
        assert_eq!(cover.best(&candidates, 4), Some(Set { edges: vec![3], smallest: true }));
        cover.add(clause(&candidates, &[5, 7], &[]));
        assert_eq!(cover.best(&candidates, 4), Some(Set { edges: vec![5], smallest: true }));
        cover.add(clause(&candidates, &[1, 2], &[]));
        assert_eq!(cover.best(&candidates, 4).map(|set| set.edges.len()), Some(2));
        assert_eq!(cover.best(&candidates, 1), None);
    }

    #[test]
    fn a_clause_with_conditions_binds_only_those_who_meet_them() {
        let candidates = candidates(8);
        let mut cover = Cover::new(candidates.len());
        cover.add(clause(&candidates, &[0, 4], &[]));
        cover.add(clause(&candidates, &[], &[0]));
        assert_eq!(cover.best(&candidates, 4).map(|set| set.edges), Some(vec![4]), "a set with 0 gets stuck");
        cover.add(clause(&candidates, &[], &[]));
        assert_eq!(cover.best(&candidates, 4), None, "a run that breaks nothing refutes all");
    }

    #[test]
    fn what_says_no_more_is_left_out() {
        let candidates = candidates(8);
        let mut cover = Cover::new(candidates.len());
        cover.add(clause(&candidates, &[1, 2, 3], &[]));
        cover.add(clause(&candidates, &[1, 2, 3, 4], &[]));
        cover.add(clause(&candidates, &[1, 2, 3], &[6]));
        assert_eq!(cover.clauses.len(), 1);
        cover.add(clause(&candidates, &[2, 3], &[]));
        assert_eq!(cover.clauses, [clause(&candidates, &[2, 3], &[])]);
    }
}
