//! Kernels of pooling.
//!
//! Each row of windows runs over the elements of a window in their order, and over the windows in
//! vectors. Channels of images are independent; with threads they are cut into as many runs for the
//! team, which doesn't show in the bits.

use std::ops::Range;
use std::sync::Arc;

use ringfold_graph::op::{Pool, PoolGrad, Pooling};

use super::halve::{self, larger};
use super::runs::{each_run, each_run_with};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn pool<T: Element>(op: Pool, call: &Call, threads: usize) -> Arc<dyn Kernel<T>> {
    let (x, y) = (&call.operands[0].shape, &call.results[0].shape);
    Arc::new(PoolKernel {
        sizes: Sizes::new(&op, [x[2], x[3]], [y[2], y[3]]),
        threads,
    })
}

pub(crate) fn pool_grad<T: Element>(
    op: PoolGrad,
    call: &Call,
    threads: usize,
) -> Arc<dyn Kernel<T>> {
    let dy = &call.operands[call.operands.len() - 1].shape;
    Arc::new(PoolGradKernel {
        sizes: Sizes::new(&op.pool, op.size, [dy[2], dy[3]]),
        threads,
    })
}

/// The floats that the gradient needs for an output of this shape: two rows of windows for each
/// thread.
pub(crate) fn grad_scratch_len(op: &PoolGrad, dy: &[usize], threads: usize) -> usize {
    match op.pool.pooling {
        Pooling::Max => 2 * dy[3] * threads,
        Pooling::Average { .. } => 0,
    }
}

/// Windows along one dimension.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    fn new(op: &Pool, axis: usize, image: [usize; 2], output: [usize; 2]) -> Self {
        let windows = &op.windows;
        Self {
            input: image[axis],
            output: output[axis],
            kernel: op.kernel[axis],
            stride: windows.stride[axis],
            dilation: windows.dilation[axis],
            before: windows.before[axis],
            after: windows.after[axis],
        }
    }

    /// The input that element `k` of window `i` meets.
    #[inline(always)]
    fn at(self, i: usize, k: usize) -> Option<usize> {
        let at = (i * self.stride + k * self.dilation).checked_sub(self.before)?;
        (at < self.input).then_some(at)
    }

    /// The windows whose element `k` meets the input.
    #[inline(always)]
    fn seen(self, k: usize) -> Range<usize> {
        let k = k * self.dilation;
        let first = self.before.saturating_sub(k).div_ceil(self.stride);
        let end = (self.input + self.before).saturating_sub(k);
        let end = end.div_ceil(self.stride).min(self.output);
        first..end.max(first)
    }

    /// Elements of window `i` that meet the input, or also its margin.
    fn count(self, i: usize, margin: bool) -> usize {
        let elements = 0..self.kernel;
        if margin {
            let end = self.before + self.input + self.after;
            let at = elements.map(|k| i * self.stride + k * self.dilation);
            at.filter(|&at| at < end).count()
        } else {
            elements.filter(|&k| self.at(i, k).is_some()).count()
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    pooling: Pooling,
    rows: Axis,
    columns: Axis,
}

impl Sizes {
    fn new(op: &Pool, image: [usize; 2], output: [usize; 2]) -> Self {
        Self {
            pooling: op.pooling,
            rows: Axis::new(op, 0, image, output),
            columns: Axis::new(op, 1, image, output),
        }
    }

    /// Elements of a channel.
    fn image(&self) -> usize {
        self.rows.input * self.columns.input
    }

    /// Windows of a channel.
    fn output(&self) -> usize {
        self.rows.output * self.columns.output
    }

    /// True if the windows are squares of 2 that tile the image.
    fn is_halving(&self) -> bool {
        let halves = |axis: Axis| {
            axis.kernel == 2
                && axis.stride == 2
                && axis.dilation == 1
                && axis.before == 0
                && axis.input == 2 * axis.output
        };
        halves(self.rows) && halves(self.columns)
    }

    /// Calls `f` for the elements of a row of windows that meet the image: which windows, and where
    /// in the channel the first of them does.
    #[inline(always)]
    fn elements(&self, row: usize, mut f: impl FnMut(Range<usize>, usize)) {
        for k in 0..self.rows.kernel {
            let Some(at) = self.rows.at(row, k) else {
                continue;
            };
            for l in 0..self.columns.kernel {
                let seen = self.columns.seen(l);
                if !seen.is_empty() {
                    let column = seen.start * self.columns.stride + l * self.columns.dilation;
                    f(seen, at * self.columns.input + column - self.columns.before);
                }
            }
        }
    }

    /// What the sum of a window is divided by.
    #[inline(always)]
    fn divisor<T: Element>(&self, row: usize, column: usize) -> T {
        let margin = self.pooling == Pooling::Average { count_margin: true };
        T::from_f64((self.rows.count(row, margin) * self.columns.count(column, margin)) as f64)
    }
}

/// Calls `f(i, &x[i · stride])` for `i` below `len`.
#[inline(always)]
fn strided<T: Copy>(x: &[T], stride: usize, len: usize, mut f: impl FnMut(usize, T)) {
    if stride == 1 {
        for (i, &x) in x[..len].iter().enumerate() {
            f(i, x);
        }
    } else {
        for (i, &x) in x.iter().step_by(stride).take(len).enumerate() {
            f(i, x);
        }
    }
}

#[derive(Debug)]
struct PoolKernel {
    sizes: Sizes,
    threads: usize,
}

impl PoolKernel {
    /// The pooling of a channel.
    #[inline(always)]
    fn channel<T: Element>(&self, y: &mut [T], x: &[T]) {
        let sizes = &self.sizes;
        let is_max = sizes.pooling == Pooling::Max;
        let lowest = T::from_f64(f64::NEG_INFINITY);
        let stride = sizes.columns.stride;
        for (row, y) in y.chunks_exact_mut(sizes.columns.output).enumerate() {
            y.fill(if is_max { lowest } else { T::ZERO });
            sizes.elements(
                row,
                #[inline(always)]
                |seen, first| {
                    let y = &mut y[seen];
                    let len = y.len();
                    if is_max {
                        strided(&x[first..], stride, len, |i, x| y[i] = larger(y[i], x));
                    } else {
                        strided(&x[first..], stride, len, |i, x| y[i] += x);
                    }
                },
            );
            if !is_max {
                for (column, y) in y.iter_mut().enumerate() {
                    *y = *y / sizes.divisor(row, column);
                }
            }
        }
    }
}

impl<T: Element> Kernel<T> for PoolKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (sizes, x, y) = (&self.sizes, operands.slice(0), results.take(0));
        let (image, output) = (sizes.image(), sizes.output());
        each_run(self.threads, y, output, |first, y| {
            let x = &x[first * image..];
            widest(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(output).zip(x.chunks_exact(image)) {
                        if sizes.pooling == Pooling::Max && sizes.is_halving() {
                            halve::forward(y, x, sizes.columns.output);
                        } else {
                            self.channel(y, x);
                        }
                    }
                },
            );
        });
    }
}

#[derive(Debug)]
struct PoolGradKernel {
    sizes: Sizes,
    threads: usize,
}

impl PoolGradKernel {
    /// The gradient of a channel's largest elements: each window's goes to the first of them.
    #[inline(always)]
    fn max<T: Element>(&self, dx: &mut [T], x: &[T], dy: &[T], scratch: &mut [T]) {
        let (sizes, stride) = (&self.sizes, self.sizes.columns.stride);
        let out_w = sizes.columns.output;
        let (largest, left) = scratch[..2 * out_w].split_at_mut(out_w);
        dx.fill(T::ZERO);
        for (row, dy) in dy.chunks_exact(out_w).enumerate() {
            largest.fill(T::from_f64(f64::NEG_INFINITY));
            sizes.elements(
                row,
                #[inline(always)]
                |seen, first| {
                    let y = &mut largest[seen];
                    let len = y.len();
                    strided(&x[first..], stride, len, |i, x| y[i] = larger(y[i], x));
                },
            );
            left.copy_from_slice(dy);
            sizes.elements(
                row,
                #[inline(always)]
                |seen, first| {
                    let y = &largest[seen.clone()];
                    let left = &mut left[seen];
                    let dx = dx[first..].iter_mut().step_by(stride);
                    let x = x[first..].iter().step_by(stride);
                    for (((dx, &x), &y), left) in dx.zip(x).zip(y).zip(left) {
                        let hit = (x == y) | x.is_nan();
                        *dx += T::select(hit, *left, T::ZERO);
                        *left = T::select(hit, T::ZERO, *left);
                    }
                },
            );
        }
    }

    /// The gradient of a channel's averages.
    #[inline(always)]
    fn average<T: Element>(&self, dx: &mut [T], dy: &[T]) {
        let (sizes, stride) = (&self.sizes, self.sizes.columns.stride);
        dx.fill(T::ZERO);
        for (row, dy) in dy.chunks_exact(sizes.columns.output).enumerate() {
            sizes.elements(
                row,
                #[inline(always)]
                |seen, first| {
                    let dx = dx[first..].iter_mut().step_by(stride);
                    for ((dx, &dy), column) in dx.zip(&dy[seen.clone()]).zip(seen) {
                        *dx += dy / sizes.divisor(row, column);
                    }
                },
            );
        }
    }
}

impl<T: Element> Kernel<T> for PoolGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let sizes = &self.sizes;
        let scratch = results.scratch();
        let dx = results.take(0);
        let (x, dy) = (operands.slice(0), operands.slice(operands.len() - 1));
        let (image, output) = (sizes.image(), sizes.output());
        let is_max = sizes.pooling == Pooling::Max;
        let row = if is_max { 2 * sizes.columns.output } else { 0 };
        each_run_with(
            self.threads,
            dx,
            image,
            scratch,
            row,
            |first, dx, scratch| {
                if is_max && sizes.is_halving() {
                    let x = &x[first * image..][..dx.len()];
                    let dy = &dy[first * output..][..dx.len() / 4];
                    return halve::grad(dx, x, dy, sizes.columns.output);
                }
                let dy = dy[first * output..].chunks_exact(output);
                widest(
                    #[inline(always)]
                    || {
                        for (i, (dx, dy)) in dx.chunks_exact_mut(image).zip(dy).enumerate() {
                            if !is_max {
                                self.average(dx, dy);
                                continue;
                            }
                            let x = &x[(first + i) * image..][..image];
                            self.max(dx, x, dy, scratch);
                        }
                    },
                );
            },
        );
    }
}
