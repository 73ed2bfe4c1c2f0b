//! What the doctor says: for people, as JSON, as annotations.

use anstyle::AnsiColor;
use host::event::Stamped;
use schemars::JsonSchema;
use serde::Serialize;

use super::Examined;
use crate::cli::args::Format;
use crate::cli::judge::shell_word;
use crate::cli::show::painted;
use crate::report::{WIDTH, counted, github, micros, words, wrap};
use crate::world::doctor::{Divergence, Way, What};

/// Columns of a value that is told; the rest is cut off.
const VALUE_CHARS_MAX: usize = 600;

/// How many scenarios came out how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub(in crate::cli) struct Totals {
    /// Scenarios that were to be examined.
    pub(super) scenarios: usize,
    /// Whose runs are the same.
    pub(super) agree: usize,
    /// Whose runs differ.
    pub(super) differ: usize,
    /// Whose first run ended in a panic of the emulator.
    pub(super) failed: usize,
    /// Events of runs by the clock that were compared.
    pub(super) events: usize,
    /// Moves of searched schedules that were compared.
    pub(super) moves: usize,
    /// Whether the user stopped it before all were examined.
    pub(super) interrupted: bool,
}

/// A line of `--format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(in crate::cli) enum Line {
    /// One scenario.
    Scenario {
        /// Its path, as given or found.
        path: String,
        /// Whether both runs of each kind are the same.
        agrees: bool,
        /// Events of the run by the clock.
        events: usize,
        /// Moves of the searched schedule.
        moves: usize,
        /// The first difference of each kind of run.
        divergences: Vec<DivergenceLine>,
        /// What a panic of the emulator said, if the first run already ended in one.
        defect: Option<String>,
        /// The command that examines it again.
        replay: String,
    },
    /// The last line.
    Summary(Totals),
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(in crate::cli) struct DivergenceLine {
    /// Which runs: `run` by the clock, `search` of a random schedule.
    way: String,
    /// Events, or moves, of the second run before it was forked.
    forked_at: usize,
    /// Place in the trace, or number of the move.
    at: usize,
    /// What differs: `event`, or what it is; `panic`.
    what: String,
    /// The first run's, in words; null where it has none.
    first: Option<String>,
    /// The second run's, in words; null where it has none.
    second: Option<String>,
    /// The last events that both have.
    before: Vec<String>,
    /// What it says of lostpage, and what to do.
    to_do: String,
}

impl Line {
    fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always become JSON");
        line.push('\n');
        line
    }
}

impl Totals {
    /// Counts a scenario.
    pub(super) fn add(&mut self, examined: &Examined) {
        match &examined.result {
            Ok(examination) => {
                let agrees = examination.divergences.is_empty();
                self.agree += usize::from(agrees);
                self.differ += usize::from(!agrees);
                self.events += examination.events;
                self.moves += examination.moves;
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// Returns what is printed of a scenario: for people nothing, if all is well.
pub(super) fn scenario(examined: &Examined, format: Format) -> String {
    match format {
        Format::Human => human(examined),
        Format::Json => json(examined).to_json(),
        Format::Github => {
            let text = human(examined);
            if text.is_empty() {
                return text;
            }
            let plain = anstream::adapter::strip_str(&text).to_string();
            let file = examined.case.path.to_string_lossy();
            text + &github::error(Some(&file), "does not run the same twice", plain.trim_end())
        }
    }
}

fn replay(examined: &Examined) -> String {
    format!("lostpage doctor {} --seed {}", shell_word(&examined.case.path.to_string_lossy()), examined.seed)
}

fn human(examined: &Examined) -> String {
    let path = examined.case.path.display();
    let mut lines = Vec::new();
    let differs = |lines: &mut Vec<String>, what: &str| lines.push(format!("{}  {path}: {what}", painted(AnsiColor::Red, "DIFFERS")));
    match &examined.result {
        Ok(examination) => {
            for divergence in &examination.divergences {
                differs(&mut lines, &headline(divergence));
                lines.extend(sides(divergence));
                lines.extend(indented(&to_do(divergence)));
            }
        }
        Err(said) => {
            lines.push(format!("{}   {path}", painted(AnsiColor::Red, "FAILED")));
            lines.extend(indented(&format!("defect of this tool, not of what it tests: {said}")));
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    lines.extend(indented(&format!("replay: {}", replay(examined))));
    lines.push(String::new());
    lines.join("\n")
}

fn indented(text: &str) -> impl Iterator<Item = String> {
    wrap(text, WIDTH - 4).into_iter().map(|line| format!("    {line}"))
}

fn headline(divergence: &Divergence) -> String {
    let Divergence { way, forked_at, at, before: _, what } = divergence;
    let (kind, unit) = match way {
        Way::Run => ("a run by the clock", "event"),
        Way::Search => ("a searched schedule", "move"),
    };
    let what = match what {
        What::Event { .. } | What::Value { .. } => format!("differs at {unit} {at}"),
        What::Panic { .. } => "ends in a panic the second time".to_owned(),
    };
    format!("{kind} {what}; the second was forked behind {}", counted(*forked_at as u64, unit))
}

/// Returns the last common events, and what each side has then.
fn sides(divergence: &Divergence) -> Vec<String> {
    let mut lines: Vec<String> =
        divergence.before.iter().map(|(place, stamped)| format!("      both    {}", event(*place, stamped))).collect();
    match &divergence.what {
        What::Event { first, second } => {
            let side =
                |stamped: &Option<Stamped>| stamped.as_ref().map_or("(nothing more)".to_owned(), |stamped| event(divergence.at, stamped));
            lines.push(format!("      first   {}", side(first)));
            lines.push(format!("      second  {}", side(second)));
        }
        What::Value { what, first, second } => {
            lines.push(format!("      {what}:"));
            lines.push(format!("      first   {}", cut(first)));
            lines.push(format!("      second  {}", cut(second)));
        }
        What::Panic { said } => lines.push(format!("      second  panic: {}", cut(said))),
    }
    lines
}

fn event(place: usize, Stamped { at_ns, actor, event }: &Stamped) -> String {
    let (actor, kind) = (actor.to_string(), event.kind().name());
    let line = format!("{place:>7}  {:>12} us  {actor:<10}  {kind:<20}  {}", micros(*at_ns), words::particulars(event));
    line.trim_end().to_string()
}

fn cut(value: &str) -> String {
    let mut kept: String = value.chars().take(VALUE_CHARS_MAX).collect();
    if kept.len() < value.len() {
        kept.push_str("...");
    }
    kept
}

/// Returns what a difference says of lostpage, and what to do.
fn to_do(divergence: &Divergence) -> String {
    let actor = match &divergence.what {
        What::Event { first, second } => first.as_ref().or(second.as_ref()).map(|stamped| stamped.actor.to_string()),
        What::Value { .. } | What::Panic { .. } => None,
    };
    let suspect = match (divergence.way, divergence.is_before_fork()) {
        (Way::Run, true) => {
            "Nothing was forked by then: something gets into a run that is not its scenario, such as an address, the order of a map, or what the \
             engines' last user left behind."
                .to_owned()
        }
        (Way::Run, false) => {
            let of = actor.map_or("what the world keeps".to_owned(), |actor| format!("what {actor} goes by, and keeps"));
            format!("A fork leaves something out (emu/src/world/fork.rs), or a new engine is not like one in use: look at {of}.")
        }
        (Way::Search, true) => "The system was put back to its first state, and something of its later life stayed \
                                (emu/src/world/search/mod.rs, put_back)."
            .to_owned(),
        (Way::Search, false) => {
            let of = actor.map_or("what the system keeps".to_owned(), |actor| format!("what {actor} goes by, and keeps"));
            format!("A saved state leaves something out (emu/src/world/search/mod.rs, save), or its hash takes in what is another system's own: look at {of}.")
        }
    };
    let distrust = match divergence.way {
        Way::Run => "Its verdict is not to be trusted until that is settled.",
        Way::Search => "What explore, prove and why say of it is not to be trusted until that is settled.",
    };
    format!(
        "This is a defect of lostpage, not of what the scenario tests. {suspect} {distrust} Please report it, with the file and these lines."
    )
}

fn json(examined: &Examined) -> Line {
    let found = examined.result.as_ref().ok();
    Line::Scenario {
        path: examined.case.path.to_string_lossy().into_owned(),
        agrees: found.is_some_and(|examination| examination.divergences.is_empty()),
        events: found.map_or(0, |examination| examination.events),
        moves: found.map_or(0, |examination| examination.moves),
        divergences: found.map(|examination| examination.divergences.iter().map(DivergenceLine::of).collect()).unwrap_or_default(),
        defect: examined.result.as_ref().err().cloned(),
        replay: replay(examined),
    }
}

impl DivergenceLine {
    fn of(divergence: &Divergence) -> Self {
        let Divergence { way, forked_at, at, before, what } = divergence;
        let side = |stamped: &Option<Stamped>| stamped.as_ref().map(|stamped| event(*at, stamped).trim_start().to_owned());
        let (what, first, second) = match what {
            What::Event { first, second } => ("event".to_owned(), side(first), side(second)),
            What::Value { what, first, second } => (what.clone(), Some(first.clone()), Some(second.clone())),
            What::Panic { said } => ("panic".to_owned(), None, Some(said.clone())),
        };
        let way = match way {
            Way::Run => "run",
            Way::Search => "search",
        };
        let before = before.iter().map(|(place, stamped)| event(*place, stamped).trim_start().to_owned()).collect();
        Self { way: way.to_owned(), forked_at: *forked_at, at: *at, what, first, second, before, to_do: to_do(divergence) }
    }
}

/// Returns the last line.
pub(super) fn summary(totals: &Totals, format: Format) -> String {
    let Totals { scenarios, agree, differ, failed, events, moves, interrupted } = totals;
    match format {
        Format::Json => Line::Summary(*totals).to_json(),
        Format::Human | Format::Github => {
            let mut parts = vec![format!("{agree} the same twice")];
            parts.extend((*differ > 0).then(|| format!("{differ} not")));
            parts.extend((*failed > 0).then(|| format!("{failed} failed")));
            let left = scenarios - agree - differ - failed;
            parts.extend((left > 0).then(|| format!("{left} not examined")));
            let end = if *interrupted { "; stopped by the user" } else { "" };
            let compared = format!("{} and {} compared", counted(*events as u64, "event"), counted(*moves as u64, "move"));
            format!("{}: {}; {compared}{end}\n", counted(*scenarios as u64, "scenario"), parts.join(", "))
        }
    }
}
