//! Picking by index.

use super::{IndexRule, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape};

/// `(x [a.., n, b..], index of integers [i..]) -> [a.., i.., b..]`: the slices of x at the indices
/// along a dimension that isn't the batch. Negative indices count from the end. An embedding is a
/// gather along dimension 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The dimension.
    pub axis: usize,
}

/// `(index, dy) -> dx`: the gradient of [`Gather`] along a dimension of `dim` elements: each slice
/// of dy added where it was picked, in the order of the indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherGrad {
    /// The dimension.
    pub axis: usize,
    /// Its number of elements.
    pub dim: usize,
}

impl Operator for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        let (x, index) = (o.float(0)?, o.index(1)?);
        o.fixed_axis(0, self.axis)?;
        let mut dims = x.dims().to_vec();
        dims.splice(self.axis..=self.axis, index.dims().iter().copied());
        o.one(Shape::new(dims))
    }

    fn index_rule(&self) -> Option<IndexRule> {
        Some(IndexRule {
            operand: 1,
            of: 0,
            axis: Some(self.axis),
            ignore: None,
            from_end: true,
        })
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let index = rule.operand(1);
        let shape = rule.shape(rule.operand(0));
        let grad = GatherGrad {
            axis: self.axis,
            dim: shape.dims()[self.axis].fixed().unwrap_or(1),
        };
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, grad, &[index, dy])
    }
}

impl Operator for GatherGrad {
    fn name(&self) -> &'static str {
        "gather_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("axis", self.axis.to_string()),
            ("dim", self.dim.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        let (index, dy) = (o.index(0)?, o.float(1)?);
        let end = self.axis + index.rank();
        let fits = dy.dims().get(self.axis..end) == Some(index.dims());
        let expected = "where the operand has the dimensions of the indices";
        o.attribute("axis", expected, self.axis as f64, fits)?;
        let mut dims = dy.dims().to_vec();
        dims.splice(self.axis..end, [Dim::Fixed(self.dim)]);
        o.one(Shape::new(dims))
    }
}
