//! The injector: what the scenario itself does to the world, and when.

use std::sync::Arc;

use host::dirty::accel::StoreKind;
use host::event::{Actor, Event, Level, LockId, PageRange, Pfn};
use host::fault::Fault;
use host::vmm::{Command as HostCommand, LinkEvent};
use wire::platform::{self, vector};
use wire::task;

use crate::scenario::model::{Action, Command, How, Injection, Operation, Scenario, Target, Trigger};
use crate::world::{Window, World, object};

/// Where an injection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectionState {
    /// Not all that it waits for has happened.
    Waiting,
    /// All has happened; it fires at this time, or behind that many instructions of its vCPU.
    Armed {
        /// Virtual time, nanoseconds.
        at_ns: u64,
        /// Instruction count of the injecting vCPU.
        at_insns: Option<u64>,
    },
    /// It has fired.
    Fired,
}

/// The stores of an injected write.
#[derive(Debug, Clone, Copy)]
struct Stores {
    /// Byte offset in each page.
    offset: u64,
    /// First byte; one that is all zero has none.
    byte: Option<u8>,
    pages: u64,
    target: Target,
    /// What tracking takes them for.
    how: How,
}

impl World {
    /// Returns the injection that can fire first, behind its time in nanoseconds.
    pub(super) fn injector_next(&self) -> Option<(u64, usize)> {
        let mut soonest: Option<(u64, usize)> = None;
        for index in 0..self.state.injections.len() {
            let Some(at_ns) = self.injection_due(index) else { continue };
            if soonest.is_none_or(|(at, _)| at_ns < at) {
                soonest = Some((at_ns, index));
            }
        }
        soonest
    }

    /// Returns from when on an injection can fire, nanoseconds, if it can.
    pub(super) fn injection_due(&self, index: usize) -> Option<u64> {
        match self.state.injections[index] {
            InjectionState::Armed { at_ns, at_insns } if self.injection_can_fire(index, at_insns) => Some(at_ns),
            InjectionState::Armed { .. } | InjectionState::Waiting | InjectionState::Fired => None,
        }
    }

    /// Returns whether whom the injection needs is where it can be done.
    fn injection_can_fire(&self, index: usize, at_insns: Option<u64>) -> bool {
        let injection = self.injection(index);
        if !self.page_is_known(&injection.action)
            || !self.device_reaches(&injection.action, injection.by)
            || self.state.gates.holds_injection(index).is_some()
        {
            return false;
        }
        // What may happen does so by a search's choice alone. It holds nobody back: it is late once one of those has happened that it must
        // come before.
        let late = || injection.before.iter().any(|pattern| self.state.gates.has_happened(pattern));
        if self.is_may(index) && (self.state.window != Window::Open || late()) {
            return false;
        }
        let Actor::Vcpu(cpu) = injection.by else {
            // Devices write for a VM that runs: stopping it drains their requests and stops vhost's backends before anything else happens
            // (QEMU: system/cpus.c do_vm_stop(), hw/virtio/vhost.c vhost_dev_stop()). A display refreshes with the big lock.
            return match injection.action {
                Action::Write { .. } => self.state.vmm.vm.running,
                Action::ClearLog { sync: true, .. } => self.state.locks.holder(LockId::Bql).is_none(),
                _ => true,
            };
        };
        let vcpu = &self.state.vcpus[usize::from(cpu)];
        let there = at_insns.is_none_or(|at| vcpu.insns >= at);
        match injection.action {
            Action::Write { .. } | Action::VhostQueue { .. } | Action::Iommu { .. } => {
                there && self.state.vmm.vm.running && self.state.ready && vcpu.at_boundary()
            }
            Action::Task(_) => there && self.state.ready,
            Action::Monitor(_) | Action::ClearLog { .. } | Action::RepeatId => there && self.state.ready,
        }
    }

    /// Returns whether the page of an action is known, and there: nothing is behind the end of a block that has not grown yet.
    fn page_is_known(&self, action: &Action) -> bool {
        match action {
            Action::Write { page, .. } | Action::ClearLog { page, .. } | Action::VhostQueue { page, .. } | Action::Iommu { page, .. } => {
                self.state.pages.frames.get(page).is_some_and(|pfn| pfn.0 < self.state.vmm.d.present())
            }
            Action::Task(_) | Action::Monitor(_) | Action::RepeatId => true,
        }
    }

    /// Returns whether a device can write where it is to: it reaches the pages, and a used ring is where the guest has put it.
    fn device_reaches(&self, action: &Action, by: Actor) -> bool {
        let devices = &self.state.vmm.devices;
        match (action, by) {
            (Action::Write { page, target: Target::UsedRing(queue), .. }, _) => {
                let used = devices.vhost.used_ring(*queue).and_then(|iova| devices.iommu().translate(iova));
                used == Some(self.state.pages.frames[page])
            }
            (Action::Write { page, pages, .. }, Actor::Vfio) => devices.vfio_reaches(self.in_ram(self.state.pages.frames[page], *pages)),
            (Action::VhostQueue { page, .. }, _) => devices.iommu().iova_of(self.state.pages.frames[page]).is_some(),
            (Action::Write { .. } | Action::Task(_) | Action::Monitor(_) | Action::ClearLog { .. } | Action::RepeatId, _)
            | (Action::Iommu { .. }, _) => true,
        }
    }

    /// Arms the injections, and the migration's start, whose events have all happened by now.
    pub(super) fn arm_injections(&mut self) {
        if let (Some(InjectionState::Waiting), Some(trigger)) = (self.state.start, &self.scenario.migration.start)
            && trigger.after.iter().all(|pattern| self.state.gates.has_happened(pattern))
        {
            let (at_ns, at_insns) = self.due(trigger, Actor::MainLoop);
            self.state.start = Some(InjectionState::Armed { at_ns, at_insns });
        }
        for index in 0..self.state.injections.len() {
            if self.state.injections[index] != InjectionState::Waiting {
                continue;
            }
            let injection = self.injection(index);
            if !injection.trigger.after.iter().all(|pattern| self.state.gates.has_happened(pattern)) {
                continue;
            }
            let by = injection.by;
            let (at_ns, at_insns) = self.due(&injection.trigger, by);
            self.state.injections[index] = InjectionState::Armed { at_ns, at_insns };
            self.stop_for_injections(by);
        }
    }

    /// Makes a vCPU stop at the first instruction count at which one of its armed injections is due.
    fn stop_for_injections(&mut self, by: Actor) {
        let Actor::Vcpu(cpu) = by else { return };
        let insns = self.state.vcpus[usize::from(cpu)].insns;
        let counts = self.injections().zip(&self.state.injections).filter_map(|(injection, state)| match state {
            InjectionState::Armed { at_insns, .. } if injection.by == by => *at_insns,
            InjectionState::Waiting | InjectionState::Armed { .. } | InjectionState::Fired => None,
        });
        // One that was due before and could not fire holds nobody up.
        self.state.vcpus[usize::from(cpu)].stop_at_insns = counts.filter(|at| *at >= insns).min();
    }

    /// Returns when a trigger is due whose events have all happened just now.
    fn due(&self, trigger: &Trigger, by: Actor) -> (u64, Option<u64>) {
        let earliest = if trigger.after.is_empty() { 0 } else { self.state.now_ns + trigger.delay_ns };
        let at_ns = trigger.at_ns.map_or(earliest, |at| at.max(earliest));
        let at_insns = match by {
            Actor::Vcpu(cpu) if trigger.delay_insns > 0 => Some(self.state.vcpus[usize::from(cpu)].insns + trigger.delay_insns),
            _ => None,
        };
        (at_ns, at_insns)
    }

    /// Lets nothing more happen of what may.
    pub(super) fn decline(&mut self) {
        for index in self.scenario.injections.len()..self.state.injections.len() {
            self.state.injections[index] = InjectionState::Fired;
        }
    }

    /// Fires an injection; a scenario's own doing costs no time.
    pub(super) fn fire(&mut self, index: usize) {
        let scenario = Arc::clone(&self.scenario);
        let injection = injection_of(&scenario, index);
        self.state.injections[index] = InjectionState::Fired;
        self.emit(Actor::Injector, Event::Inject { index: index as u32 });
        if !matches!((&injection.action, injection.by), (Action::Write { .. }, Actor::Vcpu(_))) {
            // A vCPU's store has happened when its frame ends.
            self.state.gates.injected(index);
        }
        self.stop_for_injections(injection.by);
        match &injection.action {
            Action::Write { page, offset, byte, zero, pages, target, how } => {
                let stores = Stores { offset: *offset, byte: (!zero).then_some(*byte), pages: *pages, target: *target, how: *how };
                self.inject_write(index, injection.by, self.state.pages.frames[page], stores);
            }
            Action::VhostQueue { page, queue } => {
                let used = self.state.pages.frames[page];
                self.with_ctx(injection.by, |vmm, ctx| vmm.devices.set_up_queue(*queue, used, ctx));
            }
            Action::Iommu { map, page, pages } => {
                let range = self.in_ram(self.state.pages.frames[page], *pages);
                self.with_ctx(injection.by, |vmm, ctx| match map {
                    true => vmm.devices.map(range, ctx),
                    false => vmm.devices.unmap(range, &mut vmm.d, ctx),
                });
            }
            Action::Task(operation) => self.inject_task(index, injection, operation),
            Action::Monitor(command) => match host_command(*command) {
                Given::Command(command) => self.state.vmm.monitor.push(command),
                Given::Link(event) => self.with_ctx(Actor::Destination, |vmm, ctx| vmm.link(event, ctx)),
            },
            Action::ClearLog { page, pages, sync } => {
                let range = self.in_ram(self.state.pages.frames[page], *pages);
                // QEMU: memory_region_snapshot_and_clear_dirty().
                if *sync {
                    self.with_ctx(Actor::Display, |vmm, ctx| vmm.refresh_log(range, ctx));
                    self.protect();
                }
                // Where no log is kept, or none that can be cleared, there is nothing to clear (QEMU: memory_region_clear_dirty_bitmap()
                // calls those who log and know how).
                if self.state.vmm.accel.logging() && self.state.vmm.accel.has_clear() {
                    self.with_ctx(Actor::Display, |vmm, ctx| vmm.accel.clear(range, ctx));
                    self.protect();
                }
            }
            Action::RepeatId => {
                let Actor::Vcpu(cpu) = injection.by else { unreachable!("checked by the parser") };
                let op = task::TaskOp { code: task::op::REPEAT_START, name: 0, a: 1, b: 0, id: self.task_id(index) };
                self.push_task(usize::from(cpu), op);
            }
        }
    }

    fn inject_write(&mut self, index: usize, by: Actor, first: Pfn, stores: Stores) {
        let Stores { offset, byte, pages, target, how } = stores;
        let number = self.first_value(index);
        if let Actor::Vcpu(cpu) = by {
            let value = byte.map_or(0, |byte| unique_value(number, byte));
            let kind = match how {
                How::Plain | How::Kvm => StoreKind::Plain,
                How::Atomic => StoreKind::Atomic,
                How::Smm => StoreKind::Smm,
            };
            self.inject_store(index, usize::from(cpu), first.address() + offset, value, kind);
            return;
        }
        let range = self.in_ram(first, pages);
        for (pfn, number) in range.pages().zip(number..) {
            // What the device still has pinned is not the guest's page any more.
            if by == Actor::Vfio && self.state.vmm.devices.is_detached(pfn) {
                continue;
            }
            let value = byte.map_or(0, |byte| unique_value(number, byte));
            self.ram.write_unlogged(pfn.address() + offset, &value.to_le_bytes());
        }
        match by {
            Actor::Dma => {
                self.emit(Actor::Dma, Event::DmaWrite { range });
                if how == How::Kvm {
                    range.pages().for_each(|pfn| self.kernel_write(pfn));
                    return;
                }
                self.mark_dma(range, target);
                self.wrote_range(range, Actor::Dma);
                self.tell_marks(Actor::Dma, range);
            }
            Actor::Vhost => {
                self.emit(Actor::Vhost, Event::VhostWrite { range });
                let vhost = &mut self.state.vmm.devices.vhost;
                match target {
                    Target::UsedRing(queue) => vhost.wrote_used_ring(queue, first, &self.faults),
                    Target::Buffer | Target::AvailEvent => vhost.wrote(range, &self.faults),
                }
                self.wrote_range(range, Actor::Vhost);
            }
            Actor::Vfio => {
                self.emit(Actor::Vfio, Event::VfioWrite { range });
                self.state.vmm.devices.vfio_wrote(range);
                let seen: Vec<Pfn> = range.pages().filter(|pfn| !self.state.vmm.devices.is_detached(*pfn)).collect();
                seen.into_iter().for_each(|pfn| self.wrote_range(PageRange::page(pfn), Actor::Vfio));
            }
            Actor::Vcpu(_)
            | Actor::Iothread
            | Actor::Migration
            | Actor::MainLoop
            | Actor::Display
            | Actor::Destination
            | Actor::Channel(_)
            | Actor::Receiver(_)
            | Actor::ReturnPath
            | Actor::Reaper
            | Actor::Injector => unreachable!("checked by the parser"),
        }
    }

    /// Says which pages of a range are dirty in D now, of those that the scenario looks at.
    pub(super) fn tell_marks(&mut self, by: Actor, range: PageRange) {
        let marked: Vec<Pfn> = range.pages().filter(|pfn| self.state.watch.has(*pfn) && self.state.vmm.d.test(*pfn)).collect();
        for pfn in marked {
            self.emit(by, Event::DirtyMark { pfn, level: Level::D });
        }
    }

    /// Marks what a device in the VMM wrote. [`Fault::DmaUnmarked`]: nothing. [`Fault::AvailEventUnmarked`]: no avail event, which is written through
    /// a mapping of its own (QEMU: hw/virtio/virtio.c vring_set_avail_event()).
    pub(super) fn mark_dma(&mut self, range: PageRange, target: Target) {
        let forgotten = match target {
            Target::Buffer => self.faults.on(Fault::DmaUnmarked),
            Target::AvailEvent => self.faults.on(Fault::AvailEventUnmarked),
            Target::UsedRing(_) => unreachable!("checked by the parser"),
        };
        if forgotten {
            return;
        }
        if self.state.vmm.d.tracking() && self.faults.on(Fault::DirtySetNotAtomic) {
            self.state.vmm.d.load_torn(range);
            self.emit(Actor::Dma, Event::BitmapLoad { range });
        } else {
            self.state.vmm.d.mark_device_write(&[range], &self.faults);
        }
    }

    /// KVM itself has written a page.
    fn kernel_write(&mut self, pfn: Pfn) {
        let level = self.state.vmm.accel.kernel_write(pfn, &mut self.state.vmm.d);
        self.wrote_range(PageRange::page(pfn), Actor::Dma);
        if let Some(level) = level.filter(|_| self.state.watch.has(pfn)) {
            self.emit(Actor::Dma, Event::DirtyMark { pfn, level });
        }
    }

    /// Returns the part of a range that is RAM: a device's write ends where memory does.
    fn in_ram(&self, first: Pfn, pages: u64) -> PageRange {
        let end = self.state.vmm.d.present();
        assert!(first.0 < end, "page {first} is no RAM");
        PageRange::new(first, pages.min(end - first.0))
    }

    fn inject_task(&mut self, index: usize, injection: &Injection, operation: &Operation) {
        let Actor::Vcpu(cpu) = injection.by else { unreachable!("checked by the parser") };
        let op = self.task_op(operation, self.first_value(index), self.task_id(index));
        self.push_task(usize::from(cpu), op);
    }

    /// Returns the number of the first unique value that an injection writes. It does not depend on what has happened before: runs that come
    /// to the same state by other ways are to find the same bytes there.
    fn first_value(&self, index: usize) -> u64 {
        let values = |injection: &Injection| match injection.action {
            Action::Write { pages, .. } => pages,
            Action::Task(_) | Action::Monitor(_) | Action::ClearLog { .. } | Action::RepeatId => 1,
            // They write nothing.
            Action::VhostQueue { .. } | Action::Iommu { .. } => 0,
        };
        self.boot_tasks() + 1 + self.injections().take(index).map(values).sum::<u64>()
    }

    /// Returns the number of the task that an injection is.
    fn task_id(&self, index: usize) -> u64 {
        let tasks = self.injections().take(index).filter(|injection| matches!(injection.action, Action::Task(_) | Action::RepeatId));
        self.boot_tasks() + tasks.count() as u64
    }

    /// Returns the number of operations that the tasks of the scenario consist of.
    fn boot_tasks(&self) -> u64 {
        self.scenario.guest.tasks.iter().map(|task| task.operations.len() as u64).sum()
    }

    /// Returns what the scenario does, and behind it what it may do, if that is on.
    pub(super) fn injections(&self) -> impl Iterator<Item = &Injection> {
        let may = if self.may { self.scenario.may.as_slice() } else { &[] };
        self.scenario.injections.iter().chain(may)
    }

    pub(super) fn injection(&self, index: usize) -> &Injection {
        injection_of(&self.scenario, index)
    }

    /// Returns whether an injection need not happen.
    pub(super) fn is_may(&self, index: usize) -> bool {
        index >= self.scenario.injections.len()
    }

    /// Hands a vCPU an operation, and rings.
    pub(super) fn push_task(&mut self, cpu: usize, op: task::TaskOp) {
        self.state.backlog[cpu].push_back(op);
        self.feed_mailbox(cpu);
        self.state.vcpus[cpu].interrupts.insert(vector::MAILBOX);
        self.used.changed |= object::interrupts(cpu);
    }

    /// Writes operations into a vCPU's mailbox as far as there is room. What does not fit follows as the guest works off the others.
    pub(super) fn feed_mailbox(&mut self, cpu: usize) {
        let mailbox = platform::MAILBOX + cpu as u64 * platform::PAGE_SIZE;
        let (mut head, tail) = (self.ram.read_u64(mailbox), self.ram.read_u64(mailbox + 8));
        while head.wrapping_sub(tail) < task::SLOTS
            && let Some(op) = self.state.backlog[cpu].pop_front()
        {
            let slot = mailbox + task::HEADER_BYTES + head % task::SLOTS * task::OP_BYTES;
            let mut bytes = [0; task::OP_BYTES as usize];
            bytes[0..4].copy_from_slice(&op.code.to_le_bytes());
            bytes[4..8].copy_from_slice(&op.name.to_le_bytes());
            bytes[8..16].copy_from_slice(&op.a.to_le_bytes());
            bytes[16..24].copy_from_slice(&op.b.to_le_bytes());
            bytes[24..32].copy_from_slice(&op.id.to_le_bytes());
            self.ram.write_unlogged(slot, &bytes);
            head = head.wrapping_add(1);
            self.ram.write_unlogged(mailbox, &head.to_le_bytes());
            self.state.vmm.d.mark(PageRange::page(Pfn(mailbox >> platform::PAGE_SHIFT)));
        }
    }

    /// Returns whether a vCPU's task has not ended all operations that it was given.
    pub(super) fn task_is_busy(&self, cpu: usize) -> bool {
        let mailbox = platform::MAILBOX + cpu as u64 * platform::PAGE_SIZE;
        !self.state.backlog[cpu].is_empty() || self.ram.read_u64(mailbox) != self.ram.read_u64(mailbox + 8)
    }

    /// Returns an operation as the guest reads it.
    ///
    /// `value` is the number of the value that it writes, if it writes one, and `id` its own.
    pub(super) fn task_op(&self, operation: &Operation, value: u64, id: u64) -> task::TaskOp {
        let name = |name: &String| self.allocations.iter().position(|known| known == name).expect("checked by the parser") as u32;
        let (code, name, a, b) = match operation {
            Operation::Alloc { name: n, order, atomic } => (task::op::ALLOC, name(n), u64::from(*order), u64::from(*atomic)),
            Operation::Free { name: n, in_interrupt } => (task::op::FREE, name(n), u64::from(*in_interrupt), 0),
            Operation::Write { name: n, page, byte } => {
                let n = name(n);
                (task::op::WRITE, n, page * platform::PAGE_SIZE, unique_value(value, *byte))
            }
            Operation::Verify { name: n, page, byte } => (task::op::VERIFY, name(n), page * platform::PAGE_SIZE, u64::from(*byte)),
            Operation::Fill { name: n, pages } => {
                let n = name(n);
                (task::op::FILL, n, *pages, unique_value(value, 0x5a) << 32 | 0x5a)
            }
            Operation::Release { name: n, every } => (task::op::RELEASE, name(n), *every, 0),
            Operation::StartZone { zone } => (task::op::START_ZONE, 0, *zone, 0),
            Operation::ListFree { order } => (task::op::LIST_FREE, 0, *order, 0),
            Operation::Shrink { pages } => (task::op::SHRINK, 0, *pages, 0),
            Operation::Oom => (task::op::OOM, 0, 0, 0),
            Operation::Compact { order, busy } => (task::op::COMPACT, 0, u64::from(*order), *busy),
            Operation::Evacuate => (task::op::EVACUATE, 0, 0, 0),
            Operation::Sleep { ns } => (task::op::SLEEP, 0, *ns, 0),
            Operation::Churn { times, seed } => (task::op::CHURN, 0, *times, *seed),
            Operation::Unbind => (task::op::UNBIND, 0, 0, 0),
            Operation::Bind => (task::op::BIND, 0, 0, 0),
            Operation::Freeze => (task::op::FREEZE, 0, 0, 0),
            Operation::Restore => (task::op::RESTORE, 0, 0, 0),
            Operation::Shutdown => (task::op::SHUTDOWN, 0, 0, 0),
            Operation::Reboot => (task::op::REBOOT, 0, 0, 0),
            Operation::EmergencyRestart => (task::op::EMERGENCY_RESTART, 0, 0, 0),
            Operation::GetPage { pfn } => (task::op::PAGE_REF, 0, *pfn, 1),
            Operation::PutPage { pfn } => (task::op::PAGE_REF, 0, *pfn, 0),
            Operation::FailAlloc { nth } => (task::op::FAIL_ALLOC, 0, *nth, 0),
            Operation::NoteMemory => (task::op::MEMINFO, 0, 0, 0),
            Operation::CompareMemory => (task::op::MEMINFO, 0, 1, 0),
            Operation::Panic => (task::op::PANIC, 0, 0, 0),
            Operation::NullStore => (task::op::NULL_STORE, 0, 0, 0),
            Operation::WildStore { address } => (task::op::WILD_STORE, 0, *address, 0),
            Operation::JumpToData => (task::op::JUMP_TO_DATA, 0, 0, 0),
        };
        task::TaskOp { code, name, a, b, id }
    }
}

/// Returns the injection of an index: what may happen stands behind what does.
fn injection_of(scenario: &Scenario, index: usize) -> &Injection {
    scenario.injections.get(index).unwrap_or_else(|| &scenario.may[index - scenario.injections.len()])
}

/// Returns a value that no other write of a run carries, when no other has its number; its first byte in memory is `byte`.
fn unique_value(number: u64, byte: u8) -> u64 {
    u64::from(byte) | number << 8
}

/// Where a command goes.
enum Given {
    /// To the main loop.
    Command(HostCommand),
    /// Past it.
    Link(LinkEvent),
}

fn host_command(command: Command) -> Given {
    Given::Command(match command {
        Command::Migrate => HostCommand::Migrate,
        Command::Cancel => HostCommand::Cancel,
        Command::Stop => HostCommand::Stop,
        Command::Cont => HostCommand::Cont,
        Command::Balloon { pages } => HostCommand::Balloon { pages },
        Command::ResetDevice => HostCommand::ResetDevice,
        Command::SystemReset => HostCommand::SystemReset,
        Command::Unplug => HostCommand::Unplug,
        Command::GrowBlock => HostCommand::GrowBlock,
        Command::ResizeMem { pages } => HostCommand::ResizeMem { pages },
        Command::BreakLink => HostCommand::BreakLink,
        Command::StartPostcopy => HostCommand::StartPostcopy,
        Command::Recover => HostCommand::Recover,
        Command::Continue => HostCommand::Continue,
        Command::PostcopyRam { on } => HostCommand::PostcopyRam { on },
        Command::StallLink => return Given::Link(LinkEvent::Stall),
        Command::ResumeLink => return Given::Link(LinkEvent::Resume),
        Command::Yank => return Given::Link(LinkEvent::Yank),
        Command::Tracking(command) => HostCommand::Tracking(command),
    })
}
