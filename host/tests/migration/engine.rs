//! The engine's order of events and its ends.

use host::destination::DestinationStatus;
use host::dirty::accel::{LogMode, Store};
use host::event::{Actor, CmdId, Event, EventKind, HintStatus, LockId, MigrationStatus, PageRange, Pfn};
use host::fault::Fault;
use host::migration::engine::StartError;
use host::migration::pace::MigrationOptions;
use host::migration::postcopy::Modes;
use host::step::{Next, Watch};
use proptest::prelude::*;

use crate::world::World;

const MANUAL: LogMode = LogMode::ManualClear { initially_set: true };

fn fast() -> MigrationOptions {
    MigrationOptions { bandwidth: 1 << 30, max_bandwidth: 0, chunk_shift: 6, ..MigrationOptions::default() }
}

/// The run's milestones: syncs, notifies, states, the device's answers, VM, destination.
fn milestones(world: &World) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Notify { reason, vm_running } => Some(format!("notify {} running={vm_running}", reason.name())),
        Event::BitmapSync { round, .. } => Some(format!("sync {round}")),
        Event::Pass { round } => Some(format!("pass {round}")),
        Event::MigrationState { from, to } => Some(format!("{} -> {}", from.name(), to.name())),
        Event::HintRequest { id } => Some(format!("request {id}")),
        Event::HintStop { from } => Some(format!("stop from {}", from.name())),
        Event::HintDone { from } => Some(format!("done from {}", from.name())),
        Event::DstDevice { id } => Some(format!("device {id}")),
        Event::VmStop | Event::VmStart | Event::DstStart | Event::LogStart | Event::LogStop | Event::LinkDown => {
            Some(event.kind().name().to_owned())
        }
        _ => None,
    };
    world.events.iter().filter_map(|stamped| line(&stamped.event)).collect()
}

/// As measured on a real hinted migration, but for COMPLETE, which QEMU has told behind the last sync since 11.1.
#[test]
fn a_migration_shows_the_milestones_of_a_real_one() {
    let mut world = World::new(MANUAL, 256);
    world.start(fast());
    world.run();
    let expected = [
        "none -> setup",
        "dirty.log_start",
        "notify before-sync running=true",
        "sync 1",
        "notify after-sync running=true",
        "request 80000001",
        "notify setup running=true",
        "setup -> active",
        "notify before-sync running=true",
        "stop from REQUESTED",
        "sync 2",
        "notify after-sync running=true",
        "request 80000002",
        "pass 2",
        "vm.stop",
        "active -> device",
        "notify before-sync running=false",
        "stop from REQUESTED",
        "sync 3",
        "notify after-sync running=false",
        "done from STOP",
        "notify complete running=false",
        "device 1",
        "dst.start",
        "device -> completed",
        "notify cleanup running=false",
        "dirty.log_stop",
    ];
    assert_eq!(milestones(&world), expected);
    assert_eq!(world.lost(), []);
    assert!(!world.state.vm.running);
    assert_eq!(world.state.destination.cmd_id(), Some(CmdId(1)));
}

/// The steps of a round's sync, with their locks.
#[test]
fn a_sync_takes_its_steps_in_the_order_of_the_levels() {
    use EventKind as K;
    let mut world = World::new(MANUAL, 256);
    world.start(fast());
    world.run_until(|event| matches!(event, Event::MigrationState { to: MigrationStatus::Active, .. }));
    world.vhost(PageRange::new(Pfn(9), 2), 1);
    let start = world.events.len();
    world.run_until(|event| event.kind() == K::Pass);
    let kinds: Vec<_> = world.events[start..].iter().map(|stamped| stamped.event.kind()).collect();
    let sync = kinds.iter().position(|kind| *kind == K::Notify).expect("a sync");
    let expected = [
        K::LockTake,
        K::Notify,
        K::LockTake,
        K::HintStop,
        K::LockRelease,
        K::DirtyGet,
        K::DirtyMerge,
        K::VhostMerge,
        K::LockTake,
        K::BitmapSync,
        K::LockRelease,
        K::AfterSync,
        K::Notify,
        K::LockTake,
        K::HintRequest,
        K::LockRelease,
        K::LockRelease,
        K::Pass,
    ];
    assert_eq!(kinds[sync - 1..], expected);
}

#[test]
fn every_mode_and_shape_of_ram_arrives_whole() {
    for mode in [MANUAL, LogMode::ManualClear { initially_set: false }, LogMode::GetClears, LogMode::Ring, LogMode::Hvf, LogMode::Tcg] {
        for pages in [64, 100, 129, 256] {
            for watched in [0, 1, 5] {
                let mut world = World::new(mode, pages);
                world.watch = Watch((0..watched).map(|n| Pfn(n * 11)).collect());
                world.start(fast());
                world.run();
                assert_eq!(world.lost(), [], "{mode:?}, {pages} pages, {watched} watched");
                assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
                assert!(world.state.migration.is_finished() && world.state.migration.ram().is_none());
                let state = &mut world.state;
                assert_eq!(state.accel.logging(), !state.vm.running, "the log of a stopped VM stops when it runs again");
                state.accel.vm_starts(&mut state.d);
                assert!(!state.accel.logging() && !state.d.tracking());
            }
        }
    }
}

#[test]
fn a_watched_page_is_split_and_its_followers_do_not_overtake_it() {
    use EventKind as K;
    let mut world = World::new(LogMode::Tcg, 64);
    world.watch = Watch([Pfn(1)].into());
    world.start(fast());
    world.run_until(|event| event.kind() == K::RamSend);
    assert_eq!(world.state.migration.wire().pages().collect::<Vec<_>>(), [Pfn(1)]);
    let kinds: Vec<_> = world.events.iter().rev().take(4).map(|stamped| stamped.event.kind()).collect();
    assert_eq!(kinds, [K::RamSend, K::RamRead, K::BitmapTake, K::RamPage]);
    // Nobody takes it off the wire: the next page must queue behind it.
    let (_, next) = world.next(Actor::Migration);
    assert!(matches!(next, Next::Do(moves) if moves.kind == K::BitmapTake), "{next:?}");
    world.run();
    assert_eq!(world.lost(), []);
}

/// Where a search chooses, pages that nobody watches are placed as they are taken; one that the destination is yet to drop has to come behind that.
#[test]
fn no_page_overtakes_the_order_to_drop_it() {
    let mut world = World::new(MANUAL, 256);
    let modes = Modes { postcopy: true, ..Modes::default() };
    world.start(MigrationOptions { paced: false, modes, ..fast() });
    world.run_until(|event| matches!(event, Event::IterateEnd { .. }));
    world.store(70, 1);
    world.store(200, 2);
    let now = world.state.now_ns;
    assert!(world.call(Actor::MainLoop, now, |migration, _, _| migration.start_postcopy()));
    // The destination moves when nobody else can.
    while world.step_by(|actor| u64::from(actor == Actor::Destination), |_, _| {}).is_some() {}
    assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
    assert_eq!(world.lost(), []);
}

#[test]
fn a_full_wire_blocks_the_sender_with_the_bitmap_lock_held() {
    let mut world = World::new(LogMode::Tcg, 256);
    world.watch = Watch((0..256).map(Pfn).collect());
    world.start(fast());
    let mut steps = 0;
    loop {
        let (at, next) = world.next(Actor::Migration);
        if next == Next::Idle {
            break;
        }
        let cost = world.call(Actor::Migration, at, |migration, parts, ctx| migration.step(Actor::Migration, parts, ctx));
        assert!(cost < 1_000_000_000);
        steps += 1;
        assert!(steps < 1_000, "the wire never fills");
    }
    assert_eq!(world.state.locks.holder(LockId::Bitmap), Some(Actor::Migration));
    assert_eq!(world.hint(PageRange::new(Pfn(200), 4)), None);
    world.run();
    assert_eq!(world.lost(), []);
}

#[test]
fn bulk_steps_equal_single_steps() {
    for mode in [MANUAL, LogMode::GetClears, LogMode::Tcg] {
        let run = |bulk| {
            let mut world = World::new(mode, 1_000);
            world.bulk = bulk;
            world.watch = Watch([Pfn(70), Pfn(71), Pfn(400)].into());
            world.start(MigrationOptions { bandwidth: 20 << 20, max_bandwidth: 10 << 20, rounds_min: 3, ..fast() });
            world.run();
            world
        };
        let (single, bulk) = (run(false), run(true));
        assert_eq!(single.events, bulk.events);
        assert_eq!(single.state.migration, bulk.state.migration);
        assert_eq!(single.state.destination, bulk.state.destination);
    }
}

#[test]
fn bulk_stops_at_its_time_and_its_number_of_pages() {
    let mut world = World::new(LogMode::Tcg, 64);
    world.start(fast());
    world.run_until(|event| event.kind() == EventKind::RamPage);
    let (at, _) = world.next(Actor::Migration);
    let before = world.events.len();
    let step = |world: &mut World, at, until, max| {
        let cost = world.call(Actor::Migration, at, |migration, parts, ctx| {
            let cost = migration.step_bulk(Actor::Migration, parts, ctx, until, max);
            assert_eq!(ctx.now_ns, at);
            cost
        });
        at + cost
    };
    let at = step(&mut world, at, u64::MAX, 5);
    assert_eq!(world.events.len() - before, 5);
    let at = step(&mut world, at, at + 1, 100);
    assert_eq!(world.events.len() - before, 6);
    step(&mut world, at, 0, 100);
    assert_eq!(world.events.len() - before, 7);
}

#[test]
fn a_paused_vm_migrates_without_rounds_of_hints_and_nobody_starts() {
    let mut world = World::new(MANUAL, 256);
    world.state.vm.running = false;
    world.start(fast());
    world.run();
    let milestones = milestones(&world);
    assert!(!milestones.iter().any(|line| line.starts_with("request") || line.starts_with("vm.") || line == "dst.start"), "{milestones:?}");
    assert_eq!(milestones.iter().filter(|line| *line == "done from STOP").count(), 3);
    assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
    assert_eq!(world.state.destination.status(), DestinationStatus::Paused);
    assert_eq!(world.lost(), []);
}

#[test]
fn a_paused_vm_stays_paused_when_its_migration_fails_in_the_switchover() {
    let mut world = World::new(MANUAL, 64);
    world.state.vm.running = false;
    world.start(fast());
    world.run_until(|event| matches!(event, Event::MigrationState { to: MigrationStatus::Device, .. }));
    assert!(world.fail());
    world.run();
    assert_eq!(world.state.migration.status(), MigrationStatus::Failed);
    assert!(!world.state.vm.running && !milestones(&world).contains(&"vm.start".to_owned()));
}

/// Cancels or breaks before every single step of a migration; each time all must end, and a second migration must arrive whole.
fn end_anywhere(end: impl Fn(&mut World) -> bool, expected: MigrationStatus) {
    let mut hits = 0;
    for mode in [MANUAL, LogMode::Tcg] {
        for at_step in 0.. {
            let mut world = World::new(mode, 64);
            world.watch = Watch([Pfn(4)].into());
            world.start(fast());
            let reached = (0..at_step).all(|_| world.step().is_some());
            if !reached {
                break;
            }
            // A monitor command comes with the BQL, which the main loop cannot have while the migration thread holds it.
            if expected == MigrationStatus::Cancelled && world.state.locks.holder(LockId::Bql).is_some() {
                continue;
            }
            let hit = end(&mut world);
            world.run();
            if !hit {
                assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
                continue;
            }
            hits += 1;
            assert_eq!(world.state.migration.status(), expected, "step {at_step}");
            assert!(world.state.vm.running && world.state.migration.is_finished());
            assert_ne!(world.state.destination.status(), DestinationStatus::Started);
            assert_eq!(world.state.device.status, HintStatus::Done);
            assert!(LockId::ALL.iter().all(|lock| world.state.locks.holder(*lock).is_none()));
            world.store(5, 99);
            world.start(fast());
            world.run();
            assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
            assert_eq!(world.lost(), [], "after an end at step {at_step}");
        }
    }
    assert!(hits > 50, "only {hits} steps were hit");
}

#[test]
fn a_cancel_at_any_step_ends_cancelled_and_the_next_migration_arrives_whole() {
    end_anywhere(World::cancel, MigrationStatus::Cancelled);
}

#[test]
fn a_broken_link_at_any_step_ends_failed_and_the_next_migration_arrives_whole() {
    end_anywhere(World::fail, MigrationStatus::Failed);
}

#[test]
fn the_vm_runs_again_before_the_device_hears_of_the_cleanup() {
    let mut world = World::new(MANUAL, 64);
    world.start(fast());
    world.run_until(|event| matches!(event, Event::MigrationState { to: MigrationStatus::Device, .. }));
    world.fail();
    let start = milestones(&world).len();
    world.run();
    let lines = milestones(&world).split_off(start);
    let tail: Vec<_> = lines.iter().skip_while(|line| *line != "device -> failing").map(String::as_str).collect();
    assert_eq!(tail, ["device -> failing", "vm.start", "notify cleanup running=true", "dirty.log_stop", "failing -> failed"]);
}

#[test]
fn a_second_start_is_refused_until_the_first_is_cleaned_up() {
    let mut world = World::new(MANUAL, 64);
    world.start(fast());
    let refused = |world: &mut World| {
        let now = world.state.now_ns;
        world.call(Actor::MainLoop, now, |migration, _, ctx| migration.start(fast(), ctx))
    };
    assert_eq!(refused(&mut world), Err(StartError::Running));
    world.run_until(|event| matches!(event, Event::MigrationState { to: MigrationStatus::Completed, .. }));
    assert_eq!(refused(&mut world), Err(StartError::CleanupPending));
    assert!(!world.cancel() && !world.fail());
    world.run();
    assert_eq!(refused(&mut world), Ok(()));
}

#[test]
fn rounds_min_holds_the_switchover_back() {
    for (rounds_min, syncs) in [(0, 3), (2, 3), (3, 4), (6, 7)] {
        let mut world = World::new(MANUAL, 64);
        world.start(MigrationOptions { rounds_min, ..fast() });
        world.run();
        let count = world.events.iter().filter(|stamped| stamped.event.kind() == EventKind::BitmapSync).count();
        assert_eq!(count, syncs, "rounds_min {rounds_min}");
    }
}

#[test]
fn the_rate_limit_spreads_the_pages_over_windows() {
    let mut world = World::new(LogMode::Tcg, 256);
    for pfn in 0..256 {
        world.store(pfn, pfn + 1);
    }
    world.start(MigrationOptions { max_bandwidth: 32 * 4104 * 10, downtime_limit_ns: 0, ..fast() });
    world.run();
    let limits: Vec<_> = world.events.iter().filter(|stamped| stamped.event.kind() == EventKind::RateLimit).collect();
    assert_eq!(limits.len(), 7, "33 pages go over the limit of a window, 256 take 8 windows");
    for pair in limits.windows(2) {
        let gap = pair[1].at_ns - pair[0].at_ns;
        assert!((99_000_000..101_000_000).contains(&gap), "{gap} ns between two limits");
    }
    assert_eq!(world.lost(), []);
}

#[test]
fn a_slice_ends_after_its_50_ms_and_lets_a_hint_in() {
    let mut world = World::new(MANUAL, 256);
    for pfn in 0..256 {
        world.store(pfn, pfn + 1);
    }
    // One page takes about 1 ms: the clock is looked at after pages 1, 65, 129, 193.
    world.start(MigrationOptions { bandwidth: 4104 * 1_000, downtime_limit_ns: 0, ..fast() });
    world.run_until(|event| event.kind() == EventKind::IterateEnd);
    let sent = world.events.iter().filter_map(|stamped| match stamped.event {
        Event::IterateEnd { sent } => Some(sent),
        _ => None,
    });
    assert_eq!(sent.collect::<Vec<_>>(), [65]);
    world.step();
    assert_eq!(world.hint(PageRange::new(Pfn(100), 10)), Some(10));
    world.run();
    assert_eq!(world.lost(), (100..110).map(Pfn).collect::<Vec<_>>(), "hinted pages are not sent");
}

#[test]
fn the_last_stage_sends_without_clears() {
    let mut world = World::new(MANUAL, 256);
    world.start(fast());
    world.run_until(|event| matches!(event, Event::Pass { .. }));
    for pfn in [3, 100, 200] {
        world.store(pfn, 77);
    }
    let start = world.events.len();
    world.run();
    let kinds: Vec<_> = world.events[start..].iter().map(|stamped| stamped.event.kind()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::RamPage).count(), 3);
    assert!(!kinds.contains(&EventKind::DirtyClear));
    assert_eq!(world.lost(), []);
}

#[test]
fn vhost_writes_before_the_stop_are_merged_at_the_stop() {
    let mut world = World::new(MANUAL, 256);
    world.start(fast());
    world.run_until(|event| matches!(event, Event::Pass { .. }));
    world.vhost(PageRange::new(Pfn(50), 3), 5);
    world.run();
    let kinds: Vec<_> = world.events.iter().map(|stamped| stamped.event.kind()).collect();
    let stop = kinds.iter().position(|kind| *kind == EventKind::VmStop).expect("stops");
    assert_eq!(kinds[stop..stop + 4], [EventKind::VmStop, EventKind::LockTake, EventKind::LockRelease, EventKind::VhostMerge]);
    assert_eq!(world.lost(), []);
}

/// A vCPU marks page 9 before a sync and stores behind it, when it may. Returns whether the sync waited for it, and what is lost.
fn store_around_sync(faults: &[Fault]) -> (bool, Vec<Pfn>) {
    let mut world = World::new(LogMode::Tcg, 64).with_faults(faults);
    world.start(fast());
    world.run_until(|event| event.kind() == EventKind::IterateEnd);
    world.state.accel.guest_store(Store::plain(0, Pfn(9)), &mut world.state.d, &world.faults);
    world.state.vcpus_in_store = true;
    let taken = Event::RamPage { pfn: Pfn(9), zero: true, round: 2 };
    let waited = loop {
        match world.step() {
            None => break true,
            Some(_) if world.events.last().is_some_and(|last| last.event == taken) => break false,
            Some(_) => {}
        }
    };
    world.ram.write_unlogged(9 * 4096, &[1]);
    world.state.vcpus_in_store = false;
    world.run();
    assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
    (waited, world.lost())
}

#[test]
fn a_tcg_sync_waits_for_a_vcpu_between_mark_and_store() {
    assert_eq!(store_around_sync(&[]), (true, vec![]));
    assert_eq!(store_around_sync(&[Fault::StoreAfterMark]), (false, vec![Pfn(9)]));
}

proptest! {
    /// Writes of all kinds at random steps of a migration arrive, in every mode.
    #[test]
    fn random_writes_arrive(
        mode in prop::sample::select(vec![MANUAL, LogMode::ManualClear { initially_set: false }, LogMode::GetClears, LogMode::Tcg]),
        pages in 60u64..200,
        shift in 6u8..=8,
        rounds_min in 0u32..6,
        watched in prop::collection::btree_set(0u64..60, 0..4),
        writes in prop::collection::vec((0u64..400, 0u64..60, 0u8..3, 1u64..5), 0..30),
    ) {
        let mut world = World::new(mode, pages);
        world.watch = Watch(watched.into_iter().map(Pfn).collect());
        world.start(MigrationOptions { rounds_min, chunk_shift: shift, ..fast() });
        let mut writes = writes;
        writes.sort();
        for step in 0..u64::MAX {
            while writes.first().is_some_and(|(at, ..)| *at <= step) {
                let (at, pfn, kind, count) = writes.remove(0);
                let range = PageRange::new(Pfn(pfn), count.min(pages - pfn));
                if world.state.vm.running {
                    match kind {
                        0 => world.store(pfn, at + 1000),
                        1 => world.dma(range, at + 2000),
                        _ => world.vhost(range, at + 3000),
                    }
                }
            }
            if world.step().is_none() {
                break;
            }
        }
        prop_assert_eq!(world.lost(), vec![]);
        prop_assert_eq!(world.state.migration.status(), MigrationStatus::Completed);
    }
}
