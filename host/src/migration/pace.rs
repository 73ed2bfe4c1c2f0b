//! How fast it goes: the bandwidth estimate, the threshold made of it, and the rate limit.
//!
//! QEMU: migration/migration.c migration_update_counters(), migration_rate_limit(); migration/migration-stats.c
//! migration_rate_exceeded(). Both work on windows of at least 100 ms. Differs: integers, rounded down, where QEMU computes in floating point.

use crate::dirty::limit::LimitOptions;
use crate::fault::{Fault, Faults};
use crate::migration::encoding::EncodingOptions;
use crate::migration::postcopy::Modes;
use crate::migration::throttle::{SwitchoverOptions, ThrottleOptions};

/// Length of a window, nanoseconds (QEMU: BUFFER_DELAY, 100 ms).
pub const WINDOW_NS: u64 = 100_000_000;
/// Windows per second (QEMU: XFER_LIMIT_RATIO).
const WINDOWS_PER_SECOND: u64 = NS_PER_SECOND / WINDOW_NS;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// What a migration sends before it looks at any log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FirstRound {
    /// All of memory (QEMU: ram_init_bitmaps()).
    #[default]
    All,
    /// What is populated; the destination's memory is zero where nothing arrives (Cloud Hypervisor: vmm/src/memory_manager.rs
    /// memory_range_table() with MemoryRangePolicy::Sparse). Differs: a populated page of zeros is left out, too.
    Populated,
}

/// What the migration is asked to keep to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MigrationOptions {
    /// Speed of the link, bytes/s.
    pub bandwidth: u64,
    /// Rate limit, bytes/s; 0: none (QEMU: `max-bandwidth`).
    pub max_bandwidth: u64,
    /// Longest wanted pause at the end, nanoseconds (QEMU: `downtime-limit`).
    pub downtime_limit_ns: u64,
    /// How pages are written.
    pub encoding: EncodingOptions,
    /// Fewest syncs before the last one; the threshold is 0 until then. QEMU has no such option: it shows later rounds in small guests.
    pub rounds_min: u32,
    /// Pages per bit of C, as a power of two: 6..=31 (QEMU: `x-clear-bitmap-shift`).
    pub chunk_shift: u8,
    /// COMPLETE is told before the last sync, as up to QEMU 11.0, not behind it.
    pub complete_before_sync: bool,
    /// What is asked of auto-converge.
    pub throttle: ThrottleOptions,
    /// What is asked of the dirty page rate limit.
    pub limit: LimitOptions,
    /// What is asked of the switchover.
    pub switchover: SwitchoverOptions,
    /// What the first round is about.
    pub first_round: FirstRound,
    /// A snapshot in place of a migration: a round of hints first, then the VM stops, and all of memory goes.
    pub hints_first: bool,
    /// Time and bytes have a say: the bandwidth is estimated, the rate is limited, and a slice ends after 50 ms. Without it a slice ends when
    /// nothing is left, and whatever a sync finds is little enough for the switchover once there were `rounds_min` syncs, and two: for
    /// searches, in which the clock stands still, and in which a guest that answers each round would keep the migration going for ever. QEMU
    /// has no such option.
    pub paced: bool,
    /// What goes beyond plain precopy.
    pub modes: Modes,
}

impl Default for MigrationOptions {
    /// QEMU's defaults, on a link of the same speed as the rate limit.
    fn default() -> Self {
        Self {
            bandwidth: 128 << 20,
            max_bandwidth: 128 << 20,
            downtime_limit_ns: 300_000_000,
            encoding: EncodingOptions::default(),
            rounds_min: 0,
            chunk_shift: 18,
            complete_before_sync: false,
            throttle: ThrottleOptions::default(),
            limit: LimitOptions::default(),
            switchover: SwitchoverOptions::default(),
            first_round: FirstRound::All,
            hints_first: false,
            paced: true,
            modes: Modes::default(),
        }
    }
}

impl MigrationOptions {
    /// Returns the number of syncs up to which they are counted: what the future depends on.
    pub(crate) fn syncs_counted(&self) -> u32 {
        if self.paced { self.rounds_min } else { self.rounds_min.max(SYNCS_UNPACED) }
    }
}

/// Syncs before a switchover where nothing is estimated: the first comes before all sending, the second behind a whole pass.
const SYNCS_UNPACED: u32 = 2;

/// The current window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pace {
    window_start_ns: u64,
    window_bytes: u64,
    threshold: u64,
}

impl Pace {
    /// Returns the pace at the start of rounds: nothing is known of the bandwidth, the threshold is 0.
    pub fn new(now_ns: u64, bytes_sent: u64) -> Self {
        Self { window_start_ns: now_ns, window_bytes: bytes_sent, threshold: 0 }
    }

    /// Returns how much may be left for the switchover, bytes.
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Returns when the window may end, nanoseconds.
    pub fn window_end_ns(&self) -> u64 {
        self.window_start_ns + WINDOW_NS
    }

    /// Ends the window if it is long enough: its bandwidth makes the threshold, and the limit's account starts anew.
    /// [`Fault::ToldBandwidthInThousands`]: what was told is rounded down to whole bytes per millisecond.
    pub fn update(&mut self, now_ns: u64, bytes_sent: u64, options: &MigrationOptions, faults: &Faults) {
        if !options.paced || now_ns < self.window_end_ns() {
            return;
        }
        let (bytes, ns) = match options.switchover.bandwidth {
            0 => (bytes_sent - self.window_bytes, now_ns - self.window_start_ns),
            told if told % 1000 != 0 && faults.on(Fault::ToldBandwidthInThousands) => (told - told % 1000, NS_PER_SECOND),
            told => (told, NS_PER_SECOND),
        };
        let threshold = u128::from(bytes) * u128::from(options.downtime_limit_ns) / u128::from(ns);
        *self = Self { window_start_ns: now_ns, window_bytes: bytes_sent, threshold: u64::try_from(threshold).unwrap_or(u64::MAX) };
    }

    /// Returns whether the window's share of the rate limit is used up.
    pub fn rate_exceeded(&self, bytes_sent: u64, max_bandwidth: u64, options: &MigrationOptions) -> bool {
        options.paced && max_bandwidth != 0 && bytes_sent - self.window_bytes > max_bandwidth / WINDOWS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_stays_zero_for_a_window_and_then_is_bandwidth_times_downtime() {
        let options = MigrationOptions::default();
        let mut pace = Pace::new(1_000, 0);
        pace.update(WINDOW_NS, 5_000_000, &options, &Faults::default());
        assert_eq!(pace.threshold(), 0);
        pace.update(1_000 + WINDOW_NS, 5_000_000, &options, &Faults::default());
        assert_eq!(pace.threshold(), 15_000_000);
        assert_eq!(pace.window_end_ns(), 1_000 + 2 * WINDOW_NS);
    }

    #[test]
    fn the_rate_limit_counts_per_window_and_zero_means_none() {
        let mut options = MigrationOptions { max_bandwidth: 1_000, ..MigrationOptions::default() };
        let mut pace = Pace::new(0, 0);
        assert!(!pace.rate_exceeded(100, options.max_bandwidth, &options));
        assert!(pace.rate_exceeded(101, options.max_bandwidth, &options));
        pace.update(WINDOW_NS, 101, &options, &Faults::default());
        assert!(!pace.rate_exceeded(201, options.max_bandwidth, &options));
        options.max_bandwidth = 0;
        assert!(!pace.rate_exceeded(u64::MAX, options.max_bandwidth, &options));
    }

    #[test]
    fn what_is_told_of_the_link_counts_to_the_byte() {
        let switchover = SwitchoverOptions { bandwidth: 1999, ..SwitchoverOptions::default() };
        let options = MigrationOptions { switchover, downtime_limit_ns: 10 * NS_PER_SECOND, ..MigrationOptions::default() };
        for (faults, threshold) in [(&[][..], 19_990), (&[Fault::ToldBandwidthInThousands][..], 10_000)] {
            let mut pace = Pace::new(0, 0);
            pace.update(WINDOW_NS, 5_000_000, &options, &faults.iter().copied().collect());
            assert_eq!(pace.threshold(), threshold);
        }
    }

    #[test]
    fn without_pace_neither_time_nor_bytes_count() {
        let options = MigrationOptions { max_bandwidth: 1_000, paced: false, ..MigrationOptions::default() };
        let mut pace = Pace::new(0, 0);
        let before = pace.clone();
        assert!(!pace.rate_exceeded(u64::MAX, options.max_bandwidth, &options));
        pace.update(u64::MAX, u64::MAX, &options, &Faults::default());
        assert_eq!(pace, before);
    }
}
