//! The whole machine is reset: devices, vCPUs, and what the firmware puts into memory. The rest of memory keeps what it holds.
//!
//! QEMU: system/runstate.c qemu_system_reset_request(), main_loop_should_exit(), qemu_system_reset(); hw/core/loader.c rom_reset(). The request is a note for
//! the main loop, whoever makes it; the main loop stops all vCPUs, resets the devices under the BQL, and lets the vCPUs go on if the VM runs. A migration
//! goes on: nobody tells it. A VM that is stopped is reset all the same, and stays stopped.
//!
//! Differs: vCPUs that wait for the BQL do not make their access first; the devices were reset behind it anyway. What virtio-mem has plugged stays, as it does
//! in QEMU while a migration is under way (hw/virtio/virtio-mem.c virtio_mem_system_reset()). Firecracker ends with its guest's reset,
//! and Cloud Hypervisor builds a new VM on new memory: there the machine stays as it is. A reset that is asked for when the devices' state has left the source,
//! and the guest has not gone over, is put off: where the migration completes, what QEMU resets is a source that nobody uses again, and where it fails, the
//! machine is reset then, before its VM goes on.

use wire::platform::{BOOT_INFO, IMAGE_END, PAGE_SHIFT};

use super::{Command, MonitorState, PAM, Stuck, Vmm};
use crate::balloon::Profile;
use crate::dirty::command::TrackingCommand;
use crate::event::{EventKind, LockId, MigrationStatus, PageRange, Pfn};
use crate::step::{Ctx, Move, Next};

/// Pages that the firmware writes before the kernel's first instruction: what the kernel takes for zeros, and its image.
pub const FIRMWARE: PageRange =
    PageRange { first: Pfn(BOOT_INFO >> PAGE_SHIFT), count: (IMAGE_END >> PAGE_SHIFT) - (BOOT_INFO >> PAGE_SHIFT) };

impl Vmm {
    /// Notes that the machine is to be reset; once, however many ask for it. QEMU: qemu_system_reset_request().
    pub fn request_reset(&mut self) {
        if self.is_leaving() {
            self.reset_put_off = true;
            return;
        }
        let queue = &mut self.monitor.queue;
        if self.balloon.profile() == Profile::Qemu && !queue.contains(&Command::MachineReset) {
            // The main loop looks at the note before it takes the next command, and behind the one that it is at.
            queue.insert(queue.len().min(1), Command::MachineReset);
        }
    }

    /// Returns whether the devices' state is on its way to the destination: the migration thread has the BQL from the VM's stop until it is sent.
    fn is_leaving(&self) -> bool {
        use MigrationStatus::{Device, PostcopyActive, PostcopyDevice, PostcopyPaused, PostcopyRecover};
        let status = self.migration.status();
        self.left.is_none() && matches!(status, Device | PostcopyDevice | PostcopyActive | PostcopyPaused | PostcopyRecover)
    }

    /// A reset that was put off is due, or will never be.
    pub(super) fn look_at_reset(&mut self) {
        if self.reset_put_off && !self.is_leaving() {
            self.reset_put_off = false;
            if self.left.is_none() && self.migration.status() != MigrationStatus::Completed {
                self.request_reset();
            }
        }
    }

    /// Returns whether the main loop has stopped the vCPUs to reset them. QEMU: pause_all_vcpus().
    pub fn vcpus_paused(&self) -> bool {
        self.monitor.queue.front() == Some(&Command::MachineReset) && self.monitor.state != MonitorState::Waiting
    }

    /// Returns the locks of a reset, outermost first.
    pub(super) fn reset_locks(&self) -> &'static [LockId] {
        match (self.balloon.reset_stops_hinting(), self.accel.has_slot_at(PAM)) {
            (false, false) => &[LockId::Bql],
            (true, false) => &[LockId::Bql, LockId::FreePage],
            (false, true) => &[LockId::Bql, LockId::Slots],
            (true, true) => &[LockId::Bql, LockId::FreePage, LockId::Slots],
        }
    }

    /// Resets the devices; the vCPUs and what the firmware writes are the world's, in the same move. QEMU: qemu_devices_reset(). The chipset's reset closes the
    /// PAM registers: where the memory behind them has a slot of its own, that is deleted and created.
    pub(super) fn reset_machine(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        // QEMU: main_loop_should_exit(): RUN_STATE_PRELAUNCH.
        self.vm.postmigrate = false;
        if self.balloon.is_plugged() {
            self.balloon.reset(ctx);
        }
        self.devices.reset(&mut self.d, ctx);
        // QEMU: virtio_mem_system_reset_hold(). Differs: no driver asks for the operator's size again when it is up.
        self.devices.resize_mem(0, self.migration.status().is_running(), ctx);
        if self.accel.has_slot_at(PAM) {
            self.track(TrackingCommand::TogglePam, ctx);
        }
        ctx.costs.vm_stop_ns
    }

    /// Returns a page that keeps the firmware from going on: the main loop waits for it with the BQL.
    pub(super) fn reset_stuck(&self, ctx: &Ctx<'_>) -> Option<Stuck> {
        let locked = self.vcpus_paused() && self.monitor.taken() == self.locks_of(Command::MachineReset, ctx).len();
        if locked { self.page_in_the_way() } else { None }
    }

    /// Returns what the main loop does with the locks of the reset.
    pub(super) fn reset_move(&self) -> Move {
        match self.page_in_the_way().map(Stuck::next) {
            Some(Next::Do(fault)) => fault,
            Some(Next::Lock(_) | Next::Sleep(_) | Next::Wait(_) | Next::Idle) | None => Move::plain(EventKind::MachineReset),
        }
    }

    /// Returns the first page that the firmware would write, and that nobody can use yet.
    fn page_in_the_way(&self) -> Option<Stuck> {
        let first = |bits: &crate::dirty::bitmap::DirtyBitmap| bits.next_set(FIRMWARE.first).filter(|pfn| FIRMWARE.contains(*pfn));
        let absent = self.migration.missing().and_then(first);
        let absent = absent.map(|pfn| Stuck { pfn, kind: EventKind::DstFault, asked: self.migration.is_asked_for(pfn) });
        absent.or_else(|| {
            let pfn = first(self.migration.protected()?)?;
            Some(Stuck { pfn, kind: EventKind::SnapshotFault, asked: self.migration.is_wanted(pfn) })
        })
    }

    /// The main loop touches that page.
    pub(super) fn reset_fault(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        let stuck = self.reset_stuck(ctx).expect("a page is in the way");
        self.ask_for(stuck, ctx)
    }
}
