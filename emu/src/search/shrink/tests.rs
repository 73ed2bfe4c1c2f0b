//! Schedules of the toy are shrunk, and every completion is tried under what comes out.

use super::*;
use crate::search::system::{Choice, Step};
use crate::search::toy::{Flaw, Size, Toy, kind};

fn cost(key: Key) -> u32 {
    if key.page == Key::NO_PAGE { 2 } else { 0 }
}

/// Returns the first failing schedule of a random series.
fn failing<S: System>(toy: &mut S, seed: u64) -> (Vec<u16>, Ending) {
    let root = toy.save();
    for sample in 0..100_000 {
        toy.put_back(&root);
        let (mut ids, mut offered) = (Vec::new(), Vec::new());
        let mut random = sample::seed(seed, 0, sample);
        loop {
            toy.choices(&mut offered);
            if offered.is_empty() {
                break;
            }
            let choice = offered[(random % offered.len() as u64) as usize];
            random = sample::seed(random, 1, sample);
            ids.push(choice.id);
            toy.take(choice);
        }
        let ending = toy.ending();
        if ending.is_failure() {
            toy.put_back(&root);
            return (ids, ending);
        }
    }
    panic!("no failing schedule");
}

/// Returns how many completions there are from here, and how many lose the page.
fn completions(toy: &mut Toy) -> (u64, u64) {
    let mut offered = Vec::new();
    toy.choices(&mut offered);
    if offered.is_empty() {
        return (1, u64::from(toy.ending().verdict == Verdict::LostPage));
    }
    let here = toy.save();
    offered.into_iter().fold((0, 0), |(all, failing), choice| {
        toy.put_back(&here);
        toy.take(choice);
        let (more, more_failing) = completions(toy);
        (all + more, failing + more_failing)
    })
}

fn shrunk(flaw: Flaw, size: Size, seed: u64) -> Shrunk {
    let mut toy = Toy::new(flaw, size);
    let root = toy.save();
    let (ids, ending) = failing(&mut toy, seed);
    shrink(&mut toy, &root, &ending, &ids, Options::new(seed, &cost)).unwrap_or_else(|reason| panic!("{flaw:?}, seed {seed}: {reason:?}"))
}

/// Returns whether every completion under the constraints loses the page.
fn suffices(flaw: Flaw, size: Size, edges: &[Edge]) -> bool {
    let mut toy = Toy::new(flaw, size);
    toy.constrain(edges);
    let (all, failing) = completions(&mut toy);
    all == failing
}

/// What goes wrong in a late round takes up to six constraints, the same in the first round three or four: and there all schedules arrive.
#[test]
fn a_flaw_shrinks_to_the_few_constraints_that_suffice_exhaustively() {
    for flaw in [Flaw::StopSkipped, Flaw::StopUnlocked] {
        let mut told_apart = BTreeSet::new();
        for (rounds, noise, seeds) in [(1, 0, 20), (2, 1, 10), (3, 1, 3)] {
            for seed in 0..seeds {
                let size = Size { rounds, noise };
                let found = shrunk(flaw, size, seed);
                let told = format!("{flaw:?}, {size:?}, seed {seed}: {found:?}");
                assert!(!found.edges.is_empty() && found.edges.len() <= 4, "{told}");
                assert!(found.smallest && found.exact && found.sampled == 300 && found.replays < 2500, "{told}");
                assert!(suffices(flaw, size, &found.edges), "{told}");
                told_apart.insert(chains(&found.edges));
            }
        }
        assert_eq!(told_apart.len(), 1, "{flaw:?}: {told_apart:?}");
    }
}

/// Returns whether the toy can end without losing the page.
fn can_pass(toy: &mut Toy) -> bool {
    let mut offered = Vec::new();
    toy.choices(&mut offered);
    if offered.is_empty() {
        return toy.ending().verdict != Verdict::LostPage;
    }
    let here = toy.save();
    offered.into_iter().any(|choice| {
        toy.put_back(&here);
        toy.take(choice);
        can_pass(toy)
    })
}

#[test]
fn no_smaller_set_of_the_schedules_orders_suffices() {
    for (flaw, size_expected) in [(Flaw::StopSkipped, 3), (Flaw::StopUnlocked, 4)] {
        let mut toy = Toy::new(flaw, Size { rounds: 1, noise: 0 });
        let root = toy.save();
        let (ids, ending) = failing(&mut toy, 0);
        let found = shrink(&mut toy, &root, &ending, &ids, Options::new(0, &cost)).expect("it fails");
        assert_eq!(found.edges.len(), size_expected, "{flaw:?}: {found:?}");
        toy.put_back(&root);
        let (schedule, _) = recording::record(&mut toy, &ids).expect("it replays");
        let all = Candidates::new(&schedule, Level::All, &cost);
        let mut smaller: Vec<Vec<Edge>> = vec![vec![]];
        for _ in 1..size_expected {
            smaller = smaller.iter().flat_map(|set| larger(set, &all)).collect();
        }
        assert!(smaller.len() > 500, "{} sets", smaller.len());
        for set in smaller {
            toy.put_back(&root);
            toy.constrain(&set);
            assert!(can_pass(&mut toy), "{flaw:?}: {set:?} suffice");
        }
    }
}

/// Returns a set with each candidate that stands behind its last one.
fn larger(set: &[Edge], all: &Candidates) -> Vec<Vec<Edge>> {
    let from = set.last().map_or(0, |last| all.index(last).expect("a candidate") + 1);
    (from..all.len()).map(|next| [set, &[all.edge(next)]].concat()).collect()
}

#[test]
fn no_constraint_of_a_result_can_be_taken_out() {
    for (flaw, seed) in [(Flaw::StopSkipped, 1), (Flaw::StopUnlocked, 2)] {
        let size = Size { rounds: 2, noise: 1 };
        let found = shrunk(flaw, size, seed);
        for without in 0..found.edges.len() {
            let mut fewer = found.edges.clone();
            fewer.remove(without);
            assert!(!suffices(flaw, size, &fewer), "{flaw:?}: {:?} suffice without number {without}", found.edges);
        }
    }
}

#[test]
fn the_same_schedule_and_seed_shrink_to_the_same() {
    let size = Size { rounds: 2, noise: 2 };
    assert_eq!(shrunk(Flaw::StopUnlocked, size, 7), shrunk(Flaw::StopUnlocked, size, 7));
}

/// The toy under constraints of a scenario's own, or with conflicts told too coarsely.
#[derive(Debug)]
struct Other {
    toy: Toy,
    own: Vec<Edge>,
    coarse: bool,
    step: Step,
}

impl Other {
    fn new(toy: Toy, own: Vec<Edge>, coarse: bool) -> Self {
        let mut other = Self { toy, own, coarse, step: Step::default() };
        other.constrain(&[]);
        other
    }
}

impl System for Other {
    type Saved = <Toy as System>::Saved;

    fn actors(&self) -> u16 {
        self.toy.actors()
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        self.toy.choices(into);
    }

    fn take(&mut self, choice: Choice) {
        self.toy.take(choice);
        self.step = self.toy.step().clone();
        self.step.footprint.objects.changed |= u64::from(self.coarse);
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        self.toy.ending()
    }

    fn save(&mut self) -> Self::Saved {
        self.toy.save()
    }

    fn put_back(&mut self, saved: &Self::Saved) {
        self.toy.put_back(saved);
    }

    fn hash(&mut self) -> u128 {
        self.toy.hash()
    }

    fn constrain(&mut self, edges: &[Edge]) {
        self.toy.constrain(&[&self.own, edges].concat());
    }
}

#[test]
fn what_always_fails_needs_no_constraint() {
    let size = Size { rounds: 1, noise: 1 };
    let own = shrunk(Flaw::StopSkipped, size, 0).edges;
    let mut doomed = Other::new(Toy::new(Flaw::StopSkipped, size), own, false);
    let root = doomed.save();
    let (ids, ending) = failing(&mut doomed, 3);
    let found = shrink(&mut doomed, &root, &ending, &ids, Options::new(3, &cost)).expect("it fails");
    assert_eq!((found.edges, found.replays, found.tries), (vec![], 300, 1));
    assert!(always_fails(&mut doomed, &root, &ending, 50, 1000, 0));
    let mut free = Toy::new(Flaw::StopSkipped, size);
    assert!(!always_fails(&mut free, &root, &ending, 50, 1000, 0));
}

#[test]
fn a_schedule_that_does_not_fail_like_that_is_refused() {
    let mut toy = Toy::new(Flaw::StopSkipped, Size { rounds: 1, noise: 0 });
    let root = toy.save();
    let (ids, ending) = failing(&mut toy, 0);
    let other = Ending { rule: Some("another"), ..ending.clone() };
    let options = Options::new(0, &cost);
    assert_eq!(shrink(&mut toy, &root, &other, &ids, options), Err(NotShrunk::OtherEnding(ending.clone())));
    assert_eq!(shrink(&mut toy, &root, &ending, &ids[..4], options), Err(NotShrunk::NotOver { moves: 4 }));
    assert_eq!(shrink(&mut toy, &root, &ending, &[9], options), Err(NotShrunk::NoSuchChoice { at: 0 }));
}

#[test]
fn the_budget_bounds_the_completions() {
    let mut toy = Toy::new(Flaw::StopSkipped, Size { rounds: 2, noise: 1 });
    let root = toy.save();
    let (ids, ending) = failing(&mut toy, 0);
    let options = Options { replays_max: 200, ..Options::new(0, &cost) };
    assert_eq!(shrink(&mut toy, &root, &ending, &ids, options), Err(NotShrunk::Budget));
}

#[test]
fn what_somebody_else_refutes_is_not_returned() {
    let size = Size { rounds: 1, noise: 0 };
    let mut toy = Toy::new(Flaw::StopSkipped, size);
    let root = toy.save();
    let (ids, ending) = failing(&mut toy, 0);
    let write = Happening { key: Key { kind: kind::WRITE, page: 0 }, nth: 1 };
    // A run in which nothing but the write happened: only a set in which the write has to wait refuses it.
    let mut confirm = |edges: &[Edge]| edges.iter().all(|edge| edge.then != write).then(|| vec![vec![write]]);
    let found = shrink_until(&mut toy, &root, &ending, &ids, Options::new(0, &cost), &mut confirm).expect("a larger set");
    assert!(found.edges.iter().any(|edge| edge.then == write), "{found:?}");
    assert!(suffices(Flaw::StopSkipped, size, &found.edges));
}

#[test]
fn an_order_that_gets_stuck_is_no_reproduction() {
    let key = |kind, page| Key { kind, page };
    let first = Happening { key: key(kind::CLEAR, 0), nth: 1 };
    let then = Happening { key: key(kind::POP, 0), nth: 1 };
    let edge = Edge { first, then };
    let ending = |verdict| Some(Ending { verdict, rule: None, blame: None, cause: None });
    let stuck = Run { ending: ending(Verdict::Unreachable), happened: Vec::new(), ids: Vec::new() };
    assert_eq!(held_back(&stuck, &[edge]), [edge], "other sets may go on");
    let over = Run { ending: ending(Verdict::Pass), happened: Vec::new(), ids: Vec::new() };
    assert_eq!(held_back(&over, &[edge]), [], "nothing held this run back");
}

#[test]
fn a_long_schedule_with_coarse_conflicts_takes_thousands_of_completions_at_most() {
    for (flaw, edges, coarse) in [(Flaw::StopSkipped, 3, true), (Flaw::StopUnlocked, 4, true), (Flaw::StopUnlocked, 4, false)] {
        let mut toy = Other::new(Toy::new(flaw, Size { rounds: 25, noise: 60 }), Vec::new(), coarse);
        let root = toy.save();
        let (ids, ending) = failing(&mut toy, 1);
        assert!(ids.len() > 200, "{} moves", ids.len());
        let found = shrink(&mut toy, &root, &ending, &ids, Options::new(1, &cost)).expect("it fails");
        assert_eq!(found.edges.len(), edges, "{found:?}");
        assert!(found.replays < 6_000 && found.smallest, "{found:?}");
    }
}

#[test]
fn a_constraint_that_cannot_be_kept_is_refuted_by_the_run_that_broke_it() {
    let mut toy = Toy::new(Flaw::StopSkipped, Size { rounds: 1, noise: 0 });
    let (ids, _) = failing(&mut toy, 0);
    let (schedule, _) = recording::record(&mut toy, &ids).expect("it replays");
    let candidates = Candidates::new(&schedule, Level::Conflicts, &cost);
    let edge = candidates.edge(0);
    let ending = Some(Ending { verdict: Verdict::Unreachable, rule: None, blame: None, cause: None });
    let run = Run { ending, happened: vec![(edge.then, 0)], ids: Vec::new() };
    let pending = held_back(&run, &[edge]);
    let mut cover = Cover::new(candidates.len());
    cover.add(clause(&Refuting { run, under: vec![edge], pending }, &candidates).expect("a candidate"));
    assert_eq!(cover.best(&candidates, 1).map(|set| set.edges), Some(vec![]), "other sets are not refuted");
    assert!(!cover.is_kept_by(&[0]));
}
