//! The types of a node's results, from its operator and the types of its operands: what operators
//! say their rules with.

use crate::error::GraphError;
use crate::graph::NodeId;
use crate::op::Op;
use crate::shape::{DType, Dim, Shape, TensorType};

/// The types of results, or why there are none.
pub(crate) type Inferred = Result<Vec<TensorType>, GraphError>;

/// The operands of one node, while they are checked.
pub(crate) struct Operands<'a> {
    node: NodeId,
    op: &'static str,
    float: DType,
    types: &'a [&'a TensorType],
}

/// Infers the types of the node's results, and checks attributes and operands.
pub(crate) fn infer(node: NodeId, op: &Op, float: DType, types: &[&TensorType]) -> Inferred {
    let operands = Operands {
        node,
        op: op.name(),
        float,
        types,
    };
    op.operator().infer(&operands)
}

impl<'a> Operands<'a> {
    /// The types of all operands.
    pub(crate) fn types(&self) -> &'a [&'a TensorType] {
        self.types
    }

    /// Other operands, for an operator that is a part of this one.
    pub(crate) fn with<'b>(&self, types: &'b [&'b TensorType]) -> Operands<'b> {
        Operands {
            node: self.node,
            op: self.op,
            float: self.float,
            types,
        }
    }

    /// The number of operands.
    pub(crate) fn len(&self) -> usize {
        self.types.len()
    }

    /// One float result of this shape.
    pub(crate) fn one(&self, shape: Shape) -> Inferred {
        Ok(vec![TensorType::new(self.float, shape)])
    }

    /// Float results of these shapes.
    pub(crate) fn floats(&self, shapes: impl IntoIterator<Item = Shape>) -> Inferred {
        let shapes = shapes.into_iter();
        Ok(shapes
            .map(|shape| TensorType::new(self.float, shape))
            .collect())
    }

    /// Checks an attribute.
    pub(crate) fn attribute(
        &self,
        attribute: &'static str,
        expected: &'static str,
        got: f64,
        fits: bool,
    ) -> Result<(), GraphError> {
        if fits {
            return Ok(());
        }
        Err(GraphError::Attribute {
            node: self.node,
            op: self.op,
            attribute,
            expected,
            got,
        })
    }

    /// Checks that an attribute names a dimension of an operand; returns the dimension.
    pub(crate) fn axis(&self, operand: usize, axis: usize) -> Result<Dim, GraphError> {
        let dim = self.types[operand].shape.dims().get(axis).copied();
        self.attribute(
            "axis",
            "a dimension of the operand",
            axis as f64,
            dim.is_some(),
        )?;
        Ok(dim.unwrap_or(Dim::Fixed(1)))
    }

    /// A dimension that must not be the batch, named by an attribute.
    pub(crate) fn fixed_axis(&self, operand: usize, axis: usize) -> Result<usize, GraphError> {
        let dim = self.axis(operand, axis)?;
        self.attribute(
            "axis",
            "a dimension without the batch",
            axis as f64,
            dim.fixed().is_some(),
        )?;
        Ok(dim.fixed().unwrap_or(1))
    }

    pub(crate) fn count(
        &self,
        min: usize,
        max: usize,
        expected: &'static str,
    ) -> Result<(), GraphError> {
        let got = self.types.len();
        if (min..=max).contains(&got) {
            return Ok(());
        }
        Err(GraphError::OperandCount {
            node: self.node,
            op: self.op,
            expected,
            got,
        })
    }

    fn dtype_error(&self, operand: usize, expected: &'static str) -> GraphError {
        GraphError::OperandDType {
            node: self.node,
            op: self.op,
            operand,
            expected,
            got: self.types[operand].dtype,
        }
    }

    /// The type of an operand of any elements.
    pub(crate) fn any(&self, operand: usize) -> &TensorType {
        self.types[operand]
    }

    /// The shape of a float operand.
    pub(crate) fn float(&self, operand: usize) -> Result<Shape, GraphError> {
        self.of(operand, self.float)
    }

    /// The shape of an operand of truth values.
    pub(crate) fn bool(&self, operand: usize) -> Result<Shape, GraphError> {
        self.of(operand, DType::Bool)
    }

    fn of(&self, operand: usize, expected: DType) -> Result<Shape, GraphError> {
        if self.types[operand].dtype != expected {
            return Err(self.dtype_error(operand, expected.name()));
        }
        Ok(self.types[operand].shape.clone())
    }

    /// The shape of an operand of integers.
    pub(crate) fn index(&self, operand: usize) -> Result<Shape, GraphError> {
        if !self.types[operand].dtype.is_index() {
            return Err(self.dtype_error(operand, "i32 or i64"));
        }
        Ok(self.types[operand].shape.clone())
    }

    pub(crate) fn rank_error(&self, operand: usize, expected: &'static str) -> GraphError {
        GraphError::OperandRank {
            node: self.node,
            op: self.op,
            operand,
            expected,
            got: self.types[operand].shape.clone(),
        }
    }

    /// The two dimensions of a float matrix.
    pub(crate) fn matrix(&self, operand: usize) -> Result<[Dim; 2], GraphError> {
        let shape = self.float(operand)?;
        let dims = shape.dims().try_into();
        dims.map_err(|_| self.rank_error(operand, "2"))
    }

    /// The leading dimensions and the last one of a float operand of at least `rank_min`.
    pub(crate) fn rows(
        &self,
        operand: usize,
        rank_min: usize,
        expected: &'static str,
    ) -> Result<(Vec<Dim>, Dim), GraphError> {
        let shape = self.float(operand)?;
        match shape.dims().split_last() {
            Some((last, leading)) if shape.rank() >= rank_min => Ok((leading.to_vec(), *last)),
            _ => Err(self.rank_error(operand, expected)),
        }
    }

    pub(crate) fn scalar(&self, operand: usize) -> Result<(), GraphError> {
        self.float(operand)?;
        self.shape(operand, &[])
    }

    /// Checks that an operand, whatever its elements, has these dimensions.
    pub(crate) fn shape(&self, operand: usize, expected: &[Dim]) -> Result<(), GraphError> {
        let got = &self.types[operand].shape;
        if got.dims() == expected {
            return Ok(());
        }
        Err(GraphError::OperandShape {
            node: self.node,
            op: self.op,
            operand,
            expected: Shape::new(expected.to_vec()),
            got: got.clone(),
        })
    }

    /// Checks that an operand has floats of these dimensions.
    pub(crate) fn float_shape(&self, operand: usize, expected: &[Dim]) -> Result<(), GraphError> {
        self.float(operand)?;
        self.shape(operand, expected)
    }

    /// The shape that two float operands share.
    pub(crate) fn same(&self, first: usize, second: usize) -> Result<Shape, GraphError> {
        let shape = self.float(first)?;
        self.float_shape(second, shape.dims())?;
        Ok(shape)
    }

    /// The shape that two shapes broadcast to.
    pub(crate) fn broadcast(&self, first: &Shape, second: &Shape) -> Result<Shape, GraphError> {
        first
            .broadcast(second)
            .ok_or_else(|| GraphError::Broadcast {
                node: self.node,
                op: self.op,
                first: first.clone(),
                second: second.clone(),
            })
    }
}
