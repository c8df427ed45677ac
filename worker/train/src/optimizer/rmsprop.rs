//! RMSProp.

use ringfold_common::job::RmsPropOptions;

use super::{Rule, Segment, Slot, Update, each_piece, kept, kept_mut};

#[derive(Debug)]
pub(super) struct RmsProp {
    options: RmsPropOptions,
    /// The mean square of the gradient.
    square: Vec<f32>,
    /// The mean of the gradient; empty unless centred.
    mean: Vec<f32>,
    /// Empty without momentum.
    velocity: Vec<f32>,
}

impl RmsProp {
    pub fn new(options: RmsPropOptions, len: usize) -> Self {
        let zeros = |wanted: bool| vec![0.0; if wanted { len } else { 0 }];
        Self {
            options,
            square: zeros(true),
            mean: zeros(options.centered),
            velocity: zeros(options.momentum > 0.0),
        }
    }
}

impl Rule for RmsProp {
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        for segment in segments {
            let range = segment.range.clone();
            let step = Step {
                rate: (update.rate * segment.rate_factor) as f32,
                scale: update.scale,
                decay: segment.weight_decay as f32,
                alpha: self.options.alpha as f32,
                epsilon: self.options.epsilon as f32,
                momentum: self.options.momentum as f32,
            };
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            let square = &mut self.square[range.clone()];
            match (self.mean.is_empty(), self.velocity.is_empty()) {
                (true, true) => each_piece([w, square], g, |[w, s], g| step.plain(w, g, s)),
                (true, false) => {
                    let slices = [w, square, &mut self.velocity[range]];
                    each_piece(slices, g, |[w, s, v], g| step.momentum(w, g, s, v));
                }
                (false, true) => {
                    let slices = [w, square, &mut self.mean[range]];
                    each_piece(slices, g, |[w, s, mean], g| step.centered(w, g, s, mean));
                }
                (false, false) => {
                    let (mean, velocity) =
                        (&mut self.mean[range.clone()], &mut self.velocity[range]);
                    each_piece([w, square, mean, velocity], g, |[w, s, mean, v], g| {
                        step.centered_momentum(w, g, s, mean, v);
                    });
                }
            }
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([
            ("square", &self.square[..]),
            ("mean", &self.mean[..]),
            ("velocity", &self.velocity[..]),
        ])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([
            &mut self.square[..],
            &mut self.mean[..],
            &mut self.velocity[..],
        ])
    }
}

/// The constants of one update. With g' = g + λ w: s ← α s + (1 − α) g'²; d = √s + ε, or centred
/// ḡ ← ḡ + (1 − α)(g' − ḡ) and d = √(s − ḡ²) + ε; w ← w − η g' / d, or with momentum
/// v ← μ v + g' / d and w ← w − η v.
struct Step {
    rate: f32,
    scale: f32,
    decay: f32,
    alpha: f32,
    epsilon: f32,
    momentum: f32,
}

impl Step {
    /// g' and the new s.
    #[inline(always)]
    fn gradient(&self, w: f32, g: f32, s: &mut f32) -> f32 {
        let gradient = self.scale * g + self.decay * w;
        *s = self.alpha * *s + (1.0 - self.alpha) * gradient * gradient;
        gradient
    }

    /// g' / d with the new ḡ. Rounding can bring s below ḡ², by a little.
    #[inline(always)]
    fn centered_step(&self, gradient: f32, s: f32, mean: &mut f32) -> f32 {
        *mean += (1.0 - self.alpha) * (gradient - *mean);
        gradient / ((s - *mean * *mean).max(0.0).sqrt() + self.epsilon)
    }

    #[inline(always)]
    fn plain(&self, w: &mut [f32], g: &[f32], s: &mut [f32]) {
        for ((w, g), s) in w.iter_mut().zip(g).zip(s) {
            let gradient = self.gradient(*w, *g, s);
            *w -= self.rate * (gradient / (s.sqrt() + self.epsilon));
        }
    }

    #[inline(always)]
    fn momentum(&self, w: &mut [f32], g: &[f32], s: &mut [f32], v: &mut [f32]) {
        for (((w, g), s), v) in w.iter_mut().zip(g).zip(s).zip(v) {
            let gradient = self.gradient(*w, *g, s);
            *v = self.momentum * *v + gradient / (s.sqrt() + self.epsilon);
            *w -= self.rate * *v;
        }
    }

    #[inline(always)]
    fn centered(&self, w: &mut [f32], g: &[f32], s: &mut [f32], mean: &mut [f32]) {
        for (((w, g), s), mean) in w.iter_mut().zip(g).zip(s).zip(mean) {
            let gradient = self.gradient(*w, *g, s);
            *w -= self.rate * self.centered_step(gradient, *s, mean);
        }
    }

    #[inline(always)]
    fn centered_momentum(
        &self,
        w: &mut [f32],
        g: &[f32],
        s: &mut [f32],
        mean: &mut [f32],
        v: &mut [f32],
    ) {
        for ((((w, g), s), mean), v) in w.iter_mut().zip(g).zip(s).zip(mean).zip(v) {
            let gradient = self.gradient(*w, *g, s);
            *v = self.momentum * *v + self.centered_step(gradient, *s, mean);
            *w -= self.rate * *v;
        }
    }
}
