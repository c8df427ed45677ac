//! One suite, every store; then what only a file can get wrong.

#[path = "../../../core/tests/rig/mod.rs"]
mod rig;

mod damage;
mod kill;
mod suite;

use ringfold_common::ids::{JobId, Revision};
use ringfold_common::job::JobState;
use ringfold_coordinator_core::{Change, JobRecord};
use ringfold_coordinator_store::Store;

/// A record of a job that has ended, with numbers that JSON finds hard.
fn record(id: u64) -> JobRecord {
    let (mut rig, job, slots) = rig::Rig::with_job_in(JobState::Running, 1);
    rig.evaluate(slots[0], 7);
    rig.finish(slots[0]);
    let mut record = rig.job(job).record.clone();
    record.id = JobId(id);
    record.client_token = Some(format!("token \"{id}\" \u{1F980}"));
    record.spec.train.l2 = 2.220_446_049_250_313e-16 * id as f64;
    record.spec.model.architecture = rig::spec(1).model.architecture;
    let evaluation = record.evaluation.as_mut().unwrap();
    let metrics = &mut evaluation.metrics;
    metrics.insert("test_loss".into(), f64::INFINITY);
    metrics.insert("smallest".into(), f64::from_bits(1));
    metrics.insert("long".into(), 0.1 + 0.2);
    record
}

fn put(id: u64) -> Change {
    Change::PutJob(Box::new(record(id)))
}

/// Commits a job with the id that the revision after the commit has.
fn commit_next(store: &mut dyn Store, at: u64) {
    let next = at + 1;
    let changes = [put(next), Change::SetNextJob(JobId(next + 1))];
    let revision = store.commit(Revision(at), &changes).unwrap();
    assert_eq!(revision, Revision(next));
}
