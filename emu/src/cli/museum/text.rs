//! The museum for people: faults, the matrix, searches, holes.

use std::collections::{BTreeMap, BTreeSet};

use host::fault::Fault;

use super::{Found, Museum, Searches};
use crate::museum::{BLOCK_LEN, First, Hunted, Row, STRATEGIES, UNFOUND, verdict_of};
use crate::outcome::Verdict;
use crate::report::{WIDTH, counted, github, wrap};
use crate::search::block::Signature;

/// Columns of a scenario's name in the matrix, at most.
const NAME_MAX: usize = 60;

/// Columns of a number of schedules.
const NUMBER: usize = 8;

/// Columns before these numbers.
const LABEL: usize = WIDTH - NUMBER * STRATEGIES.len();

/// Returns all that is known.
pub(super) fn museum(museum: &Museum) -> String {
    let mut parts = vec![faults(museum), matrix(museum)];
    parts.extend(museum.searches.as_ref().map(|searches| hunts(museum, searches)));
    parts.push(holes(museum));
    parts.join("\n")
}

/// Returns an annotation for each fault that no scenario notices.
pub(super) fn annotations(museum: &Museum) -> String {
    let uncaught = museum.uncaught();
    uncaught.into_iter().map(|fault| github::error(None, "hole", &format!("no scenario notices the fault {}", fault.name()))).collect()
}

fn faults(museum: &Museum) -> String {
    let width = museum.faults.iter().map(|fault| fault.name().len()).max().unwrap_or(0);
    let mut said = format!("  #  {:<width$}  effect            caught by  as what it is\n", "fault");
    for (index, fault) in museum.faults.iter().enumerate() {
        let (by, such) = (museum.matrix.caught_by(*fault).len(), museum.matrix.caught_as_such_by(*fault).len());
        let (number, effect) = (index + 1, fault.effect().name());
        said += &format!("{number:>3}  {:<width$}  {effect:<16}  {by:>9}  {such:>13}\n", fault.name());
    }
    said + &sources(museum)
}

/// Returns where the faults were real.
fn sources(museum: &Museum) -> String {
    let width = museum.faults.iter().map(|fault| fault.label().len()).max().unwrap_or(0);
    let mut said = String::from("\nWhere they were real: the catalogue's entry, and the commit or release\n");
    for (number, fault) in (1..).zip(&museum.faults) {
        let indent = width + 7;
        let lines = wrap(fault.source(), WIDTH - indent);
        let source = lines.join(&format!("\n{}", " ".repeat(indent)));
        let label = if fault.label().is_empty() { "-".to_owned() } else { fault.label() };
        said += &format!("{number:>3}  {label:<width$}  {source}\n");
    }
    said
}

/// Returns what stands for a verdict.
fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::HostCrash => 'H',
        Verdict::GuestCrash => 'C',
        Verdict::LostPage => 'L',
        Verdict::BrokenRule => 'R',
        Verdict::Leak => 'K',
        Verdict::OverSend => 'O',
        Verdict::Deadlock => 'D',
        Verdict::Unreachable => 'U',
        Verdict::Stall => 'S',
        Verdict::Pass => 'P',
    }
}

/// Returns the matrix, in as many parts as its columns need.
fn matrix(museum: &Museum) -> String {
    let names: Vec<String> = museum.matrix.rows.iter().map(|(name, _)| short(name)).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let verdict_width = Verdict::ALL.iter().map(|verdict| verdict.name().len()).max().unwrap_or(0);
    let columns = WIDTH - name_width - verdict_width - 4;
    let letters: Vec<String> = Verdict::ALL.iter().map(|verdict| format!("{} {}", letter(*verdict), verdict.name())).collect();
    let mut said = "Scenarios: the verdict of each, and what it is with each fault, by number, if that changes anything.\n".to_owned();
    said += &format!("{}\n", wrap(&letters.join(", "), WIDTH).join("\n"));
    said += "! the same verdict, but not all that the file expects; x a defect of lostpage itself; . no change\n";
    said += "Blank: not run: a guest's fault, or one that is not on the way of the file's interface, and the file does not name it.\n";
    said += "Of a fault that a file switches on itself: what is without it.\n";
    let numbers: Vec<usize> = (1..=museum.faults.len()).collect();
    for part in numbers.chunks(columns) {
        said += &head(part, name_width + verdict_width + 4);
        for (name, (_, row)) in names.iter().zip(&museum.matrix.rows) {
            let verdict = row.alone.as_ref().map_or("defect", |shown| shown.verdict.name());
            let cells: String = part.iter().map(|number| cell(row, museum.faults[number - 1])).collect();
            if !cells.trim().is_empty() {
                said += &format!("{name:<name_width$}  {verdict:<verdict_width$}  {}\n", cells.trim_end());
            }
        }
    }
    said
}

/// Returns the numbers of columns, each from top to bottom.
fn head(numbers: &[usize], indent: usize) -> String {
    let digits = numbers.iter().map(|number| number.to_string().len()).max().unwrap_or(0);
    let line = |digit: usize| {
        let column = |number: &usize| format!("{number:>digits$}").chars().nth(digit).expect("padded");
        let line = " ".repeat(indent) + &numbers.iter().map(column).collect::<String>();
        line.trim_end().to_owned() + "\n"
    };
    (0..digits).map(line).collect()
}

/// Returns a scenario's name without what all have, and its end only if it is long.
fn short(name: &str) -> String {
    let name = name.strip_prefix("scenarios/").unwrap_or(name);
    let name = name.strip_suffix(".toml").unwrap_or(name);
    let more = name.chars().count().saturating_sub(NAME_MAX);
    if more == 0 { name.to_owned() } else { std::iter::once('…').chain(name.chars().skip(more + 1)).collect() }
}

fn cell(row: &Row, fault: Fault) -> char {
    let Some(cell) = row.cells.iter().find(|cell| cell.fault == fault) else { return ' ' };
    match (&row.alone, &cell.result) {
        (Err(_), _) | (_, Err(_)) => 'x',
        (Ok(_), Ok(_)) if !row.notices(cell) => '.',
        (Ok(alone), Ok(with)) if alone.verdict == with.verdict => '!',
        (Ok(_), Ok(with)) => letter(with.verdict),
    }
}

/// A line of the table of searches: a label, and a number for each strategy.
fn numbered(label: &str, indent: &str, numbers: impl IntoIterator<Item = String>) -> String {
    let mut lines: Vec<String> = wrap(label, LABEL - indent.len()).iter().map(|line| format!("{indent}{line}")).collect();
    let last = lines.pop().unwrap_or_default();
    let numbers: String = numbers.into_iter().map(|number| format!("{number:>NUMBER$}")).collect();
    lines.push(format!("{last:<LABEL$}{numbers}"));
    lines.join("\n") + "\n"
}

fn hunts(museum: &Museum, searches: &Searches) -> String {
    let several = searches.neutrals.len() > 1;
    let marks: Vec<String> =
        (0..searches.neutrals.len()).map(|index| if several { format!("{} ", index + 1) } else { String::new() }).collect();
    let from: Vec<String> = searches.neutrals.iter().zip(&marks).map(|(name, mark)| format!("{mark}{name}")).collect();
    let turns = if several { ", in turns" } else { "" };
    let schedules = counted(searches.schedules, "schedule");
    let legend = format!(
        "Searches from {}{turns}: the number of the first schedule of each strategy that found it, of {schedules} each from seed {}. What is found \
         without a fault counts for none, and a search without a fault gives each scenario and variant a turn. A search ends when its fault has been seen as what it is, with its turn of {BLOCK_LEN} schedules; it starts from the \
         scenarios and variants alone in which the search without a fault asked for it. Time stands still in a search, so none is about a stall.",
        from.join(", "),
        museum.seed
    );
    let mut said = wrap(&legend, WIDTH).join("\n") + "\n";
    said += &numbered("", "", STRATEGIES.iter().map(ToString::to_string));
    said += "without a fault\n";
    let without = ways(&searches.baseline, &marks, |hunted| &hunted.found, "");
    said += if without.is_empty() { "    nothing\n" } else { &without };
    for (fault, found) in &searches.faults {
        let first = |pick: &dyn Fn(&Hunted) -> Option<u64>| -> Vec<String> {
            found.iter().map(|(_, hunted)| hunted.as_ref().map_or("defect".to_owned(), |hunted| number(pick(hunted)))).collect()
        };
        said += &numbered(fault.name(), "", first(&Hunted::first));
        let as_such = format!("as {}", verdict_of(fault.effect()).name());
        said += &numbered(&as_such, "  ", first(&|hunted| hunted.first_as_such(*fault)));
        said += &ways(found, &marks, |hunted| &hunted.found, "");
        said += &ways(found, &marks, |hunted| &hunted.without, "not counted, it ends so without the fault: ");
    }
    said
}

fn number(schedule: Option<u64>) -> String {
    schedule.map_or("-".to_owned(), |schedule| schedule.to_string())
}

/// Returns a line for each way to fail, with the first schedules that do, in the order of these.
fn ways(found: &Found, marks: &[String], which: impl Fn(&Hunted) -> &Vec<First>, remark: &str) -> String {
    let all = || found.iter().map(|(_, hunted)| hunted.as_ref().map(&which).map(Vec::as_slice).unwrap_or_default());
    let mut earliest: BTreeMap<(usize, &Signature), u64> = BTreeMap::new();
    for First { schedule, neutral, signature } in all().flatten() {
        let known = earliest.entry((*neutral, signature)).or_insert(*schedule);
        *known = (*known).min(*schedule);
    }
    let ordered: BTreeSet<(u64, usize, &Signature)> =
        earliest.iter().map(|((neutral, signature), first)| (*first, *neutral, *signature)).collect();
    let line = |(_, neutral, signature): (u64, usize, &Signature)| {
        let by = |found: &[First]| {
            found.iter().find(|first| first.neutral == neutral && first.signature == *signature).map(|first| first.schedule)
        };
        numbered(&format!("{}{remark}{signature}", marks[neutral]), "    ", all().map(|found| number(by(found))))
    };
    ordered.into_iter().map(line).collect()
}

fn holes(museum: &Museum) -> String {
    let names = |faults: Vec<Fault>| faults.into_iter().map(|fault| fault.name().to_owned()).collect::<Vec<_>>();
    let owned = |names: Vec<&str>| names.into_iter().map(short).collect::<Vec<_>>();
    let mut said = "Holes\n".to_owned();
    said += &listed("faults that no scenario notices", &names(museum.uncaught()));
    said += &listed("faults that are noticed, but never as what they are", &names(museum.never_as_such()));
    let to_pass = format!("scenarios under pass/ that no fault changes, of {}", museum.matrix.to_pass());
    said += &listed(&to_pass, &owned(museum.matrix.unmoved()));
    let unexpected = owned(museum.matrix.unexpected());
    if !unexpected.is_empty() {
        said += &listed("scenarios that do not end as their files say", &unexpected);
    }
    if let Some(searches) = &museum.searches {
        said += &listed("faults of which no search found anything", &names(searches.unfound()));
        let reasons = UNFOUND.iter().filter(|(fault, _)| searches.unfound().contains(fault) || searches.unreached.contains(fault));
        for (fault, reason) in reasons {
            said += &format!("    {}\n", wrap(&format!("{}: {reason}", fault.name()), WIDTH - 6).join("\n      "));
        }
        said += &listed("faults that searches found, but never as what they are", &names(searches.never_as_such()));
        said += &listed("faults of the host that no neutral scenario asks for", &names(searches.unreached.clone()));
    }
    said
}

fn listed(label: &str, names: &[String]) -> String {
    let mut said = format!("  {label}: {}\n", if names.is_empty() { "none".to_owned() } else { names.len().to_string() });
    for line in wrap(&names.join(" "), WIDTH - 4) {
        said += &format!("    {line}\n");
    }
    said
}
