//! Slots that go away, ranks that fail, and the search for the first cause.

use ringfold_common::ids::{JobId, NodeName, SlotId};
use ringfold_common::job::{Cause, JobState, Phase, Reason};

use super::state::Stage;
use super::{Core, Turn};
use crate::blame::{Blame, Suspect};
use crate::effect::{CloseReason, Command, Effect};
use crate::event::{ExitCause, Fence, StreamEnd};

impl Core {
    /// A slot's stream ended.
    pub(super) fn close(&mut self, slot: SlotId, end: StreamEnd, turn: &mut Turn) {
        let cause = match end {
            StreamEnd::Left => Cause::WorkerStopped,
            StreamEnd::Lost => Cause::ConnectionLost,
        };
        if end == StreamEnd::Lost && self.goes_on_without_stream(slot) {
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.away = true;
            }
            return;
        }
        if self.slots.contains_key(&slot) {
            self.lose(slot, &cause, &[], turn);
        } else {
            // Its parent was faster with the news; what the worker said is perhaps better.
            self.refine(&cause, &[], |suspect| suspect.slot == slot);
        }
    }

    pub(super) fn process_exited(
        &mut self,
        node: &NodeName,
        pid: u32,
        exit: ExitCause,
        log_tail: &[String],
        turn: &mut Turn,
    ) {
        let cause = Cause::from(exit);
        let of_process = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.info.pid == pid && slot.info.node == *node);
        let lost: Vec<_> = of_process.map(|(id, _)| *id).collect();
        for slot in lost {
            let reason = CloseReason::ProcessEnded;
            turn.effects.push(Effect::CloseSlot { slot, reason });
            self.lose(slot, &cause, log_tail, turn);
        }
        self.refine(&cause, log_tail, |suspect| {
            suspect.pid == pid && suspect.node == *node && suspect.cause == Cause::ConnectionLost
        });
    }

    pub(super) fn expire_leases(&mut self, turn: &mut Turn) {
        let (now, lease) = (turn.now.monotonic, self.config.lease);
        let silences = self
            .slots
            .iter()
            .map(|(id, slot)| (*id, now.saturating_sub(slot.heard)));
        let expired: Vec<_> = silences.filter(|(_, silence)| *silence > lease).collect();
        for (slot, silence) in expired {
            let silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            let reason = CloseReason::LeaseExpired { silent_ms };
            turn.effects.push(Effect::CloseSlot { slot, reason });
            self.lose(slot, &Cause::LeaseExpired { silent_ms }, &[], turn);
        }
    }

    /// Forgets a slot. If it was a rank that had not finished, that is a fault of its job.
    fn lose(&mut self, slot: SlotId, cause: &Cause, log_tail: &[String], turn: &mut Turn) {
        let Some(lost) = self.slots.remove(&slot) else {
            return;
        };
        turn.queue_moved = true;
        if let Some(post) = lost.post {
            let (cause, log_tail) = (cause.clone(), log_tail.to_vec());
            self.fault(slot, post.fence, cause, None, log_tail, turn);
        }
    }

    /// Something went wrong at a rank, in `phase` or in what it was last known to do. The caller
    /// has freed or removed its slot. On the first such sign the other ranks are stopped.
    pub(super) fn fault(
        &mut self,
        slot: SlotId,
        fence: Fence,
        cause: Cause,
        phase: Option<Phase>,
        log_tail: Vec<String>,
        turn: &mut Turn,
    ) {
        let deadline = turn.now.monotonic.saturating_add(self.config.blame_grace);
        let Some(job) = self.jobs.get_mut(&fence.job) else {
            return;
        };
        if job.record.membership_epoch != fence.membership_epoch {
            return;
        }
        let elastic = job.record.spec.cluster.survives_faults();
        let Some(run) = job.run.as_mut() else {
            return;
        };
        let Some(seat) = run.seat(fence.rank) else {
            return;
        };
        if seat.stage == Stage::Finished {
            return;
        }
        if run.summary.is_some() && cause.is_survivable() && elastic {
            // The model is saved: nothing is left to do that this rank is needed for.
            self.finish_without(fence, turn);
            return;
        }
        let suspect = Suspect {
            slot,
            rank: fence.rank,
            node: seat.report.node.clone(),
            host: seat.report.host.clone(),
            pid: seat.report.pid,
            phase: phase.unwrap_or(seat.phase),
            cause,
            log_tail,
        };
        match run.blame.as_mut() {
            Some(blame) => blame.add(suspect),
            None => {
                let reason = suspect.failure().to_string();
                run.blame = Some(Blame::new(deadline, suspect));
                self.stop_ranks(fence.job, &reason, turn);
            }
        }
    }

    /// Ends the service of every rank of a job: those that have finished are free, the others are
    /// told to abort and are free once they say that they stopped.
    pub(super) fn stop_ranks(&mut self, id: JobId, reason: &str, turn: &mut Turn) {
        let Some(run) = self.jobs.get(&id).and_then(|job| job.run.as_ref()) else {
            return;
        };
        for seat in &run.seats {
            let Some(slot) = self.slots.get_mut(&seat.slot) else {
                continue;
            };
            let Some(post) = slot.post.as_mut() else {
                continue;
            };
            let fence = post.fence;
            if fence.job != id || fence.rank != seat.report.rank || post.stopping {
                continue;
            }
            if seat.stage == Stage::Finished {
                slot.post = None;
                turn.queue_moved = true;
                continue;
            }
            post.stopping = true;
            let (slot, reason) = (seat.slot, reason.to_owned());
            let command = Command::Abort { fence, reason };
            turn.effects.push(Effect::Send { slot, command });
        }
    }

    /// Offers a better cause to every search for a first cause.
    fn refine(&mut self, cause: &Cause, log_tail: &[String], matches: impl Fn(&Suspect) -> bool) {
        for id in &self.active {
            let run = self.jobs.get_mut(id).and_then(|job| job.run.as_mut());
            if let Some(blame) = run.and_then(|run| run.blame.as_mut()) {
                blame.refine(cause, log_tail, &matches);
            }
        }
    }

    /// The jobs whose first cause is known, or will not be known in time, go on without the rank, or
    /// fail.
    pub(super) fn settle_blames(&mut self, turn: &mut Turn) {
        let now = turn.now.monotonic;
        let mut verdicts = Vec::new();
        for id in &self.active {
            let run = self.jobs.get(id).and_then(|job| job.run.as_ref());
            let blame = run.and_then(|run| run.blame.as_ref());
            if let Some(suspect) = blame.and_then(|blame| blame.verdict(now)) {
                verdicts.push((*id, suspect.failure()));
            }
        }
        for (id, failure) in verdicts {
            if self.recover(id, &failure, turn) {
                continue;
            }
            let reason = Reason::Failed(failure);
            self.end(id, JobState::Failed, reason, None, turn);
        }
    }
}
