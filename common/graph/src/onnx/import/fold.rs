//! Operators on tensors that are known: they are computed while the model is read.

mod arithmetic;
mod moves;

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use crate::onnx::known::{Data, ElementType, FOLDED_ELEMENTS_MAX, Known, Size};
use crate::shape::{DType, Shape};

pub(super) use self::arithmetic::cast;
pub(super) use self::moves::{Part, merged, order, parts, reshape_dims, slices};

/// The results, if all arguments are known and the operator is one that is computed now.
pub(super) fn fold(
    importer: &Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Known>>, Refusal> {
    match call.node.op_type {
        "Constant" => return Ok(Some(vec![constant(importer, call)?])),
        // The second operand's type is known, if not its elements.
        "CastLike" => {
            if let (Term::Known(x), Some(like)) = (call.arg(0)?, elements(importer, call.arg(1)?)) {
                call.ignore("saturate");
                call.ignore("round_mode");
                return cast(&x.0, like).map(|known| Some(vec![known]));
            }
        }
        "Shape" | "Size" => return shape(importer, call).map(|known| Some(vec![known])),
        _ => {}
    }
    let mut args: Vec<Option<&Known>> = Vec::with_capacity(call.args().len());
    for arg in call.args() {
        args.push(match arg {
            None => None,
            Some(Term::Known(known)) => Some(&known.0),
            Some(_) => return Ok(None),
        });
    }
    if args.first().copied().flatten().is_none() {
        return Ok(None);
    }
    let one = |known: Option<Known>| Ok(known.map(|known| vec![known]));
    if let Some(known) = arithmetic::fold(call, &args)? {
        return one(Some(known));
    }
    moves::fold(call, &args)
}

/// The number of elements of a shape that is computed now.
fn checked_len(shape: &[usize]) -> Result<usize, Refusal> {
    let len = shape
        .iter()
        .try_fold(1usize, |len, &dim| len.checked_mul(dim));
    match len.filter(|&len| len <= FOLDED_ELEMENTS_MAX) {
        Some(len) => Ok(len),
        None => because(format!(
            "a constant of more than {FOLDED_ELEMENTS_MAX} elements"
        )),
    }
}

fn constant(importer: &Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Known, Refusal> {
    if let Some(known) = call.tensor("value", importer.options.resolver)? {
        return Ok(known);
    }
    let ints = |shape, ints: Vec<i64>| {
        let data = Data::Int(ints.into_iter().map(Size::Fixed).collect());
        Known::new(ElementType::Int64, shape, data)
    };
    let floats = |shape, data| Known::new(ElementType::Float, shape, Data::Float(data));
    if let Some(int) = call.int("value_int")? {
        return Ok(ints(Vec::new(), vec![int]));
    }
    if let Some(list) = call.ints("value_ints")? {
        return Ok(ints(vec![list.len()], list));
    }
    if let Some(list) = call.floats("value_floats")? {
        let list: Vec<f64> = list.into_iter().map(f64::from).collect();
        return Ok(floats(vec![list.len()], list));
    }
    if call.has("value_float") {
        return Ok(floats(Vec::new(), vec![call.float("value_float", 0.0)?]));
    }
    because("a constant that isn't of numbers")
}

/// The type of a term's elements in the model.
pub(super) fn elements(importer: &Importer<'_, '_, '_>, term: &Term) -> Option<ElementType> {
    Some(match term {
        Term::Known(known) => known.0.elements,
        Term::Weight(_) => ElementType::Float,
        Term::Value(value) => match importer.dtype(*value) {
            dtype if dtype.is_float() => ElementType::Float,
            DType::I32 => ElementType::Int32,
            DType::I64 => ElementType::Int64,
            DType::Bool => ElementType::Bool,
            _ => return None,
        },
    })
}

/// The dimensions of a term; those of an initializer are fixed.
fn dims(importer: &Importer<'_, '_, '_>, term: &Term) -> Vec<Size> {
    let fixed = |n: usize| Size::Fixed(i64::try_from(n).unwrap_or(i64::MAX));
    match term {
        Term::Value(value) => {
            let shape: &Shape = importer.shape(*value);
            shape.dims().iter().map(|&dim| Size::of(dim)).collect()
        }
        Term::Known(known) => known.0.shape.iter().map(|&n| fixed(n)).collect(),
        Term::Weight(i) => {
            let tensor = &importer.source.initializers[*i];
            tensor.dims.iter().map(|&n| Size::Fixed(n)).collect()
        }
    }
}

fn shape(importer: &Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Known, Refusal> {
    let dims = dims(importer, call.arg(0)?);
    if call.node.op_type == "Size" {
        let product = dims.iter().try_fold(Size::Fixed(1), |product, &dim| {
            arithmetic::multiply(product, dim)
        });
        let Some(product) = product else {
            return because("a number of elements that is no multiple of the batch");
        };
        let data = Data::Int(vec![product]);
        return Ok(Known::new(ElementType::Int64, Vec::new(), data));
    }
    let rank = dims.len() as i64;
    let clamp = |at: i64| {
        let at = if at < 0 { at.saturating_add(rank) } else { at };
        at.clamp(0, rank) as usize
    };
    let start = clamp(call.int("start")?.unwrap_or(0));
    let end = clamp(call.int("end")?.unwrap_or(rank));
    let part = dims.get(start..end.max(start)).unwrap_or_default();
    Ok(Known::sizes(part.to_vec()))
}
