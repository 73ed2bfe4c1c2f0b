//! What is compared with what: a row's name, and the scenario without its interface.

use std::collections::BTreeMap;

use host::event::EventKind;
use wire::balloon::{feature, seed_feature};
use wire::switch::correct;

use super::Row;
use crate::scenario::Scenario;
use crate::scenario::model::{Driver, Host, Numbering, PageSpec, Pattern, Profile};

/// Corrections that are listed one by one; more are counted.
const CORRECTIONS_MAX: usize = 4;

/// Returns the driver's name, and what differs from its interface as posted.
pub(super) fn interface(scenario: &Scenario) -> String {
    let (guest, host) = (&scenario.guest, &scenario.host);
    let mut words = vec![corrected(guest.driver, guest.corrected)];
    if (guest.queue_numbering, host.queue_numbering) != (Numbering::Dense, Numbering::Dense) {
        words.push(format!("{}/{}", guest.queue_numbering.name(), host.queue_numbering.name()));
    }
    if host.profile != Profile::Qemu {
        words.push(host.profile.name().to_string());
    }
    let offered = host.features & !guest.features_refused;
    let usual = Host::of(host.profile, guest.driver).features;
    let particular = [(feature::HINT_WAIT_ON_ACK, "ack"), (feature::PAGE_REPORTING, "report")];
    words.extend(particular.iter().filter(|(bit, _)| offered & !usual & bit != 0).map(|(_, word)| (*word).to_string()));
    let settings = [(guest.page_poison, "poison"), (guest.init_on_alloc, "init-on-alloc"), (guest.init_on_free, "init-on-free")];
    words.extend(settings.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_string()));
    words.join(" ")
}

/// Returns the driver's name, and which of its flaws are corrected.
pub(super) fn corrected(driver: Driver, bits: u64) -> String {
    match corrections(bits) {
        None => driver.name().to_string(),
        // A flaw without a number is called by the interface's name.
        Some(corrections) if corrections == driver.name() => format!("{} mended", driver.name()),
        Some(corrections) => format!("{} {corrections}", driver.name()),
    }
}

fn corrections(bits: u64) -> Option<String> {
    let names: Vec<&str> = correct::ALL.iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, name, _)| *name).collect();
    match names.len() {
        0 => None,
        1..=CORRECTIONS_MAX => Some(names.join(",")),
        many => Some(format!("{many} mended")),
    }
}

/// Gives rows of one situation and one name the name of their folder.
pub(super) fn tell_apart(rows: &mut [Row]) {
    let mut times: BTreeMap<(String, String), u32> = BTreeMap::new();
    for row in rows.iter() {
        *times.entry((row.situation.clone(), row.interface.clone())).or_default() += 1;
    }
    for row in rows {
        let folder = row.case.path.parent().and_then(|folder| folder.file_name());
        if let (Some(folder), true) = (folder, times[&(row.situation.clone(), row.interface.clone())] > 1) {
            row.interface = folder.to_string_lossy().into_owned();
        }
    }
}

/// Returns whether an event comes of the interface alone, so that an order on it cannot be kept without.
fn is_of_the_interface(kind: EventKind) -> bool {
    let name = kind.name();
    // What the driver and the device say of hints and reports; what they say of a page in use, they say without as well.
    let of_driver = ["guest.hint", "guest.reclaim", "guest.return", "guest.cmd_id", "guest.start", "guest.stop", "guest.report"];
    name.starts_with("hint.") || name == "balloon.report" || of_driver.contains(&name)
}

/// Returns whether an injection, an order or a page's name speaks of what only the interface does.
fn needs_the_interface(scenario: &Scenario) -> bool {
    let injected = scenario.injections.iter().flat_map(|injection| injection.trigger.after.iter().chain(&injection.before));
    let ordered = scenario.orders.iter().flat_map(|order| &order.chain);
    let started = scenario.migration.start.iter().flat_map(|start| &start.after);
    let named = |pattern: &Pattern| match pattern {
        Pattern::Event { kind, .. } => is_of_the_interface(*kind),
        Pattern::Injection(_) => false,
    };
    injected.chain(ordered).chain(started).any(named) || scenario.pages.values().any(|page| matches!(page, PageSpec::Hint { .. }))
}

/// Returns the same scenario with a device that does not offer what the driver tells free pages through; `None` if the file's orders need that.
/// Where the host looks by itself, the merged driver stands in, with nothing offered either.
pub(super) fn without(scenario: &Scenario) -> Option<Scenario> {
    if needs_the_interface(scenario) {
        return None;
    }
    let mut without = scenario.clone();
    let not_offered = match scenario.guest.driver {
        Driver::V6 | Driver::V8 | Driver::V10 => seed_feature::HOST_REQ_VQ,
        Driver::Report => feature::PAGE_REPORTING,
        Driver::Hint
        | Driver::V13
        | Driver::V16
        | Driver::V33
        | Driver::V33Thread
        | Driver::V33Pop
        | Driver::V33Alloc
        | Driver::PfnWalk
        | Driver::Balloon2012 => feature::FREE_PAGE_HINT | feature::HINT_WAIT_ON_ACK,
        Driver::HostWalk => {
            without.guest.driver = Driver::Hint;
            feature::FREE_PAGE_HINT
        }
    };
    without.host.features &= !not_offered;
    Some(without)
}
