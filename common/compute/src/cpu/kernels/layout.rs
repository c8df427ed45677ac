//! Kernels that move elements. A tensor is seen as `[outer, dim, inner]` around one dimension.

use std::sync::Arc;

use ringfold_graph::op::{Concat, Gather, GatherGrad, Margin, Pad, Slice, SliceGrad, Transpose};

use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Index, Operands, Results};
use crate::element::Element;
use crate::plan::{Call, RANK_MAX};

/// The elements of one step outside and inside a dimension.
fn inner_of(shape: &[usize], axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

pub(crate) fn transpose<T: Element>(op: &Transpose, call: &Call) -> Arc<dyn Kernel<T>> {
    let from = &call.operands[0].shape;
    let mut dims: Vec<(usize, usize)> = Vec::new();
    for &axis in op.order.iter().filter(|&&axis| from[axis] != 1) {
        let (dim, stride) = (from[axis], inner_of(from, axis));
        match dims.last_mut() {
            Some((before, outer)) if *outer == dim * stride => {
                *before *= dim;
                *outer = stride;
            }
            _ => dims.push((dim, stride)),
        }
    }
    let inner = dims.pop().unwrap_or((1, 1));
    Arc::new(TransposeKernel { outer: dims, inner })
}

pub(crate) fn concat<T: Element>(op: Concat, call: &Call) -> Arc<dyn Kernel<T>> {
    let width = |shape: &[usize]| shape[op.axis] * inner_of(shape, op.axis);
    Arc::new(ConcatKernel {
        widths: call.operands.iter().map(|o| width(&o.shape)).collect(),
        width: width(&call.results[0].shape),
    })
}

pub(crate) fn slice<T: Element>(op: Slice, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.operands[0].shape;
    Arc::new(SliceKernel {
        slice: op,
        dim: shape[op.axis],
        inner: inner_of(shape, op.axis),
    })
}

pub(crate) fn slice_grad<T: Element>(op: SliceGrad, call: &Call) -> Arc<dyn Kernel<T>> {
    Arc::new(SliceGradKernel(SliceKernel {
        slice: op.slice,
        dim: op.dim,
        inner: inner_of(&call.operands[0].shape, op.slice.axis),
    }))
}

pub(crate) fn pad<T: Element>(op: Pad, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.operands[0].shape;
    Arc::new(PadKernel {
        pad: op,
        dim: shape[op.axis],
        inner: inner_of(shape, op.axis),
    })
}

pub(crate) fn pad_grad<T: Element>(op: Pad, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.results[0].shape;
    Arc::new(PadGradKernel(PadKernel {
        pad: op,
        dim: shape[op.axis],
        inner: inner_of(shape, op.axis),
    }))
}

pub(crate) fn gather<T: Element>(op: Gather, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.operands[0].shape;
    Arc::new(GatherKernel {
        dim: shape[op.axis],
        inner: inner_of(shape, op.axis),
    })
}

pub(crate) fn gather_grad<T: Element>(op: GatherGrad, call: &Call) -> Arc<dyn Kernel<T>> {
    let shape = &call.results[0].shape;
    Arc::new(GatherGradKernel(GatherKernel {
        dim: shape[op.axis],
        inner: inner_of(shape, op.axis),
    }))
}

/// Dimensions in the result's order, each with the operand's stride.
#[derive(Debug)]
struct TransposeKernel {
    outer: Vec<(usize, usize)>,
    inner: (usize, usize),
}

impl<T: Element> Kernel<T> for TransposeKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, src) = (results.take(0), operands.slice(0));
        let mut index = [0usize; RANK_MAX];
        let mut at = 0;
        let (run, stride) = self.inner;
        for dst in dst.chunks_exact_mut(run) {
            if stride == 1 {
                dst.copy_from_slice(&src[at..at + run]);
            } else {
                let src = src[at..].iter().step_by(stride);
                dst.iter_mut().zip(src).for_each(|(d, &x)| *d = x);
            }
            for (axis, (dim, stride)) in self.outer.iter().enumerate().rev() {
                index[axis] += 1;
                at += stride;
                if index[axis] < *dim {
                    break;
                }
                index[axis] = 0;
                at -= stride * dim;
            }
        }
    }
}

#[derive(Debug)]
struct ConcatKernel {
    /// By operand: the elements along and inside the dimension.
    widths: Vec<usize>,
    width: usize,
}

impl<T: Element> Kernel<T> for ConcatKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let mut start = 0;
        for (operand, &width) in self.widths.iter().enumerate() {
            let src = operands.slice(operand).chunks_exact(width);
            for (dst, src) in dst.chunks_exact_mut(self.width).zip(src) {
                dst[start..start + width].copy_from_slice(src);
            }
            start += width;
        }
    }
}

#[derive(Debug)]
struct SliceKernel {
    slice: Slice,
    /// Elements along the dimension before the slice.
    dim: usize,
    inner: usize,
}

impl SliceKernel {
    /// Calls `f` with the first elements of each piece, whole and sliced.
    fn pieces(&self, outer: usize, mut f: impl FnMut(usize, usize)) {
        let Slice {
            start, step, len, ..
        } = self.slice;
        for o in 0..outer {
            for k in 0..len {
                // Verified to lie inside the dimension.
                let position = start.wrapping_add_signed(step * k as isize);
                f(
                    (o * self.dim + position) * self.inner,
                    (o * len + k) * self.inner,
                );
            }
        }
    }
}

impl<T: Element> Kernel<T> for SliceKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, src) = (results.take(0), operands.slice(0));
        let inner = self.inner;
        if self.slice.step == 1 {
            // One piece an outer step.
            let (start, len) = (self.slice.start * inner, self.slice.len * inner);
            let src = src.chunks_exact(self.dim * inner);
            for (dst, src) in dst.chunks_exact_mut(len).zip(src) {
                dst.copy_from_slice(&src[start..start + len]);
            }
            return;
        }
        self.pieces(src.len() / (self.dim * inner), |whole, piece| {
            dst[piece..piece + inner].copy_from_slice(&src[whole..whole + inner]);
        });
    }
}

#[derive(Debug)]
struct SliceGradKernel(SliceKernel);

impl<T: Element> Kernel<T> for SliceGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, dy) = (results.take(0), operands.slice(0));
        let inner = self.0.inner;
        dst.fill(T::ZERO);
        self.0
            .pieces(dst.len() / (self.0.dim * inner), |whole, piece| {
                dst[whole..whole + inner].copy_from_slice(&dy[piece..piece + inner]);
            });
    }
}

#[derive(Debug)]
struct PadKernel {
    pad: Pad,
    /// Elements along the dimension without the margin.
    dim: usize,
    inner: usize,
}

impl PadKernel {
    fn padded(&self) -> usize {
        self.pad.before + self.dim + self.pad.after
    }

    /// The position that stands at a position with margin; `None` for the constant.
    fn source(&self, position: usize) -> Option<usize> {
        let (before, dim) = (self.pad.before, self.dim);
        if (before..before + dim).contains(&position) {
            return Some(position - before);
        }
        let is_before = position < before;
        match self.pad.margin {
            Margin::Constant(_) => None,
            Margin::Edge if is_before => Some(0),
            Margin::Edge => Some(dim - 1),
            Margin::Reflect if is_before => Some(before - position),
            Margin::Reflect => Some(2 * (dim - 1) + before - position),
        }
    }
}

impl<T: Element> Kernel<T> for PadKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, src) = (results.take(0), operands.slice(0));
        let constant = match self.pad.margin {
            Margin::Constant(number) => T::from_f64(number),
            _ => T::ZERO,
        };
        let (padded, inner) = (self.padded(), self.inner);
        for (i, dst) in dst.chunks_exact_mut(inner).enumerate() {
            match self.source(i % padded) {
                Some(position) => {
                    let at = (i / padded * self.dim + position) * inner;
                    dst.copy_from_slice(&src[at..at + inner]);
                }
                None => dst.fill(constant),
            }
        }
    }
}

#[derive(Debug)]
struct PadGradKernel(PadKernel);

impl<T: Element> Kernel<T> for PadGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, dy) = (results.take(0), operands.slice(0));
        let (padded, inner) = (self.0.padded(), self.0.inner);
        dst.fill(T::ZERO);
        for (i, dy) in dy.chunks_exact(inner).enumerate() {
            if let Some(position) = self.0.source(i % padded) {
                let at = (i / padded * self.0.dim + position) * inner;
                let dst = dst[at..at + inner].iter_mut();
                dst.zip(dy).for_each(|(d, &dy)| *d += dy);
            }
        }
    }
}

#[derive(Debug)]
struct GatherKernel {
    dim: usize,
    inner: usize,
}

impl GatherKernel {
    /// The position that the `i`-th index names, if it is one. Indices that are inputs have been
    /// checked; a computed one out of range reads nothing.
    fn position(&self, index: Index<'_>, i: usize) -> Option<usize> {
        let named = index.at(i);
        let position = if named < 0 {
            named + self.dim as i64
        } else {
            named
        };
        usize::try_from(position).ok().filter(|&p| p < self.dim)
    }
}

impl<T: Element> Kernel<T> for GatherKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, x, index) = (results.take(0), operands.slice(0), operands.index(1));
        let count = index.len();
        for (i, dst) in dst.chunks_exact_mut(self.inner).enumerate() {
            match self.position(index, i % count) {
                Some(position) => {
                    let at = (i / count * self.dim + position) * self.inner;
                    dst.copy_from_slice(&x[at..at + self.inner]);
                }
                None => dst.fill(T::from_f64(f64::NAN)),
            }
        }
    }
}

#[derive(Debug)]
struct GatherGradKernel(GatherKernel);

impl<T: Element> Kernel<T> for GatherGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, index, dy) = (results.take(0), operands.index(0), operands.slice(1));
        let (count, inner) = (index.len(), self.0.inner);
        dst.fill(T::ZERO);
        for (i, dy) in dy.chunks_exact(inner).enumerate() {
            if let Some(position) = self.0.position(index, i % count) {
                let at = (i / count * self.0.dim + position) * inner;
                let dst = dst[at..at + inner].iter_mut();
                dst.zip(dy).for_each(|(d, &dy)| *d += dy);
            }
        }
    }
}
