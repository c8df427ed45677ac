//! `[model]`.

use super::text_model::{validate_gpt, validate_lstm};
use super::{
    SpecError, check, check_count, check_non_negative, check_path, check_positive, check_share,
    limits,
};
use crate::job::{
    Architecture, CnnSpec, ConvLayer, Initialiser, Layer, LayerSpec, Loss, LossOptions, ModelSpec,
    OnnxInput, OnnxSpec, PoolLayer, Resnet18Spec, SourceFile,
};

pub(super) fn validate(model: &ModelSpec) -> Result<(), SpecError> {
    match &model.architecture {
        Architecture::Mlp(mlp) => {
            hidden(&mlp.hidden)?;
            check_share("model.dropout", mlp.dropout)?;
            initialiser(mlp.initialiser)?;
        }
        Architecture::Linear(linear) => {
            check(
                !model.loss.takes_classes(),
                "model.loss",
                format!("{:?}", model.loss.name()),
                "a loss of numbers for model.kind \"linear\"; for classes there is \"softmax\"",
            )?;
            initialiser(linear.initialiser)?;
        }
        Architecture::Softmax(softmax) => {
            check(
                model.loss.takes_classes(),
                "model.loss",
                format!("{:?}", model.loss.name()),
                "\"cross_entropy\" for model.kind \"softmax\"; for numbers there is \"linear\"",
            )?;
            initialiser(softmax.initialiser)?;
        }
        Architecture::Cnn(cnn_spec) => cnn(cnn_spec)?,
        Architecture::Resnet18(resnet) => resnet18(resnet)?,
        Architecture::Sequential(sequential) => {
            let mut count = 0;
            layers(&sequential.layers, "model.layers", 1, &mut count)?;
            initialiser(sequential.initialiser)?;
        }
        Architecture::Gpt(gpt) => validate_gpt(gpt)?,
        Architecture::Lstm(lstm) => validate_lstm(lstm)?,
        Architecture::Onnx(spec) => onnx(spec)?,
    }
    input(&model.input)?;
    if let Some(weights) = &model.weights {
        source_file("model.weights", weights)?;
    }
    loss(model.loss, &model.loss_options)
}

fn hidden(widths: &[u32]) -> Result<(), SpecError> {
    check(
        widths.len() <= limits::HIDDEN_LAYERS_MAX,
        "model.hidden",
        format!("a list of {}", widths.len()),
        format!("at most {} layers", limits::HIDDEN_LAYERS_MAX),
    )?;
    let width_max = limits::WIDTH_MAX.into();
    let mut widths = widths.iter();
    widths.try_for_each(|&width| check_count("model.hidden", width.into(), 1, width_max))
}

fn initialiser(initialiser: Initialiser) -> Result<(), SpecError> {
    const FIELD: &str = "model.initialiser";
    match initialiser {
        Initialiser::Constant(value) | Initialiser::Orthogonal(value) => {
            check(value.is_finite(), FIELD, value, "with a finite number")
        }
        Initialiser::Uniform(spread)
        | Initialiser::Normal(spread)
        | Initialiser::TruncatedNormal(spread) => check_non_negative(FIELD, spread),
        _ => Ok(()),
    }
}

fn cnn(cnn: &CnnSpec) -> Result<(), SpecError> {
    check(
        (1..=limits::BLOCKS_MAX).contains(&cnn.blocks.len()),
        "model.blocks",
        format!("a list of {}", cnn.blocks.len()),
        format!("1 to {} blocks", limits::BLOCKS_MAX),
    )?;
    for (i, block) in cnn.blocks.iter().enumerate() {
        let field = |key: &str| format!("model.blocks[{i}].{key}");
        let window = |key: &str, got: u32, min| {
            check_count(field(key), got.into(), min, limits::WINDOW_MAX.into())
        };
        let filters_max = limits::WIDTH_MAX.into();
        check_count(field("filters"), block.filters.into(), 1, filters_max)?;
        window("kernel", block.kernel, 1)?;
        window("padding", block.padding, 0)?;
        window("pool", block.pool, 1)?;
    }
    hidden(&cnn.hidden)?;
    check_share("model.dropout", cnn.dropout)?;
    initialiser(cnn.initialiser)
}

fn resnet18(resnet: &Resnet18Spec) -> Result<(), SpecError> {
    check_count("model.width", resnet.width.into(), 1, 1 << 12)?;
    initialiser(resnet.initialiser)
}

fn onnx(onnx: &OnnxSpec) -> Result<(), SpecError> {
    source_file("model.path", &onnx.file)?;
    let output_max = limits::OUTPUT_NAME_BYTES_MAX;
    let output = onnx.output.as_ref();
    check(
        output.is_none_or(|name| (1..=output_max).contains(&name.len())),
        "model.output",
        format!("a name of {} bytes", output.map_or(0, String::len)),
        format!("a name of 1 to {output_max} bytes"),
    )?;
    check(
        onnx.freeze.len() <= limits::FREEZE_MAX,
        "model.freeze",
        format!("a list of {}", onnx.freeze.len()),
        format!("at most {} patterns", limits::FREEZE_MAX),
    )?;
    let pattern_max = limits::PATTERN_BYTES_MAX;
    onnx.freeze.iter().try_for_each(|pattern| {
        check(
            (1..=pattern_max).contains(&pattern.len()),
            "model.freeze",
            format!("a pattern of {} bytes", pattern.len()),
            format!("patterns of 1 to {pattern_max} bytes"),
        )
    })?;
    onnx_inputs(&onnx.inputs)
}

fn onnx_inputs(inputs: &[OnnxInput]) -> Result<(), SpecError> {
    let inputs_max = limits::ONNX_INPUTS_MAX;
    check(
        inputs.len() <= inputs_max,
        "model.inputs",
        format!("a list of {}", inputs.len()),
        format!("at most {inputs_max} inputs"),
    )?;
    let name_max = limits::OUTPUT_NAME_BYTES_MAX;
    for (i, input) in inputs.iter().enumerate() {
        check(
            (1..=name_max).contains(&input.name.len()),
            "model.inputs.name",
            format!("a name of {} bytes", input.name.len()),
            format!("a name of 1 to {name_max} bytes"),
        )?;
        check(
            inputs[..i].iter().all(|other| other.name != input.name),
            "model.inputs.name",
            format!("{:?} twice", input.name),
            "each input once",
        )?;
        let [first, end] = input.features;
        check(
            first < end,
            "model.inputs.features",
            format!("[{first}, {end}]"),
            "the first feature, and one past the last",
        )?;
    }
    Ok(())
}

fn source_file(field: &'static str, file: &SourceFile) -> Result<(), SpecError> {
    check_path(field, &file.path)?;
    let hash = &file.blake3;
    check(
        hash.is_empty() || (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())),
        field,
        format!("with a hash of {} bytes", hash.len()),
        "a BLAKE3 hash of 64 hexadecimal digits, or none",
    )
}

fn input(input: &[u32]) -> Result<(), SpecError> {
    if input.is_empty() {
        return Ok(());
    }
    let features = input
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size.into()));
    check(
        (2..=3).contains(&input.len())
            && features.is_some_and(|product| (1..=limits::FEATURES_MAX).contains(&product)),
        "model.input",
        format!("{input:?}"),
        format!(
            "[channels, height, width], [channels, length] or [steps, features] of 1 to {} numbers",
            limits::FEATURES_MAX
        ),
    )
}

fn loss(loss: Loss, options: &LossOptions) -> Result<(), SpecError> {
    let defaults = LossOptions::default();
    let of = |is_default: bool, key: &'static str, owner: Loss| {
        check(
            is_default || loss == owner,
            key,
            format!("set, and model.loss is {:?}", loss.name()),
            format!("model.loss = {:?} with it", owner.name()),
        )
    };
    let smooth = options.label_smoothing == 0.0;
    of(smooth, "model.label_smoothing", Loss::CrossEntropy)?;
    let unweighted = options.class_weights.is_empty();
    of(unweighted, "model.class_weights", Loss::CrossEntropy)?;
    of(options.delta == defaults.delta, "model.delta", Loss::Huber)?;
    of(options.shape == defaults.shape, "model.shape", Loss::Gamma)?;
    check_share("model.label_smoothing", options.label_smoothing)?;
    check_positive("model.delta", options.delta)?;
    check_positive("model.shape", options.shape)?;
    check(
        options.class_weights.len() <= limits::CLASS_WEIGHTS_MAX,
        "model.class_weights",
        format!("a list of {}", options.class_weights.len()),
        format!("at most {} weights", limits::CLASS_WEIGHTS_MAX),
    )?;
    let mut weights = options.class_weights.iter();
    weights.try_for_each(|&weight| check_non_negative("model.class_weights", weight))
}

fn layers(
    layers: &[LayerSpec],
    path: &str,
    depth: usize,
    count: &mut usize,
) -> Result<(), SpecError> {
    check(
        depth <= limits::LAYERS_DEPTH_MAX,
        path.to_owned(),
        format!("a list in {} others", depth - 1),
        format!("at most {} lists in each other", limits::LAYERS_DEPTH_MAX),
    )?;
    *count += layers.len();
    check(
        !layers.is_empty() && *count <= limits::LAYERS_MAX,
        path.to_owned(),
        format!("a list of {}", layers.len()),
        format!("1 to {} layers in all", limits::LAYERS_MAX),
    )?;
    for (i, spec) in layers.iter().enumerate() {
        layer(&spec.layer, &format!("{path}[{i}]"), depth, count)?;
    }
    Ok(())
}

fn layer(layer: &Layer, path: &str, depth: usize, count: &mut usize) -> Result<(), SpecError> {
    let field = |key: &str| format!("{path}.{key}");
    let width_max = limits::WIDTH_MAX.into();
    match layer {
        Layer::Dense(dense) => check_count(field("units"), dense.units.into(), 1, width_max),
        Layer::Conv1d(conv)
        | Layer::Conv2d(conv)
        | Layer::ConvTranspose1d(conv)
        | Layer::ConvTranspose2d(conv) => self::conv(conv, path),
        Layer::MaxPool1d(pool)
        | Layer::AvgPool1d(pool)
        | Layer::MaxPool2d(pool)
        | Layer::AvgPool2d(pool) => self::pool(pool, path),
        Layer::GlobalMaxPool
        | Layer::GlobalAvgPool
        | Layer::Flatten
        | Layer::Positions
        | Layer::Activation(_) => Ok(()),
        Layer::Attention(attention) => {
            check_count(field("heads"), attention.heads.into(), 1, width_max)?;
            check_share(field("dropout"), attention.dropout)
        }
        Layer::BatchNorm { eps, momentum } => {
            check_positive(field("eps"), *eps)?;
            let ok = (0.0..=1.0).contains(momentum);
            check(ok, field("momentum"), momentum, "a number from 0 to 1")
        }
        Layer::LayerNorm { eps } | Layer::RmsNorm { eps } => check_positive(field("eps"), *eps),
        Layer::GroupNorm { groups, eps } => {
            check_count(field("groups"), (*groups).into(), 1, width_max)?;
            check_positive(field("eps"), *eps)
        }
        Layer::Dropout(rate) => check_share(field("rate"), *rate),
        Layer::Reshape(shape) => {
            let sizes = shape.iter();
            let product = sizes.map(|&n| u64::from(n)).try_fold(1, u64::checked_mul);
            check(
                (1..=8).contains(&shape.len())
                    && product.is_some_and(|n| (1..=limits::FEATURES_MAX).contains(&n)),
                field("shape"),
                format!("{shape:?}"),
                "1 to 8 sizes of 1 or more",
            )
        }
        Layer::Embedding { vocabulary, width } => {
            let vocabulary_max = limits::VOCABULARY_MAX.into();
            check_count(field("vocabulary"), (*vocabulary).into(), 1, vocabulary_max)?;
            check_count(field("width"), (*width).into(), 1, width_max)
        }
        Layer::Residual(inner) => layers(inner, &field("layers"), depth + 1, count),
    }
}

fn pair(path: &str, key: &str, pair: [u32; 2], min: u64) -> Result<(), SpecError> {
    let mut numbers = pair.iter();
    numbers.try_for_each(|&number| {
        let max = limits::WINDOW_MAX.into();
        check_count(format!("{path}.{key}"), number.into(), min, max)
    })
}

fn conv(conv: &ConvLayer, path: &str) -> Result<(), SpecError> {
    let width_max = limits::WIDTH_MAX.into();
    check_count(format!("{path}.filters"), conv.filters.into(), 1, width_max)?;
    pair(path, "kernel", conv.kernel, 1)?;
    pair(path, "stride", conv.stride, 1)?;
    pair(path, "padding", conv.padding, 0)?;
    pair(path, "dilation", conv.dilation, 1)?;
    pair(path, "output_padding", conv.output_padding, 0)?;
    check_count(format!("{path}.groups"), conv.groups.into(), 1, width_max)?;
    check(
        conv.filters.is_multiple_of(conv.groups),
        format!("{path}.groups"),
        conv.groups,
        format!("a divisor of filters ({})", conv.filters),
    )?;
    check(
        (0..2).all(|i| conv.output_padding[i] < conv.stride[i]),
        format!("{path}.output_padding"),
        format!("{:?}", conv.output_padding),
        "less than the stride",
    )
}

fn pool(pool: &PoolLayer, path: &str) -> Result<(), SpecError> {
    pair(path, "size", pool.size, 1)?;
    pair(path, "stride", pool.stride, 1)?;
    pair(path, "padding", pool.padding, 0)?;
    check(
        (0..2).all(|i| pool.padding[i] * 2 <= pool.size[i]),
        format!("{path}.padding"),
        format!("{:?}", pool.padding),
        "at most half the size",
    )
}
