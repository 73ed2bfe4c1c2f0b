//! The states that were found, and where each of their moves leads: flat, keyed by the state's hash, shared by all threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A state's number: the shard in the low bits, the place in it above.
pub(crate) type StateId = u32;

const SHARD_BITS: u32 = 8;
const SHARDS: usize = 1 << SHARD_BITS;

/// A move that a state offers, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The state behind it.
    pub(crate) target: StateId,
    /// The choice's id.
    pub(crate) choice: u16,
}

/// What is known of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Some of its moves may be missing.
    Open,
    /// All its moves are there.
    Inner,
    /// It has no moves: the ending's number.
    Terminal(u16),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The hash's halves: two words align better than one of 128 bits.
    hash: [u64; 2],
    first_edge: u32,
    pub(super) degree: u16,
    mark: u16,
}

const OPEN: u16 = u16::MAX;
const INNER: u16 = u16::MAX - 1;

impl Node {
    pub(super) fn mark(&self) -> Mark {
        match self.mark {
            OPEN => Mark::Open,
            INNER => Mark::Inner,
            ending => Mark::Terminal(ending),
        }
    }

    pub(super) fn hash(&self) -> u128 {
        u128::from(self.hash[1]) << 64 | u128::from(self.hash[0])
    }

    pub(super) fn edges<'a>(&self, all: &'a [Edge]) -> &'a [Edge] {
        &all[self.first_edge as usize..][..usize::from(self.degree)]
    }
}

/// A part of the table under one lock. `slots` is an open-addressing index into `nodes`: the tag in the upper half, the place plus one in the lower.
#[derive(Debug, Default)]
pub(super) struct Shard {
    slots: Vec<u64>,
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

/// Spreads a hash over the table: the search must stay fast, though not the system's hash is as good as it should be.
fn mix(hash: u128) -> u64 {
    let folded = (hash as u64) ^ ((hash >> 64) as u64).rotate_left(32);
    let product = u128::from(folded) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

fn halves(hash: u128) -> [u64; 2] {
    [hash as u64, (hash >> 64) as u64]
}

/// Makes room for `more` by a quarter: doubling would take twice the memory that is needed.
fn make_room<T>(list: &mut Vec<T>, more: usize) {
    const LEAST: usize = 64;
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(LEAST).max(list.len() / 4));
    }
}

impl Shard {
    fn bytes(&self) -> u64 {
        let slots = self.slots.capacity() * size_of::<u64>();
        (slots + self.nodes.capacity() * size_of::<Node>() + self.edges.capacity() * size_of::<Edge>()) as u64
    }

    /// Returns the place of a hash, or the slot where it belongs. There is always a free slot.
    fn look_up(&self, hash: u128, mixed: u64) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let (tag, key) = (mixed >> 32, halves(hash));
        let mut at = (mixed >> SHARD_BITS) as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            let place = (slot as u32 - 1) as usize;
            if slot >> 32 == tag && self.nodes[place].hash == key {
                return Ok(place);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        const LEAST: usize = 64;
        let size = (self.slots.len() * 2).max(LEAST);
        self.slots = vec![0; size];
        for (place, node) in self.nodes.iter().enumerate() {
            let mixed = mix(node.hash());
            let mut at = (mixed >> SHARD_BITS) as usize & (size - 1);
            while self.slots[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = (mixed >> 32) << 32 | (place as u64 + 1);
        }
    }

    /// Returns the place of a hash, and whether it is new.
    fn insert(&mut self, hash: u128, mixed: u64) -> (usize, bool) {
        if self.nodes.len() * 4 >= self.slots.len() * 3 {
            self.grow();
        }
        let slot = match self.look_up(hash, mixed) {
            Ok(place) => return (place, false),
            Err(slot) => slot,
        };
        let place = self.nodes.len();
        assert!(place < 1 << (u32::BITS - SHARD_BITS), "more than 2^32 states");
        self.slots[slot] = (mixed >> 32) << 32 | (place as u64 + 1);
        make_room(&mut self.nodes, 1);
        self.nodes.push(Node { hash: halves(hash), first_edge: 0, degree: 0, mark: OPEN });
        (place, true)
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    shards: Vec<Mutex<Shard>>,
    bytes: AtomicU64,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), bytes: AtomicU64::new(0) }
    }

    /// Returns the memory that it takes, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().expect("no thread fails while it holds a shard")
    }

    /// Changes a shard, and notes how much it grew.
    fn change<R>(&self, shard: usize, change: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.lock(shard);
        let before = shard.bytes();
        let result = change(&mut shard);
        let grown = shard.bytes() - before;
        if grown > 0 {
            self.bytes.fetch_add(grown, Ordering::Relaxed);
        }
        result
    }

    /// Returns the state with a hash, if it is there.
    pub(super) fn find(&self, hash: u128) -> Option<StateId> {
        let mixed = mix(hash);
        let number = mixed as usize % SHARDS;
        let shard = self.lock(number);
        if shard.slots.is_empty() {
            return None;
        }
        shard.look_up(hash, mixed).ok().map(|place| id(number, place))
    }

    /// Returns the state with a hash, and whether it is new.
    pub(super) fn insert(&self, hash: u128) -> (StateId, bool) {
        let mixed = mix(hash);
        let number = mixed as usize % SHARDS;
        let (place, new) = self.change(number, |shard| shard.insert(hash, mixed));
        (id(number, place), new)
    }

    /// Notes a state's moves, all of them or those that were known when the search was stopped.
    pub(super) fn set_edges(&self, state: StateId, all: bool, edges: impl Iterator<Item = Edge>) {
        let (number, place) = parts(state);
        self.change(number, |shard| {
            assert_eq!(shard.nodes[place].mark, OPEN, "a state is finished once");
            let first = shard.edges.len();
            make_room(&mut shard.edges, edges.size_hint().1.unwrap_or(0));
            shard.edges.extend(edges);
            let node = &mut shard.nodes[place];
            node.first_edge = u32::try_from(first).expect("a shard has less than 2^32 moves");
            node.degree = (shard.edges.len() - first).try_into().expect("a state has less than 2^16 moves");
            node.mark = if all { INNER } else { OPEN };
        });
    }

    /// Notes that a state has no moves.
    pub(super) fn set_ending(&self, state: StateId, ending: u16) {
        assert!(ending < INNER, "{ending} endings");
        let (number, place) = parts(state);
        self.lock(number).nodes[place].mark = ending;
    }

    /// Returns the shards, without their index.
    pub(super) fn into_shards(self) -> Vec<Shard> {
        let shards = self.shards.into_iter().map(|shard| shard.into_inner().expect("no thread failed while it held a shard"));
        shards.map(|shard| Shard { slots: Vec::new(), ..shard }).collect()
    }
}

fn id(shard: usize, place: usize) -> StateId {
    (place << SHARD_BITS | shard) as StateId
}

/// Returns a state's shard, and its place there.
pub(super) fn parts(state: StateId) -> (usize, usize) {
    (state as usize % SHARDS, (state >> SHARD_BITS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_new_once_and_keeps_its_number_and_moves_while_the_table_grows() {
        let table = Table::new();
        // Poor hashes: most bits never change.
        let hash = |n: u32| u128::from(n) << 64 | 5;
        let ids: Vec<StateId> = (0..100_000).map(|n| table.insert(hash(n)).0).collect();
        for (n, &id) in (0u32..).zip(&ids) {
            assert_eq!(table.insert(hash(n)), (id, false));
            assert_eq!(table.find(hash(n)), Some(id));
            table.set_edges(id, true, [Edge { target: ids[0], choice: n as u16 }].into_iter());
        }
        assert_eq!(table.find(hash(100_000)), None);
        assert!((100_000 * 32..100_000 * 80).contains(&table.bytes()), "{}", table.bytes());
        let shards = table.into_shards();
        for (n, &id) in ids.iter().enumerate() {
            let (shard, place) = parts(id);
            let node = &shards[shard].nodes[place];
            assert_eq!((node.mark(), node.edges(&shards[shard].edges)), (Mark::Inner, &[Edge { target: ids[0], choice: n as u16 }][..]));
        }
    }
}
