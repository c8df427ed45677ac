//! Where a job stands, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, NodeName, Rank, Step};

/// A job's state. Once terminal, it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; waits for its turn and for slots.
    Queued,
    /// Slots are taken; ranks load data and form the ring.
    Starting,
    /// Ranks train.
    Running,
    /// Done; the model is saved.
    Succeeded,
    /// Ended by a fault, which the reason names.
    Failed,
    /// Ended by a user.
    Cancelled,
}

impl JobState {
    /// True if the job has ended for good.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The name used everywhere: CLI, logs, JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a job is in its state. Its text is the one that CLI, log and API show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is next, and not enough slots are free.
    NeedsSlots {
        /// Slots that it needs at once.
        needed: u32,
        /// Slots that are free now.
        free: u32,
        /// Slots that are registered, free or not.
        registered: u32,
    },
    /// Another job is before it in the queue.
    Behind {
        /// The job at the head of the queue.
        head: JobId,
        /// Jobs before this one.
        ahead: u32,
    },
    /// It ran, the coordinator was restarted, and it waits for its workers to go on.
    CoordinatorRestarted,
    /// A fault took a rank away, and the job goes on with those that it can get.
    Recovering {
        /// What happened.
        failure: Failure,
        /// Faults that it has survived, this one included.
        used: u32,
        /// Faults that it may survive.
        budget: u32,
    },
    /// Slots have joined, and the job goes on with more ranks.
    Growing {
        /// Ranks before.
        from: u32,
        /// Ranks after, if all are there still.
        to: u32,
    },
    /// The coordinator was restarted, and has not heard from all ranks yet; they go on meanwhile.
    Rejoining {
        /// Ranks that it has heard from.
        heard: u32,
        /// Ranks in all.
        world: u32,
    },
    /// Ranks are loading data and opening their listeners.
    FormingRing {
        /// Ranks that are ready.
        ready: u32,
        /// Ranks in all.
        world: u32,
    },
    /// All ranks train.
    Training,
    /// The last step is done and the model is saved.
    Finished,
    /// A user cancelled it.
    CancelledByUser,
    /// A fault ended it.
    Failed(Failure),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsSlots {
                needed,
                free,
                registered,
            } => write!(
                f,
                "waiting: needs {needed} {}, {free} free of {registered} registered",
                if *needed == 1 { "slot" } else { "slots" },
            ),
            Self::Behind { head, ahead } => {
                write!(f, "waiting: {ahead} ahead in the queue, {head} is first")
            }
            Self::CoordinatorRestarted => f.write_str(
                "waiting: the coordinator was restarted; the job goes on with its workers",
            ),
            Self::Recovering {
                failure,
                used,
                budget,
            } => write!(f, "recovering from fault {used} of {budget}: {failure}"),
            Self::Rejoining { heard, world } => write!(
                f,
                "training: the coordinator was restarted and has heard from {heard} of {world} ranks"
            ),
            Self::Growing { from, to } => write!(f, "growing from {from} to {to} ranks"),
            Self::FormingRing { ready, world } => {
                write!(
                    f,
                    "starting: {ready} of {world} ranks have loaded their data"
                )
            }
            Self::Training => f.write_str("training"),
            Self::Finished => f.write_str("finished"),
            Self::CancelledByUser => f.write_str("cancelled by a user"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// The first cause of a job's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rank where it happened, if it happened on one.
    pub rank: Option<Rank>,
    /// The node of that rank.
    pub node: Option<NodeName>,
    /// The host of that node.
    pub host: Option<String>,
    /// What the rank was last known to do.
    pub phase: Phase,
    /// What happened.
    pub cause: Cause,
    /// The last lines that the rank's process wrote, oldest first. At most
    /// [`Failure::LOG_LINES_MAX`].
    pub log_tail: Vec<String>,
}

impl Failure {
    /// The most lines that [`Failure::log_tail`] holds.
    pub const LOG_LINES_MAX: usize = 20;
    /// The most bytes of one such line; the rest is cut off.
    pub const LOG_LINE_BYTES_MAX: usize = 1024;
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rank) = self.rank {
            write!(f, "rank {rank}")?;
            match (&self.node, &self.host) {
                (Some(node), Some(host)) if node.0 != *host => {
                    write!(f, " on node {node} (host {host})")?;
                }
                (_, Some(host)) => write!(f, " on host {host}")?,
                (Some(node), None) => write!(f, " on node {node}")?,
                (None, None) => {}
            }
            f.write_str(" ")?;
        }
        write!(f, "{} while {}", self.cause, self.phase)?;
        match self.log_tail.last() {
            Some(last) if !self.cause.is_said() => write!(f, "; last log line: {last}"),
            _ => Ok(()),
        }
    }
}

/// What a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing of the job yet.
    Starting,
    /// Reading the dataset.
    LoadingData,
    /// Connecting to its neighbours.
    FormingRing,
    /// In a step.
    Training(Step),
    /// Evaluating the test records.
    Evaluating(Step),
    /// Writing the model.
    Saving,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::LoadingData => f.write_str("loading data"),
            Self::FormingRing => f.write_str("forming the ring"),
            Self::Training(step) => write!(f, "training step {step}"),
            Self::Evaluating(step) => write!(f, "evaluating after step {step}"),
            Self::Saving => f.write_str("saving the model"),
        }
    }
}

/// What happened to a rank or a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its process ended with this exit code.
    Exited(i32),
    /// A signal ended its process.
    Signalled(i32),
    /// Its session with the coordinator was closed, and nobody said why.
    ConnectionLost,
    /// It was silent for longer than its lease.
    LeaseExpired {
        /// Milliseconds since it was last heard.
        silent_ms: u64,
    },
    /// It was told to stop in an orderly way (SIGTERM, Ctrl-C).
    WorkerStopped,
    /// It said what went wrong.
    Error(String),
    /// Its neighbour in the ring went away: the consequence of another rank's fault.
    PeerLost(String),
    /// Ranks that must hold the same weights don't.
    WeightsDiffer(String),
}

impl Cause {
    /// True if this is likely the consequence of another rank's fault. A rank's own cause is
    /// preferred to it.
    #[must_use]
    pub fn is_secondary(&self) -> bool {
        matches!(self, Self::PeerLost(_))
    }

    /// True if a job can go on without the rank: its process, its host or its connection is gone.
    /// What a rank says of its work would happen again elsewhere.
    #[must_use]
    pub fn is_survivable(&self) -> bool {
        match self {
            Self::Exited(_)
            | Self::Signalled(_)
            | Self::ConnectionLost
            | Self::LeaseExpired { .. }
            | Self::WorkerStopped
            | Self::PeerLost(_) => true,
            Self::Error(_) | Self::WeightsDiffer(_) => false,
        }
    }

    /// True if the rank itself said what happened: its log adds nothing.
    #[must_use]
    pub fn is_said(&self) -> bool {
        matches!(
            self,
            Self::WorkerStopped | Self::Error(_) | Self::PeerLost(_) | Self::WeightsDiffer(_)
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was killed by signal {signal} ({name})"),
                None => write!(f, "was killed by signal {signal}"),
            },
            Self::ConnectionLost => f.write_str("lost its connection to the coordinator"),
            Self::LeaseExpired { silent_ms } => {
                write!(f, "was silent for {silent_ms} ms, longer than its lease,")
            }
            Self::WorkerStopped => f.write_str("was told to stop"),
            Self::Error(message) => write!(f, "failed: {message};"),
            Self::PeerLost(message) => write!(f, "lost a peer: {message};"),
            Self::WeightsDiffer(message) => {
                write!(f, "found weights that differ: {message};")
            }
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_rank_host_signal_phase_and_last_line() {
        let failure = Failure {
            rank: Some(Rank(2)),
            node: Some(NodeName("local".into())),
            host: Some("alpha".into()),
            phase: Phase::Training(Step(31)),
            cause: Cause::Signalled(9),
            log_tail: vec!["first".into(), "last words".into()],
        };
        assert_eq!(
            failure.to_string(),
            "rank 2 on node local (host alpha) was killed by signal 9 (SIGKILL) while training \
             step 31; last log line: last words"
        );
    }

    #[test]
    fn a_failure_that_the_rank_named_needs_no_line_of_its_log() {
        let failure = Failure {
            rank: Some(Rank(1)),
            node: None,
            host: Some("alpha".into()),
            phase: Phase::LoadingData,
            cause: Cause::Error("d.csv: no such file".into()),
            log_tail: vec!["something older".into()],
        };
        assert_eq!(
            failure.to_string(),
            "rank 1 on host alpha failed: d.csv: no such file; while loading data"
        );
    }

    #[test]
    fn waiting_says_what_for() {
        let reason = Reason::NeedsSlots {
            needed: 4,
            free: 3,
            registered: 5,
        };
        assert_eq!(
            reason.to_string(),
            "waiting: needs 4 slots, 3 free of 5 registered"
        );
    }
}
