//! Runs on several threads, results in order.
//!
//! A world lives on one thread from its start to its end; threads share nothing but the list of jobs. Results are handed over in the jobs'
//! order, so what is printed does not depend on who was faster.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::OnInterrupt;

/// Stack of a thread that runs worlds, bytes: that of a main thread, since unoptimised builds have large frames.
const STACK_BYTES: usize = 8 << 20;

/// How the jobs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All results were handed over.
    Done,
    /// The user asked to stop after this many results.
    Interrupted(usize),
}

enum Message<T> {
    Result(usize, T),
    Interrupt,
}

/// Jobs and the place of the next one.
struct Queue<J> {
    jobs: Vec<J>,
    next: AtomicUsize,
    stop: AtomicBool,
}

/// Does all jobs on up to `threads` threads and hands their results over in order. After an interrupt no further job starts, and those
/// that run are left behind: they hold nothing but memory.
pub(super) fn run<J, T>(jobs: Vec<J>, threads: usize, work: fn(&J) -> T, on_interrupt: OnInterrupt<'_>, mut each: impl FnMut(T)) -> End
where
    J: Send + Sync + 'static,
    T: Send + 'static,
{
    assert!(threads > 0, "no thread to work on");
    let total = jobs.len();
    let queue = Arc::new(Queue { jobs, next: AtomicUsize::new(0), stop: AtomicBool::new(false) });
    let (sender, receiver) = mpsc::channel();
    interrupt_through(sender.clone(), Arc::clone(&queue), on_interrupt);
    for _ in 0..threads.min(total) {
        let (queue, sender) = (Arc::clone(&queue), sender.clone());
        let worker = move || {
            while let ControlFlow::Continue(()) = one(&queue, work, &sender) {}
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(worker).expect("a thread");
    }
    drop(sender);
    let mut waiting = BTreeMap::new();
    let mut done = 0;
    while done < total {
        match receiver.recv().expect("workers live as long as there are jobs") {
            Message::Result(index, result) => {
                waiting.insert(index, result);
            }
            Message::Interrupt => {
                queue.stop.store(true, Ordering::Relaxed);
                return End::Interrupted(done);
            }
        }
        while let Some(result) = waiting.remove(&done) {
            each(result);
            done += 1;
        }
    }
    End::Done
}

fn interrupt_through<J, T>(sender: Sender<Message<T>>, queue: Arc<Queue<J>>, on_interrupt: OnInterrupt<'_>)
where
    J: Send + Sync + 'static,
    T: Send + 'static,
{
    on_interrupt(Box::new(move || {
        queue.stop.store(true, Ordering::Relaxed);
        // Nobody listens any more when all is done: then there is nothing to stop.
        let _ = sender.send(Message::Interrupt);
    }));
}

/// Does the next job, if there is one.
fn one<J, T>(queue: &Queue<J>, work: fn(&J) -> T, sender: &Sender<Message<T>>) -> ControlFlow<()> {
    if queue.stop.load(Ordering::Relaxed) {
        return ControlFlow::Break(());
    }
    let index = queue.next.fetch_add(1, Ordering::Relaxed);
    let Some(job) = queue.jobs.get(index) else { return ControlFlow::Break(()) };
    match sender.send(Message::Result(index, work(job))) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A job that ends only after another one has spoken, or speaks itself.
    struct Turn {
        number: usize,
        hears: Option<Mutex<mpsc::Receiver<()>>>,
        speaks: Option<Sender<()>>,
    }

    fn take_turn(turn: &Turn) -> usize {
        if let Some(hears) = &turn.hears {
            hears.lock().expect("one user").recv().expect("the other job speaks");
        }
        if let Some(speaks) = &turn.speaks {
            speaks.send(()).expect("the other job listens");
        }
        turn.number
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_though_the_second_ends_first() {
        let (sender, receiver) = mpsc::channel();
        let first = Turn { number: 0, hears: Some(Mutex::new(receiver)), speaks: None };
        let second = Turn { number: 1, hears: None, speaks: Some(sender) };
        let mut results = Vec::new();
        let end = run(vec![first, second], 2, take_turn, &mut |_| {}, |result| results.push(result));
        assert_eq!((end, results), (End::Done, vec![0, 1]));
    }

    #[test]
    fn nothing_starts_after_an_interrupt() {
        let mut results = Vec::new();
        let end = run(vec![1, 2, 3], 1, |job| *job, &mut |mut stop| stop(), |result| results.push(result));
        assert_eq!((end, results), (End::Interrupted(0), Vec::new()));
    }

    #[test]
    fn no_jobs_are_done_at_once() {
        assert_eq!(run(Vec::<u8>::new(), 4, |job| *job, &mut |_| {}, |_| {}), End::Done);
    }
}
