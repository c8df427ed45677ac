//! The moving average of the weights.

use ringfold_common::job::EmaSpec;
use ringfold_compute::cpu::parallel::for_units;
use ringfold_compute::cpu::simd::widest;
use ringfold_compute::{Arena, ComputeError};

/// Elements that are averaged at a time; a thread has some of these pieces.
const PIECE: usize = 1 << 14;

/// An exponential moving average of the parameter arena: PyTorch's `AveragedModel` with
/// `get_ema_multi_avg_fn`. After the first update it is the weights; after each later one
/// ē ← d ē + (1 − d) w, where with a warm-up *d* is at most (1 + *n*) / (10 + *n*) after *n*
/// updates.
#[derive(Debug)]
pub struct Ema {
    spec: EmaSpec,
    average: Arena<f32>,
    updates: u64,
}

impl Ema {
    /// An average over arenas of `len` elements, before any update.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn new(spec: EmaSpec, len: usize) -> Result<Self, ComputeError> {
        Ok(Self {
            spec,
            average: Arena::zeros(len)?,
            updates: 0,
        })
    }

    /// Takes the weights after one more update.
    ///
    /// # Panics
    /// If the length is not that of the average.
    pub fn update(&mut self, weights: &[f32]) {
        assert_eq!(weights.len(), self.average.len(), "one average a weight");
        let updates = self.updates;
        self.updates += 1;
        if updates == 0 {
            self.average.copy_from_slice(weights);
            return;
        }
        let kept = if self.spec.warmup {
            let updates = updates as f64;
            self.spec.decay.min((1.0 + updates) / (10.0 + updates))
        } else {
            self.spec.decay
        };
        let taken = (1.0 - kept) as f32;
        let pieces = weights.len().div_ceil(PIECE);
        let average = [&mut self.average[..]];
        for_units(0..pieces, average, [PIECE], pieces, &|piece, [average]| {
            widest(|| {
                for (average, weight) in average.iter_mut().zip(&weights[piece * PIECE..]) {
                    *average += taken * (weight - *average);
                }
            });
        });
    }

    /// The average.
    #[must_use]
    pub fn average(&self) -> &[f32] {
        &self.average
    }

    /// The average, to be restored as it was after so many updates.
    pub fn restore(&mut self, updates: u64) -> &mut [f32] {
        self.updates = updates;
        &mut self.average
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn averages(decay: f64, warmup: bool, weights: &[f32]) -> Vec<f32> {
        let mut ema = Ema::new(EmaSpec { decay, warmup }, 2).unwrap();
        let after = |&weight: &f32| {
            ema.update(&[weight, 0.0]);
            assert_eq!(ema.average()[1], 0.0, "padding");
            ema.average()[0]
        };
        weights.iter().map(after).collect()
    }

    #[test]
    fn an_average_starts_at_the_first_weights_and_follows() {
        assert_eq!(averages(0.75, false, &[8.0, 4.0, 4.0]), [8.0, 7.0, 6.25],);
    }

    #[test]
    fn a_warm_up_forgets_the_start_sooner() {
        // Kept: 2/11, then 3/12, however great the decay.
        let got = averages(0.999, true, &[11.0, 0.0, 0.0]);
        for (got, expected) in got.iter().zip([11.0, 2.0, 0.5]) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
        // Later the decay is less.
        let slow = averages(0.1, true, &[1.0, 0.0]);
        assert!((slow[1] - 0.1).abs() < 1e-6);
    }
}
