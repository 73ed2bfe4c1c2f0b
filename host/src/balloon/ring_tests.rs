//! Property tests: whatever a driver puts on the rings or writes to the registers, the device keeps its own promises.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::device::Profile;
use super::testing::{Buf, HINT, Rig, STATS, options};
use crate::event::{Actor, Event, HintStatus, LockId, PrecopyReason};
use wire::platform::PAGE_SIZE;
use wire::virtio::{feature, mmio};
use wire::vring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

/// A buffer before it is known which id is current.
#[derive(Debug, Clone)]
enum Plan {
    CurrentId,
    Fixed(Buf),
}

#[derive(Debug, Clone)]
enum Op {
    /// A chain, with or without a kick.
    Add(u16, Vec<Plan>, bool),
    /// A descriptor written by hand and its index exposed: loops, bad indices, indirect tables.
    Raw {
        queue: u16,
        id: u16,
        head: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    /// Moves of the iothread, then of the main loop.
    Steps(usize, usize),
    Notify(PrecopyReason, bool),
    Vm(bool),
    SinkRunning(bool),
    Later(u64),
}

fn well_formed() -> impl Strategy<Value = Plan> {
    prop_oneof![
        3 => Just(Plan::CurrentId),
        2 => prop_oneof![Just(0), Just(1), 0x8000_0000u32..0x8000_0004].prop_map(|id| Plan::Fixed(Buf::Word(id))),
        4 => (0x300u64..0x340, 1u32..5).prop_map(|(first, count)| Plan::Fixed(Buf::pages(first, count))),
        1 => (0x30_0000u64..0x34_0000, 1u32..0x3000).prop_map(|(address, len)| Plan::Fixed(Buf::Write(address, len))),
        1 => (0x30_0000u64..0x34_0000, 1u32..64).prop_map(|(address, len)| Plan::Fixed(Buf::Read(address, len))),
    ]
}

fn any_buf() -> impl Strategy<Value = Plan> {
    prop_oneof![
        20 => well_formed(),
        1 => (any::<u64>(), any::<u32>()).prop_map(|(address, len)| Plan::Fixed(Buf::Write(address, len))),
        1 => (4094 * PAGE_SIZE..4098 * PAGE_SIZE, 0u32..0x3000).prop_map(|(address, len)| Plan::Fixed(Buf::Read(address, len))),
    ]
}

fn raw() -> impl Strategy<Value = Op> {
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(next, write, indirect)| {
        [(next, DESC_F_NEXT), (write, DESC_F_WRITE), (indirect, DESC_F_INDIRECT)].iter().map(|(on, bit)| if *on { *bit } else { 0 }).sum()
    });
    (0u16..5, 0u16..16, 0u16..18, 0x30_0000u64..0x31_0000, 0u32..64, flags, 0u16..18)
        .prop_map(|(queue, id, head, address, len, flags, next)| Op::Raw { queue, id, head, address, len, flags, next })
}

fn reason() -> impl Strategy<Value = PrecopyReason> {
    prop_oneof![
        1 => Just(PrecopyReason::Setup),
        3 => Just(PrecopyReason::BeforeBitmapSync),
        4 => Just(PrecopyReason::AfterBitmapSync),
        1 => Just(PrecopyReason::Complete),
        1 => Just(PrecopyReason::Cleanup),
    ]
}

fn op(buf: impl Strategy<Value = Plan> + 'static, raw_weight: u32) -> impl Strategy<Value = Op> {
    let queue = prop_oneof![3 => Just(HINT), 2 => 0u16..5];
    prop_oneof![
        10 => (queue, prop::collection::vec(buf, 1..4), any::<bool>()).prop_map(|(queue, bufs, kick)| Op::Add(queue, bufs, kick)),
        raw_weight => raw(),
        8 => (0usize..12, 0usize..6).prop_map(|(iothread, main_loop)| Op::Steps(iothread, main_loop)),
        4 => (reason(), prop::bool::weighted(0.8)).prop_map(|(reason, running)| Op::Notify(reason, running)),
        1 => any::<bool>().prop_map(Op::Vm),
        1 => any::<bool>().prop_map(Op::SinkRunning),
        1 => (0u64..2_000_000).prop_map(Op::Later),
    ]
}

fn free(rig: &Rig, locks: &[LockId]) -> bool {
    locks.iter().all(|lock| rig.locks.holder(*lock).is_none())
}

/// Lays the readable buffers before the writable ones, as a driver must.
fn sorted(rig: &Rig, plans: &[Plan]) -> Vec<Buf> {
    let mut bufs: Vec<Buf> = plans
        .iter()
        .map(|plan| match plan {
            Plan::CurrentId => Buf::Word(rig.device.state.hinting.cmd_id().0),
            Plan::Fixed(buf) => *buf,
        })
        .collect();
    bufs.sort_by_key(|buf| matches!(buf, Buf::Write(..)));
    bufs
}

fn apply(rig: &mut Rig, op: &Op, exposed: &mut BTreeMap<u16, usize>) {
    match op {
        Op::Add(queue, plans, kick) => {
            // A driver has at most as many buffers out as there are descriptors.
            if exposed.get(queue).copied().unwrap_or(0).saturating_sub(rig.used(*queue).len()) >= 5 {
                return;
            }
            let bufs = sorted(rig, plans);
            rig.add(*queue, &bufs);
            *exposed.entry(*queue).or_default() += 1;
            if *kick {
                rig.kick(*queue);
            }
        }
        Op::Raw { queue, id, head, address, len, flags, next } => {
            rig.write_descriptor(*queue, *id, *address, *len, *flags, *next);
            rig.expose(*queue, *head);
            rig.kick(*queue);
        }
        Op::Steps(iothread, main_loop) => {
            for _ in 0..*iothread {
                rig.iothread_step();
            }
            for _ in 0..*main_loop {
                rig.main_loop_step();
            }
        }
        Op::Notify(reason, running) if free(rig, &[LockId::Bql, LockId::FreePage]) => drop(rig.notify(*reason, *running)),
        Op::Vm(running) if free(rig, &[LockId::Bql, LockId::FreePage]) => rig.vm_state(*running),
        Op::Notify(..) | Op::Vm(_) => {}
        Op::SinkRunning(running) if free(rig, &[LockId::FreePage]) => rig.sink.running = *running,
        Op::SinkRunning(_) => {}
        Op::Later(ns) => rig.now_ns += ns,
    }
}

/// Checks what the events say: hints are applied only in START of their own id, and elements go back one by one.
fn check_events(rig: &Rig) {
    let (mut status, mut current, mut popped) = (HintStatus::Stop, None, None);
    for stamped in &rig.events {
        match &stamped.event {
            Event::HintRequest { id } => (status, current) = (HintStatus::Requested, Some(*id)),
            Event::HintStart { id } => {
                assert_eq!((status, current), (HintStatus::Requested, Some(*id)));
                status = HintStatus::Start;
            }
            Event::HintStop { from } => {
                assert_eq!(*from, status);
                status = rig.device.options.profile.after_stop(stamped.actor);
            }
            Event::HintDone { from } => {
                assert_eq!(*from, status);
                status = HintStatus::Done;
            }
            Event::HintApply { id, .. } => assert_eq!((status, current), (HintStatus::Start, Some(*id)), "applied outside its round"),
            Event::HintIgnore { range, .. } => assert!(range.count > 0),
            Event::HintPop { head, .. } => {
                assert!(popped.is_none_or(|other| other == *head), "{head} popped while another is held");
                popped = Some(*head);
            }
            Event::HintPush { head, .. } => assert_eq!(popped.take(), Some(*head), "pushed what was not popped"),
            _ => {}
        }
    }
    assert_eq!(popped, None, "an element was kept");
}

impl Profile {
    /// Returns the status behind a `hint.stop` of this actor.
    fn after_stop(self, actor: Actor) -> HintStatus {
        match (self, actor) {
            (Profile::Firecracker, Actor::Iothread) => HintStatus::Requested,
            (Profile::Qemu | Profile::Firecracker | Profile::CloudHypervisor, _) => HintStatus::Stop,
        }
    }
}

/// Lets everything come to rest, the VM running, every queue kicked.
fn settle(rig: &mut Rig) {
    rig.run();
    rig.vm_state(true);
    for _ in 0..20 {
        (0..5).for_each(|queue| rig.kick(queue));
        rig.now_ns += 2_000_000;
        rig.run();
    }
}

fn rig(profile: Profile, event_idx: bool) -> Rig {
    let mut options = options(profile);
    if event_idx {
        options.features |= feature::RING_EVENT_IDX;
    }
    let mut rig = Rig::bare(options);
    rig.probe(u64::MAX);
    rig
}

fn profile() -> impl Strategy<Value = Profile> {
    prop_oneof![Just(Profile::Qemu), Just(Profile::Firecracker)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every element of a driver that keeps the rules of the rings comes back exactly once, whatever is in it.
    #[test]
    fn every_element_comes_back_once(
        profile in profile(), event_idx: bool, ops in prop::collection::vec(op(well_formed(), 0), 1..40)
    ) {
        let mut rig = rig(profile, event_idx);
        let mut exposed = BTreeMap::new();
        for op in &ops {
            apply(&mut rig, op, &mut exposed);
        }
        settle(&mut rig);
        check_events(&rig);
        let broken = rig.device.transport.broken();
        for (queue, count) in exposed {
            let back = rig.used(queue).len();
            let held = usize::from(rig.device.transport.queue(queue).inuse());
            prop_assert!(back + held <= count, "queue {}: {} of {} back", queue, back, count);
            // The host may hold the newest statistics buffer. An id of one to three bytes breaks a QEMU device.
            prop_assert!(broken || back + held == count, "queue {}: {} of {} back", queue, back, count);
            prop_assert!(held <= usize::from(queue == STATS), "queue {} holds {}", queue, held);
        }
    }

    /// A driver that breaks every rule breaks the device at most.
    #[test]
    fn no_ring_contents_make_the_host_panic(
        profile in profile(), event_idx: bool, ops in prop::collection::vec(op(any_buf(), 6), 1..40)
    ) {
        let mut rig = rig(profile, event_idx);
        let mut exposed = BTreeMap::new();
        for op in &ops {
            apply(&mut rig, op, &mut exposed);
        }
        settle(&mut rig);
        check_events(&rig);
        prop_assert!(LockId::ALL.into_iter().all(|lock| rig.locks.holder(lock).is_none()));
    }

    /// No access to the registers, of whatever offset, width and value, makes the host panic.
    #[test]
    fn no_register_access_makes_the_host_panic(
        up: bool,
        accesses in prop::collection::vec((register(), 0u32..9, value(), any::<bool>(), 0usize..4), 1..80)
    ) {
        let mut rig = if up { Rig::up(Profile::Qemu, &[]) } else { Rig::bare(options(Profile::Qemu)) };
        for (offset, len, value, write, steps) in accesses {
            let len = if len < 6 { 4 } else { len };
            let reads = rig.access(offset, None, |device, ctx| device.mmio_read(offset, len, ctx));
            prop_assert!(len != 1 || reads <= 0xff);
            if write && free(&rig, rig.device.mmio_locks(offset, Some(value))) {
                rig.access(offset, Some(value), |device, ctx| device.mmio_write(offset, len, value, ctx));
            }
            for _ in 0..steps {
                rig.iothread_step();
                while rig.main_loop_step() && rig.device.main_loop_busy() {}
            }
            while rig.locks.holder(LockId::FreePage).is_some() && rig.iothread_step() {}
        }
    }
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0u64..0x110 / 4).prop_map(|word| word * 4),
        2 => Just(mmio::STATUS),
        2 => Just(mmio::QUEUE_READY),
        1 => 0u64..0x220,
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..16, 2 => Just(0x10_0000), 2 => (0u32..32).prop_map(|bit| 1 << bit), 1 => any::<u32>()]
}
