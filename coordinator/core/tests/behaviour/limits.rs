//! The full case of every limit.

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::JobId;
use ringfold_common::job::JobState;
use ringfold_coordinator_core::{CloseReason, CoreConfig, Effect, Event, Refusal, Reply};

use crate::rig::{Rig, info, spec};

#[test]
fn a_full_queue_refuses() {
    let mut rig = Rig::with(CoreConfig {
        queued_jobs_max: 2,
        ..CoreConfig::default()
    });
    assert!(rig.try_submit(spec(1), Some("first")).is_ok());
    let second = rig.submit(1);
    let refusal = rig.try_submit(spec(1), None).unwrap_err();
    assert_eq!(refusal, Refusal::QueueFull { max: 2 });
    assert_eq!(refusal.code(), ErrorCode::ResourceExhausted);
    // An existing job is found all the same.
    let existing = Reply::Submitted {
        job: JobId(1),
        existing: true,
    };
    assert_eq!(rig.try_submit(spec(1), Some("first")), Ok(existing));
    rig.cancel(second).0.unwrap();
    assert_eq!(rig.submit(1), JobId(3), "refusals use no ids");
}

#[test]
fn the_jobs_that_ended_first_are_dropped() {
    let mut rig = Rig::with(CoreConfig {
        ended_jobs_max: 2,
        ..CoreConfig::default()
    });
    let first = rig.try_submit(spec(1), Some("t"));
    assert!(first.is_ok());
    let jobs = [rig.submit(1), rig.submit(1), rig.submit(1)];
    // The order of ends, not of ids.
    for job in [jobs[1], JobId(1), jobs[0]] {
        rig.cancel(job).0.unwrap();
    }
    assert!(rig.core.job(jobs[1]).is_none());
    assert!(rig.core.events_after(jobs[1], 0).is_none());
    let kept: Vec<_> = rig.store.jobs.iter().map(|job| job.id).collect();
    assert_eq!(kept, [JobId(1), jobs[0], jobs[2]]);
    rig.cancel(jobs[2]).0.unwrap();
    assert!(rig.core.job(JobId(1)).is_none());
    // Its token is free again, its id is not.
    let again = rig.try_submit(spec(2), Some("t"));
    let (job, existing) = (JobId(5), false);
    assert_eq!(again, Ok(Reply::Submitted { job, existing }));
}

#[test]
fn a_lower_limit_holds_from_the_restart_on() {
    let mut config = CoreConfig::default();
    let mut rig = Rig::with(config.clone());
    for _ in 0..3 {
        let job = rig.submit(1);
        rig.cancel(job).0.unwrap();
    }
    config.ended_jobs_max = 1;
    let (core, effects) =
        ringfold_coordinator_core::Core::restore(config, rig.store.clone(), rig.now);
    rig.core = core;
    rig.commit(&effects);
    assert_eq!(rig.store.jobs.len(), 1);
    assert_eq!(rig.store.jobs[0].id, JobId(3));
}

#[test]
fn nothing_is_kept_of_ended_jobs_if_so_configured() {
    let mut rig = Rig::with(CoreConfig {
        ended_jobs_max: 0,
        ..CoreConfig::default()
    });
    let slot = rig.register("alpha");
    let job = rig.submit(1);
    rig.cancel(job).0.unwrap();
    assert!(rig.store.jobs.is_empty());
    rig.stopped(slot);
    assert_eq!(rig.submit(1), JobId(2));
}

#[test]
fn the_oldest_events_of_a_job_are_dropped() {
    let mut rig = Rig::with(CoreConfig {
        events_per_job_max: 3,
        ..CoreConfig::default()
    });
    let slot = rig.register("alpha");
    let job = rig.submit(1);
    rig.run(&[slot]);
    for step in 1..=4 {
        rig.progress(slot, step);
    }
    let events = rig.core.events_after(job, 0).unwrap();
    assert!(events.missed);
    let kept: Vec<_> = events.events.iter().map(|event| event.sequence).collect();
    assert_eq!(
        kept,
        Vec::from_iter(events.oldest_sequence..events.next_sequence)
    );
    assert_eq!(kept.len(), 3);
    let oldest = events.oldest_sequence;
    assert!(!rig.core.events_after(job, oldest - 1).unwrap().missed);
}

#[test]
fn a_long_token_is_refused() {
    let mut rig = Rig::new();
    let max = CoreConfig::TOKEN_BYTES_MAX;
    assert!(rig.try_submit(spec(1), Some(&"t".repeat(max))).is_ok());
    let refusal = rig.try_submit(spec(1), Some(&"t".repeat(max + 1)));
    let bytes = max + 1;
    assert_eq!(refusal, Err(Refusal::TokenTooLong { bytes, max }));
}

#[test]
fn slots_past_the_limit_are_closed_and_jobs_past_it_refused() {
    let mut rig = Rig::with(CoreConfig {
        slots_max: 2,
        ..CoreConfig::default()
    });
    rig.register("alpha");
    rig.register("alpha");
    let slot = rig.next_slot();
    let info = info("alpha", slot);
    let reason = CloseReason::SlotsFull { max: 2 };
    assert_eq!(
        rig.event(Event::SlotRegistered { slot, info }),
        [Effect::CloseSlot { slot, reason }]
    );
    assert_eq!(rig.slot(slot), None);
    let refusal = rig.try_submit(spec(3), None).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyWorkers { workers: 3, max: 2 });
    let job = rig.submit(2);
    assert_eq!(rig.state(job), JobState::Starting);
}
