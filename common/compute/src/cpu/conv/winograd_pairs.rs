//! The weight gradient by Winograd's points where the channels are many and the tiles few: for each
//! pair of blocks of input and output channels the sums over all tiles, which at once become weights.
//!
//! `winograd_weights` keeps the sums of all channels and runs over the images; these would not fit a
//! cache. Here all images' transformed inputs stay in memory, and the sums of one pair at a time are
//! taken. A unit is a range of blocks of output channels; its partial sums are their weights.
//!
//! Invariant of the unsafe code: as in `winograd`.

use std::ops::Range;

use super::Conv2d;
use super::lanes::Simd;
use super::pack::{SLACK, aligned};
use super::points::{POINTS, TAPS_MAX, Transforms};
use super::tile::BLOCK;
use super::units::UNITS_MAX;
use super::winograd::Winograd;
use super::winograd_operands::PointOperands;

/// Tiles at which the transformed input is too large for this to be faster.
const TILES_MAX: usize = 512;

/// The weight gradient, ready to run.
#[derive(Clone, Debug)]
pub(super) struct WinogradPairs {
    conv: Conv2d,
    simd: Simd,
    operands: PointOperands,
}

impl WinogradPairs {
    /// True if this is faster than other ways.
    pub fn pays(conv: &Conv2d) -> bool {
        let many = conv.group_in() * conv.group_out() > 128 * 128;
        Winograd::pays(conv) && many && Winograd::batch_tiles(conv) <= TILES_MAX
    }

    pub fn new(conv: &Conv2d, simd: Simd) -> Self {
        Self {
            conv: *conv,
            simd,
            operands: PointOperands::new(conv, simd, Winograd::batch_tiles(conv)),
        }
    }

    /// Blocks of output channels of a group.
    fn group_blocks(&self) -> usize {
        self.conv.group_out().div_ceil(BLOCK)
    }

    pub fn units(&self) -> usize {
        (self.conv.groups * self.group_blocks()).min(UNITS_MAX)
    }

    fn blocks(&self, unit: usize) -> Range<usize> {
        let first = |unit: usize| self.conv.groups * self.group_blocks() * unit / self.units();
        first(unit)..first(unit + 1)
    }

    /// The first output channel of a block.
    fn first_out(&self, block: usize) -> usize {
        let (group, block) = (block / self.group_blocks(), block % self.group_blocks());
        group * self.conv.group_out() + block * BLOCK
    }

    pub fn partials(&self) -> usize {
        self.conv.weights()
    }

    pub fn unit_range(&self, unit: usize) -> Range<usize> {
        let row = self.conv.group_in() * self.conv.taps();
        let blocks = self.blocks(unit);
        self.first_out(blocks.start) * row..self.first_out(blocks.end) * row
    }

    /// The partial sums are the gradient.
    pub fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        assert_eq!(dw.len(), self.conv.weights(), "weight gradient");
        dw.copy_from_slice(partials);
    }

    pub fn scratch(&self) -> usize {
        SLACK + self.operands.scratch() + POINTS * BLOCK * BLOCK
    }

    pub fn run(&self, units: Range<usize>, [dw, scratch]: [&mut [f32]; 2], x: &[f32], dy: &[f32]) {
        let (conv, operands) = (&self.conv, &self.operands);
        let blocks = self.blocks(units.start).start..self.blocks(units.end - 1).end;
        let row = conv.group_in() * conv.taps();
        let start = self.first_out(blocks.start);
        let end = self.first_out(blocks.end);
        assert_eq!(dw.len(), (end - start) * row, "partial sums");
        assert_eq!(x.len(), conv.batch * conv.image_in(), "input");
        assert_eq!(dy.len(), conv.batch * conv.image_out(), "output gradient");
        assert!(scratch.len() >= self.scratch(), "scratch");
        let (sums, scratch) = aligned(scratch).split_at_mut(POINTS * BLOCK * BLOCK);
        let mut memory = operands.memory(scratch);
        let mut transformed_group = usize::MAX;
        for block in blocks {
            let group = block / self.group_blocks();
            if group != transformed_group {
                transformed_group = group;
                operands.transform_inputs(&mut memory, 0..conv.batch, group, x);
            }
            let first_out = self.first_out(block);
            let outs = (conv.group_out() - block % self.group_blocks() * BLOCK).min(BLOCK);
            operands.transform_outputs(&mut memory, 0..conv.batch, [first_out, outs], dy);
            let dw = &mut dw[(first_out - start) * row..][..outs * row];
            for first_in in (0..conv.group_in()).step_by(BLOCK) {
                let ins = (conv.group_in() - first_in).min(BLOCK);
                let tiles = conv.batch * operands.image_tiles();
                for point in 0..POINTS {
                    let sums = &mut sums[point * BLOCK * BLOCK..][..BLOCK * BLOCK];
                    operands.multiply(&memory, [point, first_in / BLOCK, tiles], sums, false);
                }
                self.weights(dw, sums, first_in, ins);
            }
        }
    }

    /// Transforms the sums of a pair of blocks to weights `dw`, `[out][in][tap]`.
    fn weights(&self, dw: &mut [f32], sums: &[f32], first_in: usize, ins: usize) {
        let (taps, row) = (self.conv.taps(), self.conv.group_in() * self.conv.taps());
        let transforms = Transforms::of(self.simd, self.conv.kernel_h);
        let point = BLOCK * BLOCK;
        for input in 0..ins {
            let from = &sums[input * BLOCK..][..(POINTS - 1) * point + BLOCK];
            let mut g = [[0.0; BLOCK]; TAPS_MAX];
            // SAFETY: `from` holds the last point; `simd` chose the transform.
            unsafe { (transforms.sums)(from.as_ptr(), point, [1, 0], &mut g) };
            for (out, dw) in dw.chunks_exact_mut(row).enumerate() {
                let dw = &mut dw[(first_in + input) * taps..][..taps];
                for (dw, g) in dw.iter_mut().zip(&g) {
                    *dw = g[out];
                }
            }
        }
    }
}
