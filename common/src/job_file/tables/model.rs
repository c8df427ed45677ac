//! `[model]`.

use crate::job::{
    Activation, Architecture, AttentionLayer, CnnBlock, CnnSpec, ConvLayer, DenseLayer, GptSpec,
    Initialiser, Layer, LayerSpec, LinearSpec, Loss, LossOptions, LstmSpec, MlpSpec, ModelSpec,
    OnnxInput, OnnxSpec, PoolLayer, Resnet18Spec, SequentialSpec, SourceFile, Stem, limits,
};
use crate::job_file::Origin;
use crate::job_file::document::{Item, Located, Value};
use crate::job_file::reader::Reader;

#[derive(Clone, Copy)]
enum Kind {
    Mlp,
    Linear,
    Softmax,
    Cnn,
    Resnet18,
    Sequential,
    Gpt,
    Lstm,
    Onnx,
}

const KINDS: [(&str, Kind); 9] = [
    ("mlp", Kind::Mlp),
    ("linear", Kind::Linear),
    ("softmax", Kind::Softmax),
    ("cnn", Kind::Cnn),
    ("resnet18", Kind::Resnet18),
    ("sequential", Kind::Sequential),
    ("gpt", Kind::Gpt),
    ("lstm", Kind::Lstm),
    ("onnx", Kind::Onnx),
];

const INITIALISERS: [(&str, Initialiser); 9] = [
    ("he_normal", Initialiser::HeNormal),
    ("he_uniform", Initialiser::HeUniform),
    ("he_normal_fan_out", Initialiser::HeNormalFanOut),
    ("he_uniform_fan_out", Initialiser::HeUniformFanOut),
    ("glorot_normal", Initialiser::GlorotNormal),
    ("glorot_uniform", Initialiser::GlorotUniform),
    ("fan_in_uniform", Initialiser::FanInUniform),
    ("zeros", Initialiser::Zeros),
    ("ones", Initialiser::Ones),
];

/// Initialisers with a number: how to make one, and the number's key and default.
type WithNumber = (fn(f64) -> Initialiser, &'static str, Option<f64>);

const INITIALISERS_WITH_NUMBER: [(&str, WithNumber); 5] = [
    ("constant", (Initialiser::Constant, "value", None)),
    ("uniform", (Initialiser::Uniform, "bound", None)),
    ("normal", (Initialiser::Normal, "std", None)),
    (
        "truncated_normal",
        (Initialiser::TruncatedNormal, "std", None),
    ),
    ("orthogonal", (Initialiser::Orthogonal, "gain", Some(1.0))),
];

const ONNX_EXPECTED: &str = "the path of an ONNX file";

const STEMS: [(&str, Stem); 2] = [("cifar", Stem::Cifar), ("imagenet", Stem::Imagenet)];

pub(super) fn model(table: Reader<'_>) -> Result<ModelSpec, Located> {
    let shorthand = table.optional_string("onnx", ONNX_EXPECTED)?;
    let kind = match shorthand {
        None => table.choice("kind", &KINDS)?,
        Some(_) => {
            table.exclusive("onnx", "kind")?;
            table.exclusive("onnx", "path")?;
            Kind::Onnx
        }
    };
    let default_loss = match kind {
        Kind::Linear => Loss::MeanSquaredError,
        _ => Loss::CrossEntropy,
    };
    let spec = ModelSpec {
        architecture: match (kind, shorthand) {
            (Kind::Onnx, Some(path)) => onnx(&table, path)?,
            (kind, _) => architecture(kind, &table)?,
        },
        loss: table.choice_or("loss", &Loss::NAMES, default_loss)?,
        loss_options: loss_options(&table)?,
        input: table
            .optional_u32_list("input", "a list of sizes such as [1, 28, 28]")?
            .unwrap_or_default(),
        weights: table
            .optional_string("weights", "the path of a safetensors file")?
            .map(SourceFile::unread),
    };
    table.finish()?;
    Ok(spec)
}

fn onnx(table: &Reader<'_>, path: String) -> Result<Architecture, Located> {
    Ok(Architecture::Onnx(OnnxSpec {
        file: SourceFile::unread(path),
        output: table.optional_string("output", "the name of one of the model's outputs")?,
        freeze: table
            .optional_string_list("freeze", "a list of patterns such as [\"features.*\"]")?
            .unwrap_or_default(),
        inputs: table
            .optional_tables(
                "inputs",
                "a list of inputs such as [{ name = \"a\", features = [0, 16] }]",
            )?
            .map_or_else(|| Ok(Vec::new()), onnx_inputs)?,
    }))
}

fn onnx_inputs(tables: Vec<(&Item, Reader<'_>)>) -> Result<Vec<OnnxInput>, Located> {
    let read = |(item, table): (&Item, Reader<'_>)| {
        let expected = "the first feature and one past the last, such as [0, 16]";
        let features = table.whole_u32_list("features", expected)?;
        let input = OnnxInput {
            name: table.string("name", "the name of one of the model's inputs")?,
            features: <[u32; 2]>::try_from(features).map_err(|features| {
                table.bad(
                    item,
                    "features",
                    expected,
                    format!("a list of {}", features.len()),
                )
            })?,
        };
        table.finish()?;
        Ok(input)
    };
    tables.into_iter().map(read).collect()
}

fn architecture(kind: Kind, table: &Reader<'_>) -> Result<Architecture, Located> {
    let activation = || table.choice_or("activation", &Activation::NAMES, Activation::Relu);
    let initialiser = |default| initialiser(table, default);
    Ok(match kind {
        Kind::Mlp => Architecture::Mlp(MlpSpec {
            hidden: table.whole_u32_list("hidden", "a list of widths such as [128, 64]")?,
            activation: activation()?,
            dropout: table.number_or("dropout", 0.0)?,
            initialiser: initialiser(Initialiser::HeUniform)?,
        }),
        Kind::Linear => Architecture::Linear(LinearSpec {
            initialiser: initialiser(Initialiser::Zeros)?,
        }),
        Kind::Softmax => Architecture::Softmax(LinearSpec {
            initialiser: initialiser(Initialiser::Zeros)?,
        }),
        Kind::Cnn => Architecture::Cnn(CnnSpec {
            blocks: table
                .optional_tables("blocks", "a list of blocks such as [{ filters = 32 }]")?
                .map_or_else(|| Ok(CnnSpec::default_blocks()), blocks)?,
            hidden: table
                .optional_u32_list("hidden", "a list of widths such as [512]")?
                .unwrap_or_else(|| vec![512]),
            activation: activation()?,
            dropout: table.number_or("dropout", 0.0)?,
            initialiser: initialiser(Initialiser::HeUniform)?,
        }),
        Kind::Resnet18 => Architecture::Resnet18(Resnet18Spec {
            stem: table.choice_or("stem", &STEMS, Stem::Cifar)?,
            width: table.whole_u32("width")?.unwrap_or(64),
            zero_init_residual: table.boolean_or("zero_init_residual", false)?,
            initialiser: initialiser(Initialiser::HeNormalFanOut)?,
        }),
        Kind::Gpt => Architecture::Gpt(GptSpec {
            layers: required_u32(table, "layers")?,
            heads: required_u32(table, "heads")?,
            width: required_u32(table, "width")?,
            dropout: table.number_or("dropout", 0.0)?,
            attention_dropout: table.number_or("attention_dropout", 0.0)?,
            tied_embeddings: table.boolean_or("tied_embeddings", true)?,
        }),
        Kind::Lstm => Architecture::Lstm(LstmSpec {
            embedding: table.whole_u32("embedding")?.unwrap_or(0),
            hidden: required_u32(table, "hidden")?,
            layers: table.whole_u32("layers")?.unwrap_or(1),
            dropout: table.number_or("dropout", 0.0)?,
        }),
        Kind::Onnx => onnx(table, table.string("path", ONNX_EXPECTED)?)?,
        Kind::Sequential => {
            let expected = "a list of layers such as [{ kind = \"dense\", units = 10 }]";
            let Some(tables) = table.optional_tables("layers", expected)? else {
                return Err(table.missing("layers", expected));
            };
            Architecture::Sequential(SequentialSpec {
                layers: layers(tables, 1)?,
                initialiser: initialiser(Initialiser::HeUniform)?,
            })
        }
    })
}

fn initialiser(table: &Reader<'_>, default: Initialiser) -> Result<Initialiser, Located> {
    const KEY: &str = "initialiser";
    let Some(item) = table.get(KEY) else {
        return Ok(default);
    };
    if let Value::Table(_) = item.value {
        let inner = Reader::new(item, "model.initialiser")?;
        let (make, key, default) = inner.choice("kind", &INITIALISERS_WITH_NUMBER)?;
        let number = match default {
            Some(default) => inner.number_or(key, default)?,
            None => inner.number(key)?,
        };
        inner.finish()?;
        return Ok(make(number));
    }
    let named = |text: &str| INITIALISERS.iter().find(|(name, _)| *name == text);
    if let Value::String(text) = &item.value
        && let Some((_, initialiser)) = named(text)
    {
        return Ok(*initialiser);
    }
    let names: Vec<String> = INITIALISERS
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    let expected = format!(
        "{} or a table such as {{ kind = \"truncated_normal\", std = 0.02 }}",
        names.join(" or ")
    );
    Err(table.bad(item, KEY, &expected, item.value.describe()))
}

fn loss_options(table: &Reader<'_>) -> Result<LossOptions, Located> {
    let defaults = LossOptions::default();
    Ok(LossOptions {
        label_smoothing: table.number_or("label_smoothing", defaults.label_smoothing)?,
        class_weights: table
            .optional_number_list("class_weights", "a list of numbers, one a class")?
            .unwrap_or_default(),
        delta: table.number_or("delta", defaults.delta)?,
        shape: table.number_or("shape", defaults.shape)?,
    })
}

fn blocks(tables: Vec<(&Item, Reader<'_>)>) -> Result<Vec<CnnBlock>, Located> {
    let block = |(_, table): (&Item, Reader<'_>)| {
        let kernel = table.whole_u32("kernel")?.unwrap_or(3);
        let block = CnnBlock {
            filters: required_u32(&table, "filters")?,
            kernel,
            padding: table.whole_u32("padding")?.unwrap_or(kernel / 2),
            pool: table.whole_u32("pool")?.unwrap_or(1),
            batch_norm: table.boolean_or("batch_norm", false)?,
        };
        table.finish()?;
        Ok(block)
    };
    tables.into_iter().map(block).collect()
}

pub(super) fn required_u32(table: &Reader<'_>, key: &'static str) -> Result<u32, Located> {
    let number = table.whole_u32(key)?;
    number.ok_or_else(|| table.missing(key, "a whole number"))
}

#[derive(Clone, Copy)]
enum LayerKind {
    Dense,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    MaxPool1d,
    AvgPool1d,
    MaxPool2d,
    AvgPool2d,
    GlobalMaxPool,
    GlobalAvgPool,
    BatchNorm,
    LayerNorm,
    GroupNorm,
    RmsNorm,
    Dropout,
    Flatten,
    Reshape,
    Embedding,
    Attention,
    Positions,
    Residual,
    Activation(Activation),
}

/// Layers other than activations.
const LAYERS: [(&str, LayerKind); 22] = [
    ("dense", LayerKind::Dense),
    ("conv1d", LayerKind::Conv1d),
    ("conv2d", LayerKind::Conv2d),
    ("conv_transpose1d", LayerKind::ConvTranspose1d),
    ("conv_transpose2d", LayerKind::ConvTranspose2d),
    ("max_pool1d", LayerKind::MaxPool1d),
    ("avg_pool1d", LayerKind::AvgPool1d),
    ("max_pool2d", LayerKind::MaxPool2d),
    ("avg_pool2d", LayerKind::AvgPool2d),
    ("global_max_pool", LayerKind::GlobalMaxPool),
    ("global_avg_pool", LayerKind::GlobalAvgPool),
    ("batch_norm", LayerKind::BatchNorm),
    ("layer_norm", LayerKind::LayerNorm),
    ("group_norm", LayerKind::GroupNorm),
    ("rms_norm", LayerKind::RmsNorm),
    ("dropout", LayerKind::Dropout),
    ("flatten", LayerKind::Flatten),
    ("reshape", LayerKind::Reshape),
    ("embedding", LayerKind::Embedding),
    ("attention", LayerKind::Attention),
    ("positions", LayerKind::Positions),
    ("residual", LayerKind::Residual),
];

fn layers(tables: Vec<(&Item, Reader<'_>)>, depth: usize) -> Result<Vec<LayerSpec>, Located> {
    let activations = Activation::NAMES.iter();
    let activations = activations.map(|&(name, f)| (name, LayerKind::Activation(f)));
    let kinds: Vec<_> = LAYERS.into_iter().chain(activations).collect();
    let read = |(item, table): (&Item, Reader<'_>)| {
        let kind = table.choice("kind", &kinds)?;
        let layer = layer(kind, &table, depth)?;
        table.finish()?;
        let line = match item.origin {
            Origin::File { line, .. } => u32::try_from(line).unwrap_or(0),
            Origin::Flag(_) => 0,
        };
        Ok(LayerSpec { line, layer })
    };
    tables.into_iter().map(read).collect()
}

fn layer(kind: LayerKind, table: &Reader<'_>, depth: usize) -> Result<Layer, Located> {
    let eps = || table.number_or("eps", 1e-5);
    Ok(match kind {
        LayerKind::Dense => Layer::Dense(DenseLayer {
            units: required_u32(table, "units")?,
            bias: table.boolean_or("bias", true)?,
        }),
        LayerKind::Conv1d => Layer::Conv1d(conv(table, 1)?),
        LayerKind::Conv2d => Layer::Conv2d(conv(table, 2)?),
        LayerKind::ConvTranspose1d => Layer::ConvTranspose1d(ConvLayer {
            output_padding: sizes(table, "output_padding", 1, 0)?.unwrap_or([0; 2]),
            ..conv(table, 1)?
        }),
        LayerKind::ConvTranspose2d => Layer::ConvTranspose2d(ConvLayer {
            output_padding: sizes(table, "output_padding", 2, 0)?.unwrap_or([0; 2]),
            ..conv(table, 2)?
        }),
        LayerKind::MaxPool1d => Layer::MaxPool1d(pool(table, 1)?),
        LayerKind::AvgPool1d => Layer::AvgPool1d(pool(table, 1)?),
        LayerKind::MaxPool2d => Layer::MaxPool2d(pool(table, 2)?),
        LayerKind::AvgPool2d => Layer::AvgPool2d(pool(table, 2)?),
        LayerKind::GlobalMaxPool => Layer::GlobalMaxPool,
        LayerKind::GlobalAvgPool => Layer::GlobalAvgPool,
        LayerKind::BatchNorm => Layer::BatchNorm {
            eps: eps()?,
            momentum: table.number_or("momentum", 0.1)?,
        },
        LayerKind::LayerNorm => Layer::LayerNorm { eps: eps()? },
        LayerKind::GroupNorm => Layer::GroupNorm {
            groups: required_u32(table, "groups")?,
            eps: eps()?,
        },
        LayerKind::RmsNorm => Layer::RmsNorm { eps: eps()? },
        LayerKind::Dropout => Layer::Dropout(table.number_or("rate", 0.5)?),
        LayerKind::Flatten => Layer::Flatten,
        LayerKind::Reshape => {
            Layer::Reshape(table.whole_u32_list("shape", "a list of sizes such as [1, 28, 28]")?)
        }
        LayerKind::Embedding => Layer::Embedding {
            vocabulary: required_u32(table, "vocabulary")?,
            width: required_u32(table, "width")?,
        },
        LayerKind::Attention => Layer::Attention(AttentionLayer {
            heads: required_u32(table, "heads")?,
            causal: table.boolean_or("causal", false)?,
            bias: table.boolean_or("bias", true)?,
            dropout: table.number_or("dropout", 0.0)?,
        }),
        LayerKind::Positions => Layer::Positions,
        LayerKind::Activation(activation) => Layer::Activation(activation),
        LayerKind::Residual => {
            let expected = "a list of layers";
            let Some(tables) = table.optional_tables("layers", expected)? else {
                return Err(table.missing("layers", expected));
            };
            // Deeper lists are refused by `JobSpec::validate`; this bounds the recursion.
            if depth > limits::LAYERS_DEPTH_MAX {
                let expected = format!("at most {} lists in each other", limits::LAYERS_DEPTH_MAX);
                let item = table.required("layers", expected.as_str())?;
                return Err(table.bad(item, "layers", &expected, format!("list {depth}")));
            }
            Layer::Residual(layers(tables, depth + 1)?)
        }
    })
}

fn conv(table: &Reader<'_>, dims: usize) -> Result<ConvLayer, Located> {
    let Some(kernel) = sizes(table, "kernel", dims, 1)? else {
        return Err(table.missing("kernel", "a whole number"));
    };
    Ok(ConvLayer {
        filters: required_u32(table, "filters")?,
        kernel,
        stride: sizes(table, "stride", dims, 1)?.unwrap_or([1; 2]),
        padding: sizes(table, "padding", dims, 0)?.unwrap_or([0; 2]),
        dilation: sizes(table, "dilation", dims, 1)?.unwrap_or([1; 2]),
        groups: table.whole_u32("groups")?.unwrap_or(1),
        bias: table.boolean_or("bias", true)?,
        output_padding: [0; 2],
    })
}

fn pool(table: &Reader<'_>, dims: usize) -> Result<PoolLayer, Located> {
    let Some(size) = sizes(table, "size", dims, 1)? else {
        return Err(table.missing("size", "a whole number"));
    };
    Ok(PoolLayer {
        size,
        stride: sizes(table, "stride", dims, 1)?.unwrap_or(size),
        padding: sizes(table, "padding", dims, 0)?.unwrap_or([0; 2]),
    })
}

/// One number for both dimensions, or a list of two; of one dimension the number alone, and `unit`
/// for the other.
fn sizes(
    table: &Reader<'_>,
    key: &'static str,
    dims: usize,
    unit: u32,
) -> Result<Option<[u32; 2]>, Located> {
    let Some(item) = table.get(key) else {
        return Ok(None);
    };
    if let (Value::Array(_), 2) = (&item.value, dims) {
        let expected = "a whole number, or a list of two: of height and width";
        let pair = table.whole_u32_list(key, expected)?;
        let &[height, width] = pair.as_slice() else {
            return Err(table.bad(item, key, expected, item.value.describe()));
        };
        return Ok(Some([height, width]));
    }
    let number = required_u32(table, key)?;
    Ok(Some([if dims == 1 { unit } else { number }, number]))
}
