//! The operations over TCP: which way each goes, and where its blocks lie meanwhile.
//!
//! All ranks choose alike, by [`cost`] and by nothing that differs between them.

use std::ops::Range;

use ringfold_common::clock::Clock;
use ringfold_common::ids::Rank;

use crate::algorithm::cost::{self, LinkCost, Medium, Way};
use crate::algorithm::direct::{self, DIRECT_WORLD_MAX, Tally};
use crate::algorithm::{self, Phase, Replicas, Route, TreeStep};
use crate::element::Fold;
use crate::hierarchy::Levels;
use crate::probe;
use crate::ring::copied;
use crate::topology::{RingTopology, chunk};
use crate::transport::tcp::{Call, Operand, TcpLink};
use crate::{CollectiveError, Metrics};

pub(crate) type Outcome = Result<(), CollectiveError>;

/// What `$run` of `$verbs` does is counted first, and then done on `$operand`.
macro_rules! directly {
    ($link:expr, $call:expr, $operand:expr, |$verbs:ident| $run:expr) => {{
        let tally = tally(|$verbs| $run)?;
        let mut session = $link.begin_direct($call, $operand, tally);
        let $verbs = &mut session;
        $run
    }};
}

/// The connections of a rank, what they cost, and levels of hosts if there are any.
pub(crate) struct Net {
    link: TcpLink,
    cost: LinkCost,
    levels: Option<Box<Levels>>,
}

impl Net {
    pub fn new(link: TcpLink) -> Self {
        Self {
            link,
            cost: LinkCost::LOOPBACK,
            levels: None,
        }
    }

    /// What a message and a byte cost.
    pub fn cost(&self) -> LinkCost {
        self.cost
    }

    pub fn link_mut(&mut self) -> &mut TcpLink {
        &mut self.link
    }

    #[cfg(test)]
    pub fn link(&self) -> &TcpLink {
        &self.link
    }

    pub fn medium(&self) -> Medium {
        match self.link.is_direct() {
            true => Medium::TcpDirect,
            false => Medium::Tcp,
        }
    }

    /// Measures what the connections cost, under `call`, and sets their buffers to what they hold.
    pub fn measure(&mut self, ring: RingTopology, call: Call, clock: &dyn Clock) -> Outcome {
        let cost = probe::measure(ring, &mut self.link, call, clock)?;
        self.set_cost(cost);
        self.link.size_buffers(cost)
    }

    /// Takes up levels of the same ranks.
    pub fn add_levels(&mut self, mut levels: Levels) {
        if let Some(leaders) = levels.leaders_mut() {
            leaders.cost = self.cost;
        }
        self.levels = Some(Box::new(levels));
    }

    pub fn has_levels(&self) -> bool {
        self.levels.is_some()
    }

    /// How an all-reduce of `bytes` is done.
    pub fn explain(&self, bytes: usize, world: u32) -> cost::Choice {
        match &self.levels {
            Some(levels) => {
                let inside = (levels.half_bytes(), LinkCost::SHARED);
                cost::explain_on_hosts(levels.hosts(), inside, self.medium(), self.cost, bytes)
            }
            None => cost::explain(self.medium(), self.cost, bytes, world),
        }
    }

    pub fn count(&self, metrics: &mut Metrics) {
        self.link.count(metrics);
        if let Some(levels) = &self.levels {
            levels.count(metrics);
        }
    }

    /// This rank's address on the connection to the next rank.
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.link.local_ip()
    }

    /// Whether ranks that wait may look before they sleep, if they are to at all.
    pub fn may_spin(&mut self, may: bool) {
        self.link.patience_mut().may_spin = may;
        if let Some(leaders) = self.levels.as_mut().and_then(|levels| levels.leaders_mut()) {
            leaders.may_spin(may);
        }
    }

    pub fn shut_down(&self) {
        self.link.shut_down();
        if let Some(levels) = &self.levels {
            levels.shut_down();
        }
    }

    pub fn set_cost(&mut self, cost: LinkCost) {
        self.cost = cost;
        if let Some(leaders) = self.levels.as_mut().and_then(|levels| levels.leaders_mut()) {
            leaders.cost = cost;
        }
    }

    /// The levels, if an all-reduce of `bytes` goes by them.
    fn levels_for(&mut self, bytes: usize) -> Option<&mut Levels> {
        let world = self.levels.as_ref()?.hosts().world();
        match self.explain(bytes, world).way {
            Way::Levels => self.levels.as_deref_mut(),
            _ => None,
        }
    }

    fn all_reduce_way(&self, bytes: usize, world: u32) -> Way {
        cost::explain(self.medium(), self.cost, bytes, world).way
    }

    fn broadcast_way(&self, bytes: usize, world: u32) -> Way {
        match self.link.is_direct() {
            true => cost::broadcast_way(self.cost, bytes, world),
            false => Way::Ring,
        }
    }

    fn exchange_way(&self, bytes: usize, world: u32) -> Way {
        match self.link.is_direct() {
            true => cost::exchange_way(self.cost, bytes, world),
            false => Way::Ring,
        }
    }
}

/// An all-gather around the ring, whatever else there is. `all` has this rank's block in its place.
pub(crate) fn around_the_ring(
    ring: RingTopology,
    link: &mut TcpLink,
    call: Call,
    all: &mut [u8],
) -> Outcome {
    let block = all.len() / ring.world() as usize;
    algorithm::all_gather(ring, block, &mut link.begin(call, copied(all)))
}

pub(crate) fn all_reduce(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    operand: Operand<'_>,
) -> Outcome {
    let elements = operand.bytes.len() / operand.element_bytes;
    if let Some(levels) = net.levels_for(operand.bytes.len()) {
        return levels.all_reduce(call, operand);
    }
    match net.all_reduce_way(operand.bytes.len(), ring.world()) {
        Way::OneShot => one_shot(ring, net, call, operand),
        Way::HalvingDoubling => directly!(net.link, call, operand, |verbs| {
            direct::halving_doubling(ring, elements, verbs)
        }),
        _ => algorithm::all_reduce(ring, elements, &mut net.link.begin(call, operand)),
    }
}

pub(crate) fn reduce_scatter(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    operand: Operand<'_>,
) -> Outcome {
    let elements = operand.bytes.len() / operand.element_bytes;
    match net.exchange_way(operand.bytes.len(), ring.world()) {
        Way::Exchange => directly!(net.link, call, operand, |verbs| {
            direct::reduce_scatter_directly(ring, elements, verbs)
        }),
        _ => algorithm::reduce_scatter(ring, elements, &mut net.link.begin(call, operand)),
    }
}

pub(crate) fn broadcast(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    root: Rank,
    bytes: &mut [u8],
) -> Outcome {
    let len = bytes.len();
    match net.broadcast_way(len, ring.world()) {
        Way::Tree => directly!(net.link, call, copied(bytes), |verbs| {
            direct::broadcast_tree(ring, root, len, verbs)
        }),
        _ => algorithm::broadcast(ring, root, len, &mut net.link.begin(call, copied(bytes))),
    }
}

pub(crate) fn barrier(ring: RingTopology, net: &mut Net, call: Call) -> Outcome {
    if net.link.is_direct() {
        return directly!(net.link, call, copied(&mut []), |verbs| {
            direct::dissemination_barrier(ring, verbs)
        });
    }
    algorithm::barrier(ring, &mut net.link.begin(call, copied(&mut [])))
}

/// `all` has this rank's block in its place.
pub(crate) fn all_gather(ring: RingTopology, net: &mut Net, call: Call, all: &mut [u8]) -> Outcome {
    let len = all.len();
    match net.exchange_way(len, ring.world()) {
        Way::Exchange => directly!(net.link, call, copied(all), |verbs| {
            direct::exchange_chunks(ring, len, verbs)
        }),
        _ => {
            let block = len / ring.world() as usize;
            algorithm::all_gather(ring, block, &mut net.link.begin(call, copied(all)))
        }
    }
}

pub(crate) fn gather(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    root: Rank,
    (block, all): (&[u8], &mut [u8]),
) -> Outcome {
    let len = block.len();
    let at_root = ring.rank() == root;
    if reaches_all(net, ring) {
        let place = |rank: Rank| rank.0 as usize * len..(rank.0 as usize + 1) * len;
        if at_root {
            all[place(root)].copy_from_slice(block);
            return directly!(net.link, call, copied(all), |verbs| {
                direct::gather_directly(ring, root, 0..len, place, verbs)
            });
        }
        let mut sent = block.to_vec();
        return directly!(net.link, call, copied(&mut sent), |verbs| {
            direct::gather_directly(ring, root, 0..len, place, verbs)
        });
    }
    let plan = Route::new(ring, |_, to| match to == root {
        true => len,
        false => 0,
    });
    let mut bundle = vec![0; plan.elements()];
    if !at_root {
        bundle[plan.outgoing(root)].copy_from_slice(block);
    }
    algorithm::route(&plan, &mut net.link.begin(call, copied(&mut bundle)))?;
    if at_root {
        for (from, place) in (0..ring.world())
            .map(Rank)
            .zip(all.chunks_exact_mut(len.max(1)))
        {
            place.copy_from_slice(match from == root {
                true => block,
                false => &bundle[plan.incoming(from)],
            });
        }
    }
    Ok(())
}

pub(crate) fn all_to_all(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    blocks: &mut [u8],
) -> Outcome {
    let len = blocks.len() / ring.world() as usize;
    let place = |rank: Rank| rank.0 as usize * len..(rank.0 as usize + 1) * len;
    let mut bundles = Bundles::new(ring, reaches_all(net, ring), |_, _| len);
    for to in others(ring) {
        bundles.outgoing(to).copy_from_slice(&blocks[place(to)]);
    }
    bundles.carry(ring, net, call)?;
    for from in others(ring) {
        blocks[place(from)].copy_from_slice(bundles.incoming(from));
    }
    Ok(())
}

/// The sum over replicas in the order of their tree. `nodes` are those of this rank; the first is
/// the sum afterwards.
///
/// Short vectors: every rank gets the nodes of all, and folds them. Others: nodes go to the owners of
/// their slices, which fold them; then the sums go to all.
pub(crate) fn reproducible(
    ring: RingTopology,
    net: &mut Net,
    call: Call,
    nodes: &mut [&mut [u8]],
    tree: &Tree<'_>,
) -> Outcome {
    let (me, world, element_bytes) = (ring.rank(), ring.world(), tree.element_bytes);
    let len = nodes[0].len();
    let whole = net.all_reduce_way(len, ring.world()) == Way::OneShot;
    let elements = len / element_bytes;
    let slice = |rank: Rank| match whole {
        true => 0..len,
        false => {
            let slice = chunk(elements, world, rank.0);
            slice.start * element_bytes..slice.end * element_bytes
        }
    };
    let counts = tree.replicas.node_counts();
    let size = |from: Rank, to: Rank| counts[from.0 as usize] * slice(to).len();
    let mut bundles = Bundles::new(ring, reaches_all(net, ring), size);
    for to in others(ring) {
        let parts = bundles
            .outgoing(to)
            .chunks_exact_mut(slice(to).len().max(1));
        for (node, part) in nodes.iter().zip(parts) {
            part.copy_from_slice(&node[slice(to)]);
        }
    }
    bundles.carry(ring, net, call)?;

    let own = slice(me);
    let mut stack: Vec<Vec<u8>> = Vec::new();
    let term = |rank: Rank, at: usize| match rank == me {
        true => &nodes[at][own.clone()],
        false => &bundles.incoming(rank)[at * own.len()..(at + 1) * own.len()],
    };
    for step in tree.replicas.steps() {
        match *step {
            TreeStep::Push(rank, at) => stack.push(term(rank, at).to_vec()),
            TreeStep::Fold(rank, at) => {
                if let Some(sums) = stack.last_mut() {
                    (tree.fold)(sums, term(rank, at));
                }
            }
            TreeStep::Merge => {
                if let (Some(terms), Some(sums)) = (stack.pop(), stack.last_mut()) {
                    (tree.fold)(sums, &terms);
                }
            }
        }
    }
    nodes[0][own].copy_from_slice(&stack[0]);
    let operand = Operand {
        bytes: &mut *nodes[0],
        element_bytes,
        fold: None,
    };
    if whole {
        return Ok(());
    }
    if reaches_all(net, ring) {
        let tally = tally(|verbs| direct::exchange_chunks(ring, elements, verbs))?;
        let mut session = net.link.resume_direct(call, operand, tally);
        return direct::exchange_chunks(ring, elements, &mut session);
    }
    algorithm::all_gather_chunks(ring, elements, &mut net.link.resume(call, operand))
}

/// How a [`reproducible`] sum is folded.
pub(crate) struct Tree<'a> {
    pub replicas: &'a Replicas,
    pub fold: Fold,
    pub element_bytes: usize,
}

/// Blocks from every rank to every other, on their way.
struct Bundles {
    layout: Layout,
    bytes: Vec<u8>,
}

/// Where the blocks lie.
enum Layout {
    /// Carried from neighbour to neighbour.
    Ring(Route),
    /// By rank, what goes to it and what comes from it.
    Direct(Vec<(Range<usize>, Range<usize>)>),
}

impl Bundles {
    fn new(ring: RingTopology, direct: bool, size: impl Fn(Rank, Rank) -> usize) -> Self {
        if !direct {
            let route = Route::new(ring, size);
            let bytes = vec![0; route.elements()];
            let layout = Layout::Ring(route);
            return Self { layout, bytes };
        }
        let me = ring.rank();
        let mut end = 0;
        let mut take = |len: usize| {
            end += len;
            end - len..end
        };
        let places = (0..ring.world()).map(Rank).map(|rank| match rank == me {
            true => (0..0, 0..0),
            false => (take(size(me, rank)), take(size(rank, me))),
        });
        let layout = Layout::Direct(places.collect());
        let bytes = vec![0; end];
        Self { layout, bytes }
    }

    /// The place of the block for `to`, another rank.
    fn outgoing(&mut self, to: Rank) -> &mut [u8] {
        let range = match &self.layout {
            Layout::Ring(route) => route.outgoing(to),
            Layout::Direct(places) => places[to.0 as usize].0.clone(),
        };
        &mut self.bytes[range]
    }

    /// The block from `from`, another rank, once they have been carried.
    fn incoming(&self, from: Rank) -> &[u8] {
        let range = match &self.layout {
            Layout::Ring(route) => route.incoming(from),
            Layout::Direct(places) => places[from.0 as usize].1.clone(),
        };
        &self.bytes[range]
    }

    fn carry(&mut self, ring: RingTopology, net: &mut Net, call: Call) -> Outcome {
        let operand = copied(&mut self.bytes);
        match &self.layout {
            Layout::Ring(route) => algorithm::route(route, &mut net.link.begin(call, operand)),
            Layout::Direct(places) => {
                let to = |rank: Rank| places[rank.0 as usize].0.clone();
                let from = |rank: Rank| places[rank.0 as usize].1.clone();
                directly!(net.link, call, operand, |verbs| {
                    direct::exchange(ring, Phase::Route, to, from, verbs)
                })
            }
        }
    }
}

/// Every rank gets all contributions, and folds them in the order of ranks.
fn one_shot(ring: RingTopology, net: &mut Net, call: Call, operand: Operand<'_>) -> Outcome {
    let Operand { bytes, fold, .. } = operand;
    let len = bytes.len();
    let place = |rank: Rank| rank.0 as usize * len..(rank.0 as usize + 1) * len;
    let mut all = vec![0; len * ring.world() as usize];
    let own = place(ring.rank());
    all[own.clone()].copy_from_slice(bytes);
    directly!(net.link, call, copied(&mut all), |verbs| {
        direct::exchange(ring, Phase::OneShot, |_| own.clone(), place, verbs)
    })?;
    bytes.copy_from_slice(&all[place(Rank(0))]);
    if let Some(fold) = fold {
        for rank in (1..ring.world()).map(Rank) {
            fold(bytes, &all[place(rank)]);
        }
    }
    Ok(())
}

fn tally(run: impl FnOnce(&mut Tally) -> Outcome) -> Result<Tally, CollectiveError> {
    let mut tally = Tally::default();
    run(&mut tally)?;
    Ok(tally)
}

fn reaches_all(net: &Net, ring: RingTopology) -> bool {
    net.link.is_direct() && ring.world() <= DIRECT_WORLD_MAX
}

fn others(ring: RingTopology) -> impl Iterator<Item = Rank> {
    (1..ring.world()).map(move |distance| ring.ahead(distance))
}
