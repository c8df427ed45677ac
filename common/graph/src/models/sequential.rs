//! Lists of layers.

use ringfold_common::job::{ConvLayer, Layer, LayerSpec, PoolLayer, SequentialSpec};

use super::Frame;
use super::builder::{Builder, Convolution, PoolWindows};
use crate::error::{GraphError, LayerPlace};
use crate::graph::{Graph, ValueId};
use crate::init::Initialiser;
use crate::op::{Binary, Cast, Gather, Norm, NormOver, Pooling, Reduction, Reshape};
use crate::shape::{DType, Shape};

/// Layers one after the other, with a loss. The parameters of a layer are named by its position, as
/// in PyTorch's `nn.Sequential`; those of a list in a residual layer by both, `3.0.weight`. The last
/// layer gives `[outputs]`; what is left of larger shapes is not flattened by itself.
///
/// # Errors
/// [`GraphError::Layer`] names the layer that doesn't fit what comes before it, by its place in the
/// list, kind and line.
pub fn sequential(spec: &SequentialSpec, frame: &Frame) -> Result<Graph, GraphError> {
    let mut builder = Builder::new("sequential", frame, spec.initialiser.into())?;
    let x = builder.records()?;
    let out = layers(&mut builder, &spec.layers, "model.layers", "", x)?;
    let outputs = builder.outputs();
    if builder.graph.value(out).ty.shape != Shape::batched(&[outputs]) {
        let problem = builder.misfit(out, "the model's outputs");
        let GraphError::LayerInput { got, .. } = problem else {
            return Err(problem);
        };
        return Err(GraphError::ModelOutput {
            expected: outputs,
            got,
        });
    }
    builder.finish(out)
}

fn layers(
    builder: &mut Builder<'_>,
    specs: &[LayerSpec],
    path: &str,
    prefix: &str,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let mut value = x;
    for (i, spec) in specs.iter().enumerate() {
        let (path, name) = (format!("{path}[{i}]"), format!("{prefix}{i}"));
        value = match &spec.layer {
            Layer::Residual(inner) => {
                let inner_path = format!("{path}.layers");
                let y = layers(builder, inner, &inner_path, &format!("{name}."), value)?;
                residual(builder, value, y).map_err(|problem| located(&path, spec, problem))?
            }
            layer => apply(builder, layer, &name, value)
                .map_err(|problem| located(&path, spec, problem))?,
        };
    }
    Ok(value)
}

fn located(path: &str, spec: &LayerSpec, problem: GraphError) -> GraphError {
    GraphError::Layer {
        place: LayerPlace {
            key: path.to_owned(),
            kind: spec.layer.kind(),
            line: spec.line,
        },
        problem: Box::new(problem),
    }
}

fn residual(builder: &mut Builder<'_>, x: ValueId, y: ValueId) -> Result<ValueId, GraphError> {
    if builder.graph.value(x).ty.shape != builder.graph.value(y).ty.shape {
        let expected = "layers that leave the shape of their input";
        return Err(builder.misfit(y, expected));
    }
    builder.graph.apply(Binary::Add, &[x, y])
}

fn apply(
    builder: &mut Builder<'_>,
    layer: &Layer,
    name: &str,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let mean = Pooling::Average { count_margin: true };
    match layer {
        Layer::Dense(dense) => builder.dense(name, x, dense.units as usize, dense.bias),
        Layer::Conv1d(conv) => builder.conv1d(name, x, &convolution(conv)),
        Layer::Conv2d(conv) => builder.conv2d(name, x, &convolution(conv)),
        Layer::ConvTranspose1d(conv) => {
            let open = pair(conv.output_padding)[1];
            builder.conv_transpose1d(name, x, &convolution(conv), open)
        }
        Layer::ConvTranspose2d(conv) => {
            let open = pair(conv.output_padding);
            builder.conv_transpose2d(name, x, &convolution(conv), open)
        }
        Layer::MaxPool1d(pool) => builder.pool1d(Pooling::Max, x, &windows(pool)),
        Layer::AvgPool1d(pool) => builder.pool1d(mean, x, &windows(pool)),
        Layer::MaxPool2d(pool) => builder.pool2d(Pooling::Max, x, &windows(pool)),
        Layer::AvgPool2d(pool) => builder.pool2d(mean, x, &windows(pool)),
        Layer::GlobalMaxPool => builder.global_pool(Reduction::Max, x),
        Layer::GlobalAvgPool => builder.global_pool(Reduction::Mean, x),
        Layer::BatchNorm { eps, momentum } => builder.batch_norm(name, x, [*eps, *momentum], 1.0),
        Layer::LayerNorm { eps } => {
            let axis = last_axis(builder, x)?;
            norm(builder, name, x, NormOver::Layer { axis }, *eps)
        }
        Layer::RmsNorm { eps } => {
            let axis = last_axis(builder, x)?;
            norm(builder, name, x, NormOver::Rms { axis }, *eps)
        }
        Layer::GroupNorm { groups, eps } => {
            let groups = *groups as usize;
            norm(builder, name, x, NormOver::Group { groups }, *eps)
        }
        Layer::Activation(activation) => builder.activation(x, *activation),
        Layer::Dropout(rate) => builder.dropout(x, *rate),
        Layer::Flatten => builder.flatten(x),
        Layer::Reshape(sizes) => {
            let sizes: Vec<usize> = sizes.iter().map(|&size| size as usize).collect();
            let shape = Shape::batched(&sizes);
            if shape.elements(1) != builder.graph.value(x).ty.shape.elements(1) {
                return Err(builder.misfit(x, "as many elements as the new shape has"));
            }
            builder.graph.apply(Reshape { shape }, &[x])
        }
        Layer::Embedding { vocabulary, width } => {
            embedding(builder, name, x, *vocabulary as usize, *width as usize)
        }
        Layer::Attention(attention) => builder.attention(name, x, attention),
        Layer::Positions => positions(builder, name, x),
        // Handled by the caller, which knows the path.
        Layer::Residual(_) => Ok(x),
    }
}

/// The last dimension, which must not be the batch.
fn last_axis(builder: &Builder<'_>, x: ValueId) -> Result<usize, GraphError> {
    let axis = builder.graph.value(x).ty.shape.rank().saturating_sub(1);
    match builder.dim(x, axis) {
        Some(_) => Ok(axis),
        None => Err(builder.misfit(x, "a dimension beside the batch")),
    }
}

/// A normalisation without running statistics: `NAME.weight` (ones) and, but for RMS, `NAME.bias`.
fn norm(
    builder: &mut Builder<'_>,
    name: &str,
    x: ValueId,
    over: NormOver,
    eps: f64,
) -> Result<ValueId, GraphError> {
    let axis = match over {
        NormOver::Layer { axis } | NormOver::Rms { axis } => axis,
        _ => 1,
    };
    let Some(size) = builder.dim(x, axis) else {
        return Err(builder.misfit(x, "a dimension beside the batch"));
    };
    if let NormOver::Group { groups } = over
        && !size.is_multiple_of(groups.max(1))
    {
        return Err(builder.misfit(x, "channels that the groups divide"));
    }
    let shape = Shape::fixed(&[size]);
    let ones = Initialiser::Constant(1.0);
    let graph = &mut builder.graph;
    let mut operands = vec![
        x,
        graph.add_parameter(&format!("{name}.weight"), shape.clone(), ones)?,
    ];
    if !matches!(over, NormOver::Rms { .. }) {
        let zeros = Initialiser::Zeros;
        operands.push(graph.add_parameter(&format!("{name}.bias"), shape, zeros)?);
    }
    graph.apply(Norm { over, eps }, &operands)
}

/// Numbers as positions in `NAME.weight [vocabulary, width]`, which starts normal, as PyTorch's. A
/// number that names no token gives NaN.
fn embedding(
    builder: &mut Builder<'_>,
    name: &str,
    x: ValueId,
    vocabulary: usize,
    width: usize,
) -> Result<ValueId, GraphError> {
    let table = builder.graph.add_parameter(
        &format!("{name}.weight"),
        Shape::fixed(&[vocabulary, width]),
        Initialiser::Normal { deviation: 1.0 },
    )?;
    let tokens = builder.graph.apply(Cast { to: DType::I32 }, &[x])?;
    builder.graph.apply(Gather { axis: 0 }, &[table, tokens])
}

/// `x [positions, width]` plus `NAME.weight`, of the same shape, which starts normal with deviation 0.02,
/// as those of GPT-2.
fn positions(builder: &mut Builder<'_>, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
    let rank = builder.graph.value(x).ty.shape.rank();
    let dims = [2, 1].map(|back: usize| {
        let axis = rank.checked_sub(back).filter(|&axis| axis > 0);
        axis.and_then(|axis| builder.dim(x, axis))
    });
    let [Some(positions), Some(width)] = dims else {
        return Err(builder.misfit(x, "[positions, width]"));
    };
    let vectors = builder.graph.add_parameter(
        &format!("{name}.weight"),
        Shape::fixed(&[positions, width]),
        Initialiser::Normal { deviation: 0.02 },
    )?;
    builder.graph.apply(Binary::Add, &[x, vectors])
}

fn pair(pair: [u32; 2]) -> [usize; 2] {
    pair.map(|number| number as usize)
}

fn convolution(conv: &ConvLayer) -> Convolution {
    Convolution {
        filters: conv.filters as usize,
        kernel: pair(conv.kernel),
        stride: pair(conv.stride),
        padding: pair(conv.padding),
        dilation: pair(conv.dilation),
        groups: conv.groups as usize,
        bias: conv.bias,
    }
}

fn windows(pool: &PoolLayer) -> PoolWindows {
    PoolWindows {
        size: pair(pool.size),
        stride: pair(pool.stride),
        padding: pair(pool.padding),
    }
}
