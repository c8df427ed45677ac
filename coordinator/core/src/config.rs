//! What an operator may tune, and every limit.

use std::time::Duration;

/// Timings and limits of a core. Each limit's full case is refused or trimmed, never an error of
/// the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// A slot that is silent for longer is closed, and its rank fails.
    pub lease: Duration,
    /// How long a job that shows only a secondary sign of a fault waits for the first cause.
    pub blame_grace: Duration,
    /// How long a job that goes on after a fault waits for the ranks of its last world to stop:
    /// they hold its state.
    pub stop_wait: Duration,
    /// How long a job that ran waits, after a restart of the coordinator, until as many slots are
    /// free as it has workers. Then it goes on with those that are there.
    pub rejoin_wait: Duration,
    /// How long a node that a job has just lost a rank on is not asked to join it again. Doubles with
    /// each loss, up to [`Self::HOLD_OFF_MAX`].
    pub hold_off: Duration,
    /// Jobs that may be queued. More are refused.
    pub queued_jobs_max: usize,
    /// Ended jobs that are kept. Those that ended first are dropped.
    pub ended_jobs_max: usize,
    /// Events that are kept of each job; at least one. The oldest are dropped.
    pub events_per_job_max: usize,
    /// Bytes of a client token. Longer ones are refused.
    pub token_bytes_max: usize,
    /// Slots that may be registered. More are closed; a job that needs more is refused.
    pub slots_max: usize,
}

impl CoreConfig {
    /// Default of [`Self::lease`].
    pub const LEASE: Duration = Duration::from_secs(10);
    /// Default of [`Self::blame_grace`].
    pub const BLAME_GRACE: Duration = Duration::from_secs(2);
    /// Default of [`Self::stop_wait`].
    pub const STOP_WAIT: Duration = Duration::from_secs(30);
    /// Default of [`Self::rejoin_wait`].
    pub const REJOIN_WAIT: Duration = Duration::from_secs(10);
    /// Default of [`Self::hold_off`].
    pub const HOLD_OFF: Duration = Duration::from_millis(500);
    /// The most that [`Self::hold_off`] grows to.
    pub const HOLD_OFF_MAX: Duration = Duration::from_secs(60);
    /// Default of [`Self::queued_jobs_max`].
    pub const QUEUED_JOBS_MAX: usize = 1_000;
    /// Default of [`Self::ended_jobs_max`].
    pub const ENDED_JOBS_MAX: usize = 1_000;
    /// Default of [`Self::events_per_job_max`].
    pub const EVENTS_PER_JOB_MAX: usize = 1_000;
    /// Default of [`Self::token_bytes_max`].
    pub const TOKEN_BYTES_MAX: usize = 128;
    /// Default of [`Self::slots_max`].
    pub const SLOTS_MAX: usize = 4_096;
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            lease: Self::LEASE,
            blame_grace: Self::BLAME_GRACE,
            stop_wait: Self::STOP_WAIT,
            rejoin_wait: Self::REJOIN_WAIT,
            hold_off: Self::HOLD_OFF,
            queued_jobs_max: Self::QUEUED_JOBS_MAX,
            ended_jobs_max: Self::ENDED_JOBS_MAX,
            events_per_job_max: Self::EVENTS_PER_JOB_MAX,
            token_bytes_max: Self::TOKEN_BYTES_MAX,
            slots_max: Self::SLOTS_MAX,
        }
    }
}
