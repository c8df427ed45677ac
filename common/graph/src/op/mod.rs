//! Operators: what they compute, which operands they take.
//!
//! Each group of operators has a file of its own, with attributes, type inference, the rule of its
//! gradient and its form in dumps. [`Op`] is one of the groups.
//!
//! In formulas `x` is an activation, `w` and `b` parameters, `d…` the gradient of the scaled loss
//! with respect to `…`. `[]` is a scalar, `[..]` any dimensions.

mod attention;
mod binary;
mod dense;
mod fused;
mod fused_product;
mod gather;
mod gather_elements;
mod image;
mod layout;
mod loss;
mod matmul;
mod norm;
mod pair_loss;
mod random;
mod recurrent;
mod reduce;
mod scan;
mod softmax;
mod unary;

use std::fmt;

pub use self::attention::{Attention, AttentionGrad, AttentionLayout};
pub use self::binary::{Binary, BinaryGrad, Cast, Compare, Expand, Logic, Side, SumTo, Where};
pub use self::dense::Dense;
pub use self::fused::{Arg, ConvRelu, FUSED_OPERANDS_MAX, FUSED_STEPS_MAX, Function, Fused, Step};
pub use self::fused_product::{FusedProduct, Product};
pub use self::gather::{Gather, GatherGrad};
pub use self::gather_elements::{GatherElements, GatherElementsGrad};
pub use self::image::{Conv, ConvPart, Pool, PoolGrad, Pooling, Windows};
pub use self::layout::{Concat, Margin, Pad, PadGrad, Reshape, Slice, SliceGrad, Transpose};
pub use self::loss::{L2Penalty, L2PenaltyGrad, MeanSquaredError, SoftmaxCrossEntropy};
pub use self::matmul::MatMul;
pub use self::norm::{Norm, NormGrad, NormOver};
pub use self::pair_loss::{
    CrossEntropy, CrossEntropyGrad, Distance, LossReduction, PairLoss, PairLossGrad,
};
pub use self::random::Dropout;
pub use self::recurrent::{Cell, Recurrent, RecurrentGrad};
pub use self::reduce::{ArgMax, Reduce, ReduceGrad, Reduction, Spread};
pub use self::scan::CumSum;
pub use self::softmax::Softmax;
pub use self::unary::{Saved, Unary, UnaryGrad};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};

/// What every group says of its operators.
pub(crate) trait Operator {
    /// The name in dumps and errors, without attributes.
    fn name(&self) -> &'static str;

    /// The attributes in dumps.
    fn attributes(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The types of the results; checks attributes and operands.
    fn infer(&self, operands: &Operands<'_>) -> Inferred;

    /// True if the first result may take the place of this operand when nothing else reads it.
    fn may_run_in_place(&self, _operand: usize) -> bool {
        false
    }

    /// True if the result is the first operand's elements in the same order, under another shape.
    fn is_view(&self) -> bool {
        false
    }

    /// What it is in evaluation and prediction, if that is something else with the same operands
    /// and results.
    fn in_inference(&self) -> Option<Op> {
        None
    }

    /// The operand of integers that must name positions, and of what.
    fn index_rule(&self) -> Option<IndexRule> {
        None
    }

    /// True if the result depends on random numbers.
    fn is_random(&self) -> bool {
        false
    }

    /// True if the results don't depend smoothly on the operands: gradients end here.
    fn ends_gradient(&self) -> bool {
        false
    }

    /// Gives the operands their gradients.
    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        Err(rule.not_differentiable())
    }
}

/// The integers of one operand name positions along a dimension of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRule {
    /// The operand of integers.
    pub operand: usize,
    /// The operand whose dimension they lie in.
    pub of: usize,
    /// That dimension; counted from the last if `None`.
    pub axis: Option<usize>,
    /// A number that is allowed besides.
    pub ignore: Option<i64>,
    /// Negative numbers count from the end.
    pub from_end: bool,
}

/// Declares [`Op`]: one variant a group.
macro_rules! operators {
    ($($(#[$doc:meta])* $variant:ident($group:ident),)*) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $variant($group),)*
        }

        impl Op {
            pub(crate) fn operator(&self) -> &dyn Operator {
                match self {
                    $(Self::$variant(operator) => operator,)*
                }
            }
        }

        $(impl From<$group> for Op {
            fn from(group: $group) -> Self {
                Self::$variant(group)
            }
        })*
    };
}

operators! {
    /// Affine maps of rows, and their gradients.
    Dense(Dense),
    /// A function of each element.
    Unary(Unary),
    /// The gradient of a function of each element.
    UnaryGrad(UnaryGrad),
    /// A function of two tensors, element by element.
    Binary(Binary),
    /// The gradient of a function of two tensors.
    BinaryGrad(BinaryGrad),
    /// A comparison of two tensors.
    Compare(Compare),
    /// A function of truth values.
    Logic(Logic),
    /// A choice by element.
    Where(Where),
    /// Elements of another type.
    Cast(Cast),
    /// Repetition along dimensions of 1.
    Expand(Expand),
    /// The sum over what broadcasting repeated.
    SumTo(SumTo),
    /// A reduction over dimensions.
    Reduce(Reduce),
    /// The gradient of a reduction.
    ReduceGrad(ReduceGrad),
    /// The gradient of a mean.
    Spread(Spread),
    /// The position of the largest element.
    ArgMax(ArgMax),
    /// Another shape of the same elements.
    Reshape(Reshape),
    /// Another order of the dimensions.
    Transpose(Transpose),
    /// One tensor of several.
    Concat(Concat),
    /// A part of a tensor.
    Slice(Slice),
    /// The gradient of a part.
    SliceGrad(SliceGrad),
    /// A margin.
    Pad(Pad),
    /// The gradient of a margin.
    PadGrad(PadGrad),
    /// Picking by index.
    Gather(Gather),
    /// The gradient of picking.
    GatherGrad(GatherGrad),
    /// Picking single elements by index.
    GatherElements(GatherElements),
    /// The gradient of picking single elements.
    GatherElementsGrad(GatherElementsGrad),
    /// Running sums.
    CumSum(CumSum),
    /// Products of matrices.
    MatMul(MatMul),
    /// Scaled-dot-product attention.
    Attention(Attention),
    /// The gradient of attention.
    AttentionGrad(AttentionGrad),
    /// A recurrent layer.
    Recurrent(Recurrent),
    /// The gradient of a recurrent layer.
    RecurrentGrad(RecurrentGrad),
    /// A normalisation.
    Norm(Norm),
    /// The gradient of a normalisation.
    NormGrad(NormGrad),
    /// A loss of two tensors.
    PairLoss(PairLoss),
    /// The gradient of a loss of two tensors.
    PairLossGrad(PairLossGrad),
    /// Cross-entropy with every option.
    CrossEntropy(CrossEntropy),
    /// The gradient of cross-entropy with every option.
    CrossEntropyGrad(CrossEntropyGrad),
    /// A convolution, or a part of its gradient.
    Conv(Conv),
    /// Pooling.
    Pool(Pool),
    /// The gradient of pooling.
    PoolGrad(PoolGrad),
    /// Zeroing at random.
    Dropout(Dropout),
    /// Softmax and its kin.
    Softmax(Softmax),
    /// Cross-entropy of classes, and its gradient.
    SoftmaxCrossEntropy(SoftmaxCrossEntropy),
    /// Mean squared error, and its gradient.
    MeanSquaredError(MeanSquaredError),
    /// A penalty on the size of weights.
    L2Penalty(L2Penalty),
    /// The gradient of the penalty.
    L2PenaltyGrad(L2PenaltyGrad),
    /// A chain of element-wise operators.
    Fused(Fused),
    /// A convolution with ReLU.
    ConvRelu(ConvRelu),
    /// A product of matrices with a chain of element-wise operators.
    FusedProduct(FusedProduct),
}

impl Op {
    /// The name in dumps and errors, without attributes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.operator().name()
    }

    /// True if the first result may take the place of operand `operand` when nothing else reads
    /// that operand: each element of the result is computed after the last use of the element that
    /// it replaces.
    #[must_use]
    pub fn may_run_in_place(&self, operand: usize) -> bool {
        self.operator().may_run_in_place(operand)
    }

    /// The operator in evaluation and prediction.
    #[must_use]
    pub fn in_inference(&self) -> Self {
        let other = self.operator().in_inference();
        other.unwrap_or_else(|| self.clone())
    }

    /// True if the result depends on random numbers: equal nodes aren't one.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.operator().is_random()
    }

    /// The operand whose integers name positions, and of what.
    #[must_use]
    pub fn index_rule(&self) -> Option<IndexRule> {
        self.operator().index_rule()
    }

    /// True if the result is the first operand's elements in the same order, under another shape:
    /// it may stand where the operand stands.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.operator().is_view()
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (i, (attribute, value)) in self.operator().attributes().iter().enumerate() {
            let open = if i == 0 { "<" } else { ", " };
            write!(f, "{open}{attribute}={value}")?;
        }
        if !self.operator().attributes().is_empty() {
            f.write_str(">")?;
        }
        Ok(())
    }
}

/// The derived form of a list of numbers, in dumps.
pub(crate) fn list(numbers: &[usize]) -> String {
    format!("{numbers:?}")
}
