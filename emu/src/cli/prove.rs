//! `lostpage prove FILE`: all orders that a scenario leaves open, in each setting that it leaves open.
//!
//! What is printed of a search that came to its end depends on the scenario alone; how long it took is told on a terminal only.

mod text;

pub(super) use text::grain;

use std::path::Path;

use super::args::{ProveArguments, SearchArguments};
use super::explore::settings;
use super::finding::{self, Finding, NotKept};
use super::gauge::{Gauge, Interrupt, defect};
use super::screen::Screen;
use super::stage::Stage;
use super::{Engine, Environment, Format, Problem, Status, files, guarded, load, refuse};
use crate::scenario::Scenario;
use crate::scenario::model::Found;
use crate::search::prove::{self, Answer, Count, Counterexample, Interleavings, Proof};
use text::{Ended, Refutation, Told};

/// Searches a scenario's orders.
pub(super) fn prove<S: Stage>(arguments: &ProveArguments, stage: &S, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let (name, mut scenario) = match read(&arguments.file, &arguments.search, environment.engine) {
        Ok(read) => read,
        Err(problem) => return refuse(&[problem], Format::Human, screen),
    };
    scenario.search.grain = arguments.grain.unwrap_or(scenario.search.grain);
    let interrupt = Interrupt::listen(environment.on_interrupt);
    let memory = environment.memory;
    let prover = Prover {
        arguments,
        stage,
        threads: arguments.search.jobs.map_or(environment.processors, usize::from),
        gauge: Gauge::new(interrupt, memory, arguments.search.memory.unwrap_or(memory.usual_bytes)),
        name,
    };
    prover.all(&scenario, screen)
}

/// Reads the one scenario that a command is about. Returns it with its name, and with faults from the command line as its own.
pub(super) fn read(path: &Path, arguments: &SearchArguments, engine: Engine) -> Result<(String, Scenario), Problem> {
    if path.is_dir() {
        return Err(Problem::plain(format!("{}: a folder, expected a scenario file", path.display())));
    }
    let found = files::find(&[path.to_path_buf()]);
    if let Some(problem) = found.problems.into_iter().next() {
        return Err(Problem::plain(problem));
    }
    let case = found.cases.into_iter().next().expect("a file is one case");
    let mut scenario = load(&case, engine)?;
    scenario.add_faults(&arguments.faults);
    Ok((case.name, scenario))
}

struct Prover<'a, S> {
    arguments: &'a ProveArguments,
    stage: &'a S,
    threads: usize,
    gauge: Gauge,
    /// Of the scenario.
    name: String,
}

impl<S: Stage> Prover<'_, S> {
    /// Searches each setting, and says what all of them show together.
    fn all(mut self, scenario: &Scenario, screen: &mut Screen<'_>) -> Status {
        let variants = variants(scenario);
        let mut answers = Vec::new();
        let mut status = Status::AsExpected;
        for (number, variant) in variants.iter().enumerate() {
            let of = if variants.len() > 1 { format!("{} of {}", number + 1, variants.len()) } else { String::new() };
            self.gauge.begin(of);
            let settings = settings(scenario, variant);
            match guarded(|| self.one(variant, &settings, screen)) {
                Ok(Ok((answer, one))) => {
                    status = status.max(one);
                    answers.push(answer);
                }
                Ok(Err(problem)) => {
                    screen.err(&problem.text);
                    status = Status::OwnDefect;
                }
                Err(said) => {
                    screen.err(&defect(&said).text);
                    status = Status::OwnDefect;
                }
            }
            if self.gauge.interrupted() {
                status = status.max(Status::Interrupted);
                break;
            }
        }
        if variants.len() > 1 {
            screen.out(&text::summary(&answers, variants.len()));
        }
        status
    }

    /// Searches one setting.
    fn one(&self, scenario: &Scenario, settings: &str, screen: &mut Screen<'_>) -> Result<(Answer, Status), Problem> {
        let proof = prove::prove(
            || self.stage.open_uncounted(scenario),
            &prove::Options {
                threads: self.threads,
                memory_bytes: self.gauge.limit_bytes(),
                saved_bytes: self.stage.saved_bytes(),
                stop_at_first: self.arguments.first,
                stop: &|covered| self.gauge.ends(covered),
                ..prove::Options::default()
            },
        );
        let proof = proof.map_err(|unsound| defect(&unsound.to_string()))?;
        let effort = self.gauge.effort(proof.states, proof.executed, proof.checked, proof.memory_bytes);
        let free = proof.interleavings != Interleavings::Exactly(Count::ONE);
        let refutations = if free { self.refutations(scenario, &proof) } else { Vec::new() };
        self.gauge.clear();
        let told = Told { name: &self.name, settings, scenario, proof: &proof, ended: self.ended(&proof), refutations: &refutations };
        screen.out(&told.lines());
        if !free {
            let outcome = self.stage.run(scenario);
            screen.out(&text::no_freedom(scenario, &proof, &outcome));
        }
        effort.into_iter().for_each(|effort| screen.err(&effort));
        let worse = refutations.iter().filter_map(|refutation| refutation.kept.as_ref().err()).map(of_problem).max();
        Ok((proof.answer, of_answer(proof.answer).max(worse.unwrap_or(Status::AsExpected))))
    }

    fn ended(&self, proof: &Proof) -> Ended {
        match proof.complete {
            true => Ended::Complete,
            false if self.gauge.interrupted() => Ended::Interrupted,
            false if self.arguments.first && proof.answer == Answer::Refuted => Ended::First,
            false => Ended::Memory(self.gauge.limit_bytes()),
        }
    }

    /// Makes a scenario of each way to fail.
    fn refutations<'p>(&self, scenario: &Scenario, proof: &'p Proof) -> Vec<Refutation<'p>> {
        let refutation = |example: &'p Counterexample| {
            self.gauge.say(&format!("shrinking {}", example.ending.verdict.name()));
            Refutation { example, kept: self.keep(scenario, example, proof.states) }
        };
        proof.counterexamples.iter().map(refutation).collect()
    }

    fn keep(&self, base: &Scenario, Counterexample { path, .. }: &Counterexample, states: u64) -> Result<Finding, NotKept> {
        let provenance =
            Found { scenario: self.name.clone(), seed: text::schedule(path), strategy: "prove".to_string(), schedules: states };
        finding::keep(self.stage, base, path, provenance, &self.arguments.found)
    }
}

/// Returns the scenario in each setting that it leaves open, each once.
fn variants(scenario: &Scenario) -> Vec<Scenario> {
    let mut variants: Vec<Scenario> = Vec::new();
    for index in 0..scenario.variants_count() {
        let variant = scenario.variant(index);
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    variants
}

fn of_answer(answer: Answer) -> Status {
    match answer {
        Answer::Proved => Status::AsExpected,
        Answer::Refuted => Status::NotAsExpected,
        Answer::OutOfBudget => Status::OutOfBudget,
    }
}

/// A refutation stands without its file; but what could not be written, or is not reproduced, has to be told.
fn of_problem(problem: &NotKept) -> Status {
    match problem {
        NotKept::Disk(_) => Status::BadInput,
        NotKept::NotReproduced(_) if problem.is_own_defect() => Status::OwnDefect,
        NotKept::NotReproduced(_) => Status::NotAsExpected,
    }
}

#[cfg(test)]
mod tests;
