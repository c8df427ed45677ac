//! What the coordinator does about it.

use std::fmt;
use std::sync::Arc;

use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::{DatasetInfo, RankPart};
use ringfold_common::error::ErrorCode;
use ringfold_common::ids::{JobId, Revision, RingKey, SlotId, SpecHash};
use ringfold_common::job::{JobEvent, JobSpec, JobState, SpecError};

use crate::event::{Fence, RequestId};
use crate::record::Change;

/// One thing for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make these changes durable, all or none. Always the first effect of its batch; the others
    /// wait for it. The revision after it is `expected.next()`.
    Commit {
        /// The revision that the store must be at.
        expected: Revision,
        /// What changes. Never empty.
        changes: Vec<Change>,
    },
    /// Send a command to a slot. If its stream is gone, drop it: the stream's end is on its way.
    Send {
        /// To whom.
        slot: SlotId,
        /// What.
        command: Command,
    },
    /// End a slot's session; the core knows it no more. An end of stream that follows is ignored.
    CloseSlot {
        /// Whose.
        slot: SlotId,
        /// Why; tell the worker, if it can still hear it.
        reason: CloseReason,
    },
    /// Answer a client.
    Reply {
        /// To which request.
        request: RequestId,
        /// With what.
        result: Result<Reply, Refusal>,
    },
    /// Hand an event to whoever follows the job.
    Publish(JobEvent),
}

/// What a slot is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Become a rank: load the data, listen, and say
    /// [`RankListening`](crate::Event::RankListening).
    Assign(Assignment),
    /// Load the data of a job that goes on meanwhile, and say
    /// [`Prepared`](crate::Event::Prepared). Any [`Assign`](Self::Assign) ends it.
    Prepare(Preparation),
    /// All ranks listen: connect to the neighbours.
    StartRing {
        /// Whom it is for.
        fence: Fence,
        /// Where the ranks listen, in rank order.
        peers: Vec<String>,
        /// With `cluster.tls` the keys that they announced, in rank order; else none.
        keys: Vec<RingKey>,
    },
    /// Stop, and say [`RankStopped`](crate::Event::RankStopped). A rank that has ended by then has
    /// said so itself, and ignores this.
    Abort {
        /// Whom it is for.
        fence: Fence,
        /// Why, for the log.
        reason: String,
    },
}

/// Everything that a rank needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Who the slot is now.
    pub fence: Fence,
    /// Ranks of the world.
    pub world: u32,
    /// What to train. Shared by all ranks' assignments.
    pub spec: Arc<JobSpec>,
    /// What the dataset must turn out to be. Shared likewise.
    pub dataset: Arc<DatasetInfo>,
    /// This rank's part.
    pub part: RankPart,
    /// What all ranks of the ring must agree on.
    pub spec_hash: SpecHash,
    /// When the job was submitted: tells it from one of the same id that another store knew.
    pub submitted: UnixMillis,
}

/// What a slot needs to know to get ready for a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// Which job.
    pub job: JobId,
    /// When it was submitted, as in [`Assignment::submitted`].
    pub submitted: UnixMillis,
    /// What it trains.
    pub spec: Arc<JobSpec>,
    /// What the dataset must turn out to be.
    pub dataset: Arc<DatasetInfo>,
    /// As in [`Assignment::spec_hash`].
    pub spec_hash: SpecHash,
}

/// Why the coordinator ends a slot's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It was silent for longer than its lease.
    LeaseExpired {
        /// Milliseconds since it was last heard.
        silent_ms: u64,
    },
    /// Its agent says that its process has ended.
    ProcessEnded,
    /// As many slots are registered as the configuration allows.
    SlotsFull {
        /// That many.
        max: usize,
    },
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseExpired { silent_ms } => {
                write!(f, "silent for {silent_ms} ms, longer than the lease")
            }
            Self::ProcessEnded => f.write_str("its process has ended"),
            Self::SlotsFull { max } => write!(f, "{max} slots are registered, the most allowed"),
        }
    }
}

impl CloseReason {
    /// The code at the edge.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::LeaseExpired { .. } => ErrorCode::DeadlineExceeded,
            Self::ProcessEnded => ErrorCode::Aborted,
            Self::SlotsFull { .. } => ErrorCode::ResourceExhausted,
        }
    }
}

/// A request that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The job is durable and queued, or started.
    Submitted {
        /// Its id.
        job: JobId,
        /// True if an earlier submission with the same token made it.
        existing: bool,
    },
    /// The job is cancelled.
    Cancelled {
        /// Its id.
        job: JobId,
        /// True if it was cancelled before.
        already: bool,
    },
}

/// A request that was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such job, or it ended so long ago that it was dropped.
    #[error("{job} is unknown")]
    UnknownJob {
        /// The id asked for.
        job: JobId,
    },
    /// It has ended, and not by being cancelled.
    #[error("{job} has {state} already")]
    JobEnded {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// A value of the spec can't be right.
    #[error(transparent)]
    InvalidSpec(#[from] SpecError),
    /// The queue holds as many jobs as it may.
    #[error("the queue holds {max} jobs, the most allowed")]
    QueueFull {
        /// That many.
        max: usize,
    },
    /// It needs more slots than may ever be registered.
    #[error("cluster.workers is {workers}, and at most {max} slots can register")]
    TooManyWorkers {
        /// Ranks of the job.
        workers: u32,
        /// Slots at most.
        max: usize,
    },
    /// The client's token is too long.
    #[error("the client token has {bytes} bytes, more than the {max} allowed")]
    TokenTooLong {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The client's token already names a job with another spec.
    #[error("the client token {token:?} belongs to {job}, which has another spec")]
    TokenTaken {
        /// The token.
        token: String,
        /// The job that has it.
        job: JobId,
    },
}

impl Refusal {
    /// The code at the edge.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownJob { .. } => ErrorCode::NotFound,
            Self::JobEnded { .. } => ErrorCode::FailedPrecondition,
            Self::InvalidSpec(_) | Self::TokenTooLong { .. } => ErrorCode::InvalidArgument,
            Self::QueueFull { .. } | Self::TooManyWorkers { .. } => ErrorCode::ResourceExhausted,
            Self::TokenTaken { .. } => ErrorCode::AlreadyExists,
        }
    }
}
