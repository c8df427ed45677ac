//! The gradient with respect to the weights.
//!
//! The input is packed as for the forward pass, the output's gradient into blocks of 16 channels. A
//! weight tile holds some taps and input channels of one block of output channels in registers and
//! runs over all pixels of the images that are packed together.
//!
//! The work is cut into *units* by [`Units`]: parts of the batch, each with partial
//! sums of its own, and ranges of output channels. The cut and the order of all sums follow from
//! the convolution and the level of instructions alone.
//!
//! Invariant of the unsafe code: as in `correlate`; [`WeightGradient::new`] checks the last address
//! of the last pixel and tap, [`WeightGradient::run`] the lengths of the slices.

use std::ops::Range;

use super::Conv2d;
use super::correlate::{block_for, forward_part, steps};
use super::lanes::Simd;
use super::pack::{Placement, SLACK, aligned};
use super::tile::{BLOCK, WeightTile, weight_tiles};
use super::units::Units;

/// Partial sums of all parts of the batch together take up to this, in elements, unless those of
/// one part take more.
const PARTIALS_MAX: usize = 1 << 20;

/// Output pixels of a part of the batch, at least: fewer don't pay for another set of sums.
const PART_PIXELS_MIN: usize = 4 << 10;

/// Packed images that are worked on together take up to this, in elements.
const TOGETHER_MAX: usize = 1 << 20;

/// Output pixels of the images that are worked on together, where they suffice: the sums are read
/// and written once for them.
const TOGETHER_PIXELS: usize = 512;

/// The gradient with respect to the weights, ready to run.
#[derive(Clone, Debug)]
pub(super) struct WeightGradient {
    conv: Conv2d,
    simd: Simd,
    /// Channels of a packed pixel of the input: 1 or 16.
    block: usize,
    placement: Placement,
    /// The output's gradient as it is.
    plain: Placement,
    rows: usize,
    cols: usize,
    /// The distance of rows in the packed input, in pixels.
    in_row: usize,
    steps: Vec<u32>,
    units: Units,
}

impl WeightGradient {
    pub fn new(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, mut part) = forward_part(conv);
        let block = block_for(conv.group_in());
        let taps: Vec<usize> = part.taps.iter().map(|&(_, pixel)| pixel).collect();
        let steps = steps(conv.group_in(), block, placement.pixels, &taps);
        if part.in_row == part.cols {
            part.cols *= part.rows;
            part.rows = 1;
        }
        let last = (part.rows - 1) * part.in_row + part.cols;
        let last_step = steps.iter().max().map_or(0, |&step| step as usize);
        let image = placement.pixels * block * conv.group_in().div_ceil(block);
        assert!(last_step + last * block <= image);
        let size = [conv.out_h(), conv.out_w()];
        let pixels = size[0] * size[1];
        let plain = Placement::new(size, pixels, |row, col| Some(row * size[1] + col));
        let blocks = conv.groups * conv.group_out().div_ceil(BLOCK);
        let block_sums = steps.len() * block * BLOCK;
        let partial = blocks * block_sums;
        let parts = (PARTIALS_MAX / partial).min(conv.batch * pixels / PART_PIXELS_MIN);
        Self {
            conv: *conv,
            simd,
            block,
            placement,
            plain,
            rows: part.rows,
            cols: part.cols,
            in_row: part.in_row,
            steps,
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

    fn image(&self) -> usize {
        let conv = &self.conv;
        self.placement.pixels * self.block * conv.group_in().div_ceil(self.block)
    }

    /// Images that are packed at a time: as few as make a long sum. A tile sees one block of input
    /// channels of them, so that not all need to fit the second-level cache.
    fn together(&self) -> usize {
        let fill = TOGETHER_PIXELS.div_ceil(self.plain.pixels);
        let fit = (TOGETHER_MAX / self.image()).max(1);
        fill.min(fit).clamp(1, self.conv.batch.max(1))
    }

    /// Blocks of output channels of a group.
    fn group_blocks(&self) -> usize {
        self.conv.group_out().div_ceil(BLOCK)
    }

    /// Elements of scratch.
    pub fn scratch(&self) -> usize {
        let inputs = (self.together() * self.image()).next_multiple_of(BLOCK);
        SLACK + inputs + self.together() * self.plain.pixels * BLOCK * self.group_blocks()
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
        let scratch = aligned(scratch);
        for [images, blocks, range] in self.units.merged(units) {
            let sums = &mut sums[range];
            assert_eq!(sums.len(), blocks.len() * self.units.block_sums());
            if images.is_empty() {
                sums.fill(0.0);
                continue;
            }
            let mut rest = sums;
            let mut first = blocks.start;
            while first < blocks.end {
                let group = first / self.group_blocks();
                let end = blocks.end.min((group + 1) * self.group_blocks());
                let len = (end - first) * self.units.block_sums();
                let (sums, more) = rest.split_at_mut(len);
                self.group(images.clone(), first..end, [sums, scratch], x, dy);
                (rest, first) = (more, end);
            }
        }
    }

    /// The sums over these images of blocks of output channels of one group.
    fn group(
        &self,
        images: Range<usize>,
        blocks: Range<usize>,
        [sums, scratch]: [&mut [f32]; 2],
        x: &[f32],
        dy: &[f32],
    ) {
        let conv = &self.conv;
        let (together, image, pixels) = (self.together(), self.image(), self.plain.pixels);
        let (group, first_block) = (
            blocks.start / self.group_blocks(),
            blocks.start % self.group_blocks(),
        );
        let (inputs, rest) = scratch.split_at_mut((together * image).next_multiple_of(BLOCK));
        let block_len = together * pixels * BLOCK;
        let outputs = &mut rest[..blocks.len() * block_len];
        inputs.fill(0.0);
        let group_in = conv.group_in() * self.placement.image();
        for first in images.clone().step_by(together) {
            let some = first..(first + together).min(images.end);
            for (n, input) in some.clone().zip(inputs.chunks_exact_mut(image)) {
                let x = &x[(n * conv.groups + group) * group_in..][..group_in];
                self.placement.pack(self.simd, self.block, input, x);
            }
            for (b, outputs) in outputs.chunks_exact_mut(block_len).enumerate() {
                let first_out = (first_block + b) * BLOCK;
                let outs = (conv.group_out() - first_out).min(BLOCK);
                for (n, output) in some.clone().zip(outputs.chunks_exact_mut(pixels * BLOCK)) {
                    let channel = (n * conv.groups + group) * conv.group_out() + first_out;
                    let dy = &dy[channel * pixels..][..outs * pixels];
                    self.plain.pack(self.simd, BLOCK, output, dy);
                }
            }
            self.add(sums, some.len(), inputs, outputs, first > images.start);
        }
    }

    /// The sums of blocks of output channels over packed images: a block's are `block_sums` long,
    /// its packed gradient is as long as that of the images that are packed at a time. A tile of the
    /// input meets all blocks before the next one does.
    fn add(&self, sums: &mut [f32], images: usize, x: &[f32], dy: &[f32], accumulate: bool) {
        let pixels = self.plain.pixels;
        let (block_sums, block_len) = (self.units.block_sums(), self.together() * pixels * BLOCK);
        assert!(sums.len().is_multiple_of(block_sums) && images <= self.together());
        assert!(dy.len() >= sums.len() / block_sums * block_len);
        assert!(x.len() >= images * self.image() && pixels == self.rows * self.cols);
        let shapes = weight_tiles(self.simd, self.block);
        let mut step = 0;
        while step < self.steps.len() {
            let rest = self.steps.len() - step;
            // As many equal tiles as the largest would make.
            let largest = shapes[0].taps;
            let even = rest.div_ceil(rest.div_ceil(largest));
            let fitting = shapes.iter().find(|shape| shape.taps <= even);
            let shape = fitting.unwrap_or(&shapes[shapes.len() - 1]);
            for channel in (0..self.block).step_by(shape.channels) {
                let blocks = sums.chunks_exact_mut(block_sums);
                for (sums, dy) in blocks.zip(dy.chunks_exact(block_len)) {
                    let tile = WeightTile {
                        x: x[channel..].as_ptr(),
                        taps: &self.steps[step..step + shape.taps],
                        x_image: self.image(),
                        x_row: self.in_row * self.block,
                        dy: dy.as_ptr(),
                        y_image: pixels * BLOCK,
                        images,
                        rows: self.rows,
                        cols: self.cols,
                        dw: sums[(step * self.block + channel) * BLOCK..].as_mut_ptr(),
                        accumulate,
                    };
                    // SAFETY: `x` and `dy` hold the images, whose last addresses `new` checked; the
                    // tile's taps and channels lie in `sums`, for `shape.channels` divides the
                    // block; `simd` chose the kernel.
                    unsafe { (shape.kernel)(&tile) };
                }
            }
            step += shape.taps;
        }
    }

    /// Sums the parts of the batch, in their order, into weights of the usual layout.
    pub fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        let conv = &self.conv;
        assert_eq!(dw.len(), conv.weights(), "weight gradient");
        assert_eq!(partials.len(), self.partials(), "partial sums");
        let (taps, group_in, group_out) = (conv.taps(), conv.group_in(), conv.group_out());
        let group_blocks = group_out.div_ceil(BLOCK);
        let step_len = taps * self.block * BLOCK;
        let part_len = partials.len() / self.units.parts();
        for block in 0..self.units.blocks() {
            let (group, first_out) = (block / group_blocks, block % group_blocks * BLOCK);
            for first_in in (0..group_in).step_by(self.block) {
                let ins = (group_in - first_in).min(self.block);
                let sums = block * self.units.block_sums() + first_in / self.block * step_len;
                for out in 0..(group_out - first_out).min(BLOCK) {
                    let row = (group * group_out + first_out + out) * group_in + first_in;
                    let dw = &mut dw[row * taps..][..ins * taps];
                    for (input, dw) in dw.chunks_exact_mut(taps).enumerate() {
                        for (tap, dw) in dw.iter_mut().enumerate() {
                            let at = sums + (tap * self.block + input) * BLOCK + out;
                            let parts = partials[at..].iter().step_by(part_len);
                            *dw = parts.sum();
                        }
                    }
                }
            }
        }
    }
}
