//! Ranks that go on while the coordinator, or the way to it, is gone.
//!
//! *Cannot reach* is not *dead*. A rank whose ring is formed needs no coordinator: when its slot's stream
//! ends, the slot is kept as *away* until its lease is over, and a restored core begins with such slots
//! for all ranks of the jobs that ran. A worker that comes back names the rank that it holds, and the
//! rank goes on in the same membership epoch. One that nobody waits for any more is told to stop.

use ringfold_common::ids::{JobId, SlotId};
use ringfold_common::job::{JobState, Phase, Reason};

use super::ranks::RankMessage;
use super::state::{Post, Run, Seat, Slot, Stage};
use super::{Core, Turn};
use crate::effect::{Command, Effect};
use crate::event::{Fence, Held, SlotInfo};
use crate::record::JobRecord;

/// True if the ranks of a job that a former coordinator ran may still be going on.
pub(super) fn may_go_on(record: &JobRecord) -> bool {
    let survives = record.spec.cluster.survives_faults();
    record.state == JobState::Running && survives && !record.ranks.is_empty()
}

impl Core {
    /// True if a slot's rank needs no stream for now.
    pub(super) fn goes_on_without_stream(&self, slot: SlotId) -> bool {
        let post = self.slots.get(&slot).and_then(|slot| slot.post);
        let Some(Post { fence, stopping }) = post else {
            return false;
        };
        let Some(job) = self.jobs.get(&fence.job) else {
            return false;
        };
        let seat = job.run.as_ref().and_then(|run| run.seat(fence.rank));
        let trains = seat.is_some_and(|seat| seat.stage == Stage::Training);
        !stopping && trains && job.record.spec.cluster.survives_faults()
    }

    /// Begins with a job's ranks as a former coordinator knew them, all of them away.
    pub(super) fn await_ranks(&mut self, id: JobId, turn: &mut Turn) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut seats = Vec::with_capacity(job.record.ranks.len());
        for report in &job.record.ranks {
            // The shell counts from the other end.
            let slot = SlotId(u64::MAX - self.slots.len() as u64);
            let fence = Fence {
                job: id,
                membership_epoch: job.record.membership_epoch,
                rank: report.rank,
            };
            let stopping = false;
            let away = Slot {
                info: SlotInfo {
                    node: report.node.clone(),
                    host: report.host.clone(),
                    pid: report.pid,
                    cores: 0,
                    memory_bytes: 0,
                    version: String::new(),
                },
                heard: turn.now.monotonic,
                post: Some(Post { fence, stopping }),
                away: true,
                joining: None,
            };
            self.slots.insert(slot, away);
            seats.push(Seat {
                slot,
                report: report.clone(),
                ring_key: None,
                stage: Stage::Training,
                phase: Phase::Training(ringfold_common::ids::Step(1)),
            });
        }
        job.run = Some(Run {
            seats,
            blame: None,
            summary: None,
        });
        job.wait = None;
        self.active.insert(id);
        self.tell_who_is_back(id, turn);
    }

    /// A worker is back, with a rank that it held, or with how that ended.
    pub(super) fn slot_returned(
        &mut self,
        slot: SlotId,
        info: SlotInfo,
        fence: Fence,
        held: Held,
        turn: &mut Turn,
    ) {
        let former = self.slots.iter().find(|(_, former)| {
            former.post.is_some_and(|post| post.fence == fence)
                && former.info.node == info.node
                && former.info.pid == info.pid
        });
        let former = former.map(|(id, former)| (*id, former.post));
        if let Some((id, _)) = former {
            self.slots.remove(&id);
        }
        if !self.register(slot, info, turn) {
            return;
        }
        let post = former.and_then(|(_, post)| post);
        let goes_on = matches!(held, Held::Training(_));
        let awaited = post.filter(|post| !post.stopping);
        if let (Some(post), Some(slot)) = (awaited, self.slots.get_mut(&slot)) {
            slot.post = Some(post);
        }
        let Some(_) = awaited else {
            if goes_on {
                self.stop_returned(slot, fence, turn);
            }
            return;
        };
        if let Some(seat) = self
            .run_mut(fence.job)
            .and_then(|run| run.seat_mut(fence.rank))
        {
            seat.slot = slot;
        }
        self.tell_who_is_back(fence.job, turn);
        let message = match held {
            Held::Training(phase) => RankMessage::Phase(phase),
            Held::Finished(summary) => RankMessage::Finished(summary),
            Held::Failed {
                cause,
                phase,
                log_tail,
            } => RankMessage::Failed(cause, phase, log_tail),
        };
        self.rank(slot, fence, message, turn);
    }

    /// Tells a rank to stop that the job went on without.
    fn stop_returned(&mut self, slot: SlotId, fence: Fence, turn: &mut Turn) {
        let stopping = true;
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.post = Some(Post { fence, stopping });
        }
        let reason = "its world has ended while it could not be reached".to_owned();
        let command = Command::Abort { fence, reason };
        turn.effects.push(Effect::Send { slot, command });
    }

    /// Says of a job that a former coordinator ran how many of its ranks are back.
    fn tell_who_is_back(&mut self, id: JobId, turn: &mut Turn) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let Some(run) = &job.run else { return };
        let is_new = matches!(job.record.reason, Reason::Rejoining { .. });
        let slots = run
            .seats
            .iter()
            .filter_map(|seat| self.slots.get(&seat.slot));
        let heard = slots.filter(|slot| !slot.away).count();
        let world = run.world();
        let heard = u32::try_from(heard).unwrap_or(u32::MAX);
        let reason = match heard < world {
            true => Reason::Rejoining { heard, world },
            false => Reason::Training,
        };
        // A rank that was away while the coordinator was here is nobody's news.
        if is_new || heard == 0 {
            self.set_reason(id, reason, turn);
        }
    }
}
