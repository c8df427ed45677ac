//! Faults at each phase of an operation over TCP. A failure prints its seed; `RINGFOLD_FAULT_SEED` runs
//! that one alone.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use ringfold_collective::testing::faults::{Fault, Moment, Plan, Wires};
use ringfold_collective::testing::process::{Victim, meet};
use ringfold_collective::testing::{identity, listener, on_threads};
use ringfold_collective::{AbortSignal, CollectiveError, LastSign, Listener, RingOptions};
use ringfold_common::ids::Rank;

const VICTIM: &str = "RINGFOLD_TEST_FAULT_VICTIM";
const SEEDS: u64 = 30;
/// Operations that a rank does if nothing fails.
const OPERATIONS: u64 = 6;

/// What became of a rank.
struct Ended {
    rank: Rank,
    /// Operations that it completed.
    completed: u64,
    error: Option<CollectiveError>,
}

fn run(rank: u32, listener: Listener, peers: &[SocketAddr], plan: &Plan) -> Ended {
    let options = RingOptions {
        progress_deadline: match plan.fault {
            Fault::Stop => Duration::from_millis(400),
            _ => RingOptions::default().progress_deadline,
        },
        ..RingOptions::default()
    };
    let (identity, abort) = (identity(rank, plan.world), AbortSignal::new().unwrap());
    let mut ring = listener
        .connect_ring(identity, peers, options, abort)
        .unwrap_or_else(|error| panic!("{plan:?}: {error}"));
    ring.keep_operands(true);
    let mut ended = Ended {
        rank: Rank(rank),
        completed: 0,
        error: None,
    };
    for operation in 1..=OPERATIONS {
        let term = (u64::from(rank) + operation) as f32;
        let mut values = vec![term; plan.elements];
        match ring.all_reduce_sum_f32(&mut values) {
            Ok(()) => {
                let sum: f32 = (0..plan.world)
                    .map(|r| (u64::from(r) + operation) as f32)
                    .sum();
                assert!(values.iter().all(|&value| value == sum), "{plan:?}");
                ended.completed = operation;
            }
            Err(error) => {
                assert!(
                    values.iter().all(|&value| value == term),
                    "{plan:?}: {error}"
                );
                ended.error = Some(error);
                break;
            }
        }
    }
    ended
}

/// What each survivor says.
fn check(plan: &Plan, survivors: &[Ended]) {
    let mut victim_named = false;
    for Ended {
        rank,
        completed,
        error,
    } in survivors
    {
        let error = error
            .as_ref()
            .unwrap_or_else(|| panic!("{plan:?}: rank {rank} saw nothing"));
        let accused = error.accused();
        assert!(
            !accused.is_empty() && !accused.contains(rank),
            "{plan:?}: {error}"
        );
        victim_named |= accused.contains(&plan.victim);
        let (CollectiveError::PeerClosed { at, .. }
        | CollectiveError::Stalled { at, .. }
        | CollectiveError::BadFrame { at, .. }) = error
        else {
            panic!("{plan:?}: {error}")
        };
        // A survivor may be in the operation before, if the victim's messages of it got lost, too, or in
        // the one after, if what it needed came.
        assert!(
            (plan.operation - 1..=plan.operation + 1).contains(&at.operation),
            "{plan:?}: {error}"
        );
        assert_eq!(at.operation, completed + 1, "{plan:?}: {error}");
        let words = error.to_string();
        let phases = ["reduce-scatter", "all-gather", "one shot"];
        assert!(
            phases.iter().any(|phase| words.contains(phase)),
            "{plan:?}: {words}"
        );
        for part in [
            &format!("operation {} (all-reduce sum f32)", at.operation),
            &format!("rank {} at 127.0.0.1:", accused[0]),
            &format!("after {} of {} bytes", at.bytes_done, at.bytes_expected),
            &at.last_sign.to_string(),
        ] {
            assert!(words.contains(part), "{plan:?}: {part}: {words}");
        }
        // All have heard of all, or sent to all, since the operations before.
        assert_ne!(at.last_sign, LastSign::Joined, "{plan:?}: {words}");
    }
    assert!(victim_named, "{plan:?}: nobody names the victim");
}

#[test]
fn faults_at_each_phase_are_survived_and_named() {
    let one: Option<u64> = std::env::var("RINGFOLD_FAULT_SEED")
        .ok()
        .map(|seed| seed.parse().expect("RINGFOLD_FAULT_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut spent = Vec::new();
    for seed in seeds.clone() {
        let plan = Plan::from_seed(seed);
        let listeners: Vec<Listener> = (0..plan.world).map(|_| listener()).collect();
        let targets: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
        let wires = Wires::new(plan, &targets, || unreachable!("nobody is killed"));
        let ranks = (0..plan.world).zip(listeners).collect();
        let mut ended = on_threads(ranks, |(rank, listener)| {
            run(rank, listener, wires.addrs(), &plan)
        });
        assert_eq!(wires.spent(), 1, "{plan:?}");
        spent.push((plan.fault, plan.moment));
        if plan.fault == Fault::Delay {
            assert!(
                ended.iter().all(|ended| ended.completed == OPERATIONS),
                "{plan:?}"
            );
            continue;
        }
        ended.remove(plan.victim.0 as usize);
        check(&plan, &ended);
        let wrong = ended.iter().any(|ended| {
            matches!(ended.error, Some(CollectiveError::BadFrame { ref peer, .. }) if peer.rank == plan.victim)
        });
        assert_eq!(wrong, plan.fault == Fault::FlipBit, "{plan:?}");
    }
    assert_eq!(spent.len() as u64, seeds.end - seeds.start);
    for fault in Plan::FAULTS {
        for moment in Plan::MOMENTS {
            assert!(
                one.is_some() || spent.contains(&(fault, moment)),
                "{fault:?} {moment:?}"
            );
        }
    }
}

#[test]
#[ignore = "the process that `a_kill_at_each_phase_is_survived_and_named` starts"]
fn victim() {
    let Ok(plan) = std::env::var(VICTIM) else {
        return;
    };
    let mut words = plan.split(' ').map(|word| word.parse::<usize>().unwrap());
    let mut next = || words.next().unwrap();
    let plan = Plan {
        world: next() as u32,
        victim: Rank(next() as u32),
        elements: next(),
        ..Plan::from_seed(0)
    };
    let listener = listener();
    let peers = meet(&listener);
    run(plan.victim.0, listener, &peers, &plan);
}

#[test]
fn a_kill_at_each_phase_is_survived_and_named() {
    let mut spent = 0;
    for (moment, elements) in [
        (Moment::Before, 100),
        (Moment::Sending, 1_000_000),
        (Moment::Reducing, 50_000),
        (Moment::Reducing, 1_000_000),
    ] {
        let plan = Plan {
            world: 4,
            victim: Rank(1),
            operation: 3,
            moment,
            fault: Fault::Kill,
            elements,
            ..Plan::from_seed(0)
        };
        let told = format!("{} {} {}", plan.world, plan.victim, elements);
        let mut victim = Victim::start(VICTIM, told);
        let survivors: Vec<(u32, Listener)> = [0, 2, 3]
            .map(|rank| (rank, listener()))
            .into_iter()
            .collect();
        let mut targets: Vec<SocketAddr> = survivors.iter().map(|(_, l)| l.addr()).collect();
        targets.insert(1, victim.addr());
        let victim = std::sync::Arc::new(Mutex::new(victim));
        let killed = std::sync::Arc::clone(&victim);
        let wires = Wires::new(plan, &targets, move || {
            killed.lock().unwrap().child.kill().unwrap()
        });
        victim.lock().unwrap().tell(wires.addrs());
        let ended = on_threads(survivors, |(rank, listener)| {
            run(rank, listener, wires.addrs(), &plan)
        });
        assert_eq!(wires.spent(), 1, "{plan:?}");
        check(&plan, &ended);
        let status = victim.lock().unwrap().child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "{plan:?}");
        spent += 1;
    }
    assert_eq!(spent, 4);
}
