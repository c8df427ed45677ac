//! Losses, and what is predicted under each.

use super::{
    DATA_LOSS, FEATURES, Frame, LABELS, LOGITS, LOSS, PREDICTION, PROBABILITIES, VARIANCE,
};
use crate::error::GraphError;
use crate::graph::{ConstantData, Graph, OutputRole, ValueId};
use crate::layers::gaussian_nll;
use crate::op::{
    Binary, CrossEntropy, Distance, L2Penalty, LossReduction, MeanSquaredError, PairLoss, Reduce,
    Reduction, Slice, Softmax, SoftmaxCrossEntropy, Unary,
};
use crate::shape::{DType, Shape, TensorType};

/// The loss at the end of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// Softmax cross-entropy over classes, mean over the batch.
    CrossEntropy,
    /// The same with smoothed labels and a factor for each class, which multiplies the loss of a
    /// sample as in PyTorch; the mean is over samples, not over their factors, so that parts of a
    /// batch add up.
    WeightedCrossEntropy {
        /// The share of a label that goes to all classes, in `[0, 1]`.
        smoothing: f64,
        /// One a class, finite and not negative; empty for none.
        weights: Vec<f64>,
    },
    /// Mean squared error over all elements.
    MeanSquaredError,
    /// Mean absolute error over all elements.
    MeanAbsoluteError,
    /// The mean of [`Distance::Huber`].
    Huber {
        /// The end of the square, positive.
        delta: f64,
    },
    /// The mean of [`Distance::Logistic`]; predictions are probabilities.
    BinaryCrossEntropy,
    /// The mean of [`Distance::PoissonLog`]; predictions are rates.
    Poisson,
    /// The mean of [`Distance::GammaLog`]; predictions are means.
    Gamma {
        /// The distribution's shape, positive.
        shape: f64,
    },
    /// The normal distribution's negative log-likelihood without its constant, mean over all targets
    /// ([`gaussian_nll`]; Nix and Weigend: "Estimating the mean and variance of the target probability
    /// distribution", 1994). The network gives the means of all targets, then for each a number whose
    /// softplus, plus [`VARIANCE_MIN`], is the variance (Lakshminarayanan et al.: "Simple and scalable
    /// predictive uncertainty estimation using deep ensembles", 2017, section 2.2.1).
    Normal,
}

/// The least variance of [`Loss::Normal`].
pub const VARIANCE_MIN: f64 = 1e-6;

impl Loss {
    /// Whether labels are classes.
    #[must_use]
    pub fn takes_classes(&self) -> bool {
        matches!(self, Self::CrossEntropy | Self::WeightedCrossEntropy { .. })
    }

    /// Numbers that a network gives for each target.
    pub(super) fn numbers_per_target(&self) -> usize {
        match self {
            Self::Normal => 2,
            _ => 1,
        }
    }

    pub(super) fn check(&self, outputs: usize) -> Result<(), GraphError> {
        match self {
            Self::WeightedCrossEntropy { weights, .. }
                if !weights.is_empty() && weights.len() != outputs =>
            {
                Err(GraphError::ModelOption {
                    option: "class_weights",
                    expected: "as many weights as the data has classes",
                    got: format!("{} weights for {outputs} classes", weights.len()),
                })
            }
            _ => Ok(()),
        }
    }

    /// The distance of a loss of numbers.
    fn distance(&self) -> Option<Distance> {
        Some(match *self {
            Self::MeanAbsoluteError => Distance::Absolute,
            Self::Huber { delta } => Distance::Huber { delta },
            Self::BinaryCrossEntropy => Distance::Logistic,
            Self::Poisson => Distance::PoissonLog,
            Self::Gamma { shape } => Distance::GammaLog { shape },
            _ => return None,
        })
    }

    fn apply(
        &self,
        graph: &mut Graph,
        out: ValueId,
        labels: ValueId,
    ) -> Result<ValueId, GraphError> {
        match self {
            Self::CrossEntropy => graph.apply(SoftmaxCrossEntropy::Loss, &[out, labels]),
            Self::WeightedCrossEntropy { smoothing, weights } => {
                let mut operands = vec![out, labels];
                if !weights.is_empty() {
                    let ty = TensorType::new(graph.dtype(), Shape::fixed(&[weights.len()]));
                    let data = ConstantData::Float(weights.clone());
                    operands.push(graph.add_constant(ty, data)?);
                }
                let each = CrossEntropy {
                    log_probabilities: false,
                    ignore: None,
                    smoothing: *smoothing,
                    reduction: LossReduction::None,
                };
                let losses = graph.apply(each, &operands)?;
                let mean = Reduce {
                    reduction: Reduction::Mean,
                    axes: vec![0],
                    keep: false,
                };
                graph.apply(mean, &[losses])
            }
            _ => match self.distance() {
                None => graph.apply(MeanSquaredError::Loss, &[out, labels]),
                Some(distance) => {
                    let loss = PairLoss {
                        distance,
                        reduction: LossReduction::Mean,
                    };
                    graph.apply(loss, &[out, labels])
                }
            },
        }
    }
}

/// Declares features and labels.
pub(crate) fn add_inputs(
    graph: &mut Graph,
    frame: &Frame,
) -> Result<(ValueId, ValueId), GraphError> {
    let row = |len| TensorType::new(frame.dtype, Shape::batched(&[len]));
    let features = graph.add_input(FEATURES, row(frame.inputs))?;
    let labels = if frame.loss.takes_classes() {
        TensorType::new(DType::I32, Shape::batched(&[]))
    } else {
        row(frame.outputs)
    };
    Ok((features, graph.add_input(LABELS, labels)?))
}

/// A loss with a penalty on each of `weights`.
fn penalise(
    graph: &mut Graph,
    data_loss: ValueId,
    weights: &[ValueId],
    lambda: f64,
) -> Result<ValueId, GraphError> {
    let mut loss = data_loss;
    if lambda > 0.0 {
        for &weight in weights {
            let penalty = graph.apply(L2Penalty { lambda }, &[weight])?;
            loss = graph.apply(Binary::Add, &[loss, penalty])?;
        }
    }
    Ok(loss)
}

/// Ends a model of tokens: cross-entropy over all of them, penalty and outputs of `logits [batch,
/// length, vocabulary]`.
pub(super) fn finish_tokens(
    graph: &mut Graph,
    logits: ValueId,
    labels: ValueId,
    weights: &[ValueId],
    l2: f64,
) -> Result<(), GraphError> {
    let data_loss = graph.apply(SoftmaxCrossEntropy::Loss, &[logits, labels])?;
    add_losses(graph, data_loss, weights, l2)?;
    add_scores(graph, logits, 2)
}

/// The outputs [`LOSS`], with the penalty, and [`DATA_LOSS`].
fn add_losses(
    graph: &mut Graph,
    data_loss: ValueId,
    weights: &[ValueId],
    l2: f64,
) -> Result<(), GraphError> {
    let loss = penalise(graph, data_loss, weights, l2)?;
    graph.add_output(LOSS, OutputRole::Loss, loss)?;
    graph.add_output(DATA_LOSS, OutputRole::Loss, data_loss)
}

/// The outputs [`LOGITS`] and [`PROBABILITIES`] of scores whose classes lie along `axis`.
fn add_scores(graph: &mut Graph, logits: ValueId, axis: usize) -> Result<(), GraphError> {
    graph.add_output(LOGITS, OutputRole::Prediction, logits)?;
    let probabilities = graph.apply(Softmax::Plain { axis }, &[logits])?;
    graph.add_output(PROBABILITIES, OutputRole::Derived, probabilities)
}

/// Ends a model: loss, penalty and outputs of `out [batch, outputs]`.
pub(crate) fn finish(
    graph: &mut Graph,
    frame: &Frame,
    out: ValueId,
    labels: ValueId,
    weights: &[ValueId],
) -> Result<(), GraphError> {
    if frame.loss == Loss::Normal {
        return finish_normal(graph, frame, out, labels, weights);
    }
    let data_loss = frame.loss.apply(graph, out, labels)?;
    add_losses(graph, data_loss, weights, frame.l2)?;
    let prediction = match frame.loss {
        Loss::CrossEntropy | Loss::WeightedCrossEntropy { .. } => {
            return add_scores(graph, out, 1);
        }
        Loss::MeanSquaredError | Loss::MeanAbsoluteError | Loss::Huber { .. } => {
            return graph.add_output(PREDICTION, OutputRole::Prediction, out);
        }
        Loss::BinaryCrossEntropy => graph.apply(Unary::Sigmoid, &[out])?,
        Loss::Poisson | Loss::Gamma { .. } => graph.apply(Unary::Exp, &[out])?,
        // Ended above.
        Loss::Normal => return Ok(()),
    };
    graph.add_output(PREDICTION, OutputRole::Derived, prediction)
}

/// Ends a model of means and variances, `out [batch, 2 · outputs]`.
fn finish_normal(
    graph: &mut Graph,
    frame: &Frame,
    out: ValueId,
    labels: ValueId,
    weights: &[ValueId],
) -> Result<(), GraphError> {
    let part = |start| Slice {
        axis: 1,
        start,
        step: 1,
        len: frame.outputs,
    };
    let mean = graph.apply(part(0), &[out])?;
    let raw = graph.apply(part(frame.outputs), &[out])?;
    let soft = graph.apply(Unary::Softplus, &[raw])?;
    let least = graph.add_scalar(VARIANCE_MIN)?;
    let variance = graph.apply(Binary::Add, &[soft, least])?;
    let losses = gaussian_nll(graph, mean, labels, variance, VARIANCE_MIN)?;
    let over_all = Reduce {
        reduction: Reduction::Mean,
        axes: vec![0, 1],
        keep: false,
    };
    let data_loss = graph.apply(over_all, &[losses])?;
    add_losses(graph, data_loss, weights, frame.l2)?;
    graph.add_output(PREDICTION, OutputRole::Derived, mean)?;
    graph.add_output(VARIANCE, OutputRole::Derived, variance)
}
