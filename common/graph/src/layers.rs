//! Pieces of models that are more than one operator.

use crate::error::GraphError;
use crate::graph::{Graph, ValueId};
use crate::init::Initialiser;
use crate::op::{
    Attention, Binary, Cell, Concat, Conv, Dense, Dropout, Expand, Norm, NormOver, Recurrent,
    Reshape, Unary,
};
use crate::shape::{Dim, Shape};

/// PyTorch's batch normalisation of `x [n, c, ..]`: parameters `NAME.weight` (ones) and `NAME.bias`
/// (zeros), states `NAME.running_mean` (zeros), `NAME.running_var` (ones) and
/// `NAME.num_batches_tracked` (a float that counts training runs).
///
/// PyTorch's defaults: `eps` 1e-5, `momentum` 0.1.
///
/// # Errors
/// Names that are taken, numbers out of range, or a batch among the channels.
pub fn batch_norm(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    eps: f64,
    momentum: f64,
) -> Result<ValueId, GraphError> {
    scaled_batch_norm(graph, name, x, [eps, momentum], Initialiser::Constant(1.0))
}

/// The same with weights that start as `scale` says.
///
/// # Errors
/// As [`batch_norm`].
pub fn scaled_batch_norm(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    [eps, momentum]: [f64; 2],
    scale: Initialiser,
) -> Result<ValueId, GraphError> {
    let dims = graph.value(x).ty.shape.dims();
    let channels = Shape::new(dims.get(1).copied().into_iter().collect());
    let named = |part: &str| format!("{name}.{part}");
    let weight = graph.add_parameter(&named("weight"), channels.clone(), scale)?;
    let bias = graph.add_parameter(&named("bias"), channels.clone(), Initialiser::Zeros)?;
    let (mean_id, mean) = graph.add_state(&named("running_mean"), channels.clone(), 0.0)?;
    let (var_id, var) = graph.add_state(&named("running_var"), channels, 1.0)?;
    let norm = Norm {
        over: NormOver::Batch { momentum },
        eps,
    };
    let results = graph.apply_all(norm, &[x, weight, bias, mean, var])?;
    graph.add_update(mean_id, results[3])?;
    graph.add_update(var_id, results[4])?;
    graph.add_counter(&named("num_batches_tracked"))?;
    Ok(results[0])
}

/// The options of [`self_attention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfAttention {
    /// The number of heads: a divisor of the width.
    pub heads: usize,
    /// A position sees itself and those before.
    pub causal: bool,
    /// Both projections have a bias, zeros at first.
    pub bias: bool,
    /// How the weight of the projection to queries, keys and values starts.
    pub input: Initialiser,
    /// How the weight of the projection of the result starts.
    pub output: Initialiser,
    /// What the weights of attention are dropped by in training.
    pub dropout: Option<Dropout>,
}

/// Multi-head self-attention of `x [.., t, width] -> [.., t, width]` with the parameters of PyTorch's
/// `MultiheadAttention`: `NAME.in_proj_weight [3 · width, width]` (queries, keys, values),
/// `NAME.in_proj_bias`, `NAME.out_proj.weight [width, width]` and `NAME.out_proj.bias`.
///
/// # Errors
/// Names that are taken; heads that don't divide the width; a batch among the last two dimensions.
pub fn self_attention(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    options: &SelfAttention,
) -> Result<ValueId, GraphError> {
    let width = match graph.value(x).ty.shape.dims().last() {
        Some(Dim::Fixed(width)) => *width,
        // The projection refuses it.
        _ => 1,
    };
    let project = |graph: &mut Graph, x, names: [&str; 2], rows: usize, initialiser| {
        let [weight, bias] = names.map(|part| format!("{name}.{part}"));
        let shape = Shape::fixed(&[rows, width]);
        let mut operands = vec![x, graph.add_parameter(&weight, shape, initialiser)?];
        if options.bias {
            let shape = Shape::fixed(&[rows]);
            operands.push(graph.add_parameter(&bias, shape, Initialiser::Zeros)?);
        }
        graph.apply(Dense::Affine, &operands)
    };
    let names = ["in_proj_weight", "in_proj_bias"];
    let qkv = project(graph, x, names, width.saturating_mul(3), options.input)?;
    let attention = Attention {
        dropout: options.dropout,
        ..Attention::packed(options.heads, options.causal)
    };
    let y = graph.apply_all(attention, &[qkv])?[0];
    let names = ["out_proj.weight", "out_proj.bias"];
    project(graph, y, names, width, options.output)
}

/// The options of [`recurrent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentStack {
    /// What a step computes.
    pub cell: Cell,
    /// Elements of the state.
    pub hidden: usize,
    /// Layers one after another, at least 1.
    pub layers: usize,
    /// Each layer runs in both directions; their results stand side by side.
    pub bidirectional: bool,
    /// x is `[t, n, i]`, not `[n, t, i]`.
    pub time_first: bool,
}

/// Layers of LSTM or GRU over `x [n, t, i]`, states 0 at first, with the parameters of PyTorch's
/// `LSTM` and `GRU`: `NAME.weight_ih_lN`, `NAME.weight_hh_lN`, `NAME.bias_ih_lN`, `NAME.bias_hh_lN`,
/// with `_reverse` for the other direction; all uniform on `±1/√hidden` at first. Returns `y [n, t,
/// hidden]` (twice `hidden` in both directions), and for each layer and direction the last state
/// h `[n, hidden]` with, for LSTM, c.
///
/// # Errors
/// Names that are taken; no hidden element; a batch among steps or features.
pub fn recurrent(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    options: &RecurrentStack,
) -> Result<(ValueId, Vec<Vec<ValueId>>), GraphError> {
    let (mut y, mut last) = (x, Vec::new());
    for layer in 0..options.layers {
        let (result, states) = recurrent_layer(graph, name, y, options, layer)?;
        y = result;
        last.extend(states);
    }
    Ok((y, last))
}

/// The layer of this number of [`recurrent`]: y, and for each direction its last states.
///
/// # Errors
/// As [`recurrent`].
pub fn recurrent_layer(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    options: &RecurrentStack,
    layer: usize,
) -> Result<(ValueId, Vec<Vec<ValueId>>), GraphError> {
    let (mut directions, mut last) = (Vec::new(), Vec::new());
    for reverse in [false, true]
        .into_iter()
        .take(1 + usize::from(options.bidirectional))
    {
        let results = direction(graph, name, x, options, (layer, reverse))?;
        let states = options.cell.states();
        directions.push(results[0]);
        last.push(results[1..=states].to_vec());
    }
    let y = match directions[..] {
        [one] => one,
        _ => graph.apply(Concat { axis: 2 }, &directions)?,
    };
    Ok((y, last))
}

/// The results of one layer in one direction.
fn direction(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    options: &RecurrentStack,
    (layer, reverse): (usize, bool),
) -> Result<Vec<ValueId>, GraphError> {
    let suffix = if reverse { "_reverse" } else { "" };
    let dims = graph.value(x).ty.shape.dims().to_vec();
    let inputs = dims.last().and_then(|dim| dim.fixed()).unwrap_or(1);
    let hidden = options.hidden;
    let rows = hidden.saturating_mul(options.cell.gates());
    let bound = 1.0 / (hidden.max(1) as f64).sqrt();
    let mut operands = vec![x];
    for (part, shape) in [
        ("weight_ih", &[rows, inputs][..]),
        ("weight_hh", &[rows, hidden]),
        ("bias_ih", &[rows]),
        ("bias_hh", &[rows]),
    ] {
        let name = format!("{name}.{part}_l{layer}{suffix}");
        let initialiser = Initialiser::Uniform { bound };
        operands.push(graph.add_parameter(&name, Shape::fixed(shape), initialiser)?);
    }
    let zero = graph.add_scalar(0.0)?;
    let shape = Shape::fixed(&[1, 1]);
    let zero = graph.apply(Reshape { shape }, &[zero])?;
    let samples = dims.get(usize::from(options.time_first)).copied();
    let shape = Shape::new(vec![samples.unwrap_or(Dim::Fixed(1)), Dim::Fixed(hidden)]);
    let zeros = graph.apply(Expand { shape }, &[zero])?;
    operands.extend(vec![zeros; options.cell.states()]);
    let op = Recurrent {
        cell: options.cell,
        time_first: options.time_first,
        reverse,
    };
    graph.apply_all(op, &operands)
}

/// A convolution over one dimension: `x [n, c, l]`, `w [o, c/groups, k]`, `b [o]?`. It is one over
/// images of height 1: of `conv`'s numbers those of the width count, and those of the height stay at
/// their defaults.
///
/// # Errors
/// As the operator's.
pub fn conv1d(
    graph: &mut Graph,
    conv: Conv,
    x: ValueId,
    w: ValueId,
    b: Option<ValueId>,
) -> Result<ValueId, GraphError> {
    let x = insert_one(graph, x)?;
    let w = insert_one(graph, w)?;
    let operands: Vec<ValueId> = [x, w].into_iter().chain(b).collect();
    let y = graph.apply(conv, &operands)?;
    let mut dims = graph.value(y).ty.shape.dims().to_vec();
    dims.remove(2);
    let shape = Shape::new(dims);
    graph.apply(Reshape { shape }, &[y])
}

/// `[a, b, c] -> [a, b, 1, c]`.
pub(crate) fn insert_one(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let mut dims = graph.value(x).ty.shape.dims().to_vec();
    dims.insert(dims.len().min(2), Dim::Fixed(1));
    let shape = Shape::new(dims);
    graph.apply(Reshape { shape }, &[x])
}

/// The negative log-likelihood of normal distributions, of each element and without the constant:
/// `(log v + (x - mean)² / v) / 2` with `v = max(variance, eps)`; PyTorch's `gaussian_nll_loss` with
/// `reduction="none"`. The three have one shape; any of them may have a gradient.
///
/// # Errors
/// Shapes that don't broadcast.
pub fn gaussian_nll(
    graph: &mut Graph,
    mean: ValueId,
    x: ValueId,
    variance: ValueId,
    eps: f64,
) -> Result<ValueId, GraphError> {
    let floor = Unary::Clip {
        min: eps,
        max: f64::INFINITY,
    };
    let v = graph.apply(floor, &[variance])?;
    let difference = graph.apply(Binary::Sub, &[x, mean])?;
    let square = graph.apply(Binary::Mul, &[difference, difference])?;
    let ratio = graph.apply(Binary::Div, &[square, v])?;
    let log = graph.apply(Unary::Log, &[v])?;
    let sum = graph.apply(Binary::Add, &[log, ratio])?;
    graph.apply(Unary::Scale { factor: 0.5 }, &[sum])
}
