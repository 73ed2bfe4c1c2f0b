//! Dirty rings: each vCPU's list of pages that it has written since they were protected.
//!
//! Linux: virt/kvm/dirty_ring.c kvm_dirty_ring_push(), kvm_dirty_ring_reset(); QEMU: accel/kvm/kvm-all.c kvm_dirty_ring_reap_one(). A first
//! store to a protected page makes an entry and lifts the protection. Whoever reaps takes entries into S; a reset gives their places back
//! and protects their pages again. Differs: an entry has its place back as soon as it is reaped, and there are no places in reserve: a vCPU whose run
//! fills the ring leaves the guest at the next instruction.

use super::bitmap::DirtyBitmap;
use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};

/// Entries of a ring when nothing else is asked for (QEMU: what its documentation recommends for `dirty-ring-size`).
pub const RING_SIZE: u32 = 4096;

/// A vCPU's ring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ring {
    /// Pages of the host's.
    entries: Vec<PageRange>,
    /// The newest entry is flagged, but what it holds is not visible to others yet ([`crate::fault::Fault::RingEntryLag`]).
    lagging: bool,
}

/// The rings of all vCPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rings {
    size: u32,
    rings: Vec<Ring>,
    /// Pages that stand in a ring.
    held: DirtyBitmap,
    /// Pages of entries that were reaped and not reset.
    collected: DirtyBitmap,
    collected_any: bool,
}

impl Rings {
    /// Returns empty rings.
    ///
    /// # Panics
    /// When they have no places.
    pub(crate) fn new(vcpus: u8, size: u32, pages: u64) -> Self {
        assert!(size > 0, "a ring without places");
        let none = DirtyBitmap::new(pages);
        Self { size, rings: vec![Ring::default(); usize::from(vcpus)], held: none.clone(), collected: none, collected_any: false }
    }

    /// Adds its state to a hash. In which order entries came, nobody can see.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { size: _, rings, held, collected, collected_any: _ } = self;
        for (cpu, ring) in (0..).zip(rings) {
            fold.word(Tag::Ring as u64, cpu, ring.entries.len() as u64);
            if ring.lagging {
                fold.part(Tag::RingLag as u64, cpu, &ring.entries.last());
            }
        }
        fold.sum_of(Tag::RingHeld as u64, held.fold());
        fold.sum_of(Tag::RingCollected as u64, collected.fold());
    }

    /// Returns the pages that stand in a ring.
    pub(crate) fn held(&self) -> &DirtyBitmap {
        &self.held
    }

    /// Returns whether a ring has an entry.
    pub(crate) fn any(&self) -> bool {
        self.rings.iter().any(|ring| !ring.entries.is_empty())
    }

    /// Returns how many entries a vCPU's ring can still take.
    pub(crate) fn room(&self, cpu: u8) -> u64 {
        u64::from(self.size).saturating_sub(self.rings[usize::from(cpu)].entries.len() as u64)
    }

    /// Returns whether reaped entries wait to be reset.
    pub(crate) fn has_collected(&self) -> bool {
        self.collected_any
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.rings.iter_mut().for_each(|ring| *ring = Ring::default());
        self.held.reset();
        self.collected.reset();
        self.collected_any = false;
    }

    /// A vCPU has written to a protected page of the host's.
    pub(crate) fn push(&mut self, cpu: u8, page: PageRange, lagging: bool) {
        let ring = &mut self.rings[usize::from(cpu)];
        ring.entries.push(page);
        ring.lagging = lagging;
        self.held.set_range(page);
    }

    /// A vCPU goes on: what it has written before can be seen by all.
    pub(crate) fn settle(&mut self, cpu: u8) {
        self.rings[usize::from(cpu)].lagging = false;
    }

    /// Takes the entries of a vCPU's ring, or of all, into S, and returns how many; `each` is told of every ring. Of an entry that lags the reader sees what its place held before, page 0 of the slot.
    pub(crate) fn reap(&mut self, only: Option<u8>, s: &mut DirtyBitmap, mut each: impl FnMut(u8, u64)) -> u64 {
        let mut count = 0;
        for (cpu, ring) in (0..).zip(&mut self.rings).filter(|(cpu, _)| only.is_none_or(|only| only == *cpu)) {
            if std::mem::take(&mut ring.lagging)
                && let Some(last) = ring.entries.last_mut()
            {
                last.first = Pfn(0);
            }
            count += ring.entries.len() as u64;
            each(cpu, ring.entries.len() as u64);
            for page in ring.entries.drain(..) {
                if only.is_some() {
                    self.held.clear_range(page);
                }
                s.set_range(page);
                self.collected.set_range(page);
            }
        }
        if only.is_none() {
            self.held.reset();
        }
        self.collected_any |= count > 0;
        count
    }

    /// Returns the pages whose entries were reaped, to be protected again, and forgets them.
    pub(crate) fn reset(&mut self) -> DirtyBitmap {
        self.collected_any = false;
        let none = DirtyBitmap::new(self.collected.pages());
        std::mem::replace(&mut self.collected, none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reap_takes_all_rings_and_a_reset_names_their_pages_once() {
        let mut rings = Rings::new(2, 4, 128);
        rings.push(0, PageRange::page(Pfn(3)), false);
        rings.push(1, PageRange::page(Pfn(70)), false);
        assert_eq!((rings.room(0), rings.room(1)), (3, 3));
        let mut s = DirtyBitmap::new(128);
        assert_eq!(rings.reap(None, &mut s, |_, pages| assert_eq!(pages, 1)), 2);
        assert_eq!(s.ones().collect::<Vec<_>>(), [Pfn(3), Pfn(70)]);
        assert!(rings.has_collected() && rings.held().is_clear());
        assert_eq!(rings.reset(), s);
        assert!(!rings.has_collected() && rings.reset().is_clear());
    }

    #[test]
    fn an_entry_that_lags_is_read_as_page_0_until_its_vcpu_goes_on() {
        for settled in [false, true] {
            let mut rings = Rings::new(1, 4, 64);
            rings.push(0, PageRange::page(Pfn(5)), false);
            rings.push(0, PageRange::page(Pfn(9)), true);
            if settled {
                rings.settle(0);
            }
            let mut s = DirtyBitmap::new(64);
            rings.reap(None, &mut s, |_, _| {});
            let last = if settled { Pfn(9) } else { Pfn(0) };
            assert!(s.test(Pfn(5)) && s.test(last), "{settled}");
            assert_eq!(s.count(), 2);
        }
    }

    #[test]
    fn a_ring_that_took_too_much_has_no_room() {
        let mut rings = Rings::new(1, 2, 64);
        (0..3).for_each(|pfn| rings.push(0, PageRange::page(Pfn(pfn)), false));
        assert_eq!(rings.room(0), 0);
    }
}
