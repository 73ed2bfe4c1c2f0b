//! The migration of a scenario: its parameters.

use host::dirty::limit::LimitOptions;
use host::event::EventKind;
use host::migration::encoding::EncodingOptions;
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};

use super::{Pattern, Trigger};

/// The migration's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// When the first one starts; `None`: only when an injection says so.
    pub start: Option<Trigger>,
    /// Speed of the link, bytes/s.
    pub bandwidth: u64,
    /// QEMU's `max-bandwidth`, bytes/s; 0: no limit.
    pub max_bandwidth: u64,
    /// QEMU's `downtime-limit`, nanoseconds.
    pub downtime_limit_ns: u64,
    /// How pages are written.
    pub encoding: EncodingOptions,
    /// Smallest number of syncs before the last; the threshold is not looked at before. Shows later rounds in small guests.
    pub rounds_min: u32,
    /// What is asked of auto-converge.
    pub throttle: ThrottleOptions,
    /// What is asked of the dirty page rate limit.
    pub limit: LimitOptions,
    /// What is asked of the switchover.
    pub switchover: SwitchoverOptions,
    /// COMPLETE is told before the last sync, as up to QEMU 11.0.
    pub complete_before_sync: bool,
    /// A snapshot in place of a migration: a round of hints first, then the VM stops, and all of memory goes.
    pub hints_first: bool,
    /// What goes beyond plain precopy.
    pub modes: Modes,
}

impl Default for Migration {
    /// QEMU's parameters (migration/options.c) on a link of 1 GiB/s, from the moment that the driver is up.
    fn default() -> Self {
        let ready = Pattern::Event { kind: EventKind::GuestReady, page: None, nth: 1 };
        Self {
            start: Some(Trigger { after: vec![ready], ..Trigger::default() }),
            bandwidth: 1 << 30,
            max_bandwidth: 128 << 20,
            downtime_limit_ns: 300_000_000,
            encoding: EncodingOptions::default(),
            rounds_min: 1,
            throttle: ThrottleOptions::default(),
            limit: LimitOptions::default(),
            switchover: SwitchoverOptions::default(),
            complete_before_sync: false,
            hints_first: false,
            modes: Modes::default(),
        }
    }
}
