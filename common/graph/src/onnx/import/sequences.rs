//! Recurrent layers.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::layout::{stretch, transpose};
use crate::graph::ValueId;
use crate::op::{Cell, Concat, Recurrent, Slice};
use crate::shape::{Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let values = match call.node.op_type {
        "LSTM" => recurrent(importer, call, Cell::Lstm)?,
        "GRU" if call.flag("linear_before_reset", false)? => recurrent(importer, call, Cell::Gru)?,
        "GRU" => recurrent(importer, call, Cell::GruResetFirst)?,
        _ => return Ok(None),
    };
    Ok(Some(values.into_iter().map(Term::Value).collect()))
}

/// `x` from `start`, `len` elements of a dimension.
pub(super) fn part(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    axis: usize,
    start: usize,
    len: usize,
) -> Result<ValueId, Refusal> {
    if importer.shape(x).dims().get(axis) == Some(&Dim::Fixed(len)) && start == 0 {
        return Ok(x);
    }
    let slice = Slice {
        axis,
        start,
        step: 1,
        len,
    };
    importer.apply(slice, &[x])
}

/// The part of one direction, without that dimension.
fn direction(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    direction: usize,
) -> Result<ValueId, Refusal> {
    let y = part(importer, x, 0, direction, 1)?;
    let dims = importer.shape(y).dims()[1..].to_vec();
    importer.reshape(y, Shape::new(dims))
}

/// Rows of gates in the order of the graph's operator. ONNX has i, o, f, c and z, r, h; PyTorch and
/// the graph i, f, g, o and r, z, n.
fn gates(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    cell: Cell,
    hidden: usize,
) -> Result<ValueId, Refusal> {
    let order: &[usize] = match cell {
        Cell::Lstm => &[0, 2, 3, 1],
        Cell::Gru | Cell::GruResetFirst => &[1, 0, 2],
    };
    let mut parts = Vec::with_capacity(order.len());
    for &gate in order {
        parts.push(part(importer, x, 0, gate.saturating_mul(hidden), hidden)?);
    }
    importer.apply(Concat { axis: 0 }, &parts)
}

/// What a layer is, but for its weights.
struct Layer {
    cell: Cell,
    /// x and y are `[n, t, ..]`, not `[t, n, ..]`.
    batch_first: bool,
    hidden: usize,
    /// `[n, h]`.
    state: Shape,
    /// x and the weights, biases and states that are given.
    x: ValueId,
    weights: [ValueId; 2],
    bias: Option<ValueId>,
    initial: [Option<ValueId>; 2],
}

/// Checks attributes; returns the number of directions.
fn check(call: &Call<'_, '_>, cell: Cell) -> Result<usize, Refusal> {
    call.only("input_forget", 0)?;
    call.ignore("hidden_size");
    call.ignore("output_sequence");
    if call.optional(7).is_some() {
        return because("peepholes");
    }
    let usual: &[&str] = match cell {
        Cell::Lstm => &["sigmoid", "tanh", "tanh"],
        Cell::Gru | Cell::GruResetFirst => &["sigmoid", "tanh"],
    };
    if let Some(given) = call.texts("activations")? {
        let is_usual = |(given, &usual): (&String, &&str)| given.eq_ignore_ascii_case(usual);
        if !given.iter().zip(usual.iter().cycle()).all(is_usual) {
            return because("activations other than sigmoid and tanh");
        }
    }
    match call.text("direction", "forward")?.as_str() {
        "forward" | "reverse" => Ok(1),
        "bidirectional" => Ok(2),
        other => because(format!("attribute direction = {other:?}")),
    }
}

/// Refuses sequences of different lengths: all must be as long as x.
fn check_lengths(
    importer: &Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
    batch_first: bool,
) -> Result<(), Refusal> {
    let Some(term) = call.optional(4) else {
        return Ok(());
    };
    let lengths = importer.needs_ints(term, "lengths of sequences")?;
    let time = importer.shape(x).dims().get(usize::from(batch_first));
    let time = time.and_then(|dim| dim.fixed());
    let whole = |&len: &i64| usize::try_from(len).ok() == time;
    match lengths.iter().all(whole) {
        true => Ok(()),
        false => because("sequences of different lengths"),
    }
}

fn recurrent(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    cell: Cell,
) -> Result<Vec<ValueId>, Refusal> {
    let directions = check(call, cell)?;
    let batch_first = call.flag("layout", false)?;
    let x = importer.float(call.arg(0)?)?;
    check_lengths(importer, call, x, batch_first)?;
    let weights = [importer.value(call.arg(1)?)?, importer.value(call.arg(2)?)?];
    let mut optional = |position: usize| match call.optional(position) {
        Some(term) => importer.value(term).map(Some),
        None => Ok(None),
    };
    let (bias, h, c) = (optional(3)?, optional(5)?, optional(6)?);
    let (&[t, n, _], &[Dim::Fixed(given), _, Dim::Fixed(hidden)]) =
        (importer.shape(x).dims(), importer.shape(weights[1]).dims())
    else {
        return because("a sequence or weights of other than 3 dimensions");
    };
    let batch = if batch_first { t } else { n };
    if given != directions {
        return because(format!("weights of {given} directions for {directions}"));
    }
    // States of a batch first are [n, directions, h].
    let mut turned = |state: Option<ValueId>| match state {
        Some(state) if batch_first => transpose(importer, state, vec![1, 0, 2]).map(Some),
        state => Ok(state),
    };
    let (h, c) = (turned(h)?, turned(c)?);
    let layer = Layer {
        cell,
        batch_first,
        hidden,
        state: Shape::new(vec![batch, Dim::Fixed(hidden)]),
        x,
        weights,
        bias,
        initial: [h, c],
    };
    let only_reverse = call.text("direction", "forward")? == "reverse";
    let mut results: Vec<Vec<ValueId>> = vec![Vec::new(); 1 + cell.states()];
    for i in 0..directions {
        let reverse = only_reverse || i == 1;
        for (all, one) in results
            .iter_mut()
            .zip(one_way(importer, &layer, i, reverse)?)
        {
            all.push(one);
        }
    }
    // y of [t, n, h] becomes [t, 1, n, h], states of [n, h] become [1, n, h]; with the batch first
    // [n, t, 1, h] and [n, 1, h].
    let mut joined = Vec::with_capacity(results.len());
    for (result, parts) in results.into_iter().enumerate() {
        let axis = usize::from(result == 0) + usize::from(batch_first);
        let mut columns = Vec::with_capacity(parts.len());
        for part in parts {
            let mut dims = importer.shape(part).dims().to_vec();
            dims.insert(axis, Dim::Fixed(1));
            columns.push(importer.reshape(part, Shape::new(dims))?);
        }
        joined.push(match columns.as_slice() {
            &[one] => one,
            columns => importer.apply(Concat { axis }, columns)?,
        });
    }
    Ok(joined)
}

/// One direction's y and last states.
fn one_way(
    importer: &mut Importer<'_, '_, '_>,
    layer: &Layer,
    way: usize,
    reverse: bool,
) -> Result<Vec<ValueId>, Refusal> {
    let (cell, hidden) = (layer.cell, layer.hidden);
    let rows = cell.gates().saturating_mul(hidden);
    let mut operands = vec![layer.x];
    for weight in layer.weights {
        let weight = direction(importer, weight, way)?;
        operands.push(gates(importer, weight, cell, hidden)?);
    }
    let bias = match layer.bias {
        Some(bias) => Some(direction(importer, bias, way)?),
        None => None,
    };
    for half in 0..2 {
        operands.push(match bias {
            Some(bias) => {
                let bias = part(importer, bias, 0, rows.saturating_mul(half), rows)?;
                gates(importer, bias, cell, hidden)?
            }
            None => zeros(importer, &Shape::fixed(&[rows]))?,
        });
    }
    for initial in layer.initial.iter().take(cell.states()) {
        operands.push(match *initial {
            Some(initial) => direction(importer, initial, way)?,
            None => zeros(importer, &layer.state)?,
        });
    }
    let op = Recurrent {
        cell,
        time_first: !layer.batch_first,
        reverse,
    };
    let mut results = importer.graph.apply_all(op, &operands)?;
    results.truncate(1 + cell.states());
    Ok(results)
}

fn zeros(importer: &mut Importer<'_, '_, '_>, shape: &Shape) -> Result<ValueId, Refusal> {
    let zero = importer.scalar(0.0)?;
    stretch(importer, zero, shape)
}
