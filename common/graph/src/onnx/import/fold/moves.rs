//! Operators that move known elements, or fill tensors.

use super::arithmetic::{broadcast, multiply, positions};
use super::checked_len;
use crate::onnx::import::call::{Call, Refusal, axes_of, axis_of, because};
use crate::onnx::known::{Data, ElementType, Known, Size};
use crate::op::Slice;
use crate::shape::{Dim, Shape};

pub(super) fn fold(
    call: &Call<'_, '_>,
    args: &[Option<&Known>],
) -> Result<Option<Vec<Known>>, Refusal> {
    let Some(x) = args[0] else { return Ok(None) };
    let second = args.get(1).copied().flatten();
    let known = match call.node.op_type {
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => {
            let dims = reshape_dims(call, &Shape::fixed(&x.shape), second)?;
            match dims.dims().iter().map(|dim| dim.fixed()).collect() {
                Some(shape) => x.reshaped(shape),
                None => return Ok(None),
            }
        }
        "Transpose" => transpose(call, x)?,
        "Slice" => slice(call, x, args)?,
        "Gather" => match second {
            Some(index) => gather(call, x, index)?,
            None => return Ok(None),
        },
        "Concat" => {
            let Some(parts) = args.iter().copied().collect::<Option<Vec<&Known>>>() else {
                return Ok(None);
            };
            concat(call, &parts)?
        }
        "Split" => return split(call, x, second).map(Some),
        "Expand" => {
            let Some(shape) = second.and_then(Known::as_ints) else {
                return Ok(None);
            };
            let shape = broadcast(&x.shape, &sizes(&shape)?)?;
            let positions = positions(&x.shape, &shape)?;
            x.pick(shape, &positions)
        }
        "Tile" => {
            let Some(repeats) = second.and_then(Known::as_ints) else {
                return Ok(None);
            };
            tile(x, &sizes(&repeats)?)?
        }
        "Trilu" => return trilu(call, x, second).map(|known| Some(vec![known])),
        "ConstantOfShape" => {
            let Some(shape) = x.as_ints() else {
                return Ok(None);
            };
            let shape = sizes(&shape)?;
            let zero = Known::new(ElementType::Float, vec![1], Data::Float(vec![0.0]));
            let value = call.tensor("value", None)?.unwrap_or(zero);
            if value.len() != 1 {
                return because("a value that isn't one element");
            }
            let len = checked_len(&shape)?;
            value.pick(shape, &vec![0; len])
        }
        "Range" => range(args)?,
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => {
            // Of shapes only: vectors of sizes to one.
            let (Some(data), [_]) = (x.as_sizes(), x.shape.as_slice()) else {
                return Ok(None);
            };
            if let Some(axes) = second.and_then(Known::as_ints) {
                axes_of(&axes, 1)?;
            }
            call.ignore("noop_with_empty_axes");
            call.ints("axes")?;
            let keep = call.flag("keepdims", true)?;
            let Some(size) = reduced(call.node.op_type, data) else {
                return because("sizes that depend on the batch in another way than its multiples");
            };
            let shape = if keep { vec![1] } else { Vec::new() };
            Known::new(x.elements, shape, Data::Int(vec![size]))
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![known]))
}

fn reduced(op: &str, data: &[Size]) -> Option<Size> {
    if op == "ReduceProd" {
        let mut data = data.iter();
        return data.try_fold(Size::Fixed(1), |product, &size| multiply(product, size));
    }
    let ints: Vec<i64> = data
        .iter()
        .map(|size| size.fixed())
        .collect::<Option<_>>()?;
    Some(Size::Fixed(match op {
        "ReduceSum" => ints.into_iter().try_fold(0i64, i64::checked_add)?,
        "ReduceMax" => ints.into_iter().max()?,
        _ => ints.into_iter().min()?,
    }))
}

fn sizes(ints: &[i64]) -> Result<Vec<usize>, Refusal> {
    let sizes = ints.iter().map(|&n| usize::try_from(n).ok()).collect();
    match sizes {
        Some(sizes) => Ok(sizes),
        None => because(format!("negative sizes {ints:?}")),
    }
}

/// The shape after Reshape, Squeeze, Unsqueeze or Flatten.
pub(in crate::onnx::import) fn reshape_dims(
    call: &Call<'_, '_>,
    from: &Shape,
    second: Option<&Known>,
) -> Result<Shape, Refusal> {
    let dims = from.dims();
    let axes = match second {
        Some(known) => known.as_ints(),
        None => call.ints("axes")?,
    };
    match call.node.op_type {
        "Reshape" => {
            let Some(to) = second.and_then(Known::as_sizes) else {
                return because("a shape that isn't of integers");
            };
            reshape(from, to, call.flag("allowzero", false)?)
        }
        "Squeeze" => {
            let gone = match axes {
                Some(axes) => axes_of(&axes, dims.len())?,
                None => (0..dims.len())
                    .filter(|&i| dims[i] == Dim::Fixed(1))
                    .collect(),
            };
            if gone.iter().any(|&i| dims[i] != Dim::Fixed(1)) {
                return because(format!("dimensions {gone:?} of {from}"));
            }
            let left = dims.iter().enumerate().filter(|(i, _)| !gone.contains(i));
            Ok(Shape::new(left.map(|(_, &dim)| dim).collect()))
        }
        "Unsqueeze" => {
            let axes = axes.unwrap_or_default();
            let rank = dims.len() + axes.len();
            let new = axes_of(&axes, rank)?;
            if new.len() != axes.len() {
                return because(format!("axes {axes:?}"));
            }
            let mut left = dims.iter();
            let dims = (0..rank).map(|i| match new.contains(&i) {
                true => Dim::Fixed(1),
                false => left.next().copied().unwrap_or(Dim::Fixed(1)),
            });
            Ok(Shape::new(dims.collect()))
        }
        _ => {
            let axis = call.int("axis")?.unwrap_or(1);
            let axis = match axis == dims.len() as i64 {
                true => dims.len(),
                false => axis_of(axis, dims.len())?,
            };
            let (before, after) = dims.split_at(axis);
            match (merged(before), merged(after)) {
                (Some(a), Some(b)) => Ok(Shape::new(vec![a, b])),
                _ => because(format!("a flattened shape of {from}")),
            }
        }
    }
}

/// One dimension of several.
pub(in crate::onnx::import) fn merged(dims: &[Dim]) -> Option<Dim> {
    match Shape::new(dims.to_vec()).size()? {
        (count, 0) => Some(Dim::Fixed(count)),
        (count, 1) => Some(Dim::batches(count)),
        _ => None,
    }
}

fn reshape(from: &Shape, to: &[Size], allow_zero: bool) -> Result<Shape, Refusal> {
    let refuse = || Refusal::Because(format!("a reshape of {from} to {to:?}"));
    let mut dims = Vec::with_capacity(to.len());
    let mut rest = None;
    for (i, &size) in to.iter().enumerate() {
        dims.push(match size {
            Size::Fixed(-1) if rest.is_none() => {
                rest = Some(i);
                Dim::Fixed(1)
            }
            Size::Fixed(0) if !allow_zero => *from.dims().get(i).ok_or_else(refuse)?,
            size => size.dim().ok_or_else(refuse)?,
        });
    }
    let (count, power) = from.size().ok_or_else(refuse)?;
    let Some(rest) = rest else {
        let shape = Shape::new(dims);
        return match shape.size() == Some((count, power)) {
            true => Ok(shape),
            false => Err(refuse()),
        };
    };
    let (known, known_power) = Shape::new(dims.clone()).size().ok_or_else(refuse)?;
    if known == 0 || !count.is_multiple_of(known) {
        return Err(refuse());
    }
    dims[rest] = match power.checked_sub(known_power) {
        Some(0) => Dim::Fixed(count / known),
        Some(1) => Dim::batches(count / known),
        _ => return Err(refuse()),
    };
    Ok(Shape::new(dims))
}

/// Row-major steps.
fn steps(shape: &[usize]) -> Vec<usize> {
    let mut steps = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        steps[i - 1] = steps[i] * shape[i];
    }
    steps
}

/// The positions of a tensor of `shape`, whose element at an index stands at `start` and `steps` times
/// the index.
fn strided(shape: &[usize], start: isize, steps: &[isize]) -> Result<Vec<usize>, Refusal> {
    let len = checked_len(shape)?;
    let mut positions = Vec::with_capacity(len);
    let mut index = vec![0usize; shape.len()];
    let mut position = start;
    for _ in 0..len {
        positions.push(position as usize);
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            // A step that no element needs may be of any size; it is taken back.
            position = position.wrapping_add(steps[i]);
            if index[i] < shape[i] {
                break;
            }
            position = position.wrapping_sub(steps[i].wrapping_mul(index[i] as isize));
            index[i] = 0;
        }
    }
    Ok(positions)
}

pub(in crate::onnx::import) fn order(
    call: &Call<'_, '_>,
    rank: usize,
) -> Result<Vec<usize>, Refusal> {
    let Some(order) = call.ints("perm")? else {
        return Ok((0..rank).rev().collect());
    };
    let axes: Vec<usize> = order
        .iter()
        .map(|&axis| axis_of(axis, rank))
        .collect::<Result<_, _>>()?;
    if axes_of(&order, rank)?.len() != rank || axes.len() != rank {
        return because(format!("perm {order:?} of {rank} dimensions"));
    }
    Ok(axes)
}

fn transpose(call: &Call<'_, '_>, x: &Known) -> Result<Known, Refusal> {
    let order = order(call, x.shape.len())?;
    let from = steps(&x.shape);
    let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
    let steps: Vec<isize> = order.iter().map(|&axis| from[axis] as isize).collect();
    let positions = strided(&shape, 0, &steps)?;
    Ok(x.pick(shape, &positions))
}

/// What an ONNX `Slice` takes of an axis.
pub(in crate::onnx::import) enum Part {
    /// Everything.
    Whole,
    /// Some positions.
    Slice(Slice),
    /// Of several batches so many, from one on: the first, and how many.
    Batches([usize; 2]),
}

/// The parts that an ONNX `Slice` takes, one an axis. The arguments from the second on are starts, ends,
/// axes, steps.
pub(in crate::onnx::import) fn slices(
    dims: &[Dim],
    args: &[Option<Known>],
) -> Result<Vec<(usize, Part)>, Refusal> {
    let at = |i: usize| args.get(i).and_then(Option::as_ref);
    let ints = |i: usize| at(i).and_then(Known::as_ints);
    let (Some(starts), Some(ends)) = (
        at(1).and_then(Known::as_sizes),
        at(2).and_then(Known::as_sizes),
    ) else {
        return because("a slice without integers for its ends");
    };
    let axes = ints(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let strides = ints(4).unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), strides.len()] != [starts.len(); 3] {
        return because("starts, ends, axes and steps of different lengths");
    }
    let mut slices = Vec::with_capacity(axes.len());
    for (i, &axis) in axes.iter().enumerate() {
        let axis = axis_of(axis, dims.len())?;
        slices.push((
            axis,
            one_slice(axis, dims[axis], starts[i], ends[i], strides[i])?,
        ));
    }
    Ok(slices)
}

fn one_slice(axis: usize, dim: Dim, start: Size, end: Size, step: i64) -> Result<Part, Refusal> {
    let Some(n) = dim.fixed() else {
        return batches(Size::of(dim), start, end, step);
    };
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    let (Some(start), Some(end)) = (start.fixed(), end.fixed()) else {
        return because("a slice whose ends depend on the batch");
    };
    if step == 0 {
        return because("a slice of step 0");
    }
    let from_start = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
    let (lo, hi) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let start = from_start(start).clamp(lo.max(0), hi.max(0));
    let end = from_start(end).clamp(lo, hi);
    let way = if step > 0 { end - start } else { start - end };
    let len = way.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    if start == 0 && len == n.unsigned_abs() && step == 1 {
        return Ok(Part::Whole);
    }
    Ok(Part::Slice(Slice {
        axis,
        start: start as usize,
        step: step as isize,
        len: len as usize,
    }))
}

/// A slice of a dimension that is a multiple of the batch.
fn batches(all: Size, start: Size, end: Size, step: i64) -> Result<Part, Refusal> {
    let Size::Batches(all) = all else {
        return because("a slice of the batch");
    };
    let end = match end {
        Size::Fixed(end) if end >= i64::from(i32::MAX) => Some(all),
        Size::Fixed(_) => None,
        Size::Batches(end) => Some(end.min(all)),
    };
    let start = match start {
        Size::Fixed(0) => Some(0),
        Size::Fixed(_) => None,
        Size::Batches(start) => Some(start),
    };
    match (start, end) {
        (Some(0), Some(end)) if end == all && step == 1 => Ok(Part::Whole),
        (Some(start), Some(end)) if start < end && step == 1 => {
            Ok(Part::Batches([start as usize, (end - start) as usize]))
        }
        _ => because(
            "single samples of the batch: its size isn't known, and in training it is cut into parts",
        ),
    }
}

fn slice(call: &Call<'_, '_>, x: &Known, args: &[Option<&Known>]) -> Result<Known, Refusal> {
    let _ = call;
    let dims = Shape::fixed(&x.shape);
    let args: Vec<Option<Known>> = args.iter().map(|arg| arg.cloned()).collect();
    let mut shape = x.shape.clone();
    let mut strides: Vec<isize> = steps(&x.shape).iter().map(|&step| step as isize).collect();
    let mut start = 0;
    for (axis, slice) in slices(dims.dims(), &args)? {
        if let Part::Slice(slice) = slice {
            shape[axis] = slice.len;
            start += strides[axis] * slice.start as isize;
            // An axis of one element has no steps.
            strides[axis] = strides[axis].saturating_mul(slice.step);
        }
    }
    let positions = strided(&shape, start, &strides)?;
    Ok(x.pick(shape, &positions))
}

fn gather(call: &Call<'_, '_>, x: &Known, index: &Known) -> Result<Known, Refusal> {
    let axis = axis_of(call.int("axis")?.unwrap_or(0), x.shape.len())?;
    let Some(index_ints) = index.as_ints() else {
        return because("indices that aren't fixed integers");
    };
    let n = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let mut shape = x.shape.clone();
    shape.splice(axis..=axis, index.shape.iter().copied());
    let mut positions = Vec::with_capacity(checked_len(&shape)?);
    for o in 0..outer {
        for &i in &index_ints {
            let at = axis_of(i, n)?;
            let first = (o * n + at) * inner;
            positions.extend(first..first + inner);
        }
    }
    Ok(x.pick(shape, &positions))
}

fn concat(call: &Call<'_, '_>, parts: &[&Known]) -> Result<Known, Refusal> {
    let first = parts[0];
    let axis = axis_of(call.int("axis")?.unwrap_or(0), first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    for part in parts {
        let mut like = part.shape.clone();
        if like.len() != shape.len() {
            return because("parts of different ranks");
        }
        let len = std::mem::replace(&mut like[axis], shape[axis]);
        if like != shape {
            return because("parts of different shapes");
        }
        shape[axis] = shape[axis].saturating_add(len);
    }
    checked_len(&shape)?;
    let outer: usize = shape[..axis].iter().product();
    fn join<'k, T: Copy + 'k>(
        parts: &[&'k Known],
        outer: usize,
        of: impl Fn(&'k Data) -> Option<&'k [T]>,
    ) -> Option<Vec<T>> {
        let slices: Vec<&[T]> = parts.iter().map(|p| of(&p.data)).collect::<Option<_>>()?;
        let mut all = Vec::new();
        for o in 0..outer {
            for slice in &slices {
                let len = slice.len() / outer;
                all.extend_from_slice(&slice[o * len..(o + 1) * len]);
            }
        }
        Some(all)
    }
    let data = match &first.data {
        Data::Float(_) => join(parts, outer, |data| match data {
            Data::Float(data) => Some(data.as_slice()),
            _ => None,
        })
        .map(Data::Float),
        Data::Int(_) => join(parts, outer, |data| match data {
            Data::Int(data) => Some(data.as_slice()),
            _ => None,
        })
        .map(Data::Int),
        Data::Bool(_) => join(parts, outer, |data| match data {
            Data::Bool(data) => Some(data.as_slice()),
            _ => None,
        })
        .map(Data::Bool),
    };
    match data {
        Some(data) => Ok(Known::new(first.elements, shape, data)),
        None => because("parts of different types"),
    }
}

/// The lengths of the parts of a `Split` of a dimension of `n` elements.
pub(in crate::onnx::import) fn parts(
    call: &Call<'_, '_>,
    n: usize,
    given: Option<Vec<i64>>,
) -> Result<Vec<usize>, Refusal> {
    let count = match call.int("num_outputs")? {
        Some(count) => usize::try_from(count).unwrap_or(0),
        None => call.node.outputs.len(),
    };
    let lens = match given {
        Some(lens) => sizes(&lens)?,
        None if count == 0 || count > call.node.outputs.len() => {
            return because(format!("a split into {count} parts"));
        }
        None => {
            // Equal parts; the last may be smaller.
            let len = n.div_ceil(count);
            let part = |i: usize| n.saturating_sub(i.saturating_mul(len)).min(len);
            (0..count).map(part).collect()
        }
    };
    if lens
        .iter()
        .try_fold(0usize, |sum, &len| sum.checked_add(len))
        != Some(n)
    {
        return because(format!("parts {lens:?} of {n}"));
    }
    Ok(lens)
}

fn split(call: &Call<'_, '_>, x: &Known, lens: Option<&Known>) -> Result<Vec<Known>, Refusal> {
    let axis = axis_of(call.int("axis")?.unwrap_or(0), x.shape.len())?;
    let lens = parts(call, x.shape[axis], lens.and_then(Known::as_ints))?;
    let steps = steps(&x.shape);
    let strides: Vec<isize> = steps.iter().map(|&step| step as isize).collect();
    let mut start = 0;
    let mut parts = Vec::with_capacity(lens.len());
    for len in lens {
        let mut shape = x.shape.clone();
        shape[axis] = len;
        let positions = strided(&shape, (start * steps[axis]) as isize, &strides)?;
        parts.push(x.pick(shape, &positions));
        start += len;
    }
    Ok(parts)
}

fn tile(x: &Known, repeats: &[usize]) -> Result<Known, Refusal> {
    if repeats.len() != x.shape.len() {
        return because("as many repeats as dimensions are needed");
    }
    // [a, b] as [1, a, 1, b], stretched to [r, a, s, b].
    let mut narrow = Vec::new();
    let mut wide = Vec::new();
    let mut shape = Vec::new();
    for (&dim, &repeat) in x.shape.iter().zip(repeats) {
        narrow.extend([1, dim]);
        wide.extend([repeat, dim]);
        shape.push(dim.saturating_mul(repeat));
    }
    checked_len(&shape)?;
    let positions = positions(&narrow, &wide)?;
    Ok(x.pick(shape, &positions))
}

fn trilu(call: &Call<'_, '_>, x: &Known, k: Option<&Known>) -> Result<Known, Refusal> {
    let upper = call.flag("upper", true)?;
    let k = k.and_then(Known::number).unwrap_or(0.0) as i64;
    let &[.., rows, columns] = x.shape.as_slice() else {
        return because("a triangle of less than 2 dimensions");
    };
    let keeps = |i: usize| {
        let row = (i / columns.max(1) % rows.max(1)) as i64;
        let distance = (i % columns.max(1)) as i64 - row;
        if upper { distance >= k } else { distance <= k }
    };
    let mut known = x.clone();
    match &mut known.data {
        Data::Float(data) => fill(data, keeps, 0.0),
        Data::Int(data) => fill(data, keeps, Size::Fixed(0)),
        Data::Bool(data) => fill(data, keeps, false),
    }
    Ok(known)
}

fn fill<T: Copy>(data: &mut [T], keeps: impl Fn(usize) -> bool, zero: T) {
    let cut = data.iter_mut().enumerate().filter(|(i, _)| !keeps(*i));
    cut.for_each(|(_, x)| *x = zero);
}

fn range(args: &[Option<&Known>]) -> Result<Known, Refusal> {
    let [Some(start), Some(limit), Some(delta)] = *args else {
        return because("a range without its ends");
    };
    let (Some(a), Some(b), Some(d)) = (start.number(), limit.number(), delta.number()) else {
        return because("a range whose ends depend on the batch");
    };
    let len = ((b - a) / d).ceil().max(0.0);
    if len.is_nan() {
        return because("a range of step 0");
    }
    let len = checked_len(&[len as usize])?;
    let numbers = (0..len).map(|i| a + i as f64 * d);
    let data = match start.elements.is_float() {
        true => Data::Float(numbers.collect()),
        false => Data::Int(numbers.map(|x| Size::Fixed(x as i64)).collect()),
    };
    Ok(Known::new(start.elements, vec![len], data))
}
