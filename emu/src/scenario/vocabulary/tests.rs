//! The reader and the language know the same keys.

use super::super::{Diagnostics, parse};
use super::*;

/// No key takes a date.
const BAD: &str = "2026-01-01";

/// Returns a file that holds these lines in a table; `lines` are joined as the table's way of writing wants it.
fn file_with(title: &str, lines: &[String]) -> String {
    let (open, close) = match title {
        "the file" => ("", ""),
        "`start`" => ("[migration]\nstart = {", "}"),
        "`write`" => ("[[inject]]\nwrite = {", "}"),
        "`clear_log`" => ("[[inject]]\nclear_log = {", "}"),
        "`vhost_queue`" => ("[[inject]]\nvhost_queue = {", "}"),
        "a mapping" => ("[[inject]]\niommu_map = {", "}"),
        "a monitor command" => ("[[inject]]\nmonitor = {", "}"),
        "`throttle`" => ("[migration]\nthrottle = {", "}"),
        "`dirty_limit`" => ("[migration]\ndirty_limit = {", "}"),
        "`sent`" => ("[pages]\nP = \"pfn 1\"\n[expect]\nsent = { P = {", "} }"),
        "`irq_off_insns`" => ("[expect]\nirq_off_insns = {", "}"),
        "`events`" => ("[expect]\nevents = { \"hint.apply\" = {", "} }"),
        operation if operation.ends_with("operation") => ("[[guest.task]]\non = \"vcpu0\"\ndo = [{", "}]"),
        header => return format!("{header}\n{}", lines.join("\n")),
    };
    let separator = if open.is_empty() { "\n" } else { ", " };
    format!("{open}{}{close}", lines.join(separator))
}

fn places_of_bad_values(text: &str) -> Vec<usize> {
    text.match_indices(BAD).map(|(at, _)| at).collect()
}

fn assert_each_is_noted(text: &str) {
    let diagnostics: Diagnostics = parse("file.toml", text).expect_err("dates are bad");
    let places = places_of_bad_values(text);
    assert!(!places.is_empty());
    for place in places {
        let noted = diagnostics.list().iter().any(|diagnostic| diagnostic.span == (place..place + BAD.len()));
        assert!(noted, "a key is not read:\n{text}\n{diagnostics}");
    }
}

/// A key that the reader never asked for would be accepted and mean nothing: so each gets a value that nothing accepts.
#[test]
fn the_reader_reads_every_key() {
    for table in tables() {
        for key in table.keys {
            let mut lines = vec![format!("{} = {BAD}", key.name)];
            if table.has("repeat_id") && !ACTIONS.contains(&key.name) {
                lines.push("repeat_id = true".to_owned());
            }
            let verb = table.keys[0].name;
            if table.title.ends_with("operation") && key.name != verb {
                lines.push(format!("{verb} = \"A\""));
            }
            assert_each_is_noted(&file_with(table.title, &lines));
        }
    }
}

#[test]
fn several_bad_keys_of_a_table_are_noted_together() {
    for table in tables().into_iter().filter(|table| !table.has("repeat_id")) {
        let lines: Vec<String> = table.keys.iter().map(|key| format!("{} = {BAD}", key.name)).collect();
        assert_each_is_noted(&file_with(table.title, &lines));
    }
}

#[test]
fn documented_defaults_are_what_holds_without_the_key() {
    let about = "about = \"x\"\n";
    let bare = parse("file.toml", about).expect("a scenario");
    let mut checked = 0;
    for table in [&ROOT, &GUEST, &HOST, &MIGRATION, &SEARCH, &VARY, &EXPECT, &COSTS, &LIMITS] {
        for key in table.keys.iter().filter(|key| !key.default.is_empty()) {
            let text = format!("{about}{}", file_with(table.title, &[format!("{} = {}", key.name, key.default)]));
            assert_eq!(parse("file.toml", &text).unwrap_or_else(|problems| panic!("{problems}")), bare, "{text}");
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}

#[test]
fn a_table_has_no_key_twice() {
    for table in tables() {
        let mut names: Vec<&str> = table.keys.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table.keys.len(), "{}", table.title);
    }
}
