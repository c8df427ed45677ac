//! Losses and penalties.

use super::{IndexRule, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::Shape;

/// Cross-entropy of classes, or its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftmaxCrossEntropy {
    /// `(logits [.., c], labels [..]) -> []`: the mean over rows of
    /// `log Σⱼ exp(logitsⱼ) - logits[label]`. Labels are integers in `0..c`.
    Loss,
    /// `(logits, labels, dloss []) -> dlogits`: `dloss / rows · (softmax(logits) - onehot(labels))`.
    Grad,
}

impl Operator for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        match self {
            Self::Loss => "softmax_cross_entropy",
            Self::Grad => "softmax_cross_entropy_grad",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self {
            Self::Loss => o.count(2, 2, "2")?,
            Self::Grad => {
                o.count(3, 3, "3")?;
                o.scalar(2)?;
            }
        }
        let (leading, _) = o.rows(0, 2, "at least 2")?;
        o.index(1)?;
        o.shape(1, &leading)?;
        o.one(match self {
            Self::Loss => Shape::scalar(),
            Self::Grad => o.float(0)?,
        })
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        *self == Self::Grad && operand == 0
    }

    fn index_rule(&self) -> Option<IndexRule> {
        Some(IndexRule {
            operand: 1,
            of: 0,
            axis: None,
            ignore: None,
            from_end: false,
        })
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if *self != Self::Loss {
            return Err(rule.not_differentiable());
        }
        let (logits, labels) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, Self::Grad, &[logits, labels, dy])
    }
}

/// Mean squared error, or its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeanSquaredError {
    /// `(prediction, target of the same shape) -> []`: the mean over all elements of the squared
    /// difference.
    Loss,
    /// `(prediction, target, dloss []) -> dprediction`:
    /// `dloss · 2 / elements · (prediction - target)`.
    Grad,
}

impl Operator for MeanSquaredError {
    fn name(&self) -> &'static str {
        match self {
            Self::Loss => "mean_squared_error",
            Self::Grad => "mean_squared_error_grad",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self {
            Self::Loss => {
                o.count(2, 2, "2")?;
                o.same(0, 1)?;
                o.one(Shape::scalar())
            }
            Self::Grad => {
                o.count(3, 3, "3")?;
                o.scalar(2)?;
                o.one(o.same(0, 1)?)
            }
        }
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        *self == Self::Grad && operand == 0
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if *self != Self::Loss {
            return Err(rule.not_differentiable());
        }
        let (a, b) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, Self::Grad, &[a, b, dy])?;
        rule.emit_to(1, Self::Grad, &[b, a, dy])
    }
}

/// `(w) -> []`: `lambda / 2 · Σ w²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2Penalty {
    /// The factor, finite and not negative.
    pub lambda: f64,
}

/// `(w, dloss [], other of w's shape?) -> dw`: `other + lambda · dloss · w`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2PenaltyGrad {
    /// The factor of the penalty.
    pub lambda: f64,
}

fn check_lambda(o: &Operands<'_>, lambda: f64) -> Result<(), GraphError> {
    let fits = lambda.is_finite() && lambda >= 0.0;
    o.attribute("lambda", "a finite number of at least 0", lambda, fits)
}

impl Operator for L2Penalty {
    fn name(&self) -> &'static str {
        "l2_penalty"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("lambda", self.lambda.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        check_lambda(o, self.lambda)?;
        o.count(1, 1, "1")?;
        o.float(0)?;
        o.one(Shape::scalar())
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.penalty_to(0, self.lambda, dy)
    }
}

impl Operator for L2PenaltyGrad {
    fn name(&self) -> &'static str {
        "l2_penalty_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("lambda", self.lambda.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        check_lambda(o, self.lambda)?;
        o.count(2, 3, "2 or 3")?;
        o.scalar(1)?;
        if o.len() == 3 {
            o.same(0, 2)?;
        }
        o.one(o.float(0)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand == 2
    }
}
