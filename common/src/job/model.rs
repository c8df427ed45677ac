//! The options of built-in networks other than the perceptron.
//!
//! Pairs of sizes are of height and width; a layer of one dimension uses the second.

use serde::{Deserialize, Serialize};

use super::spec::{Activation, Initialiser};

/// A convolutional network: blocks of convolution, batch norm, activation and pooling, then
/// perceptron layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CnnSpec {
    /// The blocks, first to last.
    pub blocks: Vec<CnnBlock>,
    /// Widths of the hidden layers after the blocks, first to last.
    pub hidden: Vec<u32>,
    /// The function after each convolution and hidden layer.
    pub activation: Activation,
    /// The share of hidden values set to zero in training, in [0, 1).
    pub dropout: f64,
    /// Initial weights.
    pub initialiser: Initialiser,
}

impl CnnSpec {
    /// Two blocks of 32 and 64 filters of 5 x 5, each halved by pooling, and a hidden layer of 512.
    #[must_use]
    pub fn default_blocks() -> Vec<CnnBlock> {
        let block = |filters| CnnBlock {
            filters,
            kernel: 5,
            padding: 2,
            pool: 2,
            batch_norm: false,
        };
        vec![block(32), block(64)]
    }
}

/// One block of a [`CnnSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CnnBlock {
    /// Channels out.
    pub filters: u32,
    /// Height and width of the kernel.
    pub kernel: u32,
    /// Zeros on every side of the image.
    pub padding: u32,
    /// Height, width and stride of the maximum pooling after the activation; 1 for none.
    pub pool: u32,
    /// Batch norm between convolution and activation; the convolution has no bias then.
    pub batch_norm: bool,
}

/// A residual network of 18 layers (He et al., "Deep residual learning for image recognition",
/// 2015), as torchvision's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resnet18Spec {
    /// How it begins.
    pub stem: Stem,
    /// Channels of the first stage; 64 in the paper. Each later stage has twice as many.
    pub width: u32,
    /// The last norm of every block starts at 0, so that the block starts as the identity.
    pub zero_init_residual: bool,
    /// Initial weights of convolutions; the last layer's are PyTorch's default.
    pub initialiser: Initialiser,
}

/// `model.stem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 3 x 3 convolution: for images of some 32 x 32.
    Cifar,
    /// A 7 x 7 convolution of stride 2 and maximum pooling of stride 2: for images of some
    /// 224 x 224.
    Imagenet,
}

/// Layers one after the other. Parameters are named as those of PyTorch's `nn.Sequential`: by the
/// layer's position, `0.weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequentialSpec {
    /// The layers, first to last. The last one must give an output for each class or value.
    pub layers: Vec<LayerSpec>,
    /// Initial weights of dense layers and convolutions.
    pub initialiser: Initialiser,
}

/// A layer and where the user wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// The line of the job file, for messages; 0 if there is none.
    pub line: u32,
    /// The layer.
    pub layer: Layer,
}

/// `kind` of a layer. Defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// An affine map of the last dimension.
    Dense(DenseLayer),
    /// A convolution of `[channels, length]`.
    Conv1d(ConvLayer),
    /// A convolution of `[channels, height, width]`.
    Conv2d(ConvLayer),
    /// A transposed convolution of `[channels, length]`.
    ConvTranspose1d(ConvLayer),
    /// A transposed convolution of `[channels, height, width]`.
    ConvTranspose2d(ConvLayer),
    /// The maxima of windows of `[channels, length]`.
    MaxPool1d(PoolLayer),
    /// The means of windows of `[channels, length]`.
    AvgPool1d(PoolLayer),
    /// The maxima of windows of `[channels, height, width]`.
    MaxPool2d(PoolLayer),
    /// The means of windows of `[channels, height, width]`; the padding counts.
    AvgPool2d(PoolLayer),
    /// The maximum of each channel.
    GlobalMaxPool,
    /// The mean of each channel.
    GlobalAvgPool,
    /// Each channel over the batch, with running statistics.
    BatchNorm {
        /// Added to the variance.
        eps: f64,
        /// The weight of a batch in the running statistics.
        momentum: f64,
    },
    /// The last dimension of each sample.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// Groups of channels of each sample.
    GroupNorm {
        /// How many groups.
        groups: u32,
        /// Added to the variance.
        eps: f64,
    },
    /// The last dimension of each sample, by its root mean square.
    RmsNorm {
        /// Added to the mean square.
        eps: f64,
    },
    /// A function of each element.
    Activation(Activation),
    /// Values set to zero in training with this probability.
    Dropout(f64),
    /// All dimensions of a sample as one.
    Flatten,
    /// Other dimensions of a sample.
    Reshape(Vec<u32>),
    /// Each number is a token's, from 0; its vector takes its place as a last dimension.
    Embedding {
        /// How many tokens there are.
        vocabulary: u32,
        /// Elements of a vector.
        width: u32,
    },
    /// Self-attention over positions, `[positions, width]`.
    Attention(AttentionLayer),
    /// A learned vector for each position, added to it.
    Positions,
    /// The sum of the input and of what these layers make of it.
    Residual(Vec<LayerSpec>),
}

impl Layer {
    /// The layer's `kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dense(_) => "dense",
            Self::Conv1d(_) => "conv1d",
            Self::Conv2d(_) => "conv2d",
            Self::ConvTranspose1d(_) => "conv_transpose1d",
            Self::ConvTranspose2d(_) => "conv_transpose2d",
            Self::MaxPool1d(_) => "max_pool1d",
            Self::AvgPool1d(_) => "avg_pool1d",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::GlobalMaxPool => "global_max_pool",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::BatchNorm { .. } => "batch_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::GroupNorm { .. } => "group_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Activation(activation) => activation.name(),
            Self::Dropout(_) => "dropout",
            Self::Flatten => "flatten",
            Self::Reshape(_) => "reshape",
            Self::Embedding { .. } => "embedding",
            Self::Attention(_) => "attention",
            Self::Positions => "positions",
            Self::Residual(_) => "residual",
        }
    }
}

/// [`Layer::Dense`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseLayer {
    /// Outputs.
    pub units: u32,
    /// Whether something is added.
    pub bias: bool,
}

/// [`Layer::Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionLayer {
    /// How many heads share the width.
    pub heads: u32,
    /// A position sees itself and those before.
    pub causal: bool,
    /// Whether both projections add something.
    pub bias: bool,
    /// The share of the weights of attention set to zero in training.
    pub dropout: f64,
}

/// [`Layer::Conv1d`] and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvLayer {
    /// Channels out.
    pub filters: u32,
    /// The size of the kernel.
    pub kernel: [u32; 2],
    /// From one window to the next.
    pub stride: [u32; 2],
    /// Zeros on both sides.
    pub padding: [u32; 2],
    /// From one element of a window to the next.
    pub dilation: [u32; 2],
    /// Groups of channels that are convolved apart.
    pub groups: u32,
    /// Whether something is added to each channel.
    pub bias: bool,
    /// Of a transposed convolution: rows and columns more at the end, which the stride leaves open.
    pub output_padding: [u32; 2],
}

/// [`Layer::MaxPool2d`] and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLayer {
    /// The size of a window.
    pub size: [u32; 2],
    /// From one window to the next.
    pub stride: [u32; 2],
    /// Margin on both sides.
    pub padding: [u32; 2],
}

/// A network that an ONNX file describes. Its initial weights are the file's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxSpec {
    /// The file.
    pub file: SourceFile,
    /// The output that the loss is of, by its name in the file; `None` for the only one.
    pub output: Option<String>,
    /// Patterns (`*`, `?`) of the names of initializers that aren't trained.
    pub freeze: Vec<String>,
    /// What each input takes of a record; empty for a model of one input, which takes all of it.
    #[serde(default)]
    pub inputs: Vec<OnnxInput>,
}

/// An input of an ONNX file, and the features of a record that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxInput {
    /// The input's name in the file.
    pub name: String,
    /// The first feature, and one past the last.
    pub features: [u32; 2],
}

/// A file that a model is made from, at the same path on every host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The file. Absolute once a job file is read.
    pub path: String,
    /// The BLAKE3 hash of its bytes in hexadecimal, which every rank compares; empty until the
    /// coordinator has read the file.
    pub blake3: String,
}

impl SourceFile {
    /// A file that nobody has read yet.
    #[must_use]
    pub fn unread(path: String) -> Self {
        Self {
            path,
            blake3: String::new(),
        }
    }
}

/// Numbers of a loss. Those of other losses are at their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossOptions {
    /// Of `cross_entropy`: the share of a label that goes to all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Of `cross_entropy`: a factor for each class, in the order of the classes; none if empty.
    pub class_weights: Vec<f64>,
    /// Of `huber`: where the square ends, above 0.
    pub delta: f64,
    /// Of `gamma`: the distribution's shape, above 0.
    pub shape: f64,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self {
            label_smoothing: 0.0,
            class_weights: Vec::new(),
            delta: 1.0,
            shape: 1.0,
        }
    }
}
