//! What the options of an update make of a run: accumulation, groups, averages, every rule.

use ringfold_common::job::{
    AdaGradOptions, BarzilaiBorweinOptions, EmaSpec, GroupSpec, LambOptions, LionOptions,
    RmsPropOptions,
};

use super::*;

fn momentum() -> OptimizerSpec {
    OptimizerSpec::Sgd(SgdOptions {
        momentum: 0.9,
        weight_decay: 1e-3,
        ..SgdOptions::new(0.05)
    })
}

fn group(pattern: &str, weight_decay: Option<f64>, learning_rate_factor: f64) -> GroupSpec {
    GroupSpec {
        pattern: pattern.into(),
        weight_decay,
        learning_rate_factor,
    }
}

fn assert_same(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (step, (a, b)) in a.iter().zip(b).enumerate() {
        let error = ((a - b) / a).abs();
        assert!(error < tolerance, "{what} step {step}: {a} and {b}");
    }
}

/// The saved weights of a run.
fn saved(fixture: &Fixture) -> Vec<Vec<f32>> {
    let model = ModelFiles::read(&fixture.dir.path().join("out")).unwrap();
    let tensors = model.tensors.into_iter();
    tensors.map(|tensor| tensor.values).collect()
}

#[test]
fn rounds_give_the_update_of_one_batch() {
    for loss in [Loss::CrossEntropy, Loss::MeanSquaredError] {
        let mut fixture = Fixture::new(loss);
        fixture.spec.train.optimizer = momentum();
        // Over more steps the rounding of sums in another order adds up.
        fixture.spec.train.duration = TrainDuration::Epochs(4);
        let (results, log) = fixture.train(1, 1);
        summary(results);
        let (at_once, weights) = (log.losses(), saved(&fixture));
        for rounds in [2, 3, 7, 16] {
            // The last batch of an epoch has 14 samples: some rounds of 16 are empty.
            fixture.spec.train.accumulate = rounds;
            let (results, log) = fixture.train(1, 1);
            summary(results);
            assert_same(&format!("{rounds} rounds"), &at_once, &log.losses(), 1e-6);
            let pairs = weights.iter().flatten().zip(saved(&fixture).concat());
            for (a, b) in pairs {
                assert!((a - b).abs() < 1e-6 * (1.0 + a.abs()), "{rounds}: {a} {b}");
            }
        }
    }
}

#[test]
fn losses_do_not_depend_on_the_world_with_rounds_groups_and_averages() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.train.optimizer = OptimizerSpec::AdamW(AdamOptions::adamw(0.02));
    fixture.spec.train.accumulate = 3;
    fixture.spec.train.clip_value = Some(0.05);
    fixture.spec.train.decay_biases = false;
    fixture.spec.train.groups = vec![
        group("layers.0.*", Some(0.1), 0.5),
        group("*.bias", None, 2.0),
    ];
    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.9,
        warmup: true,
    });
    let run = |world| {
        let (results, log) = fixture.train(world, 1);
        (summary(results).metrics["test_loss"], log.losses())
    };
    let (test_loss, alone) = run(1);
    for world in [2, 3, 5] {
        let (other, losses) = run(world);
        assert_same(&format!("world {world}"), &alone, &losses, 1e-4);
        assert_same("test loss", &[test_loss], &[other], 1e-4);
    }
}

/// Every rule, with most of the arenas that it can have.
pub(super) fn rules() -> [OptimizerSpec; 8] {
    [
        momentum(),
        OptimizerSpec::RmsProp(RmsPropOptions::new(0.01)),
        OptimizerSpec::AdaGrad(AdaGradOptions::new(0.1)),
        OptimizerSpec::Adam(AdamOptions {
            amsgrad: true,
            ..AdamOptions::adam(0.02)
        }),
        OptimizerSpec::AdamW(AdamOptions::adamw(0.02)),
        OptimizerSpec::Lamb(LambOptions::new(0.05)),
        OptimizerSpec::Lion(LionOptions::new(0.005)),
        OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions {
            max_rate: 0.5,
            ..BarzilaiBorweinOptions::new(0.1)
        }),
    ]
}

#[test]
fn every_rule_trains_alike_in_any_world() {
    for rule in rules() {
        let mut fixture = Fixture::new(Loss::CrossEntropy);
        fixture.spec.train.schedule = ScheduleSpec::constant();
        fixture.spec.train.optimizer = rule;
        let (results, log) = fixture.train(1, 1);
        let accuracy = summary(results).metrics["test_accuracy"];
        assert!(accuracy > 0.9, "{rule:?}: {accuracy}");
        let alone = log.losses();
        let (results, log) = fixture.train(3, 1);
        summary(results);
        assert_same(&format!("{rule:?}"), &alone, &log.losses(), 1e-3);
    }
}

#[test]
fn a_factor_of_zero_freezes_a_group() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.train.optimizer = momentum();
    let trained = |fixture: &Fixture| {
        summary(fixture.train(1, 1).0);
        // In the order of names: layers.0.bias, layers.0.weight, layers.1.bias, layers.1.weight.
        saved(fixture)
    };
    fixture.spec.train.groups = vec![group("layers.0.*", None, 0.0)];
    let long = trained(&fixture);
    fixture.spec.train.duration = TrainDuration::Steps(1);
    let short = trained(&fixture);
    assert_eq!(long[..2], short[..2]);
    assert_ne!(long[2], short[2]);
    assert_ne!(long[3], short[3]);
}

#[test]
fn a_group_without_a_parameter_is_an_error_that_lists_them() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.train.groups = vec![group("*.bias", None, 1.0), group("layer.*", None, 1.0)];
    for result in fixture.train(2, 1).0 {
        let TrainError::Group(idle) = result.unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(
            idle.to_string(),
            "\"layer.*\" matches no parameter; there are: layers.1.weight, layers.1.bias, \
             layers.0.weight, layers.0.bias"
        );
    }
}

#[test]
fn the_average_is_evaluated_and_saved_and_the_raw_weights_stand_beside_it() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let raw = fixture.dir.path().join("out").join(ModelFiles::RAW_WEIGHTS);
    let plain = summary(fixture.train(1, 1).0);
    let (plain_weights, plain_bytes) = (
        saved(&fixture),
        std::fs::read(raw.with_file_name(ModelFiles::WEIGHTS)).unwrap(),
    );
    assert!(!raw.exists());

    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.95,
        warmup: false,
    });
    let averaged = summary(fixture.train(2, 1).0);
    assert_ne!(averaged.weights_blake3, plain.weights_blake3);
    let model = ModelFiles::read(&fixture.dir.path().join("out")).unwrap();
    let metrics = Predictor::new(model)
        .unwrap()
        .evaluate(fixture.dataset().test())
        .unwrap()
        .0
        .metrics("test");
    assert!((metrics["test_loss"] - averaged.metrics["test_loss"]).abs() < 1e-6);
    assert_ne!(metrics["test_loss"], plain.metrics["test_loss"]);

    // Alone, the raw weights are those of the run without an average, to the byte.
    summary(fixture.train(1, 1).0);
    assert_eq!(std::fs::read(&raw).unwrap(), plain_bytes);
    assert_ne!(saved(&fixture), plain_weights);

    // The next job without an average leaves no raw weights of this one.
    fixture.spec.train.ema = None;
    summary(fixture.train(1, 1).0);
    assert!(!raw.exists());
    assert_eq!(saved(&fixture), plain_weights);
}
