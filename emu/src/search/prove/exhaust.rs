//! The search itself: several threads, each with a system of its own, walk depth first through states that they share.
//!
//! **The reduction.** When a move was made, it is known exactly what it changes: the difference that it makes to the state's hash, and its footprint.
//! As long as only moves are made that do not conflict with it, it waits unchanged, and where it would lead is known without making it: the hash is a
//! sum. If that state is in the table already, the move is not made. So in a single thread the moves that are not made are those of the sleep sets of
//! Godefroid; but since it is looked up that their targets were really found, no sleep set has to be stored with a state, and none re-explored
//! when the state is met again with a smaller one. Each state is entered, and each of its moves is either made or looked up: no state and no edge is
//! lost, whatever the threads' timing. Only how many moves were made depends on it.
//!
//! That rests on footprints and hashes that are exact. Predictions are checked by making the move all the same: all of the first, then a sample.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::graph::{BYTES_PER_STATE, Graph};
use super::table::{Edge, StateId, Table};
use super::{Covered, Fault, Options, Unsound};
use crate::search::system::{Choice, Ending, Footprint, Objects, System};

/// What a move used: a footprint that is cheap to hand on.
#[derive(Debug, Clone, Default)]
struct Used {
    objects: Objects,
    cells: Option<Arc<Footprint>>,
}

impl Used {
    fn new(footprint: &Footprint) -> Self {
        let cells = !footprint.looked.is_empty() || !footprint.changed.is_empty();
        Self { objects: footprint.objects, cells: cells.then(|| Arc::new(footprint.clone())) }
    }

    fn conflict(&self, other: &Used) -> bool {
        match (&self.cells, &other.cells) {
            (Some(own), Some(others)) => own.conflict(others),
            (Some(_), None) | (None, Some(_)) | (None, None) => self.objects.conflict(&other.objects),
        }
    }
}

/// What becomes of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Not yet looked at.
    Untried,
    /// Leads to this state.
    To(StateId),
    /// Not looked at from this state, since a local move comes first.
    Postponed,
}

/// A move that a state offers.
#[derive(Debug, Clone)]
struct Move {
    choice: Choice,
    way: Way,
    /// Whether the next two are known.
    known: bool,
    /// Whether it is made though its target is known.
    checked: bool,
    /// What it adds to the hash.
    adds: u128,
    used: Used,
}

/// A state that some of whose moves were not looked at yet.
#[derive(Debug)]
struct Frame<T> {
    arrival: Arrival,
    moves: Vec<Move>,
    /// Once it has been left.
    saved: Option<T>,
}

/// How a state was entered.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    state: StateId,
    hash: u128,
    /// From which state, by which move; not for a root.
    by: Option<(StateId, Choice)>,
}

enum Task<T> {
    Root(T),
    Frame(Frame<T>),
}

/// Work that waits for a thread that has none, and who waits for work.
struct Queue<T> {
    tasks: Vec<Task<T>>,
    /// Roots after the one that is worked on.
    roots: VecDeque<T>,
    roots_taken: usize,
    idle: usize,
    over: bool,
}

/// Why the search was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    None = 0,
    Budget = 1,
    Failure = 2,
    Defect = 3,
}

struct Shared<'a, T> {
    options: &'a Options<'a>,
    threads: usize,
    table: Table,
    queue: Mutex<Queue<T>>,
    wake: Condvar,
    /// Threads without work for which nothing was put aside yet.
    hungry: AtomicUsize,
    halt: AtomicU8,
    /// All endings that were seen, in the order of discovery.
    endings: Mutex<Vec<Ending>>,
    defect: Mutex<Option<Defect>>,
    states: AtomicU64,
    executed: AtomicU64,
    checked: AtomicU64,
    terminals: AtomicU64,
    failing: AtomicU64,
    frames: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Defect {
    arrival: Arrival,
    choice: Choice,
    fault: Fault,
}

/// What the search found.
pub(crate) struct Found {
    pub(crate) graph: Graph,
    /// By number, as the graph's terminal states refer to them. In no particular order.
    pub(crate) endings: Vec<Ending>,
    /// The roots' states, those behind which all is known, or to be known when the search stopped.
    pub(crate) roots: Vec<StateId>,
    /// How many of them are known with all that is behind them: the first ones.
    pub(crate) roots_done: usize,
    pub(crate) covered: Covered,
    pub(crate) checked: u64,
}

/// Finds all states behind each root, one root after the other, until the budget is spent. `system` serves the calling thread; each further thread makes
/// its own. A defect is told with the index of the root that its path starts from.
pub(crate) fn exhaust<S, F>(
    system: &mut S,
    factory: &F,
    roots: Vec<S::Saved>,
    options: &Options<'_>,
) -> Result<Found, (usize, Box<Unsound>)>
where
    S: System,
    F: Fn() -> S + Sync,
{
    let hashes: Vec<u128> = roots.iter().map(|root| hash_of(system, root)).collect();
    let shared = Shared::new(roots, options);
    std::thread::scope(|scope| {
        let shared = &shared;
        let helpers: Vec<_> = (1..shared.threads).map(|_| scope.spawn(|| Worker::new(&mut factory(), shared).run())).collect();
        Worker::new(system, shared).run();
        for helper in helpers {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    shared.into_found(&hashes)
}

fn hash_of<S: System>(system: &mut S, saved: &S::Saved) -> u128 {
    system.put_back(saved);
    system.hash()
}

impl<'a, T> Shared<'a, T> {
    fn new(roots: Vec<T>, options: &'a Options<'a>) -> Self {
        let queue = Queue { tasks: Vec::new(), roots: roots.into(), roots_taken: 0, idle: 0, over: false };
        Self {
            options,
            threads: options.threads.max(1),
            table: Table::new(),
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            hungry: AtomicUsize::new(0),
            halt: AtomicU8::new(Halt::None as u8),
            endings: Mutex::default(),
            defect: Mutex::default(),
            states: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            terminals: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().expect("no thread fails while it holds the queue")
    }

    fn halted(&self) -> bool {
        self.halt.load(Ordering::Relaxed) != Halt::None as u8
    }

    /// Ends the search. A defect is told, whatever else ended it before.
    fn stop(&self, why: Halt) {
        self.halt.fetch_max(why as u8, Ordering::Relaxed);
        let _queue = self.lock();
        self.wake.notify_all();
    }

    /// Waits for something to do. None: the search is over.
    fn next(&self) -> Option<Task<T>> {
        let mut queue = self.lock();
        queue.idle += 1;
        loop {
            if self.halted() || queue.over {
                self.wake.notify_all();
                return None;
            }
            if queue.tasks.is_empty() && queue.idle == self.threads {
                // Nobody is at work: all behind the last root is known.
                match queue.roots.pop_front() {
                    Some(root) => {
                        queue.tasks.push(Task::Root(root));
                        queue.roots_taken += 1;
                    }
                    None => {
                        queue.over = true;
                        continue;
                    }
                }
            }
            if let Some(task) = queue.tasks.pop() {
                queue.idle -= 1;
                self.note_hunger(&queue);
                return Some(task);
            }
            self.note_hunger(&queue);
            queue = self.wake.wait(queue).expect("no thread fails while it holds the queue");
        }
    }

    fn note_hunger(&self, queue: &Queue<T>) {
        self.hungry.store(queue.idle.saturating_sub(queue.tasks.len()), Ordering::Relaxed);
    }

    fn hand_over(&self, frame: Frame<T>) {
        let mut queue = self.lock();
        queue.tasks.push(Task::Frame(frame));
        self.note_hunger(&queue);
        self.wake.notify_one();
    }

    fn covered(&self) -> Covered {
        let states = self.states.load(Ordering::Relaxed);
        let frame = self.options.saved_bytes + (size_of::<Frame<T>>() + 4 * size_of::<Move>()) as u64;
        Covered {
            states,
            executed: self.executed.load(Ordering::Relaxed),
            terminals: self.terminals.load(Ordering::Relaxed),
            failing: self.failing.load(Ordering::Relaxed),
            memory_bytes: self.table.bytes() + states * BYTES_PER_STATE + self.frames.load(Ordering::Relaxed) * frame,
        }
    }

    /// Returns an ending's number.
    fn number(&self, ending: &Ending, own: &mut Vec<Ending>) -> u16 {
        if let Some(number) = own.iter().position(|known| known == ending) {
            return number as u16;
        }
        let mut endings = self.endings.lock().expect("no thread fails while it holds the endings");
        if !endings.contains(ending) {
            endings.push(ending.clone());
        }
        own.clone_from(&endings);
        let number = own.iter().position(|known| known == ending).expect("it was just put there");
        number.try_into().expect("endings are few")
    }

    fn into_found(self, hashes: &[u128]) -> Result<Found, (usize, Box<Unsound>)> {
        let (covered, halted) = (self.covered(), self.halted());
        let queue = self.queue.into_inner().expect("no thread failed");
        for task in queue.tasks {
            match task {
                Task::Frame(frame) => write(&self.table, &frame, false),
                Task::Root(_) => {}
            }
        }
        let roots: Vec<StateId> = hashes.iter().map_while(|hash| self.table.find(*hash)).collect();
        let graph = Graph::new(self.table);
        if let Some(Defect { arrival, choice, fault }) = self.defect.into_inner().expect("no thread failed") {
            let (parent, mover) = arrival.by.expect("a root knows nothing of its moves");
            let way = |root| Some((root, graph.shortest(roots[root], 1, |state, _| state == parent).pop()?));
            let (root, mut path) = (0..roots.len()).find_map(way).expect("all that was entered was entered from a root");
            path.push(mover.id);
            return Err((root, Box::new(Unsound { path, choice, fault })));
        }
        let endings = self.endings.into_inner().expect("no thread failed");
        let roots_done = queue.roots_taken - usize::from(halted && queue.roots_taken > 0);
        Ok(Found { graph, endings, roots, roots_done, covered, checked: self.checked.into_inner() })
    }
}

/// Notes where a state's moves lead: all, or those that are known so far.
fn write<T>(table: &Table, frame: &Frame<T>, all: bool) {
    let edges = frame.moves.iter().filter_map(|step| match step.way {
        Way::To(target) => Some(Edge { target, choice: step.choice.id }),
        Way::Untried | Way::Postponed => None,
    });
    table.set_edges(frame.arrival.state, all, edges);
}

/// What a thread counted and did not tell yet.
#[derive(Debug, Default)]
struct Tally {
    states: u64,
    executed: u64,
    checked: u64,
    terminals: u64,
    failing: u64,
}

struct Worker<'a, S: System> {
    system: &'a mut S,
    shared: &'a Shared<'a, S::Saved>,
    stack: VecDeque<Frame<S::Saved>>,
    /// Of the stack, as last told.
    frames_told: u64,
    /// What is known of the moves of the state that is entered next.
    inherited: Vec<Move>,
    choices: Vec<Choice>,
    /// Lists to use again.
    spare: Vec<Vec<Move>>,
    endings: Vec<Ending>,
    tally: Tally,
    /// States after which the tally is told.
    batch: u64,
    predictions: u64,
}

/// Ends the search when a thread panics: the others would wait for it.
impl<S: System> Drop for Worker<'_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(Halt::Defect);
        }
    }
}

impl<'a, S: System> Worker<'a, S> {
    fn new(system: &'a mut S, shared: &'a Shared<'a, S::Saved>) -> Self {
        const BATCH_MAX: u64 = 256;
        let batch = (shared.options.states / (8 * shared.threads as u64)).clamp(1, BATCH_MAX);
        Self {
            system,
            shared,
            stack: VecDeque::new(),
            frames_told: 0,
            inherited: Vec::new(),
            choices: Vec::new(),
            spare: Vec::new(),
            endings: Vec::new(),
            tally: Tally::default(),
            batch,
            predictions: 0,
        }
    }

    fn run(&mut self) {
        while let Some(task) = self.shared.next() {
            match task {
                Task::Frame(frame) => self.walk(None, Some(frame)),
                Task::Root(saved) => {
                    self.system.put_back(&saved);
                    let hash = self.system.hash();
                    let (state, new) = self.shared.table.insert(hash);
                    self.inherited.clear();
                    if new {
                        self.tally.states += 1;
                        self.walk(Some(Arrival { state, hash, by: None }), None);
                    }
                }
            }
            self.tell();
        }
    }

    /// Works until all that was begun here is done or handed over.
    fn walk(&mut self, mut here: Option<Arrival>, frame: Option<Frame<S::Saved>>) {
        self.stack.extend(frame);
        while !self.shared.halted() {
            let frame = match here.take() {
                Some(arrival) => self.open(arrival),
                None => match self.stack.pop_back() {
                    Some(frame) => {
                        self.system.put_back(frame.saved.as_ref().expect("saved when it was left"));
                        Some(self.look_up(frame))
                    }
                    None => return,
                },
            };
            here = frame.and_then(|frame| self.advance(frame));
            if self.tally.states >= self.batch {
                self.tell();
            }
        }
        for frame in self.stack.drain(..) {
            write(&self.shared.table, &frame, false);
        }
    }

    /// Asks the system's state for its moves, and takes over what is known of them. None: it has none, or something is wrong with them.
    fn open(&mut self, arrival: Arrival) -> Option<Frame<S::Saved>> {
        self.system.choices(&mut self.choices);
        if let Some(gone) = self.inherited.iter().find(|known| self.choices.iter().all(|choice| choice.id != known.choice.id)) {
            let choice = gone.choice;
            self.fail(arrival, choice, Fault::Gone);
            return None;
        }
        if self.choices.is_empty() {
            self.end(arrival);
            return None;
        }
        let local = match self.shared.options.local {
            true => self.choices.iter().position(|choice| self.system.is_local(choice)),
            false => None,
        };
        let mut moves = self.spare.pop().unwrap_or_default();
        for place in 0..self.choices.len() {
            let choice = self.choices[place];
            let way = if local.is_none_or(|local| local == place) { Way::Untried } else { Way::Postponed };
            let known = self.inherited.iter().position(|known| known.choice.id == choice.id).map(|known| self.inherited.swap_remove(known));
            moves.push(match known {
                Some(known) => {
                    let checked = way == Way::Untried && self.is_checked(arrival.hash.wrapping_add(known.adds));
                    Move { choice, way, checked, ..known }
                }
                None => Move { choice, way, known: false, checked: false, adds: 0, used: Used::default() },
            });
        }
        Some(self.look_up(Frame { arrival, moves, saved: None }))
    }

    /// Decides whether a prediction is checked: the first ones, then a sample that depends on the state that is predicted.
    fn is_checked(&mut self, predicted: u128) -> bool {
        self.predictions += 1;
        let (first, one_in) = (self.shared.options.check_first, u64::from(self.shared.options.check_one_in));
        self.predictions <= first || (one_in > 0 && ((predicted >> 40) as u64).is_multiple_of(one_in))
    }

    /// Resolves the moves whose target is known and was found.
    fn look_up(&self, mut frame: Frame<S::Saved>) -> Frame<S::Saved> {
        for step in frame.moves.iter_mut().filter(|step| step.way == Way::Untried && step.known && !step.checked) {
            if let Some(target) = self.shared.table.find(frame.arrival.hash.wrapping_add(step.adds)) {
                step.way = Way::To(target);
            }
        }
        frame
    }

    /// Makes the state's moves until one leads to a new state, which is returned. The system is in the frame's state.
    fn advance(&mut self, mut frame: Frame<S::Saved>) -> Option<Arrival> {
        let untried = |frame: &Frame<S::Saved>| frame.moves.iter().position(|step| step.way == Way::Untried);
        let mut next = untried(&frame);
        while let Some(place) = next {
            let more = frame.moves[place + 1..].iter().any(|step| step.way == Way::Untried);
            if more && frame.saved.is_none() {
                frame.saved = Some(self.system.save());
            }
            let arrival = match self.make(&mut frame, place) {
                Ok(arrival) => arrival,
                Err(fault) => {
                    self.fail(frame.arrival, frame.moves[place].choice, fault);
                    self.stack.push_back(frame);
                    return None;
                }
            };
            if arrival.is_some() {
                self.bequeath(&frame, place);
                match more {
                    true => self.put_aside(frame),
                    false => self.finish(frame),
                }
                return arrival;
            }
            next = untried(&frame);
            if next.is_some() {
                self.system.put_back(frame.saved.as_ref().expect("saved since there was more to do"));
            }
        }
        self.finish(frame);
        None
    }

    /// Makes a move. Returns the state behind it, if that is new.
    fn make(&mut self, frame: &mut Frame<S::Saved>, place: usize) -> Result<Option<Arrival>, Fault> {
        let Arrival { state: from, hash: before, .. } = frame.arrival;
        let step = &mut frame.moves[place];
        self.system.take(step.choice);
        let hash = self.system.hash();
        if step.known && before.wrapping_add(step.adds) != hash {
            return Err(Fault::Elsewhere);
        }
        if self.shared.options.reduce && !step.known {
            step.used = Used::new(&self.system.step().footprint);
            step.adds = hash.wrapping_sub(before);
            step.known = true;
        }
        match step.checked {
            true => self.tally.checked += 1,
            false => self.tally.executed += 1,
        }
        let (state, new) = self.shared.table.insert(hash);
        step.way = Way::To(state);
        self.tally.states += u64::from(new);
        Ok(new.then_some(Arrival { state, hash, by: Some((from, step.choice)) }))
    }

    /// Leaves to the next state what is known of moves that wait there unchanged.
    fn bequeath(&mut self, frame: &Frame<S::Saved>, place: usize) {
        let made = &frame.moves[place];
        self.inherited.clear();
        let waiting = frame.moves.iter().filter(|step| step.known && step.choice.actor != made.choice.actor);
        self.inherited.extend(waiting.filter(|step| !step.used.conflict(&made.used)).cloned());
    }

    /// Keeps a state for later, and gives the oldest one, which stands for the most work, to a thread that has none.
    fn put_aside(&mut self, frame: Frame<S::Saved>) {
        self.stack.push_back(frame);
        if self.shared.hungry.load(Ordering::Relaxed) > 0 {
            let oldest = self.stack.pop_front().expect("one was just put there");
            self.shared.hand_over(oldest);
        }
    }

    fn finish(&mut self, frame: Frame<S::Saved>) {
        write(&self.shared.table, &frame, true);
        let mut moves = frame.moves;
        moves.clear();
        self.spare.push(moves);
    }

    fn end(&mut self, arrival: Arrival) {
        let ending = self.system.ending();
        self.shared.table.set_ending(arrival.state, self.shared.number(&ending, &mut self.endings));
        self.tally.terminals += 1;
        if ending.is_failure() {
            self.tally.failing += 1;
            if self.shared.options.stop_at_first {
                self.shared.stop(Halt::Failure);
            }
        }
    }

    fn fail(&self, arrival: Arrival, choice: Choice, fault: Fault) {
        self.shared.defect.lock().expect("no thread fails while it holds this").get_or_insert(Defect { arrival, choice, fault });
        self.shared.stop(Halt::Defect);
    }

    /// Adds what was counted to what all threads counted, and asks whether to go on.
    fn tell(&mut self) {
        let Tally { states, executed, checked, terminals, failing } = std::mem::take(&mut self.tally);
        let shared = self.shared;
        for (total, more) in [
            (&shared.states, states),
            (&shared.executed, executed),
            (&shared.checked, checked),
            (&shared.terminals, terminals),
            (&shared.failing, failing),
        ] {
            total.fetch_add(more, Ordering::Relaxed);
        }
        let frames = self.stack.len() as u64;
        shared.frames.fetch_add(frames.wrapping_sub(self.frames_told), Ordering::Relaxed);
        self.frames_told = frames;
        let covered = shared.covered();
        let spent = covered.states > shared.options.states || covered.memory_bytes > shared.options.memory_bytes;
        if !shared.halted() && (spent || (shared.options.stop)(&covered)) {
            shared.stop(Halt::Budget);
        }
    }
}
