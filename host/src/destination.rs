//! The receiving side: what has arrived, and what a page holds now.
//!
//! QEMU: migration/ram.c ram_load_precopy(), ram_handle_zero(). A page that nothing was received for holds garbage, not zeros, since a real
//! destination's memory may hold firmware; so a page that was wrongly left out shows even if the source's is zero.

use std::fmt;
use std::sync::Arc;

use crate::dirty::bitmap::DirtyBitmap;
use crate::event::{CmdId, Pfn};
use crate::memory::GuestRam;
use wire::platform::PAGE_SIZE;

/// The contents of a page.
pub type PageBytes = [u8; PAGE_SIZE as usize];

/// A page of zeros.
pub const ZERO_PAGE: PageBytes = [0; PAGE_SIZE as usize];

/// Pages per separately copied part of the store: a clone shares parts until one side writes.
const PART_PAGES: u64 = 64;

/// How far the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationStatus {
    /// It waits for records.
    Incoming,
    /// It has the device's state and may start.
    Loaded,
    /// Its vCPUs run.
    Started,
    /// It has all, and stays paused as the source was.
    Paused,
}

/// What a page of the destination holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PageState {
    /// Nothing arrived.
    Garbage,
    /// A zero record came last.
    Zero,
    /// Bytes came last.
    Data,
}

/// The destination.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    seed: u64,
    status: DestinationStatus,
    cmd_id: Option<CmdId>,
    received: DirtyBitmap,
    pages: Vec<PageState>,
    store: Vec<Option<Arc<Vec<u8>>>>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, status, cmd_id, received, pages, store: _ } = self;
        let data = pages.iter().filter(|page| **page == PageState::Data).count();
        f.debug_struct("Destination")
            .field("seed", seed)
            .field("status", status)
            .field("cmd_id", cmd_id)
            .field("received", &received.count())
            .field("data", &data)
            .finish_non_exhaustive()
    }
}

impl Destination {
    /// Returns a destination that waits, its memory full of garbage drawn from `seed`.
    pub fn new(pages: u64, seed: u64) -> Self {
        let parts = usize::try_from(pages.div_ceil(PART_PAGES)).expect("64-bit host");
        Self {
            seed,
            status: DestinationStatus::Incoming,
            cmd_id: None,
            received: DirtyBitmap::new(pages),
            pages: vec![PageState::Garbage; usize::try_from(pages).expect("64-bit host")],
            store: vec![None; parts],
        }
    }

    /// A new process takes this one's place: all is garbage again.
    pub fn restart(&mut self) {
        *self = Self::new(self.received.pages(), self.seed);
    }

    /// Returns how far it is.
    pub fn status(&self) -> DestinationStatus {
        self.status
    }

    /// Returns the command id that its device shows, once it has the device's state.
    pub fn cmd_id(&self) -> Option<CmdId> {
        self.cmd_id
    }

    /// Returns R: which pages arrived.
    pub fn received(&self) -> &DirtyBitmap {
        &self.received
    }

    /// Returns whether anything arrived for the page.
    pub fn arrived(&self, pfn: Pfn) -> bool {
        self.received.test(pfn)
    }

    /// Returns the page's contents.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn page(&self, pfn: Pfn) -> PageBytes {
        let mut bytes = ZERO_PAGE;
        match self.pages[at(pfn)] {
            PageState::Garbage => self.garbage(pfn, &mut bytes),
            PageState::Zero => {}
            PageState::Data => bytes.copy_from_slice(self.data(pfn).expect("a page with data has a part of the store")),
        }
        bytes
    }

    /// Returns whether the page's contents equal the source's, without copying more than needed.
    pub fn equals(&self, pfn: Pfn, ram: &GuestRam) -> bool {
        match self.pages[at(pfn)] {
            PageState::Garbage => {
                let same = |(source, word): (&[u8], u64)| source == word.to_le_bytes();
                !ram.is_zero(pfn) && ram.page(pfn).chunks_exact(8).zip(self.garbage_words(pfn)).all(same)
            }
            PageState::Zero => ram.is_zero(pfn),
            PageState::Data => self.data(pfn).is_some_and(|bytes| bytes == ram.page(pfn)),
        }
    }

    /// Places a zero record: the main channel always makes the page zero (QEMU: ram_handle_zero()).
    pub fn place_zero(&mut self, pfn: Pfn) {
        self.pages[at(pfn)] = PageState::Zero;
        self.received.set(pfn);
    }

    /// Places a page's bytes.
    pub fn place_data(&mut self, pfn: Pfn, bytes: &PageBytes) {
        self.slot(pfn).copy_from_slice(bytes);
        self.pages[at(pfn)] = PageState::Data;
        self.received.set(pfn);
    }

    /// Reads a page from the source's RAM straight into its place here, and returns whether it was placed as zero: the contents of
    /// [`Self::place_zero`] or [`Self::place_data`] without a copy in between.
    pub fn place_from(&mut self, pfn: Pfn, ram: &GuestRam, zero_page_detection: bool) -> bool {
        if zero_page_detection && ram.is_zero(pfn) {
            self.place_zero(pfn);
            return true;
        }
        ram.read(pfn.address(), self.slot(pfn));
        self.pages[at(pfn)] = PageState::Data;
        self.received.set(pfn);
        false
    }

    /// The device's state has arrived.
    ///
    /// # Panics
    /// When it came before.
    pub fn load_device(&mut self, id: CmdId) {
        assert_eq!(self.status, DestinationStatus::Incoming, "device state came twice");
        self.cmd_id = Some(id);
        self.status = DestinationStatus::Loaded;
    }

    /// All has arrived: the vCPUs start, if they ran at the source.
    ///
    /// # Panics
    /// When the device's state has not arrived.
    pub fn finish(&mut self, start: bool) {
        assert_eq!(self.status, DestinationStatus::Loaded, "destination ends before it has the device");
        self.status = if start { DestinationStatus::Started } else { DestinationStatus::Paused };
    }

    fn data(&self, pfn: Pfn) -> Option<&[u8]> {
        let (part, offset) = place(pfn);
        self.store[part].as_ref().map(|bytes| &bytes[offset..offset + PAGE_SIZE as usize])
    }

    fn slot(&mut self, pfn: Pfn) -> &mut [u8] {
        let (part, offset) = place(pfn);
        let bytes = self.store[part].get_or_insert_with(|| Arc::new(vec![0; (PART_PAGES * PAGE_SIZE) as usize]));
        &mut Arc::make_mut(bytes)[offset..offset + PAGE_SIZE as usize]
    }

    fn garbage(&self, pfn: Pfn, bytes: &mut PageBytes) {
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(self.garbage_words(pfn)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Words of a SplitMix64 sequence that starts from seed and page; the lowest bit of the first is set, so that it is never all zero.
    fn garbage_words(&self, pfn: Pfn) -> impl Iterator<Item = u64> {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let start = self.seed ^ (pfn.0 + 1).wrapping_mul(GOLDEN);
        (0..PAGE_SIZE / 8).map(move |index| {
            let mut mixed = start.wrapping_add((index + 1).wrapping_mul(GOLDEN));
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31) | u64::from(index == 0)
        })
    }
}

fn at(pfn: Pfn) -> usize {
    usize::try_from(pfn.0).expect("64-bit host")
}

fn place(pfn: Pfn) -> (usize, usize) {
    (at(Pfn(pfn.0 / PART_PAGES)), ((pfn.0 % PART_PAGES) * PAGE_SIZE) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_never_arrived_is_garbage_and_not_zero() {
        let destination = Destination::new(128, 0);
        for pfn in 0..128 {
            assert_ne!(destination.page(Pfn(pfn)), ZERO_PAGE);
            assert!(!destination.arrived(Pfn(pfn)));
        }
        assert_ne!(destination.page(Pfn(0)), destination.page(Pfn(1)));
        assert_eq!(destination.page(Pfn(7)), Destination::new(128, 0).page(Pfn(7)));
        assert_ne!(destination.page(Pfn(7)), Destination::new(128, 1).page(Pfn(7)));
    }

    #[test]
    fn a_zero_record_clears_a_page_that_had_data() {
        let mut destination = Destination::new(128, 0);
        destination.place_data(Pfn(100), &[5; PAGE_SIZE as usize]);
        assert_eq!(destination.page(Pfn(100)), [5; PAGE_SIZE as usize]);
        destination.place_zero(Pfn(100));
        assert_eq!(destination.page(Pfn(100)), ZERO_PAGE);
        assert!(destination.arrived(Pfn(100)));
    }

    #[test]
    fn place_from_finds_zero_pages_whose_last_byte_counts() {
        let ram = GuestRam::new(4 * PAGE_SIZE);
        ram.write(2 * PAGE_SIZE - 1, &[1]);
        let mut destination = Destination::new(4, 0);
        assert!(destination.place_from(Pfn(0), &ram, true));
        assert!(!destination.place_from(Pfn(1), &ram, true));
        assert!(!destination.place_from(Pfn(2), &ram, false));
        for pfn in 0..3 {
            assert!(destination.equals(Pfn(pfn), &ram));
        }
        assert!(!destination.equals(Pfn(3), &ram));
    }

    #[test]
    fn garbage_equals_a_source_that_holds_the_same_garbage() {
        let (destination, ram) = (Destination::new(4, 7), GuestRam::new(4 * PAGE_SIZE));
        let mut bytes = destination.page(Pfn(2));
        ram.write(2 * PAGE_SIZE, &bytes);
        assert!(destination.equals(Pfn(2), &ram));
        bytes[PAGE_SIZE as usize - 1] ^= 1;
        ram.write(2 * PAGE_SIZE, &bytes);
        assert!(!destination.equals(Pfn(2), &ram));
    }

    #[test]
    fn a_clone_does_not_see_later_arrivals() {
        let mut first = Destination::new(128, 0);
        first.place_data(Pfn(1), &[1; PAGE_SIZE as usize]);
        let second = first.clone();
        first.place_data(Pfn(1), &[2; PAGE_SIZE as usize]);
        assert_eq!(second.page(Pfn(1)), [1; PAGE_SIZE as usize]);
        assert_eq!(first.page(Pfn(1)), [2; PAGE_SIZE as usize]);
    }
}
