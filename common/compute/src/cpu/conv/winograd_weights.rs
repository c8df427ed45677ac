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
use super::lanes::Simd;
use super::pack::{Placement, SLACK, aligned};
use super::points::{POINTS, TAPS_MAX, Transforms};
use super::tile::{BLOCK, WeightTile, weight_tiles};
use super::units::Units;
use super::winograd::Winograd;

/// Partial sums of all parts of the batch together take up to this, in elements, unless those of
/// one part take more.
const PARTIALS_MAX: usize = 5 << 20;

/// Tiles that are worked on together, at least: the sums are read and written once for them.
const TOGETHER_MIN: usize = 56;

/// Tiles of a part of the batch, at least.
const PART_TILES_MIN: usize = 256;

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
        let outputs_w = out_w.next_multiple_of(forward.out());
        let pixels = out_h.next_multiple_of(forward.out()) * outputs_w;
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
        let transforms = Transforms::of(self.simd, self.forward.kernel);
        let (out, [down, across]) = (self.forward.out(), self.forward.tiles());
        let point = self.forward.tiles_max * BLOCK;
        let row = self.outputs_w * BLOCK;
        for tile in 0..down * across {
            let (i, j) = (tile / across, tile % across);
            let from = &output[i * out * row + j * out * BLOCK..];
            let from = &from[..(out - 1) * row + out * BLOCK];
            let to = &mut gradients[(first + tile) * BLOCK..][..(POINTS - 1) * point + BLOCK];
            // SAFETY: `from` and `to` hold the last pixel and point; `simd` chose the transform.
            unsafe { (transforms.gradient)(from.as_ptr(), row, to.as_mut_ptr(), point) };
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
        let transforms = Transforms::of(self.simd, self.forward.kernel);
        let (group_in, group_out) = (conv.group_in(), conv.group_out());
        let (taps, group_blocks) = (conv.taps(), group_out.div_ceil(BLOCK));
        let point = self.forward.in_blocks() * BLOCK * BLOCK;
        let part = partials.len() / self.units.parts();
        let last = (self.units.parts() - 1) * part + (POINTS - 1) * point + BLOCK;
        for block in 0..self.units.blocks() {
            let (group, first_out) = (block / group_blocks, block % group_blocks * BLOCK);
            let outs = (group_out - first_out).min(BLOCK);
            for input in 0..group_in {
                let from = &partials[block * self.units.block_sums() + input * BLOCK..][..last];
                let mut g = [[0.0; BLOCK]; TAPS_MAX];
                // SAFETY: `from` holds the last point of the last part; `simd` chose the transform.
                unsafe {
                    (transforms.sums)(from.as_ptr(), point, [self.units.parts(), part], &mut g)
                };
                for out in 0..outs {
                    let row = (group * group_out + first_out + out) * group_in + input;
                    for (dw, g) in dw[row * taps..][..taps].iter_mut().zip(&g) {
                        *dw = g[out];
                    }
                }
            }
        }
    }
}
