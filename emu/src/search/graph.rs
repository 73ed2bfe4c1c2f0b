//! What is known of a system's states: a schedule that stays among them does not touch the system.
//!
//! Systems have few states and many schedules: with independent moves, thousands of schedules meet in each state. So states that were met are kept by
//! hash, with the moves that were made from them and where those led. A walk follows known moves; when it leaves the known part, the system is put back
//! to the nearest state on its path that was saved, and makes the moves from there. What a schedule gives is the same as on the system itself; only
//! the time that it takes depends on what is known.
//!
//! A state is hashed before the system is asked for its choices there: asking must not change the hash.
//!
//! Tables are flat, and the parts that repeat are kept once: lists of choices, and what a move used. All of a node stands in one place, its edges, too:
//! a graph is larger than the caches, and following a move is to miss them once.

use xxhash_rust::xxh3::xxh3_128;

use super::coverage::{Label, Tracker};
use super::index::Index;
use super::system::{Choice, Ending, Key, Objects, Step, System};
use super::walk::Ground;

/// No such node, edge or saved state.
const NONE: u32 = u32::MAX;

/// The root's node.
const ROOT: u32 = 0;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphLimits {
    /// Memory, in bytes: half of it for the graph, half for saved states.
    pub memory_bytes: u64,
    /// What a saved state takes on average, in bytes.
    pub saved_bytes: u64,
}

/// What stands where from a node's place on.
mod cell {
    /// The state's hash, least significant word first.
    pub(super) const HASH: usize = 0;
    /// Index of the list of choices; of the empty list when the run ends here.
    pub(super) const OFFER: usize = 4;
    /// Index of the state that is kept, or [`super::NONE`].
    pub(super) const KEPT: usize = 5;
    /// Where the first choice's edge begins; the index of the ending when the run ends here.
    pub(super) const EDGES: usize = 6;
    /// Cells of an edge: the node that it leads to, or [`super::NONE`] when that is not known; and the index of what the move did.
    pub(super) const EDGE_LEN: usize = 2;
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    /// The node that it leads to.
    next: u32,
    /// Index of what the move did.
    made: u32,
}

/// A range of one of the lists.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: u32,
    len: u32,
}

impl Part {
    fn of<T>(self, list: &[T]) -> &[T] {
        &list[self.start as usize..][..self.len as usize]
    }
}

/// What a move did, as far as strategies and coverage ask.
#[derive(Debug, Clone, Copy)]
struct Made {
    actor: u16,
    label: Label,
    used: Objects,
    touches: Part,
    /// How many of these, in front, are on objects that there can be pairs on, as of this version of the tracker.
    pairing: u32,
    version: u32,
}

/// Things that are kept once, by a hash of their content.
#[derive(Debug, Clone, Default)]
struct Once {
    hashes: Vec<u128>,
    index: Index,
}

impl Once {
    fn find(&self, hash: u128) -> Option<u32> {
        self.index.find(hash as u64, |place| self.hashes[place as usize] == hash)
    }

    fn add(&mut self, hash: u128) -> u32 {
        let place = self.hashes.len() as u32;
        self.hashes.push(hash);
        self.index.insert(hash as u64, place);
        place
    }
}

/// A state to come back to.
#[derive(Debug, Clone)]
struct Kept<T> {
    node: u32,
    state: T,
    /// Whether somebody came back to it since it was last looked at.
    used: bool,
}

/// The known part of a system's state graph, from one root.
#[derive(Debug, Clone)]
pub(super) struct Graph<T> {
    states: Index,
    /// The nodes, one behind the other, as [`cell`] says. A node's number is the place where it begins; the root's is 0.
    cells: Vec<u32>,
    offered: Once,
    offers: Vec<Part>,
    choices: Vec<Choice>,
    done: Once,
    made: Vec<Made>,
    touches: Vec<u32>,
    endings: Vec<Ending>,
    /// The root's first.
    kept: Vec<Kept<T>>,
    /// Where to look next for one that can go.
    hand: usize,
    limits: GraphLimits,
    /// Memory of all lists but the saved states, about.
    used_bytes: u64,
    /// Moves that were made on known ground, and on the system.
    followed: u64,
    lived: u64,
    /// For hashing content.
    scratch: Vec<u8>,
}

impl<T: Clone> Graph<T> {
    /// Returns a graph of nothing but the root, in which the system stands.
    pub(super) fn new<S: System<Saved = T>>(system: &mut S, root: &T, limits: GraphLimits) -> Self {
        let mut graph = Self {
            states: Index::default(),
            cells: Vec::new(),
            offered: Once::default(),
            offers: Vec::new(),
            choices: Vec::new(),
            done: Once::default(),
            made: Vec::new(),
            touches: Vec::new(),
            endings: Vec::new(),
            kept: vec![Kept { node: ROOT, state: root.clone(), used: true }],
            hand: 0,
            limits,
            used_bytes: 0,
            followed: 0,
            lived: 0,
            scratch: Vec::new(),
        };
        system.put_back(root);
        let (hash, mut choices) = (system.hash(), Vec::new());
        system.choices(&mut choices);
        let ending = choices.is_empty().then(|| system.ending());
        let root = graph.add(hash, &choices, ending);
        assert_eq!(root, ROOT, "nothing stands before the root");
        graph.cells[root as usize + cell::KEPT] = 0;
        graph
    }

    /// Returns how many moves were made on known ground, and how many on the system.
    pub(super) fn moves(&self) -> (u64, u64) {
        (self.followed, self.lived)
    }

    /// States that are kept at least.
    const KEPT_MIN: u64 = 8;

    fn has_room(&self) -> bool {
        // The largest node, and more, fits behind the last place.
        self.used_bytes < self.limits.memory_bytes / 2 && self.cells.len() < (NONE - (1 << 20)) as usize
    }

    /// Keeps a node's state. Once there is no room for more, one goes that nobody came back to for a whole turn: schedules leave known ground at
    /// other places than they did in the beginning.
    fn keep(&mut self, node: u32, state: T) {
        let room = self.limits.memory_bytes / 2 / self.limits.saved_bytes.max(1);
        let kept = Kept { node, state, used: false };
        let index = if (self.kept.len() as u64) < room.max(Self::KEPT_MIN) {
            self.kept.push(kept);
            self.kept.len() - 1
        } else {
            loop {
                // Never the root's.
                self.hand = self.hand % (self.kept.len() - 1) + 1;
                if !std::mem::take(&mut self.kept[self.hand].used) {
                    break;
                }
            }
            self.cells[self.kept[self.hand].node as usize + cell::KEPT] = NONE;
            self.kept[self.hand] = kept;
            self.hand
        };
        self.cells[node as usize + cell::KEPT] = index as u32;
    }

    /// Adds a state.
    fn add(&mut self, hash: u128, choices: &[Choice], ending: Option<Ending>) -> u32 {
        assert_eq!(choices.is_empty(), ending.is_some(), "a run ends where nothing can move");
        let node = self.cells.len();
        let offer = self.offer(choices);
        self.cells.extend([hash as u32, (hash >> 32) as u32, (hash >> 64) as u32, (hash >> 96) as u32, offer, NONE]);
        match ending {
            Some(ending) => {
                let index = self.endings.iter().position(|known| *known == ending).unwrap_or_else(|| {
                    self.endings.push(ending);
                    self.endings.len() - 1
                });
                self.cells.push(index as u32);
            }
            None => self.cells.resize(node + cell::EDGES + choices.len() * cell::EDGE_LEN, NONE),
        }
        self.used_bytes += ((self.cells.len() - node) * size_of::<u32>()) as u64 + Index::BYTES;
        self.states.insert(hash as u64, node as u32);
        node as u32
    }

    /// Returns the node of a state, if it is known.
    fn find(&self, hash: u128) -> Option<u32> {
        self.states.find(hash as u64, |node| self.hash(node) == hash)
    }

    fn hash(&self, node: u32) -> u128 {
        let words = &self.cells[node as usize + cell::HASH..][..4];
        words.iter().rev().fold(0, |hash, word| hash << u32::BITS | u128::from(*word))
    }

    /// Returns a node's state, if it is kept.
    fn kept(&mut self, node: u32) -> Option<&T> {
        let index = self.cells[node as usize + cell::KEPT];
        let kept = self.kept.get_mut(index as usize)?;
        kept.used = true;
        Some(&kept.state)
    }

    fn offer(&mut self, choices: &[Choice]) -> u32 {
        self.scratch.clear();
        for Choice { id, actor, key, objects } in choices {
            let Key { kind, page } = key.unwrap_or(Key { kind: 0, page: 0 });
            let who = u64::from(*id) | u64::from(*actor) << 16 | u64::from(kind) << 32 | u64::from(page) << 48;
            self.scratch.extend(who.to_le_bytes());
            self.scratch.extend(objects.shared.to_le_bytes());
            self.scratch.extend(objects.changed.to_le_bytes());
            self.scratch.push(u8::from(key.is_some()));
        }
        let hash = xxh3_128(&self.scratch);
        self.offered.find(hash).unwrap_or_else(|| {
            self.offers.push(Part { start: self.choices.len() as u32, len: choices.len() as u32 });
            self.choices.extend_from_slice(choices);
            self.used_bytes += (size_of_val(choices) + size_of::<Part>()) as u64;
            self.offered.add(hash)
        })
    }

    fn made(&mut self, actor: u16, label: Label, used: Objects, touches: &[u32]) -> u32 {
        self.scratch.clear();
        self.scratch.extend(actor.to_le_bytes());
        self.scratch.extend(label.to_le_bytes());
        self.scratch.extend(used.shared.to_le_bytes());
        self.scratch.extend(used.changed.to_le_bytes());
        touches.iter().for_each(|touch| self.scratch.extend(touch.to_le_bytes()));
        let hash = xxh3_128(&self.scratch);
        self.done.find(hash).unwrap_or_else(|| {
            let touched = Part { start: self.touches.len() as u32, len: touches.len() as u32 };
            self.touches.extend_from_slice(touches);
            self.made.push(Made { actor, label, used, touches: touched, pairing: 0, version: NONE });
            self.used_bytes += (size_of_val(touches) + size_of::<Made>() + size_of::<u128>()) as u64;
            self.done.add(hash)
        })
    }

    /// Tells a tracker of a move that is known.
    fn show(&mut self, made: u32, tracker: &mut Tracker) -> Objects {
        let Made { actor, label, used, touches, pairing, version } = &mut self.made[made as usize];
        let touches = &mut self.touches[touches.start as usize..][..touches.len as usize];
        if *version != tracker.version() {
            (*pairing, *version) = (tracker.sort(touches), tracker.version());
        }
        tracker.moved(*actor, *label, &touches[..*pairing as usize]);
        *used
    }

    /// Returns the edge of a choice that was made at a node, if both its ends are known.
    fn edge(&self, node: u32, index: u32) -> Option<Edge> {
        if node == NONE {
            return None;
        }
        match self.cells[Self::edge_at(node, index)..][..cell::EDGE_LEN] {
            [NONE, _] => None,
            [next, made] => Some(Edge { next, made }),
            _ => unreachable!("an edge is two cells"),
        }
    }

    fn set_edge(&mut self, node: u32, index: u32, Edge { next, made }: Edge) {
        self.cells[Self::edge_at(node, index)..][..cell::EDGE_LEN].copy_from_slice(&[next, made]);
    }

    fn edge_at(node: u32, index: u32) -> usize {
        node as usize + cell::EDGES + index as usize * cell::EDGE_LEN
    }

    fn choices_at(&self, node: u32) -> &[Choice] {
        self.offers[self.cells[node as usize + cell::OFFER] as usize].of(&self.choices)
    }

    /// Returns the ending at a node where nothing can move.
    fn ending_at(&self, node: u32) -> &Ending {
        &self.endings[self.cells[node as usize + cell::EDGES] as usize]
    }
}

/// Buffers of a walk, for the next one.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    path: Vec<u32>,
    picks: Vec<u32>,
    offered: Vec<Choice>,
    before: Vec<Choice>,
    touches: Vec<u32>,
    strays: Vec<Stray>,
    /// What the strays touched, one behind the other.
    strays_touches: Vec<u32>,
}

/// A move of a walk that has no edge.
#[derive(Debug, Clone, Copy)]
struct Stray {
    /// Its place on the path.
    place: usize,
    actor: u16,
    label: Label,
    touches: Part,
}

/// A walk over known ground, and beyond it. At each place of its path, the node is known, or the system stands there.
pub(super) struct Known<'a, S: System> {
    system: &'a mut S,
    graph: &'a mut Graph<S::Saved>,
    tracker: &'a mut Tracker,
    buffers: &'a mut Buffers,
    /// The node, or [`NONE`].
    here: u32,
    /// The node before, or [`NONE`]: then the choices there are in the buffers.
    there: u32,
    used: Objects,
    /// Place on the path where the system stands.
    stands: Option<usize>,
    /// Whether the system was asked for its choices there.
    asked: bool,
}

impl<'a, S: System> Known<'a, S> {
    /// The most moves that are made again rather than saving the state behind them.
    const REPLAYED_MAX: usize = 3;

    /// Starts a walk at the root.
    pub(super) fn new(system: &'a mut S, graph: &'a mut Graph<S::Saved>, tracker: &'a mut Tracker, buffers: &'a mut Buffers) -> Self {
        buffers.path.clear();
        buffers.picks.clear();
        buffers.strays.clear();
        buffers.strays_touches.clear();
        buffers.path.push(ROOT);
        let used = Objects::default();
        Self { system, graph, tracker, buffers, here: ROOT, there: NONE, used, stands: None, asked: false }
    }

    /// Returns the hash of the state that the walk has reached.
    pub(super) fn hash(&mut self) -> u128 {
        match self.here {
            NONE => self.system.hash(),
            here => self.graph.hash(here),
        }
    }

    /// Follows a known move.
    fn follow(&mut self, Edge { next, made }: Edge) {
        self.graph.followed += 1;
        self.used = self.graph.show(made, self.tracker);
        self.here = next;
    }

    /// Brings the system to the walk's place, on known ground.
    fn catch_up(&mut self) {
        let place = self.buffers.path.len() - 1;
        if self.stands == Some(place) {
            return;
        }
        let passed = self.stands.map_or(0, |stands| stands + 1);
        let is_kept = |place: &usize| self.graph.cells[self.buffers.path[*place] as usize + cell::KEPT] != NONE;
        let start = match (passed..=place).rev().find(is_kept) {
            Some(start) => {
                self.system.put_back(self.graph.kept(self.buffers.path[start]).expect("just found"));
                start
            }
            // The root is saved, so the system stands on the path.
            None => passed - 1,
        };
        for at in start..place {
            let choice = self.graph.choices_at(self.buffers.path[at])[self.buffers.picks[at] as usize];
            self.system.choices(&mut self.buffers.offered);
            assert!(self.buffers.offered.contains(&choice), "{choice:?} is not offered where it was: the system is not deterministic");
            self.system.take(choice);
            self.graph.lived += 1;
        }
        (self.stands, self.asked) = (Some(place), false);
        if place - start > Self::REPLAYED_MAX {
            self.graph.keep(self.here, self.system.save());
        }
    }

    /// Makes a move on the system, and takes note of where it leads.
    fn live(&mut self, index: usize) {
        if self.here != NONE {
            self.catch_up();
            if !self.asked {
                self.system.choices(&mut self.buffers.offered);
            }
            let known = self.graph.choices_at(self.here).get(index);
            assert_eq!(self.buffers.offered.get(index), known, "states of equal hash do not offer the same");
        }
        let choice = self.buffers.offered[index];
        self.system.take(choice);
        self.graph.lived += 1;
        std::mem::swap(&mut self.buffers.offered, &mut self.buffers.before);
        let place = self.buffers.path.len();
        (self.stands, self.asked) = (Some(place), false);
        let label = self.see(&choice);
        let next = self.arrive();
        if self.here != NONE && next != NONE {
            let made = self.graph.made(choice.actor, label, self.used, &self.buffers.touches);
            self.graph.set_edge(self.here, index as u32, Edge { next, made });
        } else {
            let Buffers { touches, strays, strays_touches, .. } = &mut *self.buffers;
            let part = Part { start: strays_touches.len() as u32, len: touches.len() as u32 };
            strays_touches.extend_from_slice(touches);
            strays.push(Stray { place: place - 1, actor: choice.actor, label, touches: part });
        }
        self.here = next;
    }

    /// Tells the tracker of the move that the system has just made. What it touched is in the buffers then.
    fn see(&mut self, choice: &Choice) -> Label {
        let step: &Step = self.system.step();
        self.used = step.footprint.objects;
        self.buffers.touches.clear();
        self.tracker.touches(step, &mut self.buffers.touches);
        let label = self.tracker.label(choice, step);
        let version = self.tracker.version();
        self.tracker.meet(choice.actor, label, &self.buffers.touches);
        if version != self.tracker.version() {
            // The moves before were told without what this one has in common with them.
            self.tell_again();
        }
        self.tracker.moved(choice.actor, label, &self.buffers.touches);
        label
    }

    /// Tells the tracker of all moves up to the walk's place once more.
    fn tell_again(&mut self) {
        self.tracker.begin_again();
        let mut strays = self.buffers.strays.iter().peekable();
        for place in 0..self.buffers.path.len() - 1 {
            if let Some(stray) = strays.next_if(|stray| stray.place == place) {
                self.tracker.moved(stray.actor, stray.label, stray.touches.of(&self.buffers.strays_touches));
            } else {
                let edge = self.graph.edge(self.buffers.path[place], self.buffers.picks[place]).expect("a move is known, or a stray");
                self.graph.show(edge.made, self.tracker);
            }
        }
    }

    /// Returns the node of the system's state; [`NONE`] if there is no room for a new one. Then the buffers have the choices.
    fn arrive(&mut self) -> u32 {
        let hash = self.system.hash();
        if let Some(known) = self.graph.find(hash) {
            return known;
        }
        self.system.choices(&mut self.buffers.offered);
        self.asked = true;
        if !self.graph.has_room() {
            return NONE;
        }
        let ending = self.buffers.offered.is_empty().then(|| self.system.ending());
        self.graph.add(hash, &self.buffers.offered, ending)
    }
}

impl<S: System> Ground for Known<'_, S> {
    fn offered(&mut self) -> &[Choice] {
        match self.here {
            NONE => &self.buffers.offered,
            here => self.graph.choices_at(here),
        }
    }

    fn take(&mut self, index: usize) {
        self.there = self.here;
        let edge = self.graph.edge(self.here, index as u32);
        self.buffers.picks.push(index as u32);
        match edge {
            Some(edge) => self.follow(edge),
            None => self.live(index),
        }
        self.buffers.path.push(self.here);
    }

    fn before(&self) -> &[Choice] {
        match self.there {
            NONE => &self.buffers.before,
            there => self.graph.choices_at(there),
        }
    }

    fn used(&self) -> Objects {
        self.used
    }

    fn ending(&mut self) -> Ending {
        match self.here {
            NONE => self.system.ending(),
            here => self.graph.ending_at(here).clone(),
        }
    }
}
