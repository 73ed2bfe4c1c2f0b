//! Hostile guests: whatever a guest writes into rings, registers and memory, the host lives, keeps to its own rules, and touches nothing else.
//!
//! No guest code runs. [`intruder::Guest`] makes up what one could do: chains that loop, end nowhere, are empty or huge, rings that run ahead, registers in any order,
//! accesses of any width; in between the host's threads move in any order, migrations come and go, and the operator does what operators do.
//! [`machine::Machine`] has the whole host, and looks after each move at what must hold.
//!
//! The environment variable `LOSTPAGE_HOSTILE_OPS` says how many operations of guests are made; 300,000 without it. With `LOSTPAGE_HOSTILE_GUEST` the guest
//! of that number does its worst alone: a failure names it.

mod draw;
mod intruder;
mod machine;

use std::panic::{AssertUnwindSafe, catch_unwind};

use host::fault::Fault;

use crate::draw::Draw;
use crate::intruder::Guest;
use crate::machine::{Counts, Machine};

/// Operations of one guest; then comes another, with another host.
const OPS_PER_GUEST: u64 = 2_000;
const OPS: u64 = 300_000;

/// Lets one guest do its worst, and returns what was done, or what was wrong.
fn attack(seed: u64, faults: &[Fault]) -> Result<Counts, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut draw = Draw::new(seed);
        let mut machine = Machine::new(&mut draw, faults);
        let mut guest = Guest::new(&mut draw);
        for op in 0..OPS_PER_GUEST {
            guest.act(&mut machine, &mut draw);
            machine.check().map_err(|wrong| format!("{wrong} behind operation {op}"))?;
            if machine.stuck {
                return Ok(machine.counts());
            }
        }
        machine.settle()?;
        Ok(machine.counts())
    }));
    let result = result.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("the host panicked: {}", message.unwrap_or_default()))
    });
    result.map_err(|wrong| format!("guest {seed}: {wrong}"))
}

#[test]
fn a_hostile_guest_breaks_its_device_at_most() {
    if let Ok(guest) = std::env::var("LOSTPAGE_HOSTILE_GUEST") {
        let seed = guest.parse().expect("LOSTPAGE_HOSTILE_GUEST is a number");
        return println!("guest {seed}: {:#?}", attack(seed, &[]).unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    let ops = std::env::var("LOSTPAGE_HOSTILE_OPS").map_or(OPS, |text| text.parse().expect("LOSTPAGE_HOSTILE_OPS is a number"));
    let mut counts = Counts::default();
    for seed in 0..ops.div_ceil(OPS_PER_GUEST) {
        match attack(seed, &[]) {
            Ok(more) => counts.add(&more),
            Err(wrong) => panic!("{wrong}"),
        }
    }
    println!("{} operations by guests: {counts:#?}", ops.next_multiple_of(OPS_PER_GUEST));
    // A guest that never gets anywhere is harmless.
    let Counts { moves, elements, told, broken, rounds, hints, discards, resets, migrations, returned, .. } = counts;
    for (what, count) in [
        ("moves", moves),
        ("hint elements", elements),
        ("told pages", told),
        ("broken devices", broken),
        ("rounds", rounds),
        ("hints", hints),
        ("discards", discards),
        ("resets", resets),
        ("migrations", migrations),
        ("returned heads", returned),
    ] {
        assert!(count > ops / 100_000, "{count} {what} in {ops} operations");
    }
}

/// The checks can fail: a host that makes one of these mistakes is found out.
#[test]
fn a_host_that_trusts_its_guest_is_found_out() {
    for fault in [Fault::HintElementFreed, Fault::PartialManyBits, Fault::HintQueueWithoutIothread, Fault::UnrealizeByGuestFeatures] {
        let wrong = (0..2_000).find_map(|seed| attack(seed, &[fault]).err());
        let wrong = wrong.unwrap_or_else(|| panic!("{} goes unnoticed", fault.name()));
        assert!(wrong.contains("the host is dead"), "{}: {wrong}", fault.name());
    }
}
