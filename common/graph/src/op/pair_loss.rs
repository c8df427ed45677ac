//! Losses of two tensors, and cross-entropy with every option.

use super::{IndexRule, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::Shape;

/// What is left of the losses of the elements or rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReduction {
    /// All of them.
    None,
    /// Their sum.
    Sum,
    /// Their mean; of weighted classes, the sum over the sum of the labels' weights. Gradients of
    /// micro-batches that are scaled by their share of *samples* then don't add up to the whole
    /// batch's unless each has the same share of the weights (and of labels not ignored).
    Mean,
    /// Their sum over the first dimension's length: PyTorch's `batchmean`.
    BatchMean,
}

/// The loss of a prediction `x` and a target `t`, for each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// `(x - t)²`.
    Squared,
    /// `|x - t|`.
    Absolute,
    /// `(x - t)² / 2` where `|x - t| ≤ delta`, else `delta · (|x - t| - delta / 2)`.
    Huber {
        /// The end of the square, positive.
        delta: f64,
    },
    /// Huber over `beta`, PyTorch's `SmoothL1Loss`.
    SmoothAbsolute {
        /// The end of the square, positive.
        beta: f64,
    },
    /// Binary cross-entropy of a logit, the negative log-likelihood of Bernoulli:
    /// `max(x, 0) - x t + log(1 + exp(-|x|))`.
    Logistic,
    /// Kullback-Leibler: x is a log-probability, t a probability: `t (log t - x)`, 0 at t = 0.
    KullbackLeibler,
    /// Poisson's negative log-likelihood with `x` the logarithm of the rate, without `log t!`:
    /// `exp(x) - t x`.
    PoissonLog,
    /// Poisson's negative log-likelihood with `x` the rate, without `log t!`: `x - t log(x + 1e-8)`.
    Poisson,
    /// Gamma's negative log-likelihood with `x` the logarithm of the mean, without the terms in t and
    /// shape alone: `shape · (x + t exp(-x))`.
    GammaLog {
        /// The shape, positive.
        shape: f64,
    },
}

/// `(prediction, target of the same shape) -> [], or their shape without reduction`. The target has no
/// gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The loss of each element.
    pub distance: Distance,
    /// What is left of them.
    pub reduction: LossReduction,
}

/// `(prediction, target, dloss) -> dprediction`: the gradient of [`PairLoss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLossGrad(pub PairLoss);

impl LossReduction {
    fn name(self) -> String {
        let name = match self {
            Self::None => "none",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::BatchMean => "batch_mean",
        };
        name.to_owned()
    }

    /// The shape that is left of losses of shape `all`.
    fn shape(self, all: Shape) -> Shape {
        match self {
            Self::None => all,
            _ => Shape::scalar(),
        }
    }
}

impl PairLoss {
    fn names(&self) -> (&'static str, &'static str) {
        match self.distance {
            Distance::Squared => ("squared_loss", "squared_loss_grad"),
            Distance::Absolute => ("absolute_loss", "absolute_loss_grad"),
            Distance::Huber { .. } => ("huber_loss", "huber_loss_grad"),
            Distance::SmoothAbsolute { .. } => ("smooth_l1_loss", "smooth_l1_loss_grad"),
            Distance::Logistic => ("logistic_loss", "logistic_loss_grad"),
            Distance::KullbackLeibler => ("kl_divergence", "kl_divergence_grad"),
            Distance::PoissonLog => ("poisson_log_nll", "poisson_log_nll_grad"),
            Distance::Poisson => ("poisson_nll", "poisson_nll_grad"),
            Distance::GammaLog { .. } => ("gamma_log_nll", "gamma_log_nll_grad"),
        }
    }

    fn number(&self) -> Option<(&'static str, f64)> {
        match self.distance {
            Distance::Huber { delta } => Some(("delta", delta)),
            Distance::SmoothAbsolute { beta } => Some(("beta", beta)),
            Distance::GammaLog { shape } => Some(("shape", shape)),
            _ => None,
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        let number = self.number().into_iter();
        number
            .map(|(name, number)| (name, number.to_string()))
            .chain([("reduction", self.reduction.name())])
            .collect()
    }

    fn shape(&self, o: &Operands<'_>) -> Result<Shape, GraphError> {
        if let Some((name, number)) = self.number() {
            let fits = number.is_finite() && number > 0.0;
            o.attribute(name, "a positive number", number, fits)?;
        }
        o.same(0, 1)
    }
}

impl Operator for PairLoss {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 2, "2")?;
        o.one(self.reduction.shape(self.shape(o)?))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if rule.wants(1) {
            return Err(rule.not_differentiable());
        }
        let (x, t) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, PairLossGrad(*self), &[x, t, dy])
    }
}

impl Operator for PairLossGrad {
    fn name(&self) -> &'static str {
        self.0.names().1
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(3, 3, "3")?;
        let shape = self.0.shape(o)?;
        o.float_shape(2, self.0.reduction.shape(shape.clone()).dims())?;
        o.one(shape)
    }
}

/// `(scores [.., c], labels of integers [..], weights [c]?) -> [], or [..] without reduction`: PyTorch's
/// `CrossEntropyLoss` and `NLLLoss` with the classes last. The loss of a row is
/// `-(1 - smoothing) w[label] logp[label] - smoothing / c · Σⱼ wⱼ logpⱼ`. Weights have no gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Scores are log-probabilities, not logits.
    pub log_probabilities: bool,
    /// The label of rows that don't count.
    pub ignore: Option<i64>,
    /// The share of the loss that goes to all classes, in `[0, 1]`.
    pub smoothing: f64,
    /// What is left of the rows' losses: not [`LossReduction::BatchMean`].
    pub reduction: LossReduction,
}

/// `(scores, labels, weights?, dloss) -> dscores`: the gradient of [`CrossEntropy`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyGrad(pub CrossEntropy);

impl Default for CrossEntropy {
    /// Logits, no label ignored, no smoothing, the mean.
    fn default() -> Self {
        Self {
            log_probabilities: false,
            ignore: None,
            smoothing: 0.0,
            reduction: LossReduction::Mean,
        }
    }
}

impl CrossEntropy {
    fn printed(&self) -> Vec<(&'static str, String)> {
        let mut list = vec![("log_probabilities", self.log_probabilities.to_string())];
        list.extend(self.ignore.map(|label| ("ignore", label.to_string())));
        list.push(("smoothing", self.smoothing.to_string()));
        list.push(("reduction", self.reduction.name()));
        list
    }

    /// The shapes of the scores and of the losses of rows.
    fn shapes(&self, o: &Operands<'_>, weighted: bool) -> Result<(Shape, Shape), GraphError> {
        let fits = (0.0..=1.0).contains(&self.smoothing);
        o.attribute("smoothing", "a number in [0, 1]", self.smoothing, fits)?;
        let fits = self.reduction != LossReduction::BatchMean;
        o.attribute("reduction", "none, sum or mean", 0.0, fits)?;
        let (leading, classes) = o.rows(0, 1, "at least 1")?;
        o.index(1)?;
        o.shape(1, &leading)?;
        if weighted {
            o.float_shape(2, &[classes])?;
        }
        Ok((o.float(0)?, Shape::new(leading)))
    }

    fn rule(&self) -> IndexRule {
        IndexRule {
            operand: 1,
            of: 0,
            axis: None,
            ignore: self.ignore,
            from_end: false,
        }
    }
}

impl Operator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(2, 3, "2 or 3")?;
        let (_, rows) = self.shapes(o, o.len() == 3)?;
        o.one(self.reduction.shape(rows))
    }

    fn index_rule(&self) -> Option<IndexRule> {
        Some(self.rule())
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let count = rule.operand_count();
        if count == 3 && rule.wants(2) {
            return Err(rule.not_differentiable());
        }
        let mut operands: Vec<_> = (0..count).map(|i| rule.operand(i)).collect();
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        operands.push(dy);
        rule.emit_to(0, CrossEntropyGrad(*self), &operands)
    }
}

impl Operator for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(3, 4, "3 or 4")?;
        let (scores, rows) = self.0.shapes(o, o.len() == 4)?;
        o.float_shape(o.len() - 1, self.0.reduction.shape(rows).dims())?;
        o.one(scores)
    }

    fn index_rule(&self) -> Option<IndexRule> {
        Some(self.0.rule())
    }
}
