use ringfold_common::job::{
    AdaGradOptions, AdamOptions, BarzilaiBorweinFormula, BarzilaiBorweinOptions, LambOptions,
    LionOptions, RmsPropOptions, SgdOptions,
};
use ringfold_compute::cpu::team::Team;

use super::*;

/// One segment over everything.
fn whole(len: usize, weight_decay: f64) -> Vec<Segment> {
    vec![Segment {
        range: 0..len,
        rate_factor: 1.0,
        weight_decay,
    }]
}

fn optimizer(spec: &OptimizerSpec, len: usize) -> Optimizer {
    Optimizer::new(spec, whole(len, spec.weight_decay()), 1)
}

/// Every rule and variant, at a rate that suits the tests' problems.
fn every_rule(weight_decay: f64) -> Vec<OptimizerSpec> {
    let sgd = |momentum, dampening, nesterov| {
        OptimizerSpec::Sgd(SgdOptions {
            momentum,
            dampening,
            nesterov,
            weight_decay,
            ..SgdOptions::new(0.02)
        })
    };
    let rmsprop = |momentum, centered| {
        OptimizerSpec::RmsProp(RmsPropOptions {
            momentum,
            centered,
            weight_decay,
            ..RmsPropOptions::new(0.01)
        })
    };
    let adam = |amsgrad| AdamOptions {
        amsgrad,
        weight_decay,
        ..AdamOptions::adam(0.05)
    };
    let barzilai_borwein = |formula, period_steps| {
        OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions {
            formula,
            period_steps,
            weight_decay,
            ..BarzilaiBorweinOptions::new(0.02)
        })
    };
    vec![
        sgd(0.0, 0.0, false),
        sgd(0.9, 0.0, false),
        sgd(0.9, 0.5, false),
        sgd(0.9, 0.0, true),
        rmsprop(0.0, false),
        rmsprop(0.9, false),
        rmsprop(0.0, true),
        rmsprop(0.5, true),
        OptimizerSpec::AdaGrad(AdaGradOptions {
            initial_accumulator: 0.1,
            rate_decay: 1e-3,
            weight_decay,
            ..AdaGradOptions::new(0.5)
        }),
        OptimizerSpec::AdaGrad(AdaGradOptions {
            weight_decay,
            ..AdaGradOptions::new(0.5)
        }),
        OptimizerSpec::Adam(adam(false)),
        OptimizerSpec::Adam(adam(true)),
        OptimizerSpec::AdamW(adam(false)),
        OptimizerSpec::AdamW(adam(true)),
        OptimizerSpec::Lamb(LambOptions {
            weight_decay,
            ..LambOptions::new(0.02)
        }),
        OptimizerSpec::Lion(LionOptions {
            weight_decay,
            ..LionOptions::new(0.01)
        }),
        barzilai_borwein(BarzilaiBorweinFormula::Alternate, None),
        barzilai_borwein(BarzilaiBorweinFormula::Long, Some(1)),
        barzilai_borwein(BarzilaiBorweinFormula::Short, Some(1)),
        barzilai_borwein(BarzilaiBorweinFormula::Alternate, Some(20)),
    ]
}

/// Minimises half of Σ aᵢ (wᵢ − tᵢ)² with curvatures from 0.5 to 4, and returns how far from its
/// least value the function is, over where it started. The rate falls to a hundredth.
fn minimise(spec: &OptimizerSpec, updates: u32) -> f64 {
    let curvature: Vec<f32> = (0..8).map(|i| 0.5 + 0.5 * i as f32).collect();
    let target: Vec<f32> = (0..8).map(|i| (i as f32 * 0.7).sin() + 0.2).collect();
    let mut w = vec![0.5f32; 8];
    let value = |w: &[f32]| -> f64 {
        let terms = w.iter().zip(&target).zip(&curvature);
        terms
            .map(|((w, t), a)| 0.5 * f64::from(a * (w - t) * (w - t)))
            .sum()
    };
    let start = value(&w);
    let mut rule = optimizer(spec, w.len());
    for update in 0..updates {
        let gradients: Vec<f32> = w
            .iter()
            .zip(&target)
            .zip(&curvature)
            .map(|((w, t), a)| a * (w - t))
            .collect();
        let fall = 0.01f64.powf(f64::from(update) / f64::from(updates));
        let fall = match spec {
            // Its steps are measured: no schedule is needed.
            OptimizerSpec::BarzilaiBorwein(_) => 1.0,
            _ => fall,
        };
        rule.update(spec.learning_rate() * fall, 1.0, &mut w, &gradients);
    }
    value(&w) / start
}

#[test]
fn every_rule_minimises_a_convex_function() {
    for spec in every_rule(0.0) {
        let left = minimise(&spec, 1000);
        assert!(left < 1e-3, "{spec:?}: {left}");
    }
}

/// On a quadratic, measured steps need far fewer updates than a fixed one.
#[test]
fn measured_steps_converge_faster_than_a_fixed_one() {
    let measured = OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions::new(0.02));
    let fixed = OptimizerSpec::Sgd(SgdOptions::new(0.02));
    let (measured, fixed) = (minimise(&measured, 40), minimise(&fixed, 40));
    assert!(measured < 1e-6 && fixed > 1e-2, "{measured} {fixed}");
}

#[test]
fn a_measured_step_is_the_inverse_curvature_within_bounds() {
    // One dimension of curvature 4: every formula gives 1/4.
    let run = |options: BarzilaiBorweinOptions, curvature: f32| {
        let mut rule = optimizer(&OptimizerSpec::BarzilaiBorwein(options), 1);
        let mut w = [1.0f32];
        for _ in 0..2 {
            let g = [curvature * w[0]];
            rule.update(options.learning_rate, 1.0, &mut w, &g);
        }
        w[0]
    };
    let options = BarzilaiBorweinOptions::new(0.1);
    // After the first update w is 0.6; the second step, 1/4, ends at the minimum.
    assert!(run(options, 4.0).abs() < 1e-6);
    // Bounded to 0.125, it goes half of the way.
    let bounded = BarzilaiBorweinOptions {
        max_rate: 0.125,
        ..options
    };
    assert!((run(bounded, 4.0) - 0.3).abs() < 1e-6);
    // On a hill the learning rate stays: 1 → 1.4 → 1.96.
    assert!((run(options, -4.0) - 1.96).abs() < 1e-5);
}

#[test]
fn padding_stays_zero_under_every_rule() {
    for spec in every_rule(0.1) {
        let mut rule = optimizer(&spec, 3);
        let mut w = [1.0, 0.0, 0.0];
        for i in 0..50 {
            let g = 1.0 + f32::from(i % 3u8);
            rule.update(spec.learning_rate(), 0.5, &mut w, &[g, 0.0, 0.0]);
        }
        assert_eq!(
            w[1..].iter().map(|w| w.to_bits()).max(),
            Some(0),
            "{spec:?}"
        );
        assert!(w[0] < 1.0, "{spec:?}");
    }
}

/// The first Adam update moves every weight by the rate against its gradient's sign.
#[test]
fn the_first_adam_update_is_the_rate() {
    let mut rule = optimizer(&OptimizerSpec::Adam(AdamOptions::adam(0.1)), 2);
    let mut w = [1.0, 1.0];
    rule.update(0.1, 1.0, &mut w, &[3.0, -0.01]);
    assert!(
        (w[0] - 0.9).abs() < 1e-6 && (w[1] - 1.1).abs() < 1e-5,
        "{w:?}"
    );
}

#[test]
fn decoupled_decay_shrinks_weights_without_gradient() {
    let adamw = OptimizerSpec::AdamW(AdamOptions {
        weight_decay: 0.5,
        ..AdamOptions::adamw(0.1)
    });
    let lion = OptimizerSpec::Lion(LionOptions {
        weight_decay: 0.5,
        ..LionOptions::new(0.1)
    });
    for spec in [adamw, lion] {
        let mut w = [2.0];
        optimizer(&spec, 1).update(0.1, 1.0, &mut w, &[0.0]);
        assert!((w[0] - 1.9).abs() < 1e-6, "{w:?}");
    }
}

/// A parameter's LAMB step is as long as the rate times its norm.
#[test]
fn lamb_steps_by_the_norm_of_each_parameter() {
    let spec = OptimizerSpec::Lamb(LambOptions::new(0.01));
    let segments = [(0..2, 0.0), (2..4, 0.3)]
        .map(|(range, weight_decay)| Segment {
            range,
            rate_factor: 1.0,
            weight_decay,
        })
        .to_vec();
    let before = [3.0f32, 4.0, 0.3, 0.4];
    let mut w = before;
    Optimizer::new(&spec, segments, 1).update(0.01, 1.0, &mut w, &[1.0, -2.0, 5.0, 0.1]);
    let moved = |range: std::ops::Range<usize>| -> f32 {
        let pairs = w[range.clone()].iter().zip(&before[range]);
        pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
    };
    assert!((moved(0..2) - 0.05).abs() < 1e-5, "{w:?}");
    assert!((moved(2..4) - 0.005).abs() < 1e-6, "{w:?}");
}

#[test]
fn segments_have_their_own_rate_and_decay() {
    for spec in every_rule(0.3) {
        // Lamb's and Barzilai–Borwein's steps depend on other elements.
        let coupled = matches!(
            spec,
            OptimizerSpec::Lamb(_) | OptimizerSpec::BarzilaiBorwein(_)
        );
        let segment = |range, rate_factor, weight_decay| Segment {
            range,
            rate_factor,
            weight_decay,
        };
        let segments = vec![
            segment(0..2, 1.0, 0.3),
            segment(2..3, 0.5, 0.0),
            segment(3..4, 0.0, 0.3),
        ];
        let mut rule = Optimizer::new(&spec, segments, 1);
        let mut halved = Optimizer::new(&spec, whole(1, 0.0), 1);
        let (mut w, mut alone) = ([1.0, 1.0, 1.0, 1.0], [1.0]);
        for _ in 0..5 {
            rule.update(0.1, 1.0, &mut w, &[0.5; 4]);
            halved.update(0.05, 1.0, &mut alone, &[0.5]);
        }
        assert_eq!(w[0], w[1]);
        assert_ne!(w[0], w[2], "{spec:?}");
        assert_eq!(w[3], 1.0, "{spec:?}: frozen");
        if !coupled {
            assert!((w[2] - alone[0]).abs() < 1e-6, "{spec:?}");
        }
    }
}

#[test]
fn equal_neighbours_are_one_pass() {
    let segment = |range, weight_decay| Segment {
        range,
        rate_factor: 1.0,
        weight_decay,
    };
    let merged = segments::merged(vec![
        segment(0..16, 0.1),
        segment(16..32, 0.1),
        segment(32..48, 0.0),
        segment(48..64, 0.1),
    ]);
    assert_eq!(
        merged,
        [
            segment(0..32, 0.1),
            segment(32..48, 0.0),
            segment(48..64, 0.1),
        ]
    );
}

/// Every rule's weights after some updates, and the norm, bit by bit, on teams of any size.
#[test]
fn bits_do_not_depend_on_threads() {
    let len = 2 * PIECE + 77;
    let gradients: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
    for spec in every_rule(1e-2) {
        let run = |threads| {
            let mut w: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).cos()).collect();
            let mut optimizer = optimizer(&spec, len);
            let mut team = Team::new(threads).unwrap();
            let norm = team.install(|| {
                for _ in 0..3 {
                    optimizer.update(0.01, 0.5, &mut w, &gradients);
                }
                global_norm(&gradients)
            });
            let bits: Vec<u32> = w.iter().map(|w| w.to_bits()).collect();
            (bits, norm.to_bits())
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{spec:?} on {threads} threads");
        }
    }
}
