//! Products of matrices.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::fold::merged;
use super::layout::transpose;
use crate::graph::{Origin, ValueId};
use crate::op::{Binary, Dense, MatMul, Op, Unary};
use crate::shape::{Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let value = match call.node.op_type {
        "MatMul" => {
            let a = importer.value(call.arg(0)?)?;
            let b = importer.value(call.arg(1)?)?;
            matmul(importer, a, b)?
        }
        "Gemm" => gemm(importer, call)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![Term::Value(value)]))
}

/// NumPy's `matmul`: vectors are matrices of one row or column, which goes from the result.
fn matmul(importer: &mut Importer<'_, '_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
    let (first, second) = (importer.shape(a).clone(), importer.shape(b).clone());
    let one = Dim::Fixed(1);
    let a = match first.dims() {
        &[k] => importer.reshape(a, Shape::new(vec![one, k]))?,
        _ => a,
    };
    let b = match second.dims() {
        &[k] => importer.reshape(b, Shape::new(vec![k, one]))?,
        _ => b,
    };
    let y = product(importer, a, b)?;
    let mut dims = importer.shape(y).dims().to_vec();
    if second.rank() == 1 {
        dims.pop();
    }
    if first.rank() == 1 {
        dims.remove(dims.len() - if second.rank() == 1 { 1 } else { 2 });
    }
    importer.reshape(y, Shape::new(dims))
}

/// The matrix that `b` is the transpose of, if a node of the graph says so.
fn untransposed(importer: &Importer<'_, '_, '_>, b: ValueId) -> Option<ValueId> {
    let graph = &importer.graph;
    let Origin::Node { node, .. } = graph.value(b).origin else {
        return None;
    };
    let node = &graph.nodes()[node.0 as usize];
    match &node.op {
        Op::Transpose(transpose) if transpose.order == [1, 0] => Some(node.operands[0]),
        _ => None,
    }
}

/// A product with one matrix is one product of all rows; with the transpose of a matrix the operator
/// of PyTorch's `Linear`.
fn product(
    importer: &mut Importer<'_, '_, '_>,
    a: ValueId,
    b: ValueId,
) -> Result<ValueId, Refusal> {
    let (first, second) = (importer.shape(a).clone(), importer.shape(b).clone());
    if let (Some(w), true) = (untransposed(importer, b), first.rank() >= 2) {
        return importer.apply(Dense::Affine, &[a, w]);
    }
    let rows = match (first.dims(), second.dims()) {
        ([leading @ .., _, k], [_, n]) if !leading.is_empty() => {
            merged(&first.dims()[..first.rank() - 1]).map(|rows| (rows, *k, *n))
        }
        _ => None,
    };
    let Some((rows, k, n)) = rows else {
        return importer.apply(MatMul::default(), &[a, b]);
    };
    let flat = importer.reshape(a, Shape::new(vec![rows, k]))?;
    let y = importer.apply(MatMul::default(), &[flat, b])?;
    let mut dims = first.dims().to_vec();
    dims.pop();
    dims.push(n);
    importer.reshape(y, Shape::new(dims))
}

/// `alpha · a · b + beta · c`; with the weight of PyTorch's `Linear` one operator.
fn gemm(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let (alpha, beta) = (call.float("alpha", 1.0)?, call.float("beta", 1.0)?);
    let (a_transposed, b_transposed) = (call.flag("transA", false)?, call.flag("transB", false)?);
    let a = importer.value(call.arg(0)?)?;
    let b = importer.value(call.arg(1)?)?;
    let c = match call.optional(2) {
        Some(term) => Some(importer.value(term)?),
        None => None,
    };
    if importer.shape(a).rank() != 2 || importer.shape(b).rank() != 2 {
        return because("operands that aren't matrices");
    }
    let a = if a_transposed {
        transpose(importer, a, vec![1, 0])?
    } else {
        a
    };
    let outputs = importer.shape(b).dims()[usize::from(!b_transposed)];
    let is_bias = c.is_none_or(|c| importer.shape(c).dims() == [outputs]);
    if b_transposed && alpha == 1.0 && (c.is_none() || beta == 1.0) && is_bias {
        let operands: Vec<ValueId> = [a, b].into_iter().chain(c).collect();
        return importer.apply(Dense::Affine, &operands);
    }
    let matmul = MatMul {
        a_transposed: false,
        b_transposed,
    };
    let scale = |importer: &mut Importer<'_, '_, '_>, x, factor| match factor {
        1.0 => Ok(x),
        factor => importer.apply(Unary::Scale { factor }, &[x]),
    };
    let product = importer.apply(matmul, &[a, b])?;
    let y = scale(importer, product, alpha)?;
    match c {
        None => Ok(y),
        Some(c) => {
            let c = scale(importer, c, beta)?;
            importer.apply(Binary::Add, &[y, c])
        }
    }
}
