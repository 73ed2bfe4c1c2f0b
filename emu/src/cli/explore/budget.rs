//! How long a search goes on.
//!
//! Time decides only when no more blocks are begun, never what is in one; a block that was begun is finished.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::search::results::BLOCKS_MAX;

/// How long a scenario is explored if nobody says.
pub(super) const TIME_DEFAULT: Duration = Duration::from_secs(10);

/// When a search ends, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// After this time, if any.
    pub(super) time: Option<Duration>,
    /// After this many schedules, if any: as many whole blocks as hold them.
    pub(super) schedules: Option<u64>,
}

impl Budget {
    /// Returns the budget that was asked for.
    pub(super) fn new(time: Option<Duration>, schedules: Option<u64>) -> Self {
        let time = if time.is_none() && schedules.is_none() { Some(TIME_DEFAULT) } else { time };
        Self { time, schedules }
    }

    /// Returns the number of blocks of a search, other shards' included, if the budget says.
    pub(super) fn blocks(&self, block_len: u32) -> Option<u64> {
        self.schedules.map(|schedules| schedules.div_ceil(block_len.into()).min(BLOCKS_MAX))
    }
}

/// Reads a time such as `10s`.
///
/// # Errors
/// When it is none, or nothing; what was expected.
pub(in crate::cli) fn parse_time(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no time: expected a whole number above 0 with ms, s, m or h behind it, such as 10s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let unit_ms = match text[digits..].trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let time = number.checked_mul(unit_ms).filter(|ms| *ms > 0);
    time.map(Duration::from_millis).ok_or_else(expected)
}

/// Says when a time is over, without anybody looking at a clock.
#[derive(Debug)]
pub(super) struct Timer {
    /// Dropped, it ends the thread.
    cancel: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    over: std::sync::Arc<AtomicBool>,
}

impl Timer {
    /// Starts; without a time it never ends.
    pub(super) fn start(time: Option<Duration>) -> Self {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let (cancel, cancelled) = mpsc::channel::<()>();
        let tell = std::sync::Arc::clone(&over);
        let wait = move |time| {
            if cancelled.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                tell.store(true, Ordering::Relaxed);
            }
        };
        let thread = time.map(|time| thread::spawn(move || wait(time)));
        Self { cancel: Some(cancel), thread, over }
    }

    /// Returns whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        drop(self.cancel.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only waits");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_numbers_with_a_unit() {
        for (text, ms) in [("10s", 10_000), ("250ms", 250), ("2 m", 120_000), ("1h", 3_600_000), ("3min", 180_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0s", "10", "s", "-1s", "1.5s", "10 years", "99999999999999999999s", "18446744073709551615h"] {
            let error = parse_time(text).expect_err(text);
            assert!(error.contains("such as 10s"), "{error}");
        }
    }

    #[test]
    fn a_budget_of_schedules_is_whole_blocks() {
        assert_eq!(Budget::new(None, Some(65)).blocks(64), Some(2));
        assert_eq!(Budget::new(None, Some(u64::MAX)).blocks(64), Some(BLOCKS_MAX));
        assert_eq!(Budget::new(None, None), Budget { time: Some(TIME_DEFAULT), schedules: None });
        assert_eq!(Budget::new(None, Some(1)).time, None);
    }

    #[test]
    fn a_timer_ends_when_it_is_over_and_at_once_when_nobody_needs_it() {
        let timer = Timer::start(Some(Duration::from_millis(1)));
        while !timer.is_over() {
            thread::yield_now();
        }
        drop(Timer::start(Some(Duration::from_secs(3600))));
        assert!(!Timer::start(None).is_over());
    }
}
