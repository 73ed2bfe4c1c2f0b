//! An outcome as JSON: one object, all values plain, names as in scenario files.
//!
//! This is what `--format json` prints (one object a line; with `--trace` the events, too), what `--save-outcome` writes, and what
//! `diff` compares. `lostpage schema outcome` prints the JSON Schema that the types here give. Unknown keys and other versions are refused
//! on reading, so that a comparison never runs on half an outcome.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Subject, words};
use crate::outcome::{Facts, Outcome, name_of};

/// Version of the format. It grows with every change that a reader could trip over.
pub const VERSION: u32 = 3;

/// An outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this format: 3.
    pub version: u32,
    /// The scenario's path, from `scenarios/` on where it lies in such a folder.
    pub scenario: String,
    /// The scenario's `about`.
    pub about: String,
    /// Faults that were switched on.
    pub faults: Vec<String>,
    /// How the run ended.
    pub verdict: String,
    /// What differs from the scenario's expectations, in sentences; empty when it ended as its file says.
    pub unexpected: Vec<String>,
    /// Broken rules.
    pub violations: Vec<ViolationRecord>,
    /// Open waits.
    pub waits: Vec<WaitRecord>,
    /// The guest's end, if it came to one.
    pub crash: Option<CrashRecord>,
    /// Named pages.
    pub pages: BTreeMap<String, PageRecord>,
    /// Numbers of the run.
    pub facts: FactsRecord,
    /// Number of events in the run, whether they are listed or not.
    pub events: u64,
    /// XXH3-128 over all events, hexadecimal.
    pub digest: String,
    /// Every event in order; null where it was not asked for.
    pub trace: Option<Vec<EventRecord>>,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViolationRecord {
    /// The rule's name.
    pub rule: String,
    /// The verdict it leads to.
    pub verdict: String,
    /// Page frame number, if it is about a page.
    pub pfn: Option<u64>,
    /// Place in the trace of the write that was lost.
    pub write: Option<u64>,
    /// Place in the trace of the step that doomed it.
    pub doom: Option<u64>,
    /// Whose fault: host, guest or gap.
    pub blame: String,
    /// What happened, in a sentence.
    pub what: String,
}

/// A wait at the end of a run that could not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitRecord {
    /// Who.
    pub who: String,
    /// Would do or take.
    pub wants: String,
    /// But waits for.
    pub waits_for: String,
}

/// The guest's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CrashRecord {
    /// On which vCPU.
    pub vcpu: u8,
    /// What happened.
    pub message: String,
    /// Function names, innermost first.
    pub backtrace: Vec<String>,
}

/// What became of a named page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageRecord {
    /// Page frame number, if it became known.
    pub pfn: Option<u64>,
    /// Times on the wire in the last migration.
    pub sent: u64,
    /// First byte at the source.
    pub source_byte: u8,
    /// First byte at the destination; null when it never arrived.
    pub destination_byte: Option<u8>,
    /// Whether all bytes are equal.
    pub equal: bool,
    /// Why a difference would be fine.
    pub excused: Option<String>,
}

/// Numbers of a run; page counts are those of the last migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactsRecord {
    /// Virtual time at the end, nanoseconds.
    pub time_ns: u64,
    /// Guest instructions, by vCPU.
    pub insns: Vec<u64>,
    /// Steps of all actors.
    pub steps: u64,
    /// Pages sent as data.
    pub pages_normal: u64,
    /// Pages sent as zero records.
    pub pages_zero: u64,
    /// Pages never sent.
    pub pages_skipped: u64,
    /// Times that a page was sent again.
    pub pages_resent: u64,
    /// Blocks hinted.
    pub hints: u64,
    /// Pages cleared by hints.
    pub pages_hinted: u64,
    /// Bitmap syncs.
    pub rounds: u64,
    /// Bytes on the wire.
    pub bytes_sent: u64,
    /// Downtime, nanoseconds.
    pub downtime_ns: u64,
    /// Command ids that the configuration showed.
    pub cmd_ids: Vec<u32>,
    /// The command id at the destination.
    pub destination_cmd_id: Option<u32>,
    /// How each migration ended.
    pub migrations: Vec<String>,
    /// Hinted blocks that the guest still holds.
    pub held_blocks: u64,
    /// Pages sent after a hint of them was applied, though not written since the hint.
    pub pages_wrongly_resent: u64,
    /// Pages sent after a hint of them was applied, written since.
    pub pages_resent_hinted: u64,
    /// Longest run of guest instructions with interrupts disabled on a vCPU, boot left out.
    pub irq_off_insns_max: u64,
    /// The guest's function that disabled interrupts for that.
    pub irq_off_in: Option<String>,
    /// Smallest number of free pages since the driver is up; null when it never was.
    pub free_pages_min: Option<u64>,
    /// Smallest number of pages in free blocks of the largest order since then.
    pub free_pages_max_order_min: Option<u64>,
    /// How long who waited for what in the middle of something.
    pub blocked: Vec<BlockedRecord>,
    /// How long who spun with nothing to do.
    pub spun: Vec<SpinRecord>,
}

/// A time that somebody spent looking for something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpinRecord {
    /// Who.
    pub who: String,
    /// All such times together, nanoseconds.
    pub ns: u64,
    /// How many looks that are; 0 where a lock costs nothing.
    pub looks: u64,
}

/// A time that somebody spent waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockedRecord {
    /// Who.
    pub who: String,
    /// For what: a lock's name, or what another actor does.
    pub on: String,
    /// All such waits together, nanoseconds.
    pub ns: u64,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventRecord {
    /// Virtual time, nanoseconds.
    pub at_ns: u64,
    /// Who moved.
    pub actor: String,
    /// The event's name.
    pub event: String,
    /// Names of the named pages that it is about.
    pub pages: Vec<String>,
    /// First page frame number, if it is about pages.
    pub pfn: Option<u64>,
    /// Number of pages, 0 if it is about none.
    pub count: u64,
    /// What it says, in words.
    pub particulars: String,
}

impl Record {
    /// Returns the record of an outcome, with its events or without.
    pub fn new(subject: &Subject, outcome: &Outcome, with_trace: bool) -> Self {
        Self {
            version: VERSION,
            scenario: subject.name.clone(),
            about: subject.about.clone(),
            faults: subject.faults.iter().map(|fault| fault.name().to_string()).collect(),
            verdict: outcome.verdict.name().to_string(),
            unexpected: outcome.unexpected.clone(),
            violations: violations(outcome),
            waits: waits(outcome),
            crash: outcome.crash.as_ref().map(|crash| CrashRecord {
                vcpu: crash.vcpu,
                message: crash.message.clone(),
                backtrace: crash.backtrace.clone(),
            }),
            pages: pages(outcome),
            facts: facts(&outcome.facts),
            events: outcome.trace.len() as u64,
            digest: format!("{:032x}", outcome.digest),
            trace: with_trace.then(|| events(outcome)),
        }
    }

    /// Returns the record as one line of JSON.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always become JSON");
        line.push('\n');
        line
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// When the text is no record of this version; the message fits "failed to …: ".
    pub fn from_json(text: &str) -> Result<Self, String> {
        let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if record.version != VERSION {
            return Err(format!("version {} of the format, expected {VERSION}", record.version));
        }
        if record.trace.as_ref().is_some_and(|trace| trace.len() as u64 != record.events) {
            return Err(format!("{} events announced, but others listed", record.events));
        }
        Ok(record)
    }
}

/// Returns the JSON Schema of a record, for people and tools that read what we write.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(Record)).expect("a schema always becomes JSON");
    text.push('\n');
    text
}

fn violations(outcome: &Outcome) -> Vec<ViolationRecord> {
    let place = |index: Option<usize>| index.map(|index| index as u64);
    let record = |violation: &crate::outcome::Violation| ViolationRecord {
        rule: violation.rule.to_string(),
        verdict: violation.verdict.name().to_string(),
        pfn: violation.page.map(|pfn| pfn.0),
        write: place(violation.write),
        doom: place(violation.doom),
        blame: violation.blame.name().to_string(),
        what: violation.what.clone(),
    };
    outcome.violations.iter().map(record).collect()
}

fn waits(outcome: &Outcome) -> Vec<WaitRecord> {
    let record =
        |wait: &crate::outcome::Wait| WaitRecord { who: wait.who.clone(), wants: wait.wants.clone(), waits_for: wait.waits_for.clone() };
    outcome.waits.iter().map(record).collect()
}

fn pages(outcome: &Outcome) -> BTreeMap<String, PageRecord> {
    let record = |page: &crate::outcome::PageFacts| PageRecord {
        pfn: page.pfn.map(|pfn| pfn.0),
        sent: page.sent,
        source_byte: page.source_byte,
        destination_byte: page.destination_byte,
        equal: page.equal,
        excused: page.excused.map(ToString::to_string),
    };
    outcome.pages.iter().map(|(name, page)| (name.clone(), record(page))).collect()
}

/// Takes the facts apart field by field, so that a new one asks for a place in the format.
pub fn facts(facts: &Facts) -> FactsRecord {
    let Facts {
        time_ns,
        insns,
        steps,
        pages_normal,
        pages_zero,
        pages_skipped,
        pages_resent,
        hints,
        pages_hinted,
        rounds,
        bytes_sent,
        downtime_ns,
        cmd_ids,
        destination_cmd_id,
        migrations,
        held_blocks,
        pages_wrongly_resent,
        pages_resent_hinted,
        irq_off_insns_max,
        irq_off_in,
        free_pages_min,
        free_pages_max_order_min,
        blocked,
        spun,
    } = facts;
    FactsRecord {
        time_ns: *time_ns,
        insns: insns.clone(),
        steps: *steps,
        pages_normal: *pages_normal,
        pages_zero: *pages_zero,
        pages_skipped: *pages_skipped,
        pages_resent: *pages_resent,
        hints: *hints,
        pages_hinted: *pages_hinted,
        rounds: *rounds,
        bytes_sent: *bytes_sent,
        downtime_ns: *downtime_ns,
        cmd_ids: cmd_ids.iter().map(|id| id.0).collect(),
        destination_cmd_id: destination_cmd_id.map(|id| id.0),
        migrations: migrations.iter().map(|status| status.name().to_string()).collect(),
        held_blocks: *held_blocks,
        pages_wrongly_resent: *pages_wrongly_resent,
        pages_resent_hinted: *pages_resent_hinted,
        irq_off_insns_max: *irq_off_insns_max,
        irq_off_in: irq_off_in.clone(),
        free_pages_min: *free_pages_min,
        free_pages_max_order_min: *free_pages_max_order_min,
        blocked: blocked.iter().map(|time| BlockedRecord { who: time.who.clone(), on: time.on.clone(), ns: time.ns }).collect(),
        spun: spun.iter().map(|time| SpinRecord { who: time.who.clone(), ns: time.ns, looks: time.looks }).collect(),
    }
}

fn events(outcome: &Outcome) -> Vec<EventRecord> {
    let record = |stamped: &host::event::Stamped| {
        let range = stamped.event.range();
        EventRecord {
            at_ns: stamped.at_ns,
            actor: stamped.actor.to_string(),
            event: stamped.event.kind().name().to_string(),
            pages: range.map(|range| name_of(&outcome.pages, range)).unwrap_or_default().into_iter().map(str::to_string).collect(),
            pfn: range.map(|range| range.first.0),
            count: range.map_or(0, |range| range.count),
            particulars: words::particulars(&stamped.event),
        }
    };
    outcome.trace.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_record_is_one_line_and_comes_back_the_same() {
        let record = Record::new(&sample::subject(), &sample::crash(), true);
        let line = record.to_line();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(Record::from_json(&line), Ok(record));
    }

    #[test]
    fn another_version_is_refused() {
        let mut record = Record::new(&sample::subject(), &sample::pass(), false);
        record.version += 1;
        let error = Record::from_json(&record.to_line()).expect_err("a later version");
        assert!(error.contains(&format!("version {}", VERSION + 1)), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let line = Record::new(&sample::subject(), &sample::pass(), false).to_line().replacen("{", "{\"novelty\":1,", 1);
        assert!(Record::from_json(&line).is_err());
    }

    #[test]
    fn half_a_trace_is_refused() {
        let mut record = Record::new(&sample::subject(), &sample::pass(), true);
        record.trace.as_mut().expect("asked for").pop();
        assert!(Record::from_json(&record.to_line()).is_err());
    }
}
