//! The host as a whole: all actors, all locks, by themselves.

use super::*;
use crate::balloon::Profile;
use crate::dirty::accel::Store;
use crate::event::Stamped;
use crate::fault::Faults;
use crate::lock::Locks;
use crate::memory::GuestRam;
use crate::step::{Costs, Watch};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGES: u64 = 192;
const ACTORS: [Actor; 4] = [Actor::Migration, Actor::Destination, Actor::MainLoop, Actor::Iothread];

fn options(paced: bool) -> VmmOptions {
    let balloon = BalloonOptions {
        features: wire::balloon::feature::FREE_PAGE_HINT,
        profile: Profile::Qemu,
        protocol: crate::balloon::Protocol::Merged,
        numbering: crate::balloon::Numbering::Dense,
        queue_size: 16,
        hint_queue_size: 16,
        stats_interval_ns: 0,
        target_pages: 0,
        acknowledge_on_stop: true,
        machine: crate::balloon::Machine::default(),
    };
    let migration = MigrationOptions { chunk_shift: 6, rounds_min: 2, paced, ..MigrationOptions::default() };
    VmmOptions {
        pages: PAGES,
        blocks: Vec::new(),
        log: LogMode::ManualClear { initially_set: true },
        tracking: TrackingOptions::default(),
        devices: DeviceOptions::default(),
        balloon,
        migration,
    }
}

/// A host without a guest, and what it needs to move.
#[derive(Clone)]
struct Rig {
    vmm: Vmm,
    locks: Locks,
    now_ns: u64,
}

impl Rig {
    fn new(paced: bool) -> Self {
        Self { vmm: Vmm::new(&options(paced)), locks: Locks::default(), now_ns: 0 }
    }

    fn with<R>(&mut self, actor: Actor, ram: &GuestRam, run: impl FnOnce(&mut Vmm, &mut Ctx<'_>) -> R) -> (R, Vec<Stamped>) {
        let (faults, costs, watch, mut events) =
            (Faults::default(), Costs::default(), Watch([Pfn(3), Pfn(64), Pfn(65)].into()), Vec::new());
        let (locks, now_ns) = (&mut self.locks, self.now_ns);
        let mut ctx = Ctx { actor, now_ns, ram, locks, faults: &faults, costs: &costs, watch: &watch, events: &mut events };
        (run(&mut self.vmm, &mut ctx), events)
    }

    /// Lets an actor move if it can, and returns what it showed.
    fn step(&mut self, actor: Actor, ram: &GuestRam) -> Vec<Stamped> {
        let next = self.with(actor, ram, |vmm, ctx| vmm.next(actor, false, ctx)).0;
        match next {
            Next::Lock(lock) if self.locks.holder(lock).is_some() => {}
            Next::Do(_) | Next::Lock(_) => return self.with(actor, ram, |vmm, ctx| vmm.step(actor, false, ctx)).1,
            Next::Sleep(until_ns) => self.now_ns = until_ns,
            Next::Wait(_) | Next::Idle => {}
        }
        Vec::new()
    }

    fn make(&mut self, act: &Act, ram: &GuestRam) {
        match act {
            Act::Step(actor, times) => (0..*times).for_each(|_| drop(self.step(*actor, ram))),
            Act::Command(command) => self.vmm.monitor.push(*command),
            Act::Store(pfn) => {
                self.vmm.accel.guest_store(Store::plain(0, Pfn(*pfn)), &mut self.vmm.d, &Faults::default());
            }
            Act::Dma(first, count) => self.vmm.d.mark(PageRange::new(Pfn(*first), *count)),
            Act::Vhost(pfn) => self.vmm.devices.vhost.wrote(PageRange::page(Pfn(*pfn)), &Faults::default()),
            Act::Fold => {
                self.fold();
            }
        }
    }

    fn fold(&mut self) -> u128 {
        self.vmm.fold(self.now_ns).wrapping_add(self.locks.fold())
    }
}

#[derive(Debug, Clone)]
enum Act {
    Step(Actor, u32),
    Command(Command),
    Store(u64),
    Dma(u64, u64),
    Vhost(u64),
    Fold,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let commands = [
        Command::Migrate,
        Command::Migrate,
        Command::Cancel,
        Command::Stop,
        Command::Cont,
        Command::BreakLink,
        Command::Balloon { pages: 3 },
    ];
    let one = prop_oneof![
        8 => (prop::sample::select(ACTORS.to_vec()), 1..60_u32).prop_map(|(actor, times)| Act::Step(actor, times)),
        1 => prop::sample::select(commands.to_vec()).prop_map(Act::Command),
        2 => (0..PAGES).prop_map(Act::Store),
        1 => (0..PAGES, 1..70_u64).prop_map(|(first, count)| Act::Dma(first, count)),
        1 => (0..PAGES).prop_map(Act::Vhost),
        4 => Just(Act::Fold),
    ];
    prop::collection::vec(one, 0..60).prop_map(|acts| [vec![Act::Command(Command::Migrate), Act::Step(Actor::MainLoop, 2)], acts].concat())
}

fn ram() -> GuestRam {
    let ram = GuestRam::new(PAGES * wire::platform::PAGE_SIZE);
    for pfn in (0..PAGES).step_by(3) {
        ram.write(Pfn(pfn).address(), &[pfn as u8 | 1]);
    }
    ram
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A hash that was kept up to date is the one that is computed at the end, in a clone, too; and whoever was cloned does not see it.
    #[test]
    fn a_hash_that_is_kept_is_the_hash_of_the_state(acts in acts(), paced: bool, cut in 0..60_usize) {
        let ram = ram();
        let (mut often, mut once) = (Rig::new(paced), Rig::new(paced));
        let mut aside = None;
        for (index, act) in acts.iter().enumerate() {
            if index == cut {
                let mut clone = often.clone();
                aside = Some((clone.fold(), clone));
            }
            often.make(act, &ram);
            if !matches!(act, Act::Fold) {
                once.make(act, &ram);
            }
        }
        prop_assert_eq!(often.fold(), once.fold());
        prop_assert_eq!(often.clone().fold(), once.fold());
        if let Some((before, mut clone)) = aside {
            prop_assert_eq!(clone.fold(), before);
            acts[cut..].iter().for_each(|act| clone.make(act, &ram));
            prop_assert_eq!(clone.fold(), once.fold());
        }
    }
}

/// States met in a whole migration, in which no two are the same but those that a move without effect leads to: each move shows in the hash.
#[test]
fn each_move_changes_the_hash() {
    let ram = ram();
    let mut rig = Rig::new(false);
    rig.vmm.monitor.push(Command::Migrate);
    let mut seen = BTreeMap::from([(rig.fold(), 0)]);
    let mut moves = 0;
    while let Some(events) = ACTORS.iter().map(|actor| rig.step(*actor, &ram)).find(|events| !events.is_empty()) {
        moves += 1;
        if moves == 20 {
            rig.vmm.d.mark(PageRange::new(Pfn(60), 9));
        }
        let last = seen.insert(rig.fold(), moves);
        assert_eq!(last, None, "{events:?} leads to a state that was there before");
    }
    assert!(rig.vmm.migration.is_finished() && moves > 200, "{moves} moves");
}

#[test]
fn each_field_counts_and_what_is_only_reported_does_not() {
    type Change = (&'static str, fn(&mut Vmm));
    let changes: &[Change] = &[
        ("vm", |vmm| vmm.vm.running ^= true),
        ("postmigrate", |vmm| vmm.vm.postmigrate ^= true),
        ("monitor", |vmm| vmm.monitor.push(Command::Stop)),
        ("two commands", |vmm| [Command::Stop, Command::Cont].map(|command| vmm.monitor.push(command)).into_iter().collect()),
        ("two commands in another order", |vmm| {
            [Command::Cont, Command::Stop].map(|command| vmm.monitor.push(command)).into_iter().collect()
        }),
        ("balloon", |vmm| vmm.balloon.set_inhibited(true)),
        ("d", |vmm| vmm.d.mark(PageRange::page(Pfn(70)))),
        ("v", |vmm| vmm.devices.vhost.wrote(PageRange::page(Pfn(70)), &Faults::default())),
        ("no v", |vmm| vmm.devices.log_stop()),
        ("k", |vmm| {
            vmm.accel.guest_store(Store::plain(0, Pfn(1)), &mut vmm.d, &Faults::default());
        }),
        ("tracking", |vmm| vmm.d.set_tracking(false)),
        ("protected", |vmm| {
            vmm.accel.take_protected();
        }),
        ("b", |vmm| vmm.migration.ram_mut().expect("runs").take(Pfn(150))),
        ("b elsewhere", |vmm| vmm.migration.ram_mut().expect("runs").take(Pfn(151))),
        ("c", |vmm| {
            vmm.migration.ram_mut().expect("runs").take_chunk(Pfn(150));
        }),
        ("zero", |vmm| vmm.destination.place_zero(Pfn(150))),
        ("device", |vmm| vmm.destination.load_device(crate::event::CmdId(1), None)),
        ("restart", |vmm| vmm.destination.restart()),
    ];
    let ram = ram();
    let mut rig = Rig::new(false);
    rig.vmm.monitor.push(Command::Migrate);
    for _ in 0..40 {
        ACTORS.iter().for_each(|actor| drop(rig.step(*actor, &ram)));
    }
    assert!(rig.vmm.migration.ram().is_some_and(|ram| ram.n() > 50 && ram.n() < PAGES), "in the middle of a round");
    let mut seen = BTreeMap::from([(rig.fold(), "nothing")]);
    for (name, change) in changes {
        let mut changed = rig.clone();
        change(&mut changed.vmm);
        let like = seen.insert(changed.fold(), name);
        assert_eq!(like, None, "{name}");
    }
    assert_eq!(rig.vmm.fold(1), rig.vmm.fold(2), "no deadline is open");
}
