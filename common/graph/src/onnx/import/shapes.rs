//! Tensors made of sizes, where these depend on the batch or the elements aren't known.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::elementwise::{back, number, through_floats};
use super::layout::stretch;
use crate::onnx::known::{Data, ElementType, Known, Size};
use crate::op::{Cast, Compare, Where};
use crate::shape::{DType, Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let value = match call.node.op_type {
        "ConstantOfShape" => {
            let sizes = importer.needs_known(call.arg(0)?, "a shape")?;
            let dims = sizes.as_sizes().unwrap_or_default().iter();
            let Some(dims) = dims.map(|size| size.dim()).collect::<Option<Vec<Dim>>>() else {
                return because("a shape that isn't of sizes");
            };
            let zero = Known::new(ElementType::Float, vec![1], Data::Float(vec![0.0]));
            let value = call.tensor("value", importer.options.resolver)?;
            let value = value.unwrap_or(zero);
            number(&value)?;
            let (x, dtype) = through_floats(importer, &Term::known(value.reshaped(Vec::new())))?;
            let y = stretch(importer, x, &Shape::new(dims))?;
            back(importer, y, dtype)?
        }
        "Trilu" => {
            let (x, dtype) = through_floats(importer, call.arg(0)?)?;
            let k = match call.optional(1) {
                Some(term) => number(&importer.needs_known(term, "a diagonal")?)? as i64,
                None => 0,
            };
            let upper = call.flag("upper", true)?;
            let &[.., Dim::Fixed(rows), Dim::Fixed(columns)] = importer.shape(x).dims() else {
                return because("a triangle of a matrix of a size that isn't known");
            };
            importer.spend(rows.saturating_mul(columns))?;
            let keeps = |i: usize| {
                let distance = (i % columns) as i64 - (i / columns) as i64;
                if upper { distance >= k } else { distance <= k }
            };
            let data = (0..rows.saturating_mul(columns)).map(keeps).collect();
            let mask = Known::new(ElementType::Bool, vec![rows, columns], Data::Bool(data));
            let mask = importer.constant(&mask)?;
            let zero = importer.scalar(0.0)?;
            let y = importer.apply(Where, &[mask, x, zero])?;
            back(importer, y, dtype)?
        }
        "OneHot" => one_hot(importer, call)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![Term::Value(value)]))
}

/// Indices compared with a column of positions. Negative ones count from the end.
fn one_hot(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<crate::graph::ValueId, Refusal> {
    let index = importer.value(call.arg(0)?)?;
    let depth = number(&importer.needs_known(call.arg(1)?, "a depth")?)? as i64;
    let values = importer.needs_known(call.arg(2)?, "values")?;
    let Some(&[off, on]) = values.numbers().as_deref() else {
        return because("other than two values");
    };
    if !(1..1 << 24).contains(&depth) || importer.dtype(index) == DType::Bool {
        return because(format!("a depth of {depth}"));
    }
    importer.spend(2 * depth as usize)?;
    let rank = importer.shape(index).rank();
    let axis = super::call::axis_of(call.int("axis")?.unwrap_or(-1), rank + 1)?;
    let to = importer.graph.dtype();
    let index = match importer.dtype(index).is_float() {
        true => index,
        false => importer.apply(Cast { to }, &[index])?,
    };
    let mut dims = importer.shape(index).dims().to_vec();
    dims.insert(axis, Dim::Fixed(1));
    let index = importer.reshape(index, Shape::new(dims))?;
    let column = |from: i64| {
        let mut shape = vec![1; rank + 1 - axis];
        shape[0] = depth as usize;
        let positions = (from..from + depth).map(Size::Fixed).collect();
        let known = Known::new(ElementType::Int64, shape, Data::Int(positions));
        super::fold::cast(&known, ElementType::Double)
    };
    let (on, off) = (importer.scalar(on)?, importer.scalar(off)?);
    let mut y = off;
    for from in [0, -depth] {
        let column = importer.constant(&column(from)?)?;
        let is = importer.apply(Compare::Equal, &[index, column])?;
        y = importer.apply(Where, &[is, on, y])?;
    }
    Ok(y)
}
