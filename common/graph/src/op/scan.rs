//! Running sums.

use super::Operator;
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};

/// `(x) -> x's shape`: along a dimension, the sum of the elements up to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CumSum {
    /// The dimension.
    pub axis: usize,
    /// Without the element itself.
    pub exclusive: bool,
    /// From the last element to the first.
    pub reverse: bool,
}

impl Operator for CumSum {
    fn name(&self) -> &'static str {
        "cum_sum"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("axis", self.axis.to_string()),
            ("exclusive", self.exclusive.to_string()),
            ("reverse", self.reverse.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        o.axis(0, self.axis)?;
        o.one(x)
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        let reverse = !self.reverse;
        rule.emit_to(0, Self { reverse, ..*self }, &[dy])
    }
}
