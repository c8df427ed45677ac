//! Rings that break: every rank gets an error that names another, and none hangs.

use std::sync::mpsc;
use std::time::Duration;

use ringfold_collective::testing::{join, join_memory, join_processes, on_threads, run_ring};
use ringfold_collective::{CollectiveError, FrameFault, Ring, RingOptions};
use ringfold_common::ids::Rank;

fn first(error: &CollectiveError) -> &CollectiveError {
    match error {
        CollectiveError::Poisoned { first } => first,
        other => other,
    }
}

/// Every error's accused are other ranks of the world.
fn assert_blames_another(world: u32, rank: u32, error: &CollectiveError) {
    let accused = error.accused();
    assert!(!accused.is_empty(), "{error}");
    for other in accused {
        assert!(other.0 < world && other.0 != rank, "{error}");
    }
}

/// Runs calls that don't fit together, until the ring breaks: the error may reach a rank only in
/// the call after.
fn run_mismatched(
    world: u32,
    call: impl Fn(&mut Ring) -> Result<(), CollectiveError> + Sync,
) -> Vec<CollectiveError> {
    let errors = run_ring(world, |mut ring| {
        let error = call(&mut ring)
            .and_then(|()| ring.barrier())
            .and_then(|()| ring.barrier())
            .unwrap_err();
        // Nothing works from here on, and everything says why.
        for later in [
            ring.barrier().unwrap_err(),
            ring.all_reduce_sum_f32(&mut [1.0]).unwrap_err(),
        ] {
            let CollectiveError::Poisoned { first } = &later else {
                panic!("{later}")
            };
            assert_eq!(first.to_string(), error.to_string());
            assert!(later.to_string().contains(&error.to_string()));
        }
        error
    });
    for (rank, error) in errors.iter().enumerate() {
        assert_blames_another(world, rank as u32, error);
    }
    errors
}

fn other_calls(errors: &[CollectiveError]) -> Vec<String> {
    let is_other_call = |error: &&CollectiveError| {
        matches!(error, CollectiveError::BadFrame { fault, .. }
            if matches!(fault, FrameFault::OtherCall { .. }))
    };
    let found = errors.iter().filter(is_other_call);
    found.map(ToString::to_string).collect()
}

#[test]
fn operands_of_different_lengths_are_named() {
    for (world, odd, lengths) in [
        (2, 0, (5, 6)),
        (2, 1, (0, 1)),
        (4, 2, (100_000, 100_001)),
        (5, 0, (3, 0)),
    ] {
        let errors = run_mismatched(world, |ring| {
            let length = if ring.rank() == Rank(odd) {
                lengths.0
            } else {
                lengths.1
            };
            ring.all_reduce_sum_f32(&mut vec![1.0; length])
        });
        let found = other_calls(&errors);
        assert!(!found.is_empty(), "{errors:?}");
        for words in found {
            for length in [lengths.0, lengths.1] {
                let bytes = format!("all-reduce sum f32 of {} bytes", length * 4);
                assert!(words.contains(&bytes), "{words}");
            }
        }
    }
}

#[test]
fn different_operations_are_named() {
    let errors = run_mismatched(3, |ring| match ring.rank().0 {
        0 => ring.barrier(),
        _ => ring.all_reduce_sum_f64(&mut [1.0; 10]),
    });
    assert!(!other_calls(&errors).is_empty(), "{errors:?}");
}

#[test]
fn different_roots_are_named() {
    let errors = run_mismatched(3, |ring| {
        let root = Rank(u32::from(ring.rank() == Rank(1)));
        ring.broadcast(root, &mut [ring.rank().0 as u8; 10])
    });
    assert!(!other_calls(&errors).is_empty(), "{errors:?}");
}

#[test]
fn a_rank_that_never_enters_stalls_its_neighbours_which_name_it() {
    let deadline = Duration::from_millis(100);
    let options = RingOptions {
        progress_deadline: deadline,
        ..RingOptions::default()
    };
    let (stalled, absent_may_go) = mpsc::channel();
    let absent_may_go = std::sync::Mutex::new(absent_may_go);
    let errors = on_threads(join(3, options), |(mut ring, _)| {
        if ring.rank() == Rank(1) {
            // Holds its sockets open until both others have given up.
            let waiting = absent_may_go.lock().unwrap();
            waiting.recv().unwrap();
            waiting.recv().unwrap();
            return None;
        }
        let error = ring.all_reduce_sum_f32(&mut vec![1.0; 1000]).unwrap_err();
        stalled.send(()).unwrap();
        Some(error)
    });
    // Rank 2 waits for rank 1. Rank 0 waits for rank 2, and may see it give up first.
    let error = errors[2].as_ref().unwrap();
    let stalled_on_1 = matches!(error, CollectiveError::Stalled { receive_from: Some(peer), .. }
        if peer.rank == Rank(1));
    let saw_0_give_up = matches!(error, CollectiveError::PeerClosed { peer, .. }
        if peer.rank == Rank(0));
    assert!(stalled_on_1 || saw_0_give_up, "{error}");
    let stalls = errors.iter().flatten().filter(|error| {
        matches!(error, CollectiveError::Stalled { deadline: given, .. } if *given == deadline)
    });
    assert!(stalls.count() >= 1, "{errors:?}");
    for rank in [0, 2] {
        assert_blames_another(3, rank, errors[rank as usize].as_ref().unwrap());
    }
}

#[test]
fn a_next_rank_that_takes_nothing_is_named() {
    let options = RingOptions {
        progress_deadline: Duration::from_millis(50),
        socket_buffer_bytes: Some(4096),
        ..RingOptions::default()
    };
    let mut rings = join(2, options);
    let (_absent, _) = rings.pop().unwrap();
    let (mut ring, _) = rings.pop().unwrap();
    let error = ring.broadcast(Rank(0), &mut vec![1; 64 << 20]).unwrap_err();
    let CollectiveError::Stalled {
        at,
        receive_from,
        send_to,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((*receive_from, send_to.unwrap().rank), (None, Rank(1)));
    assert!(
        at.bytes_done > 0 && at.bytes_done < at.bytes_expected,
        "{error}"
    );
    assert!(
        error.to_string().contains("broadcast from rank 0"),
        "{error}"
    );
}

#[test]
fn an_abort_before_a_call_ends_it_and_fails_the_neighbours() {
    let errors = on_threads(join(4, RingOptions::default()), |(mut ring, abort)| {
        if ring.rank() == Rank(2) {
            abort.abort("node drained");
        }
        ring.all_reduce_sum_f32(&mut vec![1.0; 10_000]).unwrap_err()
    });
    for (rank, error) in errors.iter().enumerate() {
        match rank {
            2 => assert_eq!(first(error).to_string(), "aborted: node drained"),
            rank => assert_blames_another(4, rank as u32, error),
        }
    }
}

#[test]
fn an_operand_that_is_kept_survives_a_failure() {
    for (elements, joined) in [
        (1000, join(3, RingOptions::default())),
        (100_000, join(3, RingOptions::default())),
        (1 << 20, join(4, RingOptions::default())),
        (1000, join_memory(3, RingOptions::default())),
        (1 << 20, join_processes(3, RingOptions::default())),
    ] {
        on_threads(joined, |(mut ring, _)| {
            ring.barrier().unwrap();
            if ring.rank() == Rank(2) {
                return;
            }
            ring.keep_operands(true);
            let before: Vec<f32> = (0..elements).map(|i| i as f32).collect();
            let mut values = before.clone();
            let error = ring.all_reduce_sum_f32(&mut values).unwrap_err();
            assert!(!error.accused().is_empty(), "{error}");
            assert!(values == before, "{elements} after {error}");
            let mut values = before.clone();
            ring.broadcast(Rank(2), &mut values).unwrap_err();
            assert!(values == before);
        });
    }
}

#[test]
fn a_rank_that_leaves_between_operations_fails_the_next_one() {
    let errors = run_ring(3, |mut ring| {
        ring.barrier().unwrap();
        if ring.rank() == Rank(0) {
            return None;
        }
        let error = ring.all_reduce_sum_f32(&mut [1.0; 100]).unwrap_err();
        assert!(
            matches!(error, CollectiveError::PeerClosed { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("operation 2 (all-reduce sum f32)"),
            "{error}"
        );
        Some(error)
    });
    assert_blames_another(3, 1, errors[1].as_ref().unwrap());
    assert_blames_another(3, 2, errors[2].as_ref().unwrap());
}
