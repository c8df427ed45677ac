//! A job survives as many faults as it may, names each, and fails only when none is left or when what
//! happened would happen again.

use ringfold_common::job::{Cause, JobState, Reason};
use ringfold_coordinator_core::JobRecord;

use super::{Checker, Step};

pub struct Budgets;

impl Checker for Budgets {
    fn name(&self) -> &'static str {
        "restart budgets"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        for view in step.core.jobs() {
            let record = view.record;
            let (used, max) = (record.restarts_used, record.spec.cluster.restarts_max);
            let kept = record.restarts.len();
            if used > max || kept > JobRecord::RESTARTS_KEPT || (kept as u32) < used.min(16) {
                let id = record.id;
                return Err(format!("{id} used {used} of {max}, and names {kept}"));
            }
            if record
                .restarts
                .iter()
                .any(|restart| restart.cause.is_empty())
            {
                return Err(format!("{} was restarted for no reason", record.id));
            }
            if let (JobState::Failed, Reason::Failed(failure)) = (record.state, &record.reason) {
                let survivable = failure.cause.is_survivable();
                let left = match failure.cause {
                    Cause::WorkerStopped => max > 0,
                    _ => used < max,
                };
                if survivable && left {
                    return Err(format!("{} failed with {used} of {max}", record.id));
                }
            }
        }
        Ok(())
    }
}
