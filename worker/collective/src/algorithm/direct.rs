//! Algorithms between any two ranks, not only neighbours of the ring.
//!
//! For `w` ranks and `n` elements, with `p` the greatest power of two up to `w`:
//!
//! | operation | rounds | elements sent a rank |
//! |---|---|---|
//! | [`halving_doubling`], `w = p` | `2 log2(p)` | `2n(p-1)/p` |
//! | [`halving_doubling`], others | `2 log2(p) + 2` | `2n(p-1)/p + n`, or `n` |
//! | [`exchange`], one block of `b` to each | 1 | `b(w-1)` |
//! | [`reduce_scatter_directly`] | 1 | `n(w-1)/w` |
//! | [`broadcast_tree`] | `ceil(log2(w))` | at most `n ceil(log2(w))` |
//! | [`dissemination_barrier`] | `ceil(log2(w))` | none |
//!
//! Invariant of every algorithm, on which the transport relies: of two ranks, the `i`-th message
//! that one sends to the other is the `i`-th that the other receives from it, and as long.

use std::collections::BTreeSet;
use std::ops::Range;

use ringfold_common::ids::Rank;

use super::Phase;
use crate::CollectiveError;
use crate::topology::{RingTopology, chunk};

/// What a rank can do with a range of its operand, counted in elements, and any peer.
///
/// A verb that sends only queues: the range must not be received into before the dependencies
/// between messages say that it has left, which they do in every algorithm here.
pub trait PeerVerbs {
    /// The messages from here on belong to `phase`.
    fn enter(&mut self, phase: Phase);
    /// Queues `range`, as it is now, for `to`.
    fn send(&mut self, to: Rank, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Overwrites `range` with what arrives of `from`.
    fn recv(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Folds what arrives of `from` into `range`.
    fn recv_reduce(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError>;
    /// Returns when everything that was queued has been handed over.
    fn flush(&mut self) -> Result<(), CollectiveError>;
}

/// What an algorithm will do at one rank, found by running it on no data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The ranks that it sends to or receives from.
    pub peers: BTreeSet<Rank>,
    /// Messages that it receives.
    pub received: u32,
    /// Messages that it sends.
    pub sent: u32,
    /// Elements that it sends.
    pub elements_sent: usize,
}

impl PeerVerbs for Tally {
    fn enter(&mut self, _: Phase) {}
    fn send(&mut self, to: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.peers.insert(to);
        self.sent += 1;
        self.elements_sent += range.len();
        Ok(())
    }
    fn recv(&mut self, from: Rank, _: Range<usize>) -> Result<(), CollectiveError> {
        self.peers.insert(from);
        self.received += 1;
        Ok(())
    }
    fn recv_reduce(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.recv(from, range)
    }
    fn flush(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}

/// The greatest power of two up to `world`, which is at least 1.
#[must_use]
pub fn power_below(world: u32) -> u32 {
    1 << world.max(1).ilog2()
}

/// Folds `elements` elements over all ranks; every rank ends with the whole result, and with the
/// same bits, since every element is folded at one rank.
///
/// Rabenseifner's algorithm (2004, "Optimization of Collective Reduction Operations"): a
/// reduce-scatter that halves the vector and doubles the distance, then an all-gather that goes the
/// same way back. The largest messages pass between ranks next to each other. Of a world that is no
/// power of two, `w - p` ranks first give their vectors to the next rank, and get the result last.
pub fn halving_doubling(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    let (rank, world) = (ring.rank().0, ring.world());
    if world == 1 {
        return Ok(());
    }
    let power = power_below(world);
    let extra = world - power;
    // Among the first `2 extra` ranks the even ones fold out, and the odd ones stand for both.
    let index = match rank {
        _ if rank >= 2 * extra => rank - extra,
        _ if rank % 2 == 1 => rank / 2,
        _ => {
            verbs.enter(Phase::ReduceScatter);
            verbs.send(Rank(rank + 1), 0..elements)?;
            verbs.enter(Phase::AllGather);
            verbs.recv(Rank(rank + 1), 0..elements)?;
            return verbs.flush();
        }
    };
    let at = |index: u32| match index < extra {
        true => Rank(2 * index + 1),
        false => Rank(index + extra),
    };
    let stands_for = (rank < 2 * extra).then(|| Rank(rank - 1));
    let range_of = |chunks: &Range<u32>| {
        let first = chunk(elements, power, chunks.start).start;
        first..chunk(elements, power, chunks.end - 1).end
    };

    // 1. The vectors of those that fold out.
    verbs.enter(Phase::ReduceScatter);
    if let Some(other) = stands_for {
        verbs.recv_reduce(other, 0..elements)?;
    }
    // 2. Halving: of the chunks that both still share, each keeps one half.
    let mut held = 0..power;
    let mut halves = Vec::with_capacity(power.ilog2() as usize);
    for round in 0..power.ilog2() {
        let peer = at(index ^ (1 << round));
        let middle = held.start + (held.end - held.start) / 2;
        let (lower, upper) = (held.start..middle, middle..held.end);
        let (kept, given) = match index >> round & 1 {
            0 => (lower, upper),
            _ => (upper, lower),
        };
        verbs.send(peer, range_of(&given))?;
        verbs.recv_reduce(peer, range_of(&kept))?;
        halves.push((peer, kept.clone(), given));
        held = kept;
    }
    // 3. Doubling: the same peers the other way round, and the halves that were given come back.
    verbs.enter(Phase::AllGather);
    for (peer, kept, given) in halves.into_iter().rev() {
        verbs.send(peer, range_of(&kept))?;
        verbs.recv(peer, range_of(&given))?;
    }
    // 4. The result for those that folded out.
    if let Some(other) = stands_for {
        verbs.send(other, 0..elements)?;
    }
    verbs.flush()
}

/// Every rank sends `outgoing(to)` to each other rank and gets `incoming(from)` of each: an
/// all-to-all, or, where all outgoing ranges are one block, an all-gather. Rank `r` begins with
/// `r + 1` and ends with `r - 1`, so that no rank is called by all at once.
///
/// What goes to a rank and what comes from it must not overlap.
pub fn exchange(
    ring: RingTopology,
    phase: Phase,
    outgoing: impl Fn(Rank) -> Range<usize>,
    incoming: impl Fn(Rank) -> Range<usize>,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    verbs.enter(phase);
    for distance in 1..ring.world() {
        let to = ring.ahead(distance);
        verbs.send(to, outgoing(to))?;
    }
    for distance in 1..ring.world() {
        let from = ring.back(distance);
        verbs.recv(from, incoming(from))?;
    }
    verbs.flush()
}

/// An [`exchange`] in which every rank gets the chunk of every rank, of an operand of which it has
/// filled in its own.
pub fn exchange_chunks(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    let chunk_of = |rank: Rank| chunk(elements, ring.world(), rank.0);
    let own = chunk_of(ring.rank());
    exchange(ring, Phase::AllGather, |_| own.clone(), chunk_of, verbs)
}

/// Folds `elements` elements over all ranks; every rank ends with its own chunk of the result, and
/// with what it began with elsewhere.
pub fn reduce_scatter_directly(
    ring: RingTopology,
    elements: usize,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    let chunk_of = |rank: Rank| chunk(elements, ring.world(), rank.0);
    verbs.enter(Phase::ReduceScatter);
    for distance in 1..ring.world() {
        let to = ring.ahead(distance);
        verbs.send(to, chunk_of(to))?;
    }
    for distance in 1..ring.world() {
        verbs.recv_reduce(ring.back(distance), chunk_of(ring.rank()))?;
    }
    verbs.flush()
}

/// Copies `elements` elements from `root` to every rank along a binomial tree: whoever has them
/// passes them to a rank that is twice as far away each time.
pub fn broadcast_tree(
    ring: RingTopology,
    root: Rank,
    elements: usize,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    let world = ring.world();
    // Counted from the root on.
    let place = ring.hops_from(root);
    let at = |place: u32| Rank((root.0 + place) % world);
    let rounds = world.next_power_of_two().ilog2();
    verbs.enter(Phase::Broadcast);
    // 1. From the rank without my lowest bit.
    let first = match place {
        0 => rounds,
        _ => place.trailing_zeros(),
    };
    if place != 0 {
        verbs.recv(at(place - (1 << first)), 0..elements)?;
    }
    // 2. To those with one bit more, below it: the one with the most below it first.
    for round in (0..first).rev() {
        let child = place + (1 << round);
        if child < world {
            verbs.send(at(child), 0..elements)?;
        }
    }
    verbs.flush()
}

/// Every rank's block goes to `root`: there `incoming(from)`, elsewhere `block`.
pub fn gather_directly(
    ring: RingTopology,
    root: Rank,
    block: Range<usize>,
    incoming: impl Fn(Rank) -> Range<usize>,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    verbs.enter(Phase::Route);
    if ring.rank() != root {
        verbs.send(root, block)?;
    } else {
        for distance in 1..ring.world() {
            let from = ring.back(distance);
            verbs.recv(from, incoming(from))?;
        }
    }
    verbs.flush()
}

/// Returns once every rank has entered (Hensgen, Finkel and Manber, 1988, "Two algorithms for
/// barrier synchronization"): after round `k` a rank has heard, by way of others, of the
/// `2^(k+1) - 1` ranks before it.
pub fn dissemination_barrier(
    ring: RingTopology,
    verbs: &mut impl PeerVerbs,
) -> Result<(), CollectiveError> {
    verbs.enter(Phase::Barrier);
    let mut distance = 1;
    while distance < ring.world() {
        verbs.send(ring.ahead(distance), 0..0)?;
        verbs.recv(ring.back(distance), 0..0)?;
        distance *= 2;
    }
    verbs.flush()
}

/// The most ranks of a world in which every rank is connected to every other.
pub const DIRECT_WORLD_MAX: u32 = 64;

/// The ranks that a rank is connected to beside the ring: all others up to [`DIRECT_WORLD_MAX`];
/// above, those that [`halving_doubling`], [`broadcast_tree`] and [`dissemination_barrier`] need,
/// at most `3 log2(w) + 1`.
#[must_use]
pub fn direct_peers(ring: RingTopology) -> BTreeSet<Rank> {
    let world = ring.world();
    if world <= DIRECT_WORLD_MAX {
        return (1..world).map(|distance| ring.ahead(distance)).collect();
    }
    let mut tally = Tally::default();
    // A tally refuses nothing.
    let counted = halving_doubling(ring, 0, &mut tally);
    debug_assert!(counted.is_ok());
    let distances = (0..32).map(|log| 1_u32 << log);
    for distance in distances.take_while(|&distance| distance < world) {
        tally.peers.insert(ring.ahead(distance));
        tally.peers.insert(ring.back(distance));
    }
    tally.peers.remove(&ring.rank());
    tally.peers
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
