//! Jobs that go on after a fault.

use std::time::Duration;

use ringfold_common::ids::{MembershipEpoch, Rank};
use ringfold_common::job::{Cause, JobState};
use ringfold_coordinator_core::{Command, CoreConfig, ExitCause, StreamEnd};

use crate::rig::{Rig, aborted, assigned, sent};

const KILLED: ExitCause = ExitCause::Signalled(9);

fn peer_lost() -> Cause {
    Cause::PeerLost("rank 1 at slot-2:1".into())
}

#[test]
fn the_survivors_of_a_kill_go_on_once_all_of_them_have_stopped() {
    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 5);
    let effects = rig.exit("alpha", slots[1], KILLED);
    assert_eq!(aborted(&effects), [slots[0], slots[2]]);
    assert_eq!(rig.state(job), JobState::Queued);
    assert_eq!(
        rig.reason(job).to_string(),
        "recovering from fault 1 of 5: rank 1 on host alpha was killed by signal 9 \
         (SIGKILL) while training step 1; last log line: last words"
    );
    assert_eq!(assigned(&rig.stopped(slots[2])), []);
    let effects = rig.stopped(slots[0]);
    assert_eq!(assigned(&effects), [slots[0], slots[2]]);
    let worlds: Vec<_> = sent(&effects)
        .into_iter()
        .map(|(_, command)| match command {
            Command::Assign(assignment) => (assignment.fence.membership_epoch, assignment.world),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(worlds, [(MembershipEpoch(2), 2); 2]);
    rig.run(&[slots[0], slots[2]]);
    assert_eq!(rig.state(job), JobState::Running);
    let record = rig.job(job).record.clone();
    assert_eq!(record.restarts_used, 1);
    assert_eq!(record.restarts[0].membership_epoch, MembershipEpoch(1));
    assert!(record.restarts[0].cause.contains("rank 1 on host alpha"));
}

#[test]
fn a_free_slot_takes_the_place_of_a_lost_one_and_rank_0_stays_where_it_was() {
    let (mut rig, _, slots) = Rig::with_elastic_job(3, 3, 5);
    let spare = rig.register("alpha");
    rig.exit("alpha", slots[1], KILLED);
    rig.stopped(slots[2]);
    assert_eq!(
        assigned(&rig.stopped(slots[0])),
        [slots[0], slots[2], spare]
    );

    let (mut rig, job, slots) = Rig::with_elastic_job(3, 3, 5);
    rig.exit("alpha", slots[0], KILLED);
    rig.stopped(slots[2]);
    rig.stopped(slots[1]);
    assert_eq!(
        rig.reason(job).to_string(),
        "waiting: needs 3 slots, 2 free of 2 registered"
    );
    let joiner = rig.register("alpha");
    assert_eq!(rig.state(job), JobState::Starting);
    assert_eq!(rig.fence(joiner).membership_epoch, MembershipEpoch(2));
}

#[test]
fn a_job_waits_for_a_rank_that_does_not_stop_but_not_for_ever() {
    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 5);
    rig.exit("alpha", slots[0], KILLED);
    rig.stopped(slots[1]);
    for _ in 0..4 {
        assert_eq!(rig.state(job), JobState::Queued);
        for slot in [slots[1], slots[2]] {
            rig.event(ringfold_coordinator_core::Event::Heard { slot });
        }
        rig.tick_after(CoreConfig::STOP_WAIT / 4);
    }
    assert_eq!(rig.state(job), JobState::Starting);
    assert_eq!(rig.fence(slots[1]).rank, Rank(0));
}

#[test]
fn what_would_happen_again_fails_the_job_and_so_does_one_fault_too_many() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    rig.fail(slots[1], Cause::Error("disk full".into()));
    assert_eq!(rig.failure(job).cause, Cause::Error("disk full".into()));

    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 1);
    rig.exit("alpha", slots[0], KILLED);
    rig.stopped(slots[1]);
    rig.stopped(slots[2]);
    rig.exit("alpha", slots[1], KILLED);
    assert_eq!(rig.failure(job).cause, Cause::Signalled(9));
    assert_eq!(rig.job(job).record.restarts_used, 1);
}

#[test]
fn a_worker_that_leaves_in_order_uses_up_nothing() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 1);
    rig.close(slots[0], StreamEnd::Left);
    rig.stopped(slots[1]);
    assert_eq!(rig.state(job), JobState::Starting);
    let record = rig.job(job).record;
    assert_eq!((record.restarts_used, record.restarts.len()), (0, 1));
    assert!(record.restarts[0].cause.contains("was told to stop"));
}

#[test]
fn nobody_takes_the_slots_while_the_first_cause_is_sought() {
    let (mut rig, job, slots) = Rig::with_elastic_job(2, 1, 5);
    let other = rig.submit(1);
    rig.fail(slots[0], peer_lost());
    assert_eq!(rig.state(job), JobState::Running, "a better cause may come");
    assert_eq!(rig.state(other), JobState::Queued);
    rig.exit("alpha", slots[1], KILLED);
    assert_eq!(rig.state(job), JobState::Starting);
    assert_eq!(rig.state(other), JobState::Queued);
    assert_eq!(rig.fence(slots[0]).job, job);
}

#[test]
fn once_the_model_is_saved_nobody_is_missed() {
    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 5);
    rig.finish(slots[0]);
    rig.finish(slots[2]);
    rig.exit("alpha", slots[1], KILLED);
    assert_eq!(rig.state(job), JobState::Succeeded);
}

#[test]
fn after_a_restart_of_the_coordinator_a_queued_job_waits_for_all_its_workers_then_for_enough() {
    let queued = || {
        let (mut rig, job, slots) = Rig::with_elastic_job(3, 2, 5);
        rig.exit("alpha", slots[0], KILLED);
        assert_eq!(rig.state(job), JobState::Queued);
        rig.restart();
        (rig, job)
    };
    let (mut rig, job) = queued();
    assert_eq!(
        rig.reason(job).to_string(),
        "waiting: needs 3 slots, 0 free of 0 registered"
    );
    let first = rig.register("alpha");
    rig.register("alpha");
    rig.tick_after(CoreConfig::REJOIN_WAIT / 2);
    assert_eq!(rig.state(job), JobState::Queued);
    rig.event(ringfold_coordinator_core::Event::Heard { slot: first });
    rig.tick_after(CoreConfig::REJOIN_WAIT / 2 - Duration::from_millis(1));
    assert_eq!(rig.state(job), JobState::Queued);
    rig.tick_after(Duration::from_millis(1));
    assert_eq!(rig.state(job), JobState::Starting);
    assert_eq!(rig.fence(first).membership_epoch, MembershipEpoch(2));

    let (mut rig, job) = queued();
    for _ in 0..3 {
        rig.register("alpha");
    }
    assert_eq!(rig.state(job), JobState::Starting, "all are there");
}
