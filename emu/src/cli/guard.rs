//! A panic inside a world is our own defect: it ends that run, not the tool.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// What the last panic inside it said. A panic's place is told to the hook alone, and the hook cannot be handed a value.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics inside [`guarded`] silent, to be told by whoever called it; a backtrace, where the environment asks for it, still goes to
/// standard error, since it differs between builds. Called once, at the start.
pub fn install() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !GUARDED.get() {
            return otherwise(info);
        }
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{info}\n{backtrace}");
        }
        SAID.with_borrow_mut(|said| *said = Some(info.to_string()));
    }));
}

/// Runs something of ours that must not panic.
///
/// # Errors
/// When it did: what the panic said, with its place if [`install`] was called.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let said = SAID.take();
        let text = payload.downcast_ref::<&str>().map(ToString::to_string).or_else(|| payload.downcast_ref::<String>().cloned());
        said.or(text).unwrap_or_else(|| "panicked without a word".to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_what_it_said() {
        let number = 7;
        let said = guarded(|| panic!("page {number} is gone")).expect_err("panicked");
        assert!(said.contains("page 7 is gone"), "{said}");
        assert_eq!(guarded(|| number), Ok(7));
    }
}
