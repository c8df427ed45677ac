//! Computes nodes whose operands are all constants. Exact: only operators whose result is the
//! nearest number to the true one are computed here (IEEE 754 demands it of `+ - · / √`), so that it
//! is the one that a kernel would give; functions such as `exp` are left to kernels.
//!
//! Floats of 32 bits are computed in 64 and rounded once: a sum, product, quotient or root of two
//! numbers of p bits, rounded to 2p + 2 bits or more, then to p, is as if it were rounded once
//! (Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995).

use std::collections::BTreeMap;

use super::uses::Uses;
use super::{PassContext, Patch};
use crate::graph::{ConstantData, Graph, Node, NodeId, ValueId};
use crate::op::{Binary, Compare, Logic, Op, Unary};
use crate::shape::DType;

/// Results with more elements than this are left to the run.
pub const FOLDED_ELEMENTS_MAX: usize = 65_536;

/// A constant while it is computed with.
#[derive(Clone)]
struct Known {
    dims: Vec<usize>,
    data: ConstantData,
}

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let uses = Uses::new(graph);
    let mut known: BTreeMap<ValueId, Known> = BTreeMap::new();
    for constant in &graph.constants {
        let shape = &graph.value(constant.value).ty.shape;
        if constant.data.len() <= FOLDED_ELEMENTS_MAX {
            let known_here = Known {
                dims: shape.bind(1),
                data: rounded(constant.data.clone(), graph.dtype),
            };
            known.insert(constant.value, known_here);
        }
    }
    let mut patch = Patch::new("compute what is constant", graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        let &[result] = node.results.as_slice() else {
            continue;
        };
        let ty = &graph.value(result).ty;
        let small = ty
            .shape
            .elements(1)
            .is_some_and(|n| n <= FOLDED_ELEMENTS_MAX);
        // What is read after the run must be the result of a node.
        if ty.shape.has_batch() || !small || uses.is_kept(result) {
            continue;
        }
        let operands: Option<Vec<&Known>> = node.operands.iter().map(|v| known.get(v)).collect();
        let Some(data) = operands.and_then(|operands| evaluate(graph, node, &operands)) else {
            continue;
        };
        let data = rounded(data, graph.dtype);
        let new = patch.constant(ty.clone(), data.clone());
        patch.remove(NodeId(i as u32));
        patch.substitute(result, new);
        patch.count();
        let dims = ty.shape.bind(1);
        known.insert(result, Known { dims, data });
    }
    patch.some()
}

/// Floats as the graph's type holds them.
fn rounded(data: ConstantData, dtype: DType) -> ConstantData {
    match data {
        ConstantData::Float(data) if dtype == DType::F32 => {
            let data = data.into_iter().map(|x| f64::from(x as f32));
            ConstantData::Float(data.collect())
        }
        other => other,
    }
}

fn evaluate(graph: &Graph, node: &Node, operands: &[&Known]) -> Option<ConstantData> {
    use ConstantData::{Bool, Float};
    let to = graph.value(node.results[0]).ty.clone();
    let dims = to.shape.bind(1);
    let x = *operands.first()?;
    let all = |operand: usize| spread(operands.get(operand)?, &dims);
    Some(match &node.op {
        Op::Unary(function) => {
            let Float(data) = &x.data else { return None };
            let data = data.iter().map(|&x| unary(*function, x, graph.dtype));
            Float(data.collect::<Option<_>>()?)
        }
        Op::Binary(function) => {
            let (Float(a), Float(b)) = (all(0)?, all(1)?) else {
                return None;
            };
            let data = a.iter().zip(&b).map(|(&a, &b)| binary(*function, a, b));
            Float(data.collect::<Option<_>>()?)
        }
        Op::Compare(compare) => {
            let (Float(a), Float(b)) = (all(0)?, all(1)?) else {
                return None;
            };
            let data = a.iter().zip(&b).map(|(a, b)| holds(*compare, *a, *b));
            Bool(data.collect())
        }
        Op::Logic(Logic::Not) => {
            let Bool(a) = &x.data else { return None };
            Bool(a.iter().map(|a| !a).collect())
        }
        Op::Logic(logic) => {
            let (Bool(a), Bool(b)) = (all(0)?, all(1)?) else {
                return None;
            };
            let data = a.iter().zip(&b).map(|(&a, &b)| match logic {
                Logic::And => a & b,
                Logic::Or => a | b,
                Logic::Xor | Logic::Not => a ^ b,
            });
            Bool(data.collect())
        }
        Op::Where(_) => {
            let (Bool(c), Float(a), Float(b)) = (all(0)?, all(1)?, all(2)?) else {
                return None;
            };
            let data = c.iter().zip(a.iter().zip(&b));
            Float(data.map(|(&c, (&a, &b))| if c { a } else { b }).collect())
        }
        Op::Cast(_) => cast(&x.data, to.dtype)?,
        Op::Reshape(_) => x.data.clone(),
        Op::Expand(_) => all(0)?,
        Op::Transpose(op) => {
            let strides = strides(&x.dims);
            let strides: Vec<isize> = op.order.iter().map(|&axis| strides[axis]).collect();
            pick(&x.data, &positions(&dims, &strides, 0))?
        }
        Op::Slice(op) => {
            let mut strides = strides(&x.dims);
            let start = strides[op.axis] * op.start as isize;
            strides[op.axis] *= op.step;
            pick(&x.data, &positions(&dims, &strides, start))?
        }
        _ => return None,
    })
}

/// A function whose result is exact or the nearest number; `None` for the others.
fn unary(function: Unary, x: f64, dtype: DType) -> Option<f64> {
    let c = |number: f64| match dtype {
        DType::F32 => f64::from(number as f32),
        _ => number,
    };
    Some(match function {
        Unary::Identity => x,
        Unary::Scale { factor } => c(factor) * x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        // NaN isn't `<=` 0, and stays.
        Unary::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                x
            }
        }
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        _ => return None,
    })
}

fn binary(function: Binary, a: f64, b: f64) -> Option<f64> {
    Some(match function {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Min => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
        Binary::Max => {
            if a > b || a.is_nan() {
                a
            } else {
                b
            }
        }
        Binary::Pow | Binary::Fmod | Binary::Mod => return None,
    })
}

fn holds(compare: Compare, a: f64, b: f64) -> bool {
    match compare {
        Compare::Equal => a == b,
        Compare::NotEqual => a != b,
        Compare::Less => a < b,
        Compare::LessOrEqual => a <= b,
        Compare::Greater => a > b,
        Compare::GreaterOrEqual => a >= b,
    }
}

/// As the kernel of a cast: integers beyond 2^53 and other casts to integers are left to it.
fn cast(data: &ConstantData, to: DType) -> Option<ConstantData> {
    const EXACT_MAX: u64 = 1 << 53;
    let exact = |n: &i64| (n.unsigned_abs() <= EXACT_MAX).then_some(*n as f64);
    let numbers: Vec<f64> = match data {
        ConstantData::Float(data) => data.clone(),
        ConstantData::Int(data) => data.iter().map(exact).collect::<Option<_>>()?,
        ConstantData::Bool(data) => data.iter().map(|&b| f64::from(u8::from(b))).collect(),
    };
    Some(match to {
        DType::F32 | DType::F64 => ConstantData::Float(numbers),
        DType::Bool => ConstantData::Bool(numbers.iter().map(|&x| x != 0.0).collect()),
        DType::I64 if !matches!(data, ConstantData::Float(_)) => {
            ConstantData::Int(numbers.iter().map(|&x| x as i64).collect())
        }
        _ => return None,
    })
}

/// A constant repeated to dimensions to which it broadcasts.
fn spread(known: &Known, to: &[usize]) -> Option<ConstantData> {
    if known.dims == to {
        return Some(known.data.clone());
    }
    let missing = to.len().checked_sub(known.dims.len())?;
    let mut all = vec![0; missing];
    let own = strides(&known.dims).into_iter().zip(&known.dims);
    all.extend(own.map(|(stride, &dim)| if dim == 1 { 0 } else { stride }));
    pick(&known.data, &positions(to, &all, 0))
}

/// The strides of a dense tensor.
fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as isize;
    }
    strides
}

/// Where the elements of a tensor of `dims` stand, walked with these strides.
fn positions(dims: &[usize], strides: &[isize], start: isize) -> Vec<isize> {
    let mut all = vec![start];
    for (&dim, &stride) in dims.iter().zip(strides) {
        let one = |&at: &isize| (0..dim as isize).map(move |i| at + i * stride);
        all = all.iter().flat_map(one).collect();
    }
    all
}

fn pick(data: &ConstantData, positions: &[isize]) -> Option<ConstantData> {
    fn of<E: Copy>(data: &[E], positions: &[isize]) -> Option<Vec<E>> {
        let at = |&at: &isize| {
            usize::try_from(at)
                .ok()
                .and_then(|at| data.get(at))
                .copied()
        };
        positions.iter().map(at).collect()
    }
    Some(match data {
        ConstantData::Float(data) => ConstantData::Float(of(data, positions)?),
        ConstantData::Int(data) => ConstantData::Int(of(data, positions)?),
        ConstantData::Bool(data) => ConstantData::Bool(of(data, positions)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn positions_walk_as_strides_say() {
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(positions(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(positions(&[3], &[-2], 5), [5, 3, 1]);
        let known = Known {
            dims: Shape::fixed(&[2, 1]).bind(1),
            data: ConstantData::Int(vec![7, 8]),
        };
        let all = spread(&known, &[2, 2, 3]).unwrap();
        let row = [7, 7, 7, 8, 8, 8];
        assert_eq!(all, ConstantData::Int([row, row].concat()));
    }
}
