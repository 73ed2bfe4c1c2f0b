//! An operator without mercy: random commands at random times, over random guests, hosts and options, and a guest whose driver comes and goes. What no
//! operator can do is left out: to reset the device alone, under a driver that knows nothing of it.
//!
//! Whatever is asked for, in whatever state: no page is lost that the guest has not taken back itself, no rule is broken, nobody waits in a circle, the VMM
//! does not die, and once the operator has let everybody go on, everything comes to rest. `LOSTPAGE_OPERATOR_EVENTS` makes the runs longer (24 events),
//! `PROPTEST_CASES` their number. `LOSTPAGE_OPERATOR=all` draws also resets of the machine, commands for the tracking of writes, the switch to postcopy,
//! and all modes of a migration: in such runs rules still complain of what is not settled yet.

use emu::scenario::model::{Action, Command, Injection, Operation, Profile, Scenario, Trigger};
use emu::scenario::to_toml;
use emu::world::{RunOptions, run};
use host::dirty::command::TrackingCommand;
use host::event::Actor;
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::runnable::runnable;

/// Commands have been given by then, nanoseconds of virtual time.
const BUSY_NS: u64 = 2_000_000_000;

/// Returns the number of events of a run.
fn events_max() -> usize {
    std::env::var("LOSTPAGE_OPERATOR_EVENTS").map_or(24, |text| text.parse().expect("LOSTPAGE_OPERATOR_EVENTS is a number"))
}

fn injection(at_ns: u64, action: Action, by: Actor) -> Injection {
    Injection { name: None, action, by, trigger: Trigger { at_ns: Some(at_ns), ..Trigger::default() }, before: Vec::new() }
}

fn command(at_ns: u64, command: Command) -> Injection {
    injection(at_ns, Action::Monitor(command), Actor::MainLoop)
}

/// Returns whether the operator does all that there is.
fn does_all() -> bool {
    std::env::var_os("LOSTPAGE_OPERATOR").is_some_and(|value| value == "all")
}

/// Returns an event, or several that belong together.
fn event() -> impl Strategy<Value = Vec<Injection>> {
    let mut commands = vec![
        Command::Migrate,
        Command::Migrate,
        Command::Cancel,
        Command::Stop,
        Command::Cont,
        Command::Cont,
        Command::Continue,
        Command::BreakLink,
        Command::StallLink,
        Command::ResumeLink,
        Command::ResumeLink,
        Command::Yank,
        Command::PostcopyRam { on: true },
        Command::PostcopyRam { on: false },
    ];
    if does_all() {
        commands.extend([Command::StartPostcopy, Command::StartPostcopy, Command::Recover, Command::SystemReset]);
    }
    let by_word = (times(), select(commands)).prop_map(|(at_ns, given)| vec![command(at_ns, given)]);
    let resize = (0..BUSY_NS, 0..512u32).prop_map(|(at_ns, pages)| vec![command(at_ns, Command::Balloon { pages })]);
    let tracking = (times(), select(TrackingCommand::ALL)).prop_map(|(at_ns, given)| vec![command(at_ns, Command::Tracking(given))]);
    let restarts = vec![Operation::Reboot, Operation::EmergencyRestart];
    let restart =
        (times(), select(restarts)).prop_map(|(at_ns, operation)| vec![injection(at_ns, Action::Task(operation), Actor::Vcpu(0))]);
    // The driver comes back in the end.
    let rebind = (0..BUSY_NS, 0..50_000_000u64).prop_map(|(at_ns, away_ns)| {
        let task = |at_ns, operation| injection(at_ns, Action::Task(operation), Actor::Vcpu(0));
        vec![task(at_ns, Operation::Unbind), task(at_ns + away_ns, Operation::Bind)]
    });
    match does_all() {
        true => prop_oneof![16 => by_word, 2 => resize, 2 => tracking, 1 => restart, 1 => rebind].boxed(),
        false => prop_oneof![12 => by_word, 2 => resize, 1 => rebind].boxed(),
    }
}

/// Most events fall into the first migration.
fn times() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..20_000_000u64, 1 => 0..BUSY_NS]
}

/// Everything goes on: whatever the operator has held up is let go, more than once, for one thing may hold up another.
fn amends() -> Vec<Injection> {
    let turn = |turn: u64| {
        let at_ns = BUSY_NS + (turn + 1) * 300_000_000;
        [(0, Command::ResumeLink), (1, Command::Recover), (2, Command::Continue), (3, Command::Cont)]
            .map(|(ms, given)| command(at_ns + ms * 1_000_000, given))
    };
    (0..6).flat_map(turn).collect()
}

fn harassed() -> impl Strategy<Value = Scenario> {
    let options = (any::<(bool, bool)>(), 1..=100u32, 1..=99u32);
    (runnable(Profile::Qemu), vec(event(), 1..=events_max()), options).prop_map(
        |(scenario, events, ((pause, auto_converge), trigger, initial))| {
            let mut scenario = Scenario { orders: Vec::new(), ..scenario };
            if !does_all() {
                scenario.migration.modes = Modes::default();
            }
            let (snapshot, moves) = (scenario.migration.modes.snapshot, scenario.migration.modes.moves());
            // A limit outlives a migration that is cancelled: docs/findings.
            scenario.migration.limit.on = false;
            scenario.injections.iter_mut().for_each(|injection| injection.before.clear());
            scenario.injections.extend(events.into_iter().flatten());
            live_with_resets(&mut scenario);
            scenario.injections.extend(amends());
            // A link that breaks takes what the source has dropped with it: docs/findings.
            scenario.migration.modes.release_ram = false;
            scenario.migration.switchover = SwitchoverOptions { pause: pause && !snapshot, ..SwitchoverOptions::default() };
            scenario.migration.throttle =
                ThrottleOptions { auto_converge: auto_converge && !snapshot && !moves, trigger, initial, ..ThrottleOptions::default() };
            scenario
        },
    )
}

/// What a task was given, and what it would find of it, ends with its kernel.
fn live_with_resets(scenario: &mut Scenario) {
    let resets = |injection: &Injection| {
        matches!(injection.action, Action::Monitor(Command::SystemReset) | Action::Task(Operation::Reboot | Operation::EmergencyRestart))
    };
    if scenario.injections.iter().any(resets) {
        scenario.injections.retain(|injection| !matches!(injection.action, Action::Task(Operation::Verify { .. })));
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn whatever_an_operator_does_nothing_is_lost_and_all_comes_to_rest(scenario in harassed()) {
        let outcome = run(&scenario, &RunOptions::default());
        prop_assert_eq!(crate::complaint(&scenario, &outcome), None, "{}", to_toml(&scenario));
    }
}
