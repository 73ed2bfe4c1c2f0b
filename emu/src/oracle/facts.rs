//! Events become numbers.

use host::event::{CmdId, MigrationStatus, Pfn};
use host::memory::GuestRam;

use super::End;
use super::guest_mm::FreeCounts;
use super::pages::place;
use crate::outcome::Facts;

/// A zero page's record: header and fill byte (QEMU: migration/ram.c save_zero_page()).
const ZERO_RECORD_BYTES: u64 = 9;
/// A page's record: header and contents (QEMU: migration/ram.c save_normal_page()).
const NORMAL_RECORD_BYTES: u64 = 8 + 4096;

/// What precedes a difference: header, encoding, length (QEMU: save_xbzrle_page()).
const DELTA_HEADER_BYTES: u64 = 8 + 1 + 2;

/// Numbers so far. What counts pages, blocks, bytes, syncs and downtime belongs to the last migration; the rest to the whole run.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    facts: Facts,
    pages: u64,
    pages_sent_once: u64,
    vm_stop_ns: u64,
    /// A word for each 64 pages. Empty where only reports would tell: they need not be kept.
    hinted: Vec<Hinted>,
    /// Known from the driver's being up on.
    free: Option<FreeCounts>,
}

/// What this migration did with pages whose hint was applied in it: a bit for each of 64 pages.
#[derive(Debug, Clone, Copy, Default)]
struct Hinted {
    applied: u64,
    /// Sent behind that, written since the guest announced the hint.
    written: u64,
    /// Sent behind that all the same.
    wrongly: u64,
}

impl Counter {
    /// Returns the numbers of a run in which nothing has happened: the configuration shows id 0.
    pub(crate) fn new(pages: u64) -> Self {
        let facts = Facts { cmd_ids: vec![CmdId(wire::balloon::CMD_ID_STOP)], ..Facts::default() };
        let hinted = vec![Hinted::default(); usize::try_from(pages.div_ceil(64)).expect("64-bit host")];
        Self { facts, pages, pages_sent_once: 0, vm_stop_ns: 0, hinted, free: None }
    }

    /// Drops what only reports tell of each page, and keeps no more of it.
    pub(crate) fn drop_details(&mut self) {
        self.hinted = Vec::new();
    }

    /// A migration's status changed.
    pub(crate) fn migration_state(&mut self, to: MigrationStatus) {
        if to == MigrationStatus::Setup {
            let Facts { cmd_ids, destination_cmd_id, migrations, free_pages_min, free_pages_max_order_min, .. } =
                std::mem::take(&mut self.facts);
            let first = migrations.is_empty();
            self.facts = Facts { cmd_ids, destination_cmd_id, migrations, ..Facts::default() };
            if !first {
                (self.facts.free_pages_min, self.facts.free_pages_max_order_min) = (free_pages_min, free_pages_max_order_min);
            }
            self.facts.migrations.push(to);
            self.pages_sent_once = 0;
            self.hinted.fill(Hinted::default());
        } else if let Some(last) = self.facts.migrations.last_mut() {
            *last = to;
        }
    }

    /// A page goes on the wire as a difference of that many bytes.
    pub(crate) fn send_delta(&mut self, len: u64, first: bool) {
        self.send_bytes(DELTA_HEADER_BYTES + len, first);
        self.facts.pages_normal += 1;
    }

    /// A page goes on the wire, for the first time in this migration or again.
    pub(crate) fn send(&mut self, zero: bool, first: bool) {
        if zero {
            self.facts.pages_zero += 1;
            self.send_bytes(ZERO_RECORD_BYTES, first);
        } else {
            self.facts.pages_normal += 1;
            self.send_bytes(NORMAL_RECORD_BYTES, first);
        }
    }

    fn send_bytes(&mut self, bytes: u64, first: bool) {
        self.facts.bytes_sent += bytes;
        if first {
            self.pages_sent_once += 1;
        } else {
            self.facts.pages_resent += 1;
        }
    }

    /// A page goes on the wire; `given_up`: a hint of it was applied, and the guest has not written it since it announced that.
    pub(crate) fn send_hinted(&mut self, pfn: Pfn, given_up: bool) {
        let (at, bit) = place(pfn);
        if let Some(hinted) = self.hinted.get_mut(at as usize).filter(|hinted| hinted.applied & bit != 0) {
            *(if given_up { &mut hinted.wrongly } else { &mut hinted.written }) |= bit;
        }
    }

    /// A hint of these pages of a word was applied.
    pub(crate) fn hint_applied(&mut self, at: u64, bits: u64) {
        if let Some(hinted) = self.hinted.get_mut(at as usize) {
            hinted.applied |= bits;
        }
    }

    /// The guest's driver is up.
    pub(crate) fn ready(&mut self, ram: &GuestRam) {
        if self.free.is_none() && !self.hinted.is_empty() {
            self.free = FreeCounts::of(ram);
            self.free_pages(ram);
        }
    }

    /// The guest may have allocated or freed.
    pub(crate) fn free_pages(&mut self, ram: &GuestRam) {
        let Some(free) = &self.free else { return };
        let Facts { free_pages_min, free_pages_max_order_min, .. } = &mut self.facts;
        for (least, now) in [free_pages_min, free_pages_max_order_min].into_iter().zip(free.read(ram)) {
            *least = Some(least.map_or(now, |least| least.min(now)));
        }
    }

    /// The guest hints a block.
    pub(crate) fn hint(&mut self) {
        self.facts.hints += 1;
    }

    /// A hint took pages out of B.
    pub(crate) fn hint_apply(&mut self, cleared: u64) {
        self.facts.pages_hinted += cleared;
    }

    /// A sync.
    pub(crate) fn sync(&mut self) {
        self.facts.rounds += 1;
    }

    /// The driver has read an id, or the device says DONE.
    ///
    /// What a driver reads is what counts: the field also passes through values that nobody sees, such as the 0 of START, or an id whose
    /// round ends before the guest has woken up. DONE counts without a reader, since the VM may be stopped for good by then. So a precopy
    /// whose second round the guest still sees gives `0, 80000001, 80000002, 1`, as measured under QEMU 10.0.2.
    pub(crate) fn cmd_id(&mut self, id: CmdId) {
        if self.facts.cmd_ids.last() != Some(&id) {
            self.facts.cmd_ids.push(id);
        }
    }

    /// The destination received the device's state.
    pub(crate) fn destination_device(&mut self, id: CmdId) {
        self.facts.destination_cmd_id = Some(id);
    }

    /// The VM stops.
    pub(crate) fn vm_stop(&mut self, at_ns: u64) {
        self.vm_stop_ns = at_ns;
    }

    /// The destination starts.
    pub(crate) fn destination_start(&mut self, at_ns: u64) {
        self.facts.downtime_ns = at_ns.saturating_sub(self.vm_stop_ns);
    }

    /// Returns whether a migration was ever started.
    pub(crate) fn has_migrated(&self) -> bool {
        !self.facts.migrations.is_empty()
    }

    /// Returns the numbers at the end of the run.
    pub(crate) fn finish(self, end: End, held_blocks: u64) -> Facts {
        assert!(self.pages_sent_once <= self.pages, "{} of {} pages sent", self.pages_sent_once, self.pages);
        // What a migration that did not end well left unsent was not skipped.
        let completed = self.facts.migrations.last() == Some(&MigrationStatus::Completed);
        let pages_skipped = if completed { self.pages - self.pages_sent_once } else { 0 };
        let End { time_ns, insns, steps, at_rest: _, irq_off_insns_max, irq_off_in } = end;
        let pages = |of: fn(&Hinted) -> u64| self.hinted.iter().map(|hinted| u64::from(of(hinted).count_ones())).sum();
        let (pages_wrongly_resent, pages_resent_hinted) = (pages(|hinted| hinted.wrongly), pages(|hinted| hinted.written));
        Facts {
            time_ns,
            insns,
            steps,
            held_blocks,
            pages_skipped,
            pages_wrongly_resent,
            pages_resent_hinted,
            irq_off_insns_max,
            irq_off_in,
            ..self.facts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(counter: &Counter) -> Vec<u32> {
        counter.facts.cmd_ids.iter().map(|id| id.0).collect()
    }

    /// The measured traces: precopy; paused VM; cancel and a second migration. A driver reads each id twice.
    #[test]
    fn repeated_reads_count_once() {
        let mut counter = Counter::new(1);
        for id in [0x8000_0001, 0x8000_0001, 1, 0x8000_0002, 0x8000_0002, 1] {
            counter.cmd_id(CmdId(id));
        }
        assert_eq!(ids(&counter), [0, 0x8000_0001, 1, 0x8000_0002, 1]);
    }

    #[test]
    fn page_counts_are_the_last_migrations() {
        let mut counter = Counter::new(8);
        counter.migration_state(MigrationStatus::Setup);
        counter.send(false, true);
        counter.migration_state(MigrationStatus::Cancelled);
        counter.migration_state(MigrationStatus::Setup);
        counter.send(true, true);
        counter.send(false, false);
        let unfinished = counter.clone().finish(End::default(), 0);
        assert_eq!(unfinished.pages_skipped, 0, "nothing is skipped by a migration that is not over");
        counter.migration_state(MigrationStatus::Completed);
        let facts = counter.finish(End::default(), 0);
        assert_eq!((facts.pages_normal, facts.pages_zero, facts.pages_resent, facts.pages_skipped), (1, 1, 1, 7));
        assert_eq!(facts.bytes_sent, 9 + 4104);
        assert_eq!(facts.migrations, [MigrationStatus::Cancelled, MigrationStatus::Completed]);
    }

    #[test]
    fn pages_sent_behind_their_hint_are_told_by_whether_they_were_written_and_count_once() {
        let mut counter = Counter::new(128);
        counter.migration_state(MigrationStatus::Setup);
        counter.send_hinted(Pfn(70), true);
        counter.hint_applied(1, 0b1111 << 6);
        for (pfn, given_up) in [(70, true), (70, true), (71, false), (72, false), (72, true), (80, false)] {
            counter.send_hinted(Pfn(pfn), given_up);
        }
        let facts = counter.clone().finish(End::default(), 0);
        assert_eq!((facts.pages_wrongly_resent, facts.pages_resent_hinted), (2, 2));
        counter.migration_state(MigrationStatus::Setup);
        counter.send_hinted(Pfn(70), true);
        assert_eq!(counter.finish(End::default(), 0).pages_wrongly_resent, 0, "each migration for itself");
    }
}
