//! What operations return, for any number of ranks and any length.

use proptest::prelude::*;
use ringfold_collective::testing::{join, on_threads, run_ring, run_ring_with};
use ringfold_collective::{CollectiveError, HEADER_BYTES, RingOptions};
use ringfold_common::ids::Rank;

/// Values in about [-1, 1] that differ by rank and place, from a fixed sequence.
fn value(seed: u64, rank: u32, place: usize) -> f64 {
    let mut x = seed ^ (u64::from(rank) << 32) ^ place as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Small segments, so that short operands have many.
fn options(segment_bytes: usize) -> RingOptions {
    RingOptions {
        segment_bytes,
        ..RingOptions::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_reduce_f32_is_the_sum_and_the_same_everywhere(
        world in 1_u32..=8,
        lengths in proptest::collection::vec(0_usize..=10_000, 1..4),
        seed: u64,
        segment in prop_oneof![Just(64_usize), Just(1000), Just(256 << 10)],
    ) {
        let results = run_ring_with(world, options(segment), |mut ring| {
            let rank = ring.rank().0;
            lengths.iter().map(|&length| {
                let mut values: Vec<f32> =
                    (0..length).map(|i| value(seed, rank, i) as f32).collect();
                ring.all_reduce_sum_f32(&mut values).unwrap();
                values
            }).collect::<Vec<_>>()
        });
        for (at, &length) in lengths.iter().enumerate() {
            for i in 0..length {
                let terms = (0..world).map(|rank| f64::from(value(seed, rank, i) as f32));
                let sum: f64 = terms.clone().sum();
                let size: f64 = terms.map(f64::abs).sum();
                let got = results[0][at][i];
                prop_assert!((f64::from(got) - sum).abs() <= size * 1e-6, "{got} for {sum}");
                for result in &results {
                    prop_assert_eq!(result[at][i].to_bits(), got.to_bits());
                }
            }
        }
    }

    #[test]
    fn all_reduce_f64_of_integers_is_exact(
        world in 1_u32..=8,
        length in 0_usize..=10_000,
        segment in prop_oneof![Just(64_usize), Just(256 << 10)],
    ) {
        let results = run_ring_with(world, options(segment), |mut ring| {
            let rank = f64::from(ring.rank().0);
            let mut values: Vec<f64> = (0..length).map(|i| (rank + 1.0) * i as f64).collect();
            ring.all_reduce_sum_f64(&mut values).unwrap();
            values
        });
        let ranks = f64::from(world * (world + 1) / 2);
        let expected: Vec<f64> = (0..length).map(|i| ranks * i as f64).collect();
        prop_assert!(results.iter().all(|values| *values == expected));
    }

    #[test]
    fn operations_of_all_kinds_follow_each_other(
        world in 1_u32..=6,
        root in 0_u32..6,
        length in 0_usize..2000,
    ) {
        let root = Rank(root % world);
        run_ring_with(world, options(64), |mut ring| {
            let rank = ring.rank();
            let mut bytes = vec![if rank == root { 42 } else { 0 }; length];
            ring.broadcast(root, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 42));
            ring.barrier().unwrap();
            let hashes = ring.all_gather_bytes(&[rank.0 as u8 + 1; 32]).unwrap();
            assert!((0..world).all(|r| hashes[r as usize] == [r as u8 + 1; 32]));
            let mut all = vec![0; length * world as usize];
            ring.all_gather(&vec![rank.0 as u8; length], &mut all).unwrap();
            for (i, byte) in all.iter().enumerate() {
                assert_eq!(usize::from(*byte), i / length);
            }
            let mut one = [1.0_f32];
            ring.all_reduce_sum_f32(&mut one).unwrap();
            assert_eq!(one, [world as f32]);
            assert_eq!(ring.metrics().operations, 5);
        });
    }
}

/// Buffers of 32 KiB in the kernel against messages of 8 MiB: if a rank only sent, and only then
/// received, all would wait forever. (Still smaller buffers hold less than one packet of the
/// loopback, and Linux then moves a packet every 200 ms.)
#[test]
fn large_operands_and_tiny_socket_buffers_do_not_deadlock() {
    let options = RingOptions {
        socket_buffer_bytes: Some(32 << 10),
        ..RingOptions::default()
    };
    // Around the ring, and by halving and doubling.
    for elements in [8 << 20, 100_000] {
        let results = run_ring_with(4, options, |mut ring| {
            let mut values = vec![ring.rank().0 as f32 + 1.0; elements];
            ring.all_reduce_sum_f32(&mut values).unwrap();
            values.iter().all(|&sum| sum == 10.0)
        });
        assert_eq!(results, [true; 4]);
    }
}

#[test]
fn the_bytes_on_the_wire_are_those_of_the_algorithm() {
    let elements = 3000;
    // Around the ring, and in one shot.
    for (direct, messages, sent) in [(false, 4, 4 * elements / 3), (true, 2, 2 * elements)] {
        let options = RingOptions {
            direct,
            ..RingOptions::default()
        };
        let metrics = run_ring_with(3, options, |mut ring| {
            ring.all_reduce_sum_f32(&mut vec![1.0; elements]).unwrap();
            ring.metrics()
        });
        let bytes = (sent * 4 + messages * HEADER_BYTES) as u64;
        for metrics in metrics {
            assert_eq!((metrics.bytes_sent, metrics.bytes_received), (bytes, bytes));
            assert_eq!(metrics.stale_frames_dropped, 0);
        }
    }
}

#[test]
fn infinities_and_nans_are_sums_too() {
    let results = run_ring(3, |mut ring| {
        let mine = [
            [f32::INFINITY, f32::NAN],
            [f32::NEG_INFINITY, 1.0],
            [1.0, 1.0],
        ];
        let mut values = mine[ring.rank().0 as usize];
        ring.all_reduce_sum_f32(&mut values).unwrap();
        values.map(f32::to_bits)
    });
    assert!(results.iter().all(|bits| *bits == results[0]));
    assert!(results[0].iter().all(|&bits| f32::from_bits(bits).is_nan()));
}

#[test]
fn a_rank_may_leave_as_soon_as_its_own_part_is_done() {
    for _ in 0..20 {
        let results = run_ring_with(5, options(64), |mut ring| {
            let mut values = vec![1.0; 1000];
            ring.all_reduce_sum_f64(&mut values).map(|()| drop(ring))
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[test]
fn refused_arguments_change_nothing() {
    run_ring(2, |mut ring| {
        let error = ring.broadcast(Rank(2), &mut [1]).unwrap_err();
        assert!(matches!(error, CollectiveError::RankOutsideWorld { .. }));
        let mut all = [9; 5];
        let error = ring.all_gather(&[1, 2], &mut all).unwrap_err();
        assert!(error.is_argument() && all == [9; 5], "{error}");
        ring.barrier().unwrap();
    });
}

#[test]
fn a_world_of_one_needs_nobody() {
    let mut rings = join(1, RingOptions::default());
    let (mut ring, abort) = rings.remove(0);
    let mut values = [1.0_f32, 2.0];
    ring.all_reduce_sum_f32(&mut values).unwrap();
    assert_eq!(values, [1.0, 2.0]);
    assert_eq!(ring.all_gather_bytes(&[7; 4]).unwrap(), [[7; 4]]);
    ring.barrier().unwrap();
    abort.abort("enough");
    let error = ring.barrier().unwrap_err();
    assert!(matches!(error, CollectiveError::Aborted { .. }));
}

/// Every rank runs ahead of its next one by as much as the sockets hold.
#[test]
fn broadcasts_in_a_row_do_not_overtake_each_other() {
    on_threads(join(3, options(64)), |(mut ring, _)| {
        for turn in 0..200_u8 {
            let root = Rank(u32::from(turn) % 3);
            let mut bytes = [if ring.rank() == root { turn } else { 255 }; 100];
            ring.broadcast(root, &mut bytes).unwrap();
            assert_eq!(bytes, [turn; 100]);
        }
    });
}
