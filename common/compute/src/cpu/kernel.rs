//! Instructions: a program's calls with every dimension and place resolved.

use ringfold_graph::{Activation, Op};

use super::gemm::MatMul;
use super::kernels::dropout::Dropout;
use crate::plan::{Call, Place};

/// What one instruction does. Operands are named by their places; an operand at the result's place
/// is changed in place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kernel {
    /// Result = lhs · rhs, plus the bias in every row.
    MatMul {
        spec: MatMul,
        lhs: Place,
        rhs: Place,
        bias: Option<Place>,
    },
    ColumnSum {
        src: Place,
    },
    Activation {
        kind: Activation,
        src: Place,
    },
    ActivationGrad {
        kind: Activation,
        saved: Place,
        dy: Place,
    },
    Dropout {
        spec: Dropout,
        src: Place,
    },
    Softmax {
        src: Place,
        columns: usize,
    },
    SoftmaxGrad {
        y: Place,
        dy: Place,
        columns: usize,
    },
    SoftmaxCrossEntropy {
        logits: Place,
        labels: Place,
        classes: usize,
    },
    SoftmaxCrossEntropyGrad {
        logits: Place,
        labels: Place,
        dloss: Place,
        classes: usize,
    },
    MeanSquaredError {
        prediction: Place,
        target: Place,
    },
    MeanSquaredErrorGrad {
        prediction: Place,
        target: Place,
        dloss: Place,
    },
    L2Penalty {
        w: Place,
        lambda: f64,
    },
    /// Result = other + lambda · dloss · w; without other, 0 stands for it.
    L2PenaltyGrad {
        w: Place,
        dloss: Place,
        other: Option<Place>,
        lambda: f64,
    },
    Add {
        a: Place,
        b: Place,
    },
    Scale {
        src: Place,
        factor: f64,
    },
    Copy {
        src: Place,
    },
}

/// A kernel, where its result goes, and which gradient it finishes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instruction {
    pub kernel: Kernel,
    pub result: Place,
    /// The parameter (position in the layout) whose gradient is final afterwards, and the end of
    /// its padded range in the gradient arena.
    pub finishes: Option<(usize, usize)>,
}

impl Kernel {
    /// The kernel of a call.
    pub(crate) fn lower(call: &Call, threads: usize) -> Self {
        let at = |operand: usize| call.operands[operand].place;
        // Shapes have been inferred and verified: matrices have two dimensions.
        let dim = |operand: usize, axis: usize| call.operands[operand].shape[axis];
        let columns = |operand: usize| {
            let last = call.operands[operand].shape.last();
            last.copied().unwrap_or(1)
        };
        let product = MatMul {
            m: 0,
            n: 0,
            k: 0,
            lhs_transposed: false,
            rhs_transposed: false,
            accumulate: false,
            threads,
        };
        match call.op {
            Op::Affine => Self::MatMul {
                spec: MatMul {
                    m: dim(0, 0),
                    n: dim(1, 0),
                    k: dim(0, 1),
                    rhs_transposed: true,
                    accumulate: call.operands.len() == 3,
                    ..product
                },
                lhs: at(0),
                rhs: at(1),
                bias: call.operands.get(2).map(|bias| bias.place),
            },
            Op::AffineGradInput => Self::MatMul {
                spec: MatMul {
                    m: dim(0, 0),
                    n: dim(1, 1),
                    k: dim(0, 1),
                    ..product
                },
                lhs: at(0),
                rhs: at(1),
                bias: None,
            },
            Op::AffineGradWeight => Self::MatMul {
                spec: MatMul {
                    m: dim(0, 1),
                    n: dim(1, 1),
                    k: dim(0, 0),
                    lhs_transposed: true,
                    ..product
                },
                lhs: at(0),
                rhs: at(1),
                bias: None,
            },
            Op::AffineGradBias => Self::ColumnSum { src: at(0) },
            Op::Activation(kind) => Self::Activation { kind, src: at(0) },
            Op::ActivationGrad(kind) => Self::ActivationGrad {
                kind,
                saved: at(0),
                dy: at(1),
            },
            Op::Dropout { rate, key } => Self::Dropout {
                spec: Dropout { rate, key },
                src: at(0),
            },
            Op::Softmax => Self::Softmax {
                src: at(0),
                columns: columns(0),
            },
            Op::SoftmaxGrad => Self::SoftmaxGrad {
                y: at(0),
                dy: at(1),
                columns: columns(0),
            },
            Op::SoftmaxCrossEntropy => Self::SoftmaxCrossEntropy {
                logits: at(0),
                labels: at(1),
                classes: columns(0),
            },
            Op::SoftmaxCrossEntropyGrad => Self::SoftmaxCrossEntropyGrad {
                logits: at(0),
                labels: at(1),
                dloss: at(2),
                classes: columns(0),
            },
            Op::MeanSquaredError => Self::MeanSquaredError {
                prediction: at(0),
                target: at(1),
            },
            Op::MeanSquaredErrorGrad => Self::MeanSquaredErrorGrad {
                prediction: at(0),
                target: at(1),
                dloss: at(2),
            },
            Op::L2Penalty { lambda } => Self::L2Penalty { w: at(0), lambda },
            Op::L2PenaltyGrad { lambda } => Self::L2PenaltyGrad {
                w: at(0),
                dloss: at(1),
                other: call.operands.get(2).map(|other| other.place),
                lambda,
            },
            Op::Add => Self::Add { a: at(0), b: at(1) },
            Op::Scale { factor } => Self::Scale { src: at(0), factor },
            Op::Identity => Self::Copy { src: at(0) },
        }
    }

    /// True if there is nothing to do: a copy of a value to where it stands.
    pub(crate) fn is_void(&self, result: Place) -> bool {
        matches!(self, Self::Copy { src } if *src == result)
    }
}
