//! The figures that the project promises, measured in one run and printed as one table.
//!
//! Each part measures what it compares in the same process, one after the other; what is compared with a part of the same machine is a
//! ratio that holds elsewhere, too. Names of parts as arguments leave the others out. Noise is no failure: the exit status is 0 whatever
//! was measured.
//!
//! The second process of the digests is this program again, with [`CHILD`] as its argument.
#![expect(clippy::disallowed_types, reason = "a benchmark reads the wall clock; no world sees it")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod digests;
mod place;
mod suite;
mod vcpu;

use std::time::{Duration, Instant};

/// The argument that makes this program print every scenario's digest, and nothing else.
const CHILD: &str = "--digests";

/// A part: its name, what it does, and its measurement.
type Part = (&'static str, &'static str, fn() -> Vec<Figure>);

const PARTS: [Part; 4] = [
    ("vcpu", "the guest's speed, and what restores and switches cost", vcpu::figures),
    ("place", "pages from the source's RAM into the destination", place::figures),
    ("suite", "the scenarios, one after the other on one core", suite::figures),
    ("digests", "whether every scenario's digest is the same whoever runs it", digests::figures),
];

/// A promise and what was measured.
struct Figure {
    what: String,
    /// How often the promise is met: 1 is just met.
    margin: f64,
    promised: String,
    measured: String,
}

impl Figure {
    /// Of what should be large.
    fn at_least(what: impl Into<String>, measured: f64, promised: f64, show: impl Fn(f64) -> String) -> Figure {
        let margin = measured / promised;
        Figure { what: what.into(), margin, promised: format!(">= {}", show(promised)), measured: show(measured) }
    }

    /// Of what should be small.
    fn at_most(what: impl Into<String>, measured: f64, promised: f64, show: impl Fn(f64) -> String) -> Figure {
        let margin = promised / measured;
        Figure { what: what.into(), margin, promised: format!("<= {}", show(promised)), measured: show(measured) }
    }

    /// Of what must be so; `measured` says how far it is so.
    fn always(what: impl Into<String>, is_so: bool, measured: impl Into<String>) -> Figure {
        Figure { what: what.into(), margin: if is_so { 1.0 } else { 0.0 }, promised: "equal".into(), measured: measured.into() }
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
    println!("{:<62} {:>12} {:>14} {:>7}  ok", "what", "promised", "measured", "margin");
    for Figure { what, margin, promised, measured } in figures {
        let ok = if *margin >= 1.0 { "yes" } else { "NO" };
        let margin = if promised == "equal" { String::new() } else { format!("{margin:.2}") };
        println!("{what:<62} {promised:>12} {measured:>14} {margin:>7}  {ok}");
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
