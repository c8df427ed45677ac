//! Adam and AdamW, with AMSGrad on demand.

use ringfold_common::job::AdamOptions;

use super::{Rule, Segment, Slot, Update, each_piece, kept, kept_mut};

#[derive(Debug)]
pub(super) struct Adam {
    options: AdamOptions,
    /// True for AdamW.
    decoupled: bool,
    first: Vec<f32>,
    second: Vec<f32>,
    /// The greatest second moment; empty without AMSGrad.
    greatest: Vec<f32>,
}

impl Adam {
    pub fn new(options: AdamOptions, decoupled: bool, len: usize) -> Self {
        Self {
            options,
            decoupled,
            first: vec![0.0; len],
            second: vec![0.0; len],
            greatest: vec![0.0; if options.amsgrad { len } else { 0 }],
        }
    }
}

impl Rule for Adam {
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        for segment in segments {
            let range = segment.range.clone();
            let step = Step::new(&self.options, self.decoupled, update, segment);
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            let (m, v) = (
                &mut self.first[range.clone()],
                &mut self.second[range.clone()],
            );
            if self.greatest.is_empty() {
                each_piece([w, m, v], g, |[w, m, v], g| step.plain(w, g, m, v));
            } else {
                let greatest = &mut self.greatest[range];
                each_piece([w, m, v, greatest], g, |[w, m, v, greatest], g| {
                    step.amsgrad(w, g, m, v, greatest);
                });
            }
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([
            ("first", &self.first[..]),
            ("second", &self.second[..]),
            ("greatest", &self.greatest[..]),
        ])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([
            &mut self.first[..],
            &mut self.second[..],
            &mut self.greatest[..],
        ])
    }
}

/// The constants of one update.
struct Step {
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

impl Step {
    fn new(options: &AdamOptions, decoupled: bool, update: Update, segment: &Segment) -> Self {
        let rate = update.rate * segment.rate_factor;
        let (shrink, coupled_decay) = if decoupled {
            (1.0 - rate * segment.weight_decay, 0.0)
        } else {
            (1.0, segment.weight_decay)
        };
        Self {
            scale: update.scale,
            shrink: shrink as f32,
            coupled_decay: coupled_decay as f32,
            beta1: options.beta1 as f32,
            beta2: options.beta2 as f32,
            epsilon: options.epsilon as f32,
            step_size: (rate / (1.0 - update.power(options.beta1))) as f32,
            second_scale: (1.0 / (1.0 - update.power(options.beta2)).sqrt()) as f32,
        }
    }

    /// m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g².
    #[inline(always)]
    fn moments(&self, w: f32, g: f32, m: &mut f32, v: &mut f32) {
        let gradient = self.scale * g + self.coupled_decay * w;
        *m += (1.0 - self.beta1) * (gradient - *m);
        *v = self.beta2 * *v + (1.0 - self.beta2) * gradient * gradient;
    }

    /// w ← w − step m / (√v / √(1 − β₂ᵗ) + ε).
    #[inline(always)]
    fn moved(&self, w: f32, m: f32, v: f32) -> f32 {
        let denominator = v.sqrt() * self.second_scale + self.epsilon;
        self.shrink * w - self.step_size * m / denominator
    }

    #[inline(always)]
    fn plain(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            self.moments(*w, *g, m, v);
            *w = self.moved(*w, *m, *v);
        }
    }

    /// The same with the greatest v so far.
    #[inline(always)]
    fn amsgrad(
        &self,
        w: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        greatest: &mut [f32],
    ) {
        for ((((w, g), m), v), greatest) in w.iter_mut().zip(g).zip(m).zip(v).zip(greatest) {
            self.moments(*w, *g, m, v);
            *greatest = greatest.max(*v);
            *w = self.moved(*w, *m, *greatest);
        }
    }
}
