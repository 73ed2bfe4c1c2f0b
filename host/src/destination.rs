//! The receiving side: what has arrived, and what a page holds now.
//!
//! QEMU: migration/ram.c ram_load_precopy(), ram_handle_zero(). A page that nothing was received for holds garbage, not zeros, since a real
//! destination's memory may hold firmware; so a page that was wrongly left out shows even if the source's is zero.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::balloon::LoadedDevice;
use crate::dirty::bitmap::DirtyBitmap;
use crate::event::{CmdId, PageRange, Pfn};
use crate::fold::{Fold, Tag, mix_wide};
use crate::memory::GuestRam;
use crate::migration::xbzrle::{self, DecodeError};
use crate::page::{PageBytes, PageContents, ZERO_PAGE};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE};

/// Pages of a part of the store: a clone shares parts until one side writes, and a part shares pages.
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

/// The destination. A page that did not arrive holds garbage; one that did holds what the store has for it, or zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    seed: u64,
    /// Memory that nothing arrived for is zero.
    zeroed: bool,
    /// Memory that is not plugged: zero as well.
    empty: Vec<PageRange>,
    status: DestinationStatus,
    cmd_id: Option<CmdId>,
    device: Option<LoadedDevice>,
    /// R.
    received: DirtyBitmap,
    /// What was written: all of R, but for zeros that were taken to be there.
    placed: DirtyBitmap,
    store: Arc<[Option<Arc<Part>>]>,
}

/// Contents of neighbouring pages.
#[derive(Clone)]
struct Part {
    pages: [Option<Arc<PageContents>>; PART_PAGES as usize],
    /// Sum of the hashes of all contents, once somebody has asked for it.
    sum: OnceLock<u128>,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.pages == other.pages
    }
}

impl Eq for Part {}

impl Part {
    fn new() -> Self {
        Self { pages: [const { None }; PART_PAGES as usize], sum: OnceLock::new() }
    }

    /// Returns the sum of the hashes of all contents, each with its place.
    fn fold(&self) -> u128 {
        *self.sum.get_or_init(|| {
            let pages = (0..).zip(&self.pages).filter_map(|(at, page)| page.as_ref().map(|page| (at, page.digest())));
            pages.map(|(at, digest)| mix_wide(Tag::Content as u64, at, digest)).fold(0, u128::wrapping_add)
        })
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, zeroed, empty, status, cmd_id, device, received, placed, store } = self;
        let data = store.iter().flatten().flat_map(|part| &part.pages).flatten().count();
        f.debug_struct("Destination")
            .field("seed", seed)
            .field("zeroed", zeroed)
            .field("empty", empty)
            .field("status", status)
            .field("cmd_id", cmd_id)
            .field("device", device)
            .field("received", &received.count())
            .field("placed", &placed.count())
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
            zeroed: false,
            empty: Vec::new(),
            status: DestinationStatus::Incoming,
            cmd_id: None,
            device: None,
            received: DirtyBitmap::new(pages),
            placed: DirtyBitmap::new(pages),
            store: std::iter::repeat_n(None, parts).collect(),
        }
    }

    /// Returns it with zeros in place of the garbage, as memory is that nobody used before.
    pub fn zeroed(self) -> Self {
        Self { zeroed: true, ..self }
    }

    /// Returns whether memory that nothing arrived for is zero.
    pub fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    /// A new process takes this one's place: all is garbage again, or zero.
    pub fn restart(&mut self) {
        *self = Self { zeroed: self.zeroed, ..Self::new(self.received.pages(), self.seed) };
    }

    /// Memory that is not plugged is empty, whatever stood there (QEMU: virtio_mem_restore_unplugged()).
    pub(crate) fn unplug(&mut self, ranges: &[PageRange]) {
        self.empty = ranges.to_vec();
    }

    /// Adds its state to a hash: what it is to start with, and all that has arrived.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { seed: _, zeroed: _, empty: _, status, cmd_id, device, received, placed, store } = self;
        fold.add_part(Tag::DestinationStatus, &(*status, *cmd_id));
        if let Some(device) = device {
            device.fold(fold);
        }
        fold.sum_of(Tag::Received as u64, received.fold());
        fold.sum_of(Tag::Placed as u64, placed.fold());
        for (index, part) in (0..).zip(store.iter()) {
            if let Some(part) = part {
                fold.sum_of(Tag::Contents as u64 + (index << 32), part.fold());
            }
        }
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

    /// Returns which of 64 pages, those from 64 times `at` on, have come and are in memory.
    pub fn there_word(&self, at: usize) -> u64 {
        self.received.word(at) & self.placed.word(at)
    }

    /// Returns whether the page has come, and is in memory: who touches it does not have to wait.
    pub fn is_there(&self, pfn: Pfn) -> bool {
        self.received.test(pfn) && self.placed.test(pfn)
    }

    /// Returns whether anything arrived for the page.
    pub fn arrived(&self, pfn: Pfn) -> bool {
        self.received.test(pfn) || self.placed.test(pfn)
    }

    /// Returns the page's contents.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn page(&self, pfn: Pfn) -> PageBytes {
        if self.is_garbage(pfn) {
            return self.garbage(pfn);
        }
        self.contents(pfn).map_or(ZERO_PAGE, |contents| *contents.bytes())
    }

    /// Returns whether the page's contents equal the source's, without copying more than needed.
    pub fn equals(&self, pfn: Pfn, ram: &GuestRam) -> bool {
        if self.is_garbage(pfn) {
            let same = |(source, word): (&[u8], u64)| source == word.to_le_bytes();
            return !ram.is_zero(pfn) && ram.page(pfn).chunks_exact(8).zip(self.garbage_words(pfn)).all(same);
        }
        self.contents(pfn).map_or_else(|| ram.is_zero(pfn), |contents| *contents.bytes() == ram.page(pfn))
    }

    fn is_garbage(&self, pfn: Pfn) -> bool {
        !self.placed.test(pfn) && !self.zeroed && !self.empty.iter().any(|range| range.contains(pfn))
    }

    /// Returns the hash of the contents that arrived for a page, which is kept: `None` where zeros arrived, or nothing.
    pub fn digest(&self, pfn: Pfn) -> Option<u128> {
        self.contents(pfn).map(PageContents::digest)
    }

    /// Returns which of these pages of a 64-page word equal the source's.
    pub fn equals_at(&self, word: u64, pages: u64, ram: &GuestRam) -> u64 {
        let same = |bit: &u64| self.equals(Pfn(word * PART_PAGES + bit), ram);
        let asked = (0..PART_PAGES).filter(|bit| pages >> bit & 1 == 1);
        asked.filter(same).fold(0, |equal, bit| equal | 1 << bit)
    }

    /// Places a zero record: the main channel always makes the page zero (QEMU: ram_handle_zero()).
    pub fn place_zero(&mut self, pfn: Pfn) {
        if self.contents(pfn).is_some() {
            *self.slot(pfn) = None;
        }
        self.record(pfn);
    }

    /// Places a page's bytes.
    pub fn place_data(&mut self, pfn: Pfn, contents: Arc<PageContents>) {
        *self.slot(pfn) = Some(contents);
        self.record(pfn);
    }

    /// Takes in a zero page of a channel: the first that arrives for a page only counts as received, for memory is taken to be zero then; later
    /// ones make it zero (QEMU: migration/multifd-zero-page.c multifd_recv_zero_page_process()).
    pub fn receive_zero(&mut self, pfn: Pfn) {
        if self.received.test(pfn) {
            self.place_zero(pfn);
        } else {
            self.received.set(pfn);
        }
    }

    /// Places a page's bytes without a word to R.
    pub(crate) fn place_unrecorded(&mut self, pfn: Pfn, contents: Arc<PageContents>) {
        *self.slot(pfn) = Some(contents);
        self.placed.set(pfn);
    }

    fn record(&mut self, pfn: Pfn) {
        self.received.set(pfn);
        self.placed.set(pfn);
    }

    /// Drops what arrived for pages: they will be sent again (QEMU: ram_discard_range()).
    pub fn discard(&mut self, range: PageRange) {
        for pfn in range.pages() {
            if self.contents(pfn).is_some() {
                *self.slot(pfn) = None;
            }
        }
        self.received.clear_range(range);
    }

    /// Changes a page's bytes by the difference from what it held (QEMU: migration/ram.c load_xbzrle()).
    ///
    /// # Errors
    /// When the difference is none.
    pub fn place_delta(&mut self, pfn: Pfn, delta: &[u8]) -> Result<(), DecodeError> {
        let mut bytes = self.page(pfn);
        let decoded = xbzrle::decode(delta, &mut bytes);
        self.place_data(pfn, Arc::new(PageContents::new(&bytes)));
        decoded
    }

    /// Reads a page from the source's RAM straight into its place here, and returns whether it was placed as zero: the contents of
    /// [`Self::place_zero`] or [`Self::place_data`] without a copy in between.
    pub fn place_from(&mut self, pfn: Pfn, ram: &GuestRam, zero_page_detection: bool) -> bool {
        if zero_page_detection && ram.is_zero(pfn) {
            self.place_zero(pfn);
            return true;
        }
        let slot = self.slot(pfn);
        // Contents that somebody else sees, too, stay as they are.
        let mut contents =
            slot.take().filter(|contents| Arc::strong_count(contents) == 1).unwrap_or_else(|| Arc::new(PageContents::zeros()));
        Arc::get_mut(&mut contents).expect("nobody else sees it").read(pfn, ram);
        *slot = Some(contents);
        self.record(pfn);
        false
    }

    /// The device's state has arrived.
    ///
    /// # Panics
    /// When it came before.
    pub fn load_device(&mut self, id: CmdId, device: Option<LoadedDevice>) {
        assert_eq!(self.status, DestinationStatus::Incoming, "device state came twice");
        (self.cmd_id, self.device) = (Some(id), device);
        self.status = DestinationStatus::Loaded;
    }

    /// All has arrived: the vCPUs start, if they ran at the source.
    ///
    /// # Panics
    /// When the device's state has not arrived.
    pub fn finish(&mut self, start: bool) {
        assert_eq!(self.status, DestinationStatus::Loaded, "destination ends before it has the device");
        self.status = if start { DestinationStatus::Started } else { DestinationStatus::Paused };
        if let (true, Some(mut device)) = (start, self.device.take()) {
            device.start(|address| self.word(address));
            self.device = Some(device);
        }
    }

    /// Returns the queue of its device, if there is one, with an element that nobody will ever return.
    pub fn stuck_queue(&self) -> Option<usize> {
        self.device.as_ref()?.stuck_queue(|address| self.word(address))
    }

    /// Returns the 16-bit word at an address, if anything arrived for its page.
    fn word(&self, address: u64) -> Option<u16> {
        let pfn = Pfn(address >> PAGE_SHIFT);
        if pfn.0 >= self.received.pages() || !self.arrived(pfn) {
            return None;
        }
        let at = (address % PAGE_SIZE) as usize;
        self.contents(pfn).map_or(Some(0), |contents| contents.bytes().get(at..at + 2).map(|word| u16::from_le_bytes([word[0], word[1]])))
    }

    fn contents(&self, pfn: Pfn) -> Option<&PageContents> {
        let (part, at) = place(pfn);
        self.store[part].as_ref()?.pages[at].as_deref()
    }

    fn slot(&mut self, pfn: Pfn) -> &mut Option<Arc<PageContents>> {
        let (part, at) = place(pfn);
        let part = Arc::make_mut(&mut self.store)[part].get_or_insert_with(|| Arc::new(Part::new()));
        let part = Arc::make_mut(part);
        part.sum = OnceLock::new();
        &mut part.pages[at]
    }

    fn garbage(&self, pfn: Pfn) -> PageBytes {
        let mut bytes = ZERO_PAGE;
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(self.garbage_words(pfn)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
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

/// Returns the part that holds a page, and its place there.
fn place(pfn: Pfn) -> (usize, usize) {
    let part = usize::try_from(pfn.0 / PART_PAGES).expect("64-bit host");
    (part, (pfn.0 % PART_PAGES) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(byte: u8) -> Arc<PageContents> {
        Arc::new(PageContents::new(&[byte; PAGE_SIZE as usize]))
    }

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
        destination.place_data(Pfn(100), bytes(5));
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
        first.place_data(Pfn(1), bytes(1));
        let second = first.clone();
        first.place_data(Pfn(1), bytes(2));
        assert_eq!(second.page(Pfn(1)), [1; PAGE_SIZE as usize]);
        assert_eq!(first.page(Pfn(1)), [2; PAGE_SIZE as usize]);
    }

    #[test]
    fn contents_that_a_clone_or_the_wire_still_holds_are_not_overwritten() {
        let ram = GuestRam::new(2 * PAGE_SIZE);
        ram.write(0, &[7]);
        let (sent, mut first) = (bytes(1), Destination::new(2, 0));
        first.place_data(Pfn(0), Arc::clone(&sent));
        let second = first.clone();
        assert!(!first.place_from(Pfn(0), &ram, true));
        assert_eq!((sent.bytes()[0], second.page(Pfn(0))[0], first.page(Pfn(0))[0]), (1, 1, 7));
        assert_eq!(second.digest(Pfn(0)), Some(sent.digest()));
        assert_ne!(first.digest(Pfn(0)), second.digest(Pfn(0)));
        first.place_zero(Pfn(0));
        assert_eq!([first.digest(Pfn(0)), first.digest(Pfn(1))], [None; 2]);
    }

    #[derive(Debug, Clone)]
    enum Arrival {
        Zero,
        Data(u8),
        From,
    }

    fn sum(destination: &mut Destination) -> u128 {
        let mut fold = Fold::default();
        destination.fold(&mut fold);
        fold.sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The hash is that of what stands there, whatever stood there before, and whenever it was asked for.
        #[test]
        fn the_hash_follows_the_contents(
            arrivals in prop::collection::vec((0..130_u64, prop_oneof![Just(Arrival::Zero), (0..3_u8).prop_map(Arrival::Data), Just(Arrival::From)], any::<bool>()), 0..60)
        ) {
            let ram = GuestRam::new(130 * PAGE_SIZE);
            (0..130).for_each(|pfn| ram.write(pfn * PAGE_SIZE, &[(pfn % 3) as u8]));
            let mut destination = Destination::new(130, 0);
            for (pfn, arrival, fold) in &arrivals {
                match arrival {
                    Arrival::Zero => destination.place_zero(Pfn(*pfn)),
                    Arrival::Data(byte) => destination.place_data(Pfn(*pfn), bytes(*byte)),
                    Arrival::From => {
                        destination.place_from(Pfn(*pfn), &ram, true);
                    }
                }
                if *fold {
                    sum(&mut destination);
                }
            }
            let mut fresh = Destination::new(130, 0);
            for pfn in (0..130).map(Pfn).filter(|pfn| destination.arrived(*pfn)) {
                match destination.contents(pfn) {
                    Some(contents) => fresh.place_data(pfn, Arc::new(contents.clone())),
                    None => fresh.place_zero(pfn),
                }
            }
            prop_assert_eq!(sum(&mut destination), sum(&mut fresh));
            for pfn in [Pfn(0), Pfn(64), Pfn(129)] {
                let mut other = fresh.clone();
                other.place_data(pfn, bytes(9));
                prop_assert_ne!(sum(&mut other), sum(&mut fresh));
            }
        }
    }
}
