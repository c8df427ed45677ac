//! The one binary tree over replica numbers in which a reproducible sum is taken.
//!
//! A node is a range of replicas `[a, a + 2^k)` with `2^k` dividing `a`, cut at the number of
//! replicas `R`. Its sum is that of its left half plus that of its right half; a node whose right
//! half is empty is its left half. The root is the range of all. Nothing in it depends on which
//! rank holds which replicas, so neither do the bits of the sum.
//!
//! A rank holds its [share](ReplicaShares) of the replicas, and folds what it holds of the tree by
//! itself: what it contributes is the sums of the largest nodes in its range. Every one but its first
//! is sent beyond what a fast sum sends: [`Replicas::extra_nodes`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ringfold_common::ids::Rank;
use ringfold_common::replicas::ReplicaShares;

use crate::topology::chunk;

/// The replicas of a job, the ranks that hold them, and how their sums become one: found once, and
/// cheap to clone.
#[derive(Clone)]
pub struct Replicas {
    order: Arc<Order>,
}

struct Order {
    shares: ReplicaShares,
    /// By rank, how many nodes it contributes.
    node_counts: Vec<usize>,
    steps: Vec<TreeStep>,
}

/// How the terms of all ranks become one, on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeStep {
    /// Pushes the term number `.1` of rank `.0`.
    Push(Rank, usize),
    /// Folds that term into the top.
    Fold(Rank, usize),
    /// Folds the top into the one below, and drops it.
    Merge,
}

impl Replicas {
    /// `count` replicas on `world` ranks, or `None` where there are no [`ReplicaShares`]: unless
    /// `1 <= world <= count`, and `count` is at most 65,536.
    #[must_use]
    pub fn new(count: u32, world: u32) -> Option<Self> {
        let shares = ReplicaShares::new(count, world)?;
        let ranks = (0..world).map(Rank);
        let node_counts = ranks.map(|rank| shares.nodes(rank).count()).collect();
        let steps = steps(&shares);
        let order = Order {
            shares,
            node_counts,
            steps,
        };
        let order = Arc::new(order);
        Some(Self { order })
    }

    /// The number of replicas.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.order.shares.count()
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.order.shares.world()
    }

    /// The replicas that `rank` holds.
    ///
    /// # Panics
    /// If there is no such rank.
    #[must_use]
    pub fn of(&self, rank: Rank) -> Range<u32> {
        self.order.shares.of(rank)
    }

    /// The nodes that `rank` contributes, in order.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn nodes(&self, rank: Rank) -> impl Iterator<Item = Range<u32>> {
        self.order.shares.nodes(rank)
    }

    /// By rank, how many nodes it contributes: at most `2 log2(R)`.
    #[must_use]
    pub fn node_counts(&self) -> &[usize] {
        &self.order.node_counts
    }

    /// The node that `left` and `right`, next to each other, are the halves of, if there is one.
    #[must_use]
    pub fn parent(&self, left: &Range<u32>, right: &Range<u32>) -> Option<Range<u32>> {
        parent(self.count(), left, right)
    }

    /// The fold of all contributions, by which every rank gets the same bits.
    #[must_use]
    pub fn steps(&self) -> &[TreeStep] {
        &self.order.steps
    }

    /// The nodes of all ranks beyond one each.
    #[must_use]
    pub fn extra_nodes(&self) -> usize {
        self.node_counts().iter().map(|count| count - 1).sum()
    }

    /// The elements that all ranks together send to the owners of slices in a direct exchange of
    /// vectors of `elements`, or read in shared memory, beyond the `elements * (world - 1)` of a fast
    /// sum: for each [extra node](Self::extra_nodes) all slices but that of its own rank.
    #[must_use]
    pub fn extra_elements(&self, elements: u64) -> u64 {
        let counts = (0..).zip(self.node_counts());
        let extra = |(rank, count): (u32, &usize)| {
            let own = chunk(elements as usize, self.world(), rank).len() as u64;
            (*count as u64 - 1) * (elements - own)
        };
        counts.map(extra).sum()
    }
}

impl PartialEq for Replicas {
    fn eq(&self, other: &Self) -> bool {
        (self.count(), self.world()) == (other.count(), other.world())
    }
}

impl Eq for Replicas {}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replicas on {} ranks", self.count(), self.world())
    }
}

fn parent(count: u32, left: &Range<u32>, right: &Range<u32>) -> Option<Range<u32>> {
    let half = left.end - left.start;
    let joined = left.start..right.end;
    let is_node = half.is_power_of_two()
        && left.start.is_multiple_of(2 * half)
        && left.end == right.start
        && right.end == count.min(left.start + 2 * half);
    is_node.then_some(joined)
}

fn steps(shares: &ReplicaShares) -> Vec<TreeStep> {
    let mut steps = Vec::new();
    let mut stack: Vec<Range<u32>> = Vec::new();
    for rank in (0..shares.world()).map(Rank) {
        for (at, node) in shares.nodes(rank).enumerate() {
            steps.push(TreeStep::Push(rank, at));
            stack.push(node);
            while let [.., left, right] = &stack[..]
                && let Some(parent) = parent(shares.count(), left, right)
            {
                stack.truncate(stack.len() - 2);
                stack.push(parent);
                match steps.last_mut() {
                    // What was pushed last needs no place on the stack.
                    Some(last) if let TreeStep::Push(rank, at) = *last => {
                        *last = TreeStep::Fold(rank, at);
                    }
                    _ => steps.push(TreeStep::Merge),
                }
            }
        }
    }
    debug_assert!(matches!(&stack[..], [root] if *root == (0..shares.count())));
    steps
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
    fn by_steps(replicas: &Replicas) -> String {
        let term = |rank, at| {
            let node: Range<u32> = replicas.nodes(rank).nth(at).unwrap();
            let whole = node.start..node.start + (node.end - node.start).next_power_of_two();
            by_definition(whole, replicas.count())
        };
        let mut stack: Vec<String> = Vec::new();
        for step in replicas.steps() {
            let right = match *step {
                TreeStep::Push(rank, at) => {
                    stack.push(term(rank, at));
                    continue;
                }
                TreeStep::Fold(rank, at) => term(rank, at),
                TreeStep::Merge => stack.pop().unwrap(),
            };
            let left = stack.pop().unwrap();
            stack.push(format!("({left} {right})"));
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
                assert_eq!(by_steps(&replicas), expected, "{replicas:?}");
            }
        }
        assert_eq!(by_definition(0..4, 3), "((0 1) 2)");
    }

    #[test]
    fn a_rank_of_powers_of_two_contributes_one_node_and_no_rank_many() {
        for log in 0..=6 {
            for part in 0..=log {
                let replicas = Replicas::new(1 << log, 1 << part).unwrap();
                assert_eq!(replicas.extra_nodes(), 0);
                assert_eq!(replicas.extra_elements(1000), 0);
            }
        }
        for count in 2..=100_u32 {
            let most = 2 * (count - 1).ilog2() as usize + 1;
            for world in 1..=count {
                let replicas = Replicas::new(count, world).unwrap();
                let counts = replicas.node_counts();
                assert!(counts.iter().all(|&nodes| nodes <= most), "{replicas:?}");
            }
        }
        // Eight replicas on three ranks: 0-1, 2-4 and 5-7, of which the last two have two nodes.
        let replicas = Replicas::new(8, 3).unwrap();
        let listed = |rank| replicas.nodes(Rank(rank)).collect::<Vec<_>>();
        assert_eq!(listed(0), [Range { start: 0, end: 2 }]);
        assert_eq!(listed(1), [2..4, 4..5]);
        assert_eq!(listed(2), [5..6, 6..8]);
        assert_eq!(replicas.extra_elements(30), 40);
    }

    /// The table in the crate's documentation.
    #[test]
    fn the_table_of_extra_nodes_is_true() {
        let documented = include_str!("../lib.rs").lines();
        let rows = documented.skip_while(|line| !line.starts_with("//! | replicas | 1 |"));
        let mut seen = 0;
        for row in rows.skip(2).take_while(|line| line.starts_with("//! |")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let count: u32 = cells[1].parse().unwrap();
            for (world, cell) in (1..=16).zip(&cells[2..18]) {
                let replicas = Replicas::new(count, world);
                let extra = replicas.map(|replicas| replicas.extra_nodes().to_string());
                assert_eq!(*cell, extra.as_deref().unwrap_or(""), "{count}, {world}");
                seen += 1;
            }
        }
        assert_eq!(seen, 16 * 15);
    }

    #[test]
    fn more_ranks_than_replicas_are_refused() {
        assert_eq!(Replicas::new(3, 4), None);
        assert_eq!(Replicas::new(3, 0), None);
    }
}
