//! What a long search shows while it goes on, and what ends it before its time: the user, or the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::memory::Memory;
use super::{OnInterrupt, Problem};
use crate::search::prove::{BYTES_PER_STATE, Covered};

/// Looks at the process' size once in so many questions: it costs as much as some states.
const LOOK_EVERY: u64 = 16;
/// Growth of the process during a search below which its size is left out of account: what earlier searches gave back may still be counted.
const GROWTH_PARTS: u64 = 16;

/// Whether the user asked to stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to the user from now on.
    pub(super) fn listen(on_interrupt: OnInterrupt<'_>) -> Self {
        let interrupt = Self::default();
        let own = interrupt.clone();
        on_interrupt(Box::new(move || own.0.store(true, Ordering::Relaxed)));
        interrupt
    }

    /// Returns whether the user asked to stop.
    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A spinner on standard error, if that is a terminal, and the limit of a search's memory.
#[derive(Debug)]
pub(super) struct Gauge {
    bar: ProgressBar,
    interrupt: Interrupt,
    memory: Memory,
    limit_bytes: u64,
    /// Of the process: before all searches, and before this one.
    first_bytes: u64,
    before_bytes: u64,
    asked: AtomicU64,
}

impl Gauge {
    /// Returns the gauge of a command's searches, which may take so much.
    pub(super) fn new(interrupt: Interrupt, memory: Memory, limit_bytes: u64) -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {prefix} {wide_msg}").expect("a template of ours");
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
        let bytes = (memory.resident_bytes)().unwrap_or(0);
        Self { bar, interrupt, memory, limit_bytes, first_bytes: bytes, before_bytes: bytes, asked: AtomicU64::new(0) }
    }

    /// Begins another search.
    pub(super) fn begin(&mut self, what: String) {
        self.before_bytes = (self.memory.resident_bytes)().unwrap_or(0);
        self.bar.reset();
        self.bar.set_prefix(what);
    }

    /// Says what is being done.
    pub(super) fn say(&self, what: &str) {
        self.bar.set_message(what.to_string());
        self.bar.tick();
    }

    /// Takes the spinner away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Returns whether the user asked to stop.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupt.asked()
    }

    /// Returns the limit.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Shows how far a search has come; returns whether it has to end.
    pub(super) fn ends(&self, covered: &Covered) -> bool {
        if self.interrupted() {
            return true;
        }
        if !self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            return false;
        }
        if !self.bar.is_hidden() {
            self.bar.set_message(self.progress(covered));
            self.bar.tick();
        }
        (self.memory.resident_bytes)().is_some_and(|bytes| self.is_full(bytes, covered))
    }

    /// The search's own account leaves out what is not its own: engines, caches, what the allocator rounds up.
    fn is_full(&self, resident_bytes: u64, covered: &Covered) -> bool {
        let questions = covered.states.saturating_mul(BYTES_PER_STATE);
        let taken = resident_bytes.saturating_sub(self.first_bytes).saturating_add(questions);
        let grown = resident_bytes.saturating_sub(self.before_bytes).saturating_add(questions);
        taken > self.limit_bytes && grown > self.limit_bytes / GROWTH_PARTS
    }

    fn progress(&self, covered: &Covered) -> String {
        let ms = u64::try_from(self.bar.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = covered.states.saturating_mul(1000) / ms;
        let left =
            u128::from(ms) * u128::from(self.limit_bytes.saturating_sub(covered.memory_bytes)) / u128::from(covered.memory_bytes.max(1));
        format!(
            "{} states, {}/s; {} ends, {} of them fail; {} of {}, which lasts {} s more",
            HumanCount(covered.states),
            HumanCount(rate),
            HumanCount(covered.terminals),
            HumanCount(covered.failing),
            BinaryBytes(covered.memory_bytes),
            BinaryBytes(self.limit_bytes),
            HumanCount(u64::try_from(left / 1000).unwrap_or(u64::MAX)),
        )
    }

    /// Returns what the search took, for those who watch: it differs between runs.
    pub(super) fn effort(&self, states: u64, executed: u64, checked: u64, memory_bytes: u64) -> Option<String> {
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = (states as f64 / seconds.max(1e-9)) as u64;
        (!self.bar.is_hidden()).then(|| {
            format!(
                "note: {seconds:.2} s, {} states/s, {} moves made and {checked} checked, {}\n",
                HumanCount(rate),
                HumanCount(executed),
                BinaryBytes(memory_bytes)
            )
        })
    }
}

/// Returns what a defect in a search's own promises is told as.
pub(super) fn defect(what: &str) -> Problem {
    Problem::plain(format!("a defect of lostpage itself: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(resident_bytes: fn() -> Option<u64>) -> Gauge {
        Gauge::new(Interrupt::default(), Memory { usual_bytes: 0, resident_bytes }, 1 << 20)
    }

    #[test]
    fn a_process_that_has_grown_too_large_ends_its_search() {
        let covered = Covered { states: 1000, ..Covered::default() };
        let gauge = gauge(|| Some(64 << 20));
        assert!(!gauge.is_full(64 << 20, &covered) && !gauge.is_full(60 << 20, &covered));
        assert!(gauge.is_full(65 << 20, &covered), "what the end needs counts too");
        assert!(!gauge.is_full(65 << 20, &Covered::default()));
    }

    #[test]
    fn what_an_earlier_search_left_behind_does_not_end_the_next() {
        let mut gauge = gauge(|| Some(64 << 20));
        gauge.before_bytes = 66 << 20;
        assert!(!gauge.is_full(66 << 20, &Covered::default()));
        assert!(gauge.is_full((66 << 20) + (1 << 18), &Covered::default()));
    }

    #[test]
    fn the_user_s_wish_ends_a_search_at_once() {
        let interrupt = Interrupt::listen(&mut |mut stop| stop());
        let gauge = Gauge::new(interrupt, Memory { usual_bytes: 0, resident_bytes: || None }, 1 << 20);
        assert!(gauge.ends(&Covered::default()));
    }
}
