//! What happens to the coordinator.

use std::time::Duration;

use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::DatasetInfo;
pub use ringfold_common::ids::Fence;
use ringfold_common::ids::{JobId, NodeName, RingKey, SlotId};
use ringfold_common::job::{Cause, Evaluation, JobSpec, Phase, Progress, Summary};

/// The time of an event. Leases and deadlines are measured on `monotonic`; records carry `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary origin. It never goes back in the life of a core.
    pub monotonic: Duration,
    /// The wall clock. It may jump.
    pub wall: UnixMillis,
}

/// Names a request of a client, so that the shell can route the reply. The core only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What a slot's process says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// The node that it belongs to.
    pub node: NodeName,
    /// The host that it runs on.
    pub host: String,
    /// Its process id on that host.
    pub pid: u32,
    /// CPU cores that it may use.
    pub cores: u32,
    /// Bytes of memory that it may use.
    pub memory_bytes: u64,
    /// The version of its binary.
    pub version: String,
}

/// How a slot's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The worker said that it leaves: it was told to stop.
    Left,
    /// Nobody said why.
    Lost,
}

/// How a process ended, as its parent saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl From<ExitCause> for Cause {
    fn from(exit: ExitCause) -> Self {
        match exit {
            ExitCause::Exited(code) => Self::Exited(code),
            ExitCause::Signalled(signal) => Self::Signalled(signal),
        }
    }
}

/// Where a rank stands whose worker was away.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// It goes on.
    Training(Phase),
    /// It is done; from rank 0, with a summary.
    Finished(Option<Summary>),
    /// It failed.
    Failed {
        /// What happened.
        cause: Cause,
        /// What it was doing.
        phase: Phase,
        /// The last lines that it wrote, oldest first.
        log_tail: Vec<String>,
    },
}

/// One thing that happened. Every event that names a slot renews its lease.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one event lives at a time, and submissions are rare"
)]
pub enum Event {
    /// A worker opened its session. It is free. With an id that is registered already, the event
    /// is dropped and counted; past [`slots_max`](crate::CoreConfig::slots_max), the slot is
    /// closed.
    SlotRegistered {
        /// A new id, from the shell.
        slot: SlotId,
        /// What it said of itself.
        info: SlotInfo,
    },
    /// A worker opened another session. Its rank has gone on meanwhile, or ended. If the rank is still
    /// one of a world that runs, its place is this slot's now; if not, it is told to stop.
    SlotReturned {
        /// A new id, from the shell.
        slot: SlotId,
        /// What it said of itself.
        info: SlotInfo,
        /// The rank.
        fence: Fence,
        /// Where it stands.
        held: Held,
    },
    /// A heartbeat, or any message that is no other event.
    Heard {
        /// Who spoke.
        slot: SlotId,
    },
    /// A slot's stream ended. Of a job that survives faults, a rank whose ring is formed goes on
    /// without: its slot is kept for its lease, to come back by [`SlotReturned`](Self::SlotReturned).
    /// Otherwise its rank, if it has one, fails with [`Cause::ConnectionLost`] or
    /// [`Cause::WorkerStopped`]. A slot that is not registered (any more) is no fault.
    SlotClosed {
        /// Whose stream.
        slot: SlotId,
        /// How.
        end: StreamEnd,
    },
    /// A node's agent reaped the process of a slot. It may come before or after the end of the
    /// slot's stream: before, the slot is closed and its rank fails with this cause; after, a
    /// pending [`Cause::ConnectionLost`] of that process becomes this cause.
    ProcessExited {
        /// The agent's node.
        node: NodeName,
        /// The process.
        pid: u32,
        /// How it ended.
        cause: ExitCause,
        /// The last lines that it wrote, oldest first. Trimmed to the limits of
        /// [`Failure`](ringfold_common::job::Failure).
        log_tail: Vec<String>,
    },
    /// A client submits a job. Answered with one [`Effect::Reply`](crate::Effect::Reply).
    Submit {
        /// For the reply.
        request: RequestId,
        /// What to train. The core validates it.
        spec: JobSpec,
        /// What the shell learned about its dataset.
        dataset: DatasetInfo,
        /// Two submissions with one token make one job. An empty token is none.
        client_token: Option<String>,
    },
    /// A client cancels a job. Answered with one [`Effect::Reply`](crate::Effect::Reply).
    Cancel {
        /// For the reply.
        request: RequestId,
        /// Which.
        job: JobId,
    },
    /// A rank has loaded its data and listens for its neighbour.
    RankListening {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// Where it listens.
        address: String,
        /// The key that it made for this ring. With `cluster.tls`, a rank without one fails; without,
        /// it is of no use.
        key: Option<RingKey>,
    },
    /// A rank's part of the ring is formed.
    RankTraining {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
    },
    /// A rank does something else now.
    PhaseChanged {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// What it does.
        phase: Phase,
    },
    /// Training goes on. Only rank 0 speaks for the job; from others it is dropped and counted.
    Progress {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// How it goes.
        progress: Progress,
    },
    /// The test records were evaluated. Only rank 0 speaks for the job, as above.
    Evaluation {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// What came out.
        evaluation: Evaluation,
    },
    /// A rank is done.
    RankFinished {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// From rank 0, always; from others, ignored.
        summary: Option<Summary>,
    },
    /// A rank failed, and the slot is free again.
    RankFailed {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
        /// What happened.
        cause: Cause,
        /// What it was doing.
        phase: Phase,
        /// The last lines that it wrote, oldest first. Trimmed likewise.
        log_tail: Vec<String>,
    },
    /// A rank has stopped, as [`Command::Abort`](crate::Command::Abort) told it to, and the slot
    /// is free again.
    RankStopped {
        /// Who speaks.
        slot: SlotId,
        /// For whom.
        fence: Fence,
    },
    /// A slot has loaded the data of a job that it is to join, as
    /// [`Command::Prepare`](crate::Command::Prepare) asked.
    Prepared {
        /// Who speaks.
        slot: SlotId,
        /// Of which job.
        job: JobId,
    },
    /// It can't: the job goes on without it, and its node is held off.
    PrepareFailed {
        /// Who speaks.
        slot: SlotId,
        /// Of which job.
        job: JobId,
    },
    /// Time has passed. A few a second are enough.
    Tick,
}
