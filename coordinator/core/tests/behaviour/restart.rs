//! A new core on the old store.

use ringfold_common::ids::MembershipEpoch;
use ringfold_common::job::{Cause, JobEventKind, JobState, Reason};
use ringfold_coordinator_core::JobRecord;

use crate::rig::{Rig, commits, published};

#[test]
fn jobs_that_ran_are_queued_again_at_their_place() {
    let mut rig = Rig::new();
    let slots = [(); 3].map(|()| rig.register("alpha"));
    let (running, starting, queued) = (rig.submit(1), rig.submit(2), rig.submit(1));
    rig.run(&slots[..1]);
    assert_eq!(rig.state(starting), JobState::Starting);
    rig.evaluate(slots[0], 3);

    let effects = rig.restart();
    assert!(commits(&effects));
    assert_eq!(rig.core.slots().count(), 0);
    for job in [running, starting] {
        assert_eq!(rig.state(job), JobState::Queued);
        assert_eq!(*rig.reason(job), Reason::CoordinatorRestarted);
        let record = rig.job(job).record;
        assert_eq!((&record.started, &record.evaluation), (&None, &None));
        assert!(rig.job(job).ranks.is_empty());
    }
    let head = running;
    assert_eq!(*rig.reason(queued), Reason::Behind { head, ahead: 2 });

    // They start in the old order, in higher membership epochs.
    rig.register("alpha");
    assert_eq!(rig.state(running), JobState::Starting);
    assert_eq!(
        *rig.reason(starting),
        Reason::NeedsSlots {
            needed: 2,
            free: 0,
            registered: 1
        }
    );
    assert_eq!(rig.job(running).record.membership_epoch, MembershipEpoch(2));
    rig.restart();
    rig.register("alpha");
    assert_eq!(rig.job(running).record.membership_epoch, MembershipEpoch(3));
}

#[test]
fn ended_jobs_are_shown_in_full() {
    let (mut rig, done, slots) = Rig::with_job_in(JobState::Running, 1);
    rig.progress(slots[0], 50);
    rig.evaluate(slots[0], 50);
    rig.finish(slots[0]);
    let failed = rig.submit(1);
    rig.fail(slots[0], Cause::Error("disk full".into()));
    let cancelled = rig.submit(1);
    rig.cancel(cancelled).0.unwrap();
    let jobs = [done, failed, cancelled];
    let records = |rig: &Rig| -> Vec<JobRecord> {
        let kept = jobs.iter().map(|job| rig.job(*job).record.clone());
        kept.collect()
    };
    let before = records(&rig);
    let last = |rig: &Rig, after| {
        let events = rig.core.events_after(done, after).unwrap().events;
        events.last().copied().cloned()
    };
    let end = last(&rig, 0);
    assert!(end.is_some());
    assert_eq!(rig.restart(), []);
    assert_eq!(records(&rig), before);
    assert_eq!(rig.job(done).progress.unwrap().step.0, 50);
    assert_eq!(rig.job(done).ranks.len(), 1);
    // The event that ended a job is known for as long as the job is.
    assert_eq!(last(&rig, 0), end);
    let sequence = end.unwrap().sequence;
    assert_eq!(last(&rig, sequence), None);
    assert!(rig.core.events_after(done, 0).unwrap().missed);
}

#[test]
fn event_numbers_are_not_used_again_though_progress_is_not_committed() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 1);
    let mut last = 0;
    let mut commits_made = 0;
    for step in 1..200 {
        let effects = rig.progress(slots[0], step);
        commits_made += u32::from(commits(&effects));
        last = published(&effects)[0].sequence;
    }
    assert!((1..5).contains(&commits_made), "{commits_made}");
    let effects = rig.restart();
    let event = published(&effects)[0];
    assert!(event.sequence > last);
    assert!(matches!(
        &event.kind,
        JobEventKind::State {
            state: JobState::Queued,
            ..
        }
    ));
    let events = rig.core.events_after(job, last).unwrap();
    assert_eq!(events.missed, event.sequence > last + 1);
    assert_eq!(events.oldest_sequence, event.sequence);
    assert_eq!(events.events, [event]);
}

#[test]
fn a_queued_job_waits_on_with_nothing_committed() {
    let mut rig = Rig::new();
    let job = rig.submit(1);
    let before = rig.store.clone();
    assert_eq!(rig.restart(), []);
    assert_eq!(rig.store, before);
    assert_eq!(rig.state(job), JobState::Queued);
}
