//! The one binary tree over replica numbers in which a reproducible sum is taken.
//!
//! A node is a range of replicas `[a, a + 2^k)` with `2^k` dividing `a`, cut at the number of
//! replicas `R`. Its sum is that of its left half plus that of its right half; a node whose right
//! half is empty is its left half. The root is the range of all. Nothing in it depends on which
//! rank holds which replicas, so neither do the bits of the sum.
//!
//! Rank `r` of `w` holds the replicas [`share`]`(R, w, r)`, and folds what it holds of the tree by
//! itself: what it contributes is the sums of the largest nodes in its range, at most
//! `2 log2(R)`, and one if `w` divides `R` and both are powers of two.

use std::ops::Range;

use ringfold_common::dataset::share;
use ringfold_common::ids::Rank;

use crate::topology::chunk;

/// The replicas of a job and the ranks that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    count: u32,
    world: u32,
}

/// How the nodes of all ranks become the root, on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeStep {
    /// Pushes the node number `.1` of rank `.0`.
    Push(Rank, usize),
    /// Adds the top to the one below, and drops it.
    Merge,
}

impl Replicas {
    /// `count` replicas on `world` ranks, or `None` unless `1 <= world <= count`.
    #[must_use]
    pub fn new(count: u32, world: u32) -> Option<Self> {
        (world >= 1 && world <= count && count <= 1 << 24).then_some(Self { count, world })
    }

    /// The number of replicas.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(self) -> u32 {
        self.world
    }

    /// The replicas that `rank` holds.
    #[must_use]
    pub fn of(self, rank: Rank) -> Range<u32> {
        let range = share(self.count.into(), self.world, rank);
        range.start as u32..range.end as u32
    }

    /// The nodes that `rank` contributes, in order.
    #[must_use]
    pub fn nodes(self, rank: Rank) -> Vec<Range<u32>> {
        let mut nodes = Vec::new();
        self.cover(&self.of(rank), self.root(), &mut nodes);
        nodes
    }

    /// The most nodes that a rank contributes.
    #[must_use]
    pub fn nodes_max(self) -> usize {
        let counts = (0..self.world).map(|rank| self.nodes(Rank(rank)).len());
        counts.max().unwrap_or(0)
    }

    /// The node that `left` and `right`, next to each other, are the halves of, if there is one.
    #[must_use]
    pub fn parent(self, left: &Range<u32>, right: &Range<u32>) -> Option<Range<u32>> {
        let half = left.end - left.start;
        let joined = left.start..right.end;
        let is_node = half.is_power_of_two()
            && left.start.is_multiple_of(2 * half)
            && left.end == right.start
            && right.end == self.count.min(left.start + 2 * half);
        is_node.then_some(joined)
    }

    /// The fold of all contributions, by which every rank gets the same bits.
    #[must_use]
    pub fn steps(self) -> Vec<TreeStep> {
        let mut steps = Vec::new();
        let mut stack: Vec<Range<u32>> = Vec::new();
        for rank in (0..self.world).map(Rank) {
            for (at, node) in self.nodes(rank).into_iter().enumerate() {
                steps.push(TreeStep::Push(rank, at));
                stack.push(node);
                while let [.., left, right] = &stack[..]
                    && let Some(parent) = self.parent(left, right)
                {
                    stack.truncate(stack.len() - 2);
                    stack.push(parent);
                    steps.push(TreeStep::Merge);
                }
            }
        }
        debug_assert!(matches!(&stack[..], [root] if *root == (0..self.count)));
        steps
    }

    /// The elements that all ranks together send to the owners of slices in a direct exchange of
    /// vectors of `elements`, beyond the `elements * (world - 1)` of a fast sum.
    #[must_use]
    pub fn extra_elements(self, elements: u64) -> u64 {
        let slices = |rank: u32| {
            let own = chunk(elements as usize, self.world, rank).len() as u64;
            elements - own
        };
        let extra = |rank: u32| (self.nodes(Rank(rank)).len() as u64 - 1) * slices(rank);
        (0..self.world).map(extra).sum()
    }

    fn root(self) -> Range<u32> {
        0..self.count.next_power_of_two()
    }

    fn cover(self, held: &Range<u32>, node: Range<u32>, nodes: &mut Vec<Range<u32>>) {
        let cut = node.start..node.end.min(self.count);
        if cut.is_empty() || cut.end <= held.start || held.end <= cut.start {
            return;
        }
        if held.start <= cut.start && cut.end <= held.end {
            nodes.push(cut);
            return;
        }
        let middle = node.start + (node.end - node.start) / 2;
        self.cover(held, node.start..middle, nodes);
        self.cover(held, middle..node.end, nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree over `range` in words, by its definition.
    fn by_definition(range: Range<u32>, count: u32) -> String {
        if range.end - range.start == 1 {
            return range.start.to_string();
        }
        let middle = range.start + (range.end - range.start) / 2;
        let left = by_definition(range.start..middle, count);
        match middle >= count {
            true => left,
            false => format!("({left} {})", by_definition(middle..range.end, count)),
        }
    }

    /// What a rank folds by itself is a node in words, too.
    fn by_steps(replicas: Replicas) -> String {
        let mut stack: Vec<String> = Vec::new();
        for step in replicas.steps() {
            match step {
                TreeStep::Push(rank, at) => {
                    let node = replicas.nodes(rank)[at].clone();
                    let whole =
                        node.start..node.start + (node.end - node.start).next_power_of_two();
                    stack.push(by_definition(whole, replicas.count));
                }
                TreeStep::Merge => {
                    let right = stack.pop().unwrap();
                    let left = stack.pop().unwrap();
                    stack.push(format!("({left} {right})"));
                }
            }
        }
        assert_eq!(stack.len(), 1);
        stack.remove(0)
    }

    #[test]
    fn the_tree_is_the_same_for_every_world() {
        for count in 1..=40_u32 {
            let expected = by_definition(0..count.next_power_of_two(), count);
            for world in 1..=count {
                let replicas = Replicas::new(count, world).unwrap();
                assert_eq!(by_steps(replicas), expected, "{replicas:?}");
            }
        }
        assert_eq!(by_definition(0..4, 3), "((0 1) 2)");
    }

    #[test]
    fn a_rank_of_powers_of_two_contributes_one_node_and_no_rank_many() {
        for log in 0..=6 {
            for part in 0..=log {
                let replicas = Replicas::new(1 << log, 1 << part).unwrap();
                assert_eq!(replicas.nodes_max(), 1);
                assert_eq!(replicas.extra_elements(1000), 0);
            }
        }
        for count in 2..=200_u32 {
            let most = 2 * (count - 1).ilog2() as usize + 1;
            for world in 1..=count {
                let replicas = Replicas::new(count, world).unwrap();
                assert!(replicas.nodes_max() <= most.max(1), "{replicas:?}");
            }
        }
        // Eight replicas on three ranks: 0-1, 2-4 and 5-7.
        let replicas = Replicas::new(8, 3).unwrap();
        assert_eq!(replicas.nodes(Rank(0)).len(), 1);
        assert_eq!(replicas.nodes(Rank(0))[0], 0..2);
        assert_eq!(replicas.nodes(Rank(1)), [2..4, 4..5]);
        assert_eq!(replicas.nodes(Rank(2)), [5..6, 6..8]);
        assert_eq!(replicas.extra_elements(30), 40);
    }

    #[test]
    fn more_ranks_than_replicas_are_refused() {
        assert_eq!(Replicas::new(3, 4), None);
        assert_eq!(Replicas::new(3, 0), None);
    }
}
