//! Rules about when a migration does what: the switchover, DONE on its way to the destination, the throttle and the limit.
//!
//! What a policy goes by is computed here anew from events alone: pages that syncs found newly dirty, and bytes that went on the wire.

use std::collections::BTreeMap;

use host::event::{Actor, Event, HintStatus, MigrationStatus, Stamped};
use host::fold::Fold;
use host::page::{DATA_RECORD_BYTES, ZERO_RECORD_BYTES};
use wire::platform::PAGE_SIZE;

use super::{Oracle, Told, rules};
use crate::outcome::{Blame, Verdict, Violation};

/// A period of the throttle's account is over when more than this has passed, nanoseconds.
const PERIOD_NS: u64 = 1_000_000_000;
/// What is told of the link counts once a window of that length is over, nanoseconds.
const WINDOW_NS: u64 = 100_000_000;

/// What the rules need to remember.
#[derive(Debug, Clone, Default)]
pub(super) struct Pacing {
    /// Something was sent behind the last sync.
    iterated: bool,
    /// The migration has stopped the VM so.
    stopped_late: bool,
    /// The device has said DONE since the VM stopped, and then STOP.
    undone: bool,
    /// The device is reset, and no driver has it.
    driverless: bool,
    /// The throttle's account, as events tell it.
    period_start_ns: u64,
    dirtied: u64,
    sent: u64,
    /// Periods that dirtied too much, since the vCPUs were slowed down last.
    high: u32,
    /// Until when vCPUs sleep at their full rings, nanoseconds.
    asleep: BTreeMap<u8, u64>,
    /// The migration has limited vCPUs, and nobody has lifted that.
    limited: bool,
    /// When the rounds began, nanoseconds.
    active_ns: u64,
    /// What an operator has told of the link counts by now.
    told: bool,
    /// Pages that the last sync left.
    left: u64,
    /// They are so few that the switchover is due.
    due: bool,
}

impl Pacing {
    /// Adds to a hash what the rules depend on; where time stands still there is no throttle.
    pub(super) fn fold(&self, tag: u64, fold: &mut Fold) {
        fold.part(tag, 0, &(self.iterated, self.stopped_late, self.undone, self.driverless));
    }

    fn starts(&mut self, at_ns: u64) {
        let (asleep, limited) = (std::mem::take(&mut self.asleep), self.limited);
        *self = Self { period_start_ns: at_ns, asleep, limited, ..Self::default() };
    }

    /// A sync is over: ends the period if that is long enough.
    fn synced(&mut self, at_ns: u64, trigger: u64) {
        if at_ns > self.period_start_ns + PERIOD_NS {
            self.high += u32::from(self.dirtied * PAGE_SIZE > self.sent * trigger / 100);
            (self.period_start_ns, self.dirtied, self.sent) = (at_ns, 0, 0);
        }
    }
}

impl Oracle {
    /// Looks at an event with the rules of this file.
    pub(super) fn pace(&mut self, index: usize, stamped: &Stamped) {
        self.pace_limits(index, stamped);
        self.pace_told(index, stamped);
        let trigger = self.options.throttle_trigger;
        let pacing = &mut self.pacing;
        let event = &stamped.event;
        // An operator may limit vCPUs as he likes.
        let slows = matches!(event, Event::Throttle { .. }) || stamped.actor == Actor::Migration;
        match event {
            Event::LogStart => pacing.starts(stamped.at_ns),
            Event::RamPage { zero, .. } | Event::RamSend { zero, .. } => {
                pacing.sent += if *zero { ZERO_RECORD_BYTES } else { DATA_RECORD_BYTES };
            }
            Event::RamDelta { len, .. } => pacing.sent += len,
            Event::BitmapSync { before, after, .. } => {
                pacing.iterated = false;
                pacing.dirtied += after.saturating_sub(*before);
            }
            Event::AfterSync => pacing.synced(stamped.at_ns, trigger),
            Event::IterateBegin { .. } => pacing.iterated = true,
            // A switch to postcopy waits for no sync.
            Event::MigrationState { to: MigrationStatus::Device, .. } if std::mem::take(&mut pacing.stopped_late) => {
                let what = || "the VM is stopped for the switchover, though much was sent since the last sync".to_owned();
                self.break_rule(rules::SWITCHOVER_FOLLOWS_A_SYNC, Some(index), Blame::Host, what);
            }
            Event::VmStop | Event::VmStart => {
                pacing.stopped_late = pacing.iterated && *event == Event::VmStop && stamped.actor == Actor::Migration;
                pacing.undone = false;
            }
            Event::HintDone { .. } => pacing.undone = false,
            // A device that is reset has no driver which would wait for its pages.
            Event::DeviceStatus { status } => {
                pacing.driverless = *status == 0;
                pacing.undone &= !pacing.driverless;
            }
            Event::HintStop { from: HintStatus::Done } => pacing.undone = !pacing.driverless,
            Event::Throttle { percent: by @ 1.. } | Event::LimitSet { rate: by @ 1.., .. } if slows => {
                let high = std::mem::take(&mut pacing.high);
                if high < 2 {
                    let what = format!(
                        "vCPUs are slowed down ({by}), though {high} periods since the last time dirtied more than {trigger} percent of what was sent"
                    );
                    self.break_rule(rules::THROTTLE_IS_CALLED_FOR, Some(index), Blame::Host, || what);
                }
            }
            Event::DstDevice { id } if pacing.undone => {
                let rule = rules::DONE_GOES_ALONG;
                let (verdict, blame) = (Verdict::Leak, Blame::Host);
                self.violations.add(rule, || Violation {
                    rule,
                    verdict,
                    page: None,
                    write: None,
                    doom: Some(index),
                    blame,
                    cause: None,
                    what: format!("the device has said STOP behind the last sync's DONE, and goes to the destination with id {id}"),
                });
            }
            _ => {}
        }
    }

    /// The dirty page rate limit: who sleeps, and until when there are limits.
    fn pace_limits(&mut self, index: usize, stamped: &Stamped) {
        let pacing = &mut self.pacing;
        if let Actor::Vcpu(cpu) = stamped.actor
            && pacing.asleep.remove(&cpu).is_some_and(|until_ns| stamped.at_ns < until_ns)
        {
            let what = || format!("vcpu{cpu} goes on before it has slept as long as its limit asks for");
            self.break_rule(rules::LIMIT_IS_SLEPT_OUT, Some(index), Blame::Host, what);
        }
        let pacing = &mut self.pacing;
        match &stamped.event {
            Event::LimitSleep { cpu, us } => drop(pacing.asleep.insert(*cpu, stamped.at_ns + us * 1000)),
            Event::VmStop | Event::PostcopyStart | Event::DstStart => pacing.asleep.clear(),
            Event::LimitSet { rate, .. } => pacing.limited = *rate > 0 && (pacing.limited || stamped.actor == Actor::Migration),
            Event::MigrationState { to: MigrationStatus::Cancelled | MigrationStatus::Failed, .. } if pacing.limited => {
                let what = || "the migration is over, and the limits that it has set for the vCPUs are not".to_owned();
                self.break_rule(rules::LIMITS_END_WITH_MIGRATION, Some(index), Blame::Host, what);
            }
            _ => {}
        }
    }

    /// The switchover by what an operator has told.
    fn pace_told(&mut self, index: usize, stamped: &Stamped) {
        let Some(Told { bytes, rounds_min }) = self.options.told else { return };
        let pacing = &mut self.pacing;
        match &stamped.event {
            Event::MigrationState { to: MigrationStatus::Active, .. } => pacing.active_ns = stamped.at_ns,
            Event::IterateEnd { .. } => pacing.told |= stamped.at_ns >= pacing.active_ns + WINDOW_NS,
            Event::BitmapSync { after, .. } => pacing.left = *after,
            Event::Pass { round } => pacing.due = pacing.told && *round >= rounds_min && pacing.left * PAGE_SIZE <= bytes,
            // A VM that an operator has stopped is not stopped again.
            Event::VmStop | Event::MigrationState { .. } => pacing.due = false,
            Event::IterateBegin { .. } if std::mem::take(&mut pacing.due) => {
                let what =
                    || format!("the last sync left no more than {bytes} bytes, which the link was told to carry, and the VM runs on");
                self.break_rule(rules::SWITCHOVER_BY_WHAT_WAS_TOLD, Some(index), Blame::Host, what);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use host::event::CmdId;

    use super::*;
    use crate::oracle::OracleOptions;

    /// Returns the rules that events break: milliseconds, who, what.
    fn broken(told: Option<Told>, events: &[(u64, Actor, Event)]) -> Vec<&'static str> {
        let mut oracle = Oracle::new(OracleOptions {
            pages: 64,
            channels: false,
            vcpus: 2,
            ram_bytes: 64 * PAGE_SIZE,
            hints_stay_free: false,
            free_pages_are_read: false,
            rom: false,
            hints_first: false,
            throttle_trigger: 50,
            told,
        });
        for (index, (at_ms, actor, event)) in events.iter().enumerate() {
            oracle.pace(index, &Stamped { at_ns: at_ms * 1_000_000, actor: *actor, event: event.clone() });
        }
        oracle.violations.finish().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn done_stays_said_unless_the_device_is_reset() {
        let done = (1, Actor::Migration, Event::HintDone { from: HintStatus::Stop });
        let stop = (2, Actor::Migration, Event::HintStop { from: HintStatus::Done });
        let reset = (2, Actor::MainLoop, Event::DeviceStatus { status: 0 });
        let arrives = (3, Actor::Destination, Event::DstDevice { id: CmdId(0) });
        assert_eq!(broken(None, &[done.clone(), arrives.clone()]), [""; 0]);
        assert_eq!(broken(None, &[done.clone(), stop.clone(), arrives.clone()]), [rules::DONE_GOES_ALONG]);
        assert_eq!(broken(None, &[done.clone(), reset.clone(), stop.clone(), arrives.clone()]), [""; 0], "no driver waits");
        assert_eq!(broken(None, &[done.clone(), stop.clone(), reset.clone(), arrives.clone()]), [""; 0], "nor later");
        let driver = (2, Actor::Vcpu(0), Event::DeviceStatus { status: 1 });
        assert_eq!(broken(None, &[reset, driver, done, stop, arrives]), [rules::DONE_GOES_ALONG], "a driver is back");
    }

    #[test]
    fn who_is_limited_sleeps_as_long_as_he_was_told() {
        let sleep = (1, Actor::Vcpu(1), Event::LimitSleep { cpu: 1, us: 5_000 });
        let moves = |at_ms| (at_ms, Actor::Vcpu(1), Event::GuestReady);
        assert_eq!(broken(None, &[sleep.clone(), moves(6)]), [""; 0]);
        assert_eq!(broken(None, &[sleep.clone(), moves(5)]), [rules::LIMIT_IS_SLEPT_OUT]);
        assert_eq!(broken(None, &[sleep.clone(), (2, Actor::Migration, Event::VmStop), moves(5)]), [""; 0], "the VM was stopped");
        assert_eq!(broken(None, &[sleep, (5, Actor::Vcpu(0), Event::GuestReady)]), [""; 0], "another vCPU");
    }

    #[test]
    fn a_migration_limits_only_who_dirties_too_much_and_lifts_the_limit_at_its_end() {
        let set = |actor, rate| (2, actor, Event::LimitSet { first: 0, count: 2, rate });
        let over = (3, Actor::MainLoop, Event::MigrationState { from: MigrationStatus::Cancelling, to: MigrationStatus::Cancelled });
        assert_eq!(broken(None, &[set(Actor::MainLoop, 5), over.clone()]), [""; 0], "an operator's limit is his");
        assert_eq!(broken(None, &[set(Actor::Migration, 5)]), [rules::THROTTLE_IS_CALLED_FOR]);
        let rules = [rules::THROTTLE_IS_CALLED_FOR, rules::LIMITS_END_WITH_MIGRATION];
        assert_eq!(broken(None, &[set(Actor::Migration, 5), over.clone()]), rules);
        assert_eq!(broken(None, &[set(Actor::Migration, 5), set(Actor::MainLoop, 0), over]), rules[..1]);
    }

    #[test]
    fn what_was_told_of_the_link_decides_once_a_window_is_over() {
        let told = Some(Told { bytes: 2 * PAGE_SIZE, rounds_min: 2 });
        let round = |at_ms, round, after| {
            let mut events =
                vec![(0, Actor::Migration, Event::MigrationState { from: MigrationStatus::Setup, to: MigrationStatus::Active })];
            let of_round = [
                Event::IterateEnd { sent: 1 },
                Event::BitmapSync { round, before: 0, after },
                Event::Pass { round },
                Event::IterateBegin { remaining: after },
            ];
            events.extend(of_round.map(|event| (at_ms, Actor::Migration, event)));
            events
        };
        assert_eq!(broken(told, &round(100, 2, 2)), [rules::SWITCHOVER_BY_WHAT_WAS_TOLD]);
        for events in [round(99, 2, 2), round(100, 1, 2), round(100, 2, 3)] {
            assert_eq!(broken(told, &events), [""; 0]);
        }
        assert_eq!(broken(None, &round(100, 2, 2)), [""; 0]);
        let mut stopped = round(100, 2, 2);
        let device = Event::MigrationState { from: MigrationStatus::Active, to: MigrationStatus::Device };
        stopped.insert(stopped.len() - 1, (100, Actor::Migration, device));
        assert_eq!(broken(told, &stopped), [""; 0], "the VM was stopped before, and the migration completes");
    }
}
