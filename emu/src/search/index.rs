//! Finds a place in a list by a hash of what stands there: open addressing, linear probing. It holds numbers only, and has no order that anybody could
//! see: what is found depends on what was put in, not on when.

/// Places by hash.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// The hash's 32 bits in the upper half, so that most of what is not meant is passed without a look at the list; a place plus one in the lower. 0:
    /// free. A power of two of them, or none.
    slots: Vec<u64>,
    len: usize,
}

impl Index {
    const FREE: u64 = 0;

    /// Memory for each place, about, in bytes: from half to three quarters of the slots are taken, and the old ones are there while they grow.
    pub(super) const BYTES: u64 = 2 * size_of::<u64>() as u64 + size_of::<u64>() as u64;

    /// Returns the place that `is` confirms, among those of this hash.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let (mask, spread) = (self.slots.len() - 1, spread(hash));
        let mut at = spread as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == Self::FREE {
                return None;
            }
            let place = slot as u32 - 1;
            if (slot >> 32) as u32 == spread && is(place) {
                return Some(place);
            }
            at = (at + 1) & mask;
        }
    }

    /// Puts a place in.
    pub(super) fn insert(&mut self, hash: u64, place: u32) {
        assert!(place < u32::MAX, "a place too many");
        if 4 * (self.len + 1) > 3 * self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![Self::FREE; (2 * old.len()).max(16)];
            for slot in old.into_iter().filter(|slot| *slot != Self::FREE) {
                self.put(slot);
            }
        }
        self.put(u64::from(spread(hash)) << 32 | (u64::from(place) + 1));
        self.len += 1;
    }

    fn put(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while self.slots[at] != Self::FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

/// Spreads numbers that are close to each other, as cells are.
fn spread(hash: u64) -> u32 {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        let (mut index, mut list) = (Index::default(), Vec::new());
        // Every hash twice: a hash is not an identity.
        for number in 0..1000u64 {
            let hash = |number: u64| number / 2;
            assert_eq!(index.find(hash(number), |place| list[place as usize] == number), None);
            list.push(number);
            index.insert(hash(number), number as u32);
        }
        for number in 0..1000 {
            assert_eq!(index.find(number / 2, |place| list[place as usize] == number), Some(number as u32));
        }
    }
}
