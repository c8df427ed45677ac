//! In which order parts of an operand travel: around the ring here, between any two ranks in
//! [`direct`]. Which is taken is [`cost`]'s choice.
//!
//! An algorithm is a sequence of [`Verbs`]. It knows neither how bytes move nor what an element
//! is; the transport pipelines the verbs segment by segment, so that the first segment of a chunk
//! is on its way to the next rank while the last one is still arriving.
//!
//! | operation | messages a rank | elements sent a rank, of `n` in a world of `w` |
//! |---|---|---|
//! | [`all_reduce`] | `2(w-1)` | `2n(w-1)/w` |
//! | [`reduce_scatter`] | `w-1` | `n(w-1)/w` |
//! | [`barrier`] | `2(w-1)` | none |
//! | [`all_gather`] | `w-1` | `n(w-1)/w` |
//! | [`broadcast`] | 1, none at the last rank | `n` |
//! | [`route`], one block for each rank | `w(w-1)/2` | `n(w-1)/2` |
//! | [`route`], all blocks for one rank | at most `w-1` | at most `n(w-1)/w` |
//!
//! Invariant of every algorithm, on which the transport relies: the `i`-th message that a rank
//! sends is the `i`-th that its next rank receives, and covers the same range.

pub mod cost;
pub mod direct;
mod kind;
mod route;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod timing;
mod tree;

use std::ops::Range;

use ringfold_common::ids::Rank;

use crate::CollectiveError;
use crate::topology::{RingTopology, chunk};
pub use kind::{Kind, Phase};
pub use route::{Route, route};
pub use tree::{Replicas, TreeStep};

/// What a rank can do with a range of its operand, counted in elements. "Send" goes to the next
/// rank, "receive" comes from the one before.
///
/// A verb that sends only queues: the range must not be received into again before the data
/// dependencies of the ring say that it has left, which they do in every algorithm here.
pub trait Verbs {
    /// Queues `range`, as it is now, for the next rank.
    fn send(&mut self, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Folds what arrives into `range`, and queues the result for the next rank.
    fn recv_reduce_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Folds what arrives into `range`, which goes no further.
    fn recv_reduce(&mut self, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Overwrites `range` with what arrives, and queues it for the next rank.
    fn recv_copy_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Overwrites `range` with what arrives, which goes no further.
    fn recv(&mut self, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Returns when everything that was queued has been handed over.
    fn flush(&mut self) -> Result<(), CollectiveError>;
}

/// Folds `elements` elements over all ranks; every rank ends with the whole result.
///
/// `2(w-1)` messages of `elements / w` elements a rank: the least that any algorithm can send
/// (Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of
/// workstations").
pub fn all_reduce(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl Verbs,
) -> Result<(), CollectiveError> {
    let world = ring.world();
    if world == 1 {
        return Ok(());
    }
    let chunk_of = |hops| chunk(elements, world, ring.back(hops).0);

    // 1. Reduce-scatter: chunk `c` sets out at rank `c` and gathers one term a hop.
    verbs.send(chunk_of(0))?;
    for hops in 1..world - 1 {
        verbs.recv_reduce_send(chunk_of(hops))?;
    }
    // 2. The chunk that set out at the next rank has come all the way: its sums are complete
    //    here, at their owner, and set out on the second lap.
    verbs.recv_reduce_send(chunk_of(world - 1))?;
    // 3. All-gather: complete chunks pass by and are copied.
    for hops in world..2 * world - 2 {
        verbs.recv_copy_send(chunk_of(hops))?;
    }
    // 4. The last one stops here: the next rank is its owner.
    verbs.recv(chunk_of(2 * world - 2))?;
    verbs.flush()
}

/// Folds `elements` elements over all ranks; every rank ends with its own chunk of the result, and
/// with partial results elsewhere.
pub fn reduce_scatter(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl Verbs,
) -> Result<(), CollectiveError> {
    let world = ring.world();
    if world == 1 {
        return Ok(());
    }
    let chunk_of = |hops: u32| chunk(elements, world, ring.back(hops + 1).0);

    // 1. Chunk `c` sets out at the rank after its owner, `c + 1`, and gathers one term a hop.
    verbs.send(chunk_of(0))?;
    for hops in 1..world - 1 {
        verbs.recv_reduce_send(chunk_of(hops))?;
    }
    // 2. It has come all the way round to its owner.
    verbs.recv_reduce(chunk_of(world - 1))?;
    verbs.flush()
}

/// Returns once every rank has entered: an all-reduce of nothing, since every rank's last message
/// depends on the first one of every other.
pub fn barrier(ring: RingTopology, verbs: &mut impl Verbs) -> Result<(), CollectiveError> {
    all_reduce(ring, 0, verbs)
}

/// Copies `elements` elements from `root` to every rank, `w-1` hops along the ring.
pub fn broadcast(
    ring: RingTopology,
    root: Rank,
    elements: usize,
    verbs: &mut impl Verbs,
) -> Result<(), CollectiveError> {
    let hops = ring.hops_from(root);
    match hops {
        _ if ring.world() == 1 => return Ok(()),
        // 1. The root sends and is done.
        0 => verbs.send(0..elements)?,
        // 3. The rank before the root ends the chain.
        _ if hops == ring.world() - 1 => verbs.recv(0..elements)?,
        // 2. Everyone between passes it on.
        _ => verbs.recv_copy_send(0..elements)?,
    }
    verbs.flush()
}

/// Every rank ends with the block of every rank. The operand is `world` blocks of
/// `block_elements` in rank order, of which this rank has filled in its own.
pub fn all_gather(
    ring: RingTopology,
    block_elements: usize,
    verbs: &mut impl Verbs,
) -> Result<(), CollectiveError> {
    all_gather_chunks(ring, block_elements * ring.world() as usize, verbs)
}

/// Every rank ends with the chunk of every rank, of an operand of which it has filled in its own.
pub fn all_gather_chunks(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl Verbs,
) -> Result<(), CollectiveError> {
    let world = ring.world();
    if world == 1 {
        return Ok(());
    }
    let chunk_of = |hops| chunk(elements, world, ring.back(hops).0);

    // 1. My own chunk sets out.
    verbs.send(chunk_of(0))?;
    // 2. The others pass by.
    for hops in 1..world - 1 {
        verbs.recv_copy_send(chunk_of(hops))?;
    }
    // 3. The last one stops here: the next rank made it.
    verbs.recv(chunk_of(world - 1))?;
    verbs.flush()
}
