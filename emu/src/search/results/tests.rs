//! Results as text: what is noticed, and what stays the same.

use super::*;

/// A block as a driver might keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sample {
    block: u64,
    found: Vec<String>,
}

impl Block for Sample {
    type Total = Vec<String>;

    fn number(&self) -> u64 {
        self.block
    }

    fn total<'a>(blocks: impl Iterator<Item = &'a Self>) -> Vec<String> {
        blocks.flat_map(|block| block.found.clone()).collect()
    }
}

fn sample(block: u64) -> Sample {
    Sample { block, found: vec![format!("lost page «{}»", block * 7)] }
}

fn scenario(text: &str) -> Scenario {
    scenario::parse("a.toml", text).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
}

fn request() -> Request {
    Request {
        seed: 4,
        block_schedules: 1000,
        strategies: vec!["pos".to_string(), "pct:3".to_string()],
        options: BTreeMap::from([("grain".to_string(), "event".to_string())]),
        shard: Shard::WHOLE,
    }
}

fn header(request: Request) -> Header {
    Header::new("scenarios/pass/a.toml", &scenario("about = \"a\"\n"), request)
}

fn shard(text: &str) -> Shard {
    text.parse().expect("a shard")
}

fn read(text: &[u8]) -> Result<Read<Sample>, String> {
    Blocks::read("r/blocks.jsonl", text, &header(request()))
}

/// Folders of other machines and other days hold such lines. The checksum is that of another implementation of XXH3.
#[test]
fn a_line_never_changes() {
    let line = Blocks::line_of(&Sample { block: 12, found: vec!["a".to_string()] });
    assert_eq!(line, "{\"sum\":\"a5e467bf838df04c\",\"block\":12,\"found\":[\"a\"]}\n");
    let value: Value = serde_json::from_str(&line).expect("every line is JSON");
    assert_eq!(value["block"], 12);
}

#[test]
fn no_changed_byte_of_a_line_goes_unnoticed() {
    let text: String = [0, 1, 2].iter().map(|number| Blocks::line_of(&sample(*number))).collect();
    assert_eq!(read(text.as_bytes()).expect("whole").blocks.iter().cloned().collect::<Vec<_>>(), [sample(0), sample(1), sample(2)]);
    let first = text.find('\n').expect("a line") + 1;
    let second = first + text[first..].find('\n').expect("a line") + 1;
    for place in first..second {
        for change in [0x01, 0x20, 0x80] {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= change;
            let error = read(&bytes).expect_err("changed");
            assert!(error.starts_with("r/blocks.jsonl:2: "), "{error}");
            assert!(error.contains("delete it"), "{error}");
        }
    }
}

#[test]
fn a_last_line_cut_anywhere_is_no_block_and_leaves_the_others() {
    let whole = Blocks::line_of(&sample(5));
    let last = Blocks::line_of(&sample(6));
    for cut in 0..last.len() {
        let text = [whole.as_bytes(), &last.as_bytes()[..cut]].concat();
        let read = read(&text).expect("cut off is no error");
        assert_eq!((read.blocks.len(), read.whole_bytes), (1, whole.len() as u64));
        assert_eq!(read.cut_off, (cut > 0).then_some(2));
    }
}

#[test]
fn a_block_that_does_not_belong_to_the_folder_is_refused() {
    let half = Request { shard: shard("1/2"), ..request() };
    let other = (0..).find(|number| !header(half.clone()).has_block(*number)).expect("some are in the other half");
    let error = Blocks::<Sample>::read("b", Blocks::line_of(&sample(other)).as_bytes(), &header(half)).expect_err("not its own");
    assert!(error.starts_with(&format!("b:1: block {other} is none of shard 1/2")), "{error}");
    let far = Sample { block: BLOCKS_MAX, found: Vec::new() };
    let error = read(Blocks::line_of(&far).as_bytes()).expect_err("too far");
    assert!(error.contains(&format!("block {BLOCKS_MAX}: expected a number below {BLOCKS_MAX}")), "{error}");
}

#[test]
fn the_same_block_twice_is_fine_and_another_of_its_number_is_not() {
    let line = Blocks::line_of(&sample(3));
    assert_eq!(read(format!("{line}{line}").as_bytes()).expect("equal").blocks.len(), 1);
    let other = Blocks::line_of(&Sample { block: 3, found: Vec::new() });
    let error = read(format!("{line}{other}").as_bytes()).expect_err("different");
    assert!(error.starts_with("r/blocks.jsonl:2: block 3 is not the one at r/blocks.jsonl:1;"), "{error}");
}

#[test]
fn a_header_is_read_as_it_was_written_and_no_changed_byte_goes_unnoticed() {
    let text = header(request()).to_text();
    assert_eq!(Header::read("h", text.as_bytes()), Ok(header(request())));
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let error = Header::read("r/header.json", &bytes).expect_err("changed");
        assert!(error.starts_with("r/header.json: "), "{error}");
        assert!(Header::read("h", &text.as_bytes()[..place]).is_err(), "cut at {place}");
    }
}

#[test]
fn a_header_of_a_newer_format_is_told_from_a_broken_one() {
    let newer = header(request()).to_text().replace("\"format\":1,", "\"format\":2,");
    let error = Header::read("r/header.json", newer.as_bytes()).expect_err("newer");
    assert!(error.starts_with("r/header.json: results in format 2; this is lostpage "), "{error}");
    assert!(error.contains("reads format 1: use the version that wrote them"), "{error}");
    for text in ["{}\n", "[1]\n", "{\"format\":\"1\"}\n", "\n", "", "{}", "{}\n{}\n"] {
        let error = Header::read("h", text.as_bytes()).expect_err("no header");
        assert!(error.contains("expected the header of a search's results"), "{text:?}: {error}");
    }
}

#[test]
fn whatever_blocks_depend_on_tells_headers_apart_with_both_values() {
    let unlike = |change: fn(&mut Request)| {
        let mut other = request();
        change(&mut other);
        header(request()).unlike(&header(other)).join("; ")
    };
    assert_eq!(unlike(|_| ()), "");
    assert_eq!(unlike(|other| other.shard = shard("2/3")), "");
    assert_eq!(unlike(|other| other.seed = 5), "seed 4, not 5");
    assert_eq!(unlike(|other| other.block_schedules = 10), "schedules per block 1000, not 10");
    assert_eq!(unlike(|other| other.strategies.reverse()), "strategies pos,pct:3, not pct:3,pos");
    assert_eq!(unlike(|other| other.options.clear()), "options grain=event, not none");
    let mine = header(request());
    let built = Header { lostpage: "0.0.9".to_string(), build: "f00".to_string(), ..mine.clone() };
    assert_eq!(built.unlike(&mine), [format!("lostpage 0.0.9, not {}", mine.lostpage), format!("build f00, not {}", build())]);
}

#[test]
fn a_scenarios_fingerprint_is_of_what_it_says_not_of_how() {
    let of = |text: &str| Header::new("a", &scenario(text), request()).fingerprint;
    let plain = of("about = \"a\"\n");
    assert_eq!(plain, of("# the same\n about   =   'a'\n"));
    assert_ne!(plain, of("about = \"a\"\n[host]\ndirty_log = \"tcg\"\n"));
    assert_eq!(plain.len(), 32);
}

#[test]
fn the_build_has_a_fingerprint() {
    assert!(build().len() == 32 && build().bytes().all(|digit| digit.is_ascii_hexdigit()), "{}", build());
}

#[test]
fn what_is_missing_is_told_in_rows_of_the_folders_own_shards() {
    let mut blocks = Blocks::new();
    (0..40).filter(|number| ![12, 19, 20, 21].contains(number)).for_each(|number| blocks.add(sample(number), "b"));
    let whole = header(request());
    assert_eq!(blocks.summary(&whole, 0).missing.to_string(), "blocks 12, 19..21 missing");
    assert_eq!(blocks.summary(&whole, 42).missing.to_string(), "blocks 12, 19..21, 40..41 missing");
    let half = header(Request { shard: shard("1/2"), ..request() });
    let own: Vec<String> = [12, 19, 20, 21].into_iter().filter(|number| half.has_block(*number)).map(|number| number.to_string()).collect();
    assert!((1..4).contains(&own.len()), "{own:?}");
    let missing = blocks.summary(&half, 0).missing;
    assert!(own.iter().all(|number| missing.to_string().contains(number.as_str())), "{missing}: {own:?}");
    assert_eq!(Gaps::of([7].into_iter()).to_string(), "block 7 missing");
    assert_eq!(Gaps::of([].into_iter()).to_string(), "no block missing");
}

#[test]
fn a_summary_notices_what_is_lost_but_not_what_came_after_it() {
    let of = |numbers: &[u64]| {
        let mut blocks = Blocks::new();
        numbers.iter().for_each(|number| blocks.add(sample(*number), "b"));
        blocks
    };
    let summary = of(&[0, 1, 2]).summary(&header(request()), 9);
    assert_eq!(summary.total, ["lost page «0»", "lost page «7»", "lost page «14»"]);
    let text = summary.to_text();
    assert_eq!(Outline::read("s", text.as_bytes(), &of(&[2, 0, 1])), Ok(summary.outline.clone()));
    assert_eq!(Outline::read("s", text.as_bytes(), &of(&[0, 1, 2, 3])).expect("more").end, 9);
    for blocks in [of(&[0, 1]), of(&[0, 1, 3]), of(&[])] {
        let error = Outline::read("r/summary.json", text.as_bytes(), &blocks).expect_err("lost");
        assert!(error.starts_with("r/summary.json: tells of 3 blocks with digest "), "{error}");
        assert!(error.contains("blocks were lost or changed"), "{error}");
    }
    let error = Outline::read("r/summary.json", &text.as_bytes()[..30], &of(&[0, 1, 2])).expect_err("cut off");
    assert!(error.starts_with("r/summary.json: is cut off in its first line; delete this file"), "{error}");
}
