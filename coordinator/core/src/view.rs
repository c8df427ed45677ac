//! What the shell's queries see.

use ringfold_common::ids::{JobId, SlotId};
use ringfold_common::job::{Evaluation, JobEvent, Progress, RankReport};

use crate::event::{Fence, SlotInfo};
use crate::record::JobRecord;

/// One job, as it stands now.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView<'a> {
    /// The record, with the current reason.
    pub record: &'a JobRecord,
    /// The ranks of its world, in order: of the running one, or the last one of a job that ended.
    pub ranks: Vec<RankReport>,
    /// The last progress of its world.
    pub progress: Option<&'a Progress>,
    /// The last evaluation of its world.
    pub evaluation: Option<&'a Evaluation>,
    /// Queued jobs before it, if it is queued: 0 for the head.
    pub queue_position: Option<usize>,
}

/// Events of one job after some number.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEvents<'a> {
    /// The number of the oldest event that is kept; equal to `next_sequence` if none is.
    pub oldest_sequence: u64,
    /// The number that the next event gets.
    pub next_sequence: u64,
    /// True if events after the one asked for are no longer kept: the caller has a gap, and
    /// should look at the job as a whole.
    pub missed: bool,
    /// The events, in order.
    pub events: Vec<&'a JobEvent>,
}

/// One registered slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView<'a> {
    /// Its id.
    pub slot: SlotId,
    /// What it said of itself.
    pub info: &'a SlotInfo,
    /// What it does.
    pub state: SlotState,
}

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It waits for work.
    Free,
    /// It waits for work, and gets ready to join this job.
    Joining(JobId),
    /// It is a rank.
    Assigned(Fence),
    /// It was a rank, and has not yet said that it stopped.
    Stopping(Fence),
}
