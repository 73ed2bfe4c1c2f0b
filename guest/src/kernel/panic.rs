//! The end: `panic!` says its message and halts; a warning says it and goes on. Linux: kernel/panic.c.

use wire::debug;

use crate::arch;

/// Says a warning. Linux: WARN_ON().
pub fn warn(message: &'static str) {
    let (addr, len) = arch::str_location(message);
    arch::trace(debug::WARN, addr, len);
}

/// `warn` when `condition` holds; returns it. Linux: WARN_ON_ONCE(), each time.
pub fn warn_on(condition: bool, message: &'static str) -> bool {
    if condition {
        warn(message);
    }
    condition
}

#[cfg(image)]
mod handler {
    use core::fmt::Write;

    use crate::arch;
    use crate::kernel::data;

    /// Formats into the panic's own place in the data segment: nothing else is safe to use any more.
    struct Text {
        len: u64,
    }
    const TEXT_BYTES: u64 = 512;

    impl Write for Text {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            for &byte in text.as_bytes() {
                if self.len < TEXT_BYTES {
                    arch::write8(data::PANIC_TEXT + self.len, byte);
                    self.len += 1;
                }
            }
            Ok(())
        }
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        arch::irq_disable();
        let mut text = Text { len: 0 };
        // `Text` never fails; what does not fit is cut.
        let _ = write!(text, "{}", info.message());
        if let Some(location) = info.location() {
            let _ = write!(text, " at {}:{}", location.file(), location.line());
        }
        arch::trace(wire::debug::PANIC, data::PANIC_TEXT, text.len);
        arch::halt_forever()
    }
}
