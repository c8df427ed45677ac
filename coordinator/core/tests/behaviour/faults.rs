//! Leases, faults, and who is to blame.

use std::time::Duration;

use ringfold_common::ids::{NodeName, Rank, Step};
use ringfold_common::job::{Cause, Failure, JobState, Phase};
use ringfold_coordinator_core::{
    CloseReason, CoreConfig, Effect, Event, ExitCause, SlotState, StreamEnd,
};

use crate::rig::{Rig, aborted, commits};

const LEASE: Duration = CoreConfig::LEASE;
const GRACE: Duration = CoreConfig::BLAME_GRACE;
const MOMENT: Duration = Duration::from_millis(1);

fn peer_lost() -> Cause {
    Cause::PeerLost("rank 1 at slot-2:1".into())
}

#[test]
fn a_silent_slot_is_closed_and_its_rank_fails() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.advance(LEASE);
    rig.event(Event::Heard { slot: slots[0] });
    assert_eq!(
        rig.event(Event::Tick),
        [],
        "a lease is good to its last moment"
    );
    let effects = rig.tick_after(MOMENT);
    let silent_ms = 10_001;
    let (slot, reason) = (slots[1], CloseReason::LeaseExpired { silent_ms });
    assert!(effects.contains(&Effect::CloseSlot { slot, reason }));
    assert_eq!(aborted(&effects), [slots[0]]);
    assert_eq!(rig.slot(slots[1]), None);
    let failure = rig.failure(job);
    assert_eq!(failure.cause, Cause::LeaseExpired { silent_ms });
    assert_eq!(failure.rank, Some(Rank(1)));
    assert_eq!(failure.phase, Phase::Training(Step(1)));
}

#[test]
fn any_message_of_a_slot_renews_its_lease() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 1);
    for step in 1..5 {
        rig.tick_after(LEASE);
        rig.progress(slots[0], step);
    }
    rig.tick_after(LEASE);
    assert_eq!(rig.state(job), JobState::Running);
}

#[test]
fn the_death_of_an_idle_slot_fails_nothing() {
    let (mut rig, job, _) = Rig::with_job_in(JobState::Running, 1);
    let idle = [(); 3].map(|()| rig.register("beta"));
    assert!(!commits(&rig.close(idle[0], StreamEnd::Lost)));
    let effects = rig.exit("beta", idle[1], ExitCause::Signalled(9));
    let (slot, reason) = (idle[1], CloseReason::ProcessEnded);
    assert_eq!(effects, [Effect::CloseSlot { slot, reason }]);
    assert_eq!(rig.close(idle[1], StreamEnd::Lost), [], "known before");
    assert_eq!(rig.slot(idle[2]), Some(SlotState::Free));
    assert_eq!(rig.core.slots().count(), 2);
    assert_eq!(rig.state(job), JobState::Running);
}

#[test]
fn a_rank_that_says_what_went_wrong_is_believed_at_once() {
    for state in [JobState::Starting, JobState::Running] {
        let (mut rig, job, slots) = Rig::with_job_in(state, 3);
        let effects = rig.fail(slots[1], Cause::Error("disk full".into()));
        assert!(commits(&effects));
        assert_eq!(aborted(&effects), [slots[0], slots[2]]);
        assert_eq!(rig.slot(slots[1]), Some(SlotState::Free));
        let expected = Failure {
            rank: Some(Rank(1)),
            node: Some(NodeName("alpha".into())),
            host: Some("alpha".into()),
            phase: Phase::Training(Step(7)),
            cause: Cause::Error("disk full".into()),
            log_tail: vec!["said last".into()],
        };
        assert_eq!(*rig.failure(job), expected);
        // What follows changes nothing.
        rig.fail(slots[0], peer_lost());
        rig.close(slots[2], StreamEnd::Lost);
        assert_eq!(*rig.failure(job), expected);
    }
}

#[test]
fn a_killed_process_is_named_though_its_stream_ends_first() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 3);
    rig.phase(slots[1], Phase::Training(Step(31)));
    let effects = rig.close(slots[1], StreamEnd::Lost);
    assert_eq!(aborted(&effects), [slots[0], slots[2]], "at once");
    assert_eq!(rig.state(job), JobState::Running, "and the cause is sought");
    rig.fail(slots[0], peer_lost());
    rig.exit("beta", slots[1], ExitCause::Signalled(15));
    assert_eq!(rig.state(job), JobState::Running, "another node's process");
    rig.exit("alpha", slots[1], ExitCause::Signalled(9));
    let failure = rig.failure(job);
    assert_eq!(failure.rank, Some(Rank(1)));
    assert_eq!(failure.cause, Cause::Signalled(9));
    assert_eq!(failure.phase, Phase::Training(Step(31)));
    assert_eq!(failure.log_tail, ["last words"]);
}

#[test]
fn a_killed_process_is_named_though_its_parent_reaps_it_first() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    let effects = rig.exit("alpha", slots[0], ExitCause::Signalled(9));
    assert_eq!(aborted(&effects), [slots[1]]);
    assert_eq!(rig.failure(job).cause, Cause::Signalled(9));
    assert_eq!(rig.close(slots[0], StreamEnd::Lost), []);
}

#[test]
fn neighbours_that_lost_their_peer_do_not_hide_it() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 4);
    let effects = rig.fail(slots[0], peer_lost());
    assert_eq!(aborted(&effects), slots[1..]);
    rig.fail(slots[2], peer_lost());
    rig.tick_after(GRACE - MOMENT);
    assert_eq!(rig.state(job), JobState::Running);
    rig.exit("alpha", slots[1], ExitCause::Exited(101));
    let failure = rig.failure(job);
    assert_eq!(
        (failure.rank, &failure.cause),
        (Some(Rank(1)), &Cause::Exited(101))
    );
}

#[test]
fn a_primary_cause_of_another_rank_ends_the_search() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 3);
    rig.fail(slots[0], peer_lost());
    rig.close(slots[2], StreamEnd::Lost);
    rig.fail(slots[1], Cause::WeightsDiffer("step 7".into()));
    let failure = rig.failure(job);
    assert_eq!(failure.rank, Some(Rank(1)));
    assert_eq!(failure.cause, Cause::WeightsDiffer("step 7".into()));
}

#[test]
fn without_a_better_cause_the_best_at_hand_is_taken() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 3);
    rig.fail(slots[0], peer_lost());
    rig.close(slots[2], StreamEnd::Lost);
    rig.tick_after(GRACE);
    let failure = rig.failure(job);
    assert_eq!(
        (failure.rank, &failure.cause),
        (Some(Rank(2)), &Cause::ConnectionLost)
    );

    // Any event after the grace settles it, and is heard first.
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.close(slots[1], StreamEnd::Lost);
    rig.advance(GRACE * 2);
    rig.exit("alpha", slots[1], ExitCause::Exited(3));
    assert_eq!(rig.failure(job).cause, Cause::Exited(3));
}

#[test]
fn a_worker_that_was_told_to_stop_says_so() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.close(slots[1], StreamEnd::Left);
    assert_eq!(rig.failure(job).cause, Cause::WorkerStopped);

    // Even if its parent was faster.
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.exit("alpha", slots[1], ExitCause::Exited(0));
    assert_eq!(rig.state(job), JobState::Running);
    rig.close(slots[1], StreamEnd::Left);
    assert_eq!(rig.failure(job).cause, Cause::WorkerStopped);
}

#[test]
fn what_becomes_of_a_rank_that_has_finished_does_not_matter() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.finish(slots[0]);
    rig.close(slots[0], StreamEnd::Lost);
    rig.tick_after(GRACE);
    assert_eq!(rig.state(job), JobState::Running);
    rig.finish(slots[1]);
    assert_eq!(rig.state(job), JobState::Succeeded);
}

#[test]
fn a_rank_that_breaks_the_protocol_fails_its_job() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    rig.stopped(slots[1]);
    assert!(rig.failure(job).to_string().contains("nobody told it to"));

    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 1);
    let (slot, fence, summary) = (slots[0], rig.fence(slots[0]), None);
    rig.event(Event::RankFinished {
        slot,
        fence,
        summary,
    });
    assert!(rig.failure(job).to_string().contains("without a summary"));
    assert_eq!(rig.slot(slot), Some(SlotState::Free));
}

#[test]
fn stopped_ranks_serve_the_next_job_while_the_cause_is_sought() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 2);
    let next = rig.submit(1);
    rig.close(slots[1], StreamEnd::Lost);
    rig.stopped(slots[0]);
    assert_eq!(rig.state(next), JobState::Starting);
    rig.cancel(job).0.unwrap();
    assert_eq!(rig.fence(slots[0]).job, next);
    assert_eq!(rig.state(next), JobState::Starting);
}
