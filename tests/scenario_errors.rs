//! What a user is told about a scenario file that is none: one snapshot for each kind of mistake, and properties that hold for any text.

use emu::scenario::arbitrary::arb_scenario;
use emu::scenario::{Diagnostics, Severity, lint, parse, schema, template, to_toml};
use proptest::prelude::*;

/// What is wrong with a file, as it is printed; fails when nothing is.
fn told(text: &str) -> String {
    let diagnostics = parse("bad.toml", text).expect_err("the file is bad");
    check_places(text, &diagnostics);
    check_suggestions(text, &diagnostics);
    diagnostics.render(false)
}

/// Every suggestion, put where it is made, ends the problem that it was made for.
fn check_suggestions(text: &str, diagnostics: &Diagnostics) {
    for diagnostic in diagnostics.list() {
        let Some(suggestion) = &diagnostic.suggestion else { continue };
        let mended = format!("{}{suggestion}{}", &text[..diagnostic.span.start], &text[diagnostic.span.end..]);
        let left = lint("bad.toml", &mended);
        assert!(left.list().len() < diagnostics.list().len(), "`{suggestion}` mends nothing:\n{}", left.render(false));
    }
}

/// Every span lies inside the text and between characters, and every line and column exists.
fn check_places(text: &str, diagnostics: &Diagnostics) {
    let lines: Vec<&str> = text.split('\n').collect();
    for (diagnostic, record) in diagnostics.list().iter().zip(diagnostics.records()) {
        let spans = diagnostic.related.iter().map(|(span, _)| span).chain([&diagnostic.span]);
        for span in spans {
            assert!(text.get(span.clone()).is_some(), "{span:?} is no part of {text:?}");
        }
        assert!((1..=lines.len()).contains(&record.line), "line {} of {text:?}", record.line);
        assert!(record.column <= lines[record.line - 1].chars().count() + 1, "column {} of {text:?}", record.column);
        assert!((record.line, record.column) <= (record.end_line, record.end_column));
    }
}

/// One test for each bad file, with the snapshot of that name.
macro_rules! bad_files {
    ($($name:ident: $text:expr,)*) => {
        $(
            #[test]
            fn $name() {
                insta::with_settings!({ omit_expression => true }, {
                    insta::assert_snapshot!(stringify!($name), told($text));
                });
            }
        )*
    };
}

bad_files! {
    empty_file: "",
    unknown_key_is_suggested: "about = \"x\"\n[guest]\nrma = \"16 MiB\"\n",
    unknown_key_belongs_elsewhere: "about = \"x\"\n[guest]\nbandwidth = \"1 GiB/s\"\n",
    unknown_table: "about = \"x\"\n[zebra]\na = 1\n",
    wrong_types: "about = 7\nwitness = \"hint-stop-skipped\"\nguest = 1\n[host]\ninitially_set = \"yes\"\nchunk = true\n[migration]\nstart = 2026-01-01\nrounds_min = 1.5\n[pages]\nP = 3\n",
    empty_about: "about = \"  \"\n",
    unplugged_memory_that_cannot_be: "about = \"x\"\n[host]\nhost_page = \"2 MiB\"\n[host.virtio_mem]\nsize = \"4 MiB\"\nplugged = [4]\n[[host.blocks]]\nname = \"ram\"\nroom = 4\n[[inject]]\nmonitor = { requested_size = \"5 MiB\" }\n",
    unplugged_memory_of_odd_sizes: "about = \"x\"\n[host.virtio_mem]\nsize = \"3 MiB\"\nblock = \"2 MiB\"\n",
    unplugged_memory_and_nothing_else: "about = \"x\"\n[host.virtio_mem]\nsize = \"16 MiB\"\n",
    numbers_without_units: "about = \"x\"\n[guest]\nram = 16\n[migration]\ndowntime_limit = \"300\"\n",
    bad_units: "about = \"x\"\n[guest]\nram = \"16 MB\"\n[migration]\nbandwidth = \"128 MiB\"\ndowntime_limit = \"0.3 s\"\nmax_bandwidth = \"fast\"\n[limits]\ntime = \"60 sec\"\n",
    ram_too_small: "about = \"x\"\n[guest]\nram = \"4 MiB\"\n",
    ram_too_large: "about = \"x\"\n[guest]\nram = \"4 GiB\"\n",
    ram_is_no_multiple_of_a_page: "about = \"x\"\n[guest]\nram = \"16777217 B\"\n",
    numbers_out_of_range: "about = \"x\"\n[guest]\nvcpus = 5\n[host]\nhint_queue_size = 1000\nqueue_size = 4096\nchunk = \"64 KiB\"\nballoon = \"32 MiB\"\n[migration]\ndowntime_limit = \"0 ms\"\nrounds_min = -1\n[costs]\nexit = \"2 s\"\n[limits]\nsteps = 0\n",
    chunk_is_no_power_of_two: "about = \"x\"\n[host]\nchunk = \"768 KiB\"\n",
    manual_clear_only: "about = \"x\"\n[host]\ndirty_log = \"tcg\"\nchunk = \"1 GiB\"\ninitially_set = false\n",
    manual_clear_only_by_profile: "about = \"x\"\n[host]\nprofile = \"firecracker\"\nchunk = \"1 GiB\"\n",
    unknown_words: "about = \"x\"\nfaults = [\"hint-stop-skiped\"]\n[guest]\ndriver = \"v34\"\nrefuse = [\"stats\"]\n[host]\nprofile = \"quemu\"\ndirty_log = \"manual_clear\"\n[expect]\nverdict = \"lost\"\nblame = \"linux\"\n",
    unknown_events: "about = \"x\"\n[pages]\nP = \"pfn 0x800\"\n[[inject]]\nmonitor = \"migrate\"\nafter = [\"hint.aply(P)\", \"hint.pop(Q)\", \"bitmap.sync(P)\", \"hint.pop#0\", \"hint.pop(P\", \"inject[1]\", \"inject[0]#2\"]\n[expect]\nevents = { \"hint.aply\" = { min = 1 } }\n",
    unknown_pages: "about = \"x\"\n[pages]\nTarget = \"pfn 0x800\"\n[[inject]]\nwrite = { page = \"Tarket\", byte = 1 }\nby = \"dma\"\nafter = \"guest.ready\"\n[expect]\nsent = { Tagret = { min = 1 } }\n",
    pages_that_are_none: "about = \"x\"\n[pages]\nA = \"pfn 0x1000\"\nB = \"address 0x800800\"\nC = \"fourth page of hint 1\"\nD = \"first page of hint 0\"\nE = \"page 1024 of hint 1\"\nF = \"first page of nothing\"\n\"1st\" = \"pfn 1\"\n",
    allocations: "about = \"x\"\n[[guest.task]]\non = \"vcpu0\"\ndo = [\n  { alloc = \"Block\", order = 2 },\n  { fill = \"List\", size = \"1 MiB\" },\n  { free = \"Blok\" },\n  { free = \"List\" },\n  { release = \"Block\" },\n  { write = \"Block\", byte = 1, page = 4 },\n]\n[pages]\nP = \"page 4 of Block\"\n",
    operations: "about = \"x\"\n[[guest.task]]\non = \"vcpu0\"\ndo = [\n  { alocate = \"A\" },\n  { alloc = \"A\", free = \"A\" },\n  { alloc = \"A\", order = 11 },\n  { write = \"A\" },\n  { write = \"A\", byte = 256, order = 1 },\n  { oom = false },\n  { fill = \"W\", size = \"32 MiB\" },\n  { wild_store = 0x800000 },\n  {},\n  \"oom\",\n]\n",
    vcpus_that_are_none: "about = \"x\"\n[guest]\nvcpus = 1\n[[guest.task]]\non = \"vcpu1\"\ndo = []\n[[guest.task]]\non = \"vcpu0\"\ndo = [{ oom = true }]\n[[guest.task]]\non = \"vcpu0\"\ndo = [{ oom = true }]\n",
    actions: "about = \"x\"\n[pages]\nP = \"pfn 0x800\"\n[[inject]]\nafter = \"guest.ready\"\n[[inject]]\nafter = \"guest.ready\"\nmonitor = \"stop\"\nwrite = { page = \"P\", byte = 1 }\n[[inject]]\nat = \"1 ms\"\nmonitor = \"migrat\"\n[[inject]]\nat = \"1 ms\"\nmonitor = \"balloon\"\n",
    actors_that_do_not_fit: "about = \"x\"\n[pages]\nP = \"pfn 0x800\"\n[[inject]]\nat = \"1 ms\"\nwrite = { page = \"P\", byte = 1 }\n[[inject]]\nat = \"1 ms\"\nwrite = { page = \"P\", byte = 1 }\nby = \"display\"\n[[inject]]\nat = \"1 ms\"\ntask = { oom = true }\nby = \"dma\"\n[[inject]]\nat = \"1 ms\"\nrepeat_id = true\nby = \"vcpu2\"\n[[inject]]\nat = \"1 ms\"\nmonitor = \"stop\"\nby = \"vcpu0\"\n",
    writes_that_do_not_fit: "about = \"x\"\n[pages]\nP = \"pfn 0xfff\"\n[[inject]]\nat = \"1 ms\"\nwrite = { page = \"P\", byte = 1, pages = 2 }\nby = \"dma\"\n[[inject]]\nat = \"1 ms\"\nwrite = { page = \"P\", byte = 1, offset = 4089 }\nby = \"vcpu0\"\n[[inject]]\nat = \"1 ms\"\nclear_log = { page = \"P\", pages = 5000 }\n[[inject]]\nat = \"1 ms\"\nrepeat_id = true\nby = \"vcpu0\"\ndelay = \"1 us\"\ndelay_insns = 3\n[[inject]]\nafter = \"guest.ready\"\nmonitor = \"stop\"\ndelay_insns = 3\n",
    names_given_twice: "about = \"x\"\nwitness = [\"hint-keeps-k\", \"hint-keeps-k\"]\n[pages]\nP = \"pfn 1\"\nP = \"pfn 2\"\n[[inject]]\nname = \"halt\"\nmonitor = \"stop\"\nat = \"1 ms\"\n[[inject]]\nname = \"halt\"\nmonitor = \"cont\"\nat = \"2 ms\"\n[[inject]]\nname = \"inject\"\nmonitor = \"cont\"\nat = \"2 ms\"\n[[inject]]\nname = \"a b\"\nmonitor = \"cont\"\nat = \"2 ms\"\n",
    order_contradicts_itself: "about = \"x\"\n[pages]\nP = \"first page of hint 1\"\n[[inject]]\nname = \"reuse\"\nwrite = { page = \"P\", byte = 0xBB }\nby = \"vcpu1\"\nafter = \"hint.apply(P)\"\nbefore = \"bitmap.sync#2\"\n[[order]]\nchain = [\"bitmap.sync#2\", \"hint.pop(P)\", \"hint.apply(P)\"]\n",
    injection_before_itself: "about = \"x\"\n[[inject]]\nmonitor = \"stop\"\nafter = \"inject[0]\"\n",
    events_keep_their_numbers: "about = \"x\"\n[[order]]\nchain = [\"bitmap.sync#3\", \"bitmap.sync#2\"]\n[[order]]\nchain = [\"hint.apply#2\"]\n",
    event_of_a_page_before_all_of_its_kind: "about = \"x\"\n[pages]\nP = \"first page of hint 1\"\n[[order]]\nchain = [\"hint.apply(P)\", \"vm.stop\", \"hint.apply\"]\n",
    events_without_quotes: "about = \"x\"\n[expect.events]\nhint.apply = { min = 1 }\n",
    expectations: "about = \"x\"\n[pages]\nP = \"pfn 1\"\n[expect]\nverdict = \"pass\"\nblame = \"host\"\nsent = { P = { last = 300, min = 3, max = 2 } }\ncmd_ids = [0, 0x80000001, 0x100000000]\nevents = { \"hint.apply\" = { mni = 1 } }\n[migration]\nstart = { aftre = \"guest.ready\" }\n",
    copy_of_a_page_never_sent: "about = \"x\"\n[pages]\nP = \"pfn 1\"\n[expect]\nsent = { P = { last = 3, max = 0 } }\n",
    broken_syntax_hides_nothing_else: "about = \"unclosed\n[guest]\nram = \"4 MiB\"\nvcpus =\n[host]\nprofil = \"qemu\"\n",
    search_that_has_no_window: "about = \"x\"\n[search]\nuntil = \"guest.ready\"\ngrain = \"insn\"\n",
    search_that_ends_before_it_begins: "about = \"x\"\n[pages]\nP = \"first page of hint 1\"\n[search]\nfrom = \"hint.apply(P)\"\nuntil = \"hint.pop(P)\"\n[[order]]\nchain = [\"hint.pop(P)\", \"hint.apply(P)\"]\n",
    search_that_ends_where_it_begins: "about = \"x\"\n[search]\nfrom = \"hint.apply#2\"\nuntil = \"hint.apply#2\"\n",
    lists_of_values: "about = \"x\"\n[vary]\nprofile = \"qemu\"\ndirty_log = [\"manual-claer\"]\nchunk = [\"256 KiB\", \"1 GiB\", \"1024 MiB\", \"3 MiB\", 64]\nhint_queue_size = [1, 16, 16]\nqueue_size = [100]\nvcpus = [1, 5, \"2\"]\nfaults = [\"hint-keeps-k\", \"hint-keeps-k\"]\nram = [\"16 MiB\"]\n",
    vcpus_that_are_left_out: "about = \"x\"\n[guest]\nvcpus = 3\n[[guest.task]]\non = \"vcpu0\"\ndo = [{ oom = true }]\n[[may]]\ntask = { oom = true }\nby = \"vcpu2\"\n[vary]\nvcpus = [1, 2, 3]\n",
    chunks_without_manual_clear: "about = \"x\"\n[host]\ndirty_log = \"tcg\"\n[vary]\nprofile = [\"qemu\", \"firecracker\"]\nchunk = [\"256 KiB\"]\n",
    chunks_of_logs_without_manual_clear: "about = \"x\"\n[vary]\ndirty_log = [\"tcg\", \"get-clears\"]\nchunk = [\"256 KiB\"]\n",
    orders_of_what_may_be_done: "about = \"x\"\n[[inject]]\nname = \"halt\"\nmonitor = \"stop\"\nat = \"1 ms\"\n[[may]]\nname = \"end\"\nmonitor = \"cancel\"\n[[may]]\nname = \"halt\"\nmonitor = \"cont\"\n[[may]]\nwrite = { page = \"P\", byte = 1 }\n[[order]]\nchain = [\"guest.ready\", \"end\", \"inject[1]\"]\n",
    what_may_be_done_never_can: "about = \"x\"\n[[may]]\nmonitor = \"stop\"\nafter = \"bitmap.sync#3\"\nbefore = \"bitmap.sync#2\"\n",
    provenance_that_lacks_something: "about = \"x\"\n[found]\nscenario = \"\"\nseed = 7\nschedules = 1\n",
    columns_are_characters: "about = \"Größe → ∞\"\nwitness = [\"é\", \"hint-keeps-k\", \"ö\"]\n",
}

/// Compares the warnings about a file with the snapshot of that name.
fn warned(name: &str, text: &str) {
    parse("odd.toml", text).expect("odd, but a scenario");
    let diagnostics = lint("odd.toml", text);
    check_places(text, &diagnostics);
    assert!(diagnostics.list().iter().all(|diagnostic| diagnostic.severity == Severity::Warning));
    insta::with_settings!({ omit_expression => true }, {
        insta::assert_snapshot!(name, diagnostics.render(false));
    });
}

#[test]
fn warnings_are_no_errors() {
    let text = "about = \"x\"\nwitness = [\"hint-keeps-k\"]\nfaults = [\"hint-keeps-k\"]\n[host]\nfeatures = [\"hint-wait-on-ack\"]\nstats_interval = \"1 s\"\n[pages]\nP = \"first page of hint 1\"\n[[inject]]\nmonitor = \"stop\"\n";
    warned("warnings", text);
}

#[test]
fn a_search_that_gains_nothing_is_warned_of() {
    let text = "about = \"x\"\nfaults = [\"hint-keeps-k\"]\n[search]\ngrain = \"instruction\"\n[vary]\nprofile = [\"qemu\"]\ndirty_log = [\"manual-clear\"]\nchunk = [\"1 GiB\"]\nhint_queue_size = [1024]\nqueue_size = [128]\nvcpus = [2]\ndriver = [\"hint\"]\nfaults = [\"hint-no-done\", \"hint-keeps-k\"]\n";
    warned("warnings_of_searches", text);
}

#[test]
fn a_search_that_gains_something_is_not_warned_of() {
    let text = "about = \"x\"\n[pages]\nP = \"first page of hint 1\"\n[[may]]\nmonitor = \"cancel\"\n[search]\nfrom = \"hint.request\"\nuntil = \"bitmap.sync#2\"\ngrain = \"instruction\"\n[vary]\nprofile = [\"qemu\", \"firecracker\"]\ndirty_log = [\"manual-clear\"]\nqueue_size = [128]\nvcpus = [1, 2]\n";
    let diagnostics = lint("search.toml", text);
    assert!(diagnostics.is_empty(), "{diagnostics}");
}

#[test]
fn records_are_what_tools_read() {
    let diagnostics = parse("bad.toml", "about = \"x\"\n[guest]\nrma = \"16 MiB\"\n").expect_err("bad");
    let json = serde_json::to_string(&diagnostics.records()).expect("plain values");
    let expected = r#"[{"file":"bad.toml","line":3,"column":1,"end_line":3,"end_column":4,"severity":"error","message":"unknown key `rma` in [guest]","suggestion":"ram"}]"#;
    assert_eq!(json, expected);
}

#[test]
fn colour_changes_no_word() {
    let diagnostics = parse("bad.toml", "about = 1").expect_err("bad");
    let coloured = diagnostics.render(true);
    assert!(coloured.contains("\u{1b}["), "{coloured:?}");
    assert!(!diagnostics.render(false).contains('\u{1b}'));
}

/// Reads and renders a text, whatever it is.
fn survive(text: &str) -> Result<(), TestCaseError> {
    let diagnostics = lint("any.toml", text);
    check_places(text, &diagnostics);
    let rendered = diagnostics.render(false);
    prop_assert_eq!(rendered.is_empty(), diagnostics.is_empty());
    prop_assert_eq!(parse("any.toml", text).is_err(), diagnostics.has_errors());
    Ok(())
}

/// Words of the language, to build texts that get past the syntax.
const WORDS: &[&str] = &[
    "about",
    "=",
    "\"x\"",
    "[guest]",
    "[[inject]]",
    "[[order]]",
    "[[may]]",
    "[search]",
    "[vary]",
    "until",
    "chunk",
    "vcpus",
    "[pages]",
    "[expect]",
    "\n",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    "1",
    "-1",
    "0x1f",
    "true",
    "\"vcpu1\"",
    "\"16 MiB\"",
    "\"hint.apply(P)#2\"",
    "\"inject[0]\"",
    "P",
    "Q",
    "\"first page of hint 1\"",
    "\"page 3 of A\"",
    "write",
    "after",
    "before",
    "chain",
    "task",
    "alloc",
    "\"A\"",
    "order",
    "99999999999999999999",
    "ram",
    "start",
    "é",
    ".",
    "#",
    "sent",
    "events",
    "name",
    "\"\"\"",
    "'",
];

/// What an editor's TOML server says of a text: whether it fits the schema.
fn fits_schema(validator: &jsonschema::Validator, text: &str) -> bool {
    toml::from_str(text).is_ok_and(|document: serde_json::Value| validator.is_valid(&document))
}

fn validator() -> jsonschema::Validator {
    let schema = serde_json::from_str(&schema()).expect("the schema is JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("the schema is one");
    jsonschema::draft202012::new(&schema).expect("the schema can be used")
}

#[test]
fn an_editor_marks_what_the_reader_refuses() {
    let validator = validator();
    assert!(fits_schema(&validator, &template("new")));
    for bad in [
        "about = \"x\"\nzebra = 1",
        "witness = []",
        "about = \"x\"\n[guest]\nram = \"16 MB\"",
        "about = \"x\"\n[guest]\nvcpus = 5",
        "about = \"x\"\n[expect]\nverdict = \"lost\"",
        "about = \"x\"\n[expect.events]\n\"hint.aply\" = {}",
        "about = \"x\"\n[[inject]]\nmonitor = \"stop\"\nrepeat_id = true",
        "about = \"x\"\n[[order]]\nchain = [\"hint.apply\"]",
        "about = \"x\"\n[[guest.task]]\non = \"vcpu0\"\ndo = [{ oom = true, order = 1 }]",
        "about = \"x\"\n[pages]\nP = \"fourth page of hint 1\"",
        "about = \"x\"\n[host]\nhint_queue_size = 1000",
        "about = \"x\"\n[vary]\nhint_queue_size = [16, 16]",
        "about = \"x\"\n[vary]\nchunk = [64]",
        "about = \"x\"\n[search]\nfrom = [\"guest.ready\"]",
        "about = \"x\"\n[[may]]\nname = \"nothing\"",
        "about = \"x\"\n[found]\nseed = \"1\"",
    ] {
        assert!(parse("bad.toml", bad).is_err(), "{bad}");
        assert!(!fits_schema(&validator, bad), "{bad}");
    }
}

#[test]
fn an_editor_accepts_every_scenario() {
    let validator = validator();
    proptest!(|(scenario in arb_scenario())| {
        let text = to_toml(&scenario);
        prop_assert!(fits_schema(&validator, &text), "{}", text);
    });
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        survive(&text)?;
    }

    #[test]
    fn any_bytes_that_are_text_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        survive(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_words_of_the_language_are_answered(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        survive(&words.join(" "))?;
    }

    #[test]
    fn a_damaged_file_is_answered(scenario in arb_scenario(), cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..4usize, prop::sample::select(WORDS)), 1..4)) {
        let mut text = to_toml(&scenario);
        for (at, length, word) in cuts {
            let chars: Vec<(usize, char)> = text.char_indices().collect();
            let (from, to) = (at.index(chars.len()), (at.index(chars.len()) + length).min(chars.len() - 1));
            text.replace_range(chars[from].0..chars[to].0, word);
        }
        survive(&text)?;
    }
}
