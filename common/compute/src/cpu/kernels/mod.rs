//! Kernels: a file a group of operators. Each has a type that resolves dimensions once, when a plan
//! is made, and plain loops over slices, without allocation or knowledge of the graph.
//!
//! Sums are taken in one fixed order (by lane, then over lanes), so that their bits depend on
//! nothing but the operands.

pub(crate) mod attention;
pub mod broadcast;
pub(crate) mod conv;
pub(crate) mod dense;
pub mod dropout;
pub(crate) mod elements;
pub(crate) mod elementwise;
pub mod functions;
pub(crate) mod fused;
pub(crate) mod fused_product;
mod halve;
pub(crate) mod layout;
pub mod loss;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod pair_loss;
pub(crate) mod pool;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub mod rows;
pub(crate) mod runs;
pub(crate) mod unfold;

use super::simd::widest;
use crate::element::Element;

/// An operand that may stand where the result does.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a, T> {
    /// The operand is what the result's place holds.
    InPlace,
    /// The operand stands elsewhere and is as long as the result.
    Apart(&'a [T]),
}

impl<T> Source<'_, T> {
    /// `len` elements from `first` on.
    #[must_use]
    pub(crate) fn part(&self, first: usize, len: usize) -> Self {
        match self {
            Self::InPlace => Self::InPlace,
            Self::Apart(slice) => Self::Apart(&slice[first..first + len]),
        }
    }
}

// A large `f` must be a closure with `#[inline(always)]`, or it is called and not vectorised. For the
// same reason the loops below are `for` loops and not `for_each`.

/// `dst = f(src)`, element by element.
#[inline]
pub fn map<T: Element>(dst: &mut [T], src: Source<'_, T>, f: impl Fn(T) -> T) {
    widest(
        #[inline(always)]
        || match src {
            Source::InPlace => {
                for d in dst {
                    *d = f(*d);
                }
            }
            Source::Apart(src) => {
                for (d, &s) in dst.iter_mut().zip(src) {
                    *d = f(s);
                }
            }
        },
    );
}

/// `dst = f(a, b)`, element by element.
#[inline]
pub fn zip<T: Element>(dst: &mut [T], a: Source<'_, T>, b: Source<'_, T>, f: impl Fn(T, T) -> T) {
    widest(
        #[inline(always)]
        || match (a, b) {
            (Source::InPlace, Source::InPlace) => {
                for d in dst {
                    *d = f(*d, *d);
                }
            }
            (Source::InPlace, Source::Apart(b)) => {
                for (d, &b) in dst.iter_mut().zip(b) {
                    *d = f(*d, b);
                }
            }
            (Source::Apart(a), Source::InPlace) => {
                for (d, &a) in dst.iter_mut().zip(a) {
                    *d = f(a, *d);
                }
            }
            (Source::Apart(a), Source::Apart(b)) => {
                for ((d, &a), &b) in dst.iter_mut().zip(a).zip(b) {
                    *d = f(a, b);
                }
            }
        },
    );
}

/// Partial sums that are kept apart; a multiple of every vector width.
const LANES: usize = 16;

/// `Σ f(x)` in the type of the elements.
#[inline(always)]
pub fn sum<T: Element>(slice: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = slice.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    fold(lanes)
}

/// `Σ f(a, b)` in `f64`.
#[inline(always)]
pub fn sum_wide<T: Element>(a: &[T], b: &[T], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f(a.to_f64(), b.to_f64());
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += f(a.to_f64(), b.to_f64());
    }
    fold(lanes)
}

/// The sum of the lanes as a binary tree.
#[inline(always)]
fn fold<T: Element>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let other = lanes[i + width];
            lanes[i] += other;
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest element; NaN if there is one.
#[inline(always)]
pub fn max<T: Element>(slice: &[T]) -> T {
    let first = slice.first().copied().unwrap_or(T::ZERO);
    // A NaN on either side isn't `<=`, and stays.
    slice.iter().fold(
        first,
        |max, &x| {
            if x <= max || max.is_nan() { max } else { x }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_element_once() {
        for len in [0, 1, 15, 16, 17, 100] {
            let slice: Vec<f64> = (0..len).map(f64::from).collect();
            let expected: f64 = slice.iter().sum();
            assert_eq!(sum(&slice, |x| x), expected);
            assert_eq!(sum_wide(&slice, &slice, |a, _| a), expected);
        }
    }

    #[test]
    fn max_keeps_nan() {
        assert_eq!(max(&[1.0f32, 3.0, -2.0]), 3.0);
        assert_eq!(max(&[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
        for i in 0..3 {
            let mut slice = [1.0f32, 3.0, -2.0];
            slice[i] = f32::NAN;
            assert!(max(&slice).is_nan());
        }
    }
}
