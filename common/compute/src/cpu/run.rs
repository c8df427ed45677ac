//! One instruction on the memories of a run.

use super::gemm;
use super::kernel::{Instruction, Kernel};
use super::kernels::{Source, activation, dropout, loss, map, rows, zip};
use super::memory::Memory;
use crate::backend::RunArgs;
use crate::element::Element;

impl Instruction {
    /// Runs the kernel.
    pub(super) fn run<T: Element>(&self, memory: &mut Memory<'_, T>, args: &RunArgs) {
        let (result, operands) = memory.borrow(self.result);
        match &self.kernel {
            Kernel::MatMul {
                spec,
                lhs,
                rhs,
                bias,
            } => {
                if let Some(bias) = bias {
                    rows::broadcast(result, operands.slice(*bias));
                }
                gemm::matmul(spec, result, operands.slice(*lhs), operands.slice(*rhs));
            }
            Kernel::ColumnSum { src } => rows::column_sum(result, operands.slice(*src)),
            Kernel::Activation { kind, src } => {
                activation::activation(*kind, result, operands.source(*src));
            }
            Kernel::ActivationGrad { kind, saved, dy } => activation::activation_grad(
                *kind,
                result,
                operands.source(*saved),
                operands.source(*dy),
            ),
            Kernel::Dropout { spec, src } => {
                dropout::dropout(spec, args, result, operands.source(*src));
            }
            Kernel::Softmax { src, columns } => {
                rows::softmax(result, operands.source(*src), *columns);
            }
            Kernel::SoftmaxGrad { y, dy, columns } => {
                rows::softmax_grad(result, operands.slice(*y), operands.source(*dy), *columns);
            }
            Kernel::SoftmaxCrossEntropy {
                logits,
                labels,
                classes,
            } => {
                result[0] = loss::softmax_cross_entropy(
                    operands.slice(*logits),
                    operands.labels(*labels),
                    *classes,
                );
            }
            Kernel::SoftmaxCrossEntropyGrad {
                logits,
                labels,
                dloss,
                classes,
            } => loss::softmax_cross_entropy_grad(
                result,
                operands.source(*logits),
                operands.labels(*labels),
                operands.scalar(*dloss),
                *classes,
            ),
            Kernel::MeanSquaredError { prediction, target } => {
                result[0] =
                    loss::mean_squared_error(operands.slice(*prediction), operands.slice(*target));
            }
            Kernel::MeanSquaredErrorGrad {
                prediction,
                target,
                dloss,
            } => loss::mean_squared_error_grad(
                result,
                operands.source(*prediction),
                operands.slice(*target),
                operands.scalar(*dloss),
            ),
            Kernel::L2Penalty { w, lambda } => {
                result[0] = loss::l2_penalty(operands.slice(*w), *lambda);
            }
            Kernel::L2PenaltyGrad {
                w,
                dloss,
                other,
                lambda,
            } => {
                let factor = T::from_f64(*lambda) * operands.scalar(*dloss);
                let w = Source::Apart(operands.slice(*w));
                match other {
                    Some(other) => zip(result, w, operands.source(*other), |w, other| {
                        other + factor * w
                    }),
                    None => map(result, w, |w| factor * w),
                }
            }
            Kernel::Add { a, b } => {
                zip(result, operands.source(*a), operands.source(*b), |a, b| {
                    a + b
                });
            }
            Kernel::Scale { src, factor } => {
                let factor = T::from_f64(*factor);
                map(result, operands.source(*src), |x| factor * x);
            }
            Kernel::Copy { src } => map(result, operands.source(*src), |x| x),
        }
    }
}
