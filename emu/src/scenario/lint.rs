//! What is no error in a scenario file but hardly meant: each warning says why nothing will come of what is written.

use std::ops::Range as Span;

use toml::de::DeTable;
use wire::balloon::feature;

use super::diagnostic::Diagnostic;
use super::model::{Action, Command, PageSpec, Pattern, Scenario};
use super::read::Value;

/// Returns the warnings about a file without errors.
pub(super) fn warnings(scenario: &Scenario, document: &DeTable<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    witness_already_on(scenario, document, &mut found);
    hints_that_never_come(scenario, document, &mut found);
    statistics_without_queue(scenario, document, &mut found);
    acknowledgement_without_hints(scenario, document, &mut found);
    injections_at_once(scenario, document, &mut found);
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
    let migrates = scenario.injections.iter().any(|injection| injection.action == Action::Monitor(Command::Migrate));
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

fn element<'d>(value: Option<&'d Value<'d>>, index: usize) -> Option<&'d Value<'d>> {
    value.and_then(|value| value.get_ref().as_array()).and_then(|array| array.get(index))
}

fn in_table(document: &DeTable<'_>, table: &str, key: &str) -> Span<usize> {
    document.get(table).and_then(|value| value.get_ref().as_table()).and_then(|table| table.get(key)).map_or(0..0, Value::span)
}
