//! Functions that are composed of operators, with the conventions of NumPy, PyTorch and ONNX.

use crate::error::GraphError;
use crate::graph::{ConstantData, Graph, ValueId};
use crate::op::{ArgMax, Binary, Cast, Compare, MatMul, Reduce, Reduction, Reshape, Unary};
use crate::shape::{Dim, Shape, TensorType};

fn dims(graph: &Graph, value: ValueId) -> Vec<Dim> {
    graph.value(value).ty.shape.dims().to_vec()
}

fn reshape(graph: &mut Graph, x: ValueId, dims: Vec<Dim>) -> Result<ValueId, GraphError> {
    let shape = Shape::new(dims);
    graph.apply(Reshape { shape }, &[x])
}

/// NumPy's `matmul`: a vector at the left is a row, one at the right a column, and the dimension that
/// this adds is gone from the result.
///
/// # Errors
/// Scalars, or shapes that don't fit.
pub fn matmul(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
    let (of_a, of_b) = (dims(graph, a), dims(graph, b));
    let one = Dim::Fixed(1);
    let left = match of_a[..] {
        [k] => reshape(graph, a, vec![one, k])?,
        _ => a,
    };
    let right = match of_b[..] {
        [k] => reshape(graph, b, vec![k, one])?,
        _ => b,
    };
    let mut y = graph.apply(MatMul::default(), &[left, right])?;
    let mut shape = dims(graph, y);
    if of_b.len() == 1 {
        shape.pop();
    }
    if of_a.len() == 1 {
        // The row is now the last but one, or the last.
        shape.remove(shape.len() + usize::from(of_b.len() == 1) - 2);
    }
    if shape != dims(graph, y) {
        y = reshape(graph, y, shape)?;
    }
    Ok(y)
}

/// `x` where positive, else `slope · x`; the slope broadcasts to x and may be trained. The gradient
/// for x at 0 is 0.
///
/// # Errors
/// Shapes that don't broadcast.
pub fn prelu(graph: &mut Graph, x: ValueId, slope: ValueId) -> Result<ValueId, GraphError> {
    let above = graph.apply(Unary::Relu, &[x])?;
    let minus = graph.apply(Unary::Neg, &[x])?;
    let below = graph.apply(Unary::Relu, &[minus])?;
    let below = graph.apply(Binary::Mul, &[below, slope])?;
    graph.apply(Binary::Sub, &[above, below])
}

/// `gamma · (x if positive, else alpha · (eˣ - 1))` (Klambauer et al.: "Self-normalizing neural
/// networks", 2017); the usual numbers: [`SELU_ALPHA`] and [`SELU_GAMMA`].
///
/// # Errors
/// Numbers that aren't finite.
pub fn selu(graph: &mut Graph, x: ValueId, alpha: f64, gamma: f64) -> Result<ValueId, GraphError> {
    let y = graph.apply(Unary::Elu { alpha }, &[x])?;
    graph.apply(Unary::Scale { factor: gamma }, &[y])
}

/// The usual `alpha` of [`selu`].
pub const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
/// The usual `gamma` of [`selu`].
pub const SELU_GAMMA: f64 = 1.050_700_987_355_480_5;

/// `x · tanh(softplus(x))` (Misra: "Mish", 2019).
///
/// # Errors
/// An operand without floats.
pub fn mish(graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let soft = graph.apply(Unary::Softplus, &[x])?;
    let gate = graph.apply(Unary::Tanh, &[soft])?;
    graph.apply(Binary::Mul, &[x, gate])
}

/// The position of the first smallest element along `axis`, i64.
///
/// # Errors
/// No such dimension.
pub fn arg_min(
    graph: &mut Graph,
    x: ValueId,
    axis: usize,
    keep: bool,
) -> Result<ValueId, GraphError> {
    let minus = graph.apply(Unary::Neg, &[x])?;
    graph.apply(ArgMax { axis, keep }, &[minus])
}

/// `Σ x²` over `axes`, ascending.
///
/// # Errors
/// No such dimensions.
pub fn sum_square(
    graph: &mut Graph,
    x: ValueId,
    axes: Vec<usize>,
    keep: bool,
) -> Result<ValueId, GraphError> {
    let square = graph.apply(Binary::Mul, &[x, x])?;
    let reduction = Reduction::Sum;
    let sum = Reduce {
        reduction,
        axes,
        keep,
    };
    graph.apply(sum, &[square])
}

/// `log Σ x` over `axes`, ascending.
///
/// # Errors
/// No such dimensions.
pub fn log_sum(
    graph: &mut Graph,
    x: ValueId,
    axes: Vec<usize>,
    keep: bool,
) -> Result<ValueId, GraphError> {
    let reduction = Reduction::Sum;
    let sum = Reduce {
        reduction,
        axes,
        keep,
    };
    let sum = graph.apply(sum, &[x])?;
    graph.apply(Unary::Log, &[sum])
}

/// `index [..] -> [.., depth]` of floats: `on` at each index, `off` elsewhere; a negative index counts
/// from the end, and one out of range has `off` everywhere.
///
/// # Errors
/// An operand without integers, or a depth beyond 2^24, above which 32-bit floats skip integers.
pub fn one_hot(
    graph: &mut Graph,
    index: ValueId,
    depth: usize,
    [off, on]: [f64; 2],
) -> Result<ValueId, GraphError> {
    if !(1..=1 << 24).contains(&depth) {
        return Err(GraphError::ModelOption {
            option: "depth",
            expected: "1 to 16777216",
            got: depth.to_string(),
        });
    }
    let to = graph.dtype();
    let number = graph.apply(Cast { to }, &[index])?;
    let mut with_depth = dims(graph, number);
    with_depth.push(Dim::Fixed(1));
    let number = reshape(graph, number, with_depth)?;
    let mut hits = Vec::with_capacity(2);
    for start in [0.0, -(depth as f64)] {
        let data = (0..depth).map(|i| i as f64 + start).collect();
        let ty = TensorType::new(to, Shape::fixed(&[depth]));
        let positions = graph.add_constant(ty, ConstantData::Float(data))?;
        let hit = graph.apply(Compare::Equal, &[number, positions])?;
        hits.push(graph.apply(Cast { to }, &[hit])?);
    }
    // Each is 0 or 1, and never both 1.
    let hit = graph.apply(Binary::Add, &[hits[0], hits[1]])?;
    let scaled = graph.apply(Unary::Scale { factor: on - off }, &[hit])?;
    let off = graph.add_scalar(off)?;
    graph.apply(Binary::Add, &[scaled, off])
}
