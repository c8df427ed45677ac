//! Operators that draw random numbers.

use super::{Op, Operator, Unary};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};

/// `(x) -> x's shape`: in training each element is zeroed with probability `rate`, the others are
/// multiplied by `1 / (1 - rate)`; in inference the identity. The mask is a pure function of (seed,
/// step, replica, `key`, element index), so that the gradient is the same operator applied to `dy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability of zero, in `[0, 1)`.
    pub rate: f64,
    /// The number that names this node's stream of random numbers. A forward dropout node and its
    /// gradient share it; no two forward nodes do.
    pub key: u64,
}

impl Dropout {
    pub(super) fn check(&self, o: &Operands<'_>) -> Result<(), GraphError> {
        let fits = (0.0..1.0).contains(&self.rate);
        o.attribute("rate", "a number in [0, 1)", self.rate, fits)
    }
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("rate", self.rate.to_string()),
            ("key", self.key.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        self.check(o)?;
        o.count(1, 1, "1")?;
        o.one(o.float(0)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand == 0
    }

    fn in_inference(&self) -> Option<Op> {
        Some(Unary::Identity.into())
    }

    fn is_random(&self) -> bool {
        true
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, *self, &[dy])
    }
}
