//! Picking single elements by index.

use super::{IndexRule, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape};

/// `(x [a.., n, b..], index of integers [c.., m, d..]) -> index's shape`: at each place of the index
/// the element of x at the same place, but along `axis` at the indexed position (PyTorch's `gather`,
/// ONNX's `GatherElements`). No dimension of the index but `axis` is longer than that of x. Negative
/// indices count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherElements {
    /// The dimension, which isn't the batch.
    pub axis: usize,
}

/// `(index, dy) -> dx of this shape`: the gradient of [`GatherElements`]: each element of dy added where
/// it was picked, in the order of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherElementsGrad {
    /// The dimension.
    pub axis: usize,
    /// The shape of x.
    pub shape: Shape,
}

/// Checks that an index of these dimensions picks from x.
fn check(o: &Operands<'_>, axis: usize, x: &[Dim], index: &[Dim]) -> Result<(), GraphError> {
    let inside = |(at, (x, index)): (usize, (&Dim, &Dim))| {
        let shorter = matches!((x, index), (Dim::Fixed(x), Dim::Fixed(i)) if i <= x);
        at == axis || x == index || shorter
    };
    let along = x.get(axis).and_then(|dim| dim.fixed());
    let fits = x.len() == index.len() && x.iter().zip(index).enumerate().all(inside);
    let expected = "a dimension of the operand; indices with its rank, elsewhere not longer";
    let fits = fits && along.is_some_and(|n| n > 0);
    o.attribute("axis", expected, axis as f64, fits)
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "gather_elements"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        let (x, index) = (o.float(0)?, o.index(1)?);
        check(o, self.axis, x.dims(), index.dims())?;
        o.one(index)
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
        let grad = GatherElementsGrad {
            axis: self.axis,
            shape: rule.shape(rule.operand(0)),
        };
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, grad, &[index, dy])
    }
}

impl Operator for GatherElementsGrad {
    fn name(&self) -> &'static str {
        "gather_elements_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("axis", self.axis.to_string()),
            ("shape", self.shape.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        let index = o.index(0)?;
        o.float_shape(1, index.dims())?;
        check(o, self.axis, self.shape.dims(), index.dims())?;
        o.one(self.shape.clone())
    }
}
