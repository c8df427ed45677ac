//! Convolutions and pooling over one or two dimensions. One dimension is an image of height 1.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use crate::graph::ValueId;
use crate::op::{Binary, Conv, ConvPart, Pool, Pooling, Reduce, Reduction, Unary, Windows};
use crate::shape::{Dim, Shape};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let value = match call.node.op_type {
        "Conv" => conv(importer, call)?,
        "ConvTranspose" => conv_transpose(importer, call)?,
        "MaxPool" => {
            call.only("storage_order", 0)?;
            if call.wants(1) {
                return because("the positions of the maxima as an output");
            }
            pool(importer, call, Pooling::Max)?
        }
        "AveragePool" => {
            let count_margin = call.flag("count_include_pad", false)?;
            pool(importer, call, Pooling::Average { count_margin })?
        }
        "LpPool" => lp_pool(importer, call)?,
        "GlobalLpPool" if call.int("p")?.unwrap_or(2) == 2 => {
            global(importer, call, Reduction::L2)?
        }
        "GlobalAveragePool" => global(importer, call, Reduction::Mean)?,
        "GlobalMaxPool" => global(importer, call, Reduction::Max)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![Term::Value(value)]))
}

/// `[n, c, l]` as `[n, c, 1, l]`.
fn widened(importer: &mut Importer<'_, '_, '_>, x: ValueId) -> Result<ValueId, Refusal> {
    let mut dims = importer.shape(x).dims().to_vec();
    if dims.len() == 3 {
        dims.insert(2, Dim::Fixed(1));
    }
    importer.reshape(x, Shape::new(dims))
}

/// Undoes [`widened`] for an image that had `rank` dimensions.
fn narrowed(
    importer: &mut Importer<'_, '_, '_>,
    y: ValueId,
    rank: usize,
) -> Result<ValueId, Refusal> {
    let mut dims = importer.shape(y).dims().to_vec();
    if rank == 3 && dims.len() == 4 {
        dims.remove(2);
    }
    importer.reshape(y, Shape::new(dims))
}

/// Two sizes of an attribute; of one dimension the first is `first`.
fn sizes(
    call: &Call<'_, '_>,
    name: &'static str,
    rank: usize,
    first: usize,
) -> Result<Option<[usize; 2]>, Refusal> {
    let Some(list) = call.ints(name)? else {
        return Ok(None);
    };
    let list: Option<Vec<usize>> = list.iter().map(|&n| usize::try_from(n).ok()).collect();
    match (rank, list.as_deref()) {
        (3, Some(&[n])) => Ok(Some([first, n])),
        (4, Some(&[h, w])) => Ok(Some([h, w])),
        _ => because(format!("attribute {name} of these numbers")),
    }
}

/// Height and width of an image or kernel.
fn size_of(importer: &Importer<'_, '_, '_>, x: ValueId) -> Result<[usize; 2], Refusal> {
    match importer.shape(x).dims() {
        &[_, _, Dim::Fixed(h), Dim::Fixed(w)] => Ok([h, w]),
        _ => because("an image of other than 1 or 2 dimensions of known size"),
    }
}

/// Stride, margins and dilation; `None` for margins that `auto_pad` decides.
fn windows(call: &Call<'_, '_>, rank: usize) -> Result<(Windows, String), Refusal> {
    let mut windows = Windows::default();
    if let Some(stride) = sizes(call, "strides", rank, 1)? {
        windows.stride = stride;
    }
    if let Some(dilation) = sizes(call, "dilations", rank, 1)? {
        windows.dilation = dilation;
    }
    if let Some(pads) = call.ints("pads")? {
        let pads: Option<Vec<usize>> = pads.iter().map(|&n| usize::try_from(n).ok()).collect();
        (windows.before, windows.after) = match (rank, pads.as_deref()) {
            (3, Some(&[a, b])) => ([0, a], [0, b]),
            (4, Some(&[a, b, c, d])) => ([a, b], [c, d]),
            _ => return because("attribute pads of these numbers"),
        };
    }
    Ok((windows, call.text("auto_pad", "NOTSET")?))
}

/// The reach of a kernel.
fn reach(kernel: usize, dilation: usize) -> usize {
    kernel
        .saturating_sub(1)
        .saturating_mul(dilation)
        .saturating_add(1)
}

/// Margins such that there are `⌈image / stride⌉` windows.
fn same(
    windows: &mut Windows,
    auto: &str,
    image: [usize; 2],
    kernel: [usize; 2],
) -> Result<(), Refusal> {
    match auto {
        "NOTSET" => return Ok(()),
        "VALID" => (windows.before, windows.after) = ([0; 2], [0; 2]),
        "SAME_UPPER" | "SAME_LOWER" => {
            for i in 0..2 {
                let stride = windows.stride[i].max(1);
                let count = image[i].div_ceil(stride);
                let covered = count.saturating_sub(1).saturating_mul(stride);
                let covered = covered.saturating_add(reach(kernel[i], windows.dilation[i]));
                let all = covered.saturating_sub(image[i]);
                let (less, more) = (all / 2, all - all / 2);
                let upper = auto == "SAME_UPPER";
                windows.before[i] = if upper { less } else { more };
                windows.after[i] = if upper { more } else { less };
            }
        }
        other => return because(format!("attribute auto_pad = {other:?}")),
    }
    Ok(())
}

fn groups(call: &Call<'_, '_>) -> Result<usize, Refusal> {
    let groups = call.int("group")?.unwrap_or(1);
    usize::try_from(groups).map_err(|_| Refusal::Because(format!("attribute group = {groups}")))
}

fn conv(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.value(call.arg(0)?)?;
    let w = importer.value(call.arg(1)?)?;
    let rank = importer.shape(x).rank();
    let (mut windows, auto) = windows(call, rank)?;
    let (x, w) = (widened(importer, x)?, widened(importer, w)?);
    let (image, kernel) = (size_of(importer, x)?, size_of(importer, w)?);
    // The kernel's own shape decides.
    call.ignore("kernel_shape");
    same(&mut windows, &auto, image, kernel)?;
    let conv = Conv {
        windows,
        groups: groups(call)?,
        part: ConvPart::Forward,
    };
    let mut operands = vec![x, w];
    if let Some(bias) = call.optional(2) {
        operands.push(importer.value(bias)?);
    }
    let y = importer.apply(conv, &operands)?;
    narrowed(importer, y, rank)
}

fn conv_transpose(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<ValueId, Refusal> {
    let x = importer.value(call.arg(0)?)?;
    let w = importer.value(call.arg(1)?)?;
    let rank = importer.shape(x).rank();
    let (mut windows, auto) = windows(call, rank)?;
    let (x, w) = (widened(importer, x)?, widened(importer, w)?);
    let (image, kernel) = (size_of(importer, x)?, size_of(importer, w)?);
    call.ignore("kernel_shape");
    let more = sizes(call, "output_padding", rank, 0)?.unwrap_or([0; 2]);
    let asked = sizes(call, "output_shape", rank, 1)?;
    let mut size = [0; 2];
    for i in 0..2 {
        let stride = windows.stride[i];
        let full = image[i].saturating_sub(1).saturating_mul(stride);
        let full = full.saturating_add(more[i]);
        let full = full.saturating_add(reach(kernel[i], windows.dilation[i]));
        let target = match (asked, auto.as_str()) {
            (Some(size), _) => Some(size[i]),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(image[i].saturating_mul(stride)),
            _ => None,
        };
        if let Some(target) = target {
            let all = full.saturating_sub(target);
            let (less, rest) = (all / 2, all - all / 2);
            let upper = auto == "SAME_UPPER";
            windows.before[i] = if upper { less } else { rest };
            windows.after[i] = if upper { rest } else { less };
            // A target beyond what the kernel reaches.
            size[i] = target;
        } else {
            let margins = windows.before[i].saturating_add(windows.after[i]);
            size[i] = full.saturating_sub(margins);
            // What is added at the end belongs to no window.
            windows.after[i] = windows.after[i].saturating_sub(more[i]);
        }
    }
    let conv = Conv {
        windows,
        groups: groups(call)?,
        part: ConvPart::Image { size },
    };
    let mut y = importer.apply(conv, &[x, w])?;
    if let Some(bias) = call.optional(2) {
        let bias = importer.value(bias)?;
        let channels = importer.shape(y).dims()[1];
        let one = Dim::Fixed(1);
        let bias = importer.reshape(bias, Shape::new(vec![channels, one, one]))?;
        y = importer.apply(Binary::Add, &[y, bias])?;
    }
    narrowed(importer, y, rank)
}

fn pool(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    pooling: Pooling,
) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    Ok(pool_of(importer, call, x, pooling)?.0)
}

/// The pooled image, and the size of a window.
fn pool_of(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
    pooling: Pooling,
) -> Result<(ValueId, [usize; 2]), Refusal> {
    let rank = importer.shape(x).rank();
    let (mut windows, auto) = windows(call, rank)?;
    let Some(kernel) = sizes(call, "kernel_shape", rank, 1)? else {
        return because("no kernel_shape");
    };
    let x = widened(importer, x)?;
    let image = size_of(importer, x)?;
    same(&mut windows, &auto, image, kernel)?;
    let pool = Pool {
        pooling,
        kernel,
        windows,
        ceil: call.flag("ceil_mode", false)?,
    };
    let y = importer.apply(pool, &[x])?;
    Ok((narrowed(importer, y, rank)?, kernel))
}

/// `(Σ |x|^p)^(1/p)` of each window: of the mean with margins that count as zeros.
fn lp_pool(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let p = call.int("p")?.unwrap_or(2);
    if !(1..=64).contains(&p) {
        return because(format!("attribute p = {p}"));
    }
    call.only("ceil_mode", 0)?;
    let x = importer.float(call.arg(0)?)?;
    let size = importer.apply(Unary::Abs, &[x])?;
    let (power, root) = (importer.scalar(p as f64)?, importer.scalar(1.0 / p as f64)?);
    let powers = importer.apply(Binary::Pow, &[size, power])?;
    let pooling = Pooling::Average { count_margin: true };
    let (mean, kernel) = pool_of(importer, call, powers, pooling)?;
    let factor = (kernel[0] * kernel[1]) as f64;
    let sum = importer.apply(Unary::Scale { factor }, &[mean])?;
    importer.apply(Binary::Pow, &[sum, root])
}

fn global(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    reduction: Reduction,
) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let reduce = Reduce {
        reduction,
        axes: (2..importer.shape(x).rank()).collect(),
        keep: true,
    };
    importer.apply(reduce, &[x])
}
