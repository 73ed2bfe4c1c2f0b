//! What events do to the oracle: one function for each that needs more than a line, in the order of the vocabulary's layers.

use host::event::{CmdId, HintElement, Level, MigrationStatus, PageRange, Pfn};
use wire::platform::{MAILBOX, PAGE_SHIFT};

use super::facts::Counter;
use super::free::free_in;
use super::loss::Loss;
use super::pages::{Marks, pages_of, place, widened};
use super::records::Cause;
use super::{Observed, Oracle, guest_mm, rules};
use crate::outcome::{Blame, Verdict, Violation};
use crate::report::micros;

impl Oracle {
    pub(super) fn break_rule(&mut self, rule: &'static str, doom: Option<usize>, blame: Blame, what: impl FnOnce() -> String) {
        let verdict = Verdict::BrokenRule;
        self.violations.add(rule, || Violation { rule, verdict, page: None, write: None, doom, blame, cause: None, what: what() });
    }

    pub(super) fn look_everywhere(&mut self, index: usize, cause: Cause, world: &dyn Observed) {
        let all = self.pages.all();
        self.records.look_range(&mut self.pages, all, index, |_, _| cause, world);
    }

    pub(super) fn read(&mut self, pfn: Pfn) {
        self.pages.edit_page(pfn, |marks, bit| marks.sending.unsent &= !bit);
        self.records.near_misses += u64::from(self.pages.take_doom(pfn));
    }

    pub(super) fn send(&mut self, index: usize, pfn: Pfn, zero: bool) {
        self.sent(index, pfn, |counter, first| counter.send(zero, first));
    }

    pub(super) fn send_delta(&mut self, index: usize, pfn: Pfn, len: u64) {
        self.sent(index, pfn, |counter, first| counter.send_delta(len, first));
    }

    fn sent(&mut self, index: usize, pfn: Pfn, count: impl FnOnce(&mut Counter, bool)) {
        self.records.sent(pfn);
        if !self.pages.contains(pfn) {
            return;
        }
        if let Some(detail) = self.pages.detail_mut(pfn) {
            detail.sent += 1;
            count(&mut self.counter, detail.sent == 1);
        }
        self.counter.send_hinted(pfn, self.pages.is(pfn, |marks| marks.sending.hinted));
        if self.pages.is(pfn, |marks| marks.sending.need_not_send) {
            self.pages.edit_page(pfn, |marks, bit| marks.sending.need_not_send &= !bit);
            let (rule, why) = match self.pages.is(pfn, |marks| marks.unplugged) {
                true => (rules::UNPLUGGED_MEMORY_IS_NOT_SENT, "it is not plugged"),
                false => (rules::HINTED_PAGE_IS_NOT_SENT, "its hint was applied and nobody wrote it since the sync before the round"),
            };
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::OverSend,
                page: Some(pfn),
                write: None,
                doom: Some(index),
                blame: Blame::Host,
                cause: None,
                what: format!("page {pfn} was sent though {why}"),
            });
        }
    }

    /// What [`Oracle::read`] and [`Oracle::send`] make of pages of a word.
    pub(super) fn send_word(&mut self, index: usize, word: u64, bits: u64) {
        let sending = self.pages.marks(word).sending;
        let held = self.records.held(word);
        for pfn in pages_of(word, (sending.doomed | sending.need_not_send | held) & bits) {
            self.read(pfn);
            self.send(index, pfn, false);
        }
        self.pages.edit(word, |marks| marks.sending.unsent &= !bits);
    }

    /// What the first round leaves out because it holds zeros, as memory does there, is not owed.
    pub(super) fn log_start(&mut self, world: &dyn Observed) {
        for (at, bits) in self.pages.words(self.pages.all()) {
            let left_out = bits & !world.recorded(Level::B, at);
            let equal = if left_out == 0 { 0 } else { world.zeros_there_and_here(at, left_out) };
            if equal != 0 {
                self.pages.edit(at, |marks| marks.sending.unsent &= !equal);
            }
        }
    }

    /// All channels count as drained: what was taken is on its way.
    pub(super) fn flush(&mut self, index: usize) {
        if let Some(pfn) = self.records.any_held() {
            self.break_rule(rules::FLUSHED_PAGES_ARE_SENT, Some(index), Blame::Host, || {
                format!("the channels count as flushed, but page {pfn} was taken and is not on its way")
            });
        }
    }

    pub(super) fn bitmap_sync(&mut self, index: usize, new: u64, world: &dyn Observed) {
        self.counter.sync();
        self.records.end_sync(&mut self.pages);
        self.device.synced();
        self.look_everywhere(index, Cause::SyncDropped, world);
        self.count_bitmap(index, world);
        let dirtied = world.dirtied_last();
        if dirtied != new {
            self.break_rule(rules::DIRTY_RATE_COUNTS_NEW, Some(index), Blame::Host, || {
                format!("the dirty rate counts {dirtied} pages, though the sync found {new} that were not in B")
            });
        }
    }

    pub(super) fn count_bitmap(&mut self, index: usize, world: &dyn Observed) {
        let (remaining, bits) = (world.remaining(), world.bitmap_count());
        if remaining != bits {
            self.break_rule(rules::N_EQUALS_POPCOUNT, Some(index), Blame::Host, || format!("N is {remaining}, but B has {bits} bits"));
        }
    }

    /// A slot is new: what its log begins with, or what was merged of the old one, will be sent, hinted or not.
    pub(super) fn slot_created(&mut self, range: PageRange, world: &dyn Observed) {
        for (at, bits) in self.pages.words(range) {
            let recorded = bits & (world.recorded(Level::K, at) | world.recorded(Level::D, at));
            self.pages.edit(at, |marks| marks.sending.need_not_send &= !recorded);
        }
    }

    pub(super) fn migration_state(&mut self, index: usize, to: MigrationStatus, world: &dyn Observed) {
        self.counter.migration_state(to);
        self.counter.free_pages(world.ram());
        match to {
            MigrationStatus::Setup => self.records.start_migration(&mut self.pages),
            MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::Failed
            | MigrationStatus::None => self.records.end_migration(),
            MigrationStatus::PostcopyDevice
            | MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => {}
            // The destination of a VM that was paused does not start: it is compared now.
            MigrationStatus::Completed if self.records.migrating => self.compare(index, world),
            MigrationStatus::Completed | MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device => {}
        }
    }

    /// The guest says that it gives pages up, or, where hints stay free, that they are free. Who says that of a page in use has not given it up.
    pub(super) fn expose_hint(&mut self, range: PageRange) {
        self.pages.edit_range(range, |marks, bits| {
            let free = bits & !marks.in_use;
            marks.hint_exposed |= free;
            marks.ever_hinted |= free;
            marks.hinted_in_use |= bits & !free;
        });
    }

    /// The host has found pages free by itself. Those that are, or that the guest has given up to be reported, count as if it had
    /// hinted them now; the others are as they were.
    pub(super) fn host_found(&mut self, range: PageRange, world: &dyn Observed) {
        let free = free_in(world.ram(), range);
        for (at, bits) in self.pages.words(range) {
            let is_free = |pfn: &Pfn| free.contains((pfn.0 - range.first.0) as usize);
            let free = pages_of(at, bits).filter(is_free).fold(0, |free, pfn| free | place(pfn).1);
            self.pages.edit(at, |marks| {
                let given_up = bits & (free | marks.report_exposed);
                marks.hint_exposed |= given_up;
                marks.ever_hinted = marks.ever_hinted & !bits | given_up;
            });
        }
    }

    /// A block has left the allocator. That counts only where hints stay free: else a hinted block is one that the driver has allocated.
    pub(super) fn guest_alloc(&mut self, range: PageRange) {
        if self.options.hints_stay_free {
            self.pages.edit_range(range, |marks, bits| marks.in_use |= bits);
        }
    }

    /// A block goes back to the allocator.
    pub(super) fn guest_free(&mut self, range: PageRange) {
        if self.options.hints_stay_free {
            self.pages.edit_range(range, |marks, bits| {
                marks.in_use &= !bits;
                marks.hinted_in_use &= !bits;
            });
        }
    }

    /// Whether a hint makes no page's contents meaningless: the guest left the page free, and will look at it.
    fn hints_excuse_nothing(&self) -> bool {
        self.options.hints_stay_free && self.options.free_pages_are_read
    }

    /// Why a write is lost that came behind the announcement of its page.
    fn reuse(&self) -> Cause {
        if self.options.hints_stay_free { Cause::HintOfThePast } else { Cause::EarlyReuse }
    }

    pub(super) fn expose_report(&mut self, range: PageRange) {
        self.pages.edit_range(range, |marks, bits| marks.report_exposed |= bits);
    }

    /// The guest tells a page as inflated: its balloon has to have it.
    pub(super) fn tell_inflated(&mut self, pfn: Pfn, world: &dyn Observed) {
        match guest_mm::is_offline(world.ram(), pfn) {
            Some(false) => self.pages.edit_page(pfn, |marks, bit| marks.mistold |= bit),
            Some(true) | None => self.pages.edit_page(pfn, |marks, bit| marks.mistold &= !bit),
        }
        self.inflate(pfn);
    }

    pub(super) fn inflate(&mut self, pfn: Pfn) {
        self.pages.edit_page(pfn, |marks, bit| marks.inflated |= bit & !marks.mistold);
    }

    pub(super) fn deflate(&mut self, pfn: Pfn) {
        self.pages.edit_page(pfn, |marks, bit| {
            marks.sending.deflated |= marks.inflated & bit;
            marks.inflated &= !bit;
        });
    }

    pub(super) fn report_taken(&mut self, range: PageRange) {
        self.pages.edit_range(range, |marks, bits| marks.sending.reported |= marks.report_exposed & bits);
    }

    pub(super) fn hint_start(&mut self, index: usize, id: CmdId) {
        if !self.device.start(id) {
            self.break_rule(rules::HINT_START_WAS_REQUESTED, Some(index), Blame::Host, || {
                format!("the device started round {id} without having requested it")
            });
        }
    }

    pub(super) fn round_starts(&mut self, index: usize, id: CmdId) {
        if id != self.id_read {
            let read = self.id_read;
            self.break_rule(rules::ROUND_HAS_THE_ID_READ, Some(index), Blame::Guest, || {
                format!("the driver opens a round under id {id}, though it has read {read}")
            });
        }
    }

    /// The device has an element in hand: an id must be the one that was told, and pages that the host found by itself count as hinted now.
    pub(super) fn hint_pop(&mut self, index: usize, head: u16, element: &HintElement, world: &dyn Observed) {
        self.device.pop(head, element);
        if let HintElement::Found(range) = element {
            self.host_found(*range, world);
        }
        let HintElement::Id(id) = *element else { return };
        if let Some(told) = self.device.hear(id) {
            self.break_rule(rules::EXPOSED_ID_IS_NOT_ALTERED, Some(index), Blame::Guest, || {
                format!("the device read {id} where the driver had told {told}: the buffer was altered while it was exposed")
            });
        }
    }

    /// Memory is plugged, or it is not any more.
    pub(crate) fn plug(&mut self, range: PageRange, plugged: bool) {
        self.pages
            .edit_range(range, |marks, bits| marks.unplugged = if plugged { marks.unplugged & !bits } else { marks.unplugged | bits });
    }

    pub(super) fn deflated_by_shrinker(&mut self, index: usize) {
        if self.shrinking {
            self.break_rule(rules::BALLOON_IS_NO_CACHE, Some(index), Blame::Guest, || {
                "the balloon deflates because a shrinker runs, though memory is not out".to_owned()
            });
        }
    }

    pub(super) fn odd_stats(&mut self, index: usize, odd: u32) {
        self.break_rule(rules::STATISTICS_ARE_TOLD, Some(index), Blame::Guest, || {
            format!("{odd} statistics have a tag that there is not, or that came before in their buffer")
        });
    }

    pub(super) fn guest_missing(&mut self, index: usize, free: u64, total: u64) {
        let rule = rules::MEMORY_COMES_BACK;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::Leak,
            page: None,
            write: None,
            doom: Some(index),
            blame: Blame::Guest,
            cause: None,
            what: format!("of the memory that a task noted {free} pages are not free any more, and {total} are not managed any more"),
        });
    }

    /// The VM is stopped to be saved: who asked for hints first has had them.
    pub(super) fn stopped_for_good(&mut self, index: usize) {
        if self.options.hints_first && self.device.is_open() {
            self.break_rule(rules::SNAPSHOT_BEHIND_ITS_HINTS, Some(index), Blame::Host, || {
                "the VM is stopped for a snapshot while its driver hints: what it would have given up is saved".to_owned()
            });
        }
    }

    pub(super) fn hint_push(&mut self, index: usize, head: u16) {
        if let Some(range) = self.device.left_out() {
            let rule = rules::EVERY_HINT_COUNTS;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::OverSend,
                page: Some(range.first),
                write: None,
                doom: Some(index),
                blame: Blame::Host,
                cause: None,
                what: format!("pages {range} of element {head} were hinted in an open round and passed over: they will be sent"),
            });
        }
        if !self.device.push(head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("head {head} of the hint queue was returned without having been taken")
            });
        }
    }

    pub(super) fn hint_ask(&mut self, index: usize, head: u16) {
        if !self.device.ask(head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("a request was written into head {head} of the hint queue, which was not lent for one")
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

    /// The guest's kernel is gone, and with it what it has said of its pages: what it was about to give up it has not, what its balloon had is nobody's, and
    /// no page is in use. What the host did of it stays done: contents that were given up before are missed by nobody until somebody writes the page.
    pub(super) fn machine_reset(&mut self) {
        self.pages.edit_range(self.pages.all(), |marks, _| {
            marks.sending.deflated |= marks.inflated;
            (marks.inflated, marks.mistold) = (0, 0);
            (marks.hint_exposed, marks.report_exposed, marks.ever_hinted) = (0, 0, 0);
            (marks.in_use, marks.hinted_in_use) = (0, 0);
        });
        (self.id_read, self.shrinking) = (CmdId(0), false);
    }

    /// Judges a hint: which pages it excuses, which it dooms, and whether it was right at all.
    pub(super) fn hint_apply(&mut self, index: usize, range: PageRange, id: CmdId, cleared: u64, world: &dyn Observed) {
        self.counter.hint_apply(cleared);
        self.device.judged(range);
        let outside = self.device.why_not(id);
        let in_round = outside.is_none();
        if let Some(reason) = outside {
            self.break_rule(rules::HINT_APPLIED_UNDER_ITS_ID, Some(index), Blame::Host, || {
                format!("hint {range} of round {id} was applied, but {reason}")
            });
        }
        let mut beyond = None;
        let excuses = !self.hints_excuse_nothing();
        for (at, bits) in self.pages.words(range) {
            let held = self.device.holds(at) & bits;
            beyond = beyond.or_else(|| pages_of(at, bits & !held).next());
            if !in_round {
                continue;
            }
            self.counter.hint_applied(at, held);
            let in_hand = self.records.held(at);
            let merged_since = self.device.merged_since();
            self.pages.edit(at, |marks| {
                let given_up = held & marks.hint_exposed;
                if excuses {
                    marks.sending.hinted |= given_up;
                }
                if excuses && !merged_since {
                    marks.sending.need_not_send |= given_up & !marks.sending.since_request & !in_hand;
                }
            });
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
        let (device, reuse, read) = (&self.device, self.reuse(), self.hints_excuse_nothing());
        let cause = |pfn: Pfn, marks: &Marks| {
            let (at, bit) = place(pfn);
            if !in_round {
                Cause::HintOutsideRound
            } else if device.holds(at) & bit == 0 {
                Cause::HintBeyondElement
            } else if device.found(at) & bit != 0 {
                match () {
                    () if marks.ever_hinted & bit == 0 => Cause::MistakenForFree,
                    // It still counts as given up: nobody has written it since.
                    () if read && marks.hint_exposed & bit != 0 => Cause::FoundPageRead,
                    () => Cause::WalkOvertaken,
                }
            } else if marks.hinted_in_use & bit != 0 {
                Cause::HintedInUse
            } else if read && marks.hint_exposed & bit != 0 {
                Cause::FreePageRead
            } else if marks.ever_hinted & bit != 0 {
                reuse
            } else {
                Cause::HintUnannounced
            }
        };
        self.records.look_range(&mut self.pages, widened(range), index, cause, world);
    }

    /// Judges a discard: the guest must have given the page up, and for a hint the device must be in a round.
    pub(super) fn host_discard(&mut self, index: usize, range: PageRange) {
        let in_round = self.device.is_open();
        // A host that discards what is hinted leaves its bitmaps alone: the page is sent, as zeros.
        self.pages.edit_range(range, |marks, bits| marks.sending.need_not_send &= !bits);
        for (at, bits) in self.pages.words(range) {
            let marks = *self.pages.marks(at);
            let in_rounds_hint = if in_round { marks.hint_exposed } else { 0 };
            let wronged = bits & !(marks.inflated | marks.report_exposed | in_rounds_hint | marks.dropped);
            self.pages.edit(at, |marks| marks.dropped |= wronged);
            let found = self.device.found(at);
            let (early, in_use) = if in_round { (marks.ever_hinted & !found, marks.hinted_in_use) } else { (0, 0) };
            let reuse = self.reuse();
            let cause = |bit| match () {
                () if in_use & bit != 0 => Some(Cause::HintedInUse),
                () if early & bit != 0 => Some(reuse),
                () => None,
            };
            pages_of(at, wronged).for_each(|pfn| self.drop_page(index, pfn, cause(place(pfn).1)));
        }
    }

    /// A page was dropped that the guest had not given up; `cause`: after it had been hinted all the same.
    fn drop_page(&mut self, index: usize, pfn: Pfn, cause: Option<Cause>) {
        self.lose(pfn);
        let detail = self.pages.detail(pfn);
        let mistold = self.pages.is(pfn, |marks| marks.mistold);
        let rom = self.options.rom && pfn == Pfn(0);
        let rule = rules::DISCARDED_PAGE_WAS_GIVEN_UP;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::LostPage,
            page: Some(pfn),
            write: detail.write.get(),
            doom: Some(index),
            blame: if rom {
                Blame::Host
            } else if mistold {
                Blame::Guest
            } else {
                cause.map_or(Blame::Host, Cause::blame)
            },
            cause: cause.map(Cause::name),
            what: if rom {
                format!("page {pfn} is ROM, and was dropped because the guest told it as inflated")
            } else if mistold {
                format!("page {pfn} was dropped because the guest told it as inflated, though its balloon does not have it")
            } else if let Some(cause) = cause {
                let (writer, at) = (detail.writer, micros(detail.write_at_ns));
                format!("page {pfn} was dropped after {writer} wrote it at {at} us: {}", cause.reason())
            } else {
                format!("page {pfn} was dropped though the guest had not given it up")
            },
        });
    }

    /// Lists a lost page, for reports.
    pub(super) fn lose(&mut self, pfn: Pfn) {
        if self.pages.keeps_details() {
            self.lost.push(pfn);
        }
    }

    /// Compares all pages, and says which are lost. From here the source's memory may go its own way.
    pub(super) fn compare(&mut self, index: usize, world: &dyn Observed) {
        self.records.drop_hand(&mut self.pages);
        let mut losses: Vec<Loss> = Vec::new();
        for (at, bits) in self.pages.words(self.pages.all()) {
            let marks = *self.pages.marks(at);
            // Excused pages that differ are only listed, for reports.
            let silent = if self.pages.keeps_details() { 0 } else { marks.excused() };
            let asked = bits & !marks.dropped & !silent & !self.not_there(at);
            let mut differing = asked & !world.destination_equals_at(at, asked);
            for pfn in pages_of(at, differing).filter(|pfn| self.is_only_input(*pfn, world)) {
                differing &= !place(pfn).1;
            }
            self.records.near_misses += u64::from((marks.sending.doomed & bits & !differing & !silent).count_ones());
            for pfn in pages_of(at, differing) {
                if let Some(excuse) = marks.excuse(place(pfn).1) {
                    self.excused.insert(pfn, excuse);
                    continue;
                }
                self.lose(pfn);
                let recorded = self.records.recorded(at, place(pfn).1, world) != 0;
                let loss = Loss::new(&self.pages, pfn, index, recorded, world);
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

    /// Returns what is broken when the run ends here, beside what was found on the way.
    pub(super) fn broken_at_rest(&self, held: u64, world: &dyn Observed) -> Vec<Violation> {
        let returned = self.device.held_head().map(|head| Violation {
            rule: rules::POPPED_HEAD_IS_RETURNED_ONCE,
            verdict: Verdict::BrokenRule,
            page: None,
            write: None,
            doom: None,
            blame: Blame::Host,
            cause: None,
            what: format!("head {head} was never returned"),
        });
        self.leak(held, world).into_iter().chain(returned).chain(self.kept_iothread(world)).collect()
    }

    /// An assigned device wrote: into the pages that the guest has, or into those that it had.
    pub(super) fn vfio_write(&mut self, index: usize, range: PageRange, world: &dyn Observed) {
        for pfn in range.pages().filter(|pfn| world.detached(*pfn)) {
            self.lose(pfn);
            let rule = rules::PINNED_PAGE_STAYS;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::LostPage,
                page: Some(pfn),
                write: Some(index),
                doom: Some(index),
                blame: Blame::Host,
                cause: None,
                what: format!(
                    "page {pfn} was discarded though an assigned device has it pinned: what the device writes there, the guest never sees"
                ),
            });
        }
    }

    /// The destination has refused what the source says of the device.
    pub(super) fn device_refused(&mut self, index: usize, message: &str) {
        self.break_rule(rules::DEVICE_STATE_IS_LOADED, Some(index), Blame::Host, || {
            format!("the destination does not load the device's state: {message}")
        });
    }

    /// The device goes on at the destination: what the source's had in hand must be in its hand, or taken again.
    pub(super) fn look_at_moved_queues(&mut self, index: usize, world: &dyn Observed) {
        let Some(queue) = world.destination_stuck_queue() else { return };
        let rule = rules::MOVED_BUFFERS_ARE_SERVED;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::Stall,
            page: None,
            write: None,
            doom: Some(index),
            blame: Blame::Host,
            cause: None,
            what: format!("a buffer of queue {queue} was taken at the source, and nobody at the destination will return it"),
        });
    }

    fn kept_iothread(&self, world: &dyn Observed) -> Option<Violation> {
        let references = world.iothread_references_left();
        (references > 0).then(|| Violation {
            rule: rules::UNPLUGGED_DEVICE_LETS_GO,
            verdict: Verdict::Leak,
            page: None,
            write: None,
            doom: None,
            blame: Blame::Host,
            cause: None,
            what: format!("the balloon is unplugged, and still holds {references} reference to its iothread"),
        })
    }

    fn leak(&self, held: u64, world: &dyn Observed) -> Option<Violation> {
        let done = self.device.is_done();
        let over = done || self.counter.has_migrated();
        if held == 0 || !over || !world.vm_running() || world.migration_status().is_running() {
            return None;
        }
        Some(Violation {
            rule: rules::HINTED_PAGES_COME_HOME,
            verdict: Verdict::Leak,
            page: None,
            write: None,
            doom: None,
            blame: if done { Blame::Guest } else { Blame::Host },
            cause: None,
            what: format!(
                "the guest still holds {held} hinted blocks, {} DONE",
                if done { "after" } else { "and the device has not said" }
            ),
        })
    }
}
