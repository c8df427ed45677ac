//! Operators that move elements.

use super::Importer;
use super::call::{Call, Refusal, Term, axis_of, because};
use super::elementwise::{back, number, through_floats};
use super::fold::{Part, merged, order, parts, reshape_dims, slices};
use super::resize::resize;
use crate::graph::ValueId;
use crate::onnx::known::Size;
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
        "CenterCropPad" => centre(importer, call)?,
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
    let y = match of_batches(importer, &operands, axis)? {
        Some(y) => y,
        None => importer.apply(Concat { axis }, &operands)?,
    };
    back(importer, y, dtype)
}

/// How many times the batch a dimension is; `None` if it doesn't depend on it.
fn batches(dim: Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(_) => None,
        Dim::Batch => Some(1),
        Dim::BatchTimes(times) => Some(times),
    }
}

/// `[times · batch]` along an axis as `[times, batch]`, or back.
fn with_batches(dims: &[Dim], axis: usize, times: usize, apart: bool) -> Shape {
    let mut dims = dims.to_vec();
    dims[axis] = Dim::batches(times);
    if apart {
        dims[axis] = Dim::Batch;
        dims.insert(axis, Dim::Fixed(times));
    }
    Shape::new(dims)
}

/// Operands one after another along the batch: whole batches follow each other.
fn of_batches(
    importer: &mut Importer<'_, '_, '_>,
    operands: &[ValueId],
    axis: usize,
) -> Result<Option<ValueId>, Refusal> {
    let along = |x: &ValueId| importer.shape(*x).dims().get(axis).copied();
    let times: Vec<Option<usize>> = operands
        .iter()
        .map(|x| along(x).and_then(batches))
        .collect();
    if times.iter().all(Option::is_none) {
        return Ok(None);
    }
    let Some(times) = times.into_iter().collect::<Option<Vec<usize>>>() else {
        return because(
            "samples beside the batch: its size isn't known, and in training it is cut into parts",
        );
    };
    let mut parts = Vec::with_capacity(operands.len());
    for (&x, &times) in operands.iter().zip(&times) {
        let shape = with_batches(importer.shape(x).dims(), axis, times, true);
        parts.push(importer.reshape(x, shape)?);
    }
    let y = importer.apply(Concat { axis }, &parts)?;
    let sum = times.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
    let shape = with_batches(importer.shape(operands[0]).dims(), axis, sum, false);
    importer.reshape(y, shape).map(Some)
}

/// `len` batches of a dimension of several, from batch `start` on.
fn some_batches(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    axis: usize,
    [start, len]: [usize; 2],
) -> Result<ValueId, Refusal> {
    let dims = importer.shape(x).dims().to_vec();
    let Some(times) = batches(dims[axis]).filter(|&times| start + len <= times && len > 0) else {
        return because("batches outside of the dimension");
    };
    if len == times {
        return Ok(x);
    }
    let apart = importer.reshape(x, with_batches(&dims, axis, times, true))?;
    let slice = Slice {
        axis,
        start,
        step: 1,
        len,
    };
    let y = importer.apply(slice, &[apart])?;
    importer.reshape(y, with_batches(&dims, axis, len, false))
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
    for (axis, slice) in slices(&dims, &args)? {
        y = match slice {
            Part::Whole => y,
            Part::Slice(slice) => importer.apply(slice, &[y])?,
            Part::Batches(range) => some_batches(importer, y, axis, range)?,
        };
    }
    Ok(y)
}

fn split(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Vec<Term>, Refusal> {
    let (x, dtype) = through_floats(importer, call.arg(0)?)?;
    let dims = importer.shape(x).dims().to_vec();
    let axis = axis_of(call.int("axis")?.unwrap_or(0), dims.len())?;
    let Some(n) = dims[axis].fixed() else {
        let terms = split_batches(importer, call, x, axis)?;
        let terms = terms.into_iter().map(|y| back(importer, y, dtype));
        return terms.map(|y| Ok(Term::Value(y?))).collect();
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

fn total(lens: &[usize]) -> Option<usize> {
    lens.iter()
        .try_fold(0usize, |sum, &len| sum.checked_add(len))
}

/// A split of a dimension of several batches into whole ones.
fn split_batches(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
    axis: usize,
) -> Result<Vec<ValueId>, Refusal> {
    let times = batches(importer.shape(x).dims()[axis]).unwrap_or(1);
    let lens = match call.optional(1) {
        Some(term) => {
            let known = importer.needs_known(term, "the lengths of parts")?;
            let whole = |size: &Size| match *size {
                Size::Batches(n) => usize::try_from(n).ok(),
                Size::Fixed(_) => None,
            };
            known
                .as_sizes()
                .unwrap_or_default()
                .iter()
                .map(whole)
                .collect()
        }
        None => {
            let count = call.node.outputs.len().max(1);
            call.ignore("num_outputs");
            times
                .is_multiple_of(count)
                .then(|| vec![times / count; count])
        }
    };
    let Some(lens) = lens.filter(|lens: &Vec<usize>| total(lens) == Some(times)) else {
        return because("a split of the batch other than into whole batches");
    };
    let mut start = 0;
    let mut parts = Vec::with_capacity(lens.len());
    for len in lens {
        parts.push(some_batches(importer, x, axis, [start, len])?);
        start += len;
    }
    Ok(parts)
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
pub(super) fn repeat(
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
    let (x, dtype) = through_floats(importer, call.arg(0)?)?;
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
    back(importer, y, dtype)
}

/// The middle of each axis, or the axis in the middle of zeros.
fn centre(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let sizes = importer.needs_ints(call.arg(1)?, "a shape")?;
    let rank = importer.shape(x).rank();
    let axes: Vec<usize> = match call.ints("axes")? {
        Some(axes) => axes
            .iter()
            .map(|&axis| axis_of(axis, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if axes.len() != sizes.len() {
        return because(format!("{} sizes for {} axes", sizes.len(), axes.len()));
    }
    let mut y = x;
    for (&axis, &size) in axes.iter().zip(&sizes) {
        let Some(n) = importer.shape(x).dims()[axis].fixed() else {
            return because("a margin of the batch");
        };
        let more = size.saturating_sub(n as i64);
        // The smaller half comes first, of a cut as of a margin.
        let before = more / 2;
        let margins = [before, more - before];
        y = pad_axis(importer, y, axis, margins, Margin::Constant(0.0))?;
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
