//! What can go wrong in a ring, and who is to blame.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ringfold_common::ids::Rank;

use crate::algorithm::{Kind, Phase};
use crate::compression::PayloadFault;
use crate::transport::tcp::FrameFault;
use crate::{LastSign, Mismatch, OPERATION_ELEMENTS_MAX, WORLD_MAX};

/// Why joining a ring, or an operation on it, failed.
///
/// Cheap to clone, since a ring keeps its first error for later calls.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// A world of no ranks or over [`WORLD_MAX`].
    #[error("a ring of {world} ranks: from 1 to {WORLD_MAX} are allowed")]
    WorldOutOfRange {
        /// What was asked for.
        world: u32,
    },
    /// A rank that the world doesn't have.
    #[error("rank {rank} is outside the world of {world} ranks")]
    RankOutsideWorld {
        /// What was asked for.
        rank: Rank,
        /// The number of ranks.
        world: u32,
    },
    /// Not one address a rank.
    #[error("got {got} addresses for a world of {world} ranks")]
    AddressCount {
        /// The number of ranks.
        world: u32,
        /// The number of addresses.
        got: usize,
    },
    /// Not one key a rank.
    #[error("got {got} keys for a world of {world} ranks")]
    KeyCount {
        /// The number of ranks.
        world: u32,
        /// The number of keys.
        got: usize,
    },
    /// A [`RingOptions`](crate::RingOptions) field that is out of its range.
    #[error("ring option {option} is {got}: allowed is {allowed}")]
    OptionOutOfRange {
        /// The field.
        option: &'static str,
        /// Its value.
        got: String,
        /// Its range.
        allowed: String,
    },
    /// An operand over [`OPERATION_ELEMENTS_MAX`].
    #[error("an operation on {elements} elements: at most {OPERATION_ELEMENTS_MAX} are allowed")]
    TooManyElements {
        /// Its length.
        elements: usize,
    },
    /// The long operand of a gather, an all-gather or an all-to-all is not one block a rank.
    #[error("{kind} of blocks of {block_bytes} bytes among {world} ranks with a buffer of {got}")]
    BlockLength {
        /// Which operation.
        kind: Kind,
        /// Bytes that each rank gives to one.
        block_bytes: usize,
        /// The number of ranks.
        world: u32,
        /// Bytes of the buffer that is to have one block a rank.
        got: usize,
    },
    /// A replica's vector is not as long as the others.
    #[error("a replica's vector of {got} elements: the others have {expected}")]
    ReplicaLength {
        /// The length of all.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// Not all of a rank's replicas are in, or one too many.
    #[error("{got} replicas at a rank that holds {expected}")]
    ReplicaCount {
        /// How many the rank holds.
        expected: usize,
        /// How many were given.
        got: usize,
    },
    /// Replica buffers that were made for another rank or world.
    #[error("replica buffers for another rank, in a world of {buffers}, at rank {rank} of {world}")]
    ReplicaWorld {
        /// This rank.
        rank: Rank,
        /// The number of ranks.
        world: u32,
        /// The world that the buffers are for.
        buffers: u32,
    },
    /// A range that the vector of a [`Compressor`](crate::compression::Compressor) doesn't have.
    #[error("{elements} elements from {start} on of a vector of {whole}")]
    CompressedRange {
        /// Its first element.
        start: usize,
        /// Its length.
        elements: usize,
        /// The length of the vector.
        whole: usize,
    },
    /// A range that holds a matrix in part.
    #[error(
        "elements {start} to {end} cut the matrix of elements {} to {}: ranges that are compressed \
         as products must hold whole ones",
        .matrix.start, .matrix.end
    )]
    MatrixCut {
        /// The range's first element.
        start: usize,
        /// Its end.
        end: usize,
        /// The elements of the matrix.
        matrix: Range<usize>,
    },
    /// A number that can't be compressed; on this rank.
    #[error("element {element} is {value}: only finite numbers can be compressed")]
    NotFinite {
        /// Its place in the range that was to be summed.
        element: usize,
        /// What it is.
        value: f32,
    },
    /// A rank sent what can't be right.
    #[error("rank {rank} sent a compressed block that can't be right: {fault}")]
    Payload {
        /// The rank.
        rank: Rank,
        /// What is wrong with it.
        fault: PayloadFault,
    },
    /// The operating system refused a socket, a pipe, a timer or a poll.
    #[error("cannot {attempted}")]
    System {
        /// What was attempted.
        attempted: &'static str,
        /// Its error.
        source: Arc<io::Error>,
    },
    /// A neighbour belongs to another ring, or sees this one otherwise.
    #[error("{peer} {mismatch}")]
    Handshake {
        /// The rank and address that the peer showed.
        peer: Peer,
        /// The field.
        mismatch: Mismatch,
    },
    /// A rank that was called has another key than it announced, or doesn't take this rank's.
    #[error("{peer} and this rank do not trust each other's keys: {source}")]
    Untrusted {
        /// The rank.
        peer: Peer,
        /// What TLS says.
        source: Arc<io::Error>,
    },
    /// The next rank's listener went away after it had answered once.
    #[error("{peer} stopped listening before it answered the handshake")]
    NeighbourGone {
        /// The next rank.
        peer: Peer,
        /// What the last attempt to connect returned.
        source: Arc<io::Error>,
    },
    /// Not both neighbours were there in time.
    #[error("the ring did not close within {deadline:?}: {gap}")]
    ConnectDeadline {
        /// [`RingOptions::connect_deadline`](crate::RingOptions::connect_deadline).
        deadline: Duration,
        /// Who was missing, and why.
        gap: Box<RingGap>,
    },
    /// A neighbour's socket closed during an operation: it died, failed, or left the ring.
    #[error("{peer} closed its connection ({neighbour}) during {at}")]
    PeerClosed {
        /// The neighbour.
        peer: Peer,
        /// On which side it stands.
        neighbour: Neighbour,
        /// How far this rank was with it.
        at: Box<Position>,
        /// The socket's error; none if the peer closed in order.
        source: Option<Arc<io::Error>>,
    },
    /// No byte moved for the progress deadline.
    #[error("no byte moved for {deadline:?} during {at}: waiting for {}",
        waiting(.receive_from, .send_to))]
    Stalled {
        /// [`RingOptions::progress_deadline`](crate::RingOptions::progress_deadline).
        deadline: Duration,
        /// How far this rank was.
        at: Box<Position>,
        /// The rank before this one, if this rank waits for bytes from it.
        receive_from: Option<Peer>,
        /// The next rank, if it has not taken bytes that are ready for it.
        send_to: Option<Peer>,
    },
    /// A neighbour sent what doesn't belong there. The operand was not touched by it.
    #[error("{peer} sent a wrong frame during {at}: {fault}")]
    BadFrame {
        /// The neighbour.
        peer: Peer,
        /// How far this rank was.
        at: Box<Position>,
        /// What is wrong with it.
        fault: FrameFault,
    },
    /// [`AbortSignal::abort`](crate::AbortSignal::abort) was called.
    #[error("aborted: {reason}")]
    Aborted {
        /// The words given to `abort`.
        reason: String,
    },
    /// An operation [in flight](crate::Ring::in_flight) that did nothing, since one before it failed.
    #[error("operation {operation} did not begin: {first}")]
    NotBegun {
        /// Its number.
        operation: u64,
        /// The error of the one that failed.
        #[source]
        first: Arc<CollectiveError>,
    },
    /// What was [started](crate::InFlight::start) made another number of calls than it said.
    #[error("{made} operations from operation {operation} on, where {expected} were announced")]
    CallCount {
        /// The number of the first.
        operation: u64,
        /// What was said.
        expected: u32,
        /// What was done.
        made: u64,
    },
    /// The ring is of no use since an earlier call failed.
    #[error("the ring failed earlier: {first}")]
    Poisoned {
        /// The first error.
        #[source]
        first: Arc<CollectiveError>,
    },
}

impl CollectiveError {
    /// True if the caller passed something that is not allowed. Such a call did nothing.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(
            self,
            Self::WorldOutOfRange { .. }
                | Self::RankOutsideWorld { .. }
                | Self::AddressCount { .. }
                | Self::KeyCount { .. }
                | Self::OptionOutOfRange { .. }
                | Self::TooManyElements { .. }
                | Self::BlockLength { .. }
                | Self::ReplicaLength { .. }
                | Self::ReplicaCount { .. }
                | Self::ReplicaWorld { .. }
                | Self::CompressedRange { .. }
                | Self::MatrixCut { .. }
        )
    }

    /// The ranks that this one holds responsible: a neighbour that closed, erred or was silent. It
    /// may in turn have failed because of its own neighbour. Of several ranks that stalled, the
    /// one whose [`Position`] is furthest behind stands next to the one that hangs.
    #[must_use]
    pub fn accused(&self) -> Vec<Rank> {
        match self {
            Self::Handshake { peer, .. }
            | Self::NeighbourGone { peer, .. }
            | Self::Untrusted { peer, .. }
            | Self::PeerClosed { peer, .. }
            | Self::BadFrame { peer, .. } => vec![peer.rank],
            Self::Stalled {
                receive_from,
                send_to,
                ..
            } => ranks(receive_from.iter().chain(send_to)),
            Self::ConnectDeadline { gap, .. } => {
                ranks(gap.next.iter().map(|next| &next.peer).chain(&gap.prev))
            }
            Self::Payload { rank, .. } => vec![*rank],
            Self::Poisoned { first } | Self::NotBegun { first, .. } => first.accused(),
            _ => Vec::new(),
        }
    }

    /// The same with ranks as another ring numbers them.
    pub(crate) fn with_ranks(mut self, rank_of: impl Fn(Rank) -> Rank) -> Self {
        match &mut self {
            Self::PeerClosed { peer, .. } | Self::BadFrame { peer, .. } => {
                peer.rank = rank_of(peer.rank);
            }
            Self::Stalled {
                receive_from,
                send_to,
                ..
            } => {
                for peer in receive_from.iter_mut().chain(send_to) {
                    peer.rank = rank_of(peer.rank);
                }
            }
            _ => {}
        }
        self
    }

    /// The same as an error of `operation`, whose parts have the numbers after `before`.
    pub(crate) fn of_operation(mut self, operation: u64, before: u64) -> Self {
        if let Self::PeerClosed { at, .. } | Self::BadFrame { at, .. } | Self::Stalled { at, .. } =
            &mut self
        {
            at.operation = operation;
            if let Some(call) = at.last_sign.call_mut() {
                call.operation = match call.operation <= before {
                    true => operation - 1,
                    false => operation,
                };
            }
        }
        self
    }

    pub(crate) fn system(attempted: &'static str, error: impl Into<io::Error>) -> Self {
        Self::System {
            attempted,
            source: Arc::new(error.into()),
        }
    }
}

fn ranks<'a>(peers: impl Iterator<Item = &'a Peer>) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = peers.map(|peer| peer.rank).collect();
    ranks.dedup();
    ranks
}

fn waiting(receive_from: &Option<Peer>, send_to: &Option<Peer>) -> String {
    match (receive_from, send_to) {
        (Some(prev), Some(next)) => format!("bytes from {prev}, and for {next} to take bytes"),
        (Some(prev), None) => format!("bytes from {prev}"),
        (None, Some(next)) => format!("{next} to take bytes"),
        (None, None) => "nothing".to_owned(),
    }
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Over TCP.
    Tcp(SocketAddr),
    /// In shared memory.
    SameHost,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "at {addr}"),
            Self::SameHost => f.write_str("on this host"),
        }
    }
}

/// A rank and where it is. Shown as `rank 2 at 10.0.0.3:41231` or `rank 2 on this host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its position.
    pub rank: Rank,
    /// Where it listened, or, in a handshake that it began, where it called from.
    pub addr: Address,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} {}", self.rank, self.addr)
    }
}

/// On which side of this rank a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// This rank sends to it.
    Next,
    /// This rank receives from it.
    Prev,
    /// Both see the same memory.
    SameHost,
    /// Both send to each other, beside the ring.
    Direct,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Next => "the next rank",
            Self::Prev => "the rank before",
            Self::SameHost => "in shared memory",
            Self::Direct => "a rank beside the ring",
        })
    }
}

/// How far an operation had come on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of the operation on this ring, from 1.
    pub operation: u64,
    /// Which one it is.
    pub kind: Kind,
    /// The phase of the message under way.
    pub phase: Phase,
    /// The number of that message, from 0.
    pub step: u32,
    /// The number of messages in the operation.
    pub steps: u32,
    /// Payload bytes of that message that moved.
    pub bytes_done: u64,
    /// Payload bytes of that message.
    pub bytes_expected: u64,
    /// The last thing that the rank on that side was known to do.
    pub last_sign: LastSign,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "operation {} ({}), {} step {} of {}, after {} of {} bytes ({})",
            self.operation,
            self.kind,
            self.phase,
            self.step + 1,
            self.steps,
            self.bytes_done,
            self.bytes_expected,
            self.last_sign
        )
    }
}

/// What was missing when a connect deadline passed.
#[derive(Clone, Debug, Default)]
pub struct RingGap {
    /// The next rank, if it did not answer.
    pub next: Option<Unreached>,
    /// The rank before this one, if it did not call.
    pub prev: Option<Peer>,
    /// The last caller that was dropped, and why.
    pub dropped: Option<(Address, String)>,
}

/// A next rank that did not answer.
#[derive(Clone, Debug)]
pub struct Unreached {
    /// The rank.
    pub peer: Peer,
    /// Why the last attempt failed; none if the first one is still under way.
    pub last: Option<Arc<io::Error>>,
}

impl fmt::Display for RingGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(Unreached { peer, last }) = &self.next {
            write!(f, "{peer} did not answer")?;
            if let Some(error) = last {
                write!(f, " (last attempt: {error})")?;
            }
            separator = "; ";
        }
        if let Some(peer) = &self.prev {
            write!(f, "{separator}{peer} did not call")?;
            if let Some((addr, why)) = &self.dropped {
                write!(f, " (last caller dropped: one {addr}, {why})")?;
            }
        }
        Ok(())
    }
}
