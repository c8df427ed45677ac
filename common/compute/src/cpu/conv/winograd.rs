//! The convolution of stride 1 with kernels of 3 × 3 or 5 × 5 by Winograd's transforms, see `points`.
//!
//! Tiles of 6 × 6 inputs and the weights are transformed to [`POINTS`] points each; at every point
//! the channels are multiplied as matrices; what comes out is transformed to tiles of outputs. For
//! 3 × 3 that takes 36 multiplications for 4 × 4 outputs instead of 144, for 5 × 5 36 for 2 × 2 instead
//! of 100. The transforms cost some rounding: the worst of many sums of `n` products of numbers up
//! to 1 is off by less than 3e-5 · √n, some ten times what direct sums are off by.
//!
//! As in `correlate`, images are packed into blocks of 16 channels first and unpacked at the end,
//! and the products run in pixel tiles, whose pixels are the tiles of all images at hand.
//!
//! Invariant of the unsafe code: the transforms and tiles are reached only through a [`Simd`], the
//! proof of their instructions; each `unsafe` call is preceded by the slices from which its
//! addresses are taken.

use super::Conv2d;
use super::correlate::best_shape;
use super::lanes::Simd;
use super::pack::{Placement, SLACK, aligned, unpack};
use super::points::{IN, OutputTile, POINTS, TAPS_MAX, Transforms};
use super::tile::{BLOCK, PixelTile, pixel_tiles};

/// Tiles that are worked on together, at least, where there are as many images.
const TOGETHER_MIN: usize = 28;

/// The forward pass or the input gradient, ready to run.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    simd: Simd,
    groups: usize,
    /// Channels of a group, in and out.
    ins: usize,
    outs: usize,
    pub placement: Placement,
    /// Columns of a packed image.
    packed_w: usize,
    out_h: usize,
    out_w: usize,
    /// Tiles that are worked on together.
    pub tiles_max: usize,
    /// Where each block of input channels lies at a point.
    pub steps: Vec<u32>,
    /// Distances in the weights, in elements.
    weight_group: usize,
    weight_out: usize,
    weight_in: usize,
    /// Rows and columns of the kernel, 3 or 5.
    pub kernel: usize,
    /// The kernel is turned by 180°.
    turned: bool,
}

impl Winograd {
    /// True if the sums are of this kind.
    pub fn fits(conv: &Conv2d) -> bool {
        let kernel = conv.kernel_h == conv.kernel_w && [3, 5].contains(&conv.kernel_h);
        let plain = conv.stride == [1, 1] && conv.dilation == [1, 1];
        let paddings = conv.padding.into_iter().chain(conv.padding_after);
        kernel && plain && paddings.max() < Some(conv.kernel_h)
    }

    /// True if this is also faster than the direct sum.
    pub fn pays(conv: &Conv2d) -> bool {
        let full = |channels: usize| channels >= 32 && channels.is_multiple_of(BLOCK);
        if !Self::fits(conv) {
            return false;
        }
        let out = IN + 1 - conv.kernel_h;
        let filled = conv.out_h() >= out && conv.out_w() >= out;
        // The weights are transformed anew each step, for no more tiles than these.
        let tiles = Self::batch_tiles(conv);
        full(conv.group_in()) && full(conv.group_out()) && filled && tiles >= 32
    }

    /// Tiles of the batch.
    pub fn batch_tiles(conv: &Conv2d) -> usize {
        let tiles = |size: usize| size.div_ceil(IN + 1 - conv.kernel_h);
        conv.batch * tiles(conv.out_h()) * tiles(conv.out_w())
    }

    pub fn forward(conv: &Conv2d, simd: Simd) -> Self {
        Self::new(conv, simd, false, TOGETHER_MIN)
    }

    pub fn input_gradient(conv: &Conv2d, simd: Simd) -> Self {
        Self::new(conv, simd, true, TOGETHER_MIN)
    }

    /// `together`: tiles that are worked on at a time, at least, in whole images.
    pub fn new(conv: &Conv2d, simd: Simd, turned: bool, together: usize) -> Self {
        let sizes = [[conv.in_h, conv.in_w], [conv.out_h(), conv.out_w()]];
        let channels = [conv.group_in(), conv.group_out()];
        let taps = conv.taps();
        let strides = [taps, conv.group_in() * taps];
        let kernel = conv.kernel_h;
        let size = IN + 1 - kernel;
        // The input gradient goes the other way, and sees the padding that the kernel left.
        let [from, to] = if turned { [1, 0] } else { [0, 1] };
        let padding = conv
            .padding
            .map(|p| if turned { kernel - 1 - p } else { p });
        let [out_h, out_w] = sizes[to];
        let packed = |out: usize| out.next_multiple_of(size) + IN - size;
        let (packed_h, packed_w) = (packed(out_h), packed(out_w));
        let placement = Placement::new(sizes[from], packed_h * packed_w, |row, col| {
            Some((row + padding[0]) * packed_w + col + padding[1])
        });
        let image_tiles = out_h.div_ceil(size) * out_w.div_ceil(size);
        let tiles_max = together.div_ceil(image_tiles) * image_tiles;
        let blocks = 0..channels[from].div_ceil(BLOCK);
        Self {
            simd,
            groups: conv.groups,
            ins: channels[from],
            outs: channels[to],
            placement,
            packed_w,
            out_h,
            out_w,
            tiles_max,
            steps: blocks.map(|b| (b * tiles_max * BLOCK) as u32).collect(),
            weight_group: conv.group_in() * conv.group_out() * taps,
            weight_out: strides[to],
            weight_in: strides[from],
            kernel,
            turned,
        }
    }

    pub fn in_blocks(&self) -> usize {
        self.ins.div_ceil(BLOCK)
    }

    /// Outputs of a tile along an axis.
    pub fn out(&self) -> usize {
        IN + 1 - self.kernel
    }

    /// Tiles of an image, down and across.
    pub fn tiles(&self) -> [usize; 2] {
        [self.out_h, self.out_w].map(|out| out.div_ceil(self.out()))
    }

    pub fn image_tiles(&self) -> usize {
        let [down, across] = self.tiles();
        down * across
    }

    /// Elements of a packed image.
    pub fn image(&self) -> usize {
        self.placement.pixels * self.in_blocks() * BLOCK
    }

    /// Elements of the transformed weights of one block of output channels.
    fn block_weights(&self) -> usize {
        POINTS * self.in_blocks() * BLOCK * BLOCK
    }

    pub fn packed_weights(&self) -> usize {
        self.groups * self.outs.div_ceil(BLOCK) * self.block_weights()
    }

    /// Elements of scratch.
    pub fn scratch(&self) -> usize {
        let transformed = POINTS * self.tiles_max * BLOCK * (self.in_blocks() + 1);
        SLACK + self.image() + transformed + self.out_h * self.out_w * BLOCK
    }

    /// Transforms the weights: by group, block of output channels, point, input channel, output
    /// channel.
    pub fn pack_weights(&self, packed: &mut [f32], weights: &[f32]) {
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        let transforms = Transforms::of(self.simd, self.kernel);
        let taps = self.kernel * self.kernel;
        let out_blocks = self.outs.div_ceil(BLOCK);
        let point = self.in_blocks() * BLOCK * BLOCK;
        for (b, to) in packed.chunks_exact_mut(self.block_weights()).enumerate() {
            let (group, first_out) = (b / out_blocks, b % out_blocks * BLOCK);
            let outs = (self.outs - first_out).min(BLOCK);
            for input in 0..self.in_blocks() * BLOCK {
                let mut g = [[0.0; BLOCK]; TAPS_MAX];
                if input < self.ins {
                    let from = group * self.weight_group
                        + first_out * self.weight_out
                        + input * self.weight_in;
                    for (tap, g) in g[..taps].iter_mut().enumerate() {
                        let tap = if self.turned { taps - 1 - tap } else { tap };
                        let all = weights[from + tap..].iter().step_by(self.weight_out);
                        for (g, &w) in g.iter_mut().zip(all.take(outs)) {
                            *g = w;
                        }
                    }
                }
                let to = &mut to[input * BLOCK..][..(POINTS - 1) * point + BLOCK];
                // SAFETY: `to` holds the last point; `simd` chose the transform.
                unsafe { (transforms.weights)(&g, to.as_mut_ptr(), point) };
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
        let out_pixels = self.out_h * self.out_w;
        let (in_group, out_group) = (self.ins * self.placement.image(), self.outs * out_pixels);
        assert_eq!(x.len(), images * self.groups * in_group, "input");
        assert_eq!(y.len(), images * self.groups * out_group, "output");
        assert_eq!(packed.len(), self.packed_weights(), "packed weights");
        assert!(scratch.len() >= self.scratch(), "scratch");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), self.groups * self.outs, "bias");
        }
        let together = self.tiles_max / self.image_tiles();
        let most = self.tiles_max * BLOCK;
        let (input, rest) = aligned(scratch).split_at_mut(self.image());
        let (points, rest) = rest.split_at_mut(POINTS * most * self.in_blocks());
        let (products, rest) = rest.split_at_mut(POINTS * most);
        let blocked = &mut rest[..out_pixels * BLOCK];
        input.fill(0.0);
        for group in 0..self.groups {
            for first in (0..images).step_by(together) {
                let some = first..(first + together).min(images);
                let tiles = some.len() * self.image_tiles();
                for (i, n) in some.clone().enumerate() {
                    let x = &x[(n * self.groups + group) * in_group..][..in_group];
                    self.placement.pack(self.simd, BLOCK, input, x);
                    self.transform(points, input, i * self.image_tiles());
                }
                for (b, first_out) in (0..self.outs).step_by(BLOCK).enumerate() {
                    let outs = (self.outs - first_out).min(BLOCK);
                    let mut start = [0.0; BLOCK];
                    if let Some(bias) = bias {
                        let bias = &bias[group * self.outs + first_out..][..outs];
                        start[..outs].copy_from_slice(bias);
                    }
                    let block = group * self.outs.div_ceil(BLOCK) + b;
                    let weights = &packed[block * self.block_weights()..][..self.block_weights()];
                    self.multiply(products, points, weights, tiles);
                    for (i, n) in some.clone().enumerate() {
                        let first = i * self.image_tiles();
                        self.transform_back(blocked, products, first, &start, relu);
                        let y = &mut y[(n * self.groups + group) * out_group..];
                        let y = &mut y[first_out * out_pixels..][..outs * out_pixels];
                        unpack(self.simd, out_pixels, y, blocked);
                    }
                }
            }
        }
    }

    /// Transforms an image's tiles: `points` is `[point][block of channels][tile][16]`.
    pub fn transform(&self, points: &mut [f32], input: &[f32], first: usize) {
        let transforms = Transforms::of(self.simd, self.kernel);
        let (out, [down, across]) = (self.out(), self.tiles());
        let point = self.in_blocks() * self.tiles_max * BLOCK;
        let row = self.packed_w * BLOCK;
        let blocks = input.chunks_exact(self.placement.pixels * BLOCK);
        for (input, &step) in blocks.zip(&self.steps) {
            for tile in 0..down * across {
                let (i, j) = (tile / across, tile % across);
                let from = &input[i * out * row + j * out * BLOCK..];
                let from = &from[..(IN - 1) * row + IN * BLOCK];
                let to = &mut points[step as usize + (first + tile) * BLOCK..];
                let to = &mut to[..(POINTS - 1) * point + BLOCK];
                // SAFETY: `from` and `to` hold the last pixel and point; `simd` chose the
                // transform.
                unsafe { (transforms.input)(from.as_ptr(), row, to.as_mut_ptr(), point) };
            }
        }
    }

    /// At each point: tiles by input channels, times input by 16 output channels. `products` is
    /// `[point][tile][16]`.
    fn multiply(&self, products: &mut [f32], points: &[f32], weights: &[f32], tiles: usize) {
        let shape = pixel_tiles(self.simd)[best_shape(self.simd, 1, tiles)];
        let blocks = self.in_blocks();
        let products = products.chunks_exact_mut(self.tiles_max * BLOCK);
        let points = points.chunks_exact(blocks * self.tiles_max * BLOCK);
        let weights = weights.chunks_exact(blocks * BLOCK * BLOCK);
        let zeros = [0.0; BLOCK];
        for ((to, from), weights) in products.zip(points).zip(weights) {
            for tile in (0..tiles).step_by(shape.cols) {
                let tile = tile.min(tiles - shape.cols) * BLOCK;
                let last = (blocks - 1) * self.tiles_max * BLOCK + shape.cols * BLOCK;
                let tile = PixelTile {
                    input: from[tile..][..last].as_ptr(),
                    row: 0,
                    steps: &self.steps,
                    weights: weights.as_ptr(),
                    bias: zeros.as_ptr(),
                    relu: false,
                    output: to[tile..][..shape.cols * BLOCK].as_mut_ptr(),
                    out_row: 0,
                    out_col: BLOCK,
                };
                // SAFETY: the slices hold the last block's last pixel; a shape that fits one row
                // has one; the weights are those of all steps; `simd` chose the kernel.
                unsafe { (shape.kernels[1])(&tile) };
            }
        }
    }

    /// Transforms the products of an image's tiles to a blocked image.
    fn transform_back(
        &self,
        blocked: &mut [f32],
        products: &[f32],
        first: usize,
        bias: &[f32; BLOCK],
        relu: bool,
    ) {
        let transforms = Transforms::of(self.simd, self.kernel);
        let (out, [down, across]) = (self.out(), self.tiles());
        let point = self.tiles_max * BLOCK;
        for tile in 0..down * across {
            let (row, col) = (tile / across * out, tile % across * out);
            let size = [(self.out_h - row).min(out), (self.out_w - col).min(out)];
            let from = &products[(first + tile) * BLOCK..][..(POINTS - 1) * point + BLOCK];
            let y = &mut blocked[(row * self.out_w + col) * BLOCK..];
            let y = &mut y[..((size[0] - 1) * self.out_w + size[1]) * BLOCK];
            let job = OutputTile {
                from: from.as_ptr(),
                point,
                bias,
                relu,
                y: y.as_mut_ptr(),
                row: self.out_w * BLOCK,
                size,
            };
            // SAFETY: `from` and `y` hold the last point and pixel; `simd` chose the transform.
            unsafe { (transforms.output)(&job) };
        }
    }
}
