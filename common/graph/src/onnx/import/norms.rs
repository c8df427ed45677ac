//! Normalisations and softmax.

use super::call::{Call, Refusal, Term, axes_of, axis_of, because};
use super::fold::merged;
use super::layout::stretch;
use super::{Importer, Made, TensorKind, known};
use crate::graph::{Origin, StateId, ValueId};
use crate::op::{
    Binary, Norm, NormOver, Pool, Pooling, Reduce, Reduction, Softmax, Unary, Windows,
};
use crate::shape::{Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let terms = match call.node.op_type {
        "BatchNormalization" => batch(importer, call)?,
        "LayerNormalization" => layer(importer, call)?,
        "RMSNormalization" => rms(importer, call)?,
        "GroupNormalization" => group(importer, call)?,
        "InstanceNormalization" => {
            let x = importer.float(call.arg(0)?)?;
            let Some(Dim::Fixed(groups)) = importer.shape(x).dims().get(1).copied() else {
                return because("channels that aren't known");
            };
            grouped(importer, call, x, groups)?
        }
        "MeanVarianceNormalization" => vec![whitened(importer, call)?],
        "LRN" => vec![local_response(importer, call)?],
        "LpNormalization" => {
            let x = importer.float(call.arg(0)?)?;
            let axis = axis_of(call.int("axis")?.unwrap_or(-1), importer.shape(x).rank())?;
            let reduction = match call.int("p")?.unwrap_or(2) {
                1 => Reduction::L1,
                2 => Reduction::L2,
                p => return because(format!("attribute p = {p}")),
            };
            let reduce = Reduce {
                reduction,
                axes: vec![axis],
                keep: true,
            };
            let size = importer.apply(reduce, &[x])?;
            // Zeros stay zeros.
            let floor = Unary::Clip {
                min: f64::from(f32::MIN_POSITIVE),
                max: f64::INFINITY,
            };
            let size = importer.apply(floor, &[size])?;
            vec![importer.apply(Binary::Div, &[x, size])?]
        }
        "Softmax" | "LogSoftmax" => {
            let x = importer.float(call.arg(0)?)?;
            let axis = axis_of(call.int("axis")?.unwrap_or(-1), importer.shape(x).rank())?;
            let softmax = match call.node.op_type {
                "Softmax" => Softmax::Plain { axis },
                _ => Softmax::Log { axis },
            };
            vec![importer.apply(softmax, &[x])?]
        }
        _ => return Ok(None),
    };
    Ok(Some(terms.into_iter().map(Term::Value).collect()))
}

/// Without the mean and with a variance of 1 over some axes.
fn whitened(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let axes = call.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let mean = Reduce {
        reduction: Reduction::Mean,
        axes: axes_of(&axes, importer.shape(x).rank())?,
        keep: true,
    };
    let middle = importer.apply(mean.clone(), &[x])?;
    let centred = importer.apply(Binary::Sub, &[x, middle])?;
    let square = importer.apply(Binary::Mul, &[centred, centred])?;
    let variance = importer.apply(mean, &[square])?;
    let deviation = importer.apply(Unary::Sqrt, &[variance])?;
    let eps = importer.scalar(1e-9)?;
    let below = importer.apply(Binary::Add, &[deviation, eps])?;
    importer.apply(Binary::Div, &[centred, below])
}

/// `x / (bias + alpha · mean of x² over adjacent channels)^beta` (Krizhevsky et al., 2012, 3.3).
fn local_response(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<ValueId, Refusal> {
    let (alpha, beta) = (call.float("alpha", 1e-4)?, call.float("beta", 0.75)?);
    let bias = importer.scalar(call.float("bias", 1.0)?)?;
    let size = call
        .int("size")?
        .and_then(|size| usize::try_from(size).ok());
    let x = importer.float(call.arg(0)?)?;
    let whole = importer.shape(x).clone();
    let (Some(size @ 1..), Some((&n, [channels, pixels @ ..]))) =
        (size, whole.dims().split_first())
    else {
        return because("a size of less than 1, or no channels");
    };
    let Some(pixels) = merged(pixels) else {
        return because("an image of a size that isn't known");
    };
    // Channels as the height of an image of one channel.
    let square = importer.apply(Binary::Mul, &[x, x])?;
    let image = Shape::new(vec![n, Dim::Fixed(1), *channels, pixels]);
    let square = importer.reshape(square, image)?;
    let pool = Pool {
        pooling: Pooling::Average { count_margin: true },
        kernel: [size, 1],
        windows: Windows {
            before: [(size - 1) / 2, 0],
            after: [size / 2, 0],
            ..Windows::default()
        },
        ceil: false,
    };
    let mean = importer.apply(pool, &[square])?;
    let mean = importer.reshape(mean, whole)?;
    let scaled = importer.apply(Unary::Scale { factor: alpha }, &[mean])?;
    let sum = importer.apply(Binary::Add, &[scaled, bias])?;
    let beta = importer.scalar(beta)?;
    let below = importer.apply(Binary::Pow, &[sum, beta])?;
    importer.apply(Binary::Div, &[x, below])
}

/// Running statistics: a state if the model has their values.
fn statistics(
    importer: &mut Importer<'_, '_, '_>,
    term: &Term,
) -> Result<(ValueId, Option<StateId>), Refusal> {
    let Term::Weight(i) = *term else {
        return Ok((importer.value(term)?, None));
    };
    if let Made::Value(value) = importer.made[i] {
        return match importer.graph.value(value).origin {
            Origin::State(_) => because("running statistics that another node has too"),
            _ => Ok((value, None)),
        };
    }
    let tensor = &importer.source.initializers[i];
    let decoded = known::decode(tensor, importer.options.resolver)?;
    let name = importer.parameter_names.take(tensor.name);
    let shape = Shape::fixed(&decoded.shape);
    let (id, value) = importer.graph.add_state(&name, shape, 0.0)?;
    importer.keep(name, tensor.name, TensorKind::State, decoded);
    importer.made[i] = Made::Value(value);
    Ok((value, Some(id)))
}

fn batch(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Vec<ValueId>, Refusal> {
    let eps = call.float("epsilon", 1e-5)?;
    let keeps = call.float("momentum", 0.9)?;
    let training = call.flag("training_mode", false)?;
    let x = importer.float(call.arg(0)?)?;
    let (w, b) = (importer.value(call.arg(1)?)?, importer.value(call.arg(2)?)?);
    let (mean, mean_state) = statistics(importer, call.arg(3)?)?;
    let (variance, variance_state) = statistics(importer, call.arg(4)?)?;
    let operands = [x, w, b, mean, variance];
    let (Some(mean_state), Some(variance_state)) = (mean_state, variance_state) else {
        if training {
            return because("training with running statistics that aren't initializers");
        }
        let over = NormOver::Running;
        let norm = importer.graph.apply_all(Norm { over, eps }, &operands)?;
        return Ok(vec![norm[0]]);
    };
    // Digits of 1 - 0.9 that no one meant.
    let momentum = ((1.0 - keeps) * 1e12).round() / 1e12;
    let over = NormOver::Batch { momentum };
    let results = importer.graph.apply_all(Norm { over, eps }, &operands)?;
    importer.graph.add_update(mean_state, results[3])?;
    importer.graph.add_update(variance_state, results[4])?;
    Ok(vec![results[0], results[3], results[4]])
}

/// An operand of the shape that the normalised dimensions have; zeros if it isn't given.
fn affine(
    importer: &mut Importer<'_, '_, '_>,
    term: Option<&Term>,
    shape: &Shape,
) -> Result<ValueId, Refusal> {
    let value = match term {
        Some(term) => importer.value(term)?,
        None => importer.scalar(0.0)?,
    };
    stretch(importer, value, shape)
}

/// The first normalised dimension, and the shape from it on.
fn normalised(
    importer: &Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
) -> Result<(usize, Shape), Refusal> {
    call.ignore("stash_type");
    let dims = importer.shape(x).dims();
    let axis = axis_of(call.int("axis")?.unwrap_or(-1), dims.len())?;
    Ok((axis, Shape::new(dims[axis..].to_vec())))
}

/// Statistics of rows with 1 in place of what was normalised.
fn kept(
    importer: &mut Importer<'_, '_, '_>,
    rows: ValueId,
    normalised: usize,
) -> Result<ValueId, Refusal> {
    let mut dims = importer.shape(rows).dims().to_vec();
    dims.extend(vec![Dim::Fixed(1); normalised]);
    importer.reshape(rows, Shape::new(dims))
}

fn layer(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Vec<ValueId>, Refusal> {
    let eps = call.float("epsilon", 1e-5)?;
    let x = importer.float(call.arg(0)?)?;
    let (axis, shape) = normalised(importer, call, x)?;
    let w = affine(importer, Some(call.arg(1)?), &shape)?;
    let b = affine(importer, call.optional(2), &shape)?;
    let over = NormOver::Layer { axis };
    let results = importer.graph.apply_all(Norm { over, eps }, &[x, w, b])?;
    if !call.wants(1) && !call.wants(2) {
        return Ok(vec![results[0]]);
    }
    let mean = kept(importer, results[1], shape.rank())?;
    let rstd = kept(importer, results[2], shape.rank())?;
    Ok(vec![results[0], mean, rstd])
}

fn rms(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Vec<ValueId>, Refusal> {
    let eps = call.float("epsilon", 1e-5)?;
    let x = importer.float(call.arg(0)?)?;
    let (axis, shape) = normalised(importer, call, x)?;
    let w = affine(importer, Some(call.arg(1)?), &shape)?;
    let over = NormOver::Rms { axis };
    let results = importer.graph.apply_all(Norm { over, eps }, &[x, w])?;
    Ok(vec![results[0]])
}

fn group(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Vec<ValueId>, Refusal> {
    call.ignore("stash_type");
    let x = importer.float(call.arg(0)?)?;
    let groups = call.int("num_groups")?.unwrap_or(0);
    match usize::try_from(groups) {
        Ok(groups) => grouped(importer, call, x, groups),
        Err(_) => because(format!("attribute num_groups = {groups}")),
    }
}

/// A weight or bias of a normalisation. Exporters write group normalisation and instance normalisation
/// without weights as one with ones and zeros: these are constants.
fn weight(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    term: &Term,
) -> Result<ValueId, Refusal> {
    let Term::Weight(i) = *term else {
        return importer.value(term);
    };
    let name = importer.source.initializers[i].name;
    let is_new = matches!(importer.made[i], Made::Nothing);
    if is_new
        && call.node.op_type == "InstanceNormalization"
        && !importer.is_called_parameter(name)
        && let Some(known) = importer.known(term)?
        && let Some(numbers) = known.numbers()
        && (numbers.iter().all(|&x| x == 1.0) || numbers.iter().all(|&x| x == 0.0))
    {
        importer.notice(name, "of an instance normalisation without weights");
        let value = importer.constant(&known)?;
        importer.made[i] = Made::Value(value);
        return Ok(value);
    }
    importer.value(term)
}

fn grouped(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
    groups: usize,
) -> Result<Vec<ValueId>, Refusal> {
    let eps = call.float("epsilon", 1e-5)?;
    let channels = match importer.shape(x).dims().get(1) {
        Some(Dim::Fixed(channels)) if groups > 0 && channels.is_multiple_of(groups) => *channels,
        _ => return because(format!("{groups} groups of these channels")),
    };
    let mut operands = vec![x];
    for position in [1, 2] {
        let value = weight(importer, call, call.arg(position)?)?;
        // Before opset 21 there is one number a group.
        let by_group = call.node.op_type == "GroupNormalization" && call.opset < 21;
        operands.push(if by_group {
            let column = importer.reshape(value, Shape::fixed(&[groups, 1]))?;
            let all = stretch(
                importer,
                column,
                &Shape::fixed(&[groups, channels / groups]),
            )?;
            importer.reshape(all, Shape::fixed(&[channels]))?
        } else {
            value
        });
    }
    let over = NormOver::Group { groups };
    let results = importer.graph.apply_all(Norm { over, eps }, &operands)?;
    Ok(vec![results[0]])
}
