//! What is durable.

use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::DatasetInfo;
use ringfold_common::ids::{JobId, MembershipEpoch, Revision};
use ringfold_common::job::{
    Evaluation, JobSpec, JobState, Progress, RankReport, Reason, Restart, Summary,
};
use serde::{Deserialize, Serialize};

/// A job, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id. Never used again, even after the job was dropped.
    pub id: JobId,
    /// What to train.
    pub spec: JobSpec,
    /// What its dataset was found to hold.
    pub dataset: DatasetInfo,
    /// The token that it was submitted under.
    pub client_token: Option<String>,
    /// Where it stands.
    pub state: JobState,
    /// Why. Of a job that is queued, starting, or waits for ranks to come back, the store may hold an
    /// older reason than the core.
    pub reason: Reason,
    /// The number of its last world; 0 before its first start. It only grows.
    pub membership_epoch: MembershipEpoch,
    /// When it was submitted.
    pub submitted: UnixMillis,
    /// When it last started; unset while it is queued.
    pub started: Option<UnixMillis>,
    /// When it ended.
    pub finished: Option<UnixMillis>,
    /// The ranks of its world, in order; empty while it is queued. Ring addresses are durable
    /// from [`JobState::Running`] on.
    pub ranks: Vec<RankReport>,
    /// The last progress. Durable with the job's end only.
    pub progress: Option<Progress>,
    /// The last evaluation of its world.
    pub evaluation: Option<Evaluation>,
    /// Faults that it has survived, of those that its spec allows.
    #[serde(default)]
    pub restarts_used: u32,
    /// What took it out of a world before its end, oldest first: the last
    /// [`RESTARTS_KEPT`](Self::RESTARTS_KEPT).
    #[serde(default)]
    pub restarts: Vec<Restart>,
    /// How it ended, in [`JobState::Succeeded`] only.
    pub summary: Option<Summary>,
    /// No event of the job that was published has this number or a higher one. Numbers are
    /// reserved ahead, so that progress needs no commit; after a restart, events go on from here,
    /// and the numbers that were skipped count as events that are no longer kept. Exact once the
    /// job has ended: its last event is then the one that ended it.
    pub next_event_sequence: u64,
    /// The commit that ended it: the order in which ended jobs are dropped.
    pub ended_revision: Option<Revision>,
}

impl JobRecord {
    /// The most [`restarts`](Self::restarts) that are kept.
    pub const RESTARTS_KEPT: usize = 16;
}

/// One durable change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Add the job, or replace it.
    PutJob(Box<JobRecord>),
    /// Forget the job.
    DropJob(JobId),
    /// The id that the next job gets.
    SetNextJob(JobId),
}

/// Everything that is durable, at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Grows by one with every commit; 0 for a store that was never written.
    pub revision: Revision,
    /// The id that the next job gets. Ids start at 1.
    pub next_job: JobId,
    /// Every job that is kept, by id.
    pub jobs: Vec<JobRecord>,
}

impl Default for Snapshot {
    /// An empty store.
    fn default() -> Self {
        Self {
            revision: Revision(0),
            next_job: JobId(1),
            jobs: Vec::new(),
        }
    }
}

impl Snapshot {
    /// What the snapshot is after a commit of `changes`: the meaning of a commit, for every store.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutJob(record) => {
                    match self.jobs.binary_search_by_key(&record.id, |job| job.id) {
                        Ok(at) => self.jobs[at] = (**record).clone(),
                        Err(at) => self.jobs.insert(at, (**record).clone()),
                    }
                }
                Change::DropJob(id) => self.jobs.retain(|job| job.id != *id),
                Change::SetNextJob(id) => self.next_job = *id,
            }
        }
        self.revision = self.revision.next();
    }
}
