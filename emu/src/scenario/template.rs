//! The file that `lostpage new NAME` starts with.

/// Returns a commented scenario to begin from: it lints clean, runs and passes.
pub fn template(name: &str) -> String {
    let about = toml::Value::String(format!("{name}: a page that is written after the device has applied its hint is sent"));
    format!("about = {about}\n{BODY}")
}

const BODY: &str = r#"
# Faults that must change the verdict when switched on: they show that the scenario sees what it is about.
# witness = ["hint-stop-skipped"]

# Every key below may be left out, but for those of [[inject]]; a schema for editors comes from `lostpage schema`.
[guest]
ram = "16 MiB"
vcpus = 2

[host]
profile = "qemu"
dirty_log = "manual-clear"         # or "get-clears", "tcg"
chunk = "1 GiB"                    # memory per CLEAR

[migration]
start = "guest.ready"              # an event, a time ("10 ms"), or "never"
bandwidth = "1 GiB/s"
downtime_limit = "300 ms"

# Names for pages: of a hint (from 1), of a task's allocation, or by address.
[pages]
P = "first page of hint 1"
Q = "page 1 of hint 1"             # pages of a block count from 0

# What the scenario does. An order is fixed by naming events; what is left open follows the default schedule.
[[inject]]
write = { page = "P", byte = 0xBB }
by = "vcpu1"                       # or "dma", "vhost"
after = "hint.apply(P)"
# before = "bitmap.sync#2"         # what may not happen before it

[expect]
verdict = "pass"
sent = { P = { last = 0xBB }, Q = { max = 0 } }
"#;

#[cfg(test)]
mod tests {
    use super::super::{lint, parse};
    use super::*;

    #[test]
    fn a_new_file_lints_clean() {
        for name in ["write-after-hint", "", "a \"quoted\"\nname"] {
            let text = template(name);
            let diagnostics = lint("new.toml", &text);
            assert!(diagnostics.is_empty(), "{diagnostics}");
            assert_eq!(parse("new.toml", &text).expect("a scenario").injections.len(), 1);
        }
    }

    #[test]
    fn a_new_file_ends_as_it_says() {
        let scenario = parse("new.toml", &template("new")).expect("a scenario");
        let outcome = crate::world::run(&scenario, &crate::world::RunOptions::default());
        assert_eq!(outcome.unexpected, Vec::<String>::new());
    }
}
