//! Built-in models: a job's model as a graph, with its loss, not differentiated yet.
//!
//! # Contract
//! Every model has the inputs [`FEATURES`] and [`LABELS`] and the outputs [`LOSS`] and
//! [`DATA_LOSS`]. One whose loss takes classes has [`LOGITS`] and [`PROBABILITIES`], any other one
//! [`PREDICTION`], in the units of the labels. Features come as rows of numbers; a model of images
//! takes them as its first step as `[batch, channels, height, width]`. Parameters and states are
//! named as PyTorch names them.
//!
//! | module | what it holds |
//! |---|---|
//! | `builder` | a graph under construction: layers with their parameters |
//! | `options` | checks of options that models have in common |
//! | `objective` | losses and what is predicted |
//! | `mlp` | [`mlp`]: perceptrons; linear and softmax regression |
//! | `cnn` | [`cnn`]: blocks of convolution and pooling |
//! | `resnet` | [`resnet18`] |
//! | `sequential` | [`sequential`]: lists of layers |
//! | `gpt`, `lstm` | [`gpt`](gpt()), [`lstm`](lstm()): networks over tokens, whole or a token at a time; [`lstm_numbers`] over numbers |

mod builder;
mod cnn;
mod gpt;
mod lstm;
mod mlp;
pub(crate) mod objective;
mod options;
mod resnet;
mod sequential;

use ringfold_common::job::{Architecture, Loss as JobLoss, LossOptions, ModelSpec};

pub use self::cnn::cnn;
pub use self::gpt::{GptOptions, GptStep, gpt, gpt_step};
pub use self::lstm::{LstmOptions, LstmStep, lstm, lstm_numbers, lstm_step};
pub use self::mlp::{MlpOptions, mlp};
pub use self::objective::Loss;
use self::options::{check_l2, check_sizes};
pub use self::resnet::resnet18;
pub use self::sequential::sequential;
use crate::error::GraphError;
use crate::graph::Graph;
use crate::op::Unary;
use crate::shape::DType;

pub use ringfold_common::job::Activation;

/// The name of the features, float `[batch, inputs]`; of text, tokens `i32 [batch, length]`.
pub const FEATURES: &str = "x";
/// The name of the labels: `i32 [batch]` for cross-entropy, `i32 [batch, length]` for text, float
/// `[batch, outputs]` for other losses.
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
/// The variance beside a prediction, under the normal distribution's likelihood.
pub const VARIANCE: &str = "variance";

/// The most layers that a perceptron may have.
pub const LAYERS_MAX: usize = 1024;
/// The most units that a layer, the input or the output may have.
pub const UNITS_MAX: usize = 1 << 24;

impl From<Activation> for Unary {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Relu => Self::Relu,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Tanh => Self::Tanh,
            Activation::Sigmoid => Self::Sigmoid,
            Activation::Silu => Self::Silu,
            Activation::Elu => Self::Elu { alpha: 1.0 },
            Activation::LeakyRelu => Self::LeakyRelu { slope: 0.01 },
            Activation::Softplus => Self::Softplus,
            Activation::HardSwish => Self::HardSwish,
        }
    }
}

/// What surrounds a model: its records, its outputs, and what is minimised.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Numbers in one record.
    pub inputs: usize,
    /// The dimensions of a record, `[channels, height, width]` or `[channels, length]`, if it is an
    /// image; empty if it is a row of numbers. Their product is `inputs`.
    pub dims: Vec<usize>,
    /// Classes, or targets per sample.
    pub outputs: usize,
    /// The loss.
    pub loss: Loss,
    /// `lambda` of `lambda / 2 · Σ w²` over the weights of dense layers and convolutions; 0 for
    /// none.
    pub l2: f64,
    /// The type of all floats.
    pub dtype: DType,
}

impl Frame {
    /// A classifier of rows, without a penalty, in `f32`.
    #[must_use]
    pub fn classifier(inputs: usize, classes: usize) -> Self {
        Self {
            inputs,
            dims: Vec::new(),
            outputs: classes,
            loss: Loss::CrossEntropy,
            l2: 0.0,
            dtype: DType::F32,
        }
    }

    /// A classifier of images `[channels, height, width]`.
    #[must_use]
    pub fn image_classifier(dims: &[usize], classes: usize) -> Self {
        Self {
            dims: dims.to_vec(),
            ..Self::classifier(dims.iter().product(), classes)
        }
    }

    /// The frame of a job's model for records of `inputs` numbers, whose dimensions are `dims` if
    /// the files know them; `outputs` classes or targets.
    ///
    /// # Errors
    /// [`GraphError::ModelOption`]: `model.input` that is not that of the records.
    pub fn of_model(
        model: &ModelSpec,
        inputs: usize,
        dims: &[usize],
        outputs: usize,
        l2: f64,
    ) -> Result<Self, GraphError> {
        let dims: Vec<usize> = if model.input.is_empty() {
            dims.to_vec()
        } else {
            model.input.iter().map(|&size| size as usize).collect()
        };
        let product = dims.iter().copied().fold(1, usize::saturating_mul);
        if !dims.is_empty() && product != inputs {
            return Err(GraphError::ModelOption {
                option: "input",
                expected: "sizes whose product is the numbers in a record",
                got: format!("{dims:?} for records of {inputs}"),
            });
        }
        Ok(Self {
            inputs,
            dims,
            outputs,
            loss: loss(model.loss, &model.loss_options),
            l2,
            dtype: DType::F32,
        })
    }

    /// Numbers that the network gives for a record: one a class, and of numbers as many a target as the
    /// loss takes.
    #[must_use]
    pub fn network_outputs(&self) -> usize {
        self.outputs.saturating_mul(self.loss.numbers_per_target())
    }

    pub(crate) fn check(&self) -> Result<(), GraphError> {
        check_sizes(&[("inputs", self.inputs), ("outputs", self.outputs)])?;
        check_l2(self.l2)?;
        self.loss.check(self.outputs)
    }
}

fn loss(loss: JobLoss, options: &LossOptions) -> Loss {
    let plain = options.label_smoothing == 0.0 && options.class_weights.is_empty();
    match loss {
        JobLoss::CrossEntropy if plain => Loss::CrossEntropy,
        JobLoss::CrossEntropy => Loss::WeightedCrossEntropy {
            smoothing: options.label_smoothing,
            weights: options.class_weights.clone(),
        },
        JobLoss::MeanSquaredError => Loss::MeanSquaredError,
        JobLoss::MeanAbsoluteError => Loss::MeanAbsoluteError,
        JobLoss::Huber => Loss::Huber {
            delta: options.delta,
        },
        JobLoss::BinaryCrossEntropy => Loss::BinaryCrossEntropy,
        JobLoss::Poisson => Loss::Poisson,
        JobLoss::Normal => Loss::Normal,
        JobLoss::Gamma => Loss::Gamma {
            shape: options.shape,
        },
    }
}

/// The graph of a job's model.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range; [`GraphError::Layer`] the
/// layer that doesn't fit what comes before it.
pub fn build(model: &ModelSpec, frame: &Frame) -> Result<Graph, GraphError> {
    let row = |scheme| MlpOptions {
        inputs: frame.inputs,
        hidden: Vec::new(),
        outputs: frame.outputs,
        activation: Activation::Relu,
        dropout: 0.0,
        loss: frame.loss.clone(),
        l2: frame.l2,
        initialiser: scheme,
        dtype: frame.dtype,
    };
    match &model.architecture {
        Architecture::Mlp(spec) => mlp(&MlpOptions {
            hidden: spec.hidden.iter().map(|&width| width as usize).collect(),
            activation: spec.activation,
            dropout: spec.dropout,
            ..row(spec.initialiser.into())
        }),
        Architecture::Linear(spec) | Architecture::Softmax(spec) => {
            mlp(&row(spec.initialiser.into()))
        }
        Architecture::Cnn(spec) => cnn(spec, frame),
        Architecture::Resnet18(spec) => resnet18(spec, frame),
        Architecture::Sequential(spec) => sequential(spec, frame),
        Architecture::Gpt(spec) => gpt(&GptOptions {
            dtype: frame.dtype,
            ..GptOptions::of_job(*spec, [frame.inputs; 2], frame.outputs, frame.l2)
        }),
        Architecture::Lstm(spec) if !spec.takes_text() => lstm_numbers(spec, frame),
        Architecture::Lstm(spec) => lstm(&LstmOptions {
            dtype: frame.dtype,
            ..LstmOptions::of_job(*spec, frame.inputs, frame.outputs, frame.l2)
        }),
        // The file's bytes aren't here: `onnx::read_for_job` takes them.
        Architecture::Onnx(onnx) => Err(GraphError::ModelOption {
            option: "kind",
            expected: "a built-in model, or the content of the file",
            got: format!("{:?} without it", onnx.file.path),
        }),
    }
}

#[cfg(test)]
mod tests;
