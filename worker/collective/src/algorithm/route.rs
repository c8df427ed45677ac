//! Blocks that are for one rank each, carried around the ring in bundles.

use std::ops::Range;

use ringfold_common::ids::Rank;

use super::Verbs;
use crate::CollectiveError;
use crate::topology::RingTopology;

/// Where the blocks of a [`route`] lie in a rank's bundle buffer, counted in elements.
///
/// The blocks that this rank gives come first, then, hop by hop, what arrives: the bundle of the
/// rank before, less the block for that rank; and so on. A block has its own place, so that no
/// arrival can overwrite what has yet to leave: the buffer holds `w/2` times what a rank gives.
pub struct Route {
    ring: RingTopology,
    /// The blocks of hop `t`, `t` from 0, at `t..world - 1` places of the ring from their origin,
    /// `t` hops back: `blocks[t][d - max(t, 1)]` goes to the rank `d` after the origin.
    blocks: Vec<Vec<Range<usize>>>,
    elements: usize,
}

impl Route {
    /// The layout for blocks of `size(from, to)` elements. All ranks must give the same sizes.
    #[must_use]
    pub fn new(ring: RingTopology, size: impl Fn(Rank, Rank) -> usize) -> Self {
        let world = ring.world();
        let mut elements = 0;
        let blocks = (0..world)
            .map(|hop| {
                let from = ring.back(hop);
                (hop.max(1)..world)
                    .map(|distance| {
                        let start = elements;
                        elements += size(from, Rank((from.0 + distance) % world));
                        start..elements
                    })
                    .collect()
            })
            .collect();
        Self {
            ring,
            blocks,
            elements,
        }
    }

    /// The length of the bundle buffer.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Where this rank puts its block for `to`, another rank.
    #[must_use]
    pub fn outgoing(&self, to: Rank) -> Range<usize> {
        let world = self.ring.world();
        let distance = (to.0 + world - self.ring.rank().0) % world;
        self.blocks[0][distance as usize - 1].clone()
    }

    /// Where the block from `from`, another rank, ends up.
    #[must_use]
    pub fn incoming(&self, from: Rank) -> Range<usize> {
        self.blocks[self.ring.hops_from(from) as usize][0].clone()
    }
}

/// Carries every block to its rank. Empty blocks send no message.
pub fn route(route: &Route, verbs: &mut impl Verbs) -> Result<(), CollectiveError> {
    let full = |block: &&Range<usize>| !block.is_empty();
    // 1. My own blocks set out, the nearest rank's first.
    for block in route.blocks[0].iter().filter(full) {
        verbs.send(block.clone())?;
    }
    for arrivals in &route.blocks[1..] {
        for (place, block) in arrivals.iter().enumerate().filter(|(_, block)| full(block)) {
            if place == 0 {
                // 2. Of each bundle the first block is for me,
                verbs.recv(block.clone())?;
            } else {
                // 3. and the others go on.
                verbs.recv_copy_send(block.clone())?;
            }
        }
    }
    verbs.flush()
}
