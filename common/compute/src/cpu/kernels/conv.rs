//! Convolutions.
//!
//! This file is their seam: [`lower`] and [`scratch_len`] are all that the rest knows. Those of `f32`
//! go to [`crate::cpu::conv`]; those of `f64`, and shapes that it refuses, are matrix products of
//! unfolded images.
//!
//! With threads the images are cut into as many runs for the team, the weight gradient's
//! units likewise. Neither the cut of images nor who computes a unit shows in the bits.
//!
//! Invariant of the unsafe code: the runs of one region have no unit, partial sum or scratch in common.

use std::sync::Arc;

use ringfold_graph::DType;
use ringfold_graph::op::{Conv, ConvPart};

use super::runs::Shared;
use super::unfold::{Sizes, UnfoldKernel};
use crate::backend::RunArgs;
use crate::cpu::conv::{Algorithm, Conv2d, Convolution, Epilogue, Simd};
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::for_units;
use crate::cpu::team;
use crate::element::Element;
use crate::plan::Call;

/// The kernel of a convolution; `relu` is taken of the result of a forward one.
pub(crate) fn lower<T: Element>(
    op: Conv,
    relu: bool,
    call: &Call,
    threads: usize,
) -> Arc<dyn Kernel<T>> {
    let shape = |operand: usize| call.operands[operand].shape.as_slice();
    let sizes = Sizes::new(&op, shape(0), shape(1), &call.results[0].shape);
    match BlockedKernel::new::<T>(op.part, &sizes, threads) {
        Some(kernel) => Arc::new(BlockedKernel { relu, ..kernel }),
        None => Arc::new(UnfoldKernel {
            part: op.part,
            relu,
            sizes,
            threads,
        }),
    }
}

/// The floats that the kernel needs for itself.
pub(crate) fn scratch_len<T: Element>(
    op: &Conv,
    operands: &[Vec<usize>],
    results: &[Vec<usize>],
    threads: usize,
) -> usize {
    let sizes = Sizes::new(op, &operands[0], &operands[1], &results[0]);
    match BlockedKernel::new::<T>(op.part, &sizes, threads) {
        Some(kernel) => kernel.shared() + kernel.threads * kernel.own(),
        None => sizes.scratch(),
    }
}

/// A part of a convolution of `f32`, by blocks of channels.
///
/// Its scratch is what all threads share, then what each has for itself.
#[derive(Debug)]
struct BlockedKernel {
    part: ConvPart,
    /// Negative elements of a forward result become 0.
    relu: bool,
    kernels: Convolution,
    /// Threads that have work, at least 1.
    threads: usize,
}

impl BlockedKernel {
    fn new<T: Element>(part: ConvPart, sizes: &Sizes, threads: usize) -> Option<Self> {
        if T::DTYPE != DType::F32 || sizes.samples == 0 {
            return None;
        }
        let Sizes {
            windows, groups, ..
        } = *sizes;
        let conv = Conv2d {
            batch: sizes.samples,
            in_channels: sizes.channels * groups,
            out_channels: sizes.filters * groups,
            in_h: sizes.image[0],
            in_w: sizes.image[1],
            kernel_h: sizes.kernel[0],
            kernel_w: sizes.kernel[1],
            stride: windows.stride,
            padding: windows.before,
            padding_after: windows.after,
            dilation: windows.dilation,
            groups,
        };
        let kernels = Convolution::new(&conv, Simd::widest(), Algorithm::Fastest).ok()?;
        let work = match part {
            ConvPart::Weight { .. } => kernels.weight_units(),
            _ => conv.batch,
        };
        Some(Self {
            part,
            relu: false,
            threads: threads.min(work),
            kernels,
        })
    }

    /// Images of a thread, at most.
    fn images(&self) -> usize {
        self.kernels.conv().batch.div_ceil(self.threads)
    }

    /// Elements of the packed weights, or of all partial sums.
    fn shared(&self) -> usize {
        let kernels = &self.kernels;
        let len = match self.part {
            ConvPart::Forward => kernels.forward_packed(),
            ConvPart::Image { .. } => kernels.input_gradient_packed(),
            ConvPart::Weight { .. } => kernels.weight_partials(),
        };
        len.next_multiple_of(LINE)
    }

    /// Elements that a thread has for itself.
    fn own(&self) -> usize {
        let kernels = &self.kernels;
        let len = match self.part {
            ConvPart::Forward => kernels.forward_scratch(self.images()),
            ConvPart::Image { .. } => kernels.input_gradient_scratch(self.images()),
            ConvPart::Weight { .. } => kernels.weight_scratch(),
        };
        len.next_multiple_of(LINE)
    }

    /// Calls `f` for runs of images: their number, `to` of them, `from` of them and scratch.
    fn each_run(
        &self,
        to: &mut [f32],
        from: &[f32],
        scratch: &mut [f32],
        f: impl Fn(usize, &mut [f32], &[f32], &mut [f32]) + Sync,
    ) {
        let batch = self.kernels.conv().batch;
        if self.threads == 1 {
            return f(batch, to, from, scratch);
        }
        let (to_image, from_image) = (to.len() / batch, from.len() / batch);
        let images = self.images();
        let steps = [images * to_image, self.own()];
        for_units(
            0..batch.div_ceil(images),
            [to, scratch],
            steps,
            self.threads,
            &|run, [to, scratch]| {
                let count = to.len() / to_image;
                let from = &from[run * images * from_image..][..count * from_image];
                f(count, to, from, scratch);
            },
        );
    }

    /// Computes all units, each into its part of `partials`, on scratch of the threads.
    fn units(&self, partials: &mut [f32], scratch: &mut [f32], operands: [&[f32]; 2]) {
        let kernels = &self.kernels;
        let (count, own) = (kernels.weight_units(), self.own());
        let threads = self.threads.min(count).max(1);
        if threads == 1 {
            return kernels.weight_run(0..count, partials, operands[0], operands[1], scratch);
        }
        let (partials, scratch) = (Shared::new(partials), Shared::new(scratch));
        team::run(threads, |run| {
            let units = count * run / threads..count * (run + 1) / threads;
            let start = kernels.weight_unit_range(units.start).start;
            let end = kernels.weight_unit_range(units.end - 1).end;
            // SAFETY: runs have no unit in common, units no partial sums, and runs no scratch.
            let (partials, scratch) = unsafe {
                (
                    partials.range(start..end),
                    scratch.range(run * own..(run + 1) * own),
                )
            };
            kernels.weight_run(units, partials, operands[0], operands[1], scratch);
        });
    }
}

/// Elements of a cache line: where the threads' scratch starts.
const LINE: usize = 16;

/// A slice of the `f32` that [`BlockedKernel::new`] found.
fn f32s<T: Element>(slice: &[T]) -> &[f32] {
    T::as_f32(slice).unwrap_or(&[])
}

/// As [`f32s`].
fn f32s_mut<T: Element>(slice: &mut [T]) -> &mut [f32] {
    T::as_f32_mut(slice).unwrap_or(&mut [])
}

impl<T: Element> Kernel<T> for BlockedKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let kernels = &self.kernels;
        let (shared, scratch) = f32s_mut(results.scratch()).split_at_mut(self.shared());
        let dst = f32s_mut(results.take(0));
        let (a, b) = (f32s(operands.slice(0)), f32s(operands.slice(1)));
        match self.part {
            ConvPart::Forward => {
                let packed = &mut shared[..kernels.forward_packed()];
                kernels.pack_forward(packed, b);
                let packed = &*packed;
                let epilogue = Epilogue {
                    bias: (operands.len() == 3).then(|| f32s(operands.slice(2))),
                    relu: self.relu,
                };
                self.each_run(dst, a, scratch, |images, y, x, scratch| {
                    kernels.forward(images, y, x, packed, epilogue, scratch);
                });
            }
            ConvPart::Image { .. } => {
                let packed = &mut shared[..kernels.input_gradient_packed()];
                kernels.pack_input_gradient(packed, b);
                let packed = &*packed;
                self.each_run(dst, a, scratch, |images, dx, dy, scratch| {
                    kernels.input_gradient(images, dx, dy, packed, scratch);
                });
            }
            ConvPart::Weight { .. } => {
                let partials = &mut shared[..kernels.weight_partials()];
                self.units(partials, scratch, [b, a]);
                kernels.fold_weights(dst, partials);
            }
        }
    }
}
