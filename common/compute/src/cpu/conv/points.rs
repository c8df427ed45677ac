//! Winograd's transforms at the points 0, ±1, ±2 and ∞: F(4 × 4, 3 × 3) and F(2 × 2, 5 × 5) of Lavin
//! and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
//!
//! A tile of 6 × 6 inputs makes `M × M` outputs of a `K × K` kernel, `M + K = 7`:
//! `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. The rows of `Aᵀ` are the powers of the points, those of `Gᵀ` too,
//! each point's divided by its `N`; `Bᵀ` is the same for both. The gradient of the weights takes the
//! transposes.
//!
//! Invariant of the unsafe code: the transforms are reached only through [`Transforms::of`], which
//! wants a [`Simd`], the proof of their instructions; callers borrow the addresses that they pass.

#[cfg(target_arch = "x86_64")]
use super::lanes::x86::{TwoYmm, Zmm};
use super::lanes::{Lanes, Level, Simd};
use super::tile::BLOCK;

/// Inputs of a tile along an axis.
pub(super) const IN: usize = 6;
/// Points that a tile is transformed to.
pub(super) const POINTS: usize = IN * IN;
/// Elements of the largest kernel.
pub(super) const TAPS_MAX: usize = 25;

/// Sixteen channels of each element of a kernel; the first `K²` count.
pub(super) type Taps = [[f32; BLOCK]; TAPS_MAX];

/// `Bᵀ d`.
#[inline(always)]
unsafe fn input_axis<V: Lanes>(d: [V; IN]) -> [V; IN] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let (two, four) = (V::splat(2.0), V::splat(4.0));
        let (minus_four, minus_five) = (V::splat(-4.0), V::splat(-5.0));
        let even = d[4].fma(minus_four, d[2]);
        let odd = d[3].fma(minus_four, d[1]);
        let near = d[4].sub(d[2]);
        let twice = d[3].sub(d[1]);
        [
            d[4].fma(four, d[0]).fma(minus_five, d[2]),
            even.add(odd),
            even.sub(odd),
            near.fma(two, twice),
            near.fma(V::splat(-2.0), twice),
            d[5].fma(four, d[1]).fma(minus_five, d[3]),
        ]
    }
}

/// `Aᵀ m`: row `r` sums the points' `r`-th powers.
#[inline(always)]
unsafe fn output_axis<V: Lanes, const M: usize>(m: [V; IN]) -> [V; M] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let sums = [m[1].add(m[2]), m[3].add(m[4])];
        let differences = [m[1].sub(m[2]), m[3].sub(m[4])];
        let mut y = [sums[0]; M];
        for (r, y) in y.iter_mut().enumerate() {
            let [near, far] = if r % 2 == 0 { sums } else { differences };
            *y = near.fma(V::splat((1 << r) as f32), far);
        }
        y[0] = y[0].add(m[0]);
        y[M - 1] = y[M - 1].add(m[5]);
        y
    }
}

/// Sums of the even and of the odd elements, element `r` times `base` to the power of `r`.
#[inline(always)]
unsafe fn halves<V: Lanes, const N: usize>(v: [V; N], base: i32) -> [V; 2] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let mut sums = [v[0], V::splat(0.0).fma(V::splat(base as f32), v[1])];
        for (r, &v) in v.iter().enumerate().skip(2) {
            sums[r % 2] = sums[r % 2].fma(V::splat(base.pow(r as u32) as f32), v);
        }
        sums
    }
}

/// `A y`, the transpose of [`output_axis`].
#[inline(always)]
unsafe fn gradient_axis<V: Lanes, const M: usize>(y: [V; M]) -> [V; IN] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let [even, odd] = halves(y, 1);
        let [far_even, far_odd] = halves(y, 2);
        [
            y[0],
            even.add(odd),
            even.sub(odd),
            far_even.add(far_odd),
            far_even.sub(far_odd),
            y[M - 1],
        ]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn weight_axis<V: Lanes, const K: usize>(g: [V; K]) -> [V; IN] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let zero = V::splat(0.0);
        let [even, odd] = halves(g, 1).map(|sum| zero.fma(V::splat(-1.0 / 6.0), sum));
        let [far_even, far_odd] = halves(g, 2).map(|sum| zero.fma(V::splat(1.0 / 24.0), sum));
        [
            zero.fma(V::splat(0.25), g[0]),
            even.add(odd),
            even.sub(odd),
            far_even.add(far_odd),
            far_even.sub(far_odd),
            g[K - 1],
        ]
    }
}

/// `Gᵀ u`.
#[inline(always)]
unsafe fn sum_axis<V: Lanes, const K: usize>(u: [V; IN]) -> [V; K] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let zero = V::splat(0.0);
        let near = [u[1].add(u[2]), u[1].sub(u[2])].map(|u| zero.fma(V::splat(-1.0 / 6.0), u));
        let far = [u[3].add(u[4]), u[3].sub(u[4])];
        let mut g = [near[0]; K];
        for (k, g) in g.iter_mut().enumerate() {
            let scale = (1 << k) as f32 / 24.0;
            *g = near[k % 2].fma(V::splat(scale), far[k % 2]);
        }
        g[0] = g[0].fma(V::splat(0.25), u[0]);
        g[K - 1] = g[K - 1].add(u[5]);
        g
    }
}

/// Transforms a tile: 6 × 6 pixels at `x`, `row` elements from one row to the next, to points
/// `point` elements apart.
#[inline(always)]
unsafe fn input_tile<V: Lanes>(x: *const f32, row: usize, to: *mut f32, point: usize) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut rows = [[V::splat(0.0); IN]; IN];
        for (i, to) in rows.iter_mut().enumerate() {
            let mut d = [V::splat(0.0); IN];
            for (j, d) in d.iter_mut().enumerate() {
                *d = V::load(x.add(i * row + j * BLOCK));
            }
            *to = input_axis(d);
        }
        for j in 0..IN {
            let column = input_axis(rows.map(|row| row[j]));
            for (i, v) in column.into_iter().enumerate() {
                v.store(to.add((i * IN + j) * point));
            }
        }
    }
}

/// A tile of products to be transformed to outputs.
pub(super) struct OutputTile<'a> {
    /// Readable at each of the points, `point` elements apart.
    pub from: *const f32,
    pub point: usize,
    pub bias: &'a [f32; BLOCK],
    pub relu: bool,
    /// Writable at `size` pixels.
    pub y: *mut f32,
    pub row: usize,
    pub size: [usize; 2],
}

/// Transforms back to `M × M` pixels, of which the first `size` are written.
#[inline(always)]
unsafe fn output_tile<V: Lanes, const M: usize>(job: &OutputTile<'_>) {
    // SAFETY: the maker of `job` borrows all of these addresses.
    unsafe {
        let mut columns = [[V::splat(0.0); IN]; M];
        for j in 0..IN {
            let mut m = [V::splat(0.0); IN];
            for (i, m) in m.iter_mut().enumerate() {
                *m = V::load(job.from.add((i * IN + j) * job.point));
            }
            for (to, y) in columns.iter_mut().zip(output_axis::<V, M>(m)) {
                to[j] = y;
            }
        }
        let bias = V::load(job.bias.as_ptr());
        for (i, columns) in columns.into_iter().enumerate().take(job.size[0]) {
            let row = output_axis::<V, M>(columns).into_iter().enumerate();
            for (j, y) in row.take(job.size[1]) {
                let y = y.add(bias);
                let y = if job.relu { y.relu() } else { y };
                y.store(job.y.add(i * job.row + j * BLOCK));
            }
        }
    }
}

/// Transforms weights of 16 output channels to points `point` elements apart.
#[inline(always)]
unsafe fn weight_tile<V: Lanes, const K: usize>(g: &Taps, to: *mut f32, point: usize) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut rows = [[V::splat(0.0); IN]; K];
        for (to, g) in rows.iter_mut().zip(g.as_chunks::<K>().0) {
            let mut row = [V::splat(0.0); K];
            for (v, g) in row.iter_mut().zip(g) {
                *v = V::load(g.as_ptr());
            }
            *to = weight_axis(row);
        }
        for j in 0..IN {
            let column = weight_axis(rows.map(|row| row[j]));
            for (i, u) in column.into_iter().enumerate() {
                u.store(to.add((i * IN + j) * point));
            }
        }
    }
}

/// Transforms `M × M` pixels of the output's gradient to points `point` elements apart.
#[inline(always)]
unsafe fn gradient_tile<V: Lanes, const M: usize>(
    y: *const f32,
    row: usize,
    to: *mut f32,
    point: usize,
) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut rows = [[V::splat(0.0); IN]; M];
        for (i, to) in rows.iter_mut().enumerate() {
            let mut pixels = [V::splat(0.0); M];
            for (j, pixel) in pixels.iter_mut().enumerate() {
                *pixel = V::load(y.add(i * row + j * BLOCK));
            }
            *to = gradient_axis(pixels);
        }
        for j in 0..IN {
            let column = gradient_axis(rows.map(|row| row[j]));
            for (i, m) in column.into_iter().enumerate() {
                m.store(to.add((i * IN + j) * point));
            }
        }
    }
}

/// Sums the points of `parts` parts, `part` elements apart, and transforms the sums to weights.
#[inline(always)]
unsafe fn sum_tile<V: Lanes, const K: usize>(
    from: *const f32,
    point: usize,
    [parts, part]: [usize; 2],
    g: &mut Taps,
) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut columns = [[V::splat(0.0); IN]; K];
        for j in 0..IN {
            let mut u = [V::splat(0.0); IN];
            for (i, u) in u.iter_mut().enumerate() {
                let from = from.add((i * IN + j) * point);
                *u = V::load(from);
                for p in 1..parts {
                    *u = u.add(V::load(from.add(p * part)));
                }
            }
            for (to, w) in columns.iter_mut().zip(sum_axis::<V, K>(u)) {
                to[j] = w;
            }
        }
        for (g, columns) in g.as_chunks_mut::<K>().0.iter_mut().zip(columns) {
            for (g, w) in g.iter_mut().zip(sum_axis::<V, K>(columns)) {
                w.store(g.as_mut_ptr());
            }
        }
    }
}

/// The transforms for one size of kernel and one level of instructions.
#[derive(Clone, Copy)]
pub(super) struct Transforms {
    /// Pixels, their row, points, their distance.
    pub input: unsafe fn(*const f32, usize, *mut f32, usize),
    pub output: unsafe fn(&OutputTile<'_>),
    /// Weights, points, their distance.
    pub weights: unsafe fn(&Taps, *mut f32, usize),
    /// Pixels of the output's gradient, their row, points, their distance.
    pub gradient: unsafe fn(*const f32, usize, *mut f32, usize),
    /// Sums at the points, their distance, parts and their distance, weights.
    pub sums: unsafe fn(*const f32, usize, [usize; 2], &mut Taps),
}

macro_rules! level {
    ($module:ident, $lanes:ty $(, $feature:meta)?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn input(x: *const f32, row: usize, to: *mut f32, point: usize) {
                // SAFETY: as for this function.
                unsafe { super::input_tile::<$lanes>(x, row, to, point) }
            }

            $(#[$feature])?
            unsafe fn output<const M: usize>(job: &OutputTile<'_>) {
                // SAFETY: as for this function.
                unsafe { super::output_tile::<$lanes, M>(job) }
            }

            $(#[$feature])?
            unsafe fn weights<const K: usize>(g: &Taps, to: *mut f32, point: usize) {
                // SAFETY: as for this function.
                unsafe { super::weight_tile::<$lanes, K>(g, to, point) }
            }

            $(#[$feature])?
            unsafe fn gradient<const M: usize>(
                y: *const f32,
                row: usize,
                to: *mut f32,
                point: usize,
            ) {
                // SAFETY: as for this function.
                unsafe { super::gradient_tile::<$lanes, M>(y, row, to, point) }
            }

            $(#[$feature])?
            unsafe fn sums<const K: usize>(
                from: *const f32,
                point: usize,
                parts: [usize; 2],
                g: &mut Taps,
            ) {
                // SAFETY: as for this function.
                unsafe { super::sum_tile::<$lanes, K>(from, point, parts, g) }
            }

            pub const THREE: Transforms = Transforms {
                input,
                output: output::<4>,
                weights: weights::<3>,
                gradient: gradient::<4>,
                sums: sums::<3>,
            };
            pub const FIVE: Transforms = Transforms {
                input,
                output: output::<2>,
                weights: weights::<5>,
                gradient: gradient::<2>,
                sums: sums::<5>,
            };
        }
    };
}

level!(portable, [f32; BLOCK]);
#[cfg(target_arch = "x86_64")]
level!(avx2, TwoYmm, target_feature(enable = "avx2,fma"));
#[cfg(target_arch = "x86_64")]
level!(avx512, Zmm, target_feature(enable = "avx512f"));

impl Transforms {
    /// Those for kernels of 3 × 3 or 5 × 5.
    pub fn of(simd: Simd, kernel: usize) -> Self {
        let [three, five] = match simd.level() {
            Level::Portable => [portable::THREE, portable::FIVE],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => [avx2::THREE, avx2::FIVE],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => [avx512::THREE, avx512::FIVE],
        };
        match kernel {
            3 => three,
            5 => five,
            _ => unreachable!("no transforms for kernels of {kernel}"),
        }
    }
}
