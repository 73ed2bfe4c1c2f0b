//! The search against brute force.

use proptest::prelude::*;

use super::random::{Lie, Model, Op, model};
use super::*;
use crate::outcome::Verdict;
use crate::search::toy::{Flaw, Size, Toy};

const ALL_FLAWS: [Flaw; 3] = [Flaw::None, Flaw::StopSkipped, Flaw::StopUnlocked];

/// Compares what a search found with what brute force did: all states, ends and runs.
fn compare<S: System>(factory: &(impl Fn() -> S + Sync), options: &Options<'_>, all: &Enumeration) -> Proof {
    assert!(all.complete && !options.local);
    let proof = compare_ends(factory, options, all);
    assert_eq!(proof.states, all.states.len() as u64);
    assert_eq!(proof.interleavings, Interleavings::Exactly(count(all.interleavings())));
    assert_eq!(proof.longest, Some(all.longest));
    let mut system = factory();
    let root = system.save();
    let found = exhaust(&mut system, factory, vec![root], options).expect("sound");
    assert_eq!(found.graph.hashes(), all.states);
    proof
}

/// Compares the ways to end only: what a search that lets local moves go first promises.
fn compare_ends<S: System>(factory: &(impl Fn() -> S + Sync), options: &Options<'_>, all: &Enumeration) -> Proof {
    let proof = prove(factory, options).expect("sound");
    assert!(proof.complete);
    let terminals: BTreeMap<Ending, u64> = all.terminals.iter().map(|(ending, states)| (ending.clone(), states.len() as u64)).collect();
    assert_eq!(proof.outcomes, terminals);
    let failing: Vec<&Ending> = all.runs.keys().filter(|ending| ending.is_failure()).collect();
    assert_eq!(proof.counterexamples.iter().map(|example| &example.ending).collect::<Vec<_>>(), failing);
    assert_eq!(proof.answer, if failing.is_empty() { Answer::Proved } else { Answer::Refuted });
    for Counterexample { ending, path } in &proof.counterexamples {
        assert_eq!(&follow(&mut factory(), path), ending);
    }
    proof
}

fn count(runs: u64) -> Count {
    let powers = (0..64).scan(Count::ONE, |power, bit| Some((bit, std::mem::replace(power, power.plus(*power)))));
    powers.filter(|(bit, _)| runs >> bit & 1 == 1).fold(Count::ZERO, |sum, (_, power)| sum.plus(power))
}

/// Makes the choices of a path; they must lead to an end.
fn follow<S: System>(system: &mut S, path: &[u16]) -> Ending {
    let mut choices = Vec::new();
    for id in path {
        system.choices(&mut choices);
        system.take(*choices.iter().find(|choice| choice.id == *id).expect("offered"));
    }
    system.choices(&mut choices);
    assert_eq!(choices, []);
    system.ending()
}

/// Returns what can be chosen behind a path.
fn offers(model: &Model, path: &[u16]) -> Vec<Choice> {
    let (mut machine, mut choices) = (model.machine(), Vec::new());
    for id in path {
        machine.choices(&mut choices);
        machine.take(*choices.iter().find(|choice| choice.id == *id).expect("offered"));
    }
    machine.choices(&mut choices);
    choices
}

fn without_effort(proof: Proof) -> Proof {
    Proof { executed: 0, checked: 0, memory_bytes: 0, ..proof }
}

const UNCHECKED: Options<'_> = Options {
    threads: 1,
    memory_bytes: u64::MAX,
    saved_bytes: 0,
    states: u64::MAX,
    reduce: true,
    local: false,
    stop_at_first: false,
    check_first: 0,
    check_one_in: 0,
    stop: &|_| false,
};

#[test]
fn the_toy_in_all_flaws_and_several_sizes_is_what_brute_force_says() {
    for (rounds, noise) in [(0, 0), (1, 0), (2, 0), (1, 1), (0, 2)] {
        for flaw in ALL_FLAWS {
            let factory = || Toy::new(flaw, Size { rounds, noise });
            let all = enumerate(&mut factory(), 10_000_000, 1000);
            let plain = compare(&factory, &Options { reduce: false, ..UNCHECKED }, &all);
            assert_eq!(plain.executed, plain.edges, "all moves were made");
            let reduced = compare(&factory, &UNCHECKED, &all);
            assert_eq!(without_effort(reduced.clone()), without_effort(Proof { reduced: true, ..plain.clone() }));
            assert!(reduced.executed < plain.executed);
            let checked = compare(&factory, &Options::default(), &all);
            assert_eq!((checked.executed, checked.checked), (reduced.executed, plain.executed - reduced.executed));
            let local = compare_ends(&factory, &Options { local: true, ..UNCHECKED }, &all);
            assert_eq!(local.edges < plain.edges, noise > 0);
            assert!(local.states <= plain.states);
            let Interleavings::AtLeast(runs) = local.interleavings else { panic!("{:?}", local.interleavings) };
            assert!((1..=u128::from(all.interleavings())).contains(&runs.exact().expect("few")));
        }
    }
}

#[test]
fn the_answer_does_not_depend_on_the_number_of_threads() {
    for flaw in ALL_FLAWS {
        let factory = || Toy::new(flaw, Size { rounds: 20, noise: 40 });
        let proofs = [1, 2, 3, 8].map(|threads| without_effort(prove(factory, &Options { threads, ..UNCHECKED }).expect("sound")));
        assert!(proofs[0].states > 10_000, "{}", proofs[0].states);
        assert!(proofs.iter().all(|proof| *proof == proofs[0]), "{flaw:?}: {proofs:#?}");
    }
}

#[test]
fn a_counterexample_is_as_short_as_can_be() {
    let factory = || Toy::new(Flaw::StopSkipped, Size { rounds: 1, noise: 0 });
    let proof = prove(factory, &Options::default()).expect("sound");
    let [Counterexample { ending, path }] = &proof.counterexamples[..] else { panic!("{:?}", proof.counterexamples) };
    assert_eq!(ending.verdict, Verdict::LostPage);
    // Hint, write, pop, check; a round syncs; the clear takes what it found; what comes behind cannot mend it.
    assert_eq!(path, &[0, 0, 1, 1, 2, 2, 1, 2, 2, 2, 2, 2, 2]);
}

#[test]
fn a_budget_stops_the_search_and_what_was_covered_is_told() {
    let size = Size { rounds: 20, noise: 40 };
    let (correct, flawed) = (|| Toy::new(Flaw::None, size), || Toy::new(Flaw::StopSkipped, size));
    for threads in [1, 3] {
        let options = Options { threads, ..Options::default() };
        let whole = prove(correct, &options).expect("sound");
        assert!(whole.complete && whole.states > 20_000, "{}", whole.states);
        for limited in [
            Options { states: 5_000, ..options },
            Options { memory_bytes: whole.memory_bytes / 3, ..options },
            Options { saved_bytes: 1 << 30, memory_bytes: 4 << 30, ..options },
            Options { stop: &|covered| covered.states > 1000, ..options },
        ] {
            let part = prove(correct, &limited).expect("sound");
            assert_eq!((part.answer, part.complete), (Answer::OutOfBudget, false));
            assert!(part.states < whole.states / 2 && part.states > 16, "{limited:?}: {}", part.states);
            let (Interleavings::AtLeast(part), Interleavings::Exactly(whole)) = (part.interleavings, whole.interleavings) else { panic!() };
            assert!(part.log10() < whole.log10());
        }
        assert!(prove(correct, &Options { states: whole.states, ..options }).expect("sound").complete);
        assert!(!prove(correct, &Options { states: whole.states - 1, ..options }).expect("sound").complete);
        let first = prove(flawed, &Options { stop_at_first: true, ..options }).expect("sound");
        assert_eq!((first.answer, first.complete), (Answer::Refuted, false));
        assert!(first.states < whole.states / 2);
        follow(&mut flawed(), &first.counterexamples[0].path);
    }
}

#[test]
fn a_system_that_never_ends_is_said_to() {
    let spin = Model { programs: vec![vec![Op::Noise, Op::Restart], vec![Op::Set(0, 2)]], injections: vec![], lie: Lie::Nothing };
    let proof = prove(|| spin.machine(), &Options::default()).expect("sound");
    assert_eq!((proof.states, proof.edges, proof.outcomes.len()), (4, 6, 0));
    assert_eq!((proof.interleavings, proof.longest), (Interleavings::Endless, None));
}

#[test]
fn counts_grow_beyond_128_bits() {
    let programs = vec![vec![Op::Noise; 80]; 3];
    let model = Model { programs, injections: vec![], lie: Lie::Nothing };
    let proof = prove(|| model.machine(), &UNCHECKED).expect("sound");
    assert_eq!((proof.states, proof.executed), (81 * 81 * 81, 81 * 81 * 81 - 1));
    let Interleavings::Exactly(runs) = proof.interleavings else { panic!() };
    // 240! / 80!^3.
    assert_eq!((runs.exact(), runs.to_string().as_str()), (None, "1.1e112"));
}

#[test]
fn what_a_footprint_conceals_is_found_out() {
    let race = |ops: [Op; 2], lie| Model { programs: ops.map(|op| vec![op]).to_vec(), injections: vec![], lie };
    for cell in [0, 1] {
        let (read, blocked) = ([Op::Read(cell), Op::Set(cell, 1)], [Op::Wait(cell, 0), Op::Set(cell, 1)]);
        for (ops, lie, fault) in [
            (read, Lie::Looks, Fault::Elsewhere),
            (read, Lie::Changes, Fault::Elsewhere),
            ([Op::Set(cell, 2), Op::Set(cell, 1)], Lie::Changes, Fault::Elsewhere),
            (blocked, Lie::Looks, Fault::Gone),
        ] {
            assert!(prove(|| race(ops, Lie::Nothing).machine(), &Options::default()).is_ok());
            let error = prove(|| race(ops, lie).machine(), &Options::default()).expect_err("a lie");
            assert_eq!((error.fault, error.path.as_slice(), error.choice.id), (fault, &[1][..], 0), "{error}");
        }
    }
}

#[test]
fn a_sample_of_predictions_is_checked_even_if_the_first_were_right() {
    // A register's wrong value is the right one of another order, so that the predicted state is often there: only checking tells.
    let programs = vec![vec![Op::Read(0); 12], vec![Op::Add(0); 12]];
    let model = Model { programs, injections: vec![], lie: Lie::Looks };
    let unchecked = Options { check_first: 0, ..Options::default() };
    assert!(prove(|| model.machine(), &Options { check_one_in: 4, ..unchecked }).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_random_system_is_what_brute_force_says(model in model(), threads in 1usize..4) {
        let factory = || model.machine();
        let all = enumerate(&mut factory(), 20_000, 1000);
        prop_assume!(all.complete);
        let reduced = compare(&factory, &Options { threads, ..UNCHECKED }, &all);
        compare(&factory, &Options { threads, ..Options::default() }, &all);
        let plain = compare(&factory, &Options { reduce: false, ..UNCHECKED }, &all);
        compare_ends(&factory, &Options { threads, local: true, ..UNCHECKED }, &all);
        compare_ends(&factory, &Options { local: true, reduce: false, ..UNCHECKED }, &all);
        prop_assert_eq!(without_effort(Proof { reduced: false, ..reduced }), without_effort(plain));
    }

    #[test]
    fn a_random_system_with_concealed_changes_is_never_proved_wrongly(
        mut model in model(),
        looks in any::<bool>(),
        threads in 1usize..3,
    ) {
        let all = enumerate(&mut model.machine(), 20_000, 1000);
        prop_assume!(all.complete);
        model.lie = if looks { Lie::Looks } else { Lie::Changes };
        let every = Options { threads, check_first: u64::MAX, ..UNCHECKED };
        match prove(|| model.machine(), &every) {
            Ok(proof) => {
                prop_assert_eq!(proof.states, all.states.len() as u64);
                prop_assert_eq!(proof.interleavings, Interleavings::Exactly(count(all.interleavings())));
            }
            Err(unsound) => prop_assert!(!offers(&model, &unsound.path).is_empty() || unsound.fault == Fault::Gone, "{unsound}"),
        }
    }
}
