//! Who stands next to whom, and which part of an operand is whose. Pure arithmetic.
//!
//! Ranks form one ring in rank order: rank `r` sends to `r + 1` and receives from `r - 1`, both
//! modulo the world. The coordinator numbers ranks so that those of one host are adjacent.

use std::ops::Range;

use ringfold_common::ids::Rank;

/// One rank's position in a ring of `world` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingTopology {
    rank: u32,
    world: u32,
}

impl RingTopology {
    /// The position of `rank` among `world` ranks, or `None` unless `rank < world`.
    #[must_use]
    pub fn new(rank: Rank, world: u32) -> Option<Self> {
        (rank.0 < world).then_some(Self {
            rank: rank.0,
            world,
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(self) -> Rank {
        Rank(self.rank)
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(self) -> u32 {
        self.world
    }

    /// The rank that this one sends to. In a world of one, itself.
    #[must_use]
    pub fn next(self) -> Rank {
        Rank((self.rank + 1) % self.world)
    }

    /// The rank that this one receives from. In a world of two, the same as [`next`](Self::next).
    #[must_use]
    pub fn prev(self) -> Rank {
        self.back(1)
    }

    /// The rank `hops` before this one.
    #[must_use]
    pub fn back(self, hops: u32) -> Rank {
        Rank((self.rank + self.world - hops % self.world) % self.world)
    }

    /// The rank `hops` after this one.
    #[must_use]
    pub fn ahead(self, hops: u32) -> Rank {
        Rank((self.rank + hops % self.world) % self.world)
    }

    /// How many hops a message from `from` needs to arrive here: 0 for this rank itself.
    #[must_use]
    pub fn hops_from(self, from: Rank) -> u32 {
        (self.rank + self.world - from.0 % self.world) % self.world
    }
}

/// Which ranks share a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// By rank, the place of its host among [`leaders`](Self::leaders).
    index: Vec<u32>,
    /// By rank, its place on its host.
    local: Vec<u32>,
    /// By host, the number of its ranks.
    sizes: Vec<u32>,
    leaders: Vec<Rank>,
}

impl Hosts {
    /// From the number of each rank's host, whatever numbers they are. The lowest rank of a host is
    /// its leader; hosts are in the order of their leaders.
    #[must_use]
    pub fn new(host_of: &[u32]) -> Self {
        let mut places = std::collections::BTreeMap::new();
        let mut hosts = Self {
            index: Vec::with_capacity(host_of.len()),
            local: Vec::with_capacity(host_of.len()),
            sizes: Vec::new(),
            leaders: Vec::new(),
        };
        for (rank, host) in (0..).map(Rank).zip(host_of) {
            let index = *places.entry(host).or_insert_with(|| {
                hosts.leaders.push(rank);
                hosts.sizes.push(0);
                hosts.sizes.len() - 1
            });
            hosts.index.push(index as u32);
            hosts.local.push(hosts.sizes[index]);
            hosts.sizes[index] += 1;
        }
        hosts
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.index.len() as u32
    }

    /// The lowest rank of each host.
    #[must_use]
    pub fn leaders(&self) -> &[Rank] {
        &self.leaders
    }

    /// The number of ranks of each host, in the order of [`leaders`](Self::leaders).
    #[must_use]
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// The leader of the host of `rank`, a rank of the world.
    #[must_use]
    pub fn leader(&self, rank: Rank) -> Rank {
        self.leaders[self.host_index(rank).0 as usize]
    }

    /// The place of that leader among all leaders.
    #[must_use]
    pub fn host_index(&self, rank: Rank) -> Rank {
        Rank(self.index[rank.0 as usize])
    }

    /// The place of `rank`, a rank of the world, on its host: 0 for the leader.
    #[must_use]
    pub fn local_rank(&self, rank: Rank) -> Rank {
        Rank(self.local[rank.0 as usize])
    }

    /// The rank whose place on the host numbered `host` is `local`; both exist.
    #[must_use]
    pub fn rank_at(&self, host: Rank, local: Rank) -> Rank {
        let ranks = (0..self.world()).map(Rank);
        let here = ranks.filter(|&rank| self.host_index(rank) == host);
        let mut found = here.filter(|&rank| self.local_rank(rank) == local);
        found.next().unwrap_or(local)
    }

    /// The number of ranks of the host of `rank`, a rank of the world.
    #[must_use]
    pub fn local_world(&self, rank: Rank) -> u32 {
        self.sizes[self.host_index(rank).0 as usize]
    }
}

/// Chunk `index` of `0..elements` cut into `parts` chunks, in order and without gaps. Lengths
/// differ by at most one; with fewer elements than parts the last chunks are empty.
///
/// `index < parts`.
#[must_use]
pub fn chunk(elements: usize, parts: u32, index: u32) -> Range<usize> {
    let (parts, index) = (parts as usize, index as usize);
    let (base, longer) = (elements / parts, elements % parts);
    let start = index * base + index.min(longer);
    start..start + base + usize::from(index < longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_operand_in_order_and_differ_by_at_most_one() {
        for parts in 1..=9 {
            for elements in 0..50 {
                let mut at = 0;
                for index in 0..parts {
                    let range = chunk(elements, parts, index);
                    assert_eq!(range.start, at);
                    assert!(range.len() - elements / parts as usize <= 1);
                    at = range.end;
                }
                assert_eq!(at, elements);
            }
        }
    }

    #[test]
    fn hosts_are_numbered_by_their_lowest_ranks() {
        let hosts = Hosts::new(&[9, 4, 9, 7, 4]);
        assert_eq!(hosts.leaders(), [Rank(0), Rank(1), Rank(3)]);
        assert_eq!(hosts.sizes(), [2, 2, 1]);
        assert_eq!(hosts.leader(Rank(4)), Rank(1));
        assert_eq!(hosts.host_index(Rank(3)), Rank(2));
        let local: Vec<u32> = (0..5).map(|rank| hosts.local_rank(Rank(rank)).0).collect();
        assert_eq!(local, [0, 0, 1, 0, 1]);
        for rank in (0..5).map(Rank) {
            let (host, local) = (hosts.host_index(rank), hosts.local_rank(rank));
            assert_eq!(hosts.rank_at(host, local), rank);
        }
        assert_eq!((hosts.local_world(Rank(2)), hosts.world()), (2, 5));
        assert_eq!(Hosts::new(&[]).leaders(), []);
    }

    #[test]
    fn neighbours_wrap_around() {
        let first = RingTopology::new(Rank(0), 4).unwrap();
        assert_eq!(
            (first.next(), first.prev(), first.back(6)),
            (Rank(1), Rank(3), Rank(2))
        );
        assert_eq!(first.hops_from(Rank(3)), 1);
        assert_eq!(first.hops_from(Rank(0)), 0);
        let pair = RingTopology::new(Rank(1), 2).unwrap();
        assert_eq!((pair.next(), pair.prev()), (Rank(0), Rank(0)));
        let alone = RingTopology::new(Rank(0), 1).unwrap();
        assert_eq!((alone.next(), alone.prev()), (Rank(0), Rank(0)));
    }

    #[test]
    fn a_rank_outside_the_world_has_no_position() {
        assert_eq!(RingTopology::new(Rank(3), 3), None);
        assert_eq!(RingTopology::new(Rank(0), 0), None);
    }
}
