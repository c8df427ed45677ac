//! What a slot's process keeps of a job from one world to the next.
//!
//! A rank that ends before its job does leaves its data and its state here. If its process is a rank of
//! the job's next world, it takes them up again: nothing is read twice, and training goes on from the
//! furthest step that any rank holds. Whatever else the process is to do, they are dropped first, so
//! that it never holds two jobs; and after [`KEPT_TICKS`] without a rank they are dropped too.

use std::sync::{Arc, Mutex, PoisonError};

use ringfold_common::clock::UnixMillis;
use ringfold_common::ids::{JobId, SpecHash};
use ringfold_storage::Dataset;
use ringfold_train::TrainingState;

use crate::assignment::Assignment;

/// Ticks of a session without a rank after which what is kept is dropped: a minute.
pub(crate) const KEPT_TICKS: u32 = 240;

/// Which job something is of. The id alone would not do: a coordinator with another store counts its
/// jobs from 1 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    job: JobId,
    submitted: UnixMillis,
    spec_hash: SpecHash,
}

impl Key {
    pub fn new(job: JobId, submitted: UnixMillis, spec_hash: SpecHash) -> Self {
        Self {
            job,
            submitted,
            spec_hash,
        }
    }
}

impl From<&Assignment> for Key {
    fn from(assignment: &Assignment) -> Self {
        let Assignment {
            fence,
            submitted,
            spec_hash,
            ..
        } = assignment;
        Self::new(fence.job, *submitted, *spec_hash)
    }
}

/// What a rank of a job goes on with, as far as it is there.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The data, which is what the coordinator saw.
    pub dataset: Option<Dataset>,
    /// The state after the last step that was completed.
    pub state: Option<TrainingState>,
}

/// Holds what is kept of at most one job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<Option<(Key, Kept)>>>);

impl Shelf {
    /// What is kept of a job. What is kept of another is dropped.
    pub fn take(&self, key: Key) -> Kept {
        let kept = self.lock().take();
        kept.filter(|(of, _)| *of == key)
            .map(|(_, kept)| kept)
            .unwrap_or_default()
    }

    /// Keeps something for the job's next world.
    pub fn put(&self, key: Key, kept: Kept) {
        *self.lock() = Some((key, kept));
    }

    /// Drops what is kept. True if there was something.
    pub fn clear(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Key, Kept)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(job: u64, submitted: u64) -> Key {
        Key::new(JobId(job), UnixMillis(submitted), SpecHash([7; 32]))
    }

    /// Data that is kept, to see whether it comes back.
    fn kept() -> Kept {
        let text = "1,2\n3,4\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.csv");
        std::fs::write(&path, text).unwrap();
        let spec = ringfold_common::job::DataSpec {
            source: ringfold_common::job::DataSource::Csv(ringfold_common::job::CsvSource {
                path: path.to_str().unwrap().to_owned(),
                label: ringfold_common::job::ColumnRef::Index(0),
                header: false,
                delimiter: b',',
            }),
            scale: ringfold_common::job::Scale::None,
            test: ringfold_common::job::TestData::None,
        };
        let loss = ringfold_common::job::Loss::MeanSquaredError;
        let dataset = Dataset::load(&spec, loss, &Default::default()).unwrap();
        Kept {
            dataset: Some(dataset),
            state: None,
        }
    }

    #[test]
    fn only_the_same_job_gets_what_is_kept_and_others_drop_it() {
        let shelf = Shelf::default();
        for other in [key(2, 5), key(1, 6)] {
            shelf.put(key(1, 5), kept());
            assert!(shelf.take(other).dataset.is_none());
            assert!(shelf.take(key(1, 5)).dataset.is_none(), "it was dropped");
        }
        shelf.put(key(1, 5), kept());
        assert!(shelf.take(key(1, 5)).dataset.is_some());
        assert!(!shelf.clear(), "it was taken");
        shelf.put(key(1, 5), kept());
        assert!(shelf.clear());
    }
}
