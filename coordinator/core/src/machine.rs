//! The state, and the way from an event to its effects.

use std::collections::BTreeMap;

use ringfold_common::ids::{JobId, Revision, SlotId};

use crate::config::CoreConfig;
use crate::effect::Effect;
use crate::event::{Event, Now};
use crate::record::{JobRecord, Snapshot};
use crate::view::{JobEvents, JobView, SlotView};

/// The coordinator's state machine. See the crate's documentation for the contract.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    revision: Revision,
    next_job: JobId,
    jobs: BTreeMap<JobId, JobRecord>,
    slots: BTreeMap<SlotId, ()>,
    stale_messages: u64,
}

impl Core {
    /// A core that knows what the store holds, and no slot. Perform the effects as those of
    /// [`Self::apply`]: jobs that ran are queued again.
    #[must_use]
    pub fn restore(config: CoreConfig, snapshot: Snapshot, now: Now) -> (Self, Vec<Effect>) {
        let _ = now;
        let core = Self {
            config,
            revision: snapshot.revision,
            next_job: snapshot.next_job,
            jobs: snapshot.jobs.into_iter().map(|job| (job.id, job)).collect(),
            slots: BTreeMap::new(),
            stale_messages: 0,
        };
        (core, Vec::new())
    }

    /// Takes one event and returns what to do about it, in order.
    #[must_use]
    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let _ = (now, event);
        Vec::new()
    }

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
        Snapshot {
            revision: self.revision,
            next_job: self.next_job,
            jobs: self.jobs.values().cloned().collect(),
        }
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<JobView<'_>> {
        self.jobs.get(&id).map(|record| JobView {
            record,
            ranks: record.ranks.clone(),
            progress: record.progress.as_ref(),
            evaluation: record.evaluation.as_ref(),
            queue_position: None,
        })
    }

    /// Every job that is kept, by id.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = JobView<'_>> {
        self.jobs.keys().filter_map(|id| self.job(*id))
    }

    /// The events of a job with numbers above `after`; `after` 0 asks for all. `None` if the job
    /// is unknown.
    #[must_use]
    pub fn events_after(&self, job: JobId, after: u64) -> Option<JobEvents<'_>> {
        let record = self.jobs.get(&job)?;
        Some(JobEvents {
            oldest_sequence: record.next_event_sequence,
            next_sequence: record.next_event_sequence,
            missed: after + 1 < record.next_event_sequence,
            events: Vec::new(),
        })
    }

    /// Every registered slot, by node and slot id: the slots of one node stand together.
    pub fn slots(&self) -> impl Iterator<Item = SlotView<'_>> {
        self.slots.keys().filter_map(|_| None)
    }

    /// Messages that were dropped because their sender, fence or order did not fit.
    #[must_use]
    pub fn stale_messages(&self) -> u64 {
        self.stale_messages
    }
}
