//! The keys of what must come out, of what moves cost, and of when a run is given up.

use super::super::words::{blames, holds, verdicts, waiters};
use super::ranges::{ANY, BYTE, COST, COUNT, ID, TIME, range};
use super::{Kind, Table, key};

pub(super) static EXPECT: Table = Table {
    title: "[expect]",
    keys: &[
        key("verdict", "How the run ends.", Kind::Word("verdict", verdicts)).default("\"pass\""),
        key("blame", "Whose fault a violation is.", Kind::Word("blame", blames)),
        key("sent", "About the sending of named pages.", Kind::PerPage(&SENT)),
        key("rounds", "Number of syncs.", Kind::Integer(ANY)),
        key("cmd_ids", "The command ids that the configuration showed, without repeats.", Kind::Integers(ID)),
        key("destination_cmd_id", "The command id that the destination's device shows.", Kind::Integer(ID)),
        key("events", "How often events must have happened.", Kind::PerEvent(&TIMES)),
        key("blocked", "How long somebody was held up.", Kind::Tables(&BLOCKED)),
        key("spun", "How long somebody looked for something to do, without a pause.", Kind::Tables(&SPUN)),
        key("irq_off_insns", "Instructions of the longest stretch in which a vCPU had interrupts disabled.", Kind::Table(&INSNS)),
    ],
};

static SENT: Table = Table {
    title: "`sent`",
    keys: &[
        key("last", "First byte of the page's last copy at the destination.", Kind::Integer(BYTE)),
        key("min", "Fewest times sent.", Kind::Integer(ANY)),
        key("max", "Most times sent.", Kind::Integer(ANY)),
    ],
};

static TIMES: Table =
    Table { title: "`events`", keys: &[key("min", "At least.", Kind::Integer(ANY)), key("max", "At most.", Kind::Integer(ANY))] };

static INSNS: Table =
    Table { title: "`irq_off_insns`", keys: &[key("min", "At least.", Kind::Integer(ANY)), key("max", "At most.", Kind::Integer(ANY))] };

static SPUN: Table = Table {
    title: "[[expect.spun]]",
    keys: &[
        key("who", "Who spun.", Kind::Word("actor", waiters)).required(),
        key("min", "At least.", Kind::Time(TIME)),
        key("max", "At most.", Kind::Time(TIME)),
    ],
};

static BLOCKED: Table = Table {
    title: "[[expect.blocked]]",
    keys: &[
        key("who", "Who was held up.", Kind::Word("actor", waiters)).required(),
        key("on", "By what; default: all together.", Kind::Word("wait", holds)),
        key("min", "At least.", Kind::Time(TIME)),
        key("max", "At most.", Kind::Time(TIME)),
    ],
};

pub(super) static COSTS: Table = Table {
    title: "[costs]",
    keys: &[
        key("guest_step", "A tracepoint: the instructions since the last one.", Kind::Time(COST)).default("\"100 ns\""),
        key("exit", "An exit to the VMM and back.", Kind::Time(COST)).default("\"1500 ns\""),
        key("tracked_store", "First store to a write-protected page.", Kind::Time(COST)).default("\"1 us\""),
        key("irq", "From a device's interrupt to its handler's work.", Kind::Time(COST)).default("\"740 us\""),
        key("lock", "Taking or releasing a host lock.", Kind::Time(COST)).default("\"50 ns\""),
        key("element", "Host work on one queue element.", Kind::Time(COST)).default("\"1 us\""),
        key("sync_word", "Copying or merging one 64-page word of a dirty bitmap.", Kind::Time(COST)).default("\"2 ns\""),
        key("clear", "A CLEAR call.", Kind::Time(COST)).default("\"2 us\""),
        key("page", "Finding and reading a page to send.", Kind::Time(COST)).default("\"250 ns\""),
        key("state", "Telling a notifier, changing a state.", Kind::Time(COST)).default("\"1 us\""),
        key("vm_stop", "Stopping or starting the VM.", Kind::Time(COST)).default("\"50 us\""),
        key("setup", "From a migration's first sync to its first page.", Kind::Time(COST)).default("\"2300 us\""),
        key("return_path", "From the destination's request to the source's thread.", Kind::Time(COST)).default("\"50 us\""),
    ],
};

pub(super) static LIMITS: Table = Table {
    title: "[limits]",
    keys: &[
        key("time", "Virtual time.", Kind::Time(range(1, TIME.max, TIME.why))).default("\"60 s\""),
        key("steps", "Steps of all actors.", Kind::Integer(COUNT)).default("20000000"),
        key("step_insns", "Guest instructions between two of a vCPU's events.", Kind::Integer(COUNT)).default("50000000"),
        key(
            "check_mm",
            "The rules of the guest's memory manager are looked at after every so many steps that change it; 0: at the end alone.",
            Kind::Integer(ANY),
        )
        .default("1"),
    ],
};
