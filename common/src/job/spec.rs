//! What a user asks for.

use serde::{Deserialize, Serialize};

use super::compression::CompressionSpec;
use super::model::{CnnSpec, LossOptions, OnnxSpec, Resnet18Spec, SequentialSpec, SourceFile};
use super::optimizer::{GroupSpec, OptimizerSpec};
use super::schedule::{Period, ScheduleSpec};
use super::text_model::{GptSpec, LstmSpec};
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
    /// Its numbers.
    #[serde(default)]
    pub loss_options: LossOptions,
    /// Channels, height and width of a record, channels and length, or steps and features, if it is no
    /// row and the files don't say so; empty otherwise.
    #[serde(default)]
    pub input: Vec<u32>,
    /// A safetensors file of initial weights and running statistics by name, in place of drawn ones.
    #[serde(default)]
    pub weights: Option<SourceFile>,
}

impl ModelSpec {
    /// With the loss's default numbers, and records as the files say.
    #[must_use]
    pub fn new(architecture: Architecture, loss: Loss) -> Self {
        Self {
            architecture,
            loss,
            loss_options: LossOptions::default(),
            input: Vec::new(),
            weights: None,
        }
    }
}

/// `model.kind`: a built-in network, or one from a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `"mlp"`: a multi-layer perceptron.
    Mlp(MlpSpec),
    /// `"linear"`: linear regression, an affine map.
    Linear(LinearSpec),
    /// `"softmax"`: softmax regression, an affine map to the scores of classes.
    Softmax(LinearSpec),
    /// `"cnn"`: a convolutional network.
    Cnn(CnnSpec),
    /// `"resnet18"`: a residual network.
    Resnet18(Resnet18Spec),
    /// `"sequential"`: a list of layers.
    Sequential(SequentialSpec),
    /// `"gpt"`: a causal transformer over text.
    Gpt(GptSpec),
    /// `"lstm"`: a recurrent network over text, or sequences of numbers.
    Lstm(LstmSpec),
    /// `"onnx"`: what an ONNX file says.
    Onnx(OnnxSpec),
}

impl Architecture {
    /// `model.kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mlp(_) => "mlp",
            Self::Linear(_) => "linear",
            Self::Softmax(_) => "softmax",
            Self::Cnn(_) => "cnn",
            Self::Resnet18(_) => "resnet18",
            Self::Sequential(_) => "sequential",
            Self::Gpt(_) => "gpt",
            Self::Lstm(_) => "lstm",
            Self::Onnx(_) => "onnx",
        }
    }

    /// True if its inputs are tokens.
    #[must_use]
    pub fn takes_text(&self) -> bool {
        match self {
            Self::Gpt(_) => true,
            Self::Lstm(lstm) => lstm.takes_text(),
            _ => false,
        }
    }
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

/// A single affine layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearSpec {
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
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x times the sigmoid of x.
    Silu,
    /// x where positive, else exp(x) - 1.
    Elu,
    /// x where positive, else x / 100.
    LeakyRelu,
    /// log(1 + exp(x)).
    Softplus,
    /// x min(max(x + 3, 0), 6) / 6.
    HardSwish,
}

impl Activation {
    /// All of them, with their names.
    pub const NAMES: [(&str, Self); 10] = [
        ("relu", Self::Relu),
        ("gelu", Self::Gelu),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
        ("gelu_tanh", Self::GeluTanh),
        ("silu", Self::Silu),
        ("elu", Self::Elu),
        ("leaky_relu", Self::LeakyRelu),
        ("softplus", Self::Softplus),
        ("hard_swish", Self::HardSwish),
    ];

    /// The name in job files.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, other)| *other == self);
        found.map_or("", |(name, _)| name)
    }
}

/// `model.initialiser`, with n_in inputs and n_out outputs of a layer; a kernel's elements count as
/// factors of both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Normal with variance 2 / n_out (He et al., 2015, equation 14).
    HeNormalFanOut,
    /// Uniform with variance 2 / n_out.
    HeUniformFanOut,
    /// 0.
    Zeros,
    /// 1.
    Ones,
    /// This number.
    Constant(f64),
    /// Uniform within this bound.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, within two of it.
    TruncatedNormal(f64),
    /// This number times a matrix with orthonormal rows or columns.
    Orthogonal(f64),
}

/// `model.loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Softmax cross-entropy, the mean over samples. Labels are classes.
    CrossEntropy,
    /// Mean squared error, the mean over samples and outputs. Labels are numbers.
    MeanSquaredError,
    /// Mean absolute error, likewise.
    MeanAbsoluteError,
    /// Half the square of an error up to `delta`, linear beyond it, likewise.
    Huber,
    /// Binary cross-entropy of a logit; labels are probabilities from 0 to 1.
    BinaryCrossEntropy,
    /// Poisson's negative log-likelihood of the logarithm of the rate; labels are 0 or more.
    Poisson,
    /// Gamma's negative log-likelihood of the logarithm of the mean; labels are above 0.
    Gamma,
    /// The normal distribution's negative log-likelihood of a mean and a variance; labels are numbers.
    Normal,
}

impl Loss {
    /// All of them, with their names in job files.
    pub const NAMES: [(&str, Self); 8] = [
        ("cross_entropy", Self::CrossEntropy),
        ("mean_squared_error", Self::MeanSquaredError),
        ("mean_absolute_error", Self::MeanAbsoluteError),
        ("huber", Self::Huber),
        ("binary_cross_entropy", Self::BinaryCrossEntropy),
        ("poisson", Self::Poisson),
        ("gamma", Self::Gamma),
        ("normal", Self::Normal),
    ];

    /// The name in job files.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, other)| *other == self);
        found.map_or("", |(name, _)| name)
    }

    /// Which numbers labels may be, if not any.
    #[must_use]
    pub fn labels_expected(self) -> Option<&'static str> {
        match self {
            Self::BinaryCrossEntropy => Some("a number from 0 to 1"),
            Self::Poisson => Some("a number of 0 or more"),
            Self::Gamma => Some("a number above 0"),
            _ => None,
        }
    }

    /// Whether a number is one of them.
    #[must_use]
    pub fn takes_label(self, label: f32) -> bool {
        match self {
            Self::BinaryCrossEntropy => (0.0..=1.0).contains(&label),
            Self::Poisson => label >= 0.0,
            Self::Gamma => label > 0.0,
            _ => true,
        }
    }

    /// Whether labels are classes.
    #[must_use]
    pub fn takes_classes(self) -> bool {
        self == Self::CrossEntropy
    }
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
    /// `"csv"` and `"tsv"`: one record a line, plain or compressed.
    Csv(CsvSource),
    /// `"idx"`: the format of MNIST, plain or compressed.
    Idx(IdxSource),
    /// `"text"`: one running text, plain or compressed.
    Text(TextSource),
    /// A table whose file says how its columns lie.
    Table(TableSource),
}

/// A table whose file says how its columns lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSource {
    /// How the file is laid out.
    pub format: TableFormat,
    /// The file.
    pub path: String,
    /// The column that holds the label.
    pub label: ColumnRef,
}

/// `data.format` of a [`TableSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// JSON lines: one object a line, a column is a key of the first one.
    Jsonl,
    /// Parquet.
    Parquet,
    /// Arrow IPC, a file or a stream.
    Arrow,
}

impl TableFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Jsonl, Self::Parquet, Self::Arrow];

    /// Its name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// Whether its columns have names.
    #[must_use]
    pub fn has_names(self) -> bool {
        match self {
            Self::Jsonl | Self::Parquet | Self::Arrow => true,
        }
    }
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

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRef {
    /// By its name.
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

/// A text. A record is a window of `context` + 1 tokens: all but its last are the input, all but
/// its first the labels. Record i starts at token i x `stride`; records that would reach beyond
/// the text's end are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSource {
    /// The file.
    pub path: String,
    /// What a token is.
    pub tokeniser: Tokeniser,
    /// Tokens that the model sees at once.
    pub context: u32,
    /// Tokens from the start of one record to that of the next.
    pub stride: u32,
}

/// `data.tokeniser`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokeniser {
    /// A byte; the file may hold anything.
    Byte,
    /// A character of UTF-8 text. The vocabulary is the set of those in the training file.
    Character,
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
    /// A seeded share of the training file's records, exactly round(fraction x records). Of text,
    /// the last round(fraction x tokens) tokens.
    Fraction {
        /// The share, in (0, 1).
        fraction: f64,
        /// Which records are taken; 0 for text.
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
    /// Rounds that a rank computes its share of a batch in, one after the other; 1 for all at once.
    pub accumulate: u32,
    /// What the operands of matrix products are rounded to.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// The most memory of one running replica's workspace, in megabytes (10^6 bytes). Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mb_max: Option<u32>,
    /// The update rule.
    pub optimizer: OptimizerSpec,
    /// Parameters with settings of their own; the first group that matches a parameter counts.
    pub groups: Vec<GroupSpec>,
    /// False to spare parameters of fewer than two dimensions, biases and the scales of norms, the
    /// weight decay of the optimizer. A group's own weight decay counts in any case.
    pub decay_biases: bool,
    /// How the learning rate moves.
    pub schedule: ScheduleSpec,
    /// Gradients are scaled down to this global L2 norm if theirs is greater.
    pub clip_norm: Option<f64>,
    /// Each gradient is brought into [-`clip_value`, `clip_value`], before `clip_norm`.
    pub clip_value: Option<f64>,
    /// The moving average of the weights that is evaluated and saved.
    pub ema: Option<EmaSpec>,
    /// Adds l2 / 2 times the squared norm of all weights (not biases) to the loss.
    pub l2: f64,
    /// When the test records are evaluated, besides at the end.
    pub evaluate: EvaluateEvery,
    /// Steps between two reports of progress.
    pub report_steps: u64,
    /// Steps between two checks that all ranks hold the same weights; zero for never.
    pub check_steps: u64,
}

/// `train.precision`: what training rounds the operands of matrix products to. Parameters, gradients,
/// the optimizer's state, and evaluation are of `f32` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// `"f32"`: nothing.
    #[default]
    F32,
    /// `"bf16"`: bfloat16; sums are of `f32`.
    Bf16,
}

impl Precision {
    /// All of them, with their names in job files.
    pub const NAMES: [(&str, Self); 2] = [("f32", Self::F32), ("bf16", Self::Bf16)];

    /// True for the default.
    #[must_use]
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// An exponential moving average of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmaSpec {
    /// The share of the average kept in an update, in (0, 1).
    pub decay: f64,
    /// True to keep at most (1 + n) / (10 + n) after n updates, so that the average forgets its
    /// start.
    pub warmup: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Ranks of the job's world, as long as enough slots are there.
    pub workers: u32,
    /// The fewest ranks that the job goes on with after it has lost some; at most `workers`.
    #[serde(default = "ClusterSpec::min_workers_default")]
    pub min_workers: u32,
    /// Faults that the job survives; the next one fails it.
    #[serde(default)]
    pub restarts_max: u32,
    /// Logical data-parallel workers, at least as many as ranks. A batch is cut into this many
    /// parts, whatever ranks compute them: with [`FoldMode::Reproducible`] the result depends on
    /// this number and not on that of ranks.
    pub replicas: u32,
    /// In which order gradients are added up.
    pub mode: FoldMode,
    /// Threads of each rank; 0 lets the node share out its cores.
    pub threads: u32,
    /// What ranks compute on.
    pub device: Device,
    /// How gradients are compressed on their way between ranks; `None` for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// Whether gradients are summed while others are still computed.
    pub overlap: Overlap,
    /// The most bytes of gradient that are summed as one message then, unless one parameter has
    /// more; 0 lets the cost model choose.
    pub bucket_bytes: u64,
    /// Whether connections between ranks are under TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

impl ClusterSpec {
    /// `cluster.restarts_max` of a job file that doesn't say.
    pub const RESTARTS_MAX: u32 = 16;

    /// True if the job may go on after a fault.
    #[must_use]
    pub fn survives_faults(&self) -> bool {
        self.restarts_max > 0
    }

    /// `cluster.min_workers` of a job file that doesn't say.
    #[must_use]
    pub fn min_workers_default() -> u32 {
        1
    }
}

/// `cluster.overlap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Where there is something to hide and a core, or a network, to hide it behind.
    Auto,
    /// In every world of several ranks.
    On,
    /// Never: the gradient is summed in one message after the backward pass.
    Off,
}

/// `cluster.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoldMode {
    /// Reproducible where that should cost under 10 % of the all-reduce, else fast.
    Auto,
    /// The order that is fastest; it depends on the number of ranks.
    Fast,
    /// One binary tree over replica numbers: the same bits on any number of ranks.
    Reproducible,
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
    /// The file, on the host of rank 0, that receives the timeline of the last steps. Absolute once
    /// a job file is read.
    pub timeline: Option<String>,
}
