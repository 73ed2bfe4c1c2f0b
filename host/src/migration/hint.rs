//! The way in for the balloon device's hints.
//!
//! QEMU: migration/ram.c qemu_guest_free_page_hint().

use crate::dirty::accel::Accelerator;
use crate::event::{CmdId, Event, LockId, PageRange};
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

impl HintSink for HintView<'_> {
    /// QEMU: migration_is_running(). Differs: false, too, while a running migration has no bitmaps, where QEMU relies on the device being
    /// stopped then.
    fn is_running(&self) -> bool {
        self.migration.takes_hints()
    }

    fn free_page_hint(&mut self, range: PageRange, id: CmdId, ctx: &mut Ctx<'_>) -> u64 {
        assert_eq!(ctx.locks.holder(LockId::Bitmap), Some(ctx.actor), "hint without bitmap_mutex");
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
