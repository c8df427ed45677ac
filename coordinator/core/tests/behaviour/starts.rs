//! Queue, gang start, and the way of a job that goes well.

use ringfold_common::dataset::RankPart;
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, RingKey, SlotId};
use ringfold_common::job::{Cause, JobEventKind, JobState, Phase, Reason};
use ringfold_coordinator_core::{Command, CoreConfig, Event, Fence, Reply, SlotState};

use crate::rig::{
    Rig, assigned, commits, evaluation, info, progress, published, sent, spec, summary,
};

#[test]
fn a_gang_starts_when_all_its_slots_are_there_and_not_before() {
    let mut rig = Rig::new();
    let job = rig.submit(2);
    let needs = |free, registered| Reason::NeedsSlots {
        needed: 2,
        free,
        registered,
    };
    assert_eq!(*rig.reason(job), needs(0, 0));
    let first = rig.register("alpha");
    assert_eq!(rig.slot(first), Some(SlotState::Free));
    assert_eq!(*rig.reason(job), needs(1, 1));

    let second = rig.next_slot();
    let effects = rig.event(Event::SlotRegistered {
        slot: second,
        info: info("alpha", second),
    });
    assert!(commits(&effects));
    assert_eq!(assigned(&effects), [first, second]);
    assert_eq!(rig.state(job), JobState::Starting);
    for (rank, (slot, command)) in (0..).map(Rank).zip(sent(&effects)) {
        let fence = Fence {
            job,
            membership_epoch: MembershipEpoch(1),
            rank,
        };
        assert_eq!(rig.slot(slot), Some(SlotState::Assigned(fence)));
        let Command::Assign(assignment) = command else {
            panic!("{command:?}");
        };
        assert_eq!(assignment.fence, fence);
        assert_eq!(assignment.world, 2);
        assert_eq!(*assignment.spec, spec(2));
        assert_eq!(assignment.part, RankPart::of(rank, 2, 2, 10));
        assert_eq!(
            assignment.spec_hash,
            assignment.spec.hash(&assignment.dataset)
        );
    }
}

#[test]
fn a_job_that_goes_well() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Starting, 2);
    assert_eq!(sent(&rig.listen(slots[1])), []);
    assert_eq!(*rig.reason(job), Reason::FormingRing { ready: 1, world: 2 });
    let effects = rig.listen(slots[0]);
    let peers = vec!["slot-1:1".to_owned(), "slot-2:1".to_owned()];
    for (slot, command) in sent(&effects) {
        let (fence, peers, keys) = (rig.fence(slot), peers.clone(), Vec::new());
        assert_eq!(*command, Command::StartRing { fence, peers, keys });
    }
    assert_eq!(sent(&effects).len(), 2);

    rig.train(slots[0]);
    assert_eq!(rig.state(job), JobState::Starting);
    assert!(commits(&rig.train(slots[1])));
    assert_eq!(
        (rig.state(job), rig.reason(job)),
        (JobState::Running, &Reason::Training)
    );
    let addresses = rig.store.jobs[0].ranks.iter();
    let addresses: Vec<_> = addresses
        .filter_map(|rank| rank.ring_address.clone())
        .collect();
    assert_eq!(addresses, peers);

    assert!(!commits(&rig.progress(slots[0], 10)), "progress is soft");
    assert_eq!(rig.job(job).progress, Some(&progress(10)));
    assert!(commits(&rig.evaluate(slots[0], 10)));
    assert_eq!(rig.job(job).evaluation, Some(&evaluation(10)));

    rig.finish(slots[0]);
    assert_eq!(rig.state(job), JobState::Running);
    let effects = rig.finish(slots[1]);
    assert!(commits(&effects));
    assert_eq!(rig.state(job), JobState::Succeeded);
    let record = rig.job(job).record;
    assert_eq!(record.summary, Some(summary()));
    assert_eq!(record.progress, Some(progress(10)));
    assert_eq!(record.finished, Some(rig.now.wall));
    assert!(matches!(
        &published(&effects).last().unwrap().kind,
        JobEventKind::State {
            state: JobState::Succeeded,
            summary: Some(_),
            ..
        }
    ));
    for slot in slots {
        assert_eq!(rig.slot(slot), Some(SlotState::Free));
    }
}

#[test]
fn ranks_may_finish_before_a_slower_session_says_that_it_trains() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Starting, 2);
    rig.listen(slots[0]);
    rig.listen(slots[1]);
    rig.train(slots[0]);
    rig.finish(slots[0]);
    rig.train(slots[1]);
    assert_eq!(rig.state(job), JobState::Running);
    rig.finish(slots[1]);
    assert_eq!(rig.state(job), JobState::Succeeded);
}

#[test]
fn the_queue_is_first_in_first_out_even_if_a_later_job_would_fit() {
    let mut rig = Rig::new();
    rig.register("alpha");
    let big = rig.submit(2);
    let small = rig.submit(1);
    let last = rig.submit(1);
    assert_eq!(rig.state(small), JobState::Queued);
    let behind = |ahead| Reason::Behind { head: big, ahead };
    assert_eq!(*rig.reason(small), behind(1));
    assert_eq!(*rig.reason(last), behind(2));
    assert_eq!(rig.job(last).queue_position, Some(2));
    assert_eq!(rig.job(big).queue_position, Some(0));

    rig.register("alpha");
    assert_eq!(rig.state(big), JobState::Starting);
    assert_eq!(rig.state(small), JobState::Queued);
    assert_eq!(
        *rig.reason(small),
        Reason::NeedsSlots {
            needed: 1,
            free: 0,
            registered: 2
        }
    );
    let head = small;
    assert_eq!(*rig.reason(last), Reason::Behind { head, ahead: 1 });
}

#[test]
fn one_event_starts_every_gang_that_fits() {
    let mut rig = Rig::new();
    let jobs = [rig.submit(2), rig.submit(1), rig.submit(1)];
    rig.register("alpha");
    assert_eq!(rig.state(jobs[0]), JobState::Queued);
    rig.register("beta");
    let fourth = rig.register("beta");
    assert_eq!(rig.state(jobs[1]), JobState::Starting);
    assert_eq!(rig.fence(fourth).job, jobs[1]);
    rig.cancel(jobs[2]).0.unwrap();
    rig.register("alpha");
    assert_eq!(rig.state(jobs[2]), JobState::Cancelled);
}

#[test]
fn a_reason_is_published_on_change_only() {
    let mut rig = Rig::new();
    let job = rig.submit(3);
    let slot = rig.next_slot();
    let info = info("alpha", slot);
    let effects = rig.event(Event::SlotRegistered { slot, info });
    assert_eq!(published(&effects).len(), 1);
    assert!(!commits(&effects), "a queue reason is soft");
    assert_eq!(rig.event(Event::Heard { slot }), []);
    assert_eq!(rig.event(Event::Tick), []);
    assert_eq!(rig.core.events_after(job, 0).unwrap().events.len(), 2);
}

#[test]
fn a_gang_is_packed_on_one_node_where_it_fits() {
    let mut rig = Rig::new();
    let one = rig.register("alpha");
    let two = [rig.register("beta"), rig.register("beta")];
    let job = rig.submit(2);
    let ranks = rig.job(job).ranks;
    assert!(ranks.iter().all(|rank| rank.node.0 == "beta"), "{ranks:?}");
    assert_eq!(rig.slot(one), Some(SlotState::Free));
    assert_eq!(two.map(|slot| rig.fence(slot).rank), [Rank(0), Rank(1)]);
}

#[test]
fn messages_that_do_not_fit_are_dropped_and_counted() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Starting, 2);
    let good = rig.fence(slots[0]);
    let wrong = [
        Fence {
            job: JobId(9),
            ..good
        },
        Fence {
            membership_epoch: MembershipEpoch(0),
            ..good
        },
        Fence {
            membership_epoch: MembershipEpoch(2),
            ..good
        },
        Fence {
            rank: Rank(1),
            ..good
        },
        Fence {
            rank: Rank(u32::MAX),
            ..good
        },
    ];
    let before = rig.core.durable();
    let mut stale = 0;
    for fence in wrong {
        for slot in [slots[0], ringfold_common::ids::SlotId(99)] {
            let address = "x:1".to_owned();
            assert_eq!(
                rig.event(Event::RankListening {
                    slot,
                    fence,
                    address,
                    key: None,
                }),
                []
            );
            let summary = Some(summary());
            assert_eq!(
                rig.event(Event::RankFinished {
                    slot,
                    fence,
                    summary
                }),
                []
            );
            assert_eq!(rig.event(Event::RankStopped { slot, fence }), []);
            stale += 3;
            assert_eq!(rig.core.stale_messages(), stale);
        }
    }
    // In the right world, and out of order.
    let (slot, fence) = (slots[0], good);
    assert_eq!(rig.train(slot), []);
    assert_eq!(rig.finish(slot), []);
    assert_eq!(rig.progress(slot, 1), []);
    assert_eq!(rig.evaluate(slot, 1), []);
    rig.listen(slot);
    assert_eq!(
        rig.event(Event::RankTraining { slot, fence }),
        [],
        "no ring yet"
    );
    let address = "again".to_owned();
    assert_eq!(
        rig.event(Event::RankListening {
            slot,
            fence,
            address,
            key: None,
        }),
        []
    );
    // From a rank that does not speak for the job, from nobody, and twice.
    rig.listen(slots[1]);
    rig.train(slots[1]);
    assert_eq!(rig.progress(slots[1], 1), []);
    let slot = ringfold_common::ids::SlotId(99);
    assert_eq!(rig.event(Event::Heard { slot }), []);
    let (slot, info) = (slots[0], info("beta", slots[0]));
    assert_eq!(rig.event(Event::SlotRegistered { slot, info }), []);
    assert_eq!(rig.core.stale_messages(), stale + 9);
    assert_eq!(rig.core.durable().jobs[0].state, before.jobs[0].state);
    assert_eq!(rig.state(job), JobState::Starting);
}

/// A job of two ranks that asks for TLS between them.
fn under_tls() -> (Rig, JobId, Vec<SlotId>) {
    let mut rig = Rig::new();
    let slots = vec![rig.register("alpha"), rig.register("beta")];
    let mut spec = spec(2);
    spec.cluster.tls = true;
    match rig.try_submit(spec, None) {
        Ok(Reply::Submitted { job, .. }) => (rig, job, slots),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_tls_all_ranks_get_the_keys_that_all_announced() {
    let (mut rig, _, slots) = under_tls();
    rig.listen_with_key(slots[1], 8);
    let effects = rig.listen_with_key(slots[0], 7);
    let told = sent(&effects);
    assert_eq!(told.len(), 2);
    for (_, command) in told {
        let Command::StartRing { peers, keys, .. } = command else {
            panic!("{command:?}");
        };
        assert_eq!(peers.len(), 2);
        assert_eq!(*keys, [7, 8].map(|byte| RingKey([byte; 32])));
    }
}

#[test]
fn with_tls_a_rank_without_a_key_fails_the_job_by_name() {
    let (mut rig, job, slots) = under_tls();
    rig.listen_with_key(slots[0], 7);
    let told = rig.listen(slots[1]);
    let aborted = |(_, command): &(_, &Command)| matches!(command, Command::Abort { .. });
    assert!(sent(&told).iter().all(aborted), "{told:?}");
    assert_eq!(sent(&told).len(), 2);
    for slot in slots {
        rig.stopped(slot);
    }
    let grace = CoreConfig::default().blame_grace;
    rig.tick_after(grace);
    let failure = rig.failure(job);
    assert_eq!(
        (failure.rank, failure.phase),
        (Some(Rank(1)), Phase::FormingRing)
    );
    let words = "cluster.tls is on, and the rank announced no key for the ring";
    assert_eq!(failure.cause, Cause::Error(words.into()));
}

#[test]
fn without_tls_a_key_goes_nowhere() {
    let (mut rig, _, slots) = Rig::with_job_in(JobState::Starting, 1);
    let effects = rig.listen_with_key(slots[0], 7);
    let told = sent(&effects);
    assert!(
        matches!(told[..], [(_, Command::StartRing { keys, .. })] if keys.is_empty()),
        "{told:?}"
    );
}

#[test]
fn the_phase_follows_what_ranks_say() {
    let (mut rig, job, slots) = Rig::with_job_in(JobState::Running, 1);
    rig.phase(slots[0], Phase::Saving);
    rig.close(slots[0], ringfold_coordinator_core::StreamEnd::Left);
    assert_eq!(rig.failure(job).phase, Phase::Saving);
}
