//! Update rules over the flat arenas, and clipping by global norm.
//!
//! One pass each: parameters, gradients and state are read and written once. Formulas are those of
//! PyTorch's `torch.optim`, in single precision. Padding stays zero under every rule, since its
//! gradient is zero.

use ringfold_common::job::{AdamOptions, OptimizerSpec, SgdOptions};

/// An update rule with its state.
#[derive(Clone, Debug)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Its options.
        options: SgdOptions,
        /// The velocity; empty without momentum.
        velocity: Vec<f32>,
        /// Updates made.
        updates: u64,
    },
    /// Adam and AdamW.
    Adam {
        /// Its options.
        options: AdamOptions,
        /// True for AdamW.
        decoupled: bool,
        /// The first moment.
        first: Vec<f32>,
        /// The second moment.
        second: Vec<f32>,
        /// Updates made.
        updates: u64,
    },
}

impl Optimizer {
    /// The rule of `spec` for arenas of `len` elements.
    #[must_use]
    pub fn new(spec: &OptimizerSpec, len: usize) -> Self {
        match *spec {
            OptimizerSpec::Sgd(options) => {
                let velocity = if options.momentum > 0.0 {
                    vec![0.0; len]
                } else {
                    Vec::new()
                };
                Self::Sgd {
                    options,
                    velocity,
                    updates: 0,
                }
            }
            OptimizerSpec::Adam(options) => Self::adam(options, false, len),
            OptimizerSpec::AdamW(options) => Self::adam(options, true, len),
        }
    }

    fn adam(options: AdamOptions, decoupled: bool, len: usize) -> Self {
        Self::Adam {
            options,
            decoupled,
            first: vec![0.0; len],
            second: vec![0.0; len],
            updates: 0,
        }
    }

    /// Updates `parameters` by `gradients` at the learning rate `rate`. Gradients are multiplied by
    /// `gradient_scale` on the way, which clipping sets.
    ///
    /// # Panics
    /// If the lengths are not those of the state.
    pub fn update(
        &mut self,
        rate: f64,
        gradient_scale: f32,
        parameters: &mut [f32],
        gradients: &[f32],
    ) {
        assert_eq!(
            parameters.len(),
            gradients.len(),
            "one gradient a parameter"
        );
        match self {
            Self::Sgd {
                options,
                velocity,
                updates,
            } => {
                *updates += 1;
                if options.momentum > 0.0 {
                    let first = *updates == 1;
                    momentum(
                        options,
                        first,
                        rate,
                        gradient_scale,
                        parameters,
                        gradients,
                        velocity,
                    );
                } else {
                    plain(options, rate, gradient_scale, parameters, gradients);
                }
            }
            Self::Adam {
                options,
                decoupled,
                first,
                second,
                updates,
            } => {
                *updates += 1;
                let step = AdamStep::new(options, *decoupled, rate, gradient_scale, *updates);
                step.update(parameters, gradients, first, second);
            }
        }
    }
}

/// w ← w − η (g + λ w)
fn plain(options: &SgdOptions, rate: f64, scale: f32, w: &mut [f32], g: &[f32]) {
    let (rate, decay) = (rate as f32, options.weight_decay as f32);
    for (w, g) in w.iter_mut().zip(g) {
        *w -= rate * (scale * g + decay * *w);
    }
}

/// v ← μ v + g + λ w (v ← g + λ w at first); w ← w − η v, or w − η (g + λ w + μ v) with Nesterov.
fn momentum(
    options: &SgdOptions,
    first: bool,
    rate: f64,
    scale: f32,
    w: &mut [f32],
    g: &[f32],
    v: &mut [f32],
) {
    assert_eq!(v.len(), w.len(), "one velocity a parameter");
    let (rate, decay) = (rate as f32, options.weight_decay as f32);
    let momentum = options.momentum as f32;
    let kept = if first { 0.0 } else { momentum };
    if options.nesterov {
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            let gradient = scale * g + decay * *w;
            *v = kept * *v + gradient;
            *w -= rate * (gradient + momentum * *v);
        }
    } else {
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            *v = kept * *v + (scale * g + decay * *w);
            *w -= rate * *v;
        }
    }
}

/// The constants of one Adam update.
struct AdamStep {
    scale: f32,
    /// What AdamW takes off the weights: 1 − η λ.
    shrink: f32,
    /// What Adam adds to the gradient: λ.
    coupled_decay: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// η / (1 − β₁ᵗ).
    step_size: f32,
    /// 1 / √(1 − β₂ᵗ).
    second_scale: f32,
}

impl AdamStep {
    fn new(options: &AdamOptions, decoupled: bool, rate: f64, scale: f32, update: u64) -> Self {
        let power = |beta: f64| beta.powi(i32::try_from(update).unwrap_or(i32::MAX));
        let (shrink, coupled_decay) = if decoupled {
            (1.0 - rate * options.weight_decay, 0.0)
        } else {
            (1.0, options.weight_decay)
        };
        Self {
            scale,
            shrink: shrink as f32,
            coupled_decay: coupled_decay as f32,
            beta1: options.beta1 as f32,
            beta2: options.beta2 as f32,
            epsilon: options.epsilon as f32,
            step_size: (rate / (1.0 - power(options.beta1))) as f32,
            second_scale: (1.0 / (1.0 - power(options.beta2)).sqrt()) as f32,
        }
    }

    /// m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; w ← w − step m / (√v / √(1 − β₂ᵗ) + ε).
    fn update(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        assert!(
            m.len() == w.len() && v.len() == w.len(),
            "two moments a parameter"
        );
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let decayed = self.shrink * *w;
            let gradient = self.scale * g + self.coupled_decay * *w;
            *m += (1.0 - self.beta1) * (gradient - *m);
            *v = self.beta2 * *v + (1.0 - self.beta2) * gradient * gradient;
            let denominator = v.sqrt() * self.second_scale + self.epsilon;
            *w = decayed - self.step_size * *m / denominator;
        }
    }
}

/// The L2 norm of all gradients, summed in double precision in a fixed order.
#[must_use]
pub fn global_norm(gradients: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    let chunks = gradients.chunks_exact(LANES);
    let tail: f64 = chunks
        .remainder()
        .iter()
        .map(|&g| f64::from(g) * f64::from(g))
        .sum();
    for chunk in chunks {
        for (lane, &g) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(g) * f64::from(g);
        }
    }
    (lanes.iter().sum::<f64>() + tail).sqrt()
}

/// What gradients of norm `norm` are multiplied by to keep them within `norm_max`: PyTorch's
/// `clip_grad_norm_`.
#[must_use]
pub fn clip_scale(norm: f64, norm_max: f64) -> f32 {
    (norm_max / (norm + 1e-6)).min(1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adam_options() -> AdamOptions {
        AdamOptions {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.5,
        }
    }

    /// The first Adam update moves every weight by the rate against its gradient's sign.
    #[test]
    fn the_first_adam_update_is_the_rate() {
        let options = AdamOptions {
            weight_decay: 0.0,
            ..adam_options()
        };
        let mut optimizer = Optimizer::new(&OptimizerSpec::Adam(options), 2);
        let mut w = [1.0, 1.0];
        optimizer.update(0.1, 1.0, &mut w, &[3.0, -0.01]);
        assert!(
            (w[0] - 0.9).abs() < 1e-6 && (w[1] - 1.1).abs() < 1e-5,
            "{w:?}"
        );
    }

    #[test]
    fn adamw_decays_weights_even_without_gradient() {
        let mut optimizer = Optimizer::new(&OptimizerSpec::AdamW(adam_options()), 1);
        let mut w = [2.0];
        optimizer.update(0.1, 1.0, &mut w, &[0.0]);
        assert!((w[0] - 1.9).abs() < 1e-6, "{w:?}");
    }

    #[test]
    fn padding_stays_zero_under_every_rule() {
        let sgd = |momentum, nesterov| {
            OptimizerSpec::Sgd(SgdOptions {
                learning_rate: 0.1,
                momentum,
                nesterov,
                weight_decay: 0.1,
            })
        };
        for spec in [
            sgd(0.0, false),
            sgd(0.9, false),
            sgd(0.9, true),
            OptimizerSpec::Adam(adam_options()),
            OptimizerSpec::AdamW(adam_options()),
        ] {
            let mut optimizer = Optimizer::new(&spec, 3);
            let mut w = [1.0, 0.0, 0.0];
            for _ in 0..3 {
                optimizer.update(0.1, 1.0, &mut w, &[1.0, 0.0, 0.0]);
            }
            assert_eq!(&w[1..], &[0.0, 0.0], "{spec:?}");
            assert!(w[0] < 1.0);
        }
    }

    #[test]
    fn clipping_bounds_the_norm_and_leaves_small_gradients() {
        let gradients: Vec<f32> = (0..37).map(|i| i as f32 * 0.1).collect();
        let norm = global_norm(&gradients);
        let expected = gradients
            .iter()
            .map(|g| f64::from(g * g))
            .sum::<f64>()
            .sqrt();
        assert!((norm - expected).abs() < 1e-5);
        let scale = clip_scale(norm, 1.0);
        let clipped: Vec<f32> = gradients.iter().map(|g| g * scale).collect();
        assert!((global_norm(&clipped) - 1.0).abs() < 1e-5);
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
    }
}
