//! Operations in flight: order, buffers, and how they fail, on all transports.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ringfold_collective::algorithm::Replicas;
use ringfold_collective::testing::{join, join_memory, join_processes, on_threads};
use ringfold_collective::{
    AbortSignal, CollectiveError, Pending, Reduce, ReplicaBuffers, Ring, RingOptions,
};
use ringfold_common::ids::Rank;

type Join = fn(u32, RingOptions) -> Vec<(Ring, AbortSignal)>;
const TRANSPORTS: [Join; 3] = [join, join_memory, join_processes];
/// Elements of eight operands, long and short.
const LENGTHS: [usize; 8] = [100_000, 1, 0, 300_001, 7, 64, 20_000, 3];

/// Starts eight sums and returns what they are waited for, last first.
fn eight(ring: &mut Ring) -> Vec<(u64, Result<Vec<f32>, CollectiveError>)> {
    let mine = ring.rank().0 as f32 + 1.0;
    let ended = ring.in_flight(|ring| {
        let pending: Vec<Pending<Vec<f32>>> = LENGTHS
            .iter()
            .map(|&len| ring.all_reduce(vec![mine; len], Reduce::Sum).unwrap())
            .collect();
        let waited = pending.into_iter().rev();
        let mut ended: Vec<_> = waited.map(|p| (p.operation(), p.wait())).collect();
        ended.reverse();
        ended
    });
    ended.unwrap()
}

/// The first failure, by whose number it was found; all later ones must point to it.
fn assert_one_cause(
    ended: Vec<(u64, Result<Vec<f32>, CollectiveError>)>,
) -> (u64, CollectiveError) {
    let mut cause: Option<(u64, CollectiveError)> = None;
    for (number, result) in ended {
        match (result, &cause) {
            (Ok(_), None) => {}
            (Err(error), None) => cause = Some((number, error)),
            (Err(CollectiveError::NotBegun { operation, first }), Some((_, cause))) => {
                assert_eq!(operation, number);
                assert_eq!(first.to_string(), cause.to_string());
            }
            (later, Some(cause)) => panic!("operation {number} after {cause:?}: {later:?}"),
        }
    }
    cause.expect("an operation failed")
}

#[test]
fn eight_in_flight_give_what_they_give_one_by_one() {
    for join in TRANSPORTS {
        for world in [1, 2, 3, 5] {
            let sum = (world * (world + 1) / 2) as f32;
            on_threads(join(world, RingOptions::default()), |(mut ring, _)| {
                for turn in 0..3 {
                    for (at, (number, result)) in eight(&mut ring).into_iter().enumerate() {
                        assert_eq!(number, turn * 9 + at as u64 + 1);
                        let values = result.unwrap();
                        assert_eq!(values.len(), LENGTHS[at]);
                        assert!(values.iter().all(|&value| value == sum));
                    }
                    // Between scopes the ring is as ever.
                    ring.barrier().unwrap();
                }
                assert_eq!(ring.metrics().operations, 27);
            });
        }
    }
}

#[test]
fn parts_of_one_vector_are_reduced_in_place() {
    for join in TRANSPORTS {
        on_threads(join(3, RingOptions::default()), |(mut ring, _)| {
            let mut values: Vec<i64> = (0..10_000).collect();
            let parts = values.chunks_mut(1234);
            ring.in_flight(|ring| {
                for part in parts {
                    let started = ring.all_reduce(part, Reduce::Sum);
                    // Nobody needs to wait: the end of the scope does.
                    drop(started.unwrap());
                }
            })
            .unwrap();
            assert!(values.iter().zip(0..).all(|(&value, i)| value == 3 * i));
        });
    }
}

#[test]
fn parts_of_replicas_have_the_bits_of_the_whole() {
    let value = |replica: u32, at: usize| 1.0 / (replica as f32 * 7.3 + at as f32 + 0.1);
    let elements = 1001;
    for (count, world) in [(1, 1), (5, 2), (8, 3), (9, 4), (8, 4)] {
        let replicas = Replicas::new(count, world).unwrap();
        for join in TRANSPORTS {
            on_threads(join(world, RingOptions::default()), |(mut ring, _)| {
                let vector = |replica| (0..elements).map(|at| value(replica, at)).collect();
                let fresh = || ReplicaBuffers::new(&replicas, ring.rank(), elements).unwrap();
                let (mut whole, mut cut) = (fresh(), fresh());
                let mut last: Vec<f32> = Vec::new();
                while let Some(replica) = whole.due() {
                    whole.push(vector(replica)).unwrap();
                    last = vector(replica);
                    if whole.due().is_some() {
                        cut.push(vector(replica)).unwrap();
                    }
                }
                let expected = ring.reproducible_all_reduce(&mut whole).unwrap().to_vec();

                // The last replica comes in parts.
                let ends = [100, 100, 640, 641, elements];
                let mut rest = &mut last[..];
                let mut start = 0;
                let parts = cut.parts(&ends).unwrap().into_iter().zip(ends);
                let parts: Vec<_> = parts
                    .map(|(mut part, end)| {
                        let (piece, after) = std::mem::take(&mut rest).split_at_mut(end - start);
                        (rest, start) = (after, end);
                        part.push(piece).unwrap();
                        part
                    })
                    .collect();
                ring.in_flight(|ring| {
                    for part in parts {
                        drop(ring.reproducible_all_reduce(part).unwrap());
                    }
                })
                .unwrap();
                cut.push_with(last, |_, _| {}).unwrap();
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(cut.sum().unwrap()), bits(&expected), "{replicas:?}");
            });
        }
    }
}

#[test]
fn parts_are_all_of_a_vector() {
    let replicas = Replicas::new(2, 1).unwrap();
    let mut buffers: ReplicaBuffers<f32> = ReplicaBuffers::new(&replicas, Rank(0), 10).unwrap();
    for ends in [&[][..], &[9], &[11], &[7, 3, 10]] {
        let error = buffers.parts(ends).err().unwrap();
        assert!(error.is_argument(), "{error}");
    }
    assert_eq!(buffers.parts(&[4, 10]).unwrap().len(), 2);
}

#[test]
fn when_a_peer_leaves_all_pending_name_one_cause() {
    for join in TRANSPORTS {
        let causes = on_threads(join(3, RingOptions::default()), |(mut ring, _)| {
            if ring.rank() == Rank(1) {
                // It takes part in two of eight.
                for len in &LENGTHS[..2] {
                    let mut values = vec![2.0; *len];
                    ring.all_reduce_sum_f32(&mut values).unwrap();
                }
                return None;
            }
            let (number, cause) = assert_one_cause(eight(&mut ring));
            assert!((2..=4).contains(&number), "{number}: {cause}");
            assert!(
                matches!(cause, CollectiveError::PeerClosed { .. }),
                "{cause}"
            );
            let later = ring.barrier().unwrap_err();
            assert!(matches!(later, CollectiveError::Poisoned { .. }), "{later}");
            // Nothing begins on a ring that failed.
            let refused = ring.in_flight(|ring| ring.all_reduce(vec![1_u8], Reduce::Max)?.wait());
            let refused = refused.unwrap().unwrap_err();
            assert!(matches!(refused, CollectiveError::NotBegun { .. }));
            assert_eq!(refused.accused(), cause.accused());
            Some(cause)
        });
        let named = causes.iter().flatten().any(|e| e.accused() == [Rank(1)]);
        assert!(named, "{causes:?}");
    }
}

#[test]
fn a_rank_that_never_enters_ends_all_pending_within_the_deadline() {
    for join in TRANSPORTS {
        let options = RingOptions {
            progress_deadline: Duration::from_millis(100),
            ..RingOptions::default()
        };
        let mut rings = join(2, options);
        let (_absent, _) = rings.pop().unwrap();
        let (mut ring, _) = rings.pop().unwrap();
        let (number, cause) = assert_one_cause(eight(&mut ring));
        let CollectiveError::Stalled { at, .. } = &cause else {
            panic!("{cause}")
        };
        assert_eq!((number, at.operation), (1, 1));
    }
}

#[test]
fn an_abort_ends_all_pending() {
    for join in TRANSPORTS {
        let mut rings = join(2, RingOptions::default());
        let (_absent, _) = rings.pop().unwrap();
        let (mut ring, abort) = rings.pop().unwrap();
        let ended = std::thread::scope(|scope| {
            let run = scope.spawn(move || eight(&mut ring));
            abort.abort("lease lost");
            run.join().unwrap()
        });
        let (_, cause) = assert_one_cause(ended);
        assert_eq!(cause.to_string(), "aborted: lease lost");
    }
}

#[test]
fn what_is_started_makes_the_calls_that_it_announced() {
    on_threads(join_memory(2, RingOptions::default()), |(mut ring, _)| {
        let (numbers, error) = ring
            .in_flight(|ring| {
                let two = ring.start(2, |ring| {
                    ring.barrier()?;
                    ring.all_gather_bytes(&[ring.rank().0 as u8])
                });
                let wrong = ring.start(3, |ring| ring.barrier());
                let after = ring.all_reduce(vec![1.0_f32], Reduce::Sum).unwrap();
                let numbers = [two.operation(), wrong.operation(), after.operation()];
                assert_eq!(two.wait().unwrap(), [[0], [1]]);
                assert!(after.wait().is_err());
                (numbers, wrong.wait().unwrap_err())
            })
            .unwrap();
        assert_eq!(numbers, [1, 3, 6]);
        let CollectiveError::CallCount { expected, made, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((expected, made), (3, 1));
    });
}

#[test]
fn panics_pass_and_nothing_waits_for_ever() {
    let (mut ring, _) = join_memory(1, RingOptions::default()).remove(0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        ring.in_flight(|ring| {
            let _pending = ring.start(0, |_| Ok(()));
            panic!("of the body");
        })
    }));
    let message = outcome.unwrap_err();
    assert_eq!(message.downcast_ref(), Some(&"of the body"));

    let outcome = catch_unwind(AssertUnwindSafe(|| {
        ring.in_flight(|ring| {
            let bad = ring.start(0, |_| -> Result<(), _> { panic!("of an operation") });
            let after = ring.start(0, |_| Ok(()));
            (bad.wait().unwrap_err(), after.wait().unwrap_err())
        })
    }));
    assert!(outcome.is_err());
}
