//! The rules after each step, each broken once; and what somebody is in the middle of.

use super::super::rest::PAGE_POISON;
use super::super::tests::{BALLOON, HINTS, ISOLATED, Kernel, LOCK, MANAGED, NR_FREE_PAGES, PAGES, PAGES_LOCK, PCP, entry, list_head};
use super::*;

const NOBODY: Held = Held { balloon: false, pages: false, free_page_list: false };

/// A kernel that was looked at once.
struct Watched {
    kernel: Kernel,
    steps: Steps,
    exposed: FixedBitSet,
}

impl Watched {
    fn new(every: u64, poisons: bool) -> Self {
        let kernel = Kernel::new();
        let mut steps = Steps::new(every, poisons);
        steps.start(&kernel.0);
        Self { kernel, steps, exposed: FixedBitSet::with_capacity(PAGES as usize) }
    }

    fn quiet() -> Self {
        let mut watched = Self::new(1, false);
        assert_eq!(watched.after(NOBODY, |_| ()), [""; 0]);
        watched
    }

    /// Changes the kernel, and returns which rules that breaks.
    fn after(&mut self, held: Held, change: impl FnOnce(&Kernel)) -> Vec<&'static str> {
        change(&self.kernel);
        self.steps.look_again();
        let (violations, _) = self.steps.check(&self.kernel.0, held, &self.exposed);
        violations.iter().map(|violation| violation.rule).collect()
    }
}

#[test]
fn each_rule_fires_with_the_step_that_breaks_it() {
    type Breaking = (&'static str, fn(&Kernel));
    let cases: &[Breaking] = &[
        (NR_FREE_EQUALS_LISTS, |k| k.add(list_head(10, MIGRATE_TYPES as u64), 1)),
        (FREE_PAGES_ARE_COUNTED, |k| k.add(NR_FREE_PAGES, 1)),
        (FREE_BLOCK_IS_ALONE, |k| k.set(entry(1024) + page::PRIVATE, 8)),
        (FREE_BLOCK_IS_ALONE, |k| k.set_type(1700, page::TYPE_BUDDY)),
        (BUDDIES_ARE_MERGED, |k| [1600, 1608].into_iter().for_each(|pfn| k.free(pfn, 3, 0))),
        (FREE_PAGE_IS_CLEAN, |k| k.refer(1536, 1)),
        (LIST_FITS_PAGEBLOCK, |k| k.free(1700, 0, 1)),
        (REPORTED_IS_FREE, |k| k.set(entry(1536) + page::FLAGS, page::flag::REPORTED)),
        (REPORTED_IS_FREE, |k| {
            k.set_type(1700, page::TYPE_BUDDY);
            k.set(entry(1700) + page::FLAGS, page::flag::REPORTED);
        }),
        (MANAGED_PAGES_ADD_UP, |k| {
            k.inflate(1801);
            k.set(MANAGED, PAGES - 7);
        }),
        (MANAGED_PAGES_ADD_UP, |k| {
            k.refer(1537, 1);
            k.add(BALLOON + 16, 0);
            k.set(MANAGED, PAGES + 1);
        }),
        (PCP_LISTS_ARE_SOUND, |k| k.add(PCP, 1)),
        (PCP_LISTS_ARE_SOUND, |k| k.refer(1552, 1)),
        (PCP_LISTS_ARE_SOUND, |k| k.free(1554, 1, 0)),
        (BALLOON_IS_COUNTED, |k| k.add(BALLOON + 16, 1)),
        (BALLOON_IS_COUNTED, |k| {
            k.refer(1537, 2);
            k.add(BALLOON + 16, 1);
        }),
        (ISOLATED_IS_COUNTED, |k| k.add(ISOLATED, 1)),
        (OFFLINE_IS_IN_BALLOON, |k| {
            k.set_type(1801, page::TYPE_OFFLINE);
            k.add(BALLOON + 16, 1);
        }),
        (HINTED_IS_TAKEN, |k| k.refer(1540, 0)),
        (HINTED_IS_TAKEN, |k| {
            k.link(1030, HINTS);
            k.refer(1030, 1);
            k.add(HINTS + 16, 1);
        }),
        (HINTS_ARE_COUNTED, |k| k.add(HINTS + 16, 1)),
        (LIST_IS_SOUND, |k| k.set(list_head(10, 0), u64::MAX - 3)),
    ];
    for (index, (rule, breaking)) in cases.iter().enumerate() {
        let fired = Watched::quiet().after(NOBODY, breaking);
        assert!(fired.contains(rule), "case {index}: {rule} is not in {fired:?}");
    }
}

#[test]
fn what_somebody_is_in_the_middle_of_waits_until_he_is_done() {
    let mut watched = Watched::quiet();
    let zone = watched.after(NOBODY, |kernel| {
        kernel.add(NR_FREE_PAGES, 1);
        kernel.set(LOCK, 1);
    });
    assert_eq!(zone, [""; 0]);
    assert_eq!(watched.after(NOBODY, |kernel| kernel.set(LOCK, 0)), [FREE_PAGES_ARE_COUNTED]);
    let counts = [
        (Held { balloon: true, ..NOBODY }, BALLOON + 16, BALLOON_IS_COUNTED),
        (Held { free_page_list: true, ..NOBODY }, HINTS + 16, HINTS_ARE_COUNTED),
    ];
    for (held, count, rule) in counts {
        let mut watched = Watched::quiet();
        assert_eq!(watched.after(held, |kernel| kernel.add(count, 1)), [""; 0]);
        assert_eq!(watched.after(NOBODY, |_| ()), [rule]);
    }
    let mut watched = Watched::quiet();
    let pages = watched.after(NOBODY, |kernel| {
        kernel.set(PAGES_LOCK, 1);
        kernel.add(ISOLATED, 1);
    });
    assert_eq!(pages, [""; 0]);
    let moving = watched.after(NOBODY, |kernel| {
        kernel.set(PAGES_LOCK, 0);
        kernel.set(entry(1537) + page::FLAGS, page::flag::LOCKED);
    });
    assert_eq!(moving, [""; 0], "whoever moves the page has its lock");
    assert_eq!(watched.after(NOBODY, |kernel| kernel.set(entry(1537) + page::FLAGS, 0)), [ISOLATED_IS_COUNTED]);
}

#[test]
fn what_did_not_change_is_not_told_again_and_every_second_change_is_every_second() {
    let mut watched = Watched::quiet();
    assert_eq!(watched.after(NOBODY, |kernel| kernel.add(NR_FREE_PAGES, 1)), [FREE_PAGES_ARE_COUNTED]);
    assert_eq!(watched.after(NOBODY, |_| ()), [""; 0]);
    let mut watched = Watched::new(2, false);
    assert_eq!(watched.after(NOBODY, |kernel| kernel.add(NR_FREE_PAGES, 1)), [""; 0]);
    assert_eq!(watched.after(NOBODY, |kernel| kernel.add(NR_FREE_PAGES, 1)), [FREE_PAGES_ARE_COUNTED]);
}

#[test]
fn the_balloons_pages_are_taken_off_or_not_and_come_back() {
    for taken_off in [0, 1] {
        let mut watched = Watched::quiet();
        let deflate = |kernel: &Kernel| {
            kernel.empty_list(BALLOON);
            kernel.set(BALLOON + 16, 0);
            kernel.set_type(1537, 0);
        };
        assert_eq!(watched.after(NOBODY, deflate), [""; 0]);
        let inflate = |kernel: &Kernel| {
            kernel.inflate(1801);
            kernel.set(MANAGED, PAGES - taken_off);
        };
        assert_eq!(watched.after(NOBODY, inflate), [""; 0]);
        let lose = |kernel: &Kernel| kernel.set(MANAGED, PAGES - 1 + taken_off);
        assert_eq!(watched.after(NOBODY, lose), [MANAGED_PAGES_ADD_UP]);
    }
}

/// The new page is the balloon's before the old one ceases to be.
#[test]
fn a_page_that_is_moved_and_its_successor_count_as_one() {
    let mut watched = Watched::quiet();
    let moved = watched.after(NOBODY, |kernel| {
        kernel.refer(1537, 2);
        kernel.empty_list(BALLOON);
        kernel.inflate(1801);
        kernel.set(BALLOON + 16, 1);
    });
    assert_eq!(moved, [""; 0]);
    assert_eq!(watched.after(NOBODY, |kernel| kernel.refer(1537, 1)), [BALLOON_IS_COUNTED, OFFLINE_IS_IN_BALLOON]);
}

#[test]
fn a_page_that_a_device_works_on_is_not_free() {
    let mut watched = Watched::quiet();
    watched.exposed.insert(1600);
    assert_eq!(watched.after(NOBODY, |kernel| kernel.free(1600, 1, 0)), [EXPOSED_IS_NOT_FREE]);
}

#[test]
fn a_page_that_comes_free_holds_poison() {
    let mut watched = Watched::new(1, true);
    watched.after(NOBODY, |_| ());
    let fill = |kernel: &Kernel, pfn: u64| kernel.0.write_unlogged(Pfn(pfn).address(), &[PAGE_POISON; PAGE_SIZE as usize]);
    let filled = watched.after(NOBODY, |kernel| {
        fill(kernel, 1600);
        kernel.free(1600, 0, 0);
    });
    assert_eq!(filled, [""; 0]);
    let half = watched.after(NOBODY, |kernel| {
        fill(kernel, 1702);
        kernel.free(1702, 1, 0);
    });
    assert_eq!(half, [FREE_IS_POISONED]);
}

#[test]
fn a_driver_that_comes_or_goes_is_looked_at_where_it_is_then() {
    let mut watched = Watched::quiet();
    let gone = watched.after(NOBODY, |kernel| {
        for field in [offset_of!(KernelInfo, balloon_pages), offset_of!(KernelInfo, balloon_num_pages)] {
            kernel.set(KERNEL_INFO + field as u64, 0);
        }
    });
    assert_eq!(gone, [BALLOON_IS_COUNTED], "a page is Offline, and nobody's");
}
