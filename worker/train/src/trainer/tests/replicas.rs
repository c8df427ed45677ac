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
