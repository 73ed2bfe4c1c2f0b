//! Which buffers the guest has exposed and not collected (VIRTIO 1.2 §2.7.13, §2.7.14).

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use host::fold::Fold;

/// Exposed heads, by queue; shared between clones until one side changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads(Arc<Vec<FixedBitSet>>);

impl Heads {
    fn queue(&mut self, queue: u16, head: u16) -> &mut FixedBitSet {
        let (queue, queues) = (usize::from(queue), Arc::make_mut(&mut self.0));
        if queues.len() <= queue {
            queues.resize_with(queue + 1, FixedBitSet::new);
        }
        queues[queue].grow(usize::from(head) + 1);
        &mut queues[queue]
    }

    /// Adds to a hash which heads are exposed.
    pub(crate) fn fold(&self, tag: u64, fold: &mut Fold) {
        for (queue, heads) in (0_u64..).zip(self.0.iter()) {
            for (at, word) in (0_u64..).zip(heads.as_slice()).filter(|(_, word)| **word != 0) {
                fold.word(tag, queue << 32 | at, *word as u64);
            }
        }
    }

    /// The guest exposes a buffer. Returns whether the head was free.
    pub(crate) fn add(&mut self, queue: u16, head: u16) -> bool {
        !self.queue(queue, head).put(usize::from(head))
    }

    /// The guest collects a used buffer. Returns whether it had exposed it.
    pub(crate) fn get(&mut self, queue: u16, head: u16) -> bool {
        let set = self.queue(queue, head);
        let exposed = set.contains(usize::from(head));
        set.set(usize::from(head), false);
        exposed
    }

    /// The driver reset the device.
    pub(crate) fn reset(&mut self) {
        self.0 = Arc::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_collected_once_for_each_time_it_is_exposed() {
        let mut heads = Heads::default();
        assert!(heads.add(3, 9));
        assert!(!heads.add(3, 9));
        assert!(heads.add(2, 9));
        assert!(heads.get(3, 9));
        assert!(!heads.get(3, 9));
        assert!(heads.add(3, 9));
    }
}
