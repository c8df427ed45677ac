//! Instructions: a program's calls with every dimension and place resolved.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use ringfold_graph::Op;
use ringfold_graph::op::{ConvRelu, Unary};

use super::kernels::{
    attention, conv, dense, dropout, elements, elementwise, fused, fused_product, layout, loss,
    matmul, norm, pair_loss, pool, recurrent, reduce, rows,
};
use super::memory::{Memory, Operands, Results, WRITES_MAX};
use crate::backend::{Precision, RunArgs};
use crate::element::Element;
use crate::plan::{Call, Place, Space};

/// The work of one instruction. It reads operands and writes results by their positions in the
/// operator; an operand at the first result's place is changed in place.
pub(crate) trait Kernel<T>: Debug + Send + Sync {
    /// Writes every element of every result.
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs);
}

/// How kernels compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelOptions {
    /// See [`super::CpuOptions`].
    pub threads: usize,
    /// See [`Precision`].
    pub precision: Precision,
}

/// The kernel of a call. One line a group of operators.
pub(crate) fn lower<T: Element>(call: &Call, options: KernelOptions) -> Arc<dyn Kernel<T>> {
    let KernelOptions { threads, .. } = options;
    match &call.op {
        Op::Dense(op) => dense::lower(*op, call, options),
        Op::Unary(op) => elementwise::unary(*op, threads),
        Op::UnaryGrad(op) => elementwise::unary_grad(op.0, threads),
        Op::Binary(op) => elementwise::binary(*op, call, threads),
        Op::BinaryGrad(op) => elementwise::binary_grad(*op, call),
        Op::Compare(op) => elementwise::compare(*op, call),
        Op::Logic(op) => elementwise::logic(*op, call),
        Op::Where(_) => elementwise::choose(call),
        Op::Cast(_) => elementwise::cast(call),
        Op::Expand(_) => elementwise::expand(call),
        Op::SumTo(_) => reduce::sum_to(call),
        Op::Reduce(op) => reduce::reduce(op, call),
        Op::ReduceGrad(op) => reduce::reduce_grad(op.reduction, call),
        Op::Spread(_) => reduce::spread(call),
        Op::ArgMax(op) => reduce::arg_max(op.axis, call),
        // A reshape that can't be a view is a copy.
        Op::Reshape(_) => elementwise::unary(Unary::Identity, threads),
        Op::Transpose(op) => layout::transpose(op, call),
        Op::Concat(op) => layout::concat(*op, call),
        Op::Slice(op) => layout::slice(*op, call),
        Op::SliceGrad(op) => layout::slice_grad(*op, call),
        Op::Pad(op) => layout::pad(*op, call),
        Op::PadGrad(op) => layout::pad_grad(op.0, call),
        Op::Gather(op) => layout::gather(*op, call),
        Op::GatherGrad(op) => layout::gather_grad(*op, call),
        Op::GatherElements(op) => elements::gather(*op, call),
        Op::GatherElementsGrad(op) => elements::gather_grad(op, call),
        Op::CumSum(op) => elements::cum_sum(*op, call),
        Op::MatMul(op) => matmul::lower(*op, call, options),
        Op::Attention(op) => attention::forward(*op, call, options),
        Op::AttentionGrad(op) => attention::backward(*op, call, options),
        Op::Recurrent(op) => recurrent::forward(*op, call, threads),
        Op::RecurrentGrad(op) => recurrent::backward(*op, call, threads),
        Op::Norm(op) => norm::norm(*op, call, threads),
        Op::NormGrad(op) => norm::norm_grad(op.0, call, threads),
        Op::PairLoss(op) => pair_loss::pair(*op, call),
        Op::PairLossGrad(op) => pair_loss::pair_grad(op.0, call),
        Op::CrossEntropy(op) => pair_loss::cross_entropy(*op, call),
        Op::CrossEntropyGrad(op) => pair_loss::cross_entropy_grad(op.0, call),
        Op::Conv(op) => conv::lower(*op, false, call, threads),
        Op::ConvRelu(op) => conv::lower(op.0, true, call, threads),
        Op::Pool(op) => pool::pool(*op, call, threads),
        Op::PoolGrad(op) => pool::pool_grad(*op, call, threads),
        Op::Dropout(op) => dropout::lower(*op),
        Op::Softmax(op) => rows::lower(*op, call),
        Op::SoftmaxCrossEntropy(op) => loss::cross_entropy(*op, call),
        Op::MeanSquaredError(op) => loss::squared_error(*op),
        Op::L2Penalty(op) => loss::penalty(op.lambda),
        Op::L2PenaltyGrad(op) => loss::penalty_grad(op.lambda),
        Op::Fused(op) => fused::lower(op, call, threads),
        Op::FusedProduct(op) => fused_product::lower(op, call, options),
    }
}

/// The floats that the kernel of an operator needs for itself.
pub(crate) fn scratch_len<T: Element>(
    op: &Op,
    operands: &[Vec<usize>],
    results: &[Vec<usize>],
    threads: usize,
) -> usize {
    let len = |shape: &[usize]| shape.iter().product();
    match op {
        Op::Reduce(op) => reduce::scratch_len(op.reduction, len(&results[0])),
        Op::ReduceGrad(op) => reduce::grad_scratch_len(op.reduction, len(&operands[1])),
        Op::Attention(op) => attention::scratch_len(*op, operands),
        Op::AttentionGrad(op) => attention::grad_scratch_len(*op, operands),
        Op::RecurrentGrad(op) => recurrent::scratch_len(*op, operands),
        Op::PoolGrad(op) => {
            let dy = &operands[operands.len() - 1];
            pool::grad_scratch_len(op, dy, threads)
        }
        Op::Conv(op) | Op::ConvRelu(ConvRelu(op)) => {
            conv::scratch_len::<T>(op, operands, results, threads)
        }
        _ => 0,
    }
}

/// A range that an instruction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub place: Place,
    /// The result; one past the last is the scratch.
    pub result: usize,
}

/// A kernel, where its operands and results stand, and which gradients it finishes.
#[derive(Clone, Debug)]
pub(crate) struct Instruction<T> {
    /// `None` if there is nothing to compute.
    kernel: Option<Arc<dyn Kernel<T>>>,
    operands: Vec<Place>,
    results: Vec<Place>,
    /// Results and scratch by offset.
    writes: Vec<Write>,
    /// The parameters (positions in the layout) whose gradients are final afterwards, each with the
    /// end of its padded range in the gradient arena.
    pub finishes: Vec<(usize, usize)>,
    /// The padding of these gradients: what stood there before goes.
    paddings: Vec<Range<usize>>,
}

impl<T: Element> Instruction<T> {
    /// The instruction of a call; `paddings` are where the parameters end, and where their padded
    /// ranges do.
    pub(crate) fn new(call: &Call, options: KernelOptions, paddings: &[Range<usize>]) -> Self {
        let places = |located: &[crate::plan::Located]| -> Vec<Place> {
            located.iter().map(|located| located.place).collect()
        };
        let results = places(&call.results);
        let written = results.iter().chain(&call.scratch).enumerate();
        let mut writes: Vec<Write> = written
            .map(|(result, &place)| Write { place, result })
            .collect();
        writes.sort_by_key(|write| write.place.offset);
        assert!(writes.len() <= WRITES_MAX, "{:?} writes too much", call.op);
        Self {
            kernel: (!call.is_view).then(|| lower(call, options)),
            operands: places(&call.operands),
            results,
            writes,
            finishes: call
                .finishes
                .iter()
                .map(|&slot| (slot, paddings[slot].end))
                .collect(),
            paddings: call
                .finishes
                .iter()
                .map(|&slot| paddings[slot].clone())
                .filter(|padding| !padding.is_empty())
                .collect(),
        }
    }

    /// The first element of the gradients that it reads or writes.
    pub(crate) fn gradients_from(&self) -> Option<usize> {
        let written = self.writes.iter().map(|write| write.place);
        let places = self.operands.iter().copied().chain(written);
        let gradients = places.filter(|place| place.space == Space::Gradients);
        let cleared = self.paddings.iter().map(|padding| padding.start);
        gradients.map(|place| place.offset).chain(cleared).min()
    }

    /// True if it reads the factor of the loss, with which the backward part begins.
    pub(crate) fn begins_backward(&self) -> bool {
        let operands = self.operands.iter();
        operands
            .into_iter()
            .any(|place| place.space == Space::LossScale)
    }

    /// True if a run can leave it out.
    pub(crate) fn is_void(&self) -> bool {
        self.kernel.is_none() && self.finishes.is_empty()
    }

    /// Runs the kernel.
    pub(crate) fn run(&self, memory: &mut Memory<'_, T>, args: &RunArgs) {
        if let Some(kernel) = &self.kernel {
            let (mut results, operands) =
                memory.borrow(&self.writes, &self.results, &self.operands);
            kernel.run(&mut results, &operands, args);
        }
        for padding in &self.paddings {
            memory.clear_gradients(padding.clone());
        }
    }
}
