//! Events become numbers.

use host::event::{Actor, CmdId, MigrationStatus, PrecopyReason};

use super::End;
use crate::outcome::Facts;

/// A zero page's record: header and fill byte (QEMU: migration/ram.c save_zero_page()).
const ZERO_RECORD_BYTES: u64 = 9;
/// A page's record: header and contents (QEMU: migration/ram.c save_normal_page()).
const NORMAL_RECORD_BYTES: u64 = 8 + 4096;

/// Numbers so far. What counts pages, blocks, bytes, syncs and downtime belongs to the last migration; the rest to the whole run.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    facts: Facts,
    pages: u64,
    pages_sent_once: u64,
    vm_stop_ns: u64,
    syncing: bool,
}

impl Counter {
    /// Returns the numbers of a run in which nothing has happened: the configuration shows id 0.
    pub(crate) fn new(pages: u64) -> Self {
        let facts = Facts { cmd_ids: vec![CmdId(wire::balloon::CMD_ID_STOP)], ..Facts::default() };
        Self { facts, pages, pages_sent_once: 0, vm_stop_ns: 0, syncing: false }
    }

    /// A migration's status changed.
    pub(crate) fn migration_state(&mut self, to: MigrationStatus) {
        if to == MigrationStatus::Setup {
            let Facts { time_ns, insns, steps, cmd_ids, destination_cmd_id, migrations, held_blocks, .. } = std::mem::take(&mut self.facts);
            self.facts = Facts { time_ns, insns, steps, cmd_ids, destination_cmd_id, migrations, held_blocks, ..Facts::default() };
            self.facts.migrations.push(to);
            self.pages_sent_once = 0;
        } else if let Some(last) = self.facts.migrations.last_mut() {
            *last = to;
        }
    }

    /// A page goes on the wire, for the first time in this migration or again.
    pub(crate) fn send(&mut self, zero: bool, first: bool) {
        if zero {
            self.facts.pages_zero += 1;
            self.facts.bytes_sent += ZERO_RECORD_BYTES;
        } else {
            self.facts.pages_normal += 1;
            self.facts.bytes_sent += NORMAL_RECORD_BYTES;
        }
        if first {
            self.pages_sent_once += 1;
        } else {
            self.facts.pages_resent += 1;
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

    /// The notifiers are told.
    pub(crate) fn notify(&mut self, reason: PrecopyReason) {
        match reason {
            PrecopyReason::BeforeBitmapSync => self.syncing = true,
            PrecopyReason::AfterBitmapSync => self.syncing = false,
            PrecopyReason::Setup | PrecopyReason::Complete | PrecopyReason::Cleanup => {}
        }
    }

    /// The configuration announces an id.
    ///
    /// Counted is what a driver can see that reads the field at each configuration interrupt and is never faster than a sync: the
    /// opening of a round, DONE, and a STOP that lasts. Not counted are the two zeros that the field also passes through: in START it reads
    /// 0 without an interrupt, and the STOP before a sync is followed by the next id, or by DONE, as soon as the sync is over. So a precopy
    /// of two rounds gives `0, 80000001, 80000002, 1`, which is what a driver under QEMU 10.0.2 was measured to see.
    pub(crate) fn announce(&mut self, id: CmdId) {
        if self.facts.cmd_ids.last() != Some(&id) {
            self.facts.cmd_ids.push(id);
        }
    }

    /// The device stopped: announced, unless it is the guest's own stop sign (no interrupt) or the stop before a sync (does not last).
    pub(crate) fn hint_stop(&mut self, by: Actor) {
        if by != Actor::Iothread && !self.syncing {
            self.announce(CmdId(wire::balloon::CMD_ID_STOP));
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
        let pages_skipped = if self.has_migrated() { self.pages - self.pages_sent_once } else { 0 };
        let End { time_ns, insns, steps, at_rest: _ } = end;
        Facts { time_ns, insns, steps, held_blocks, pages_skipped, ..self.facts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(counter: &Counter) -> Vec<u32> {
        counter.facts.cmd_ids.iter().map(|id| id.0).collect()
    }

    fn sync(counter: &mut Counter, then: u32) {
        counter.notify(PrecopyReason::BeforeBitmapSync);
        counter.hint_stop(Actor::Migration);
        counter.notify(PrecopyReason::AfterBitmapSync);
        counter.announce(CmdId(then));
    }

    /// The measured traces of the configuration field: precopy; paused VM; cancel and a second migration.
    #[test]
    fn announced_ids_are_the_measured_ones() {
        let mut precopy = Counter::new(1);
        sync(&mut precopy, 0x8000_0001);
        precopy.hint_stop(Actor::Iothread);
        sync(&mut precopy, 0x8000_0002);
        sync(&mut precopy, 1);
        assert_eq!(ids(&precopy), [0, 0x8000_0001, 0x8000_0002, 1]);

        let mut paused = Counter::new(1);
        sync(&mut paused, 1);
        assert_eq!(ids(&paused), [0, 1]);

        let mut twice = Counter::new(1);
        sync(&mut twice, 0x8000_0001);
        twice.announce(CmdId(1));
        sync(&mut twice, 0x8000_0002);
        twice.announce(CmdId(1));
        assert_eq!(ids(&twice), [0, 0x8000_0001, 1, 0x8000_0002, 1]);
    }

    #[test]
    fn a_stop_outside_a_sync_is_seen() {
        let mut counter = Counter::new(1);
        sync(&mut counter, 0x8000_0001);
        counter.hint_stop(Actor::MainLoop);
        assert_eq!(ids(&counter), [0, 0x8000_0001, 0]);
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
        let facts = counter.finish(End::default(), 0);
        assert_eq!((facts.pages_normal, facts.pages_zero, facts.pages_resent, facts.pages_skipped), (1, 1, 1, 7));
        assert_eq!(facts.bytes_sent, 9 + 4104);
        assert_eq!(facts.migrations, [MigrationStatus::Cancelled, MigrationStatus::Setup]);
    }
}
