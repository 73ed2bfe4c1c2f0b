//! Finds a place in a list by a hash of what stands there: open addressing, linear probing. It holds numbers only, and has no order that anybody could
//! see: what is found depends on what was put in, not on when.

/// Places by hash.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// A place plus one; 0: free. A power of two of them, or none.
    slots: Vec<u32>,
    len: usize,
}

impl Index {
    const FREE: u32 = 0;

    /// Returns the place that `is` confirms, among those of this hash.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = spread(hash) & mask;
        while self.slots[at] != Self::FREE {
            if is(self.slots[at] - 1) {
                return Some(self.slots[at] - 1);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Puts a place in; `hash_of` tells the hash of every place that is in already.
    pub(super) fn insert(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        assert!(place < u32::MAX, "a place too many");
        // Half full at most: a search that finds nothing ends soon.
        if 2 * (self.len + 1) > self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![Self::FREE; (2 * old.len()).max(16)];
            for slot in old.into_iter().filter(|slot| *slot != Self::FREE) {
                self.put(hash_of(slot - 1), slot);
            }
        }
        self.put(hash, place + 1);
        self.len += 1;
    }

    fn put(&mut self, hash: u64, slot: u32) {
        let mask = self.slots.len() - 1;
        let mut at = spread(hash) & mask;
        while self.slots[at] != Self::FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

/// Spreads numbers that are close to each other, as cells are.
fn spread(hash: u64) -> usize {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
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
            index.insert(hash(number), number as u32, |place| hash(list[place as usize]));
        }
        for number in 0..1000 {
            assert_eq!(index.find(number / 2, |place| list[place as usize] == number), Some(number as u32));
        }
    }
}
