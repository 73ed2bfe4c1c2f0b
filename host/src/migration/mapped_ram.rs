//! A migration into a file in which each page has its place.
//!
//! QEMU: migration/ram.c mapped_ram_setup_ramblock(), save_zero_page(), parse_ramblock_mapped_ram(); docs/devel/migration/mapped-ram.rst. A page
//! that goes again is written over its old bytes. A bit of F says for each page whether its bytes count: a page of zeros is not written, its bit is
//! cleared, and whoever loads the file makes the page zero.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::destination::Destination;
use crate::dirty::bitmap::DirtyBitmap;
use crate::event::{Event, Pfn};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::migration::encoding::Content;
use crate::migration::run::Run;
use crate::page::PageContents;
use crate::step::Ctx;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedRam {
    /// F (QEMU: RAMBlock.file_bmap).
    f: DirtyBitmap,
    /// What stands in the pages' places, whether it counts or not.
    pages: BTreeMap<Pfn, Arc<PageContents>>,
}

impl MappedRam {
    /// Returns an empty file for that many pages.
    pub(crate) fn new(pages: u64) -> Self {
        Self { f: DirtyBitmap::new(pages), pages: BTreeMap::new() }
    }

    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { f, pages } = self;
        fold.sum_of(Tag::MappedRam as u64, f.fold());
        fold.add_part(Tag::MappedRam, pages);
    }

    /// Returns whether the page's bytes count.
    pub fn holds(&self, pfn: Pfn) -> bool {
        self.f.test(pfn)
    }

    fn write(&mut self, pfn: Pfn, contents: Arc<PageContents>) {
        self.f.set(pfn);
        self.pages.insert(pfn, contents);
    }

    fn forget(&mut self, pfn: Pfn) {
        self.f.clear(pfn);
    }

    /// Loads the file into a destination's memory. [`Fault::AbsentPagesStay`]: pages that are not in it stay as they were.
    pub(crate) fn load(&self, destination: &mut Destination, ctx: &mut Ctx<'_>) {
        for pfn in (0..self.f.pages()).map(Pfn) {
            let held = self.holds(pfn);
            if held {
                destination.place_data(pfn, Arc::clone(&self.pages[&pfn]));
            } else if !ctx.faults.on(Fault::AbsentPagesStay) {
                destination.place_zero(pfn);
            }
            if ctx.watch.has(pfn) {
                ctx.emit(Event::DstPlace { pfn, zero: !held });
            }
        }
    }
}

impl Run {
    /// Writes a page into the file. [`Fault::ZeroStaysInFile`]: a sender that finds a zero page leaves its bit.
    pub(crate) fn write_file(&mut self, pfn: Pfn, content: Content, sender: bool, ctx: &Ctx<'_>) {
        let file = self.file.as_mut().expect("who writes into a file has one");
        match content {
            Content::Data(contents) => file.write(pfn, contents),
            Content::Zero if sender && ctx.faults.on(Fault::ZeroStaysInFile) => {}
            Content::Zero => file.forget(pfn),
            Content::Same => {}
            Content::Delta(_) | Content::Cached(_) => unreachable!("a file holds no differences"),
        }
    }
}
