//! What the vCPUs may do to each page, and what they did: the answers of the virtual TLB's fill hook.
//!
//! An engine keeps a translation until it is flushed, so a right can be widened at once and is narrowed by a flush before the next run.
//! Which pages an engine may hold as writable is remembered, so that narrowing others costs no flush.

use host::event::{PageRange, Pfn};
use wire::platform;

/// What guest code tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Fetch,
}

/// Rights that an engine is given on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    ReadWrite,
    ReadExecute,
}

/// Why an access is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Page 0.
    Null,
    /// Neither RAM nor a device's window.
    OutsideRam,
    /// A store to text.
    WriteToText,
    /// Execution of anything but text.
    ExecuteData,
    /// A page that a device's window lies on.
    Mmio,
    /// A store to a trapped page.
    Trapped,
    /// A page that has not arrived.
    Missing,
}

/// A set of page frames.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize] }
    }

    fn contains(&self, page: u64) -> bool {
        self.words[(page / 64) as usize] >> (page % 64) & 1 == 1
    }

    /// Adds a page; returns whether it is new.
    fn insert(&mut self, page: u64) -> bool {
        let (word, bit) = (&mut self.words[(page / 64) as usize], 1 << (page % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes a page out; returns whether it was in.
    fn remove(&mut self, page: u64) -> bool {
        let (word, bit) = (&mut self.words[(page / 64) as usize], 1 << (page % 64));
        let old = *word & bit != 0;
        *word &= !bit;
        old
    }

    /// Returns the words that hold a range's pages: index, and the pages' bits.
    fn words_of(range: PageRange) -> impl Iterator<Item = (usize, u64)> {
        let (first, end) = (range.first.0, range.end().0);
        (first / 64..end.div_ceil(64)).map(move |word| {
            let (from, to) = (first.max(64 * word) % 64, end.min(64 * word + 64) - 64 * word);
            (word as usize, u64::MAX << from & u64::MAX >> (64 - to))
        })
    }

    fn fill(&mut self, pages: u64) {
        self.words.fill(u64::MAX);
        if !pages.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last = (1 << (pages % 64)) - 1;
        }
    }

    /// Puts other pages in place of these; returns whether there are new ones among them.
    fn replace(&mut self, words: impl Iterator<Item = u64>) -> bool {
        let (mut more, mut words) = (false, words.fuse());
        for word in &mut self.words {
            let new = words.next().unwrap_or(0);
            more |= new & !*word != 0;
            *word = new;
        }
        more
    }

    /// Whether some page is in `self`, not in `old`, and in `cached`.
    fn adds_to(&self, old: &PageSet, cached: &PageSet) -> bool {
        self.words.iter().zip(&old.words).zip(&cached.words).any(|((new, old), cached)| new & !old & cached != 0)
    }
}

/// What of the pages' state belongs to a saved machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PagesState {
    armed: PageSet,
    trapped: PageSet,
    missing: PageSet,
    protected: PageSet,
    written: Vec<Pfn>,
}

/// Rights, log and traps of all pages.
#[derive(Debug)]
pub(super) struct Pages {
    count: u64,
    text: std::ops::Range<u64>,
    state: PagesState,
    /// Pages not written since a snapshot was taken, while one is tracked.
    clean: PageSet,
    touched: Vec<Pfn>,
    /// Pages that an engine may hold as writable, and the same as a list.
    writable: [PageSet; 2],
    granted: [Vec<u64>; 2],
    /// Pages that an engine was given as writable since the list was drained.
    opened: Vec<Pfn>,
    /// Engines that must be flushed before they run.
    stale: [bool; 2],
    /// The next stores may go to trapped pages.
    pass: bool,
    /// What guest code uses, while somebody wants to know.
    uses: Option<Uses>,
}

/// The pages that guest code uses in one move.
#[derive(Debug)]
struct Uses {
    /// Number of the move.
    number: u32,
    /// The last move that stored to each page.
    stored: Vec<u32>,
    /// Pages that an engine was let read; some twice.
    looked: Vec<u32>,
    /// Pages that were stored to, each once.
    changed: Vec<u32>,
    /// Engines that hold translations of this move.
    filled: [bool; 2],
}

impl Pages {
    /// Returns the state of `count` pages, of which `text` are executable.
    pub(super) fn new(count: u64, text: std::ops::Range<u64>) -> Self {
        assert!(text.start > 0 && text.end <= count, "text at pages {text:?} of {count}");
        let set = PageSet::new(count);
        Self {
            count,
            text,
            state: PagesState {
                armed: set.clone(),
                trapped: set.clone(),
                missing: set.clone(),
                protected: set.clone(),
                written: Vec::new(),
            },
            clean: set.clone(),
            touched: Vec::new(),
            writable: [set.clone(), set],
            granted: [Vec::new(), Vec::new()],
            opened: Vec::new(),
            stale: [false; 2],
            pass: false,
            uses: None,
        }
    }

    /// Answers an engine that has no translation for an access. A store that is let through is logged here.
    pub(super) fn fill(&mut self, engine: usize, page: u64, access: Access) -> Result<Rights, Refusal> {
        if page == 0 {
            return Err(Refusal::Null);
        }
        if page >= self.count {
            return Err(match access {
                Access::Read | Access::Write if is_mmio_page(page) => Refusal::Mmio,
                Access::Fetch if is_mmio_page(page) => Refusal::ExecuteData,
                Access::Read | Access::Write | Access::Fetch => Refusal::OutsideRam,
            });
        }
        if self.state.missing.contains(page) {
            return Err(Refusal::Missing);
        }
        match access {
            Access::Fetch if self.text.contains(&page) => return Ok(Rights::ReadExecute),
            Access::Read if self.text.contains(&page) => return Ok(Rights::ReadExecute),
            Access::Write if self.text.contains(&page) => return Err(Refusal::WriteToText),
            Access::Fetch => return Err(Refusal::ExecuteData),
            Access::Read => {
                if let Some(uses) = &mut self.uses {
                    uses.looked.push(page as u32);
                    uses.filled[engine] = true;
                }
                if self.is_guarded(page) {
                    return Ok(Rights::Read);
                }
            }
            Access::Write if self.state.protected.contains(page) => return Err(Refusal::Missing),
            Access::Write if self.state.trapped.contains(page) && !self.pass => return Err(Refusal::Trapped),
            Access::Write => {
                if let Some(uses) = &mut self.uses {
                    uses.filled[engine] = true;
                }
                self.record(page);
            }
        }
        if self.writable[engine].insert(page) {
            self.granted[engine].push(page);
            self.opened.push(Pfn(page));
        }
        Ok(Rights::ReadWrite)
    }

    fn is_guarded(&self, page: u64) -> bool {
        let noted = self.uses.as_ref().is_some_and(|uses| uses.stored[page as usize] != uses.number);
        noted
            || self.state.protected.contains(page)
            || self.state.armed.contains(page)
            || self.state.trapped.contains(page)
            || self.clean.contains(page)
    }

    /// From here on it is noted which pages each move uses, and each page that a move stores to is logged, armed or not.
    pub(super) fn note_uses(&mut self) {
        let stored = vec![0; self.count as usize];
        self.uses = Some(Uses { number: 0, stored, looked: Vec::new(), changed: Vec::new(), filled: [false; 2] });
        self.stale = [true; 2];
    }

    /// The next move begins.
    pub(super) fn begin_move(&mut self) {
        let uses = self.uses.as_mut().expect("uses are noted");
        for (stale, filled) in self.stale.iter_mut().zip(&mut uses.filled) {
            *stale |= std::mem::take(filled);
        }
        uses.number = uses.number.wrapping_add(1);
        if uses.number == 0 {
            (uses.number, uses.stored) = (1, vec![0; self.count as usize]);
        }
    }

    /// Puts what the last moves looked at behind `looked`, some pages more than once, and what they stored to behind `changed`.
    pub(super) fn take_uses(&mut self, looked: &mut Vec<u32>, changed: &mut Vec<u32>) {
        let uses = self.uses.as_mut().expect("uses are noted");
        looked.append(&mut uses.looked);
        changed.append(&mut uses.changed);
    }

    /// Logs a store to a page that may be stored to.
    pub(super) fn record(&mut self, page: u64) {
        let new = match &mut self.uses {
            Some(uses) if uses.stored[page as usize] != uses.number => {
                uses.stored[page as usize] = uses.number;
                uses.changed.push(page as u32);
                true
            }
            Some(_) | None => false,
        };
        if self.state.armed.remove(page) || new || self.state.trapped.contains(page) {
            self.state.written.push(Pfn(page));
        }
        if self.clean.remove(page) {
            self.touched.push(Pfn(page));
        }
    }

    /// Returns whether guest code may store to a page, traps aside.
    pub(super) fn check_store(&self, page: u64) -> Result<(), Refusal> {
        match page {
            0 => Err(Refusal::Null),
            page if page >= self.count => Err(Refusal::OutsideRam),
            page if self.state.missing.contains(page) || self.state.protected.contains(page) => Err(Refusal::Missing),
            page if self.text.contains(&page) => Err(Refusal::WriteToText),
            _ => Ok(()),
        }
    }

    pub(super) fn arm(&mut self, range: PageRange) {
        assert!(range.end().0 <= self.count, "arming {range} of {} pages", self.count);
        for (word, bits) in PageSet::words_of(range) {
            self.state.armed.words[word] |= bits;
            for engine in 0..2 {
                self.stale[engine] |= self.writable[engine].words[word] & bits != 0;
            }
        }
    }

    pub(super) fn disarm(&mut self, range: PageRange) {
        assert!(range.end().0 <= self.count, "disarming {range} of {} pages", self.count);
        for page in range.first.0..range.end().0 {
            self.state.armed.remove(page);
        }
    }

    pub(super) fn trap(&mut self, pfn: Pfn, on: bool) {
        assert!(pfn.0 < self.count, "trapping {pfn} of {} pages", self.count);
        if !on {
            self.state.trapped.remove(pfn.0);
        } else if self.state.trapped.insert(pfn.0) {
            self.narrowed(pfn.0);
        }
    }

    /// From here on no access to these pages is let through, a bit each, and to no others.
    pub(super) fn set_missing(&mut self, words: impl Iterator<Item = u64>) {
        let more = self.state.missing.replace(words);
        // What an engine may read is not remembered, only what it may write.
        self.stale[0] |= more;
        self.stale[1] |= more;
    }

    /// The same for stores.
    pub(super) fn set_protected(&mut self, words: impl Iterator<Item = u64>) {
        let more = self.state.protected.replace(words);
        self.stale[0] |= more;
        self.stale[1] |= more;
    }

    /// Returns whether a page is missing.
    pub(super) fn is_missing(&self, page: u64) -> bool {
        page < self.count && self.state.missing.contains(page)
    }

    /// Lets stores through traps until [`Pages::end_pass`].
    pub(super) fn begin_pass(&mut self) {
        assert!(!self.pass, "traps are lifted already");
        self.pass = true;
    }

    /// Ends what [`Pages::begin_pass`] began; `engine` alone ran meanwhile.
    pub(super) fn end_pass(&mut self, engine: usize) {
        assert!(self.pass, "traps were not lifted");
        self.pass = false;
        self.stale[engine] |= self.granted[engine].iter().any(|page| self.state.trapped.contains(*page));
    }

    fn narrowed(&mut self, page: u64) {
        for engine in 0..2 {
            self.stale[engine] |= self.writable[engine].contains(page);
        }
    }

    /// Returns the pages logged since the last call, in order of the first store.
    pub(super) fn drain_written(&mut self) -> Vec<Pfn> {
        std::mem::take(&mut self.state.written)
    }

    /// From here on the first store to each page is listed by [`Pages::touched`].
    pub(super) fn track(&mut self) {
        self.clean.fill(self.count);
        self.touched.clear();
        self.stale = [true; 2];
    }

    /// From here on these pages are listed again by [`Pages::touched`] when they are stored to.
    pub(super) fn retrack(&mut self, pages: &[Pfn]) {
        for pfn in pages {
            self.clean.insert(pfn.0);
            self.narrowed(pfn.0);
        }
    }

    /// Pages that guest code may have stored to since the list was drained: those that it could.
    pub(super) fn opened(&mut self) -> std::vec::Drain<'_, Pfn> {
        self.opened.drain(..)
    }

    /// Pages stored to since [`Pages::track`] or since the list was drained, in order of the first store.
    pub(super) fn touched(&mut self) -> std::vec::Drain<'_, Pfn> {
        self.touched.drain(..)
    }

    /// Returns what a saved machine keeps.
    pub(super) fn save(&self) -> PagesState {
        self.state.clone()
    }

    /// Puts back what was saved from the same machine, or from one of the same size.
    pub(super) fn restore(&mut self, state: &PagesState) {
        assert_eq!(state.armed.words.len(), self.state.armed.words.len(), "page state of another size of RAM");
        for engine in 0..2 {
            let cached = &self.writable[engine];
            let (armed, trapped) = (&self.state.armed, &self.state.trapped);
            self.stale[engine] |= state.armed.adds_to(armed, cached) || state.trapped.adds_to(trapped, cached);
            self.stale[engine] |= state.missing != self.state.missing || state.protected != self.state.protected;
        }
        self.state.clone_from(state);
    }

    /// Whether an engine must be flushed now; from here on it counts as flushed.
    pub(super) fn take_stale(&mut self, engine: usize) -> bool {
        if !std::mem::take(&mut self.stale[engine]) {
            return false;
        }
        for page in self.granted[engine].drain(..) {
            self.writable[engine].remove(page);
        }
        true
    }

    /// Demands a flush of one engine before its next run.
    pub(super) fn make_stale(&mut self, engine: usize) {
        self.stale[engine] = true;
    }
}

/// The windows of the machine's devices: first address, size in bytes.
const WINDOWS: [(u64, u64); 4] = [
    (platform::VIRTIO_MMIO, platform::VIRTIO_MMIO_BYTES),
    (platform::CLOCK, 8),
    (platform::RESET, 4),
    (platform::LAPIC, platform::LAPIC_BYTES),
];

fn is_mmio_page(page: u64) -> bool {
    WINDOWS.iter().any(|(first, bytes)| (first >> platform::PAGE_SHIFT..=(first + bytes - 1) >> platform::PAGE_SHIFT).contains(&page))
}

/// Returns whether an access lies wholly in a device's window.
pub(super) fn is_mmio(address: u64, len: u64) -> bool {
    WINDOWS.iter().any(|(first, bytes)| *first <= address && address + len <= first + bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(100, 16..20)
    }

    #[test]
    fn the_first_store_to_an_armed_page_is_logged_once() {
        let mut pages = pages();
        pages.arm(PageRange::new(Pfn(30), 2));
        assert_eq!(pages.fill(0, 31, Access::Read), Ok(Rights::Read));
        assert_eq!(pages.fill(0, 31, Access::Write), Ok(Rights::ReadWrite));
        assert_eq!(pages.fill(1, 31, Access::Write), Ok(Rights::ReadWrite));
        assert_eq!(pages.drain_written(), [Pfn(31)]);
        assert_eq!(pages.drain_written(), []);
    }

    #[test]
    fn arming_flushes_only_an_engine_that_may_hold_the_page_as_writable() {
        let mut pages = pages();
        assert_eq!(pages.fill(0, 30, Access::Read), Ok(Rights::ReadWrite));
        pages.arm(PageRange::page(Pfn(31)));
        assert!(!pages.take_stale(0) && !pages.take_stale(1));
        pages.arm(PageRange::page(Pfn(30)));
        assert!(pages.take_stale(0) && !pages.take_stale(1));
        pages.arm(PageRange::page(Pfn(30)));
        assert!(!pages.take_stale(0), "a flushed engine holds nothing");
    }

    #[test]
    fn a_range_is_armed_to_its_last_page_and_no_further() {
        for (first, count) in [(0, 64), (3, 1), (63, 2), (10, 80), (64, 36), (99, 1), (50, 0), (64, 0)] {
            let mut pages = pages();
            pages.arm(PageRange::new(Pfn(first), count));
            let armed: Vec<u64> = (0..100).filter(|page| pages.state.armed.contains(*page)).collect();
            assert_eq!(armed, (first..first + count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_trap_refuses_stores_but_not_loads_and_a_pass_lets_one_through() {
        let mut pages = pages();
        pages.trap(Pfn(40), true);
        assert_eq!(pages.fill(1, 40, Access::Read), Ok(Rights::Read));
        assert_eq!(pages.fill(1, 40, Access::Write), Err(Refusal::Trapped));
        pages.begin_pass();
        assert_eq!(pages.fill(1, 40, Access::Write), Ok(Rights::ReadWrite));
        pages.end_pass(1);
        assert!(pages.take_stale(1));
        assert_eq!(pages.drain_written(), [Pfn(40)]);
    }

    #[test]
    fn restoring_rights_flushes_when_a_page_was_written_since() {
        let mut pages = pages();
        pages.arm(PageRange::page(Pfn(50)));
        let saved = pages.save();
        assert_eq!(pages.fill(0, 50, Access::Write), Ok(Rights::ReadWrite));
        pages.restore(&saved);
        assert!(pages.take_stale(0));
        assert_eq!(pages.drain_written(), []);
    }

    #[test]
    fn each_move_notes_what_it_uses_though_an_earlier_one_did() {
        let mut pages = pages();
        pages.note_uses();
        pages.take_stale(1);
        for _ in 0..2 {
            pages.begin_move();
            pages.take_stale(0);
            assert_eq!(pages.fill(0, 30, Access::Read), Ok(Rights::Read));
            assert_eq!(pages.fill(0, 31, Access::Write), Ok(Rights::ReadWrite));
            assert_eq!(pages.fill(0, 31, Access::Read), Ok(Rights::ReadWrite));
            let (mut looked, mut changed) = (Vec::new(), Vec::new());
            pages.take_uses(&mut looked, &mut changed);
            assert_eq!((looked, changed), (vec![30, 31], vec![31]));
            assert_eq!(pages.drain_written(), [Pfn(31)], "it is logged though nobody armed it");
        }
        pages.begin_move();
        assert!(pages.take_stale(0) && !pages.take_stale(1), "only who translated is flushed");
    }

    #[test]
    fn faults_are_told_apart() {
        let mut pages = pages();
        assert_eq!(pages.fill(0, 0, Access::Read), Err(Refusal::Null));
        assert_eq!(pages.fill(0, 100, Access::Read), Err(Refusal::OutsideRam));
        assert_eq!(pages.fill(0, 16, Access::Write), Err(Refusal::WriteToText));
        assert_eq!(pages.fill(0, 20, Access::Fetch), Err(Refusal::ExecuteData));
        assert_eq!(pages.fill(0, platform::LAPIC >> 12, Access::Write), Err(Refusal::Mmio));
        assert_eq!(pages.fill(0, 16, Access::Fetch), Ok(Rights::ReadExecute));
    }

    #[test]
    fn only_an_access_inside_a_window_is_a_device_access() {
        assert!(is_mmio(platform::VIRTIO_MMIO + 0x1fc, 4));
        assert!(!is_mmio(platform::VIRTIO_MMIO + 0x1fe, 4));
        assert!(!is_mmio(platform::CLOCK - 4, 4));
    }
}
