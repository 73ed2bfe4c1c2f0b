//! What a caller of the allocator allows it to do. Linux: include/linux/gfp_types.h (6.12 numbers), mm/internal.h ALLOC_*.

use core::ops::BitOr;

/// Allocation flags, `gfp_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gfp(u32);

impl Gfp {
    /// `__GFP_MOVABLE`.
    pub const MOVABLE: Gfp = Gfp(0x8);
    /// `__GFP_RECLAIMABLE`.
    pub const RECLAIMABLE: Gfp = Gfp(0x10);
    /// `__GFP_HIGH`: may use half of the min watermark.
    pub const HIGH: Gfp = Gfp(0x20);
    /// `__GFP_IO`.
    pub const IO: Gfp = Gfp(0x40);
    /// `__GFP_FS`.
    pub const FS: Gfp = Gfp(0x80);
    /// `__GFP_ZERO`: the block comes zeroed.
    pub const ZERO: Gfp = Gfp(0x100);
    /// `__GFP_DIRECT_RECLAIM`: the caller can sleep and reclaim.
    pub const DIRECT_RECLAIM: Gfp = Gfp(0x400);
    /// `__GFP_KSWAPD_RECLAIM`. Differs: there is no kswapd to wake.
    pub const KSWAPD_RECLAIM: Gfp = Gfp(0x800);
    /// `__GFP_NOWARN`.
    pub const NOWARN: Gfp = Gfp(0x2000);
    /// `__GFP_RETRY_MAYFAIL`.
    pub const RETRY_MAYFAIL: Gfp = Gfp(0x4000);
    /// `__GFP_NORETRY`: one round of reclaim, no OOM notifiers.
    pub const NORETRY: Gfp = Gfp(0x1_0000);
    /// `__GFP_NOMEMALLOC`: keeps off every reserve.
    pub const NOMEMALLOC: Gfp = Gfp(0x8_0000);
    /// `__GFP_THISNODE`. Differs: there is one node.
    pub const THISNODE: Gfp = Gfp(0x20_0000);

    /// `GFP_ATOMIC`.
    pub const ATOMIC: Gfp = Gfp(0x20 | 0x800);
    /// `GFP_NOWAIT`.
    pub const NOWAIT: Gfp = Gfp(0x800 | 0x2000);
    /// `GFP_KERNEL`.
    pub const KERNEL: Gfp = Gfp(0x400 | 0x800 | 0x40 | 0x80);
    /// `GFP_HIGHUSER_MOVABLE`, less the bits for zones and cpusets that this machine lacks.
    pub const HIGHUSER_MOVABLE: Gfp = Gfp(Gfp::KERNEL.0 | 0x8);
    /// What the driver takes hint blocks with: no reclaim of any kind. Linux: VIRTIO_BALLOON_FREE_PAGE_ALLOC_FLAG.
    pub const FREE_PAGE_HINT: Gfp = Gfp(0x1_0000 | 0x2000 | 0x8_0000);
    /// What L. Torvalds proposed to take hint blocks with, GFP_MINFLAGS; the merged driver dropped the node.
    pub const MINFLAGS: Gfp = Gfp(Gfp::FREE_PAGE_HINT.0 | Gfp::THISNODE.0);
    /// What the balloon takes its pages with. Linux: balloon_page_alloc().
    pub const BALLOON: Gfp = Gfp(Gfp::HIGHUSER_MOVABLE.0 | 0x8_0000 | 0x1_0000 | 0x2000);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Gfp) -> bool {
        self.0 & flags.0 == flags.0
    }
    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Flags from their bits.
    pub const fn from_bits(bits: u32) -> Gfp {
        Gfp(bits)
    }
    /// Which lists to serve from. Linux: gfp_migratetype().
    pub(crate) fn migratetype(self) -> Migratetype {
        if self.contains(Gfp::MOVABLE) {
            Migratetype::Movable
        } else if self.contains(Gfp::RECLAIMABLE) {
            Migratetype::Reclaimable
        } else {
            Migratetype::Unmovable
        }
    }
}

impl BitOr for Gfp {
    type Output = Gfp;
    fn bitor(self, other: Gfp) -> Gfp {
        Gfp(self.0 | other.0)
    }
}

/// What a pageblock is for. Linux: enum migratetype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Migratetype {
    /// The kernel's.
    Unmovable = 0,
    /// Pages that compaction could move.
    Movable = 1,
    /// Pages that reclaim could free.
    Reclaimable = 2,
    /// Reserve for atomic allocations of more than one page.
    HighAtomic = 3,
    /// Being taken away; never allocated from.
    Isolate = 4,
}

impl Migratetype {
    /// Every type, in order of number.
    pub const ALL: [Migratetype; wire::layout::MIGRATE_TYPES] =
        [Migratetype::Unmovable, Migratetype::Movable, Migratetype::Reclaimable, Migratetype::HighAtomic, Migratetype::Isolate];
    /// Types that per-CPU lists hold. Linux: MIGRATE_PCPTYPES.
    pub(crate) const PCP: [Migratetype; 3] = [Migratetype::Unmovable, Migratetype::Movable, Migratetype::Reclaimable];

    /// The type of a number.
    ///
    /// # Panics
    /// On a number that is no type: the memory that it came from is corrupt.
    pub fn from_number(number: u8) -> Migratetype {
        match number {
            0 => Migratetype::Unmovable,
            1 => Migratetype::Movable,
            2 => Migratetype::Reclaimable,
            3 => Migratetype::HighAtomic,
            4 => Migratetype::Isolate,
            _ => panic!("no migratetype {number}"),
        }
    }

    /// Whether blocks of this type may merge with those of another. Linux: migratetype_is_mergeable().
    pub(crate) fn is_mergeable(self) -> bool {
        self < Migratetype::HighAtomic
    }

    /// Where an allocation of this type goes when its own lists are empty. Linux: fallbacks[].
    pub(crate) fn fallbacks(self) -> &'static [Migratetype] {
        match self {
            Migratetype::Unmovable => &[Migratetype::Reclaimable, Migratetype::Movable],
            Migratetype::Movable => &[Migratetype::Reclaimable, Migratetype::Unmovable],
            Migratetype::Reclaimable => &[Migratetype::Unmovable, Migratetype::Movable],
            Migratetype::HighAtomic | Migratetype::Isolate => &[],
        }
    }
}

/// Which watermark an attempt must stay above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watermark {
    /// `WMARK_MIN`.
    Min,
    /// `WMARK_LOW`.
    Low,
    /// `WMARK_HIGH`.
    High,
}

/// How one attempt goes about it. Linux: ALLOC_* of mm/internal.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AllocFlags {
    /// The watermark.
    pub(crate) watermark: Watermark,
    /// `ALLOC_MIN_RESERVE`: half of the watermark is enough.
    pub(crate) min_reserve: bool,
    /// `ALLOC_NON_BLOCK`: with `min_reserve`, a quarter less again.
    pub(crate) non_block: bool,
    /// `ALLOC_HIGHATOMIC`: may use the high-atomic reserve.
    pub(crate) high_atomic: bool,
}

impl AllocFlags {
    /// The fast path. Linux: __alloc_pages(), ALLOC_WMARK_LOW.
    pub(crate) const FAST: AllocFlags = AllocFlags { watermark: Watermark::Low, min_reserve: false, non_block: false, high_atomic: false };

    /// The slow path. Linux: gfp_to_alloc_flags().
    pub(crate) fn slow(gfp: Gfp, order: u32) -> AllocFlags {
        let min_reserve = gfp.contains(Gfp::HIGH);
        // Reserves are not for those who renounced them, even when they cannot sleep.
        let non_block = !gfp.contains(Gfp::DIRECT_RECLAIM) && !gfp.contains(Gfp::NOMEMALLOC);
        AllocFlags { watermark: Watermark::Min, min_reserve, non_block, high_atomic: non_block && min_reserve && order > 0 }
    }

    /// Linux: ALLOC_RESERVES.
    pub(crate) fn any_reserve(self) -> bool {
        self.min_reserve || self.non_block || self.high_atomic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_flags_are_linux_numbers_and_allow_no_reclaim() {
        assert_eq!(Gfp::FREE_PAGE_HINT.bits(), 0x9_2000);
        assert!(!Gfp::FREE_PAGE_HINT.contains(Gfp::DIRECT_RECLAIM));
        let slow = AllocFlags::slow(Gfp::FREE_PAGE_HINT, 10);
        assert_eq!(slow, AllocFlags { watermark: Watermark::Min, ..AllocFlags::FAST });
        assert_eq!(Gfp::FREE_PAGE_HINT.migratetype(), Migratetype::Unmovable);
    }

    #[test]
    fn atomic_allocations_reach_the_reserves() {
        let slow = AllocFlags::slow(Gfp::ATOMIC, 1);
        assert!(slow.min_reserve && slow.non_block && slow.high_atomic);
        assert!(!AllocFlags::slow(Gfp::ATOMIC, 0).high_atomic);
        assert!(!AllocFlags::slow(Gfp::KERNEL, 1).any_reserve());
    }
}
