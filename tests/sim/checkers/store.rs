//! The store holds what the core thinks is durable, and a core restored from it knows the same
//! but for reasons of waiting and progress.

use ringfold_common::job::JobState;

use super::{Checker, Step};

pub struct Store;

impl Checker for Store {
    fn name(&self) -> &'static str {
        "the store holds what is durable"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        let durable = step.core.durable();
        if *step.store != durable {
            return Err(format!("{:?} is not {durable:?}", step.store));
        }
        for (view, stored) in step.core.jobs().zip(&step.store.jobs) {
            let mut stored = stored.clone();
            let soft = matches!(stored.state, JobState::Queued | JobState::Starting);
            if soft {
                stored.reason = view.record.reason.clone();
            }
            if stored != *view.record {
                return Err(format!("{stored:?} is shown as {:?}", view.record));
            }
            let ended = stored.state.is_terminal();
            if ended != stored.finished.is_some() || ended != stored.ended_revision.is_some() {
                return Err(format!("{stored:?} is half ended"));
            }
        }
        Ok(())
    }
}
