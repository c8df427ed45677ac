//! Which checkpoints stay.

use std::time::{Duration, SystemTime};

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::{FILE_NAME, directory_name, step_of};
use super::read::{Checkpoint, list};
use super::store::Store;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest, at least 1.
    pub newest: usize,
    /// Those after a multiple of so many steps, too.
    pub every_steps: Option<u64>,
    /// Of all but the newest one, none that was finished longer ago.
    pub age_max: Option<Duration>,
}

/// Removes the checkpoints that aren't to be kept, and what was begun before the newest and never
/// finished. Returns the directories that were removed.
///
/// A checkpoint is removed manifest first, so that what is left of it is none.
///
/// # Errors
/// The store's.
pub fn prune(
    store: &dyn Store,
    keep: &Keep,
    now: SystemTime,
) -> Result<Vec<String>, CheckpointError> {
    let listed = list(store)?;
    let good: Vec<&Checkpoint<'_>> = (listed.iter())
        .filter_map(|listed| listed.checkpoint.as_ref().ok())
        .collect();
    let Some(newest) = good.first().map(|checkpoint| checkpoint.manifest().step) else {
        // Nothing to go back to: what is there may be what a person can still use.
        return Ok(Vec::new());
    };
    let mut kept: Vec<u64> = Vec::new();
    for (number, checkpoint) in good.iter().enumerate() {
        let manifest = checkpoint.manifest();
        let written =
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(manifest.written_unix_ms));
        let age = written.and_then(|written| now.duration_since(written).ok());
        let old = age.zip(keep.age_max).is_some_and(|(age, max)| age > max);
        let every = keep.every_steps.filter(|&steps| steps > 0);
        let chosen = number < keep.newest.max(1)
            || every.is_some_and(|steps| manifest.step.is_multiple_of(steps));
        if number == 0 || chosen && !old {
            kept.push(manifest.step);
        }
    }
    let mut removed = Vec::new();
    for step in listed.iter().map(|listed| listed.step) {
        // Newer ones may be on their way, or are evidence.
        if step >= newest || kept.contains(&step) {
            continue;
        }
        let directory = directory_name(step);
        debug_assert!(step_of(&directory).is_some());
        if let Err(source) = store.remove(&directory, FILE_NAME) {
            let fault = CheckpointFault::Store {
                action: "remove",
                file: "it".to_owned(),
                source,
            };
            return Err(fault.of(directory));
        }
        removed.push(directory);
    }
    Ok(removed)
}
