//! The comparison for people: tables for each situation, what their columns say, and what is not as files expect.

use super::line::Line;
use super::table::{Table, column};
use super::{Row, SITUATIONS, Status, Told};
use crate::cli::args::Format;

use crate::report::{WIDTH, counted, github, wrap};

/// How migrations went.
const COURSE: Table = Table {
    title: "",
    columns: &[
        column("hinted", "pages", 6, |row| told(row, |told| (told.facts.pages_hinted + told.pages_reported).to_string())),
        column("skipped", "pages", 7, |row| migrated(row, |told| told.facts.pages_skipped.to_string())),
        column("resent", "pages", 6, |row| migrated(row, |told| told.facts.pages_resent.to_string())),
        column("rounds", "", 6, |row| told(row, |told| told.facts.rounds.to_string())),
        column("downtime", "ms", 8, |row| migrated(row, |told| millis(told.facts.downtime_ns, 3))),
        column("sent", "MiB", 6, |row| told(row, |told| mebibytes(told.facts.bytes_sent))),
        column("time", "ms", 8, |row| told(row, |told| millis(told.facts.time_ns, 1))),
        column("verdict", "", 11, |row| told(row, |told| told.verdict.name().to_string())),
    ],
};

/// What the migration is spared.
const SAVED: Table = Table {
    title: "what it saves, beside the same guest on a device that does not offer the interface",
    columns: &[
        column("with", "pages", 6, |row| pair(row, |with, _| with.pages_sent().to_string())),
        column("without", "pages", 7, |row| pair(row, |_, without| without.pages_sent().to_string())),
        column("saved", "pages", 6, |row| {
            pair(row, |with, without| difference(with.pages_sent(), without.pages_sent(), |n| n.to_string()))
        }),
        column("with", "MiB", 6, |row| pair(row, |with, _| mebibytes(with.facts.bytes_sent))),
        column("without", "MiB", 7, |row| pair(row, |_, without| mebibytes(without.facts.bytes_sent))),
        column("saved", "MiB", 6, |row| pair(row, |with, without| difference(with.facts.bytes_sent, without.facts.bytes_sent, mebibytes))),
        column("with", "ms", 8, |row| pair(row, |with, _| millis(with.facts.time_ns, 1))),
        column("without", "ms", 8, |row| pair(row, |_, without| millis(without.facts.time_ns, 1))),
        column("saved", "ms", 8, |row| {
            pair(row, |with, without| difference(with.facts.time_ns, without.facts.time_ns, |ns| millis(ns, 1)))
        }),
    ],
};

/// What the columns say, for below the tables.
const LEGEND: &[(&str, &str)] = &[
    ("hinted", "pages that hints took out of the migration, all rounds; with reporting, pages that the host dropped"),
    ("skipped", "pages that the last migration never sent"),
    ("resent", "times that the last migration sent a page again"),
    ("rounds", "syncs of the dirty log"),
    ("downtime", "from the VM's stop to its start at the destination"),
    ("sent", "on the wire, all migrations; time: from boot to the end, virtual"),
    ("-", "has no meaning: the migration did not come to its end, or a file's orders need the interface"),
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
        if rows.iter().any(|row| row.pair().is_some()) {
            parts.push(SAVED.render(rows));
        }
    }
    parts.push(legend());
    parts.push(ending(rows));
    parts.join("\n")
}

fn legend() -> String {
    let width = LEGEND.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    LEGEND.iter().map(|(name, about)| format!("{name:<width$}  {about}\n")).collect()
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

/// A figure that stands only if the last migration came to its end.
fn migrated(row: &Row, figure: impl Fn(&Told) -> String) -> Option<String> {
    row.with.as_ref().ok().filter(|told| told.is_migrated()).map(figure)
}

fn pair(row: &Row, figure: impl Fn(&Told, &Told) -> String) -> Option<String> {
    row.pair().map(|(with, without)| figure(with, without))
}

/// What is spared: negative when the interface made it more.
fn difference(with: u64, without: u64, show: impl Fn(u64) -> String) -> String {
    let sign = if with > without { "-" } else { "" };
    format!("{sign}{}", show(with.abs_diff(without)))
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
