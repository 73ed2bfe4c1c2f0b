//! What a move used: classes of objects by who moved and what it told, and pages by who touched them.

use std::ops::Range;

use host::dirty::accel::LogMode;
use host::event::{Actor, Event, PageRange};

use crate::scenario::model::{Action, Command};
use crate::search::system::{Footprint, Happening, Key, Objects, Step};
use crate::world::guest::Pending;
use crate::world::observe::Observation;
use crate::world::search::{Cpu, SearchWorld};
use crate::world::{Due, Who, World, object};

/// More pages than this are all pages.
const PAGES_MAX: usize = 96;
/// Pages of a region: bitmaps, and what the oracle knows of pages, are hashed by words of so many, so that changes within one do not add up.
const REGION_SHIFT: u32 = 6;

fn own_of_host(actor: Actor) -> u64 {
    match actor {
        Actor::Iothread => object::DEVICE,
        Actor::Migration => object::MIGRATION,
        Actor::Destination => object::DESTINATION | object::WIRE,
        Actor::Channel(_) => object::BITMAP,
        Actor::Receiver(_) => object::DESTINATION,
        Actor::MainLoop => {
            use object::{BITMAP, DESTINATION, DEVICE, MIGRATION, MONITOR, RECORDS, STATUS, VM, WIRE};
            MONITOR | DEVICE | MIGRATION | STATUS | VM | BITMAP | DESTINATION | WIRE | RECORDS
        }
        Actor::Vhost | Actor::Reaper => object::RECORDS,
        Actor::ReturnPath => object::BITMAP | object::WIRE,
        Actor::Vcpu(_) | Actor::Dma | Actor::Display | Actor::Injector | Actor::Vfio => unreachable!("{actor} is no thread of the host"),
    }
}

impl World {
    /// Returns what is its mover's own.
    pub(super) fn own(&self, who: Who) -> u64 {
        match who {
            Who::Vcpu(cpu) => object::vcpu(cpu) | object::interrupts(cpu),
            Who::Host(index) if self.uses_channels(self.hosts[index]) => own_of_host(self.hosts[index]) | object::CHANNELS,
            Who::Host(index) => own_of_host(self.hosts[index]),
            Who::Injector(_) => object::ORDER,
        }
    }

    fn uses_channels(&self, actor: Actor) -> bool {
        let elsewhere = matches!(actor, Actor::Iothread | Actor::Vhost);
        self.scenario.migration.encoding.channels > 0 && !elsewhere
    }

    /// Returns what a move shares with others, whatever it does.
    fn shared(&self, who: Who) -> u64 {
        use object::{BITMAP, CLOCK, DESTINATION, IN_STORE, ORDER, RECORDS, STATUS, VM, WIRE};
        let always = VM | CLOCK | if self.state.gates.is_empty() { 0 } else { ORDER };
        always
            | match who {
                Who::Vcpu(cpu) => match self.state.vcpus[cpu].pending {
                    Pending::Store { .. } | Pending::RingFull { .. } => RECORDS | IN_STORE,
                    Pending::Run
                    | Pending::Announced(_)
                    | Pending::Spin { .. }
                    | Pending::Poll { .. }
                    | Pending::Device { .. }
                    | Pending::Missing { .. }
                    | Pending::Halted
                    | Pending::Stopped
                    | Pending::Dead => 0,
                },
                Who::Host(index) if self.hosts[index] == Actor::Iothread => STATUS | RECORDS,
                Who::Host(index) if self.hosts[index] == Actor::Migration => STATUS | RECORDS | BITMAP | WIRE | DESTINATION,
                Who::Host(_) => STATUS | RECORDS,
                Who::Injector(_) => STATUS,
            }
    }

    /// Returns what a move changes, whatever it tells.
    fn changed(&self, who: Who) -> u64 {
        let waits_for_stores = matches!(who, Who::Host(index) if self.hosts[index] != Actor::Iothread);
        let stores = if waits_for_stores && self.state.vmm.accel.mode() == LogMode::Tcg { object::IN_STORE } else { 0 };
        let more = match who {
            Who::Vcpu(cpu) if matches!(self.state.vcpus[cpu].pending, Pending::Device { .. }) => object::DEVICE | object::MONITOR,
            Who::Vcpu(_) | Who::Host(_) => 0,
            Who::Injector(Due::Start) => object::MONITOR,
            Who::Injector(Due::Rest) => u64::MAX,
            Who::Injector(Due::Injection(index)) => {
                let injection = self.injection(index);
                let by = match injection.by {
                    Actor::Vcpu(cpu) => object::vcpu(cpu.into()) | object::interrupts(cpu.into()),
                    Actor::Iothread | Actor::Migration | Actor::MainLoop | Actor::Destination => 0,
                    Actor::Dma | Actor::Vhost | Actor::Display | Actor::Injector | Actor::Vfio | Actor::Reaper | Actor::ReturnPath => 0,
                    Actor::Channel(_) | Actor::Receiver(_) => 0,
                };
                by | match injection.action {
                    Action::Write { .. } | Action::Task(_) | Action::RepeatId => 0,
                    // What happens to the link past the main loop changes what others find at once.
                    Action::Monitor(Command::StallLink | Command::ResumeLink | Command::Yank) => u64::MAX,
                    Action::VhostQueue { .. } | Action::Iommu { .. } => object::RECORDS,
                    Action::Monitor(_) => object::MONITOR,
                    Action::ClearLog { .. } => u64::MAX,
                }
            }
        };
        self.own(who) | stores | more
    }
}

impl SearchWorld {
    /// A move begins: what it is known to use is put down, and what it touches is noted from here on.
    pub(super) fn begin(&mut self, who: Who) {
        let Footprint { looked, changed, .. } = &mut self.step.footprint;
        // What was asked on the way to the choices was nobody's use.
        self.world.ram.take_uses(looked, changed);
        looked.clear();
        changed.clear();
        self.world.happened.clear();
        if !self.detailed {
            self.world.trace.clear();
        }
        self.first = self.world.trace.len();
        self.world.used = Objects { shared: self.world.shared(who), changed: self.world.changed(who) };
        match who {
            Who::Vcpu(cpu) => {
                self.world.machine.begin_move();
                self.cpus[cpu] = Cpu::default();
            }
            Who::Injector(Due::Injection(index)) => {
                if let Actor::Vcpu(cpu) = self.world.injection(index).by {
                    self.cpus[usize::from(cpu)] = Cpu::default();
                }
                let key = Key { kind: Key::INJECTION, page: index as u16 };
                self.world.happened.push(Happening { key, nth: 1 });
            }
            Who::Host(_) | Who::Injector(Due::Start | Due::Rest) => {}
        }
    }

    /// The move is made: memory is taken in, and the step is told. `wakes` says whether it let time pass.
    pub(super) fn end_of_move(&mut self, wakes: bool) {
        let view = Observation { ram: &self.world.ram, vmm: &self.world.state.vmm };
        self.world.state.oracle.end_of_step(self.world.trace.len(), &view);
        let Step { happened, footprint } = &mut self.step;
        std::mem::swap(happened, &mut self.world.happened);
        let Footprint { objects, looked, changed } = footprint;
        self.world.machine.take_uses(looked, changed);
        self.world.ram.take_uses(looked, changed);
        sort(looked);
        sort(changed);
        self.memory.wrote(changed, &self.world.machine);
        // A page that was stored to may have been looked up once more to be read, or not, as the engine's TLB had room: that must not show.
        looked.retain(|cell| changed.binary_search(cell).is_err());
        *objects = self.world.used;
        let regions = self.world.ram.pages() as u32;
        if !changed.is_empty() {
            objects.shared |= object::STORES | object::RECORDS;
        }
        if looked.len() > PAGES_MAX {
            objects.changed |= object::STORES;
            looked.clear();
        }
        if changed.len() > PAGES_MAX {
            objects.changed |= object::STORES | object::LISTED;
            changed.clear();
        }
        for at in 0..changed.len() {
            changed.push(regions + (changed[at] >> REGION_SHIFT));
        }
        for stamped in &self.world.trace[self.first..] {
            let used = Used::of(&stamped.event);
            objects.changed |= used.changed;
            // With some faults, a log is cleared of no pages at all.
            if let Some(range) = used.pages.filter(|range| range.count > 0) {
                // A guest can name what it likes; there are records of its memory alone.
                changed.extend(regions_of(range, self.world.ram.pages()).map(|region| regions + region));
            }
            if self.world.state.gates.looks_at(stamped.event.kind()) {
                objects.changed |= object::ORDER;
            }
            if stamped.event == Event::MachineReset {
                self.cpus.fill(Cpu::default());
            }
        }
        sort(changed);
        if !looked.is_empty() || !changed.is_empty() {
            objects.shared |= object::LISTED;
        }
        if wakes {
            objects.changed |= object::CLOCK;
        }
        if self.over().is_some() {
            self.step.footprint.objects.changed = u64::MAX;
        }
    }
}

/// Returns the regions of memory that hold a range, as far as there is memory.
fn regions_of(range: PageRange, pages: u64) -> Range<u32> {
    let (first, end) = (range.first.0.min(pages), range.end().0.min(pages));
    (first >> REGION_SHIFT) as u32..(end.div_ceil(1 << REGION_SHIFT)) as u32
}

fn sort(cells: &mut Vec<u32>) {
    cells.sort_unstable();
    cells.dedup();
}

/// What an event says of its move's use.
struct Used {
    changed: u64,
    /// Pages whose records it may have changed.
    pages: Option<PageRange>,
}

impl Used {
    fn of(event: &Event) -> Used {
        // The guest says of most blocks only what it does with their frames' descriptors, which it stores to; and a page that is sent with
        // many others may stand for them all.
        let silent = matches!(event, Event::GuestAlloc { .. } | Event::GuestFree { .. } | Event::GuestNamed { .. } | Event::RamPage { .. });
        Used { changed: Used::classes(event), pages: event.range().filter(|_| !silent) }
    }

    fn classes(event: &Event) -> u64 {
        use object::{BITMAP, DESTINATION, DEVICE, HEADS, HINTS, MONITOR, RECORDS, STATUS, STORES, VM, WIRE};
        match event {
            // It may stand for thousands.
            Event::RamPage { .. } => BITMAP | WIRE | STORES,
            Event::RamSend { .. } => BITMAP | WIRE,
            Event::BitmapTake { .. } | Event::RamRead { .. } | Event::IterateBegin { .. } | Event::IterateEnd { .. } => BITMAP,
            Event::RateLimit { .. } | Event::Pass { .. } => BITMAP,
            Event::DirtyGet { .. } | Event::DirtyMerge { .. } | Event::VhostMerge { .. } | Event::LogStart | Event::LogStop => RECORDS,
            Event::AfterSync | Event::BitmapSync { .. } => RECORDS | BITMAP,
            Event::MigrationState { .. } | Event::LinkDown => STATUS | RECORDS | STORES,
            Event::VmStop | Event::VmStart => VM,
            Event::DstPlace { .. } | Event::DstDevice { .. } => DESTINATION,
            Event::DstStart => DESTINATION | STORES | RECORDS,
            Event::ConfigCmdId { .. }
            | Event::HintNewId { .. }
            | Event::Notify { .. }
            | Event::DeviceIrq { .. }
            | Event::HintStop { .. }
            | Event::HintDone { .. }
            | Event::DeviceKick { .. }
            | Event::HintWake
            | Event::HintQuiet
            | Event::HintSleep => DEVICE,
            Event::HintIgnore { .. } | Event::BalloonStats { .. } | Event::BalloonOddStats { .. } | Event::DeviceBroken { .. } => DEVICE,
            // What the oracle knows of all pages' hints starts anew.
            Event::HintRequest { .. } | Event::HintStart { .. } => DEVICE | HINTS | STORES,
            Event::HintPop { .. } | Event::HintPush { .. } | Event::HintAsk { .. } | Event::DeviceStatus { .. } => DEVICE | HEADS,
            Event::HintApply { .. } => DEVICE | BITMAP,
            Event::GuestAdd { .. } | Event::GuestGet { .. } => HEADS,
            Event::GuestHint { .. } => HINTS,
            Event::LockTake { lock } | Event::LockRelease { lock } => object::lock(*lock),
            Event::Monitor { .. } => MONITOR,
            Event::ReturnRequest { .. } => BITMAP | WIRE,
            Event::SnapshotStart => RECORDS | BITMAP | STORES,
            Event::DstRefuse { .. } => DESTINATION | STATUS,
            Event::DstEnd => DESTINATION | STORES,
            Event::ChannelFlush { .. } => WIRE,
            Event::ChannelQueue { .. } => WIRE,
            Event::LinkResume => STATUS | WIRE,
            Event::LinkStall => STATUS | WIRE,
            Event::VhostQueue { .. } => RECORDS,
            Event::VfioMerge { .. } => RECORDS,
            Event::RamDelta { .. } => BITMAP | WIRE,
            Event::RamSkip { .. } => BITMAP,
            Event::Pin { .. } => RECORDS | STORES,
            Event::IommuUnmap { .. } => RECORDS | STORES,
            Event::VhostLogStart => RECORDS,
            Event::Throttle { .. } => VM | STATUS,
            Event::SnapshotUnprotect { .. } => RECORDS | BITMAP,
            Event::SnapshotFault { .. } => RECORDS | BITMAP,
            Event::DstRequest { .. } => BITMAP | WIRE,
            Event::DstFault { .. } => DESTINATION | WIRE,
            Event::DstDiscard { .. } => DESTINATION | STORES,
            Event::PostcopyStart => STATUS | RECORDS | STORES,
            Event::ChannelSync { .. } => WIRE | DESTINATION,
            Event::BitmapStore { .. } => RECORDS | BITMAP,
            Event::BitmapLoad { .. } => RECORDS | BITMAP,
            Event::SlotCreate { .. } => RECORDS | STORES,
            Event::SlotDelete { .. } => RECORDS | STORES,
            Event::RingReset { .. } => RECORDS,
            Event::RingReap { .. } => RECORDS,
            Event::RingFull { .. } => RECORDS,
            Event::GuestCrash { .. }
            | Event::HostCrash { .. }
            | Event::MachineReset
            | Event::MemPlug { .. }
            | Event::MemUnplug { .. }
            | Event::MemBusy { .. }
            | Event::BitmapExclude { .. }
            | Event::LimitSet { .. }
            | Event::LimitRate { .. }
            | Event::LimitPenalty { .. }
            | Event::LimitSleep { .. } => u64::MAX,
            Event::DirtyClear { .. }
            | Event::DirtyMark { .. }
            | Event::HostDiscard { .. }
            | Event::DmaWrite { .. }
            | Event::VhostWrite { .. }
            | Event::Inject { .. }
            | Event::BalloonInflate { .. }
            | Event::BalloonDeflate { .. }
            | Event::BalloonReport { .. }
            | Event::GuestReport { .. }
            | Event::GuestInflate { .. }
            | Event::GuestDeflate { .. }
            | Event::GuestWrite { .. }
            | Event::GuestReady
            | Event::GuestAlloc { .. }
            | Event::GuestFree { .. }
            | Event::GuestAllocFail { .. }
            | Event::GuestReclaim { .. }
            | Event::GuestReturn { .. }
            | Event::GuestCmdId { .. }
            | Event::GuestStart { .. }
            | Event::GuestStop
            | Event::GuestKick { .. }
            | Event::GuestIrq { .. }
            | Event::GuestLock { .. }
            | Event::GuestUnlock { .. }
            | Event::GuestActual { .. }
            | Event::GuestIsolate { .. }
            | Event::GuestPutback { .. }
            | Event::GuestDequeue { .. }
            | Event::GuestMigratePage { .. }
            | Event::GuestMigrateDone { .. }
            | Event::GuestShrink { .. }
            | Event::GuestOom
            | Event::GuestMissing { .. }
            | Event::GuestTask { .. }
            | Event::GuestTaskDone { .. }
            | Event::GuestNamed { .. }
            | Event::GuestWork { .. }
            | Event::GuestWorkDone { .. }
            | Event::VfioWrite { .. }
            | Event::GuestRestart
            | Event::GuestWarn { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use host::event::Pfn;

    use super::*;

    #[test]
    fn a_range_beyond_memory_touches_the_regions_of_memory_alone() {
        let of = |first, count| regions_of(PageRange::new(Pfn(first), count), 256);
        assert_eq!(of(0, 1), 0..1);
        assert_eq!(of(63, 2), 0..2);
        assert_eq!(of(128, 1 << 40), 2..4);
        assert!(of(1 << 30, 1 << 40).is_empty());
    }
}
