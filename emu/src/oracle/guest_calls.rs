//! Rules about what guest code does, and in which order: those of I1–I22 that no single state of its memory shows.
//!
//! Told by the guest's tracepoints as they are said, with what the vCPU knows of itself at that moment ([`Said`]), and by the device's events.
//! Nothing here is part of a state's hash: searches do without these rules, and the run that a finding is told from has them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use fixedbitset::FixedBitSet;
use host::event::{Event, HintElement, PageRange, Pfn};
use host::memory::GuestRam;
use wire::debug::{self, lock};
use wire::layout::{KernelInfo, page};
use wire::platform::MAX_VCPUS;
use wire::virtio::status;

use super::guest_mm::steps::Held;
use super::guest_mm::{is_type, read_info};
use crate::outcome::{Blame, Verdict, Violation};

/// I15: what the device takes under a head of the hint queue lies in the block that the driver announced when it exposed that head; and a buffer of the
/// queues for inflation, deflation and reports is, when the device takes it, what it was when the driver exposed it: its descriptors and what it may read.
///
/// Source: VIRTIO 1.2 §2.7.13, S19. In the hint queue looked at where a buffer holds one announced block. Misses: statistics, and the ids, whose buffers Linux
/// writes over while a device may still read them (docs/findings tell of that); what is altered behind the device's look, and what is restored before
/// it. Cannot alarm falsely: a copy from behind the exposure is compared with the bytes at the step that took the buffer, and the device reads them then.
pub const EXPOSED_IS_UNCHANGED: &str = "guest-exposed-element-is-unchanged";

/// I16: no mutex is tried by an interrupt's handler, with interrupts disabled, or under a spin lock of the same vCPU: it may sleep.
///
/// Source: Linux: Documentation/locking/mutex-design.rst. Cannot alarm falsely: who holds a spin lock does not leave its vCPU. Not asked of a
/// driver that answers requests in its interrupt, as posted (`Manners`): that is its flaw S6, and scenarios of that name show where it bites.
pub const NO_MUTEX_IN_ATOMIC: &str = "guest-no-mutex-in-atomic";

/// I16: an interrupt's handler does not enable interrupts, as `spin_unlock_irq` in one would.
pub const INTERRUPTS_STAY_OFF: &str = "guest-interrupts-stay-off-in-handlers";

/// I16: the kinds of spin locks are taken in an order without circles. Found without the deadlock that it may lead to.
///
/// Source: Linux: kernel/locking/lockdep.c; a successful trylock waits for nobody, so it comes behind no other. Misses: two locks of one
/// kind, and the page lock, which has no tracepoint.
pub const LOCK_ORDER: &str = "guest-lock-order";

/// I16: a thread that holds `balloon_lock` allocates no page where it may sleep: the allocation may need the balloon to deflate (B5).
///
/// Source: Linux: fill_balloon() since c7cdff0e8647. Misses: allocations under a spin lock or in interrupts, which reclaim nothing. Not asked of
/// drivers that were posted before that (`Manners`).
pub const NO_ALLOCATION_UNDER_BALLOON_LOCK: &str = "guest-no-allocation-under-balloon-lock";

/// I17: a page is told as inflated once until it is told as deflated, and the other way round; page 0 never is.
///
/// Forgotten at a reset, where a device forgets its balloon. Cannot alarm falsely: the tracepoints stand for what is put into the buffer.
pub const TOLD_ONCE: &str = "guest-told-once";

/// I18: a page that is told as inflated is the balloon's: Offline, with a reference.
pub const TOLD_IS_OWNED: &str = "guest-told-is-owned";

/// I20: between a reset of the device and the next FEATURES_OK nothing is put into a queue, and none is kicked.
///
/// Source: VIRTIO 1.2 §3.1.1, §3.3.1. Linux fills the statistics queue before DRIVER_OK, so that this asks for no more.
pub const NO_QUEUE_AFTER_RESET: &str = "guest-no-queue-after-reset";

/// Bytes of a thread's stack, and its alignment: who runs is told by where the stack pointer points. Linux: THREAD_SIZE.
const STACK_BYTES: u64 = 1 << 14;

/// A tracepoint, and the state of the vCPU that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub cpu: usize,
    /// One of [`wire::debug`]'s codes.
    pub code: u32,
    /// First argument.
    pub a: u64,
    /// Second argument.
    pub b: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Interrupts are enabled.
    pub irqs_enabled: bool,
    /// In an interrupt's handler.
    pub in_handler: bool,
}

/// What a driver does as it was posted, and is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manners {
    /// Answers requests in the queue's interrupt, and takes a mutex there (S6).
    pub(crate) mutex_in_interrupt: bool,
    /// Allocates under `balloon_lock`, as all drivers did before B5 was found.
    pub(crate) allocates_under_lock: bool,
}

/// What guest code has done so far, as far as rules need it.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    manners: Manners,
    /// How many hold or try each kind of lock.
    tried: [u32; lock::NAMES.len() + 1],
    /// Spin locks that each vCPU holds, in the order of taking.
    spins: [Vec<u64>; MAX_VCPUS],
    /// Bit `b` of word `a`: a lock of kind `b` was waited for under one of kind `a`.
    orders: [u64; lock::NAMES.len() + 1],
    /// The driver has taken `balloon_lock` at some time.
    has_balloon_lock: bool,
    /// The thread that holds `balloon_lock`, or tries to, by its stack.
    balloon_threads: BTreeSet<u64>,
    /// Frames that are told as inflated.
    told: FixedBitSet,
    /// Frames that the device has been told of, and not taken.
    exposed: FixedBitSet,
    /// Blocks that each vCPU has announced as hints and not exposed yet.
    announced: [Vec<PageRange>; MAX_VCPUS],
    /// The queue that hints go into, once one has.
    hint_queue: Option<u64>,
    /// Blocks by the heads that they are exposed under.
    hints: BTreeMap<u16, PageRange>,
    /// The last status that the driver wrote.
    status: u32,
    broken: Vec<(&'static str, Option<u64>, String)>,
}

impl Calls {
    /// Returns what is known of a guest with so many pages before its first instruction.
    pub(crate) fn new(pages: u64, manners: Manners) -> Self {
        let none = FixedBitSet::with_capacity(usize::try_from(pages).expect("64-bit host"));
        Self {
            manners,
            tried: Default::default(),
            spins: Default::default(),
            orders: Default::default(),
            has_balloon_lock: false,
            balloon_threads: BTreeSet::new(),
            told: none.clone(),
            exposed: none,
            announced: Default::default(),
            hint_queue: None,
            hints: BTreeMap::new(),
            status: 0,
            broken: Vec::new(),
        }
    }

    /// Returns the frames of a block, cut to RAM.
    fn block(&self, said: &Said) -> Range<usize> {
        let order = (said.b & 0xff).min(u64::from(wire::layout::MAX_PAGE_ORDER));
        let cut = |pfn: u64| pfn.min(self.told.len() as u64) as usize;
        cut(said.a)..cut(said.a.saturating_add(1 << order))
    }

    /// Returns which locks that rules ask for are held or tried.
    pub(crate) fn held(&self) -> Held {
        let tried = |kind: u64| self.tried[kind as usize] > 0;
        // A driver without that lock, as the one of 2012, has moments at which its counts do not agree, and nothing tells of them.
        let balloon = tried(lock::BALLOON) || !self.has_balloon_lock;
        Held { balloon, pages: tried(lock::PAGES), free_page_list: tried(lock::FREE_PAGE_LIST) }
    }

    /// Returns the frames that a device may still work on.
    pub(crate) fn exposed(&self) -> &FixedBitSet {
        &self.exposed
    }

    /// Returns what was broken since the last call.
    pub(crate) fn take_broken(&mut self) -> impl Iterator<Item = Violation> + use<> {
        std::mem::take(&mut self.broken).into_iter().map(|(rule, pfn, what)| Violation {
            rule,
            verdict: Verdict::BrokenRule,
            page: pfn.map(Pfn),
            write: None,
            doom: None,
            blame: Blame::Guest,
            cause: None,
            what,
        })
    }

    fn broken(&mut self, rule: &'static str, pfn: Option<u64>, what: String) {
        self.broken.push((rule, pfn, what));
    }

    /// Interrupts were enabled in a handler, at this place in guest code.
    pub(crate) fn enabled_in_handler(&mut self, place: &str) {
        self.broken(INTERRUPTS_STAY_OFF, None, format!("an interrupt's handler enables interrupts at {place}"));
    }

    /// Takes note of a tracepoint, before the vCPU goes on.
    pub(crate) fn said(&mut self, said: &Said, ram: &GuestRam) {
        match said.code {
            debug::LOCK => self.lock(said, ram),
            debug::SPIN | debug::UNLOCK => self.unlock(said),
            debug::ALLOC => self.alloc(said),
            debug::FREE => {
                if let Some(pfn) = self.block(said).find(|pfn| self.exposed.contains(*pfn)) {
                    let pfn = pfn as u64;
                    let rule = super::guest_mm::EXPOSED_IS_NOT_FREE;
                    self.broken(rule, Some(pfn), format!("page {pfn:#x} is freed, and the device has not taken note of it yet"));
                }
            }
            debug::INFLATE => self.inflate(said.a, ram),
            debug::DEFLATE => {
                let pfn = said.a as usize;
                if !self.told.contains(pfn) {
                    self.broken(TOLD_ONCE, Some(said.a), format!("page {:#x} is told as deflated, and was not told as inflated", said.a));
                } else {
                    self.told.remove(pfn);
                }
            }
            debug::REPORT => self.exposed.insert_range(self.block(said)),
            debug::HINT => {
                let block = self.block(said);
                self.announced[said.cpu].push(PageRange::new(Pfn(block.start as u64), block.len() as u64));
            }
            debug::VQ_ADD => {
                let announced = std::mem::take(&mut self.announced[said.cpu]);
                if !announced.is_empty() {
                    self.hint_queue = Some(said.a);
                }
                if let [block] = announced.as_slice() {
                    self.hints.insert(said.b as u16, *block);
                } else if self.hint_queue == Some(said.a) {
                    self.hints.remove(&(said.b as u16));
                }
                self.queue_used(said.a, "gets a buffer");
            }
            debug::KICK => self.queue_used(said.a, "is kicked"),
            _ => {}
        }
    }

    /// Takes note of what the device does.
    pub(crate) fn happened(&mut self, event: &Event) {
        match event {
            Event::DeviceStatus { status: 0 } => {
                self.status = 0;
                self.exposed.clear();
                self.told.clear();
                self.hints.clear();
            }
            Event::DeviceStatus { status } => self.status = *status,
            Event::BalloonInflate { pfn } => self.took(PageRange::page(*pfn)),
            // Reports may come into a queue that is the device's for hints.
            Event::BalloonReport { range } | Event::HintIgnore { range, .. } => self.took(*range),
            Event::HintPop { head, element: HintElement::Pages(taken) } => {
                if let Some(block) = self.hints.get(head).filter(|block| !(block.first <= taken.first && taken.end() <= block.end())) {
                    let what = format!("the device takes {taken} under head {head}, under which the driver exposed {block}");
                    self.broken(EXPOSED_IS_UNCHANGED, Some(taken.first.0), what);
                }
            }
            Event::HintPop { head, element: HintElement::Id(_) | HintElement::Malformed(_) } => {
                self.hints.remove(head);
            }
            _ => {}
        }
    }

    /// The device has taken note of pages.
    fn took(&mut self, range: PageRange) {
        let cut = |pfn: u64| pfn.min(self.exposed.len() as u64) as usize;
        self.exposed.remove_range(cut(range.first.0)..cut(range.first.0.saturating_add(range.count)));
    }

    fn lock(&mut self, said: &Said, ram: &GuestRam) {
        let kind = said.a;
        let Some(tried) = self.tried.get_mut(kind as usize) else { return };
        *tried += 1;
        let name = |kind: u64| lock::NAMES.get((kind as usize).wrapping_sub(1)).copied().unwrap_or("?");
        if lock::SLEEPING.contains(&kind) {
            let held = self.spins[said.cpu].last().copied();
            if let Some(why) = atomic(said, held.map(name))
                && !self.manners.mutex_in_interrupt
            {
                self.broken(NO_MUTEX_IN_ATOMIC, None, format!("vcpu{} tries {} {why}", said.cpu, name(kind)));
            }
            if kind == lock::BALLOON {
                self.has_balloon_lock = true;
                self.balloon_threads.insert(said.stack / STACK_BYTES);
            }
            return;
        }
        // Behind a trylock that succeeded the word is this vCPU's already.
        let word = if said.b.checked_add(4).is_some_and(|end| end <= ram.bytes()) { ram.read_u32(said.b) } else { 0 };
        if word != said.cpu as u32 + 1 {
            for held in self.spins[said.cpu].clone() {
                self.orders[held as usize] |= 1 << kind;
                if held != kind && self.leads(kind, held) {
                    let what = format!("{} is waited for under {}, which is waited for under it elsewhere", name(kind), name(held));
                    self.broken(LOCK_ORDER, None, what);
                }
            }
        }
        self.spins[said.cpu].push(kind);
    }

    /// Returns whether a lock of kind `to` was waited for under one of kind `from`, or under one that was, and so on.
    fn leads(&self, from: u64, to: u64) -> bool {
        let mut reached = self.orders[from as usize];
        loop {
            let further = (0..self.orders.len()).filter(|kind| reached >> kind & 1 == 1).fold(reached, |all, kind| all | self.orders[kind]);
            if further == reached {
                return reached >> to & 1 == 1;
            }
            reached = further;
        }
    }

    fn unlock(&mut self, said: &Said) {
        let Some(tried) = self.tried.get_mut(said.a as usize) else { return };
        *tried = tried.saturating_sub(1);
        if lock::SLEEPING.contains(&said.a) {
            if said.a == lock::BALLOON {
                self.balloon_threads.remove(&(said.stack / STACK_BYTES));
            }
        } else if let Some(at) = self.spins[said.cpu].iter().rposition(|kind| *kind == said.a) {
            self.spins[said.cpu].remove(at);
        }
    }

    fn alloc(&mut self, said: &Said) {
        let may_sleep = atomic(said, self.spins[said.cpu].last().map(|_| "a spin lock")).is_none();
        if may_sleep && !self.manners.allocates_under_lock && self.balloon_threads.contains(&(said.stack / STACK_BYTES)) {
            let what = format!("vcpu{} allocates page {:#x} in a thread that holds balloon_lock", said.cpu, said.a);
            self.broken(NO_ALLOCATION_UNDER_BALLOON_LOCK, Some(said.a), what);
        }
    }

    fn inflate(&mut self, pfn: u64, ram: &GuestRam) {
        // A frame that is no RAM is nonsense, and the guest is stopped for it.
        if pfn >= self.told.len() as u64 {
            return;
        }
        self.exposed.insert(pfn as usize);
        if pfn == 0 || self.told.put(pfn as usize) {
            self.broken(TOLD_ONCE, Some(pfn), format!("page {pfn:#x} is told as inflated{}", if pfn == 0 { "" } else { " twice" }));
        }
        let Some(KernelInfo { mem_map, max_pfn, .. }) = read_info(ram) else { return };
        let entry = pfn.checked_mul(page::BYTES).and_then(|offset| mem_map.checked_add(offset)).filter(|_| pfn < max_pfn);
        let Some(entry) = entry.filter(|entry| entry.checked_add(page::BYTES).is_some_and(|end| end <= ram.bytes())) else { return };
        let (kind, references) = (ram.read_u32(entry + page::PAGE_TYPE), ram.read_u32(entry + page::REFCOUNT));
        if !is_type(kind, page::TYPE_OFFLINE) || references == 0 {
            let what = format!("page {pfn:#x} is told as inflated with type {kind:#x} and {references} references");
            self.broken(TOLD_IS_OWNED, Some(pfn), what);
        }
    }

    fn queue_used(&mut self, queue: u64, how: &str) {
        if self.status & status::FEATURES_OK == 0 {
            self.broken(NO_QUEUE_AFTER_RESET, None, format!("queue {queue} {how} while the device's status is {:#x}", self.status));
        }
    }
}

/// Returns why a thread must not sleep where it is.
fn atomic(said: &Said, spin: Option<&str>) -> Option<String> {
    if said.in_handler {
        Some("in an interrupt's handler".to_owned())
    } else if let Some(spin) = spin {
        Some(format!("under {spin}"))
    } else {
        (!said.irqs_enabled).then(|| "with interrupts disabled".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest_mm::tests::{Kernel, PAGES, entry};
    use super::*;
    use host::event::CmdId;
    use wire::debug::{ALLOC, DEFLATE, FREE, HINT, INFLATE, KICK, LOCK, REPORT, SPIN, UNLOCK, VQ_ADD};

    const WORD: u64 = 0x1_2000;

    struct Guest {
        kernel: Kernel,
        calls: Calls,
        said: Said,
    }

    impl Guest {
        fn new() -> Self {
            let mut calls = Calls::new(PAGES, Manners::default());
            calls.happened(&Event::DeviceStatus { status: status::FEATURES_OK });
            let said = Said { cpu: 1, code: 0, a: 0, b: 0, stack: 0x40_0000, irqs_enabled: true, in_handler: false };
            Self { kernel: Kernel::new(), calls, said }
        }

        /// Says something, and returns the rules that this breaks.
        fn say(&mut self, code: u32, a: u64, b: u64) -> Vec<&'static str> {
            self.calls.said(&Said { code, a, b, ..self.said }, &self.kernel.0);
            self.calls.take_broken().map(|violation| violation.rule).collect()
        }

        fn happen(&mut self, event: Event) -> Vec<&'static str> {
            self.calls.happened(&event);
            self.calls.take_broken().map(|violation| violation.rule).collect()
        }
    }

    #[test]
    fn an_element_is_taken_as_it_was_exposed() {
        let mut guest = Guest::new();
        let pop = |first| Event::HintPop { head: 3, element: HintElement::Pages(PageRange::new(Pfn(first), 512)) };
        for (popped, broken) in [(0, vec![]), (512, vec![]), (1024, vec![EXPOSED_IS_UNCHANGED])] {
            guest.say(HINT, 0, 10 | 3 << 32);
            guest.say(VQ_ADD, 3, 3);
            assert_eq!(guest.happen(pop(popped)), broken);
        }
        assert_eq!(guest.happen(Event::HintPop { head: 3, element: HintElement::Id(CmdId(2)) }), [""; 0]);
        assert_eq!(guest.happen(pop(1024)), [""; 0], "exposed by nobody that spoke of it");
    }

    #[test]
    fn a_mutex_is_for_threads_that_may_sleep() {
        for atomic in [
            |guest: &mut Guest| guest.said.in_handler = true,
            |guest: &mut Guest| guest.said.irqs_enabled = false,
            |guest: &mut Guest| drop(guest.say(LOCK, lock::ZONE, WORD)),
        ] {
            let mut guest = Guest::new();
            assert_eq!(guest.say(LOCK, lock::BALLOON, WORD), [""; 0]);
            guest.say(UNLOCK, lock::BALLOON, WORD);
            atomic(&mut guest);
            assert_eq!(guest.say(LOCK, lock::BALLOON, WORD), [NO_MUTEX_IN_ATOMIC]);
        }
        let mut guest = Guest::new();
        guest.calls.enabled_in_handler("irq_entry+0x3");
        assert_eq!(guest.say(KICK, 0, 0), [INTERRUPTS_STAY_OFF]);
    }

    #[test]
    fn spin_locks_are_waited_for_in_one_order() {
        let chain = [(lock::PCP, lock::ZONE), (lock::ZONE, lock::TIMER), (lock::TIMER, lock::PCP)];
        let mut guest = Guest::new();
        let mut fired = Vec::new();
        for (outer, inner) in chain {
            for (code, kind) in [(LOCK, outer), (LOCK, inner), (SPIN, inner), (LOCK, inner), (UNLOCK, inner), (UNLOCK, outer)] {
                fired.extend(guest.say(code, kind, WORD));
            }
        }
        fired.dedup();
        assert_eq!(fired, [LOCK_ORDER], "a circle of three, that nobody was caught in");
        // Behind a trylock the word says that this vCPU has it.
        let mut guest = Guest::new();
        guest.kernel.set(WORD, 2);
        for (outer, inner) in chain {
            for (code, kind) in [(LOCK, outer), (LOCK, inner), (UNLOCK, inner), (UNLOCK, outer)] {
                assert_eq!(guest.say(code, kind, WORD), [""; 0]);
            }
        }
    }

    #[test]
    fn the_thread_that_has_the_balloon_lock_allocates_nothing_and_others_may() {
        let mut guest = Guest::new();
        assert!(guest.calls.held().balloon, "a driver that has no such lock might be anywhere");
        guest.say(LOCK, lock::BALLOON, WORD);
        assert!(guest.calls.held().balloon);
        assert_eq!(guest.say(ALLOC, 1600, 0), [NO_ALLOCATION_UNDER_BALLOON_LOCK]);
        guest.said.stack += STACK_BYTES;
        assert_eq!(guest.say(ALLOC, 1600, 0), [""; 0]);
        guest.say(LOCK, lock::BALLOON, WORD);
        guest.say(SPIN, lock::BALLOON, WORD);
        assert!(guest.calls.held().balloon, "who tries in vain takes nothing away");
        guest.said.stack -= STACK_BYTES;
        guest.say(UNLOCK, lock::BALLOON, WORD);
        assert_eq!(guest.say(ALLOC, 1600, 0), [""; 0]);
        assert_eq!(guest.calls.held(), Held::default());
    }

    #[test]
    fn a_page_is_told_once_each_way_and_is_the_balloons() {
        let mut guest = Guest::new();
        assert_eq!(guest.say(INFLATE, 1537, 0), [""; 0]);
        assert_eq!(guest.say(INFLATE, 1537, 0), [TOLD_ONCE]);
        assert_eq!(guest.say(DEFLATE, 1537, 0), [""; 0]);
        assert_eq!(guest.say(DEFLATE, 1537, 0), [TOLD_ONCE]);
        assert_eq!(guest.say(INFLATE, 0, 0), [TOLD_ONCE, TOLD_IS_OWNED]);
        assert_eq!(guest.say(INFLATE, 1800, 0), [TOLD_IS_OWNED]);
        guest.kernel.refer(1537, 0);
        assert_eq!(guest.say(INFLATE, 1537, 0), [TOLD_IS_OWNED]);
        guest.happen(Event::DeviceStatus { status: 0 });
        guest.kernel.refer(1537, 1);
        assert_eq!(guest.say(INFLATE, 1537, 0), [""; 0], "a reset device knows of none");
        assert_eq!(entry(1), entry(0) + page::BYTES);
    }

    #[test]
    fn a_page_is_not_freed_before_the_device_has_taken_note() {
        let freed = [super::super::guest_mm::EXPOSED_IS_NOT_FREE];
        let mut guest = Guest::new();
        guest.say(INFLATE, 1537, 0);
        assert_eq!(guest.say(FREE, 1536, 1), freed);
        guest.happen(Event::BalloonInflate { pfn: Pfn(1537) });
        assert_eq!(guest.say(FREE, 1536, 1), [""; 0]);
        guest.say(REPORT, 512, 9);
        assert!(guest.calls.exposed().contains(1023));
        assert_eq!(guest.say(FREE, 700, 0), freed);
        guest.happen(Event::BalloonReport { range: PageRange::new(Pfn(512), 512) });
        assert_eq!(guest.say(FREE, 700, 0), [""; 0]);
        guest.say(REPORT, 2047, 10);
        assert_eq!(guest.calls.exposed().ones().collect::<Vec<_>>(), [2047], "what is no RAM is cut off");
    }

    #[test]
    fn a_queue_rests_between_a_reset_and_the_next_features() {
        let mut guest = Guest::new();
        assert_eq!(guest.say(VQ_ADD, 2, 0), [""; 0]);
        guest.happen(Event::DeviceStatus { status: 0 });
        assert_eq!(guest.say(VQ_ADD, 2, 0), [NO_QUEUE_AFTER_RESET]);
        guest.happen(Event::DeviceStatus { status: status::ACKNOWLEDGE | status::DRIVER });
        assert_eq!(guest.say(KICK, 2, 0), [NO_QUEUE_AFTER_RESET]);
        guest.happen(Event::DeviceStatus { status: status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK });
        assert_eq!(guest.say(KICK, 2, 0), [""; 0]);
    }
}
