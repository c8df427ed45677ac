//! What a trainer calls.

use std::sync::Arc;

use ringfold_common::ids::Rank;

use crate::algorithm::{self, Kind};
use crate::element::{Element, bytes_of};
use crate::identity::check_elements;
use crate::topology::RingTopology;
use crate::transport::tcp::{Call, Operand, Session, TcpLink};
use crate::{AbortSignal, CollectiveError, Identity};

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

    /// Sums `values` over all ranks, element by element. All ranks end with identical bytes, which
    /// depend on the world's size; within one, on nothing but the values.
    pub fn all_reduce_sum_f32(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.all_reduce_sum(Kind::AllReduceF32, values)
    }

    /// [`all_reduce_sum_f32`](Self::all_reduce_sum_f32) of 64-bit floats.
    pub fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.all_reduce_sum(Kind::AllReduceF64, values)
    }

    /// Overwrites `bytes` on every rank with those of `root`. The root may return before the
    /// others have them.
    ///
    /// # Errors
    /// Also [`RankOutsideWorld`](CollectiveError::RankOutsideWorld), having done nothing.
    pub fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let world = self.world();
        if root.0 >= world {
            return Err(CollectiveError::RankOutsideWorld { rank: root, world });
        }
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
    /// Also [`GatherLength`](CollectiveError::GatherLength) unless `all` is `world` times as long
    /// as `block`, having done nothing.
    pub fn all_gather(&mut self, block: &[u8], all: &mut [u8]) -> Result<(), CollectiveError> {
        let world = self.world();
        if block.len().checked_mul(world as usize) != Some(all.len()) {
            return Err(CollectiveError::GatherLength {
                block_bytes: block.len(),
                world,
                got: all.len(),
            });
        }
        check_elements(all.len())?;
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
        self.all_gather(block, all.as_flattened_mut())?;
        Ok(all)
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> &TcpLink {
        self.link.as_ref().expect("a world of more than one")
    }

    fn all_reduce_sum<T: Element>(
        &mut self,
        kind: Kind,
        values: &mut [T],
    ) -> Result<(), CollectiveError> {
        let elements = values.len();
        let operand = Operand {
            bytes: bytes_of(values),
            element_bytes: size_of::<T>(),
            add: Some(T::add),
        };
        self.operate(kind, operand, |ring, session| {
            algorithm::all_reduce(ring, elements, session)
        })
    }

    /// Runs one operation. Its first failure closes the link and is what later calls return.
    fn operate(
        &mut self,
        kind: Kind,
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
            bytes: operand.bytes.len() as u64,
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
        add: None,
    }
}
