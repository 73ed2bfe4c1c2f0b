//! The device is taken out of the machine, and those who know of it forget it.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_device_realize(), virtio_balloon_device_unrealize(). Differs: the transport here is virtio-mmio, which is not
//! hot-pluggable; what is behind a place where a device was reads as ones, as on PCI.

use super::device::{BalloonDevice, BalloonOptions, IothreadOption};
use crate::event::{HintStatus, LockId};
use crate::fault::Fault;
use crate::step::Ctx;
use wire::virtio::mmio;

/// Who knows of the device beside its driver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ties {
    /// It is in the machine.
    plugged: bool,
    /// It is among the migration's notifiers.
    notified: bool,
    /// References to the iothread's object that it holds.
    iothread_references: u32,
}

impl Ties {
    /// QEMU: virtio_balloon_device_realize(): what is offered decides, not what a driver takes.
    pub(super) fn of(options: &BalloonOptions) -> Self {
        let hints = match options.machine.iothread {
            IothreadOption::Present => options.features & options.hint_feature() != 0,
            IothreadOption::Missing | IothreadOption::MissingUnnoticed => false,
        };
        // A host that looks by itself has no feature for it.
        let walks = options.hint_feature() == 0;
        Self { plugged: true, notified: hints || walks, iothread_references: u32::from(hints) }
    }
}

impl BalloonDevice {
    /// Returns whether the device is in the machine.
    pub fn is_plugged(&self) -> bool {
        self.state.ties.plugged
    }

    /// Returns the references to the iothread's object that the device holds.
    pub fn iothread_references(&self) -> u32 {
        self.state.ties.iothread_references
    }

    /// Returns whether the migration's notifiers would call into a device that is gone.
    pub(super) fn is_dangling(&self) -> bool {
        !self.state.ties.plugged && self.state.ties.notified
    }

    /// Returns the locks that taking the device out needs, outermost first: a round is stopped, whoever asked for it.
    pub fn unplug_locks(&self) -> &'static [LockId] {
        match self.hint_status() {
            HintStatus::Stop => &[LockId::Bql],
            HintStatus::Requested | HintStatus::Start | HintStatus::Done => &[LockId::Bql, LockId::FreePage],
        }
    }

    /// Takes the device out. The caller holds [`BalloonDevice::unplug_locks`]. QEMU: virtio_balloon_device_unrealize().
    pub fn unrealize(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.is_plugged(), "a device is taken out twice");
        // A driver that is gone by then has taken no feature.
        let forgets = self.hints_negotiated() || !self.state.ties.notified || !ctx.faults.on(Fault::UnrealizeByGuestFeatures);
        let lets_go = self.state.ties.iothread_references == 0 || !ctx.faults.on(Fault::IothreadReference);
        self.transport.write(mmio::STATUS, 0, ctx);
        if self.hint_status() != HintStatus::Stop {
            self.hint_stop(ctx);
        }
        self.reset_after_status(ctx);
        let ties = &mut self.state.ties;
        ties.plugged = false;
        ties.notified &= !forgets;
        if lets_go {
            ties.iothread_references = 0;
        }
        assert_eq!(self.hint_status(), HintStatus::Stop, "a round goes on without a device");
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Profile;
    use super::super::testing::{Rig, options};
    use super::*;
    use crate::event::{Actor, Event, PrecopyReason};
    use wire::balloon::feature;

    fn unplugged(faults: &[Fault], unbound: bool) -> Rig {
        let mut rig = Rig::up(Profile::Qemu, faults).in_status(HintStatus::Start);
        if unbound {
            rig.write(mmio::STATUS, 0);
        }
        let locks = rig.device.unplug_locks();
        rig.with(Actor::MainLoop, |device, _, ctx| {
            locks.iter().for_each(|lock| ctx.lock(*lock));
            device.unrealize(ctx);
            locks.iter().for_each(|lock| ctx.unlock(*lock));
        });
        rig.take_events();
        rig
    }

    #[test]
    fn a_device_that_is_gone_is_told_nothing_and_reads_as_ones() {
        for unbound in [false, true] {
            let mut rig = unplugged(&[], unbound);
            assert_eq!(rig.notify(PrecopyReason::AfterBitmapSync, true), None);
            assert_eq!(rig.read(mmio::MAGIC_VALUE), u32::MAX);
            rig.write(mmio::STATUS, 1);
            assert_eq!((rig.take_events(), rig.device.iothread_references()), (vec![], 0));
        }
    }

    #[test]
    fn fault_by_guest_features_leaves_the_notifier_of_an_unbound_driver() {
        for (unbound, crashes) in [(false, 0), (true, 1)] {
            let mut rig = unplugged(&[Fault::UnrealizeByGuestFeatures], unbound);
            assert_eq!(rig.notify(PrecopyReason::BeforeBitmapSync, true), None);
            let events = rig.take_events();
            assert_eq!(events.iter().filter(|event| matches!(event, Event::HostCrash { .. })).count(), crashes);
        }
    }

    #[test]
    fn fault_reference_keeps_the_thread() {
        assert_eq!(unplugged(&[Fault::IothreadReference], true).device.iothread_references(), 1);
    }

    #[test]
    fn without_a_thread_there_is_no_hint_queue_unless_nobody_noticed() {
        let with = |iothread| {
            let machine = super::super::Machine { iothread, ..Default::default() };
            let rig = Rig::bare(BalloonOptions { machine, ..options(Profile::Qemu) });
            let offers = rig.device.transport().offered() & feature::FREE_PAGE_HINT != 0;
            (offers, rig.device.queue_of(super::super::device::QueueRole::FreePage), rig.device.iothread_references())
        };
        assert_eq!(with(IothreadOption::Present), (true, Some(3), 1));
        assert_eq!(with(IothreadOption::Missing), (false, None, 0));
        assert_eq!(with(IothreadOption::MissingUnnoticed), (false, Some(3), 0));
    }
}
