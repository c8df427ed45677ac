//! One result, whatever hosts the replicas.

use super::*;

fn weights(fixture: &Fixture, world: u32, threads: u32) -> String {
    let (results, _) = fixture.train(world, threads);
    let summary = results.into_iter().next().unwrap().unwrap().unwrap();
    summary.weights_blake3
}

#[test]
fn the_bits_depend_on_the_replicas_and_not_on_ranks_or_threads() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let Architecture::Mlp(mlp) = &mut fixture.spec.model.architecture else {
        unreachable!("the fixture's model")
    };
    mlp.dropout = 0.2;
    fixture.spec.cluster.mode = FoldMode::Reproducible;
    // The last batch of an epoch, 8 samples, leaves one replica without any.
    fixture.spec.cluster.replicas = 9;
    fixture.spec.train.duration = TrainDuration::Steps(25);
    let expected = weights(&fixture, 1, 1);
    for (world, threads) in [(1, 2), (1, 3), (2, 1), (3, 2), (4, 1), (7, 1), (9, 1)] {
        let got = weights(&fixture, world, threads);
        assert_eq!(got, expected, "{world} ranks, {threads} threads");
    }
    // Nor on what is summed while the rest is computed.
    fixture.spec.cluster.overlap = Overlap::On;
    for (world, threads, bucket_bytes) in [
        (1, 2, 0),
        (2, 1, 1),
        (2, 3, 400),
        (3, 2, 1),
        (4, 1, 0),
        (7, 1, 200),
        (9, 2, 1),
    ] {
        fixture.spec.cluster.bucket_bytes = bucket_bytes;
        let got = weights(&fixture, world, threads);
        let what = format!("{world} ranks, {threads} threads, buckets of {bucket_bytes} bytes");
        assert_eq!(got, expected, "{what}");
    }
    fixture.spec.cluster.replicas = 8;
    assert_ne!(weights(&fixture, 2, 1), expected, "other masks of dropout");
}

#[test]
fn rounds_of_replicas_too() {
    let mut fixture = Fixture::new(Loss::MeanSquaredError);
    fixture.spec.cluster.mode = FoldMode::Auto;
    fixture.spec.cluster.replicas = 4;
    fixture.spec.train.accumulate = 3;
    let expected = weights(&fixture, 1, 1);
    assert_eq!(weights(&fixture, 1, 4), expected);
    assert_eq!(weights(&fixture, 2, 2), expected);
    fixture.spec.cluster.mode = FoldMode::Reproducible;
    fixture.spec.cluster.overlap = Overlap::On;
    for (world, bucket_bytes) in [(2, 1), (3, 300), (4, 0)] {
        fixture.spec.cluster.bucket_bytes = bucket_bytes;
        assert_eq!(weights(&fixture, world, 2), expected, "{world} ranks");
    }
}

#[test]
fn a_step_says_whether_it_was_overlapped() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let buckets = |fixture: &Fixture, world| {
        let ran = summary(fixture.train(world, 1).0).execution;
        (ran.buckets, ran.bucket_bytes_max)
    };
    // Too short to be worth it, or nobody to send to.
    assert_eq!(buckets(&fixture, 2), (0, 0));
    fixture.spec.cluster.overlap = Overlap::On;
    assert_eq!(buckets(&fixture, 1), (0, 0));
    let (one, all) = buckets(&fixture, 2);
    assert_eq!(one, 1);
    fixture.spec.cluster.bucket_bytes = 1;
    let (each, longest) = buckets(&fixture, 2);
    assert!(each > 1 && longest < all, "{each} {longest} {all}");
    fixture.spec.cluster.overlap = Overlap::Off;
    assert_eq!(buckets(&fixture, 2), (0, 0));
}

/// The sum of two terms has the same bits in any order: with clipping and all.
#[test]
fn a_fast_sum_in_buckets_is_the_same_of_two_ranks() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.cluster.replicas = 5;
    fixture.spec.train.clip_value = Some(0.05);
    fixture.spec.cluster.overlap = Overlap::Off;
    let expected = weights(&fixture, 2, 2);
    fixture.spec.cluster.overlap = Overlap::On;
    for bucket_bytes in [0, 1, 256] {
        fixture.spec.cluster.bucket_bytes = bucket_bytes;
        assert_eq!(weights(&fixture, 2, 2), expected);
    }
}

#[test]
fn a_peer_that_leaves_while_buckets_are_summed_is_named() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.cluster.overlap = Overlap::On;
    fixture.spec.cluster.bucket_bytes = 1;
    fixture.spec.cluster.workers = 2;
    fixture.spec.cluster.replicas = 2;
    let dataset = fixture.dataset();
    let errors = run_ring(2, |mut ring| {
        if ring.rank() == Rank(1) {
            return None;
        }
        let job = RankJob {
            spec: &fixture.spec,
            dataset: &dataset,
            rank: Rank(0),
            world: 2,
            part: &RankPart::of(Rank(0), 2, 2, dataset.info().test_records),
            threads: 2,
        };
        let (abort, clock) = (AbortSignal::new().unwrap(), SystemClock::new());
        train(&job, &mut ring, &abort, &Log::default(), &clock, &mut None).err()
    });
    let error = errors.into_iter().flatten().next().unwrap();
    let TrainError::Collective(source) = &error else {
        panic!("{error}")
    };
    assert_eq!(source.accused(), [Rank(1)], "{source}");
}

#[test]
fn replicas_of_another_share_are_refused() {
    let fixture = Fixture::new(Loss::CrossEntropy);
    let dataset = fixture.dataset();
    let part = RankPart {
        replicas: 0..0,
        test_records: 0..0,
    };
    run_ring(1, |mut ring| {
        let job = RankJob {
            spec: &fixture.spec,
            dataset: &dataset,
            rank: Rank(0),
            world: 1,
            part: &part,
            threads: 1,
        };
        let (abort, clock) = (AbortSignal::new().unwrap(), SystemClock::new());
        let error = train(&job, &mut ring, &abort, &Log::default(), &clock, &mut None).unwrap_err();
        let due = fixture.spec.cluster.replicas;
        assert!(
            matches!(&error, TrainError::Part { expected, .. } if *expected == (0..due)),
            "{error}"
        );
    });
}

#[test]
fn a_fast_sum_is_the_same_up_to_rounding() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.cluster.replicas = 6;
    let losses = |world: u32| {
        let (results, log) = fixture.train(world, 1);
        assert!(results.into_iter().all(|result| result.is_ok()));
        log.losses.into_inner().unwrap()
    };
    let (one, four) = (losses(1), losses(4));
    for (a, b) in one.iter().zip(&four) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
    }
}
