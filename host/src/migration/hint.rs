//! The way in for the balloon device's hints.
//!
//! QEMU: migration/ram.c qemu_guest_free_page_hint().

use crate::dirty::accel::Accelerator;
use crate::event::{CmdId, Event, LockId, PageRange};
use crate::fault::Fault;
use crate::migration::engine::Migration;
use crate::migration::notifier::HintSink;
use crate::step::Ctx;

/// The migration's bitmaps and the log that a hint clears, borrowed for one hint.
#[derive(Debug)]
pub struct HintView<'a> {
    /// The migration.
    pub migration: &'a mut Migration,
    /// K and S.
    pub accel: &'a mut Accelerator,
}

impl Migration {
    /// Returns whether a hint of these pages clears a chunk of theirs in K: that is done with the slots' lock.
    pub(crate) fn hint_clears(&self, range: PageRange, accel: &Accelerator) -> bool {
        let ram = self.ram().filter(|_| self.takes_hints() && accel.has_clear());
        ram.is_some_and(|ram| range.pages().any(|pfn| ram.c(pfn)))
    }
}

impl HintSink for HintView<'_> {
    /// QEMU: migration_is_running(). Differs: false, too, while a running migration has no bitmaps, where QEMU relies on the device being
    /// stopped then.
    fn is_running(&self) -> bool {
        self.migration.takes_hints()
    }

    fn load(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        if let Some(ram) = self.migration.ram_mut() {
            ram.load(ctx.actor, range);
        }
        ctx.emit(Event::BitmapLoad { range });
    }

    fn free_page_hint(&mut self, range: PageRange, id: CmdId, ctx: &mut Ctx<'_>) -> u64 {
        let locked = ctx.locks.holder(LockId::Bitmap) == Some(ctx.actor);
        assert!(locked || ctx.faults.on(Fault::HintWithoutMutex), "hint without bitmap_mutex");
        let running = self.is_running();
        match self.migration.ram_mut() {
            Some(ram) if running => ram.free_page_hint(range, id, self.accel, ctx),
            Some(_) | None => {
                ctx.emit(Event::HintApply { range, id, cleared: 0 });
                0
            }
        }
    }
}
