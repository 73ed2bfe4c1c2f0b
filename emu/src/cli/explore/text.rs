//! What a search has found and covered, for people.

use host::event::EventKind;
use wire::platform::PAGE_SIZE;

use super::findings::{Group, Settled};
use super::hunt::{Freedom, Hunt};
use crate::cli::files::Case;
use crate::cli::judge::shell_word;
use crate::outcome::Outcome;
use crate::report::{counted, text::violation_sentences, wrap};
use crate::scenario::Scenario;
use crate::search::Shard;
use crate::search::block::{EndingCount, Summary};
use crate::search::bound::Bound;
use crate::search::explore::Options;
use crate::search::system::Key;

/// Pairs that are listed of those never seen the other way round.
const GAPS_MAX: usize = 8;
/// Bounds that are listed.
const BOUNDS_MAX: usize = 8;
/// Characters of a line.
const WIDTH: usize = 110;
/// Characters of a label.
const LABEL: usize = 18;

/// Returns lines under a label.
fn labelled(label: &str, words: &str) -> String {
    let lines = wrap(words, WIDTH - LABEL);
    let first = std::iter::once(label).chain(std::iter::repeat(""));
    lines.iter().zip(first).map(|(line, label)| format!("  {label:<width$}{line}\n", width = LABEL - 2)).collect()
}

/// Returns what is said of a scenario that leaves nothing to a search.
pub(super) fn once(case: &Case, scenario: &Scenario, freedom: Freedom, outcome: &Outcome) -> String {
    let why = match freedom {
        Freedom::NoWindow => format!("its run is over before {}, where a search would begin", scenario.search.start()),
        Freedom::OneSchedule | Freedom::Some => "nobody has a choice in it".to_owned(),
    };
    let mut said = format!("{}: nothing is left to a search: {why}; run once\n", case.name);
    said += &labelled("verdict", outcome.verdict.name());
    violation_sentences(outcome).iter().for_each(|sentence| said += &labelled("", sentence));
    outcome.unexpected.iter().for_each(|unexpected| said += &labelled("unexpected", unexpected));
    said
}

/// Returns what the blocks of a search say together.
pub(super) fn summary(case: &Case, scenario: &Scenario, options: &Options, shard: Shard, summary: &Summary) -> String {
    let mut head = format!("{}: {} from seed {}", case.name, counted(summary.schedules(), "schedule"), options.seed);
    if shard != Shard::WHOLE {
        head += &format!(", shard {shard}");
    }
    if options.variants > 1 {
        let mut seen: Vec<u32> = summary.tallies.iter().map(|tally| tally.variant).collect();
        seen.dedup();
        head += &format!(", {} of {} variants", seen.len(), options.variants);
    }
    let mut said = head + "\n";
    if summary.schedules() == 0 {
        return said;
    }
    said += &labelled("strategies", &strategies(summary));
    said += &labelled("endings", &endings(summary));
    let (states, exact) = summary.states.count();
    let longest = summary.tallies.iter().map(|tally| tally.longest).max().unwrap_or(0);
    let about = if exact { "" } else { "about " };
    said += &labelled("states", &format!("{about}{states} at the end, by {} moves, {longest} in the longest schedule", summary.moves()));
    said += &labelled("orderings", &growth(summary));
    said += &gaps(scenario, summary);
    said += &bounds(options, summary);
    said
}

fn strategies(summary: &Summary) -> String {
    let mut by: Vec<(String, u64)> = Vec::new();
    let mut tallies: Vec<_> = summary.tallies.iter().collect();
    tallies.sort_by_key(|tally| tally.strategy);
    for tally in tallies {
        let name = tally.strategy.to_string();
        match by.last_mut().filter(|(last, _)| *last == name) {
            Some((_, schedules)) => *schedules += tally.schedules,
            None => by.push((name, tally.schedules)),
        }
    }
    listed(by)
}

fn endings(summary: &Summary) -> String {
    let mut by: Vec<(String, u64)> = Vec::new();
    let mut endings: Vec<&EndingCount> = summary.endings.iter().collect();
    endings.sort_by(|a, b| a.signature.verdict.cmp(&b.signature.verdict));
    for EndingCount { signature, schedules, .. } in endings {
        match by.last_mut().filter(|(last, _)| *last == signature.verdict) {
            Some((_, known)) => *known += schedules,
            None => by.push((signature.verdict.clone(), *schedules)),
        }
    }
    listed(by)
}

fn listed(by: Vec<(String, u64)>) -> String {
    by.into_iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// How many orderings there are, and when they were new: by schedules 1, 2 to 3, 4 to 7, and so on.
fn growth(summary: &Summary) -> String {
    let last = summary.blocks.ranges().last().map_or(0, |(_, last)| *last);
    let growth = summary.coverage.growth();
    let per_block = summary.schedules() / summary.blocks.count().max(1);
    let schedules = (last + 1).saturating_mul(per_block);
    let periods = (schedules.max(1).ilog2() as usize + 1).max(growth.len());
    let period = |index: usize| {
        let (from, to) = (1u64 << index, ((1u64 << index) * 2 - 1).min(schedules));
        let new = growth.get(index).copied().unwrap_or(0);
        if from == to { format!("{from}: {new}") } else { format!("{from}..{to}: {new}") }
    };
    let told: Vec<String> = (0..periods).map(period).collect();
    format!("{} seen; new in schedules {}", summary.coverage.pairs().len(), told.join(", "))
}

fn gaps(scenario: &Scenario, summary: &Summary) -> String {
    let gaps = summary.coverage.gaps(usize::MAX);
    if gaps.is_empty() {
        return labelled("one order only", "none: each pair was seen both ways");
    }
    let mut said = labelled("one order only", &format!("{} never seen the other way round", counted(gaps.len() as u64, "pair")));
    for pair in gaps.iter().take(GAPS_MAX) {
        let seen = counted(pair.sightings, "schedule");
        said += &labelled("", &format!("{} before {} ({seen})", key(scenario, pair.before), key(scenario, pair.then)));
    }
    if gaps.len() > GAPS_MAX {
        said += &labelled("", &format!("and {} more", gaps.len() - GAPS_MAX));
    }
    said
}

/// Returns what is said of defects that were not found; nothing, where nothing can be.
fn bounds(options: &Options, summary: &Summary) -> String {
    let bounds: Vec<Bound> = summary.bounds().into_iter().filter(|bound| !bound.missed().is_certain()).collect();
    let mut said = String::new();
    for (index, bound) in bounds.iter().take(BOUNDS_MAX).enumerate() {
        let variant = if options.variants > 1 { format!("variant {}: ", bound.variant) } else { String::new() };
        said += &labelled(if index == 0 { "bound" } else { "" }, &format!("{variant}{bound}"));
    }
    if bounds.len() > BOUNDS_MAX {
        said += &labelled("", &format!("and {} more", bounds.len() - BOUNDS_MAX));
    }
    said
}

/// Returns an event's name, as a scenario of its search names it.
fn key(scenario: &Scenario, key: Key) -> String {
    if key.kind == Key::INJECTION {
        let index = usize::from(key.page);
        let own = scenario.injections.len();
        let (list, place) = if index < own { (&scenario.injections, index) } else { (&scenario.may, index - own) };
        let word = if index < own { "inject" } else { "may" };
        return list.get(place).and_then(|injection| injection.name.clone()).unwrap_or_else(|| format!("{word}[{place}]"));
    }
    let kind = EventKind::ALL[usize::from(key.kind)].name();
    match scenario.pages.keys().nth(key.page.into()).filter(|_| key.page != Key::NO_PAGE) {
        Some(page) => format!("{kind}({page})"),
        None => kind.to_owned(),
    }
}

/// Returns what a variant has of what varies.
pub(in crate::cli) fn settings(scenario: &Scenario, variant: &Scenario) -> String {
    let vary = &scenario.vary;
    let (host, guest) = (&variant.host, &variant.guest);
    let drawn: Vec<&str> = variant.faults.iter().filter(|fault| !scenario.faults.contains(fault)).map(|fault| fault.name()).collect();
    let all = [
        (vary.profile.is_empty(), "profile", host.profile.name().to_owned()),
        (vary.dirty_log.is_empty(), "dirty_log", host.dirty_log.name().to_owned()),
        (vary.chunk_shift.is_empty(), "chunk", format!("{} KiB", (PAGE_SIZE << host.chunk_shift) >> 10)),
        (vary.hint_queue_size.is_empty(), "hint_queue_size", host.hint_queue_size.to_string()),
        (vary.queue_size.is_empty(), "queue_size", host.queue_size.to_string()),
        (vary.vcpus.is_empty(), "vcpus", guest.vcpus.to_string()),
        (vary.driver.is_empty(), "driver", guest.driver.name().to_owned()),
        (vary.faults.is_empty(), "fault", if drawn.is_empty() { "none".to_owned() } else { drawn.join(" ") }),
    ];
    let told = all.into_iter().filter(|(fixed, ..)| !fixed).map(|(_, name, value)| format!("{name} {value}"));
    told.collect::<Vec<_>>().join(", ")
}

/// Returns what is said of a finding.
pub(super) fn finding<S>(hunt: &Hunt<'_, S>, summary: &Summary, group: &Group, settled: &Settled) -> String {
    let Hunt { case, arguments, scenario, .. } = hunt;
    let mut said = format!("found: {}\n", group.signature);
    settled.what().iter().for_each(|what| said += &labelled("what", what));
    let faults: String = arguments.faults.iter().map(|fault| format!(" --fault {}", fault.name())).collect();
    let replay = format!("lostpage replay {} {}{faults}", shell_word(&case.path.to_string_lossy()), group.token());
    // In one line, to be copied.
    said += &format!("  {:<width$}{replay}\n", "replay", width = LABEL - 2);
    said += &labelled(
        "schedule",
        &format!("{} by {}, the shortest that fails so", counted(group.choices.len() as u64, "move"), group.strategy),
    );
    let by: Vec<String> = group.hits.iter().map(|(strategy, (count, first))| format!("{strategy} {count} (first {first})")).collect();
    said += &labelled("seen", &format!("in {} of {} schedules: {}", group.schedules, summary.schedules(), by.join(", ")));
    if scenario.variants_count() > 1 {
        let others = if group.variants > 1 { format!("; in {} variants", group.variants) } else { String::new() };
        said += &labelled("variant", &format!("{}: {}{others}", group.variant, settings(scenario, &group.scenario)));
    }
    said + &settlement(settled)
}

fn settlement(settled: &Settled) -> String {
    match settled {
        Settled::File(reproduced, path) => {
            let shrunk = &reproduced.shrunk;
            let orders = match shrunk.edges.len() {
                0 => "no order is needed".to_owned(),
                count => format!("{} of {} candidates", counted(count as u64, "order"), shrunk.candidates),
            };
            let mut said = labelled("shrunk", &format!("to {orders}; {} completions under them, all failed", shrunk.sampled));
            said += &labelled("", &reproduced.scenario.about);
            said + &labelled("scenario", &format!("{}", path.display()))
        }
        Settled::Unwritten(reproduced, _) => labelled("shrunk", &format!("{}; its file could not be written", reproduced.scenario.about)),
        Settled::Not(not) => labelled("not shrunk", &not.why.to_string()),
        Settled::Defect(said) => labelled("not shrunk", &format!("a defect of lostpage itself: {said}")),
        Settled::Stopped => labelled("not shrunk", "stopped"),
    }
}

/// Returns the last line.
pub(super) fn verdict(scenario: &Scenario, groups: &[Group]) -> String {
    let expected = groups.iter().filter(|group| group.is_expected(scenario)).count();
    match (groups.len(), expected) {
        (0, _) => "nothing found\n".to_owned(),
        (all, 0) => format!("{}\n", counted(all as u64, "finding")),
        (all, expected) if all == expected => format!("{}, as the file expects\n", counted(all as u64, "finding")),
        (all, expected) => format!("{}, {expected} of them as the file expects\n", counted(all as u64, "finding")),
    }
}
