//! The museum as a page to read: a story for each fault, by room, and at the end what is not shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use host::fault::{Effect, Fault, NOT_HERE};

use super::{Room, UNFOUND};
use crate::report::wrap;

/// Columns of a line.
const COLUMNS: usize = 150;

/// Returns the page. `witnesses`: paths of the scenarios that show a fault, from the root.
pub fn page(witnesses: &BTreeMap<Fault, Vec<String>>) -> String {
    let mut text = entrance();
    for (room, faults) in rooms() {
        write!(text, "\n## {}\n{}\n", room.title(), wrapped(room.introduction())).expect("memory");
        for fault in faults {
            text += &story(fault, witnesses.get(&fault).map(Vec::as_slice).unwrap_or_default());
        }
    }
    text + &not_found() + &not_here()
}

/// Returns the rooms that are not empty, with their faults in the order of the registry.
fn rooms() -> Vec<(Room, Vec<Fault>)> {
    let of = |room: Room| Fault::ALL.iter().copied().filter(|fault| Room::of(*fault) == room).collect::<Vec<_>>();
    Room::ALL.into_iter().map(|room| (room, of(room))).filter(|(_, faults)| !faults.is_empty()).collect()
}

fn entrance() -> String {
    let count = |effect: Effect| Fault::ALL.iter().filter(|fault| fault.effect() == effect).count();
    let mut text = String::from("# The museum\n");
    let first = format!(
        "{} defects of virtual machines. Nearly all were real: written with care, reviewed, and most of them shipped, until somebody read the code once more, a \
         test failed now and then, or memory was not what it had been. {} of them lose a page: the guest goes on with old bytes, and nobody is told. Here each can \
         be switched on, and each is seen by the scenarios that its story names, every time, in milliseconds.",
        Fault::ALL.len(),
        count(Effect::Loss)
    );
    text += &wrapped(&first);
    text += "\n```\nlostpage run --fault hint-repeated-id --report scenarios/pass/hinting/repeated-id.toml    # see one happen\nlostpage museum                            \
             # which scenario notices which, and how soon a search comes upon it by itself\n```\n";
    let second = "Each story tells what is wrong, then the smallest order of events in which it shows, then how it was mended. P is the page in question. Letters \
                  stand for the places where a write is on record until it is sent:";
    text += &wrapped(second);
    text += "\n\n| | |\n|---|---|\n\
             | K | the accelerator's own log: KVM's bitmap, or its rings |\n\
             | S | QEMU's copy of it, for each slot of memory |\n\
             | D | where all marks meet: of vCPUs under TCG, of devices, and of S |\n\
             | V | the log of a device that writes by itself |\n\
             | B | what the migration has still to send; N counts its bits |\n\
             | C | the chunks of memory of which K is yet to be cleared |\n\
             | R | what the destination has received |\n\
             | F | what of a file of memory is valid |\n\n";
    text += &wrapped(
        "A write is safe as long as one of them knows of it, or the page is sent after it. It is lost by whoever clears the last one. This page is made from \
         `host/src/fault.rs` and from the scenarios; [faults.md](faults.md) has the same as a list.",
    );
    text += "\n\n| room | | lost pages |\n|---|---|---|\n";
    for (room, faults) in rooms() {
        let losses = faults.iter().filter(|fault| fault.effect() == Effect::Loss).count();
        writeln!(text, "| [{}](#{}) | {} | {losses} |", room.title(), anchor(room.title()), faults.len()).expect("memory");
    }
    text
}

/// Returns the anchor that GitHub gives a heading.
fn anchor(title: &str) -> String {
    title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || *c == ' ').map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn story(fault: Fault, witnesses: &[String]) -> String {
    let label = fault.label();
    let label = if label.is_empty() { String::new() } else { format!("{label} · ") };
    let mut text = format!("\n### {}\n`{}` · {label}{} · {}\n\n", fault.title(), fault.name(), fault.effect().name(), fault.source());
    text += &format!("{}\n\n", wrapped(&sentence(fault.mechanism())));
    for (number, step) in (1..).zip(fault.steps()) {
        writeln!(text, "{number}. {}", wrapped(&sentence(step)).replace('\n', "\n   ")).expect("memory");
    }
    let seen: Vec<String> = witnesses.iter().map(|path| format!("[{}](../{path})", short(path))).collect();
    write!(text, "\nMended: {}\nSeen by {}.\n", wrapped(&full_stop(fault.fix())), seen.join(", ")).expect("memory");
    text
}

/// Returns a scenario's path without what all have.
fn short(path: &str) -> &str {
    path.trim_start_matches("scenarios/").trim_end_matches(".toml")
}

/// Returns a fragment as a sentence. A name of code at its beginning keeps its letters.
fn sentence(fragment: &str) -> String {
    let word = fragment.split([' ', ',', ';', ':']).next().unwrap_or_default();
    let is_word = word.chars().all(|c| c.is_ascii_lowercase() || c == '\'' || c == '-');
    let mut chars = fragment.chars();
    match chars.next() {
        Some(first) if is_word => full_stop(&format!("{}{}", first.to_uppercase(), chars.as_str())),
        Some(_) | None => full_stop(fragment),
    }
}

fn full_stop(fragment: &str) -> String {
    let ended = fragment.ends_with(['.', '?', '!']);
    format!("{fragment}{}", if ended { "" } else { "." })
}

fn wrapped(text: &str) -> String {
    wrap(text, COLUMNS).join("\n")
}

fn not_found() -> String {
    let mut text = String::from("\n## What chance does not find\n");
    text += &wrapped(
        "`lostpage museum` also searches: from guests that lean no way, without an order or a store at a chosen moment, by six strategies of drawing schedules. It \
         tells which schedule of each is the first to lose a page by each fault. These lose pages as well, and were not found so.",
    );
    text += "\n\n| fault | why |\n|---|---|\n";
    for (fault, why) in UNFOUND {
        writeln!(text, "| `{}` | {why} |", fault.name()).expect("memory");
    }
    text
}

fn not_here() -> String {
    let mut text = String::from("\n## Not on show\n");
    text += &wrapped(
        "Entries of the same catalogue that cannot be switched on here, and why. A defect that is only pretended would teach nothing.",
    );
    text += "\n\n| id | what it was | why it is not here |\n|---|---|---|\n";
    for (id, what, why) in NOT_HERE {
        writeln!(text, "| {id} | {what} | {why} |").expect("memory");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_code_keeps_its_letters_at_the_beginning_of_a_sentence() {
        assert_eq!(sentence("the sync comes"), "The sync comes.");
        assert_eq!(sentence("fill_balloon() allocates"), "fill_balloon() allocates.");
        assert_eq!(sentence("setup: all is set"), "Setup: all is set.");
        assert_eq!(sentence("vCPU 0 stores."), "vCPU 0 stores.");
    }

    #[test]
    fn each_fault_stands_in_one_room_and_its_story_is_whole() {
        assert_eq!(rooms().iter().map(|(_, faults)| faults.len()).sum::<usize>(), Fault::ALL.len());
        let page = page(&BTreeMap::from([(Fault::HintRepeatedId, vec!["scenarios/pass/hinting/repeated-id.toml".to_owned()])]));
        let story = page.split("\n### A repeated id re-arms a stopped device\n").nth(1).expect("its heading");
        let story = story.split("\n### ").next().expect("split has a first part");
        for part in
            ["`hint-repeated-id` · QEMU H01 · loss", "\n1. The driver", "\n3. ", "\nMended: ", "[pass/hinting/repeated-id](../scenarios/"]
        {
            assert!(story.contains(part), "{part}: {story}");
        }
    }
}
