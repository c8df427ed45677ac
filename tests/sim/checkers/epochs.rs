//! The membership epochs of a job only grow, over restarts too, and each start takes a new one.

use std::collections::BTreeMap;

use ringfold_common::ids::{JobId, MembershipEpoch};
use ringfold_coordinator_core::{Command, Effect};

use super::{Checker, Step};

#[derive(Default)]
pub struct Epochs {
    /// The last one in the store.
    stored: BTreeMap<JobId, MembershipEpoch>,
    /// The last one that ranks were assigned in.
    started: BTreeMap<JobId, MembershipEpoch>,
}

impl Checker for Epochs {
    fn name(&self) -> &'static str {
        "membership epochs grow"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        for record in &step.store.jobs {
            let (id, now) = (record.id, record.membership_epoch);
            if self
                .stored
                .insert(id, now)
                .is_some_and(|before| before > now)
            {
                return Err(format!("{id} went back to {now}"));
            }
        }
        let mut starting = BTreeMap::new();
        for effect in step.effects {
            let Effect::Send {
                command: Command::Assign(assignment),
                ..
            } = effect
            else {
                continue;
            };
            let (job, epoch) = (assignment.fence.job, assignment.fence.membership_epoch);
            if self
                .started
                .get(&job)
                .is_some_and(|before| *before >= epoch)
            {
                return Err(format!("{job} started in {epoch} again"));
            }
            if self.stored.get(&job).is_none_or(|stored| *stored < epoch) {
                return Err(format!("{job} started in {epoch}, which is not durable"));
            }
            starting.insert(job, epoch);
        }
        self.started.extend(starting);
        Ok(())
    }
}
