//! Built-in models.

mod gpt;
mod lstm;

use crate::error::GraphError;
use crate::graph::{Graph, OutputRole, ValueId};
use crate::init::InitialiserScheme;
use crate::op::{Binary, Dense, Dropout, L2Penalty, MeanSquaredError, Softmax};
use crate::op::{SoftmaxCrossEntropy, Unary};
use crate::shape::{DType, Shape, TensorType};

pub use gpt::{GptOptions, GptStep, gpt, gpt_step};
pub use lstm::{LstmOptions, LstmStep, lstm, lstm_step};

/// The name of the features, float `[batch, inputs]`; of text, tokens `i32 [batch, length]`.
pub const FEATURES: &str = "x";
/// The name of the labels: `i32 [batch]` for cross-entropy, `i32 [batch, length]` for text, float `[batch, outputs]` for mean
/// squared error.
pub const LABELS: &str = "y";
/// The loss that is differentiated: the data loss plus the L2 penalty.
pub const LOSS: &str = "loss";
/// The mean loss of the micro-batch without the penalty; the same value as the loss if there is
/// none.
pub const DATA_LOSS: &str = "data_loss";
/// The scores of a classifier before softmax, float `[batch, outputs]`.
pub const LOGITS: &str = "logits";
/// The softmax of the logits; in prediction only.
pub const PROBABILITIES: &str = "probabilities";
/// The output of a regression, float `[batch, outputs]`.
pub const PREDICTION: &str = "prediction";

/// The most layers that a model may have.
pub const LAYERS_MAX: usize = 1024;
/// The most units that a layer, the input or the output may have.
pub const UNITS_MAX: usize = 1 << 24;

/// The function after each hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// [`Unary::Relu`].
    Relu,
    /// [`Unary::Gelu`].
    Gelu,
    /// [`Unary::GeluTanh`].
    GeluTanh,
    /// [`Unary::Tanh`].
    Tanh,
    /// [`Unary::Sigmoid`].
    Sigmoid,
}

impl From<Activation> for Unary {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Relu => Self::Relu,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Tanh => Self::Tanh,
            Activation::Sigmoid => Self::Sigmoid,
        }
    }
}

/// The loss at the end of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Softmax cross-entropy over classes, mean over the batch.
    CrossEntropy,
    /// Mean squared error over all elements.
    MeanSquaredError,
}

/// The options of [`mlp`].
#[derive(Clone, Debug, PartialEq)]
pub struct MlpOptions {
    /// Features per sample.
    pub inputs: usize,
    /// Units of each hidden layer; empty for a linear model.
    pub hidden: Vec<usize>,
    /// Classes, or targets per sample.
    pub outputs: usize,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// The probability of zeroing a unit after each hidden activation, in `[0, 1)`.
    pub dropout: f64,
    /// The loss.
    pub loss: Loss,
    /// `lambda` of `lambda / 2 · Σ w²` over all weights (not biases); 0 for none.
    pub l2: f64,
    /// How parameters start.
    pub initialiser: InitialiserScheme,
    /// The type of all floats.
    pub dtype: DType,
}

impl MlpOptions {
    /// A classifier with ReLU, no dropout, no penalty, PyTorch's initial values, in `f32`.
    #[must_use]
    pub fn classifier(inputs: usize, hidden: &[usize], classes: usize) -> Self {
        Self {
            inputs,
            hidden: hidden.to_vec(),
            outputs: classes,
            activation: Activation::Relu,
            dropout: 0.0,
            loss: Loss::CrossEntropy,
            l2: 0.0,
            initialiser: InitialiserScheme::default(),
            dtype: DType::F32,
        }
    }

    /// A regression with the same defaults.
    #[must_use]
    pub fn regression(inputs: usize, hidden: &[usize], targets: usize) -> Self {
        Self {
            loss: Loss::MeanSquaredError,
            ..Self::classifier(inputs, hidden, targets)
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        let refuse = |option, expected, got: String| {
            Err(GraphError::ModelOption {
                option,
                expected,
                got,
            })
        };
        if self.hidden.len() >= LAYERS_MAX {
            return refuse(
                "hidden",
                "fewer than 1024 layers",
                self.hidden.len().to_string(),
            );
        }
        let hidden = self.hidden.iter().map(|&units| ("hidden", units));
        let ends = [("inputs", self.inputs), ("outputs", self.outputs)];
        for (option, units) in ends.into_iter().chain(hidden) {
            if !(1..=UNITS_MAX).contains(&units) {
                return refuse(option, "1 to 16777216 units", units.to_string());
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("dropout", "a number in [0, 1)", self.dropout.to_string());
        }
        if !(self.l2.is_finite() && self.l2 >= 0.0) {
            return refuse("l2", "a finite number of at least 0", self.l2.to_string());
        }
        Ok(())
    }
}

/// A multi-layer perceptron with its loss, not differentiated yet.
///
/// Inputs [`FEATURES`] and [`LABELS`]; parameters `layers.N.weight` of `[out, in]` and
/// `layers.N.bias` of `[out]`; outputs [`LOSS`], [`DATA_LOSS`], and [`LOGITS`] with
/// [`PROBABILITIES`] for cross-entropy, or [`PREDICTION`] for mean squared error.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range.
pub fn mlp(options: &MlpOptions) -> Result<Graph, GraphError> {
    options.check()?;
    let mut graph = Graph::new("mlp", options.dtype)?;
    let x = graph.add_input(
        FEATURES,
        TensorType::new(options.dtype, Shape::batched(&[options.inputs])),
    )?;
    let y = graph.add_input(LABELS, labels_type(options))?;
    let (out, weights) = layers(&mut graph, options, x)?;
    let data_loss = match options.loss {
        Loss::CrossEntropy => graph.apply(SoftmaxCrossEntropy::Loss, &[out, y])?,
        Loss::MeanSquaredError => graph.apply(MeanSquaredError::Loss, &[out, y])?,
    };
    let loss = penalise(&mut graph, data_loss, &weights, options.l2)?;
    graph.add_output(LOSS, OutputRole::Loss, loss)?;
    graph.add_output(DATA_LOSS, OutputRole::Loss, data_loss)?;
    match options.loss {
        Loss::CrossEntropy => {
            graph.add_output(LOGITS, OutputRole::Prediction, out)?;
            let probabilities = graph.apply(Softmax::Plain { axis: 1 }, &[out])?;
            graph.add_output(PROBABILITIES, OutputRole::Derived, probabilities)?;
        }
        Loss::MeanSquaredError => graph.add_output(PREDICTION, OutputRole::Prediction, out)?,
    }
    Ok(graph)
}

fn labels_type(options: &MlpOptions) -> TensorType {
    match options.loss {
        Loss::CrossEntropy => TensorType::new(DType::I32, Shape::batched(&[])),
        Loss::MeanSquaredError => {
            TensorType::new(options.dtype, Shape::batched(&[options.outputs]))
        }
    }
}

/// The chain of layers: its result and its weights.
fn layers(
    graph: &mut Graph,
    options: &MlpOptions,
    x: ValueId,
) -> Result<(ValueId, Vec<ValueId>), GraphError> {
    let mut weights = Vec::new();
    let (mut value, mut fan_in) = (x, options.inputs);
    let units = options.hidden.iter().chain([&options.outputs]);
    for (layer, &fan_out) in units.enumerate() {
        let scheme = options.initialiser;
        let weight = graph.add_parameter(
            &format!("layers.{layer}.weight"),
            Shape::fixed(&[fan_out, fan_in]),
            scheme.weight(fan_in, fan_out),
        )?;
        let bias = graph.add_parameter(
            &format!("layers.{layer}.bias"),
            Shape::fixed(&[fan_out]),
            scheme.bias(fan_in),
        )?;
        weights.push(weight);
        value = graph.apply(Dense::Affine, &[value, weight, bias])?;
        if layer < options.hidden.len() {
            value = graph.apply(Unary::from(options.activation), &[value])?;
            if options.dropout > 0.0 {
                let dropout = Dropout {
                    rate: options.dropout,
                    key: layer as u64,
                };
                value = graph.apply(dropout, &[value])?;
            }
        }
        fan_in = fan_out;
    }
    Ok((value, weights))
}

/// The loss plus the penalty of each weight.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes_are_those_of_a_state_dict() {
        let graph = mlp(&MlpOptions::classifier(8, &[16, 12], 4)).unwrap();
        graph.verify().unwrap();
        let parameters: Vec<String> = graph
            .parameters()
            .iter()
            .map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
            .collect();
        assert_eq!(
            parameters,
            [
                "layers.0.weight f32[16, 8]",
                "layers.0.bias f32[16]",
                "layers.1.weight f32[12, 16]",
                "layers.1.bias f32[12]",
                "layers.2.weight f32[4, 12]",
                "layers.2.bias f32[4]",
            ]
        );
    }

    #[test]
    fn options_out_of_range_are_named() {
        let good = MlpOptions::classifier(8, &[16], 4);
        let with = |change: &dyn Fn(&mut MlpOptions)| {
            let mut options = good.clone();
            change(&mut options);
            match mlp(&options) {
                Err(GraphError::ModelOption { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(&|o| o.inputs = 0), "inputs");
        assert_eq!(with(&|o| o.outputs = UNITS_MAX + 1), "outputs");
        assert_eq!(with(&|o| o.hidden = vec![4, 0]), "hidden");
        assert_eq!(with(&|o| o.hidden = vec![1; LAYERS_MAX]), "hidden");
        assert_eq!(with(&|o| o.dropout = 1.0), "dropout");
        assert_eq!(with(&|o| o.dropout = f64::NAN), "dropout");
        assert_eq!(with(&|o| o.l2 = -1.0), "l2");
    }
}
