//! Affine maps of rows: PyTorch's `Linear`.

use super::Operator;
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape};

/// An affine map of rows, or a part of its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dense {
    /// `(x [.., i], w [o, i], b [o]?) -> [.., o]`: `x · wᵀ + b` on every row; at least one leading
    /// dimension.
    Affine,
    /// `(dy [.., o], w [o, i]) -> dx [.., i]`: `dy · w`.
    GradInput,
    /// `(dy [.., o], x [.., i]) -> dw [o, i]`: `dyᵀ · x` over all rows.
    GradWeight,
    /// `(dy [.., o]) -> db [o]`: the sum of the rows.
    GradBias,
}

fn with_last(mut leading: Vec<Dim>, last: Dim) -> Shape {
    leading.push(last);
    Shape::new(leading)
}

impl Operator for Dense {
    fn name(&self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::GradInput => "affine_grad_input",
            Self::GradWeight => "affine_grad_weight",
            Self::GradBias => "affine_grad_bias",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self {
            Self::Affine => {
                o.count(2, 3, "2 or 3")?;
                let (leading, i) = o.rows(0, 2, "at least 2")?;
                let [out, _] = o.matrix(1)?;
                o.shape(1, &[out, i])?;
                if o.len() == 3 {
                    o.float_shape(2, &[out])?;
                }
                o.one(with_last(leading, out))
            }
            Self::GradInput => {
                o.count(2, 2, "2")?;
                let (leading, out) = o.rows(0, 2, "at least 2")?;
                let [_, i] = o.matrix(1)?;
                o.shape(1, &[out, i])?;
                o.one(with_last(leading, i))
            }
            Self::GradWeight => {
                o.count(2, 2, "2")?;
                let (leading, out) = o.rows(0, 2, "at least 2")?;
                let (_, i) = o.rows(1, 2, "at least 2")?;
                o.shape(1, with_last(leading, i).dims())?;
                o.one(Shape::new(vec![out, i]))
            }
            Self::GradBias => {
                o.count(1, 1, "1")?;
                let (_, out) = o.rows(0, 2, "at least 2")?;
                o.one(Shape::new(vec![out]))
            }
        }
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if *self != Self::Affine {
            return Err(rule.not_differentiable());
        }
        let (x, w) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        // Parameters first: their gradients are ready before the layer below is waited for.
        rule.emit_to(1, Self::GradWeight, &[dy, x])?;
        if rule.operand_count() == 3 {
            rule.emit_to(2, Self::GradBias, &[dy])?;
        }
        rule.emit_to(0, Self::GradInput, &[dy, w])
    }
}
