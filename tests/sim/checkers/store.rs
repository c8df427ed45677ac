//! The store holds what the core thinks is durable, and a core restored from it knows the same
//! but for reasons of waiting and progress.

use ringfold_common::job::{JobState, Reason};

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
            // Who is back after a restart is soft too.
            let rejoins = matches!(view.record.reason, Reason::Rejoining { .. })
                || matches!(stored.reason, Reason::Rejoining { .. });
            let soft = match stored.state {
                JobState::Queued | JobState::Starting => true,
                JobState::Running => rejoins,
                _ => false,
            };
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
