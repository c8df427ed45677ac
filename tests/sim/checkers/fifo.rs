//! Jobs start in the order of their ids: none starts while one before it is queued.

use ringfold_common::job::JobState;
use ringfold_coordinator_core::{Command, Effect};

use super::{Checker, Step};

pub struct Fifo;

impl Checker for Fifo {
    fn name(&self) -> &'static str {
        "first in, first out"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        let queued =
            |view: &ringfold_coordinator_core::JobView<'_>| view.record.state == JobState::Queued;
        let jobs: Vec<_> = step.core.jobs().filter(queued).collect();
        for (position, job) in jobs.iter().enumerate() {
            if job.queue_position != Some(position) {
                return Err(format!("{} is at {:?}", job.record.id, job.queue_position));
            }
        }
        let Some(head) = jobs.first().map(|job| job.record.id) else {
            return Ok(());
        };
        for effect in step.effects {
            if let Effect::Send {
                command: Command::Assign(assignment),
                ..
            } = effect
                && assignment.fence.job > head
            {
                return Err(format!("{} started before {head}", assignment.fence.job));
            }
        }
        Ok(())
    }
}
