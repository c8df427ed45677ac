//! Softmax and its logarithm.

use super::Operator;
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};

/// Softmax along one dimension, or a form of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softmax {
    /// `(x) -> x's shape`: `exp(x) / Σ exp(x)` along `axis`.
    Plain {
        /// The dimension.
        axis: usize,
    },
    /// `(x) -> x's shape`: `x - log Σ exp(x)` along `axis`.
    Log {
        /// The dimension.
        axis: usize,
    },
    /// `(y, dy) -> dx`: `y · (dy - Σ y dy)`.
    PlainGrad {
        /// The dimension.
        axis: usize,
    },
    /// `(y, dy) -> dx`: `dy - exp(y) · Σ dy`.
    LogGrad {
        /// The dimension.
        axis: usize,
    },
}

impl Softmax {
    /// The dimension along which the sum is taken.
    #[must_use]
    pub fn axis(self) -> usize {
        match self {
            Self::Plain { axis }
            | Self::Log { axis }
            | Self::PlainGrad { axis }
            | Self::LogGrad { axis } => axis,
        }
    }
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "softmax",
            Self::Log { .. } => "log_softmax",
            Self::PlainGrad { .. } => "softmax_grad",
            Self::LogGrad { .. } => "log_softmax_grad",
        }
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis().to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let shape = match self {
            Self::Plain { .. } | Self::Log { .. } => {
                o.count(1, 1, "1")?;
                o.float(0)?
            }
            Self::PlainGrad { .. } | Self::LogGrad { .. } => {
                o.count(2, 2, "2")?;
                o.same(0, 1)?
            }
        };
        if shape.rank() == 0 {
            return Err(o.rank_error(0, "at least 1"));
        }
        o.axis(0, self.axis())?;
        o.one(shape)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        match self {
            Self::Plain { .. } | Self::Log { .. } => operand == 0,
            Self::PlainGrad { .. } | Self::LogGrad { .. } => operand == 1,
        }
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let grad = match *self {
            Self::Plain { axis } => Self::PlainGrad { axis },
            Self::Log { axis } => Self::LogGrad { axis },
            _ => return Err(rule.not_differentiable()),
        };
        let y = rule.result(0);
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, grad, &[y, dy])
    }
}
