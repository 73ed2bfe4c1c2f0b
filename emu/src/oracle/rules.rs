//! The rules by name: what each says, where it comes from, what it can miss, and why it does not cry wolf.
//!
//! A rule's name stands in [`crate::outcome::Violation::rule`], in reports and in snapshots.

use std::collections::BTreeMap;

use host::fold::Fold;

use crate::outcome::Violation;

/// When the destination starts, every page of RAM has the source's bytes, unless it is excused.
///
/// Excused is a page that the guest has given up and not written since: hinted, and the hint applied while the device was in START of its own
/// id, in this migration; or held by the balloon, or deflated in this migration; or reported and the report taken in this migration.
/// "Written" means by a vCPU, by DMA or by a vhost backend. Source: the definition of live migration; VIRTIO 1.2 §5.5.6.5 for the excuse
/// (C34: a hinted page's contents are uninitialised), QEMU: migration/ram.c qemu_guest_free_page_hint().
///
/// A hint that takes nothing excuses no page of a guest that checks its free pages (`page_poison=1`): it reads what it left there.
///
/// Misses: any other difference in an excused page that the guest reads without having written it; a write of the VMM's own into a page that
/// the guest has given up. Cannot alarm falsely: it compares bytes of a stopped VM. The task mailboxes are compared without the
/// words that the scenario writes: those are input, not memory of the guest.
pub const DESTINATION_EQUALS_SOURCE: &str = "destination-equals-source";

/// Each write that was not yet sent stands in a record that will be looked at: K, D, V or B, in S between GET and merge, or in the
/// sender's hand between the take from B and the wire.
///
/// Source: QEMU's layering, migration/ram.c migration_bitmap_sync(), migration_bitmap_clear_dirty(). This rule finds the step that doomed a
/// page; it speaks up only through [`DESTINATION_EQUALS_SOURCE`], when the page really differs, since a later write may carry the lost
/// one along. Looked at after each event that can remove a record, from a migration's first sync to the destination's start.
///
/// Misses: nothing that ends in a loss, though the step named may be the destination's start when a record still stood there.
/// A record in K beside a bit in S that is already merged counts, because the next GET finds it if no CLEAR comes first; the CLEAR
/// is then the step that is named. That K is cleared only where S was set is no rule of its own: where breaking it matters, it is this one.
pub const UNSENT_WRITE_IS_RECORDED: &str = "unsent-write-is-recorded";

/// The host drops the contents only of pages that the guest has given up and not written since.
///
/// Source: VIRTIO 1.2 §5.5.6.5 (C40: the device may modify a hinted page only if the guest has not since the id was issued), Firecracker:
/// docs/ballooning.md. A page counts as given up from the announcement of its hint, report or inflation;
/// of its inflation only when the guest's memory map says that the balloon has it.
///
/// Misses: a page written within the guest's step that announces it. Cannot alarm falsely while the guest announces what it exposes.
pub const DISCARDED_PAGE_WAS_GIVEN_UP: &str = "discarded-page-was-given-up";

/// The device enters START only from REQUESTED, with the id that it requested, or again after the driver's own stop, before the next sync.
///
/// Source: QEMU: hw/virtio/virtio-balloon.c get_free_page_hints(), fixed in 5.1 (20a4da0f23). The id that the device took last must be that one (1a83e0b9c4).
/// Misses: a second start after the driver's own stop, which QEMU ignores and Firecracker takes; no harm comes of it in the same round. Cannot alarm falsely: only the device's own announcements are compared.
pub const HINT_START_WAS_REQUESTED: &str = "hint-start-was-requested";

/// A hint is applied only from a popped element, while the device is in START with that id, and no sync has come since it started.
///
/// Source: VIRTIO 1.2 §5.5.6.5 (C37, C39); QEMU: virtio_balloon_free_page_stop() before each sync.
/// Misses: a hint that the guest exposed under an older id, when it is popped after the newer one: a queue in order excludes that, unless the driver rewrites
/// a start buffer that is still exposed, as Linux does; then the loss shows as [`DESTINATION_EQUALS_SOURCE`].
/// Cannot alarm falsely: a correct device leaves START before a sync, and starts only what it requested.
pub const HINT_APPLIED_UNDER_ITS_ID: &str = "hint-applied-under-its-id";

/// N, the number of pages to send, is the number of bits in B.
///
/// Source: QEMU: migration/ram.c `migration_dirty_pages`. Looked at after each sync, each slice and each hint, so it misses a drift that is
/// undone in between. Cannot alarm falsely: the engine changes both in one step.
pub const N_EQUALS_POPCOUNT: &str = "n-equals-popcount";

/// When the channels have been flushed, every page that was taken from B is on its way.
///
/// Source: QEMU: migration/multifd.c multifd_send_sync_main(): what follows may count on the older copy being read. Looked at when the flush is
/// over. Cannot alarm falsely: the migration thread has no page in hand then.
pub const FLUSHED_PAGES_ARE_SENT: &str = "flushed-pages-are-sent";

/// The dirty rate counts the pages that a sync has found newly dirty, and no others.
///
/// Source: QEMU: migration/ram.c `num_dirty_pages_period`, fb6135807f. It is what auto-converge goes by. Looked at after each sync. Cannot alarm falsely:
/// the engine counts both in one step.
pub const DIRTY_RATE_COUNTS_NEW: &str = "dirty-rate-counts-new-pages";

/// A head that the device took from the hint queue is returned, and returned once; and the guest collects each buffer once.
///
/// Source: VIRTIO 1.2 §2.7.8, §2.7.14. Forgotten when the driver resets the device. Misses: heads of other queues on the device's side.
pub const POPPED_HEAD_IS_RETURNED_ONCE: &str = "popped-head-is-returned-once";

/// The device reads from an id's buffer what the driver told when it exposed that buffer.
///
/// Source: VIRTIO 1.2 §2.7.13: what is exposed is the device's until it has used it. Linux breaks it where the start of one round is still exposed when the
/// next one opens (see `docs/findings`). Misses: other buffers, and a buffer that is altered and read with its old bytes.
/// Cannot alarm falsely: both sides announce what they wrote and read.
pub const EXPOSED_ID_IS_NOT_ALTERED: &str = "exposed-id-is-not-altered";

/// A page that the host knew it need not send is not sent.
///
/// That is a page hinted in START of its own id by a host that clears its bitmaps then, and not written by the guest's side since before the
/// sync that opened the round. A host that discards instead (profile firecracker) knows nothing: it sends the page, as zeros.
/// Source: QEMU 3143577d6a. Misses: pages written in the sync itself, and rounds in which another log user merged K (its GET leaves old
/// bits in D); and pages of which a store was recorded, whether or not it was made before the VM stopped; all may be sent by a correct host,
/// too. Cannot alarm falsely: everything that was recorded before the sync has been merged
/// into B, and the hint cleared B and the chunk's K.
pub const HINTED_PAGE_IS_NOT_SENT: &str = "hinted-page-is-not-sent";

/// Memory that is not plugged is not sent.
///
/// Source: VIRTIO 1.2 §5.15 (unplugged memory has no contents that anybody may rely on), QEMU: migration/ram.c ramblock_dirty_bitmap_clear_discarded_pages(): to
/// read it alone may populate it. Misses: pages of it that somebody has written since the migration began, wrongly, which QEMU sends like any other.
/// Cannot alarm falsely: what was recorded before is merged by the first sync, behind which all of it is left out.
pub const UNPLUGGED_MEMORY_IS_NOT_SENT: &str = "unplugged-memory-is-not-sent";

/// Of each element's pages the device tells what it did: it takes them as hints, or refuses them.
///
/// Source: VIRTIO 1.2 §5.5.6.5; QEMU 0fe7245d8b. Looked at when an element is returned while its round is open. Misses: elements that are returned outside a
/// round, where nothing counts. Cannot alarm falsely: a device that breaks refuses the whole element.
pub const EVERY_HINT_COUNTS: &str = "every-hint-counts";

/// A page that an assigned device has pinned stays where it is: what the device writes, the guest sees.
///
/// Source: QEMU f59489423a. Looked at when the device writes. Misses: what it read meanwhile. Cannot alarm falsely: the VMM knows what it has discarded.
pub const PINNED_PAGE_STAYS: &str = "pinned-page-stays";

/// The destination loads what the source has written of the device.
///
/// Source: QEMU 243a9284a9. Cannot alarm falsely: source and destination are of one make here.
pub const DEVICE_STATE_IS_LOADED: &str = "device-state-is-loaded";

/// A buffer that the device has in hand when its VM moves is in the hand of the destination's device, or is taken again.
///
/// Source: QEMU 4a1e48beca. Looked at when the destination starts behind the last page, by the indices of each queue. Misses: postcopy, where the ring may
/// still be under way then. Cannot alarm falsely while the ring that arrived is the source's; one that did not is a lost page.
pub const MOVED_BUFFERS_ARE_SERVED: &str = "moved-buffers-are-served";

/// A balloon that is unplugged holds nothing of the machine any more.
///
/// Source: QEMU 105aef9c94. Looked at when the run ends at rest. Misses: whatever is not counted. Cannot alarm falsely.
pub const UNPLUGGED_DEVICE_LETS_GO: &str = "unplugged-device-lets-go";

/// When the guest runs on after a migration, or after DONE, it holds no hinted block once it is at rest.
///
/// Source: VIRTIO 1.2 §5.5.6.5 (C36, C42); QEMU dd8eeb9671. Looked at when the run ends at rest, with a running VM and no migration under way.
/// The host's fault when it has not said DONE, else the guest's.
pub const HINTED_PAGES_COME_HOME: &str = "hinted-pages-come-home";

/// A task finds as much memory, free and in all, as it noted before, when it holds what it held then.
///
/// What it compares is Linux's MemFree, with what lies on per-CPU lists, and MemTotal (mm/show_mem.c si_meminfo()). Whether it holds the same is the scenario's
/// business. Misses: memory that another has freed meanwhile makes up for what is missing.
pub const MEMORY_COMES_BACK: &str = "guest-memory-comes-back";

/// The driver opens a round under the id that it has read last.
///
/// Source: VIRTIO 1.2 §5.5.6.5. Misses: an id that it has read and the device has not shown. Cannot alarm falsely while the driver reads the id and
/// exposes it in one work.
pub const ROUND_HAS_THE_ID_READ: &str = "guest-round-has-the-id-read";

/// A balloon that may deflate when memory is out does not deflate because shrinkers run.
///
/// Source: VIRTIO 1.2 §5.5.6.1 (F_DEFLATE_ON_OOM), Linux da10329cb057. Looked at from a shrinker's start to what the driver does next: it writes its size, the OOM
/// notifiers run, or a work or a task's operation ends. Misses: a deflation behind those. Cannot alarm falsely as long as the target falls outside of that.
pub const BALLOON_IS_NO_CACHE: &str = "guest-balloon-is-no-cache";

/// A buffer of statistics has each statistic once, under a tag that there is.
///
/// Source: VIRTIO 1.2 §5.5.6.3 (C22: the first buffer has a record already), Linux fc8653228c85. Misses: wrong values, and a buffer without any. Cannot alarm falsely
/// while the driver knows no tags beyond those of [`wire::balloon::stat`].
pub const STATISTICS_ARE_TOLD: &str = "guest-statistics-are-told";

/// A page is placed in a running guest where it is missing, and nowhere else.
///
/// Source: Linux fs/userfaultfd.c (UFFDIO_COPY refuses a page that is there), QEMU: migration/postcopy-ram.c postcopy_place_page(). Cannot alarm falsely: a
/// page comes to be missing again only when the host drops it.
pub const PLACED_ONCE: &str = "placed-once";

/// The source sends a page that is asked for, if the destination has not got it meanwhile.
///
/// Source: QEMU migration/ram.c get_queued_page() drops requests for pages that are not in B, and relies on their having been sent. Misses: an answer
/// that is lost later. Cannot alarm falsely: the page stands in B, in the sender's hand, on the wire, or at the destination.
pub const REQUEST_IS_ANSWERED: &str = "request-is-answered";

/// While the source sends pages, those that somebody at the destination waits for are asked for.
///
/// Source: QEMU 0c26781c09. Looked at whenever the source takes a page. Cannot alarm falsely: who finds a page missing asks for it in the same step.
pub const WAITED_PAGE_IS_ASKED_FOR: &str = "waited-page-is-asked-for";

/// A background snapshot holds each page as it was at the snapshot's moment.
///
/// Source: QEMU docs/devel/migration (background-snapshot: the state of the VM at the time of the command). Looked at when a page is read to be saved, for
/// writes of whoever writes. Cannot alarm falsely: who writes to a page that is not saved waits.
pub const SNAPSHOT_IS_OF_ITS_START: &str = "snapshot-is-of-its-start";

/// Locks are taken in one order, that of [`host::event::LockId::ALL`]: no lock while one is held that nests in it.
///
/// Source: QEMU 60be634079 for RCU and the big lock; for the others the order in which the functions take them that are modelled (`docs/locks.md`). A run that
/// breaks the order may end well, when nobody takes the two locks the other way round at that moment; it counts as a deadlock all the same. Misses: a circle through what is no
/// lock, which is found when it closes. Cannot alarm falsely: the order is one of all runs, and a list has no circle.
pub const LOCKS_HAVE_AN_ORDER: &str = "locks-have-an-order";

/// A snapshot that says that it is complete has the devices' state.
pub const SNAPSHOT_IS_WHOLE: &str = "snapshot-is-whole";

/// A snapshot that waits for a round of hints is taken behind it.
///
/// Source: Firecracker docs/ballooning.md, whose DONE comes when the driver has reported all that it can. Misses: a driver that hints less than it could.
/// Cannot alarm falsely: between the driver's id and its stop sign it hints.
pub const SNAPSHOT_BEHIND_ITS_HINTS: &str = "snapshot-behind-its-hints";

/// The VM is stopped for the switchover by what a sync has just found, not by what is left of an older one.
///
/// Source: QEMU: migration/migration.c migration_iteration_run(), 455a6167f2. Else the downtime is as long as it takes to send whatever was dirtied since.
/// Misses: a switchover of a VM that stands still already, which dirties nothing. Cannot alarm falsely: a sync and a slice are told as they come.
pub const SWITCHOVER_FOLLOWS_A_SYNC: &str = "switchover-follows-a-sync";

/// vCPUs are slowed down, or more so, only once two more periods have ended with more bytes dirtied than the share that is allowed of those sent.
///
/// Source: QEMU: migration/ram.c migration_trigger_throttle(). Periods and bytes are counted here from events.
/// Misses: a guest that is not slowed down though it should be. Cannot alarm falsely: both sides count the same events.
pub const THROTTLE_IS_CALLED_FOR: &str = "throttle-is-called-for";

/// A vCPU that is told to sleep at its full ring makes no move before its sleep is over, unless the VM stops or goes elsewhere.
///
/// Source: QEMU: system/dirtylimit.c dirtylimit_vcpu_execute(). Who sleeps less dirties more than the limit allows.
/// Misses: a sleep that is too short from the start. Cannot alarm falsely: the sleep's beginning and length are told.
pub const LIMIT_IS_SLEPT_OUT: &str = "limit-is-slept-out";

/// The limits that a migration has set are lifted when it ends at its source.
///
/// Source: QEMU: migration/migration.c migration_cancel() means to; docs/devel/migration/dirty-limit.rst. Else a guest whose migration was given up stays slow.
/// Misses: limits that it has taken over from an operator. Cannot alarm falsely: what is set and lifted is told, and by whom.
pub const LIMITS_END_WITH_MIGRATION: &str = "limits-end-with-migration";

/// Behind a sync that leaves no more than what an operator's bandwidth carries in the downtime, the VM is stopped, and no other slice begins.
///
/// Source: QEMU: migration/migration.c migration_update_counters(), migration_iteration_run(). Else a migration goes on that could have ended.
/// Misses: whatever comes before the first window of 100 ms is over, until which the threshold is 0. Cannot alarm falsely: it only counts from then on.
pub const SWITCHOVER_BY_WHAT_WAS_TOLD: &str = "switchover-by-what-was-told";

/// A DONE that the device has said behind the VM's stop is not taken back before the device goes to the destination.
///
/// Source: QEMU: hw/virtio/virtio-balloon.c, its saved `free_page_hint_status`: the driver reads the id at the destination, and only DONE gives its pages back.
/// Misses: a device that never said it. Cannot alarm falsely: both are told as they happen.
pub const DONE_GOES_ALONG: &str = "done-goes-along";

/// Violations of one rule that are listed.
const LISTED_MAX: usize = 16;

/// Violations in the order of discovery. Of each rule the first 16 are listed and the rest is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Violations {
    list: Vec<Violation>,
    counts: BTreeMap<&'static str, usize>,
}

impl Violations {
    /// Adds a violation; `make` writes it down only if it is listed.
    pub(crate) fn add(&mut self, rule: &'static str, make: impl FnOnce() -> Violation) {
        let count = self.counts.entry(rule).or_default();
        *count += 1;
        if *count <= LISTED_MAX {
            let violation = make();
            assert_eq!(violation.rule, rule);
            self.list.push(violation);
        }
    }

    /// Returns the violations; the last one listed of a rule says how many more there were.
    pub(crate) fn finish(mut self) -> Vec<Violation> {
        for (rule, count) in self.counts {
            if count > LISTED_MAX {
                let last = self.list.iter_mut().rev().find(|violation| violation.rule == rule).expect("listed before counted");
                last.what.push_str(&format!("; and {} more of this rule", count - LISTED_MAX));
            }
        }
        self.list
    }

    /// Adds to a hash which rules are broken how, in the order of discovery; how often and where is only reported.
    pub(crate) fn fold(&self, tag: u64, fold: &mut Fold) {
        let kinds = |violation: &Violation| (violation.rule, violation.verdict, violation.blame, violation.cause);
        let mut seen = Vec::new();
        for kind in self.list.iter().map(kinds) {
            if !seen.contains(&kind) {
                fold.part(tag, seen.len() as u64, &kind);
                seen.push(kind);
            }
        }
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
