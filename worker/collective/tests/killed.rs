//! SIGKILL to the process of one rank while three of them train: the survivors know at once.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use ringfold_collective::testing::process::{Victim, meet};
use ringfold_collective::testing::{identity, listener, on_threads};
use ringfold_collective::{AbortSignal, CollectiveError, Listener, Reduce, RingOptions};
use ringfold_common::ids::Rank;

const VICTIM: &str = "RINGFOLD_TEST_VICTIM";

/// Reduces until the ring breaks, and calls `on_first` after the first time.
fn train(
    rank: u32,
    listener: Listener,
    peers: &[SocketAddr],
    on_first: impl FnOnce(),
) -> CollectiveError {
    let abort = AbortSignal::new().unwrap();
    let options = RingOptions::default();
    let mut ring = listener
        .connect_ring(identity(rank, 3), peers, options, abort)
        .unwrap();
    let mut values = vec![0.0_f32; 1 << 20];
    ring.all_reduce_sum_f32(&mut values).unwrap();
    on_first();
    loop {
        if let Err(error) = ring.all_reduce_sum_f32(&mut values) {
            return error;
        }
    }
}

#[test]
#[ignore = "the process that `the_survivors_of_a_kill_name_their_neighbour` starts"]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let listener = listener();
    let peers = meet(&listener);
    train(1, listener, &peers, || ());
}

/// Rank 1 in a process of its own, which waits for the others; their ranks and listeners; all addresses.
fn ring_with_victim() -> (Victim, [(u32, Listener); 2], [SocketAddr; 3]) {
    let mut victim = Victim::start(VICTIM, "1");
    let survivors = [(0, listener()), (2, listener())];
    let peers = [survivors[0].1.addr(), victim.addr(), survivors[1].1.addr()];
    victim.tell(&peers);
    (victim, survivors, peers)
}

#[test]
fn a_stopped_process_is_named_within_the_deadline() {
    let (mut victim, survivors, peers) = ring_with_victim();
    let pid = rustix::process::Pid::from_child(&victim.child);
    let errors = on_threads(survivors.into(), |(rank, listener)| {
        let options = RingOptions {
            progress_deadline: Duration::from_millis(300),
            ..RingOptions::default()
        };
        let abort = AbortSignal::new().unwrap();
        let mut ring = listener
            .connect_ring(identity(rank, 3), &peers, options, abort)
            .unwrap();
        let mut values = vec![0.0_f32; 1 << 20];
        ring.all_reduce_sum_f32(&mut values).unwrap();
        if rank == 0 {
            rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        }
        loop {
            if let Err(error) = ring.all_reduce_sum_f32(&mut values) {
                break error;
            }
        }
    });
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    // Around the ring, rank 0 waits for rank 2, which waits for the one that is stopped. Whoever gives
    // up first closes its sockets, which the other may see.
    let stalled = |error: &&CollectiveError| matches!(error, CollectiveError::Stalled { .. });
    assert!(errors.iter().filter(stalled).count() >= 1, "{errors:?}");
    assert!(errors.iter().all(|e| !e.accused().is_empty()), "{errors:?}");
}

#[test]
fn the_survivors_of_a_kill_name_their_neighbour() {
    let (mut victim, survivors, peers) = ring_with_victim();

    let (training, has_trained) = mpsc::channel();
    let errors = std::thread::scope(|scope| {
        let survivors = scope.spawn(|| {
            on_threads(survivors.into(), |(rank, listener)| {
                train(rank, listener, &peers, || training.send(()).unwrap())
            })
        });
        // Both are past the first operation.
        has_trained.recv().unwrap();
        has_trained.recv().unwrap();
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        survivors.join().unwrap()
    });
    // Whoever sees the kill first closes its sockets, which the other may see first.
    let mut victim_named = false;
    for (error, other) in errors.iter().zip([Rank(2), Rank(0)]) {
        let CollectiveError::PeerClosed { peer, at, .. } = error else {
            panic!("{error}")
        };
        assert!(peer.rank == Rank(1) || peer.rank == other, "{error}");
        assert!(at.operation > 1, "{error}");
        victim_named |= peer.rank == Rank(1);
    }
    assert!(victim_named, "{errors:?}");
}

#[test]
fn with_eight_in_flight_a_kill_has_one_cause_on_each_survivor() {
    let (mut victim, survivors, peers) = ring_with_victim();

    let (training, has_trained) = mpsc::channel();
    let causes = std::thread::scope(|scope| {
        let survivors = scope.spawn(|| {
            on_threads(survivors.into(), |(rank, listener)| {
                let abort = AbortSignal::new().unwrap();
                let options = RingOptions::default();
                let mut ring = listener
                    .connect_ring(identity(rank, 3), &peers, options, abort)
                    .unwrap();
                let mut operands = vec![vec![0.0_f32; 1 << 20]; 8];
                loop {
                    // Eight of the operations that the victim makes one by one.
                    let ended = ring.in_flight(|ring| {
                        let pending: Vec<_> = operands
                            .iter_mut()
                            .map(|values| ring.all_reduce(&mut values[..], Reduce::Sum).unwrap())
                            .collect();
                        let _ = training.send(());
                        pending
                            .into_iter()
                            .map(|p| (p.operation(), p.wait().err()))
                            .collect::<Vec<_>>()
                    });
                    let ended = ended.unwrap();
                    if ended.iter().any(|(_, error)| error.is_some()) {
                        return ended;
                    }
                }
            })
        });
        for _ in 0..4 {
            has_trained.recv().unwrap();
        }
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        survivors.join().unwrap()
    });
    for ended in causes {
        let failed = ended.iter().position(|(_, error)| error.is_some()).unwrap();
        let (number, cause) = &ended[failed];
        let cause = cause.as_ref().unwrap();
        let CollectiveError::PeerClosed { at, .. } = cause else {
            panic!("{cause}")
        };
        assert_eq!(at.operation, *number);
        for (number, error) in &ended[failed + 1..] {
            let Some(CollectiveError::NotBegun { operation, first }) = error else {
                panic!("{error:?}")
            };
            assert_eq!(operation, number);
            assert_eq!(first.to_string(), cause.to_string());
        }
    }
}
