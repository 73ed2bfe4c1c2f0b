//! Which orders were seen: ordered pairs of conflicting events of different actors, and distinct final states.
//!
//! A pair is `before`, then `then`, next to each other on a common object: `then` looked at or changed what `before` changed last, or changed what
//! `before` had looked at since it was last changed. Moves without an event are looked through. That is the notion of reads-from coverage (RFF, ASPLOS
//! 2024), with writes after reads and after writes in addition.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::index::Index;
use super::system::{Choice, Key, Step};

/// An order that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PlainPair", into = "PlainPair")]
pub struct Pair {
    /// The earlier event.
    pub before: Key,
    /// The later one.
    pub then: Key,
    /// Schedules in which it was seen.
    pub sightings: u64,
    /// Number of the first schedule in which it was seen.
    pub first: u64,
}

/// A pair in a file: kind and page of both events, sightings, first.
type PlainPair = (u16, u16, u16, u16, u64, u64);

impl From<PlainPair> for Pair {
    fn from((kind, page, then_kind, then_page, sightings, first): PlainPair) -> Self {
        Self { before: Key { kind, page }, then: Key { kind: then_kind, page: then_page }, sightings, first }
    }
}

impl From<Pair> for PlainPair {
    fn from(pair: Pair) -> Self {
        (pair.before.kind, pair.before.page, pair.then.kind, pair.then.page, pair.sightings, pair.first)
    }
}

impl Pair {
    fn keys(&self) -> (Key, Key) {
        (self.before, self.then)
    }
}

/// The orders that were seen in some schedules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Pair>", into = "Vec<Pair>")]
pub struct Coverage {
    /// Sorted by keys, each once.
    pairs: Vec<Pair>,
}

impl TryFrom<Vec<Pair>> for Coverage {
    type Error = &'static str;

    fn try_from(pairs: Vec<Pair>) -> Result<Self, Self::Error> {
        let sorted = pairs.is_sorted_by(|a, b| a.keys() < b.keys());
        if sorted { Ok(Self { pairs }) } else { Err("pairs of events that are not sorted") }
    }
}

impl From<Coverage> for Vec<Pair> {
    fn from(coverage: Coverage) -> Self {
        coverage.pairs
    }
}

impl Coverage {
    /// Returns all orders that were seen, sorted by their events.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Adds what was seen in other schedules. The order of additions does not matter.
    pub fn merge(&mut self, other: &Coverage) {
        let mine = std::mem::take(&mut self.pairs);
        let (mut mine, mut others) = (mine.into_iter().peekable(), other.pairs.iter().copied().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), others.peek()) {
            let next = match a.keys().cmp(&b.keys()) {
                std::cmp::Ordering::Less => mine.next(),
                std::cmp::Ordering::Greater => others.next(),
                std::cmp::Ordering::Equal => {
                    let joined = Pair { sightings: a.sightings + b.sightings, first: a.first.min(b.first), ..*a };
                    (mine.next(), others.next(), Some(joined)).2
                }
            };
            self.pairs.extend(next);
        }
        self.pairs.extend(mine.chain(others));
    }

    /// Returns how many orders were new, by the power of two of the schedule's number: element `i` is about the schedules `2^i - 1` up to
    /// `2^(i+1) - 2`, that is 0, 1 to 2, 3 to 6, and so on.
    pub fn growth(&self) -> Vec<u64> {
        let mut growth = Vec::new();
        for pair in &self.pairs {
            let period = (pair.first.saturating_add(1)).ilog2() as usize;
            growth.resize(growth.len().max(period + 1), 0);
            growth[period] += 1;
        }
        growth
    }

    /// Returns up to `limit` pairs that were never seen the other way round, those with most sightings first.
    pub fn gaps(&self, limit: usize) -> Vec<Pair> {
        let mut gaps: Vec<Pair> = self.pairs.iter().filter(|pair| !self.has(pair.then, pair.before)).copied().collect();
        gaps.sort_by_key(|pair| (Reverse(pair.sightings), pair.keys()));
        gaps.truncate(limit);
        gaps
    }

    fn has(&self, before: Key, then: Key) -> bool {
        self.pairs.binary_search_by_key(&(before, then), Pair::keys).is_ok()
    }
}

/// Counts distinct states: exactly up to [`Distinct::KEPT`], and by the density of their hashes above. Only the smallest hashes are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Distinct {
    /// Sorted, each once.
    smallest: Vec<u64>,
}

impl Distinct {
    /// Hashes that are kept. The relative error of an estimate is about one by the square root of this: 6 %.
    pub const KEPT: usize = 256;

    /// Adds states by their hashes.
    pub fn add(&mut self, states: &[u128]) {
        // A state's hash is a sum, and need not be spread evenly.
        self.smallest.extend(states.iter().map(|state| xxh3_64(&state.to_le_bytes())));
        self.settle();
    }

    /// Adds the states that were seen elsewhere. The order of additions does not matter.
    pub fn merge(&mut self, other: &Distinct) {
        self.smallest.extend_from_slice(&other.smallest);
        self.settle();
    }

    /// Returns the number of distinct states, and whether it is exact.
    pub fn count(&self) -> (u64, bool) {
        let Some(largest) = self.smallest.get(Self::KEPT - 1) else {
            return (self.smallest.len() as u64, true);
        };
        let estimate = ((Self::KEPT as u128 - 1) << 64) / (u128::from(*largest) + 1);
        (u64::try_from(estimate).unwrap_or(u64::MAX), false)
    }

    fn settle(&mut self) {
        self.smallest.sort_unstable();
        self.smallest.dedup();
        self.smallest.truncate(Self::KEPT);
    }
}

/// A key's place in a [`Tracker`]; [`SILENT`] for a move without an event.
pub(super) type Label = u16;

/// The label of a move without an event.
pub(super) const SILENT: Label = Label::MAX;

/// What happened to an object in the current schedule.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The count of schedules that the rest is about.
    count: u32,
    changer: Label,
    changer_actor: u16,
    /// Actors that looked since the last change, a bit each.
    lookers: u64,
}

/// Who ever touched an object, of the moves that a tracker was told of by [`Tracker::meet`].
#[derive(Debug, Clone, Copy, Default)]
struct Users {
    /// Actors, a bit each.
    actors: u64,
    changed: bool,
}

impl Users {
    /// Returns whether there can be pairs on the object: several actors, and one that changes it.
    fn can_pair(self) -> bool {
        self.changed && self.actors.count_ones() > 1
    }
}

/// How often a pair was seen in the current block.
#[derive(Debug, Clone, Copy, Default)]
struct Sighting {
    /// The last schedule in which it was seen.
    schedule: u32,
    schedules: u32,
}

/// Sees the orders of one schedule after the other, on one thread. Objects and events have small numbers here, which never leave it.
#[derive(Debug, Clone)]
pub(super) struct Tracker {
    actors: usize,
    keys: Vec<Key>,
    key_index: Index,
    cells: Vec<u32>,
    cell_index: Index,
    /// By object: the 64 classes, then the cells in the order in which they were met.
    slots: Vec<Slot>,
    /// By object and actor: with what it looked.
    looked: Vec<Label>,
    /// By object.
    users: Vec<Users>,
    /// How many objects there can be pairs on.
    version: u32,
    /// By earlier and later label, in rows of `stride`.
    sightings: Vec<Sighting>,
    stride: usize,
    /// Pairs of labels that were seen in this block, and the schedule in which they were first.
    seen: Vec<(Label, Label, u32)>,
    schedule: u32,
    /// The last schedule before this block.
    block: u32,
    /// Schedules that were begun, or begun again.
    count: u32,
}

/// Classes of objects.
const CLASSES: usize = u64::BITS as usize;

impl Tracker {
    /// Returns a tracker of a system with so many actors.
    pub(super) fn new(actors: u16) -> Self {
        let actors = usize::from(actors);
        assert!((1..=64).contains(&actors), "{actors} actors");
        let mut tracker = Self {
            actors,
            keys: Vec::new(),
            key_index: Index::default(),
            cells: Vec::new(),
            cell_index: Index::default(),
            slots: Vec::new(),
            looked: Vec::new(),
            users: Vec::new(),
            version: 0,
            sightings: Vec::new(),
            stride: 0,
            seen: Vec::new(),
            schedule: 0,
            block: 0,
            count: 0,
        };
        (0..CLASSES).for_each(|_| tracker.add_slot());
        tracker
    }

    fn add_slot(&mut self) {
        self.slots.push(Slot { count: 0, changer: SILENT, changer_actor: 0, lookers: 0 });
        self.users.push(Users::default());
        self.looked.resize(self.slots.len() * self.actors, SILENT);
    }

    /// Returns the label of a move: what it announced, else the first event of its own.
    pub(super) fn label(&mut self, choice: &Choice, step: &Step) -> Label {
        let Some(key) = choice.key.or_else(|| step.happened.first().map(|happening| happening.key)) else {
            return SILENT;
        };
        let hash = |key: Key| u64::from(key.kind) << 16 | u64::from(key.page);
        if let Some(label) = self.key_index.find(hash(key), |place| self.keys[place as usize] == key) {
            return label as Label;
        }
        let label = self.keys.len();
        assert!(label < usize::from(SILENT), "an event too many");
        self.keys.push(key);
        self.key_index.insert(hash(key), label as u32);
        if label >= self.stride {
            self.widen();
        }
        label as Label
    }

    /// Makes room for twice as many labels.
    fn widen(&mut self) {
        let stride = (2 * self.stride).max(32);
        let mut wider = vec![Sighting::default(); stride * stride];
        for (before, then, _) in &self.seen {
            let (before, then) = (usize::from(*before), usize::from(*then));
            wider[before * stride + then] = self.sightings[before * self.stride + then];
        }
        (self.sightings, self.stride) = (wider, stride);
    }

    /// Puts what a move touched into `into`: an object's number, doubled, plus one if it was changed.
    pub(super) fn touches(&mut self, step: &Step, into: &mut Vec<u32>) {
        let footprint = &step.footprint;
        let bits = |word: u64| {
            let rest = |left: &u64| Some(left & (left - 1)).filter(|left| *left != 0);
            std::iter::successors(Some(word).filter(|word| *word != 0), rest).map(u64::trailing_zeros)
        };
        into.extend(bits(footprint.objects.changed).map(|bit| bit << 1 | 1));
        into.extend(bits(footprint.objects.shared & !footprint.objects.changed).map(|bit| bit << 1));
        for cell in &footprint.changed {
            into.push(self.object(*cell) << 1 | 1);
        }
        for cell in footprint.looked.iter().filter(|cell| footprint.changed.binary_search(cell).is_err()) {
            into.push(self.object(*cell) << 1);
        }
    }

    fn object(&mut self, cell: u32) -> u32 {
        let place = self.cell_index.find(u64::from(cell), |place| self.cells[place as usize] == cell).unwrap_or_else(|| {
            let place = self.cells.len() as u32;
            self.cells.push(cell);
            self.cell_index.insert(u64::from(cell), place);
            self.add_slot();
            place
        });
        CLASSES as u32 + place
    }

    /// Starts a schedule.
    pub(super) fn begin(&mut self) {
        self.schedule += 1;
        self.count += 1;
    }

    /// Starts the same schedule again: its moves are about to be told once more, and what was seen of it stays.
    pub(super) fn begin_again(&mut self) {
        self.count += 1;
    }

    /// Remembers who touches what. Where only one actor was met, or nobody who changes, there are no pairs: such objects can be left out of
    /// [`Tracker::moved`] until [`Tracker::version`] changes.
    pub(super) fn meet(&mut self, actor: u16, label: Label, touches: &[u32]) {
        for touch in touches.iter().filter(|_| label != SILENT) {
            let users = &mut self.users[(touch >> 1) as usize];
            let could = users.can_pair();
            users.actors |= 1 << actor;
            users.changed |= touch & 1 == 1;
            self.version += u32::from(users.can_pair() != could);
        }
    }

    /// Returns a number that changes when there can be pairs on another object.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Puts what there can be pairs on to the front of a list; returns how many those are.
    pub(super) fn sort(&self, touches: &mut [u32]) -> u32 {
        touches.sort_unstable_by_key(|touch| (!self.users[(touch >> 1) as usize].can_pair(), *touch));
        touches.partition_point(|touch| self.users[(touch >> 1) as usize].can_pair()) as u32
    }

    /// Takes in a move.
    pub(super) fn moved(&mut self, actor: u16, label: Label, touches: &[u32]) {
        if label == SILENT {
            return;
        }
        for touch in touches {
            let (object, changes) = ((touch >> 1) as usize, touch & 1 == 1);
            let slot = &mut self.slots[object];
            if slot.count != self.count {
                *slot = Slot { count: self.count, changer: SILENT, changer_actor: 0, lookers: 0 };
            }
            let Slot { changer, changer_actor, lookers, .. } = *slot;
            let row = object * self.actors;
            if changes {
                *slot = Slot { count: self.count, changer: label, changer_actor: actor, lookers: 0 };
            } else {
                slot.lookers |= 1 << actor;
                self.looked[row + usize::from(actor)] = label;
            }
            if changer != SILENT && changer_actor != actor {
                self.see(changer, label);
            }
            let mut others = if changes { lookers & !(1 << actor) } else { 0 };
            while others != 0 {
                self.see(self.looked[row + others.trailing_zeros() as usize], label);
                others &= others - 1;
            }
        }
    }

    fn see(&mut self, before: Label, then: Label) {
        let sighting = &mut self.sightings[usize::from(before) * self.stride + usize::from(then)];
        if sighting.schedule == self.schedule {
            return;
        }
        sighting.schedule = self.schedule;
        sighting.schedules += 1;
        if sighting.schedules == 1 {
            self.seen.push((before, then, self.schedule - self.block - 1));
        }
    }

    /// Ends a block whose first schedule has this number: returns what was seen in it.
    pub(super) fn end_block(&mut self, first: u64) -> Coverage {
        let mut pairs = Vec::with_capacity(self.seen.len());
        for (before, then, schedule) in self.seen.drain(..) {
            let sighting = &mut self.sightings[usize::from(before) * self.stride + usize::from(then)];
            let sightings = u64::from(std::mem::take(sighting).schedules);
            let key = |label: Label| self.keys[usize::from(label)];
            pairs.push(Pair { before: key(before), then: key(then), sightings, first: first + u64::from(schedule) });
        }
        pairs.sort_unstable_by_key(Pair::keys);
        if self.count > u32::MAX / 2 {
            self.slots.iter_mut().for_each(|slot| slot.count = 0);
            (self.schedule, self.count) = (0, 0);
        }
        self.block = self.schedule;
        Coverage { pairs }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::search::system::{Footprint, Objects};

    const A: Key = Key { kind: 1, page: 0 };
    const B: Key = Key { kind: 2, page: 0 };
    const C: Key = Key { kind: 3, page: Key::NO_PAGE };

    /// An actor, its event, and cells: looked at, changed.
    type Move = (u16, Option<Key>, &'static [u32], &'static [u32]);

    fn seen(tracker: &mut Tracker, moves: &[Move]) {
        tracker.begin();
        for (actor, key, looked, changed) in moves {
            let choice = Choice { id: *actor, actor: *actor, key: *key, objects: Objects::default() };
            let footprint = Footprint { objects: Objects::default(), looked: looked.to_vec(), changed: changed.to_vec() };
            let step = Step { happened: Vec::new(), footprint };
            let mut touches = Vec::new();
            tracker.touches(&step, &mut touches);
            let label = tracker.label(&choice, &step);
            tracker.moved(*actor, label, &touches);
        }
    }

    fn pairs_of(moves: &[Move]) -> Vec<(Key, Key)> {
        let mut tracker = Tracker::new(3);
        seen(&mut tracker, moves);
        tracker.end_block(0).pairs().iter().map(Pair::keys).collect()
    }

    #[test]
    fn a_pair_is_two_events_next_to_each_other_on_an_object_that_one_changes() {
        assert_eq!(pairs_of(&[(0, Some(A), &[], &[7]), (1, Some(B), &[7], &[])]), [(A, B)]);
        assert_eq!(pairs_of(&[(0, Some(A), &[7], &[]), (1, Some(B), &[], &[7])]), [(A, B)]);
        assert_eq!(pairs_of(&[(0, Some(A), &[], &[7]), (1, Some(B), &[], &[7]), (2, Some(C), &[7], &[])]), [(A, B), (B, C)]);
        assert_eq!(pairs_of(&[(0, Some(A), &[7], &[]), (1, Some(B), &[7], &[])]), [], "two looks");
        assert_eq!(pairs_of(&[(0, Some(A), &[], &[7]), (1, Some(B), &[8], &[])]), [], "two objects");
        assert_eq!(pairs_of(&[(0, Some(A), &[], &[7]), (0, Some(B), &[7], &[])]), [], "one actor");
    }

    #[test]
    fn moves_without_events_are_looked_through() {
        assert_eq!(pairs_of(&[(0, Some(A), &[], &[7]), (1, None, &[], &[7]), (2, Some(C), &[7], &[])]), [(A, C)]);
    }

    #[test]
    fn classes_of_objects_count_one_by_one() {
        let mut tracker = Tracker::new(2);
        tracker.begin();
        let mut moved = |actor, key, shared, changed| {
            let objects = Objects { shared, changed };
            let step = Step { happened: Vec::new(), footprint: Footprint { objects, ..Footprint::default() } };
            let choice = Choice { id: actor, actor, key: Some(key), objects };
            let mut touches = Vec::new();
            tracker.touches(&step, &mut touches);
            let label = tracker.label(&choice, &step);
            tracker.moved(actor, label, &touches);
        };
        moved(0, A, 0, 1 | 1 << 63);
        moved(1, B, 1, 0);
        moved(1, C, 1 << 63, 1 << 63);
        let keys: Vec<_> = tracker.end_block(0).pairs().iter().map(Pair::keys).collect();
        assert_eq!(keys, [(A, B), (A, C)]);
    }

    #[test]
    fn sightings_are_schedules_and_blocks_begin_anew() {
        let mut tracker = Tracker::new(2);
        let (forth, back): ([Move; 2], [Move; 2]) =
            ([(0, Some(A), &[], &[7]), (1, Some(B), &[7], &[7])], [(1, Some(B), &[], &[7]), (0, Some(A), &[7], &[])]);
        for moves in [&forth, &forth, &back] {
            seen(&mut tracker, &[&moves[..], &moves[..]].concat());
        }
        let first = tracker.end_block(100);
        let pair = |before, then, sightings, first| Pair { before, then, sightings, first };
        assert_eq!(first.pairs(), [pair(A, B, 3, 100), pair(B, A, 3, 100)], "what repeats is there in both orders");
        seen(&mut tracker, &forth);
        seen(&mut tracker, &back);
        let second = tracker.end_block(200);
        assert_eq!(second.pairs(), [pair(A, B, 1, 200), pair(B, A, 1, 201)]);
    }

    #[test]
    fn growth_and_gaps_are_told() {
        let pair = |before, then, sightings, first| Pair { before, then, sightings, first };
        let coverage = Coverage { pairs: vec![pair(A, B, 9, 0), pair(A, C, 5, 2), pair(B, A, 1, 6), pair(B, C, 7, 7)] };
        assert_eq!(coverage.growth(), [1, 1, 1, 1]);
        assert_eq!(coverage.gaps(9), [pair(B, C, 7, 7), pair(A, C, 5, 2)]);
        assert_eq!(coverage.gaps(1), [pair(B, C, 7, 7)]);
    }

    #[test]
    fn distinct_states_are_exact_when_few_and_close_when_many() {
        let mut distinct = Distinct::default();
        distinct.add(&[5, 6, 5]);
        assert_eq!(distinct.count(), (2, true));
        distinct.add(&(0..10_000).collect::<Vec<_>>());
        let (count, exact) = distinct.count();
        assert!(!exact && count.abs_diff(10_000) < 2_000, "{count}");
    }

    fn coverages() -> impl Strategy<Value = Coverage> {
        let pair = (0..4u16, 0..4u16, 1..9u64, 0..50u64);
        prop::collection::vec(pair, 0..12).prop_map(|pairs| {
            let key = |kind| Key { kind, page: Key::NO_PAGE };
            let pair = |(a, b, sightings, first)| Pair { before: key(a), then: key(b), sightings, first };
            let mut pairs: Vec<Pair> = pairs.into_iter().map(pair).collect();
            pairs.sort_by_key(Pair::keys);
            pairs.dedup_by_key(|pair| pair.keys());
            Coverage { pairs }
        })
    }

    proptest! {
        #[test]
        fn coverages_add_up_in_any_order(a in coverages(), b in coverages(), c in coverages()) {
            let sum = |parts: [&Coverage; 3]| parts.into_iter().fold(Coverage::default(), |mut sum, part| { sum.merge(part); sum });
            let mut right = b.clone();
            right.merge(&c);
            let mut all = a.clone();
            all.merge(&right);
            prop_assert_eq!(&sum([&a, &b, &c]), &all);
            prop_assert_eq!(&sum([&c, &a, &b]), &all);
            let total = |coverage: &Coverage| coverage.pairs.iter().map(|pair| pair.sightings).sum::<u64>();
            prop_assert_eq!(total(&all), total(&a) + total(&b) + total(&c));
            prop_assert!(all.pairs.is_sorted_by(|a, b| a.keys() < b.keys()));
        }
    }
}
