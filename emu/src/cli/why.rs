//! `lostpage why FILE`: when a failing run was lost, step by step.

mod table;
mod words;

use super::args::{Format, WhyArguments};
use super::gauge::{Gauge, Interrupt, defect};
use super::prove::{grain, read};
use super::screen::Screen;
use super::stage::Stage;
use super::{Environment, Problem, Status, guarded, refuse};
use crate::outcome::Verdict;
use crate::report::{counted, wrap};
use crate::scenario::Scenario;
use crate::search::prove;
use crate::search::system::Ending;
use crate::search::why::{self, Doom, Error, Share, Why};
use table::{Row, Table};

/// A random completion is given up when it is so many times as long as the run, and some more.
const PATIENCE: usize = 8;
const PATIENCE_MOVES: usize = 1000;

/// Tells when a scenario's run was lost.
pub(super) fn why<S: Stage>(arguments: &WhyArguments, stage: &S, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let (name, scenario) = match read(&arguments.file, &arguments.search, environment.engine) {
        Ok(read) => read,
        Err(problem) => return refuse(&[problem], Format::Human, screen),
    };
    // As in a plain run: the file's own values.
    let scenario = Scenario { vary: Default::default(), ..scenario };
    let interrupt = Interrupt::listen(environment.on_interrupt);
    let memory = environment.memory;
    let inquiry = Inquiry {
        arguments,
        stage,
        threads: arguments.search.jobs.map_or(environment.processors, usize::from),
        gauge: Gauge::new(interrupt, memory, arguments.search.memory.unwrap_or(memory.usual_bytes)),
    };
    let told = guarded(|| inquiry.tell(&name, &scenario));
    inquiry.gauge.clear();
    match told {
        Ok(Ok(text)) => screen.out(&text),
        Ok(Err(Refusal::Input(problem))) => return refuse(&[problem], Format::Human, screen),
        Ok(Err(Refusal::Defect(what))) | Err(what) => {
            screen.err(&defect(&what).text);
            return Status::OwnDefect;
        }
    }
    if inquiry.gauge.interrupted() { Status::Interrupted } else { Status::AsExpected }
}

/// Why nothing is told.
enum Refusal {
    /// There is nothing to tell.
    Input(Problem),
    /// Something of ours is wrong.
    Defect(String),
}

struct Inquiry<'a, S> {
    arguments: &'a WhyArguments,
    stage: &'a S,
    threads: usize,
    gauge: Gauge,
}

/// What may come instead of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orders {
    /// Whatever the file's own orders allow.
    Kept,
    /// Anything: they are let go.
    LetGo,
    /// Whatever they allow, since the run cannot be made without them.
    Needed,
    /// There are none.
    None,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    orders: Orders,
    /// Whether it is not the file's own run.
    replaced: bool,
}

impl<S: Stage> Inquiry<'_, S> {
    fn tell(&self, name: &str, scenario: &Scenario) -> Result<String, Refusal> {
        self.gauge.say("running once");
        let mut path = self.stage.default_path(scenario);
        let run = self.stage.run(scenario);
        let refused = |what: &str| Err(Refusal::Input(Problem::plain(format!("{name}: {what}"))));
        let verdict = run.verdict.name();
        if path.is_empty() {
            let start = scenario.search.start();
            return refused(&format!("the run is over before {start}, where a search would begin; it ends as {verdict}"));
        }
        if !fails(run.verdict) {
            return refused(&format!("the run does not fail, it ends as {verdict}: there is nothing to tell (see lostpage prove)"));
        }
        let (mut traced, mut replaced) = (self.stage.trace(scenario, &path), false);
        if traced.outcome.verdict != run.verdict {
            self.gauge.say("looking for a run that fails alike");
            path = match self.alike(scenario, run.verdict)? {
                Some(path) => path,
                None => {
                    return refused(&format!(
                        "the run ends as {verdict}, but by the times of its moves: no order of them was found that does"
                    ));
                }
            };
            (traced, replaced) = (self.stage.trace(scenario, &path), true);
        }
        let (orders, why) = self.look(scenario, &path)?;
        let texts = words::of_steps(&traced, scenario);
        assert_eq!(texts.len(), why.steps.len(), "the run in full has the steps of the search");
        Ok(self.text(name, scenario, Asked { orders, replaced }, &why, &texts))
    }

    /// Looks for the shortest run that keeps the file's orders and ends with this verdict.
    fn alike(&self, scenario: &Scenario, verdict: Verdict) -> Result<Option<Vec<u16>>, Refusal> {
        // A search that is not complete finds what its only thread comes upon.
        let options = prove::Options { threads: 1, stop: &|covered| self.gauge.ends(covered), ..self.search() };
        let proof = prove::prove(|| self.stage.open_uncounted(scenario), &options);
        let proof = proof.map_err(|unsound| Refusal::Defect(unsound.to_string()))?;
        let alike = proof.counterexamples.into_iter().filter(|example| example.ending.verdict == verdict);
        Ok(alike.map(|example| example.path).min_by_key(Vec::len))
    }

    /// Looks at the run where the file's orders do not bind what else may come; or where they do, if they have to.
    fn look(&self, bound: &Scenario, path: &[u16]) -> Result<(Orders, Why), Refusal> {
        let refusal = |error: Error| Refusal::Defect(error.to_string());
        if bound.orders.is_empty() || self.arguments.keep_orders {
            let orders = if bound.orders.is_empty() { Orders::None } else { Orders::Kept };
            return Ok((orders, self.look_at(bound, path).map_err(refusal)?));
        }
        let free = Scenario { orders: Vec::new(), ..bound.clone() };
        match self.look_at(&free, path) {
            Ok(why) => Ok((Orders::LetGo, why)),
            Err(Error::NotOffered { .. } | Error::NotEnded { .. }) => Ok((Orders::Needed, self.look_at(bound, path).map_err(refusal)?)),
            Err(error) => Err(refusal(error)),
        }
    }

    fn search(&self) -> prove::Options<'_> {
        prove::Options {
            threads: self.threads,
            memory_bytes: self.gauge.limit_bytes(),
            saved_bytes: self.stage.saved_bytes(),
            states: self.arguments.states,
            ..prove::Options::default()
        }
    }

    fn look_at(&self, scenario: &Scenario, path: &[u16]) -> Result<Why, Error> {
        let moves_max = path.len().saturating_mul(PATIENCE).saturating_add(PATIENCE_MOVES);
        let options = why::Options {
            search: prove::Options { stop: &|covered| self.gauge.ends(covered), ..self.search() },
            stop: &|| self.gauge.interrupted(),
            samples: self.arguments.samples,
            seed: self.arguments.seed,
            moves_max: u32::try_from(moves_max).unwrap_or(u32::MAX),
        };
        why::why(|| self.stage.open_uncounted(scenario), path, &options)
    }

    fn text(&self, name: &str, scenario: &Scenario, asked: Asked, why: &Why, texts: &[words::StepText]) -> String {
        let name_of = |actor: u16| self.stage.actor_name(scenario, actor);
        let doom = why.doom.as_ref().map(|doom| doom.step);
        let row = |(step, (told, text)): (usize, (&why::Step, &words::StepText))| Row {
            share: told.after,
            actor: name_of(told.choice.actor),
            text: text.line.clone(),
            doom: doom == Some(step),
            stays: text.named && doom.is_none_or(|doom| step <= doom),
        };
        let rows: Vec<Row> = why.steps.iter().zip(texts).enumerate().map(row).collect();
        let steps = format!("{}, grain {}", counted(why.steps.len() as u64, "step"), grain(scenario));
        let replaced = if asked.replaced {
            "The file's own run fails by the times of its moves; in its place, the shortest run that keeps the file's orders and fails alike."
        } else {
            ""
        };
        let head = [format!("{name}: {}", ending(why)), steps, replaced.to_string(), self.legend(asked.orders, why)];
        let mut out: String = head.iter().flat_map(|text| wrap(text, table::WIDTH)).map(|line| line + "\n").collect();
        out.push('\n');
        out += &Table { start: why.start, rows: &rows }.text();
        out += "\n";
        out += &conclusion(why, texts, &name_of);
        out
    }

    /// Says what the shares are of, and how far they are exact.
    fn legend(&self, orders: Orders, why: &Why) -> String {
        let of = match orders {
            Orders::Kept => "that keep the file's orders",
            Orders::LetGo => "in any order (the file's own orders are let go)",
            Orders::Needed => "that keep the file's orders (without them this run cannot be made)",
            Orders::None => "in any order",
        };
        let shares = || std::iter::once(why.start).chain(why.steps.iter().map(|step| step.after));
        let sampled = shares().filter(|share| !share.is_exact()).count();
        let how = match sampled {
            0 => "Exact: all were counted.".to_string(),
            sampled => {
                let samples = shares().map(samples_of).max().unwrap_or(0);
                let from = if sampled < shares().count() {
                    format!("Exact from step {sampled} on; ~ is sampled")
                } else {
                    "~: sampled".to_string()
                };
                format!("{from}, {samples} random continuations each, seed {}.", self.arguments.seed)
            }
        };
        format!("fail: which part of the continuations {of} fail, if each choice is as likely. {how}")
    }
}

fn fails(verdict: Verdict) -> bool {
    Ending { verdict, rule: None, blame: None, cause: None }.is_failure()
}

fn samples_of(share: Share) -> u32 {
    match share {
        Share::Exact { .. } => 0,
        Share::Sampled { samples, .. } => samples,
    }
}

fn ending(why: &Why) -> String {
    let blame = why.ending.blame.map(|blame| format!("blame {}", blame.name()));
    let parts =
        [Some(why.ending.verdict.name().to_string()), why.ending.rule.map(str::to_string), blame, why.ending.cause.map(str::to_string)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Says which step doomed the run, and what could have come in its place.
fn conclusion(why: &Why, texts: &[words::StepText], name_of: &dyn Fn(u16) -> String) -> String {
    let Some(Doom { step, exact, others }) = &why.doom else {
        return match why.start.all_fail() {
            true if why.start.is_exact() => "doom: none of the steps: every run fails, in whatever order\n".to_string(),
            true => "doom: none of the steps: all random runs from the start on fail\n".to_string(),
            false => "doom: not told, nothing was counted\n".to_string(),
        };
    };
    let sure = match why.steps[*step].after {
        Share::Exact { failing, .. } if *exact => format!("from here on every run fails ({failing} counted)"),
        Share::Exact { .. } | Share::Sampled { .. } => {
            "from here on no random continuation passes; to be sure takes more --states".to_string()
        }
    };
    let actor = name_of(why.steps[*step].choice.actor);
    let mut out = format!("doom: step {}, {actor} {}\n      {sure}\n", step + 1, texts[*step].line);
    if others.is_empty() {
        out += "      nobody else could have moved\n";
    }
    for (choice, share) in others {
        let what = choice.key.map_or("a move that announces nothing".to_string(), words::key);
        out += &format!("      instead {} {what}: {} fail\n", name_of(choice.actor), table::share_text(*share));
    }
    out
}

#[cfg(test)]
mod tests;
