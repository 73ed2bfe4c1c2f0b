//! Bitmaps beside plain bits.

use super::*;
use proptest::prelude::*;

#[test]
fn next_set_finds_across_words_and_ends_at_the_end() {
    let mut bitmap = DirtyBitmap::new(200);
    bitmap.set(Pfn(3));
    bitmap.set(Pfn(130));
    assert_eq!(bitmap.next_set(Pfn(0)), Some(Pfn(3)));
    assert_eq!(bitmap.next_set(Pfn(3)), Some(Pfn(3)));
    assert_eq!(bitmap.next_set(Pfn(4)), Some(Pfn(130)));
    assert_eq!(bitmap.next_set(Pfn(131)), None);
    assert_eq!(bitmap.next_set(Pfn(200)), None);
    assert_eq!(bitmap.next_set(Pfn(5000)), None);
}

#[test]
fn a_full_bitmap_has_no_bit_behind_its_end() {
    let bitmap = DirtyBitmap::full(70);
    assert_eq!(bitmap.count(), 70);
    assert_eq!(bitmap.ranges(), [PageRange::new(Pfn(0), 70)]);
}

#[test]
fn clearing_a_range_stops_at_both_of_its_ends() {
    let mut bitmap = DirtyBitmap::full(256);
    assert_eq!(bitmap.clear_range(PageRange::new(Pfn(60), 10)), 10);
    assert_eq!(bitmap.ranges(), [PageRange::new(Pfn(0), 60), PageRange::new(Pfn(70), 186)]);
}

#[test]
fn clear_masked_takes_only_bits_of_range_and_mask() {
    let mut bitmap = DirtyBitmap::full(256);
    let mut mask = DirtyBitmap::new(256);
    for pfn in [3, 62, 64, 130, 200] {
        mask.set(Pfn(pfn));
    }
    assert_eq!(bitmap.clear_masked(PageRange::new(Pfn(62), 70), Some(&mask), |_, _| ()), 3);
    assert_eq!(bitmap.count(), 253);
    assert!(bitmap.test(Pfn(3)) && bitmap.test(Pfn(200)));
    assert!(!bitmap.test(Pfn(62)) && !bitmap.test(Pfn(64)) && !bitmap.test(Pfn(130)));
}

#[test]
fn exchange_counts_only_bits_that_are_new() {
    let mut to = DirtyBitmap::new(128);
    to.set(Pfn(1));
    let mut from = DirtyBitmap::new(128);
    from.set(Pfn(1));
    from.set(Pfn(100));
    assert_eq!(to.exchange_from(&mut from), 1);
    assert!(from.is_clear());
    assert_eq!(to.count(), 2);
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let mut bitmap = DirtyBitmap::new(128);
    let before = bitmap.clone();
    bitmap.set(Pfn(70));
    assert!(before.is_clear() && bitmap.test(Pfn(70)));
}

#[derive(Debug, Clone)]
enum Change {
    Set(u64),
    Clear(u64),
    SetRange(u64, u64),
    ClearRange(u64, u64),
    Fill,
    Reset,
    Merge(u64, u64),
    Exchange(u64, u64),
    Masked(u64, u64),
    Copy,
    Fold,
}

/// Two leaves and a part of a third.
const PAGES: u64 = 2 * LEAF_PAGES + 200;

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let range = || (0..PAGES + 10, 0..PAGES);
    let one = prop_oneof![
        6 => (0..PAGES).prop_map(Change::Set),
        6 => (0..PAGES).prop_map(Change::Clear),
        2 => range().prop_map(|(first, count)| Change::SetRange(first, count)),
        2 => range().prop_map(|(first, count)| Change::ClearRange(first, count)),
        1 => Just(Change::Fill),
        1 => Just(Change::Reset),
        1 => range().prop_map(|(first, count)| Change::Merge(first, count)),
        1 => range().prop_map(|(first, count)| Change::Exchange(first, count)),
        1 => range().prop_map(|(first, count)| Change::Masked(first, count)),
        1 => Just(Change::Copy),
        4 => Just(Change::Fold),
    ];
    prop::collection::vec(one, 0..40)
}

/// Makes a change here, and on plain bits.
fn make(change: &Change, bitmap: &mut DirtyBitmap, plain: &mut [bool]) {
    let end = |first: u64, count: u64| (first + count).min(PAGES) as usize;
    let mut other = DirtyBitmap::new(PAGES);
    match *change {
        Change::Set(pfn) => assert_eq!(bitmap.set(Pfn(pfn)), !std::mem::replace(&mut plain[pfn as usize], true)),
        Change::Clear(pfn) => assert_eq!(bitmap.clear(Pfn(pfn)), std::mem::take(&mut plain[pfn as usize])),
        Change::SetRange(first, count) | Change::Merge(first, count) | Change::Exchange(first, count) => {
            let first_index = first.min(PAGES) as usize;
            let new = plain[first_index..end(first, count)].iter_mut().map(|bit| u64::from(!std::mem::replace(bit, true))).sum::<u64>();
            let range = PageRange::new(Pfn(first), count);
            other.set_range(range);
            match change {
                Change::Merge(..) => assert_eq!(bitmap.merge(&other), new),
                Change::Exchange(..) => assert_eq!((bitmap.exchange_from(&mut other), other.count()), (new, 0)),
                _ => bitmap.set_range(range),
            }
        }
        Change::ClearRange(first, count) | Change::Masked(first, count) => {
            let first_index = first.min(PAGES) as usize;
            let were = plain[first_index..end(first, count)].iter_mut().map(|bit| u64::from(std::mem::take(bit))).sum::<u64>();
            let range = PageRange::new(Pfn(first), count);
            assert_eq!(bitmap.count_range(range), were);
            other.fill();
            match change {
                Change::Masked(..) => assert_eq!(bitmap.clear_masked(range, Some(&other), |_, _| ()), were),
                _ => assert_eq!(bitmap.clear_range(range), were),
            }
        }
        Change::Fill => {
            bitmap.fill();
            plain.fill(true);
        }
        Change::Reset => {
            bitmap.reset();
            plain.fill(false);
        }
        Change::Copy => {
            other.copy_from(bitmap);
            *bitmap = other;
        }
        Change::Fold => {
            bitmap.fold();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the way, the bits are those of a plain vector, and the hash is that of the same bits set one by one.
    #[test]
    fn bits_and_hash_follow_every_change(changes in changes()) {
        let (mut bitmap, mut plain) = (DirtyBitmap::new(PAGES), vec![false; PAGES as usize]);
        for change in &changes {
            make(change, &mut bitmap, &mut plain);
        }
        let mut fresh = DirtyBitmap::new(PAGES);
        for (pfn, _) in plain.iter().enumerate().filter(|(_, bit)| **bit) {
            fresh.set(Pfn(pfn as u64));
        }
        prop_assert_eq!(&bitmap, &fresh);
        prop_assert_eq!(bitmap.ones().count() as u64, bitmap.count());
        prop_assert_eq!(bitmap.fold(), fresh.fold());
        let flipped = Pfn(changes.len() as u64);
        if !fresh.set(flipped) {
            fresh.clear(flipped);
        }
        prop_assert_ne!(bitmap.fold(), fresh.fold());
    }
}
