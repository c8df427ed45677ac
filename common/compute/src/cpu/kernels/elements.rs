//! Kernels that pick single elements by index, and running sums.

use std::sync::Arc;

use ringfold_graph::op::{CumSum, GatherElements, GatherElementsGrad};

use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Index, Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn gather<T: Element>(op: GatherElements, call: &Call) -> Arc<dyn Kernel<T>> {
    let (x, index) = (&call.operands[0].shape, &call.operands[1].shape);
    Arc::new(Gather(Picks::new(op.axis, x, index)))
}

pub(crate) fn gather_grad<T: Element>(op: &GatherElementsGrad, call: &Call) -> Arc<dyn Kernel<T>> {
    let (x, index) = (&call.results[0].shape, &call.operands[0].shape);
    Arc::new(GatherGrad(Picks::new(op.axis, x, index)))
}

pub(crate) fn cum_sum<T: Element>(op: CumSum, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.results[0].shape;
    Arc::new(RunningSum {
        op,
        len: shape[op.axis],
        inner: shape[op.axis + 1..].iter().product(),
    })
}

/// Where the elements lie that an index picks.
#[derive(Debug)]
struct Picks {
    /// The index's dimensions, outermost first, each with the stride in x; 0 along the axis.
    dims: Vec<(usize, usize)>,
    /// Elements of x along the axis, and their stride.
    axis: (usize, usize),
}

impl Picks {
    fn new(axis: usize, x: &[usize], index: &[usize]) -> Self {
        let stride = |d: usize| x[d + 1..].iter().product::<usize>();
        let dims = index.iter().enumerate();
        let dims = dims.map(|(d, &dim)| (dim, if d == axis { 0 } else { stride(d) }));
        Self {
            dims: dims.collect(),
            axis: (x[axis], stride(axis)),
        }
    }

    /// The element of x that the `i`-th index picks, if there is one. Indices that are inputs have
    /// been checked; a computed one out of range picks nothing.
    fn at(&self, index: Index<'_>, i: usize) -> Option<usize> {
        let (len, stride) = self.axis;
        let named = index.at(i);
        let named = if named < 0 { named + len as i64 } else { named };
        let position = usize::try_from(named).ok().filter(|&p| p < len)?;
        let (mut rest, mut at) = (i, position * stride);
        for (dim, stride) in self.dims.iter().rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        Some(at)
    }
}

#[derive(Debug)]
struct Gather(Picks);

impl<T: Element> Kernel<T> for Gather {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (x, index) = (operands.slice(0), operands.index(1));
        for (i, y) in results.take(0).iter_mut().enumerate() {
            let picked = self.0.at(index, i).map(|at| x[at]);
            *y = picked.unwrap_or(T::from_f64(f64::NAN));
        }
    }
}

#[derive(Debug)]
struct GatherGrad(Picks);

impl<T: Element> Kernel<T> for GatherGrad {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dx, index) = (results.take(0), operands.index(0));
        dx.fill(T::ZERO);
        for (i, &dy) in operands.slice(1).iter().enumerate() {
            if let Some(at) = self.0.at(index, i) {
                dx[at] += dy;
            }
        }
    }
}

/// Along a dimension of `len` elements that stand `inner` apart.
#[derive(Debug)]
struct RunningSum {
    op: CumSum,
    len: usize,
    inner: usize,
}

impl<T: Element> Kernel<T> for RunningSum {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (y, x) = (results.take(0), operands.slice(0));
        let (len, inner) = (self.len, self.inner);
        let row = |i: usize| if self.op.reverse { len - 1 - i } else { i } * inner;
        let blocks = y
            .chunks_exact_mut(len * inner)
            .zip(x.chunks_exact(len * inner));
        for (y, x) in blocks {
            for k in 0..inner {
                let mut sum = T::ZERO;
                for i in 0..len {
                    let at = row(i) + k;
                    let before = sum;
                    sum += x[at];
                    y[at] = if self.op.exclusive { before } else { sum };
                }
            }
        }
    }
}
