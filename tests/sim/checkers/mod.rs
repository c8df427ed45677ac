//! One promise a file. A checker sees what the shell sees, and keeps its own memory.

mod budgets;
mod ended;
mod epochs;
mod events;
mod fifo;
mod gangs;
mod slots;
mod store;

use ringfold_common::ids::SlotId;
use ringfold_coordinator_core::{Core, Effect, Fence, Snapshot};

/// What one event led to, performed.
pub struct Step<'a> {
    pub core: &'a Core,
    pub store: &'a Snapshot,
    pub effects: &'a [Effect],
    /// The slot that came back, and the rank that it says it holds.
    pub returned: Option<(SlotId, Fence)>,
    /// True if the core was restored from the store in this step.
    pub restarted: bool,
}

pub trait Checker {
    fn name(&self) -> &'static str;

    /// Says what is broken, if anything is.
    fn check(&mut self, step: &Step<'_>) -> Result<(), String>;
}

pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(budgets::Budgets),
        Box::<ended::Ended>::default(),
        Box::<epochs::Epochs>::default(),
        Box::<events::Events>::default(),
        Box::new(fifo::Fifo),
        Box::<gangs::Gangs>::default(),
        Box::<slots::Slots>::default(),
        Box::new(store::Store),
    ]
}
