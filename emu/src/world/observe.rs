//! What the oracle may look at: memory and records, read only.

use host::dirty::bitmap::WORD_PAGES;
use host::event::{Level, MigrationStatus, Pfn};
use host::memory::GuestRam;
use host::vmm::Vmm;

use crate::oracle::Observed;

/// A read-only view of a world.
pub(super) struct Observation<'a> {
    pub(super) ram: &'a GuestRam,
    pub(super) vmm: &'a Vmm,
}

impl Observation<'_> {
    /// Returns which of these pages are not there before the last RAM block grows: they are nowhere else, either.
    fn absent_at(&self, word: u64, pages: u64) -> u64 {
        let present = self.vmm.d.present();
        (0..WORD_PAGES).filter(|bit| word * WORD_PAGES + bit >= present).fold(0, |absent, bit| absent | pages & 1 << bit)
    }

    /// Returns which of a word's pages both sides have in the same memory: blocks that the migration ignores.
    fn shared_at(&self, word: u64) -> u64 {
        let ignored = self.vmm.d.ram().places().iter().filter(|place| place.ignored).map(|place| place.range());
        let first = word * 64;
        let bits =
            |range: host::event::PageRange| (0..64).filter(|bit| range.contains(Pfn(first + bit))).fold(0, |bits, bit| bits | 1 << bit);
        ignored.filter(|range| range.first.0 < first + 64 && first < range.end().0).map(bits).fold(0, |all, bits| all | bits)
    }
}

impl Observed for Observation<'_> {
    fn ram(&self) -> &GuestRam {
        self.ram
    }

    fn recorded(&self, level: Level, word: u64) -> u64 {
        let at = usize::try_from(word).expect("64-bit host");
        match level {
            Level::K => self.vmm.accel.k_word(at),
            Level::Ring => self.vmm.accel.ring_bits().word(at),
            Level::S => self.vmm.accel.s_word(at),
            Level::D => self.vmm.d.word(at),
            Level::V => self.vmm.devices.recorded(at),
            Level::B => self.vmm.migration.ram().map_or(0, |ram| ram.b_word(at)),
        }
    }

    fn on_wire(&self, pfn: Pfn) -> bool {
        self.vmm.on_wire(pfn)
    }

    fn logging(&self) -> bool {
        self.vmm.accel.logging()
    }

    fn remaining(&self) -> u64 {
        self.vmm.migration.ram().map_or(0, |ram| ram.n())
    }

    fn bitmap_count(&self) -> u64 {
        self.vmm.migration.ram().map_or(0, |ram| ram.popcount())
    }

    fn dirtied_last(&self) -> u64 {
        self.vmm.migration.ram().map_or(0, |ram| ram.dirtied_last())
    }

    fn destination_page(&self, pfn: Pfn) -> Option<[u8; 4096]> {
        if self.shared_at(pfn.0 / 64) >> (pfn.0 % 64) & 1 == 1 {
            return Some(self.ram.page(pfn));
        }
        self.vmm.destination.arrived(pfn).then(|| self.vmm.destination.page(pfn))
    }

    fn destination_equals(&self, pfn: Pfn) -> bool {
        self.shared_at(pfn.0 / 64) >> (pfn.0 % 64) & 1 == 1 || self.vmm.destination.equals(pfn, self.ram)
    }

    fn destination_equals_at(&self, word: u64, pages: u64) -> u64 {
        let equal = self.shared_at(word) & pages | self.absent_at(word, pages);
        equal | self.vmm.destination.equals_at(word, pages & !equal, self.ram)
    }

    fn arrived_at(&self, word: u64) -> u64 {
        self.vmm.destination.there_word(usize::try_from(word).expect("64-bit host"))
    }

    fn unasked(&self) -> Option<Pfn> {
        self.vmm.migration.unasked()
    }

    fn zeros_there_and_here(&self, word: u64, pages: u64) -> u64 {
        if !self.vmm.destination.is_zeroed() {
            return 0;
        }
        let zero = |bit: &u64| pages >> bit & 1 == 1 && self.ram.is_zero(Pfn(word * 64 + bit));
        (0..64).filter(zero).fold(0, |zeros, bit| zeros | 1 << bit)
    }

    fn migration_status(&self) -> MigrationStatus {
        self.vmm.migration.status()
    }

    fn detached(&self, pfn: Pfn) -> bool {
        self.vmm.devices.is_detached(pfn)
    }

    fn destination_stuck_queue(&self) -> Option<usize> {
        self.vmm.destination.stuck_queue()
    }

    fn iothread_references_left(&self) -> u32 {
        if self.vmm.balloon.is_plugged() { 0 } else { self.vmm.balloon.iothread_references() }
    }

    fn vm_running(&self) -> bool {
        self.vmm.vm.running
    }
}
