//! No slot holds two ranks, and no rank is held by two slots. Kept from the effects alone; that no
//! worker is assigned a rank before it has let go of the last one is checked by the workers.

use std::collections::BTreeMap;

use ringfold_common::ids::SlotId;
use ringfold_coordinator_core::{Command, Effect, Fence, SlotState};

use super::{Checker, Step};

#[derive(Default)]
pub struct Slots {
    /// What each slot was last assigned.
    posts: BTreeMap<SlotId, Fence>,
}

impl Checker for Slots {
    fn name(&self) -> &'static str {
        "one slot, one rank"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        if step.restarted {
            // A restored core keeps places for the ranks that may come back.
            self.posts = held(step).collect();
        }
        self.posts.extend(step.returned);
        for effect in step.effects {
            match effect {
                Effect::Send {
                    slot,
                    command: Command::Assign(assignment),
                } => {
                    self.posts.insert(*slot, assignment.fence);
                }
                Effect::CloseSlot { slot, .. } => {
                    self.posts.remove(slot);
                    if step.core.slots().any(|view| view.slot == *slot) {
                        return Err(format!("{slot} was closed and is there"));
                    }
                }
                _ => {}
            }
        }
        let mut holders = BTreeMap::new();
        for view in step.core.slots() {
            let (SlotState::Assigned(fence) | SlotState::Stopping(fence)) = view.state else {
                continue;
            };
            if let Some(other) = holders.insert(fence, view.slot) {
                return Err(format!("{fence} is {} and {other}", view.slot));
            }
            if self.posts.get(&view.slot) != Some(&fence) {
                return Err(format!("{} was never told to be {fence}", view.slot));
            }
            let job = step.core.job(fence.job).map(|job| job.record);
            let serves = job.is_some_and(|record| {
                !record.state.is_terminal() && record.membership_epoch == fence.membership_epoch
            });
            if matches!(view.state, SlotState::Assigned(_)) && !serves {
                return Err(format!("{} serves {fence}, which has ended", view.slot));
            }
        }
        Ok(())
    }
}

/// The slots of a core that have a rank.
fn held<'a>(step: &'a Step<'_>) -> impl Iterator<Item = (SlotId, Fence)> + 'a {
    step.core.slots().filter_map(|view| match view.state {
        SlotState::Assigned(fence) | SlotState::Stopping(fence) => Some((view.slot, fence)),
        SlotState::Free | SlotState::Joining(_) => None,
    })
}
