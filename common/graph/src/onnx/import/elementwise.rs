//! Functions of each element, comparisons, choices, casts, dropout.

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::fold::{cast, elements};
use crate::compose;
use crate::graph::ValueId;
use crate::onnx::known::{Data, ElementType, Known};
use crate::op::{Binary, Cast, Compare, Dropout, Logic, Unary, Where};
use crate::shape::DType;

/// Integers up to here are floats of 32 bits exactly.
const EXACT_MAX: i64 = 1 << 24;

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    let value = match call.node.op_type {
        "Identity" => return Ok(Some(vec![call.arg(0)?.clone()])),
        "Add" => pair(importer, call, Binary::Add)?,
        "Sub" => pair(importer, call, Binary::Sub)?,
        "Mul" => pair(importer, call, Binary::Mul)?,
        "Div" => pair(importer, call, Binary::Div)?,
        "Pow" => power(importer, call)?,
        "Mod" => match call.flag("fmod", false)? {
            true => pair(importer, call, Binary::Fmod)?,
            false => pair(importer, call, Binary::Mod)?,
        },
        "Sum" => variadic(importer, call, Binary::Add)?,
        "Min" => variadic(importer, call, Binary::Min)?,
        "Max" => variadic(importer, call, Binary::Max)?,
        "Mean" => {
            let sum = variadic(importer, call, Binary::Add)?;
            let factor = 1.0 / call.args().len() as f64;
            importer.apply(Unary::Scale { factor }, &[sum])?
        }
        "Equal" => compare(importer, call, Compare::Equal)?,
        "Less" => compare(importer, call, Compare::Less)?,
        "LessOrEqual" => compare(importer, call, Compare::LessOrEqual)?,
        "Greater" => compare(importer, call, Compare::Greater)?,
        "GreaterOrEqual" => compare(importer, call, Compare::GreaterOrEqual)?,
        "IsNaN" => {
            let x = importer.float(call.arg(0)?)?;
            importer.apply(Compare::NotEqual, &[x, x])?
        }
        "IsInf" => is_infinite(importer, call)?,
        "Not" => {
            let x = importer.arithmetic(call.arg(0)?)?;
            importer.apply(Logic::Not, &[x])?
        }
        "And" => logic(importer, call, Logic::And)?,
        "Or" => logic(importer, call, Logic::Or)?,
        "Xor" => logic(importer, call, Logic::Xor)?,
        "Where" => choose(importer, call)?,
        "Cast" => {
            call.ignore("saturate");
            call.ignore("round_mode");
            let code = call.int("to")?.unwrap_or(0);
            convert(importer, call, ElementType::of_code(code), code)?
        }
        "CastLike" => {
            call.ignore("saturate");
            call.ignore("round_mode");
            let like = elements(importer, call.arg(1)?);
            convert(importer, call, like, "that of its second operand")?
        }
        "Clip" => clip(importer, call)?,
        "Dropout" => return dropout(importer, call).map(Some),
        "PRelu" => {
            let x = importer.float(call.arg(0)?)?;
            let slope = importer.value(call.arg(1)?)?;
            compose::prelu(&mut importer.graph, x, slope)?
        }
        _ => match composed(importer, call)? {
            Some(value) => value,
            None => return Ok(None),
        },
    };
    Ok(Some(vec![Term::Value(value)]))
}

/// A function of one tensor: one operator of the graph, or a few.
fn composed(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<ValueId>, Refusal> {
    let one = match call.node.op_type {
        "Abs" => Unary::Abs,
        "Neg" => Unary::Neg,
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Sqrt" => Unary::Sqrt,
        "Reciprocal" => Unary::Reciprocal,
        "Erf" => Unary::Erf,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Tanh" => Unary::Tanh,
        "Sigmoid" => Unary::Sigmoid,
        "Softplus" => Unary::Softplus,
        "Relu" => Unary::Relu,
        "HardSwish" => Unary::HardSwish,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        "Sign" => Unary::Sign,
        "LeakyRelu" => Unary::LeakyRelu {
            slope: call.float("alpha", 0.01)?,
        },
        "Elu" => Unary::Elu {
            alpha: call.float("alpha", 1.0)?,
        },
        "HardSigmoid" => Unary::HardSigmoid {
            slope: call.float("alpha", 0.2)?,
            offset: call.float("beta", 0.5)?,
        },
        "Gelu" => match call.text("approximate", "none")?.as_str() {
            "none" => Unary::Gelu,
            "tanh" => Unary::GeluTanh,
            other => return because(format!("attribute approximate = {other:?}")),
        },
        _ => return several(importer, call),
    };
    let x = importer.float(call.arg(0)?)?;
    importer.apply(one, &[x]).map(Some)
}

fn several(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<ValueId>, Refusal> {
    let op = call.node.op_type;
    if !matches!(
        op,
        "Tan"
            | "Selu"
            | "Celu"
            | "Mish"
            | "Softsign"
            | "ThresholdedRelu"
            | "Swish"
            | "Shrink"
            | "Sinh"
            | "Cosh"
            | "Asinh"
            | "Acosh"
            | "Atanh"
    ) {
        return Ok(None);
    }
    let x = importer.float(call.arg(0)?)?;
    let scale = |factor| Unary::Scale { factor };
    let value = match op {
        "Tan" => {
            let (sin, cos) = (
                importer.apply(Unary::Sin, &[x])?,
                importer.apply(Unary::Cos, &[x])?,
            );
            importer.apply(Binary::Div, &[sin, cos])?
        }
        "Selu" => {
            // The defaults are those of the specification, as 32-bit floats.
            let alpha = call.float("alpha", f64::from(1.673_263_2_f32))?;
            let gamma = call.float("gamma", f64::from(1.050_701_f32))?;
            compose::selu(&mut importer.graph, x, alpha, gamma)?
        }
        "Celu" => {
            let alpha = call.float("alpha", 1.0)?;
            let narrow = importer.apply(scale(1.0 / alpha), &[x])?;
            let elu = importer.apply(Unary::Elu { alpha: 1.0 }, &[narrow])?;
            importer.apply(scale(alpha), &[elu])?
        }
        "Shrink" => shrink(importer, call, x)?,
        "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" => hyperbolic(importer, op, x)?,
        "Mish" => compose::mish(&mut importer.graph, x)?,
        "Softsign" => {
            let size = importer.apply(Unary::Abs, &[x])?;
            let one = importer.scalar(1.0)?;
            let below = importer.apply(Binary::Add, &[size, one])?;
            importer.apply(Binary::Div, &[x, below])?
        }
        "ThresholdedRelu" => {
            let alpha = importer.scalar(call.float("alpha", 1.0)?)?;
            let zero = importer.scalar(0.0)?;
            let above = importer.apply(Compare::Greater, &[x, alpha])?;
            importer.apply(Where, &[above, x, zero])?
        }
        _ => {
            let alpha = call.float("alpha", 1.0)?;
            if alpha == 1.0 {
                importer.apply(Unary::Silu, &[x])?
            } else {
                let scaled = importer.apply(scale(alpha), &[x])?;
                let gate = importer.apply(Unary::Sigmoid, &[scaled])?;
                importer.apply(Binary::Mul, &[x, gate])?
            }
        }
    };
    Ok(Some(value))
}

/// 0 up to `lambd` in size, beyond it nearer to 0 by `bias`.
fn shrink(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    x: ValueId,
) -> Result<ValueId, Refusal> {
    let (lambda, bias) = (call.float("lambd", 0.5)?, call.float("bias", 0.0)?);
    let zero = importer.scalar(0.0)?;
    let (bias, lambda) = (importer.scalar(bias)?, lambda);
    let (above, below) = (importer.scalar(lambda)?, importer.scalar(-lambda)?);
    let less = importer.apply(Binary::Sub, &[x, bias])?;
    let more = importer.apply(Binary::Add, &[x, bias])?;
    let is_above = importer.apply(Compare::Greater, &[x, above])?;
    let is_below = importer.apply(Compare::Less, &[x, below])?;
    let y = importer.apply(Where, &[is_above, less, zero])?;
    importer.apply(Where, &[is_below, more, y])
}

/// Hyperbolic functions and their inverses, of exponentials and logarithms.
fn hyperbolic(
    importer: &mut Importer<'_, '_, '_>,
    op: &str,
    x: ValueId,
) -> Result<ValueId, Refusal> {
    let one = importer.scalar(1.0)?;
    let half = Unary::Scale { factor: 0.5 };
    if matches!(op, "Sinh" | "Cosh") {
        let up = importer.apply(Unary::Exp, &[x])?;
        let down = importer.apply(Unary::Neg, &[x])?;
        let down = importer.apply(Unary::Exp, &[down])?;
        let join = if op == "Sinh" {
            Binary::Sub
        } else {
            Binary::Add
        };
        let sum = importer.apply(join, &[up, down])?;
        return importer.apply(half, &[sum]);
    }
    if op == "Atanh" {
        let above = importer.apply(Binary::Add, &[one, x])?;
        let below = importer.apply(Binary::Sub, &[one, x])?;
        let ratio = importer.apply(Binary::Div, &[above, below])?;
        let log = importer.apply(Unary::Log, &[ratio])?;
        return importer.apply(half, &[log]);
    }
    // log(a + √(a² ± 1)), of the size for the sine's inverse, which has x's sign.
    let is_sine = op == "Asinh";
    let size = match is_sine {
        true => importer.apply(Unary::Abs, &[x])?,
        false => x,
    };
    let square = importer.apply(Binary::Mul, &[x, x])?;
    let join = if is_sine { Binary::Add } else { Binary::Sub };
    let square = importer.apply(join, &[square, one])?;
    let root = importer.apply(Unary::Sqrt, &[square])?;
    let sum = importer.apply(Binary::Add, &[size, root])?;
    let log = importer.apply(Unary::Log, &[sum])?;
    match is_sine {
        false => Ok(log),
        true => {
            let sign = importer.apply(Unary::Sign, &[x])?;
            importer.apply(Binary::Mul, &[sign, log])
        }
    }
}

/// Infinite ones of the signs that are asked for.
fn is_infinite(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let mut found = None;
    for (name, end) in [
        ("detect_positive", f64::INFINITY),
        ("detect_negative", f64::NEG_INFINITY),
    ] {
        if call.flag(name, true)? {
            let end = importer.scalar(end)?;
            let is = importer.apply(Compare::Equal, &[x, end])?;
            found = Some(match found {
                None => is,
                Some(other) => importer.apply(Logic::Or, &[is, other])?,
            });
        }
    }
    match found {
        Some(found) => Ok(found),
        None => because("infinities of neither sign"),
    }
}

fn pair(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    op: Binary,
) -> Result<ValueId, Refusal> {
    let (a, b) = (importer.float(call.arg(0)?)?, importer.float(call.arg(1)?)?);
    importer.apply(op, &[a, b])
}

fn variadic(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    op: Binary,
) -> Result<ValueId, Refusal> {
    let mut value = importer.float(call.arg(0)?)?;
    for position in 1..call.args().len() {
        let other = importer.float(call.arg(position)?)?;
        value = importer.apply(op, &[value, other])?;
    }
    Ok(value)
}

fn power(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let exponent = match call.arg(1)? {
        Term::Known(known) => known.0.clone(),
        term => {
            let y = importer.float(term)?;
            return importer.apply(Binary::Pow, &[x, y]);
        }
    };
    if exponent.number() == Some(2.0) && exponent.shape.len() <= importer.shape(x).rank() {
        return importer.apply(Binary::Mul, &[x, x]);
    }
    let y = importer.constant(&cast(&exponent, ElementType::Double)?)?;
    importer.apply(Binary::Pow, &[x, y])
}

/// Operands of a comparison as floats. Integers become floats where that can't change the result:
/// rounding keeps the order with a number that is exact.
fn compare(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    op: Compare,
) -> Result<ValueId, Refusal> {
    let terms = [call.arg(0)?.clone(), call.arg(1)?.clone()];
    let exact = |term: &Term| match term {
        Term::Known(known) => known.0.as_ints().is_some_and(|ints| {
            ints.iter()
                .all(|n| n.unsigned_abs() < EXACT_MAX.unsigned_abs())
        }),
        _ => false,
    };
    let one_is_exact = terms.iter().any(exact);
    let mut operands = Vec::with_capacity(2);
    for term in &terms {
        let value = importer.arithmetic(term)?;
        operands.push(match importer.dtype(value) {
            dtype if dtype.is_float() => value,
            DType::Bool => float_of(importer, value)?,
            _ if one_is_exact => float_of(importer, value)?,
            _ => return because("a comparison of two integers that aren't known"),
        });
    }
    importer.apply(op, &operands)
}

fn float_of(importer: &mut Importer<'_, '_, '_>, x: ValueId) -> Result<ValueId, Refusal> {
    let to = importer.graph.dtype();
    importer.apply(Cast { to }, &[x])
}

fn logic(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    op: Logic,
) -> Result<ValueId, Refusal> {
    let a = importer.arithmetic(call.arg(0)?)?;
    let b = importer.arithmetic(call.arg(1)?)?;
    importer.apply(op, &[a, b])
}

fn choose(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let condition = importer.arithmetic(call.arg(0)?)?;
    let a = importer.float(call.arg(1)?)?;
    let b = importer.float(call.arg(2)?)?;
    importer.apply(Where, &[condition, a, b])
}

fn convert(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
    to: Option<ElementType>,
    name: impl std::fmt::Display,
) -> Result<ValueId, Refusal> {
    let x = importer.arithmetic(call.arg(0)?)?;
    let to = match to {
        Some(ElementType::Float) => importer.graph.dtype(),
        Some(ElementType::Int32) => DType::I32,
        Some(ElementType::Int64) => DType::I64,
        Some(ElementType::Bool) => DType::Bool,
        _ => return because(format!("a cast to type {name}")),
    };
    if importer.dtype(x) == to {
        return Ok(x);
    }
    importer.apply(Cast { to }, &[x])
}

fn clip(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<ValueId, Refusal> {
    let x = importer.float(call.arg(0)?)?;
    let mut ends = [f64::NEG_INFINITY, f64::INFINITY];
    for (i, end) in ends.iter_mut().enumerate() {
        if let Some(term) = call.optional(i + 1) {
            let known = importer.needs_known(term, "an end")?;
            match known.number() {
                Some(number) => *end = number,
                None => return because("an end that isn't one number"),
            }
        }
    }
    let [min, max] = ends;
    importer.apply(Unary::Clip { min, max }, &[x])
}

fn dropout(importer: &mut Importer<'_, '_, '_>, call: &Call<'_, '_>) -> Result<Vec<Term>, Refusal> {
    call.ignore("seed");
    let x = importer.float(call.arg(0)?)?;
    let rate = match call.optional(1) {
        None => 0.5,
        Some(term) => match importer.needs_known(term, "a ratio")?.number() {
            Some(rate) => rate,
            None => return because("a ratio that isn't one number"),
        },
    };
    if call.wants(1) {
        return because("the mask as an output");
    }
    if rate == 0.0 {
        return Ok(vec![Term::Value(x)]);
    }
    let key = importer.dropout_keys;
    importer.dropout_keys += 1;
    let rate = (rate as f32).to_string().parse().unwrap_or(rate);
    let value = importer.apply(Dropout { rate, key }, &[x])?;
    Ok(vec![Term::Value(value)])
}

/// A tensor of any type as floats and back, for an operator that moves floats. Truth values come back as
/// they were; integers might not.
pub(super) fn through_floats(
    importer: &mut Importer<'_, '_, '_>,
    term: &Term,
) -> Result<(ValueId, Option<DType>), Refusal> {
    let exact = match term {
        Term::Known(known) => match &known.0.data {
            Data::Int(_) => known.0.as_ints().is_some_and(|ints| {
                ints.iter()
                    .all(|n| n.unsigned_abs() < EXACT_MAX.unsigned_abs())
            }),
            _ => true,
        },
        _ => false,
    };
    let x = importer.arithmetic(term)?;
    match importer.dtype(x) {
        dtype if dtype.is_float() => Ok((x, None)),
        dtype if dtype == DType::Bool || exact => Ok((float_of(importer, x)?, Some(dtype))),
        dtype => because(format!("moving elements of {dtype} that aren't known")),
    }
}

/// Undoes [`through_floats`].
pub(super) fn back(
    importer: &mut Importer<'_, '_, '_>,
    y: ValueId,
    dtype: Option<DType>,
) -> Result<ValueId, Refusal> {
    match dtype {
        None => Ok(y),
        Some(to) => importer.apply(Cast { to }, &[y]),
    }
}

/// A known tensor of one number.
pub(super) fn number(known: &Known) -> Result<f64, Refusal> {
    match known.number() {
        Some(number) => Ok(number),
        None => because("a tensor where one number is needed"),
    }
}
