//! Many schedules on many threads, with one result.
//!
//! Work is cut into blocks of consecutive seeds. What a block gives depends on its number and the options alone: not on the threads, nor on what else was
//! run, nor on how much memory there was. Blocks are handed out in order, and their results are delivered in that order; when the search is stopped,
//! results of all blocks up to the last that was delivered are there.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use xxhash_rust::xxh3::xxh3_64;

use super::block::BlockResult;
use super::context::Context;
use super::graph::GraphLimits;
use super::strategy::Portfolio;
use super::system::System;
use super::walk::{Pilot, Run};

/// Stack of a thread that searches, bytes: that of a main thread, since unoptimised builds have large frames.
const STACK_BYTES: usize = 8 << 20;

/// How many blocks a thread may be ahead of the last result that was delivered.
const AHEAD_MAX: u64 = 16;

/// What is searched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The first seed; schedule number `i` has seed `seed + i`.
    pub seed: u64,
    /// Schedules in a block.
    pub block_len: u32,
    /// After how many moves a schedule is given up.
    pub moves_max: u32,
    /// Which seed is drawn how.
    pub portfolio: Portfolio,
    /// How many variants of the system there are; blocks take turns.
    pub variants: u32,
    /// Threads. Changes no result.
    pub threads: usize,
    /// How much may be kept of what is known of states, by all threads together; `None`: nothing. Changes no result.
    pub graph: Option<GraphLimits>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            block_len: 64,
            moves_max: 10_000,
            portfolio: Portfolio::default(),
            variants: 1,
            threads: 1,
            graph: Some(GraphLimits { memory_bytes: 256 << 20, saved_bytes: 64 << 10 }),
        }
    }
}

impl Options {
    /// Returns the seed of a block's first schedule. Seeds go on at 0 behind the largest.
    pub fn first_seed(&self, block: u64) -> u64 {
        self.seed.wrapping_add(self.first_schedule(block))
    }

    /// Returns the number of a block's first schedule.
    pub fn first_schedule(&self, block: u64) -> u64 {
        block.checked_mul(self.block_len.into()).expect("no more schedules than seeds")
    }

    /// Returns the variant that a block searches.
    pub fn variant(&self, block: u64) -> u32 {
        (block % u64::from(self.variants)) as u32
    }
}

/// A part of all blocks: `1/4` to `4/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1.
    number: u32,
    /// Of how many.
    of: u32,
}

impl Shard {
    /// All blocks.
    pub const ALL: Shard = Shard { number: 1, of: 1 };

    /// Returns part `number` of `of`, if there is one.
    pub fn new(number: u32, of: u32) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// Returns whether a block of a search with this first seed is in the part. Stable for good.
    pub fn has(&self, seed: u64, block: u64) -> bool {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..].copy_from_slice(&block.to_le_bytes());
        xxh3_64(&bytes) % u64::from(self.of) == u64::from(self.number - 1)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// A text that names no shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoShard(pub String);

impl fmt::Display for NoShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no shard: expected K/N, with K from 1 to N", self.0)
    }
}

impl std::error::Error for NoShard {}

impl FromStr for Shard {
    type Err = NoShard;

    fn from_str(text: &str) -> Result<Self, NoShard> {
        let shard = || {
            let (number, of) = text.split_once('/')?;
            Shard::new(number.parse().ok()?, of.parse().ok()?).filter(|shard| shard.to_string() == text)
        };
        shard().ok_or_else(|| NoShard(text.to_owned()))
    }
}

/// How a search came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// All blocks were delivered.
    Done,
    /// It was stopped before.
    Stopped,
}

/// A search of all variants of a system. A variant's system is made in the state that its schedules start in.
#[derive(Debug, Clone)]
pub struct Explorer<F> {
    options: Options,
    factory: F,
}

impl<S: System, F: Fn(u32) -> S + Sync> Explorer<F> {
    /// Returns a search. The factory makes a variant's system, the same each time, for the thread that calls it.
    pub fn new(options: Options, factory: F) -> Self {
        let Options { block_len, moves_max, variants, threads, .. } = options;
        assert!(block_len > 0 && moves_max > 0, "blocks of {block_len} schedules of {moves_max} moves");
        assert!(variants > 0 && threads > 0, "{variants} variants, {threads} threads");
        Self { options, factory }
    }

    /// Returns the options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs the schedule of one seed again, on a new system.
    pub fn schedule(&self, variant: u32, seed: u64) -> Run {
        self.context(variant).schedule(&self.options, seed)
    }

    /// Returns what the strategies know of a variant beforehand.
    pub fn pilot(&self, variant: u32) -> Pilot {
        self.context(variant).pilot().clone()
    }

    /// Runs blocks, and gives their results to the sink, which runs on the calling thread, in the order of the list. The sink ends the search by breaking
    /// it off, and anybody else by setting `stop`: then, blocks that are being run are given up.
    pub fn run<B>(&self, blocks: B, stop: &AtomicBool, mut sink: impl FnMut(BlockResult) -> ControlFlow<()>) -> Finish
    where
        B: IntoIterator<Item = u64>,
        B::IntoIter: Send,
    {
        let desk = Desk::new(blocks.into_iter(), AHEAD_MAX * self.options.threads as u64);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.options.threads {
                let (desk, sender) = (&desk, sender.clone());
                let work = move || self.work(desk, stop, &sender);
                thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
            }
            drop(sender);
            let (mut waiting, mut delivered) = (BTreeMap::new(), 0);
            for (place, result) in receiver {
                waiting.insert(place, result);
                while let Some(result) = waiting.remove(&delivered) {
                    delivered += 1;
                    desk.delivered(delivered);
                    if sink(result).is_break() {
                        desk.close();
                        return;
                    }
                }
            }
        });
        desk.finish()
    }

    fn work<B: Iterator<Item = u64>>(&self, desk: &Desk<B>, stop: &AtomicBool, sender: &Sender<(u64, BlockResult)>) {
        let _guard = CloseOnPanic(desk);
        let halted = || stop.load(Ordering::Relaxed) || desk.closed.load(Ordering::Relaxed);
        let mut contexts: Vec<Context<S>> = Vec::new();
        while let Some((place, block)) = desk.next() {
            let variant = self.options.variant(block);
            // The one used last stands last; the one not used for longest makes room.
            let mut context = match contexts.iter().position(|context| context.variant() == variant) {
                Some(at) => contexts.remove(at),
                None => {
                    if contexts.len() == self.kept_max() {
                        contexts.remove(0);
                    }
                    self.context(variant)
                }
            };
            let Some(result) = context.block(&self.options, block, &halted) else {
                return desk.close();
            };
            contexts.push(context);
            if sender.send((place, result)).is_err() {
                return;
            }
        }
    }

    /// How many variants' systems a thread keeps.
    fn kept_max(&self) -> usize {
        const KEPT_MAX: usize = 16;
        KEPT_MAX.min(self.options.variants as usize)
    }

    fn context(&self, variant: u32) -> Context<S> {
        let share = (self.options.threads * self.kept_max()) as u64;
        let limits = self.options.graph.map(|limits| GraphLimits { memory_bytes: limits.memory_bytes / share, ..limits });
        Context::new((self.factory)(variant), variant, self.options.moves_max, limits)
    }
}

/// Where threads get their blocks.
struct Desk<B> {
    state: Mutex<Issue<B>>,
    moved_on: Condvar,
    ahead_max: u64,
    /// Whether nothing more is handed out, because the search ends before its time.
    closed: AtomicBool,
}

struct Issue<B> {
    blocks: B,
    issued: u64,
    delivered: u64,
    exhausted: bool,
}

impl<B: Iterator<Item = u64>> Desk<B> {
    fn new(blocks: B, ahead_max: u64) -> Self {
        let state = Mutex::new(Issue { blocks, issued: 0, delivered: 0, exhausted: false });
        Self { state, moved_on: Condvar::new(), ahead_max, closed: AtomicBool::new(false) }
    }

    /// Returns the next block, and its place in the order; waits while results are too far behind.
    fn next(&self) -> Option<(u64, u64)> {
        let full = |issue: &mut Issue<B>| issue.issued - issue.delivered >= self.ahead_max && !self.closed.load(Ordering::Relaxed);
        let mut issue = self.moved_on.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let next = issue.blocks.next();
        issue.exhausted |= next.is_none();
        let place = issue.issued;
        issue.issued += u64::from(next.is_some());
        next.map(|block| (place, block))
    }

    fn finish(&self) -> Finish {
        let issue = self.lock();
        if issue.exhausted && issue.delivered == issue.issued { Finish::Done } else { Finish::Stopped }
    }
}

impl<B> Desk<B> {
    fn lock(&self) -> MutexGuard<'_, Issue<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self, delivered: u64) {
        self.lock().delivered = delivered;
        self.moved_on.notify_all();
    }

    fn close(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _issue = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.moved_on.notify_all();
    }
}

/// Closes the desk when its thread panics: the others would wait for a result that never comes, and the panic would never be seen.
struct CloseOnPanic<'a, B>(&'a Desk<B>);

impl<B> Drop for CloseOnPanic<'_, B> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}
