//! The hinting device as its announcements show it: which round is open, and which elements it holds.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_free_page_start(), _stop(), _done(), get_free_page_hints().

use std::collections::VecDeque;

use host::event::{CmdId, HintElement, PageRange};
use host::fold::Fold;

use super::pages::bits_of;

/// The device's state, with what makes a START wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Round {
    Stop,
    /// Stopped by the driver's own sign. In profile firecracker the request still stands, and the driver may start again.
    Paused(CmdId),
    Requested(CmdId),
    Start(CmdId),
    /// START, though it was not requested.
    Uncalled(CmdId),
    /// START, though a sync has come since.
    Stale(CmdId),
    Done,
}

/// The device as announced.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    round: Round,
    /// Elements popped and not returned: head, and pages if it holds some.
    popped: Vec<(u16, Option<PageRange>)>,
    /// The newest pages that the host has found free by itself.
    found: Option<PageRange>,
    /// Heads of buffers for requests, which the device may keep.
    lent: Vec<u16>,
    /// Heads that were in the device's hand when the driver reset it: they may still be returned, and need not be.
    forgotten: Vec<u16>,
    /// Another log user merged K since the round was opened.
    merged_since: bool,
    /// Ids that the driver has exposed and the device has not taken, in order.
    told: VecDeque<CmdId>,
    /// The id that the device took last, where ids are echoed whole.
    heard: Option<CmdId>,
    /// Ids are echoed whole.
    echoes: bool,
    /// Pages of the element in hand that were neither taken as hints nor refused.
    passed_over: Vec<PageRange>,
}

impl Device {
    /// Returns a device without a round.
    pub(crate) fn new() -> Self {
        Self {
            round: Round::Stop,
            popped: Vec::new(),
            found: None,
            lent: Vec::new(),
            forgotten: Vec::new(),
            merged_since: false,
            told: VecDeque::new(),
            heard: None,
            echoes: true,
            passed_over: Vec::new(),
        }
    }

    /// Adds to a hash what the future depends on.
    pub(crate) fn fold(&self, tag: u64, fold: &mut Fold) {
        let Self { round, popped, found, lent, forgotten, merged_since, told, heard, echoes, passed_over } = self;
        fold.part(tag, 0, &(*round, popped, found, lent, forgotten, *merged_since, told, *heard, *echoes));
        // Apart, since a hint that is applied changes nothing else of the device.
        fold.part(tag, 1, passed_over);
    }

    /// A new id stands in the configuration.
    pub(crate) fn request(&mut self, id: CmdId) {
        self.round = Round::Requested(id);
        self.merged_since = false;
    }

    /// The device says that hints count. Returns whether it had asked for that, and the driver has answered so.
    pub(crate) fn start(&mut self, id: CmdId) -> bool {
        let answered = self.heard.is_none_or(|heard| heard == id);
        let asked = answered && (self.round == Round::Requested(id) || self.round == Round::Paused(id));
        self.round = if asked { Round::Start(id) } else { Round::Uncalled(id) };
        asked
    }

    /// The round is over.
    pub(crate) fn stop(&mut self) {
        self.round = Round::Stop;
    }

    /// The driver said that the round is over.
    pub(crate) fn stop_by_driver(&mut self) {
        self.round = match self.round {
            Round::Start(id) => Round::Paused(id),
            Round::Uncalled(_) | Round::Stale(_) | Round::Paused(_) | Round::Requested(_) | Round::Stop | Round::Done => Round::Stop,
        };
    }

    /// The hinted pages may be used again.
    pub(crate) fn done(&mut self) {
        self.round = Round::Done;
    }

    /// Returns whether the device has said DONE last.
    pub(crate) fn is_done(&self) -> bool {
        self.round == Round::Done
    }

    /// D was merged into B: a round that is still open should not be, and one that paused is over.
    pub(crate) fn synced(&mut self) {
        self.round = match self.round {
            Round::Start(id) => Round::Stale(id),
            Round::Paused(_) => Round::Stop,
            other @ (Round::Stop | Round::Requested(_) | Round::Uncalled(_) | Round::Stale(_) | Round::Done) => other,
        };
    }

    /// S was merged into D by somebody else than a sync.
    pub(crate) fn merged(&mut self) {
        self.merged_since = true;
    }

    /// Returns why a hint of this id may not be applied now.
    pub(crate) fn why_not(&self, id: CmdId) -> Option<String> {
        match self.round {
            Round::Start(open) if open == id => None,
            Round::Start(open) => Some(format!("the round is {open}")),
            Round::Uncalled(open) => Some(format!("round {open} was started without a request")),
            Round::Stale(open) => Some(format!("a sync has come since round {open} started")),
            Round::Requested(open) => Some(format!("the device has requested {open} and not started it")),
            Round::Stop | Round::Paused(_) => Some("the device is in STOP".into()),
            Round::Done => Some("the device is in DONE".into()),
        }
    }

    /// Returns whether hints may be applied now, whatever their id.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.round, Round::Start(_))
    }

    /// Returns whether another log user merged K since the round was opened: what was set before may come to B after it.
    pub(crate) fn merged_since(&self) -> bool {
        self.merged_since
    }

    /// The driver exposes an id.
    pub(crate) fn tell(&mut self, id: CmdId) {
        self.told.push_back(id);
    }

    /// The device takes an id. Returns what the driver had told, if that was something else.
    pub(crate) fn hear(&mut self, id: CmdId) -> Option<CmdId> {
        self.told.pop_front().filter(|told| *told != id)
    }

    /// What became of pages of an element is told.
    pub(crate) fn judged(&mut self, range: PageRange) {
        self.passed_over.retain(|other| *other != range);
    }

    /// The device refuses an element, and all that is in it.
    pub(crate) fn broken(&mut self) {
        self.passed_over.clear();
    }

    /// The device is about to return an element. Returns pages of it that count in the open round, and of which nothing was told.
    pub(crate) fn left_out(&mut self) -> Option<PageRange> {
        let left_out = self.passed_over.first().copied().filter(|_| self.is_open());
        self.passed_over.clear();
        left_out
    }

    /// The device took an element (or, for a head that it holds, a further part of it).
    pub(crate) fn pop(&mut self, head: u16, element: &HintElement) {
        let range = match element {
            HintElement::Pages(range) => {
                self.passed_over.extend((range.count > 0).then_some(*range));
                Some(*range)
            }
            HintElement::Found(range) => {
                self.found = Some(*range);
                Some(*range)
            }
            HintElement::Id(id) => {
                self.heard = Some(*id).filter(|_| self.echoes);
                None
            }
            HintElement::Malformed(_) | HintElement::OutOfRam(_) | HintElement::Last => None,
            HintElement::Request => {
                // Where ids are asked for in buffers, what comes back is a part of them.
                (self.echoes, self.heard) = (false, None);
                return self.lent.push(head);
            }
        };
        self.popped.push((head, range));
    }

    /// The device returned an element. Returns whether it held it.
    pub(crate) fn push(&mut self, head: u16) -> bool {
        let before = self.popped.len() + self.forgotten.len();
        self.found = None;
        self.popped.retain(|(held, _)| *held != head);
        let returned = self.ask(head);
        self.forgotten.retain(|held| *held != head);
        returned || self.popped.len() + self.forgotten.len() < before
    }

    /// A request went into a buffer that the driver had lent for one, and back with it. Returns whether the device held it.
    pub(crate) fn ask(&mut self, head: u16) -> bool {
        let before = self.lent.len();
        self.lent.retain(|lent| *lent != head);
        self.lent.len() < before
    }

    /// Returns a head that was taken and not returned.
    pub(crate) fn held_head(&self) -> Option<u16> {
        self.popped.first().map(|(head, _)| *head)
    }

    /// Returns which pages of a word the elements that the device holds contain.
    pub(crate) fn holds(&self, at: u64) -> u64 {
        self.popped.iter().filter_map(|(_, range)| *range).fold(0, |held, range| held | bits_of(range, at))
    }

    /// Returns which pages of a word the host has found free by itself last, and not returned from.
    pub(crate) fn found(&self, at: u64) -> u64 {
        self.found.map_or(0, |range| bits_of(range, at))
    }

    /// The driver reset the device: the queue is gone. An element in the device's hand may still be on its way to be returned.
    pub(crate) fn reset_queue(&mut self) {
        let lent = self.lent.drain(..);
        self.forgotten = self.popped.drain(..).map(|(head, _)| head).chain(lent).collect();
        self.told.clear();
        self.passed_over.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::event::Pfn;

    #[test]
    fn only_a_requested_round_without_a_sync_takes_hints() {
        let mut device = Device::new();
        assert!(!device.start(CmdId(7)), "nothing was requested");
        assert!(device.why_not(CmdId(7)).is_some());
        device.request(CmdId(8));
        assert!(device.why_not(CmdId(8)).is_some());
        assert!(device.start(CmdId(8)));
        assert_eq!(device.why_not(CmdId(8)), None);
        assert!(device.why_not(CmdId(7)).is_some());
        device.synced();
        assert!(device.why_not(CmdId(8)).is_some());
    }

    #[test]
    fn a_driver_may_go_on_after_its_own_stop_until_the_next_sync() {
        let mut device = Device::new();
        device.request(CmdId(2));
        assert!(device.start(CmdId(2)));
        device.stop_by_driver();
        assert!(device.why_not(CmdId(2)).is_some());
        assert!(device.start(CmdId(2)));
        device.stop_by_driver();
        device.synced();
        assert!(!device.start(CmdId(2)));
    }

    #[test]
    fn an_element_in_hand_at_a_reset_may_be_returned_or_not() {
        let mut device = Device::new();
        device.pop(3, &HintElement::Id(CmdId(2)));
        device.reset_queue();
        assert_eq!(device.held_head(), None);
        assert!(device.push(3));
        assert!(!device.push(3));
    }

    #[test]
    fn an_element_is_returned_once() {
        let mut device = Device::new();
        device.pop(3, &HintElement::Pages(PageRange::new(Pfn(u64::MAX), 2)));
        device.pop(3, &HintElement::Pages(PageRange::new(Pfn(63), 2)));
        assert_eq!([device.holds(0), device.holds(1), device.holds(2)], [1 << 63, 1, 0]);
        assert!(device.push(3));
        assert!(!device.push(3));
    }
}
