//! What a trainer calls.

use std::ops::Range;
use std::sync::Arc;

use ringfold_common::clock::Clock;
use ringfold_common::ids::Rank;

use crate::algorithm::{Kind, Replicas, TreeStep, cost};
use crate::element::{bytes_of, bytes_of_mut, divide, fold_of};
use crate::identity::check_elements;
use crate::over_tcp::{self, Net};
use crate::topology::{RingTopology, chunk};
use crate::transport::shared::{Board, Terms};
use crate::transport::tcp::{Call, Operand};
use crate::{AbortSignal, CollectiveError, Element, Identity, Reduce};

/// This rank's place in a ring, from [`Listener::connect_ring`](crate::Listener::connect_ring).
///
/// Calls block, and all ranks must make the same ones in the same order with operands of the same
/// length. Unless a call says otherwise it can return
/// - [`TooManyElements`](CollectiveError::TooManyElements), having done nothing;
/// - [`PeerClosed`](CollectiveError::PeerClosed), [`Stalled`](CollectiveError::Stalled) or
///   [`BadFrame`](CollectiveError::BadFrame), which name the neighbour, the operation and how far
///   it had come. If ranks make different calls, at least one of them gets `BadFrame` with both;
/// - [`Aborted`](CollectiveError::Aborted);
/// - [`Poisoned`](CollectiveError::Poisoned), after any of the above but the first.
///
/// After an error the operand holds unspecified values, unless the ring
/// [keeps operands](Ring::keep_operands). One operation is under way at a time; several may be
/// [in flight](Ring::in_flight).
///
/// Dropping a ring closes its sockets: do so only after the last call, or to fail the neighbours.
pub struct Ring {
    identity: Identity,
    topology: RingTopology,
    link: Link,
    pub(crate) abort: AbortSignal,
    operations: u64,
    failure: Option<Arc<CollectiveError>>,
    keeps_operands: bool,
    /// What the operand of the operation under way held, if that is kept.
    kept: Vec<u8>,
}

/// What bytes move over.
pub(crate) enum Link {
    /// A world of one.
    Alone,
    /// The neighbours' sockets.
    Tcp(Box<Net>),
    /// Memory that all ranks see.
    Shared(Box<Board>),
}

/// Counters of a ring since it was joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Bytes handed to the socket to the next rank, headers included, or written to shared memory.
    pub bytes_sent: u64,
    /// Bytes read from the socket of the rank before, headers and dropped frames included, or from
    /// the shared memory of peers.
    pub bytes_received: u64,
    /// Operations begun.
    pub operations: u64,
    /// Frames of older membership epochs.
    pub stale_frames_dropped: u64,
}

impl Ring {
    pub(crate) fn new(
        identity: Identity,
        topology: RingTopology,
        net: Option<Net>,
        abort: AbortSignal,
    ) -> Self {
        Self {
            identity,
            topology,
            link: net.map_or(Link::Alone, |net| Link::Tcp(Box::new(net))),
            abort,
            operations: 0,
            failure: None,
            keeps_operands: false,
            kept: Vec::new(),
        }
    }

    pub(crate) fn shared(
        identity: Identity,
        topology: RingTopology,
        board: Board,
        abort: AbortSignal,
    ) -> Self {
        Self {
            link: match topology.world() {
                1 => Link::Alone,
                _ => Link::Shared(Box::new(board)),
            },
            ..Self::new(identity, topology, None, abort)
        }
    }

    /// Who this rank is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.identity.rank
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.identity.world
    }

    /// True if ranks meet in shared memory.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.link, Link::Shared(_))
    }

    /// From now on, if `keep`, the operand of an [`all_reduce`](Self::all_reduce), a
    /// [`reduce_scatter`](Self::reduce_scatter), a [`broadcast`](Self::broadcast) or an
    /// [`all_to_all`](Self::all_to_all) that fails holds what it held before the call. It costs one
    /// copy of each operand, and memory as long as the longest. Off by default; ranks may differ.
    /// What a gather writes to, and the vectors of a reproducible sum, are unspecified after an error
    /// all the same.
    pub fn keep_operands(&mut self, keep: bool) {
        self.keeps_operands = keep;
        self.kept = Vec::new();
    }

    /// Runs an operation on `values`, which it leaves alone if it fails and operands are kept.
    fn on_operand<T: Element>(
        &mut self,
        values: &mut [T],
        run: impl FnOnce(&mut Self, &mut [T]) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if !self.keeps_operands {
            return run(self, values);
        }
        self.kept.clear();
        self.kept.extend_from_slice(bytes_of(values));
        let result = run(self, values);
        if result.is_err() {
            bytes_of_mut(values).copy_from_slice(&self.kept);
        }
        result
    }

    /// Counters since the ring was joined.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics {
            operations: self.operations,
            ..Metrics::default()
        };
        match &self.link {
            Link::Alone => {}
            Link::Tcp(link) => link.count(&mut metrics),
            Link::Shared(board) => {
                metrics.bytes_sent = board.bytes_sent;
                metrics.bytes_received = board.bytes_received;
            }
        }
        metrics
    }

    /// Folds `values` over all ranks, element by element. All ranks end with identical bytes, which
    /// depend on the world's size and the way that is [chosen](Self::explain). Over links that are
    /// [measured](Self::measure_link), that may differ from one ring to the next.
    pub fn all_reduce<T: Element>(
        &mut self,
        values: &mut [T],
        reduce: Reduce,
    ) -> Result<(), CollectiveError> {
        let kind = Kind::AllReduce(T::TYPE, reduce);
        let steps = in_rank_order(self.world());
        let terms = terms_of::<T>(&steps, reduce);
        let bytes = size_of_val(values);
        self.on_operand(values, |this, values| {
            this.operate(kind, bytes, |ring, link, call| match link {
                Link::Tcp(link) => over_tcp::all_reduce(ring, link, call, folded(values, reduce)),
                Link::Shared(board) => {
                    board.begin(call)?;
                    board.all_reduce(&mut [bytes_of_mut(values)], &terms)
                }
                Link::Alone => Ok(()),
            })
        })?;
        if reduce == Reduce::Mean {
            divide(values, self.world());
        }
        Ok(())
    }

    /// How an [`all_reduce`](Self::all_reduce) of `bytes` would be done here, why, and what it
    /// should take by [what links cost](Self::link_cost).
    #[must_use]
    pub fn explain(&self, bytes: usize) -> cost::Choice {
        let medium = self.medium();
        match self.net() {
            Some(net) => net.explain(bytes, self.world()),
            None => cost::explain(medium, cost::LinkCost::of(medium), bytes, self.world()),
        }
    }

    /// What a [reproducible sum](Self::reproducible_all_reduce) should take here beyond a fast one,
    /// as a share of it. Never by measured costs: what is chosen by it decides bits, and must be the same
    /// each time.
    #[must_use]
    pub fn reproducible_overhead(&self, replicas: &Replicas) -> f64 {
        let medium = self.medium();
        cost::reproducible_overhead(medium, cost::LinkCost::of(medium), replicas)
    }

    /// The bytes of the parts in which a long vector is best summed here while it is still
    /// computed: [`cost::bucket_bytes`].
    #[must_use]
    pub fn bucket_bytes(&self) -> usize {
        cost::bucket_bytes(self.link_cost(), self.world())
    }

    /// In which parts a vector of `bytes` is best summed here while it is still computed, or what comes of
    /// parts of at most `chosen` bytes, by [what links cost](Self::link_cost): measured, over TCP.
    #[must_use]
    pub fn explain_parts(&self, bytes: usize, chosen: Option<usize>) -> cost::Parts {
        let bytes_max = chosen.unwrap_or_else(|| self.bucket_bytes());
        cost::Parts {
            bytes_max,
            chosen: chosen.is_some(),
            bytes,
            whole: self.explain(bytes).predicted,
            part: self.explain(bytes.min(bytes_max)).predicted,
            cost: self.link_cost(),
        }
    }

    pub(crate) fn medium(&self) -> cost::Medium {
        match &self.link {
            Link::Tcp(net) => net.medium(),
            Link::Alone => cost::Medium::Tcp,
            Link::Shared(board) => cost::Medium::Shared {
                half_bytes: board.half_bytes(),
            },
        }
    }

    /// [`all_reduce`](Self::all_reduce) by sum of 32-bit floats.
    pub fn all_reduce_sum_f32(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.all_reduce(values, Reduce::Sum)
    }

    /// [`all_reduce`](Self::all_reduce) by sum of 64-bit floats.
    pub fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.all_reduce(values, Reduce::Sum)
    }

    /// Folds `values` over all ranks, of which this rank gets the part that it returns:
    /// [`chunk`]`(values.len(), world, rank)`. The rest of `values` is unspecified afterwards.
    pub fn reduce_scatter<T: Element>(
        &mut self,
        values: &mut [T],
        reduce: Reduce,
    ) -> Result<Range<usize>, CollectiveError> {
        let elements = values.len();
        let kind = Kind::ReduceScatter(T::TYPE, reduce);
        let steps = in_rank_order(self.world());
        let terms = terms_of::<T>(&steps, reduce);
        let bytes = size_of_val(values);
        self.on_operand(values, |this, values| {
            this.operate(kind, bytes, |ring, link, call| match link {
                Link::Tcp(link) => {
                    over_tcp::reduce_scatter(ring, link, call, folded(values, reduce))
                }
                Link::Shared(board) => {
                    board.begin(call)?;
                    board.reduce_scatter(bytes_of_mut(values), &terms)
                }
                Link::Alone => Ok(()),
            })
        })?;
        let mine = chunk(elements, self.world(), self.rank().0);
        if reduce == Reduce::Mean {
            divide(&mut values[mine.clone()], self.world());
        }
        Ok(mine)
    }

    /// Overwrites `values` on every rank with those of `root`. The root may return before the
    /// others have them.
    ///
    /// # Errors
    /// Also [`RankOutsideWorld`](CollectiveError::RankOutsideWorld), having done nothing.
    pub fn broadcast<T: Element>(
        &mut self,
        root: Rank,
        values: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.check_rank(root)?;
        let bytes = bytes_of_mut(values);
        let len = bytes.len();
        let kind = Kind::Broadcast(root);
        self.on_operand(bytes, |this, bytes| {
            this.operate(kind, len, |ring, link, call| match link {
                Link::Tcp(link) => over_tcp::broadcast(ring, link, call, root, bytes),
                Link::Shared(board) => {
                    board.begin(call)?;
                    board.broadcast(root, bytes)
                }
                Link::Alone => Ok(()),
            })
        })
    }

    /// Returns once every rank has called it.
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.operate(Kind::Barrier, 0, |ring, link, call| match link {
            Link::Tcp(link) => over_tcp::barrier(ring, link, call),
            Link::Shared(board) => {
                board.begin(call)?;
                board.barrier()
            }
            Link::Alone => Ok(()),
        })
    }

    /// Gives every rank the `block` of every rank: `all` is `world` blocks in rank order.
    ///
    /// # Errors
    /// Also [`BlockLength`](CollectiveError::BlockLength) unless `all` is `world` times as long
    /// as `block`, having done nothing.
    pub fn all_gather<T: Element>(
        &mut self,
        block: &[T],
        all: &mut [T],
    ) -> Result<(), CollectiveError> {
        let (block, all) = (bytes_of(block), bytes_of_mut(all));
        self.check_blocks(Kind::AllGather, block.len(), all.len())?;
        let start = block.len() * self.rank().0 as usize;
        self.operate(Kind::AllGather, all.len(), |ring, link, call| {
            all[start..start + block.len()].copy_from_slice(block);
            match link {
                Link::Tcp(link) => over_tcp::all_gather(ring, link, call, all),
                Link::Shared(board) => {
                    board.begin(call)?;
                    board.gather(block, all, true)
                }
                Link::Alone => Ok(()),
            }
        })
    }

    /// [`all_gather`](Self::all_gather) of a small value, such as a hash, into a new vector.
    pub fn all_gather_bytes<const N: usize>(
        &mut self,
        block: &[u8; N],
    ) -> Result<Vec<[u8; N]>, CollectiveError> {
        let mut all = vec![[0; N]; self.world() as usize];
        self.all_gather(&block[..], all.as_flattened_mut())?;
        Ok(all)
    }

    /// Gives `root` the `block` of every rank: there, `all` is `world` blocks in rank order.
    /// Elsewhere it is left alone, and may be empty. A rank may return before the root has its
    /// block.
    ///
    /// # Errors
    /// Also [`RankOutsideWorld`](CollectiveError::RankOutsideWorld) and, at the root,
    /// [`BlockLength`](CollectiveError::BlockLength) unless `all` is `world` times as long as
    /// `block`, having done nothing.
    pub fn gather<T: Element>(
        &mut self,
        root: Rank,
        block: &[T],
        all: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.check_rank(root)?;
        let (block, all) = (bytes_of(block), bytes_of_mut(all));
        let kind = Kind::Gather(root);
        let block_bytes = block.len();
        let at_root = self.rank() == root;
        if at_root {
            self.check_blocks(kind, block_bytes, all.len())?;
        }
        self.operate(kind, block_bytes, |ring, link, call| match link {
            Link::Tcp(link) => over_tcp::gather(ring, link, call, root, (block, all)),
            Link::Shared(board) => {
                board.begin(call)?;
                board.gather(block, all, at_root)
            }
            Link::Alone => {
                all.copy_from_slice(block);
                Ok(())
            }
        })
    }

    /// `blocks` is `world` blocks in rank order, of which each goes to its rank; afterwards it is
    /// those that came from each.
    ///
    /// # Errors
    /// Also [`BlockLength`](CollectiveError::BlockLength) unless `world` divides the number of
    /// elements, having done nothing.
    pub fn all_to_all<T: Element>(&mut self, blocks: &mut [T]) -> Result<(), CollectiveError> {
        let block_bytes = blocks.len() / self.world() as usize * size_of::<T>();
        let blocks = bytes_of_mut(blocks);
        self.check_blocks(Kind::AllToAll, block_bytes, blocks.len())?;
        let len = blocks.len();
        self.on_operand(blocks, |this, blocks| {
            this.operate(Kind::AllToAll, len, |ring, link, call| match link {
                Link::Tcp(link) => over_tcp::all_to_all(ring, link, call, blocks),
                Link::Shared(board) => {
                    board.begin(call)?;
                    board.all_to_all(blocks)
                }
                Link::Alone => Ok(()),
            })
        })
    }

    /// This rank's address on the connection to the next rank; none in memory, or alone.
    #[must_use]
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.net()?.local_ip()
    }

    /// Leaves the ring: peers that are in a call, or make one, fail at once, and so does every later call
    /// of this rank.
    pub fn leave(&mut self) {
        self.fail(&CollectiveError::Aborted {
            reason: "this rank has left the ring".to_owned(),
        });
    }

    /// The connections, if this ring has any.
    pub(crate) fn net(&self) -> Option<&Net> {
        match &self.link {
            Link::Tcp(net) => Some(net),
            _ => None,
        }
    }

    /// Whether a rank that waits for connections may look before it sleeps.
    pub(crate) fn may_spin(&mut self, may: bool) {
        if let Link::Tcp(net) = &mut self.link {
            net.may_spin(may);
        }
    }

    /// Measures what the connections cost.
    pub(crate) fn measure(&mut self, clock: &dyn Clock) -> Result<(), CollectiveError> {
        self.operate(Kind::Barrier, 0, |ring, link, call| match link {
            Link::Tcp(net) => net.measure(ring, call, clock),
            _ => Ok(()),
        })
    }

    fn check_rank(&self, rank: Rank) -> Result<(), CollectiveError> {
        let world = self.world();
        if rank.0 >= world {
            return Err(CollectiveError::RankOutsideWorld { rank, world });
        }
        Ok(())
    }

    fn check_blocks(
        &self,
        kind: Kind,
        block_bytes: usize,
        got: usize,
    ) -> Result<(), CollectiveError> {
        let world = self.world();
        if block_bytes.checked_mul(world as usize) != Some(got) {
            return Err(CollectiveError::BlockLength {
                kind,
                block_bytes,
                world,
                got,
            });
        }
        check_elements(got)
    }

    /// Runs one operation on `bytes`, on which all ranks must agree. Its first failure closes the
    /// link and is what later calls return.
    pub(crate) fn operate(
        &mut self,
        kind: Kind,
        bytes: usize,
        run: impl FnOnce(RingTopology, &mut Link, Call) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        // The shortest element is one byte; the longest operand in elements is what is capped.
        check_elements(bytes / kind.element_bytes())?;
        if let Some(first) = &self.failure {
            return Err(CollectiveError::Poisoned {
                first: first.clone(),
            });
        }
        self.operations += 1;
        let call = Call {
            operation: self.operations,
            kind,
            bytes: bytes as u64,
        };
        let checked = self.abort.check();
        let result = checked.and_then(|()| run(self.topology, &mut self.link, call));
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// Operations begun.
    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    /// The first error, once there was one.
    pub(crate) fn failure(&self) -> Option<&Arc<CollectiveError>> {
        self.failure.as_ref()
    }

    /// Closes the link, so that peers fail too. Later calls return the first error.
    pub(crate) fn fail(&mut self, error: &CollectiveError) {
        match &self.link {
            Link::Alone => {}
            Link::Tcp(link) => link.shut_down(),
            Link::Shared(board) => board.shut_down(),
        }
        let failure = || Arc::new(error.clone());
        self.failure.get_or_insert_with(failure);
    }
}

pub(crate) fn copied(bytes: &mut [u8]) -> Operand<'_> {
    Operand {
        bytes,
        element_bytes: 1,
        fold: None,
    }
}

fn folded<T: Element>(values: &mut [T], reduce: Reduce) -> Operand<'_> {
    Operand {
        bytes: bytes_of_mut(values),
        element_bytes: size_of::<T>(),
        fold: Some(fold_of::<T>(reduce)),
    }
}

/// One term a rank, from rank 0 on.
pub(crate) fn in_rank_order(world: u32) -> Vec<TreeStep> {
    let others = (1..world).map(|rank| TreeStep::Fold(Rank(rank), 0));
    std::iter::once(TreeStep::Push(Rank(0), 0))
        .chain(others)
        .collect()
}

fn terms_of<T: Element>(steps: &[TreeStep], reduce: Reduce) -> Terms<'_> {
    Terms {
        counts: &[],
        steps,
        fold: fold_of::<T>(reduce),
        element_bytes: size_of::<T>(),
    }
}
