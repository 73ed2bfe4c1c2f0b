//! House rules that a compiler does not know: who may import whom, where unsafe lives, how long a file may grow.

use std::path::{Path, PathBuf};

use lostpage_tests::{files, root};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).expect("source file");
        (path, text)
    };
    files(folder, "rs").into_iter().map(read).collect()
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["guest", "host", "emu", "tests"].into_iter().flat_map(sources).collect()
}

/// Returns the lines of a file that hold a word, without comments.
fn naming(text: &str, word: &str) -> usize {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).filter(|line| line.contains(word)).count()
}

#[test]
fn one_file_names_the_engine() {
    let found: Vec<_> = all_sources()
        .into_iter()
        .filter(|(path, text)| path.starts_with("emu/src") && naming(text, "unicorn_engine") > 0)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(found, [PathBuf::from("emu/src/vcpu.rs")]);
}

#[test]
fn unsafe_code_lives_in_two_files() {
    // The test guest is machine code for the vCPU's own tests, with no arch module to hide behind.
    let homes = [Path::new("guest/src/arch.rs"), Path::new("emu/src/vcpu.rs"), Path::new("emu/src/vcpu/testguest/main.rs")];
    for (path, text) in all_sources() {
        if homes.contains(&path.as_path()) || path.ends_with("tidy.rs") {
            continue;
        }
        assert_eq!(naming(&text, "unsafe {"), 0, "{} has an unsafe block", path.display());
    }
}

#[test]
fn layers_import_downwards_only() {
    for (path, text) in sources("host") {
        assert_eq!(naming(&text, "emu::") + naming(&text, "guest::"), 0, "{} reaches up or across", path.display());
    }
    for (path, text) in sources("guest/src") {
        assert_eq!(naming(&text, "host::") + naming(&text, "emu::"), 0, "{} reaches across", path.display());
    }
    for (path, text) in sources("emu/src") {
        assert_eq!(naming(&text, "use guest::"), 0, "{} would make the guest native code", path.display());
    }
}

#[test]
fn the_oracle_sees_events_and_memory_only() {
    for (path, text) in sources("emu/src/oracle") {
        for private in ["host::balloon", "host::migration", "host::dirty", "host::transport", "host::vmm", "crate::vcpu", "crate::world"] {
            assert_eq!(naming(&text, private), 0, "{} looks into {private}", path.display());
        }
    }
}

#[test]
fn the_guest_reads_nothing_that_a_states_hash_leaves_out() {
    for (path, text) in sources("guest/src") {
        assert_eq!(
            naming(&text, "CONFIG_GENERATION"),
            0,
            "{} reads the generation: host/src/transport/mmio.rs must hash it",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in all_sources() {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", "#[allow", "dbg!("] {
            assert_eq!(naming(&text, word), 0, "{} has {word}", path.display());
        }
    }
}

#[test]
fn a_file_has_one_subject() {
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines: it has grown two subjects", path.display());
        assert!(text.starts_with("//!") || text.starts_with("#!["), "{} does not say what it models", path.display());
    }
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    let all = all_sources();
    for (path, _) in &all {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let folder = path.parent().expect("in a folder");
        let root_file = ["lib", "main", "mod", "build"].contains(&name.as_str());
        let own_target = folder.ends_with("tests") || folder.ends_with("benches");
        if root_file || own_target {
            continue;
        }
        let declared = all.iter().any(|(other, text)| {
            let home = other.parent() == Some(folder) || other.with_extension("") == folder;
            home && (naming(text, &format!("mod {name};")) + naming(text, &format!("path = \"{name}.rs\"")) > 0)
        });
        assert!(declared, "{} is declared nowhere", path.display());
    }
}
