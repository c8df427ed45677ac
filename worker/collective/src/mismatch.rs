//! In what two neighbours can differ when they meet.

use std::fmt;

use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

/// The first field of the handshake in which a peer differs, in the order of checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The version of the wire protocol.
    Protocol {
        /// This rank's.
        expected: u16,
        /// The peer's.
        got: u16,
    },
    /// The job.
    Job {
        /// This rank's.
        expected: JobId,
        /// The peer's.
        got: JobId,
    },
    /// The number of the world.
    MembershipEpoch {
        /// This rank's.
        expected: MembershipEpoch,
        /// The peer's.
        got: MembershipEpoch,
    },
    /// The size of the world.
    World {
        /// This rank's.
        expected: u32,
        /// The peer's.
        got: u32,
    },
    /// The position: another rank answered, or called, than the neighbour.
    Rank {
        /// The neighbour.
        expected: Rank,
        /// The peer.
        got: Rank,
    },
    /// The hash of the job's spec.
    SpecHash {
        /// This rank's.
        expected: SpecHash,
        /// The peer's.
        got: SpecHash,
    },
    /// [`RingOptions::segment_bytes`](crate::RingOptions::segment_bytes).
    SegmentBytes {
        /// This rank's.
        expected: u32,
        /// The peer's.
        got: u32,
    },
    /// The peer refused, but differs in nothing that this version compares.
    Unstated,
}

impl fmt::Display for Mismatch {
    /// Completes "rank 2 at 10.0.0.3:41231 …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol { expected, got } => write!(
                f,
                "speaks ring protocol {got}, this rank {expected}: \
                 all nodes must run the same version of ringfold"
            ),
            Self::Job { expected, got } => write!(
                f,
                "works for {got}, this rank for {expected}: one of the two has an outdated address"
            ),
            Self::MembershipEpoch { expected, got } => write!(
                f,
                "is in membership epoch {got}, this rank in {expected}: \
                 the one behind must wait for its new assignment"
            ),
            Self::World { expected, got } => write!(
                f,
                "counts {got} ranks, this rank {expected}: \
                 both must have got the same assignment"
            ),
            Self::Rank { expected, got } => write!(
                f,
                "says that it is rank {got}, but the neighbour there is rank {expected}: \
                 both must have got the same list of addresses"
            ),
            Self::SpecHash { expected, got } => write!(
                f,
                "has spec hash {got}, this rank has {expected}: both must run the same job file"
            ),
            Self::SegmentBytes { expected, got } => write!(
                f,
                "cuts messages into segments of {got} bytes, this rank of {expected}: \
                 both must have the same ring options"
            ),
            Self::Unstated => f.write_str("refused this rank, and both agree on every known field"),
        }
    }
}
