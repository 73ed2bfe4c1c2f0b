//! The comparison for people: tables for each situation, what their columns say, and what is not as files expect.

use super::line::Line;
use wire::platform::PAGE_SHIFT;

use super::table::{NONE, Table, column};
use super::{Row, SITUATIONS, Status, Told};
use crate::cli::args::Format;
use crate::outcome::Facts;

use crate::report::{WIDTH, counted, github, wrap};
use crate::scenario::model::Driver;

/// How migrations went.
const COURSE: Table = Table {
    title: "",
    columns: &[
        column("hinted", "pages", 6, |row| told(row, |told| (told.facts.pages_hinted + told.pages_reported).to_string())),
        column("skipped", "pages", 7, |row| migrated(row, |told| told.facts.pages_skipped.to_string())),
        column("resent", "pages", 6, |row| hinted(row, |told| told.facts.pages_resent_hinted)),
        column("wrongly", "pages", 7, |row| hinted(row, |told| told.facts.pages_wrongly_resent)),
        column("irqs off", "insns", 8, |row| told(row, |told| told.facts.irq_off_insns_max.to_string())),
        column("free", "MiB", 6, |row| pages(row.with.as_ref().ok()?.facts.free_pages_min)),
        column("rounds", "", 6, |row| told(row, |told| told.facts.rounds.to_string())),
        column("downtime", "ms", 8, |row| migrated(row, |told| millis(told.facts.downtime_ns, 3))),
        column("sent", "MiB", 6, |row| told(row, |told| mebibytes(told.facts.bytes_sent))),
        column("time", "ms", 7, |row| migration_time(row.with.as_ref().ok())),
        column("verdict", "", 11, |row| told(row, |told| told.verdict.name().to_string())),
    ],
};

/// What the migration is spared.
const SAVED: Table = Table {
    title: "saved by it, beside the same guest and a device that does not offer the interface",
    columns: &[
        column("sent", "pages", 6, |row| pair(row, |with, _| with.pages_sent().to_string())),
        column("without", "pages", 7, |row| pair(row, |_, without| without.pages_sent().to_string())),
        column("saved", "pages", 6, |row| {
            pair(row, |with, without| difference(with.pages_sent(), without.pages_sent(), |n| n.to_string()))
        }),
        column("sent", "MiB", 6, |row| pair(row, |with, _| mebibytes(with.facts.bytes_sent))),
        column("without", "MiB", 7, |row| pair(row, |_, without| mebibytes(without.facts.bytes_sent))),
        column("saved", "MiB", 6, |row| pair(row, |with, without| difference(with.facts.bytes_sent, without.facts.bytes_sent, mebibytes))),
        column("time", "ms", 7, |row| migration_time(row.pair().map(|(with, _)| with))),
        column("without", "ms", 7, |row| migration_time(row.pair().map(|(_, without)| without))),
        column("saved", "ms", 7, |row| {
            let (with, without) = row.pair()?;
            Some(difference(with.migration_ns?, without.migration_ns?, |ns| millis(ns, 1)))
        }),
    ],
};

/// What it costs the guest.
const COSTS: Table = Table {
    title: "costs of it to the guest, likewise",
    columns: &[
        column("irqs off", "insns", 8, |row| pair(row, |with, _| with.facts.irq_off_insns_max.to_string())),
        column("without", "insns", 7, |row| pair(row, |_, without| without.facts.irq_off_insns_max.to_string())),
        column("in", "", 28, |row| pair(row, |with, _| function(&with.facts))),
        column("free", "MiB", 6, |row| pages(row.pair()?.0.facts.free_pages_min)),
        column("without", "MiB", 7, |row| pages(row.pair()?.1.facts.free_pages_min)),
        column("insns", "k", 7, |row| pair(row, |with, _| (with.insns() / 1_000).to_string())),
        column("without", "k", 7, |row| pair(row, |_, without| (without.insns() / 1_000).to_string())),
        column("per GiB", "k", 8, |row| row.insns_per_gib().map(|insns| (insns / 1_000).to_string())),
    ],
};

/// What the columns say, for below the tables.
const LEGEND: &[(&str, &str)] = &[
    ("hinted", "pages that hints took out of the migration; with reporting, pages that the host dropped because of reports"),
    ("skipped", "pages that were never sent"),
    ("resent", "pages that were sent behind a hint of them, since the guest had written to them"),
    ("wrongly", "pages that were sent behind a hint of them, though nobody had written to them"),
    ("irqs off", "the longest run of guest instructions with interrupts disabled, and the guest's function that it is in"),
    ("free", "the least that was free in the guest's allocator"),
    ("rounds", "syncs of the dirty log"),
    ("downtime", "from the VM's stop to its start at the destination"),
    ("sent", "pages, as data or as zeros, and bytes on the wire"),
    ("time", "virtual, from the first migration's start to the end"),
    ("insns", "guest instructions from boot to the end, thousands; per GiB: how many more than without, for each GiB hinted"),
    (NONE, "has no meaning: the migration did not come to its end, or the file's orders need the interface"),
];

/// Returns what is printed.
pub(super) fn comparison(rows: &[Row], format: Format) -> String {
    match format {
        Format::Human => human(rows),
        Format::Json => {
            let as_expected = rows.iter().filter(|row| row.status() == Status::AsExpected).count();
            let lines = rows.iter().map(Line::of).chain([Line::Summary { scenarios: rows.len(), as_expected }]);
            lines.map(|line| line.to_json()).collect()
        }
        Format::Github => human(rows) + &annotations(rows),
    }
}

fn annotations(rows: &[Row]) -> String {
    let of_row = |row: &Row| github::error(Some(&row.case.path.to_string_lossy()), "not as expected", &complaints(row).join("\n"));
    rows.iter().filter(|row| row.status() != Status::AsExpected).map(of_row).collect()
}

fn human(rows: &[Row]) -> String {
    let mut parts = Vec::new();
    for rows in rows.chunk_by(|a, b| a.situation == b.situation) {
        let name = &rows[0].situation;
        let known = SITUATIONS.iter().find(|(known, _)| known == name);
        let head = known.map_or_else(|| name.clone(), |(_, about)| format!("{name}: {about}"));
        parts.push(format!("{head}\n{}", COURSE.render(rows)));
        // Where only few can be run without their interface there is nothing to put side by side.
        if 2 * rows.iter().filter(|row| row.pair().is_some()).count() > rows.len() {
            parts.push(SAVED.render(rows));
            parts.push(COSTS.render(rows));
        }
    }
    parts.push(legend());
    parts.push(ending(rows));
    parts.join("\n")
}

/// The guest's first function in any interrupt.
const INTERRUPT_ENTRY: &str = "lp_irq_stubs";

/// Returns the name, without its modules, of the function in which interrupts were disabled for longest.
fn function(facts: &Facts) -> String {
    let path = facts.irq_off_in.as_deref().unwrap_or(NONE);
    match path.rsplit("::").next().expect("a part") {
        INTERRUPT_ENTRY => "interrupt handler".to_string(),
        name => name.to_string(),
    }
}

fn pages(pages: Option<u64>) -> Option<String> {
    pages.map(|pages| mebibytes(pages << PAGE_SHIFT))
}

fn migration_time(told: Option<&Told>) -> Option<String> {
    told?.migration_ns.map(|ns| millis(ns, 1))
}

fn legend() -> String {
    let head = "Of several migrations, pages and bytes are the last one's.\n".to_string();
    let width = LEGEND.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    LEGEND.iter().fold(head, |said, (name, about)| said + &format!("{name:<width$}  {about}\n"))
}

/// Returns what is wrong with each row, and how many are not.
fn ending(rows: &[Row]) -> String {
    let mut said = String::new();
    let mut wrong = 0;
    for row in rows.iter().filter(|row| row.status() != Status::AsExpected) {
        wrong += 1;
        said += &format!("WRONG  {}\n", row.case.path.display());
        for line in complaints(row).iter().flat_map(|complaint| wrap(complaint, WIDTH - 4)) {
            said += &format!("    {line}\n");
        }
    }
    said += &counted(rows.len() as u64, "scenario");
    said += &match wrong {
        0 => ": all as expected\n".to_string(),
        wrong => format!(": {} as expected, {wrong} not\n", rows.len() - wrong),
    };
    said
}

fn complaints(row: &Row) -> Vec<String> {
    let defects = row.defects().map(|said| format!("defect of this tool, not of what it tests: {said}"));
    row.unexpected.iter().cloned().chain(defects).collect()
}

fn told(row: &Row, figure: impl Fn(&Told) -> String) -> Option<String> {
    row.with.as_ref().ok().map(figure)
}

/// A figure about hints: of reports the host keeps no record that could be compared with what it sends.
fn hinted(row: &Row, figure: impl Fn(&Told) -> u64) -> Option<String> {
    told(row, |told| figure(told).to_string()).filter(|_| row.driver != Driver::Report)
}

/// A figure that stands only if the last migration came to its end.
fn migrated(row: &Row, figure: impl Fn(&Told) -> String) -> Option<String> {
    row.with.as_ref().ok().filter(|told| told.is_migrated()).map(figure)
}

fn pair(row: &Row, figure: impl Fn(&Told, &Told) -> String) -> Option<String> {
    row.pair().map(|(with, without)| figure(with, without))
}

/// What is spared: negative when the interface made it more.
fn difference(with: u64, without: u64, show: impl Fn(u64) -> String) -> String {
    let shown = show(with.abs_diff(without));
    let is_zero = shown.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    if with > without && !is_zero { format!("-{shown}") } else { shown }
}

/// Returns bytes in MiB with one decimal, rounded.
fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10 + (1 << 19)) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Returns nanoseconds in milliseconds with up to three decimals, rounded.
fn millis(ns: u64, decimals: u32) -> String {
    assert!((1..=3).contains(&decimals), "{decimals} decimals");
    let unit = 10_u64.pow(6 - decimals);
    let parts = (ns + unit / 2) / unit;
    let whole = 10_u64.pow(decimals);
    format!("{}.{:02$}", parts / whole, parts % whole, decimals as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_and_a_zero_has_no_sign() {
        assert_eq!([0, 52_428, 52_429, 1 << 20, (3 << 20) - 1].map(mebibytes), ["0.0", "0.0", "0.1", "1.0", "3.0"]);
        assert_eq!((millis(1_049_999, 1), millis(1_050_000, 1), millis(63_572, 3)), ("1.0".into(), "1.1".into(), "0.064".into()));
        let megabytes = |with, without| difference(with, without, mebibytes);
        assert_eq!((megabytes(0, 5 << 20), megabytes(5 << 20, 0), megabytes(9, 0)), ("5.0".into(), "-5.0".into(), "0.0".into()));
    }
}
