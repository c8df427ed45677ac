//! Cancelling a job in each of its states.

use ringfold_common::error::ErrorCode;
use ringfold_common::job::{Cause, JobState, Reason};
use ringfold_coordinator_core::{Refusal, Reply, SlotState, StreamEnd};

use crate::rig::{Rig, aborted, assigned};

#[test]
fn a_queued_job_is_cancelled_at_once_and_the_next_moves_up() {
    let mut rig = Rig::new();
    rig.register("alpha");
    let (head, next) = (rig.submit(2), rig.submit(1));
    let (reply, effects) = rig.cancel(head);
    let (job, already) = (head, false);
    assert_eq!(reply, Ok(Reply::Cancelled { job, already }));
    assert_eq!(rig.state(head), JobState::Cancelled);
    assert_eq!(*rig.reason(head), Reason::CancelledByUser);
    assert_eq!(assigned(&effects).len(), 1);
    assert_eq!(rig.state(next), JobState::Starting);
}

#[test]
fn the_ranks_of_a_cancelled_job_are_busy_until_they_say_that_they_stopped() {
    for state in [JobState::Starting, JobState::Running] {
        let (mut rig, job, slots) = Rig::with_job_in(state, 4);
        let next = rig.submit(4);
        let (_, effects) = rig.cancel(job);
        assert_eq!(rig.state(job), JobState::Cancelled);
        assert_eq!(aborted(&effects), slots);
        let fence = rig.fence(slots[0]);
        assert_eq!(rig.slot(slots[0]), Some(SlotState::Stopping(fence)));

        // What was on its way changes nothing, and is not stale.
        rig.phase(slots[0], ringfold_common::job::Phase::Saving);
        rig.progress(slots[0], 3);
        rig.stopped(slots[0]);
        rig.finish(slots[1]);
        rig.fail(slots[2], Cause::Error("too late".into()));
        for slot in &slots[..3] {
            assert_eq!(rig.slot(*slot), Some(SlotState::Free));
        }
        assert_eq!(rig.state(next), JobState::Queued);
        rig.close(slots[3], StreamEnd::Lost);
        rig.register("alpha");
        assert_eq!(rig.state(next), JobState::Starting);
        assert_eq!(rig.state(job), JobState::Cancelled);
        assert_eq!(rig.core.stale_messages(), 0);
    }
}

#[test]
fn a_rank_that_has_finished_needs_no_abort() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.finish(slots[1]);
    let (_, effects) = rig.cancel(job);
    assert_eq!(aborted(&effects), [slots[0]]);
    assert_eq!(rig.slot(slots[1]), Some(SlotState::Free));
}

#[test]
fn cancelling_twice_is_the_same_and_cancelling_an_ended_job_is_refused() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 1);
    rig.finish(slots[0]);
    let state = JobState::Succeeded;
    let refusal = rig.cancel(job).0.unwrap_err();
    assert_eq!(refusal, Refusal::JobEnded { job, state });
    assert_eq!(refusal.code(), ErrorCode::FailedPrecondition);

    let job = rig.submit(1);
    rig.cancel(job).0.unwrap();
    let (reply, effects) = rig.cancel(job);
    let already = true;
    assert_eq!(reply, Ok(Reply::Cancelled { job, already }));
    assert_eq!(effects.len(), 1, "nothing but the reply: {effects:?}");
}

#[test]
fn a_job_that_looks_for_its_first_cause_can_be_cancelled() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.close(slots[0], StreamEnd::Lost);
    assert_eq!(rig.state(job), JobState::Running);
    let (_, effects) = rig.cancel(job);
    assert_eq!(aborted(&effects), [], "the other rank was told before");
    assert_eq!(rig.state(job), JobState::Cancelled);
    rig.stopped(slots[1]);
    rig.tick_after(ringfold_coordinator_core::CoreConfig::BLAME_GRACE);
    assert_eq!(rig.state(job), JobState::Cancelled);
}
