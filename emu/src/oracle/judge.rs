//! What events do to the oracle: one function for each that needs more than a line, in the order of the vocabulary's layers.

use host::event::{CmdId, MigrationStatus, PageRange, Pfn};
use wire::platform::{MAILBOX, PAGE_SHIFT};

use super::loss::Loss;
use super::pages::{TraceIndex, flag, widened};
use super::records::Cause;
use super::{Observed, Oracle, rules};
use crate::outcome::{Blame, Verdict, Violation};
use crate::report::micros;

impl Oracle {
    pub(super) fn break_rule(&mut self, rule: &'static str, doom: Option<usize>, blame: Blame, what: impl FnOnce() -> String) {
        let verdict = Verdict::BrokenRule;
        self.violations.add(rule, || Violation { rule, verdict, page: None, write: None, doom, blame, what: what() });
    }

    pub(super) fn look_everywhere(&mut self, index: usize, cause: Cause, world: &dyn Observed) {
        let all = self.pages.all();
        self.records.look_range(&mut self.pages, all, index, cause, world);
    }

    pub(super) fn read(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn) {
            page.sent_version = page.version;
            self.records.near_misses += u64::from(page.cause.take().is_some());
        }
    }

    pub(super) fn send(&mut self, index: usize, pfn: Pfn, zero: bool) {
        self.records.sent(pfn);
        let Some(page) = self.pages.get_mut(pfn) else { return };
        page.sent += 1;
        self.counter.send(zero, page.sent == 1);
        if page.has(flag::NEED_NOT_SEND) {
            page.flags &= !flag::NEED_NOT_SEND;
            let rule = rules::HINTED_PAGE_IS_NOT_SENT;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::OverSend,
                page: Some(pfn),
                write: None,
                doom: Some(index),
                blame: Blame::Host,
                what: format!("page {pfn} was sent though its hint was applied and nobody wrote it since the sync before the round"),
            });
        }
    }

    pub(super) fn bitmap_sync(&mut self, index: usize, world: &dyn Observed) {
        self.counter.sync();
        self.records.end_sync();
        self.device.synced();
        self.look_everywhere(index, Cause::SyncDropped, world);
        self.count_bitmap(index, world);
    }

    pub(super) fn count_bitmap(&mut self, index: usize, world: &dyn Observed) {
        let (remaining, bits) = (world.remaining(), world.bitmap_count());
        if remaining != bits {
            self.break_rule(rules::N_EQUALS_POPCOUNT, Some(index), Blame::Host, || format!("N is {remaining}, but B has {bits} bits"));
        }
    }

    pub(super) fn migration_state(&mut self, index: usize, to: MigrationStatus, world: &dyn Observed) {
        self.counter.migration_state(to);
        match to {
            MigrationStatus::Setup => self.records.start_migration(&mut self.pages),
            MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::Failed
            | MigrationStatus::None => self.records.end_migration(),
            // The destination of a VM that was paused does not start: it is compared now.
            MigrationStatus::Completed if self.records.migrating => self.compare(index, world),
            MigrationStatus::Completed | MigrationStatus::Active | MigrationStatus::Device => {}
        }
    }

    pub(super) fn expose(&mut self, range: PageRange, flags: u8) {
        self.pages.slice_mut(range).iter_mut().for_each(|page| page.flags |= flags);
    }

    pub(super) fn inflate(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn) {
            page.flags |= flag::INFLATED;
        }
    }

    pub(super) fn deflate(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn)
            && page.has(flag::INFLATED)
        {
            page.flags = page.flags & !flag::INFLATED | flag::DEFLATED;
        }
    }

    pub(super) fn report_taken(&mut self, range: PageRange) {
        for page in self.pages.slice_mut(range).iter_mut().filter(|page| page.has(flag::REPORT_EXPOSED)) {
            page.flags |= flag::REPORTED;
        }
    }

    pub(super) fn hint_start(&mut self, index: usize, id: CmdId) {
        if !self.device.start(id) {
            self.break_rule(rules::HINT_START_WAS_REQUESTED, Some(index), Blame::Host, || {
                format!("the device started round {id} without having requested it")
            });
        }
    }

    pub(super) fn hint_push(&mut self, index: usize, head: u16) {
        if !self.device.push(head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("head {head} of the hint queue was returned without having been taken")
            });
        }
    }

    pub(super) fn guest_add(&mut self, index: usize, queue: u16, head: u16) {
        if !self.heads.add(queue, head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Guest, || {
                format!("head {head} of queue {queue} was exposed again before it was collected")
            });
        }
    }

    pub(super) fn guest_get(&mut self, index: usize, queue: u16, head: u16) {
        if !self.heads.get(queue, head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("head {head} of queue {queue} was collected without having been exposed")
            });
        }
    }

    pub(super) fn device_status(&mut self, status: u32) {
        if status == 0 {
            self.heads.reset();
            self.device.reset_queue();
        }
    }

    /// Judges a hint: which pages it excuses, which it dooms, and whether it was right at all.
    pub(super) fn hint_apply(&mut self, index: usize, range: PageRange, id: CmdId, cleared: u64, world: &dyn Observed) {
        self.counter.hint_apply(cleared);
        let outside = self.device.why_not(id);
        let in_round = outside.is_none();
        if let Some(reason) = outside {
            self.break_rule(rules::HINT_APPLIED_UNDER_ITS_ID, Some(index), Blame::Host, || {
                format!("hint {range} of round {id} was applied, but {reason}")
            });
        }
        let mut beyond = None;
        for pfn in self.pages.frames(range).map(Pfn) {
            let held = self.device.holds_page(pfn);
            let page = self.pages.get_mut(pfn).expect("cut to RAM");
            if !held {
                beyond = beyond.or(Some(pfn));
            } else if in_round && page.has(flag::HINT_EXPOSED) {
                page.flags |= flag::HINTED;
                if self.device.merged_before_round(page.write_epoch) && !self.records.holds(pfn) {
                    page.flags |= flag::NEED_NOT_SEND;
                }
            }
        }
        if let Some(pfn) = beyond {
            self.break_rule(rules::HINT_APPLIED_UNDER_ITS_ID, Some(index), Blame::Host, || {
                format!("page {pfn} was cleared as hinted, but no element that the device holds contains it")
            });
        }
        if self.records.migrating {
            self.look_after_hint(index, range, in_round, world);
            self.count_bitmap(index, world);
        }
    }

    pub(super) fn look_after_hint(&mut self, index: usize, range: PageRange, in_round: bool, world: &dyn Observed) {
        for frame in self.pages.frames(widened(range)) {
            let pfn = Pfn(frame);
            let page = self.pages.get(pfn).expect("cut to RAM");
            let cause = if !in_round {
                Cause::HintOutsideRound
            } else if !self.device.holds_page(pfn) {
                Cause::HintBeyondElement
            } else if page.has(flag::EVER_HINTED) {
                Cause::EarlyReuse
            } else {
                Cause::HintUnannounced
            };
            self.records.look(&mut self.pages, pfn, TraceIndex::new(index), cause, world);
        }
    }

    /// Judges a discard: the guest must have given the page up, and for a hint the device must be in a round.
    pub(super) fn host_discard(&mut self, index: usize, range: PageRange) {
        let in_round = self.device.is_open();
        // A host that discards need not leave anything out: the page is zeros now, and goes as such.
        self.pages.slice_mut(range).iter_mut().for_each(|page| page.flags &= !flag::NEED_NOT_SEND);
        for pfn in self.pages.frames(range).map(Pfn) {
            let page = self.pages.get_mut(pfn).expect("cut to RAM");
            // A host that discards what is hinted leaves its bitmaps alone: the page is sent, as zeros.
            page.flags &= !flag::NEED_NOT_SEND;
            let given_up = page.has(flag::INFLATED | flag::REPORT_EXPOSED) || (in_round && page.has(flag::HINT_EXPOSED));
            if given_up || page.dropped {
                continue;
            }
            page.dropped = true;
            let early = in_round && page.has(flag::EVER_HINTED);
            let (write, writer, at_ns) = (page.write.get(), page.writer, page.write_at_ns);
            self.lost.push(pfn);
            let rule = rules::DISCARDED_PAGE_WAS_GIVEN_UP;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::LostPage,
                page: Some(pfn),
                write,
                doom: Some(index),
                blame: if early { Blame::Guest } else { Blame::Host },
                what: if early {
                    format!("page {pfn} was dropped after {writer} wrote it at {} us: {}", micros(at_ns), Cause::EarlyReuse.reason())
                } else {
                    format!("page {pfn} was dropped though the guest had not given it up")
                },
            });
        }
    }

    /// Compares all pages, and says which are lost. From here the source's memory may go its own way.
    pub(super) fn compare(&mut self, index: usize, world: &dyn Observed) {
        self.records.drop_hand(&mut self.pages);
        let mut losses: Vec<Loss> = Vec::new();
        for (pfn, page) in self.pages.iter() {
            if page.dropped || world.destination_equals(pfn) || self.is_only_input(pfn, world) {
                self.records.near_misses += u64::from(page.cause.is_some());
            } else if let Some(excuse) = page.excuse() {
                self.excused.insert(pfn, excuse);
            } else {
                self.lost.push(pfn);
                let loss = Loss::new(page, pfn, index, self.records.recorded(pfn, world), world);
                match losses.last_mut() {
                    Some(last) if last.continues(&loss) => last.range.count += 1,
                    _ => losses.push(loss),
                }
            }
        }
        for loss in losses {
            self.violations.add(rules::DESTINATION_EQUALS_SOURCE, || loss.violation());
        }
        self.records.end_migration();
    }

    /// Returns whether a task mailbox differs in nothing but what the scenario writes into it: the number of operations, and the operations.
    pub(super) fn is_only_input(&self, pfn: Pfn, world: &dyn Observed) -> bool {
        let first = MAILBOX >> PAGE_SHIFT;
        if !(first..first + u64::from(self.options.vcpus)).contains(&pfn.0) {
            return false;
        }
        let Some(there) = world.destination_page(pfn) else { return false };
        let here = world.ram().page(pfn);
        let tail = 8..wire::task::HEADER_BYTES as usize;
        let behind = (wire::task::HEADER_BYTES + wire::task::SLOTS * wire::task::OP_BYTES) as usize..;
        here[tail.clone()] == there[tail] && here[behind.clone()] == there[behind]
    }

    pub(super) fn leak(&mut self, held: u64, world: &dyn Observed) {
        let over = self.device.is_done() || self.counter.has_migrated();
        if held == 0 || !over || !world.vm_running() || world.migration_status().is_running() {
            return;
        }
        let done = self.device.is_done();
        let rule = rules::HINTED_PAGES_COME_HOME;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::Leak,
            page: None,
            write: None,
            doom: None,
            blame: if done { Blame::Guest } else { Blame::Host },
            what: format!(
                "the guest still holds {held} hinted blocks, {} DONE",
                if done { "after" } else { "and the device has not said" }
            ),
        });
    }
}
