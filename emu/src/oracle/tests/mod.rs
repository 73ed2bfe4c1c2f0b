//! Each rule: the good course of events is silent, the bad one is caught, with the right step and the right blame.

mod hints;
mod properties;
mod records;

use host::event::{Actor, PageRange};

use super::fake::{Bench, Log, p};
use crate::outcome::{Verdict, Violation};

const CPU: Actor = Actor::Vcpu(0);
const LOGS: [Log; 3] = [Log::ManualClear, Log::GetClears, Log::Tcg];

fn block(first: u64) -> PageRange {
    PageRange::new(p(first), 8)
}

fn silent(bench: Bench) {
    let findings = bench.finish();
    assert_eq!(findings.violations, []);
    assert_eq!(findings.lost, []);
}

/// The only loss of a run.
fn loss(bench: Bench) -> Violation {
    let violations = bench.finish().violations;
    let lost: Vec<_> = violations.iter().filter(|v| v.verdict == Verdict::LostPage).collect();
    assert_eq!(lost.len(), 1, "{violations:?}");
    lost[0].clone()
}

fn broken(bench: Bench) -> Vec<&'static str> {
    let violations = bench.finish().violations;
    violations.iter().filter(|v| v.verdict == Verdict::BrokenRule).map(|v| v.rule).collect()
}
