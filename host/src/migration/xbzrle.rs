//! Differences instead of pages: the cache of what was sent last, and the code of a difference.
//!
//! QEMU: migration/page_cache.c, migration/xbzrle.c, migration/ram.c save_xbzrle_page(); docs/devel/migration describes the format: runs of
//! equal and of different bytes take turns, each as its length in ULEB128, the different ones followed by their new bytes; the equal bytes at the end
//! are not written. A page is put into the cache when it is sent whole, from the first time on that the scan has passed all pages.

use std::sync::Arc;

use crate::event::Pfn;
use crate::fault::Fault;
use crate::memory::GuestRam;
use crate::migration::encoding::Content;
use crate::page::{PageBytes, PageContents, ZERO_PAGE};
use crate::step::Ctx;

/// Syncs for which a page in the cache is not replaced by another (QEMU: migration/page_cache.c CACHED_PAGE_LIFETIME).
const LIFETIME: u32 = 2;
/// Longest difference: one that is longer than the page goes as the page.
const DELTA_BYTES_MAX: usize = ZERO_PAGE.len();

/// What a page became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// It has not changed.
    Same,
    /// These runs.
    Runs(Vec<u8>),
    /// The runs would be longer than the page.
    TooLong,
}

/// Why runs are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// They end within a run.
    CutShort,
    /// They reach beyond the page, or a length is no ULEB128 number of two bytes.
    TooLong,
    /// No byte differs in a run of different ones.
    EmptyRun,
}

/// Returns the runs that make `old` into `new`.
pub fn encode(old: &PageBytes, new: &PageBytes) -> Delta {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < new.len() {
        let equal = old[at..].iter().zip(&new[at..]).take_while(|(old, new)| old == new).count();
        if at + equal == new.len() {
            break;
        }
        let start = at + equal;
        let different = old[start..].iter().zip(&new[start..]).take_while(|(old, new)| old != new).count();
        put_length(equal, &mut runs);
        put_length(different, &mut runs);
        runs.extend_from_slice(&new[start..start + different]);
        if runs.len() > DELTA_BYTES_MAX {
            return Delta::TooLong;
        }
        at = start + different;
    }
    if runs.is_empty() { Delta::Same } else { Delta::Runs(runs) }
}

/// Applies runs to a page.
///
/// # Errors
/// When they are none; the page may be changed in part, as in QEMU.
pub fn decode(runs: &[u8], page: &mut PageBytes) -> Result<(), DecodeError> {
    let (mut rest, mut at) = (runs, 0);
    while !rest.is_empty() {
        let equal = take_length(&mut rest)?;
        let different = take_length(&mut rest)?;
        if different == 0 {
            return Err(DecodeError::EmptyRun);
        }
        let (start, end) = (at + equal, at + equal + different);
        let place = page.get_mut(start..end).ok_or(DecodeError::TooLong)?;
        let (bytes, behind) = rest.split_at_checked(different).ok_or(DecodeError::CutShort)?;
        place.copy_from_slice(bytes);
        (rest, at) = (behind, end);
    }
    Ok(())
}

/// Seven bits a byte, the lowest first; a page's lengths need two.
fn put_length(length: usize, to: &mut Vec<u8>) {
    assert!(length <= DELTA_BYTES_MAX, "a run of {length} bytes in a page");
    let (low, high) = ((length & 0x7f) as u8, (length >> 7) as u8);
    if high == 0 {
        to.push(low);
    } else {
        to.extend([low | 0x80, high]);
    }
}

fn take_length(from: &mut &[u8]) -> Result<usize, DecodeError> {
    let [low, rest @ ..] = *from else { return Err(DecodeError::CutShort) };
    *from = rest;
    if low & 0x80 == 0 {
        return Ok(usize::from(*low));
    }
    let [high, rest @ ..] = *from else { return Err(DecodeError::CutShort) };
    *from = rest;
    if high & 0x80 != 0 {
        return Err(DecodeError::TooLong);
    }
    Ok(usize::from(low & 0x7f) | usize::from(*high) << 7)
}

/// A page in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    pfn: Pfn,
    /// The sync behind which it was last looked up or put in.
    age: u32,
    contents: Arc<PageContents>,
}

/// The cache, and whether it is in use. QEMU: migration/ram.c XBZRLE, RAMState.xbzrle_started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Xbzrle {
    slots: Vec<Option<Slot>>,
    /// The scan has passed all pages.
    started: bool,
    /// Where the scan took its last page.
    last: Option<(usize, u64)>,
}

impl Xbzrle {
    /// Returns an empty cache.
    pub(crate) fn new(pages: u32) -> Self {
        assert!(pages.is_power_of_two(), "a cache of {pages} pages");
        Self { slots: vec![None; pages as usize], started: false, last: None }
    }

    /// Returns whether pages are encoded.
    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// The scan takes a page; when it is not behind the last one, the scan has passed all.
    pub(crate) fn scan(&mut self, place: (usize, u64)) {
        self.started |= self.last.is_some_and(|last| place <= last);
        self.last = Some(place);
    }

    /// The scan found nothing more: it has passed all.
    pub(crate) fn scan_all(&mut self) {
        self.started |= self.last.is_some();
    }

    /// Returns the copy that a slot holds.
    pub(crate) fn copy(&self, slot: usize) -> Arc<PageContents> {
        Arc::clone(&self.slots[slot].as_ref().expect("a slot that was sent from").contents)
    }

    fn slot_of(&self, pfn: Pfn) -> usize {
        (pfn.0 as usize) & (self.slots.len() - 1)
    }

    /// Puts a page's copy into its slot, unless another page that is young stands there; returns whether it did (QEMU: cache_insert()).
    /// [`Fault::CachedPageAsync`]: pages have no lifetime, as when that defect was real.
    fn insert(&mut self, pfn: Pfn, contents: Arc<PageContents>, syncs: u32, ctx: &Ctx<'_>) -> bool {
        let lifetime = if ctx.faults.on(Fault::CachedPageAsync) { 0 } else { LIFETIME };
        let at = self.slot_of(pfn);
        if self.slots[at].as_ref().is_some_and(|slot| slot.pfn != pfn && slot.age + lifetime > syncs) {
            return false;
        }
        self.slots[at] = Some(Slot { pfn, age: syncs, contents });
        true
    }

    /// A page goes as zeros: its copy, if there is one, must be zeros too, for that is what the destination has (QEMU:
    /// xbzrle_cache_zero_page()). [`Fault::ZeroLeavesCache`]: it is left.
    pub(crate) fn zero(&mut self, pfn: Pfn, syncs: u32, ctx: &Ctx<'_>) {
        if self.started && !ctx.faults.on(Fault::ZeroLeavesCache) {
            self.insert(pfn, Arc::new(PageContents::zeros()), syncs, ctx);
        }
    }

    /// Encodes a page that was read (QEMU: save_xbzrle_page()); in the last stage the cache is left as it is.
    /// [`Fault::RefusedInsertSends`]: a page that the cache refuses is sent from the cache.
    pub(crate) fn encode(&mut self, pfn: Pfn, contents: Arc<PageContents>, last: bool, syncs: u32, ctx: &Ctx<'_>) -> Content {
        assert!(self.started, "nothing is encoded in the first pass");
        let at = self.slot_of(pfn);
        let cached = self.slots[at].as_mut().filter(|slot| slot.pfn == pfn);
        let Some(slot) = cached else {
            if last {
                return Content::Data(contents);
            }
            return match self.insert(pfn, Arc::clone(&contents), syncs, ctx) {
                true if ctx.faults.on(Fault::CachedPageAsync) => Content::Cached(at),
                false if ctx.faults.on(Fault::RefusedInsertSends) => Content::Data(self.copy(at)),
                true | false => Content::Data(contents),
            };
        };
        slot.age = syncs;
        let delta = encode(slot.contents.bytes(), contents.bytes());
        if !last && delta != Delta::Same {
            slot.contents = Arc::clone(&contents);
        }
        match delta {
            Delta::Same => Content::Same,
            Delta::Runs(runs) => Content::Delta(runs.into()),
            Delta::TooLong => Content::Data(contents),
        }
    }
}

/// Reads a page into contents of its own.
pub(crate) fn read_page(pfn: Pfn, ram: &GuestRam) -> Arc<PageContents> {
    let mut contents = Arc::new(PageContents::zeros());
    Arc::get_mut(&mut contents).expect("it is new").read(pfn, ram);
    contents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;
    use proptest::prelude::*;

    fn page(bytes: &[(usize, u8)]) -> PageBytes {
        let mut page = ZERO_PAGE;
        bytes.iter().for_each(|(at, byte)| page[*at] = *byte);
        page
    }

    fn contents(byte: u8) -> Arc<PageContents> {
        Arc::new(PageContents::new(&page(&[(0, byte)])))
    }

    #[test]
    fn runs_stand_as_the_format_says() {
        let (old, new) = (page(&[(0, 1), (1, 2)]), page(&[(0, 1), (1, 3), (300, 4), (301, 5)]));
        assert_eq!(encode(&old, &new), Delta::Runs(vec![1, 1, 3, 298_u16 as u8 & 0x7f | 0x80, 2, 2, 4, 5]));
        assert_eq!(encode(&old, &old), Delta::Same);
    }

    #[test]
    fn a_page_that_differs_in_every_other_byte_goes_whole() {
        let mut new = ZERO_PAGE;
        new.iter_mut().step_by(2).for_each(|byte| *byte = 1);
        assert_eq!(encode(&ZERO_PAGE, &new), Delta::TooLong);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        for (runs, error) in [
            (&[1][..], DecodeError::CutShort),
            (&[0x80], DecodeError::CutShort),
            (&[0, 2, 7], DecodeError::CutShort),
            (&[0x80, 0x80, 1, 1, 7], DecodeError::TooLong),
            (&[0xff, 0x1f, 2, 7, 7], DecodeError::TooLong),
            (&[3, 0], DecodeError::EmptyRun),
        ] {
            assert_eq!(decode(runs, &mut ZERO_PAGE.clone()), Err(error), "{runs:?}");
        }
    }

    #[test]
    fn a_young_page_is_not_replaced_by_one_of_the_same_slot() {
        let mut desk = Desk::new(&[]);
        let ctx = desk.ctx();
        let mut cache = Xbzrle::new(4);
        cache.scan((0, 9));
        cache.scan_all();
        assert_eq!(cache.encode(Pfn(1), contents(1), false, 1, &ctx), Content::Data(contents(1)));
        assert_eq!(cache.encode(Pfn(5), contents(5), false, 2, &ctx), Content::Data(contents(5)));
        assert!(matches!(cache.encode(Pfn(1), contents(2), false, 2, &ctx), Content::Delta(_)), "it is still there");
        assert_eq!(cache.encode(Pfn(5), contents(5), false, 4, &ctx), Content::Data(contents(5)));
        assert_eq!(cache.encode(Pfn(5), contents(5), false, 5, &ctx), Content::Same, "the old one is replaced");
    }

    #[test]
    fn the_last_stage_leaves_the_cache_alone() {
        let mut desk = Desk::new(&[]);
        let ctx = desk.ctx();
        let mut cache = Xbzrle::new(4);
        cache.scan((0, 0));
        cache.scan((0, 0));
        assert_eq!(cache.encode(Pfn(1), contents(1), true, 1, &ctx), Content::Data(contents(1)));
        assert_eq!(cache.encode(Pfn(1), contents(1), false, 1, &ctx), Content::Data(contents(1)));
        assert!(matches!(cache.encode(Pfn(1), contents(2), true, 2, &ctx), Content::Delta(_)));
        assert_eq!(cache.encode(Pfn(1), contents(1), false, 2, &ctx), Content::Same);
    }

    #[test]
    fn nothing_is_encoded_before_the_scan_has_come_around() {
        let mut cache = Xbzrle::new(4);
        cache.scan_all();
        for place in [(0, 0), (0, 7), (1, 7)] {
            cache.scan(place);
            assert!(!cache.is_started());
        }
        cache.scan((1, 7));
        assert!(cache.is_started());
    }

    fn any_page() -> impl Strategy<Value = PageBytes> {
        let runs = prop::collection::vec((0..4096_usize, 1..400_usize, 0..4_u8), 0..20);
        runs.prop_map(|runs| {
            let mut page = ZERO_PAGE;
            for (start, len, byte) in runs {
                page[start..(start + len).min(4096)].fill(byte);
            }
            page
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(old in any_page(), new in any_page()) {
            let mut page = old;
            match encode(&old, &new) {
                Delta::Same => prop_assert_eq!(old, new),
                Delta::Runs(runs) => {
                    prop_assert!(runs.len() <= DELTA_BYTES_MAX);
                    prop_assert_eq!(decode(&runs, &mut page), Ok(()));
                    prop_assert_eq!(page, new);
                }
                Delta::TooLong => {}
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(runs in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&runs, &mut ZERO_PAGE.clone());
        }
    }
}
