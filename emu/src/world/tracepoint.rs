//! From the debug port's codes to events.

use host::event::{CmdId, Event, PageRange, Pfn};
use host::memory::GuestRam;
use wire::debug;

/// What a tracepoint means to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracepoint {
    /// Something worth an event.
    Event(Event),
    /// The vCPU found a lock held, and would try again.
    Spin {
        /// Which lock, of [`wire::debug::lock`].
        lock: u32,
        /// Address of the lock word: 0 when free.
        address: u64,
    },
    /// The vCPU polls a word that the device changes, and would look again.
    Poll {
        /// Address of the 16-bit word.
        address: u64,
        /// What it found there.
        value: u16,
    },
    /// `panic!` with this message.
    Panic(String),
    /// The injected store's frame ended.
    InjectEnd,
    /// A code that nobody knows, or one that speaks of memory that is not there: the guest is out of its mind.
    Nonsense(String),
}

/// The longest message that is read from the guest, bytes.
const MESSAGE_BYTES_MAX: u64 = 512;

/// Returns what the guest said.
///
/// `hints` is the number of hints so far: the next one gets the next number.
pub fn decode(code: u32, a: u64, b: u64, hints: u32, ram: &GuestRam) -> Tracepoint {
    let block = || PageRange::new(Pfn(a), 1 << (b & 0xff).min(u64::from(wire::layout::MAX_PAGE_ORDER)));
    let event = match code {
        debug::READY => Event::GuestReady,
        debug::PANIC => return Tracepoint::Panic(message(ram, a, b)),
        debug::ALLOC => Event::GuestAlloc { range: block() },
        debug::FREE => Event::GuestFree { range: block() },
        debug::LOCK => Event::GuestLock { lock: a as u32 },
        debug::UNLOCK => Event::GuestUnlock { lock: a as u32 },
        debug::SPIN if b.checked_add(4).is_none_or(|end| end > ram.bytes()) => {
            return Tracepoint::Nonsense(format!("tracepoint {code}: a lock word at {b:#x}"));
        }
        debug::SPIN => return Tracepoint::Spin { lock: a as u32, address: b },
        debug::HINT => Event::GuestHint { range: block(), number: hints + 1 },
        debug::BUSY_WAIT if a.checked_add(2).is_none_or(|end| end > ram.bytes()) => {
            return Tracepoint::Nonsense(format!("tracepoint {code}: a word at {a:#x}"));
        }
        debug::BUSY_WAIT => return Tracepoint::Poll { address: a, value: b as u16 },
        debug::HINT_RECLAIM => Event::GuestReclaim { range: block() },
        debug::HINT_RETURN => Event::GuestReturn { range: block() },
        debug::CMD_ID_READ => Event::GuestCmdId { id: CmdId(a as u32) },
        debug::HINT_START => Event::GuestStart { id: CmdId(a as u32) },
        debug::HINT_STOP => Event::GuestStop,
        debug::VQ_ADD => Event::GuestAdd { queue: a as u16, head: b as u16 },
        debug::KICK => Event::GuestKick { queue: a as u16 },
        debug::VQ_GET => Event::GuestGet { queue: a as u16, head: b as u16 },
        debug::IRQ => Event::GuestIrq { vector: a as u8 },
        debug::INFLATE => Event::GuestInflate { pfn: Pfn(a) },
        debug::DEFLATE => Event::GuestDeflate { pfn: Pfn(a) },
        debug::ACTUAL => Event::GuestActual { pages: a as u32 },
        debug::ISOLATE => Event::GuestIsolate { pfn: Pfn(a) },
        debug::PUTBACK => Event::GuestPutback { pfn: Pfn(a) },
        debug::MIGRATE_PAGE if b >= ram.pages() => return Tracepoint::Nonsense(format!("tracepoint {code}: page {b:#x}")),
        debug::MIGRATE_PAGE => Event::GuestMigratePage { pfn: Pfn(a), to: Pfn(b) },
        debug::MIGRATE_DONE => Event::GuestMigrateDone { pfn: Pfn(a), error: b as u32 },
        debug::DEQUEUE => Event::GuestDequeue { pfn: Pfn(a) },
        debug::RESTART => Event::GuestRestart,
        debug::SHRINK => Event::GuestShrink { pages: a },
        debug::OOM => Event::GuestOom,
        debug::MISSING => Event::GuestMissing { free: a, total: b },
        debug::TASK_BEGIN => Event::GuestTask { id: a as u32 },
        debug::TASK_END => Event::GuestTaskDone { id: a as u32, ok: b == 1 },
        debug::TASK_NAME => Event::GuestNamed { name: (b >> 8) as u32, range: block() },
        debug::WORK_BEGIN => Event::GuestWork { work: a as u32 },
        debug::WORK_END => Event::GuestWorkDone { work: a as u32 },
        debug::ALLOC_FAIL => Event::GuestAllocFail { order: a as u32 },
        debug::REPORT => Event::GuestReport { range: block() },
        debug::INJECT_END => return Tracepoint::InjectEnd,
        debug::WARN => Event::GuestWarn { message: message(ram, a, b) },
        _ => return Tracepoint::Nonsense(format!("unknown tracepoint {code}")),
    };
    match event.range() {
        Some(range) if range.first.0.checked_add(range.count).is_none_or(|end| end > ram.pages()) => {
            Tracepoint::Nonsense(format!("tracepoint {code}: page {:#x}", range.first.0))
        }
        Some(_) | None => Tracepoint::Event(event),
    }
}

/// Returns a message of the guest's; what is not text or not in RAM shows as such.
fn message(ram: &GuestRam, address: u64, len: u64) -> String {
    let len = len.min(MESSAGE_BYTES_MAX);
    match address.checked_add(len) {
        Some(end) if end <= ram.bytes() => {
            let mut bytes = vec![0; len as usize];
            ram.read(address, &mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => format!("(message outside RAM: {address:#x})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_port_is_known() {
        let ram = GuestRam::new(1 << 20);
        for (code, name) in debug::CODES {
            assert!(!matches!(decode(*code, 0, 0, 0, &ram), Tracepoint::Nonsense(_)), "{name}");
        }
    }

    #[test]
    fn memory_that_is_not_there_is_nonsense() {
        let ram = GuestRam::new(1 << 20);
        for (code, a, b) in [
            (debug::HINT, 256, 0),
            (debug::HINT, u64::MAX, 10),
            (debug::SPIN, 1, u64::MAX),
            (debug::BUSY_WAIT, 1 << 20, 0),
            (debug::INFLATE, 256, 0),
            (99, 0, 0),
        ] {
            assert!(matches!(decode(code, a, b, 0, &ram), Tracepoint::Nonsense(_)), "{code} {a:#x} {b:#x}");
        }
    }

    #[test]
    fn a_message_outside_ram_is_said_to_be() {
        let ram = GuestRam::new(1 << 20);
        assert_eq!(decode(debug::PANIC, u64::MAX, 9, 0, &ram), Tracepoint::Panic("(message outside RAM: 0xffffffffffffffff)".into()));
    }
}
