//! Rules about when a migration does what: the switchover, DONE on its way to the destination, and the throttle.
//!
//! What a policy goes by is computed here anew from events alone: pages that syncs found newly dirty, and bytes that went on the wire.

use host::event::{Actor, Event, HintStatus, MigrationStatus, Stamped};
use host::fold::Fold;
use host::page::{DATA_RECORD_BYTES, ZERO_RECORD_BYTES};
use wire::platform::PAGE_SIZE;

use super::{Oracle, rules};
use crate::outcome::{Blame, Verdict, Violation};

/// A period of the throttle's account is over when more than this has passed, nanoseconds.
const PERIOD_NS: u64 = 1_000_000_000;

/// What the rules need to remember.
#[derive(Debug, Clone, Default)]
pub(super) struct Pacing {
    /// Something was sent behind the last sync.
    iterated: bool,
    /// The migration has stopped the VM so.
    stopped_late: bool,
    /// The device has said DONE since the VM stopped, and then STOP.
    undone: bool,
    /// The throttle's account, as events tell it.
    period_start_ns: u64,
    dirtied: u64,
    sent: u64,
    /// Periods that dirtied too much, since the vCPUs were slowed down last.
    high: u32,
}

impl Pacing {
    /// Adds to a hash what the rules depend on; where time stands still there is no throttle.
    pub(super) fn fold(&self, tag: u64, fold: &mut Fold) {
        fold.part(tag, 0, &(self.iterated, self.stopped_late, self.undone));
    }

    fn starts(&mut self, at_ns: u64) {
        *self = Self { period_start_ns: at_ns, ..Self::default() };
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
        let trigger = self.options.throttle_trigger;
        let pacing = &mut self.pacing;
        let event = &stamped.event;
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
            Event::HintStop { from: HintStatus::Done } => pacing.undone = true,
            Event::Throttle { percent } if *percent > 0 => {
                let high = std::mem::take(&mut pacing.high);
                if high < 2 {
                    let what = format!(
                        "vCPUs are slowed down by {percent} percent, though {high} periods since the last time dirtied more than {trigger} percent of what was sent"
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
}
