//! Rings in shared memory that break, and how they join: every rank gets an error that names a
//! peer, and none hangs.

use std::sync::mpsc;
use std::time::Duration;

use ringfold_collective::testing::process::Victim;
use ringfold_collective::testing::{identity, join_memory, join_processes, on_threads};
use ringfold_collective::{
    AbortSignal, CollectiveError, FrameFault, Mismatch, Reduce, Ring, RingOptions,
    SHARED_WORLD_MAX, SharedHost, join_shared, memory_rings, shared_bytes,
};
use ringfold_common::ids::{JobId, Rank};

type Join = fn(u32, RingOptions) -> Vec<(Ring, AbortSignal)>;
const BOTH: [Join; 2] = [join_memory, join_processes];

const HOST: &str = "RINGFOLD_TEST_SHARED_HOST";

fn short() -> RingOptions {
    RingOptions {
        progress_deadline: Duration::from_millis(100),
        connect_deadline: Duration::from_millis(200),
        ..RingOptions::default()
    }
}

#[test]
fn large_operands_in_many_blocks() {
    for join in BOTH {
        for world in [2, 3, 5] {
            let rings = join(world, RingOptions::default());
            on_threads(rings, |(mut ring, _)| {
                let length = 300_001;
                let mut values: Vec<i64> = (0..length).collect();
                ring.all_reduce(&mut values, Reduce::Sum).unwrap();
                let right = |(i, &v): (usize, &i64)| v == i as i64 * i64::from(world);
                assert!(values.iter().enumerate().all(right));

                let mut values: Vec<i64> = (0..length).collect();
                let mine = ring.reduce_scatter(&mut values, Reduce::Sum).unwrap();
                let first = mine.start as i64;
                let right = |(i, &v): (usize, &i64)| v == (first + i as i64) * i64::from(world);
                assert!(values[mine].iter().enumerate().all(right));

                let mut values = vec![i64::from(ring.rank().0); length as usize];
                ring.broadcast(Rank(1), &mut values).unwrap();
                assert!(values.iter().all(|&v| v == 1));

                let mut blocks = vec![ring.rank().0 as i32; 100_000 * world as usize];
                ring.all_to_all(&mut blocks).unwrap();
                let right = |(i, &v): (usize, &i32)| v as usize == i / 100_000;
                assert!(blocks.iter().enumerate().all(right));
            });
        }
    }
}

#[test]
fn a_rank_that_never_enters_is_named_after_the_deadline() {
    for join in BOTH {
        let mut rings = join(3, short());
        let (_absent, _) = rings.remove(1);
        let errors = on_threads(rings, |(mut ring, _)| {
            ring.all_reduce_sum_f32(&mut [1.0; 100_000]).unwrap_err()
        });
        let named = errors.iter().any(|error| {
            matches!(error, CollectiveError::Stalled { receive_from: Some(peer), .. }
                if peer.rank == Rank(1))
        });
        assert!(named, "{errors:?}");
    }
}

#[test]
fn a_rank_that_leaves_fails_the_others() {
    for join in BOTH {
        let errors = on_threads(join(3, RingOptions::default()), |(mut ring, _)| {
            ring.barrier().unwrap();
            if ring.rank() == Rank(0) {
                return None;
            }
            let error = ring.all_reduce_sum_f32(&mut [1.0; 10]).unwrap_err();
            assert!(
                matches!(error, CollectiveError::PeerClosed { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("on this host"), "{error}");
            let later = ring.barrier().unwrap_err();
            assert!(matches!(later, CollectiveError::Poisoned { .. }));
            Some(error)
        });
        assert!(errors.iter().flatten().any(|e| e.accused() == [Rank(0)]));
    }
}

#[test]
fn an_abort_ends_a_call_that_sleeps() {
    for join in BOTH {
        let mut rings = join(2, RingOptions::default());
        let (_absent, _) = rings.pop().unwrap();
        let (mut ring, abort) = rings.pop().unwrap();
        let error = std::thread::scope(|scope| {
            let call = scope.spawn(move || ring.barrier().unwrap_err());
            abort.abort("node drained");
            call.join().unwrap()
        });
        assert_eq!(error.to_string(), "aborted: node drained");
    }
}

#[test]
fn different_calls_are_named() {
    for join in BOTH {
        let errors = on_threads(join(3, RingOptions::default()), |(mut ring, _)| {
            let length = if ring.rank() == Rank(1) { 5 } else { 6 };
            let error = ring.all_reduce_sum_f32(&mut vec![1.0; length]);
            error.and_then(|()| ring.barrier()).unwrap_err()
        });
        let named = errors.iter().any(|error| {
            matches!(
                error,
                CollectiveError::BadFrame {
                    fault: FrameFault::OtherCall { .. },
                    ..
                }
            ) && error.to_string().contains("all-reduce sum f32 of 20 bytes")
        });
        assert!(named, "{errors:?}");
    }
}

#[test]
fn different_calls_are_named_when_a_rank_runs_ahead() {
    for _ in 0..100 {
        let errors = on_threads(join_memory(2, short()), |(mut ring, _)| {
            // The root doesn't wait, and may be in its next call when the other looks.
            ring.broadcast(Rank(0), &mut [1_u8]).unwrap();
            let length = 5 + ring.rank().0 as usize;
            let call = ring.all_reduce_sum_f32(&mut vec![1.0; length]);
            call.and_then(|()| ring.barrier()).unwrap_err()
        });
        let named = errors.iter().any(|error| {
            matches!(
                error,
                CollectiveError::BadFrame {
                    fault: FrameFault::OtherCall { .. },
                    ..
                }
            )
        });
        assert!(named, "{errors:?}");
    }
}

#[test]
fn roots_that_run_ahead_do_not_overwrite_what_is_unread() {
    for join in BOTH {
        on_threads(join(3, RingOptions::default()), |(mut ring, _)| {
            for turn in 0..300_u32 {
                let root = Rank(turn % 3);
                let mut values = [if ring.rank() == root { turn as i32 } else { -1 }; 1000];
                ring.broadcast(root, &mut values).unwrap();
                assert_eq!(values, [turn as i32; 1000]);
                let mut all = [0_i32; 3];
                ring.gather(root, &[turn as i32], &mut all).unwrap();
            }
        });
    }
}

#[test]
fn a_rank_of_another_job_is_dropped_and_a_missing_one_named() {
    let host = SharedHost::bind().unwrap();
    let address = host.address().to_owned();
    let error = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let mut identity = identity(1, 3);
            identity.job = JobId(99);
            join_shared(&address, identity, short(), AbortSignal::new().unwrap()).err()
        });
        let error = host
            .connect_ring(identity(0, 3), short(), AbortSignal::new().unwrap())
            .err()
            .unwrap();
        let told = stranger.join().unwrap().unwrap();
        let CollectiveError::Handshake { mismatch, .. } = told else {
            panic!("{told}")
        };
        assert!(matches!(mismatch, Mismatch::Job { .. }));
        error
    });
    assert!(matches!(error, CollectiveError::ConnectDeadline { .. }));
    assert!(
        error
            .to_string()
            .contains("rank 1 on this host did not call")
    );
    // The name ends with the listener.
    let late = join_shared(
        &address,
        identity(1, 3),
        short(),
        AbortSignal::new().unwrap(),
    );
    assert!(matches!(
        late.err().unwrap(),
        CollectiveError::NeighbourGone { .. }
    ));
}

#[test]
fn worlds_over_the_cap_are_refused() {
    let first = identity(0, SHARED_WORLD_MAX + 1);
    let error = memory_rings(first, RingOptions::default(), Vec::new())
        .err()
        .unwrap();
    assert!(error.is_argument(), "{error}");
    let error = memory_rings(identity(0, 2), RingOptions::default(), Vec::new());
    assert!(error.err().unwrap().is_argument());
    // What the documentation says: two halves a rank and a page of counters.
    assert_eq!(shared_bytes(4, 256 << 10), 4096 + 4 * 2 * (256 << 10));
}

#[test]
#[ignore = "the process that `the_survivor_of_a_kill_names_its_peer` starts"]
fn victim() {
    let Some(address) = std::env::var_os(HOST) else {
        return;
    };
    let address = address.into_string().unwrap();
    let abort = AbortSignal::new().unwrap();
    let mut ring = join_shared(&address, identity(1, 2), RingOptions::default(), abort).unwrap();
    ring.barrier().unwrap();
    println!("joined");
    loop {
        ring.all_reduce_sum_f32(&mut [1.0; 100_000]).unwrap();
    }
}

#[test]
fn the_peer_of_a_stopped_process_names_it_within_the_deadline() {
    let host = SharedHost::bind().unwrap();
    let mut victim = Victim::start(HOST, host.address());
    let options = RingOptions {
        progress_deadline: Duration::from_millis(300),
        ..RingOptions::default()
    };
    let abort = AbortSignal::new().unwrap();
    let mut ring = host.connect_ring(identity(0, 2), options, abort).unwrap();
    ring.barrier().unwrap();
    ring.keep_operands(true);
    let pid = rustix::process::Pid::from_child(&victim.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut values = vec![1.0; 100_000];
    let error = loop {
        values.fill(1.0);
        if let Err(error) = ring.all_reduce_sum_f32(&mut values) {
            break error;
        }
    };
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    assert!(matches!(error, CollectiveError::Stalled { .. }), "{error}");
    assert_eq!(error.accused(), [Rank(1)], "{error}");
    assert!(values.iter().all(|&value| value == 1.0));
}

#[test]
fn the_survivor_of_a_kill_names_its_peer() {
    let host = SharedHost::bind().unwrap();
    let mut victim = Victim::start(HOST, host.address());
    let abort = AbortSignal::new().unwrap();
    let mut ring = host
        .connect_ring(identity(0, 2), RingOptions::default(), abort)
        .unwrap();
    ring.barrier().unwrap();
    victim.said("joined");
    let (reduced, has_reduced) = mpsc::channel();
    let error = std::thread::scope(|scope| {
        let survivor = scope.spawn(move || {
            loop {
                if let Err(error) = ring.all_reduce_sum_f32(&mut [1.0; 100_000]) {
                    return error;
                }
                let _ = reduced.send(());
            }
        });
        has_reduced.recv().unwrap();
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        survivor.join().unwrap()
    });
    assert_eq!(error.accused(), [Rank(1)], "{error}");
    assert!(
        matches!(error, CollectiveError::PeerClosed { .. }),
        "{error}"
    );
}

#[test]
fn with_eight_in_flight_a_kill_has_one_cause() {
    let host = SharedHost::bind().unwrap();
    let mut victim = Victim::start(HOST, host.address());
    let abort = AbortSignal::new().unwrap();
    let mut ring = host
        .connect_ring(identity(0, 2), RingOptions::default(), abort)
        .unwrap();
    ring.barrier().unwrap();
    victim.said("joined");
    let (started, has_started) = mpsc::channel();
    let errors = std::thread::scope(|scope| {
        let survivor = scope.spawn(move || {
            loop {
                let ended = ring.in_flight(|ring| {
                    let sum = || ring.all_reduce(vec![1.0_f32; 100_000], Reduce::Sum);
                    let pending: Vec<_> = (0..8).map(|_| sum().unwrap()).collect();
                    let _ = started.send(());
                    let errors = pending.into_iter().filter_map(|p| p.wait().err());
                    errors.collect::<Vec<_>>()
                });
                let errors = ended.unwrap();
                if !errors.is_empty() {
                    return errors;
                }
            }
        });
        has_started.recv().unwrap();
        has_started.recv().unwrap();
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        survivor.join().unwrap()
    });
    assert!(
        matches!(&errors[0], CollectiveError::PeerClosed { peer, .. } if peer.rank == Rank(1)),
        "{errors:?}"
    );
    for error in &errors[1..] {
        let CollectiveError::NotBegun { first, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(first.to_string(), errors[0].to_string());
    }
}
