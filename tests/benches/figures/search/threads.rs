//! The same race on three threads under shuttle, a tester of threads by random schedules (Apache-2.0).
//!
//! In what sense it is equivalent to [`super::model`]: the three actors are three threads; each makes the same moves in the same order, by the same
//! code on the same state; and before each move stands exactly one operation on one of shuttle's atomics, which is exactly one scheduling point.
//! Since nobody waits in the model, nobody does here, and a schedule has as many scheduling points as the model has moves, and a handful for the start
//! of two threads and their ends; [`points`] counts them. What happens at a point differs: shuttle switches stacks, draws at random, and keeps the
//! schedule for a replay; a search of ours draws by several strategies, and takes note of orders of conflicting events, of final states and endings.

use std::sync::{Arc, Mutex, PoisonError};

use shuttle::scheduler::{RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{Config, FailurePersistence, Runner, thread};

use super::model::{BALLOON, GUEST, MIGRATION, Size, State};

struct Shared {
    point: AtomicUsize,
    /// Never held across a scheduling point.
    state: Mutex<State>,
}

impl Shared {
    fn run(&self, size: Size, actor: u16) {
        for _ in 0..size.moves_of(actor) {
            self.point.fetch_add(1, Ordering::SeqCst);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = state.next(size, actor).expect("a move is left");
            state.act(actor, kind, false);
        }
    }
}

fn race(size: Size) {
    let shared = Arc::new(Shared { point: AtomicUsize::new(0), state: Mutex::new(State::new()) });
    let others = [GUEST, BALLOON].map(|actor| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.run(size, actor))
    });
    shared.run(size, MIGRATION);
    others.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
    assert!(!shared.state.lock().unwrap_or_else(PoisonError::into_inner).is_lost());
}

fn config() -> Config {
    let mut config = Config::default();
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config
}

/// Runs so many random schedules.
pub(super) fn run(size: Size, schedules: usize) {
    Runner::new(RandomScheduler::new_from_seed(1, schedules), config()).run(move || race(size));
}

/// Counts the points at which somebody was chosen among several.
struct Counting {
    inner: RandomScheduler,
    points: Arc<std::sync::atomic::AtomicUsize>,
}

impl Scheduler for Counting {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.inner.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        self.points.fetch_add(1, Ordering::Relaxed);
        self.inner.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

/// Returns the scheduling points of a schedule, on average, rounded.
pub(super) fn points(size: Size) -> usize {
    const SCHEDULES: usize = 1000;
    let points = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let scheduler = Counting { inner: RandomScheduler::new_from_seed(1, SCHEDULES), points: Arc::clone(&points) };
    Runner::new(scheduler, config()).run(move || race(size));
    (points.load(Ordering::Relaxed) + SCHEDULES / 2) / SCHEDULES
}
