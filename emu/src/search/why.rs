//! When a failing run was lost: for each state along it, which share of the runs from there fail.
//!
//! The search goes backwards from the run's end: what can come of its last states is small and exhausted at once, and what can come of an earlier state
//! contains that of all later ones. Where the budget ends, random completions take over, and are marked as such. Both measure the same: each choice
//! of a state is as likely. Of many states some are sampled, and those between two that differ; the others are taken to be like the one before.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::draw::Draw;
use super::prove::{self, Count, Covered, Found, Runs, Unsound, exhaust};
use super::system::{Choice, Ending, Happening, Key, System};

/// How to look at a run.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How to search what can be exhausted, and until when. `local` and `stop_at_first` are left out of account: they would change the shares.
    pub search: prove::Options<'a>,
    /// Asked before each random completion: whether to make none any more.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Random completions of each state that cannot.
    pub samples: u32,
    /// Of the random completions.
    pub seed: u64,
    /// Moves after which a random completion is given up; it counts as one that does not fail.
    pub moves_max: u32,
}

/// Which part of the runs from a state fail, if each choice of a state is as likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All runs were counted.
    Exact {
        /// Those that fail.
        failing: Count,
        /// The others.
        passing: Count,
        /// Their share, in millionths; 0 or 1,000,000 only if none or all fail.
        ppm: u32,
    },
    /// Random completions. None were made if the search was stopped.
    Sampled {
        /// Those that failed.
        failing: u32,
        /// All.
        samples: u32,
    },
}

impl Share {
    /// Returns the share in millionths. Exactly 0 or 1,000,000 only if none or all of what was counted fails. None: nothing was counted.
    pub fn ppm(self) -> Option<u32> {
        match self {
            Share::Exact { ppm, .. } => Some(ppm),
            Share::Sampled { samples: 0, .. } => None,
            Share::Sampled { failing, samples } => Some((u64::from(failing) * 1_000_000 / u64::from(samples)) as u32),
        }
    }

    /// Returns whether all that was counted fails.
    pub fn all_fail(self) -> bool {
        match self {
            Share::Exact { failing, passing, .. } => !failing.is_zero() && passing.is_zero(),
            Share::Sampled { failing, samples } => samples > 0 && failing == samples,
        }
    }

    /// Returns whether two shares are told apart: what is sampled only if chance alone hardly makes such a difference (four standard deviations).
    pub fn differs(self, other: Share) -> bool {
        const ALL: i128 = 1_000_000;
        match (self, other) {
            (Share::Exact { ppm: a, .. }, Share::Exact { ppm: b, .. }) => a != b,
            (Share::Sampled { failing: a, samples: of_a }, Share::Sampled { failing: b, samples: of_b }) => {
                let [a, of_a, b, of_b] = [a, of_a, b, of_b].map(i128::from);
                // The share of both together, with one failing and one passing run added: a sample without any says little of how rare they are.
                let (sum, of_sum) = (a + b + 1, of_a + of_b + 2);
                let difference = a * of_b - b * of_a;
                difference * difference * of_sum * of_sum > 16 * sum * (of_sum - sum) * of_a * of_b * (of_a + of_b)
            }
            (Share::Sampled { failing, samples }, Share::Exact { ppm, .. })
            | (Share::Exact { ppm, .. }, Share::Sampled { failing, samples }) => {
                let [failing, samples, ppm] = [failing, samples, ppm].map(i128::from);
                let difference = failing * ALL - ppm * samples;
                let spread = (failing + 1) * (samples + 1 - failing) * samples * ALL * ALL;
                difference * difference * (samples + 2) * (samples + 2) > 16 * spread
            }
        }
    }

    /// Returns whether all runs were counted.
    pub fn is_exact(self) -> bool {
        match self {
            Share::Exact { .. } => true,
            Share::Sampled { .. } => false,
        }
    }
}

impl From<Runs> for Share {
    fn from(runs: Runs) -> Self {
        Share::Exact { failing: runs.failing, passing: runs.passing, ppm: runs.chance_ppm() }
    }
}

/// A move of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The choice.
    pub choice: Choice,
    /// What happened.
    pub happened: Vec<Happening>,
    /// The share of failing runs before it.
    pub before: Share,
    /// The share of failing runs from the state behind it.
    pub after: Share,
}

/// The step after which every run fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doom {
    /// Its index.
    pub step: usize,
    /// Whether that is sure. Else it is only that all random completions fail.
    pub exact: bool,
    /// What else could have been chosen there, and the share of failing runs from the state behind it.
    pub others: Vec<(Choice, Share)>,
}

/// When a run was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// How the run ends.
    pub ending: Ending,
    /// The share of failing runs at its start.
    pub start: Share,
    /// Its moves.
    pub steps: Vec<Step>,
    /// The step that doomed it. None: it does not fail, or every run does.
    pub doom: Option<Doom>,
    /// What was searched for that.
    pub covered: Covered,
}

/// Why nothing can be said of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The run cannot be made.
    NotOffered {
        /// Index of the choice.
        step: usize,
        /// Its id, which is not offered there.
        id: u16,
    },
    /// The run has not ended.
    NotEnded {
        /// What could be chosen there.
        choices: Vec<Choice>,
    },
    /// The system has a defect.
    Unsound(Box<Unsound>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotOffered { step, id } => write!(f, "choice {id} is not offered at step {step}"),
            Error::NotEnded { choices } => write!(f, "the run is not over: {} choices are left", choices.len()),
            Error::Unsound(unsound) => unsound.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// A run, made once more.
struct Replay<T> {
    /// The states on the way, with start and end: one more than moves.
    states: Vec<T>,
    moves: Vec<(Choice, Vec<Happening>)>,
    ending: Ending,
}

/// Looks at a run: the ids of all its choices, from the state in which `factory` makes the system to an end.
pub fn why<S, F>(factory: F, path: &[u16], options: &Options<'_>) -> Result<Why, Error>
where
    S: System,
    F: Fn() -> S + Sync,
{
    let mut system = factory();
    let Replay { states, moves, ending } = replay(&mut system, path)?;
    let search = prove::Options { local: false, stop_at_first: false, ..options.search };
    let roots: Vec<S::Saved> = states.iter().rev().cloned().collect();
    let found = exhaust(&mut system, &factory, roots, &search).map_err(|(root, mut unsound)| {
        unsound.path.splice(..0, path[..path.len() - root].iter().copied());
        Error::Unsound(unsound)
    })?;
    let exact = Exact::new(&found);
    let known: Vec<Option<Share>> = (0..states.len()).map(|place| exact.share(states.len() - 1 - place)).collect();
    let sampler = Sampler { factory: &factory, options };
    let telling = |(_, happened): &(Choice, Vec<Happening>)| happened.iter().any(|happening| happening.key.page != Key::NO_PAGE);
    let telling: Vec<bool> = moves.iter().map(telling).collect();
    let shares = fill(known, &telling, &mut |places| {
        let those: Vec<S::Saved> = places.iter().map(|place| states[*place].clone()).collect();
        sampler.shares(&mut system, &those, "state", places)
    });
    let doom = match first_of_the_doomed(&shares) {
        Some(place) if place > 0 => {
            let step = place - 1;
            let others = others(&mut system, &states, path, step, &exact, &sampler);
            Some(Doom { step, exact: shares[place].is_exact(), others })
        }
        Some(_) | None => None,
    };
    let steps = moves.into_iter().zip(shares.windows(2));
    let steps = steps.map(|((choice, happened), shares)| Step { choice, happened, before: shares[0], after: shares[1] }).collect();
    Ok(Why { ending, start: shares[0], steps, doom, covered: found.covered })
}

fn replay<S: System>(system: &mut S, path: &[u16]) -> Result<Replay<S::Saved>, Error> {
    let (mut states, mut moves, mut choices) = (vec![system.save()], Vec::new(), Vec::new());
    for (step, &id) in path.iter().enumerate() {
        system.choices(&mut choices);
        let choice = *choices.iter().find(|choice| choice.id == id).ok_or(Error::NotOffered { step, id })?;
        system.take(choice);
        moves.push((choice, system.step().happened.clone()));
        states.push(system.save());
    }
    system.choices(&mut choices);
    match choices.is_empty() {
        true => Ok(Replay { states, moves, ending: system.ending() }),
        false => Err(Error::NotEnded { choices }),
    }
}

/// So many states are all sampled, and one in so many of more.
const ALL_SAMPLED: usize = 48;
const ONE_IN: usize = 16;

/// Samples what is not known: the states around moves that tell something, a grid, and whatever lies between two that differ, by halving. What is left is
/// taken to be like the state before.
fn fill(mut known: Vec<Option<Share>>, telling: &[bool], sample: &mut dyn FnMut(&[usize]) -> Vec<Share>) -> Vec<Share> {
    let unknown = known.iter().take_while(|share| share.is_none()).count();
    let tells = |place: usize| telling.get(place).is_some_and(|tells| *tells) || place > 0 && telling[place - 1];
    let first = |place: &usize| unknown <= ALL_SAMPLED || place.is_multiple_of(ONE_IN) || *place + 1 == unknown || tells(*place);
    let mut places: Vec<usize> = (0..unknown).filter(first).collect();
    while !places.is_empty() {
        for (place, share) in places.iter().zip(sample(&places)) {
            known[*place] = Some(share);
        }
        let looked_at: Vec<(usize, Share)> = known.iter().enumerate().filter_map(|(place, share)| Some((place, (*share)?))).collect();
        let between = |pair: &[(usize, Share)]| {
            let [(a, before), (b, behind)] = [pair[0], pair[1]];
            let differ = before.differs(behind) || before.all_fail() != behind.all_fail();
            (b - a > 1 && differ).then_some(a.midpoint(b))
        };
        places = looked_at.windows(2).filter_map(between).collect();
    }
    let mut last = None;
    let filled = known.into_iter().map(|share| {
        last = share.or(last);
        last.expect("the first state is known or sampled")
    });
    filled.collect()
}

/// Returns the first place from which on every share says that all fail.
fn first_of_the_doomed(shares: &[Share]) -> Option<usize> {
    let doomed = shares.iter().rev().take_while(|share| share.all_fail()).count();
    (doomed > 0).then(|| shares.len() - doomed)
}

/// What the search has exhausted.
struct Exact<'a> {
    found: &'a Found,
    runs: prove::RunsOf<'a>,
}

impl<'a> Exact<'a> {
    fn new(found: &'a Found) -> Self {
        let fails: Vec<bool> = found.endings.iter().map(Ending::is_failure).collect();
        Self { found, runs: found.graph.runs(&found.roots[..found.roots_done], &fails) }
    }

    /// Returns the share of a state of the run, so many moves before its end.
    fn share(&self, moves_left: usize) -> Option<Share> {
        (moves_left < self.runs.counted_roots).then(|| self.runs.from(self.found.roots[moves_left]).into())
    }

    /// Returns the share behind a choice in a state of the run that is exact itself.
    fn share_behind(&self, moves_left: usize, choice: u16) -> Option<Share> {
        let state = (moves_left < self.runs.counted_roots).then(|| self.found.roots[moves_left])?;
        let edge = self.found.graph.moves(state).iter().find(|edge| edge.choice == choice)?;
        Some(self.runs.from(edge.target).into())
    }
}

/// Returns what else could have been chosen at a step, and what would have become of it.
fn others<S: System, F: Fn() -> S + Sync>(
    system: &mut S,
    states: &[S::Saved],
    path: &[u16],
    step: usize,
    exact: &Exact<'_>,
    sampler: &Sampler<'_, F>,
) -> Vec<(Choice, Share)> {
    let mut choices = Vec::new();
    system.put_back(&states[step]);
    system.choices(&mut choices);
    choices.retain(|choice| choice.id != path[step]);
    let known: Option<Vec<Share>> = choices.iter().map(|choice| exact.share_behind(path.len() - step, choice.id)).collect();
    let shares = known.unwrap_or_else(|| {
        let behind = |choice: &Choice| {
            system.put_back(&states[step]);
            // A choice is offered before it is taken.
            system.choices(&mut Vec::new());
            system.take(*choice);
            system.save()
        };
        let behind: Vec<S::Saved> = choices.iter().map(behind).collect();
        let places: Vec<usize> = (0..behind.len()).collect();
        sampler.shares(system, &behind, "other", &places)
    });
    choices.into_iter().zip(shares).collect()
}

/// Makes random completions.
struct Sampler<'a, F> {
    factory: &'a F,
    options: &'a Options<'a>,
}

/// Of one state.
#[derive(Debug, Default)]
struct Samples {
    failing: AtomicU32,
    made: AtomicU32,
}

impl<S: System, F: Fn() -> S + Sync> Sampler<'_, F> {
    /// Returns the share of each state. Each completion has random numbers of its own, by the state's place, whichever thread makes it.
    fn shares(&self, system: &mut S, states: &[S::Saved], stream: &str, places: &[usize]) -> Vec<Share> {
        let (next, samples) = (AtomicUsize::new(0), states.iter().map(|_| Samples::default()).collect::<Vec<_>>());
        let all = states.len() * self.options.samples as usize;
        let threads = self.options.search.threads.clamp(1, all.max(1));
        std::thread::scope(|scope| {
            let (next, samples) = (&next, &samples);
            let work = move |system: &mut S| {
                while !(self.options.stop)() {
                    let sample = next.fetch_add(1, Ordering::Relaxed);
                    if sample >= all {
                        return;
                    }
                    let state = sample % states.len();
                    system.put_back(&states[state]);
                    let name = format!("{stream} {:x} {:x}", places[state], sample / states.len());
                    let fails = self.complete(system, &mut Draw::new(self.options.seed, &name));
                    samples[state].failing.fetch_add(fails.into(), Ordering::Relaxed);
                    samples[state].made.fetch_add(1, Ordering::Relaxed);
                }
            };
            let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(move || work(&mut (self.factory)()))).collect();
            work(system);
            for helper in helpers {
                helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        samples
            .into_iter()
            .map(|Samples { failing, made }| Share::Sampled { failing: failing.into_inner(), samples: made.into_inner() })
            .collect()
    }

    /// Goes on at random until the run ends; returns whether it fails.
    fn complete(&self, system: &mut S, draw: &mut Draw) -> bool {
        let mut choices = Vec::new();
        for _ in 0..self.options.moves_max {
            system.choices(&mut choices);
            if choices.is_empty() {
                return system.ending().is_failure();
            }
            let place = draw.below(choices.len() as u64);
            system.take(choices[place as usize]);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Verdict;
    use crate::search::prove::random::{Lie, Model, Op};
    use crate::search::prove::{enumerate, prove};
    use crate::search::toy::{Flaw, Size, Toy, kind};

    fn options(states: u64, samples: u32) -> Options<'static> {
        Options { search: prove::Options { states, ..prove::Options::default() }, stop: &|| false, samples, seed: 1, moves_max: 1000 }
    }

    /// A toy in the state behind some choices.
    fn toy_behind(flaw: Flaw, size: Size, path: &[u16]) -> Toy {
        let mut toy = Toy::new(flaw, size);
        let mut choices = Vec::new();
        for id in path {
            toy.choices(&mut choices);
            toy.take(*choices.iter().find(|choice| choice.id == *id).expect("offered"));
        }
        toy
    }

    /// All runs from here: those that fail, and those that pass.
    fn brute_force(toy: &mut Toy) -> (u64, u64) {
        let all = enumerate(toy, 10_000_000, 1000);
        assert!(all.complete);
        let (failing, passing): (Vec<_>, Vec<_>) = all.runs.iter().partition(|(ending, _)| ending.is_failure());
        (failing.iter().map(|(_, runs)| **runs).sum(), passing.iter().map(|(_, runs)| **runs).sum())
    }

    /// What rounding down at each of so many moves comes to.
    const ROUNDING_PPM: u64 = 32;

    /// The probability, in millionths, that a random completion from here fails.
    fn probability(toy: &mut Toy) -> u64 {
        let mut choices = Vec::new();
        toy.choices(&mut choices);
        if choices.is_empty() {
            return if toy.ending().is_failure() { 1_000_000 } else { 0 };
        }
        let here = toy.save();
        let all = choices.iter().map(|choice| {
            toy.put_back(&here);
            toy.take(*choice);
            probability(toy)
        });
        all.sum::<u64>() / choices.len() as u64
    }

    #[test]
    fn shares_are_those_of_brute_force_and_the_doom_is_where_they_become_one() {
        for (flaw, size) in [
            (Flaw::StopSkipped, Size { rounds: 1, noise: 1 }),
            (Flaw::StopSkipped, Size { rounds: 2, noise: 0 }),
            (Flaw::StopUnlocked, Size { rounds: 2, noise: 0 }),
        ] {
            let example = prove(|| Toy::new(flaw, size), &prove::Options::default()).expect("sound").counterexamples.remove(0);
            for threads in [1, 3] {
                let mut options = options(u64::MAX, 0);
                options.search.threads = threads;
                let why = why(|| Toy::new(flaw, size), &example.path, &options).expect("a run");
                assert_eq!((&why.ending, why.steps.len()), (&example.ending, example.path.len()));
                let mut doom = None;
                for (step, told) in why.steps.iter().enumerate() {
                    let (failing, passing) = brute_force(&mut toy_behind(flaw, size, &example.path[..=step]));
                    let Share::Exact { failing: told_failing, passing: told_passing, ppm } = told.after else { panic!("{told:?}") };
                    assert_eq!((told_failing.exact(), told_passing.exact()), (Some(failing.into()), Some(passing.into())));
                    let expected = probability(&mut toy_behind(flaw, size, &example.path[..=step]));
                    assert!(u64::from(ppm).abs_diff(expected) < ROUNDING_PPM, "step {step}: {ppm} instead of {expected}");
                    doom = doom.or((passing == 0).then_some(step));
                    assert_eq!(told.before, if step == 0 { why.start } else { why.steps[step - 1].after });
                }
                let told = why.doom.expect("it fails");
                assert_eq!((Some(told.step), told.exact), (doom, true));
                for (choice, share) in &told.others {
                    let path = [&example.path[..told.step], &[choice.id]].concat();
                    let expected = probability(&mut toy_behind(flaw, size, &path));
                    assert!(
                        share.ppm().is_some_and(|ppm| u64::from(ppm).abs_diff(expected) < ROUNDING_PPM),
                        "{share:?} instead of {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_clear_behind_the_sync_dooms_the_page_and_the_migration_could_have_saved_it() {
        let (flaw, size) = (Flaw::StopSkipped, Size { rounds: 1, noise: 0 });
        // Hint, write, pop, check, stop, sync, clear, and the migration to its end.
        let path = [0, 0, 1, 1, 2, 2, 1, 2, 2, 2, 2, 2, 2];
        let why = why(|| Toy::new(flaw, size), &path, &options(u64::MAX, 0)).expect("a run");
        assert_eq!(why.ending.verdict, Verdict::LostPage);
        let Doom { step, exact, others } = why.doom.expect("it fails");
        assert_eq!((step, exact), (6, true));
        assert_eq!(why.steps[step].happened[0].key.kind, kind::CLEAR);
        let [(other, share)] = &others[..] else { panic!("{others:?}") };
        assert_eq!(other.key.expect("announced").kind, kind::START);
        assert!(share.ppm().is_some_and(|ppm| ppm < 1_000_000));
        assert!(why.steps[..step].iter().all(|step| !step.after.all_fail()) && why.steps[step..].iter().all(|step| step.after.all_fail()));
    }

    #[test]
    fn beyond_the_budget_shares_are_sampled_the_same_on_any_number_of_threads() {
        let (flaw, size) = (Flaw::StopSkipped, Size { rounds: 1, noise: 0 });
        let path = [0, 0, 1, 1, 2, 2, 1, 2, 2, 2, 2, 2, 2];
        let limited = options(5, 2000);
        let alone = why(|| Toy::new(flaw, size), &path, &limited).expect("a run");
        let exact = alone.steps.iter().filter(|step| step.after.is_exact()).count();
        assert!((1..8).contains(&exact) && !alone.start.is_exact(), "{exact}");
        for (step, told) in alone.steps.iter().enumerate().filter(|(_, step)| !step.after.is_exact()) {
            let expected = probability(&mut toy_behind(flaw, size, &path[..=step]));
            let ppm = told.after.ppm().expect("samples were made");
            assert!(u64::from(ppm).abs_diff(expected) < 40_000, "step {step}: {ppm} instead of {expected}");
        }
        let doom = alone.doom.clone().expect("it fails");
        assert_eq!((doom.step, doom.exact), (6, false));
        assert_eq!(doom.others.len(), 1);
        let other = probability(&mut toy_behind(flaw, size, &[0, 0, 1, 1, 2, 2, 2]));
        assert!(u64::from(doom.others[0].1.ppm().expect("samples")).abs_diff(other) < 40_000);
        let mut several = limited;
        several.search.threads = 3;
        let several = why(|| Toy::new(flaw, size), &path, &several).expect("a run");
        assert_eq!((alone.start, alone.steps, alone.doom), (several.start, several.steps, several.doom));
    }

    #[test]
    fn a_state_from_which_runs_may_never_end_is_sampled_and_what_lies_behind_it_is_exact() {
        let programs = vec![vec![Op::Set(0, 2)], vec![Op::EndIf(0, 2), Op::Restart]];
        let model = Model { programs, injections: vec![], lie: Lie::Nothing };
        let why = why(|| model.machine(), &[1, 1, 0, 1], &options(u64::MAX, 50)).expect("a run");
        assert_eq!(why.ending.verdict, Verdict::GuestCrash);
        assert_eq!(why.steps.iter().map(|step| step.after.is_exact()).collect::<Vec<_>>(), [false, false, true, true]);
        assert_eq!((why.start, why.doom), (Share::Sampled { failing: 50, samples: 50 }, None));
        assert_eq!(why.steps[2].after, Share::Exact { failing: Count::ONE, passing: Count::ZERO, ppm: 1_000_000 });
    }

    #[test]
    fn of_a_long_run_what_lies_between_states_that_differ_is_sampled_until_the_change_is_found() {
        let (unknown, change, doom) = (300usize, 123, 250);
        let mut asked = Vec::new();
        let mut sample = |places: &[usize]| {
            asked.extend_from_slice(places);
            let failing = |place: usize| if place >= doom { 100 } else { 10 + 50 * u32::from(place >= change) };
            places.iter().map(|place| Share::Sampled { failing: failing(*place), samples: 100 }).collect()
        };
        let exact = Share::Exact { failing: Count::ONE, passing: Count::ZERO, ppm: 1_000_000 };
        let mut known = vec![None; unknown];
        known.extend([Some(exact); 20]);
        let mut telling = vec![false; unknown + 19];
        telling[77] = true;
        let shares = fill(known, &telling, &mut sample);
        assert_eq!(shares[change - 1].ppm(), Some(100_000));
        assert_eq!(shares[change].ppm(), Some(600_000));
        assert_eq!(first_of_the_doomed(&shares), Some(doom));
        assert!(asked.len() < 40 && asked.contains(&77) && asked.contains(&78), "{asked:?}");
        asked.sort_unstable();
        assert!(asked.windows(2).all(|pair| pair[0] < pair[1]), "each once: {asked:?}");
    }

    #[test]
    fn shares_differ_by_more_than_chance() {
        let share = |failing, samples| Share::Sampled { failing, samples };
        let exact = |ppm| Share::Exact { failing: Count::ONE, passing: Count::ONE, ppm };
        assert!(!share(500, 1000).differs(share(560, 1000)) && share(500, 1000).differs(share(600, 1000)));
        assert!(!share(0, 1000).differs(share(0, 1000)) && !share(1000, 1000).differs(share(1000, 1000)));
        assert!(share(0, 1000).differs(share(25, 1000)));
        assert!(!share(0, 0).differs(share(10, 10)), "nothing was counted");
        assert!(!share(500, 1000).differs(exact(540_000)) && exact(600_000).differs(share(500, 1000)));
        assert!(exact(2).differs(exact(1)) && !exact(2).differs(exact(2)));
    }

    #[test]
    fn a_defect_is_told_from_the_start_of_the_run() {
        let programs = vec![vec![Op::Noise, Op::Read(0)], vec![Op::Set(0, 1)]];
        let model = Model { programs, injections: vec![], lie: Lie::Looks };
        let Err(Error::Unsound(unsound)) = why(|| model.machine(), &[0, 0, 1], &options(u64::MAX, 0)) else { panic!("a lie") };
        assert_eq!((unsound.path.as_slice(), unsound.choice.id, unsound.fault), (&[0, 1][..], 0, prove::Fault::Elsewhere));
    }

    #[test]
    fn a_run_that_passes_or_cannot_be_made_or_is_not_over_is_told_so() {
        let toy = || Toy::new(Flaw::None, Size { rounds: 0, noise: 0 });
        let passing = why(toy, &[0, 0, 2, 2, 2, 2], &options(u64::MAX, 0)).expect("a run");
        assert_eq!((passing.ending.verdict, passing.doom, passing.start.ppm()), (Verdict::Pass, None, Some(0)));
        assert_eq!(why(toy, &[0, 2], &options(u64::MAX, 0)), Err(Error::NotOffered { step: 1, id: 2 }));
        let Err(Error::NotEnded { choices }) = why(toy, &[0], &options(u64::MAX, 0)) else { panic!() };
        assert_eq!(choices.iter().map(|choice| choice.id).collect::<Vec<_>>(), [0, 1]);
        let stopped = Options { search: prove::Options { stop: &|_| true, ..prove::Options::default() }, stop: &|| true, ..options(1, 10) };
        let stopped = why(toy, &[0, 0, 2, 2, 2, 2], &stopped).expect("a run");
        assert_eq!((stopped.start, stopped.start.ppm(), stopped.doom), (Share::Sampled { failing: 0, samples: 0 }, None, None));
    }
}
