//! What is no error in a scenario file but hardly meant: each warning says why nothing will come of what is written.

use std::ops::Range as Span;

use toml::de::DeTable;
use wire::balloon::feature;

use super::diagnostic::Diagnostic;
use super::model::{Action, Command, DirtyLog, Grain, PageSpec, Pattern, Scenario};
use super::read::Value;

/// Returns the warnings about a file without errors.
pub(super) fn warnings(scenario: &Scenario, document: &DeTable<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    witness_already_on(scenario, document, &mut found);
    hints_that_never_come(scenario, document, &mut found);
    statistics_without_queue(scenario, document, &mut found);
    acknowledgement_without_hints(scenario, document, &mut found);
    injections_at_once(scenario, document, &mut found);
    instructions_to_the_end(scenario, document, &mut found);
    lists_that_vary_nothing(scenario, document, &mut found);
    faults_that_vary_nothing(scenario, document, &mut found);
    found
}

fn witness_already_on(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    for (index, fault) in scenario.witness.iter().enumerate() {
        if scenario.faults.contains(fault) {
            let span = element(document.get("witness"), index).map_or(0..0, |value| value.span());
            let message = format!("`{}` is on already: switching it on changes nothing", fault.name());
            found.push(Diagnostic::warning(span, message).label("stands in `faults`, too"));
        }
    }
}

fn hints_that_never_come(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    let migrates = scenario.injections.iter().chain(&scenario.may).any(|injection| injection.action == Action::Monitor(Command::Migrate));
    let reason = if scenario.host.features & feature::FREE_PAGE_HINT == 0 {
        "the device does not offer `free-page-hint`"
    } else if scenario.guest.features_refused & feature::FREE_PAGE_HINT != 0 {
        "the driver refuses `free-page-hint`"
    } else if scenario.migration.start.is_none() && !migrates {
        "nothing starts a migration"
    } else {
        return;
    };
    for (name, spec) in &scenario.pages {
        if let PageSpec::Hint { .. } = spec {
            let pages = document.get("pages").and_then(|value| value.get_ref().as_table());
            let span = pages.and_then(|pages| pages.get(name.as_str())).map_or(0..0, Value::span);
            found.push(Diagnostic::warning(span, format!("no hint will ever give page `{name}`")).label(reason));
        }
    }
}

fn statistics_without_queue(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    if scenario.host.stats_interval_ns > 0 && scenario.host.features & feature::STATS_VQ == 0 {
        let span = in_table(document, "host", "stats_interval");
        found.push(Diagnostic::warning(span, "statistics need a queue").label("the device does not offer `stats-vq`"));
    }
}

fn acknowledgement_without_hints(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    if scenario.host.features & (feature::HINT_WAIT_ON_ACK | feature::FREE_PAGE_HINT) == feature::HINT_WAIT_ON_ACK {
        let span = in_table(document, "host", "features");
        let warning = Diagnostic::warning(span, "`hint-wait-on-ack` has no effect");
        found.push(warning.label("the device does not offer `free-page-hint`, and a driver gives the bit up"));
    }
}

fn injections_at_once(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    for (index, injection) in scenario.injections.iter().enumerate() {
        let free = injection.trigger.at_ns.is_none() && injection.trigger.after.is_empty() && injection.before.is_empty();
        let chained = scenario.orders.iter().any(|order| order.chain.contains(&Pattern::Injection(index)));
        if free && !chained {
            let span = element(document.get("inject"), index).map_or(0..0, |value| value.span());
            let message = "the injection fires at once: nothing says when";
            found.push(Diagnostic::warning(span, message).label("no `at`, `after`, `before`, nor a place in a chain"));
        }
    }
}

fn instructions_to_the_end(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    if scenario.search.grain == Grain::Instruction && scenario.search.until.is_none() {
        let span = in_table(document, "search", "grain");
        let message = "every instruction to the end of the run is a scheduling point";
        found.push(Diagnostic::warning(span, message).label("no `until` ends the window"));
    }
}

fn lists_that_vary_nothing(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    let Scenario { guest, host, vary, .. } = scenario;
    // Under another profile, a value that is the own one's default would change if no list held it.
    let follows = vary.profile.iter().any(|profile| *profile != host.profile);
    let same = [
        ("profile", vary.profile == [host.profile]),
        ("dirty_log", vary.dirty_log == [host.dirty_log] && !follows),
        ("chunk", vary.chunk_shift == [host.chunk_shift] && host.dirty_log == DirtyLog::ManualClear),
        ("hint_queue_size", vary.hint_queue_size == [host.hint_queue_size] && !follows),
        ("queue_size", vary.queue_size == [host.queue_size] && !follows),
        ("vcpus", vary.vcpus == [guest.vcpus]),
        ("driver", vary.driver == [guest.driver]),
    ];
    for (key, _) in same.into_iter().filter(|(_, same)| *same) {
        let span = in_table(document, "vary", key);
        found.push(Diagnostic::warning(span, format!("`{key}` varies nothing")).label("the scenario's own value alone"));
    }
}

fn faults_that_vary_nothing(scenario: &Scenario, document: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    let vary = document.get("vary").and_then(|value| value.get_ref().as_table());
    for (index, fault) in scenario.vary.faults.iter().enumerate() {
        if scenario.faults.contains(fault) {
            let span = element(vary.and_then(|vary| vary.get("faults")), index).map_or(0..0, |value| value.span());
            let message = format!("`{}` is on already: switching it on changes nothing", fault.name());
            found.push(Diagnostic::warning(span, message).label("stands in `faults` of the file, too"));
        }
    }
}

fn element<'d>(value: Option<&'d Value<'d>>, index: usize) -> Option<&'d Value<'d>> {
    value.and_then(|value| value.get_ref().as_array()).and_then(|array| array.get(index))
}

fn in_table(document: &DeTable<'_>, table: &str, key: &str) -> Span<usize> {
    document.get(table).and_then(|value| value.get_ref().as_table()).and_then(|table| table.get(key)).map_or(0..0, Value::span)
}
