//! Stochastic gradient descent.

use ringfold_common::job::SgdOptions;

use super::{Rule, Segment, Slot, Update, each_piece, kept, kept_mut};

#[derive(Debug)]
pub(super) struct Sgd {
    options: SgdOptions,
    /// Empty without momentum.
    velocity: Vec<f32>,
}

impl Sgd {
    pub fn new(options: SgdOptions, len: usize) -> Self {
        let with_momentum = options.momentum > 0.0;
        Self {
            options,
            velocity: vec![0.0; if with_momentum { len } else { 0 }],
        }
    }
}

impl Rule for Sgd {
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        for segment in segments {
            let range = segment.range.clone();
            let step = Step::new(&self.options, update, segment);
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            if self.velocity.is_empty() {
                each_piece([w], g, |[w], g| step.plain(w, g));
                continue;
            }
            let v = &mut self.velocity[range];
            if self.options.nesterov {
                each_piece([w, v], g, |[w, v], g| step.nesterov(w, g, v));
            } else {
                each_piece([w, v], g, |[w, v], g| step.momentum(w, g, v));
            }
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([("velocity", &self.velocity[..])])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([&mut self.velocity[..]])
    }
}

/// The constants of one update.
struct Step {
    rate: f32,
    scale: f32,
    decay: f32,
    momentum: f32,
    /// μ, but 0 in the first update.
    kept: f32,
    /// 1 − dampening, but 1 in the first update.
    taken: f32,
}

impl Step {
    fn new(options: &SgdOptions, update: Update, segment: &Segment) -> Self {
        let first = update.number == 1;
        Self {
            rate: (update.rate * segment.rate_factor) as f32,
            scale: update.scale,
            decay: segment.weight_decay as f32,
            momentum: options.momentum as f32,
            kept: if first { 0.0 } else { options.momentum as f32 },
            taken: if first {
                1.0
            } else {
                (1.0 - options.dampening) as f32
            },
        }
    }

    /// w ← w − η (g + λ w)
    #[inline(always)]
    fn plain(&self, w: &mut [f32], g: &[f32]) {
        for (w, g) in w.iter_mut().zip(g) {
            *w -= self.rate * (self.scale * g + self.decay * *w);
        }
    }

    /// v ← μ v + (1 − dampening) (g + λ w), v ← g + λ w at first; w ← w − η v.
    #[inline(always)]
    fn momentum(&self, w: &mut [f32], g: &[f32], v: &mut [f32]) {
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            *v = self.kept * *v + self.taken * (self.scale * g + self.decay * *w);
            *w -= self.rate * *v;
        }
    }

    /// The same v without dampening; w ← w − η (g + λ w + μ v).
    #[inline(always)]
    fn nesterov(&self, w: &mut [f32], g: &[f32], v: &mut [f32]) {
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            let gradient = self.scale * g + self.decay * *w;
            *v = self.kept * *v + gradient;
            *w -= self.rate * (gradient + self.momentum * *v);
        }
    }
}
