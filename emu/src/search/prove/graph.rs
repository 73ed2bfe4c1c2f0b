//! What the table holds once the search is over: a graph, in which runs are counted and the shortest are found. One thread, always in the same order.

use super::count::Count;
use super::table::{Edge, Mark, Node, Shard, StateId, Table, parts};

/// The graph of all states found.
#[derive(Debug)]
pub(crate) struct Graph {
    shards: Vec<Shard>,
    /// Where each shard's states start, in lists with an element for each state.
    starts: Vec<usize>,
    states: usize,
}

/// What is counted of the runs from a state to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runs {
    /// Runs that end well.
    pub(crate) passing: Count,
    /// Runs that fail.
    pub(crate) failing: Count,
    /// Moves in the longest.
    pub(crate) longest: u32,
    /// The probability that a run fails in which each choice of a state is as likely, in parts of [`Runs::CERTAIN`], rounded down in each state.
    chance: u64,
}

impl Runs {
    /// So small that as many of them as a state may have choices can be added.
    const CERTAIN: u64 = 1 << 46;
    const NONE: Runs = Runs { passing: Count::ZERO, failing: Count::ZERO, longest: 0, chance: 0 };

    fn add(&mut self, behind: &Runs) {
        self.passing = self.passing.plus(behind.passing);
        self.failing = self.failing.plus(behind.failing);
        self.longest = self.longest.max(behind.longest + 1);
        self.chance += behind.chance;
    }

    /// All moves of the state were added.
    fn complete(&mut self, moves: usize) {
        if moves > 0 {
            self.chance /= moves as u64;
        }
    }

    /// Returns the probability that a run fails in which each choice of a state is as likely, in millionths. 0 and 1,000,000 are only told if none
    /// or all do.
    pub(crate) fn chance_ppm(&self) -> u32 {
        const ALL: u64 = 1_000_000;
        match (self.failing.is_zero(), self.passing.is_zero()) {
            (true, _) => 0,
            (false, true) => ALL as u32,
            (false, false) => (u128::from(self.chance) * u128::from(ALL) / u128::from(Self::CERTAIN)).clamp(1, u128::from(ALL) - 1) as u32,
        }
    }
}

/// Bytes for each state that the questions to a graph take, at most one at a time.
pub const BYTES_PER_STATE: u64 = (size_of::<Runs>() + size_of::<Colour>()) as u64;

/// How far a depth-first walk has come with a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Unseen,
    /// On the way that the walk is on.
    Entered,
    Left,
}

impl Graph {
    pub(super) fn new(table: Table) -> Self {
        let shards = table.into_shards();
        let (mut starts, mut states) = (Vec::with_capacity(shards.len()), 0);
        for shard in &shards {
            starts.push(states);
            states += shard.nodes.len();
        }
        Self { shards, starts, states }
    }

    /// Returns the number of states.
    pub(crate) fn states(&self) -> usize {
        self.states
    }

    /// Returns the number of moves.
    pub(crate) fn edges(&self) -> u64 {
        self.shards.iter().map(|shard| shard.edges.len() as u64).sum()
    }

    fn index(&self, state: StateId) -> usize {
        let (shard, place) = parts(state);
        self.starts[shard] + place
    }

    fn node(&self, state: StateId) -> (&Node, &[Edge]) {
        let (shard, place) = parts(state);
        let Shard { nodes, edges, .. } = &self.shards[shard];
        (&nodes[place], nodes[place].edges(edges))
    }

    /// Returns a state's moves, in the order in which the system offers them.
    pub(crate) fn moves(&self, state: StateId) -> &[Edge] {
        self.node(state).1
    }

    /// Returns for each ending how many states there are that end so.
    pub(super) fn endings(&self, endings: usize) -> Vec<u64> {
        let mut counts = vec![0; endings];
        for node in self.shards.iter().flat_map(|shard| &shard.nodes) {
            match node.mark() {
                Mark::Terminal(ending) => counts[usize::from(ending)] += 1,
                Mark::Open | Mark::Inner => {}
            }
        }
        counts
    }

    /// Counts the runs from each root and from all states behind it, one root after the other, up to one from which a run can come back to where it was:
    /// there are infinitely many from there. States whose moves are not all known count with those that are.
    pub(crate) fn runs(&self, roots: &[StateId], fails: &[bool]) -> RunsOf<'_> {
        let mut colours = vec![Colour::Unseen; self.states];
        let mut runs = vec![Runs::NONE; self.states];
        let mut way: Vec<(StateId, u16)> = Vec::new();
        for (counted_roots, &root) in roots.iter().enumerate() {
            if colours[self.index(root)] == Colour::Unseen {
                self.enter(root, fails, &mut colours, &mut runs, &mut way);
            }
            while let Some((state, next)) = way.last_mut() {
                let here = self.index(*state);
                let Some(edge) = self.moves(*state).get(usize::from(*next)) else {
                    runs[here].complete(self.moves(*state).len());
                    colours[here] = Colour::Left;
                    way.pop();
                    continue;
                };
                let there = self.index(edge.target);
                match colours[there] {
                    // Behind it, the same move is looked at again.
                    Colour::Unseen => self.enter(edge.target, fails, &mut colours, &mut runs, &mut way),
                    Colour::Entered => return RunsOf { graph: self, runs, counted_roots },
                    Colour::Left => {
                        *next += 1;
                        let behind = runs[there];
                        runs[here].add(&behind);
                    }
                }
            }
        }
        RunsOf { graph: self, runs, counted_roots: roots.len() }
    }

    fn enter(&self, state: StateId, fails: &[bool], colours: &mut [Colour], runs: &mut [Runs], way: &mut Vec<(StateId, u16)>) {
        let index = self.index(state);
        colours[index] = Colour::Entered;
        way.push((state, 0));
        match self.node(state).0.mark() {
            Mark::Terminal(ending) if fails[usize::from(ending)] => (runs[index].failing, runs[index].chance) = (Count::ONE, Runs::CERTAIN),
            Mark::Terminal(_) => runs[index].passing = Count::ONE,
            Mark::Open | Mark::Inner => {}
        }
    }

    /// Returns the shortest ways from the root to the states that are asked for, as choices; of equally short ones the one whose choices come first.
    /// `wanted` is asked of each state once, nearest first, until `most` are found.
    pub(super) fn shortest(&self, root: StateId, most: usize, mut wanted: impl FnMut(StateId, Mark) -> bool) -> Vec<Vec<u16>> {
        // States in the order in which they are reached, each with its predecessor's place in this list and the move.
        let mut reached: Vec<(StateId, u32, u16)> = vec![(root, u32::MAX, 0)];
        let mut seen = vec![false; self.states];
        seen[self.index(root)] = true;
        let mut found = Vec::new();
        let mut at = 0;
        while at < reached.len() && found.len() < most {
            let state = reached[at].0;
            let (node, edges) = self.node(state);
            if wanted(state, node.mark()) {
                found.push(Self::way_back(&reached, at));
            }
            for edge in edges {
                let index = self.index(edge.target);
                if !std::mem::replace(&mut seen[index], true) {
                    reached.push((edge.target, at as u32, edge.choice));
                }
            }
            at += 1;
        }
        found
    }

    fn way_back(reached: &[(StateId, u32, u16)], mut at: usize) -> Vec<u16> {
        let mut choices = Vec::new();
        while reached[at].1 != u32::MAX {
            choices.push(reached[at].2);
            at = reached[at].1 as usize;
        }
        choices.reverse();
        choices
    }

    /// Returns the hashes of all states.
    #[cfg(test)]
    pub(super) fn hashes(&self) -> std::collections::BTreeSet<u128> {
        self.shards.iter().flat_map(|shard| &shard.nodes).map(Node::hash).collect()
    }
}

/// The runs of the states behind the roots that were asked for.
#[derive(Debug)]
pub(crate) struct RunsOf<'a> {
    graph: &'a Graph,
    runs: Vec<Runs>,
    /// How many roots were counted: the first ones.
    pub(crate) counted_roots: usize,
}

impl RunsOf<'_> {
    /// Returns the runs from a root that was counted, or from a state behind one.
    pub(crate) fn from(&self, state: StateId) -> Runs {
        self.runs[self.graph.index(state)]
    }
}
