//! Losses and their gradients. Sums over a batch are taken in `f64` and rounded once.

use super::rows::softmax_row;
use super::{Source, max, sum, sum_wide, zip};
use crate::cpu::simd::widest;
use crate::element::Element;

/// The mean over rows of `log Σ exp(row) - row[label]`.
///
/// Labels have been checked; one out of range is counted as a loss of NaN.
pub fn softmax_cross_entropy<T: Element>(logits: &[T], labels: &[i32], classes: usize) -> T {
    let row_loss = |(row, &label): (&[T], &i32)| {
        let max = max(row);
        let log_sum = sum(row, |x| (x - max).exp()).ln();
        let score = row.get(label as usize).copied();
        score.map_or(f64::NAN, |score| (log_sum + (max - score)).to_f64())
    };
    let total: f64 = widest(
        #[inline(always)]
        || logits.chunks_exact(classes).zip(labels).map(row_loss).sum(),
    );
    T::from_f64(total / labels.len() as f64)
}

/// `dst = dloss / n · (softmax(logits) - onehot(labels))`.
pub fn softmax_cross_entropy_grad<T: Element>(
    dst: &mut [T],
    logits: Source<'_, T>,
    labels: &[i32],
    dloss: T,
    classes: usize,
) {
    if let Source::Apart(logits) = logits {
        dst.copy_from_slice(logits);
    }
    let factor = dloss / T::from_f64(labels.len() as f64);
    widest(
        #[inline(always)]
        || {
            for (row, &label) in dst.chunks_exact_mut(classes).zip(labels) {
                softmax_row(row);
                if let Some(score) = row.get_mut(label as usize) {
                    *score = *score - T::ONE;
                }
                row.iter_mut().for_each(|x| *x *= factor);
            }
        },
    );
}

/// The mean of the squared differences.
pub fn mean_squared_error<T: Element>(prediction: &[T], target: &[T]) -> T {
    let total = widest(
        #[inline(always)]
        || sum_wide(prediction, target, |p, t| (p - t) * (p - t)),
    );
    T::from_f64(total / prediction.len() as f64)
}

/// `dst = dloss · 2 / elements · (prediction - target)`.
pub fn mean_squared_error_grad<T: Element>(
    dst: &mut [T],
    prediction: Source<'_, T>,
    target: &[T],
    dloss: T,
) {
    let factor = dloss * T::from_f64(2.0 / dst.len() as f64);
    zip(dst, prediction, Source::Apart(target), |p, t| {
        factor * (p - t)
    });
}

/// `lambda / 2 · Σ w²`.
pub fn l2_penalty<T: Element>(w: &[T], lambda: f64) -> T {
    let squares = widest(
        #[inline(always)]
        || sum_wide(w, w, |a, b| a * b),
    );
    T::from_f64(0.5 * lambda * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_of_extremes_is_finite() {
        let logits = [1e4f32, -1e4, -1e4, 1e4];
        assert_eq!(softmax_cross_entropy(&logits, &[0, 1], 2), 0.0);
        assert_eq!(softmax_cross_entropy(&logits, &[1, 0], 2), 2e4);
        let mut gradient = [0.0f32; 4];
        softmax_cross_entropy_grad(&mut gradient, Source::Apart(&logits), &[1, 1], 1.0, 2);
        assert_eq!(gradient, [0.5, -0.5, 0.0, 0.0]);
    }

    #[test]
    fn uniform_logits_lose_the_logarithm_of_the_classes() {
        let loss = softmax_cross_entropy(&[0.5f64; 12], &[0, 1, 2], 4);
        assert!((loss - 4.0f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn a_label_out_of_range_reads_nothing() {
        for label in [-1, 2, i32::MIN, i32::MAX] {
            assert!(softmax_cross_entropy(&[0.0f32; 2], &[label], 2).is_nan());
        }
    }

    #[test]
    fn squared_errors() {
        assert_eq!(mean_squared_error(&[1.0f32, 2.0], &[0.0, 4.0]), 2.5);
        let mut gradient = [1.0f32, 2.0];
        mean_squared_error_grad(&mut gradient, Source::InPlace, &[0.0, 4.0], 0.5);
        assert_eq!(gradient, [0.5, -1.0]);
        assert_eq!(l2_penalty(&[3.0f32, 4.0], 0.1), 1.25);
    }
}
