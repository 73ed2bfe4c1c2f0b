//! Engines that wait for their next machine.
//!
//! A suite makes thousands of machines of one image, and opening engines and translating code again would cost it milliseconds each. What a
//! machine does must not depend on who used its engines before: registers come from the context after reset, the TLBs are flushed, and
//! translated code depends on the text alone.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use host::memory::GuestRam;

use super::Engines;
use crate::image::Image;

/// How many idle pairs of engines a thread keeps.
const IDLE_MAX: usize = 4;

thread_local! {
    static IDLE: RefCell<Vec<Engines>> = const { RefCell::new(Vec::new()) };
}

/// A machine's engines. Dropped, they wait with all the code that they have translated.
pub(super) struct Lease(Option<Engines>);

impl Lease {
    /// Returns engines over an image's text with RAM attached: this thread's idle ones if there are any, and rather those that have
    /// this RAM mapped.
    pub(super) fn new(image: &Image, ram: &GuestRam) -> Lease {
        let idle = IDLE.with_borrow_mut(|idle| {
            let fitting = || (0..idle.len()).filter(|index| idle[*index].fits(image));
            let index = fitting().find(|index| idle[*index].maps(ram)).or_else(|| fitting().next())?;
            Some(idle.remove(index))
        });
        let mut engines = idle.unwrap_or_else(|| Engines::new(image));
        engines.attach(ram);
        Lease(Some(engines))
    }
}

impl Deref for Lease {
    type Target = Engines;

    fn deref(&self) -> &Engines {
        self.0.as_ref().expect("engines until dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Engines {
        self.0.as_mut().expect("engines until dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(engines) = self.0.take() else { return };
        // The list is gone when a machine is dropped while its thread ends; then the engines are closed here.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() == IDLE_MAX {
                idle.remove(0);
            }
            idle.push(engines);
        });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines").field("pages", &self.hooks_ref().pages).finish_non_exhaustive()
    }
}
