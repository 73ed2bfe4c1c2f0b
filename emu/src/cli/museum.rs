//! `lostpage museum`: which scenarios notice which fault, and how many schedules each strategy needs to come upon one that loses pages.
//!
//! Standard output depends on the scenarios, the faults, the seed and the number of schedules alone, never on threads or time.

mod line;
#[cfg(test)]
mod tests;
mod text;

pub(super) use line::Line;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use host::fault::{Effect, Fault, FaultSet};

use super::args::{Format, MuseumArguments};
use super::files::find;
use super::guard::guarded;
use super::pool::{self, End};
use super::run::progress;
use super::screen::Screen;
use super::{Engine, Environment, Problem, Status, load, refuse};
use crate::museum::{BLOCK_LEN, Hunt, Hunted, Matrix, Neutral, Row, STRATEGIES, UNFOUND, is_of_merged_host, is_shown};
use crate::scenario::Scenario;
use crate::search::Subject;
use crate::search::strategy::Strategy;

/// Where searches start if nobody says.
pub(super) const NEUTRAL: &[&str] = &["scenarios/search/neutral.toml", "scenarios/search/neutral"];

/// Schedules for each strategy and fault if nobody says.
pub(super) const SCHEDULES: u64 = 1024;

/// What all searches together may keep of what is known of states, at most, bytes.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// What was found out.
struct Museum {
    faults: Vec<Fault>,
    matrix: Matrix,
    /// `None`: left out.
    searches: Option<Searches>,
    seed: u64,
}

/// What searches have found.
struct Searches {
    /// Names of the neutral scenarios.
    neutrals: Vec<String>,
    /// Schedules of a search that finds nothing.
    schedules: u64,
    /// What is found without a fault.
    baseline: Found,
    /// What is found with each that the search without a fault asked for.
    faults: Vec<(Fault, Found)>,
    /// The other faults of the host: no neutral scenario comes where they are.
    unreached: Vec<Fault>,
}

/// What each strategy has found; or what our panic said.
type Found = Vec<(Strategy, Result<Hunted, String>)>;

/// A scenario to be run with each fault.
#[derive(Debug)]
struct Exhibit {
    name: String,
    scenario: Scenario,
    faults: Vec<Fault>,
    engine: Engine,
}

/// Stops what is being done.
type Stop = Box<dyn FnMut() + Send>;

/// One handler of the user's wish to stop, which hands it to whatever is being done.
#[derive(Clone, Default)]
struct Relay {
    asked: Arc<AtomicBool>,
    stop: Arc<Mutex<Option<Stop>>>,
}

impl Relay {
    fn listen(environment: &mut Environment<'_>) -> Self {
        let relay = Self::default();
        let heard = relay.clone();
        (environment.on_interrupt)(Box::new(move || {
            heard.asked.store(true, Ordering::SeqCst);
            heard.hand_over();
        }));
        relay
    }

    /// From now on the wish goes there; at once, if it was uttered before.
    fn lead_to(&self, stop: Stop) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        if self.asked.load(Ordering::SeqCst) {
            self.hand_over();
        }
    }

    fn hand_over(&self) {
        if let Some(stop) = self.stop.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            stop();
        }
    }
}

/// Shows the museum.
pub(super) fn museum<S: Subject + Copy + Send + 'static>(
    subject: &S,
    arguments: &MuseumArguments,
    environment: &mut Environment<'_>,
    screen: &mut Screen<'_>,
) -> Status {
    let (exhibits, neutrals) = match read(arguments, environment.engine) {
        Ok(read) => read,
        Err(problems) => return refuse(&problems, arguments.format, screen),
    };
    let curator = Curator {
        subject: *subject,
        arguments,
        threads: arguments.jobs.map_or(environment.processors, usize::from),
        memory_bytes: MEMORY_BYTES_MAX.min(environment.memory.usual_bytes),
        relay: Relay::listen(environment),
    };
    let Some(matrix) = curator.matrix(exhibits) else { return interrupted(screen) };
    let searches = match arguments.no_search {
        true => None,
        false => match curator.searches(neutrals) {
            Some(searches) => Some(searches),
            None => return interrupted(screen),
        },
    };
    let museum = Museum { faults: curator.faults(), matrix, searches, seed: arguments.seed };
    museum.tell(arguments.format, screen);
    museum.status()
}

/// Half a museum would have holes that are none.
fn interrupted(screen: &mut Screen<'_>) -> Status {
    screen.err("stopped; nothing is told of what is not complete\n");
    Status::Interrupted
}

type Read = (Vec<Exhibit>, Vec<(String, Scenario)>);

/// Reads all scenarios; all problems come at once.
fn read(arguments: &MuseumArguments, engine: Engine) -> Result<Read, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut all = |paths: &[_]| {
        let found = find(paths);
        problems.extend(found.problems.into_iter().map(Problem::plain));
        let mut scenarios = Vec::new();
        for case in found.cases {
            match load(&case, engine) {
                Ok(scenario) => scenarios.push((case.name, scenario)),
                Err(problem) => problems.push(problem),
            }
        }
        scenarios
    };
    let scenarios = all(&arguments.paths);
    let neutrals = if arguments.no_search { Vec::new() } else { all(&arguments.neutrals) };
    let faults = faults(arguments);
    let exhibit = |(name, scenario): (String, _)| {
        let shown = |fault: &Fault| arguments.faults.contains(fault) || is_shown(&name, &scenario, *fault);
        let faults = faults.iter().copied().filter(shown).collect();
        Exhibit { name, scenario, faults, engine }
    };
    if problems.is_empty() { Ok((scenarios.into_iter().map(exhibit).collect(), neutrals)) } else { Err(problems) }
}

/// Returns the faults to look at, in the order of the registry.
fn faults(arguments: &MuseumArguments) -> Vec<Fault> {
    let asked = |fault: &Fault| arguments.faults.is_empty() || arguments.faults.contains(fault);
    Fault::ALL.iter().copied().filter(asked).collect()
}

impl Exhibit {
    fn row(&self) -> (String, Row) {
        let row = (self.engine.row)(&self.scenario, &self.faults);
        (self.name.clone(), row)
    }
}

/// Who does all the work.
struct Curator<'a, S> {
    subject: S,
    arguments: &'a MuseumArguments,
    threads: usize,
    memory_bytes: u64,
    relay: Relay,
}

impl<S: Subject + Copy + Send + 'static> Curator<'_, S> {
    fn faults(&self) -> Vec<Fault> {
        faults(self.arguments)
    }

    /// Does jobs on all threads. `None`: the user asked to stop.
    fn work<J: Send + Sync + 'static, T: Send + 'static>(&self, jobs: Vec<J>, one: fn(&J) -> T) -> Option<Vec<T>> {
        let bar = progress(jobs.len());
        let mut results = Vec::new();
        let end = pool::run(jobs, self.threads, one, &mut |stop| self.relay.lead_to(stop), |result| {
            results.push(result);
            bar.inc(1);
        });
        bar.finish_and_clear();
        match end {
            End::Done => Some(results),
            End::Interrupted(_) => None,
        }
    }

    fn matrix(&self, exhibits: Vec<Exhibit>) -> Option<Matrix> {
        Some(Matrix { rows: self.work(exhibits, Exhibit::row)? })
    }

    /// Searches without a fault, then with each of the host's that loses pages or was named, from the scenarios that asked for it. Time stands still in a
    /// search, so none is about stalls.
    fn searches(&self, neutrals: Vec<(String, Scenario)>) -> Option<Searches> {
        let (names, scenarios): (Vec<String>, Vec<Scenario>) = neutrals.into_iter().unzip();
        let mut neutrals: Vec<Neutral> = scenarios.into_iter().map(Neutral::new).collect();
        let baseline = self.hunt(&neutrals, &[None])?.remove(0);
        for first in baseline.iter().filter_map(|(_, hunted)| hunted.as_ref().ok()).flat_map(|hunted| &hunted.found) {
            neutrals[first.neutral].known.insert(first.signature.clone());
        }
        let asks = |neutral: usize| {
            let mut asked = Vec::new();
            for hunted in baseline.iter().filter_map(|(_, hunted)| hunted.as_ref().ok()) {
                asked.resize(hunted.asked[neutral].len(), FaultSet::default());
                asked.iter_mut().zip(&hunted.asked[neutral]).for_each(|(all, more)| all.add(*more));
            }
            asked
        };
        for (at, neutral) in neutrals.iter_mut().enumerate() {
            neutral.asks = Some(asks(at));
        }
        let is_asked = |fault: Fault| neutrals.iter().any(|neutral| neutral.asks.iter().flatten().any(|asks| asks.contains(fault)));
        let wanted =
            |fault: &Fault| fault.effect() == Effect::Loss || self.arguments.faults.contains(fault) && fault.effect() != Effect::Stall;
        let of_host = self.faults().into_iter().filter(|fault| is_of_merged_host(*fault) && wanted(fault));
        let (faults, unreached): (Vec<Fault>, Vec<Fault>) = of_host.partition(|fault| is_asked(*fault));
        let found = self.hunt(&neutrals, &faults.iter().copied().map(Some).collect::<Vec<_>>())?;
        let schedules = self.arguments.schedules.next_multiple_of(BLOCK_LEN.into());
        Some(Searches { neutrals: names, schedules, baseline, faults: faults.into_iter().zip(found).collect(), unreached })
    }

    /// Searches by each strategy with each of these faults.
    fn hunt(&self, neutrals: &[Neutral], faults: &[Option<Fault>]) -> Option<Vec<Found>> {
        let neutrals = Arc::new(neutrals.to_vec());
        let hunt = |fault: Option<Fault>, strategy| Hunt {
            subject: self.subject,
            neutrals: Arc::clone(&neutrals),
            fault,
            strategy,
            schedules: self.arguments.schedules,
            seed: self.arguments.seed,
            memory_bytes: self.memory_bytes / self.threads as u64,
        };
        let jobs: Vec<Hunt<S>> = faults.iter().flat_map(|fault| STRATEGIES.map(|strategy| hunt(*fault, strategy))).collect();
        let hunted = self.work(jobs, |hunt| guarded(|| hunt.run()))?;
        Some(hunted.chunks(STRATEGIES.len()).map(|of_fault| STRATEGIES.into_iter().zip(of_fault.iter().cloned()).collect()).collect())
    }
}

impl Museum {
    fn tell(&self, format: Format, screen: &mut Screen<'_>) {
        match format {
            Format::Human => screen.out(&text::museum(self)),
            Format::Json => line::lines(self).iter().for_each(|line| screen.out(&line.to_json())),
            Format::Github => {
                screen.out(&text::museum(self));
                screen.out(&text::annotations(self));
            }
        }
        for (what, said) in self.defects() {
            screen.err(&format!("error: {what}: a defect of lostpage itself: {said}\n"));
        }
    }

    /// Returns the faults that no scenario notices.
    fn uncaught(&self) -> Vec<Fault> {
        let caught = self.matrix.caught();
        self.faults.iter().copied().filter(|fault| !caught.contains(fault)).collect()
    }

    /// Returns those that are noticed, but never as what they are.
    fn never_as_such(&self) -> Vec<Fault> {
        let caught = self.matrix.caught();
        caught.into_iter().filter(|fault| self.matrix.caught_as_such_by(*fault).is_empty()).collect()
    }

    /// Returns what our panics said, and of what.
    fn defects(&self) -> Vec<(String, &str)> {
        let with = |fault: Option<Fault>| fault.map_or(String::new(), |fault| format!(" with {}", fault.name()));
        let mut all = Vec::new();
        for (name, row) in &self.matrix.rows {
            all.extend(row.defects().map(|(fault, said)| (format!("{name}{}", with(fault)), said)));
        }
        if let Some(searches) = &self.searches {
            let baseline = std::iter::once((None, &searches.baseline));
            for (fault, found) in baseline.chain(searches.faults.iter().map(|(fault, found)| (Some(*fault), found))) {
                let failed = found.iter().filter_map(|(strategy, hunted)| Some((strategy, hunted.as_ref().err()?)));
                all.extend(failed.map(|(strategy, said)| (format!("the search by {strategy}{}", with(fault)), said.as_str())));
            }
        }
        all
    }

    fn status(&self) -> Status {
        if !self.defects().is_empty() {
            Status::OwnDefect
        } else if !self.uncaught().is_empty()
            || !self.matrix.unexpected().is_empty()
            || self.searches.as_ref().is_some_and(|searches| !searches.missed().is_empty())
        {
            Status::NotAsExpected
        } else {
            Status::AsExpected
        }
    }
}

impl Searches {
    /// Returns the faults of which no search has found anything.
    fn unfound(&self) -> Vec<Fault> {
        self.which(|_, hunted| hunted.first().is_some())
    }

    /// Returns the faults that lose pages and should have been found: a search that is shorter than usual says nothing.
    fn missed(&self) -> Vec<Fault> {
        let known = |fault: &Fault| UNFOUND.iter().any(|(other, _)| other == fault);
        let is_whole = self.schedules >= SCHEDULES;
        self.unfound().into_iter().filter(|fault| is_whole && fault.effect() == Effect::Loss && !known(fault)).collect()
    }

    /// Returns those that were found, but never as what they are.
    fn never_as_such(&self) -> Vec<Fault> {
        let unfound = self.unfound();
        let never = self.which(|fault, hunted| hunted.first_as_such(fault).is_some());
        never.into_iter().filter(|fault| !unfound.contains(fault)).collect()
    }

    /// Returns the faults for which this holds of no search.
    fn which(&self, holds: impl Fn(Fault, &Hunted) -> bool) -> Vec<Fault> {
        let none =
            |(fault, found): &&(Fault, Found)| !found.iter().any(|(_, hunted)| hunted.as_ref().is_ok_and(|hunted| holds(*fault, hunted)));
        self.faults.iter().filter(none).map(|(fault, _)| *fault).collect()
    }
}
