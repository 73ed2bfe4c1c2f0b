//! Pages of the host that are larger than the balloon's: only a whole one can be discarded.
//!
//! QEMU: hw/virtio/virtio-balloon.c balloon_inflate_page(), PartiallyBalloonedPage. The device notes which parts of one host page it was told of, and
//! forgets that when a part of another page comes, and at the end of the element: a driver fills its array page by page, and what it does
//! with a page of an earlier element is its own affair. Differs by profile firecracker: its device sorts an element's numbers first, and so
//! finds a host page whose parts came in another order, too.

use super::device::BalloonDevice;
use crate::event::{PageRange, Pfn};
use crate::fault::Fault;
use crate::step::Ctx;

/// A page of the host of which some parts are in the balloon.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partial {
    /// Its first balloon page.
    base: Pfn,
    /// A bit for each balloon page, in whole words as QEMU's bitmap_new() makes them.
    bits: Vec<u64>,
}

/// Somebody wrote behind the bitmap's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OutOfBitmap;

impl Partial {
    fn new(base: Pfn, parts: u64) -> Self {
        assert!(parts > 1, "a host page of one balloon page has no parts");
        let words = usize::try_from(parts.div_ceil(u64::from(u64::BITS))).expect("64-bit host");
        Self { base, bits: vec![0; words] }
    }

    fn set(&mut self, part: u64) -> Result<(), OutOfBitmap> {
        let word = usize::try_from(part / 64).expect("64-bit host");
        *self.bits.get_mut(word).ok_or(OutOfBitmap)? |= 1 << (part % 64);
        Ok(())
    }

    fn is_full(&self, parts: u64) -> bool {
        (0..parts).all(|part| self.bits[(part / 64) as usize] >> (part % 64) & 1 == 1)
    }
}

impl BalloonDevice {
    fn host_page_of(&self, pfn: Pfn) -> Pfn {
        Pfn(pfn.0 & !(self.options.machine.host_page - 1))
    }

    /// Notes an inflated page, and returns the pages that can be discarded now.
    pub(super) fn whole_host_page(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) -> Option<PageRange> {
        let parts = self.options.machine.host_page;
        if parts == 1 {
            return Some(PageRange::page(pfn));
        }
        let base = self.host_page_of(pfn);
        // Where memory ends within a host page, that page is never whole.
        let range = PageRange::new(base, parts.min(ctx.ram.pages() - base.0));
        if ctx.faults.on(Fault::DiscardHostPage) {
            return Some(range);
        }
        let mut partial = self.state.partial.take().filter(|partial| partial.base == base).unwrap_or_else(|| Partial::new(base, parts));
        let last = if ctx.faults.on(Fault::PartialManyBits) { parts } else { 1 };
        let first = pfn.0 - base.0;
        if (first..first + last).try_for_each(|part| partial.set(part)).is_err() {
            ctx.crash(format!("the heap is overwritten behind the bitmap of host page {base}"));
            return None;
        }
        if partial.is_full(parts) {
            return Some(range);
        }
        self.state.partial = Some(partial);
        None
    }

    /// A page is told as deflated. Nothing is noted then, but where the note outlives its element.
    pub(super) fn deflate_partial(&mut self, pfn: Pfn, ctx: &Ctx<'_>) {
        let base = self.host_page_of(pfn);
        if self.state.partial.as_ref().is_some_and(|partial| partial.base == base) && !ctx.faults.on(Fault::PartialIgnoresDeflate) {
            self.state.partial = None;
        }
    }

    /// An element ends, or the device is reset: what was noted is forgotten.
    pub(super) fn forget_partial(&mut self, ctx: &Ctx<'_>) {
        if self.state.partial.is_some() && !ctx.faults.on(Fault::PartialIgnoresDeflate) && !ctx.faults.on(Fault::PartialOutlivesElement) {
            self.state.partial = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::{BalloonOptions, Machine, Profile};
    use super::super::testing::{Buf, DEFLATE, INFLATE, Rig, options, range};
    use super::*;
    use crate::event::Event;
    use proptest::prelude::*;
    use wire::virtio::mmio;

    fn rig(host_page: u64, faults: &[Fault]) -> Rig {
        let mut rig = Rig::bare(BalloonOptions { machine: Machine { host_page, ..Machine::default() }, ..options(Profile::Qemu) });
        faults.iter().for_each(|fault| rig.faults.insert(*fault));
        rig.probe(u64::MAX);
        rig.run();
        rig.take_events();
        rig
    }

    fn tell(rig: &mut Rig, queue: u16, pfns: &[u64]) -> Vec<PageRange> {
        let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| (*pfn as u32).to_le_bytes()).collect();
        rig.ram.write(0x20_0000, &bytes);
        rig.add(queue, &[Buf::Read(0x20_0000, bytes.len() as u32)]);
        rig.kick(queue);
        rig.run();
        let discards = |event| if let Event::HostDiscard { range } = event { Some(range) } else { None };
        rig.take_events().into_iter().filter_map(discards).collect()
    }

    #[test]
    fn a_host_page_goes_once_all_its_parts_came_in_one_element() {
        let mut rig = rig(16, &[]);
        let parts: Vec<u64> = (0x300..0x310).rev().collect();
        assert_eq!(tell(&mut rig, INFLATE, &parts[..15]), []);
        assert_eq!(tell(&mut rig, INFLATE, &parts[15..]), [], "the first 15 were another element's");
        assert_eq!(tell(&mut rig, INFLATE, &parts), [range(0x300, 16)]);
    }

    #[test]
    fn a_part_of_another_host_page_makes_the_device_forget() {
        let mut rig = rig(4, &[]);
        assert_eq!(tell(&mut rig, INFLATE, &[0x300, 0x301, 0x310, 0x302, 0x303]), []);
        assert_eq!(tell(&mut rig, INFLATE, &[0x310, 0x300, 0x301, 0x302, 0x303]), [range(0x300, 4)]);
    }

    #[test]
    fn a_report_is_dropped_in_whole_host_pages_alone() {
        let mut rig = rig(16, &[]);
        rig.add(super::super::testing::REPORTING, &[Buf::pages(0x310, 32), Buf::pages(0x340, 8), Buf::pages(0x358, 16)]);
        rig.kick(super::super::testing::REPORTING);
        rig.run();
        let discards = rig.take_events().into_iter().filter(|event| matches!(event, Event::HostDiscard { .. })).collect::<Vec<_>>();
        assert_eq!(discards, [Event::HostDiscard { range: range(0x310, 32) }]);
    }

    #[test]
    fn fault_many_bits_writes_behind_a_bitmap_without_slack() {
        let mut rig = rig(512, &[Fault::PartialManyBits]);
        tell(&mut rig, INFLATE, &[0x201]);
        let mut again = self::rig(512, &[Fault::PartialManyBits]);
        assert_eq!(tell(&mut again, INFLATE, &[0x200]), [range(0x200, 512)]);
        let mut small = self::rig(16, &[Fault::PartialManyBits]);
        assert_eq!(tell(&mut small, INFLATE, &[0x201]), [], "a word has room for it");
    }

    #[test]
    fn a_reset_forgets_and_fault_outlives_element_does_not() {
        for (faults, expected) in [(&[][..], vec![]), (&[Fault::PartialOutlivesElement][..], vec![range(0x300, 16)])] {
            let mut rig = rig(16, faults);
            let parts: Vec<u64> = (0x300..0x310).collect();
            tell(&mut rig, INFLATE, &parts[..15]);
            rig.write(mmio::STATUS, 0);
            rig.probe(u64::MAX);
            assert_eq!(tell(&mut rig, INFLATE, &parts[15..]), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is told, and in whatever elements: no page is discarded that one element did not name with all its neighbours.
        #[test]
        fn only_pages_of_one_element_are_discarded(
            shift in 0u32..5, elements in prop::collection::vec((any::<bool>(), prop::collection::vec(0x300u64..0x320, 1..40)), 1..8)
        ) {
            let mut rig = rig(1 << shift, &[]);
            for (inflate, pfns) in elements {
                let discards = tell(&mut rig, if inflate { INFLATE } else { DEFLATE }, &pfns);
                prop_assert!(inflate || discards.is_empty());
                for page in discards.iter().flat_map(|range| range.pages()) {
                    prop_assert!(pfns.contains(&page.0), "{} of {:?}", page, pfns);
                }
            }
        }
    }
}
