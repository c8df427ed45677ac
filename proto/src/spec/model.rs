//! `ModelSpec` both ways.

use ringfold_common::job::{
    Activation, Architecture, AttentionLayer, CnnBlock, CnnSpec, ConvLayer, DenseLayer, GptSpec,
    Initialiser, Layer, LayerSpec, LinearSpec, Loss, LossOptions, LstmSpec, MlpSpec, ModelSpec,
    OnnxInput, OnnxSpec, PoolLayer, Resnet18Spec, SequentialSpec, SourceFile, Stem, limits,
};

use crate::error::{FieldError, required};
use crate::v1;
use crate::v1::layer::Kind;

wire_enum!(Activation, Activation, "spec.model.activation", {
    Relu, Gelu, Tanh, Sigmoid, GeluTanh, Silu, Elu, LeakyRelu, Softplus, HardSwish,
});
wire_enum!(Loss, Loss, "spec.model.loss", {
    CrossEntropy, MeanSquaredError, MeanAbsoluteError, Huber, BinaryCrossEntropy, Poisson, Gamma,
    Normal,
});
wire_enum!(Stem, Stem, "spec.model.resnet18.stem", { Cifar, Imagenet });

/// The initialiser on the wire, and its number.
fn initialiser_to_wire(initialiser: Initialiser) -> (i32, f64) {
    use v1::Initialiser as Wire;
    let (wire, number) = match initialiser {
        Initialiser::HeNormal => (Wire::HeNormal, 0.0),
        Initialiser::HeUniform => (Wire::HeUniform, 0.0),
        Initialiser::GlorotNormal => (Wire::GlorotNormal, 0.0),
        Initialiser::GlorotUniform => (Wire::GlorotUniform, 0.0),
        Initialiser::FanInUniform => (Wire::FanInUniform, 0.0),
        Initialiser::HeNormalFanOut => (Wire::HeNormalFanOut, 0.0),
        Initialiser::HeUniformFanOut => (Wire::HeUniformFanOut, 0.0),
        Initialiser::Zeros => (Wire::Zeros, 0.0),
        Initialiser::Ones => (Wire::Ones, 0.0),
        Initialiser::Constant(value) => (Wire::Constant, value),
        Initialiser::Uniform(bound) => (Wire::Uniform, bound),
        Initialiser::Normal(deviation) => (Wire::Normal, deviation),
        Initialiser::TruncatedNormal(deviation) => (Wire::TruncatedNormal, deviation),
        Initialiser::Orthogonal(gain) => (Wire::Orthogonal, gain),
    };
    (wire.into(), number)
}

fn initialiser_from_wire(wire: v1::Initialiser, number: f64) -> Result<Initialiser, FieldError> {
    use v1::Initialiser as Wire;
    Ok(match wire {
        Wire::HeNormal => Initialiser::HeNormal,
        Wire::HeUniform => Initialiser::HeUniform,
        Wire::GlorotNormal => Initialiser::GlorotNormal,
        Wire::GlorotUniform => Initialiser::GlorotUniform,
        Wire::FanInUniform => Initialiser::FanInUniform,
        Wire::HeNormalFanOut => Initialiser::HeNormalFanOut,
        Wire::HeUniformFanOut => Initialiser::HeUniformFanOut,
        Wire::Zeros => Initialiser::Zeros,
        Wire::Ones => Initialiser::Ones,
        Wire::Constant => Initialiser::Constant(number),
        Wire::Uniform => Initialiser::Uniform(number),
        Wire::Normal => Initialiser::Normal(number),
        Wire::TruncatedNormal => Initialiser::TruncatedNormal(number),
        Wire::Orthogonal => Initialiser::Orthogonal(number),
        Wire::Unspecified => {
            return Err(FieldError::new(
                "spec.model.initialiser",
                "an initialiser",
                "an unknown or unspecified value",
            ));
        }
    })
}

impl From<&ModelSpec> for v1::ModelSpec {
    fn from(model: &ModelSpec) -> Self {
        use v1::model_spec::Architecture as Wire;
        let architecture = match &model.architecture {
            Architecture::Mlp(mlp) => Wire::Mlp(mlp.into()),
            Architecture::Linear(linear) => Wire::Linear((*linear).into()),
            Architecture::Softmax(softmax) => Wire::Softmax((*softmax).into()),
            Architecture::Cnn(cnn) => Wire::Cnn(cnn.into()),
            Architecture::Resnet18(resnet) => Wire::Resnet18((*resnet).into()),
            Architecture::Sequential(sequential) => Wire::Sequential(sequential.into()),
            Architecture::Gpt(gpt) => Wire::Gpt((*gpt).into()),
            Architecture::Lstm(lstm) => Wire::Lstm((*lstm).into()),
            Architecture::Onnx(onnx) => Wire::Onnx(onnx.into()),
        };
        let options = &model.loss_options;
        Self {
            architecture: Some(architecture),
            loss: v1::Loss::from(model.loss).into(),
            loss_options: Some(v1::LossOptions {
                label_smoothing: options.label_smoothing,
                class_weights: options.class_weights.clone(),
                delta: Some(options.delta),
                shape: Some(options.shape),
            }),
            input: model.input.clone(),
            weights: model.weights.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::ModelSpec> for ModelSpec {
    type Error = FieldError;

    fn try_from(model: v1::ModelSpec) -> Result<Self, FieldError> {
        use v1::model_spec::Architecture as Wire;
        let loss = model.loss().try_into()?;
        let architecture = match required(model.architecture, "spec.model.architecture")? {
            Wire::Mlp(mlp) => Architecture::Mlp(mlp.try_into()?),
            Wire::Linear(linear) => Architecture::Linear(linear.try_into()?),
            Wire::Softmax(softmax) => Architecture::Softmax(softmax.try_into()?),
            Wire::Cnn(cnn) => Architecture::Cnn(cnn.try_into()?),
            Wire::Resnet18(resnet) => Architecture::Resnet18(resnet.try_into()?),
            Wire::Sequential(sequential) => Architecture::Sequential(sequential.try_into()?),
            Wire::Gpt(gpt) => Architecture::Gpt(gpt.into()),
            Wire::Lstm(lstm) => Architecture::Lstm(lstm.into()),
            Wire::Onnx(onnx) => Architecture::Onnx(onnx.try_into()?),
        };
        let defaults = LossOptions::default();
        let options = model.loss_options.unwrap_or_default();
        Ok(Self {
            architecture,
            loss,
            loss_options: LossOptions {
                label_smoothing: options.label_smoothing,
                class_weights: options.class_weights,
                delta: options.delta.unwrap_or(defaults.delta),
                shape: options.shape.unwrap_or(defaults.shape),
            },
            input: model.input,
            weights: model.weights.map(Into::into),
        })
    }
}

impl From<GptSpec> for v1::GptSpec {
    fn from(gpt: GptSpec) -> Self {
        Self {
            layers: gpt.layers,
            heads: gpt.heads,
            width: gpt.width,
            dropout: gpt.dropout,
            attention_dropout: gpt.attention_dropout,
            tied_embeddings: gpt.tied_embeddings,
        }
    }
}

impl From<v1::GptSpec> for GptSpec {
    fn from(gpt: v1::GptSpec) -> Self {
        Self {
            layers: gpt.layers,
            heads: gpt.heads,
            width: gpt.width,
            dropout: gpt.dropout,
            attention_dropout: gpt.attention_dropout,
            tied_embeddings: gpt.tied_embeddings,
        }
    }
}

impl From<LstmSpec> for v1::LstmSpec {
    fn from(lstm: LstmSpec) -> Self {
        Self {
            embedding: lstm.embedding,
            hidden: lstm.hidden,
            layers: lstm.layers,
            dropout: lstm.dropout,
        }
    }
}

impl From<v1::LstmSpec> for LstmSpec {
    fn from(lstm: v1::LstmSpec) -> Self {
        Self {
            embedding: lstm.embedding,
            hidden: lstm.hidden,
            layers: lstm.layers,
            dropout: lstm.dropout,
        }
    }
}

impl From<&MlpSpec> for v1::MlpSpec {
    fn from(mlp: &MlpSpec) -> Self {
        let (initialiser, initialiser_number) = initialiser_to_wire(mlp.initialiser);
        Self {
            hidden: mlp.hidden.clone(),
            activation: v1::Activation::from(mlp.activation).into(),
            dropout: mlp.dropout,
            initialiser,
            initialiser_number,
        }
    }
}

impl TryFrom<v1::MlpSpec> for MlpSpec {
    type Error = FieldError;

    fn try_from(mlp: v1::MlpSpec) -> Result<Self, FieldError> {
        Ok(Self {
            activation: mlp.activation().try_into()?,
            initialiser: initialiser_from_wire(mlp.initialiser(), mlp.initialiser_number)?,
            dropout: mlp.dropout,
            hidden: mlp.hidden,
        })
    }
}

impl From<LinearSpec> for v1::LinearSpec {
    fn from(linear: LinearSpec) -> Self {
        let (initialiser, initialiser_number) = initialiser_to_wire(linear.initialiser);
        Self {
            initialiser,
            initialiser_number,
        }
    }
}

impl TryFrom<v1::LinearSpec> for LinearSpec {
    type Error = FieldError;

    fn try_from(linear: v1::LinearSpec) -> Result<Self, FieldError> {
        let initialiser = initialiser_from_wire(linear.initialiser(), linear.initialiser_number)?;
        Ok(Self { initialiser })
    }
}

impl From<&CnnSpec> for v1::CnnSpec {
    fn from(cnn: &CnnSpec) -> Self {
        let (initialiser, initialiser_number) = initialiser_to_wire(cnn.initialiser);
        let block = |block: &CnnBlock| v1::CnnBlock {
            filters: block.filters,
            kernel: block.kernel,
            padding: block.padding,
            pool: block.pool,
            batch_norm: block.batch_norm,
        };
        Self {
            blocks: cnn.blocks.iter().map(block).collect(),
            hidden: cnn.hidden.clone(),
            activation: v1::Activation::from(cnn.activation).into(),
            dropout: cnn.dropout,
            initialiser,
            initialiser_number,
        }
    }
}

impl TryFrom<v1::CnnSpec> for CnnSpec {
    type Error = FieldError;

    fn try_from(cnn: v1::CnnSpec) -> Result<Self, FieldError> {
        let block = |block: &v1::CnnBlock| CnnBlock {
            filters: block.filters,
            kernel: block.kernel,
            padding: block.padding,
            pool: block.pool,
            batch_norm: block.batch_norm,
        };
        Ok(Self {
            blocks: cnn.blocks.iter().map(block).collect(),
            activation: cnn.activation().try_into()?,
            dropout: cnn.dropout,
            initialiser: initialiser_from_wire(cnn.initialiser(), cnn.initialiser_number)?,
            hidden: cnn.hidden,
        })
    }
}

impl From<Resnet18Spec> for v1::Resnet18Spec {
    fn from(resnet: Resnet18Spec) -> Self {
        let (initialiser, initialiser_number) = initialiser_to_wire(resnet.initialiser);
        Self {
            stem: v1::Stem::from(resnet.stem).into(),
            width: resnet.width,
            zero_init_residual: resnet.zero_init_residual,
            initialiser,
            initialiser_number,
        }
    }
}

impl TryFrom<v1::Resnet18Spec> for Resnet18Spec {
    type Error = FieldError;

    fn try_from(resnet: v1::Resnet18Spec) -> Result<Self, FieldError> {
        Ok(Self {
            stem: resnet.stem().try_into()?,
            width: resnet.width,
            zero_init_residual: resnet.zero_init_residual,
            initialiser: initialiser_from_wire(resnet.initialiser(), resnet.initialiser_number)?,
        })
    }
}

impl From<&SequentialSpec> for v1::SequentialSpec {
    fn from(sequential: &SequentialSpec) -> Self {
        let (initialiser, initialiser_number) = initialiser_to_wire(sequential.initialiser);
        Self {
            layers: sequential.layers.iter().map(Into::into).collect(),
            initialiser,
            initialiser_number,
        }
    }
}

impl TryFrom<v1::SequentialSpec> for SequentialSpec {
    type Error = FieldError;

    fn try_from(sequential: v1::SequentialSpec) -> Result<Self, FieldError> {
        let initialiser =
            initialiser_from_wire(sequential.initialiser(), sequential.initialiser_number)?;
        Ok(Self {
            layers: layers_from_wire(sequential.layers, "spec.model.sequential.layers", 1)?,
            initialiser,
        })
    }
}

impl From<&OnnxSpec> for v1::OnnxSpec {
    fn from(onnx: &OnnxSpec) -> Self {
        Self {
            file: Some((&onnx.file).into()),
            output: onnx.output.clone(),
            freeze: onnx.freeze.clone(),
            inputs: onnx.inputs.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::OnnxSpec> for OnnxSpec {
    type Error = FieldError;

    fn try_from(onnx: v1::OnnxSpec) -> Result<Self, FieldError> {
        Ok(Self {
            file: required(onnx.file, "spec.model.onnx.file")?.into(),
            output: onnx.output,
            freeze: onnx.freeze,
            inputs: onnx.inputs.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<&OnnxInput> for v1::OnnxInput {
    fn from(input: &OnnxInput) -> Self {
        let [first, end] = input.features;
        Self {
            name: input.name.clone(),
            first,
            end,
        }
    }
}

impl From<v1::OnnxInput> for OnnxInput {
    fn from(input: v1::OnnxInput) -> Self {
        Self {
            name: input.name,
            features: [input.first, input.end],
        }
    }
}

impl From<&SourceFile> for v1::SourceFile {
    fn from(file: &SourceFile) -> Self {
        Self {
            path: file.path.clone(),
            blake3: file.blake3.clone(),
        }
    }
}

impl From<v1::SourceFile> for SourceFile {
    fn from(file: v1::SourceFile) -> Self {
        Self {
            path: file.path,
            blake3: file.blake3,
        }
    }
}

impl From<&LayerSpec> for v1::Layer {
    fn from(spec: &LayerSpec) -> Self {
        let kind = match &spec.layer {
            Layer::Dense(dense) => Kind::Dense(v1::DenseLayer {
                units: dense.units,
                bias: dense.bias,
            }),
            Layer::Conv1d(conv) => Kind::Conv1d(conv.into()),
            Layer::Conv2d(conv) => Kind::Conv2d(conv.into()),
            Layer::ConvTranspose1d(conv) => Kind::ConvTranspose1d(conv.into()),
            Layer::ConvTranspose2d(conv) => Kind::ConvTranspose2d(conv.into()),
            Layer::MaxPool1d(pool) => Kind::MaxPool1d(pool.into()),
            Layer::AvgPool1d(pool) => Kind::AvgPool1d(pool.into()),
            Layer::MaxPool2d(pool) => Kind::MaxPool2d(pool.into()),
            Layer::AvgPool2d(pool) => Kind::AvgPool2d(pool.into()),
            Layer::GlobalMaxPool => Kind::GlobalMaxPool(v1::Unit {}),
            Layer::GlobalAvgPool => Kind::GlobalAvgPool(v1::Unit {}),
            &Layer::BatchNorm { eps, momentum } => {
                Kind::BatchNorm(v1::BatchNormLayer { eps, momentum })
            }
            Layer::LayerNorm { eps } => Kind::LayerNorm(*eps),
            &Layer::GroupNorm { groups, eps } => {
                Kind::GroupNorm(v1::GroupNormLayer { groups, eps })
            }
            Layer::RmsNorm { eps } => Kind::RmsNorm(*eps),
            Layer::Activation(activation) => {
                Kind::Activation(v1::Activation::from(*activation).into())
            }
            Layer::Dropout(rate) => Kind::Dropout(*rate),
            Layer::Flatten => Kind::Flatten(v1::Unit {}),
            Layer::Reshape(shape) => Kind::Reshape(v1::ReshapeLayer {
                shape: shape.clone(),
            }),
            &Layer::Embedding { vocabulary, width } => {
                Kind::Embedding(v1::EmbeddingLayer { vocabulary, width })
            }
            &Layer::Attention(AttentionLayer {
                heads,
                causal,
                bias,
                dropout,
            }) => Kind::Attention(v1::AttentionLayer {
                heads,
                causal,
                bias,
                dropout,
            }),
            Layer::Positions => Kind::Positions(v1::Unit {}),
            Layer::Residual(inner) => Kind::Residual(v1::ResidualLayer {
                layers: inner.iter().map(Into::into).collect(),
            }),
        };
        Self {
            line: spec.line,
            kind: Some(kind),
        }
    }
}

fn layers_from_wire(
    layers: Vec<v1::Layer>,
    field: &str,
    depth: usize,
) -> Result<Vec<LayerSpec>, FieldError> {
    if depth > limits::LAYERS_DEPTH_MAX {
        let expected = format!("at most {} lists in each other", limits::LAYERS_DEPTH_MAX);
        return Err(FieldError::new(field, &expected, "more"));
    }
    let layer = |(i, layer): (usize, v1::Layer)| {
        let field = format!("{field}[{i}]");
        let line = layer.line;
        let layer = layer_from_wire(required(layer.kind, &field)?, &field, depth)?;
        Ok(LayerSpec { line, layer })
    };
    layers.into_iter().enumerate().map(layer).collect()
}

fn layer_from_wire(kind: Kind, field: &str, depth: usize) -> Result<Layer, FieldError> {
    Ok(match kind {
        Kind::Dense(dense) => Layer::Dense(DenseLayer {
            units: dense.units,
            bias: dense.bias,
        }),
        Kind::Conv1d(conv) => Layer::Conv1d(conv_from_wire(conv, field)?),
        Kind::Conv2d(conv) => Layer::Conv2d(conv_from_wire(conv, field)?),
        Kind::ConvTranspose1d(conv) => Layer::ConvTranspose1d(conv_from_wire(conv, field)?),
        Kind::ConvTranspose2d(conv) => Layer::ConvTranspose2d(conv_from_wire(conv, field)?),
        Kind::MaxPool1d(pool) => Layer::MaxPool1d(pool_from_wire(pool, field)?),
        Kind::AvgPool1d(pool) => Layer::AvgPool1d(pool_from_wire(pool, field)?),
        Kind::MaxPool2d(pool) => Layer::MaxPool2d(pool_from_wire(pool, field)?),
        Kind::AvgPool2d(pool) => Layer::AvgPool2d(pool_from_wire(pool, field)?),
        Kind::GlobalMaxPool(_) => Layer::GlobalMaxPool,
        Kind::GlobalAvgPool(_) => Layer::GlobalAvgPool,
        Kind::BatchNorm(norm) => Layer::BatchNorm {
            eps: norm.eps,
            momentum: norm.momentum,
        },
        Kind::LayerNorm(eps) => Layer::LayerNorm { eps },
        Kind::GroupNorm(norm) => Layer::GroupNorm {
            groups: norm.groups,
            eps: norm.eps,
        },
        Kind::RmsNorm(eps) => Layer::RmsNorm { eps },
        Kind::Activation(activation) => {
            let wire = v1::Activation::try_from(activation).unwrap_or_default();
            Layer::Activation(wire.try_into()?)
        }
        Kind::Dropout(rate) => Layer::Dropout(rate),
        Kind::Flatten(_) => Layer::Flatten,
        Kind::Reshape(reshape) => Layer::Reshape(reshape.shape),
        Kind::Embedding(embedding) => Layer::Embedding {
            vocabulary: embedding.vocabulary,
            width: embedding.width,
        },
        Kind::Attention(attention) => Layer::Attention(AttentionLayer {
            heads: attention.heads,
            causal: attention.causal,
            bias: attention.bias,
            dropout: attention.dropout,
        }),
        Kind::Positions(_) => Layer::Positions,
        Kind::Residual(residual) => {
            let field = format!("{field}.layers");
            Layer::Residual(layers_from_wire(residual.layers, &field, depth + 1)?)
        }
    })
}

fn size([height, width]: [u32; 2]) -> Option<v1::Size> {
    Some(v1::Size { height, width })
}

fn pair(size: Option<v1::Size>, field: &str, key: &str) -> Result<[u32; 2], FieldError> {
    let size = required(size, &format!("{field}.{key}"))?;
    Ok([size.height, size.width])
}

impl From<&ConvLayer> for v1::ConvLayer {
    fn from(conv: &ConvLayer) -> Self {
        Self {
            filters: conv.filters,
            kernel: size(conv.kernel),
            stride: size(conv.stride),
            padding: size(conv.padding),
            dilation: size(conv.dilation),
            groups: conv.groups,
            bias: conv.bias,
            output_padding: size(conv.output_padding),
        }
    }
}

fn conv_from_wire(conv: v1::ConvLayer, field: &str) -> Result<ConvLayer, FieldError> {
    Ok(ConvLayer {
        filters: conv.filters,
        kernel: pair(conv.kernel, field, "kernel")?,
        stride: pair(conv.stride, field, "stride")?,
        padding: pair(conv.padding, field, "padding")?,
        dilation: pair(conv.dilation, field, "dilation")?,
        groups: conv.groups,
        bias: conv.bias,
        output_padding: pair(conv.output_padding, field, "output_padding")?,
    })
}

impl From<&PoolLayer> for v1::PoolLayer {
    fn from(pool: &PoolLayer) -> Self {
        Self {
            size: size(pool.size),
            stride: size(pool.stride),
            padding: size(pool.padding),
        }
    }
}

fn pool_from_wire(pool: v1::PoolLayer, field: &str) -> Result<PoolLayer, FieldError> {
    Ok(PoolLayer {
        size: pair(pool.size, field, "size")?,
        stride: pair(pool.stride, field, "stride")?,
        padding: pair(pool.padding, field, "padding")?,
    })
}
