//! AdaGrad.

use ringfold_common::job::AdaGradOptions;

use super::{Rule, Segment, Slot, Update, each_piece, kept, kept_mut};

#[derive(Debug)]
pub(super) struct AdaGrad {
    options: AdaGradOptions,
    /// The sum of the squares of the gradient.
    sum: Vec<f32>,
}

impl AdaGrad {
    pub fn new(options: AdaGradOptions, len: usize) -> Self {
        Self {
            options,
            sum: vec![options.initial_accumulator as f32; len],
        }
    }
}

impl Rule for AdaGrad {
    /// g' = g + λ w; s ← s + g'²; w ← w − η / (1 + (t − 1) decay) g' / (√s + ε).
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        let slowed = 1.0 + (update.number - 1) as f64 * self.options.rate_decay;
        let epsilon = self.options.epsilon as f32;
        for segment in segments {
            let range = segment.range.clone();
            let rate = (update.rate * segment.rate_factor / slowed) as f32;
            let decay = segment.weight_decay as f32;
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            each_piece([w, &mut self.sum[range]], g, |[w, s], g| {
                for ((w, g), s) in w.iter_mut().zip(g).zip(s) {
                    let gradient = update.scale * g + decay * *w;
                    *s += gradient * gradient;
                    *w -= rate * (gradient / (s.sqrt() + epsilon));
                }
            });
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([("sum", &self.sum[..])])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([&mut self.sum[..]])
    }
}
