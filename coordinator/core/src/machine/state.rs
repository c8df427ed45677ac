//! The parts of the state.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfold_common::ids::{JobId, NodeName, Rank, RingKey, SlotId};
use ringfold_common::job::{JobEvent, JobEventKind, Phase, Progress, RankReport, Reason, Summary};

use crate::blame::Blame;
use crate::event::{Fence, SlotInfo};
use crate::log::EventLog;
use crate::record::JobRecord;

/// A registered worker process.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) info: SlotInfo,
    /// When it was last heard, on the monotonic clock.
    pub(super) heard: Duration,
    /// The rank that it is, or was and has not yet stopped being.
    pub(super) post: Option<Post>,
    /// True while it has no stream: its rank goes on, and may come back until the lease is over.
    pub(super) away: bool,
    /// The job that it gets ready to join, while it has no post.
    pub(super) joining: Option<Joining>,
}

/// A free slot on its way into a job that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joining {
    pub(super) job: JobId,
    /// True once it has the data.
    pub(super) ready: bool,
}

/// A node that a job lost ranks on.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldOff {
    pub(super) losses: u32,
    /// Until when it is not asked to join, on the monotonic clock.
    pub(super) until: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    pub(super) fence: Fence,
    /// True once the rank was told to abort.
    pub(super) stopping: bool,
}

/// A job that is kept.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    /// The reason in the store; the rest of the record is what the store holds.
    pub(super) durable_reason: Reason,
    pub(super) log: EventLog,
    pub(super) run: Option<Run>,
    /// Set while it is queued again: what it waits for before it goes on with fewer ranks.
    pub(super) wait: Option<Wait>,
    /// The slots of its last world, in rank order: they may hold its state.
    pub(super) last_seats: Vec<SlotId>,
    /// Nodes that it lost ranks on.
    pub(super) held_off: BTreeMap<NodeName, HoldOff>,
    /// The last progress of the run.
    pub(super) progress: Option<Progress>,
}

impl Job {
    pub(super) fn new(record: JobRecord, events_max: usize) -> Self {
        Self {
            log: EventLog::new(record.next_event_sequence, events_max),
            durable_reason: record.reason.clone(),
            record,
            run: None,
            wait: None,
            last_seats: Vec::new(),
            held_off: BTreeMap::new(),
            progress: None,
        }
    }

    /// A job from the store. The last event of one that has ended is known: it is its end.
    pub(super) fn restore(record: JobRecord, events_max: usize) -> Self {
        let mut job = Self::new(record, events_max);
        if let Some(finished) = job.record.finished
            && job.record.next_event_sequence > 1
        {
            let record = &job.record;
            job.log = EventLog::new(record.next_event_sequence - 1, events_max);
            job.log.push(|sequence| JobEvent {
                job: record.id,
                sequence,
                at: finished,
                membership_epoch: record.membership_epoch,
                kind: JobEventKind::State {
                    state: record.state,
                    reason: record.reason.clone(),
                    summary: record.summary.clone().map(Box::new),
                },
            });
        }
        job
    }
}

/// What a job that ran before waits for. Then its minimum of slots is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For the ranks of its last world to stop, but not past this time.
    ItsRanks(Duration),
    /// For as many slots as it has workers, but not past this time.
    Workers(Duration),
}

/// One world of a job.
#[derive(Debug)]
pub(super) struct Run {
    /// In rank order.
    pub(super) seats: Vec<Seat>,
    /// Set from the first sign of a fault on.
    pub(super) blame: Option<Blame>,
    /// From rank 0, once it has finished.
    pub(super) summary: Option<Summary>,
}

/// One rank of a world.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: SlotId,
    pub(super) report: RankReport,
    /// What it announced, if it did.
    pub(super) ring_key: Option<RingKey>,
    pub(super) stage: Stage,
    /// What it was last known to do.
    pub(super) phase: Phase,
}

/// How far a rank has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It loads its data.
    Loading,
    /// It waits for its neighbours.
    Listening,
    /// Its part of the ring is formed.
    Training,
    /// It is done: what becomes of its slot no longer matters.
    Finished,
}

impl Run {
    pub(super) fn world(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn seat(&self, rank: Rank) -> Option<&Seat> {
        self.seats.get(usize::try_from(rank.0).ok()?)
    }

    pub(super) fn seat_mut(&mut self, rank: Rank) -> Option<&mut Seat> {
        self.seats.get_mut(usize::try_from(rank.0).ok()?)
    }

    pub(super) fn reports(&self) -> Vec<RankReport> {
        self.seats.iter().map(|seat| seat.report.clone()).collect()
    }

    pub(super) fn all_at(&self, stage: Stage) -> bool {
        self.seats.iter().all(|seat| seat.stage == stage)
    }
}
