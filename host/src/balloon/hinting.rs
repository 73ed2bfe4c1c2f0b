//! The state of free page hinting, and what the migration engine does to it.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_free_page_start(), _stop(), _done(), virtio_balloon_free_page_hint_notify(). Who consumes
//! the hints is in [`super::iothread`].

use super::device::{BalloonDevice, Profile};
use super::protocol::Protocol;
use super::vmstate::SavedDevice;
use crate::event::{CmdId, Event, HintStatus, LockId, Pfn, PrecopyReason};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::migration::notifier::{NotifyAction, NotifyPlan, PrecopyNotifier};
use crate::step::Ctx;
use wire::balloon::{CMD_ID_DONE, CMD_ID_MIN, CMD_ID_STOP};

/// Free page hinting.
///
/// ```text
///            start (after each sync)          the driver echoes the id
///   STOP ───────────────────────▶ REQUESTED ───────────────────────────▶ START
///    ▲ ▲                              │  stop (before each sync)           │ │
///    │ └──────────────────────────────┘                                    │ │
///    └─────────────────────────────────────────────────────────────────────┘ │ any id from the driver, or stop
///   DONE ◀── done, from every other state: the last sync, or the migration's end
///   DONE ──▶ REQUESTED: start of the next migration          DONE ──▶ STOP: stop, reset
/// ```
/// `block_iothread` is beside that: while the VM is stopped, no element is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hinting {
    status: HintStatus,
    cmd_id: CmdId,
    pub(super) block_iothread: bool,
    /// Profile firecracker: the last id that the driver sent means that it has no more pages.
    pub(super) complete: bool,
    /// Profile firecracker: what the driver wrote over the id in the configuration, until the host changes it.
    overwritten: Option<CmdId>,
}

/// What an id from the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum IdEffect {
    /// The round starts.
    Start,
    /// The round is over.
    Stop,
    /// Nothing: the id is stale.
    Ignored,
    /// The pages behind it do not count (responses to requests).
    Stale,
}

impl Hinting {
    pub(super) fn new(profile: Profile) -> Self {
        let cmd_id = match profile {
            Profile::Qemu | Profile::CloudHypervisor => CmdId(CMD_ID_MIN),
            // Firecracker counts from the first id that is not reserved.
            Profile::Firecracker => CmdId(CMD_ID_DONE),
        };
        Self { status: HintStatus::Stop, cmd_id, block_iothread: false, complete: false, overwritten: None }
    }

    /// Firecracker: Balloon::_reset() forgets all of it.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { block_iothread: self.block_iothread, ..Self::new(Profile::Firecracker) };
    }

    /// Returns what the driver wrote over the id, if that is what the configuration shows.
    pub(super) fn overwritten(&self) -> Option<CmdId> {
        self.overwritten
    }

    /// The driver writes over the id. Firecracker: write_config(); `host_cmd`, by which the device goes, stays.
    pub(super) fn overwrite(&mut self, id: CmdId) {
        self.overwritten = Some(id);
    }

    pub(super) fn fold(&self, fold: &mut Fold) {
        let Self { status, cmd_id, block_iothread, complete, overwritten } = self;
        fold.add_part(Tag::Hinting, &(*status, *cmd_id, *complete));
        if let Some(id) = overwritten {
            fold.word(Tag::Hinting as u64, 1, u64::from(id.0));
        }
        fold.add(Tag::IothreadBlocked, u64::from(*block_iothread));
    }

    /// Returns the status.
    pub fn status(&self) -> HintStatus {
        self.status
    }

    /// Returns the id of the newest round.
    pub fn cmd_id(&self) -> CmdId {
        self.cmd_id
    }

    /// QEMU: virtio_balloon_free_page_start(); Firecracker: start_hinting().
    fn next_cmd_id(&mut self, profile: Profile, stride: u32) {
        let first = match profile {
            Profile::Qemu | Profile::CloudHypervisor => CMD_ID_MIN,
            Profile::Firecracker => CMD_ID_DONE + 1,
        };
        self.cmd_id = CmdId(self.cmd_id.0.checked_add(stride).unwrap_or(first));
        assert!(self.cmd_id.0 > CMD_ID_DONE, "id {} is reserved", self.cmd_id);
    }
}

impl BalloonDevice {
    /// The only writer of the status.
    fn set_hint_status(&mut self, status: HintStatus) {
        self.state.hinting.status = status;
    }

    /// Any -> Requested: a new id stands in the configuration. QEMU: virtio_balloon_free_page_start().
    fn hint_request(&mut self, ctx: &mut Ctx<'_>) {
        if !self.starts_unlocked(ctx) {
            let stride = if ctx.faults.on(Fault::RequestIdStride) { 1 << 16 } else { 1 };
            self.state.hinting.next_cmd_id(self.options.profile, stride);
        }
        (self.state.hinting.complete, self.state.hinting.overwritten) = (false, None);
        self.set_hint_status(HintStatus::Requested);
        ctx.emit(Event::HintRequest { id: self.state.hinting.cmd_id });
        match self.options.protocol {
            Protocol::Merged | Protocol::Addresses => self.transport.notify_config(ctx),
            Protocol::Requests(_) => self.ask_or_wait(ctx),
            Protocol::Walk(_) => {
                self.hint_start(ctx);
                self.state.walker.restart();
                self.state.iothread.schedule();
            }
        }
    }

    /// Returns whether a round is requested in two steps that anybody may come between ([`Fault::HintStartUnlocked`]).
    fn starts_unlocked(&self, ctx: &Ctx<'_>) -> bool {
        self.options.protocol.has_cmd_id() && ctx.faults.on(Fault::HintStartUnlocked)
    }

    /// The first of these steps: the id alone.
    fn new_cmd_id(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.starts_unlocked(ctx), "the id changes without the lock");
        self.state.hinting.next_cmd_id(self.options.profile, 1);
        ctx.emit(Event::HintNewId { id: self.state.hinting.cmd_id });
    }

    /// Shows the driver that the configuration's id has changed, where there is one.
    fn show_cmd_id(&mut self, ctx: &mut Ctx<'_>) {
        self.state.hinting.overwritten = None;
        match self.options.protocol {
            Protocol::Merged | Protocol::Addresses => self.transport.notify_config(ctx),
            Protocol::Requests(_) => self.state.request.cancel(),
            Protocol::Walk(_) => {}
        }
    }

    /// Requested -> Start: the driver echoed our id, or the host looks by itself. No interrupt: the driver knows. QEMU: get_free_page_hints().
    pub(super) fn hint_start(&mut self, ctx: &mut Ctx<'_>) {
        let status = self.state.hinting.status;
        let unlocked = || ctx.faults.on(Fault::HintRepeatedId) || ctx.faults.on(Fault::HintStartUnlocked);
        assert!(status == HintStatus::Requested || unlocked(), "START from {}", status.name());
        self.set_hint_status(HintStatus::Start);
        ctx.emit(Event::HintStart { id: self.state.hinting.cmd_id });
    }

    /// Start -> Stop: the driver sent another id, or the same again, or its last response; or the walk is over. No interrupt. QEMU: get_free_page_hints().
    /// Differs by profile firecracker: the request stands until DONE, so the status falls back to Requested.
    pub(super) fn hint_stop_by_driver(&mut self, ctx: &mut Ctx<'_>) {
        let status = self.state.hinting.status;
        assert!(status == HintStatus::Start || ctx.faults.on(Fault::HintStartUnlocked), "the driver stops a round in {}", status.name());
        self.set_hint_status(match self.options.profile {
            Profile::Qemu | Profile::CloudHypervisor => HintStatus::Stop,
            Profile::Firecracker => HintStatus::Requested,
        });
        ctx.emit(Event::HintStop { from: HintStatus::Start });
    }

    /// Any -> Stop: the dirty logs are about to be merged, or the device is reset. Whoever calls has looked at the status without the lock;
    /// it is not looked at again. QEMU: virtio_balloon_free_page_stop().
    pub(super) fn hint_stop(&mut self, ctx: &mut Ctx<'_>) {
        self.assert_locked(ctx, !ctx.faults.on(Fault::HintStopUnlocked));
        let from = self.state.hinting.status;
        self.set_hint_status(HintStatus::Stop);
        ctx.emit(Event::HintStop { from });
        self.show_cmd_id(ctx);
    }

    /// Any -> Done: the hinted pages may be used again. QEMU: virtio_balloon_free_page_done(); Firecracker:
    /// update_free_page_hint_cmd(FREE_PAGE_HINT_DONE).
    pub(super) fn hint_done(&mut self, ctx: &mut Ctx<'_>) {
        self.assert_locked(ctx, true);
        let from = self.state.hinting.status;
        self.state.hinting.complete = false;
        self.set_hint_status(HintStatus::Done);
        ctx.emit(Event::HintDone { from });
        self.show_cmd_id(ctx);
    }

    fn assert_locked(&self, ctx: &Ctx<'_>, locked: bool) {
        let holder = ctx.locks.holder(LockId::FreePage);
        assert!(!locked || holder == Some(ctx.actor), "{} changes the status without its lock", ctx.actor);
    }

    /// Returns what an id from the driver does in the present status. QEMU: get_free_page_hints(); with the fault as before 20a4da0f23.
    /// Firecracker: process_free_page_hinting_queue() compares the driver's last id with the host's for each range.
    pub(super) fn id_effect(&self, id: CmdId, ctx: &Ctx<'_>) -> IdEffect {
        if let Some(format) = self.request_format() {
            return self.response_effect(format.is_current(id, self.state.hinting.cmd_id));
        }
        let current = id == self.state.hinting.cmd_id;
        let repeated_id_restarts = || ctx.faults.on(Fault::HintRepeatedId);
        match (self.state.hinting.status, self.options.profile) {
            (HintStatus::Requested, _) if current => IdEffect::Start,
            (HintStatus::Stop | HintStatus::Done, _) if current && repeated_id_restarts() => IdEffect::Start,
            (HintStatus::Start, _) if current && repeated_id_restarts() => IdEffect::Ignored,
            (HintStatus::Start, Profile::Firecracker) if current => IdEffect::Ignored,
            (HintStatus::Start, _) => IdEffect::Stop,
            (HintStatus::Stop | HintStatus::Requested | HintStatus::Done, _) => IdEffect::Ignored,
        }
    }

    /// Returns what a response does by its id: the first that is current starts the round.
    fn response_effect(&self, current: bool) -> IdEffect {
        match self.state.hinting.status {
            HintStatus::Requested if current => IdEffect::Start,
            HintStatus::Start if current => IdEffect::Ignored,
            HintStatus::Requested | HintStatus::Start | HintStatus::Stop | HintStatus::Done => IdEffect::Stale,
        }
    }

    /// Profile firecracker: notes whether the driver's newest id says that it has no more pages.
    pub(super) fn note_id(&mut self, id: CmdId) {
        if self.request_format().is_some() {
            return;
        }
        // `acknowledge_on_finish` is set by the first round.
        let asked = self.state.hinting.cmd_id.0 > CMD_ID_DONE;
        let ends = id.0 == CMD_ID_STOP || id.0 == CMD_ID_DONE;
        self.state.hinting.complete = self.options.profile == Profile::Firecracker && asked && ends;
    }
}

/// Profile firecracker: a microVM goes on from a snapshot.
impl BalloonDevice {
    /// The device is restored: whatever stood open when the snapshot was taken, the guest may have its pages back. Firecracker: persist.rs restore() for the
    /// configuration, Balloon::kick() for the interrupt. [`Fault::DoneOnActivation`]: nobody tells the driver of it.
    pub(super) fn restored(&mut self, ctx: &mut Ctx<'_>) {
        if !self.hints_negotiated() || !self.transport.driver_ok() || self.transport.broken() {
            return;
        }
        match ctx.faults.on(Fault::DoneOnActivation) {
            true => self.set_hint_status(HintStatus::Done),
            false => self.hint_given_back(ctx),
        }
    }

    /// Any -> Done, and the driver is told; there is no other thread yet that would have to be kept out. Firecracker: update_free_page_hint_cmd().
    pub(super) fn hint_given_back(&mut self, ctx: &mut Ctx<'_>) {
        let from = self.state.hinting.status;
        self.state.hinting.complete = false;
        self.set_hint_status(HintStatus::Done);
        ctx.emit(Event::HintDone { from });
        self.show_cmd_id(ctx);
    }

    /// Returns what whoever asked for a round makes of the device's answers, `host_cmd` and `guest_cmd`: one that the device will not end by DONE is over
    /// when the driver has said that it has no more. Firecracker: get_hinting_status().
    pub(super) fn hints_as_polled(&self) -> HintStatus {
        let over = self.state.hinting.complete && !self.options.acknowledge_on_stop;
        if over { HintStatus::Stop } else { self.hint_status() }
    }

    /// Returns whether the device is about to say DONE by itself.
    pub(super) fn acknowledges(&self) -> bool {
        self.state.hinting.complete && self.options.acknowledge_on_stop
    }
}

/// Differs by profile firecracker: there is no notifier; whoever takes the snapshot starts and ends rounds through the API, and the
/// migration engine stands for them here.
impl PrecopyNotifier for BalloonDevice {
    /// QEMU: virtio_balloon_free_page_hint_notify(), and the tests that _stop() and _done() make before they take the lock.
    fn plan(&self, reason: PrecopyReason, vm_running: bool, ctx: &mut Ctx<'_>) -> Option<NotifyPlan> {
        if self.is_dangling() {
            ctx.crash("the migration calls the notifier of a balloon that was freed");
        }
        // Firecracker: DeviceNotActive.
        let inactive = self.options.profile == Profile::Firecracker && self.transport.broken();
        if !self.hints_negotiated() || inactive {
            return None;
        }
        let status = self.state.hinting.status;
        let stop = (status != HintStatus::Stop).then_some(NotifyAction::Stop);
        let done = (status != HintStatus::Done).then_some(NotifyAction::Done);
        let action = match reason {
            PrecopyReason::BeforeBitmapSync if ctx.faults.on(Fault::HintStopSkipped) => None,
            PrecopyReason::BeforeBitmapSync => stop,
            PrecopyReason::AfterBitmapSync if vm_running && self.starts_unlocked(ctx) => Some(NotifyAction::NewId),
            PrecopyReason::AfterBitmapSync if vm_running => Some(NotifyAction::Start),
            // Firecracker: nobody says DONE unasked, and what is restored says it.
            PrecopyReason::AfterBitmapSync if self.options.profile == Profile::Firecracker && !self.options.acknowledge_on_stop => None,
            PrecopyReason::AfterBitmapSync => done,
            PrecopyReason::Cleanup if ctx.faults.on(Fault::HintNoDone) => stop,
            PrecopyReason::Cleanup => done,
            // With the fault as up to 5.0, where the last sync came behind COMPLETE.
            PrecopyReason::Complete if ctx.faults.on(Fault::CompleteStopsHinting) => stop,
            PrecopyReason::Setup | PrecopyReason::Complete => None,
        }?;
        let locked = match action {
            NotifyAction::NewId => false,
            NotifyAction::Stop => !ctx.faults.on(Fault::HintStopUnlocked),
            NotifyAction::Start | NotifyAction::Done => true,
        };
        Some(NotifyPlan { action, locked })
    }

    fn act(&mut self, action: NotifyAction, ctx: &mut Ctx<'_>) {
        match action {
            NotifyAction::Stop => self.hint_stop(ctx),
            NotifyAction::NewId => self.new_cmd_id(ctx),
            NotifyAction::Start => {
                self.assert_locked(ctx, !self.starts_unlocked(ctx));
                self.hint_request(ctx);
            }
            NotifyAction::Done => self.hint_done(ctx),
        }
    }

    /// QEMU: virtio_balloon_set_status(), which looks at `vm_running` and not at the status.
    fn vm_state_change(&mut self, running: bool, _ctx: &mut Ctx<'_>) {
        self.state.vm_running = running;
        if self.hints_negotiated() {
            self.state.hinting.block_iothread = !running;
        }
    }

    fn ring_pages(&self) -> Vec<Pfn> {
        self.loaded_pages()
    }

    fn saved_cmd_id(&self) -> CmdId {
        self.config_cmd_id()
    }

    fn hints(&self) -> HintStatus {
        self.hints_as_polled()
    }

    fn saved_state(&self, ctx: &Ctx<'_>) -> SavedDevice {
        self.save(ctx.faults)
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Profile;
    use super::super::testing::{Buf, HINT, Rig, range};
    use super::*;
    use crate::event::{Actor, EventKind, HintElement};
    use crate::step::Move;
    use wire::balloon::{config, feature};
    use wire::virtio::{isr, mmio};

    const STATUSES: [HintStatus; 4] = [HintStatus::Stop, HintStatus::Requested, HintStatus::Start, HintStatus::Done];

    #[derive(Debug, Clone, Copy)]
    enum Cause {
        Notify(PrecopyReason, bool),
        CurrentId,
        OtherId(u32),
        Pages,
        Reset,
        VmStopped,
    }

    impl Cause {
        fn happen(self, rig: &mut Rig) {
            match self {
                Cause::Notify(reason, vm_running) => {
                    rig.notify(reason, vm_running);
                }
                Cause::CurrentId => {
                    let id = rig.device.state.hinting.cmd_id();
                    rig.send(&[Buf::Word(id.0)]);
                }
                Cause::OtherId(id) => rig.send(&[Buf::Word(id)]),
                Cause::Pages => rig.send(&[Buf::pages(0x300, 4)]),
                Cause::Reset => rig.write(mmio::STATUS, 0),
                Cause::VmStopped => rig.vm_state(false),
            }
        }
    }

    /// Every event in every status: the new status, and whether the driver gets a configuration interrupt. `None`: nothing changes.
    /// The interrupt of a reset is asked for but not raised, as the status is 0 by then.
    #[test]
    fn every_event_has_its_effect_in_every_status() {
        use HintStatus::{Done, Requested, Start, Stop};
        let irq = |status| Some((status, true));
        let quiet = |status| Some((status, false));
        let table = [
            (Cause::Notify(PrecopyReason::BeforeBitmapSync, true), [None, irq(Stop), irq(Stop), irq(Stop)]),
            (Cause::Notify(PrecopyReason::BeforeBitmapSync, false), [None, irq(Stop), irq(Stop), irq(Stop)]),
            (Cause::Notify(PrecopyReason::AfterBitmapSync, true), [irq(Requested); 4]),
            (Cause::Notify(PrecopyReason::AfterBitmapSync, false), [irq(Done), irq(Done), irq(Done), None]),
            (Cause::Notify(PrecopyReason::Cleanup, true), [irq(Done), irq(Done), irq(Done), None]),
            (Cause::Notify(PrecopyReason::Cleanup, false), [irq(Done), irq(Done), irq(Done), None]),
            (Cause::Notify(PrecopyReason::Setup, true), [None; 4]),
            (Cause::Notify(PrecopyReason::Complete, false), [None; 4]),
            (Cause::CurrentId, [None, quiet(Start), quiet(Stop), None]),
            (Cause::OtherId(0), [None, None, quiet(Stop), None]),
            (Cause::OtherId(0x8000_4711), [None, None, quiet(Stop), None]),
            (Cause::Pages, [None; 4]),
            (Cause::Reset, [None, quiet(Stop), quiet(Stop), quiet(Stop)]),
            (Cause::VmStopped, [None; 4]),
        ];
        for (cause, row) in table {
            for (from, cell) in STATUSES.into_iter().zip(row) {
                let mut rig = Rig::up(Profile::Qemu, &[]).in_status(from);
                let id = rig.device.state.hinting.cmd_id();
                cause.happen(&mut rig);
                let (to, irq) = cell.unwrap_or((from, false));
                assert_eq!(rig.device.hint_status(), to, "{cause:?} in {}", from.name());
                let events = rig.take_events();
                let raised = events.contains(&Event::DeviceIrq { cause: isr::CONFIG_CHANGE });
                assert_eq!(raised, irq, "{cause:?} in {}: {events:?}", from.name());
                let next = if matches!(cause, Cause::Notify(PrecopyReason::AfterBitmapSync, true)) { id.0 + 1 } else { id.0 };
                assert_eq!(rig.device.state.hinting.cmd_id(), CmdId(next), "{cause:?} in {}", from.name());
                let applied = matches!(cause, Cause::Pages) && from == Start;
                assert_eq!(!rig.sink.applied.is_empty(), applied, "{cause:?} in {}", from.name());
            }
        }
    }

    #[test]
    fn the_id_is_incremented_before_its_first_use_and_wraps_to_the_smallest() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 0x8000_0001);
        rig.device.state.hinting.cmd_id = CmdId(u32::MAX - 1);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), u32::MAX);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 0x8000_0000);
    }

    #[test]
    fn the_configuration_shows_the_id_while_requested_and_stop_while_started() {
        for (status, shown) in STATUSES.into_iter().zip([0, 0x8000_0001, 0, 1]) {
            let mut rig = Rig::up(Profile::Qemu, &[]).in_status(status);
            assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), shown, "in {}", status.name());
            assert_eq!(rig.take_events(), [Event::ConfigCmdId { id: CmdId(shown) }]);
            assert_eq!(rig.device.saved_cmd_id(), CmdId(shown));
        }
    }

    #[test]
    fn a_device_without_the_feature_negotiated_is_told_nothing() {
        let mut rig = Rig::bare(super::super::testing::options(Profile::Qemu));
        rig.probe(!feature::FREE_PAGE_HINT);
        for reason in [PrecopyReason::BeforeBitmapSync, PrecopyReason::AfterBitmapSync, PrecopyReason::Cleanup] {
            assert_eq!(rig.notify(reason, true), None);
        }
        rig.vm_state(false);
        assert!(!rig.device.state.hinting.block_iothread);
    }

    #[test]
    fn a_stopped_device_applies_no_hint_until_a_new_id_is_consumed() {
        let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
        rig.notify(PrecopyReason::BeforeBitmapSync, true);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        // The old round's buffers precede the new id in the queue.
        let id = rig.device.config_cmd_id();
        rig.add(HINT, &[Buf::pages(0x300, 1)]);
        rig.add(HINT, &[Buf::Word(0)]);
        rig.add(HINT, &[Buf::pages(0x310, 1)]);
        rig.add(HINT, &[Buf::Word(id.0)]);
        rig.add(HINT, &[Buf::pages(0x320, 1)]);
        rig.kick(HINT);
        rig.run();
        assert_eq!(rig.sink.applied, [(range(0x320, 1), id)]);
        assert_eq!(rig.used(HINT).len(), 6, "all elements come back");
    }

    #[test]
    fn stop_waits_until_the_popped_element_is_worked_off() {
        let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
        rig.add(HINT, &[Buf::pages(0x300, 1)]);
        rig.run_until(Move::on(EventKind::HintApply, range(0x300, 1)));
        assert_eq!(rig.locks.holder(LockId::FreePage), Some(Actor::Iothread));
        let plan = rig.with(Actor::Migration, |device, _, ctx| device.plan(PrecopyReason::BeforeBitmapSync, true, ctx));
        assert_eq!(plan, Some(NotifyPlan { action: NotifyAction::Stop, locked: true }));
    }

    #[test]
    fn fault_stop_skipped_leaves_the_round_open() {
        let mut rig = Rig::up(Profile::Qemu, &[Fault::HintStopSkipped]).in_status(HintStatus::Start);
        assert_eq!(rig.notify(PrecopyReason::BeforeBitmapSync, true), None);
        assert_eq!(rig.device.hint_status(), HintStatus::Start);
    }

    #[test]
    fn fault_stop_unlocked_lets_a_stop_fall_between_pop_and_apply() {
        let mut rig = Rig::up(Profile::Qemu, &[Fault::HintStopUnlocked]).in_status(HintStatus::Start);
        rig.add(HINT, &[Buf::pages(0x300, 1)]);
        let pop = Event::HintPop { head: 0, element: HintElement::Pages(range(0x300, 1)) };
        rig.run_until(Move::of(&pop));
        rig.iothread_step();
        assert_eq!(rig.notify(PrecopyReason::BeforeBitmapSync, true), Some(NotifyAction::Stop));
        assert_eq!(rig.device.hint_status(), HintStatus::Stop);
        rig.run();
        assert_eq!(rig.sink.applied, [(range(0x300, 1), CmdId(0x8000_0001))]);
    }

    #[test]
    fn fault_no_done_stops_at_cleanup() {
        let mut rig = Rig::up(Profile::Qemu, &[Fault::HintNoDone]).in_status(HintStatus::Start);
        assert_eq!(rig.notify(PrecopyReason::Cleanup, true), Some(NotifyAction::Stop));
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 0);
    }

    #[test]
    fn fault_repeated_id_restarts_a_stopped_round() {
        let mut rig = Rig::up(Profile::Qemu, &[Fault::HintRepeatedId]).in_status(HintStatus::Start);
        rig.notify(PrecopyReason::BeforeBitmapSync, true);
        let id = rig.device.state.hinting.cmd_id();
        rig.send(&[Buf::Word(id.0)]);
        assert_eq!(rig.device.hint_status(), HintStatus::Start);
        rig.send(&[Buf::Word(id.0)]);
        assert_eq!(rig.device.hint_status(), HintStatus::Start, "repeated once more, it still starts");
    }
}
