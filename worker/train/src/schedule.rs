//! The learning rate of a step.

use std::f64::consts::PI;

use ringfold_common::ids::Step;
use ringfold_common::job::{Anneal, Decay, Milestones, OneCycle, Period, ScheduleSpec};

/// A schedule over a known number of steps.
///
/// With base rate *b*, *w* warm-up steps and *n* steps in all, the rate of step *s* (from 1) is
/// *b s / w* while *s* ≤ *w*, and after that, with *t* = *s* − 1 − *w*:
/// - constant: *b*;
/// - step: *b* gamma^⌊*t* / every⌋;
/// - multi-step: *b* gamma^(milestones up to *t*);
/// - exponential: *b* gamma^(*t* / every);
/// - cosine: *m* + (*b* − *m*)(1 + cos(π *t* / (*n* − *w*))) / 2 (Loshchilov and Hutter, 2017,
///   equation 5);
/// - cosine with restarts: the same over the round that *t* is in;
/// - one cycle: from *b* / div up to *b* over the first share of the steps, then down to
///   *b* / div / final, along half a cosine or a line (Smith and Topin, 2019);
/// - polynomial: *b* (1 − *t* / over)^power;
/// - linear: *b* times a line from the start factor to the end factor.
///
/// These are the values of PyTorch's `LinearLR` for the warm-up, and `StepLR`, `MultiStepLR`,
/// `ExponentialLR`, `CosineAnnealingLR`, `CosineAnnealingWarmRestarts`, `OneCycleLR`,
/// `PolynomialLR` and `LinearLR` after it, but as pure functions of the step.
#[derive(Clone, Debug)]
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
    pub fn new(spec: &ScheduleSpec, base: f64, steps_total: u64, steps_per_epoch: u64) -> Self {
        Self {
            base,
            warmup_steps: spec.warmup_steps,
            decay: spec.decay.clone(),
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
        let factor = match self.decay {
            Decay::Constant => 1.0,
            Decay::Step { every, gamma } => power(gamma, since / self.steps(every)),
            Decay::MultiStep {
                ref milestones,
                gamma,
            } => power(gamma, self.passed(milestones, since)),
            Decay::Exponential { every, gamma } => {
                gamma.powf(since as f64 / self.steps(every) as f64)
            }
            Decay::Cosine { min_rate } => {
                return fall(Anneal::Cosine, self.base, min_rate, self.share(None, since));
            }
            Decay::CosineRestarts {
                first,
                factor,
                min_rate,
            } => {
                let share = round_share(since, self.steps(first), factor.into());
                return fall(Anneal::Cosine, self.base, min_rate, share);
            }
            Decay::OneCycle(ref cycle) => one_cycle(cycle, since, self.rest()),
            Decay::Polynomial { over, power } => (1.0 - self.share(over, since)).powf(power),
            Decay::Linear {
                over,
                start_factor,
                end_factor,
            } => start_factor + (end_factor - start_factor) * self.share(over, since),
        };
        self.base * factor
    }

    /// A period's steps, at least 1.
    fn steps(&self, period: Period) -> u64 {
        match period {
            Period::Steps(steps) => steps,
            Period::Epochs(epochs) => epochs.saturating_mul(self.steps_per_epoch),
        }
        .max(1)
    }

    /// The steps after the warm-up, at least 1.
    fn rest(&self) -> u64 {
        self.steps_total.saturating_sub(self.warmup_steps).max(1)
    }

    /// How much of a period is over after `since` steps, in [0, 1]; of the rest of the job if there
    /// is none.
    fn share(&self, over: Option<Period>, since: u64) -> f64 {
        let span = over.map_or_else(|| self.rest(), |period| self.steps(period));
        (since as f64 / span as f64).min(1.0)
    }

    /// Milestones up to `since`, which are in order.
    fn passed(&self, milestones: &Milestones, since: u64) -> u64 {
        let passed = match milestones {
            Milestones::Steps(list) => list.partition_point(|&steps| steps <= since),
            Milestones::Epochs(list) => {
                list.partition_point(|&epochs| epochs.saturating_mul(self.steps_per_epoch) <= since)
            }
        };
        passed as u64
    }
}

fn power(gamma: f64, drops: u64) -> f64 {
    gamma.powi(i32::try_from(drops).unwrap_or(i32::MAX))
}

/// From `from` to `to`, `share` of the way.
fn fall(curve: Anneal, from: f64, to: f64, share: f64) -> f64 {
    match curve {
        Anneal::Cosine => to + (from - to) * (1.0 + (PI * share).cos()) / 2.0,
        Anneal::Linear => from + (to - from) * share,
    }
}

/// How much of its round is over at step `since`, where the first round has `len` steps and each
/// later one `factor` times as many as the one before.
fn round_share(mut since: u64, mut len: u64, factor: u64) -> f64 {
    if factor <= 1 {
        return (since % len) as f64 / len as f64;
    }
    // At most 64 rounds: lengths double at least.
    while since >= len {
        since -= len;
        len = len.saturating_mul(factor);
    }
    since as f64 / len as f64
}

/// What the base rate is multiplied by at step `t` of `steps`. The rise ends at
/// pct_start · steps − 1, the fall at the last step, as in PyTorch.
fn one_cycle(cycle: &OneCycle, t: u64, steps: u64) -> f64 {
    let (first, last) = (
        1.0 / cycle.div_factor,
        1.0 / (cycle.div_factor * cycle.final_div_factor),
    );
    let t = t.min(steps - 1) as f64;
    let rise = (cycle.pct_start * steps as f64 - 1.0).max(0.0);
    if t < rise {
        return fall(cycle.anneal, first, 1.0, t / rise);
    }
    let span = (steps - 1) as f64 - rise;
    let share = if span > 0.0 { (t - rise) / span } else { 0.0 };
    fall(cycle.anneal, 1.0, last, share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup_steps: u64, decay: Decay) -> Vec<f64> {
        let schedule = Schedule::new(
            &ScheduleSpec {
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

    fn assert_rates(decay: Decay, expected: [f64; 10]) {
        let got = rates(0, decay.clone());
        for (got, expected) in got.iter().zip(expected) {
            let wrong = (got - 0.8 * expected).abs() > 1e-12;
            assert!(!wrong, "{decay:?}: {got} {}", 0.8 * expected);
        }
    }

    #[test]
    fn milestones_and_periods_count_in_steps_or_epochs() {
        let milestones = |milestones| Decay::MultiStep {
            milestones,
            gamma: 0.5,
        };
        let expected = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25];
        assert_rates(milestones(Milestones::Steps(vec![2, 6])), expected);
        let expected = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5];
        assert_rates(milestones(Milestones::Epochs(vec![1, 3])), expected);

        let exponential = |every| Decay::Exponential { every, gamma: 0.25 };
        let expected = std::array::from_fn(|t| 0.25f64.powf(t as f64 / 2.0));
        assert_rates(exponential(Period::Steps(2)), expected);
        let expected = std::array::from_fn(|t| 0.25f64.powf(t as f64 / 5.0));
        assert_rates(exponential(Period::Epochs(1)), expected);
    }

    #[test]
    fn rounds_grow_by_the_factor() {
        assert_eq!(round_share(7, 3, 1), 1.0 / 3.0);
        assert_eq!(round_share(2, 3, 2), 2.0 / 3.0);
        assert_eq!(round_share(3, 3, 2), 0.0);
        assert_eq!(round_share(9, 3, 2), 0.0);
        assert_eq!(round_share(15, 3, 2), 0.5);
        // No overflow, no endless loop.
        assert!(round_share(u64::MAX - 1, u64::MAX / 2, u64::from(u32::MAX)) < 1.0);
    }

    #[test]
    fn lines_and_powers_stop_at_their_end() {
        let expected = [1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];
        assert_rates(
            Decay::Linear {
                over: Some(Period::Steps(4)),
                start_factor: 1.0,
                end_factor: 0.5,
            },
            expected,
        );
        let expected = std::array::from_fn(|t| (1.0 - t as f64 / 10.0).powi(2));
        assert_rates(
            Decay::Polynomial {
                over: None,
                power: 2.0,
            },
            expected,
        );
        let expected = std::array::from_fn(|t| (1.0 - t as f64 / 5.0).max(0.0));
        assert_rates(
            Decay::Polynomial {
                over: Some(Period::Epochs(1)),
                power: 1.0,
            },
            expected,
        );
    }

    #[test]
    fn one_cycle_is_finite_for_any_number_of_steps() {
        for anneal in [Anneal::Cosine, Anneal::Linear] {
            let cycle = OneCycle {
                pct_start: 0.3,
                div_factor: 25.0,
                final_div_factor: 1e4,
                anneal,
            };
            for steps in 1..20 {
                let factors: Vec<f64> = (0..steps).map(|t| one_cycle(&cycle, t, steps)).collect();
                let bounded = factors.iter().all(|f| (4e-6..=1.0).contains(f));
                assert!(bounded, "{steps}: {factors:?}");
                let last = factors[factors.len() - 1];
                assert!(steps == 1 || (last - 4e-6).abs() < 1e-12, "{steps}: {last}");
            }
        }
    }
}
