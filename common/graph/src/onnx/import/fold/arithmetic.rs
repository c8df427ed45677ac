//! Arithmetic on known tensors, in 64-bit floats and integers; sizes may be multiples of the batch.

use crate::onnx::import::call::{Call, Refusal, because};
use crate::onnx::known::{Data, ElementType, Known, Size};

pub(super) fn fold(call: &Call<'_, '_>, args: &[Option<&Known>]) -> Result<Option<Known>, Refusal> {
    let Some(first) = args[0] else {
        return Ok(None);
    };
    let second = args.get(1).copied().flatten();
    let op = call.node.op_type;
    if is_narrow(first.elements) && op != "Cast" {
        return match op {
            "Identity" => Ok(Some(first.clone())),
            _ => Ok(None),
        };
    }
    match (op, args.len()) {
        ("Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max", 2) => {
            let Some(second) = second else {
                return Ok(None);
            };
            let remainder = op == "Mod" && call.flag("fmod", false)?;
            binary(op, remainder, first, second).map(Some)
        }
        ("Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual", 2) => {
            let Some(second) = second else {
                return Ok(None);
            };
            compare(op, first, second).map(Some)
        }
        ("And" | "Or" | "Xor", 2) => {
            let Some(second) = second else {
                return Ok(None);
            };
            logic(op, first, second).map(Some)
        }
        ("Where", 3) => {
            let (Some(a), Some(b)) = (second, args[2]) else {
                return Ok(None);
            };
            choose(first, a, b).map(Some)
        }
        ("Cast", 1) => {
            call.ignore("saturate");
            call.ignore("round_mode");
            let code = call.int("to")?.unwrap_or(0);
            match ElementType::of_code(code) {
                Some(to) => Ok(Some(cast(first, to)?)),
                None => because(format!("a cast to type {code}")),
            }
        }
        ("Not", 1) => match &first.data {
            Data::Bool(data) => Ok(Some(Known::new(
                ElementType::Bool,
                first.shape.clone(),
                Data::Bool(data.iter().map(|b| !b).collect()),
            ))),
            _ => because("elements that aren't truth values"),
        },
        (_, 1) => Ok(unary(op, first)),
        _ => Ok(None),
    }
}

fn unary(op: &str, x: &Known) -> Option<Known> {
    let of_float: fn(f64) -> f64 = match op {
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Sqrt" => f64::sqrt,
        "Exp" => libm::exp,
        "Log" => libm::log,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Reciprocal" => |x| 1.0 / x,
        "Sin" => libm::sin,
        "Cos" => libm::cos,
        "Identity" => |x| x,
        _ => return None,
    };
    let data = match (&x.data, op) {
        (_, "Identity") => x.data.clone(),
        (Data::Float(data), _) => {
            let of = |&number: &f64| rounded(x.elements, of_float(number));
            Data::Float(data.iter().map(of).collect())
        }
        (Data::Int(data), "Neg" | "Abs") => {
            let of = |size: &Size| match (op, *size) {
                ("Neg", Size::Fixed(n)) => n.checked_neg().map(Size::Fixed),
                ("Abs", Size::Fixed(n)) => n.checked_abs().map(Size::Fixed),
                ("Abs", size) => Some(size),
                _ => None,
            };
            Data::Int(data.iter().map(of).collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some(Known::new(x.elements, x.shape.clone(), data))
}

/// 16-bit floats are read, and nothing is computed with them.
fn is_narrow(elements: ElementType) -> bool {
    matches!(elements, ElementType::Float16 | ElementType::BFloat16)
}

/// The nearest number of the type: a model's constants are computed as it would compute them.
fn rounded(elements: ElementType, number: f64) -> f64 {
    match elements {
        ElementType::Float => f64::from(number as f32),
        _ => number,
    }
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Refusal> {
    let rank = a.len().max(b.len());
    let at = |shape: &[usize], i: usize| match (i + shape.len()).checked_sub(rank) {
        Some(i) => shape[i],
        None => 1,
    };
    let dims = (0..rank).map(|i| match (at(a, i), at(b, i)) {
        (x, y) if x == y => Some(x),
        (1, y) => Some(y),
        (x, 1) => Some(x),
        _ => None,
    });
    match dims.collect() {
        Some(shape) => Ok(shape),
        None => because(format!("shapes {a:?} and {b:?}, which don't broadcast")),
    }
}

/// For each element of `to`, the position of the element of `from` that broadcasting puts there.
pub(super) fn positions(from: &[usize], to: &[usize]) -> Result<Vec<usize>, Refusal> {
    let len = super::checked_len(to)?;
    let missing = to.len() - from.len();
    // Steps of each dimension of `to` in `from`; 0 where it is repeated.
    let mut steps = vec![0; to.len()];
    let mut step = 1;
    for (i, &dim) in from.iter().enumerate().rev() {
        if dim != 1 {
            steps[missing + i] = step;
        }
        step *= dim;
    }
    let mut positions = Vec::with_capacity(len);
    let mut index = vec![0; to.len()];
    let mut position = 0;
    for _ in 0..len {
        positions.push(position);
        for i in (0..to.len()).rev() {
            index[i] += 1;
            position += steps[i];
            if index[i] < to[i] {
                break;
            }
            position -= steps[i] * index[i];
            index[i] = 0;
        }
    }
    Ok(positions)
}

/// Both tensors, broadcast.
fn both(a: &Known, b: &Known) -> Result<(Known, Known), Refusal> {
    let shape = broadcast(&a.shape, &b.shape)?;
    let stretch = |x: &Known| -> Result<Known, Refusal> {
        let positions = positions(&x.shape, &shape)?;
        Ok(x.pick(shape.clone(), &positions))
    };
    Ok((stretch(a)?, stretch(b)?))
}

fn binary(op: &str, remainder: bool, a: &Known, b: &Known) -> Result<Known, Refusal> {
    let (a, b) = both(a, b)?;
    let data = match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let pairs = x.iter().zip(y);
            let of = |(&x, &y): (&f64, &f64)| rounded(a.elements, of_floats(op, remainder, x, y));
            Data::Float(pairs.map(of).collect())
        }
        // A power of floats may have an exponent of integers.
        (Data::Float(x), Data::Int(_)) if op == "Pow" => {
            let Some(y) = b.numbers() else {
                return because("an exponent that depends on the batch");
            };
            let pairs = x.iter().zip(&y);
            Data::Float(
                pairs
                    .map(|(&x, &y)| rounded(a.elements, libm::pow(x, y)))
                    .collect(),
            )
        }
        (Data::Int(x), Data::Int(y)) => {
            let pairs = x.iter().zip(y);
            let of = |(&x, &y): (&Size, &Size)| of_sizes(op, remainder, x, y);
            match pairs.map(of).collect() {
                Some(data) => Data::Int(data),
                None => return because(format!("{op} of these sizes")),
            }
        }
        _ => return because("operands of different types"),
    };
    Ok(Known::new(a.elements, a.shape, data))
}

fn of_floats(op: &str, remainder: bool, x: f64, y: f64) -> f64 {
    match op {
        "Add" => x + y,
        "Sub" => x - y,
        "Mul" => x * y,
        "Div" => x / y,
        "Pow" => libm::pow(x, y),
        "Min" => x.min(y),
        "Max" => x.max(y),
        _ if remainder => x % y,
        // With the divisor's sign.
        _ => match x % y {
            rest if rest != 0.0 && (rest < 0.0) != (y < 0.0) => rest + y,
            rest => rest,
        },
    }
}

pub(super) fn multiply(x: Size, y: Size) -> Option<Size> {
    match (x, y) {
        (Size::Fixed(x), Size::Fixed(y)) => Some(Size::Fixed(x.checked_mul(y)?)),
        (Size::Fixed(0), _) | (_, Size::Fixed(0)) => Some(Size::Fixed(0)),
        (Size::Fixed(x), Size::Batches(y)) | (Size::Batches(y), Size::Fixed(x)) if x > 0 => {
            Some(Size::Batches(x.checked_mul(y)?))
        }
        _ => None,
    }
}

fn of_sizes(op: &str, remainder: bool, x: Size, y: Size) -> Option<Size> {
    match (op, x, y) {
        ("Mul", ..) => multiply(x, y),
        ("Add" | "Sub", x, Size::Fixed(0)) => Some(x),
        ("Add", Size::Fixed(0), y) => Some(y),
        ("Add", Size::Batches(x), Size::Batches(y)) => Some(Size::Batches(x.checked_add(y)?)),
        ("Sub", Size::Batches(x), Size::Batches(y)) if x == y => Some(Size::Fixed(0)),
        ("Sub", Size::Batches(x), Size::Batches(y)) if x > y => Some(Size::Batches(x - y)),
        ("Div", Size::Batches(x), Size::Fixed(y)) if y > 0 && x % y == 0 => {
            Some(Size::Batches(x / y))
        }
        ("Div", Size::Batches(x), Size::Batches(y)) if x % y == 0 => Some(Size::Fixed(x / y)),
        ("Mod", Size::Batches(x), Size::Fixed(y)) if y > 0 && x % y == 0 => Some(Size::Fixed(0)),
        ("Max", Size::Batches(x), Size::Batches(y)) => Some(Size::Batches(x.max(y))),
        ("Min", Size::Batches(x), Size::Batches(y)) => Some(Size::Batches(x.min(y))),
        // A multiple of the batch is at least that multiple.
        ("Max", Size::Batches(x), Size::Fixed(y)) if y <= x => Some(Size::Batches(x)),
        ("Max", Size::Fixed(y), Size::Batches(x)) if y <= x => Some(Size::Batches(x)),
        ("Min", Size::Batches(x), Size::Fixed(y)) if y <= x => Some(Size::Fixed(y)),
        ("Min", Size::Fixed(y), Size::Batches(x)) if y <= x => Some(Size::Fixed(y)),
        // Up to the end, as slices say it.
        ("Min", Size::Batches(x), Size::Fixed(y)) if y >= 1 << 62 => Some(Size::Batches(x)),
        ("Min", Size::Fixed(y), Size::Batches(x)) if y >= 1 << 62 => Some(Size::Batches(x)),
        (_, Size::Fixed(x), Size::Fixed(y)) => of_ints(op, remainder, x, y).map(Size::Fixed),
        _ => None,
    }
}

fn of_ints(op: &str, remainder: bool, x: i64, y: i64) -> Option<i64> {
    match op {
        "Add" => x.checked_add(y),
        "Sub" => x.checked_sub(y),
        // Towards zero, as C.
        "Div" => x.checked_div(y),
        "Pow" => x.checked_pow(u32::try_from(y).ok()?),
        "Min" => Some(x.min(y)),
        "Max" => Some(x.max(y)),
        "Mod" if remainder => x.checked_rem(y),
        // With the divisor's sign, as Python.
        "Mod" => Some((x.checked_rem(y)?.checked_add(y)?).checked_rem(y)?),
        _ => None,
    }
}

fn compare(op: &str, a: &Known, b: &Known) -> Result<Known, Refusal> {
    let (a, b) = both(a, b)?;
    fn of<T: PartialOrd>(op: &str, x: &T, y: &T) -> bool {
        match op {
            "Equal" => x == y,
            "Less" => x < y,
            "LessOrEqual" => x <= y,
            "Greater" => x > y,
            _ => x >= y,
        }
    }
    let data: Option<Vec<bool>> = match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            Some(x.iter().zip(y).map(|(x, y)| of(op, x, y)).collect())
        }
        (Data::Bool(x), Data::Bool(y)) => {
            Some(x.iter().zip(y).map(|(x, y)| of(op, x, y)).collect())
        }
        (Data::Int(x), Data::Int(y)) => {
            let pairs = x.iter().zip(y);
            let sizes = pairs.map(|pair| match pair {
                (Size::Fixed(x), Size::Fixed(y)) => Some(of(op, x, y)),
                (Size::Batches(x), Size::Batches(y)) => Some(of(op, x, y)),
                // The batch is at least 1.
                (Size::Batches(x), Size::Fixed(y)) if y < x => Some(of(op, &1, &0)),
                (Size::Fixed(x), Size::Batches(y)) if x < y => Some(of(op, &0, &1)),
                _ => None,
            });
            sizes.collect()
        }
        _ => None,
    };
    match data {
        Some(data) => Ok(Known::new(ElementType::Bool, a.shape, Data::Bool(data))),
        None => because(format!("{op} of these sizes")),
    }
}

fn logic(op: &str, a: &Known, b: &Known) -> Result<Known, Refusal> {
    let (a, b) = both(a, b)?;
    let (Data::Bool(x), Data::Bool(y)) = (&a.data, &b.data) else {
        return because("elements that aren't truth values");
    };
    let of = |(&x, &y): (&bool, &bool)| match op {
        "And" => x && y,
        "Or" => x || y,
        _ => x != y,
    };
    let data = Data::Bool(x.iter().zip(y).map(of).collect());
    Ok(Known::new(ElementType::Bool, a.shape, data))
}

fn choose(condition: &Known, a: &Known, b: &Known) -> Result<Known, Refusal> {
    let (a, b) = both(a, b)?;
    let shape = broadcast(&condition.shape, &a.shape)?;
    let condition = condition.pick(shape.clone(), &positions(&condition.shape, &shape)?);
    let stretched = positions(&a.shape, &shape)?;
    let (a, b) = (
        a.pick(shape.clone(), &stretched),
        b.pick(shape.clone(), &stretched),
    );
    fn of<T: Copy>(condition: &[bool], a: &[T], b: &[T]) -> Vec<T> {
        let pairs = a.iter().zip(b).zip(condition);
        pairs.map(|((&a, &b), &c)| if c { a } else { b }).collect()
    }
    let Data::Bool(c) = &condition.data else {
        return because("a condition that isn't of truth values");
    };
    let data = match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(of(c, a, b)),
        (Data::Int(a), Data::Int(b)) => Data::Int(of(c, a, b)),
        (Data::Bool(a), Data::Bool(b)) => Data::Bool(of(c, a, b)),
        _ => return because("operands of different types"),
    };
    Ok(Known::new(a.elements, shape, data))
}

pub(in crate::onnx::import) fn cast(x: &Known, to: ElementType) -> Result<Known, Refusal> {
    let wrong = || Refusal::Because("a cast of sizes that depend on the batch".to_owned());
    if is_narrow(to) && x.elements != to {
        return because("a cast to 16-bit floats");
    }
    let data = match to {
        to if to.is_float() => {
            let numbers = x.numbers().ok_or_else(wrong)?;
            Data::Float(numbers.into_iter().map(|x| rounded(to, x)).collect())
        }
        ElementType::Bool => {
            let nonzero = |size: &Size| size.fixed() != Some(0);
            Data::Bool(match &x.data {
                Data::Float(data) => data.iter().map(|&x| x != 0.0).collect(),
                Data::Int(data) => data.iter().map(nonzero).collect(),
                Data::Bool(data) => data.clone(),
            })
        }
        _ => Data::Int(match &x.data {
            // Towards zero.
            Data::Float(data) => data
                .iter()
                .map(|&x| Size::Fixed(wrapped(to, x as i64)))
                .collect(),
            Data::Bool(data) => data.iter().map(|&b| Size::Fixed(i64::from(b))).collect(),
            Data::Int(data) => {
                let of = |&size: &Size| match size {
                    Size::Fixed(n) => Size::Fixed(wrapped(to, n)),
                    size => size,
                };
                data.iter().map(of).collect()
            }
        }),
    };
    Ok(Known::new(to, x.shape.clone(), data))
}

/// The integer modulo the type's range.
fn wrapped(to: ElementType, n: i64) -> i64 {
    match to {
        ElementType::Int32 => i64::from(n as i32),
        ElementType::Int { bits: 8, signed } if signed => i64::from(n as i8),
        ElementType::Int { bits: 8, .. } => i64::from(n as u8),
        ElementType::Int { bits: 16, signed } if signed => i64::from(n as i16),
        ElementType::Int { bits: 16, .. } => i64::from(n as u16),
        ElementType::Int { bits: 32, .. } => i64::from(n as u32),
        _ => n,
    }
}
