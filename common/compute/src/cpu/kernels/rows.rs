//! Kernels over rows of a matrix.

use super::{Source, max, sum};
use crate::cpu::simd::widest;
use crate::element::Element;

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
