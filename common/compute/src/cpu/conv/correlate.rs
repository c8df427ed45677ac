//! The forward pass and the input gradient, which are both correlations of a packed image.
//!
//! The forward pass is one [`Part`]: all output pixels, all taps. The input gradient with a stride
//! of `s` is `s²` parts: the pixels of one residue modulo the stride see the taps of one residue
//! only, and for those they are a correlation of stride 1.
//!
//! An image, or as many as fit the cache, is packed once; then for each block of 16 output channels
//! the pixel tiles sum over all taps and input channels in registers and write a blocked image,
//! which is unpacked to planes. Tiles overlap where their size doesn't divide the image's: the
//! same sums are then written twice.
//!
//! Invariant of the unsafe code: [`Correlation::new`] checks for each part that the last tile's
//! last address lies in the packed image and in the blocked output, and [`Correlation::run`] checks
//! that the slices have the lengths for which that was checked.

use super::Conv2d;
use super::lanes::Simd;
use super::pack::{Placement, SLACK, aligned, unpack};
use super::tile::{BLOCK, PixelShape, PixelTile, pixel_tiles};

/// Packed images that are worked on together take up to this, in elements, so that weights that
/// come from beyond the second-level cache are used more than once.
pub(super) const TOGETHER_MAX: usize = 96 << 10;

/// Output pixels at a regular distance that see the same taps.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub rows: usize,
    pub cols: usize,
    /// The first pixel in the output, and the distances of rows and columns there.
    pub out: [usize; 3],
    /// For each tap: its index in the weights and its pixel in the packed image, for the part's
    /// first output pixel.
    pub taps: Vec<(usize, usize)>,
    /// The distance of rows in the packed image, in pixels.
    pub in_row: usize,
}

/// How the weights `[out_channels, in_channels / groups, taps]` are walked, in elements.
#[derive(Clone, Copy, Debug)]
struct WeightStrides {
    group: usize,
    out: usize,
    input: usize,
}

#[derive(Clone, Debug)]
struct Tiled {
    part: Part,
    shape: usize,
    /// Offsets into the packed image, by block of input channels and tap.
    steps: Vec<u32>,
}

/// A correlation, ready to run.
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    simd: Simd,
    groups: usize,
    /// Channels of a group, in and out.
    ins: usize,
    outs: usize,
    /// Channels of a packed pixel: 1 or 16.
    block: usize,
    placement: Placement,
    out_pixels: usize,
    strides: WeightStrides,
    parts: Vec<Tiled>,
}

/// The channels of a packed pixel for this many in a group: 16, unless much would be filled up.
pub(super) fn block_for(channels: usize) -> usize {
    let filled = channels.next_multiple_of(BLOCK) - channels;
    if filled * 8 <= channels { BLOCK } else { 1 }
}

/// The offsets of each block of channels and tap in a packed image.
pub(super) fn steps(channels: usize, block: usize, pixels: usize, taps: &[usize]) -> Vec<u32> {
    let blocks = (0..channels.div_ceil(block)).map(|b| b * pixels);
    let all = blocks.flat_map(|first| taps.iter().map(move |tap| first + tap));
    all.map(|pixel| (pixel * block) as u32).collect()
}

impl Correlation {
    pub fn forward(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, part) = forward_part(conv);
        let taps = conv.taps();
        let strides = WeightStrides {
            group: conv.group_out() * conv.group_in() * taps,
            out: conv.group_in() * taps,
            input: taps,
        };
        let channels = [conv.group_in(), conv.group_out()];
        let out_pixels = conv.out_h() * conv.out_w();
        let parts = vec![part];
        Self::new(conv, simd, channels, placement, out_pixels, strides, parts)
    }

    pub fn input_gradient(conv: &Conv2d, simd: Simd) -> Self {
        let (placement, parts) = input_gradient_parts(conv);
        let taps = conv.taps();
        let strides = WeightStrides {
            group: conv.group_out() * conv.group_in() * taps,
            out: taps,
            input: conv.group_in() * taps,
        };
        let channels = [conv.group_out(), conv.group_in()];
        let out_pixels = conv.in_h * conv.in_w;
        Self::new(conv, simd, channels, placement, out_pixels, strides, parts)
    }

    fn new(
        conv: &Conv2d,
        simd: Simd,
        [ins, outs]: [usize; 2],
        placement: Placement,
        out_pixels: usize,
        strides: WeightStrides,
        parts: Vec<Part>,
    ) -> Self {
        let block = block_for(ins);
        let image = placement.pixels * block * ins.div_ceil(block);
        let parts = parts.into_iter().map(|mut part| {
            let [_, out_row, out_col] = part.out;
            if part.in_row == part.cols && out_row == part.cols * out_col {
                // The rows follow each other on both sides: one long row.
                part.cols *= part.rows;
                part.rows = 1;
            }
            let shape = best_shape(simd, part.rows, part.cols);
            let taps: Vec<usize> = part.taps.iter().map(|&(_, pixel)| pixel).collect();
            let steps = steps(ins, block, placement.pixels, &taps);
            let last = (part.rows - 1) * part.in_row + part.cols;
            let last_step = steps.iter().max().map_or(0, |&step| step as usize);
            assert!(steps.is_empty() || last_step + last * block <= image);
            let last = part.out[0] + (part.rows - 1) * part.out[1] + (part.cols - 1) * part.out[2];
            assert!(last < out_pixels);
            Tiled { part, shape, steps }
        });
        Self {
            simd,
            groups: conv.groups,
            ins,
            outs,
            block,
            out_pixels,
            strides,
            parts: parts.collect(),
            placement,
        }
    }

    /// Elements of one packed image.
    fn image(&self) -> usize {
        self.placement.pixels * self.block * self.ins.div_ceil(self.block)
    }

    /// Images that are packed at a time.
    fn together(&self) -> usize {
        (TOGETHER_MAX / self.image()).max(1)
    }

    /// Elements of the packed weights of one block of output channels, over all parts.
    fn block_weights(&self) -> usize {
        let steps: usize = self.parts.iter().map(|part| part.steps.len()).sum();
        steps * self.block * BLOCK
    }

    /// Elements of the packed weights.
    pub fn packed_weights(&self) -> usize {
        self.groups * self.outs.div_ceil(BLOCK) * self.block_weights()
    }

    /// Elements of scratch for this many images.
    pub fn scratch(&self, images: usize) -> usize {
        let packed = self.together().min(images.max(1)) * self.image();
        SLACK + packed.next_multiple_of(BLOCK) + self.out_pixels * BLOCK + BLOCK
    }

    /// Packs the weights: by group, block of output channels, part, block of input channels, tap,
    /// input channel, output channel.
    pub fn pack_weights(&self, packed: &mut [f32], weights: &[f32]) {
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        let strides = &self.strides;
        let mut rest = packed;
        for group in 0..self.groups {
            for first_out in (0..self.outs).step_by(BLOCK) {
                let outs = (self.outs - first_out).min(BLOCK);
                for Tiled { part, .. } in &self.parts {
                    for first_in in (0..self.ins).step_by(self.block) {
                        let ins = (self.ins - first_in).min(self.block);
                        let len = part.taps.len() * self.block * BLOCK;
                        let (to, more) = rest.split_at_mut(len);
                        rest = more;
                        if outs < BLOCK || ins < self.block {
                            to.fill(0.0);
                        }
                        let from = group * strides.group
                            + first_out * strides.out
                            + first_in * strides.input;
                        for out in 0..outs {
                            for input in 0..ins {
                                let from = from + out * strides.out + input * strides.input;
                                for (t, &(tap, _)) in part.taps.iter().enumerate() {
                                    to[(t * self.block + input) * BLOCK + out] =
                                        weights[from + tap];
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Correlates `images` images of planes.
    pub fn run(
        &self,
        images: usize,
        [y, scratch]: [&mut [f32]; 2],
        x: &[f32],
        packed: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
    ) {
        let (in_group, out_group) = (
            self.ins * self.placement.image(),
            self.outs * self.out_pixels,
        );
        assert_eq!(x.len(), images * self.groups * in_group, "input");
        assert_eq!(y.len(), images * self.groups * out_group, "output");
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        assert!(scratch.len() >= self.scratch(images), "scratch");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), self.groups * self.outs, "bias");
        }
        let together = self.together().min(images.max(1));
        let image = self.image();
        let scratch = aligned(scratch);
        let (inputs, rest) = scratch.split_at_mut((together * image).next_multiple_of(BLOCK));
        let blocked = &mut rest[..self.out_pixels * BLOCK];
        inputs.fill(0.0);
        let block_weights = self.block_weights();
        for group in 0..self.groups {
            for first in (0..images).step_by(together) {
                let some = together.min(images - first);
                let numbers = (first..first + some).map(|n| n * self.groups + group);
                for (n, input) in numbers.clone().zip(inputs.chunks_exact_mut(image)) {
                    let x = &x[n * in_group..][..in_group];
                    self.placement.pack(self.simd, self.block, input, x);
                }
                for (b, first_out) in (0..self.outs).step_by(BLOCK).enumerate() {
                    let outs = (self.outs - first_out).min(BLOCK);
                    let mut start = [0.0; BLOCK];
                    if let Some(bias) = bias {
                        let bias = &bias[group * self.outs + first_out..][..outs];
                        start[..outs].copy_from_slice(bias);
                    }
                    let block = group * self.outs.div_ceil(BLOCK) + b;
                    let weights = &packed[block * block_weights..][..block_weights];
                    for (n, input) in numbers.clone().zip(inputs.chunks_exact(image)) {
                        self.block(blocked, input, weights, &start, relu);
                        let y = &mut y[n * out_group + first_out * self.out_pixels..]
                            [..outs * self.out_pixels];
                        unpack(self.simd, self.out_pixels, y, blocked);
                    }
                }
            }
        }
    }

    /// One block of output channels of one image.
    #[inline]
    fn block(
        &self,
        output: &mut [f32],
        input: &[f32],
        weights: &[f32],
        bias: &[f32; BLOCK],
        relu: bool,
    ) {
        assert_eq!(output.len(), self.out_pixels * BLOCK);
        assert_eq!(input.len(), self.image());
        let mut weights = weights;
        for Tiled { part, shape, steps } in &self.parts {
            let PixelShape {
                rows,
                cols,
                kernels,
            } = pixel_tiles(self.simd)[*shape];
            let kernel = kernels[usize::from(self.block == BLOCK)];
            let (of_part, rest) = weights.split_at(steps.len() * self.block * BLOCK);
            weights = rest;
            let [out, out_row, out_col] = part.out;
            let starts =
                |len: usize, size: usize| (0..len).step_by(size).map(move |at| at.min(len - size));
            for row in starts(part.rows, rows) {
                for col in starts(part.cols, cols) {
                    let from = if steps.is_empty() {
                        0
                    } else {
                        row * part.in_row + col
                    };
                    let to = out + row * out_row + col * out_col;
                    let tile = PixelTile {
                        input: input[from * self.block..].as_ptr(),
                        row: part.in_row * self.block,
                        steps,
                        weights: of_part.as_ptr(),
                        bias: bias.as_ptr(),
                        relu,
                        output: output[to * BLOCK..].as_mut_ptr(),
                        out_row: out_row * BLOCK,
                        out_col: out_col * BLOCK,
                    };
                    // SAFETY: the tile's pixels are within the part's rows and columns, whose last
                    // addresses `new` checked against the lengths asserted above; the weights are
                    // those of all steps; `simd` chose the kernel.
                    unsafe { kernel(&tile) };
                }
            }
        }
    }
}

/// The size of tile that takes least time for this many pixels.
pub(super) fn best_shape(simd: Simd, rows: usize, cols: usize) -> usize {
    let shapes = pixel_tiles(simd).iter().enumerate();
    let fitting = shapes.filter(|(_, shape)| shape.rows <= rows && shape.cols <= cols);
    let time = |shape: &PixelShape| {
        // A tile of a few pixels waits for its sums; the weights are loaded once a tile.
        let tile = (shape.rows * shape.cols * 4).max(20) + 4 + shape.rows;
        rows.div_ceil(shape.rows) * cols.div_ceil(shape.cols) * tile
    };
    let best = fitting.min_by_key(|(_, shape)| time(shape));
    best.map_or(pixel_tiles(simd).len() - 1, |(i, _)| i)
}

/// One axis of the forward pass.
struct Forward {
    /// The residues modulo the stride that the taps touch.
    residues: Vec<usize>,
    /// Positions of each residue.
    packed: usize,
    /// By tap: index of the residue, position.
    taps: Vec<(usize, usize)>,
}

fn forward_axis(conv: &Conv2d, axis: usize, out: usize, kernel: usize) -> Forward {
    let (stride, dilation) = (conv.stride[axis], conv.dilation[axis]);
    let mut residues: Vec<usize> = (0..kernel).map(|k| k * dilation % stride).collect();
    residues.sort_unstable();
    residues.dedup();
    let taps = (0..kernel).map(|k| {
        let residue = residues.binary_search(&(k * dilation % stride));
        (residue.unwrap_or(0), k * dilation / stride)
    });
    let taps: Vec<_> = taps.collect();
    Forward {
        packed: out + (kernel - 1) * dilation / stride,
        taps,
        residues,
    }
}

/// Where the forward pass and the weight gradient want the input, and the one part of the former.
pub(super) fn forward_part(conv: &Conv2d) -> (Placement, Part) {
    let (out_h, out_w) = (conv.out_h(), conv.out_w());
    let rows = forward_axis(conv, 0, out_h, conv.kernel_h);
    let cols = forward_axis(conv, 1, out_w, conv.kernel_w);
    let in_row = cols.residues.len() * cols.packed;
    let pixels = rows.residues.len() * rows.packed * in_row;
    let place = |axis: &Forward, at: usize, stride: usize| {
        let residue = axis.residues.binary_search(&(at % stride)).ok()?;
        (at / stride < axis.packed).then_some((residue, at / stride))
    };
    let pixel = |(row_residue, row): (usize, usize), (col_residue, col): (usize, usize)| {
        (row_residue * rows.packed + row) * in_row + col_residue * cols.packed + col
    };
    let placement = Placement::new([conv.in_h, conv.in_w], pixels, |row, col| {
        let row = place(&rows, row + conv.padding[0], conv.stride[0])?;
        let col = place(&cols, col + conv.padding[1], conv.stride[1])?;
        Some(pixel(row, col))
    });
    let taps = rows
        .taps
        .iter()
        .flat_map(|&row| cols.taps.iter().map(move |&col| (row, col)));
    let part = Part {
        rows: out_h,
        cols: out_w,
        out: [0, out_w, 1],
        taps: taps.map(|(row, col)| pixel(row, col)).enumerate().collect(),
        in_row,
    };
    (placement, part)
}

/// Where the input gradient wants the output's gradient, and its parts.
pub(super) fn input_gradient_parts(conv: &Conv2d) -> (Placement, Vec<Part>) {
    let rows = backward_axis(conv, 0, [conv.in_h, conv.out_h(), conv.kernel_h]);
    let cols = backward_axis(conv, 1, [conv.in_w, conv.out_w(), conv.kernel_w]);
    let pixels = rows.packed * cols.packed;
    let placement = Placement::new([conv.out_h(), conv.out_w()], pixels, |row, col| {
        let (row, col) = (row + rows.before, col + cols.before);
        (row < rows.packed && col < cols.packed).then(|| row * cols.packed + col)
    });
    let mut parts = Vec::new();
    for (r, row_taps) in rows.residues.iter().enumerate() {
        for (c, col_taps) in cols.residues.iter().enumerate() {
            let taps = row_taps.iter().flat_map(|&(k, row)| {
                let tap = move |&(l, col): &(usize, usize)| {
                    (k * conv.kernel_w + l, row * cols.packed + col)
                };
                col_taps.iter().map(tap)
            });
            let [row_stride, col_stride] = conv.stride;
            parts.push(Part {
                rows: (conv.in_h - r).div_ceil(row_stride),
                cols: (conv.in_w - c).div_ceil(col_stride),
                out: [r * conv.in_w + c, conv.in_w * row_stride, col_stride],
                taps: taps.collect(),
                in_row: cols.packed,
            });
        }
    }
    (placement, parts)
}

/// One axis of the input gradient.
struct Backward {
    /// Zeros before the gradient of the output.
    before: usize,
    /// Positions.
    packed: usize,
    /// By residue modulo the stride: the taps that its pixels see, and their positions.
    residues: Vec<Vec<(usize, usize)>>,
}

fn backward_axis(conv: &Conv2d, axis: usize, [input, out, kernel]: [usize; 3]) -> Backward {
    let [stride, padding, dilation] =
        [conv.stride, conv.padding, conv.dilation].map(|of| of[axis] as isize);
    // Input `stride · a + r` was multiplied by tap `k` for output `a + shift`.
    let shift = |r: isize, k: usize| {
        let distance = r + padding - k as isize * dilation;
        (distance % stride == 0).then_some(distance / stride)
    };
    let residues: Vec<Vec<(usize, isize)>> = (0..stride.min(input as isize))
        .map(|r| {
            (0..kernel)
                .filter_map(|k| Some((k, shift(r, k)?)))
                .collect()
        })
        .collect();
    let all = residues.iter().flatten().map(|&(_, shift)| shift);
    let before = (-all.min().unwrap_or(0)).max(0) as usize;
    let mut packed = out.min(1);
    for (r, taps) in residues.iter().enumerate() {
        let last = (input - r).div_ceil(conv.stride[axis]) as isize - 1;
        for (_, shift) in taps {
            packed = packed.max((last + shift + before as isize + 1) as usize);
        }
    }
    let position = |&(k, shift): &(usize, isize)| (k, (shift + before as isize) as usize);
    Backward {
        before,
        packed,
        residues: residues
            .iter()
            .map(|taps| taps.iter().map(position).collect())
            .collect(),
    }
}
