//! The operands of Winograd's weight gradient: the input and the output's gradient at the points.
//!
//! Invariant of the unsafe code: as in `winograd`.

use std::ops::Range;

use super::Conv2d;
use super::lanes::Simd;
use super::pack::Placement;
use super::points::{POINTS, Transforms};
use super::tile::{BLOCK, WeightTile, weight_tiles};
use super::winograd::Winograd;

/// How both are transformed, some images at a time.
#[derive(Clone, Debug)]
pub(super) struct PointOperands {
    conv: Conv2d,
    simd: Simd,
    forward: Winograd,
    /// The output's gradient, with zeros where the last tiles reach past it.
    outputs: Placement,
    /// Columns of its packed image.
    outputs_w: usize,
}

/// The memory of both.
pub(super) struct PointMemory<'a> {
    /// An image of the input and one block of an image of the output's gradient, packed.
    input: &'a mut [f32],
    output: &'a mut [f32],
    /// `[point][block of channels][tile][16]`
    inputs: &'a mut [f32],
    /// `[point][tile][16]`
    outputs: &'a mut [f32],
}

impl PointOperands {
    /// `together`: tiles that are worked on at a time, at least, in whole images.
    pub fn new(conv: &Conv2d, simd: Simd, together: usize) -> Self {
        let forward = Winograd::new(conv, simd, false, together);
        let [out_h, out_w] = [conv.out_h(), conv.out_w()];
        let outputs_w = out_w.next_multiple_of(forward.out());
        let pixels = out_h.next_multiple_of(forward.out()) * outputs_w;
        let outputs = Placement::new([out_h, out_w], pixels, |row, col| {
            Some(row * outputs_w + col)
        });
        Self {
            conv: *conv,
            simd,
            forward,
            outputs,
            outputs_w,
        }
    }

    /// Tiles of an image.
    pub fn image_tiles(&self) -> usize {
        self.forward.image_tiles()
    }

    /// Images that are worked on at a time.
    pub fn images_max(&self) -> usize {
        self.forward.tiles_max / self.image_tiles()
    }

    /// Blocks of input channels of a group.
    pub fn in_blocks(&self) -> usize {
        self.forward.in_blocks()
    }

    fn lens(&self) -> [usize; 4] {
        let most = POINTS * self.forward.tiles_max * BLOCK;
        let output = self.outputs.pixels * BLOCK;
        [self.forward.image(), output, most * self.in_blocks(), most]
    }

    /// Elements of memory.
    pub fn scratch(&self) -> usize {
        self.lens().iter().sum()
    }

    /// The memory in a slice of at least [`Self::scratch`].
    pub fn memory<'a>(&self, scratch: &'a mut [f32]) -> PointMemory<'a> {
        let mut rest = scratch;
        let [input, output, inputs, outputs] = self.lens().map(|len| {
            let (here, more) = std::mem::take(&mut rest).split_at_mut(len);
            rest = more;
            here
        });
        input.fill(0.0);
        output.fill(0.0);
        PointMemory {
            input,
            output,
            inputs,
            outputs,
        }
    }

    /// Transforms the inputs of a group of these images of the batch.
    pub fn transform_inputs(
        &self,
        memory: &mut PointMemory<'_>,
        images: Range<usize>,
        group: usize,
        x: &[f32],
    ) {
        let conv = &self.conv;
        let group_in = conv.group_in() * conv.in_h * conv.in_w;
        for (i, n) in images.enumerate() {
            let x = &x[(n * conv.groups + group) * group_in..][..group_in];
            let forward = &self.forward;
            forward.placement.pack(self.simd, BLOCK, memory.input, x);
            forward.transform(memory.inputs, memory.input, i * self.image_tiles());
        }
    }

    /// Transforms the gradients of `outs` output channels, up to 16, of these images of the batch.
    pub fn transform_outputs(
        &self,
        memory: &mut PointMemory<'_>,
        images: Range<usize>,
        [first_out, outs]: [usize; 2],
        dy: &[f32],
    ) {
        let pixels = self.conv.out_h() * self.conv.out_w();
        for (i, n) in images.enumerate() {
            let channel = n * self.conv.out_channels + first_out;
            let dy = &dy[channel * pixels..][..outs * pixels];
            self.outputs.pack(self.simd, BLOCK, memory.output, dy);
            self.transform(memory.outputs, memory.output, i * self.image_tiles());
        }
    }

    /// Transforms the tiles of an image of the output's gradient.
    fn transform(&self, to: &mut [f32], output: &[f32], first: usize) {
        let transforms = Transforms::of(self.simd, self.forward.kernel);
        let (out, [down, across]) = (self.forward.out(), self.forward.tiles());
        let point = self.forward.tiles_max * BLOCK;
        let row = self.outputs_w * BLOCK;
        for tile in 0..down * across {
            let (i, j) = (tile / across, tile % across);
            let from = &output[i * out * row + j * out * BLOCK..];
            let from = &from[..(out - 1) * row + out * BLOCK];
            let to = &mut to[(first + tile) * BLOCK..][..(POINTS - 1) * point + BLOCK];
            // SAFETY: `from` and `to` hold the last pixel and point; `simd` chose the transform.
            unsafe { (transforms.gradient)(from.as_ptr(), row, to.as_mut_ptr(), point) };
        }
    }

    /// At a point: `sums (+)=` the input channels of a block by `tiles` tiles, times the tiles by 16
    /// output channels.
    pub fn multiply(
        &self,
        memory: &PointMemory<'_>,
        [point, block, tiles]: [usize; 3],
        sums: &mut [f32],
        accumulate: bool,
    ) {
        let most = self.forward.tiles_max * BLOCK;
        let x = &memory.inputs[(point * self.in_blocks() + block) * most..][..tiles * BLOCK];
        let dy = &memory.outputs[point * most..][..tiles * BLOCK];
        let shapes = weight_tiles(self.simd, BLOCK);
        let shape = shapes[shapes.len() - 1];
        assert_eq!(shape.taps, 1);
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
            // SAFETY: `x` and `dy` hold as many blocks as there are tiles, and the tile's channels
            // lie in a block; `simd` chose the kernel.
            unsafe { (shape.kernel)(&tile) };
        }
    }
}
