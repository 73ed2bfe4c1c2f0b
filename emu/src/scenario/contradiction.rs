//! Orders that cannot be kept together: a circle in the union of every `after`, `before` and `chain`.
//!
//! Beside what the file asks for, two facts hold for events of one kind: the n-th comes before the n+1-st, and the n-th on a page is at the
//! earliest the n-th of all (it may be the same one, so that step alone is no contradiction).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range as Span;

use super::diagnostic::Diagnostic;
use super::model::Pattern;

/// One event before another, as the file asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// What comes first.
    pub(super) from: Pattern,
    /// What comes later.
    pub(super) to: Pattern,
    /// Where the file says so.
    pub(super) span: Span<usize>,
}

/// Why one node precedes another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    /// The file asks for it.
    Asked(Span<usize>),
    /// Events of a kind come in their order.
    Counted,
    /// The n-th event on a page is not earlier than the n-th of all.
    NotEarlier,
}

type Graph = BTreeMap<Pattern, Vec<(Pattern, Reason)>>;

/// Returns a problem for each separate circle.
pub(super) fn contradictions(edges: &[Edge]) -> Vec<Diagnostic> {
    let graph = graph(edges);
    let mut reported: Vec<BTreeSet<Pattern>> = Vec::new();
    let mut found = Vec::new();
    // The shortest circles first: a longer one that shares an event with a shorter one says nothing new.
    let mut circles: Vec<_> = edges.iter().filter_map(|edge| circle(&graph, edge)).collect();
    circles.sort_by_key(|circle| (circle.len(), first_asked(circle).map(|span| span.start)));
    for circle in circles {
        let nodes: BTreeSet<Pattern> = circle.iter().map(|(node, _)| node.clone()).collect();
        if reported.iter().all(|other| other.is_disjoint(&nodes)) {
            found.push(diagnostic(&circle));
            reported.push(nodes);
        }
    }
    found
}

/// Returns all edges by their first event, with those that hold without being asked.
fn graph(edges: &[Edge]) -> Graph {
    let mut graph = Graph::new();
    for edge in edges {
        graph.entry(edge.from.clone()).or_default().push((edge.to.clone(), Reason::Asked(edge.span.clone())));
        graph.entry(edge.to.clone()).or_default();
    }
    let nodes: Vec<Pattern> = graph.keys().cloned().collect();
    for from in &nodes {
        for to in &nodes {
            if let Some(reason) = implied(from, to) {
                graph.get_mut(from).expect("every node has an entry").push((to.clone(), reason));
            }
        }
    }
    graph
}

fn implied(from: &Pattern, to: &Pattern) -> Option<Reason> {
    let (Pattern::Event { kind, page, nth }, Pattern::Event { kind: other_kind, page: other_page, nth: other_nth }) = (from, to) else {
        return None;
    };
    if kind != other_kind {
        None
    } else if page == other_page && nth < other_nth {
        Some(Reason::Counted)
    } else if page.is_none() && other_page.is_some() && nth <= other_nth {
        Some(if nth < other_nth { Reason::Counted } else { Reason::NotEarlier })
    } else {
        None
    }
}

/// Returns the shortest circle through an edge: each event with the reason why the next one comes after it.
fn circle(graph: &Graph, edge: &Edge) -> Option<Vec<(Pattern, Reason)>> {
    let first = (edge.from.clone(), Reason::Asked(edge.span.clone()));
    if edge.from == edge.to {
        return Some(vec![first]);
    }
    let mut came_from: BTreeMap<&Pattern, (&Pattern, &Reason)> = BTreeMap::new();
    let mut queue = VecDeque::from([&edge.to]);
    while let Some(node) = queue.pop_front() {
        if *node == edge.from {
            let mut back = Vec::new();
            let mut at = node;
            while *at != edge.to {
                let (previous, reason) = came_from[at];
                back.push((previous.clone(), reason.clone()));
                at = previous;
            }
            back.push(first);
            back.reverse();
            return Some(back);
        }
        for (next, reason) in &graph[node] {
            if *next != edge.to && !came_from.contains_key(next) {
                came_from.insert(next, (node, reason));
                queue.push_back(next);
            }
        }
    }
    None
}

fn first_asked(circle: &[(Pattern, Reason)]) -> Option<&Span<usize>> {
    circle
        .iter()
        .filter_map(|(_, reason)| match reason {
            Reason::Asked(span) => Some(span),
            Reason::Counted | Reason::NotEarlier => None,
        })
        .min_by_key(|span| span.start)
}

fn diagnostic(circle: &[(Pattern, Reason)]) -> Diagnostic {
    let next = |index: usize| &circle[(index + 1) % circle.len()].0;
    if let [(node, Reason::Asked(span))] = circle {
        return Diagnostic::error(span.clone(), format!("`{node}` cannot come before itself")).label("before itself");
    }
    let mut asked: Vec<(Span<usize>, String)> = Vec::new();
    let mut notes = Vec::new();
    for (index, (node, reason)) in circle.iter().enumerate() {
        match reason {
            Reason::Asked(span) => asked.push((span.clone(), format!("`{node}` before `{}`", next(index)))),
            Reason::Counted => notes.push(format!("`{node}` always comes before `{}`", next(index))),
            Reason::NotEarlier => notes.push(format!("`{}` never comes before `{node}`", next(index))),
        }
    }
    asked.sort_by_key(|(span, _)| span.start);
    let (last, label) = asked.pop().expect("a circle holds what the file asks for");
    let names: Vec<String> = circle.iter().map(|(node, _)| format!("`{node}`")).collect();
    let mut diagnostic =
        Diagnostic::error(last, format!("this order contradicts itself: {} before {}", names.join(" before "), names[0])).label(label);
    for (span, label) in asked {
        diagnostic = diagnostic.related(span, label);
    }
    notes.into_iter().fold(diagnostic, Diagnostic::note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::event::EventKind;

    fn event(page: Option<&str>, nth: u32) -> Pattern {
        Pattern::Event { kind: EventKind::HintApply, page: page.map(str::to_owned), nth }
    }

    fn edges(pairs: &[(Pattern, Pattern)]) -> Vec<Edge> {
        pairs.iter().enumerate().map(|(index, (from, to))| Edge { from: from.clone(), to: to.clone(), span: index..index + 1 }).collect()
    }

    #[test]
    fn an_order_without_a_circle_stands() {
        let list =
            edges(&[(event(None, 1), event(Some("P"), 1)), (event(Some("P"), 1), Pattern::Injection(0)), (event(None, 1), event(None, 2))]);
        assert_eq!(contradictions(&list), []);
    }

    #[test]
    fn events_of_a_kind_keep_their_numbers() {
        let found = contradictions(&edges(&[(event(None, 2), Pattern::Injection(0)), (Pattern::Injection(0), event(None, 1))]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].notes, ["`hint.apply` always comes before `hint.apply#2`"]);
    }

    #[test]
    fn an_event_on_a_page_is_not_before_as_many_of_its_kind() {
        assert_eq!(contradictions(&edges(&[(event(Some("P"), 2), event(None, 2))])).len(), 1);
        assert_eq!(contradictions(&edges(&[(event(Some("P"), 1), event(None, 2))])), [], "the first on P may be the first of all");
    }

    #[test]
    fn two_circles_apart_are_two_problems() {
        let list = edges(&[
            (Pattern::Injection(0), Pattern::Injection(1)),
            (Pattern::Injection(1), Pattern::Injection(0)),
            (Pattern::Injection(2), Pattern::Injection(2)),
        ]);
        assert_eq!(contradictions(&list).len(), 2);
    }
}
