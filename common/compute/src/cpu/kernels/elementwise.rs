//! Kernels of element-wise operators.

use std::sync::Arc;

use ringfold_graph::DType;
use ringfold_graph::op::{Binary, BinaryGrad, Compare, Logic, Side, Unary};

use super::broadcast::{self, Walk};
use super::runs::each_run;
use super::{Source, functions, map, zip};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn unary<T: Element>(function: Unary, threads: usize) -> Arc<dyn Kernel<T>> {
    Arc::new(UnaryKernel { function, threads })
}

pub(crate) fn unary_grad<T: Element>(function: Unary, threads: usize) -> Arc<dyn Kernel<T>> {
    Arc::new(UnaryGradKernel { function, threads })
}

pub(crate) fn binary<T: Element>(
    function: Binary,
    call: &Call,
    threads: usize,
) -> Arc<dyn Kernel<T>> {
    let walk = walk(call);
    let shape = &call.results[0].shape;
    Arc::new(BinaryKernel {
        function,
        walk,
        alike: (call.operands.iter().all(|operand| operand.shape == *shape)).then_some(threads),
    })
}

pub(crate) fn binary_grad<T: Element>(grad: BinaryGrad, call: &Call) -> Arc<dyn Kernel<T>> {
    let walk = walk(call);
    Arc::new(BinaryGradKernel { grad, walk })
}

pub(crate) fn compare<T: Element>(compare: Compare, call: &Call) -> Arc<dyn Kernel<T>> {
    let walk = walk(call);
    Arc::new(CompareKernel { compare, walk })
}

pub(crate) fn logic<T: Element>(logic: Logic, call: &Call) -> Arc<dyn Kernel<T>> {
    if logic == Logic::Not {
        return Arc::new(NotKernel);
    }
    let walk = walk(call);
    Arc::new(LogicKernel { logic, walk })
}

pub(crate) fn choose<T: Element>(call: &Call) -> Arc<dyn Kernel<T>> {
    Arc::new(WhereKernel { walk: walk(call) })
}

pub(crate) fn cast<T: Element>(call: &Call) -> Arc<dyn Kernel<T>> {
    let to = call.results[0].place.dtype;
    Arc::new(CastKernel { to })
}

pub(crate) fn expand<T: Element>(call: &Call) -> Arc<dyn Kernel<T>> {
    Arc::new(ExpandKernel { walk: walk(call) })
}

/// How the first operands walk along the result.
fn walk<const N: usize>(call: &Call) -> Walk<N> {
    let shapes: [&[usize]; N] = std::array::from_fn(|i| call.operands[i].shape.as_slice());
    Walk::new(&call.results[0].shape, shapes)
}

#[derive(Debug)]
struct UnaryKernel {
    function: Unary,
    threads: usize,
}

impl<T: Element> Kernel<T> for UnaryKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let source = operands.source(0);
        each_run(self.threads, results.take(0), 1, |first, dst| {
            functions::unary(self.function, dst, source.part(first, dst.len()));
        });
    }
}

#[derive(Debug)]
struct UnaryGradKernel {
    function: Unary,
    threads: usize,
}

impl<T: Element> Kernel<T> for UnaryGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (saved, dy) = (operands.source(0), operands.source(1));
        each_run(self.threads, results.take(0), 1, |first, dst| {
            let [saved, dy] = [saved, dy].map(|source| source.part(first, dst.len()));
            functions::unary_grad(self.function, dst, saved, dy);
        });
    }
}

#[derive(Debug)]
struct BinaryKernel {
    function: Binary,
    walk: Walk<2>,
    /// Nothing broadcasts: so many threads may share the elements.
    alike: Option<usize>,
}

/// Calls a macro with the function as an expression of two numbers.
macro_rules! binary_function {
    ($function:expr, $call:ident) => {
        match $function {
            Binary::Add => $call!(|a, b| a + b),
            Binary::Sub => $call!(|a, b| a - b),
            Binary::Mul => $call!(|a, b| a * b),
            Binary::Div => $call!(|a, b| a / b),
            Binary::Pow => $call!(|a, b| a.pow(b)),
            Binary::Fmod => $call!(|a, b| a.fmod(b)),
            Binary::Mod => $call!(|a, b| modulo(a, b)),
            // A NaN on either side stays.
            Binary::Min => $call!(|a, b| T::select((a < b) | a.is_nan(), a, b)),
            Binary::Max => $call!(|a, b| T::select((a > b) | a.is_nan(), a, b)),
        }
    };
}

impl<T: Element> Kernel<T> for BinaryKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, a, b) = (results.take(0), operands.source(0), operands.source(1));
        if let Some(threads) = self.alike {
            return each_run(threads, dst, 1, |first, dst| {
                let [a, b] = [a, b].map(|source| source.part(first, dst.len()));
                binary_row(self.function, dst, a, b);
            });
        }
        macro_rules! zip {
            (|$a:ident, $b:ident| $y:expr) => {
                broadcast::zip(
                    &self.walk,
                    dst,
                    a,
                    b,
                    #[inline(always)]
                    |$a, $b| $y,
                )
            };
        }
        binary_function!(self.function, zip);
    }
}

/// `dst = f(a, b)`, rows of one length.
pub(super) fn binary_row<T: Element>(
    function: Binary,
    dst: &mut [T],
    a: Source<'_, T>,
    b: Source<'_, T>,
) {
    macro_rules! zip_rows {
        (|$a:ident, $b:ident| $y:expr) => {
            zip(
                dst,
                a,
                b,
                #[inline(always)]
                |$a, $b| $y,
            )
        };
    }
    binary_function!(function, zip_rows);
}

/// `dst = dy · f'`, rows of one length.
pub(super) fn binary_grad_row<T: Element>(
    grad: BinaryGrad,
    dst: &mut [T],
    sources: [Source<'_, T>; 3],
) {
    widest(
        #[inline(always)]
        || each_slope(grad, dst, sources, [0; 3], [1; 3]),
    );
}

/// Elements whose operands are read before any is written.
const BLOCK: usize = 64;

/// `dst = dy · f'` where the operands begin at these elements and move by 1 or 0.
#[inline(always)]
fn each_slope<T: Element>(
    grad: BinaryGrad,
    dst: &mut [T],
    sources: [Source<'_, T>; 3],
    at: [usize; 3],
    steps: [usize; 3],
) {
    let mut read = [[T::ZERO; BLOCK]; 3];
    for (block, dst) in dst.chunks_mut(BLOCK).enumerate() {
        let len = dst.len();
        for i in 0..3 {
            let to = &mut read[i][..len];
            match sources[i] {
                Source::InPlace => to.copy_from_slice(dst),
                Source::Apart(source) if steps[i] == 0 => to.fill(source[at[i]]),
                Source::Apart(source) => {
                    to.copy_from_slice(&source[at[i] + block * BLOCK..][..len]);
                }
            }
        }
        let [a, b, dy] = &read;
        macro_rules! slopes {
            ($slope:expr) => {
                for (((d, &a), &b), &dy) in dst.iter_mut().zip(a).zip(b).zip(dy) {
                    *d = dy * $slope(a, b);
                }
            };
        }
        match (grad.function, grad.side) {
            (Binary::Pow, Side::A) => slopes!(base_slope),
            (Binary::Pow, Side::B) => slopes!(exponent_slope),
            _ => slopes!(|a, b| slope(grad, a, b)),
        }
    }
}

/// `d aᵇ / da`.
#[inline(always)]
fn base_slope<T: Element>(a: T, b: T) -> T {
    T::select(b == T::ZERO, T::ZERO, b * a.pow(b - T::ONE))
}

/// `d aᵇ / db`; at 0 the limit of `aᵇ log a`.
#[inline(always)]
fn exponent_slope<T: Element>(a: T, b: T) -> T {
    let is_limit = (a == T::ZERO) & (b >= T::ZERO);
    T::select(is_limit, T::ZERO, a.pow(b) * a.ln())
}

/// What is left of `a` by `b`, with the sign of `b`.
#[inline(always)]
fn modulo<T: Element>(a: T, b: T) -> T {
    let rest = a.fmod(b);
    let is_other = (rest != T::ZERO) & ((rest < T::ZERO) != (b < T::ZERO));
    T::select(is_other, rest + b, rest)
}

#[derive(Debug)]
struct BinaryGradKernel {
    grad: BinaryGrad,
    walk: Walk<3>,
}

impl<T: Element> Kernel<T> for BinaryGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let sources = [0, 1, 2].map(|operand| operands.source(operand));
        let (walk, steps) = (&self.walk, self.walk.steps());
        widest(
            #[inline(always)]
            || {
                walk.runs(
                    #[inline(always)]
                    |start, at| {
                        let dst = &mut dst[start..start + walk.run()];
                        each_slope(self.grad, dst, sources, at, steps);
                    },
                );
            },
        );
    }
}

/// The derivative of a function at `(a, b)` with respect to one side.
#[inline(always)]
fn slope<T: Element>(grad: BinaryGrad, a: T, b: T) -> T {
    let half = T::from_f64(0.5);
    let pick = |wins: bool, ties: bool| T::select(wins, T::ONE, T::select(ties, half, T::ZERO));
    match (grad.function, grad.side) {
        (Binary::Add, _) | (Binary::Sub, Side::A) => T::ONE,
        (Binary::Sub, Side::B) => -T::ONE,
        (Binary::Mul, Side::A) => b,
        (Binary::Mul, Side::B) => a,
        (Binary::Div, Side::A) => T::ONE / b,
        (Binary::Div, Side::B) => -(a / (b * b)),
        (Binary::Pow, Side::A) => base_slope(a, b),
        (Binary::Pow, Side::B) => exponent_slope(a, b),
        (Binary::Fmod | Binary::Mod, Side::A) => T::ONE,
        // How many times b is taken from a.
        (Binary::Fmod, Side::B) => ((a.fmod(b) - a) / b).round(),
        (Binary::Mod, Side::B) => ((modulo(a, b) - a) / b).round(),
        (Binary::Min, Side::A) => pick(a < b, a == b),
        (Binary::Min, Side::B) => pick(b < a, a == b),
        (Binary::Max, Side::A) => pick(a > b, a == b),
        (Binary::Max, Side::B) => pick(b > a, a == b),
    }
}

#[derive(Debug)]
struct CompareKernel {
    compare: Compare,
    walk: Walk<2>,
}

impl<T: Element> Kernel<T> for CompareKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.bools(0);
        let (a, b) = (operands.slice(0), operands.slice(1));
        let holds: fn(T, T) -> bool = match self.compare {
            Compare::Equal => |a, b| a == b,
            Compare::NotEqual => |a, b| a != b,
            Compare::Less => |a, b| a < b,
            Compare::LessOrEqual => |a, b| a <= b,
            Compare::Greater => |a, b| a > b,
            Compare::GreaterOrEqual => |a, b| a >= b,
        };
        let [step_a, step_b] = self.walk.steps();
        self.walk.runs(|start, [i, j]| {
            for (k, d) in dst[start..start + self.walk.run()].iter_mut().enumerate() {
                *d = u8::from(holds(a[i + k * step_a], b[j + k * step_b]));
            }
        });
    }
}

#[derive(Debug)]
struct NotKernel;

impl<T: Element> Kernel<T> for NotKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        for (d, &a) in results.bools(0).iter_mut().zip(operands.bools(0)) {
            *d = u8::from(a == 0);
        }
    }
}

#[derive(Debug)]
struct LogicKernel {
    logic: Logic,
    walk: Walk<2>,
}

impl<T: Element> Kernel<T> for LogicKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.bools(0);
        let (a, b) = (operands.bools(0), operands.bools(1));
        let [step_a, step_b] = self.walk.steps();
        self.walk.runs(|start, [i, j]| {
            for (k, d) in dst[start..start + self.walk.run()].iter_mut().enumerate() {
                let (a, b) = (a[i + k * step_a] != 0, b[j + k * step_b] != 0);
                *d = u8::from(match self.logic {
                    Logic::And => a & b,
                    Logic::Or => a | b,
                    Logic::Xor => a ^ b,
                    Logic::Not => !a,
                });
            }
        });
    }
}

#[derive(Debug)]
struct WhereKernel {
    walk: Walk<3>,
}

impl<T: Element> Kernel<T> for WhereKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let condition = operands.bools(0);
        let sources = [operands.source(1), operands.source(2)];
        let [step, step_a, step_b] = self.walk.steps();
        self.walk.runs(|start, [c, i, j]| {
            for k in 0..self.walk.run() {
                let (source, at) = if condition[c + k * step] == 0 {
                    (sources[1], j + k * step_b)
                } else {
                    (sources[0], i + k * step_a)
                };
                if let Source::Apart(source) = source {
                    dst[start + k] = source[at];
                }
            }
        });
    }
}

#[derive(Debug)]
struct CastKernel {
    to: DType,
}

impl<T: Element> Kernel<T> for CastKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let from = operands.dtype(0);
        match from {
            DType::F32 | DType::F64 if self.to.is_float() => {
                map(results.take(0), operands.source(0), |x| x);
            }
            DType::F32 | DType::F64 => {
                let x = operands.slice(0);
                self.write(results, x.len(), |i| (x[i].to_f64(), x[i] != T::ZERO));
            }
            DType::I32 | DType::I64 => {
                let x = operands.index(0);
                self.write(results, x.len(), |i| (x.at(i) as f64, x.at(i) != 0));
            }
            DType::Bool => {
                let x = operands.bools(0);
                self.write(results, x.len(), |i| {
                    (f64::from(u8::from(x[i] != 0)), x[i] != 0)
                });
            }
        }
    }
}

impl CastKernel {
    /// Writes numbers below 2^53 in size exactly.
    fn write<T: Element>(
        &self,
        results: &mut Results<'_, T>,
        len: usize,
        at: impl Fn(usize) -> (f64, bool),
    ) {
        let numbers = (0..len).map(at);
        match self.to {
            DType::F32 | DType::F64 => {
                let dst = results.take(0).iter_mut();
                dst.zip(numbers).for_each(|(d, x)| *d = T::from_f64(x.0));
            }
            DType::I32 => {
                let dst = results.ints(0).iter_mut();
                dst.zip(numbers).for_each(|(d, x)| *d = x.0 as i32);
            }
            DType::I64 => {
                let dst = results.longs(0).iter_mut();
                dst.zip(numbers).for_each(|(d, x)| *d = x.0 as i64);
            }
            DType::Bool => {
                let dst = results.bools(0).iter_mut();
                dst.zip(numbers).for_each(|(d, x)| *d = u8::from(x.1));
            }
        }
    }
}

#[derive(Debug)]
struct ExpandKernel {
    walk: Walk<1>,
}

impl<T: Element> Kernel<T> for ExpandKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, src) = (results.take(0), operands.slice(0));
        let run = self.walk.run();
        self.walk.runs(|start, [at]| {
            let dst = &mut dst[start..start + run];
            if self.walk.steps() == [0] {
                dst.fill(src[at]);
            } else {
                dst.copy_from_slice(&src[at..at + run]);
            }
        });
    }
}
