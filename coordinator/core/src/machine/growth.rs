//! Free slots that join a job which runs with fewer ranks than it may have.
//!
//! While nobody is queued, a running job that lacks ranks asks free slots to load its data, beside the
//! ranks that train. When all that it asked are ready, or have given up, its ranks stop at a step
//! boundary or within a step, and the next world begins with the slots that are ready; its ranks hold
//! the state, and give it to those that join. A node on which the job has lost a rank is asked again
//! only after a while, which doubles with each loss.

use std::sync::Arc;

use ringfold_common::ids::{JobId, NodeName, SlotId};
use ringfold_common::job::{JobState, Reason};

use super::state::{HoldOff, Job, Joining, Stage};
use super::{Core, Turn};
use crate::config::CoreConfig;
use crate::effect::{Command, Effect, Preparation};
use crate::event::Now;
use crate::record::JobRecord;

impl Core {
    /// A slot says whether it is ready to join.
    pub(super) fn prepared(&mut self, slot: SlotId, job: JobId, ready: bool, turn: &mut Turn) {
        self.renew(slot, turn);
        let asked = self.slots.get_mut(&slot).filter(|slot| {
            slot.joining
                .is_some_and(|joining| joining.job == job && !joining.ready)
        });
        let Some(asked) = asked else {
            self.stale_messages += 1;
            return;
        };
        asked.joining = ready.then_some(Joining { job, ready });
        let node = asked.info.node.clone();
        if !ready {
            self.hold_off(job, &node, turn.now);
        }
        turn.queue_moved = true;
    }

    /// Holds a node off from joining a job.
    pub(super) fn hold_off(&mut self, id: JobId, node: &NodeName, now: Now) {
        let first = self.config.hold_off;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let held = job.held_off.entry(node.clone()).or_insert(HoldOff {
            losses: 0,
            until: now.monotonic,
        });
        let wait = first.saturating_mul(1 << held.losses.min(16));
        held.losses = held.losses.saturating_add(1);
        held.until = (now.monotonic).saturating_add(wait.min(CoreConfig::HOLD_OFF_MAX));
    }

    /// The slots that were to join a job join no more: it has ended, or began another world.
    pub(super) fn let_joiners_go(&mut self, id: JobId) {
        for slot in self.slots.values_mut() {
            slot.joining = slot.joining.filter(|joining| joining.job != id);
        }
    }

    /// Asks free slots to join jobs that lack ranks, and lets those jobs grow whose joiners are
    /// ready. Slots that somebody queues for are not asked.
    pub(super) fn grow(&mut self, turn: &mut Turn) {
        if !self.queue.is_empty() {
            return;
        }
        for id in self.active.iter().copied().collect::<Vec<_>>() {
            let Some(job) = self.jobs.get(&id) else {
                continue;
            };
            let lacking = lacking(job);
            if lacking == 0 {
                continue;
            }
            let of_job = |joining: &Joining| joining.job == id;
            let joining = self.slots.values().filter_map(|slot| slot.joining);
            let joining: Vec<_> = joining.filter(of_job).collect();
            if !joining.is_empty() && joining.iter().all(|joining| joining.ready) {
                self.begin_growth(id, turn);
                // The job is queued now.
                return;
            }
            let asked = self.candidates(job, lacking.saturating_sub(joining.len()), turn.now);
            if asked.is_empty() {
                continue;
            }
            let preparation = preparation(&job.record);
            for slot in asked {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    let ready = false;
                    slot.joining = Some(Joining { job: id, ready });
                }
                let command = Command::Prepare(preparation.clone());
                turn.effects.push(Effect::Send { slot, command });
            }
        }
    }

    /// Free slots that may be asked to join a job, at most so many, in the order of their ids.
    fn candidates(&self, job: &Job, count: usize, now: Now) -> Vec<SlotId> {
        let held_off = |node: &NodeName| {
            let held = job.held_off.get(node);
            held.is_some_and(|held| now.monotonic < held.until)
        };
        let free = self.slots.iter().filter(|(_, slot)| {
            slot.post.is_none() && slot.joining.is_none() && !held_off(&slot.info.node)
        });
        free.map(|(id, _)| *id).take(count).collect()
    }

    /// Stops a job's ranks; it goes on with them and with those that are ready to join.
    fn begin_growth(&mut self, id: JobId, turn: &mut Turn) {
        let joiners: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.joining.is_some_and(|joining| joining.job == id))
            .map(|(id, _)| *id)
            .collect();
        let Some(run) = self.jobs.get(&id).and_then(|job| job.run.as_ref()) else {
            return;
        };
        let from = run.world();
        let to = from.saturating_add(u32::try_from(joiners.len()).unwrap_or(u32::MAX));
        let reason = Reason::Growing { from, to };
        let words = reason.to_string();
        self.stop_ranks(id, &words, turn);
        self.queue_again(id, &joiners, (words, reason), turn);
    }
}

/// What slots need to know to get ready for a job; copies share the spec.
fn preparation(record: &JobRecord) -> Preparation {
    let spec = Arc::new(record.spec.clone());
    let dataset = Arc::new(record.dataset.clone());
    Preparation {
        job: record.id,
        submitted: record.submitted,
        spec_hash: spec.hash(&dataset),
        spec,
        dataset,
    }
}

/// Ranks that a job could have and doesn't: none unless it runs, is well, and is not nearly done.
fn lacking(job: &Job) -> usize {
    let cluster = &job.record.spec.cluster;
    let Some(run) = &job.run else { return 0 };
    let grows = job.record.state == JobState::Running
        && cluster.survives_faults()
        && run.blame.is_none()
        && run.all_at(Stage::Training);
    let missing = cluster.workers.saturating_sub(run.world());
    match grows {
        true => usize::try_from(missing).unwrap_or(usize::MAX),
        false => 0,
    }
}
