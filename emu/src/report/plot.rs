//! Curves as SVG: panels side by side, both axes logarithmic, one legend.
//!
//! Integers only, so that the same numbers give the same bytes everywhere. Curves that are the same in every panel are drawn once, under all of
//! their names.

use std::fmt::Write;

/// A drawing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// What stands above all.
    pub title: String,
    /// What is drawn, from left to right; at least one.
    pub panels: Vec<Panel>,
    /// The curves' names.
    pub names: Vec<String>,
}

/// A pair of axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// What the x axis counts.
    pub x: String,
    /// Where points are, ascending; none is 0.
    pub xs: Vec<u64>,
    /// For each name a value at each x, if there is one; 0 is drawn as 1.
    pub curves: Vec<Vec<Option<u64>>>,
}

/// Size of a panel's axes, and what is around them.
const WIDTH: u64 = 400;
const HEIGHT: u64 = 330;
const LEFT: u64 = 70;
const TOP: u64 = 64;
const BOTTOM: u64 = 56;
const GAP: u64 = 70;
/// Room for the legend, and between two of its lines.
const LEGEND: u64 = 210;
const LEADING: u64 = 19;

/// Colours that people with any colour vision tell apart (Okabe and Ito), and black.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"];
/// Dashes: the next one when all colours are used.
const DASHES: [&str; 3] = ["", "7 4", "2 3"];

/// Parts of a doubling, or of a power of ten, that a place on an axis is counted in.
const FINE: u32 = 10;

/// Returns the binary logarithm in units of 2^-10, rounded down.
fn log2(value: u64) -> u64 {
    assert!(value > 0, "the logarithm of 0");
    let whole = value.ilog2();
    // 1 <= mantissa < 2, with 31 bits behind the point: each squaring gives the next bit of the logarithm.
    let mut mantissa = if whole >= 31 { value >> (whole - 31) } else { value << (31 - whole) };
    let mut log = u64::from(whole);
    for _ in 0..FINE {
        mantissa = (mantissa * mantissa) >> 31;
        let carry = mantissa >> 32;
        mantissa >>= carry;
        log = log << 1 | carry;
    }
    log
}

/// A logarithmic axis from `low` to `high`, `length` long.
struct Axis {
    low: u64,
    high: u64,
    length: u64,
}

impl Axis {
    fn place(&self, value: u64) -> u64 {
        let (low, high) = (log2(self.low), log2(self.high));
        (log2(value.clamp(self.low, self.high)) - low) * self.length / (high - low).max(1)
    }
}

impl Chart {
    /// Returns the drawing.
    pub fn svg(&self) -> String {
        assert!(!self.panels.is_empty(), "nothing to draw");
        assert!(self.panels.iter().all(|panel| panel.curves.len() == self.names.len()), "a curve without a name");
        let panels = self.panels.len() as u64;
        let width = LEFT + panels * WIDTH + (panels - 1) * GAP + LEGEND;
        let height = TOP + HEIGHT + BOTTOM;
        let groups = self.groups();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, (LEFT, 24), "start", "font-size=\"16\" font-weight=\"bold\"", &self.title);
        let y = self.y_axis();
        for (index, panel) in self.panels.iter().enumerate() {
            let left = LEFT + index as u64 * (WIDTH + GAP);
            panel.draw(&mut svg, left, &y, &groups);
        }
        let left = LEFT + panels * WIDTH + (panels - 1) * GAP + 20;
        for (index, group) in groups.iter().enumerate() {
            let y = TOP + 8 + index as u64 * LEADING;
            let names: Vec<&str> = group.iter().map(|index| self.names[*index].as_str()).collect();
            let _ = writeln!(svg, "<path d=\"M{left} {y}h26\" {}/>", stroke(index));
            text(&mut svg, (left + 34, y + 4), "start", "", &names.join(", "));
        }
        svg += "</svg>\n";
        svg
    }

    /// Returns the numbers of curves that are the same everywhere, in the order of names; those without a point are left out.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let has_point = |index: &usize| self.panels.iter().any(|panel| panel.curves[*index].iter().any(Option::is_some));
        for index in (0..self.names.len()).filter(has_point) {
            let same = |group: &&mut Vec<usize>| self.panels.iter().all(|panel| panel.curves[group[0]] == panel.curves[index]);
            match groups.iter_mut().find(same) {
                Some(group) => group.push(index),
                None => groups.push(vec![index]),
            }
        }
        groups
    }

    /// The same for all panels, from a power of ten to one.
    fn y_axis(&self) -> Axis {
        let values = || self.panels.iter().flat_map(|panel| &panel.curves).flatten().flatten().map(|value| (*value).max(1));
        let low = 10_u64.pow(values().min().unwrap_or(1).ilog10());
        let high = 10_u64.pow((values().max().unwrap_or(1) - 1).checked_ilog10().unwrap_or(0) + 1);
        Axis { low, high: high.max(low * 10), length: HEIGHT }
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, left: u64, y: &Axis, groups: &[Vec<usize>]) {
        let x = Axis { low: *self.xs.first().expect("a point"), high: *self.xs.last().expect("a point"), length: WIDTH };
        let (right, floor) = (left + WIDTH, TOP + HEIGHT);
        text(svg, (left, TOP - 14), "start", "", &self.title);
        let mut tick = y.low;
        while tick <= y.high {
            let at = floor - y.place(tick);
            let _ = writeln!(svg, "<path d=\"M{left} {at}H{right}\" stroke=\"#d8d8d8\" fill=\"none\"/>");
            text(svg, (left - 8, at + 4), "end", "", &grouped(tick));
            tick *= 10;
        }
        for value in &self.xs {
            let at = left + x.place(*value);
            let _ = writeln!(svg, "<path d=\"M{at} {floor}v5\" stroke=\"#000000\" fill=\"none\"/>");
            text(svg, (at, floor + 19), "middle", "", &value.to_string());
        }
        text(svg, (left + WIDTH / 2, floor + 42), "middle", "", &self.x);
        let _ = writeln!(svg, "<path d=\"M{left} {TOP}V{floor}H{right}\" stroke=\"#000000\" fill=\"none\"/>");
        for (index, group) in groups.iter().enumerate() {
            let mut path = String::new();
            let mut pen_down = false;
            for (at, value) in self.xs.iter().zip(&self.curves[group[0]]) {
                let Some(value) = value else {
                    pen_down = false;
                    continue;
                };
                let (px, py) = (left + x.place(*at), floor - y.place((*value).max(1)));
                let _ = write!(path, "{}{px} {py}", if pen_down { "L" } else { "M" });
                pen_down = true;
                let colour = COLOURS[index % COLOURS.len()];
                let _ = writeln!(svg, "<circle cx=\"{px}\" cy=\"{py}\" r=\"3\" fill=\"{colour}\"/>");
            }
            if !path.is_empty() {
                let _ = writeln!(svg, "<path d=\"{path}\" {}/>", stroke(index));
            }
        }
    }
}

fn stroke(index: usize) -> String {
    let dash = DASHES[index / COLOURS.len() % DASHES.len()];
    let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
    format!("stroke=\"{}\" stroke-width=\"2\" fill=\"none\"{dash}", COLOURS[index % COLOURS.len()])
}

fn text(svg: &mut String, (x, y): (u64, u64), anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let style = if style.is_empty() { String::new() } else { format!(" {style}") };
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\"{style}>{words}</text>");
}

/// Returns a number with a thin space between each three digits.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut said = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            said.push('\u{202f}');
        }
        said.push(digit);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_exact_at_powers_of_two_and_close_between() {
        assert_eq!([1, 2, 8, 1 << 40].map(log2), [0, 1 << 10, 3 << 10, 40 << 10]);
        // log2(10) = 3.321928.
        assert_eq!(log2(10), 3401);
        assert_eq!(log2(u64::MAX), (64 << 10) - 1);
    }

    #[test]
    fn curves_that_are_the_same_are_drawn_once_and_a_hole_ends_the_line() {
        let panel = Panel {
            title: "one".into(),
            x: "blocks".into(),
            xs: vec![1, 2, 4],
            curves: vec![vec![Some(10), None, Some(1000)], vec![Some(10), None, Some(1000)], vec![Some(20); 3]],
        };
        let chart = Chart { title: "t".into(), panels: vec![panel], names: vec!["a".into(), "b<".into(), "c".into()] };
        let svg = chart.svg();
        assert_eq!(chart.groups(), [vec![0, 1], vec![2]]);
        assert!(svg.contains(">a, b&lt;</text>"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(svg.contains(&format!("d=\"M{} {}M{} {}\"", LEFT, TOP + HEIGHT, LEFT + WIDTH, TOP)), "{svg}");
    }
}
