//! What a user asks for.

use serde::{Deserialize, Serialize};

use crate::dataset::DatasetInfo;
use crate::ids::SpecHash;

/// One training job, as submitted. See `docs/job-file.md` for every key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// A name for people; need not be unique.
    pub name: String,
    /// What is trained.
    pub model: ModelSpec,
    /// What it is trained on.
    pub data: DataSpec,
    /// How it is trained.
    pub train: TrainSpec,
    /// What it runs on.
    pub cluster: ClusterSpec,
    /// What it leaves behind.
    pub output: OutputSpec,
}

impl JobSpec {
    /// The hash that ranks of one ring must agree on: BLAKE3 over the JSON form of spec and
    /// dataset. The field order of the types fixes the form.
    #[must_use]
    pub fn hash(&self, dataset: &DatasetInfo) -> SpecHash {
        let json = serde_json::to_vec(&(self, dataset)).unwrap_or_default();
        SpecHash(*blake3::hash(&json).as_bytes())
    }
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The network.
    pub architecture: Architecture,
    /// What is minimised.
    pub loss: Loss,
}

/// `model.kind`: a built-in network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `"mlp"`: a multi-layer perceptron.
    Mlp(MlpSpec),
}

/// A multi-layer perceptron: affine layers with an activation, and dropout, between them. Inputs
/// and outputs follow from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MlpSpec {
    /// Widths of the hidden layers, first to last. Empty: a linear model.
    pub hidden: Vec<u32>,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// The share of hidden values set to zero in training, in [0, 1).
    pub dropout: f64,
    /// Initial weights. Biases start at zero, except under [`Initialiser::FanInUniform`].
    pub initialiser: Initialiser,
}

/// `model.activation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// x times the normal distribution function of x, exact.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
}

/// `model.initialiser`, with n_in inputs and n_out outputs of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialiser {
    /// Normal with variance 2 / n_in (He et al., 2015, equation 10).
    HeNormal,
    /// Uniform with variance 2 / n_in.
    HeUniform,
    /// Normal with variance 2 / (n_in + n_out) (Glorot and Bengio, 2010, equation 12).
    GlorotNormal,
    /// Uniform with variance 2 / (n_in + n_out) (ibid., equation 16).
    GlorotUniform,
    /// Uniform within 1 / sqrt(n_in), biases too: PyTorch's default for linear layers.
    FanInUniform,
}

/// `model.loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Softmax cross-entropy, the mean over samples. Labels are classes.
    CrossEntropy,
    /// Mean squared error, the mean over samples and outputs. Labels are numbers.
    MeanSquaredError,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Where the training records are.
    pub source: DataSource,
    /// How features are scaled, fitted on the training records.
    pub scale: Scale,
    /// Where the test records are.
    pub test: TestData,
}

/// `data.format` and the keys that go with it. Paths are absolute once a job file is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// `"csv"`: one record a line, plain or gzip.
    Csv(CsvSource),
    /// `"idx"`: the format of MNIST, plain or gzip.
    Idx(IdxSource),
}

/// A CSV file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CsvSource {
    /// The file.
    pub path: String,
    /// The column that holds the label.
    pub label: ColumnRef,
    /// True if the first line names the columns.
    pub header: bool,
    /// The byte between fields.
    pub delimiter: u8,
}

/// A column of a CSV file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRef {
    /// By the name in the header.
    Name(String),
    /// By position, from 0.
    Index(u32),
}

/// A pair of IDX files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdxSource {
    /// Unsigned bytes, dimensions (records, …).
    pub images: String,
    /// Unsigned bytes, dimension (records).
    pub labels: String,
}

/// `data.scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Features as they are.
    None,
    /// Every feature divided by this number.
    Divide(f64),
    /// Each feature to mean 0 and standard deviation 1; a constant feature to 0.
    Standardize,
    /// Each feature to [0, 1]; a constant feature to 0.
    MinMax,
}

/// `[data.test]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestData {
    /// No test data: nothing is evaluated.
    None,
    /// A seeded share of the training file's records, exactly round(fraction x records).
    Fraction {
        /// The share, in (0, 1).
        fraction: f64,
        /// Which records are taken.
        seed: u64,
    },
    /// Files of the same format as the training data.
    Files(DataSource),
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// `epochs` or `steps`.
    pub duration: TrainDuration,
    /// Samples in one step, over all ranks.
    pub global_batch: u32,
    /// What becomes of an epoch's last batch if it is not full.
    pub last_batch: LastBatch,
    /// Seed of initial weights, sample order and dropout.
    pub seed: u64,
    /// The update rule.
    pub optimizer: OptimizerSpec,
    /// How the learning rate moves.
    pub schedule: ScheduleSpec,
    /// Gradients are scaled down to this global L2 norm if theirs is greater.
    pub clip_norm: Option<f64>,
    /// Adds l2 / 2 times the squared norm of all weights (not biases) to the loss.
    pub l2: f64,
    /// When the test records are evaluated, besides at the end.
    pub evaluate: EvaluateEvery,
    /// Steps between two reports of progress.
    pub report_steps: u64,
    /// Steps between two checks that all ranks hold the same weights; zero for never.
    pub check_steps: u64,
}

/// How long a job trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainDuration {
    /// Passes over the training data.
    Epochs(u64),
    /// Optimizer updates.
    Steps(u64),
}

/// `train.last_batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastBatch {
    /// Train on it; its gradient is the mean over the samples that it has.
    Keep,
    /// Leave it out.
    Drop,
}

/// `[train.optimizer]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// `"sgd"`, with or without momentum.
    Sgd(SgdOptions),
    /// `"adam"`: weight decay is added to the gradient.
    Adam(AdamOptions),
    /// `"adamw"`: weight decay is taken off the weights (Loshchilov and Hutter, 2019).
    AdamW(AdamOptions),
}

impl OptimizerSpec {
    /// The learning rate before any schedule.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(options) => options.learning_rate,
            Self::Adam(options) | Self::AdamW(options) => options.learning_rate,
        }
    }
}

/// Stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdOptions {
    /// Step size.
    pub learning_rate: f64,
    /// The share of the velocity kept, in [0, 1).
    pub momentum: f64,
    /// Nesterov's look-ahead; needs momentum.
    pub nesterov: bool,
    /// Times the weights, added to the gradient.
    pub weight_decay: f64,
}

/// Adam (Kingma and Ba, 2015, algorithm 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamOptions {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// See [`OptimizerSpec`].
    pub weight_decay: f64,
}

/// `[train.schedule]`: a linear warm-up, then a decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// Steps in which the rate rises linearly; the first step of n runs at 1/n of the rate.
    pub warmup_steps: u64,
    /// What follows.
    pub decay: Decay,
}

/// `train.schedule.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// The rate stays.
    Constant,
    /// The rate is multiplied by `gamma` once a period.
    Step {
        /// Between two drops.
        every: Period,
        /// The factor, in (0, 1].
        gamma: f64,
    },
    /// Half a cosine from the rate down to `min_rate` at the job's end
    /// (Loshchilov and Hutter, 2017, equation 5, no restarts).
    Cosine {
        /// Where it ends.
        min_rate: f64,
    },
}

/// A time between two events, in steps or in epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// This many steps.
    Steps(u64),
    /// This many epochs.
    Epochs(u64),
}

/// `train.evaluate_epochs` or `train.evaluate_steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluateEvery {
    /// At the end of the job only.
    End,
    /// Once a period, and at the end.
    Period(Period),
}

/// `[cluster]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Ranks of the job's world.
    pub workers: u32,
    /// Threads of each rank; 0 lets the node share out its cores.
    pub threads: u32,
    /// What ranks compute on.
    pub device: Device,
}

/// `cluster.device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The best that the node has. In this version: CPU cores.
    Auto,
    /// CPU cores.
    Cpu,
}

/// `[output]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// The directory, on the host of rank 0, that receives the trained model. Absolute once a job
    /// file is read.
    pub dir: String,
}
