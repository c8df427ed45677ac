//! What the shell may look at.

use ringfold_common::ids::{JobId, Revision};

use super::Core;
use super::state::{Job, Run};
use crate::config::CoreConfig;
use crate::record::{JobRecord, Snapshot};
use crate::view::{JobEvents, JobView, SlotState, SlotView};

impl Core {
    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// The revision of the store after the last commit that this core asked for.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What the store holds after the last commit that this core asked for.
    #[must_use]
    pub fn durable(&self) -> Snapshot {
        let durable = |job: &Job| JobRecord {
            reason: job.durable_reason.clone(),
            ..job.record.clone()
        };
        Snapshot {
            revision: self.revision,
            next_job: self.next_job,
            jobs: self.jobs.values().map(durable).collect(),
        }
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<JobView<'_>> {
        self.jobs.get(&id).map(|job| self.view(job))
    }

    /// Every job that is kept, by id.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = JobView<'_>> {
        self.jobs.values().map(|job| self.view(job))
    }

    /// The events of a job with numbers above `after`; `after` 0 asks for all. `None` if the job
    /// is unknown.
    #[must_use]
    pub fn events_after(&self, job: JobId, after: u64) -> Option<JobEvents<'_>> {
        Some(self.jobs.get(&job)?.log.after(after))
    }

    /// Every registered slot, by node and slot id: the slots of one node stand together.
    pub fn slots(&self) -> impl Iterator<Item = SlotView<'_>> {
        let mut views: Vec<_> = self
            .slots
            .iter()
            .map(|(id, slot)| SlotView {
                slot: *id,
                info: &slot.info,
                state: match slot.post {
                    None => match slot.joining {
                        Some(joining) => SlotState::Joining(joining.job),
                        None => SlotState::Free,
                    },
                    Some(post) if post.stopping => SlotState::Stopping(post.fence),
                    Some(post) => SlotState::Assigned(post.fence),
                },
            })
            .collect();
        // Stable: the slots of a node stay in the order of their ids.
        views.sort_by_key(|view| &view.info.node);
        views.into_iter()
    }

    /// Messages that were dropped because their sender, fence or order did not fit.
    #[must_use]
    pub fn stale_messages(&self) -> u64 {
        self.stale_messages
    }

    fn view<'a>(&self, job: &'a Job) -> JobView<'a> {
        let id = job.record.id;
        let ranks = job.run.as_ref().map(Run::reports);
        JobView {
            record: &job.record,
            ranks: ranks.unwrap_or_else(|| job.record.ranks.clone()),
            progress: job.progress.as_ref().or(job.record.progress.as_ref()),
            evaluation: job.record.evaluation.as_ref(),
            queue_position: self
                .queue
                .contains(&id)
                .then(|| self.queue.range(..id).count()),
        }
    }
}
