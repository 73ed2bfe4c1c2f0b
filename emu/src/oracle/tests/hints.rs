//! Who may not send what, and who is to blame: hints, discards, the balloon.

use super::*;
use crate::oracle::fake::PAGES;
use crate::oracle::rules;
use crate::outcome::Blame;
use host::event::{CmdId, Event, HintElement, HintStatus, Level, MigrationStatus, PrecopyReason};

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
fn a_write_behind_a_hint_that_takes_nothing_is_nobodys_fault() {
    let mut bench = Bench::of_free_pages(Log::ManualClear);
    bench.migrate();
    bench.guest_start();
    bench.hint(block(16));
    bench.emit(CPU, Event::GuestAlloc { range: block(16) });
    bench.store(p(18), Actor::Dma);
    bench.emit(Actor::Dma, Event::DmaWrite { range: PageRange::page(p(18)) });
    bench.pop_all();
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.blame, loss.cause), (Blame::Gap, Some("hint-of-the-past")));
}

#[test]
fn an_id_that_is_altered_while_it_is_exposed_is_noticed() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    let id = bench.id;
    bench.emit(CPU, Event::GuestCmdId { id });
    bench.emit(CPU, Event::GuestStart { id });
    bench.emit(CPU, Event::GuestStop);
    bench.emit(Actor::Iothread, Event::HintPop { head: 1, element: HintElement::Id(CmdId(0)) });
    bench.emit(Actor::Iothread, Event::HintPush { head: 1, len: 0 });
    bench.emit(Actor::Iothread, Event::HintPop { head: 2, element: HintElement::Id(CmdId(0)) });
    bench.emit(Actor::Iothread, Event::HintPush { head: 2, len: 0 });
    assert_eq!(broken(bench), [rules::EXPOSED_ID_IS_NOT_ALTERED], "the start, and not the stop");
}

#[test]
fn a_hint_of_a_page_in_use_excuses_nothing() {
    let mut bench = Bench::of_free_pages(Log::ManualClear);
    bench.emit(CPU, Event::GuestAlloc { range: block(16) });
    bench.write(p(18), CPU);
    bench.emit(CPU, Event::GuestFree { range: PageRange::new(p(20), 4) });
    bench.migrate();
    bench.hint_round(block(16));
    bench.send_all();
    bench.complete();
    let findings = bench.finish();
    assert_eq!(findings.lost, [p(16), p(17), p(18), p(19)], "what was freed before is free");
    let first = &findings.violations[0];
    assert_eq!((first.blame, first.cause), (Blame::Guest, Some("hinted-in-use")));
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
    bench.migrate();
    bench.send_all();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    let write = bench.write(p(17), CPU);
    let (head, element) = bench.queue.pop_front().expect("exposed");
    bench.emit(Actor::Iothread, Event::HintPop { head, element });
    let id = bench.id;
    bench.emit(Actor::Iothread, Event::HintApply { range: block(16), id, cleared: 0 });
    let drop = bench.discard(block(16));
    bench.emit(Actor::Iothread, Event::HintPush { head, len: 0 });
    bench.host.there[17] = None;
    // The page also differs in the end; that is the same loss, told once.
    bench.emit(Actor::Destination, Event::DstStart);
    let loss = loss(bench);
    assert_eq!((loss.page, loss.write, loss.doom, loss.blame), (Some(p(17)), Some(write), Some(drop), Blame::Guest));
}

#[test]
fn a_discard_of_a_hinted_page_outside_a_round_is_the_hosts_fault() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.guest_start();
    bench.pop();
    bench.hint(PageRange::page(p(16)));
    bench.hint_done();
    let drop = bench.discard(PageRange::page(p(16)));
    let loss = loss(bench);
    assert_eq!((loss.page, loss.doom, loss.blame), (Some(p(16)), Some(drop), Blame::Host));
}

#[test]
fn memory_that_is_not_plugged_need_not_arrive_and_is_not_sent() {
    for (left_out, written) in [(true, false), (false, false), (false, true)] {
        let mut bench = Bench::new(Log::Tcg);
        bench.write(p(17), CPU);
        bench.emit(Actor::MainLoop, Event::MemUnplug { range: block(16) });
        bench.migrate();
        if left_out {
            (16..24).for_each(|pfn| bench.host.b[pfn] = false);
            bench.host.n -= 8;
        }
        if written {
            for pfn in 16..24 {
                bench.write(p(pfn), CPU);
            }
        }
        bench.send_all();
        bench.complete();
        let findings = bench.finish();
        let broken: Vec<_> = findings.violations.iter().map(|violation| (violation.rule, violation.verdict)).collect();
        let expected =
            if left_out || written { Vec::new() } else { vec![(rules::UNPLUGGED_MEMORY_IS_NOT_SENT, Verdict::OverSend); broken.len()] };
        assert_eq!(broken, expected);
        assert_eq!(broken.is_empty(), left_out || written);
        assert_eq!(findings.excused.contains_key(&p(17)), left_out);
    }
}

#[test]
fn memory_that_is_plugged_again_has_to_arrive() {
    let mut bench = Bench::new(Log::Tcg);
    bench.emit(Actor::MainLoop, Event::MemUnplug { range: block(16) });
    bench.emit(Actor::MainLoop, Event::MemPlug { range: PageRange::page(p(17)) });
    bench.migrate();
    bench.host.b[17] = false;
    bench.host.n -= 1;
    (16..24).filter(|pfn| *pfn != 17).for_each(|pfn| bench.host.b[pfn] = false);
    bench.host.n -= 7;
    bench.complete();
    assert_eq!(loss(bench).page, Some(p(17)));
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
fn a_hinted_page_may_be_sent_for_a_store_that_was_recorded_and_never_made() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.sync();
    bench.hint_round(block(16));
    bench.mark(p(17), CPU);
    bench.emit(CPU, Event::DirtyMark { pfn: p(17), level: Level::K });
    bench.sync();
    bench.send(p(17), true);
    bench.complete();
    let violations = bench.finish().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

#[test]
fn a_hinted_page_may_be_sent_for_a_store_that_was_recorded_in_the_round_before_its_hint_was_applied() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.sync();
    bench.guest_start();
    bench.hint(block(16));
    bench.pop();
    // The chunk was cleared before this, so the hint's application takes B alone, and the record stays.
    bench.mark(p(17), CPU);
    bench.emit(CPU, Event::DirtyMark { pfn: p(17), level: Level::K });
    bench.host.c.fill(false);
    bench.guest_stop();
    bench.pop_all();
    bench.sync();
    bench.send(p(17), true);
    bench.complete();
    let violations = bench.finish().violations;
    assert!(violations.is_empty(), "{violations:?}");
}

#[test]
fn a_hinted_page_that_the_host_has_only_discarded_may_be_sent() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.migrate();
    bench.send_all();
    bench.write(p(17), CPU);
    bench.sync();
    bench.guest_start();
    bench.pop();
    bench.hint(block(16));
    bench.pop();
    bench.discard(block(16));
    bench.host.k[17] = true;
    bench.sync();
    bench.send(p(17), true);
    bench.complete();
    let violations = bench.finish().violations;
    assert!(violations.is_empty(), "{violations:?}");
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

/// A host that looks by itself finds a block, lets something happen, and leaves it out.
fn host_finds(bench: &mut Bench, before_apply: impl FnOnce(&mut Bench)) -> usize {
    bench.emit(Actor::Iothread, Event::HintPop { head: 0, element: HintElement::Found(block(16)) });
    before_apply(bench);
    let apply = bench.apply(block(16), block(16));
    bench.emit(Actor::Iothread, Event::HintPush { head: 0, len: 0 });
    apply
}

#[test]
fn what_a_host_finds_and_the_guest_has_given_up_is_excused() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(CPU, Event::GuestReport { range: block(16) });
    bench.migrate();
    bench.guest_start();
    bench.pop();
    host_finds(&mut bench, |_| ());
    bench.send_all();
    bench.complete();
    let findings = bench.finish();
    assert_eq!((findings.violations, findings.excused.len()), (vec![], 8));
}

#[test]
fn a_page_in_use_that_a_host_takes_for_free_is_the_hosts_loss() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.write(p(18), CPU);
    bench.migrate();
    bench.guest_start();
    bench.pop();
    let apply = host_finds(&mut bench, |_| ());
    bench.send_all();
    bench.complete();
    let findings = bench.finish();
    assert!(findings.lost.contains(&p(18)), "{:?}", findings.lost);
    let first = &findings.violations[0];
    assert_eq!((first.blame, first.doom, first.cause), (Blame::Host, Some(apply), Some("mistaken-for-free")));
}

#[test]
fn a_write_that_overtakes_the_hosts_own_look_is_the_hosts_loss() {
    let mut bench = Bench::new(Log::ManualClear);
    bench.emit(CPU, Event::GuestReport { range: block(16) });
    bench.migrate();
    bench.guest_start();
    bench.pop();
    let apply = host_finds(&mut bench, |bench| {
        bench.store(p(18), Actor::Dma);
        bench.emit(Actor::Dma, Event::DmaWrite { range: PageRange::page(p(18)) });
    });
    bench.complete();
    let loss = loss(bench);
    assert_eq!((loss.blame, loss.doom, loss.cause), (Blame::Host, Some(apply), Some("walk-overtaken")));
}

#[test]
fn a_buffer_for_requests_is_kept_and_goes_back_once() {
    let lend = |bench: &mut Bench| bench.emit(Actor::Iothread, Event::HintPop { head: 5, element: HintElement::Request });
    let ask = |bench: &mut Bench| bench.emit(Actor::Migration, Event::HintAsk { head: 5, id: CmdId(9) });
    let mut bench = Bench::new(Log::ManualClear);
    lend(&mut bench);
    bench.migrate();
    bench.send_all();
    bench.complete();
    silent(bench);
    let mut bench = Bench::new(Log::ManualClear);
    lend(&mut bench);
    ask(&mut bench);
    lend(&mut bench);
    bench.emit(Actor::Iothread, Event::HintPush { head: 5, len: 0 });
    silent(bench);
    let mut bench = Bench::new(Log::ManualClear);
    lend(&mut bench);
    ask(&mut bench);
    ask(&mut bench);
    assert_eq!(broken(bench), [rules::POPPED_HEAD_IS_RETURNED_ONCE]);
}
