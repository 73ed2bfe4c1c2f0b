//! Constraints that follow each other become one chain.

use crate::search::system::{Edge, Happening};

/// Returns the constraints as chains, each happening before the next: as few chains as can be had by always going on from where one ends. The
/// longest comes first; how the constraints are sorted makes no difference.
pub fn chains(edges: &[Edge]) -> Vec<Vec<Happening>> {
    let mut left: Vec<Edge> = edges.to_vec();
    left.sort_unstable();
    let mut chains = Vec::new();
    while !left.is_empty() {
        // A chain begins where none of the others can lead to.
        let start = left.iter().position(|edge| left.iter().all(|other| other.then != edge.first)).unwrap_or(0);
        let Edge { first, then } = left.remove(start);
        let mut chain = vec![first, then];
        while let Some(next) = left.iter().position(|edge| Some(&edge.first) == chain.last()) {
            chain.push(left.remove(next).then);
        }
        chains.push(chain);
    }
    chains.sort_by_key(|chain: &Vec<Happening>| std::cmp::Reverse(chain.len()));
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::Key;

    fn happening(kind: u16) -> Happening {
        Happening { key: Key { kind, page: Key::NO_PAGE }, nth: 1 }
    }

    fn chained(edges: &[(u16, u16)]) -> Vec<Vec<u16>> {
        let edges: Vec<Edge> = edges.iter().map(|(first, then)| Edge { first: happening(*first), then: happening(*then) }).collect();
        chains(&edges).into_iter().map(|chain| chain.into_iter().map(|happening| happening.key.kind).collect()).collect()
    }

    #[test]
    fn constraints_that_follow_each_other_become_one_chain() {
        assert_eq!(chained(&[(1, 2), (2, 3), (3, 4)]), [[1, 2, 3, 4]]);
        assert_eq!(chained(&[(2, 3), (1, 2)]), [[1, 2, 3]], "whatever their order");
    }

    #[test]
    fn what_does_not_follow_stays_apart() {
        assert_eq!(chained(&[(1, 2), (3, 4)]), [[1, 2], [3, 4]]);
        assert_eq!(chained(&[(1, 2), (1, 3), (2, 4)]), [vec![1, 2, 4], vec![1, 3]]);
        assert_eq!(chained(&[(5, 6), (1, 2), (2, 3)]), [vec![1, 2, 3], vec![5, 6]], "the longest first");
        assert_eq!(chained(&[]), Vec::<Vec<u16>>::new());
    }
}
