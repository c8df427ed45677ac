//! Slots that join a job which lacks ranks.

use ringfold_common::ids::{JobId, Rank, SlotId};
use ringfold_common::job::JobState;
use ringfold_coordinator_core::{CoreConfig, Event, ExitCause, SlotInfo, SlotState};

use crate::rig::{Rig, aborted, assigned, info, prepares};

const KILLED: ExitCause = ExitCause::Signalled(9);

/// A job of 3 that runs with 2, after its rank 1 was killed.
fn shrunk() -> (Rig, JobId, [SlotId; 2]) {
    let (mut rig, job, slots) = Rig::with_elastic_job(3, 1, 9);
    rig.exit("alpha", slots[1], KILLED);
    rig.stopped(slots[0]);
    rig.stopped(slots[2]);
    let left = [slots[0], slots[2]];
    rig.run(&left);
    assert_eq!(rig.state(job), JobState::Running);
    (rig, job, left)
}

#[test]
fn a_slot_loads_the_data_beside_the_job_and_joins_it() {
    let (mut rig, job, left) = shrunk();
    let slot = rig.next_slot();
    let of = info("beta", slot);
    let effects = rig.event(Event::SlotRegistered { slot, info: of });
    assert_eq!(prepares(&effects), [slot]);
    assert_eq!(rig.slot(slot), Some(SlotState::Joining(job)));
    assert_eq!(rig.state(job), JobState::Running, "it goes on meanwhile");

    let effects = rig.prepared(slot, job);
    assert_eq!(aborted(&effects), left);
    assert_eq!(rig.reason(job).to_string(), "growing from 2 to 3 ranks",);
    rig.stopped(left[1]);
    let effects = rig.stopped(left[0]);
    assert_eq!(assigned(&effects).len(), 3);
    assert_eq!(rig.fence(left[0]).rank, Rank(0), "it has the files");
    rig.run(&[left[0], left[1], slot]);
    let record = rig.job(job).record;
    assert_eq!(record.restarts_used, 1, "growth is no fault");
    assert_eq!(record.restarts[1].cause, "growing from 2 to 3 ranks");
}

#[test]
fn a_node_that_lost_a_rank_is_asked_again_after_a_while_that_doubles() {
    let (mut rig, job, left) = shrunk();
    let mut wait = CoreConfig::HOLD_OFF;
    for _ in 0..3 {
        let slot = rig.next_slot();
        let of = info("alpha", slot);
        let effects = rig.event(Event::SlotRegistered { slot, info: of });
        assert_eq!(prepares(&effects), []);
        assert_eq!(prepares(&rig.tick_after(wait / 2)), []);
        assert_eq!(prepares(&rig.tick_after(wait / 2)), [slot]);
        rig.prepared(slot, job);
        rig.stopped(left[0]);
        rig.stopped(left[1]);
        rig.run(&[left[0], left[1], slot]);
        rig.exit("alpha", slot, KILLED);
        rig.stopped(left[0]);
        rig.stopped(left[1]);
        rig.run(&left);
        assert_eq!(rig.state(job), JobState::Running);
        wait *= 2;
    }
}

#[test]
fn slots_that_somebody_queues_for_do_not_join() {
    let (mut rig, job, left) = shrunk();
    let other = rig.submit(2);
    let first = rig.register("beta");
    assert_eq!(rig.slot(first), Some(SlotState::Free));
    let second = rig.register("beta");
    assert_eq!(rig.state(other), JobState::Starting);
    // The queue is empty now: the next one joins. Then another job wants it, and has it.
    let third = rig.register("beta");
    assert_eq!(rig.slot(third), Some(SlotState::Joining(job)));
    let last = rig.submit(1);
    assert_eq!(rig.fence(third).job, last);
    let before = rig.core.stale_messages();
    rig.prepared(third, job);
    assert_eq!(rig.core.stale_messages(), before + 1);
    assert_eq!(rig.state(job), JobState::Running);
    assert_eq!(rig.fence(left[0]).job, job);
    assert_eq!(rig.fence(second).job, other);
}

#[test]
fn a_slot_that_cannot_get_ready_is_held_off_and_one_that_dies_is_not_waited_for() {
    let (mut rig, job, left) = shrunk();
    let register = |rig: &mut Rig, node: &str| {
        let slot = rig.next_slot();
        let info: SlotInfo = info(node, slot);
        (slot, rig.event(Event::SlotRegistered { slot, info }))
    };
    let (failing, effects) = register(&mut rig, "beta");
    assert_eq!(prepares(&effects), [failing]);
    rig.event(Event::PrepareFailed { slot: failing, job });
    assert_eq!(rig.slot(failing), Some(SlotState::Free));
    let (dying, effects) = register(&mut rig, "gamma");
    assert_eq!(prepares(&effects), [dying]);
    rig.exit("gamma", dying, KILLED);
    assert_eq!(rig.state(job), JobState::Running);
    let (joiner, effects) = register(&mut rig, "delta");
    assert_eq!(prepares(&effects), [joiner]);
    assert_eq!(aborted(&rig.prepared(joiner, job)), left);
}

#[test]
fn a_job_of_which_a_rank_has_finished_does_not_grow() {
    let (mut rig, job, left) = shrunk();
    let joiner = rig.register("beta");
    rig.finish(left[1]);
    assert_eq!(aborted(&rig.prepared(joiner, job)), []);
    rig.finish(left[0]);
    assert_eq!(rig.state(job), JobState::Succeeded);
    assert_eq!(rig.slot(joiner), Some(SlotState::Free));
}
