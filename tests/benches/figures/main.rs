//! The figures that the project promises, measured in one run and printed as one table.
//!
//! Each part measures what it compares in the same process, one after the other; what is compared with a part of the same machine is a
//! ratio that holds elsewhere, too. Names of parts as arguments leave the others out. Noise is no failure: the exit status is 0 whatever
//! was measured.
//!
//! The second process of the digests is this program again, with [`CHILD`] as its argument.
#![expect(clippy::disallowed_types, reason = "a benchmark reads the wall clock; no world sees it")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod bitmaps;
mod digests;
mod place;
mod search;
mod state;
mod suite;
mod vcpu;

use std::time::{Duration, Instant};

/// The argument that makes this program print every scenario's digest, and nothing else.
const CHILD: &str = "--digests";

/// A part: its name, what it does, and its measurement.
type Part = (&'static str, &'static str, fn() -> Vec<Figure>);

const PARTS: [Part; 7] = [
    ("vcpu", "the guest's speed, and what restores and switches cost", vcpu::figures),
    ("place", "pages from the source's RAM into the destination", place::figures),
    ("bitmaps", "a sync of a large guest, and what memory costs that nobody touches", bitmaps::figures),
    ("state", "what a search pays for a state: clones, hashes, the end of a run", state::figures),
    ("search", "schedules and states a second, beside shuttle's; shrinking; more cores", search::figures),
    ("suite", "the scenarios, one after the other on one core", suite::figures),
    ("digests", "whether every scenario's digest is the same whoever runs it", digests::figures),
];

/// What was measured, and what is promised of it, if anything is.
struct Figure {
    what: String,
    measured: String,
    promised: Option<Promise>,
}

struct Promise {
    text: String,
    /// How often the promise is met: 1 is just met. `None` for what is so or not.
    margin: Option<f64>,
    kept: bool,
}

impl Figure {
    /// Of which nothing is promised.
    fn plain(what: impl Into<String>, measured: impl Into<String>) -> Figure {
        Figure { what: what.into(), measured: measured.into(), promised: None }
    }

    /// Of what should be large.
    fn at_least(what: impl Into<String>, measured: f64, promised: f64, show: impl Fn(f64) -> String) -> Figure {
        Figure::plain(what, show(measured)).promise(format!(">= {}", show(promised)), measured / promised)
    }

    /// Of what should be small.
    fn at_most(what: impl Into<String>, measured: f64, promised: f64, show: impl Fn(f64) -> String) -> Figure {
        Figure::plain(what, show(measured)).promise(format!("<= {}", show(promised)), promised / measured)
    }

    /// Of what must be equal; `measured` says whether it is.
    fn equal(what: impl Into<String>, kept: bool, measured: impl Into<String>) -> Figure {
        Figure { promised: Some(Promise { text: "equal".into(), margin: None, kept }), ..Figure::plain(what, measured) }
    }

    fn promise(self, text: String, margin: f64) -> Figure {
        Figure { promised: Some(Promise { text, margin: Some(margin), kept: margin >= 1.0 }), ..self }
    }
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Returns the value below which `part` of 100 of the values lie; sorts them.
fn percentile(values: &mut [f64], part: usize) -> f64 {
    assert!(!values.is_empty() && part <= 100, "no {part} % of {} values", values.len());
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * part / 100]
}

fn print(figures: &[Figure]) {
    println!("{:<62} {:>12} {:>12} {:>7}  ok", "what", "measured", "promised", "margin");
    for Figure { what, measured, promised } in figures {
        let Some(Promise { text, margin, kept }) = promised else {
            println!("{what:<62} {measured:>12}");
            continue;
        };
        let margin = margin.map(|margin| format!("{margin:.2}")).unwrap_or_default();
        println!("{what:<62} {measured:>12} {text:>12} {margin:>7}  {}", if *kept { "yes" } else { "NO" });
    }
}

fn main() {
    // cargo passes `--bench` to every benchmark.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments == [CHILD] {
        print!("{}", digests::listing());
        return;
    }
    if let Some(unknown) = arguments.iter().find(|argument| PARTS.iter().all(|(name, ..)| name != argument)) {
        println!("no part is called {unknown}; there are:");
        PARTS.iter().for_each(|(name, about, _)| println!("  {name:8} {about}"));
        std::process::exit(2);
    }
    let mut figures = Vec::new();
    for (name, about, measure) in PARTS {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            println!("---- {name}: {about}");
            figures.extend(measure());
            println!();
        }
    }
    print(&figures);
}
