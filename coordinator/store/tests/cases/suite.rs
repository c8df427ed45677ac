//! What every store does.

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::{JobId, Revision};
use ringfold_coordinator_core::{Change, Snapshot};
use ringfold_coordinator_store::{FileStore, MemoryStore, Store, StoreError};

use super::{commit_next, put, record};

/// Runs every case on a store that `$make` makes, with `$guard` kept until the end.
macro_rules! suite {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            suite!(@cases $make;
                a_new_store_is_empty,
                a_commit_is_loaded,
                a_commit_at_another_revision_changes_nothing,
                a_record_comes_back_to_the_bit,
                a_commit_means_what_the_snapshot_says,
            );
        }
    };
    (@cases $make:expr; $($case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                let (mut store, _guard) = $make;
                super::$case(&mut store);
            }
        )*
    };
}

suite!(memory, (MemoryStore::default(), ()));
suite!(file, {
    let directory = tempfile::tempdir().unwrap();
    (FileStore::open(directory.path()).unwrap(), directory)
});

fn a_new_store_is_empty(store: &mut dyn Store) {
    assert_eq!(store.load().unwrap(), Snapshot::default());
}

fn a_commit_is_loaded(store: &mut dyn Store) {
    commit_next(store, 0);
    let expected = Snapshot {
        revision: Revision(1),
        next_job: JobId(2),
        jobs: vec![record(1)],
    };
    assert_eq!(store.load().unwrap(), expected);
    assert_eq!(store.load().unwrap(), expected);
}

fn a_commit_at_another_revision_changes_nothing(store: &mut dyn Store) {
    commit_next(store, 0);
    commit_next(store, 1);
    let before = store.load().unwrap();
    for wrong in [0, 1, 3, u64::MAX] {
        let changes = [
            put(9),
            Change::DropJob(JobId(1)),
            Change::SetNextJob(JobId(99)),
        ];
        let error = store.commit(Revision(wrong), &changes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Aborted);
        let StoreError::RevisionMismatch { expected, actual } = error else {
            panic!("{error}");
        };
        assert_eq!((expected, actual), (Revision(wrong), Revision(2)));
        assert_eq!(store.load().unwrap(), before);
    }
    commit_next(store, 2);
}

fn a_record_comes_back_to_the_bit(store: &mut dyn Store) {
    for at in 0..20 {
        commit_next(store, at);
    }
    for job in store.load().unwrap().jobs {
        let expected = record(job.id.0);
        assert_eq!(job, expected);
        assert_eq!(
            job.spec.hash(&job.dataset),
            expected.spec.hash(&expected.dataset)
        );
    }
}

fn a_commit_means_what_the_snapshot_says(store: &mut dyn Store) {
    let mut changed = record(2);
    changed.client_token = None;
    let commits = [
        vec![put(10), put(2), put(3)],
        vec![Change::SetNextJob(JobId(11))],
        vec![Change::DropJob(JobId(3)), Change::PutJob(Box::new(changed))],
        vec![Change::DropJob(JobId(77)), put(1)],
        vec![put(5), Change::DropJob(JobId(5))],
    ];
    let mut model = Snapshot::default();
    for changes in commits {
        store.commit(model.revision, &changes).unwrap();
        model.apply(&changes);
        assert_eq!(store.load().unwrap(), model);
    }
}
