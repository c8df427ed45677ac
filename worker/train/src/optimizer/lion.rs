//! Lion (Chen et al., 2023, algorithm 2).

use ringfold_common::job::LionOptions;

use super::{Rule, Segment, Slot, Update, each_piece, kept, kept_mut};

#[derive(Debug)]
pub(super) struct Lion {
    options: LionOptions,
    momentum: Vec<f32>,
}

impl Lion {
    pub fn new(options: LionOptions, len: usize) -> Self {
        Self {
            options,
            momentum: vec![0.0; len],
        }
    }
}

impl Rule for Lion {
    /// w ← w − η (sign(β₁ m + (1 − β₁) g) + λ w); m ← β₂ m + (1 − β₂) g.
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        let (beta1, beta2) = (self.options.beta1 as f32, self.options.beta2 as f32);
        for segment in segments {
            let range = segment.range.clone();
            let rate = update.rate * segment.rate_factor;
            let shrink = (1.0 - rate * segment.weight_decay) as f32;
            let rate = rate as f32;
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            each_piece([w, &mut self.momentum[range]], g, |[w, m], g| {
                for ((w, g), m) in w.iter_mut().zip(g).zip(m) {
                    let gradient = update.scale * g;
                    let direction = beta1 * *m + (1.0 - beta1) * gradient;
                    *w = shrink * *w - rate * sign(direction);
                    *m = beta2 * *m + (1.0 - beta2) * gradient;
                }
            });
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([("momentum", &self.momentum[..])])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([&mut self.momentum[..]])
    }
}

/// −1, 0 or 1. Unlike `signum`, zero has none: padding must not move.
#[inline(always)]
fn sign(x: f32) -> f32 {
    f32::from(u8::from(x > 0.0)) - f32::from(u8::from(x < 0.0))
}
