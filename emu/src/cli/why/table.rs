//! A run as a table: a line for each step, its share, and a column for each actor.
//!
//! Only one actor moves in a step, so its words may reach over the columns to its right, which have nothing to say there.

use std::collections::BTreeMap;

use crate::report::counted;
use crate::search::why::Share;

/// Columns of a terminal line that no line exceeds.
pub(super) const WIDTH: usize = 140;
/// Columns before those of the actors: number, share, bar, and what is between them.
const LEFT: usize = 31;
/// Columns of the bar.
const BAR: usize = 10;
/// Stands in place of the bar.
const DOOM: &str = "== doom ==";
/// Least columns for the words of the last actor.
const LAST: usize = 36;
/// Most columns of the others.
const ACTOR_MAX: usize = 26;
/// So few steps in a row are not worth a note that they are left out.
const GAP_STEPS: usize = 2;

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The share behind it.
    pub(super) share: Share,
    /// Who moves.
    pub(super) actor: String,
    /// What it does.
    pub(super) text: String,
    /// Whether nothing could save the run behind it.
    pub(super) doom: bool,
    /// Whether it is shown though it changes nothing.
    pub(super) stays: bool,
}

/// A run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    /// The share before its first step.
    pub(super) start: Share,
    /// Its steps.
    pub(super) rows: &'a [Row],
}

impl Table<'_> {
    /// Returns the lines.
    pub(super) fn text(&self) -> String {
        let lanes = Lanes::new(self.rows);
        let mut out = line(&format!("{:>6} {:>10}  {:<BAR$}  {}", "step", "fail", "", lanes.heads()));
        out += &line(&format!("{:>6} {:>10}  {:<BAR$}", "start", share_text(self.start), bar(self.start)));
        let (mut shown, mut gap) = (self.start, Vec::new());
        let last = self.rows.len().saturating_sub(1);
        for (step, row) in self.rows.iter().enumerate() {
            let told = lanes.step(step, row);
            if row.doom || row.stays || step == last || shown.differs(row.share) {
                close(&mut gap, &mut out);
                out += &told;
                shown = row.share;
            } else {
                gap.push((row.actor.clone(), told));
            }
        }
        out
    }
}

/// Puts steps without a change down: few of them as they are, many as their number.
fn close(gap: &mut Vec<(String, String)>, out: &mut String) {
    if gap.len() <= GAP_STEPS {
        gap.drain(..).for_each(|(_, told)| *out += &told);
        return;
    }
    let mut by: BTreeMap<&str, u64> = BTreeMap::new();
    gap.iter().for_each(|(actor, _)| *by.entry(actor).or_default() += 1);
    let by: Vec<String> = by.into_iter().map(|(actor, steps)| format!("{actor} {steps}")).collect();
    *out +=
        &line(&format!("{:>6} {:>10}  {:<BAR$}  {} without change: {}", "...", "", "", counted(gap.len() as u64, "step"), by.join(", ")));
    gap.clear();
}

/// Returns a share in percent; `~` stands before one that is sampled.
pub(super) fn share_text(share: Share) -> String {
    let mark = if share.is_exact() { "" } else { "~" };
    match share.ppm() {
        None => "?".to_string(),
        Some(0) => format!("{mark}0 %"),
        Some(1_000_000) => format!("{mark}100 %"),
        Some(ppm @ 1..100) => format!("{mark}0.{:04} %", ppm),
        Some(ppm @ 999_900..) => format!("{mark}{}.{:04} %", ppm / 10_000, ppm % 10_000),
        Some(ppm) => format!("{mark}{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100),
    }
}

/// Returns a bar as long as the share: nothing only for nothing, full only for all.
fn bar(share: Share) -> String {
    let ppm = share.ppm().unwrap_or(0) as usize;
    let length = match ppm {
        0 => 0,
        1_000_000 => BAR,
        ppm => (ppm * BAR / 1_000_000).clamp(1, BAR - 1),
    };
    "#".repeat(length)
}

fn line(text: &str) -> String {
    let mut line: String = if text.chars().count() <= WIDTH {
        text.trim_end().to_string()
    } else {
        text.chars().take(WIDTH - 3).chain("...".chars()).collect()
    };
    line.push('\n');
    line
}

/// Who moves, in the order of their first steps, and the width of all columns but the last.
struct Lanes<'a> {
    actors: Vec<&'a str>,
    width: usize,
}

impl<'a> Lanes<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut actors: Vec<&str> = Vec::new();
        for row in rows {
            if !actors.contains(&row.actor.as_str()) {
                actors.push(&row.actor);
            }
        }
        let others = actors.len().saturating_sub(1).max(1);
        let width = ((WIDTH - LEFT - LAST) / others).clamp(3, ACTOR_MAX);
        Self { actors, width }
    }

    fn heads(&self) -> String {
        let head = |actor: &&str| format!("{:<1$}", actor.chars().take(self.width - 1).collect::<String>(), self.width);
        self.actors.iter().map(head).collect()
    }

    fn step(&self, step: usize, row: &Row) -> String {
        let left = if row.doom { DOOM.to_string() } else { bar(row.share) };
        let place = self.actors.iter().position(|actor| *actor == row.actor).expect("who moves has a column");
        let mut words: String = std::iter::repeat_n(format!("{:<1$}", ".", self.width), place).collect();
        words += &row.text;
        // Those that the words do not reach show that they stand still.
        for lane in place + 1..self.actors.len() {
            let at = lane * self.width;
            let reached = words.chars().count();
            if reached < at {
                words += &" ".repeat(at - reached);
                words.push('.');
            }
        }
        line(&format!("{:>6} {:>10}  {left:<BAR$}  {words}", step + 1, share_text(row.share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(failing: u32, actor: &str, text: &str) -> Row {
        Row {
            share: Share::Sampled { failing, samples: 1000 },
            actor: actor.to_string(),
            text: text.to_string(),
            doom: false,
            stays: false,
        }
    }

    #[test]
    fn no_line_is_wider_than_the_page_with_many_actors_and_long_words() {
        let actors = ["vcpu0", "vcpu1", "vcpu2", "vcpu3", "iothread", "main-loop", "migration", "dest", "injector", "dma"];
        let rows: Vec<Row> = (0..40).map(|step| row(step * 25, actors[step as usize % actors.len()], &"long ".repeat(40))).collect();
        let text = Table { start: Share::Sampled { failing: 0, samples: 1000 }, rows: &rows }.text();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.lines().any(|line| line.ends_with("...")), "{text}");
    }

    #[test]
    fn steps_that_change_nothing_are_counted_and_noise_is_no_change() {
        let noise = [20, 24, 17, 22, 19, 300, 302, 290, 1000];
        let rows: Vec<Row> = noise.iter().map(|failing| row(*failing, "vcpu0", "guest.kick")).collect();
        let text = Table { start: Share::Sampled { failing: 21, samples: 1000 }, rows: &rows }.text();
        let steps: Vec<&str> = text.lines().skip(2).map(|line| line.split_whitespace().next().expect("a number")).collect();
        assert_eq!(steps, ["...", "6", "7", "8", "9"], "{text}");
        assert!(text.contains("5 steps without change: vcpu0 5"), "{text}");
    }

    #[test]
    fn a_share_is_nothing_or_all_only_where_it_is() {
        let text = |failing, samples| share_text(Share::Sampled { failing, samples });
        assert_eq!([text(0, 10), text(10, 10), text(1, 8), text(0, 0)], ["~0 %", "~100 %", "~12.50 %", "?"]);
        assert_eq!([text(1, 1_000_000), text(999_999, 1_000_000)], ["~0.0001 %", "~99.9999 %"]);
        let bars = [0, 1, 500_000, 999_999, 1_000_000].map(|failing| bar(Share::Sampled { failing, samples: 1_000_000 }).len());
        assert_eq!(bars, [0, 1, 5, 9, 10]);
    }
}
