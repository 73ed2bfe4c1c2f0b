//! The border between the migration engine and the balloon device.
//!
//! QEMU: migration/migration.c precopy_notify(), hw/virtio/virtio-balloon.c virtio_balloon_free_page_hint_notify(); and the way back,
//! migration/ram.c qemu_guest_free_page_hint().

use crate::balloon::SavedDevice;
use crate::event::{CmdId, HintStatus, PageRange, Pfn, PrecopyReason};
use crate::step::Ctx;

/// What a notifier does to the hinting device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotifyAction {
    /// virtio_balloon_free_page_stop().
    Stop,
    /// The first half of virtio_balloon_free_page_start() without its lock: the new id. The second is [`NotifyAction::Start`].
    NewId,
    /// virtio_balloon_free_page_start().
    Start,
    /// virtio_balloon_free_page_done().
    Done,
}

/// Who is told of a migration's phases. The engine calls `plan` without any lock but the BQL, then takes `free_page_lock` (unless the plan
/// says otherwise), then calls `act`, then releases, each in a step of its own.
pub trait PrecopyNotifier {
    /// Returns what the notifier would do, reading its status without its lock, as QEMU does; `None` when it would do nothing.
    fn plan(&self, reason: PrecopyReason, vm_running: bool, ctx: &mut Ctx<'_>) -> Option<NotifyPlan>;
    /// Does it.
    fn act(&mut self, action: NotifyAction, ctx: &mut Ctx<'_>);
    /// The VM stopped or runs again (QEMU: virtio_balloon_set_status(), called with the BQL and `free_page_lock` held): parks the iothread
    /// at its next element, or lets it go on.
    fn vm_state_change(&mut self, running: bool, ctx: &mut Ctx<'_>);
    /// Returns the id that the configuration shows, as it goes to the destination with the device's state.
    fn saved_cmd_id(&self) -> CmdId;
    /// Returns the pages of guest memory that the device's loading looks at.
    fn ring_pages(&self) -> Vec<Pfn> {
        Vec::new()
    }

    /// Returns where hinting stands; by default nobody hints.
    fn hints(&self) -> HintStatus {
        HintStatus::Stop
    }
    /// Returns the device's state, as it goes to the destination; by default there is none.
    fn saved_state(&self, _ctx: &Ctx<'_>) -> SavedDevice {
        SavedDevice::default()
    }
}

/// An action, and whether it takes `free_page_lock` (a fault may leave that out).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotifyPlan {
    /// What is done.
    pub action: NotifyAction,
    /// Whether under the device's lock.
    pub locked: bool,
}

/// Who takes hints: the migration engine's bitmaps.
pub trait HintSink {
    /// Returns whether a migration is under way.
    fn is_running(&self) -> bool;
    /// Loads the words of B that a range lies in, without `bitmap_mutex` ([`crate::fault::Fault::HintWithoutMutex`] alone asks for that); emits
    /// [`crate::event::Event::BitmapLoad`].
    fn load(&mut self, range: PageRange, ctx: &mut Ctx<'_>);
    /// Clears a hinted range from the bitmaps, and returns how many bits of B were set. Called with `bitmap_mutex` held; emits
    /// [`crate::event::Event::HintApply`] first, then the CLEARs it causes.
    fn free_page_hint(&mut self, range: PageRange, id: CmdId, ctx: &mut Ctx<'_>) -> u64;
}
