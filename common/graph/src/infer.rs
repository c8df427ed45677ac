//! The type of a node's result, from its operator and the types of its operands.

use crate::error::GraphError;
use crate::graph::NodeId;
use crate::op::Op;
use crate::shape::{DType, Dim, Shape, TensorType};

/// The operands of one node, while they are checked.
struct Operands<'a> {
    node: NodeId,
    op: &'a Op,
    float: DType,
    types: &'a [&'a TensorType],
}

/// Infers the type of the node's result, and checks attributes and operands.
pub(crate) fn infer(
    node: NodeId,
    op: &Op,
    float: DType,
    types: &[&TensorType],
) -> Result<TensorType, GraphError> {
    let operands = Operands {
        node,
        op,
        float,
        types,
    };
    check_attributes(node, op)?;
    let shape = result_shape(&operands)?;
    Ok(TensorType::new(float, shape))
}

fn result_shape(o: &Operands<'_>) -> Result<Shape, GraphError> {
    match o.op {
        Op::Affine => {
            o.count(2, 3, "2 or 3")?;
            let [n, i] = o.matrix(0)?;
            let [out, _] = o.matrix(1)?;
            o.shape(1, &[out, i])?;
            if o.types.len() == 3 {
                o.float(2)?;
                o.shape(2, &[out])?;
            }
            Ok(Shape::new(vec![n, out]))
        }
        Op::Activation(_) | Op::Dropout { .. } | Op::Scale { .. } | Op::Identity => {
            o.count(1, 1, "1")?;
            o.float(0)
        }
        Op::Softmax => {
            o.count(1, 1, "1")?;
            o.rows(0)
        }
        Op::SoftmaxCrossEntropy => {
            o.count(2, 2, "2")?;
            o.logits_and_labels()?;
            Ok(Shape::scalar())
        }
        Op::SoftmaxCrossEntropyGrad => {
            o.count(3, 3, "3")?;
            let logits = o.logits_and_labels()?;
            o.scalar(2)?;
            Ok(logits)
        }
        Op::MeanSquaredError => {
            o.count(2, 2, "2")?;
            o.same(0, 1)?;
            Ok(Shape::scalar())
        }
        Op::MeanSquaredErrorGrad => {
            o.count(3, 3, "3")?;
            o.scalar(2)?;
            o.same(0, 1)
        }
        Op::L2Penalty { .. } => {
            o.count(1, 1, "1")?;
            o.float(0)?;
            Ok(Shape::scalar())
        }
        Op::L2PenaltyGrad { .. } => {
            o.count(2, 3, "2 or 3")?;
            o.scalar(1)?;
            if o.types.len() == 3 {
                o.same(0, 2)?;
            }
            o.float(0)
        }
        Op::Add | Op::ActivationGrad(_) => {
            o.count(2, 2, "2")?;
            o.same(0, 1)
        }
        Op::SoftmaxGrad => {
            o.count(2, 2, "2")?;
            o.rows(0)?;
            o.same(0, 1)
        }
        Op::AffineGradInput => {
            o.count(2, 2, "2")?;
            let [n, out] = o.matrix(0)?;
            let [_, i] = o.matrix(1)?;
            o.shape(1, &[out, i])?;
            Ok(Shape::new(vec![n, i]))
        }
        Op::AffineGradWeight => {
            o.count(2, 2, "2")?;
            let [n, out] = o.matrix(0)?;
            let [_, i] = o.matrix(1)?;
            o.shape(1, &[n, i])?;
            Ok(Shape::new(vec![out, i]))
        }
        Op::AffineGradBias => {
            o.count(1, 1, "1")?;
            let [_, out] = o.matrix(0)?;
            Ok(Shape::new(vec![out]))
        }
    }
}

fn check_attributes(node: NodeId, op: &Op) -> Result<(), GraphError> {
    let (attribute, expected, got, fits) = match *op {
        Op::Dropout { rate, .. } => (
            "rate",
            "a number in [0, 1)",
            rate,
            (0.0..1.0).contains(&rate),
        ),
        Op::L2Penalty { lambda } | Op::L2PenaltyGrad { lambda } => (
            "lambda",
            "a finite number of at least 0",
            lambda,
            lambda.is_finite() && lambda >= 0.0,
        ),
        Op::Scale { factor } => ("factor", "a finite number", factor, factor.is_finite()),
        _ => return Ok(()),
    };
    if fits {
        return Ok(());
    }
    Err(GraphError::Attribute {
        node,
        op: op.name(),
        attribute,
        expected,
        got,
    })
}

impl Operands<'_> {
    fn count(&self, min: usize, max: usize, expected: &'static str) -> Result<(), GraphError> {
        let got = self.types.len();
        if (min..=max).contains(&got) {
            return Ok(());
        }
        Err(GraphError::OperandCount {
            node: self.node,
            op: self.op.name(),
            expected,
            got,
        })
    }

    fn dtype(&self, operand: usize, expected: DType) -> Result<(), GraphError> {
        let got = self.types[operand].dtype;
        if got == expected {
            return Ok(());
        }
        Err(GraphError::OperandDType {
            node: self.node,
            op: self.op.name(),
            operand,
            expected,
            got,
        })
    }

    /// The shape of a float operand.
    fn float(&self, operand: usize) -> Result<Shape, GraphError> {
        self.dtype(operand, self.float)?;
        Ok(self.types[operand].shape.clone())
    }

    fn rank_error(&self, operand: usize, expected: &'static str) -> GraphError {
        GraphError::OperandRank {
            node: self.node,
            op: self.op.name(),
            operand,
            expected,
            got: self.types[operand].shape.clone(),
        }
    }

    /// The two dimensions of a float matrix.
    fn matrix(&self, operand: usize) -> Result<[Dim; 2], GraphError> {
        self.dtype(operand, self.float)?;
        self.types[operand]
            .shape
            .dims()
            .try_into()
            .map_err(|_| self.rank_error(operand, "2"))
    }

    /// The shape of a float operand that has a last dimension.
    fn rows(&self, operand: usize) -> Result<Shape, GraphError> {
        let shape = self.float(operand)?;
        if shape.rank() == 0 {
            return Err(self.rank_error(operand, "at least 1"));
        }
        Ok(shape)
    }

    fn scalar(&self, operand: usize) -> Result<(), GraphError> {
        self.dtype(operand, self.float)?;
        self.shape(operand, &[])
    }

    fn shape(&self, operand: usize, expected: &[Dim]) -> Result<(), GraphError> {
        let got = &self.types[operand].shape;
        if got.dims() == expected {
            return Ok(());
        }
        Err(GraphError::OperandShape {
            node: self.node,
            op: self.op.name(),
            operand,
            expected: Shape::new(expected.to_vec()),
            got: got.clone(),
        })
    }

    /// The shape that two float operands share.
    fn same(&self, first: usize, second: usize) -> Result<Shape, GraphError> {
        let shape = self.float(first)?;
        self.dtype(second, self.float)?;
        self.shape(second, shape.dims())?;
        Ok(shape)
    }

    /// The shape of the logits, operand 0; operand 1 is one label a row.
    fn logits_and_labels(&self) -> Result<Shape, GraphError> {
        let [n, classes] = self.matrix(0)?;
        self.dtype(1, DType::I32)?;
        self.shape(1, &[n])?;
        Ok(Shape::new(vec![n, classes]))
    }
}
