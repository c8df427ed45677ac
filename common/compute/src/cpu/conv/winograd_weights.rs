//! The weight gradient by Winograd's points: the exact adjoint of the forward pass in `winograd`.
//!
//! With `V` the transformed input and `A dy Aᵀ` the transformed gradient of the output, the
//! gradient is `Gᵀ (Σ V ⊙ A dy Aᵀ) G`, the sum over all tiles. The sums are kept at the points until
//! [`WinogradWeights::fold`]. Units are cut by [`Units`]: parts of the batch, and ranges of output
//! channels.
//!
//! Invariant of the unsafe code: as in `winograd`.

use std::ops::Range;

use super::Conv2d;
#[cfg(target_arch = "x86_64")]
use super::lanes::x86::{TwoYmm, Zmm};
use super::lanes::{Lanes, Level, Simd};
use super::pack::{Placement, SLACK, aligned};
use super::tile::{BLOCK, WeightTile, weight_tiles};
use super::units::Units;
use super::winograd::{IN, OUT, POINTS, Winograd};

/// Partial sums of all parts of the batch together take up to this, in elements, unless those of
/// one part take more.
const PARTIALS_MAX: usize = 5 << 20;

/// Tiles that are worked on together, at least: the sums are read and written once for them.
const TOGETHER_MIN: usize = 56;

/// Tiles of a part of the batch, at least.
const PART_TILES_MIN: usize = 256;

/// `A y`.
#[inline(always)]
unsafe fn output_axis<V: Lanes>(y: [V; OUT]) -> [V; IN] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let four = V::splat(4.0);
        let (even, odd) = (y[0].add(y[2]), y[1].add(y[3]));
        let far_even = y[0].fma(four, y[2]);
        let far_odd = y[1].fma(four, y[3]);
        let two = V::splat(2.0);
        [
            y[0],
            even.add(odd),
            even.sub(odd),
            far_even.fma(two, far_odd),
            far_even.fma(V::splat(-2.0), far_odd),
            y[3],
        ]
    }
}

/// `Gᵀ u`.
#[inline(always)]
unsafe fn weight_axis<V: Lanes>(u: [V; IN]) -> [V; 3] {
    // SAFETY: the level's instructions are there.
    unsafe {
        let zero = V::splat(0.0);
        let sixth = V::splat(1.0 / 6.0);
        let near = zero.fma(sixth, u[1].add(u[2]));
        let far = u[3].add(u[4]);
        let middle = zero.fma(sixth, u[2].sub(u[1]));
        [
            zero.fma(V::splat(0.25), u[0])
                .fma(V::splat(1.0 / 24.0), far)
                .sub(near),
            middle.fma(V::splat(1.0 / 12.0), u[3].sub(u[4])),
            u[5].fma(sixth, far).sub(near),
        ]
    }
}

/// Transforms 4 × 4 pixels to points `point` elements apart.
#[inline(always)]
unsafe fn output_tile<V: Lanes>(y: *const f32, row: usize, to: *mut f32, point: usize) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut rows = [[V::splat(0.0); IN]; OUT];
        for (i, to) in rows.iter_mut().enumerate() {
            let mut pixels = [V::splat(0.0); OUT];
            for (j, pixel) in pixels.iter_mut().enumerate() {
                *pixel = V::load(y.add(i * row + j * BLOCK));
            }
            *to = output_axis(pixels);
        }
        for j in 0..IN {
            let column = output_axis(rows.map(|row| row[j]));
            for (i, m) in column.into_iter().enumerate() {
                m.store(to.add((i * IN + j) * point));
            }
        }
    }
}

/// Sums the points of `parts` parts, `part` elements apart, and transforms the sums to weights.
#[inline(always)]
unsafe fn weight_tile<V: Lanes>(
    from: *const f32,
    point: usize,
    [parts, part]: [usize; 2],
    g: &mut [[f32; BLOCK]; 9],
) {
    // SAFETY: the caller borrows all of these addresses.
    unsafe {
        let mut columns = [[V::splat(0.0); IN]; 3];
        for j in 0..IN {
            let mut u = [V::splat(0.0); IN];
            for (i, u) in u.iter_mut().enumerate() {
                let from = from.add((i * IN + j) * point);
                *u = V::load(from);
                for p in 1..parts {
                    *u = u.add(V::load(from.add(p * part)));
                }
            }
            for (to, w) in columns.iter_mut().zip(weight_axis(u)) {
                to[j] = w;
            }
        }
        for (g, columns) in g.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
            for (g, w) in g.iter_mut().zip(weight_axis(columns)) {
                w.store(g.as_mut_ptr());
            }
        }
    }
}

/// The transforms for one level of instructions.
#[derive(Clone, Copy)]
struct Transforms {
    output: unsafe fn(*const f32, usize, *mut f32, usize),
    weights: unsafe fn(*const f32, usize, [usize; 2], &mut [[f32; BLOCK]; 9]),
}

macro_rules! level {
    ($module:ident, $lanes:ty $(, $feature:meta)?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn output(y: *const f32, row: usize, to: *mut f32, point: usize) {
                // SAFETY: as for this function.
                unsafe { super::output_tile::<$lanes>(y, row, to, point) }
            }

            $(#[$feature])?
            unsafe fn weights(
                from: *const f32,
                point: usize,
                parts: [usize; 2],
                g: &mut [[f32; BLOCK]; 9],
            ) {
                // SAFETY: as for this function.
                unsafe { super::weight_tile::<$lanes>(from, point, parts, g) }
            }

            pub const TRANSFORMS: Transforms = Transforms { output, weights };
        }
    };
}

level!(portable, [f32; BLOCK]);
#[cfg(target_arch = "x86_64")]
level!(avx2, TwoYmm, target_feature(enable = "avx2,fma"));
#[cfg(target_arch = "x86_64")]
level!(avx512, Zmm, target_feature(enable = "avx512f"));

impl Transforms {
    fn of(simd: Simd) -> Self {
        match simd.level() {
            Level::Portable => portable::TRANSFORMS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::TRANSFORMS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::TRANSFORMS,
        }
    }
}

/// The weight gradient, ready to run.
#[derive(Clone, Debug)]
pub(super) struct WinogradWeights {
    conv: Conv2d,
    simd: Simd,
    forward: Winograd,
    /// The output's gradient, with zeros where the last tiles reach past it.
    outputs: Placement,
    /// Columns of its packed image.
    outputs_w: usize,
    units: Units,
}

impl WinogradWeights {
    /// True if the sums at the points aren't too many for this to be faster.
    pub fn pays(conv: &Conv2d) -> bool {
        Winograd::pays(conv) && conv.group_in() * conv.group_out() <= 256 * 256
    }

    pub fn new(conv: &Conv2d, simd: Simd) -> Self {
        let forward = Winograd::new(conv, simd, false, TOGETHER_MIN);
        let [out_h, out_w] = [conv.out_h(), conv.out_w()];
        let outputs_w = out_w.next_multiple_of(OUT);
        let pixels = out_h.next_multiple_of(OUT) * outputs_w;
        let outputs = Placement::new([out_h, out_w], pixels, |row, col| {
            Some(row * outputs_w + col)
        });
        let blocks = conv.groups * conv.group_out().div_ceil(BLOCK);
        // `[point][block][input][output]`
        let block_sums = POINTS * forward.in_blocks() * BLOCK * BLOCK;
        let partial = blocks * block_sums;
        let tiles = conv.batch * forward.image_tiles();
        let parts = (PARTIALS_MAX / partial).min(tiles / PART_TILES_MIN);
        Self {
            conv: *conv,
            simd,
            forward,
            outputs,
            outputs_w,
            units: Units::new(conv.batch, parts, blocks, block_sums),
        }
    }

    pub fn units(&self) -> usize {
        self.units.count()
    }

    pub fn partials(&self) -> usize {
        self.units.partials()
    }

    pub fn unit_range(&self, unit: usize) -> Range<usize> {
        self.units.sums(unit)
    }

    pub fn scratch(&self) -> usize {
        let points = POINTS * self.forward.tiles_max * BLOCK * (self.forward.in_blocks() + 1);
        SLACK + self.forward.image() + points + self.outputs.pixels * BLOCK
    }

    pub fn unit(&self, unit: usize, [sums, scratch]: [&mut [f32]; 2], x: &[f32], dy: &[f32]) {
        let (conv, forward) = (&self.conv, &self.forward);
        let (images, blocks) = self.units.work(unit);
        assert_eq!(
            sums.len(),
            blocks.len() * self.units.block_sums(),
            "partial sums"
        );
        assert_eq!(x.len(), conv.batch * conv.image_in(), "input");
        assert_eq!(dy.len(), conv.batch * conv.image_out(), "output gradient");
        assert!(scratch.len() >= self.scratch(), "scratch");
        if images.is_empty() {
            sums.fill(0.0);
            return;
        }
        let most = POINTS * forward.tiles_max * BLOCK;
        let (input, rest) = aligned(scratch).split_at_mut(forward.image());
        let (points, rest) = rest.split_at_mut(most * forward.in_blocks());
        let (gradients, rest) = rest.split_at_mut(most);
        let output = &mut rest[..self.outputs.pixels * BLOCK];
        input.fill(0.0);
        output.fill(0.0);
        let group_blocks = conv.group_out().div_ceil(BLOCK);
        let group_in = conv.group_in() * conv.in_h * conv.in_w;
        let pixels = conv.out_h() * conv.out_w();
        let image_tiles = forward.image_tiles();
        let together = forward.tiles_max / image_tiles;
        for first in images.clone().step_by(together) {
            let some = first..(first + together).min(images.end);
            let mut transformed_group = usize::MAX;
            for (block, sums) in blocks
                .clone()
                .zip(sums.chunks_exact_mut(self.units.block_sums()))
            {
                let (group, block) = (block / group_blocks, block % group_blocks);
                if group != transformed_group {
                    transformed_group = group;
                    for (i, n) in some.clone().enumerate() {
                        let x = &x[(n * conv.groups + group) * group_in..][..group_in];
                        forward.placement.pack(self.simd, BLOCK, input, x);
                        forward.transform(points, input, i * image_tiles);
                    }
                }
                let outs = (conv.group_out() - block * BLOCK).min(BLOCK);
                for (i, n) in some.clone().enumerate() {
                    let channel = (n * conv.groups + group) * conv.group_out() + block * BLOCK;
                    let dy = &dy[channel * pixels..][..outs * pixels];
                    self.outputs.pack(self.simd, BLOCK, output, dy);
                    self.transform(gradients, output, i * image_tiles);
                }
                let tiles = some.len() * image_tiles;
                self.add(sums, tiles, points, gradients, first > images.start);
            }
        }
    }

    /// Transforms the tiles of an image of the output's gradient, to `[point][tile][16]`.
    fn transform(&self, gradients: &mut [f32], output: &[f32], first: usize) {
        let transforms = Transforms::of(self.simd);
        let [down, across] = self.forward.tiles();
        let point = self.forward.tiles_max * BLOCK;
        let row = self.outputs_w * BLOCK;
        for tile in 0..down * across {
            let (i, j) = (tile / across, tile % across);
            let from = &output[i * OUT * row + j * OUT * BLOCK..];
            let from = &from[..(OUT - 1) * row + OUT * BLOCK];
            let to = &mut gradients[(first + tile) * BLOCK..][..(POINTS - 1) * point + BLOCK];
            // SAFETY: `from` and `to` hold the last pixel and point; `simd` chose the transform.
            unsafe { (transforms.output)(from.as_ptr(), row, to.as_mut_ptr(), point) };
        }
    }

    /// At each point: input channels by tiles, times tiles by 16 output channels.
    fn add(&self, sums: &mut [f32], tiles: usize, x: &[f32], dy: &[f32], accumulate: bool) {
        let (blocks, tiles_max) = (self.forward.in_blocks(), self.forward.tiles_max);
        assert!(tiles <= tiles_max);
        let shapes = weight_tiles(self.simd, BLOCK);
        let shape = shapes[shapes.len() - 1];
        assert_eq!(shape.taps, 1);
        let sums = sums.chunks_exact_mut(blocks * BLOCK * BLOCK);
        let x = x.chunks_exact(blocks * tiles_max * BLOCK);
        let dy = dy.chunks_exact(tiles_max * BLOCK);
        for ((sums, x), dy) in sums.zip(x).zip(dy) {
            let sums = sums.chunks_exact_mut(BLOCK * BLOCK);
            for (sums, &step) in sums.zip(&self.forward.steps) {
                let x = &x[step as usize..][..tiles * BLOCK];
                for channel in (0..BLOCK).step_by(shape.channels) {
                    let tile = WeightTile {
                        x: x[channel..].as_ptr(),
                        taps: &[0],
                        x_image: 0,
                        x_row: 0,
                        dy: dy.as_ptr(),
                        y_image: 0,
                        images: 1,
                        rows: 1,
                        cols: tiles,
                        dw: sums[channel * BLOCK..][..shape.channels * BLOCK].as_mut_ptr(),
                        accumulate,
                    };
                    // SAFETY: `x` and `dy` hold as many blocks as there are tiles, and the tile's
                    // channels lie in a block; `simd` chose the kernel.
                    unsafe { (shape.kernel)(&tile) };
                }
            }
        }
    }

    /// Sums the parts of the batch, in their order, and transforms the sums to weights.
    pub fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        let conv = &self.conv;
        assert_eq!(dw.len(), conv.weights(), "weight gradient");
        assert_eq!(partials.len(), self.partials(), "partial sums");
        let transforms = Transforms::of(self.simd);
        let (group_in, group_out) = (conv.group_in(), conv.group_out());
        let group_blocks = group_out.div_ceil(BLOCK);
        let point = self.forward.in_blocks() * BLOCK * BLOCK;
        let part = partials.len() / self.units.parts();
        let last = (self.units.parts() - 1) * part + (POINTS - 1) * point + BLOCK;
        for block in 0..self.units.blocks() {
            let (group, first_out) = (block / group_blocks, block % group_blocks * BLOCK);
            let outs = (group_out - first_out).min(BLOCK);
            for input in 0..group_in {
                let from = &partials[block * self.units.block_sums() + input * BLOCK..][..last];
                let mut g = [[0.0; BLOCK]; 9];
                // SAFETY: `from` holds the last point of the last part; `simd` chose the transform.
                unsafe {
                    (transforms.weights)(from.as_ptr(), point, [self.units.parts(), part], &mut g)
                };
                for out in 0..outs {
                    let row = (group * group_out + first_out + out) * group_in + input;
                    for (dw, g) in dw[row * 9..][..9].iter_mut().zip(&g) {
                        *dw = g[out];
                    }
                }
            }
        }
    }
}
