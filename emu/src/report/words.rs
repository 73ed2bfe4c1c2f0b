//! An event's particulars in words: what stands behind its name in a timeline.
//!
//! Frames are hexadecimal, `first+count` for a range; sizes and counts are decimal; command ids are hexadecimal, as Linux and QEMU print
//! them. Guest locks and works bear the names of `wire`; a queue only its number, since that is dense and means what was negotiated.

use host::event::{Event, HintElement, Level};
use wire::debug::{lock, work};
use wire::virtio::isr;

/// Returns what an event says beside its name; empty when its name says all.
pub fn particulars(event: &Event) -> String {
    use Event as E;
    match event {
        E::GuestReady | E::GuestStop | E::GuestOom | E::LogStart | E::LogStop | E::AfterSync | E::PostcopyStart | E::VhostLogStart => {
            String::new()
        }
        E::DstStart
        | E::VmStop
        | E::VmStart
        | E::LinkDown
        | E::HintWake
        | E::HintQuiet
        | E::HintSleep
        | E::LinkStall
        | E::LinkResume
        | E::DstEnd
        | E::SnapshotStart
        | E::GuestRestart
        | E::MachineReset => String::new(),
        E::GuestAlloc { range } | E::GuestFree { range } | E::GuestReclaim { range } | E::GuestReturn { range } => range.to_string(),
        E::GuestReport { range } | E::HostDiscard { range } | E::BalloonReport { range } => range.to_string(),
        E::DmaWrite { range } | E::VhostWrite { range } => range.to_string(),
        E::GuestInflate { pfn } | E::GuestDeflate { pfn } | E::BalloonInflate { pfn } | E::BalloonDeflate { pfn } => pfn.to_string(),
        E::BitmapTake { pfn } | E::RamSkip { pfn } | E::GuestIsolate { pfn } | E::GuestPutback { pfn } | E::GuestDequeue { pfn } => {
            pfn.to_string()
        }
        E::GuestMigratePage { pfn, to } => format!("{pfn} to {to}"),
        E::GuestMigrateDone { pfn, error: 0 } => pfn.to_string(),
        E::GuestMigrateDone { pfn, error } => format!("{pfn}, error {error}"),
        E::GuestCmdId { id } | E::GuestStart { id } | E::ConfigCmdId { id } => format!("id {id}"),
        E::HintRequest { id } | E::HintStart { id } | E::DstDevice { id } => format!("id {id}"),
        E::GuestAllocFail { order } => format!("order {order}"),
        E::GuestWrite { pfn, len } => format!("{pfn}, {len} bytes"),
        E::GuestHint { range, number } => format!("{range}, hint {number}"),
        E::GuestAdd { queue, head } | E::GuestGet { queue, head } => format!("queue {queue}, head {head}"),
        E::GuestKick { queue } | E::DeviceBroken { queue } => format!("queue {queue}"),
        E::GuestIrq { vector } => format!("vector {vector:#x}"),
        E::GuestLock { lock } | E::GuestUnlock { lock } => from_one(lock::NAMES, *lock, "lock"),
        E::GuestActual { pages } => format!("{pages} pages"),
        E::GuestMissing { free, total } => format!("{free} free pages, {total} of all"),
        E::GuestShrink { pages } => format!("{pages} pages asked"),
        E::GuestTask { id } => format!("operation {id}"),
        E::GuestTaskDone { id, ok } => format!("operation {id}{}", if *ok { "" } else { ", not as asked" }),
        E::GuestNamed { name, range } => format!("{range}, allocation {name}"),
        E::GuestWork { work } | E::GuestWorkDone { work } => from_one(work::NAMES, *work, "work"),
        E::GuestWarn { message } | E::GuestCrash { message } => one_line(message),
        E::DeviceStatus { status } => format!("{status:#x}"),
        E::DeviceIrq { cause } => cause_name(*cause),
        E::HintStop { from } | E::HintDone { from } => format!("from {}", from.name()),
        E::HintPop { head, element: HintElement::Id(id) } => format!("id {id}, head {head}"),
        E::HintPop { head, element: HintElement::Pages(range) } => format!("{range}, head {head}"),
        E::HintPop { head, element: HintElement::Malformed(bytes) } => format!("malformed: {bytes} bytes, head {head}"),
        E::HintApply { range, id, cleared } => format!("{range}, id {id}, {cleared} cleared"),
        E::HintIgnore { range, status } => format!("{range}, in {}", status.name()),
        E::DeviceKick { queue } => format!("queue {queue}"),
        E::HintPop { head, element: HintElement::OutOfRam(pfn) } => format!("outside RAM from {pfn}, head {head}"),
        E::HintPop { head: _, element: HintElement::Found(range) } => format!("{range} found free"),
        E::HintPop { head, element: HintElement::Last } => format!("last response, head {head}"),
        E::HintPop { head, element: HintElement::Request } => format!("buffer for a request, head {head}"),
        E::HintAsk { head, id } => format!("id {id}, head {head}"),
        E::HintPush { head, len } => format!("head {head}, length {len}"),
        E::BalloonStats { records } => format!("{records} records"),
        E::BalloonOddStats { odd } => format!("{odd} records"),
        E::DirtyMark { pfn, level } => format!("{pfn}, in {}", level_name(*level)),
        E::DirtyGet { pages } => format!("K to S, {pages} pages"),
        E::DirtyMerge { pages } => format!("S to D, {pages} pages"),
        E::VhostMerge { pages } => format!("V to D, {pages} pages"),
        E::DirtyClear { range, cleared } => format!("{range}, {cleared} cleared"),
        E::BitmapSync { round, before, after } => format!("sync {round}, {before} -> {after} dirty"),
        E::MigrationState { from, to } => format!("{} -> {}", from.name(), to.name()),
        E::Notify { reason, vm_running } => format!("{}{}", reason.name(), if *vm_running { "" } else { ", VM stopped" }),
        E::IterateBegin { remaining } => format!("{remaining} pages remain"),
        E::IterateEnd { sent } => format!("{sent} pages sent"),
        E::RateLimit { until_ns } => format!("until {} us", super::micros(*until_ns)),
        E::Pass { round } => format!("round {round}"),
        E::RamRead { pfn, zero } | E::DstPlace { pfn, zero } => format!("{pfn}, {}", data_or_zero(*zero)),
        E::RamSend { pfn, zero, round } | E::RamPage { pfn, zero, round } => {
            format!("{pfn}, {}, round {round}", data_or_zero(*zero))
        }
        E::Monitor { command } => one_line(command),
        E::LockTake { lock } | E::LockRelease { lock } => lock.name().to_string(),
        E::HostCrash { message } => one_line(message),
        E::RingFull { cpu } => format!("vcpu{cpu}"),
        E::RingReap { pages } => format!("ring to S, {pages} pages"),
        E::RingReset { pages } => format!("{pages} pages"),
        E::SlotDelete { range } => range.to_string(),
        E::SlotCreate { range } => range.to_string(),
        E::BitmapLoad { range } => range.to_string(),
        E::BitmapStore { range } => range.to_string(),
        E::ChannelSync { channels } => format!("{channels} channels"),
        E::DstDiscard { range } => range.to_string(),
        E::DstFault { pfn } => pfn.to_string(),
        E::DstRequest { pfn } => pfn.to_string(),
        E::SnapshotFault { pfn } => pfn.to_string(),
        E::SnapshotUnprotect { range } => range.to_string(),
        E::Throttle { percent } => format!("{percent} %"),
        E::IommuUnmap { range } => range.to_string(),
        E::Pin { range } => range.to_string(),
        E::HintNewId { id } => format!("round {id}"),
        E::RamDelta { pfn, len, round } => format!("{pfn} round {round}, {len} bytes"),
        E::DstRefuse { message } => message.clone(),
        E::VfioWrite { range } => range.to_string(),
        E::VfioMerge { pages } => format!("{pages} pages to D"),
        E::VhostQueue { range, queue } => format!("queue {queue}, used ring at {range}"),
        E::ChannelQueue { channel, pages } => format!("channel {channel}, {pages} pages"),
        E::ChannelFlush { channels } => format!("{channels} channels"),
        E::MemPlug { range } => range.to_string(),
        E::MemUnplug { range } => range.to_string(),
        E::MemBusy { range } => range.to_string(),
        E::BitmapExclude { pages } => format!("{pages} pages"),
        E::LimitSet { first, count, rate } => format!("vcpu{first} and {} more, {rate} MB/s", count - 1),
        E::LimitRate { cpu, rate } => format!("vcpu{cpu}, {rate} MB/s"),
        E::LimitPenalty { cpu, us } => format!("vcpu{cpu}, {us} us"),
        E::LimitSleep { cpu, us } => format!("vcpu{cpu}, {us} us"),
        E::ReturnRequest { pfn } => pfn.to_string(),
        E::Inject { index } => format!("inject[{index}]"),
    }
}

fn data_or_zero(zero: bool) -> &'static str {
    if zero { "zero" } else { "data" }
}

/// The cause is a register's value, so it may be anything.
fn cause_name(cause: u32) -> String {
    match cause {
        isr::USED_BUFFER => "used buffer".to_string(),
        isr::CONFIG_CHANGE => "configuration change".to_string(),
        other => format!("cause {other:#x}"),
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::K => "K",
        Level::Ring => "ring",
        Level::S => "S",
        Level::D => "D",
        Level::V => "V",
        Level::B => "B",
    }
}

/// Names of `wire` are numbered from 1.
fn from_one(names: &[&str], number: u32, what: &str) -> String {
    let name = (number as usize).checked_sub(1).and_then(|index| names.get(index));
    name.map_or_else(|| format!("{what} {number}"), ToString::to_string)
}

/// What a guest or a user wrote, safe in a report of one event per line.
fn one_line(text: &str) -> String {
    text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use host::event::{CmdId, PageRange, Pfn};

    use super::*;

    #[test]
    fn locks_and_works_bear_their_names() {
        assert_eq!(particulars(&Event::GuestLock { lock: lock::FREE_PAGE_LIST as u32 }), "free_page_list_lock");
        assert_eq!(particulars(&Event::GuestWork { work: work::REPORT_FREE_PAGE as u32 }), "report_free_page");
        assert_eq!(particulars(&Event::GuestLock { lock: 0 }), "lock 0");
        assert_eq!(particulars(&Event::GuestLock { lock: 99 }), "lock 99");
    }

    #[test]
    fn a_message_of_several_lines_stays_on_one() {
        let warn = Event::GuestWarn { message: "a \"b\"\n\u{1b}[31mc".to_string() };
        assert_eq!(particulars(&warn), "a \"b\"\\n\\u{1b}[31mc");
    }

    #[test]
    fn a_hint_says_range_id_and_effect() {
        let apply = Event::HintApply { range: PageRange::new(Pfn(0x400), 1024), id: CmdId(0x8000_0001), cleared: 1024 };
        assert_eq!(particulars(&apply), "0x400+1024, id 80000001, 1024 cleared");
    }
}
