//! Convolutions by matrix products of unfolded images (im2col), one sample and group at a time, for
//! either float type.

use ringfold_graph::op::{Conv, ConvPart, Unary, Windows};

use super::{Source, functions};
use crate::backend::{Precision, RunArgs};
use crate::cpu::gemm::{MatMul, matmul};
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;

/// The sizes of a convolution, whatever part of it is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub windows: Windows,
    pub samples: usize,
    pub groups: usize,
    /// Channels of the image, in a group.
    pub channels: usize,
    /// Channels of the result, in a group.
    pub filters: usize,
    pub image: [usize; 2],
    pub kernel: [usize; 2],
    pub output: [usize; 2],
}

impl Sizes {
    pub fn new(op: &Conv, first: &[usize], second: &[usize], result: &[usize]) -> Self {
        let (x, w, y) = match op.part {
            ConvPart::Forward => (first, second, result),
            ConvPart::Image { .. } => (result, second, first),
            ConvPart::Weight { .. } => (second, result, first),
        };
        Self {
            windows: op.windows,
            samples: x[0],
            groups: op.groups,
            channels: x[1] / op.groups,
            filters: w[0] / op.groups,
            image: [x[2], x[3]],
            kernel: [w[2], w[3]],
            output: [y[2], y[3]],
        }
    }

    /// Elements of an image in one channel.
    fn pixels(&self) -> usize {
        self.image[0] * self.image[1]
    }

    /// Windows of an image.
    fn outputs(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements that go into one sum.
    fn unfolded(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// The floats of one unfolded image of one group.
    pub fn scratch(&self) -> usize {
        if self.is_plain() {
            return 0;
        }
        self.unfolded() * self.outputs()
    }

    /// True if an image is its own unfolding.
    fn is_plain(&self) -> bool {
        self.kernel == [1; 2] && self.windows == Windows::default()
    }

    /// Calls `f` for each row of the unfolding and each row of windows: the channel's row of the
    /// image if there is one, the first column that the first window sees, and the position in the
    /// unfolding.
    #[inline(always)]
    fn rows(&self, mut f: impl FnMut(Option<usize>, isize, usize)) {
        let [kh, kw] = self.kernel;
        let mut position = 0;
        for channel in 0..self.channels {
            for ky in 0..kh {
                for kx in 0..kw {
                    let column =
                        (kx * self.windows.dilation[1]) as isize - self.windows.before[1] as isize;
                    for oy in 0..self.output[0] {
                        let row = (oy * self.windows.stride[0] + ky * self.windows.dilation[0])
                            .checked_sub(self.windows.before[0])
                            .filter(|&row| row < self.image[0]);
                        let row = row.map(|row| channel * self.pixels() + row * self.image[1]);
                        f(row, column, position);
                        position += self.output[1];
                    }
                }
            }
        }
    }

    /// The windows of a row whose element at `column` lies inside the image.
    #[inline(always)]
    fn inside(&self, column: isize) -> std::ops::Range<usize> {
        let stride = self.windows.stride[1];
        let width = self.image[1] as isize;
        let first = (-column).max(0) as usize;
        let first = first.div_ceil(stride).min(self.output[1]);
        let end = (width - column).max(0) as usize;
        let end = end.div_ceil(stride).min(self.output[1]);
        first..end.max(first)
    }

    /// Unfolds one group of one image.
    fn unfold<T: Element>(&self, to: &mut [T], image: &[T]) {
        let stride = self.windows.stride[1];
        self.rows(|row, column, position| {
            let to = &mut to[position..position + self.output[1]];
            let Some(row) = row else {
                return to.fill(T::ZERO);
            };
            let range = self.inside(column);
            to[..range.start].fill(T::ZERO);
            to[range.end..].fill(T::ZERO);
            if range.is_empty() {
                return;
            }
            let first = (column + (range.start * stride) as isize) as usize;
            let from = &image[row + first..row + self.image[1]];
            let to = &mut to[range];
            if stride == 1 {
                to.copy_from_slice(&from[..to.len()]);
            } else {
                let from = from.iter().step_by(stride);
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = x);
            }
        });
    }

    /// Adds an unfolding to the image that it is of.
    fn fold<T: Element>(&self, image: &mut [T], from: &[T]) {
        let stride = self.windows.stride[1];
        self.rows(|row, column, position| {
            let Some(row) = row else { return };
            let range = self.inside(column);
            if range.is_empty() {
                return;
            }
            let first = (column + (range.start * stride) as isize) as usize;
            let to = image[row + first..row + self.image[1]].iter_mut();
            let from = &from[position..position + self.output[1]][range];
            to.step_by(stride).zip(from).for_each(|(to, &x)| *to += x);
        });
    }
}

/// A part of a convolution. The matrix products use the threads.
#[derive(Debug)]
pub(super) struct UnfoldKernel {
    pub part: ConvPart,
    /// Negative elements of a forward result become 0.
    pub relu: bool,
    pub sizes: Sizes,
    pub threads: usize,
}

impl<T: Element> Kernel<T> for UnfoldKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let scratch = results.scratch();
        let dst = results.take(0);
        let (a, b) = (operands.slice(0), operands.slice(1));
        let sizes = &self.sizes;
        let (unfolded, outputs) = (sizes.unfolded(), sizes.outputs());
        let image_len = sizes.channels * sizes.pixels();
        let result_len = sizes.filters * outputs;
        let weight_len = sizes.filters * unfolded;
        let product = MatMul {
            m: sizes.filters,
            n: outputs,
            k: unfolded,
            lhs_transposed: false,
            rhs_transposed: false,
            accumulate: false,
            threads: self.threads,
            precision: Precision::Full,
        };
        for i in 0..sizes.samples * sizes.groups {
            let group = i % sizes.groups;
            let image = i * image_len..(i + 1) * image_len;
            let result = i * result_len..(i + 1) * result_len;
            let weight = group * weight_len..(group + 1) * weight_len;
            match self.part {
                ConvPart::Forward => {
                    let y = &mut dst[result];
                    let has_bias = operands.len() == 3;
                    if has_bias {
                        let bias = &operands.slice(2)[group * sizes.filters..];
                        let rows = y.chunks_exact_mut(outputs).zip(bias);
                        rows.for_each(|(row, &bias)| row.fill(bias));
                    }
                    let spec = MatMul {
                        accumulate: has_bias,
                        ..product
                    };
                    let columns = columns(sizes, scratch, &a[image]);
                    matmul(&spec, y, &b[weight], columns);
                    if self.relu {
                        functions::unary(Unary::Relu, y, Source::InPlace);
                    }
                }
                ConvPart::Image { .. } => {
                    let spec = MatMul {
                        m: unfolded,
                        k: sizes.filters,
                        lhs_transposed: true,
                        ..product
                    };
                    let dx = &mut dst[image];
                    if sizes.is_plain() {
                        matmul(&spec, dx, &b[weight], &a[result]);
                    } else {
                        matmul(&spec, scratch, &b[weight], &a[result]);
                        dx.fill(T::ZERO);
                        sizes.fold(dx, scratch);
                    }
                }
                ConvPart::Weight { .. } => {
                    let spec = MatMul {
                        n: unfolded,
                        k: outputs,
                        rhs_transposed: true,
                        accumulate: i >= sizes.groups,
                        ..product
                    };
                    let columns = columns(sizes, scratch, &b[image]);
                    matmul(&spec, &mut dst[weight], &a[result], columns);
                }
            }
        }
    }
}

/// One group of one image, unfolded.
fn columns<'a, T: Element>(sizes: &Sizes, scratch: &'a mut [T], image: &'a [T]) -> &'a [T] {
    if sizes.is_plain() {
        return image;
    }
    sizes.unfold(scratch, image);
    scratch
}
