//! Jobs that go on after a fault, in another world.
//!
//! A job whose rank was lost is queued again at its old place: it is before all that have not started
//! yet, so that nobody takes its slots. The ranks that are left stop, but their processes keep what
//! they have learned; the job starts again as soon as all of them have stopped, with as many slots as
//! are free, from `cluster.min_workers` to `cluster.workers`.

use ringfold_common::ids::{JobId, MembershipEpoch, SlotId};
use ringfold_common::job::{Cause, Failure, JobState, Reason, Restart};

use super::state::{Job, Wait};
use super::{Core, Turn};
use crate::event::Now;
use crate::placement::{FreeSlot, place};
use crate::record::JobRecord;

impl Core {
    /// Queues a job again whose ranks have been told to stop. False if it may not go on: what
    /// happened would happen again, or its faults are used up.
    pub(super) fn recover(&mut self, id: JobId, failure: &Failure, turn: &mut Turn) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else {
            return false;
        };
        let cluster = &job.record.spec.cluster;
        let (survives, budget) = (cluster.survives_faults(), cluster.restarts_max);
        // A worker that leaves in order is no fault.
        let is_fault = failure.cause != Cause::WorkerStopped;
        let used = (job.record.restarts_used).saturating_add(u32::from(is_fault));
        if !failure.cause.is_survivable() || !survives || used > budget {
            return false;
        }
        job.record.restarts_used = used;
        if let (true, Some(node)) = (is_fault, &failure.node) {
            self.hold_off(id, node, turn.now);
        }
        let failure = failure.clone();
        let cause = failure.to_string();
        let reason = Reason::Recovering {
            failure,
            used,
            budget,
        };
        self.queue_again(id, &[], (cause, reason), turn);
        true
    }

    /// Queues a job again whose ranks were told to stop: it goes on with them, and with these joiners.
    pub(super) fn queue_again(
        &mut self,
        id: JobId,
        joiners: &[SlotId],
        (cause, reason): (String, Reason),
        turn: &mut Turn,
    ) {
        let until = turn.now.monotonic.saturating_add(self.config.stop_wait);
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let seats = job.run.take().into_iter().flat_map(|run| run.seats);
        let seats = seats.map(|seat| seat.slot);
        job.last_seats = seats.chain(joiners.iter().copied()).collect();
        job.wait = Some(Wait::ItsRanks(until));
        let record = &mut job.record;
        record.started = None;
        record.ranks.clear();
        if record.restarts.len() >= JobRecord::RESTARTS_KEPT {
            record.restarts.remove(0);
        }
        record.restarts.push(Restart {
            membership_epoch: record.membership_epoch,
            at: turn.now.wall,
            cause,
        });
        self.active.remove(&id);
        self.queue.insert(id);
        turn.queue_moved = true;
        self.set_state(id, JobState::Queued, reason, turn);
    }

    /// True while the first cause of a fault is sought that a job may survive: the slots of its
    /// ranks, free or not, are not for others.
    pub(super) fn may_recover(&self) -> bool {
        let jobs = self.active.iter().filter_map(|id| self.jobs.get(id));
        let mut elastic = jobs.filter(|job| job.record.spec.cluster.survives_faults());
        elastic.any(|job| job.run.as_ref().is_some_and(|run| run.blame.is_some()))
    }

    /// A job that ran before the coordinator's restart waits for as many slots as it has workers, for
    /// a while.
    pub(super) fn waits_for_workers(&self, job: &mut Job, now: Now) {
        let until = now.monotonic.saturating_add(self.config.rejoin_wait);
        let ran = job.record.membership_epoch > MembershipEpoch(0);
        job.wait = (ran && !job.record.state.is_terminal()).then_some(Wait::Workers(until));
    }

    /// Time has passed: the head of the queue may have waited long enough.
    pub(super) fn wake_waiting(&self, turn: &mut Turn) {
        let head = self.queue.first().and_then(|id| self.jobs.get(id));
        turn.queue_moved |= head.is_some_and(|job| job.wait.is_some());
        // A node may be held off no longer.
        let held_off = |id| {
            self.jobs
                .get(id)
                .is_some_and(|job: &Job| !job.held_off.is_empty())
        };
        turn.queue_moved |= self.queue.is_empty() && self.active.iter().any(held_off);
    }

    /// True if the ranks of a job's last world are still stopping, and it waits for them.
    pub(super) fn waits_for_its_ranks(&self, job: &Job, now: Now) -> bool {
        let Some(Wait::ItsRanks(until)) = job.wait else {
            return false;
        };
        // Those that are away can't take part anyway.
        let here = self.slots.values().filter(|slot| !slot.away);
        let posts = here.filter_map(|slot| slot.post);
        let mut of_job = posts.filter(|post| post.fence.job == job.record.id);
        now.monotonic < until && of_job.next().is_some()
    }

    /// Slots that a queued job needs to start.
    pub(super) fn fewest(job: &Job, now: Now) -> u32 {
        let cluster = &job.record.spec.cluster;
        match job.wait {
            None => cluster.workers,
            Some(Wait::Workers(until)) if now.monotonic < until => cluster.workers,
            Some(Wait::Workers(_) | Wait::ItsRanks(_)) => cluster.min_workers,
        }
    }

    /// The slots that a queued job starts with, in rank order; `None` if it has to wait. Those of its
    /// last world are taken first, and if rank 0 of that is among them, it is rank 0 again: it has
    /// the job's files.
    pub(super) fn gang(&self, job: &Job, now: Now) -> Option<Vec<SlotId>> {
        if self.waits_for_its_ranks(job, now) {
            return None;
        }
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let fewest = count(Self::fewest(job, now));
        let idle = self.slots.iter().filter(|(_, slot)| slot.post.is_none());
        let free: Vec<_> = idle
            .map(|(id, slot)| FreeSlot {
                host: &slot.info.host,
                node: &slot.info.node,
                slot: *id,
            })
            .collect();
        if free.len() < fewest {
            return None;
        }
        let needed = free.len().min(count(job.record.spec.cluster.workers));
        let held = |slot: &FreeSlot<'_>| job.last_seats.contains(&slot.slot);
        let (held, others): (Vec<_>, Vec<_>) = free.iter().copied().partition(held);
        let mut gang = if held.len() >= needed {
            place(&held, needed)?
        } else {
            let added = place(&others, needed - held.len())?;
            let mut chosen = held;
            chosen.extend(others.iter().filter(|slot| added.contains(&slot.slot)));
            place(&chosen, needed)?
        };
        let first = job.last_seats.first();
        if let Some(at) = gang.iter().position(|slot| Some(slot) == first) {
            gang.rotate_left(at);
        }
        Some(gang)
    }
}
