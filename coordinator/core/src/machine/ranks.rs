//! What ranks say.

use ringfold_common::ids::{JobId, Rank, RingKey, SlotId, Step};
use ringfold_common::job::{
    Cause, Evaluation, JobEventKind, JobState, Phase, Progress, Reason, Summary,
};

use super::state::{Seat, Stage};
use super::{Core, Turn, publish};
use crate::effect::{Command, Effect};
use crate::event::Fence;

/// A rank event without its sender and fence.
#[derive(Debug)]
pub(super) enum RankMessage {
    Listening(String, Option<RingKey>),
    Training,
    Phase(Phase),
    Progress(Progress),
    Evaluation(Evaluation),
    Finished(Option<Summary>),
    Failed(Cause, Phase, Vec<String>),
    Stopped,
}

impl Core {
    /// Takes a rank's message, if its fence is the slot's post.
    pub(super) fn rank(
        &mut self,
        slot: SlotId,
        fence: Fence,
        message: RankMessage,
        turn: &mut Turn,
    ) {
        self.renew(slot, turn);
        let post = self.slots.get(&slot).and_then(|slot| slot.post);
        let Some(post) = post.filter(|post| post.fence == fence) else {
            self.stale_messages += 1;
            return;
        };
        if post.stopping {
            self.stopping_rank(slot, fence, message, turn);
        } else if !self.seated_rank(slot, fence, message, turn) {
            self.stale_messages += 1;
        }
    }

    /// A rank that was told to abort: all that counts is that it ends, and how.
    fn stopping_rank(&mut self, slot: SlotId, fence: Fence, message: RankMessage, turn: &mut Turn) {
        match message {
            RankMessage::Failed(cause, phase, log_tail) => {
                self.free(slot, fence, turn);
                self.fault(slot, fence, cause, Some(phase), log_tail, turn);
            }
            RankMessage::Finished(_) | RankMessage::Stopped => self.free(slot, fence, turn),
            // Sent before the abort arrived.
            RankMessage::Listening(..)
            | RankMessage::Training
            | RankMessage::Phase(_)
            | RankMessage::Progress(_)
            | RankMessage::Evaluation(_) => {}
        }
    }

    /// A rank of a run that is well. False if the message is out of order.
    fn seated_rank(
        &mut self,
        slot: SlotId,
        fence: Fence,
        message: RankMessage,
        turn: &mut Turn,
    ) -> bool {
        let Some(seat) = self
            .run_mut(fence.job)
            .and_then(|run| run.seat_mut(fence.rank))
        else {
            return false;
        };
        match (message, seat.stage) {
            (RankMessage::Listening(address, key), Stage::Loading) => {
                seat.report.ring_address = Some(address);
                seat.ring_key = key;
                seat.stage = Stage::Listening;
                seat.phase = Phase::FormingRing;
                if key.is_none() && self.under_tls(fence.job) {
                    // It still waits for the others, and is told to stop with them.
                    let cause = Cause::Error(
                        "cluster.tls is on, and the rank announced no key for the ring".into(),
                    );
                    self.fault(slot, fence, cause, None, Vec::new(), turn);
                } else {
                    self.rank_listens(fence.job, turn);
                }
            }
            (RankMessage::Training, Stage::Listening) => {
                return self.rank_trains(fence, turn);
            }
            (RankMessage::Phase(phase), Stage::Loading | Stage::Listening | Stage::Training) => {
                seat.phase = phase;
            }
            (RankMessage::Progress(progress), Stage::Training) if fence.rank == Rank(0) => {
                move_on(seat, progress.step);
                self.progress(fence.job, progress, turn);
            }
            (RankMessage::Evaluation(evaluation), Stage::Training) if fence.rank == Rank(0) => {
                self.evaluation(fence.job, evaluation, turn);
            }
            (RankMessage::Finished(summary), Stage::Training) => {
                if fence.rank == Rank(0) && summary.is_none() {
                    let cause = Cause::Error("it finished without a summary".into());
                    self.free(slot, fence, turn);
                    self.fault(slot, fence, cause, None, Vec::new(), turn);
                } else {
                    seat.stage = Stage::Finished;
                    self.rank_finished(fence, summary, turn);
                }
            }
            (RankMessage::Failed(cause, phase, log_tail), _) => {
                self.free(slot, fence, turn);
                self.fault(slot, fence, cause, Some(phase), log_tail, turn);
            }
            (RankMessage::Stopped, _) => {
                let cause = Cause::Error("it stopped although nobody told it to".into());
                self.free(slot, fence, turn);
                self.fault(slot, fence, cause, None, Vec::new(), turn);
            }
            _ => return false,
        }
        true
    }

    fn under_tls(&self, id: JobId) -> bool {
        let job = self.jobs.get(&id);
        job.is_some_and(|job| job.record.spec.cluster.tls)
    }

    /// One more rank listens: counts it, and starts the ring after the last.
    fn rank_listens(&mut self, id: JobId, turn: &mut Turn) {
        let Some(run) = self.run_mut(id) else {
            return;
        };
        let world = run.world();
        let listening = run.seats.iter().filter(|seat| seat.stage != Stage::Loading);
        let ready = u32::try_from(listening.count()).unwrap_or(u32::MAX);
        self.set_reason(id, Reason::FormingRing { ready, world }, turn);
        if ready < world {
            return;
        }
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let seats = job.run.iter().flat_map(|run| &run.seats);
        let peers: Vec<_> = seats
            .clone()
            .filter_map(|seat| seat.report.ring_address.clone())
            .collect();
        let keys: Vec<_> = match job.record.spec.cluster.tls {
            true => seats.clone().filter_map(|seat| seat.ring_key).collect(),
            false => Vec::new(),
        };
        for seat in seats {
            let fence = Fence {
                job: id,
                membership_epoch: job.record.membership_epoch,
                rank: seat.report.rank,
            };
            let (peers, keys) = (peers.clone(), keys.clone());
            let command = Command::StartRing { fence, peers, keys };
            let slot = seat.slot;
            turn.effects.push(Effect::Send { slot, command });
        }
    }

    /// One more rank trains; with the last, the job runs. False if the ring was not started.
    fn rank_trains(&mut self, fence: Fence, turn: &mut Turn) -> bool {
        let Some(run) = self.run_mut(fence.job) else {
            return false;
        };
        if run.seats.iter().any(|seat| seat.stage == Stage::Loading) {
            return false;
        }
        if let Some(seat) = run.seat_mut(fence.rank) {
            seat.stage = Stage::Training;
            seat.phase = Phase::Training(Step(1));
        }
        // A rank can't finish before the ring of all ranks is formed, but its message may come
        // before that of a slower session.
        let formed = |seat: &Seat| matches!(seat.stage, Stage::Training | Stage::Finished);
        if run.seats.iter().all(formed) {
            let ranks = run.reports();
            if let Some(job) = self.jobs.get_mut(&fence.job) {
                job.record.ranks = ranks;
            }
            self.set_state(fence.job, JobState::Running, Reason::Training, turn);
        }
        true
    }

    fn progress(&mut self, id: JobId, progress: Progress, turn: &mut Turn) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.progress = Some(progress.clone());
            publish(job, JobEventKind::Progress(progress), turn);
        }
    }

    fn evaluation(&mut self, id: JobId, evaluation: Evaluation, turn: &mut Turn) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.record.evaluation = Some(evaluation.clone());
            turn.touched.insert(id);
            publish(job, JobEventKind::Evaluation(evaluation), turn);
        }
    }

    /// A rank that has gone, of a job whose model is saved, counts as done.
    pub(super) fn finish_without(&mut self, fence: Fence, turn: &mut Turn) {
        if let Some(seat) = self
            .run_mut(fence.job)
            .and_then(|run| run.seat_mut(fence.rank))
        {
            seat.stage = Stage::Finished;
        }
        // It may have gone before it could say that it trains.
        let state = self.jobs.get(&fence.job).map(|job| job.record.state);
        if state == Some(JobState::Starting) {
            self.set_state(fence.job, JobState::Running, Reason::Training, turn);
        }
        self.end_if_finished(fence.job, turn);
    }

    /// One more rank is done; with the last, the job is, and its slots are free.
    fn rank_finished(&mut self, fence: Fence, summary: Option<Summary>, turn: &mut Turn) {
        let Some(run) = self.run_mut(fence.job) else {
            return;
        };
        if fence.rank == Rank(0) {
            run.summary = summary;
        }
        self.end_if_finished(fence.job, turn);
    }

    fn end_if_finished(&mut self, id: JobId, turn: &mut Turn) {
        let Some(run) = self.run_mut(id) else {
            return;
        };
        if run.all_at(Stage::Finished) {
            let summary = run.summary.take();
            self.stop_ranks(id, "finished", turn);
            let (state, reason) = (JobState::Succeeded, Reason::Finished);
            self.end(id, state, reason, summary, turn);
        }
    }
}

/// A rank that reports a step is at least there.
fn move_on(seat: &mut Seat, step: Step) {
    if let Phase::Training(at) = seat.phase
        && at < step
    {
        seat.phase = Phase::Training(step);
    }
}
