//! Losses and their gradients. Sums over a batch are taken in `f64` and rounded once.

use std::sync::Arc;

use ringfold_graph::op::{MeanSquaredError, SoftmaxCrossEntropy};

use super::rows::softmax_row;
use super::{Source, map, max, sum, sum_wide, zip};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Index, Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn cross_entropy<T: Element>(
    op: SoftmaxCrossEntropy,
    call: &Call,
) -> Arc<dyn Kernel<T>> {
    let classes = call.operands[0].shape.last().copied().unwrap_or(1);
    Arc::new(CrossEntropyKernel { op, classes })
}

pub(crate) fn squared_error<T: Element>(op: MeanSquaredError) -> Arc<dyn Kernel<T>> {
    Arc::new(SquaredErrorKernel { op })
}

pub(crate) fn penalty<T: Element>(lambda: f64) -> Arc<dyn Kernel<T>> {
    Arc::new(PenaltyKernel { lambda })
}

pub(crate) fn penalty_grad<T: Element>(lambda: f64) -> Arc<dyn Kernel<T>> {
    Arc::new(PenaltyGradKernel { lambda })
}

#[derive(Debug)]
struct CrossEntropyKernel {
    op: SoftmaxCrossEntropy,
    classes: usize,
}

impl<T: Element> Kernel<T> for CrossEntropyKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, labels) = (results.take(0), operands.index(1));
        match self.op {
            SoftmaxCrossEntropy::Loss => {
                dst[0] = softmax_cross_entropy(operands.slice(0), labels, self.classes);
            }
            SoftmaxCrossEntropy::Grad => {
                let dloss = operands.scalar(2);
                let logits = operands.source(0);
                softmax_cross_entropy_grad(dst, logits, labels, dloss, self.classes);
            }
        }
    }
}

#[derive(Debug)]
struct SquaredErrorKernel {
    op: MeanSquaredError,
}

impl<T: Element> Kernel<T> for SquaredErrorKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, target) = (results.take(0), operands.slice(1));
        match self.op {
            MeanSquaredError::Loss => dst[0] = mean_squared_error(operands.slice(0), target),
            MeanSquaredError::Grad => {
                mean_squared_error_grad(dst, operands.source(0), target, operands.scalar(2));
            }
        }
    }
}

#[derive(Debug)]
struct PenaltyKernel {
    lambda: f64,
}

impl<T: Element> Kernel<T> for PenaltyKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        results.take(0)[0] = l2_penalty(operands.slice(0), self.lambda);
    }
}

/// Result = other + lambda · dloss · w; without other, 0 stands for it.
#[derive(Debug)]
struct PenaltyGradKernel {
    lambda: f64,
}

impl<T: Element> Kernel<T> for PenaltyGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let factor = T::from_f64(self.lambda) * operands.scalar(1);
        let (dst, w) = (results.take(0), Source::Apart(operands.slice(0)));
        if operands.len() == 3 {
            zip(dst, w, operands.source(2), |w, other| other + factor * w);
        } else {
            map(dst, w, |w| factor * w);
        }
    }
}

/// The mean over rows of `log Σ exp(row) - row[label]`.
///
/// Labels have been checked; one out of range is counted as a loss of NaN.
pub fn softmax_cross_entropy<T: Element>(logits: &[T], labels: Index<'_>, classes: usize) -> T {
    let row_loss = |(i, row): (usize, &[T])| {
        let label = labels.at(i);
        let max = max(row);
        let log_sum = sum(row, |x| (x - max).exp()).ln();
        let score = usize::try_from(label)
            .ok()
            .and_then(|label| row.get(label))
            .copied();
        score.map_or(f64::NAN, |score| (log_sum + (max - score)).to_f64())
    };
    let total: f64 = widest(
        #[inline(always)]
        || logits.chunks_exact(classes).enumerate().map(row_loss).sum(),
    );
    T::from_f64(total / labels.len() as f64)
}

/// `dst = dloss / n · (softmax(logits) - onehot(labels))`.
pub fn softmax_cross_entropy_grad<T: Element>(
    dst: &mut [T],
    logits: Source<'_, T>,
    labels: Index<'_>,
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
            for (i, row) in dst.chunks_exact_mut(classes).enumerate() {
                softmax_row(row);
                let label = usize::try_from(labels.at(i)).ok();
                if let Some(score) = label.and_then(|label| row.get_mut(label)) {
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
        assert_eq!(softmax_cross_entropy(&logits, Index::Int(&[0, 1]), 2), 0.0);
        assert_eq!(softmax_cross_entropy(&logits, Index::Int(&[1, 0]), 2), 2e4);
        let mut gradient = [0.0f32; 4];
        softmax_cross_entropy_grad(
            &mut gradient,
            Source::Apart(&logits),
            Index::Int(&[1, 1]),
            1.0,
            2,
        );
        assert_eq!(gradient, [0.5, -0.5, 0.0, 0.0]);
    }

    #[test]
    fn uniform_logits_lose_the_logarithm_of_the_classes() {
        let loss = softmax_cross_entropy(&[0.5f64; 12], Index::Int(&[0, 1, 2]), 4);
        assert!((loss - 4.0f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn a_label_out_of_range_reads_nothing() {
        for label in [-1, 2, i32::MIN, i32::MAX] {
            assert!(softmax_cross_entropy(&[0.0f32; 2], Index::Int(&[label]), 2).is_nan());
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
