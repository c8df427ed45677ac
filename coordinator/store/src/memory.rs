//! A store that lives as long as its process.

use ringfold_common::ids::Revision;
use ringfold_coordinator_core::{Change, Snapshot};

use crate::{Store, StoreError};

/// Keeps everything in memory. Starts empty.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    snapshot: Snapshot,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        Ok(self.snapshot.clone())
    }

    fn commit(&mut self, expected: Revision, changes: &[Change]) -> Result<Revision, StoreError> {
        let actual = self.snapshot.revision;
        if actual != expected {
            return Err(StoreError::RevisionMismatch { expected, actual });
        }
        self.snapshot.apply(changes);
        Ok(self.snapshot.revision)
    }
}
