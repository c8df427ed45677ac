//! Gradients that are compressed on their way.

use ringfold_common::job::{CompressionMethod, CompressionSpec};

use super::*;

const KINDS: [CompressionMethod; 5] = [
    CompressionMethod::Bf16,
    CompressionMethod::F16,
    CompressionMethod::Int8 { block: 32 },
    CompressionMethod::TopK { fraction: 0.1 },
    CompressionMethod::PowerSgd { rank: 1 },
];

fn with(loss: Loss, method: CompressionMethod, start_step: u64) -> Fixture {
    let mut fixture = Fixture::new(loss);
    fixture.spec.cluster.compression = Some(CompressionSpec { method, start_step });
    fixture
}

#[test]
fn every_kind_learns_and_all_ranks_hold_the_same_weights() {
    let plain = summary(Fixture::new(Loss::CrossEntropy).train(3, 1).0);
    for method in KINDS {
        // Ranks compare their weights every five steps.
        let (results, log) = with(Loss::CrossEntropy, method, 1).train(3, 1);
        let compressed = summary(results);
        let losses = log.losses();
        assert!(
            losses.last().unwrap() * 4.0 < losses[0],
            "{method:?}: {losses:?}"
        );
        let accuracy = |summary: &Summary| summary.metrics["test_accuracy"];
        let lost = accuracy(&plain) - accuracy(&compressed);
        assert!(
            lost <= 0.04,
            "{method:?}: {lost} less than {}",
            accuracy(&plain)
        );
        let bytes = compressed.execution.gradient_bytes;
        assert!(bytes.sent > 0 && bytes.saved > 0, "{method:?}: {bytes:?}");
        let plain = plain.execution.gradient_bytes;
        assert_eq!(
            (plain.sent as i64, plain.saved),
            (bytes.sent as i64 + bytes.saved, 0)
        );
    }
}

#[test]
fn steps_before_the_first_are_as_without_compression() {
    for mode in [FoldMode::Fast, FoldMode::Reproducible] {
        let losses = |compressed: bool| {
            let mut fixture = with(Loss::MeanSquaredError, CompressionMethod::Bf16, 11);
            fixture.spec.cluster.mode = mode;
            if !compressed {
                fixture.spec.cluster.compression = None;
            }
            let (results, log) = fixture.train(2, 1);
            summary(results);
            log.losses()
        };
        let (plain, compressed) = (losses(false), losses(true));
        // The loss of a step is that before its update: the eleventh update shows in the twelfth.
        assert_eq!(plain[..11], compressed[..11]);
        assert_ne!(plain[11], compressed[11]);
    }
}

#[test]
fn rounded_to_halves_the_bits_depend_on_the_replicas_and_not_on_ranks_or_threads() {
    for method in [CompressionMethod::Bf16, CompressionMethod::F16] {
        let mut fixture = with(Loss::CrossEntropy, method, 4);
        fixture.spec.cluster.mode = FoldMode::Reproducible;
        fixture.spec.cluster.replicas = 7;
        fixture.spec.train.duration = TrainDuration::Steps(20);
        let weights = |world, threads| summary(fixture.train(world, threads).0).weights_blake3;
        let expected = weights(1, 1);
        for (world, threads) in [(1, 3), (2, 1), (3, 2), (5, 1), (7, 1)] {
            assert_eq!(
                weights(world, threads),
                expected,
                "{method:?} {world} {threads}"
            );
        }
        let mut plain = Fixture::new(Loss::CrossEntropy);
        plain.spec.cluster = ClusterSpec {
            compression: None,
            ..fixture.spec.cluster
        };
        plain.spec.train.duration = TrainDuration::Steps(20);
        assert_ne!(summary(plain.train(2, 1).0).weights_blake3, expected);
    }
}

/// In buckets that are summed while others are computed.
fn overlapped(fixture: &mut Fixture) {
    fixture.spec.cluster.overlap = Overlap::On;
    fixture.spec.cluster.bucket_bytes = 64;
}

#[test]
fn buckets_are_compressed_too() {
    for method in KINDS {
        let mut fixture = with(Loss::CrossEntropy, method, 3);
        fixture.spec.cluster.replicas = 4;
        overlapped(&mut fixture);
        let (results, log) = fixture.train(3, 2);
        let summary = summary(results);
        assert!(summary.execution.buckets > 1);
        let losses = log.losses();
        assert!(
            losses.last().unwrap() * 4.0 < losses[0],
            "{method:?}: {losses:?}"
        );
        assert!(summary.metrics["test_accuracy"] > 0.9, "{method:?}");
        let bytes = summary.execution.gradient_bytes;
        // Short buckets have whole blocks.
        let is_block = matches!(method, CompressionMethod::Int8 { .. });
        assert!(
            bytes.sent > 0 && (is_block || bytes.saved > 0),
            "{method:?}: {bytes:?}"
        );
    }
}

#[test]
fn rounded_to_halves_the_bits_do_not_depend_on_buckets() {
    for method in [CompressionMethod::Bf16, CompressionMethod::F16] {
        let mut fixture = with(Loss::CrossEntropy, method, 4);
        fixture.spec.cluster.mode = FoldMode::Reproducible;
        fixture.spec.cluster.replicas = 5;
        fixture.spec.train.accumulate = 2;
        fixture.spec.train.duration = TrainDuration::Steps(20);
        let expected = summary(fixture.train(1, 1).0).weights_blake3;
        overlapped(&mut fixture);
        for (world, threads) in [(2, 2), (3, 1), (5, 1)] {
            let got = summary(fixture.train(world, threads).0);
            assert!(got.execution.buckets > 1);
            assert_eq!(got.weights_blake3, expected, "{method:?} {world} {threads}");
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    for method in KINDS {
        let weights = |threads| {
            let fixture = with(Loss::CrossEntropy, method, 2);
            summary(fixture.train(2, threads).0).weights_blake3
        };
        assert_eq!(weights(1), weights(2), "{method:?}");
    }
}

#[test]
fn a_gradient_that_runs_away_is_an_error_that_names_the_step() {
    for method in &KINDS[2..] {
        let mut fixture = with(Loss::MeanSquaredError, *method, 1);
        overlapped(&mut fixture);
        fixture.spec.train.clip_norm = None;
        fixture.spec.train.report_steps = 1000;
        fixture.spec.train.optimizer = OptimizerSpec::Sgd(SgdOptions {
            momentum: 0.9,
            ..SgdOptions::new(1e6)
        });
        let (results, _) = fixture.train(2, 1);
        let errors: Vec<TrainError> = results.into_iter().map(|r| r.unwrap_err()).collect();
        // The others may see that their peer has gone.
        let named = errors
            .iter()
            .filter(|e| matches!(e, TrainError::NotFinite { .. }));
        assert!(named.count() > 0, "{method:?}: {errors:?}");
    }
}
