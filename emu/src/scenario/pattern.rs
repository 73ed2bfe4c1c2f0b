//! The two small grammars inside strings: event patterns (`hint.apply(P)#2`, `inject[0]`, an injection's name) and page specifications
//! (`first page of hint 1`, `pfn 0x800`, `page 3 of A`).

use std::fmt;
use std::ops::Range as Span;

use host::event::EventKind;

use super::diagnostic::Diagnostic;
use super::model::{PageOf, PageSpec, Pattern};
use super::read::{Fields, Reader, Value};
use super::words;

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Event { kind, page, nth } => {
                f.write_str(kind.name())?;
                if let Some(page) = page {
                    write!(f, "({page})")?;
                }
                if *nth != 1 {
                    write!(f, "#{nth}")?;
                }
                Ok(())
            }
            Pattern::Injection(index) => write!(f, "inject[{index}]"),
        }
    }
}

impl fmt::Display for PageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |page: &PageOf| match page {
            PageOf::Index(0) => "first page".to_owned(),
            PageOf::Index(index) => format!("page {index}"),
            PageOf::Last => "last page".to_owned(),
        };
        match self {
            PageSpec::Pfn(pfn) => write!(f, "pfn {pfn:#x}"),
            PageSpec::Hint { hint, page } => write!(f, "{} of hint {hint}", of(page)),
            PageSpec::Allocation { name, page } => write!(f, "{} of {name}", of(page)),
        }
    }
}

/// Returns whether events of a kind are about pages: `name(P)` can match them.
pub(super) fn is_about_pages(kind: EventKind) -> bool {
    use EventKind as K;
    match kind {
        K::GuestAlloc
        | K::GuestFree
        | K::GuestHint
        | K::GuestReclaim
        | K::GuestReturn
        | K::GuestReport
        | K::GuestNamed
        | K::GuestWrite
        | K::GuestInflate
        | K::GuestDeflate
        | K::GuestIsolate
        | K::GuestPutback
        | K::GuestDequeue
        | K::GuestMigratePage
        | K::GuestMigrateDone
        | K::HintPop
        | K::HintApply
        | K::HintIgnore
        | K::HostDiscard
        | K::BalloonInflate
        | K::BalloonDeflate
        | K::BalloonReport
        | K::DirtyMark
        | K::DirtyClear
        | K::BitmapTake
        | K::RamRead
        | K::RamSend
        | K::RamPage
        | K::DstPlace
        | K::DmaWrite
        | K::SlotDelete
        | K::SlotCreate
        | K::BitmapLoad
        | K::BitmapStore
        | K::DstDiscard
        | K::DstFault
        | K::DstRequest
        | K::SnapshotFault
        | K::SnapshotUnprotect
        | K::IommuUnmap
        | K::Pin
        | K::RamSkip
        | K::RamDelta
        | K::VfioWrite
        | K::VhostQueue
        | K::MemPlug
        | K::MemUnplug
        | K::MemBusy
        | K::ReturnRequest
        | K::VhostWrite => true,
        K::GuestReady
        | K::GuestAllocFail
        | K::GuestCmdId
        | K::GuestStart
        | K::GuestStop
        | K::GuestAdd
        | K::GuestGet
        | K::GuestKick
        | K::GuestIrq
        | K::GuestLock
        | K::GuestUnlock
        | K::GuestActual
        | K::GuestShrink
        | K::GuestOom
        | K::GuestMissing
        | K::GuestTask
        | K::GuestTaskDone
        | K::GuestWork
        | K::GuestWorkDone
        | K::GuestWarn
        | K::GuestCrash
        | K::DeviceStatus
        | K::DeviceIrq
        | K::DeviceBroken
        | K::ConfigCmdId
        | K::HintRequest
        | K::HintAsk
        | K::HintStart
        | K::HintStop
        | K::HintDone
        | K::HintPush
        | K::DeviceKick
        | K::HintWake
        | K::HintQuiet
        | K::HintSleep
        | K::BalloonStats
        | K::BalloonOddStats
        | K::LogStart
        | K::LogStop
        | K::DirtyGet
        | K::DirtyMerge
        | K::VhostMerge
        | K::BitmapSync
        | K::AfterSync
        | K::MigrationState
        | K::Notify
        | K::IterateBegin
        | K::IterateEnd
        | K::RateLimit
        | K::Pass
        | K::DstDevice
        | K::DstStart
        | K::VmStop
        | K::VmStart
        | K::LinkDown
        | K::Monitor
        | K::LockTake
        | K::LockRelease
        | K::HostCrash
        | K::RingFull
        | K::RingReap
        | K::RingReset
        | K::ChannelSync
        | K::PostcopyStart
        | K::Throttle
        | K::VhostLogStart
        | K::DstEnd
        | K::ChannelQueue
        | K::ChannelFlush
        | K::HintNewId
        | K::LinkStall
        | K::LinkResume
        | K::DstRefuse
        | K::VfioMerge
        | K::SnapshotStart
        | K::GuestRestart
        | K::MachineReset
        | K::BitmapExclude
        | K::LimitSet
        | K::LimitRate
        | K::LimitPenalty
        | K::LimitSleep
        | K::Inject => false,
    }
}

/// A number of a grammar: decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// A pattern's text, taken apart: each part with its place in the text.
struct Parts<'t> {
    base: &'t str,
    page: Option<(&'t str, Span<usize>)>,
    nth: Option<(&'t str, Span<usize>)>,
}

/// Takes `base(page)#nth` apart; `None` when brackets do not match.
fn parts(text: &str) -> Option<Parts<'_>> {
    let (rest, nth) = match text.split_once('#') {
        Some((rest, nth)) => (rest, Some((nth, rest.len() + 1..text.len()))),
        None => (text, None),
    };
    match rest.split_once('(') {
        None if rest.contains(')') => None,
        None => Some(Parts { base: rest, page: None, nth }),
        Some((base, page)) => {
            let page = page.strip_suffix(')')?;
            let start = base.len() + 1;
            Some(Parts { base, page: Some((page, start..start + page.len())), nth })
        }
    }
}

impl<'d> Reader<'d> {
    /// Returns the patterns of a key, one or a list, with their places.
    pub(super) fn patterns(&mut self, fields: &Fields<'d>, key: &str) -> Vec<(Pattern, Span<usize>)> {
        let Some(value) = fields.get(key) else { return Vec::new() };
        let values = if value.get_ref().is_str() { vec![value] } else { self.list(value) };
        values.into_iter().filter_map(|value| self.pattern(value).map(|pattern| (pattern, value.span()))).collect()
    }

    /// Returns an event pattern.
    pub(super) fn pattern(&mut self, value: &'d Value<'d>) -> Option<Pattern> {
        let text = self.string(value)?;
        let Some(Parts { base, page, nth }) = parts(text) else {
            let diagnostic = Diagnostic::error(value.span(), format!("`{text}` is no event pattern")).label("brackets do not match");
            self.report(diagnostic.note("patterns: `name`, `name(P)`, `name#2`, `name(P)#2`, `inject[0]`, or an injection's name"));
            return None;
        };
        let base_span = self.part(value, 0..base.len());
        if let Some(index) = self.injection_of(base, base_span.clone())? {
            if page.is_some() || nth.is_some() {
                let message = "an injection fires once, and is about no page";
                self.report(Diagnostic::error(self.part(value, base.len()..text.len()), message).label("leave this out"));
                return None;
            }
            return Some(Pattern::Injection(index));
        }
        let Some(kind) = EventKind::ALL.iter().copied().find(|kind| kind.name() == base) else {
            if let Some((_, may)) = self.names.may.iter().find(|(name, _)| *name == base).cloned() {
                let diagnostic = Diagnostic::error(base_span, format!("nothing can wait for `{base}`")).label("it may never happen");
                self.report(diagnostic.related(may, "a run leaves it out").note("patterns name events, and injections of [[inject]]"));
                return None;
            }
            let named: Vec<&str> = self.names.injections.iter().flatten().map(|(name, _)| *name).collect();
            let events = words::events();
            let known: Vec<&str> = events.iter().map(|(name, _)| *name).chain(named).collect();
            self.unknown(base_span, "event", base, &known);
            return None;
        };
        let nth = match nth {
            None => Some(1),
            Some((digits, span)) => self.nth(digits, self.part(value, span)),
        };
        let page = match page {
            None => Some(None),
            Some((_, span)) if !is_about_pages(kind) => {
                let message = format!("`{base}` is about no page");
                self.report(Diagnostic::error(self.part(value, span.start - 1..span.end + 1), message).label("leave this out"));
                None
            }
            Some((page, span)) => self.known_page(page, self.part(value, span)).map(Some),
        };
        Some(Pattern::Event { kind, page: page?, nth: nth? })
    }

    /// Returns the injection that a pattern names, `Some(None)` when it speaks of an event, `None` when the injection does not exist.
    fn injection_of(&mut self, base: &str, span: Span<usize>) -> Option<Option<usize>> {
        let Some(index) = base.strip_prefix("inject[").and_then(|rest| rest.strip_suffix(']')) else {
            return Some(self.names.injection(base));
        };
        let count = self.names.injections.len();
        match number(index).map(usize::try_from) {
            Some(Ok(index)) if index < count => Some(Some(index)),
            _ => {
                let note = match count {
                    0 => "the file has no injections".to_owned(),
                    1 => "the file has one injection, `inject[0]`".to_owned(),
                    _ => format!("the file has {count} injections, `inject[0]` to `inject[{}]`", count - 1),
                };
                self.report(Diagnostic::error(span, format!("unknown injection `{base}`")).label("no such injection").note(note));
                None
            }
        }
    }

    fn nth(&mut self, digits: &str, span: Span<usize>) -> Option<u32> {
        let nth = number(digits).and_then(|nth| u32::try_from(nth).ok()).filter(|nth| *nth > 0);
        if nth.is_none() {
            self.report(Diagnostic::error(span, "bad event number").label("1 or more").note("`name#1` is the first event of that name"));
        }
        nth
    }

    /// Returns the pages that the file names.
    pub(super) fn page_spec(&mut self, value: &'d Value<'d>) -> Option<PageSpec> {
        let text = self.string(value)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["pfn", frame] => {
                let Some(frame) = number(frame) else { return self.bad_page_spec(value, text) };
                self.frame(value, frame)
            }
            ["address", address] => {
                let Some(address) = number(address) else { return self.bad_page_spec(value, text) };
                if !address.is_multiple_of(wire::platform::PAGE_SIZE) {
                    let near = format!("address {:#x}", address & !(wire::platform::PAGE_SIZE - 1));
                    let message = "the address is not that of a page's first byte";
                    self.report(Diagnostic::error(self.inner(value), message).label("no multiple of 4 KiB").suggest(Some(near)));
                    return None;
                }
                self.frame(value, address >> wire::platform::PAGE_SHIFT)
            }
            [which @ ("first" | "second" | "third" | "last"), "page", "of", block @ ..] => {
                let page = match *which {
                    "first" => PageOf::Index(0),
                    "second" => PageOf::Index(1),
                    "third" => PageOf::Index(2),
                    _ => PageOf::Last,
                };
                self.page_of_block(value, text, page, block)
            }
            ["page", index, "of", block @ ..] => {
                let Some(index) = number(index) else { return self.bad_page_spec(value, text) };
                self.page_of_block(value, text, PageOf::Index(index), block)
            }
            _ => self.bad_page_spec(value, text),
        }
    }

    fn bad_page_spec(&mut self, value: &'d Value<'d>, text: &str) -> Option<PageSpec> {
        let diagnostic = Diagnostic::error(value.span(), format!("`{text}` names no page")).label("not understood");
        self.report(
            diagnostic
                .note("pages: `first page of hint 1`, `last page of hint 2`, `page 7 of hint 1`, `pfn 0x800`, `address 0x800000`, `first page of A`, `page 3 of A`")
                .note("`page N` counts from 0, hints count from 1, `A` is an allocation of a task"),
        );
        None
    }

    fn frame(&mut self, value: &'d Value<'d>, frame: u64) -> Option<PageSpec> {
        let frames = self.ram_bytes >> wire::platform::PAGE_SHIFT;
        if frame >= frames {
            let label = format!("the last page is pfn {:#x}, address {:#x}", frames - 1, (frames - 1) << wire::platform::PAGE_SHIFT);
            self.report(Diagnostic::error(value.span(), "the page lies outside the guest's memory").label(label));
            return None;
        }
        Some(PageSpec::Pfn(frame))
    }

    fn page_of_block(&mut self, value: &'d Value<'d>, text: &str, page: PageOf, block: &[&str]) -> Option<PageSpec> {
        let (pages, spec) = match block {
            ["hint", nth] => {
                let hint = number(nth).and_then(|nth| u32::try_from(nth).ok()).filter(|nth| *nth > 0);
                let Some(hint) = hint else {
                    self.report(Diagnostic::error(value.span(), format!("there is no hint `{nth}`")).label("hints count from 1"));
                    return None;
                };
                (1 << wire::balloon::HINT_BLOCK_ORDER, PageSpec::Hint { hint, page })
            }
            [name] => {
                let start = text.trim_end().len() - name.len();
                let order = self.allocated_block(name, self.part(value, start..start + name.len()))?;
                (1 << order, PageSpec::Allocation { name: (*name).to_owned(), page })
            }
            _ => return self.bad_page_spec(value, text),
        };
        match page {
            PageOf::Index(index) if index >= pages => {
                let message = format!("the block has no page {index}");
                self.report(Diagnostic::error(value.span(), message).label(format!("its pages are 0 to {}", pages - 1)));
                None
            }
            PageOf::Index(_) | PageOf::Last => Some(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_taken_apart() {
        let Parts { base, page, nth } = parts("hint.apply(P)#12").expect("brackets match");
        assert_eq!((base, page, nth), ("hint.apply", Some(("P", 11..12)), Some(("12", 14..16))));
        assert!(parts("hint.apply(P").is_none());
        assert!(parts("hint.apply)").is_none());
    }

    #[test]
    fn numbers_take_no_sign_and_no_separator() {
        assert_eq!(number("0x1f"), Some(31));
        assert_eq!(number("+1"), None);
        assert_eq!(number("1_000"), None);
        assert_eq!(number("0x"), None);
    }

    #[test]
    fn the_first_event_of_a_kind_is_written_without_number() {
        let pattern = |nth| Pattern::Event { kind: EventKind::HintApply, page: Some("P".to_owned()), nth }.to_string();
        assert_eq!(pattern(1), "hint.apply(P)");
        assert_eq!(pattern(2), "hint.apply(P)#2");
    }
}
