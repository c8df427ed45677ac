//! Gradient descent whose step size is measured: with *s* the change of the weights and *y* that of
//! the gradient over a period, the long step is sᵀs / sᵀy and the short one sᵀy / yᵀy (Barzilai and
//! Borwein, 1988, equations 6 and 5).
//!
//! - **A period of one update**, for jobs whose batch is the whole data: the method of the paper.
//!   The gradient of this update and that of the last are the ends of *y*.
//! - **A period of *m* updates**, an epoch unless the job says otherwise: SGD-BB (Tan, Ma, Dai and
//!   Qian, 2016, algorithm 2). The ends of *y* are running means ĝ ← β g + (1 − β) ĝ, from zero,
//!   over each period with β = min(1, 10 / m), those of *s* the weights at the periods' ends; the
//!   step is divided by *m*. The first two periods run at the learning rate.
//!
//! Where the curvature sᵀy is not positive the last step stays, and every measured step is clipped
//! into the bounds of the job. A schedule multiplies the step by what it makes of the learning rate.

use ringfold_common::job::{BarzilaiBorweinFormula, BarzilaiBorweinOptions};

use super::{LANES, Rule, Segment, Slot, Update, kept, kept_mut};

/// The least cosine of the angle between *s* and *y* that counts as curvature.
const COSINE_MIN: f64 = 1e-6;

/// The greatest weight of one gradient in a period's mean is this many over the period.
const AVERAGED: f64 = 10.0;

#[derive(Debug)]
pub(super) struct BarzilaiBorwein {
    options: BarzilaiBorweinOptions,
    period: u64,
    /// The step size, before the schedule.
    step: f64,
    /// Steps measured.
    measured: u64,
    /// The weights where the last period ended.
    last_weights: Vec<f32>,
    /// The gradient there.
    last_gradient: Vec<f32>,
    /// The running mean of this period's gradients; empty if a period is one update.
    mean: Vec<f32>,
}

impl BarzilaiBorwein {
    pub fn new(options: BarzilaiBorweinOptions, period: u64, len: usize) -> Self {
        Self {
            options,
            period,
            step: options.learning_rate,
            measured: 0,
            last_weights: vec![0.0; len],
            last_gradient: vec![0.0; len],
            mean: vec![0.0; if period > 1 { len } else { 0 }],
        }
    }

    /// Takes the step size from what a period changed.
    fn measure(&mut self, change: Change) {
        let long = match self.options.formula {
            BarzilaiBorweinFormula::Long => true,
            BarzilaiBorweinFormula::Short => false,
            BarzilaiBorweinFormula::Alternate => self.measured.is_multiple_of(2),
        };
        self.measured += 1;
        if let Some(step) = change.step(long) {
            let step = step / self.period as f64;
            self.step = step.clamp(self.options.min_rate, self.options.max_rate);
        }
    }

    /// The updates of a period of one.
    fn whole(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        let mut change = Change::default();
        for segment in segments {
            let (range, decay) = (segment.range.clone(), segment.weight_decay as f32);
            let (w, g) = (&w[range.clone()], &g[range.clone()]);
            let last_w = &mut self.last_weights[range.clone()];
            let last_g = &mut self.last_gradient[range];
            if update.number > 1 && segment.rate_factor > 0.0 {
                change.add((w, g), (last_w, last_g), |w, g| {
                    update.scale * g + decay * w
                });
            }
            last_w.copy_from_slice(w);
            for ((last_g, g), w) in last_g.iter_mut().zip(g).zip(w) {
                *last_g = update.scale * g + decay * w;
            }
        }
        if update.number > 1 {
            self.measure(change);
        }
        for segment in segments {
            let rate = self.rate(update, segment);
            let range = segment.range.clone();
            for (w, g) in w[range.clone()].iter_mut().zip(&self.last_gradient[range]) {
                *w -= rate * g;
            }
        }
    }

    /// What happens between two periods.
    fn turn(&mut self, update: Update, segments: &[Segment], w: &[f32]) {
        let ended = (update.number - 1) / self.period;
        if ended >= 2 {
            let mut change = Change::default();
            for segment in segments.iter().filter(|segment| segment.rate_factor > 0.0) {
                let range = segment.range.clone();
                let now = (&w[range.clone()], &self.mean[range.clone()]);
                let last = (
                    &self.last_weights[range.clone()],
                    &self.last_gradient[range],
                );
                change.add(now, (last.0, last.1), |_, g| g);
            }
            self.measure(change);
        }
        self.last_weights.copy_from_slice(w);
        std::mem::swap(&mut self.last_gradient, &mut self.mean);
        self.mean.fill(0.0);
    }

    /// w ← w − η g'; ĝ ← β g' + (1 − β) ĝ, with g' = g + λ w.
    fn averaged(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        let weight = (AVERAGED / self.period as f64).min(1.0) as f32;
        for segment in segments {
            let rate = self.rate(update, segment);
            let (range, decay) = (segment.range.clone(), segment.weight_decay as f32);
            let (w, g) = (&mut w[range.clone()], &g[range.clone()]);
            for ((w, g), mean) in w.iter_mut().zip(g).zip(&mut self.mean[range]) {
                let gradient = update.scale * g + decay * *w;
                *mean = weight * gradient + (1.0 - weight) * *mean;
                *w -= rate * gradient;
            }
        }
    }

    fn rate(&self, update: Update, segment: &Segment) -> f32 {
        let scheduled = update.rate / self.options.learning_rate;
        (self.step * scheduled * segment.rate_factor) as f32
    }
}

impl Rule for BarzilaiBorwein {
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]) {
        if self.period == 1 {
            return self.whole(update, segments, w, g);
        }
        if update.number > 1 && (update.number - 1).is_multiple_of(self.period) {
            self.turn(update, segments, w);
        }
        self.averaged(update, segments, w, g);
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        kept([
            ("last_weights", &self.last_weights[..]),
            ("last_gradient", &self.last_gradient[..]),
            ("mean", &self.mean[..]),
        ])
    }

    fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        kept_mut([
            &mut self.last_weights[..],
            &mut self.last_gradient[..],
            &mut self.mean[..],
        ])
    }

    fn scalars(&self) -> Vec<(&'static str, f64)> {
        // Counts are exact up to 2^53.
        vec![("step", self.step), ("measured", self.measured as f64)]
    }

    fn restore(&mut self, name: &str, value: f64) -> bool {
        match name {
            "step" => self.step = value,
            "measured" => self.measured = value as u64,
            _ => return false,
        }
        true
    }
}

/// Sums over what changed, in double precision.
#[derive(Default)]
struct Change {
    /// sᵀs.
    ss: f64,
    /// sᵀy.
    sy: f64,
    /// yᵀy.
    yy: f64,
}

impl Change {
    /// Adds weights and gradients `now` against those of `last`; `gradient` makes a gradient of a
    /// weight and what stands beside it.
    fn add(
        &mut self,
        now: (&[f32], &[f32]),
        last: (&[f32], &[f32]),
        gradient: impl Fn(f32, f32) -> f32,
    ) {
        let mut lanes = [[0f64; LANES]; 3];
        let mut line = |now: (&[f32], &[f32]), last: (&[f32], &[f32])| {
            let elements = now.0.iter().zip(now.1).zip(last.0).zip(last.1).enumerate();
            for (i, (((&w, &g), &last_w), &last_g)) in elements {
                let s = f64::from(w) - f64::from(last_w);
                let y = f64::from(gradient(w, g)) - f64::from(last_g);
                lanes[0][i] += s * s;
                lanes[1][i] += s * y;
                lanes[2][i] += y * y;
            }
        };
        // The lengths of whole lines are known where the closure is inlined.
        let (w, w_rest) = now.0.as_chunks::<LANES>();
        let (g, g_rest) = now.1.as_chunks::<LANES>();
        let (last_w, last_w_rest) = last.0.as_chunks::<LANES>();
        let (last_g, last_g_rest) = last.1.as_chunks::<LANES>();
        for (((w, g), last_w), last_g) in w.iter().zip(g).zip(last_w).zip(last_g) {
            line((w, g), (last_w, last_g));
        }
        line((w_rest, g_rest), (last_w_rest, last_g_rest));
        let [ss, sy, yy] = lanes.map(|lane| lane.iter().sum::<f64>());
        self.ss += ss;
        self.sy += sy;
        self.yy += yy;
    }

    /// The long or the short step; `None` without positive curvature.
    fn step(&self, long: bool) -> Option<f64> {
        if self.sy <= COSINE_MIN * (self.ss * self.yy).sqrt() {
            return None;
        }
        let step = if long {
            self.ss / self.sy
        } else {
            self.sy / self.yy
        };
        step.is_finite().then_some(step)
    }
}
