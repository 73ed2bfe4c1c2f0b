//! How far a search has come, on a terminal: rate, coverage, findings, time left. Nothing of it in a pipe.

use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::budget::Budget;
use crate::report::counted;
use crate::search::block::Summary;

/// How often the line is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// The steps of the bar.
const STEPS: u64 = 1_000;

/// The progress of one search.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    budget: Budget,
    /// Schedules that were there when it began.
    before: u64,
}

impl Progress {
    /// Begins behind what an earlier run has made.
    pub(super) fn begin(budget: Budget, before: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
        let bar = bar.with_style(ProgressStyle::with_template("{wide_bar} {msg}").expect("a template of ours"));
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, budget, before }
    }

    /// Shows what there is. `schedules`: of how many the shard's search consists, if the budget says.
    pub(super) fn show(&self, summary: &Summary, schedules: Option<u64>) {
        if self.bar.is_hidden() {
            return;
        }
        let (elapsed, done) = (self.bar.elapsed(), summary.schedules());
        let left = [
            self.budget.time.map(|time| time.saturating_sub(elapsed)),
            schedules.and_then(|all| {
                let made = u32::try_from(done - self.before).ok().filter(|made| *made > 0)?;
                Some((elapsed / made).saturating_mul(u32::try_from(all.saturating_sub(done)).unwrap_or(u32::MAX)))
            }),
        ];
        let left = left.into_iter().flatten().min().unwrap_or_default();
        let share = |part: Duration, rest: Duration| STEPS as u128 * part.as_millis() / (part + rest).as_millis().max(1);
        self.bar.set_position(u64::try_from(share(elapsed, left)).unwrap_or(STEPS));
        self.bar.set_message(format!(
            "{done} schedules, {}/s, {}, {}, {} left",
            rate(done - self.before, elapsed),
            counted(summary.coverage.pairs().len() as u64, "ordering"),
            counted(summary.findings.len() as u64, "finding"),
            HumanDuration(left)
        ));
    }

    /// Says what is being done behind the search.
    pub(super) fn say(&self, message: String) {
        self.bar.set_position(STEPS);
        self.bar.set_message(message);
    }

    /// Does something on the streams, with the line out of the way.
    pub(super) fn suspend(&self, work: impl FnOnce()) {
        self.bar.suspend(work);
    }

    /// Returns how long the search took, and how fast it was, as a remark; of a search that made something.
    pub(super) fn remark(&self, summary: &Summary) -> Option<String> {
        let (elapsed, made) = (self.bar.elapsed(), summary.schedules() - self.before);
        (made > 0).then(|| format!("{} in {elapsed:.1?}: {} a second", counted(made, "schedule"), rate(made, elapsed)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn rate(made: u64, elapsed: Duration) -> u128 {
    u128::from(made) * 1_000_000 / elapsed.as_micros().max(1)
}
