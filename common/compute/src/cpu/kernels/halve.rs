//! The largest of squares of 2 by 2, the pooling of most networks, and its gradient.
//!
//! Invariant of the unsafe code: [`grad_avx512`] is called only after the processor was found to have
//! AVX-512; its masks end with the rows, whose lengths it asserts.

use crate::element::Element;

/// The larger; NaN if either is.
#[inline(always)]
pub(super) fn larger<T: Element>(a: T, b: T) -> T {
    T::select((b > a) | b.is_nan(), b, a)
}

/// `y`: the largest of each square of a channel of `2 · out_w` columns.
#[inline(always)]
pub(super) fn forward<T: Element>(y: &mut [T], x: &[T], out_w: usize) {
    let rows = y.chunks_exact_mut(out_w).zip(x.chunks_exact(4 * out_w));
    for (y, x) in rows {
        let (above, below) = x.split_at(2 * out_w);
        let pairs = above
            .as_chunks::<2>()
            .0
            .iter()
            .zip(below.as_chunks::<2>().0);
        for (y, (a, b)) in y.iter_mut().zip(pairs) {
            *y = larger(larger(a[0], a[1]), larger(b[0], b[1]));
        }
    }
}

/// The gradient of [`forward`], of any number of channels: to the first element that is as large as
/// the square's largest, or the first NaN.
pub(super) fn grad<T: Element>(dx: &mut [T], x: &[T], dy: &[T], out_w: usize) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(x), Some(dy)) = (T::as_f32(x), T::as_f32(dy))
        && std::arch::is_x86_feature_detected!("avx512f")
        && let Some(dx) = T::as_f32_mut(dx)
    {
        // SAFETY: the processor has AVX-512.
        return unsafe { grad_avx512(dx, x, dy, out_w) };
    }
    let rows = x.chunks_exact(4 * out_w).zip(dy.chunks_exact(out_w));
    for (dx, (x, dy)) in dx.chunks_exact_mut(4 * out_w).zip(rows) {
        let (above, below) = x.split_at(2 * out_w);
        let pairs = above
            .as_chunks::<2>()
            .0
            .iter()
            .zip(below.as_chunks::<2>().0);
        let (above, below) = dx.split_at_mut(2 * out_w);
        let above = above.as_chunks_mut::<2>().0.iter_mut();
        let to = above.zip(below.as_chunks_mut::<2>().0);
        for ((&dy, (a, b)), (above, below)) in dy.iter().zip(pairs).zip(to) {
            let largest = larger(larger(a[0], a[1]), larger(b[0], b[1]));
            let hit = |x: T| (x == largest) | x.is_nan();
            let first = hit(a[0]);
            let second = hit(a[1]) & !first;
            let third = hit(b[0]) & !(first | second);
            let fourth = !(first | second | third);
            let of = |hit: bool| T::select(hit, dy, T::ZERO);
            *above = [of(first), of(second)];
            *below = [of(third), of(fourth)];
        }
    }
}

/// [`grad`], 8 squares at a time: their columns stay in pairs of lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn grad_avx512(dx: &mut [f32], x: &[f32], dy: &[f32], out_w: usize) {
    use std::arch::x86_64::*;

    /// The left lanes of pairs.
    const LEFT: u16 = 0x5555;
    /// Swaps the lanes of pairs.
    const SWAP: i32 = 0b10_11_00_01;
    assert!(dx.len() == x.len() && x.len() == 4 * dy.len() && dy.len().is_multiple_of(out_w));
    let larger = |a: __m512, b: __m512| {
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b);
        // The sum with NaN is NaN.
        _mm512_mask_add_ps(_mm512_max_ps(a, b), nan, a, b)
    };
    let twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    for row in 0..dy.len() / out_w {
        for col in (0..out_w).step_by(8) {
            let squares = (out_w - col).min(8);
            let mask = ((1u32 << (2 * squares)) - 1) as u16;
            let above = row * 4 * out_w + 2 * col;
            let below = above + 2 * out_w;
            // SAFETY: `squares` pairs of both rows lie in `x`, and as many elements in `dy`.
            let (a, b, dy) = unsafe {
                (
                    _mm512_maskz_loadu_ps(mask, x.as_ptr().add(above)),
                    _mm512_maskz_loadu_ps(mask, x.as_ptr().add(below)),
                    _mm512_maskz_loadu_ps((1 << squares) - 1, dy.as_ptr().add(row * out_w + col)),
                )
            };
            let dy = _mm512_permutexvar_ps(twice, dy);
            let columns = larger(a, b);
            let largest = larger(columns, _mm512_permute_ps::<SWAP>(columns));
            let hits = |x: __m512| {
                let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, largest);
                equal | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x)
            };
            let (in_a, in_b) = (hits(a), hits(b));
            let first = in_a & LEFT;
            let second = (in_a >> 1) & LEFT & !first;
            let third = in_b & LEFT & !(first | second);
            let fourth = LEFT & !(first | second | third);
            let to_a = _mm512_maskz_mov_ps(first | second << 1, dy);
            let to_b = _mm512_maskz_mov_ps(third | fourth << 1, dy);
            // SAFETY: `dx` is as long as `x`.
            unsafe {
                _mm512_mask_storeu_ps(dx.as_mut_ptr().add(above), mask, to_a);
                _mm512_mask_storeu_ps(dx.as_mut_ptr().add(below), mask, to_b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_largest_of_a_square_has_the_gradient() {
        let (nan, low) = (f64::NAN, f64::NEG_INFINITY);
        // Squares: one largest, all equal, NaN, minus infinity.
        let above = [1.0, 2.0, 5.0, 5.0, 3.0, nan, low, low];
        let below = [0.0, 4.0, 5.0, 5.0, 9.0, nan, low, low];
        let x = [above, below].concat();
        let want = [0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0];
        let want = [want, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]].concat();
        let mut y = [0.0; 4];
        forward(&mut y, &x, 4);
        assert_eq!((y[0], y[1], y[3]), (4.0, 5.0, low));
        assert!(y[2].is_nan());
        let mut dx = [nan; 16];
        grad(&mut dx, &x, &[1.0, 2.0, 3.0, 4.0], 4);
        assert_eq!(dx[..], want);
        let mut dx = [f32::NAN; 16];
        let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        grad(&mut dx, &narrow, &[1.0, 2.0, 3.0, 4.0], 4);
        assert_eq!(dx.map(f64::from)[..], want);
    }

    #[test]
    fn both_types_agree_on_any_width() {
        for out_w in 1..20 {
            // Few different numbers, so that there are ties.
            let x: Vec<f64> = (0..12 * out_w)
                .map(|i| f64::from((i * 7919 + 3) as u8 % 5))
                .collect();
            let dy: Vec<f64> = (0..3 * out_w).map(|i| i as f64 + 1.0).collect();
            let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let mut wide = vec![f64::NAN; x.len()];
            grad(&mut wide, &x, &dy, out_w);
            let mut got = vec![f32::NAN; x.len()];
            grad(&mut got, &narrow(&x), &narrow(&dy), out_w);
            assert_eq!(got, narrow(&wide));
        }
    }
}
