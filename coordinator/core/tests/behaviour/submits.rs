//! Submission: tokens, validation, refusals.

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::JobId;
use ringfold_common::job::JobState;
use ringfold_coordinator_core::{Refusal, Reply};

use crate::rig::{Rig, commits, dataset, reply, spec};

#[test]
fn a_token_makes_one_job() {
    let mut rig = Rig::new();
    let submitted = |job, existing| Ok(Reply::Submitted { job, existing });
    assert_eq!(
        rig.try_submit(spec(1), Some("t")),
        submitted(JobId(1), false)
    );
    assert_eq!(
        rig.try_submit(spec(1), Some("t")),
        submitted(JobId(1), true)
    );
    assert_eq!(
        rig.try_submit(spec(1), Some("u")),
        submitted(JobId(2), false)
    );
    let refusal = rig.try_submit(spec(2), Some("t")).unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::AlreadyExists);
    assert_eq!(
        refusal.to_string(),
        "the client token \"t\" belongs to job-1, which has another spec"
    );
    rig.restart();
    assert_eq!(
        rig.try_submit(spec(1), Some("t")),
        submitted(JobId(1), true)
    );
    rig.cancel(JobId(1)).0.unwrap();
    assert_eq!(
        rig.try_submit(spec(1), Some("t")),
        submitted(JobId(1), true)
    );
}

#[test]
fn an_empty_token_is_none() {
    let mut rig = Rig::new();
    for number in 1..3 {
        let (job, existing) = (JobId(number), false);
        assert_eq!(
            rig.try_submit(spec(1), Some("")),
            Ok(Reply::Submitted { job, existing })
        );
    }
}

#[test]
fn a_spec_that_can_not_be_right_is_refused_and_changes_nothing() {
    let mut rig = Rig::new();
    let before = rig.store.clone();
    let refusal = rig.try_submit(spec(0), Some("t")).unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::InvalidArgument);
    assert!(refusal.to_string().starts_with("cluster.workers is 0"));
    assert_eq!(rig.store, before);
    // The token is still free.
    assert!(rig.try_submit(spec(1), Some("t")).is_ok());
}

#[test]
fn a_submission_is_durable_before_it_is_answered() {
    let mut rig = Rig::new();
    rig.register("alpha");
    let effects = rig.event(ringfold_coordinator_core::Event::Submit {
        request: ringfold_coordinator_core::RequestId(7),
        spec: spec(1),
        dataset: dataset(),
        client_token: None,
    });
    assert!(commits(&effects));
    assert!(reply(&effects).is_ok());
    assert_eq!(rig.store.jobs[0].state, JobState::Starting);
    assert_eq!(rig.store.next_job, JobId(2));
}

#[test]
fn an_unknown_job_is_not_cancelled() {
    let mut rig = Rig::new();
    let (refused, effects) = rig.cancel(JobId(3));
    assert_eq!(refused, Err(Refusal::UnknownJob { job: JobId(3) }));
    assert_eq!(effects.len(), 1);
    assert_eq!(refused.unwrap_err().code(), ErrorCode::NotFound);
}
