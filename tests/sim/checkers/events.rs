//! The events of a job are numbered without gaps while a coordinator lives, no number is used
//! twice ever, and what was published is what is kept.

use std::collections::BTreeMap;

use ringfold_common::ids::JobId;
use ringfold_common::job::{JobEventKind, JobState};
use ringfold_coordinator_core::Effect;

use super::{Checker, Step};

#[derive(Default)]
pub struct Events {
    last: BTreeMap<JobId, (u64, JobState)>,
    /// Jobs that have published since the last restart.
    fresh: BTreeMap<JobId, u64>,
}

impl Checker for Events {
    fn name(&self) -> &'static str {
        "events are numbered without gaps"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        if step.restarted {
            self.fresh.clear();
        }
        for effect in step.effects {
            let Effect::Publish(event) = effect else {
                continue;
            };
            let (job, sequence) = (event.job, event.sequence);
            let last = self.last.get(&job).copied();
            if last.is_some_and(|(last, _)| sequence <= last) {
                return Err(format!("{job} published {sequence} after {last:?}"));
            }
            if self
                .fresh
                .get(&job)
                .is_some_and(|last| sequence != last + 1)
            {
                return Err(format!("{job} skipped to {sequence}"));
            }
            // What came before a restart may have been committed and not published.
            let fresh = self.fresh.contains_key(&job);
            let certain = |state: &JobState| fresh || state.is_terminal();
            let before = last.map(|(_, state)| state);
            let state = match &event.kind {
                JobEventKind::State { state, .. } => *state,
                _ => before.ok_or("the first event is no state")?,
            };
            let running = Some(JobState::Running);
            let goes_on = !fresh && (Some(state) == running || before == running);
            if !goes_on && !follows(before.filter(certain), state) {
                return Err(format!("{job} went from {before:?} to {state}"));
            }
            self.last.insert(job, (sequence, state));
            self.fresh.insert(job, sequence);
        }
        self.kept(step)
    }
}

impl Events {
    fn kept(&self, step: &Step<'_>) -> Result<(), String> {
        for (job, last) in &self.fresh {
            let Some(events) = step.core.events_after(*job, 0) else {
                continue;
            };
            if events.next_sequence != last + 1 {
                return Err(format!("{job} keeps up to {}", events.next_sequence));
            }
            let kept = events.events.iter().map(|event| event.sequence);
            if !kept.eq(events.oldest_sequence..events.next_sequence) {
                return Err(format!("{job} keeps {:?}", events.events));
            }
        }
        Ok(())
    }
}

fn follows(before: Option<JobState>, state: JobState) -> bool {
    use JobState::{Cancelled, Failed, Queued, Running, Starting, Succeeded};
    match before {
        // The event that made a job may be lost in a crash right after its commit.
        None => matches!(state, Queued | Starting | Cancelled),
        Some(Queued) => matches!(state, Queued | Starting | Cancelled),
        Some(Starting) => matches!(state, Queued | Starting | Running | Failed | Cancelled),
        Some(Running) => state != Starting,
        Some(Succeeded | Failed | Cancelled) => false,
    }
}
