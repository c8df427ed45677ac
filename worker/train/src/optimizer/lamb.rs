//! LAMB (You et al., 2020, algorithm 2, with φ(z) = z).

use ringfold_common::job::LambOptions;

use super::{LANES, Rule, Segment, Slot, Update, kept, kept_mut};

#[derive(Debug)]
pub(super) struct Lamb {
    options: LambOptions,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Lamb {
    pub fn new(options: LambOptions, len: usize) -> Self {
        Self {
            options,
            first: vec![0.0; len],
            second: vec![0.0; len],
        }
    }
}

impl Rule for Lamb {
    /// A segment is a parameter.
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        for segment in segments {
            let range = segment.range.clone();
            let step = Step {
                scale: update.scale,
                decay: segment.weight_decay as f32,
                beta1: self.options.beta1 as f32,
                beta2: self.options.beta2 as f32,
                epsilon: self.options.epsilon as f32,
                first_scale: (1.0 / (1.0 - update.power(self.options.beta1))) as f32,
                second_scale: (1.0 / (1.0 - update.power(self.options.beta2)).sqrt()) as f32,
            };
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            let (m, v) = (&mut self.first[range.clone()], &mut self.second[range]);
            let ratio = step.moments(w, g, m, v);
            step.moves((update.rate * segment.rate_factor * ratio) as f32, w, m, v);
        }
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([("first", &self.first[..]), ("second", &self.second[..])])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([&mut self.first[..], &mut self.second[..]])
    }
}

/// The constants of one update of one parameter.
struct Step {
    scale: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// 1 / (1 − β₁ᵗ).
    first_scale: f32,
    /// 1 / √(1 − β₂ᵗ).
    second_scale: f32,
}

impl Step {
    /// r + λ w, with r = m̂ / (√v̂ + ε).
    #[inline(always)]
    fn direction(&self, w: f32, m: f32, v: f32) -> f32 {
        self.first_scale * m / (v.sqrt() * self.second_scale + self.epsilon) + self.decay * w
    }

    /// m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²; the trust ratio ‖w‖ / ‖r + λ w‖, or 1 if
    /// either is zero.
    fn moments(&self, w: &[f32], g: &[f32], m: &mut [f32], v: &mut [f32]) -> f64 {
        let mut weights = [0f64; LANES];
        let mut directions = [0f64; LANES];
        let (w_lines, w_rest) = w.as_chunks::<LANES>();
        let (g_lines, g_rest) = g.as_chunks::<LANES>();
        let (m_lines, m_rest) = m.as_chunks_mut::<LANES>();
        let (v_lines, v_rest) = v.as_chunks_mut::<LANES>();
        for (((w, g), m), v) in w_lines.iter().zip(g_lines).zip(m_lines).zip(v_lines) {
            self.line(w, g, m, v, &mut weights, &mut directions);
        }
        self.line(
            w_rest,
            g_rest,
            m_rest,
            v_rest,
            &mut weights,
            &mut directions,
        );
        let norm = |lanes: [f64; LANES]| lanes.iter().sum::<f64>().sqrt();
        let (weights, directions) = (norm(weights), norm(directions));
        if weights > 0.0 && directions > 0.0 {
            weights / directions
        } else {
            1.0
        }
    }

    /// Up to [`LANES`] elements: their moments, and their squares added to the lanes. The lengths
    /// of whole lines are known where this is inlined.
    #[inline(always)]
    fn line(
        &self,
        w: &[f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        weights: &mut [f64; LANES],
        directions: &mut [f64; LANES],
    ) {
        // Two loops: single precision, then double, each as wide as it can be.
        let mut along = [0f32; LANES];
        let elements = w.iter().zip(g).zip(m).zip(v);
        for ((((w, g), m), v), along) in elements.zip(&mut along) {
            let gradient = self.scale * g;
            *m += (1.0 - self.beta1) * (gradient - *m);
            *v = self.beta2 * *v + (1.0 - self.beta2) * gradient * gradient;
            *along = self.direction(*w, *m, *v);
        }
        let lanes = weights.iter_mut().zip(directions);
        for ((w, along), (weight, direction)) in w.iter().zip(along).zip(lanes) {
            *weight += f64::from(*w) * f64::from(*w);
            *direction += f64::from(along) * f64::from(along);
        }
    }

    /// w ← w − η ratio (r + λ w).
    fn moves(&self, rate: f32, w: &mut [f32], m: &[f32], v: &[f32]) {
        for ((w, m), v) in w.iter_mut().zip(m).zip(v) {
            *w -= rate * self.direction(*w, *m, *v);
        }
    }
}
