//! Which replicas each rank holds.
//!
//! A reproducible sum is taken in one binary tree over replica numbers. A node is a range of
//! replicas `[a, a + 2^k)` with `2^k` dividing `a`, cut at the number of replicas `R`; its sum is
//! that of its left half plus that of its right half, and a node whose right half is empty is its
//! left half. A rank folds by itself what lies in its share, and contributes the largest nodes in
//! it: the fewer they are, the less is sent.
//!
//! Invariants:
//! - the shares of all ranks partition the replicas, in rank order, and none is empty;
//! - no share has more than `⌈R/W⌉` replicas, so no step takes longer than with the most even ones;
//! - of all such shares, those of worlds of up to [`SEARCHED_WORLD_MAX`] have the fewest nodes, and
//!   of these the most even ones. It is one node a rank if `⌈R/W⌉` is a power of two: so wherever `W`
//!   divides `R` and both are powers of two.

use std::ops::Range;

use crate::dataset::share;
use crate::ids::Rank;
use crate::job::limits::REPLICAS_MAX;

/// The most ranks whose shares are chosen by their nodes. Those of more are as even as can be.
pub const SEARCHED_WORLD_MAX: u32 = 1024;

/// The contiguous share of the replicas of a job that each rank of a world holds: a pure function of
/// both numbers.
///
/// Of worlds of `W` up to [`SEARCHED_WORLD_MAX`] it is found in at most `W * R` steps of some
/// nanoseconds, and some 4 MiB of memory meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaShares {
    /// Where each rank's ends.
    ends: Vec<u32>,
}

impl ReplicaShares {
    /// The shares of `count` replicas of a world of `world` ranks, or `None` unless
    /// `1 <= world <= count <= REPLICAS_MAX`.
    #[must_use]
    pub fn new(count: u32, world: u32) -> Option<Self> {
        if world == 0 || world > count || count > REPLICAS_MAX {
            return None;
        }
        let ends = match world <= SEARCHED_WORLD_MAX {
            true => search(count, world),
            false => (0..world)
                .map(|rank| share(count.into(), world, Rank(rank)).end as u32)
                .collect(),
        };
        Some(Self { ends })
    }

    /// The number of replicas.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ends[self.ends.len() - 1]
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The replicas that `rank` holds.
    ///
    /// # Panics
    /// If there is no such rank.
    #[must_use]
    pub fn of(&self, rank: Rank) -> Range<u32> {
        let at = rank.0 as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[at]
    }

    /// The nodes of the tree that `rank` contributes, in order.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn nodes(&self, rank: Rank) -> impl Iterator<Item = Range<u32>> {
        nodes(self.of(rank), self.count())
    }
}

/// The largest nodes of the tree over `count` replicas that lie in `range`, in order.
fn nodes(range: Range<u32>, count: u32) -> impl Iterator<Item = Range<u32>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        // Doubled as long as it begins where such a node may and ends in the range, or at the end
        // of all.
        let mut len = 1;
        let fits = |len: u32| start.is_multiple_of(len) && count.min(start + len) <= range.end;
        while start + len < range.end && fits(2 * len) {
            len *= 2;
        }
        let node = start..count.min(start + len);
        start = node.end;
        Some(node)
    })
}

/// How many [`nodes`] there are.
fn count_nodes(range: Range<u32>, count: u32) -> u32 {
    if range.end == count {
        return nodes(range, count).count() as u32;
    }
    // The place in the range that most powers of two divide: nodes halve on the way from it to both
    // ends.
    let bit = (range.start ^ range.end).ilog2();
    let middle = range.end >> bit << bit;
    (middle - range.start).count_ones() + (range.end - middle).count_ones()
}

/// Where the shares end that need the fewest nodes.
///
/// Rank after rank, the least cost is found of shares that end at each place where that rank's may.
/// If `M` is the most replicas of a rank, `S = W M - R` of the places of all may stay free, so a
/// rank's share ends at one of `S + 1` places at most.
fn search(count: u32, world: u32) -> Vec<u32> {
    let most = count.div_ceil(world);
    // The first and last place where the share of the rank before `after` others may end.
    let window = |rank: u32| {
        let after = world - 1 - rank;
        let first = (rank + 1).max(count.saturating_sub(after * most));
        let last = ((rank + 1) * most).min(count - after);
        first..=last
    };
    // Nodes count first, then how uneven shares are: the sum of their squares, which is below 2^40.
    let cost = |share: Range<u32>| {
        let len = u64::from(share.end - share.start);
        (u64::from(count_nodes(share, count)) << 40) + len * len
    };
    let mut costs = vec![0];
    let mut starts = 0..=0;
    // By rank and place, where its share begins.
    let mut begun: Vec<Vec<u32>> = Vec::with_capacity(world as usize);
    for rank in 0..world {
        let ends = window(rank);
        let mut next = Vec::with_capacity(costs.len());
        let mut from = Vec::with_capacity(costs.len());
        for end in ends.clone() {
            let first = (*starts.start()).max(end.saturating_sub(most));
            let last = (*starts.end()).min(end - 1);
            let through = |start: u32| {
                let before = costs[(start - starts.start()) as usize];
                (before + cost(start..end), start)
            };
            let (least, start) = (first..=last).map(through).min().unwrap_or_default();
            next.push(least);
            from.push(start);
        }
        begun.push(from);
        (costs, starts) = (next, ends);
    }
    let mut ends = vec![count; world as usize];
    for rank in (1..world).rev() {
        let place = ends[rank as usize] - window(rank).start();
        ends[rank as usize - 1] = begun[rank as usize][place as usize];
    }
    ends
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes_of_all(shares: &ReplicaShares) -> usize {
        let ranks = (0..shares.world()).map(Rank);
        ranks.map(|rank| shares.nodes(rank).count()).sum()
    }

    /// The fewest nodes of any shares of at most `most` replicas from `start` on.
    fn fewest(start: u32, count: u32, world: u32, most: u32) -> Option<usize> {
        if world == 0 {
            return (start == count).then_some(0);
        }
        let ends = start + 1..=count.min(start + most);
        let through = |end| {
            let rest = fewest(end, count, world - 1, most)?;
            Some(nodes(start..end, count).count() + rest)
        };
        ends.filter_map(through).min()
    }

    #[test]
    fn no_shares_of_that_length_have_fewer_nodes() {
        for count in 1..=16 {
            for world in 1..=count {
                let shares = ReplicaShares::new(count, world).unwrap();
                let least = fewest(0, count, world, count.div_ceil(world));
                assert_eq!(Some(nodes_of_all(&shares)), least, "{shares:?}");
            }
        }
    }

    #[test]
    fn some_shares() {
        let ends = |count, world| ReplicaShares::new(count, world).unwrap().ends;
        assert_eq!(ends(8, 4), [2, 4, 6, 8]);
        assert_eq!(ends(7, 2), [4, 7]);
        assert_eq!(ends(16, 5), [2, 4, 8, 12, 16]);
        assert_eq!(ends(6, 2), [3, 6]);
        assert_eq!(ends(5, 1), [5]);
        let listed = |range, count| nodes(range, count).collect::<Vec<_>>();
        assert_eq!(listed(3..6, 6), [3..4, 4..6]);
        assert_eq!(listed(0..6, 6), [Range { start: 0, end: 6 }]);
        assert_eq!(listed(1..8, 9), [1..2, 2..4, 4..8]);
        assert_eq!(listed(7..9, 9), [7..8, 8..9]);
    }

    #[test]
    fn nodes_are_counted_as_they_are_listed() {
        for count in 1..40 {
            for end in 1..=count {
                for start in 0..end {
                    let listed = nodes(start..end, count).count();
                    assert_eq!(count_nodes(start..end, count) as usize, listed);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn shares_partition_and_none_is_longer_than_it_must_be(
            count in 1u32..700,
            part in 0.0f64..1.0,
        ) {
            let world = 1 + (f64::from(count - 1) * part) as u32;
            let shares = ReplicaShares::new(count, world).unwrap();
            let most = count.div_ceil(world);
            let mut end = 0;
            for rank in (0..world).map(Rank) {
                let held = shares.of(rank);
                prop_assert_eq!(held.start, end);
                prop_assert!(!held.is_empty() && held.len() <= most as usize);
                let mut node_end = held.start;
                for node in shares.nodes(rank) {
                    prop_assert_eq!(node.start, node_end);
                    node_end = node.end;
                }
                prop_assert_eq!(node_end, held.end);
                end = held.end;
            }
            prop_assert_eq!((end, shares.count()), (count, count));
            if most.is_power_of_two() {
                prop_assert_eq!(nodes_of_all(&shares), world as usize);
            }
        }
    }

    #[test]
    fn worlds_of_any_size_have_shares_and_others_none() {
        let most = SEARCHED_WORLD_MAX;
        for (count, world) in [
            (1, 1),
            (3 * most - 1, most),
            (3 * most, most + 1),
            (65536, 65536),
        ] {
            let shares = ReplicaShares::new(count, world).unwrap();
            assert_eq!((shares.count(), shares.world()), (count, world));
        }
        for (count, world) in [(3, 4), (3, 0), (0, 0), (REPLICAS_MAX + 1, 1)] {
            assert_eq!(ReplicaShares::new(count, world), None);
        }
    }
}
