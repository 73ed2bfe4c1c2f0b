//! A small model of the protocol, to test searches on: a guest that hints a page and writes it again, a balloon that pops, checks and clears, a
//! migration that syncs and sends in rounds. Correct as it is; each [`Flaw`] makes it lose the page.

use super::system::{Choice, Edge, Ending, Footprint, Happening, Key, Objects, Step, System};
use crate::outcome::{Blame, Verdict};

/// What is wrong with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// The device is not stopped before a sync.
    StopSkipped,
    /// The stop does not wait for a hint that is checked and not yet cleared.
    StopUnlocked,
}

/// How large a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Rounds of the migration before the last.
    pub(crate) rounds: u8,
    /// Moves of the guest that concern nobody, before the hint and behind the write.
    pub(crate) noise: u8,
}

/// Kinds of events, as [`Key::kind`].
pub(crate) mod kind {
    pub(crate) const NOISE: u16 = 0;
    pub(crate) const HINT: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const POP: u16 = 3;
    pub(crate) const CHECK: u16 = 4;
    pub(crate) const CLEAR: u16 = 5;
    pub(crate) const STOP: u16 = 6;
    pub(crate) const SYNC: u16 = 7;
    pub(crate) const START: u16 = 8;
    pub(crate) const SEND: u16 = 9;
    pub(crate) const END: u16 = 10;
    pub(crate) const ALL: usize = 11;
}

mod object {
    pub(super) const QUEUE: u64 = 1 << 0;
    pub(super) const STATUS: u64 = 1 << 1;
    pub(super) const CHECKED: u64 = 1 << 2;
    pub(super) const K: u64 = 1 << 3;
    pub(super) const B: u64 = 1 << 4;
    pub(super) const PAGE: u64 = 1 << 5;
    pub(super) const ENDED: u64 = 1 << 6;
}

const GUEST: u16 = 0;
const BALLOON: u16 = 1;
const MIGRATION: u16 = 2;
/// The one page.
const P: u16 = 0;

/// The model's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    guest: u8,
    balloon: u8,
    migration: u16,
    queued: bool,
    /// Round of the hint.
    hint_round: u8,
    round: u8,
    started: bool,
    checked: bool,
    k: bool,
    b: bool,
    version: u8,
    sent: u8,
    counts: [u32; kind::ALL],
}

/// The model.
#[derive(Debug, Clone)]
pub(crate) struct Toy {
    flaw: Flaw,
    size: Size,
    edges: Vec<Edge>,
    state: State,
    step: Step,
}

impl Toy {
    /// Returns a model in its first state.
    pub(crate) fn new(flaw: Flaw, size: Size) -> Self {
        let state = State {
            guest: 0,
            balloon: 0,
            migration: 0,
            queued: false,
            hint_round: 0,
            round: 0,
            started: true,
            checked: false,
            k: false,
            b: true,
            version: 1,
            sent: 0,
            counts: [0; kind::ALL],
        };
        Self { flaw, size, edges: Vec::new(), state, step: Step::default() }
    }

    fn ended(&self) -> bool {
        self.state.counts[kind::END as usize] > 0
    }

    fn guest_next(&self) -> Option<u16> {
        let noise = self.size.noise;
        match self.state.guest {
            at if at < noise => Some(kind::NOISE),
            at if at == noise => Some(kind::HINT),
            at if at == noise + 1 => Some(kind::WRITE),
            at if at < 2 * noise + 2 => Some(kind::NOISE),
            _ => None,
        }
    }

    fn balloon_next(&self) -> Option<u16> {
        match self.state.balloon {
            0 => self.state.queued.then_some(kind::POP),
            1 => Some(kind::CHECK),
            2 => Some(kind::CLEAR),
            _ => None,
        }
    }

    /// Rounds of stop, sync, start, send; then, once the guest is done, stop, sync, send, end.
    fn migration_next(&self) -> Option<u16> {
        let last = 4 * u16::from(self.size.rounds);
        let next = match self.state.migration {
            at if at < last => [kind::STOP, kind::SYNC, kind::START, kind::SEND][usize::from(at % 4)],
            at => *[kind::STOP, kind::SYNC, kind::SEND, kind::END].get(usize::from(at - last))?,
        };
        let waits_for_lock = next == kind::STOP && self.flaw == Flaw::None && self.state.checked;
        let waits_for_guest = self.state.migration == last && self.guest_next().is_some();
        (!waits_for_lock && !waits_for_guest).then_some(next)
    }

    fn objects(&self, kind: u16) -> Objects {
        let (shared, changed) = match kind {
            kind::NOISE => (0, 0),
            kind::HINT => (object::STATUS, object::QUEUE),
            kind::WRITE => (0, object::PAGE | object::K),
            kind::POP => (object::QUEUE, 0),
            kind::CHECK => (object::STATUS | object::QUEUE, object::CHECKED),
            kind::CLEAR => (0, object::B | object::CHECKED),
            kind::STOP => (object::CHECKED | object::PAGE, object::STATUS),
            kind::SYNC => (0, object::K | object::B),
            kind::START => (0, object::STATUS),
            kind::SEND => (object::PAGE, object::B),
            kind::END => (0, object::ENDED | object::B | object::K | object::PAGE | object::QUEUE | object::STATUS | object::CHECKED),
            _ => unreachable!("kind {kind}"),
        };
        Objects { shared: shared | object::ENDED, changed }
    }

    fn key(kind: u16) -> Key {
        let page = match kind {
            kind::HINT | kind::WRITE | kind::POP | kind::CHECK | kind::CLEAR | kind::SEND => P,
            _ => Key::NO_PAGE,
        };
        Key { kind, page }
    }

    fn happened(&self, happening: Happening) -> bool {
        self.state.counts[happening.key.kind as usize] >= happening.nth
    }

    fn held_back(&self, kind: u16) -> bool {
        let next = Happening { key: Self::key(kind), nth: self.state.counts[kind as usize] + 1 };
        self.edges.iter().any(|edge| edge.then == next && !self.happened(edge.first))
    }

    fn act(&mut self, kind: u16) {
        let state = &mut self.state;
        match kind {
            kind::HINT => {
                state.queued = true;
                state.hint_round = state.round;
            }
            kind::WRITE => {
                state.version += 1;
                state.k = true;
            }
            kind::CHECK if (state.started && state.hint_round == state.round) || self.flaw == Flaw::StopSkipped => state.checked = true,
            kind::CLEAR if state.checked => {
                state.b = false;
                state.checked = false;
            }
            kind::STOP if self.flaw != Flaw::StopSkipped => state.started = false,
            kind::SYNC => {
                state.b |= state.k;
                state.k = false;
            }
            kind::START => {
                state.started = true;
                state.round += 1;
            }
            kind::SEND if state.b => {
                state.sent = state.version;
                state.b = false;
            }
            _ => {}
        }
    }
}

impl System for Toy {
    type Saved = State;

    fn actors(&self) -> u16 {
        3
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        into.clear();
        if self.ended() {
            return;
        }
        for (actor, next) in [(GUEST, self.guest_next()), (BALLOON, self.balloon_next()), (MIGRATION, self.migration_next())] {
            if let Some(kind) = next.filter(|kind| !self.held_back(*kind)) {
                into.push(Choice { id: actor, actor, key: Some(Self::key(kind)), objects: self.objects(kind) });
            }
        }
    }

    fn is_local(&self, choice: &Choice) -> bool {
        choice.key.is_some_and(|key| key.kind == kind::NOISE)
    }

    fn take(&mut self, choice: Choice) {
        let key = choice.key.expect("all moves of the model are announced");
        match choice.actor {
            GUEST => self.state.guest += 1,
            BALLOON => self.state.balloon += 1,
            MIGRATION => self.state.migration += 1,
            other => unreachable!("actor {other}"),
        }
        self.act(key.kind);
        let count = &mut self.state.counts[key.kind as usize];
        *count += 1;
        let nth = *count;
        self.step.happened.clear();
        self.step.happened.push(Happening { key, nth });
        self.step.footprint = Footprint { objects: self.objects(key.kind), ..Footprint::default() };
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        let hinted_only = self.state.version == 1;
        let verdict = match () {
            () if !self.ended() => Verdict::Unreachable,
            () if self.state.sent == self.state.version || hinted_only => Verdict::Pass,
            () => Verdict::LostPage,
        };
        let lost = verdict == Verdict::LostPage;
        Ending { verdict, rule: lost.then_some("toy-page-arrives"), blame: lost.then_some(Blame::Host), cause: None }
    }

    fn save(&mut self) -> State {
        self.state.clone()
    }

    fn put_back(&mut self, saved: &State) {
        self.state = saved.clone();
    }

    fn hash(&mut self) -> u128 {
        let State { guest, balloon, migration, queued, hint_round, round, started, checked, k, b, version, sent, counts } =
            self.state.clone();
        let flags = [queued, started, checked, k, b].map(u128::from);
        let numbers = [guest.into(), balloon.into(), migration.into(), version.into(), sent.into(), hint_round.into(), round.into()];
        let parts = flags.into_iter().chain(numbers).chain(counts.map(u128::from));
        parts
            .enumerate()
            .fold(0u128, |sum, (index, part)| sum.wrapping_add(xxhash_rust::xxh3::xxh3_128(&((index as u128) << 64 | part).to_le_bytes())))
    }

    fn constrain(&mut self, edges: &[Edge]) {
        self.edges = edges.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries all orders from the model's state; returns how many there are, and how many fail.
    fn orders(toy: &mut Toy) -> (u64, u64) {
        let mut choices = Vec::new();
        toy.choices(&mut choices);
        if choices.is_empty() {
            return (1, u64::from(toy.ending().is_failure()));
        }
        let here = toy.save();
        choices.into_iter().fold((0, 0), |(all, failing), choice| {
            toy.put_back(&here);
            toy.take(choice);
            let (more, more_failing) = orders(toy);
            (all + more, failing + more_failing)
        })
    }

    #[test]
    fn the_model_is_correct_and_each_flaw_loses_the_page_in_some_orders() {
        let size = Size { rounds: 2, noise: 0 };
        let (all, failing) = orders(&mut Toy::new(Flaw::None, size));
        assert!(all > 100 && failing == 0, "{failing} of {all}");
        for flaw in [Flaw::StopSkipped, Flaw::StopUnlocked] {
            let (all, failing) = orders(&mut Toy::new(flaw, size));
            assert!(failing > 0 && failing < all / 2, "{flaw:?}: {failing} of {all}");
        }
    }

    #[test]
    fn moves_that_do_not_conflict_can_be_swapped_and_the_hash_knows_where_they_lead() {
        let mut toy = Toy::new(Flaw::StopUnlocked, Size { rounds: 1, noise: 1 });
        let (mut todo, mut swapped) = (vec![toy.save()], 0);
        while let Some(state) = todo.pop() {
            toy.put_back(&state);
            let start = toy.hash();
            let mut choices = Vec::new();
            toy.choices(&mut choices);
            let mut made = Vec::new();
            for choice in &choices {
                toy.put_back(&state);
                toy.take(*choice);
                made.push((toy.hash(), toy.step().footprint.clone()));
                todo.push(toy.save());
            }
            for (a, b) in (0..choices.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                if made[a].1.conflict(&made[b].1) {
                    continue;
                }
                let predicted = made[a].0.wrapping_add(made[b].0).wrapping_sub(start);
                for (first, second) in [(a, b), (b, a)] {
                    toy.put_back(&state);
                    toy.take(choices[first]);
                    toy.take(choices[second]);
                    assert_eq!(toy.hash(), predicted, "{:?} then {:?}", choices[first], choices[second]);
                    swapped += 1;
                }
            }
        }
        assert!(swapped > 100);
    }
}
