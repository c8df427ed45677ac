//! The loss that a job asks for, at the end of a model that was read.

use super::error::OnnxError;
use crate::graph::{Graph, OutputRole, ValueId};
use crate::models::{DATA_LOSS, LABELS, LOGITS, LOSS, PREDICTION, PROBABILITIES};
use crate::op::{CrossEntropy, Distance, LossReduction, MeanSquaredError, PairLoss, Softmax};
use crate::op::{SoftmaxCrossEntropy, Transpose};
use crate::shape::{DType, Shape, TensorType};

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Softmax cross-entropy of logits with classes along one dimension; labels are `i32` of the
    /// output's shape without it.
    CrossEntropy {
        /// The dimension of the classes; counted from the end if negative.
        axis: isize,
        /// The label of places that don't count.
        ignore: Option<i64>,
        /// The share of the loss that goes to all classes, in `[0, 1]`.
        smoothing: f64,
    },
    /// The mean of the squared differences to targets of the output's shape.
    MeanSquaredError,
    /// The mean of another distance to targets of the output's shape.
    Distance(Distance),
}

/// Adds an input `y` for labels or targets, the loss of the output `output` (the model's name of it in
/// the graph; the only one if `None`), and the outputs that trainers look for: [`LOSS`] and
/// [`DATA_LOSS`], [`LOGITS`] with [`PROBABILITIES`] for cross-entropy, else [`PREDICTION`].
///
/// # Errors
/// No such output, names that are taken, a shape that doesn't fit the loss.
pub fn append_loss(graph: &mut Graph, output: Option<&str>, loss: &Loss) -> Result<(), OnnxError> {
    let value = find(graph, output)?;
    let shape = graph.value(value).ty.shape.clone();
    let (loss_value, prediction, probabilities) = match *loss {
        Loss::CrossEntropy {
            axis,
            ignore,
            smoothing,
        } => {
            let (logits, rank) = classes_last(graph, value, axis)?;
            let dims = graph.value(logits).ty.shape.dims().to_vec();
            let labels = Shape::new(dims[..rank - 1].to_vec());
            let y = graph.add_input(LABELS, TensorType::new(DType::I32, labels))?;
            let loss = match (ignore, smoothing) {
                (None, 0.0) => graph.apply(SoftmaxCrossEntropy::Loss, &[logits, y])?,
                _ => {
                    let op = CrossEntropy {
                        ignore,
                        smoothing,
                        ..CrossEntropy::default()
                    };
                    graph.apply(op, &[logits, y])?
                }
            };
            let softmax = Softmax::Plain { axis: rank - 1 };
            (loss, logits, Some(graph.apply(softmax, &[logits])?))
        }
        Loss::MeanSquaredError => {
            let ty = TensorType::new(graph.dtype(), shape);
            let y = graph.add_input(LABELS, ty)?;
            (
                graph.apply(MeanSquaredError::Loss, &[value, y])?,
                value,
                None,
            )
        }
        Loss::Distance(distance) => {
            let ty = TensorType::new(graph.dtype(), shape);
            let y = graph.add_input(LABELS, ty)?;
            let reduction = LossReduction::Mean;
            let op = PairLoss {
                distance,
                reduction,
            };
            (graph.apply(op, &[value, y])?, value, None)
        }
    };
    let mut add = |name: &str, role, value| -> Result<(), OnnxError> {
        // The model's own outputs may have these names already, for the same value.
        let taken = graph.outputs().iter().find(|output| output.name == name);
        match taken {
            Some(output) if output.value == value && output.role == role => Ok(()),
            _ => Ok(graph.add_output(name, role, value)?),
        }
    };
    add(LOSS, OutputRole::Loss, loss_value)?;
    add(DATA_LOSS, OutputRole::Loss, loss_value)?;
    match probabilities {
        Some(probabilities) => {
            add(LOGITS, OutputRole::Prediction, prediction)?;
            add(PROBABILITIES, OutputRole::Derived, probabilities)
        }
        None => add(PREDICTION, OutputRole::Prediction, prediction),
    }
}

fn find(graph: &Graph, output: Option<&str>) -> Result<ValueId, OnnxError> {
    let refuse = |name: &str| {
        let names: Vec<&str> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
        OnnxError::Place {
            kind: "output",
            name: name.to_owned(),
            expected: "one of the model's, by its name",
            got: names.join(", "),
        }
    };
    match (output, graph.outputs()) {
        (Some(name), outputs) => {
            let found = outputs.iter().find(|output| output.name == name);
            found.map(|output| output.value).ok_or_else(|| refuse(name))
        }
        (None, [only]) => Ok(only.value),
        (None, _) => Err(refuse("")),
    }
}

/// The logits with the classes along the last dimension, and the number of dimensions.
fn classes_last(
    graph: &mut Graph,
    value: ValueId,
    axis: isize,
) -> Result<(ValueId, usize), OnnxError> {
    let rank = graph.value(value).ty.shape.rank();
    let from_start = if axis < 0 { axis + rank as isize } else { axis };
    let axis = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
    let Some(axis) = axis.filter(|_| rank >= 2) else {
        return Err(OnnxError::Place {
            kind: "loss",
            name: "cross_entropy".to_owned(),
            expected: "an output of at least 2 dimensions, one of them of the classes",
            got: format!("{} dimensions", rank),
        });
    };
    if axis == rank - 1 {
        return Ok((value, rank));
    }
    let mut order: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    order.push(axis);
    Ok((graph.apply(Transpose { order }, &[value])?, rank))
}
