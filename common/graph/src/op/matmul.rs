//! Matrix products.

use super::Operator;
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::Shape;

/// `(a [.., m, k], b [.., k, n]) -> [.., m, n]`: the product of matrices, or of stacks of matrices
/// whose leading dimensions broadcast. Vectors are reshaped to matrices first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatMul {
    /// a is stored as `[.., k, m]`.
    pub a_transposed: bool,
    /// b is stored as `[.., n, k]`.
    pub b_transposed: bool,
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        if *self == Self::default() {
            return Vec::new();
        }
        vec![
            ("a_transposed", self.a_transposed.to_string()),
            ("b_transposed", self.b_transposed.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        let mut parts = Vec::with_capacity(2);
        for (operand, transposed) in [(0, self.a_transposed), (1, self.b_transposed)] {
            let shape = o.float(operand)?;
            let Some((leading, &[rows, columns])) = shape.dims().split_last_chunk::<2>() else {
                return Err(o.rank_error(operand, "at least 2"));
            };
            let (rows, columns) = match transposed {
                true => (columns, rows),
                false => (rows, columns),
            };
            parts.push((Shape::new(leading.to_vec()), rows, columns));
        }
        let ((a, m, k), (b, inner, n)) = (&parts[0], &parts[1]);
        if k != inner {
            let mut expected = b.dims().to_vec();
            expected.extend(if self.b_transposed {
                [*n, *k]
            } else {
                [*k, *n]
            });
            o.shape(1, &expected)?;
        }
        let mut dims = o.broadcast(a, b)?.dims().to_vec();
        dims.extend([*m, *n]);
        o.one(Shape::new(dims))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let (a, b) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        let product = |a_transposed, b_transposed| Self {
            a_transposed,
            b_transposed,
        };
        if rule.wants(1) {
            // db = aᵀ dy, and its transpose dyᵀ a.
            let db = match self.b_transposed {
                false => rule.emit(product(!self.a_transposed, false), &[a, dy])?,
                true => rule.emit(product(true, self.a_transposed), &[dy, a])?,
            };
            rule.give_summed(1, db)?;
        }
        if rule.wants(0) {
            // da = dy bᵀ, and its transpose b dyᵀ.
            let da = match self.a_transposed {
                false => rule.emit(product(false, !self.b_transposed), &[dy, b])?,
                true => rule.emit(product(self.b_transposed, true), &[b, dy])?,
            };
            rule.give_summed(0, da)?;
        }
        Ok(())
    }
}
