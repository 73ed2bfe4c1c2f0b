//! The rules of the memory manager after each step, at a cost that follows what the step changed.
//!
//! A copy of the memory map and of zones', balloon's and hints' heads is compared, where somebody stored since, with what stands there now:
//! entries that differ move bits ([`Marks`]), and say which zone, or the balloon, or the hints are to be looked at again. That is done as soon
//! as nobody holds the lock that guards them, or tries it: of the steps of a locked section only the last is judged. So rules speak of states
//! that the guest shows to others, whatever code led there. Main type: [`Steps`].

use super::*;

/// Bytes of a list head.
const HEAD_BYTES: u64 = 16;

/// Locks of the guest that are held, or being tried, as far as the rules need them beside what memory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// `balloon_lock`; or the driver has none.
    pub(crate) balloon: bool,
    /// The balloon's `pages_lock`.
    pub(crate) pages: bool,
    /// `free_page_list_lock`.
    pub(crate) free_page_list: bool,
}

/// A bit for each of 64 entries of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Marks {
    buddy: u64,
    offline: u64,
    isolated: u64,
    locked: u64,
    reported: u64,
    /// More than one reference.
    shared: u64,
    /// In use, and not the balloon's.
    used: u64,
}

impl Marks {
    /// The balloon's pages that somebody is about to move: he has their lock, or a reference to them.
    fn moving(&self) -> u64 {
        self.offline & (self.locked | self.shared)
    }

    /// Puts an entry's bits where they belong; returns whether it was or is a free block's head, and the balloon's.
    fn update(&mut self, bit: u32, entry: &[u8]) -> (bool, bool) {
        let (flags, kind) = (u64::from(word(entry, page::FLAGS)), word(entry, page::PAGE_TYPE));
        let was = (self.buddy >> bit & 1 == 1, self.offline >> bit & 1 == 1);
        for (marks, on) in [
            (&mut self.buddy, is_type(kind, page::TYPE_BUDDY)),
            (&mut self.offline, is_type(kind, page::TYPE_OFFLINE)),
            (&mut self.isolated, flags & page::flag::ISOLATED != 0),
            (&mut self.locked, flags & page::flag::LOCKED != 0),
            (&mut self.reported, flags & page::flag::REPORTED != 0),
            (&mut self.shared, word(entry, page::REFCOUNT) as i32 > 1),
            (&mut self.used, is_used(entry)),
        ] {
            *marks = *marks & !(1 << bit) | u64::from(on) << bit;
        }
        (was.0 || self.buddy >> bit & 1 == 1, was.1 || self.offline >> bit & 1 == 1)
    }
}

/// What has to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Zone(usize),
    Pcp(usize),
    Balloon,
    Hints,
}

/// Memory beside the map that rules are about, as it was seen last.
#[derive(Debug, Clone)]
struct Region {
    part: Part,
    address: u64,
    copy: Vec<u8>,
}

/// What was seen last, and what has changed since.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    /// Every so many changes are checked.
    every: u64,
    /// The allocator fills free pages.
    poisons: bool,
    /// Changes so far.
    changes: u64,
    /// What was published when the rest was seen; `None` before the driver is up.
    info: Option<KernelInfo>,
    map: Vec<u8>,
    marks: Vec<Marks>,
    regions: Vec<Region>,
    free: Option<FreeLists>,
    zones: [bool; MAX_ZONES],
    /// Per-CPU lists, by zone.
    pcps: [bool; MAX_ZONES],
    /// Pages that were on a zone's per-CPU lists.
    on_pcp: [FixedBitSet; MAX_ZONES],
    balloon: bool,
    hints: bool,
    /// Entries of the balloon's pages that have changed.
    balloon_entries: Vec<u64>,
    /// First pages of hinted blocks.
    hinted: Vec<u64>,
    /// Of each zone, the pages that the allocator manages, those that the balloon has counted in.
    managed: [u64; MAX_ZONES],
    /// Whether the balloon's pages are taken off that number; known once it has some.
    adjusts: Option<bool>,
    /// Pages that may have been stored to.
    pending: Vec<Pfn>,
}

impl Steps {
    /// Returns what checks every `every`-th change, of a guest that fills free pages or does not.
    pub(crate) fn new(every: u64, poisons: bool) -> Self {
        assert!(every > 0, "every change, or every second, or fewer");
        Self {
            every,
            poisons,
            changes: 0,
            info: None,
            map: Vec::new(),
            marks: Vec::new(),
            regions: Vec::new(),
            free: None,
            zones: [false; MAX_ZONES],
            pcps: [false; MAX_ZONES],
            on_pcp: Default::default(),
            balloon: false,
            hints: false,
            balloon_entries: Vec::new(),
            hinted: Vec::new(),
            managed: [0; MAX_ZONES],
            adjusts: None,
            pending: Vec::new(),
        }
    }

    /// The driver is up: everything is looked at.
    pub(crate) fn start(&mut self, ram: &GuestRam) {
        let mut walk = Walk { ram, known: None, violations: Violations::default() };
        let Some(info) = walk.kernel_info().filter(|info| info.mem_map.is_multiple_of(page::BYTES)) else { return };
        self.map = vec![0; (info.max_pfn * page::BYTES) as usize];
        self.marks = vec![Marks::default(); info.max_pfn.div_ceil(ENTRIES as u64) as usize];
        self.free = Some(FreeLists::new(info.max_pfn));
        self.regions = regions(&info, ram);
        self.zones = std::array::from_fn(|index| (index as u64) < info.nr_zones);
        self.pcps = self.zones;
        (self.balloon, self.hints) = (true, true);
        let first = self.info.replace(info).is_none();
        if first {
            let managed = |zone: &ZoneInfo| read_u64(ram, zone.managed_pages).unwrap_or(0);
            info.zones.iter().take(info.nr_zones as usize).zip(&mut self.managed).for_each(|(zone, pages)| *pages = managed(zone));
        }
        // The map's copy is empty, so every entry that says something counts as changed.
        self.look_again();
    }

    /// Somebody beside guest code wrote to a page.
    pub(crate) fn wrote(&mut self, pfn: Pfn) {
        if let Some(info) = &self.info {
            let address = pfn.address();
            let in_map = (info.mem_map..info.mem_map + info.max_pfn * page::BYTES).contains(&address);
            let holds = |region: &Region| pages(region.address, region.copy.len() as u64).any(|page| page == pfn);
            if in_map || pfn.0 == KERNEL_INFO >> PAGE_SHIFT || self.regions.iter().any(holds) {
                self.pending.push(pfn);
            }
        }
    }

    /// Nothing is known any more of what was stored to since: everything is compared.
    pub(crate) fn look_again(&mut self) {
        let Some(info) = &self.info else { return };
        self.pending.push(Pfn(KERNEL_INFO >> PAGE_SHIFT));
        self.pending.extend(pages(info.mem_map, info.max_pfn * page::BYTES));
        self.pending.extend(self.regions.iter().flat_map(|region| pages(region.address, region.copy.len() as u64)));
    }

    /// Where the pages go that guest code may have stored to.
    pub(crate) fn pending(&mut self) -> &mut Vec<Pfn> {
        &mut self.pending
    }

    /// A step is complete: what it has changed is taken in, and looked at where nobody is in the middle of changing it. `exposed` are frames
    /// that a device may still work on (I14). Returns what is broken, and the pages of which the next store has to be told.
    pub(crate) fn check(&mut self, ram: &GuestRam, held: Held, exposed: &FixedBitSet) -> (Vec<Violation>, Vec<Pfn>) {
        let mut seen = std::mem::take(&mut self.pending);
        seen.sort_unstable();
        seen.dedup();
        if seen.contains(&Pfn(KERNEL_INFO >> PAGE_SHIFT)) && read_info(ram) != self.info {
            self.start(ram);
            seen = std::mem::take(&mut self.pending);
            seen.sort_unstable();
            seen.dedup();
        }
        seen.iter().for_each(|pfn| self.take_in(ram, *pfn));
        if !self.balloon && !self.hints && [self.zones, self.pcps] == [[false; MAX_ZONES]; 2] {
            return (Vec::new(), seen);
        }
        self.changes += 1;
        if !self.changes.is_multiple_of(self.every) {
            return (Vec::new(), seen);
        }
        let Some(info) = self.info else { return (Vec::new(), seen) };
        let mut walk = Walk { ram, known: None, violations: Violations::default() };
        for index in 0..info.nr_zones as usize {
            if self.zones[index] && read_u32(ram, info.zones[index].lock) == Some(0) {
                self.zones[index] = false;
                self.check_zone(&mut walk, &info, index, exposed);
            }
            if self.pcps[index] && !self.zones[index] {
                let free = self.free.as_ref().expect("started");
                if let Some(on_pcp) = walk.pcps(&info, index, &free.pages) {
                    self.on_pcp[index] = on_pcp;
                    self.pcps[index] = false;
                }
            }
        }
        let pages_lock = info.balloon_pages_lock != 0 && read_u32(ram, info.balloon_pages_lock) != Some(0);
        if self.balloon && !held.balloon && !held.pages && !pages_lock {
            self.balloon = false;
            self.check_balloon(&mut walk, &info);
        }
        if self.hints && !held.free_page_list {
            self.hints = false;
            self.check_hints(&mut walk, &info);
        }
        (walk.violations.finish(), seen)
    }

    /// Compares a page with what was seen there.
    fn take_in(&mut self, ram: &GuestRam, pfn: Pfn) {
        let Some(info) = self.info else { return };
        let (first, end) = (pfn.address(), pfn.address() + PAGE_SIZE);
        let (from, to) = (first.max(info.mem_map), end.min(info.mem_map + info.max_pfn * page::BYTES));
        if from < to {
            self.take_in_map(ram, &info, from, to);
        }
        for region in &mut self.regions {
            let len = region.copy.len() as u64;
            if region.address < end && region.address + len > first {
                let mut now = vec![0; region.copy.len()];
                ram.read(region.address, &mut now);
                if now != region.copy {
                    region.copy = now;
                    match region.part {
                        Part::Zone(index) => self.zones[index] = true,
                        Part::Pcp(index) => self.pcps[index] = true,
                        Part::Balloon => self.balloon = true,
                        Part::Hints => self.hints = true,
                    }
                }
            }
        }
    }

    /// Compares a part of the map, whole entries within a page.
    fn take_in_map(&mut self, ram: &GuestRam, info: &KernelInfo, from: u64, to: u64) {
        let mut bytes = [0; PAGE_SIZE as usize];
        let now = &mut bytes[..(to - from) as usize];
        ram.read(from, now);
        let at = (from - info.mem_map) as usize;
        let copy = &mut self.map[at..at + now.len()];
        let entry_bytes = page::BYTES as usize;
        for (index, entry) in now.chunks_exact(entry_bytes).enumerate() {
            let old = &mut copy[index * entry_bytes..(index + 1) * entry_bytes];
            if old == entry {
                continue;
            }
            old.copy_from_slice(entry);
            let pfn = (at / entry_bytes + index) as u64;
            let (free, balloon) = self.marks[(pfn / ENTRIES as u64) as usize].update((pfn % ENTRIES as u64) as u32, entry);
            if free {
                let holds = |zone: &ZoneInfo| pfn.checked_sub(zone.start_pfn).is_some_and(|offset| offset < zone.spanned_pages);
                info.zones.iter().zip(&mut self.zones).filter(|(zone, _)| holds(zone)).for_each(|(_, changed)| *changed = true);
            }
            self.on_pcp.iter().zip(&mut self.pcps).for_each(|(pages, changed)| *changed |= pages.contains(pfn as usize));
            self.hints |= self.hinted.contains(&pfn);
            if balloon {
                self.balloon = true;
                self.balloon_entries.push(pfn);
            }
        }
    }

    /// Checks a zone's lists (I1 to I6), and that they hold every free block (I2), no page that a device works on (I14), and nothing but poison
    /// where that is wanted (I19); and that what is marked as reported is free (I7).
    fn check_zone(&mut self, walk: &mut Walk<'_>, info: &KernelInfo, index: usize, exposed: &FixedBitSet) {
        let zone = &info.zones[index];
        let mut free = self.free.take().expect("started");
        let before = self.poisons.then(|| free.pages.clone());
        free.clear(index);
        walk.zone(info, index, zone, &mut free);
        let end = zone.start_pfn.saturating_add(zone.spanned_pages).min(info.max_pfn);
        for (at, marks) in (0..).step_by(ENTRIES).zip(&self.marks) {
            let bits = bits_between(at, zone.start_pfn, end);
            if (marks.buddy | marks.reported) & bits == 0 {
                continue;
            }
            let heads = free.heads.iter().fold(0, |heads, order| heads | block_word(order, at));
            for pfn in ones(at, marks.buddy & bits & !heads) {
                walk.broken(FREE_BLOCK_IS_ALONE, Some(pfn), || format!("page {pfn:#x} is Buddy and on no free list of its zone"));
            }
            for pfn in ones(at, marks.reported & bits) {
                let order = walk.entry_u64(info, pfn, page::PRIVATE);
                if marks.buddy >> (pfn % ENTRIES as u64) & 1 == 0 || order < u64::from(PAGEBLOCK_ORDER) {
                    walk.broken(REPORTED_IS_FREE, Some(pfn), || {
                        format!("page {pfn:#x} is marked as reported, and heads no large free block")
                    });
                }
            }
        }
        for pfn in exposed.intersection(&free.pages).map(|pfn| pfn as u64) {
            walk.broken(EXPOSED_IS_NOT_FREE, Some(pfn), || format!("page {pfn:#x} is free, and a device may still work on it"));
        }
        self.pcps[index] |= self.on_pcp[index].intersection(&free.pages).next().is_some();
        if let Some(before) = before {
            let blocks = free.blocks[index].iter().flat_map(|(head, order)| *head..*head + (1 << order));
            blocks.filter(|pfn| !before.contains(*pfn)).for_each(|pfn| walk.page_poison(pfn as u64));
        }
        self.free = Some(free);
    }

    /// Checks the balloon's counts (I9, I10), that its pages are linked (I11), and that the zones' pages add up (I8, I21).
    ///
    /// Who moves a page holds it, by its lock or by a reference: then the page is still Offline, and its successor is, too.
    fn check_balloon(&mut self, walk: &mut Walk<'_>, info: &KernelInfo) {
        let sum = |of: fn(&Marks) -> u64| self.marks.iter().map(|marks| u64::from(of(marks).count_ones())).sum::<u64>();
        let (held, moving) = (sum(|marks| marks.offline), sum(Marks::moving));
        let counted = if info.balloon_num_pages == 0 { Some(0) } else { read_u64(walk.ram, info.balloon_num_pages) };
        if let Some(counted) = counted.filter(|counted| !(held - moving..=held).contains(counted)) {
            walk.broken(BALLOON_IS_COUNTED, None, || {
                format!("the balloon counts {counted} pages, and {held} are Offline, of which {moving} are being moved")
            });
        }
        if info.balloon_isolated_pages != 0 && sum(|marks| marks.offline & marks.locked) == 0 {
            let isolated = sum(|marks| marks.offline & marks.isolated);
            if let Some(counted) = read_u64(walk.ram, info.balloon_isolated_pages).filter(|counted| *counted != isolated) {
                walk.broken(ISOLATED_IS_COUNTED, None, || format!("isolated_pages is {counted}, and {isolated} pages are isolated"));
            }
        }
        for pfn in std::mem::take(&mut self.balloon_entries) {
            let (marks, bit) = (&self.marks[(pfn / ENTRIES as u64) as usize], pfn % ENTRIES as u64);
            if marks.offline & !marks.isolated & !marks.moving() & 1 << bit == 0 {
                continue;
            }
            let node = info.mem_map + pfn * page::BYTES + page::LRU;
            let points_back = |at: u64, offset: u64| {
                let neighbour = read_u64(walk.ram, at)?.checked_add(offset)?;
                read_u64(walk.ram, neighbour)
            };
            if points_back(node, 8) != Some(node) || points_back(node + 8, 0) != Some(node) {
                walk.broken(OFFLINE_IS_IN_BALLOON, Some(pfn), || format!("page {pfn:#x} is Offline, not isolated, and linked nowhere"));
            }
        }
        self.check_managed(walk, info);
    }

    /// Checks that no page of a zone is lost from the count of those that its allocator manages: I8, and I21 once the balloon is empty.
    fn check_managed(&mut self, walk: &mut Walk<'_>, info: &KernelInfo) {
        let mut some = false;
        for (index, zone) in info.zones.iter().enumerate().take(info.nr_zones as usize) {
            let end = zone.start_pfn.saturating_add(zone.spanned_pages);
            let sum = |of: fn(&Marks) -> u64| {
                let words = (0..).step_by(ENTRIES).zip(&self.marks);
                words.map(|(at, marks)| u64::from((of(marks) & bits_between(at, zone.start_pfn, end)).count_ones())).sum::<u64>()
            };
            let (held, moving) = (sum(|marks| marks.offline), sum(Marks::moving));
            let (Some(managed), all) = (read_u64(walk.ram, zone.managed_pages), self.managed[index]) else { continue };
            some |= held > 0;
            if held > moving && self.adjusts.is_none() {
                self.adjusts = Some(managed != all);
            }
            if let Some(free) = self.free.as_ref().filter(|_| !self.zones[index] && !self.pcps[index]) {
                walk.managed(index, zone, free.pages_of(index) + self.on_pcp[index].count_ones(..) as u64, sum(|marks| marks.used));
            }
            let expected = if self.adjusts == Some(true) { all.saturating_sub(held) } else { all };
            if !(expected..=expected + moving).contains(&managed) {
                walk.broken(MANAGED_PAGES_ADD_UP, None, || {
                    format!("zone {index} manages {managed} pages, expected {expected}: {all} at first, {held} in the balloon")
                });
            }
        }
        if !some {
            self.adjusts = None;
        }
    }

    /// Checks the hinted blocks: I12, I13.
    fn check_hints(&mut self, walk: &mut Walk<'_>, info: &KernelInfo) {
        let Some(free) = &self.free else { return };
        self.hinted = walk.hints(info);
        for pfn in self.hinted.iter().copied() {
            let references = walk.ram.read_u32(info.mem_map + pfn * page::BYTES + page::REFCOUNT);
            let end = (pfn + (1 << wire::balloon::HINT_BLOCK_ORDER)).min(info.max_pfn);
            let is_free = self.zones == [false; MAX_ZONES] && free.pages.contains_any_in_range(pfn as usize..end as usize);
            if references == 0 || is_free {
                walk.broken(HINTED_IS_TAKEN, Some(pfn), || {
                    format!("hinted block {pfn:#x} has {references} references; on a free list: {is_free}")
                });
            }
        }
    }
}

/// Returns the memory beside the map that rules are about, if all of it is RAM. The map is.
fn regions(info: &KernelInfo, ram: &GuestRam) -> Vec<Region> {
    let mut wanted = Vec::new();
    for (index, zone) in info.zones.iter().enumerate().take(info.nr_zones as usize) {
        let pageblocks = zone.spanned_pages.div_ceil(1 << PAGEBLOCK_ORDER);
        wanted.push((Part::Zone(index), zone.free_area, NR_PAGE_ORDERS as u64 * FREE_AREA_BYTES));
        wanted.push((Part::Zone(index), zone.nr_free_pages, 8));
        wanted.push((Part::Zone(index), zone.pageblock_types, pageblocks));
        wanted.push((Part::Balloon, zone.managed_pages, 8));
        wanted.extend(pcp::places(zone).map(|(address, len)| (Part::Pcp(index), address, len)));
    }
    wanted.push((Part::Balloon, info.balloon_pages, HEAD_BYTES));
    wanted.push((Part::Balloon, info.balloon_num_pages, 8));
    wanted.push((Part::Balloon, info.balloon_isolated_pages, 8));
    wanted.push((Part::Hints, info.free_page_list, HEAD_BYTES));
    wanted.push((Part::Hints, info.num_free_page_blocks, 8));
    let in_ram = |address: u64, len: u64| address != 0 && len > 0 && address.checked_add(len).is_some_and(|end| end <= ram.bytes());
    let region = |(part, address, len): (Part, u64, u64)| {
        let mut copy = vec![0; len as usize];
        ram.read(address, &mut copy);
        Region { part, address, copy }
    };
    wanted.into_iter().filter(|(_, address, len)| in_ram(*address, *len)).map(region).collect()
}

/// Returns the pages that hold these bytes.
fn pages(address: u64, len: u64) -> impl Iterator<Item = Pfn> {
    (address >> PAGE_SHIFT..=(address + len - 1) >> PAGE_SHIFT).map(Pfn)
}

fn block_word(set: &FixedBitSet, at: u64) -> u64 {
    set.as_slice().get((at / ENTRIES as u64) as usize).map_or(0, |word| *word as u64)
}

fn ones(at: u64, bits: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| at + bit)
}

#[cfg(test)]
mod tests;
