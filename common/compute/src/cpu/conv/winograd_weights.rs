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
use super::pack::{SLACK, aligned};
use super::points::{POINTS, TAPS_MAX, Transforms};
use super::tile::BLOCK;
use super::units::Units;
use super::winograd::Winograd;
use super::winograd_operands::PointOperands;

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
    operands: PointOperands,
    units: Units,
}

impl WinogradWeights {
    /// True if the sums at the points aren't too many for this to be faster.
    pub fn pays(conv: &Conv2d) -> bool {
        Winograd::pays(conv) && conv.group_in() * conv.group_out() <= 256 * 256
    }

    pub fn new(conv: &Conv2d, simd: Simd) -> Self {
        let operands = PointOperands::new(conv, simd, TOGETHER_MIN);
        let blocks = conv.groups * conv.group_out().div_ceil(BLOCK);
        // `[point][block][input][output]`
        let block_sums = POINTS * operands.in_blocks() * BLOCK * BLOCK;
        let partial = blocks * block_sums;
        let tiles = conv.batch * operands.image_tiles();
        let parts = (PARTIALS_MAX / partial).min(tiles / PART_TILES_MIN);
        Self {
            conv: *conv,
            simd,
            operands,
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
        SLACK + self.operands.scratch()
    }

    /// Computes the partial sums of units from the whole batch's `x` and `dy`.
    pub fn run(
        &self,
        units: Range<usize>,
        [sums, scratch]: [&mut [f32]; 2],
        x: &[f32],
        dy: &[f32],
    ) {
        let conv = &self.conv;
        assert_eq!(x.len(), conv.batch * conv.image_in(), "input");
        assert_eq!(dy.len(), conv.batch * conv.image_out(), "output gradient");
        assert!(scratch.len() >= self.scratch(), "scratch");
        for [images, blocks, range] in self.units.merged(units) {
            let sums = &mut sums[range];
            assert_eq!(sums.len(), blocks.len() * self.units.block_sums());
            if images.is_empty() {
                sums.fill(0.0);
            } else {
                self.part(images, blocks, [sums, scratch], x, dy);
            }
        }
    }

    /// The sums over these images of blocks of output channels.
    fn part(
        &self,
        images: Range<usize>,
        blocks: Range<usize>,
        [sums, scratch]: [&mut [f32]; 2],
        x: &[f32],
        dy: &[f32],
    ) {
        let (conv, operands) = (&self.conv, &self.operands);
        let mut memory = operands.memory(aligned(scratch));
        let group_blocks = conv.group_out().div_ceil(BLOCK);
        let together = operands.images_max();
        for first in images.clone().step_by(together) {
            let some = first..(first + together).min(images.end);
            let tiles = some.len() * operands.image_tiles();
            let mut transformed_group = usize::MAX;
            let all_sums = sums.chunks_exact_mut(self.units.block_sums());
            for (block, sums) in blocks.clone().zip(all_sums) {
                let (group, block) = (block / group_blocks, block % group_blocks);
                if group != transformed_group {
                    transformed_group = group;
                    operands.transform_inputs(&mut memory, some.clone(), group, x);
                }
                let first_out = group * conv.group_out() + block * BLOCK;
                let outs = (conv.group_out() - block * BLOCK).min(BLOCK);
                operands.transform_outputs(&mut memory, some.clone(), [first_out, outs], dy);
                let pairs = sums.chunks_exact_mut(BLOCK * BLOCK).enumerate();
                for (pair, sums) in pairs {
                    let at = [
                        pair / operands.in_blocks(),
                        pair % operands.in_blocks(),
                        tiles,
                    ];
                    operands.multiply(&memory, at, sums, first > images.start);
                }
            }
        }
    }

    /// Sums the parts of the batch, in their order, and transforms the sums to weights.
    pub fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        let conv = &self.conv;
        assert_eq!(dw.len(), conv.weights(), "weight gradient");
        assert_eq!(partials.len(), self.partials(), "partial sums");
        let transforms = Transforms::of(self.simd, conv.kernel_h);
        let (group_in, group_out) = (conv.group_in(), conv.group_out());
        let (taps, group_blocks) = (conv.taps(), group_out.div_ceil(BLOCK));
        let point = self.operands.in_blocks() * BLOCK * BLOCK;
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
