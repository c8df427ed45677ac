//! Kernels of pooling, one window after another.

use std::ops::Range;
use std::sync::Arc;

use ringfold_graph::op::{Pool, PoolGrad, Pooling};

use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn pool<T: Element>(op: Pool, call: &Call) -> Arc<dyn Kernel<T>> {
    let (x, y) = (&call.operands[0].shape, &call.results[0].shape);
    Arc::new(PoolKernel(Sizes {
        pool: op,
        image: [x[2], x[3]],
        output: [y[2], y[3]],
    }))
}

pub(crate) fn pool_grad<T: Element>(op: PoolGrad, call: &Call) -> Arc<dyn Kernel<T>> {
    let dy = &call.operands[call.operands.len() - 1].shape;
    Arc::new(PoolGradKernel(Sizes {
        pool: op.pool,
        image: op.size,
        output: [dy[2], dy[3]],
    }))
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    pool: Pool,
    image: [usize; 2],
    output: [usize; 2],
}

/// The positions of a window along one dimension.
struct Window {
    /// Those inside the image, by `dilation`.
    inside: Range<usize>,
    /// Those inside the image and its margin.
    padded: usize,
}

impl Sizes {
    fn window(&self, dimension: usize, i: usize) -> Window {
        let windows = &self.pool.windows;
        let (dilation, before) = (windows.dilation[dimension], windows.before[dimension]);
        let start = i * windows.stride[dimension];
        let positions = (0..self.pool.kernel[dimension]).map(|k| start + k * dilation);
        let end = before + self.image[dimension];
        let mut inside = positions.clone().filter(|at| (before..end).contains(at));
        let margin_end = end + windows.after[dimension];
        let first = inside.clone().next().unwrap_or(before) - before;
        let last = inside.next_back().unwrap_or(before) - before;
        Window {
            inside: first..last + 1,
            padded: positions.filter(|&at| at < margin_end).count(),
        }
    }

    /// Calls `f` for each window of one channel: its number, its rows and its columns.
    fn windows(&self, mut f: impl FnMut(usize, &Window, &Window)) {
        for oy in 0..self.output[0] {
            let rows = self.window(0, oy);
            for ox in 0..self.output[1] {
                f(oy * self.output[1] + ox, &rows, &self.window(1, ox));
            }
        }
    }

    /// The positions in a channel that a window sees.
    fn positions<'a>(
        &'a self,
        rows: &Window,
        columns: &'a Window,
    ) -> impl Iterator<Item = usize> + Clone + 'a {
        let [down, right] = self.pool.windows.dilation;
        let rows = rows.inside.clone().step_by(down);
        rows.flat_map(move |row| {
            let columns = columns.inside.clone().step_by(right);
            columns.map(move |column| row * self.image[1] + column)
        })
    }

    /// What a window's sum is divided by.
    fn divisor(&self, rows: &Window, columns: &Window) -> usize {
        let [down, right] = self.pool.windows.dilation;
        match self.pool.pooling {
            Pooling::Average { count_margin: true } => rows.padded * columns.padded,
            _ => rows.inside.len().div_ceil(down) * columns.inside.len().div_ceil(right),
        }
    }
}

/// The position of the first largest element, or of the first NaN.
fn largest<T: Element>(x: &[T], positions: impl Iterator<Item = usize>) -> usize {
    let better = |best: usize, at: usize| {
        let (a, b) = (x[best], x[at]);
        if !a.is_nan() && (b > a || b.is_nan()) {
            at
        } else {
            best
        }
    };
    positions.reduce(better).unwrap_or(0)
}

#[derive(Debug)]
struct PoolKernel(Sizes);

impl<T: Element> Kernel<T> for PoolKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let sizes = &self.0;
        let x = operands.slice(0).chunks_exact(sizes.image.iter().product());
        let y = results
            .take(0)
            .chunks_exact_mut(sizes.output.iter().product());
        for (y, x) in y.zip(x) {
            sizes.windows(|i, rows, columns| {
                let positions = sizes.positions(rows, columns);
                y[i] = match sizes.pool.pooling {
                    Pooling::Max => x[largest(x, positions)],
                    Pooling::Average { .. } => {
                        let mut sum = T::ZERO;
                        positions.for_each(|at| sum += x[at]);
                        sum / T::from_f64(sizes.divisor(rows, columns) as f64)
                    }
                };
            });
        }
    }
}

#[derive(Debug)]
struct PoolGradKernel(Sizes);

impl<T: Element> Kernel<T> for PoolGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let sizes = &self.0;
        let (image, output) = (
            sizes.image.iter().product::<usize>(),
            sizes.output.iter().product::<usize>(),
        );
        let dy = operands.slice(operands.len() - 1).chunks_exact(output);
        let dx = results.take(0).chunks_exact_mut(image);
        for (channel, (dx, dy)) in dx.zip(dy).enumerate() {
            dx.fill(T::ZERO);
            sizes.windows(|i, rows, columns| {
                let positions = sizes.positions(rows, columns);
                match sizes.pool.pooling {
                    Pooling::Max => {
                        let x = &operands.slice(0)[channel * image..(channel + 1) * image];
                        dx[largest(x, positions)] += dy[i];
                    }
                    Pooling::Average { .. } => {
                        let part = dy[i] / T::from_f64(sizes.divisor(rows, columns) as f64);
                        positions.for_each(|at| dx[at] += part);
                    }
                }
            });
        }
    }
}
