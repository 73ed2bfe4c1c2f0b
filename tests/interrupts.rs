//! Interrupts of a running world: when a vCPU that has them switched off takes one.

use emu::world::{RunOptions, run};
use host::event::{Actor, Event};
use lostpage_tests::scenario;
use wire::debug::lock;
use wire::platform::vector;

const ALLOCATION: &str = r#"
    about = "an allocation takes the zone lock with interrupts off"
    [[guest.task]]
    on = "vcpu1"
    do = [{ alloc = "A", order = 4 }]
    [migration]
    start = "never"
"#;

/// The interrupt is raised while the allocator holds the zone's lock. It must come as soon as the guest allows it, which is before it
/// says that it has the block, and not before it has released the lock.
#[test]
fn an_interrupt_that_waited_comes_with_the_first_instruction_that_allows_it() {
    let zone = Event::GuestLock { lock: lock::ZONE as u32 };
    let plain = run(&scenario(ALLOCATION), &RunOptions::default()).trace;
    let task = plain.iter().position(|stamped| matches!(stamped.event, Event::GuestTask { .. })).expect("the task runs");
    let locked = task + plain[task..].iter().position(|s| s.actor == Actor::Vcpu(1) && s.event == zone).expect("it takes the zone's lock");
    let nth = plain[..=locked].iter().filter(|stamped| matches!(stamped.event, Event::GuestLock { .. })).count();

    let text = format!("{ALLOCATION}\n[[inject]]\ntask = {{ sleep = \"1 us\" }}\nby = \"vcpu1\"\nafter = \"guest.lock#{nth}\"\n");
    let trace = run(&scenario(&text), &RunOptions::default()).trace;
    let fired = trace.iter().position(|stamped| matches!(stamped.event, Event::Inject { .. })).expect("it fires");
    let of_vcpu1: Vec<&Event> =
        trace[fired..].iter().filter(|stamped| stamped.actor == Actor::Vcpu(1)).map(|stamped| &stamped.event).collect();
    let irq = of_vcpu1.iter().position(|event| **event == Event::GuestIrq { vector: vector::MAILBOX }).expect("the interrupt is taken");
    let released = Event::GuestUnlock { lock: lock::ZONE as u32 };
    assert!(of_vcpu1[..irq].contains(&&released), "taken with interrupts off: {:?}", &of_vcpu1[..=irq]);
    assert!(!of_vcpu1[..irq].iter().any(|event| matches!(event, Event::GuestAlloc { .. })), "taken late: {:?}", &of_vcpu1[..=irq]);
}
