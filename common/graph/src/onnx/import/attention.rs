//! Attention and rotary embeddings.
//!
//! An attention is the graph's own operator, unless a softcap or the scores as an output ask for what
//! stands between its parts: then it is made of products and a softmax.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::layout::{repeat, transpose};
use super::sequences::part;
use crate::graph::ValueId;
use crate::onnx::known::{Data, ElementType, FOLDED_ELEMENTS_MAX, Known, Size};
use crate::op::{
    Attention, Binary, Compare, Concat, Gather, Logic, MatMul, Reduce, Reduction, Slice, Softmax,
    Unary, Where,
};
use crate::shape::{DType, Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let values = match call.node.op_type {
        "Attention" => attention(importer, call)?,
        "RotaryEmbedding" => vec![rotary(importer, call)?],
        _ => return Ok(None),
    };
    Ok(Some(values.into_iter().map(Term::Value).collect()))
}

/// `[n, t, heads · d]` as `[n, heads, t, d]`; an operand of 4 dimensions as it is.
fn by_heads(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    heads: Option<usize>,
) -> Result<ValueId, Refusal> {
    match (heads, importer.shape(x).dims()) {
        (_, [_, _, _, _]) => Ok(x),
        (Some(heads), &[n, t, Dim::Fixed(width)]) if heads > 0 && width.is_multiple_of(heads) => {
            let (heads, width) = (Dim::Fixed(heads), Dim::Fixed(width / heads));
            let x = importer.reshape(x, Shape::new(vec![n, t, heads, width]))?;
            transpose(importer, x, vec![0, 2, 1, 3])
        }
        _ => because("a number of heads that doesn't fit"),
    }
}

fn attention(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Vec<ValueId>, Refusal> {
    call.ignore("softmax_precision");
    if call.optional(6).is_some() {
        return because("lengths of keys that are known when the model runs");
    }
    let scale = match call.has("scale") {
        true => Some(call.float("scale", 1.0)?),
        false => None,
    };
    let flat = importer.float(call.arg(0)?)?;
    let is_flat = importer.shape(flat).rank() == 3;
    let mut operands = Vec::with_capacity(4);
    for (position, heads) in [(0, "q_num_heads"), (1, "kv_num_heads"), (2, "kv_num_heads")] {
        let x = importer.float(call.arg(position)?)?;
        let heads = call.int(heads)?.and_then(|n| usize::try_from(n).ok());
        operands.push(by_heads(importer, x, heads)?);
    }
    // Keys and values of the past stand before the others.
    for (position, operand) in [(4, 1), (5, 2)] {
        if let Some(past) = call.optional(position) {
            let past = importer.float(past)?;
            let all = [past, operands[operand]];
            operands[operand] = importer.apply(Concat { axis: 2 }, &all)?;
        }
    }
    let present = [operands[1], operands[2]];
    let mask = Mask::new(importer, call, &operands)?;
    operands.extend(mask.value);
    let op = Attention {
        causal: mask.causal,
        scale,
        ..Attention::heads()
    };
    let softcap = call.float("softcap", 0.0)?;
    let mode = call.int("qk_matmul_output_mode")?.unwrap_or(0);
    let (y, scores) = if softcap == 0.0 && !call.wants(3) {
        let results = importer.graph.apply_all(op, &operands)?;
        (results[0], None)
    } else {
        let (y, scores) = composed(importer, &op, &operands, softcap, mode)?;
        (y, Some(scores))
    };
    let y = match (is_flat, importer.shape(y).dims()) {
        (true, &[n, Dim::Fixed(heads), t, Dim::Fixed(width)]) => {
            let y = transpose(importer, y, vec![0, 2, 1, 3])?;
            let width = Dim::Fixed(heads.saturating_mul(width));
            importer.reshape(y, Shape::new(vec![n, t, width]))?
        }
        _ => y,
    };
    Ok([y].into_iter().chain(present).chain(scores).collect())
}

/// Counts the elements of a mask.
fn spend_matrix(
    importer: &mut Importer<'_, '_, '_>,
    rows: usize,
    columns: usize,
) -> Result<(), Refusal> {
    let elements = rows.saturating_mul(columns);
    if elements > FOLDED_ELEMENTS_MAX {
        return because(format!(
            "a mask of more than {FOLDED_ELEMENTS_MAX} elements"
        ));
    }
    importer.spend(elements)
}

/// Where queries may look.
struct Mask {
    value: Option<ValueId>,
    causal: bool,
}

impl Mask {
    /// The mask that is given, with causality and windows; with a past, queries stand behind it.
    fn new(
        importer: &mut Importer<'_, '_, '_>,
        call: &Call<'_, '_>,
        operands: &[ValueId],
    ) -> Result<Self, Refusal> {
        let rows = |importer: &Importer<'_, '_, '_>, x| match importer.shape(x).dims() {
            &[_, _, Dim::Fixed(rows), _] => Ok(rows),
            _ => because("sequences of a length that isn't known"),
        };
        let (t, s) = (rows(importer, operands[0])?, rows(importer, operands[1])?);
        let past = match call.optional(4) {
            Some(term) => {
                let past = importer.float(term)?;
                rows(importer, past)?
            }
            None => 0,
        };
        let given = match call.optional(3) {
            Some(term) => Some(importer.arithmetic(term)?),
            None => None,
        };
        if let Some(mask) = given {
            let dtype = importer.dtype(mask);
            if !dtype.is_float() && dtype != DType::Bool {
                return because(format!("a mask of {dtype}"));
            }
            if importer.shape(mask).dims().last() != Some(&Dim::Fixed(s)) {
                return because("a mask of other than a column for each key");
            }
        }
        let causal = call.flag("is_causal", false)?;
        let window = |name| Ok::<_, Refusal>(call.int(name)?.filter(|&size| size >= 0));
        let (left, right) = (window("left_window_size")?, window("right_window_size")?);
        if past == 0 && left.is_none() && right.is_none() {
            let value = given;
            return Ok(Self { value, causal });
        }
        spend_matrix(importer, t, s)?;
        let allows = |i: usize| {
            let ahead = (i % s) as i64 - (i / s + past) as i64;
            (!causal || ahead <= 0)
                && left.is_none_or(|left| ahead >= left.saturating_neg())
                && right.is_none_or(|right| ahead <= right)
        };
        let data = Data::Bool((0..t * s).map(allows).collect());
        let allowed = importer.constant(&Known::new(ElementType::Bool, vec![t, s], data))?;
        let value = match given {
            None => allowed,
            Some(mask) if importer.dtype(mask) == DType::Bool => {
                importer.apply(Logic::And, &[allowed, mask])?
            }
            Some(mask) => {
                let never = importer.scalar(f64::NEG_INFINITY)?;
                importer.apply(Where, &[allowed, mask, never])?
            }
        };
        Ok(Self {
            value: Some(value),
            causal: false,
        })
    }
}

/// The result, and the scores as they are after: 0, the product; 1, the softcap; 2, the mask; 3, the
/// softmax.
fn composed(
    importer: &mut Importer<'_, '_, '_>,
    op: &Attention,
    operands: &[ValueId],
    softcap: f64,
    mode: i64,
) -> Result<(ValueId, ValueId), Refusal> {
    let (&[_, Dim::Fixed(heads), Dim::Fixed(t), Dim::Fixed(d)], &[_, Dim::Fixed(groups), s, _]) = (
        importer.shape(operands[0]).dims(),
        importer.shape(operands[1]).dims(),
    ) else {
        return because("heads of a size that isn't known");
    };
    let Dim::Fixed(keys) = s else {
        return because("keys of a number that isn't known");
    };
    let mut kv = [operands[1], operands[2]];
    if groups > 0 && heads != groups && heads.is_multiple_of(groups) {
        let one = Size::Fixed(1);
        let share = Size::Fixed((heads / groups) as i64);
        for x in &mut kv {
            *x = repeat(importer, *x, &[one, share, one, one], true)?;
        }
    }
    let product = MatMul {
        a_transposed: false,
        b_transposed: true,
    };
    let scores = importer.apply(product, &[operands[0], kv[0]])?;
    let factor = op.scale.unwrap_or(1.0 / (d as f64).sqrt());
    let mut scores = importer.apply(Unary::Scale { factor }, &[scores])?;
    let mut kept = scores;
    if softcap > 0.0 {
        let narrow = importer.apply(
            Unary::Scale {
                factor: 1.0 / softcap,
            },
            &[scores],
        )?;
        let bounded = importer.apply(Unary::Tanh, &[narrow])?;
        scores = importer.apply(Unary::Scale { factor: softcap }, &[bounded])?;
        if mode > 0 {
            kept = scores;
        }
    }
    let never = importer.scalar(f64::NEG_INFINITY)?;
    if let Some(&mask) = operands.get(3) {
        scores = match importer.dtype(mask) {
            DType::Bool => importer.apply(Where, &[mask, scores, never])?,
            _ => importer.apply(Binary::Add, &[scores, mask])?,
        };
    }
    if op.causal {
        spend_matrix(importer, t, keys)?;
        let data = Data::Bool((0..t * keys).map(|i| i % keys <= i / keys).collect());
        let seen = importer.constant(&Known::new(ElementType::Bool, vec![t, keys], data))?;
        scores = importer.apply(Where, &[seen, scores, never])?;
    }
    if mode == 2 {
        kept = scores;
    }
    // A query that sees nothing has probabilities of 0, and no gradient.
    let largest = Reduce {
        reduction: Reduction::Max,
        axes: vec![3],
        keep: true,
    };
    let largest = importer.apply(largest, &[scores])?;
    let sees_nothing = importer.apply(Compare::Equal, &[largest, never])?;
    let zero = importer.scalar(0.0)?;
    let finite = importer.apply(Where, &[sees_nothing, zero, scores])?;
    let p = importer.apply(Softmax::Plain { axis: 3 }, &[finite])?;
    let p = importer.apply(Where, &[sees_nothing, zero, p])?;
    if mode == 3 {
        kept = p;
    }
    Ok((importer.apply(MatMul::default(), &[p, kv[1]])?, kept))
}

/// Pairs of elements of each head, turned by angles of their position (Su et al.: "RoFormer", 2021).
fn rotary(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let whole = importer.shape(x).clone();
    let heads = call.int("num_heads")?.and_then(|n| usize::try_from(n).ok());
    // [n, t, h, d] of a flat operand, else [n, h, t, d].
    let (x, axis) = match (whole.dims(), heads) {
        ([_, _, _, _], _) => (x, 1),
        (&[n, t, Dim::Fixed(width)], Some(heads)) if heads > 0 && width.is_multiple_of(heads) => {
            let dims = vec![n, t, Dim::Fixed(heads), Dim::Fixed(width / heads)];
            (importer.reshape(x, Shape::new(dims))?, 2)
        }
        _ => return because("a number of heads that doesn't fit"),
    };
    let dims = importer.shape(x).dims().to_vec();
    let Some(d) = dims[3].fixed() else {
        return because("a head of a width that isn't known");
    };
    let turned = match call.int("rotary_embedding_dim")?.unwrap_or(0) {
        0 => d,
        turned => usize::try_from(turned).unwrap_or(usize::MAX),
    };
    if turned == 0 || turned > d || !turned.is_multiple_of(2) {
        return because(format!("{turned} turned elements of {d}"));
    }
    let mut factors = Vec::with_capacity(2);
    for position in [1, 2] {
        let mut cache = importer.float(call.arg(position)?)?;
        if let Some(ids) = call.optional(3) {
            let ids = importer.value(ids)?;
            cache = importer.apply(Gather { axis: 0 }, &[cache, ids])?;
        }
        let mut dims = importer.shape(cache).dims().to_vec();
        if dims.len() != 3 || dims[2] != Dim::Fixed(turned / 2) {
            return because("sines and cosines of other than a number for each pair");
        }
        dims.insert(axis, Dim::Fixed(1));
        factors.push(importer.reshape(cache, Shape::new(dims))?);
    }
    let interleaved = call.flag("interleaved", false)?;
    let halves = [0, 1].map(|half| Slice {
        axis: 3,
        start: if interleaved { half } else { half * turned / 2 },
        step: if interleaved { 2 } else { 1 },
        len: turned / 2,
    });
    let [a, b] = [
        importer.apply(halves[0], &[x])?,
        importer.apply(halves[1], &[x])?,
    ];
    let mut mix = |first: [ValueId; 2], op, second: [ValueId; 2]| {
        let first = importer.apply(Binary::Mul, &first)?;
        let second = importer.apply(Binary::Mul, &second)?;
        importer.apply(op, &[first, second])
    };
    let (cos, sin) = (factors[0], factors[1]);
    let mut parts = vec![
        mix([cos, a], Binary::Sub, [sin, b])?,
        mix([sin, a], Binary::Add, [cos, b])?,
    ];
    if interleaved {
        let narrow = [&dims[..3], &[Dim::Fixed(turned / 2), Dim::Fixed(1)]].concat();
        for part in &mut parts {
            *part = importer.reshape(*part, Shape::new(narrow.clone()))?;
        }
        let pairs = importer.apply(Concat { axis: 4 }, &parts)?;
        let row = [&dims[..3], &[Dim::Fixed(turned)]].concat();
        parts = vec![importer.reshape(pairs, Shape::new(row))?];
    }
    if turned < d {
        parts.push(part(importer, x, 3, turned, d - turned)?);
    }
    let y = match parts.as_slice() {
        &[one] => one,
        parts => importer.apply(Concat { axis: 3 }, parts)?,
    };
    importer.reshape(y, whole)
}
