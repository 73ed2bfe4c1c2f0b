//! TCG's part: the flag of a TLB entry that says "not dirty".
//!
//! QEMU: accel/tcg/cputlb.c notdirty_write(), tlb_reset_dirty(). A store through an entry with the flag takes the slow path, which marks the page in D and
//! takes the flag away; whoever cleans D puts it back into all vCPUs' entries. So the flag says of a page that D does not have it, and D alone
//! is asked. Only a defect lets the two differ, and only then entries are kept here: those that lack the flag although D lacks the page, or may.

use super::bitmap::DirtyBitmap;
use crate::event::Pfn;
use crate::fold::{Fold, Tag};

/// Entries without the flag, by vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tlbs {
    unflagged: Vec<DirtyBitmap>,
    /// Whoever cleans D puts the flags back of all that was cleaned.
    exact: bool,
}

impl Tlbs {
    /// Returns TLBs without such entries.
    pub(crate) fn new(vcpus: u8, pages: u64) -> Self {
        Self { unflagged: vec![DirtyBitmap::new(pages); usize::from(vcpus)], exact: true }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { unflagged, exact: _ } = self;
        for (cpu, bits) in (0..).zip(unflagged) {
            fold.sum_of(Tag::Tlb as u64 | cpu << 32, bits.fold());
        }
    }

    /// All entries are flushed; `exact`: flags come back whenever D is cleaned.
    pub(crate) fn flush(&mut self, exact: bool) {
        self.unflagged.iter_mut().for_each(DirtyBitmap::reset);
        self.exact = exact;
    }

    /// Returns whether a store of the vCPU goes past the slow path.
    pub(crate) fn is_fast(&self, cpu: u8, pfn: Pfn) -> bool {
        self.unflagged[usize::from(cpu)].test(pfn)
    }

    /// The vCPU's entry loses its flag.
    pub(crate) fn unflag(&mut self, cpu: u8, pfn: Pfn) {
        self.unflagged[usize::from(cpu)].set(pfn);
    }

    /// The flags of pages of a word come back.
    pub(crate) fn rearm(&mut self, at: usize, bits: u64) {
        for entries in &mut self.unflagged {
            let both = bits & entries.word(at);
            for page in (0..64).filter(|page| both & 1 << page != 0) {
                entries.clear(Pfn(at as u64 * 64 + page));
            }
        }
    }

    /// Returns whether flags come back whenever D is cleaned: then D alone tells.
    pub(crate) fn exact(&self) -> bool {
        self.exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_flagged_again_for_all_vcpus() {
        let mut tlbs = Tlbs::new(2, 128);
        tlbs.unflag(1, Pfn(70));
        assert!(tlbs.is_fast(1, Pfn(70)) && !tlbs.is_fast(0, Pfn(70)));
        tlbs.rearm(1, 1 << 7);
        assert!(tlbs.is_fast(1, Pfn(70)));
        tlbs.rearm(1, 1 << 6);
        assert!(!tlbs.is_fast(1, Pfn(70)));
        tlbs.unflag(0, Pfn(3));
        tlbs.flush(false);
        assert!(!tlbs.is_fast(0, Pfn(3)) && !tlbs.exact());
    }
}
