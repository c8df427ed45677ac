//! Kernels over rows of a matrix, and softmax along any dimension.

use std::sync::Arc;

use ringfold_graph::op::Softmax;

use super::{Source, max, sum};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(op: Softmax, call: &Call) -> Arc<dyn Kernel<T>> {
    let dims = &call.results[0].shape;
    Arc::new(SoftmaxKernel {
        op,
        len: dims[op.axis()],
        stride: dims[op.axis() + 1..].iter().product(),
    })
}

/// Softmax along a dimension of `len` elements that stand `stride` apart.
#[derive(Debug)]
struct SoftmaxKernel {
    op: Softmax,
    len: usize,
    stride: usize,
}

impl<T: Element> Kernel<T> for SoftmaxKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, len) = (results.take(0), self.len);
        if self.stride > 1 {
            return self.strided(dst, operands);
        }
        match self.op {
            Softmax::Plain { .. } => softmax(dst, operands.source(0), len),
            Softmax::PlainGrad { .. } => {
                softmax_grad(dst, operands.slice(0), operands.source(1), len);
            }
            Softmax::Log { .. } => log_softmax(dst, operands.source(0), len),
            Softmax::LogGrad { .. } => {
                log_softmax_grad(dst, operands.slice(0), operands.source(1), len);
            }
        }
    }
}

impl SoftmaxKernel {
    /// The same along a dimension that isn't the last.
    fn strided<T: Element>(&self, dst: &mut [T], operands: &Operands<'_, T>) {
        let is_grad = matches!(self.op, Softmax::PlainGrad { .. } | Softmax::LogGrad { .. });
        if let Source::Apart(src) = operands.source(usize::from(is_grad)) {
            dst.copy_from_slice(src);
        }
        let block = self.len * self.stride;
        for (b, dst) in dst.chunks_exact_mut(block).enumerate() {
            for lane in 0..self.stride {
                let at = |k: usize| lane + k * self.stride;
                let all = 0..self.len;
                let y = |k: usize| operands.slice(0)[b * block + at(k)];
                match self.op {
                    Softmax::Plain { .. } | Softmax::Log { .. } => {
                        let max = all.clone().fold(dst[at(0)], |max, k| {
                            let x = dst[at(k)];
                            if x <= max || max.is_nan() { max } else { x }
                        });
                        let mut sum = T::ZERO;
                        all.clone().for_each(|k| sum += (dst[at(k)] - max).exp());
                        let is_log = matches!(self.op, Softmax::Log { .. });
                        let log_sum = if is_log { sum.ln() } else { sum };
                        for k in all {
                            let x = dst[at(k)] - max;
                            dst[at(k)] = if is_log { x - log_sum } else { x.exp() / sum };
                        }
                    }
                    Softmax::PlainGrad { .. } => {
                        let mut dot = T::ZERO;
                        all.clone().for_each(|k| dot += y(k) * dst[at(k)]);
                        all.for_each(|k| dst[at(k)] = y(k) * (dst[at(k)] - dot));
                    }
                    Softmax::LogGrad { .. } => {
                        let mut total = T::ZERO;
                        all.clone().for_each(|k| total += dst[at(k)]);
                        all.for_each(|k| dst[at(k)] = dst[at(k)] - y(k).exp() * total);
                    }
                }
            }
        }
    }
}

/// Log-softmax of each row of `columns` elements.
pub fn log_softmax<T: Element>(dst: &mut [T], src: Source<'_, T>, columns: usize) {
    if let Source::Apart(src) = src {
        dst.copy_from_slice(src);
    }
    widest(
        #[inline(always)]
        || {
            for row in dst.chunks_exact_mut(columns) {
                let max = max(row);
                let log_sum = sum(row, |x| (x - max).exp()).ln();
                row.iter_mut().for_each(|x| *x = (*x - max) - log_sum);
            }
        },
    );
}

/// `dx = dy - exp(y) · Σ dy` on each row; `dy` may stand in `dst`.
pub fn log_softmax_grad<T: Element>(dst: &mut [T], y: &[T], dy: Source<'_, T>, columns: usize) {
    if let Source::Apart(dy) = dy {
        dst.copy_from_slice(dy);
    }
    widest(
        #[inline(always)]
        || {
            for (dst, y) in dst.chunks_exact_mut(columns).zip(y.chunks_exact(columns)) {
                let total = sum(dst, |x| x);
                for (d, &y) in dst.iter_mut().zip(y) {
                    *d = *d - y.exp() * total;
                }
            }
        },
    );
}

/// Writes `row` into every row of `dst`.
pub fn broadcast<T: Element>(dst: &mut [T], row: &[T]) {
    for dst in dst.chunks_exact_mut(row.len()) {
        dst.copy_from_slice(row);
    }
}

/// `dst = Σ rows of src`, from the first row to the last.
pub fn column_sum<T: Element>(dst: &mut [T], src: &[T]) {
    dst.fill(T::ZERO);
    widest(
        #[inline(always)]
        || {
            for row in src.chunks_exact(dst.len()) {
                dst.iter_mut().zip(row).for_each(|(d, &x)| *d += x);
            }
        },
    );
}

/// Softmax of each row of `columns` elements.
pub fn softmax<T: Element>(dst: &mut [T], src: Source<'_, T>, columns: usize) {
    if let Source::Apart(src) = src {
        dst.copy_from_slice(src);
    }
    widest(
        #[inline(always)]
        || dst.chunks_exact_mut(columns).for_each(softmax_row),
    );
}

/// Softmax of one row: shifted by its maximum, so that nothing overflows.
#[inline(always)]
pub fn softmax_row<T: Element>(row: &mut [T]) {
    let max = max(row);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum = sum(row, |x| x);
    row.iter_mut().for_each(|x| *x = *x / sum);
}

/// `dx = y · (dy - Σ y dy)` on each row; `dy` may stand in `dst`.
pub fn softmax_grad<T: Element>(dst: &mut [T], y: &[T], dy: Source<'_, T>, columns: usize) {
    if let Source::Apart(dy) = dy {
        dst.copy_from_slice(dy);
    }
    for (dst, y) in dst.chunks_exact_mut(columns).zip(y.chunks_exact(columns)) {
        let mut dot = T::ZERO;
        for (&d, &y) in dst.iter().zip(y) {
            dot += y * d;
        }
        for (d, &y) in dst.iter_mut().zip(y) {
            *d = y * (*d - dot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_broadcast_and_summed() {
        let mut matrix = [0.0f32; 6];
        broadcast(&mut matrix, &[1.0, 2.0, 3.0]);
        assert_eq!(matrix, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        let mut sums = [9.0; 3];
        column_sum(&mut sums, &matrix);
        assert_eq!(sums, [2.0, 4.0, 6.0]);
    }

    #[test]
    fn softmax_of_extremes_is_finite() {
        let mut row = [1e4f32, -1e4, 0.0];
        softmax_row(&mut row);
        assert_eq!(row, [1.0, 0.0, 0.0]);
        let mut row = [3.0f64; 4];
        softmax_row(&mut row);
        assert_eq!(row, [0.25; 4]);
    }
}
