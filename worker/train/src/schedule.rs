//! The learning rate of a step.

use ringfold_common::ids::Step;
use ringfold_common::job::{Decay, Period, ScheduleSpec};

/// A schedule over a known number of steps.
///
/// With base rate *b*, *w* warm-up steps and *n* steps in all, the rate of step *s* (from 1) is
/// *b s / w* while *s* ≤ *w*, and after that, with *t* = *s* − 1 − *w*:
/// - constant: *b*;
/// - step: *b* gamma^⌊*t* / every⌋;
/// - cosine: *m* + (*b* − *m*)(1 + cos(π *t* / (*n* − *w*))) / 2 (Loshchilov and Hutter, 2017,
///   equation 5).
///
/// These are the values of PyTorch's `LinearLR`, `StepLR` and `CosineAnnealingLR` in sequence.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    base: f64,
    warmup_steps: u64,
    decay: Decay,
    steps_total: u64,
    steps_per_epoch: u64,
}

impl Schedule {
    /// A schedule for a job of `steps_total` steps.
    #[must_use]
    pub fn new(spec: ScheduleSpec, base: f64, steps_total: u64, steps_per_epoch: u64) -> Self {
        Self {
            base,
            warmup_steps: spec.warmup_steps,
            decay: spec.decay,
            steps_total,
            steps_per_epoch,
        }
    }

    /// The learning rate of `step`, which counts from 1.
    #[must_use]
    pub fn rate(&self, step: Step) -> f64 {
        if step.0 <= self.warmup_steps {
            return self.base * step.0 as f64 / self.warmup_steps as f64;
        }
        let since = step.0 - 1 - self.warmup_steps;
        match self.decay {
            Decay::Constant => self.base,
            Decay::Step { every, gamma } => {
                let every = match every {
                    Period::Steps(steps) => steps,
                    Period::Epochs(epochs) => epochs.saturating_mul(self.steps_per_epoch),
                };
                let drops = since / every.max(1);
                self.base * gamma.powi(i32::try_from(drops).unwrap_or(i32::MAX))
            }
            Decay::Cosine { min_rate } => {
                let span = self.steps_total.saturating_sub(self.warmup_steps).max(1);
                let angle = std::f64::consts::PI * since as f64 / span as f64;
                min_rate + (self.base - min_rate) * (1.0 + angle.cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup_steps: u64, decay: Decay) -> Vec<f64> {
        let schedule = Schedule::new(
            ScheduleSpec {
                warmup_steps,
                decay,
            },
            0.8,
            10,
            5,
        );
        (1..=10).map(|step| schedule.rate(Step(step))).collect()
    }

    #[test]
    fn warm_up_rises_to_the_base_rate() {
        let rates = rates(4, Decay::Constant);
        let expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8];
        for (got, expected) in rates.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn steps_drop_once_a_period() {
        let by_steps = rates(
            0,
            Decay::Step {
                every: Period::Steps(3),
                gamma: 0.5,
            },
        );
        assert_eq!(by_steps, [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1]);
        let by_epochs = rates(
            0,
            Decay::Step {
                every: Period::Epochs(1),
                gamma: 0.5,
            },
        );
        assert_eq!(
            by_epochs,
            [0.8, 0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4]
        );
    }

    #[test]
    fn cosine_falls_from_the_base_rate_towards_the_least() {
        let rates = rates(0, Decay::Cosine { min_rate: 0.1 });
        assert!((rates[0] - 0.8).abs() < 1e-12);
        assert!((rates[5] - 0.45).abs() < 1e-12);
        assert!(rates.windows(2).all(|pair| pair[1] < pair[0]));
        assert!(rates[9] > 0.1 && rates[9] < 0.13);
    }
}
