//! Resizing of images: along each axis a product with a matrix of weights, or for the nearest neighbour
//! picking by index. At whole factors the nearest is a repetition.

use super::Importer;
use super::call::{Call, Refusal, axis_of, because};
use super::layout::{repeat, transpose};
use crate::graph::ValueId;
use crate::onnx::known::{Data, ElementType, FOLDED_ELEMENTS_MAX, Known, Size};
use crate::op::{Binary, Dense, Gather, MatMul};
use crate::shape::Dim;

/// How a position is made of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    /// Keys' cubic convolution with this coefficient.
    Cubic(f64),
}

/// How one axis is resized.
#[derive(Clone, Copy, Debug)]
struct Axis<'t> {
    axis: usize,
    input: usize,
    output: usize,
    scale: f64,
    /// Of the input, both ends as shares of the last position.
    region: [f64; 2],
    place: &'t str,
}

impl Axis<'_> {
    /// The position in the input; `None` outside of the region's image.
    fn position(&self, i: usize) -> Result<Option<f64>, Refusal> {
        let (i, input) = (i as f64, self.input as f64);
        let output = self.scale * input;
        let half = (i + 0.5) / self.scale - 0.5;
        Ok(Some(match self.place {
            "half_pixel" => half,
            "half_pixel_symmetric" => {
                let adjustment = self.output as f64 / output;
                input / 2.0 * (1.0 - adjustment) + half
            }
            "pytorch_half_pixel" if self.output == 1 => 0.0,
            "pytorch_half_pixel" => half,
            "align_corners" if output == 1.0 => 0.0,
            "align_corners" => i * (input - 1.0) / (output - 1.0),
            "asymmetric" => i / self.scale,
            "tf_crop_and_resize" => {
                let [start, end] = self.region.map(|share| share * (input - 1.0));
                let x = match output == 1.0 {
                    true => (start + end) / 2.0,
                    false => start + i * (end - start) / (output - 1.0),
                };
                return Ok((0.0..=input - 1.0).contains(&x).then_some(x));
            }
            other => return because(format!("coordinates of {other}")),
        }))
    }
}

/// The weight of an element that stands so far away.
fn weight(mode: Mode, distance: f64) -> f64 {
    let x = distance.abs();
    match mode {
        Mode::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        Mode::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        Mode::Cubic(_) => 0.0,
        _ => (1.0 - x).max(0.0),
    }
}

/// What the attributes say.
struct Options {
    mode: Mode,
    nearest: String,
    antialias: bool,
    exclude_outside: bool,
    /// Stands where the region sticks out of the image.
    outside: f64,
}

pub(super) fn resize(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let a = call.float("cubic_coeff_a", -0.75)?;
    let options = Options {
        mode: match call.text("mode", "nearest")?.as_str() {
            "nearest" => Mode::Nearest,
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic(a),
            other => return because(format!("attribute mode = {other:?}")),
        },
        nearest: call.text("nearest_mode", "round_prefer_floor")?,
        antialias: call.flag("antialias", false)?,
        exclude_outside: call.flag("exclude_outside", false)?,
        outside: call.float("extrapolation_value", 0.0)?,
    };
    let place = call.text("coordinate_transformation_mode", "half_pixel")?;
    let axes = axes(importer, call, x, &place)?;
    if let Some(repeats) = whole_factors(importer.shape(x).rank(), &axes, &options) {
        return repeat(importer, x, &repeats, true);
    }
    let mut y = x;
    for axis in &axes {
        let same = axis.input == axis.output && axis.scale == 1.0;
        if !same || axis.place == "tf_crop_and_resize" {
            y = one_axis(importer, y, axis, &options)?;
        }
    }
    Ok(y)
}

/// The axes that have a size of their own; those of the batch must keep theirs.
fn axes<'t>(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
    place: &'t str,
) -> Result<Vec<Axis<'t>>, Refusal> {
    let dims = importer.shape(x).dims().to_vec();
    let named: Vec<usize> = match call.ints("axes")? {
        Some(axes) => axes
            .iter()
            .map(|&axis| axis_of(axis, dims.len()))
            .collect::<Result<_, _>>()?,
        None => (0..dims.len()).collect(),
    };
    let given = |position: usize, what: &str| match call.optional(position) {
        Some(term) => Ok(Some(importer.needs_known(term, what)?).filter(|known| known.len() > 0)),
        None => Ok::<_, Refusal>(None),
    };
    let region = match place {
        "tf_crop_and_resize" => given(1, "a region")?.and_then(|known| known.numbers()),
        _ => None,
    };
    let scales = given(2, "factors")?;
    let sizes = given(3, "sizes")?;
    let policy = call.text("keep_aspect_ratio_policy", "stretch")?;
    let count = scales.as_ref().or(sizes.as_ref()).map_or(0, Known::len);
    if count != named.len() || region.as_ref().is_some_and(|r| r.len() != 2 * count) {
        return because("other than a factor or size for each axis");
    }
    let mut axes = Vec::with_capacity(count);
    for (i, &axis) in named.iter().enumerate() {
        let scale = match &scales {
            Some(scales) => scales.numbers().map(|numbers| numbers[i]),
            None => None,
        };
        let size = sizes.as_ref().and_then(|sizes| Some(sizes.as_sizes()?[i]));
        let Some(input) = dims[axis].fixed() else {
            if scale == Some(1.0) || size == Some(Size::of(dims[axis])) {
                continue;
            }
            return because("another number of samples");
        };
        let (output, scale) = match (scale, size) {
            (Some(scale), _) => ((scale * input as f64).floor(), scale),
            (None, Some(Size::Fixed(size))) => (size as f64, size as f64 / input as f64),
            _ => return because("a size that depends on the batch"),
        };
        if !(scale > 0.0 && (1.0..1e9).contains(&output)) {
            return because(format!("a factor of {scale}"));
        }
        axes.push(Axis {
            axis,
            input,
            output: output as usize,
            scale,
            region: region.as_ref().map_or([0.0, 1.0], |r| [r[i], r[i + count]]),
            place,
        });
    }
    let factors = axes.iter().map(|axis| axis.scale);
    let factor = match policy.as_str() {
        "stretch" => return Ok(axes),
        "not_larger" => factors.fold(f64::INFINITY, f64::min),
        "not_smaller" => factors.fold(0.0, f64::max),
        other => return because(format!("attribute keep_aspect_ratio_policy = {other:?}")),
    };
    if scales.is_none() {
        for axis in &mut axes {
            axis.scale = factor;
            axis.output = (factor * axis.input as f64 + 0.5).floor().max(1.0) as usize;
        }
    }
    Ok(axes)
}

/// Element i of the result is element floor(i / factor), at a whole factor.
fn whole_factors(rank: usize, axes: &[Axis<'_>], options: &Options) -> Option<Vec<Size>> {
    let mut repeats = vec![Size::Fixed(1); rank];
    for axis in axes {
        let repeats_each = match axis.place {
            "asymmetric" => options.nearest == "floor",
            "half_pixel" | "half_pixel_symmetric" => options.nearest.starts_with("round_prefer"),
            _ => false,
        };
        let is_whole = axis.scale >= 1.0 && axis.scale.fract() == 0.0;
        if options.mode != Mode::Nearest || !repeats_each || !is_whole {
            return None;
        }
        repeats[axis.axis] = Size::Fixed(axis.scale as i64);
    }
    Some(repeats)
}

fn one_axis(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    axis: &Axis<'_>,
    options: &Options,
) -> Result<ValueId, Refusal> {
    // Of the weights, or of positions alone.
    let is_nearest = options.mode == Mode::Nearest && axis.place != "tf_crop_and_resize";
    let width = if is_nearest { 1 } else { axis.input };
    let elements = axis.output.saturating_mul(width);
    if elements > FOLDED_ELEMENTS_MAX {
        return because(format!(
            "a matrix of more than {FOLDED_ELEMENTS_MAX} weights"
        ));
    }
    importer.spend(elements)?;
    let outside = |rows: &[bool]| -> Vec<f64> {
        let value = |&row: &bool| if row { options.outside } else { 0.0 };
        rows.iter().map(value).collect()
    };
    let mut positions = Vec::with_capacity(axis.output);
    for i in 0..axis.output {
        positions.push(axis.position(i)?);
    }
    let is_outside: Vec<bool> = positions.iter().map(Option::is_none).collect();
    let sticks_out = is_outside.contains(&true);
    if is_nearest {
        let mut index = Vec::with_capacity(axis.output);
        for x in positions.into_iter().flatten() {
            index.push(Size::Fixed(nearest(&options.nearest, x, axis.input)?));
        }
        let index = importer.constant(&Known::sizes(index))?;
        return importer.apply(Gather { axis: axis.axis }, &[x, index]);
    }
    let mut weights = vec![0.0; axis.output * axis.input];
    for (row, x) in weights.chunks_exact_mut(axis.input).zip(&positions) {
        match (x, options.mode) {
            (None, _) => {}
            (Some(x), Mode::Nearest) => {
                row[nearest(&options.nearest, *x, axis.input)? as usize] = 1.0;
            }
            (Some(x), mode) => fill(row, *x, mode, axis.scale, options),
        }
    }
    let shape = vec![axis.output, axis.input];
    let known = Known::new(ElementType::Double, shape, Data::Float(weights));
    let matrix = importer.constant(&known)?;
    let y = along(importer, x, matrix, axis.axis)?;
    if !sticks_out || options.outside == 0.0 {
        return Ok(y);
    }
    let mut shape = vec![axis.output];
    shape.extend(vec![1; importer.shape(y).rank() - 1 - axis.axis]);
    let margin = Known::new(
        ElementType::Double,
        shape,
        Data::Float(outside(&is_outside)),
    );
    let margin = importer.constant(&margin)?;
    importer.apply(Binary::Add, &[y, margin])
}

fn nearest(mode: &str, x: f64, input: usize) -> Result<i64, Refusal> {
    let rounded = match mode {
        "round_prefer_floor" => (x - 0.5).ceil(),
        "round_prefer_ceil" => (x + 0.5).floor(),
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        other => return because(format!("attribute nearest_mode = {other:?}")),
    };
    Ok(rounded.clamp(0.0, input as f64 - 1.0) as i64)
}

/// Weights of the elements around `x`; those beyond an end are the end's.
fn fill(row: &mut [f64], x: f64, mode: Mode, scale: f64, options: &Options) {
    // Antialiasing widens the filter by as much as the image shrinks.
    let narrow = if options.antialias {
        scale.min(1.0)
    } else {
        1.0
    };
    let reach = if mode == Mode::Linear { 1.0 } else { 2.0 } / narrow;
    let last = row.len() as f64 - 1.0;
    let (mut at, mut sum) = ((x - reach).ceil(), 0.0);
    while at <= x + reach {
        let share = weight(mode, (at - x) * narrow);
        if !options.exclude_outside || (0.0..=last).contains(&at) {
            row[at.clamp(0.0, last) as usize] += share;
            sum += share;
        }
        at += 1.0;
    }
    if options.antialias || options.exclude_outside {
        row.iter_mut().for_each(|share| *share /= sum);
    }
}

/// The product of a matrix `[o, i]` with all vectors along an axis of x.
fn along(
    importer: &mut Importer<'_, '_, '_>,
    x: ValueId,
    matrix: ValueId,
    axis: usize,
) -> Result<ValueId, Refusal> {
    let rank = importer.shape(x).rank();
    if axis + 2 == rank {
        return importer.apply(MatMul::default(), &[matrix, x]);
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let dims = importer.shape(x).dims().to_vec();
    let turned = match axis + 1 == rank {
        true => x,
        false => transpose(importer, x, order.clone())?,
    };
    let y = if rank == 1 {
        let row = importer.reshape(
            turned,
            crate::shape::Shape::new(vec![Dim::Fixed(1), dims[0]]),
        )?;
        let y = importer.apply(Dense::Affine, &[row, matrix])?;
        let len = importer.shape(y).dims()[1];
        importer.reshape(y, crate::shape::Shape::new(vec![len]))?
    } else {
        importer.apply(Dense::Affine, &[turned, matrix])?
    };
    match axis + 1 == rank {
        true => Ok(y),
        false => transpose(importer, y, order),
    }
}
