//! Which buffers the guest has exposed and not collected (VIRTIO 1.2 §2.7.13, §2.7.14).

use fixedbitset::FixedBitSet;

/// Exposed heads, by queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads(Vec<FixedBitSet>);

impl Heads {
    fn queue(&mut self, queue: u16, head: u16) -> &mut FixedBitSet {
        let queue = usize::from(queue);
        if self.0.len() <= queue {
            self.0.resize_with(queue + 1, FixedBitSet::new);
        }
        self.0[queue].grow(usize::from(head) + 1);
        &mut self.0[queue]
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
        self.0.clear();
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
