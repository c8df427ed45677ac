//! Ranks that go on while the coordinator, or the way to it, is gone.

use std::time::Duration;

use ringfold_common::ids::{MembershipEpoch, Step};
use ringfold_common::job::{Cause, JobState, Phase, Reason};
use ringfold_coordinator_core::{CoreConfig, Event, ExitCause, Fence, Held, SlotState, StreamEnd};

use crate::rig::{Rig, aborted, assigned, summary};

const MOMENT: Duration = Duration::from_millis(1);

fn training(step: u64) -> Held {
    Held::Training(Phase::Training(Step(step)))
}

#[test]
fn a_rank_whose_stream_is_lost_goes_on_and_comes_back_in_the_same_epoch() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    let fence = rig.fence(slots[1]);
    assert_eq!(rig.close(slots[1], StreamEnd::Lost), []);
    assert_eq!(rig.state(job), JobState::Running);
    rig.advance(CoreConfig::LEASE);
    rig.event(Event::Heard { slot: slots[0] });
    let (back, effects) = rig.come_back(slots[1], fence, training(9));
    assert_eq!(aborted(&effects), []);
    assert_eq!(rig.slot(slots[1]), None);
    assert_eq!(rig.slot(back), Some(SlotState::Assigned(fence)));
    rig.finish(slots[0]);
    rig.finish(back);
    let record = rig.job(job).record;
    assert_eq!(record.state, JobState::Succeeded);
    assert_eq!(record.membership_epoch, MembershipEpoch(1));
    assert_eq!(record.restarts, []);
}

#[test]
fn one_that_does_not_come_back_in_its_lease_or_whose_process_ends_is_lost() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    rig.close(slots[1], StreamEnd::Lost);
    rig.advance(CoreConfig::LEASE + MOMENT);
    rig.event(Event::Heard { slot: slots[0] });
    assert_eq!(aborted(&rig.event(Event::Tick)), [slots[0]]);
    assert!(
        rig.job(job).record.restarts[0]
            .cause
            .contains("was silent for")
    );

    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    rig.close(slots[1], StreamEnd::Lost);
    let effects = rig.exit("alpha", slots[1], ExitCause::Signalled(9));
    assert_eq!(aborted(&effects), [slots[0]]);
    assert!(rig.job(job).record.restarts[0].cause.contains("SIGKILL"));
}

#[test]
fn a_rank_that_its_job_went_on_without_is_told_to_stop_and_then_serves_again() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    let fence = rig.fence(slots[1]);
    rig.close(slots[1], StreamEnd::Lost);
    rig.fail(slots[0], Cause::PeerLost("rank 1".into()));
    // Nobody knows better: the job goes on with the rank that can be reached.
    rig.advance(CoreConfig::BLAME_GRACE);
    let effects = rig.event(Event::Heard { slot: slots[0] });
    assert_eq!(assigned(&effects), [slots[0]]);
    let (back, effects) = rig.come_back(slots[1], fence, training(9));
    assert_eq!(aborted(&effects), [back]);
    assert_eq!(rig.slot(back), Some(SlotState::Stopping(fence)));
    rig.stopped(back);
    assert_eq!(rig.slot(back), Some(SlotState::Free));
    assert_eq!(rig.state(job), JobState::Starting);
}

#[test]
fn after_a_restart_of_the_coordinator_the_ranks_that_went_on_come_back() {
    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 5);
    let fences = [0, 1, 2].map(|rank| rig.fence(slots[rank]));
    rig.restart();
    assert_eq!(rig.state(job), JobState::Running);
    assert_eq!(
        rig.reason(job).to_string(),
        "training: the coordinator was restarted and has heard from 0 of 3 ranks"
    );
    // The shell of the new coordinator counts its slots anew.
    let (first, _) = rig.come_back(slots[0], fences[0], training(30));
    assert_eq!(*rig.reason(job), Reason::Rejoining { heard: 1, world: 3 });
    // One has finished meanwhile, and so has rank 0 before the last is back.
    rig.come_back(slots[1], fences[1], Held::Finished(None));
    rig.finish(first);
    assert_eq!(rig.state(job), JobState::Running);
    rig.come_back(slots[2], fences[2], Held::Finished(None));
    let record = rig.job(job).record;
    assert_eq!(record.state, JobState::Succeeded);
    assert_eq!(record.membership_epoch, MembershipEpoch(1));
}

#[test]
fn a_summary_that_nobody_heard_is_brought_along() {
    let (mut rig, job, slots) = Rig::with_elastic_job(1, 1, 5);
    let fence = rig.fence(slots[0]);
    rig.restart();
    rig.come_back(slots[0], fence, Held::Finished(Some(summary())));
    assert_eq!(rig.state(job), JobState::Succeeded);
}

#[test]
fn of_ranks_that_failed_meanwhile_the_job_learns_the_cause_and_goes_on() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    let fences = [0, 1].map(|rank| rig.fence(slots[rank]));
    rig.restart();
    let failed = Held::Failed {
        cause: Cause::PeerLost("rank 0 at slot-1:1".into()),
        phase: Phase::Training(Step(8)),
        log_tail: Vec::new(),
    };
    let (back, _) = rig.come_back(slots[1], fences[1], failed);
    assert_eq!(rig.slot(back), Some(SlotState::Free));
    rig.exit("alpha", slots[0], ExitCause::Signalled(9));
    assert_eq!(
        rig.state(job),
        JobState::Starting,
        "with the one that is left"
    );
    assert_eq!(rig.fence(back).membership_epoch, MembershipEpoch(2));
    let cause = &rig.job(job).record.restarts[0].cause;
    assert!(
        cause.contains("rank 0 ") && cause.contains("SIGKILL"),
        "{cause}"
    );
}

#[test]
fn ranks_of_jobs_that_nobody_knows_are_told_to_stop() {
    let mut rig = Rig::new();
    let slot = rig.next_slot();
    let fence = Fence {
        job: ringfold_common::ids::JobId(77),
        membership_epoch: MembershipEpoch(1),
        rank: ringfold_common::ids::Rank(0),
    };
    let (back, effects) = rig.come_back(slot, fence, training(1));
    assert_eq!(aborted(&effects), [back]);
    let (ended, effects) = rig.come_back(slot, fence, Held::Finished(None));
    assert_eq!(aborted(&effects), []);
    assert_eq!(rig.slot(ended), Some(SlotState::Free));
}
