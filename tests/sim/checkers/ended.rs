//! A job that has ended never changes, and its id is never used again.

use std::collections::{BTreeMap, BTreeSet};

use ringfold_common::ids::JobId;
use ringfold_coordinator_core::JobRecord;

use super::{Checker, Step};

#[derive(Default)]
pub struct Ended {
    records: BTreeMap<JobId, JobRecord>,
    dropped: BTreeSet<JobId>,
}

impl Checker for Ended {
    fn name(&self) -> &'static str {
        "ended jobs stay as they are"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        for job in step.core.jobs() {
            let id = job.record.id;
            if self.dropped.contains(&id) {
                return Err(format!("{id} was dropped and is there again"));
            }
            if id >= step.store.next_job {
                return Err(format!("{id} will be handed out again"));
            }
            match self.records.get(&id) {
                Some(before) if before != job.record => {
                    return Err(format!("{before:?} became {:?}", job.record));
                }
                Some(_) => {}
                None if job.record.state.is_terminal() => {
                    self.records.insert(id, job.record.clone());
                }
                None => {}
            }
        }
        let gone = self
            .records
            .keys()
            .filter(|id| step.core.job(**id).is_none());
        self.dropped.extend(gone);
        Ok(())
    }
}
