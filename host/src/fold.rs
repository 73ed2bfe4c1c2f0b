//! Hashes of states: a sum modulo 2^128 over a state's parts, each told apart from the others by a tag and an index.
//!
//! So moves that change different parts change the hash independently of each other, in whatever order they are made, and a part that
//! changed is subtracted and added again without a look at the rest. A part is a word ([`mix`]), or anything that is [`Hash`]
//! ([`Fold::part`]), or a sum that its owner keeps ([`Fold::sum_of`]).
//!
//! What belongs into a state's hash: all that the future or a verdict can depend on, and nothing else. Left out are the options that a run
//! never changes, numbers that are only reported, and the times of what is past. The values of a hash are no format: they may change with
//! any version.

use std::hash::{Hash, Hasher};

use crate::event::LockId;
use crate::lock::Locks;

/// Tells the parts of a host apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub(crate) enum Tag {
    Lock = 1,
    VmRunning,
    Monitor,
    Logging,
    Merged,
    K,
    WriteProtection,
    S,
    SUnmerged,
    Protected,
    D,
    DTracking,
    V,
    VLogging,
    B,
    N,
    C,
    Cursor,
    Syncs,
    Thread,
    BottomHalf,
    Pace,
    Status,
    Run,
    Slice,
    BytesSent,
    Hand,
    Wire,
    Xbzrle,
    Multifd,
    MappedRam,
    Named,
    Placed,
    ReturnPath,

    DestinationStatus,
    Received,
    Contents,
    Content,
    BalloonTarget,
    BalloonDriver,
    BalloonTruths,
    Hinting,
    IothreadBlocked,
    BottomHalfScheduled,
    Iothread,
    Kicked,
    MainLoop,
    Stats,
    Registers,
    DeviceStatus,
    Interrupt,
    Queue,
    Request,
    Walk,
    Postcopy,
    Requests,
    Missing,
    Left,
    Snapshot,
    SnapshotProtected,
    Released,
    Ring,
    RingLag,
    RingHeld,
    RingCollected,
    SlotWithoutS,
    FailingGets,
    Tlb,
    Reaper,
    Partial,
    Ties,
    LoadedDevice,
    Detached,
    VhostOrder,
    Torn,
    Loaded,
    VhostQueues,
    Vfio,
    Iommu,
    Timer,
    Throttle,
    VirtioMem,
    VfioMapped,
    Limits,
    Meter,
}

/// First multiplier of a tag and of an index, for each half; any odd numbers without a pattern will do.
const TAG: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
const INDEX: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

/// Returns the hash of a word at an index of a part: two halves that are each one-to-one in the word.
pub fn mix(tag: u64, index: u64, value: u64) -> u128 {
    let key = |half: usize| tag.wrapping_mul(TAG[half]).wrapping_add(index.wrapping_add(1).wrapping_mul(INDEX[half]));
    let low = scatter(value ^ key(0), 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb);
    let high = scatter(value.wrapping_add(key(1)), 0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53);
    u128::from(high) << 64 | u128::from(low)
}

/// Returns the hash of a hash at an index of a part.
pub fn mix_wide(tag: u64, index: u64, value: u128) -> u128 {
    let (low, high) = (value as u64, (value >> 64) as u64);
    mix(tag, index, low ^ high.rotate_left(32)).wrapping_add(mix(!tag, index, high))
}

/// The end of SplitMix64 and of MurmurHash3, by their multipliers.
fn scatter(word: u64, first: u64, second: u64) -> u64 {
    let word = (word ^ (word >> 31)).wrapping_mul(first);
    let word = (word ^ (word >> 29)).wrapping_mul(second);
    word ^ (word >> 32)
}

/// Both halves of a product.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A hash in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fold {
    sum: u128,
}

impl Fold {
    /// Adds a word.
    pub fn word(&mut self, tag: u64, index: u64, value: u64) {
        self.sum = self.sum.wrapping_add(mix(tag, index, value));
    }

    /// Adds anything, as one part.
    pub fn part(&mut self, tag: u64, index: u64, value: &impl Hash) {
        let mut words = Sequence::new(tag);
        value.hash(&mut words);
        self.sum = self.sum.wrapping_add(mix_wide(tag, index, words.wide()));
    }

    /// Adds a sum that somebody keeps; sums that were made alike are told apart by their tags.
    pub fn sum_of(&mut self, tag: u64, sum: u128) {
        let odd = mix(tag, u64::MAX, 0) | 1;
        self.sum = self.sum.wrapping_add(sum.wrapping_mul(odd));
    }

    /// Returns the hash.
    pub fn sum(self) -> u128 {
        self.sum
    }

    /// Adds truths, each a part of its own.
    pub(crate) fn add_each<const N: usize>(&mut self, tag: Tag, truths: [bool; N]) {
        for (index, truth) in (0..).zip(truths) {
            self.word(tag as u64, index, u64::from(truth));
        }
    }

    pub(crate) fn add(&mut self, tag: Tag, value: u64) {
        self.word(tag as u64, 0, value);
    }

    pub(crate) fn add_part(&mut self, tag: Tag, value: &impl Hash) {
        self.part(tag as u64, 0, value);
    }
}

/// Words in order, in two lanes that do not know of each other.
struct Sequence([u64; 2]);

impl Sequence {
    fn new(seed: u64) -> Self {
        Self([seed.wrapping_mul(TAG[0]), seed.wrapping_mul(TAG[1])])
    }

    fn push(&mut self, word: u64) {
        self.0[0] = folded(self.0[0] ^ word, INDEX[0]);
        self.0[1] = folded(self.0[1].wrapping_add(word), INDEX[1]);
    }

    fn wide(&self) -> u128 {
        u128::from(self.0[1]) << 64 | u128::from(self.0[0])
    }
}

/// The other widths end in these.
impl Hasher for Sequence {
    fn finish(&self) -> u64 {
        self.0[0]
    }

    fn write(&mut self, bytes: &[u8]) {
        self.push(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.push(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.push(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.push(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.push(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.push(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.push(word as u64);
        self.push((word >> 64) as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.push(word as u64);
    }
}

impl Locks {
    /// Returns the hash of who holds which lock: a part for each lock.
    pub fn fold(&self) -> u128 {
        let mut fold = Fold::default();
        for (index, lock) in (0..).zip(LockId::ALL) {
            if let Some(holder) = self.holder(lock) {
                fold.part(Tag::Lock as u64, index, &holder);
            }
        }
        fold.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Actor;
    use std::collections::BTreeSet;

    #[test]
    fn words_that_differ_a_little_differ_in_both_halves() {
        let mut halves = [BTreeSet::new(), BTreeSet::new()];
        let mut count = 0;
        for tag in 0..8 {
            for index in 0..64 {
                let words = (0..64).map(|bit| 1_u64 << bit).chain(0..16).chain((0..16).map(|few| !few)).collect::<BTreeSet<_>>();
                for word in words {
                    let mixed = mix(tag, index, word);
                    halves[0].insert(mixed as u64);
                    halves[1].insert((mixed >> 64) as u64);
                    count += 1;
                }
            }
        }
        assert_eq!(halves.map(|half| half.len()), [count; 2]);
    }

    /// Changes in two words must not cancel out, whichever two they are.
    #[test]
    fn sums_of_two_changed_words_are_all_different() {
        let mut sums = BTreeSet::new();
        let mut count = 0;
        for (left, right) in (0..64).flat_map(|left| (0..left).map(move |right| (left, right))) {
            for (a, b) in [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (3, 3), (u64::MAX, u64::MAX), (1 << 63, 1 << 63)] {
                sums.insert(mix(1, left, a).wrapping_add(mix(1, right, b)));
                count += 1;
            }
        }
        assert_eq!(sums.len(), count);
    }

    #[test]
    fn what_stands_elsewhere_is_something_else() {
        let part = |tag, index, value: &[u8]| {
            let mut fold = Fold::default();
            fold.part(tag, index, &value);
            fold.sum()
        };
        let parts = [part(1, 0, &[1]), part(2, 0, &[1]), part(1, 1, &[1]), part(1, 0, &[1, 0]), part(1, 0, &[]), part(0, 1, &[1])];
        assert_eq!(BTreeSet::from(parts).len(), parts.len());
        let kept = |tag, sum| {
            let mut fold = Fold::default();
            fold.sum_of(tag, sum);
            fold.sum()
        };
        assert_ne!(kept(1, 77), kept(2, 77));
    }

    #[test]
    fn parts_may_be_added_in_any_order() {
        let (mut one, mut other) = (Fold::default(), Fold::default());
        one.word(1, 2, 3);
        one.part(4, 0, &"five");
        other.part(4, 0, &"five");
        other.word(1, 2, 3);
        assert_eq!(one, other);
    }

    #[test]
    fn each_lock_and_each_holder_counts() {
        let mut folds = BTreeSet::from([Locks::default().fold()]);
        for lock in LockId::ALL {
            for actor in [Actor::Vcpu(0), Actor::Vcpu(1), Actor::Iothread, Actor::Migration, Actor::MainLoop] {
                let mut locks = Locks::default();
                locks.take(lock, actor);
                assert!(folds.insert(locks.fold()), "{lock:?} held by {actor}");
                locks.release(lock, actor);
                assert_eq!(locks.fold(), Locks::default().fold());
            }
        }
    }
}
