//! Each rule: the good course of events is silent, the bad one is caught, with the right step and the right blame.

use host::event::{Actor, CmdId, Event, HintElement, HintStatus, MigrationStatus, PageRange, PrecopyReason};
use proptest::prelude::*;

use super::fake::{Bench, Log, PAGES, p};
use super::rules;
use crate::outcome::{Blame, Verdict, Violation};

const CPU: Actor = Actor::Vcpu(0);
const LOGS: [Log; 3] = [Log::ManualClear, Log::GetClears, Log::Tcg];

fn block(first: u64) -> PageRange {
    PageRange::new(p(first), 8)
}

fn silent(bench: Bench) {
    let findings = bench.finish();
    assert_eq!(findings.violations, []);
    assert_eq!(findings.lost, []);
}

/// The only loss of a run.
fn loss(bench: Bench) -> Violation {
    let violations = bench.finish().violations;
    let lost: Vec<_> = violations.iter().filter(|v| v.verdict == Verdict::LostPage).collect();
    assert_eq!(lost.len(), 1, "{violations:?}");
    lost[0].clone()
}

fn broken(bench: Bench) -> Vec<&'static str> {
    let violations = bench.finish().violations;
    violations.iter().filter(|v| v.verdict == Verdict::BrokenRule).map(|v| v.rule).collect()
}

#[test]
fn a_plain_migration_with_writers_of_all_kinds_is_silent() {
    for log in LOGS {
        let mut bench = Bench::new(log);
        bench.migrate();
        bench.write(p(3), CPU);
        bench.send_all();
        bench.write(p(3), CPU);
        bench.write(p(9), Actor::Dma);
        bench.write(p(10), Actor::Vhost);
        bench.sync();
        bench.send_all();
        bench.write(p(4), CPU);
        bench.complete();
        let findings = bench.finish();
        assert_eq!(findings.violations, []);
        assert_eq!(findings.facts.rounds, 3);
        assert_eq!(findings.facts.pages_normal, PAGES + 4);
        assert_eq!(findings.facts.pages_resent, 4);
        assert_eq!(findings.facts.cmd_ids, [0, 0x8000_0001, 0x8000_0002, 1].map(CmdId));
        assert_eq!(findings.facts.destination_cmd_id, Some(CmdId(1)));
    }
}

#[test]
fn a_hinted_page_is_excused_until_it_is_written() {
    for log in LOGS {
        let mut bench = Bench::new(log);
        bench.migrate();
        bench.hint_round(block(16));
        bench.send_all();
        bench.write(p(17), CPU);
        bench.complete();
        let host = |pfn: u64, bench: &Bench| bench.host.there[pfn as usize].is_some();
        assert!(host(17, &bench) && !host(16, &bench));
        let findings = bench.finish();
        assert_eq!(findings.violations, []);
        assert_eq!(findings.excused.len(), 7);
        assert_eq!(findings.facts.pages_hinted, 8);
        assert_eq!(findings.facts.pages_skipped, 7);
    }
}

/// The measured matrix of hints against bitmaps. W: a write after the last sync; H: the hint is applied.
#[test]
fn a_late_hint_loses_the_page_only_where_the_real_one_does() {
    for (log, cleared_before, lost) in
        [(Log::Tcg, false, false), (Log::GetClears, false, false), (Log::ManualClear, true, false), (Log::ManualClear, false, true)]
    {
        let mut bench = Bench::new(log);
        bench.migrate();
        bench.send_all();
        bench.write(p(20), CPU);
        bench.sync();
        if cleared_before {
            bench.write(p(30), CPU);
            bench.sync();
            bench.send(p(30), true);
        }
        bench.guest_start();
        bench.pop();
        bench.hint(block(16));
        let write = bench.write(p(20), CPU);
        let apply = bench.pop().expect("applied");
        bench.complete();
        if lost {
            let loss = loss(bench);
            assert_eq!((loss.rule, loss.blame), (rules::DESTINATION_EQUALS_SOURCE, Blame::Guest));
            assert_eq!((loss.page, loss.write, loss.doom), (Some(p(20)), Some(write), Some(apply)));
        } else {
            silent(bench);
        }
    }
}

#[test]
fn early_reuse_by_dma_is_the_guests_fault_too() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.guest_start();
    bench.hint(block(16));
    // Dirty in D only: the hint leaves D alone, so this write survives.
    bench.write(p(18), Actor::Dma);
    bench.write(p(19), CPU);
    bench.pop_all();
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.violations, [], "K is marked anew, and S does not hold it");

    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.guest_start();
    bench.hint(block(16));
    bench.store(p(18), Actor::Dma);
    bench.emit(Actor::Dma, Event::DmaWrite { range: PageRange::page(p(18)) });
    let apply = {
        bench.pop();
        bench.pop().expect("applied")
    };
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.blame, loss.doom), (Blame::Guest, Some(apply)));
}

#[test]
fn a_hint_across_a_sync_is_the_hosts_fault() {
    // hint-stop-skipped: the device stays in START; the write is merged into B, then the old hint clears it.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    let write = bench.write(p(20), CPU);
    bench.notify(PrecopyReason::BeforeBitmapSync);
    bench.get(Actor::Migration);
    bench.merge(Actor::Migration);
    bench.bitmap_sync();
    let apply = bench.pop().expect("applied");
    bench.hint_request();
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.violations[0].rule, rules::HINT_APPLIED_UNDER_ITS_ID);
    let lost = &findings.violations[1];
    assert_eq!((lost.write, lost.doom, lost.blame), (Some(write), Some(apply), Blame::Host));
}

#[test]
fn a_popped_hint_applied_after_the_stop_is_the_hosts_fault() {
    // hint-stop-unlocked.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    let (head, element) = bench.queue.pop_front().expect("exposed");
    bench.emit(Actor::Iothread, Event::HintPop { head, element });
    bench.write(p(20), CPU);
    bench.sync();
    let apply = bench.apply(block(16), block(16));
    bench.emit(Actor::Iothread, Event::HintPush { head, len: 0 });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.doom, loss.blame), (Some(apply), Blame::Host));
}

#[test]
fn a_round_restarted_by_a_repeated_id_is_the_hosts_fault() {
    // hint-repeated-id.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    bench.write(p(20), CPU);
    bench.notify(PrecopyReason::BeforeBitmapSync);
    bench.hint_stop(Actor::Migration);
    bench.get(Actor::Migration);
    bench.merge(Actor::Migration);
    bench.bitmap_sync();
    bench.round = HintStatus::Start;
    let id = bench.id;
    let start = bench.emit(Actor::Iothread, Event::HintStart { id });
    let apply = bench.pop().expect("applied");
    bench.hint_request();
    bench.complete();
    let violations = bench.finish().violations;
    assert_eq!((violations[0].rule, violations[0].doom), (rules::HINT_START_WAS_REQUESTED, Some(start)));
    assert_eq!(violations[1].rule, rules::HINT_APPLIED_UNDER_ITS_ID);
    assert_eq!((violations[2].page, violations[2].doom, violations[2].blame), (Some(p(20)), Some(apply), Blame::Host));
}

#[test]
fn a_page_behind_the_hint_is_the_hosts_fault_however_the_host_words_it() {
    // hint-one-page-more.
    for honest in [false, true] {
        let mut bench = Bench::new(Log::ManualClear);
        bench.migrate();
        bench.guest_start();
        bench.pop();
        bench.hint(block(16));
        let (head, element) = bench.queue.pop_front().expect("exposed");
        bench.emit(Actor::Iothread, Event::HintPop { head, element });
        let more = PageRange::new(p(16), 9);
        let apply = bench.apply(if honest { more } else { block(16) }, more);
        bench.emit(Actor::Iothread, Event::HintPush { head, len: 0 });
        bench.complete();
        let loss = loss(bench);
        assert_eq!((loss.page, loss.doom, loss.blame), (Some(p(24)), Some(apply), Blame::Host));
    }
}

#[test]
fn a_clear_beyond_its_range_is_the_hosts_fault() {
    // clear-tail-unmasked, by a second log user.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    let write = bench.write(p(40), CPU);
    // S still has the bit of an older, merged write: that is no record.
    bench.host.s[40] = true;
    bench.host.k[40] = false;
    let clear = bench.emit(Actor::Display, Event::DirtyClear { range: PageRange::new(p(0), 10), cleared: 10 });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.page, loss.write, loss.doom, loss.blame), (Some(p(40)), Some(write), Some(clear), Blame::Host));
}

#[test]
fn a_second_log_user_is_silent_when_it_clears_what_it_merged() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.write(p(40), CPU);
    bench.get(Actor::Display);
    bench.merge(Actor::Display);
    bench.clear(PageRange::new(p(32), 16), Actor::Display);
    bench.write(p(41), CPU);
    bench.complete();
    silent(bench);
}

#[test]
fn a_bitmap_that_starts_incomplete_is_the_hosts_fault() {
    // bitmap-off-by-one and retry-from-d.
    for count in [1, PAGES] {
        let mut bench = Bench::new(Log::ManualClear);
        bench.migrate();
        bench.cancel();
        bench.migrate_from((0..PAGES).map(|pfn| pfn >= count).collect());
        let sync = bench.trace.iter().rposition(|event| matches!(event, Event::BitmapSync { .. }));
        bench.complete();
        let findings = bench.finish();
        assert_eq!(findings.lost.len() as u64, count);
        assert!(findings.violations.iter().all(|v| v.blame == Blame::Host && v.doom == sync), "{:?}", findings.violations);
        assert!(findings.violations.len() <= 16);
    }
}

#[test]
fn a_device_write_that_marks_its_first_page_only_is_the_hosts_fault() {
    // dma-first-page.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.store(p(50), Actor::Dma);
    let write = bench.store(p(51), Actor::Dma);
    bench.mark(p(50), Actor::Dma);
    bench.emit(Actor::Dma, Event::DmaWrite { range: PageRange::new(p(50), 2) });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.page, loss.write, loss.doom, loss.blame), (Some(p(51)), Some(write), Some(write), Blame::Host));
}

#[test]
fn a_store_after_its_mark_was_consumed_is_the_hosts_fault() {
    // store-after-mark.
    let mut bench = Bench::new(Log::Tcg);
    bench.migrate();
    bench.send_all();
    bench.mark(p(7), CPU);
    bench.sync();
    bench.send(p(7), true);
    let write = bench.store(p(7), CPU);
    bench.emit(CPU, Event::GuestWrite { pfn: p(7), len: 8 });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.page, loss.doom, loss.blame), (Some(p(7)), Some(write), Blame::Host));
}

#[test]
fn a_mark_that_comes_in_a_later_step_is_in_time() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.store(p(7), Actor::Dma);
    bench.emit(Actor::Dma, Event::DmaWrite { range: PageRange::page(p(7)) });
    bench.mark(p(7), Actor::Dma);
    bench.complete();
    silent(bench);
}

#[test]
fn a_page_that_the_sender_drops_is_doomed_where_it_was_taken() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.take(p(5));
    let take = bench.emit(Actor::Migration, Event::BitmapTake { pfn: p(5) });
    bench.emit(Actor::Migration, Event::RamRead { pfn: p(5), zero: false });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.page, loss.doom, loss.blame), (Some(p(5)), Some(take), Blame::Host));
}

#[test]
fn a_page_in_the_senders_hand_is_recorded_there() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.guest_start();
    bench.hint(block(16));
    bench.pop();
    bench.take(p(16));
    bench.emit(Actor::Migration, Event::BitmapTake { pfn: p(16) });
    bench.emit(Actor::Display, Event::DirtyClear { range: block(16), cleared: 0 });
    // The hint comes too late to save the sending.
    bench.pop();
    bench.emit(Actor::Migration, Event::RamRead { pfn: p(16), zero: false });
    bench.emit(Actor::Migration, Event::RamSend { pfn: p(16), zero: false, round: 1 });
    bench.host.there[16] = Some(bench.host.ram.page(p(16)));
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.violations, []);
    assert_eq!(findings.near_misses, 0);
}

#[test]
fn a_log_that_stops_too_early_dooms_what_it_held() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    let write = bench.write(p(9), CPU);
    bench.host.k[9] = false;
    let stop = bench.emit(Actor::Migration, Event::LogStop);
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.write, loss.doom, loss.blame), (Some(write), Some(stop), Blame::Host));
}

#[test]
fn a_paused_vm_is_compared_when_its_migration_completes() {
    for lost in [false, true] {
        let mut bench = Bench::new(Log::ManualClear);
        bench.host.running = false;
        bench.migrate();
        bench.send_all();
        if lost {
            bench.host.there[30] = None;
        }
        let (from, to) = (MigrationStatus::Device, MigrationStatus::Completed);
        let end = bench.emit(Actor::Migration, Event::MigrationState { from, to });
        let violations = bench.finish().violations;
        assert_eq!(violations.first().map(|v| (v.page, v.doom)), lost.then_some((Some(p(30)), Some(end))));
    }
}

#[test]
fn blocks_that_stay_hinted_are_a_leak_unless_the_migration_goes_on_or_the_vm_has_left() {
    let held = |bench: &Bench| {
        let info = wire::platform::KERNEL_INFO;
        let field = std::mem::offset_of!(wire::layout::KernelInfo, num_free_page_blocks) as u64;
        bench.host.ram.write_unlogged(info, &wire::layout::KernelInfo::MAGIC.to_le_bytes());
        bench.host.ram.write_unlogged(info + field, &(info + 0x800).to_le_bytes());
        bench.host.ram.write_unlogged(info + 0x800, &3_u64.to_le_bytes());
    };
    let blame = |bench: Bench| {
        held(&bench);
        let findings = bench.finish();
        assert_eq!(findings.facts.held_blocks, 3);
        findings.violations.iter().find(|v| v.verdict == Verdict::Leak).map(|v| (v.rule, v.blame))
    };
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    assert_eq!(blame(bench), None, "the migration goes on");

    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.cancel();
    assert_eq!(blame(bench), Some((rules::HINTED_PAGES_COME_HOME, Blame::Guest)));

    // hint-no-done.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.round = HintStatus::Done;
    bench.cancel();
    assert_eq!(blame(bench), Some((rules::HINTED_PAGES_COME_HOME, Blame::Host)));

    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    held(&bench);
    bench.complete();
    assert_eq!(blame(bench), None, "the VM has left");
}

#[test]
fn a_destination_that_starts_too_early_or_holds_other_bytes_is_caught() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.host.b[9] = true;
    bench.host.n = 1;
    bench.host.there[10] = Some([0xee; 4096]);
    bench.write(p(9), CPU);
    let start = bench.emit(Actor::Destination, Event::DstStart);
    let violations = bench.finish().violations;
    let found: Vec<_> = violations.iter().map(|v| (v.page, v.doom, v.blame)).collect();
    assert_eq!(found, [(Some(p(9)), Some(start), Blame::Host), (Some(p(10)), Some(start), Blame::Host)]);
}

#[test]
fn a_lost_record_that_a_later_write_makes_good_is_no_violation() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.store(p(7), CPU);
    bench.emit(CPU, Event::GuestWrite { pfn: p(7), len: 8 });
    bench.write(p(7), CPU);
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.violations, []);
    assert_eq!(findings.near_misses, 1);
}

#[test]
fn a_hint_then_done_then_reuse_is_silent() {
    for log in LOGS {
        let mut bench = Bench::new(log);
        bench.migrate();
        bench.hint_round(block(16));
        bench.cancel();
        for pfn in block(16).pages() {
            bench.write(pfn, CPU);
        }
        // The pages hinted in the first migration are sent in the second: their excuse has ended.
        bench.migrate();
        bench.complete();
        let findings = bench.finish();
        assert_eq!(findings.violations, []);
        assert_eq!(findings.facts.migrations, [MigrationStatus::Cancelled, MigrationStatus::Completed]);
        assert_eq!(findings.facts.cmd_ids, [0, 0x8000_0001, 1, 0x8000_0002, 1].map(CmdId));
    }
}

#[test]
fn an_excuse_of_the_first_migration_does_not_hold_in_the_second() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.hint_round(block(16));
    bench.cancel();
    bench.migrate_from((0..PAGES).map(|pfn| pfn != 16).collect());
    bench.complete();
    assert_eq!(loss(bench).page, Some(p(16)));
}

#[test]
fn a_hint_that_waits_over_a_stop_while_its_page_is_written_is_silent() {
    for log in LOGS {
        let mut bench = Bench::new(log);
        bench.migrate();
        bench.guest_start();
        bench.pop();
        bench.hint(block(16));
        bench.write(p(17), CPU);
        bench.sync();
        bench.write(p(18), CPU);
        bench.guest_stop();
        bench.pop_all();
        bench.complete();
        silent(bench);
    }
}

#[test]
fn inflated_and_deflated_pages_are_excused_until_written() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    for pfn in [20, 21, 22] {
        bench.emit(CPU, Event::GuestInflate { pfn: p(pfn) });
        bench.emit(Actor::MainLoop, Event::BalloonInflate { pfn: p(pfn) });
        bench.discard(PageRange::page(p(pfn)));
    }
    for pfn in [21, 22] {
        bench.emit(CPU, Event::GuestDeflate { pfn: p(pfn) });
        bench.emit(Actor::MainLoop, Event::BalloonDeflate { pfn: p(pfn) });
    }
    bench.write(p(22), CPU);
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.violations, []);
    let excused: Vec<_> = findings.excused.into_iter().collect();
    assert_eq!(excused, [(p(20), "held by the balloon"), (p(21), "deflated and not written since")]);
}

#[test]
fn a_reported_page_may_be_dropped_until_it_is_written() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(CPU, Event::GuestReport { range: block(16) });
    bench.emit(Actor::MainLoop, Event::BalloonReport { range: block(16) });
    bench.discard(block(16));
    let write = bench.write(p(17), CPU);
    let drop = bench.discard(PageRange::new(p(16), 2));
    let loss = loss(bench);
    assert_eq!(loss.rule, rules::DISCARDED_PAGE_WAS_GIVEN_UP);
    assert_eq!((loss.page, loss.write, loss.doom, loss.blame), (Some(p(17)), Some(write), Some(drop), Blame::Host));
}

#[test]
fn a_discard_of_a_hinted_page_that_the_guest_took_back_is_the_guests_fault() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.hint_request();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    let write = bench.write(p(17), CPU);
    let drop = bench.discard(block(16));
    let loss = loss(bench);
    assert_eq!((loss.page, loss.write, loss.doom, loss.blame), (Some(p(17)), Some(write), Some(drop), Blame::Guest));
}

#[test]
fn a_hinted_page_is_not_sent_again() {
    // hint-keeps-k.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.write(p(17), CPU);
    bench.sync();
    bench.hint_round(block(16));
    bench.host.k[17] = true;
    bench.sync();
    bench.send(p(17), true);
    let sent = bench.trace.iter().rposition(|event| matches!(event, Event::RamSend { .. }));
    bench.complete();
    let violations = bench.finish().violations;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!((violations[0].rule, violations[0].verdict), (rules::HINTED_PAGE_IS_NOT_SENT, Verdict::OverSend));
    assert_eq!((violations[0].doom, violations[0].blame), (sent, Blame::Host));
}

#[test]
fn a_hinted_page_written_since_the_sync_may_be_sent() {
    // Written before its exposure, marked after the chunk was cleared: the hint leaves that mark alone.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.write(p(17), CPU);
    bench.hint_round(block(16));
    bench.sync();
    bench.send_all();
    bench.complete();
    silent(bench);
}

#[test]
fn a_page_that_another_log_user_merged_again_may_be_sent() {
    // K keeps its old bit until a CLEAR: the display's GET brings it to D once more, out of the hint's reach.
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.write(p(17), CPU);
    bench.sync();
    bench.get(Actor::Display);
    bench.merge(Actor::Display);
    bench.hint_round(block(16));
    bench.sync();
    assert!(bench.host.b[17]);
    bench.complete();
    silent(bench);
}

#[test]
fn a_hinted_page_written_in_the_sync_may_be_sent() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.notify(PrecopyReason::BeforeBitmapSync);
    bench.hint_stop(Actor::Migration);
    bench.get(Actor::Migration);
    bench.write(p(17), CPU);
    bench.merge(Actor::Migration);
    bench.bitmap_sync();
    bench.hint_request();
    bench.hint_round(block(16));
    bench.sync();
    assert!(bench.host.b[17]);
    bench.complete();
    silent(bench);
}

#[test]
fn a_wrong_count_is_caught() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.host.n += 1;
    bench.guest_start();
    bench.hint(block(16));
    bench.pop_all();
    assert_eq!(broken(bench), [rules::N_EQUALS_POPCOUNT]);
}

#[test]
fn heads_are_returned_and_collected_once() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(CPU, Event::GuestAdd { queue: 3, head: 4 });
    bench.emit(Actor::Iothread, Event::HintPop { head: 4, element: HintElement::Malformed(3) });
    bench.emit(Actor::Iothread, Event::HintPush { head: 4, len: 0 });
    bench.emit(CPU, Event::GuestGet { queue: 3, head: 4 });
    silent(bench);

    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(Actor::Iothread, Event::HintPush { head: 4, len: 0 });
    bench.emit(CPU, Event::GuestGet { queue: 3, head: 4 });
    bench.emit(CPU, Event::GuestAdd { queue: 3, head: 5 });
    bench.emit(CPU, Event::GuestAdd { queue: 3, head: 5 });
    bench.emit(Actor::Iothread, Event::HintPop { head: 5, element: HintElement::Id(CmdId(0)) });
    assert_eq!(broken(bench), [rules::POPPED_HEAD_IS_RETURNED_ONCE; 4]);

    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(CPU, Event::GuestAdd { queue: 3, head: 5 });
    bench.emit(CPU, Event::DeviceStatus { status: 0 });
    bench.emit(CPU, Event::GuestAdd { queue: 3, head: 5 });
    silent(bench);
}

#[test]
fn a_hint_outside_a_round_breaks_a_rule_though_nothing_is_lost() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.emit(CPU, Event::GuestHint { range: block(16), number: 1 });
    bench.emit(Actor::Iothread, Event::HintPop { head: 1, element: HintElement::Pages(block(16)) });
    bench.apply(block(16), block(16));
    bench.emit(Actor::Iothread, Event::HintPush { head: 1, len: 0 });
    bench.complete();
    assert_eq!(broken(bench), [rules::HINT_APPLIED_UNDER_ITS_ID]);
}

#[test]
fn a_mailbox_that_differs_in_the_scenarios_words_only_is_equal() {
    for (offset, equal) in [(0, true), (16, true), (8, false), (4000, false)] {
        let mut bench = Bench::new(Log::ManualClear);
        bench.migrate();
        bench.send_all();
        bench.host.ram.write_unlogged(wire::platform::MAILBOX + offset, &[9]);
        bench.complete();
        assert_eq!(bench.finish().violations.is_empty(), equal, "offset {offset}");
    }
}

#[test]
fn a_named_page_is_told_as_it_is() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.hint_round(block(16));
    bench.send_all();
    bench.complete();
    let end = super::End { at_rest: true, ..super::End::default() };
    let findings = bench.oracle.clone().finish(&bench.host, end);
    let hinted = findings.page(Some(p(16)), &bench.host);
    assert_eq!((hinted.sent, hinted.destination_byte, hinted.equal), (0, None, false));
    assert_eq!(hinted.excused, Some("hinted and not written since"));
    let sent = findings.page(Some(p(15)), &bench.host);
    assert_eq!((sent.sent, sent.equal, sent.excused), (1, true, None));
    assert_eq!(findings.page(None, &bench.host).pfn, None);
}

/// A move of a lawful world.
#[derive(Debug, Clone)]
enum Move {
    Write(u64, u8),
    Send(u64, bool),
    Sync,
    Answer,
    Hint(u64),
    Stop,
    Pop,
    Cancel,
    Migrate,
    Inflate(u64),
    Deflate(u64),
    Display,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..PAGES, 0..3_u8).prop_map(|(pfn, by)| Move::Write(pfn, by)),
        8 => (0..PAGES, any::<bool>()).prop_map(|(pfn, watched)| Move::Send(pfn, watched)),
        2 => Just(Move::Sync),
        3 => Just(Move::Answer),
        5 => (0..6_u64).prop_map(Move::Hint),
        1 => Just(Move::Stop),
        6 => Just(Move::Pop),
        1 => Just(Move::Cancel),
        2 => Just(Move::Migrate),
        1 => (0..PAGES).prop_map(Move::Inflate),
        1 => (0..PAGES).prop_map(Move::Deflate),
        1 => Just(Move::Display),
    ];
    prop::collection::vec(one, 0..160)
}

/// Plays moves; a guest that waits writes no hinted page before the device has taken its element.
fn play(moves: &[Move], log: Log, guest_waits: bool) -> Bench {
    let mut bench = Bench::new(log);
    let mut inflated = std::collections::BTreeSet::new();
    for step in moves {
        let migrating = bench.host.status.is_running();
        match step {
            Move::Write(pfn, by) => {
                let waiting = bench.queue.iter().any(|(_, e)| matches!(e, HintElement::Pages(r) if r.contains(p(*pfn))));
                if !(inflated.contains(pfn) || guest_waits && waiting) {
                    bench.write(p(*pfn), [CPU, Actor::Dma, Actor::Vhost][usize::from(*by)]);
                }
            }
            Move::Send(pfn, watched) if migrating => bench.send(p(*pfn), *watched),
            Move::Sync if migrating => bench.sync(),
            Move::Answer => bench.guest_start(),
            Move::Hint(n) if !inflated.iter().any(|pfn| block(8 * n + 16).contains(p(*pfn))) => bench.hint(block(8 * n + 16)),
            Move::Stop => bench.guest_stop(),
            Move::Pop => {
                bench.pop();
            }
            Move::Cancel if migrating => bench.cancel(),
            Move::Migrate if !migrating => bench.migrate(),
            Move::Inflate(pfn) if bench.queue.is_empty() && inflated.insert(*pfn) => {
                bench.emit(CPU, Event::GuestInflate { pfn: p(*pfn) });
                bench.emit(Actor::MainLoop, Event::BalloonInflate { pfn: p(*pfn) });
                bench.discard(PageRange::page(p(*pfn)));
            }
            Move::Deflate(pfn) if inflated.remove(pfn) => {
                bench.emit(CPU, Event::GuestDeflate { pfn: p(*pfn) });
                bench.emit(Actor::MainLoop, Event::BalloonDeflate { pfn: p(*pfn) });
            }
            Move::Display => {
                bench.get(Actor::Display);
                bench.merge(Actor::Display);
                bench.clear(PageRange::new(p(32), 20), Actor::Display);
            }
            Move::Send(..) | Move::Sync | Move::Hint(_) | Move::Cancel | Move::Migrate | Move::Inflate(_) | Move::Deflate(_) => {}
        }
    }
    if !bench.host.status.is_running() {
        bench.migrate();
    }
    bench.complete();
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lawful_world_is_silent(moves in moves(), log in prop::sample::select(LOGS.to_vec())) {
        let findings = play(&moves, log, true).finish();
        prop_assert_eq!(findings.violations, vec![]);
        prop_assert_eq!(findings.lost, vec![]);
        prop_assert_eq!(findings.near_misses, 0);
    }

    /// A guest that takes hinted pages back early loses some, by the application of their hints, and through nobody else's fault.
    #[test]
    fn a_hasty_guest_is_blamed_for_what_it_loses(moves in moves(), log in prop::sample::select(LOGS.to_vec())) {
        let bench = play(&moves, log, false);
        let trace = bench.trace.clone();
        for violation in bench.finish().violations {
            prop_assert_eq!(violation.verdict, Verdict::LostPage);
            prop_assert_eq!(violation.blame, Blame::Guest);
            let doom = violation.doom.expect("a doom");
            let page = violation.page.expect("a page");
            let by_its_hint = matches!(&trace[doom], Event::HintApply { range, .. } if range.contains(page));
            prop_assert!(by_its_hint, "page {} was doomed by {:?}", page, trace[doom]);
            prop_assert!(violation.write.expect("a write") < doom);
        }
    }
}
