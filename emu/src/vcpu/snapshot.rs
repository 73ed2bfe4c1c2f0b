//! RAM as it was: a copy of all of it, and a list of the pages that must be put back.

use host::event::{PageRange, Pfn};
use wire::platform::PAGE_SIZE;

use super::Machine;

/// A copy of a machine's RAM that is cheap to go back to, again and again.
///
/// Guest stores are followed by the machine, with one snapshot at a time; what others write is told by [`RamSnapshot::note`]. A page stays on
/// the list once it was written: copying it back each time costs less than asking again whether it was.
#[derive(Debug, Clone)]
pub struct RamSnapshot {
    base: Vec<u8>,
    dirty: Vec<Pfn>,
    listed: Vec<bool>,
}

impl RamSnapshot {
    /// Copies a machine's RAM. An earlier snapshot of the same machine is not followed any more.
    pub fn take(machine: &mut Machine) -> RamSnapshot {
        let mut base = vec![0; machine.ram().bytes() as usize];
        super::copy_from_ram(machine.ram(), 0, &mut base);
        machine.pages().track();
        RamSnapshot { base, dirty: Vec::new(), listed: vec![false; machine.ram().pages() as usize] }
    }

    /// Notes that somebody beside the guest wrote to these pages.
    pub fn note(&mut self, range: PageRange) {
        for pfn in range.pages() {
            self.list(pfn);
        }
    }

    /// Puts all pages back that were written since the snapshot was taken.
    pub fn restore(&mut self, machine: &mut Machine) {
        self.collect(machine);
        for pfn in &self.dirty {
            let first = pfn.address() as usize;
            super::copy_to_ram(machine.ram(), pfn.address(), &self.base[first..first + PAGE_SIZE as usize]);
        }
    }

    /// Puts all pages back and empties the list: from here on a page is copied only when it is written again.
    pub fn restore_and_rearm(&mut self, machine: &mut Machine) {
        self.restore(machine);
        machine.pages().retrack(&self.dirty);
        for pfn in self.dirty.drain(..) {
            self.listed[pfn.0 as usize] = false;
        }
    }

    /// Returns the pages that [`RamSnapshot::restore`] puts back, in order of the first write.
    pub fn dirty(&mut self, machine: &mut Machine) -> &[Pfn] {
        self.collect(machine);
        &self.dirty
    }

    fn collect(&mut self, machine: &mut Machine) {
        for pfn in machine.pages().touched() {
            self.list(pfn);
        }
    }

    fn list(&mut self, pfn: Pfn) {
        if !std::mem::replace(&mut self.listed[pfn.0 as usize], true) {
            self.dirty.push(pfn);
        }
    }
}
