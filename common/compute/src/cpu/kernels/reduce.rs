//! Kernels of reductions. Sums are taken in the operand's order: by run, a run by lanes.

use std::sync::Arc;

use ringfold_graph::op::{Reduce, Reduction};

use super::broadcast::Walk;
use super::functions::sign;
use super::sum;
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn sum_to<T: Element>(call: &Call) -> Arc<dyn Kernel<T>> {
    let walk = Walk::new(&call.operands[0].shape, [&call.results[0].shape]);
    Arc::new(SumToKernel { walk })
}

pub(crate) fn reduce<T: Element>(op: &Reduce, call: &Call) -> Arc<dyn Kernel<T>> {
    let mut kept = call.operands[0].shape.clone();
    op.axes.iter().for_each(|&axis| kept[axis] = 1);
    let elements = call.operands[0].place.len / call.results[0].place.len.max(1);
    Arc::new(ReduceKernel {
        reduction: op.reduction,
        walk: Walk::new(&call.operands[0].shape, [&kept]),
        elements: elements as f64,
    })
}

pub(crate) fn reduce_grad<T: Element>(reduction: Reduction, call: &Call) -> Arc<dyn Kernel<T>> {
    let walk = Walk::new(&call.results[0].shape, [&call.operands[1].shape]);
    Arc::new(ReduceGradKernel { reduction, walk })
}

pub(crate) fn spread<T: Element>(call: &Call) -> Arc<dyn Kernel<T>> {
    let repeats = call.results[0].place.len / call.operands[0].place.len.max(1);
    Arc::new(SpreadKernel {
        walk: Walk::new(&call.results[0].shape, [&call.operands[0].shape]),
        factor: 1.0 / repeats as f64,
    })
}

pub(crate) fn arg_max<T: Element>(axis: usize, call: &Call) -> Arc<dyn Kernel<T>> {
    let dims = &call.operands[0].shape;
    Arc::new(ArgMaxKernel {
        dim: dims[axis],
        inner: dims[axis + 1..].iter().product(),
    })
}

/// `dst = Σ f(src)` over what broadcasting the result to the operand's shape repeats.
#[inline(always)]
fn accumulate<T: Element>(walk: &Walk<1>, dst: &mut [T], src: &[T], f: impl Fn(T) -> T) {
    dst.fill(T::ZERO);
    let run = walk.run();
    widest(
        #[inline(always)]
        || {
            walk.runs(
                #[inline(always)]
                |start, [at]| {
                    let src = &src[start..start + run];
                    if walk.steps() == [0] {
                        dst[at] += sum(src, &f);
                    } else {
                        for (d, &x) in dst[at..at + run].iter_mut().zip(src) {
                            *d += f(x);
                        }
                    }
                },
            );
        },
    );
}

/// `dst = f(dst, src)` one element after another, from `start`.
#[inline(always)]
fn fold<T: Element>(walk: &Walk<1>, dst: &mut [T], src: &[T], start: T, f: impl Fn(T, T) -> T) {
    dst.fill(start);
    let [step] = walk.steps();
    walk.runs(|first, [at]| {
        for k in 0..walk.run() {
            let d = &mut dst[at + k * step];
            *d = f(*d, src[first + k]);
        }
    });
}

#[derive(Debug)]
struct SumToKernel {
    walk: Walk<1>,
}

impl<T: Element> Kernel<T> for SumToKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        accumulate(&self.walk, results.take(0), operands.slice(0), |x| x);
    }
}

#[derive(Debug)]
struct ReduceKernel {
    reduction: Reduction,
    walk: Walk<1>,
    /// Elements that go into one.
    elements: f64,
}

/// The floats that a reduction needs besides the result.
pub(crate) fn scratch_len(reduction: Reduction, result_len: usize) -> usize {
    match reduction {
        Reduction::LogSumExp => result_len,
        _ => 0,
    }
}

/// The floats that the gradient of a reduction to `result_len` elements needs.
pub(crate) fn grad_scratch_len(reduction: Reduction, result_len: usize) -> usize {
    match reduction {
        Reduction::Max | Reduction::Min => result_len,
        Reduction::Prod => 2 * result_len,
        _ => 0,
    }
}

impl<T: Element> Kernel<T> for ReduceKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, x, walk) = (results.take(0), operands.slice(0), &self.walk);
        let largest = |a: T, x: T| T::select((x <= a) | a.is_nan(), a, x);
        match self.reduction {
            Reduction::Sum => accumulate(walk, dst, x, |x| x),
            Reduction::Mean => {
                accumulate(walk, dst, x, |x| x);
                let count = T::from_f64(self.elements);
                dst.iter_mut().for_each(|d| *d = *d / count);
            }
            Reduction::L1 => accumulate(walk, dst, x, |x| x.abs()),
            Reduction::L2 => {
                accumulate(walk, dst, x, |x| x * x);
                dst.iter_mut().for_each(|d| *d = d.sqrt());
            }
            Reduction::Prod => fold(walk, dst, x, T::ONE, |a, x| a * x),
            Reduction::Max => fold(walk, dst, x, T::from_f64(f64::NEG_INFINITY), largest),
            Reduction::Min => {
                let smallest = |a: T, x: T| T::select((x >= a) | a.is_nan(), a, x);
                fold(walk, dst, x, T::from_f64(f64::INFINITY), smallest);
            }
            Reduction::LogSumExp => {
                fold(walk, dst, x, T::from_f64(f64::NEG_INFINITY), largest);
                let sums = results.scratch();
                sums.fill(T::ZERO);
                let [step] = walk.steps();
                walk.runs(|start, [at]| {
                    for k in 0..walk.run() {
                        let max = dst[at + k * step];
                        sums[at + k * step] += (x[start + k] - shift(max)).exp();
                    }
                });
                for (d, &sum) in dst.iter_mut().zip(&*sums) {
                    *d = shift(*d) + sum.ln();
                }
            }
        }
    }
}

/// What exponents are shifted by: the maximum, if it is finite.
#[inline(always)]
fn shift<T: Element>(max: T) -> T {
    T::select(max.abs() < T::from_f64(f64::INFINITY), max, T::ZERO)
}

/// `(x, y, dy) -> dx`.
#[derive(Debug)]
struct ReduceGradKernel {
    reduction: Reduction,
    walk: Walk<1>,
}

impl<T: Element> Kernel<T> for ReduceGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let (x, y, dy) = (operands.slice(0), operands.slice(1), operands.slice(2));
        let walk = &self.walk;
        let [step] = walk.steps();
        // `dx = f(x, position in y)` for every element.
        let mut write = |f: &dyn Fn(T, usize) -> T| {
            walk.runs(|start, [at]| {
                for k in 0..walk.run() {
                    dst[start + k] = f(x[start + k], at + k * step);
                }
            });
        };
        match self.reduction {
            Reduction::Sum | Reduction::Mean => write(&|_, at| dy[at]),
            Reduction::L1 => write(&|x, at| dy[at] * sign(x)),
            Reduction::L2 => {
                write(&|x, at| T::select(y[at] == T::ZERO, T::ZERO, dy[at] * (x / y[at])))
            }
            Reduction::LogSumExp => write(&|x, at| dy[at] * (x - y[at]).exp()),
            Reduction::Max | Reduction::Min => {
                let ties = results.scratch();
                ties.fill(T::ZERO);
                walk.runs(|start, [at]| {
                    for k in 0..walk.run() {
                        let at = at + k * step;
                        ties[at] += T::select(x[start + k] == y[at], T::ONE, T::ZERO);
                    }
                });
                write(&|x, at| T::select(x == y[at], dy[at] / ties[at], T::ZERO));
            }
            Reduction::Prod => {
                // The product of the others, without division by 0.
                let (zeros, rest) = results.scratch().split_at_mut(y.len());
                fold(walk, zeros, x, T::ZERO, |zeros, x| {
                    zeros + T::select(x == T::ZERO, T::ONE, T::ZERO)
                });
                fold(walk, rest, x, T::ONE, |rest, x| {
                    rest * T::select(x == T::ZERO, T::ONE, x)
                });
                write(&|x, at| {
                    let others = if zeros[at] == T::ZERO {
                        rest[at] / x
                    } else if zeros[at] == T::ONE && x == T::ZERO {
                        rest[at]
                    } else {
                        T::ZERO
                    };
                    dy[at] * others
                });
            }
        }
    }
}

#[derive(Debug)]
struct SpreadKernel {
    walk: Walk<1>,
    factor: f64,
}

impl<T: Element> Kernel<T> for SpreadKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, src) = (results.take(0), operands.slice(0));
        let factor = T::from_f64(self.factor);
        let (run, [step]) = (self.walk.run(), self.walk.steps());
        self.walk.runs(|start, [at]| {
            for (k, d) in dst[start..start + run].iter_mut().enumerate() {
                *d = factor * src[at + k * step];
            }
        });
    }
}

#[derive(Debug)]
struct ArgMaxKernel {
    dim: usize,
    inner: usize,
}

impl<T: Element> Kernel<T> for ArgMaxKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let x = operands.slice(0);
        for (i, d) in results.longs(0).iter_mut().enumerate() {
            let first = i / self.inner * self.dim * self.inner + i % self.inner;
            let mut best = 0;
            for k in 1..self.dim {
                let (a, b) = (x[first + best * self.inner], x[first + k * self.inner]);
                // The first NaN wins.
                if !a.is_nan() && (b > a || b.is_nan()) {
                    best = k;
                }
            }
            *d = best as i64;
        }
    }
}
