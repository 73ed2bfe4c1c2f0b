//! Which faults are on, and which were asked for.

use std::cell::Cell;

use super::Fault;

/// Faults that are switched on, and which of all were asked for.
///
/// A run in which nobody asked for a fault would have been the same with it: what asks is the only difference that a fault of the host's makes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    on: FaultSet,
    asked: Cell<FaultSet>,
}

impl Faults {
    /// Returns whether a fault is on, and remembers the question. Who asks last of several conditions asks for less.
    pub fn on(&self, fault: Fault) -> bool {
        let mut asked = self.asked.get();
        asked.insert(fault);
        self.asked.set(asked);
        self.on.contains(fault)
    }

    /// Switches a fault on.
    pub fn insert(&mut self, fault: Fault) {
        self.on.insert(fault);
    }

    /// Switches a fault on, or off if it is on.
    pub fn flip(&mut self, fault: Fault) {
        self.on.flip(fault);
    }

    /// Returns those that are on.
    pub fn all_on(&self) -> FaultSet {
        self.on
    }

    /// Returns those that were asked for so far.
    pub fn asked(&self) -> FaultSet {
        self.asked.get()
    }

    /// Puts others in place of those that were asked for so far.
    pub fn set_asked(&mut self, asked: FaultSet) {
        self.asked.set(asked);
    }

    /// Takes those for asked that were asked for elsewhere.
    pub fn add_asked(&mut self, elsewhere: FaultSet) {
        self.asked.get_mut().add(elsewhere);
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self { on: faults.into_iter().collect(), asked: Cell::default() }
    }
}

const SET_WORDS: usize = 4;
const _: () = assert!(Fault::ALL.len() <= SET_WORDS * u64::BITS as usize);

/// A set of faults: a bit each, in the order of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultSet([u64; SET_WORDS]);

impl FaultSet {
    /// Returns whether a fault is in it.
    pub fn contains(self, fault: Fault) -> bool {
        let (word, bit) = Self::place(fault);
        self.0[word] & bit != 0
    }

    /// Adds a fault.
    pub fn insert(&mut self, fault: Fault) {
        let (word, bit) = Self::place(fault);
        self.0[word] |= bit;
    }

    /// Adds a fault, or takes it out.
    fn flip(&mut self, fault: Fault) {
        let (word, bit) = Self::place(fault);
        self.0[word] ^= bit;
    }

    /// Returns the faults in it, in the order of the registry.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.contains(*fault))
    }

    /// Adds the faults of another set.
    pub fn add(&mut self, other: FaultSet) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }

    /// Returns whether no fault is in it.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns those that are in another set as well.
    pub fn and(self, other: FaultSet) -> FaultSet {
        self.without(self.without(other))
    }

    /// Returns those that are not in another set.
    pub fn without(self, other: FaultSet) -> FaultSet {
        let mut rest = self;
        rest.0.iter_mut().zip(other.0).for_each(|(word, less)| *word &= !less);
        rest
    }

    fn place(fault: Fault) -> (usize, u64) {
        let index = fault as usize;
        (index / 64, 1 << (index % 64))
    }
}

impl FromIterator<Fault> for FaultSet {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        let mut set = Self::default();
        faults.into_iter().for_each(|fault| set.insert(fault));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_remembered_whatever_the_answer() {
        let mut faults: Faults = [Fault::HintKeepsK].into_iter().collect();
        let last = *Fault::ALL.last().expect("there are faults");
        assert!(!faults.on(last) && faults.on(Fault::HintKeepsK));
        faults.insert(Fault::HintNoDone);
        assert_eq!(faults.asked().iter().collect::<Vec<_>>(), [Fault::HintKeepsK, last]);
        assert_eq!(faults.all_on().iter().collect::<Vec<_>>(), [Fault::HintKeepsK, Fault::HintNoDone]);
        faults.flip(Fault::HintKeepsK);
        faults.flip(last);
        assert_eq!(faults.all_on().iter().collect::<Vec<_>>(), [Fault::HintNoDone, last]);
        let both = faults.all_on().and([last, Fault::HintKeepsK].into_iter().collect());
        assert_eq!((both.iter().collect::<Vec<_>>(), both.is_empty(), both.without(both).is_empty()), (vec![last], false, true));
        assert_eq!(faults.all_on().without([last].into_iter().collect()).iter().collect::<Vec<_>>(), [Fault::HintNoDone]);
    }
}
