//! The guest's RAM: one region from address 0, shared with the vCPU's engine.
//!
//! Every write that a device model makes through `vm-memory` (ring updates, DMA) lands in a [`WriteLog`], as QEMU's `address_space_write` ends
//! in `invalidate_and_set_dirty`; the VMM drains the log into D after each step. Guest stores do not pass here.
//!
//! Most of a guest's memory is never written, and a migration reads all of it. So RAM knows which pages may hold something, from whoever
//! writes; all others are zero and need not be looked at. A debug build looks at them all the same.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::event::{PageRange, Pfn};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE};

/// A set of pages that many may add to.
#[derive(Debug, Default)]
struct Marks {
    words: Vec<AtomicU64>,
    any: AtomicBool,
}

impl Marks {
    fn new(words: usize) -> Self {
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), any: AtomicBool::new(false) }
    }

    /// A plain load and store: one thread moves a world at a time, and a locked instruction for each of thousands of pages is dear.
    fn add(&self, page: usize) {
        if let Some(word) = self.words.get(page / 64) {
            word.store(word.load(Ordering::Relaxed) | 1 << (page % 64), Ordering::Relaxed);
        }
    }

    fn add_range(&self, first: usize, last: usize) {
        (first..=last).for_each(|page| self.add(page));
        self.any.store(true, Ordering::Relaxed);
    }

    /// Takes the pages out, in order.
    fn drain(&self, mut each: impl FnMut(Pfn)) {
        if !self.any.swap(false, Ordering::Relaxed) {
            return;
        }
        for (index, word) in self.words.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                each(Pfn(index as u64 * 64 + u64::from(bits.trailing_zeros())));
                bits &= bits - 1;
            }
        }
    }
}

/// Which pages may hold something, and which were written and not drained yet: what a copy of RAM is, beside its bytes. A bit for each page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamMarks {
    touched: Vec<u64>,
    written: Vec<u64>,
}

/// Pages written through `vm-memory`, and what a search wants to know of who used which.
#[derive(Debug, Default)]
pub struct WriteLog {
    /// Written since the log was drained.
    written: Marks,
    /// Pages written since RAM was made, by whatever way.
    touched: Vec<AtomicU64>,
    /// The same since [`GuestRam::take_touched`].
    unsaved: Marks,
    /// Whether uses are noted.
    uses: AtomicBool,
    /// Read through [`GuestRam`] since uses were taken.
    looked: Marks,
    /// Written since uses were taken, logged or not.
    changed: Marks,
}

impl NewBitmap for WriteLog {
    fn with_len(len: usize) -> Self {
        let pages = len.div_ceil(PAGE_SIZE as usize);
        let words = pages.div_ceil(64);
        let touched = (0..words).map(|_| AtomicU64::new(0)).collect();
        let marks = || Marks::new(words);
        Self { written: marks(), touched, unsaved: marks(), uses: AtomicBool::new(false), looked: marks(), changed: marks() }
    }
}

impl WriteLog {
    fn mark(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let first = offset >> PAGE_SHIFT;
        let last = (offset + len - 1) >> PAGE_SHIFT;
        (first..=last).for_each(|page| self.touch(page));
        self.written.add_range(first, last);
        if self.uses.load(Ordering::Relaxed) {
            self.changed.add_range(first, last);
        }
    }

    fn look(&self, offset: usize, len: usize) {
        if len > 0 && self.uses.load(Ordering::Relaxed) {
            self.looked.add_range(offset >> PAGE_SHIFT, (offset + len - 1) >> PAGE_SHIFT);
        }
    }

    fn touch(&self, page: usize) {
        if let Some(word) = self.touched.get(page / 64) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
        self.unsaved.add_range(page, page);
    }
}

impl<'a> WithBitmapSlice<'a> for WriteLog {
    type S = WriteLogSlice<'a>;
}

impl Bitmap for WriteLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset >> PAGE_SHIFT;
        self.written.words.get(page / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> WriteLogSlice<'_> {
        WriteLogSlice { log: self, base: offset }
    }
}

/// A part of a [`WriteLog`], as `vm-memory` hands it to volatile slices.
#[derive(Debug, Clone, Copy)]
pub struct WriteLogSlice<'a> {
    log: &'a WriteLog,
    base: usize,
}

impl<'a> WithBitmapSlice<'a> for WriteLogSlice<'_> {
    type S = Self;
}

impl BitmapSlice for WriteLogSlice<'_> {}

impl Bitmap for WriteLogSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark(self.base + offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.dirty_at(self.base + offset)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log, base: self.base + offset }
    }
}

/// The type that `virtio-queue` works on.
pub type Mmap = GuestMemoryMmap<WriteLog>;

/// The guest's RAM.
#[derive(Debug)]
pub struct GuestRam {
    mmap: Mmap,
    bytes: u64,
}

impl GuestRam {
    /// Returns zeroed memory from address 0.
    ///
    /// # Panics
    /// When `bytes` is not a positive number of pages, or the machine has not that much address space.
    pub fn new(bytes: u64) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE_SIZE), "RAM of {bytes} bytes is not a number of pages");
        let len = usize::try_from(bytes).expect("64-bit host");
        let mmap = Mmap::from_ranges(&[(GuestAddress(0), len)]).expect("address space for guest RAM");
        Self { mmap, bytes }
    }

    /// Returns the memory as `virtio-queue` wants it. Writes through it are logged.
    pub fn mmap(&self) -> &Mmap {
        &self.mmap
    }

    /// Returns the size, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the size, pages.
    pub fn pages(&self) -> u64 {
        self.bytes >> PAGE_SHIFT
    }

    /// Returns the host address of guest address 0, for the vCPU's engine alone; valid as long as `self`.
    pub fn host_address(&self) -> *mut u8 {
        self.mmap.get_host_address(GuestAddress(0)).expect("RAM starts at 0")
    }

    /// Copies memory out.
    ///
    /// # Panics
    /// When the range leaves RAM: callers check what a guest sent first.
    pub fn read(&self, address: u64, buffer: &mut [u8]) {
        self.look(address, buffer.len() as u64);
        self.mmap.read_slice(buffer, GuestAddress(address)).expect("range in RAM");
    }

    /// Notes that somebody is about to read there past this type: with [`GuestRam::mmap`].
    pub fn look(&self, address: u64, bytes: u64) {
        self.write_log().look(address as usize, bytes as usize);
    }

    /// From here on uses are noted, or not any more.
    pub fn note_uses(&self, on: bool) {
        self.write_log().uses.store(on, Ordering::Relaxed);
    }

    /// Puts the pages that were read since the last call, while uses were noted, behind `looked`, and those that were written behind `changed`,
    /// each in order. Guest code is not among those who used them.
    pub fn take_uses(&self, looked: &mut Vec<u32>, changed: &mut Vec<u32>) {
        self.write_log().looked.drain(|pfn| looked.push(pfn.0 as u32));
        self.write_log().changed.drain(|pfn| changed.push(pfn.0 as u32));
    }

    /// Returns the little-endian word at an address.
    pub fn read_u64(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Returns the little-endian half word at an address.
    pub fn read_u32(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Returns the little-endian 16-bit word at an address.
    pub fn read_u16(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Writes as a device does: logged.
    ///
    /// # Panics
    /// When the range leaves RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.mmap.write_slice(bytes, GuestAddress(address)).expect("range in RAM");
    }

    /// Writes what no dirty log shall see: the image, the mailbox, a discarded page. Earlier unlogged state of the same pages survives.
    ///
    /// # Panics
    /// When the range leaves RAM.
    pub fn write_unlogged(&self, address: u64, bytes: &[u8]) {
        let logged = self.drain_writes();
        self.write(address, bytes);
        self.drain_writes();
        for range in logged {
            self.log(range);
        }
    }

    /// Copies one page out.
    pub fn page(&self, pfn: Pfn) -> [u8; PAGE_SIZE as usize] {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.read(pfn.address(), &mut bytes);
        bytes
    }

    /// Notes that a page may hold something. Who writes past this type, as guest code does, says so before anybody reads the page.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn touch(&self, pfn: Pfn) {
        assert!(pfn.0 < self.pages(), "page {pfn} of {} pages", self.pages());
        self.write_log().touch(pfn.0 as usize);
    }

    /// Calls with each page that may have been written since the last call, by whatever way, in order.
    pub fn take_touched(&self, each: impl FnMut(Pfn)) {
        self.write_log().unsaved.drain(each);
    }

    /// Returns the marks, for a copy.
    pub fn marks(&self) -> RamMarks {
        let words = |marks: &[AtomicU64]| marks.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let log = self.write_log();
        RamMarks { touched: words(&log.touched), written: words(&log.written.words) }
    }

    /// Puts the marks of a RAM of the same size in place of its own. The bytes are the caller's.
    ///
    /// # Panics
    /// When they are of another size.
    pub fn set_marks(&self, marks: &RamMarks) {
        let RamMarks { touched, written } = marks;
        let log = self.write_log();
        for (words, wanted) in [(&log.touched, touched), (&log.written.words, written)] {
            assert_eq!(words.len(), wanted.len(), "marks of a RAM of another size");
            words.iter().zip(wanted).for_each(|(word, wanted)| word.store(*wanted, Ordering::Relaxed));
        }
        log.written.any.store(written.iter().any(|word| *word != 0), Ordering::Relaxed);
    }

    /// Returns whether a page holds zeros only. One that nobody wrote is not read for that.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn is_zero(&self, pfn: Pfn) -> bool {
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        let word = self.write_log().touched[(pfn.0 / 64) as usize].load(Ordering::Relaxed);
        if word >> (pfn.0 % 64) & 1 == 0 {
            self.look(pfn.address(), PAGE_SIZE);
            debug_assert_eq!(self.page(pfn), ZEROS, "page {pfn} was written by somebody who did not say so");
            return true;
        }
        // The first bytes spare most pages with contents the full look.
        self.read_u64(pfn.address()) == 0 && self.page(pfn) == ZEROS
    }

    /// Returns the pages written through `vm-memory` since the last call, in order, merged into ranges.
    pub fn drain_writes(&self) -> Vec<PageRange> {
        self.write_log().drain()
    }

    fn log(&self, range: PageRange) {
        self.write_log().written.add_range(range.first.0 as usize, range.end().0 as usize - 1);
    }

    fn write_log(&self) -> &WriteLog {
        let region = self.mmap.iter().next().expect("one region");
        vm_memory::GuestMemoryRegion::bitmap(region).log
    }
}

impl WriteLog {
    fn drain(&self) -> Vec<PageRange> {
        let mut ranges: Vec<PageRange> = Vec::new();
        self.written.drain(|pfn| match ranges.last_mut() {
            Some(last) if last.end() == pfn => last.count += 1,
            _ => ranges.push(PageRange::page(pfn)),
        });
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_across_pages_is_logged_on_both() {
        let ram = GuestRam::new(16 * PAGE_SIZE);
        ram.write(2 * PAGE_SIZE - 1, &[1, 2]);
        assert_eq!(ram.drain_writes(), [PageRange::new(Pfn(1), 2)]);
        assert_eq!(ram.drain_writes(), []);
    }

    #[test]
    fn a_page_is_zero_until_its_last_byte_is_written_and_when_it_is_zeroed_again() {
        let ram = GuestRam::new(16 * PAGE_SIZE);
        ram.write_unlogged(3 * PAGE_SIZE - 1, &[1]);
        assert_eq!([1, 2, 3].map(|pfn| ram.is_zero(Pfn(pfn))), [true, false, true]);
        ram.write(3 * PAGE_SIZE - 1, &[0]);
        assert!(ram.is_zero(Pfn(2)));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "did not say so")]
    fn a_debug_build_finds_out_who_writes_without_saying_so() {
        let ram = GuestRam::new(16 * PAGE_SIZE);
        ram.write(0, &[1]);
        ram.write_log().touched[0].store(0, Ordering::Relaxed);
        ram.is_zero(Pfn(0));
    }

    #[test]
    fn uses_are_noted_while_it_is_asked_for_and_are_not_the_log() {
        let ram = GuestRam::new(16 * PAGE_SIZE);
        let uses = || {
            let (mut looked, mut changed) = (Vec::new(), Vec::new());
            ram.take_uses(&mut looked, &mut changed);
            (looked, changed)
        };
        ram.write(0, &[1]);
        ram.note_uses(true);
        ram.read_u64(2 * PAGE_SIZE - 4);
        ram.write(5 * PAGE_SIZE, &[1]);
        ram.write_unlogged(9 * PAGE_SIZE, &[1]);
        assert!(ram.is_zero(Pfn(7)));
        assert_eq!(uses(), (vec![1, 2, 7], vec![5, 9]));
        ram.note_uses(false);
        ram.read_u64(0);
        assert_eq!(uses(), (vec![], vec![]));
        assert_eq!(ram.drain_writes(), [PageRange::page(Pfn(0)), PageRange::page(Pfn(5))]);
    }

    #[test]
    fn whoever_writes_is_told_of_once() {
        let ram = GuestRam::new(80 * PAGE_SIZE);
        let taken = || {
            let mut pages = Vec::new();
            ram.take_touched(|pfn| pages.push(pfn.0));
            pages
        };
        ram.write_unlogged(70 * PAGE_SIZE, &[1]);
        ram.write(3 * PAGE_SIZE, &[1]);
        ram.touch(Pfn(9));
        assert_eq!((taken(), taken()), (vec![3, 9, 70], vec![]));
        ram.write(3 * PAGE_SIZE, &[1]);
        assert_eq!(taken(), [3]);
    }

    #[test]
    fn marks_carry_over_what_may_hold_something_and_what_is_not_drained() {
        let ram = GuestRam::new(80 * PAGE_SIZE);
        ram.write_unlogged(70 * PAGE_SIZE, &[1]);
        ram.write(3 * PAGE_SIZE, &[1]);
        let other = GuestRam::new(80 * PAGE_SIZE);
        other.write(0, &[0]);
        other.set_marks(&ram.marks());
        assert_eq!(other.marks(), ram.marks());
        assert_eq!(other.drain_writes(), [PageRange::page(Pfn(3))]);
        assert_ne!(other.marks(), ram.marks());
        other.set_marks(&GuestRam::new(80 * PAGE_SIZE).marks());
        assert_eq!(other.drain_writes(), []);
    }

    #[test]
    fn an_unlogged_write_keeps_the_log_as_it_was() {
        let ram = GuestRam::new(16 * PAGE_SIZE);
        ram.write(0, &[1]);
        ram.write_unlogged(PAGE_SIZE, &[1]);
        assert_eq!(ram.drain_writes(), [PageRange::page(Pfn(0))]);
    }
}
