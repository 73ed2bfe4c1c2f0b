//! The addresses that a device uses, where the guest chooses them: a virtual IOMMU.
//!
//! Linux: drivers/iommu/iova.c alloc_iova() gives addresses from 4 GiB downwards, so none of them is a guest-physical one in a small machine. QEMU:
//! hw/virtio/virtio-iommu.c virtio_iommu_map(), virtio_iommu_unmap(). Without an IOMMU a device's address is the guest's.

use std::collections::BTreeMap;

use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};

/// A device's page address: its I/O virtual address / 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaPage(pub u64);

/// Addresses are given from here downwards.
const TOP: u64 = (4 << 30) >> wire::platform::PAGE_SHIFT;

/// Which pages devices reach, and under which addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Iommu {
    /// There is one.
    on: bool,
    mappings: BTreeMap<IovaPage, Pfn>,
}

impl Iommu {
    /// Returns an IOMMU without a mapping, or none.
    pub fn new(on: bool) -> Self {
        Self { on, mappings: BTreeMap::new() }
    }

    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { on: _, mappings } = self;
        if !mappings.is_empty() {
            fold.add_part(Tag::Iommu, mappings);
        }
    }

    /// Returns whether the guest chooses the addresses.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Returns the page behind a device's address.
    pub fn translate(&self, iova: IovaPage) -> Option<Pfn> {
        match self.on {
            true => self.mappings.get(&iova).copied(),
            false => Some(Pfn(iova.0)),
        }
    }

    /// Returns the address under which devices reach a page.
    pub fn iova_of(&self, pfn: Pfn) -> Option<IovaPage> {
        match self.on {
            true => self.mappings.iter().find(|(_, mapped)| **mapped == pfn).map(|(iova, _)| *iova),
            false => Some(IovaPage(pfn.0)),
        }
    }

    /// Returns the pages that are mapped, one by one; without an IOMMU none is.
    pub(crate) fn mapped(&self) -> Vec<PageRange> {
        self.mappings.values().copied().map(PageRange::page).collect()
    }

    /// Returns whether devices reach all of a range.
    pub fn reaches(&self, range: PageRange) -> bool {
        range.pages().all(|pfn| self.iova_of(pfn).is_some())
    }

    /// The guest maps those pages of a range that are not mapped yet, each below all that are.
    pub(crate) fn map(&mut self, range: PageRange) {
        assert!(self.on, "a mapping without an IOMMU");
        for pfn in range.pages() {
            if self.iova_of(pfn).is_none() {
                let lowest = self.mappings.first_key_value().map_or(TOP, |(iova, _)| iova.0);
                self.mappings.insert(IovaPage(lowest - 1), pfn);
            }
        }
    }

    /// The guest takes the mappings of a range away. Returns them.
    pub(crate) fn unmap(&mut self, range: PageRange) -> Vec<(IovaPage, Pfn)> {
        assert!(self.on, "a mapping without an IOMMU");
        let gone = range.pages().filter_map(|pfn| self.iova_of(pfn).map(|iova| (iova, pfn))).collect();
        self.mappings.retain(|_, pfn| !range.contains(*pfn));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_iommu_an_address_is_a_page() {
        let iommu = Iommu::new(false);
        assert_eq!(iommu.translate(IovaPage(7)), Some(Pfn(7)));
        assert!(iommu.reaches(PageRange::new(Pfn(0), 9)));
    }

    #[test]
    fn addresses_are_given_from_the_top_and_end_with_their_mapping() {
        let mut iommu = Iommu::new(true);
        iommu.map(PageRange::new(Pfn(4), 2));
        assert_eq!(iommu.iova_of(Pfn(4)), Some(IovaPage(TOP - 1)));
        assert_eq!(iommu.translate(IovaPage(TOP - 2)), Some(Pfn(5)));
        assert!(!iommu.reaches(PageRange::new(Pfn(4), 3)));
        assert_eq!(iommu.unmap(PageRange::page(Pfn(4))), [(IovaPage(TOP - 1), Pfn(4))]);
        assert_eq!((iommu.translate(IovaPage(TOP - 1)), iommu.iova_of(Pfn(5))), (None, Some(IovaPage(TOP - 2))));
    }
}
