//! Guest memory of a run that goes back and forth: a base that all share, and copies of the pages that differ from it.

use std::sync::Arc;

use host::event::Pfn;
use host::fold::mix_wide;
use host::memory::GuestRam;
use wire::platform::PAGE_SIZE;
use xxhash_rust::xxh3::xxh3_128;

use crate::vcpu::Machine;

type Bytes = [u8; PAGE_SIZE as usize];

/// What tells a page's part of the hash from all others.
const TAG: u64 = 0x1_0200;

/// Memory at the point from which a search starts.
#[derive(Debug)]
struct Base {
    bytes: Vec<u8>,
    /// Each page's part of the hash.
    parts: Vec<u128>,
}

/// A page that was written since.
#[derive(Debug)]
struct Page {
    bytes: Bytes,
    part: u128,
}

/// Which pages differ from the base, in order.
type Pages = Vec<(u32, Arc<Page>)>;

/// Memory as it was; cheap to clone, and good for every run of the same scenario.
#[derive(Debug, Clone)]
pub(super) struct SavedMemory {
    pages: Arc<Pages>,
    sum: u128,
}

/// Follows a machine's memory.
#[derive(Debug)]
pub(super) struct Memory {
    base: Base,
    pages: Arc<Pages>,
    sum: u128,
}

impl Memory {
    /// Follows a machine's memory from here on.
    pub(super) fn new(machine: &Machine) -> Self {
        let ram: &GuestRam = machine.ram();
        let mut bytes = vec![0; ram.bytes() as usize];
        ram.read(0, &mut bytes);
        let parts = (0..).zip(bytes.chunks_exact(PAGE_SIZE as usize)).map(|(pfn, page)| part(pfn, page)).collect();
        Self { base: Base { bytes, parts }, pages: Arc::new(Vec::new()), sum: 0 }
    }

    /// Takes in that pages may have been written; sorted, each once.
    pub(super) fn wrote(&mut self, changed: &[u32], machine: &Machine) {
        if changed.is_empty() {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        for pfn in changed {
            let mut bytes = [0; PAGE_SIZE as usize];
            machine.copy_page(Pfn((*pfn).into()), &mut bytes);
            let part = part(*pfn, &bytes);
            let page = Arc::new(Page { bytes, part });
            let (index, old) = match pages.binary_search_by_key(pfn, |(at, _)| *at) {
                Ok(index) => (index, std::mem::replace(&mut pages[index].1, page).part),
                Err(index) => {
                    pages.insert(index, (*pfn, page));
                    (index, self.base.parts[*pfn as usize])
                }
            };
            debug_assert_eq!(pages[index].0, *pfn);
            self.sum = self.sum.wrapping_add(part).wrapping_sub(old);
        }
    }

    /// Returns a hash of all memory, as a sum over pages.
    pub(super) fn sum(&self) -> u128 {
        self.sum
    }

    pub(super) fn save(&self) -> SavedMemory {
        SavedMemory { pages: Arc::clone(&self.pages), sum: self.sum }
    }

    /// Puts memory back as it was: copies the pages that are not the same now.
    pub(super) fn put_back(&mut self, saved: &SavedMemory, machine: &mut Machine) {
        if Arc::ptr_eq(&self.pages, &saved.pages) {
            return;
        }
        let (mut now, mut then) = (self.pages.iter().peekable(), saved.pages.iter().peekable());
        loop {
            let (here, there) = (now.peek().map(|(pfn, _)| *pfn), then.peek().map(|(pfn, _)| *pfn));
            match (here, there) {
                (None, None) => break,
                (Some(pfn), there) if there.is_none_or(|other| pfn < other) => {
                    now.next();
                    let first = pfn as usize * PAGE_SIZE as usize;
                    let bytes = self.base.bytes[first..].first_chunk().expect("a page of the base");
                    machine.put_page(Pfn(pfn.into()), bytes);
                }
                (here, Some(pfn)) => {
                    let (_, page) = then.next().expect("peeked");
                    let same = here == Some(pfn) && now.next().is_some_and(|(_, old)| Arc::ptr_eq(old, page));
                    if !same {
                        machine.put_page(Pfn(pfn.into()), &page.bytes);
                    }
                }
                (Some(_), None) => unreachable!("the arm before the last takes it"),
            }
        }
        self.pages = Arc::clone(&saved.pages);
        self.sum = saved.sum;
    }
}

fn part(pfn: u32, bytes: &[u8]) -> u128 {
    mix_wide(TAG, pfn.into(), xxh3_128(bytes))
}
