//! Where writes are recorded, and what happens when they are not.

use super::*;
use crate::oracle::fake::PAGES;
use crate::oracle::records::Cause;
use crate::oracle::{End, rules};
use crate::outcome::Blame;
use host::event::{CmdId, Event, HintElement, MigrationStatus};

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
fn a_page_that_the_sender_still_holds_at_the_end_is_lost() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.host.there[5] = None;
    let take = bench.emit(Actor::Migration, Event::BitmapTake { pfn: p(5) });
    bench.emit(Actor::Migration, Event::RamRead { pfn: p(5), zero: false });
    bench.emit(Actor::Destination, Event::DstStart);
    let loss = loss(bench);
    assert_eq!((loss.page, loss.doom), (Some(p(5)), Some(take)));
}

#[test]
fn a_loss_in_a_cancelled_migration_is_forgotten_in_the_next() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.store(p(9), CPU);
    bench.emit(CPU, Event::GuestWrite { pfn: p(9), len: 8 });
    bench.emit(Actor::Migration, Event::BitmapTake { pfn: p(10) });
    bench.cancel();
    bench.migrate_from((0..PAGES).map(|pfn| pfn != 9 && pfn != 10).collect());
    let sync = bench.trace.iter().rposition(|event| matches!(event, Event::BitmapSync { .. }));
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.lost, [p(9), p(10)]);
    assert!(findings.violations.iter().all(|v| v.doom == sync), "{:?}", findings.violations);
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
fn what_went_wrong_at_the_very_end_is_told_apart() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.host.b[9] = true;
    bench.write(p(9), CPU);
    bench.host.there[20] = Some([0xee; 4096]);
    bench.host.there[30] = None;
    bench.host.wire.insert(p(30));
    bench.host.logging = false;
    let write = bench.write(p(40), Actor::Dma);
    let start = bench.emit(Actor::Destination, Event::DstStart);
    let violations = bench.finish().violations;
    let found: Vec<_> = violations.iter().map(|v| (v.page, v.doom, v.blame)).collect();
    let doomed = |page, doom| (Some(p(page)), Some(doom), Blame::Host);
    assert_eq!(found, [doomed(9, start), doomed(20, start), doomed(30, start), doomed(40, write)]);
    let causes = [Cause::LeftBehind, Cause::OtherBytes, Cause::OnWire, Cause::Unlogged];
    for (violation, cause) in violations.iter().zip(causes) {
        assert!(violation.what.ends_with(cause.reason()), "{}", violation.what);
    }
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
fn a_dirty_rate_that_counts_what_was_in_b_already_is_caught() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.host.dirtied_last = 5;
    bench.sync();
    assert_eq!(broken(bench), [rules::DIRTY_RATE_COUNTS_NEW]);
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
    let end = End { at_rest: true, ..End::default() };
    let findings = bench.oracle.clone().finish(&bench.host, end);
    let hinted = findings.page(Some(p(16)), &bench.host);
    assert_eq!((hinted.sent, hinted.destination_byte, hinted.equal), (0, None, false));
    assert_eq!(hinted.excused, Some("hinted and not written since"));
    let sent = findings.page(Some(p(15)), &bench.host);
    assert_eq!((sent.sent, sent.equal, sent.excused), (1, true, None));
    assert_eq!(findings.page(None, &bench.host).pfn, None);
}
