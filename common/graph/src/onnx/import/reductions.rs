//! Reductions over dimensions.

use super::Importer;
use super::call::{Call, Refusal, Term, axes_of, axis_of, because};
use crate::op::{ArgMax, Binary, Reduce, Reduction, Unary};

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let reduction = match call.node.op_type {
        "ReduceSum" | "ReduceLogSum" | "ReduceSumSquare" => Reduction::Sum,
        "ReduceMean" => Reduction::Mean,
        "ReduceMax" => Reduction::Max,
        "ReduceMin" => Reduction::Min,
        "ReduceProd" => Reduction::Prod,
        "ReduceLogSumExp" => Reduction::LogSumExp,
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ArgMax" | "ArgMin" => return arg_max(importer, call).map(Some),
        _ => return Ok(None),
    };
    let x = importer.float(call.arg(0)?)?;
    let rank = importer.shape(x).rank();
    let axes = match call.optional(1) {
        Some(term) => Some(importer.needs_ints(term, "axes")?),
        None => call.ints("axes")?,
    };
    let keep = call.flag("keepdims", true)?;
    let noop = call.flag("noop_with_empty_axes", false)?;
    let axes = match axes.filter(|axes| !axes.is_empty()) {
        Some(axes) => Some(axes_of(&axes, rank)?),
        None if noop => None,
        None => Some((0..rank).collect()),
    };
    let x = match call.node.op_type {
        "ReduceSumSquare" => importer.apply(Binary::Mul, &[x, x])?,
        _ => x,
    };
    let mut y = x;
    if let Some(axes) = axes {
        let reduce = Reduce {
            reduction,
            axes,
            keep,
        };
        y = importer.apply(reduce, &[x])?;
    } else if !matches!(
        call.node.op_type,
        "ReduceSum" | "ReduceSumSquare" | "ReduceLogSum"
    ) {
        return because("no axes, and noop_with_empty_axes");
    }
    if call.node.op_type == "ReduceLogSum" {
        y = importer.apply(Unary::Log, &[y])?;
    }
    Ok(Some(vec![Term::Value(y)]))
}

fn arg_max(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Vec<Term>, Refusal> {
    call.only("select_last_index", 0)?;
    let mut x = importer.float(call.arg(0)?)?;
    if call.node.op_type == "ArgMin" {
        x = importer.apply(Unary::Neg, &[x])?;
    }
    let arg_max = ArgMax {
        axis: axis_of(call.int("axis")?.unwrap_or(0), importer.shape(x).rank())?,
        keep: call.flag("keepdims", true)?,
    };
    Ok(vec![Term::Value(importer.apply(arg_max, &[x])?)])
}
