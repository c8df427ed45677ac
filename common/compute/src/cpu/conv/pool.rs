//! Pooling over planes: maximum, average, and the average of a whole plane.
//!
//! Plain loops, for either float type: each output row runs over the kernel's elements in their
//! order and over its columns in vectors. Planes are independent, so that callers may cut a batch
//! anywhere between them.

use std::ops::Range;

use super::ConvError;
use crate::cpu::kernels::sum;
use crate::cpu::simd::widest;
use crate::element::Element;

/// A window that moves over planes of `in_h × in_w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Rows of the input.
    pub in_h: usize,
    /// Columns of the input.
    pub in_w: usize,
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Input rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right, that are no input; at most half the window.
    pub padding: [usize; 2],
}

impl Pool2d {
    fn axis(&self, axis: usize) -> Axis {
        Axis {
            input: [self.in_h, self.in_w][axis],
            kernel: self.kernel[axis],
            stride: self.stride[axis],
            padding: self.padding[axis],
        }
    }

    /// Rows of the output.
    pub fn out_h(&self) -> usize {
        self.axis(0).out()
    }

    /// Columns of the output.
    pub fn out_w(&self) -> usize {
        self.axis(1).out()
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// A zero where none may be, more padding than half the window, a window that doesn't fit, or a
    /// plane beyond [`super::ELEMENTS_MAX`].
    pub fn check(&self) -> Result<(), ConvError> {
        let positive = [
            ("in_h", self.in_h),
            ("in_w", self.in_w),
            ("kernel", self.kernel[0].min(self.kernel[1])),
            ("stride", self.stride[0].min(self.stride[1])),
        ];
        if let Some(&(field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConvError::Zero { field });
        }
        let size = [self.in_h, self.in_w];
        let sizes = size.into_iter().chain(self.kernel).chain(self.stride);
        if sizes.max() >= Some(1 << 20) || self.in_h * self.in_w >= super::ELEMENTS_MAX {
            return Err(ConvError::TooLarge);
        }
        if (0..2).any(|axis| self.padding[axis] > self.kernel[axis] / 2) {
            let (padding, kernel) = (self.padding, self.kernel);
            return Err(ConvError::Padding { padding, kernel });
        }
        if self.out_h() == 0 || self.out_w() == 0 {
            return Err(ConvError::Kernel {
                kernel: self.kernel,
                input: size,
            });
        }
        Ok(())
    }

    /// Checks lengths; returns the elements of an input and of an output plane.
    fn planes(&self, x: usize, y: usize) -> [usize; 2] {
        let [image_in, image_out] = [self.in_h * self.in_w, self.out_h() * self.out_w()];
        assert_eq!(x % image_in, 0, "input planes of {self:?}");
        assert_eq!(y, x / image_in * image_out, "output planes of {self:?}");
        [image_in, image_out]
    }

    /// Calls `f(output row, columns that see the element, input index of the first)` for
    /// every output row and every element of the window that meets the input.
    #[inline(always)]
    fn windows(&self, mut f: impl FnMut(usize, Range<usize>, usize)) {
        let [rows, cols] = [self.axis(0), self.axis(1)];
        for i in 0..rows.out() {
            for k in 0..rows.kernel {
                let Some(row) = rows.at(i, k) else { continue };
                for l in 0..cols.kernel {
                    let seen = cols.seen(l);
                    if !seen.is_empty() {
                        let col = seen.start * cols.stride + l - cols.padding;
                        f(i, seen, row * self.in_w + col);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Axis {
    fn out(self) -> usize {
        let rest = (self.input + 2 * self.padding).checked_sub(self.kernel);
        rest.map_or(0, |rest| rest / self.stride + 1)
    }

    /// The input that element `k` of output `i`'s window meets.
    #[inline(always)]
    fn at(self, i: usize, k: usize) -> Option<usize> {
        let at = (i * self.stride + k).checked_sub(self.padding)?;
        (at < self.input).then_some(at)
    }

    /// The outputs for which element `k` of the window meets the input.
    #[inline(always)]
    fn seen(self, k: usize) -> Range<usize> {
        let first = self.padding.saturating_sub(k).div_ceil(self.stride);
        let end = (self.input + self.padding).saturating_sub(k);
        first..end.div_ceil(self.stride).min(self.out()).max(first)
    }

    /// Elements of output `i`'s window that meet the input.
    #[inline(always)]
    fn met(self, i: usize) -> usize {
        let first = (i * self.stride).max(self.padding);
        let end = (i * self.stride + self.kernel).min(self.input + self.padding);
        end - first
    }
}

/// Calls `f(i, x[i · stride])` for as many elements as `len`.
#[inline(always)]
fn strided<T: Copy>(x: &[T], stride: usize, len: usize, mut f: impl FnMut(usize, T)) {
    // Known strides become vector loads and shuffles.
    match stride {
        1 => {
            for (i, &x) in x[..len].iter().enumerate() {
                f(i, x);
            }
        }
        2 => {
            let (pairs, rest) = x.as_chunks::<2>();
            for (i, x) in pairs[..len.min(pairs.len())].iter().enumerate() {
                f(i, x[0]);
            }
            if len > pairs.len() {
                f(pairs.len(), rest[0]);
            }
        }
        _ => {
            for (i, &x) in x.iter().step_by(stride).take(len).enumerate() {
                f(i, x);
            }
        }
    }
}

/// `y`: the largest input under each window, NaN if there is one. `at`: its index in the plane, the
/// first if several are largest.
///
/// # Panics
/// If the lengths are not those of the same number of planes.
pub fn max_forward<T: Element>(pool: &Pool2d, y: &mut [T], at: &mut [u32], x: &[T]) {
    let [image_in, image_out] = pool.planes(x.len(), y.len());
    assert_eq!(at.len(), y.len(), "indices");
    let out_w = pool.out_w();
    let stride = pool.stride[1];
    let lowest = T::from_f64(f64::NEG_INFINITY);
    widest(
        #[inline(always)]
        || {
            let outputs = y
                .chunks_exact_mut(image_out)
                .zip(at.chunks_exact_mut(image_out));
            for ((y, at), x) in outputs.zip(x.chunks_exact(image_in)) {
                y.fill(lowest);
                at.fill(u32::MAX);
                pool.windows(
                    #[inline(always)]
                    |row, seen, first| {
                        let (start, len) = (row * out_w + seen.start, seen.len());
                        let y = &mut y[start..][..len];
                        let at = &mut at[start..][..len];
                        strided(
                            &x[first..],
                            stride,
                            len,
                            #[inline(always)]
                            |i, x| {
                                // The first element counts even where it is minus infinity.
                                let larger = (x > y[i]) | x.is_nan() | (at[i] == u32::MAX);
                                let index = (first + i * stride) as u32;
                                y[i] = T::select(larger, x, y[i]);
                                at[i] = if larger { index } else { at[i] };
                            },
                        );
                    },
                );
            }
        },
    );
}

/// Overwrites `dx` with the gradient of [`max_forward`], which saved `at`.
///
/// # Panics
/// As [`max_forward`], or if an index lies outside the plane.
pub fn max_backward<T: Element>(pool: &Pool2d, dx: &mut [T], dy: &[T], at: &[u32]) {
    let [image_in, image_out] = pool.planes(dx.len(), dy.len());
    assert_eq!(at.len(), dy.len(), "indices");
    let outputs = dy.chunks_exact(image_out).zip(at.chunks_exact(image_out));
    for (dx, (dy, at)) in dx.chunks_exact_mut(image_in).zip(outputs) {
        dx.fill(T::ZERO);
        for (&dy, &at) in dy.iter().zip(at) {
            dx[at as usize] += dy;
        }
    }
}

/// What an average divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divisor {
    /// The elements of the window, as if the padding were zeros.
    Window,
    /// The elements of the window that meet the input.
    Met,
}

impl Divisor {
    #[inline(always)]
    fn of<T: Element>(self, pool: &Pool2d, row: usize, col: usize) -> T {
        let [rows, cols] = [pool.axis(0), pool.axis(1)];
        let count = match self {
            Self::Window => rows.kernel * cols.kernel,
            Self::Met => rows.met(row) * cols.met(col),
        };
        T::from_f64(count as f64)
    }
}

/// `y`: the average of the inputs under each window.
///
/// # Panics
/// As [`max_forward`].
pub fn average_forward<T: Element>(pool: &Pool2d, divisor: Divisor, y: &mut [T], x: &[T]) {
    let [image_in, image_out] = pool.planes(x.len(), y.len());
    let out_w = pool.out_w();
    widest(
        #[inline(always)]
        || {
            for (y, x) in y.chunks_exact_mut(image_out).zip(x.chunks_exact(image_in)) {
                y.fill(T::ZERO);
                pool.windows(
                    #[inline(always)]
                    |row, seen, first| {
                        let y = &mut y[row * out_w + seen.start..][..seen.len()];
                        let len = y.len();
                        strided(
                            &x[first..],
                            pool.stride[1],
                            len,
                            #[inline(always)]
                            |i, x| y[i] += x,
                        );
                    },
                );
                for (row, y) in y.chunks_exact_mut(out_w).enumerate() {
                    for (col, y) in y.iter_mut().enumerate() {
                        *y = *y / divisor.of(pool, row, col);
                    }
                }
            }
        },
    );
}

/// Overwrites `dx` with the gradient of [`average_forward`].
///
/// # Panics
/// As [`max_forward`].
pub fn average_backward<T: Element>(pool: &Pool2d, divisor: Divisor, dx: &mut [T], dy: &[T]) {
    let [image_in, image_out] = pool.planes(dx.len(), dy.len());
    let out_w = pool.out_w();
    let stride = pool.stride[1];
    widest(
        #[inline(always)]
        || {
            for (dx, dy) in dx
                .chunks_exact_mut(image_in)
                .zip(dy.chunks_exact(image_out))
            {
                dx.fill(T::ZERO);
                pool.windows(
                    #[inline(always)]
                    |row, seen, first| {
                        let dy = &dy[row * out_w..][seen.clone()];
                        let dx = dx[first..].iter_mut().step_by(stride);
                        for ((dx, &dy), col) in dx.zip(dy).zip(seen) {
                            *dx += dy / divisor.of(pool, row, col);
                        }
                    },
                );
            }
        },
    );
}

/// `y`: the average of each plane of `plane` elements.
///
/// # Panics
/// If `plane` is 0 or `x` isn't as many planes as `y` has elements.
pub fn global_average_forward<T: Element>(plane: usize, y: &mut [T], x: &[T]) {
    assert!(plane > 0 && x.len() == y.len() * plane, "planes");
    let divisor = T::from_f64(plane as f64);
    widest(
        #[inline(always)]
        || {
            for (y, x) in y.iter_mut().zip(x.chunks_exact(plane)) {
                *y = sum(
                    x,
                    #[inline(always)]
                    |x| x,
                ) / divisor;
            }
        },
    );
}

/// Overwrites `dx` with the gradient of [`global_average_forward`].
///
/// # Panics
/// As [`global_average_forward`].
pub fn global_average_backward<T: Element>(plane: usize, dx: &mut [T], dy: &[T]) {
    assert!(plane > 0 && dx.len() == dy.len() * plane, "planes");
    let divisor = T::from_f64(plane as f64);
    for (dx, &dy) in dx.chunks_exact_mut(plane).zip(dy) {
        dx.fill(dy / divisor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_pool() -> impl Strategy<Value = Pool2d> {
        let pair = |range: Range<usize>| [range.clone(), range];
        let all = (pair(1..20), pair(1..5), pair(1..4), pair(0..3));
        let pools = all.prop_map(|([in_h, in_w], kernel, stride, padding)| Pool2d {
            in_h,
            in_w,
            kernel,
            stride,
            padding,
        });
        pools.prop_filter("it fits", |pool| pool.check().is_ok())
    }

    /// Different numbers, so that each window has one largest.
    fn shuffled(len: usize) -> Vec<f64> {
        (0..len)
            .map(|i| ((i * 7919 + 13) % 10007) as f64 / 999.0 - 5.0)
            .collect()
    }

    /// The inputs under a window.
    fn window(pool: &Pool2d, y: usize) -> Vec<usize> {
        let (plane, y) = (
            y / (pool.out_h() * pool.out_w()),
            y % (pool.out_h() * pool.out_w()),
        );
        let (i, j) = (y / pool.out_w(), y % pool.out_w());
        let mut inside = Vec::new();
        for k in 0..pool.kernel[0] {
            for l in 0..pool.kernel[1] {
                let row = (i * pool.stride[0] + k).wrapping_sub(pool.padding[0]);
                let col = (j * pool.stride[1] + l).wrapping_sub(pool.padding[1]);
                if row < pool.in_h && col < pool.in_w {
                    inside.push((plane * pool.in_h + row) * pool.in_w + col);
                }
            }
        }
        inside
    }

    proptest! {
        #[test]
        fn pools_are_their_definition(pool in any_pool()) {
            let image = pool.in_h * pool.in_w;
            let x = shuffled(2 * image);
            let outs = 2 * pool.out_h() * pool.out_w();
            let dy: Vec<f64> = (1..=outs).map(|i| i as f64).collect();
            let (mut y, mut at) = (vec![f64::NAN; outs], vec![0; outs]);
            max_forward(&pool, &mut y, &mut at, &x);
            let mut want = vec![0.0; x.len()];
            for i in 0..outs {
                let largest = window(&pool, i).into_iter().max_by(|&a, &b| x[a].total_cmp(&x[b]));
                let largest = largest.unwrap();
                prop_assert_eq!(y[i], x[largest]);
                prop_assert_eq!(at[i] as usize, largest % image);
                want[largest] += dy[i];
            }
            let mut dx = vec![f64::NAN; x.len()];
            max_backward(&pool, &mut dx, &dy, &at);
            prop_assert_eq!(&dx, &want);
            for divisor in [Divisor::Window, Divisor::Met] {
                average_forward(&pool, divisor, &mut y, &x);
                average_backward(&pool, divisor, &mut dx, &dy);
                want.fill(0.0);
                for i in 0..outs {
                    let inside = window(&pool, i);
                    let count = match divisor {
                        Divisor::Window => pool.kernel[0] * pool.kernel[1],
                        Divisor::Met => inside.len(),
                    };
                    let sum: f64 = inside.iter().map(|&x_at| x[x_at]).sum();
                    prop_assert!((y[i] - sum / count as f64).abs() < 1e-12);
                    for x_at in inside {
                        want[x_at] += dy[i] / count as f64;
                    }
                }
                for (dx, want) in dx.iter().zip(&want) {
                    prop_assert!((dx - want).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn nan_and_minus_infinity_come_through() {
        let pool = Pool2d {
            in_h: 1,
            in_w: 4,
            kernel: [1, 2],
            stride: [1, 2],
            padding: [0, 0],
        };
        let x = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let (mut y, mut at) = ([0.0; 2], [0; 2]);
        max_forward(&pool, &mut y, &mut at, &x);
        assert!(y[0].is_nan() && at == [0, 2]);
        assert_eq!(y[1], f32::NEG_INFINITY);
    }

    #[test]
    fn global_average() {
        let x: Vec<f64> = (0..12).map(f64::from).collect();
        let mut y = [0.0; 2];
        global_average_forward(6, &mut y, &x);
        assert_eq!(y, [2.5, 8.5]);
        let mut dx = vec![0.0; 12];
        global_average_backward(6, &mut dx, &[6.0, 12.0]);
        assert_eq!(dx[..6], [1.0; 6]);
        assert_eq!(dx[6..], [2.0; 6]);
    }

    #[test]
    fn too_much_padding_is_refused() {
        let pool = Pool2d {
            in_h: 4,
            in_w: 4,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [2, 0],
        };
        assert!(matches!(pool.check(), Err(ConvError::Padding { .. })));
    }
}
