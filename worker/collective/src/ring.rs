//! What a trainer calls.

use std::ops::Range;
use std::sync::Arc;

use ringfold_common::ids::Rank;

use crate::algorithm::{self, Kind, Route};
use crate::element::{bytes_of, bytes_of_mut, divide, fold_of};
use crate::identity::check_elements;
use crate::topology::{RingTopology, chunk};
use crate::transport::tcp::{Call, Operand, Session, TcpLink};
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
/// - [`Poisoned`](CollectiveError::Poisoned), after any of the above but the first. The operand
///   then holds unspecified values.
///
/// Dropping a ring closes its sockets: do so only after the last call, or to fail the neighbours.
pub struct Ring {
    identity: Identity,
    topology: RingTopology,
    /// None in a world of one.
    link: Option<TcpLink>,
    abort: AbortSignal,
    operations: u64,
    failure: Option<Arc<CollectiveError>>,
}

/// Counters of a ring since it was joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Bytes handed to the socket to the next rank, headers included.
    pub bytes_sent: u64,
    /// Bytes read from the socket of the rank before, headers and dropped frames included.
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
        link: Option<TcpLink>,
        abort: AbortSignal,
    ) -> Self {
        Self {
            identity,
            topology,
            link,
            abort,
            operations: 0,
            failure: None,
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

    /// Counters since the ring was joined.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics {
            operations: self.operations,
            ..Metrics::default()
        };
        if let Some(link) = &self.link {
            link.count(&mut metrics);
        }
        metrics
    }

    /// Folds `values` over all ranks, element by element. All ranks end with identical bytes, which
    /// depend on the world's size; within one, on nothing but the values.
    pub fn all_reduce<T: Element>(
        &mut self,
        values: &mut [T],
        reduce: Reduce,
    ) -> Result<(), CollectiveError> {
        let elements = values.len();
        let kind = Kind::AllReduce(T::TYPE, reduce);
        self.operate(kind, folded(values, reduce), |ring, session| {
            algorithm::all_reduce(ring, elements, session)
        })?;
        if reduce == Reduce::Mean {
            divide(values, self.world());
        }
        Ok(())
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
        self.operate(kind, folded(values, reduce), |ring, session| {
            algorithm::reduce_scatter(ring, elements, session)
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
        self.operate(Kind::Broadcast(root), copied(bytes), |ring, session| {
            algorithm::broadcast(ring, root, len, session)
        })
    }

    /// Returns once every rank has called it.
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.operate(Kind::Barrier, copied(&mut []), |ring, session| {
            algorithm::barrier(ring, session)
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
        all[start..start + block.len()].copy_from_slice(block);
        self.operate(Kind::AllGather, copied(all), |ring, session| {
            algorithm::all_gather(ring, block.len(), session)
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
        let plan = Route::new(self.topology, |_, to| match to == root {
            true => block_bytes,
            false => 0,
        });
        let mut bundle = vec![0; plan.elements()];
        if self.rank() == root {
            self.check_blocks(kind, block_bytes, all.len())?;
        } else {
            bundle[plan.outgoing(root)].copy_from_slice(block);
        }
        self.carry(kind, block_bytes, &plan, &mut bundle)?;
        if self.rank() == root {
            for from in (0..self.world()).map(Rank) {
                let block = match from == root {
                    true => block,
                    false => &bundle[plan.incoming(from)],
                };
                all[from.0 as usize * block_bytes..][..block_bytes].copy_from_slice(block);
            }
        }
        Ok(())
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
        let plan = Route::new(self.topology, |_, _| block_bytes);
        let mut bundle = vec![0; plan.elements()];
        let (mine, world) = (self.rank(), self.world());
        let others = || (0..world).map(Rank).filter(|&rank| rank != mine);
        let place = |rank: Rank| rank.0 as usize * block_bytes..(rank.0 as usize + 1) * block_bytes;
        for to in others() {
            bundle[plan.outgoing(to)].copy_from_slice(&blocks[place(to)]);
        }
        self.carry(Kind::AllToAll, blocks.len(), &plan, &mut bundle)?;
        for from in others() {
            blocks[place(from)].copy_from_slice(&bundle[plan.incoming(from)]);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> &TcpLink {
        self.link.as_ref().expect("a world of more than one")
    }

    /// Carries bundles whose lengths differ by rank; `bytes` is what all ranks must agree on.
    fn carry(
        &mut self,
        kind: Kind,
        bytes: usize,
        plan: &Route,
        bundle: &mut [u8],
    ) -> Result<(), CollectiveError> {
        self.operate_on(kind, bytes, copied(bundle), |_, session| {
            algorithm::route(plan, session)
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

    /// Runs one operation on an operand that is equally long at all ranks.
    fn operate(
        &mut self,
        kind: Kind,
        operand: Operand<'_>,
        algorithm: impl FnOnce(RingTopology, &mut Session<'_>) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let bytes = operand.bytes.len();
        self.operate_on(kind, bytes, operand, algorithm)
    }

    /// Runs one operation. Its first failure closes the link and is what later calls return.
    fn operate_on(
        &mut self,
        kind: Kind,
        bytes: usize,
        operand: Operand<'_>,
        algorithm: impl FnOnce(RingTopology, &mut Session<'_>) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        check_elements(operand.bytes.len() / operand.element_bytes)?;
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
        let result = self.abort.check().and_then(|()| match &mut self.link {
            None => Ok(()),
            Some(link) => algorithm(self.topology, &mut link.begin(call, operand)),
        });
        if let Err(error) = &result {
            if let Some(link) = &self.link {
                link.shut_down();
            }
            self.failure = Some(Arc::new(error.clone()));
        }
        result
    }
}

fn copied(bytes: &mut [u8]) -> Operand<'_> {
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
