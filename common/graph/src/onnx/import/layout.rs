//! Operators that move elements.

use super::Importer;
use super::call::{Call, Refusal, Term, axis_of, because};
use super::elementwise::{back, number, through_floats};
use super::fold::{merged, order, parts, reshape_dims, slices};
use crate::graph::ValueId;
use crate::onnx::known::{Known, Size};
use crate::op::{Concat, CumSum, Expand, Gather, GatherElements, Margin, Pad, Slice, Transpose};
use crate::shape::{Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let value = match call.node.op_type {
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => reshape(importer, call)?,
        "Transpose" => {
            let (x, dtype) = through_floats(importer, call.arg(0)?)?;
            let order = order(call, importer.shape(x).rank())?;
            let y = transpose(importer, x, order)?;
            back(importer, y, dtype)?
        }
        "Concat" => concat(importer, call)?,
        "Slice" => {
            let (x, dtype) = through_floats(importer, call.arg(0)?)?;
            let y = slice(importer, call, x)?;
            back(importer, y, dtype)?
        }
        "Split" => return split(importer, call).map(Some),
        "Gather" => gather(importer, call)?,
        "GatherElements" => {
            let x = importer.float(call.arg(0)?)?;
            let index = importer.value(call.arg(1)?)?;
            let axis = axis_of(call.int("axis")?.unwrap_or(0), importer.shape(x).rank())?;
            importer.apply(GatherElements { axis }, &[x, index])?
        }
        "CumSum" => {
            let x = importer.float(call.arg(0)?)?;
            let axis = number(&importer.needs_known(call.arg(1)?, "an axis")?)? as i64;
            let op = CumSum {
                axis: axis_of(axis, importer.shape(x).rank())?,
                exclusive: call.flag("exclusive", false)?,
                reverse: call.flag("reverse", false)?,
            };
            importer.apply(op, &[x])?
        }
        "Expand" => expand(importer, call)?,
        "Tile" => tile(importer, call)?,
        "Pad" => pad(importer, call)?,
        "DepthToSpace" | "SpaceToDepth" => blocks(importer, call)?,
        "Resize" => resize(importer, call)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![Term::Value(value)]))
}

/// The transpose; one that changes nothing is left out, one that moves only a 1 is a reshape.
pub(super) fn transpose(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    order: Vec<usize>,
) -> Result<ValueId, Refusal> {
    let dims = importer.shape(x).dims().to_vec();
    let moved = order.iter().filter(|&&axis| dims[axis] != Dim::Fixed(1));
    if moved.is_sorted() {
        let shape = Shape::new(order.iter().map(|&axis| dims[axis]).collect());
        return importer.reshape(x, shape);
    }
    importer.apply(Transpose { order }, &[x])
}

fn reshape(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.arithmetic(call.arg(0)?)?;
    let second = match call.optional(1) {
        Some(term) => Some(importer.needs_known(term, "a shape")?),
        None => None,
    };
    let shape = reshape_dims(call, importer.shape(x), second.as_ref())?;
    importer.reshape(x, shape)
}

fn concat(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let mut operands = Vec::with_capacity(call.args().len());
    let mut dtype = None;
    for position in 0..call.args().len() {
        let (x, from) = through_floats(importer, call.arg(position)?)?;
        dtype = from;
        operands.push(x);
    }
    let Some(&first) = operands.first() else {
        return because("no inputs");
    };
    let axis = call.int("axis")?.unwrap_or(0);
    let axis = axis_of(axis, importer.shape(first).rank())?;
    let y = importer.apply(Concat { axis }, &operands)?;
    back(importer, y, dtype)
}

fn slice(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
) -> Result<ValueId, Refusal> {
    let mut args = vec![None];
    for position in 1..5 {
        args.push(match call.optional(position) {
            Some(term) => Some(importer.needs_known(term, "an end or step")?),
            None => None,
        });
    }
    let dims = importer.shape(x).dims().to_vec();
    let mut y = x;
    for (_, slice) in slices(&dims, &args)? {
        if let Some(slice) = slice {
            y = importer.apply(slice, &[y])?;
        }
    }
    Ok(y)
}

fn split(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Vec<Term>, Refusal> {
    let (x, dtype) = through_floats(importer, call.arg(0)?)?;
    let dims = importer.shape(x).dims().to_vec();
    let axis = axis_of(call.int("axis")?.unwrap_or(0), dims.len())?;
    let Some(n) = dims[axis].fixed() else {
        return because("a split of the batch");
    };
    let given = match call.optional(1) {
        Some(term) => Some(importer.needs_ints(term, "the lengths of parts")?),
        None => None,
    };
    let mut start = 0;
    let mut terms = Vec::new();
    for len in parts(call, n, given)? {
        let slice = Slice {
            axis,
            start,
            step: 1,
            len,
        };
        let y = importer.apply(slice, &[x])?;
        terms.push(Term::Value(back(importer, y, dtype)?));
        start += len;
    }
    Ok(terms)
}

fn gather(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let axis = call.int("axis")?.unwrap_or(0);
    // Tables of embeddings are parameters, whatever their numbers; of one row too.
    let x = match call.arg(0)? {
        Term::Weight(_) => importer.value(call.arg(0)?)?,
        term => importer.float(term)?,
    };
    let dims = importer.shape(x).dims().to_vec();
    let axis = axis_of(axis, dims.len())?;
    let index = call.arg(1)?;
    // A known position is a slice.
    if let (Term::Known(known), Some(n)) = (index, dims[axis].fixed())
        && known.0.shape.is_empty()
    {
        let at = known.0.as_ints().and_then(|ints| ints.first().copied());
        let Some(at) = at else {
            return because("an index that depends on the batch");
        };
        let slice = Slice {
            axis,
            start: axis_of(at, n)?,
            step: 1,
            len: 1,
        };
        let y = importer.apply(slice, &[x])?;
        let mut left = dims;
        left.remove(axis);
        return importer.reshape(y, Shape::new(left));
    }
    let index = importer.value(index)?;
    importer.apply(Gather { axis }, &[x, index])
}

fn expand(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let shape = importer.needs_known(call.arg(1)?, "a shape")?;
    let dims = shape.as_sizes().unwrap_or_default().iter();
    let Some(shape) = dims.map(|size| size.dim()).collect() else {
        return because("a shape that isn't of sizes");
    };
    let (x, dtype) = through_floats(importer, call.arg(0)?)?;
    let y = stretch(importer, x, &Shape::new(shape))?;
    back(importer, y, dtype)
}

/// x, broadcast with a shape.
pub(super) fn stretch(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    shape: &Shape,
) -> Result<ValueId, Refusal> {
    let from = importer.shape(x);
    let Some(shape) = from.broadcast(shape) else {
        return because(format!("{from} doesn't broadcast to {shape}"));
    };
    if *from == shape {
        return Ok(x);
    }
    importer.apply(Expand { shape }, &[x])
}

/// Each dimension repeated: `[a, b]` as `[1, a, 1, b]`, stretched and merged.
fn tile(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let repeats = importer.needs_known(call.arg(1)?, "repeats")?;
    let (x, dtype) = through_floats(importer, call.arg(0)?)?;
    let dims = importer.shape(x).dims().to_vec();
    let repeats = repeats.as_sizes().unwrap_or_default();
    if repeats.len() != dims.len() {
        return because("as many repeats as dimensions are needed");
    }
    let y = if repeats
        .iter()
        .zip(&dims)
        .all(|(r, d)| *d == Dim::Fixed(1) || *r == Size::Fixed(1))
    {
        let pairs = repeats.iter().zip(&dims);
        let dims = pairs.map(|(r, &d)| {
            if *r == Size::Fixed(1) {
                Some(d)
            } else {
                r.dim()
            }
        });
        match dims.collect() {
            Some(dims) => stretch(importer, x, &Shape::new(dims))?,
            None => return because("negative repeats"),
        }
    } else {
        repeat(importer, x, repeats, false)?
    };
    back(importer, y, dtype)
}

/// x with each dimension so many times as large: whole copies, or (`each`) each element repeated.
fn repeat(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    repeats: &[Size],
    each: bool,
) -> Result<ValueId, Refusal> {
    let dims = importer.shape(x).dims().to_vec();
    let (mut narrow, mut wide, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for (&dim, size) in dims.iter().zip(repeats) {
        let Some(times) = size.dim() else {
            return because("negative repeats");
        };
        if times == Dim::Fixed(1) {
            narrow.push(dim);
            wide.push(dim);
            whole.push(dim);
            continue;
        }
        if each {
            narrow.extend([dim, Dim::Fixed(1)]);
            wide.extend([dim, times]);
        } else {
            narrow.extend([Dim::Fixed(1), dim]);
            wide.extend([times, dim]);
        }
        match merged(&[times, dim]) {
            Some(dim) => whole.push(dim),
            None => return because("repeats and a dimension that both depend on the batch"),
        }
    }
    let x = importer.reshape(x, Shape::new(narrow))?;
    let y = stretch(importer, x, &Shape::new(wide))?;
    importer.reshape(y, Shape::new(whole))
}

fn pad(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let pads = importer.needs_ints(call.arg(1)?, "margins")?;
    let margin = match call.text("mode", "constant")?.as_str() {
        "constant" => Margin::Constant(match call.optional(2) {
            Some(term) => number(&importer.needs_known(term, "a margin's number")?)?,
            None => 0.0,
        }),
        "reflect" => Margin::Reflect,
        "edge" => Margin::Edge,
        other => return because(format!("attribute mode = {other:?}")),
    };
    let rank = importer.shape(x).rank();
    let axes: Vec<usize> = match call.optional(3) {
        Some(term) => {
            let axes = importer.needs_ints(term, "axes")?;
            axes.iter()
                .map(|&axis| axis_of(axis, rank))
                .collect::<Result<_, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return because(format!("{} margins for {} axes", pads.len(), axes.len()));
    }
    let mut y = x;
    for (i, &axis) in axes.iter().enumerate() {
        y = pad_axis(importer, y, axis, [pads[i], pads[i + axes.len()]], margin)?;
    }
    Ok(y)
}

/// A margin along one axis; a negative one cuts.
fn pad_axis(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    axis: usize,
    [before, after]: [i64; 2],
    margin: Margin,
) -> Result<ValueId, Refusal> {
    let mut y = x;
    let cut = |n: i64| usize::try_from(n.saturating_neg()).unwrap_or(0);
    if before < 0 || after < 0 {
        let Some(n) = importer.shape(x).dims()[axis].fixed() else {
            return because("a margin of the batch");
        };
        let slice = Slice {
            axis,
            start: cut(before),
            step: 1,
            len: n.saturating_sub(cut(before).saturating_add(cut(after))),
        };
        y = importer.apply(slice, &[y])?;
    }
    let add = |n: i64| usize::try_from(n).unwrap_or(0);
    if add(before) + add(after) > 0 {
        let pad = Pad {
            axis,
            before: add(before),
            after: add(after),
            margin,
        };
        y = importer.apply(pad, &[y])?;
    }
    Ok(y)
}

/// Channels to blocks of pixels, or back.
fn blocks(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let size = call.int("blocksize")?.unwrap_or(0);
    let b = usize::try_from(size).unwrap_or(0);
    let dims = importer.shape(x).dims().to_vec();
    let &[n, c, h, w] = dims.as_slice() else {
        return because("an image of other than 4 dimensions");
    };
    let (Some(c), Some(h), Some(w)) = (c.fixed(), h.fixed(), w.fixed()) else {
        return because("an image of a size that isn't known");
    };
    let split = |dims: &[usize]| {
        let dims = dims.iter().map(|&dim| Dim::Fixed(dim));
        Shape::new([n].into_iter().chain(dims).collect())
    };
    let pixels = b.saturating_mul(b);
    if call.node.op_type == "SpaceToDepth" {
        if b == 0 || !h.is_multiple_of(b) || !w.is_multiple_of(b) {
            return because(format!("blocks of {size} in an image of {h} by {w}"));
        }
        let y = importer.reshape(x, split(&[c, h / b, b, w / b, b]))?;
        let y = transpose(importer, y, vec![0, 3, 5, 1, 2, 4])?;
        return importer.reshape(y, split(&[c.saturating_mul(pixels), h / b, w / b]));
    }
    if b == 0 || !c.is_multiple_of(pixels) {
        return because(format!("blocks of {size} of {c} channels"));
    }
    let outside = c / pixels;
    let (narrow, order) = match call.text("mode", "DCR")?.as_str() {
        "DCR" => (split(&[b, b, outside, h, w]), vec![0, 3, 4, 1, 5, 2]),
        "CRD" => (split(&[outside, b, b, h, w]), vec![0, 1, 4, 2, 5, 3]),
        other => return because(format!("attribute mode = {other:?}")),
    };
    let y = importer.reshape(x, narrow)?;
    let y = transpose(importer, y, order)?;
    importer.reshape(
        y,
        split(&[outside, h.saturating_mul(b), w.saturating_mul(b)]),
    )
}

/// Nearest neighbours at whole factors, where each element is repeated.
fn resize(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    call.ignore("cubic_coeff_a");
    call.ignore("extrapolation_value");
    call.only("antialias", 0)?;
    call.only("exclude_outside", 0)?;
    let x = importer.float(call.arg(0)?)?;
    if call.text("mode", "nearest")? != "nearest" {
        return because("a mode other than nearest");
    }
    if call.text("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return because("a policy other than stretch");
    }
    let place = call.text("coordinate_transformation_mode", "half_pixel")?;
    let nearest = call.text("nearest_mode", "round_prefer_floor")?;
    // With these, element i of the result is element floor(i / factor).
    let repeats_each = match place.as_str() {
        "asymmetric" => nearest == "floor",
        "half_pixel" | "half_pixel_symmetric" => nearest.starts_with("round_prefer"),
        _ => false,
    };
    if !repeats_each {
        return because(format!("coordinates of {place} with {nearest}"));
    }
    let dims = importer.shape(x).dims().to_vec();
    let axes: Vec<usize> = match call.ints("axes")? {
        Some(axes) => axes
            .iter()
            .map(|&axis| axis_of(axis, dims.len()))
            .collect::<Result<_, _>>()?,
        None => (0..dims.len()).collect(),
    };
    let given = |importer: &Importer<'_, '_, '_>, position: usize| match call.optional(position) {
        Some(term) => importer.needs_known(term, "a size").map(Some),
        None => Ok(None),
    };
    let (scales, sizes) = (given(importer, 2)?, given(importer, 3)?);
    let factors: Option<Vec<Size>> = match (scales.filter(|k| k.len() > 0), sizes) {
        (Some(scales), _) => {
            let whole = |x: f64| (x >= 1.0 && x.fract() == 0.0).then_some(Size::Fixed(x as i64));
            scales
                .numbers()
                .unwrap_or_default()
                .into_iter()
                .map(whole)
                .collect()
        }
        (None, Some(sizes)) => whole_factors(&dims, &axes, &sizes),
        _ => None,
    };
    let factors = factors.filter(|factors| factors.len() == axes.len());
    let Some(factors) = factors else {
        return because("factors that aren't whole numbers");
    };
    let mut repeats = vec![Size::Fixed(1); dims.len()];
    for (&axis, factor) in axes.iter().zip(factors) {
        repeats[axis] = factor;
    }
    repeat(importer, x, &repeats, true)
}

fn whole_factors(dims: &[Dim], axes: &[usize], sizes: &Known) -> Option<Vec<Size>> {
    let sizes = sizes.as_sizes()?;
    let factor = |(&axis, &size): (&usize, &Size)| match (Size::of(dims[axis]), size) {
        (Size::Fixed(from), Size::Fixed(to)) | (Size::Batches(from), Size::Batches(to)) => {
            (to % from == 0 && to >= from).then_some(Size::Fixed(to / from))
        }
        _ => None,
    };
    axes.iter().zip(sizes).map(factor).collect()
}
