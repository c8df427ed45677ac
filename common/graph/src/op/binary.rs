//! Functions of two tensors, element by element, under NumPy's broadcasting; choice and casts.

use super::{Operator, Unary};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{DType, Shape, TensorType};

/// `(a, b) -> their common shape`: a function of two tensors that broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`.
    Div,
    /// `aᵇ`.
    Pow,
    /// The smaller; NaN if one is. Ties share the gradient in halves, as PyTorch's.
    Min,
    /// The larger; NaN if one is. Ties share the gradient in halves, as PyTorch's.
    Max,
    /// `a - b · trunc(a / b)`, with the sign of `a` (C's and PyTorch's `fmod`).
    Fmod,
    /// `a - b · floor(a / b)`, with the sign of `b` (Python's `%`, PyTorch's `remainder`).
    Mod,
}

/// Which operand a gradient is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first operand.
    A,
    /// The second operand.
    B,
}

/// `(a, b, dy) -> dy's shape`: `dy` times the derivative of the function with respect to one side,
/// not yet summed over what broadcasting repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryGrad {
    /// The function; the gradients of [`Binary::Add`], [`Binary::Sub`] and [`Binary::Mul`] are made of
    /// [`Binary`] and [`Unary`].
    pub function: Binary,
    /// The side.
    pub side: Side,
}

fn broadcast_floats(o: &Operands<'_>) -> Result<Shape, GraphError> {
    o.count(2, 2, "2")?;
    o.broadcast(&o.float(0)?, &o.float(1)?)
}

impl Operator for Binary {
    fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Pow => "pow",
            Self::Min => "min",
            Self::Max => "max",
            Self::Fmod => "fmod",
            Self::Mod => "mod",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.one(broadcast_floats(o)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand < 2
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let (a, b) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        match self {
            Self::Add => {
                rule.give_summed(0, dy)?;
                rule.give_summed(1, dy)
            }
            Self::Sub => {
                rule.give_summed(0, dy)?;
                if rule.wants(1) {
                    // Negate the smaller tensor.
                    let sum = rule.summed(1, dy)?;
                    rule.emit_to(1, Unary::Neg, &[sum])?;
                }
                Ok(())
            }
            Self::Mul => {
                for (operand, other) in [(0, b), (1, a)] {
                    if rule.wants(operand) {
                        let product = rule.emit(Self::Mul, &[dy, other])?;
                        rule.give_summed(operand, product)?;
                    }
                }
                Ok(())
            }
            Self::Div | Self::Pow | Self::Min | Self::Max | Self::Fmod | Self::Mod => {
                for (operand, side) in [(0, Side::A), (1, Side::B)] {
                    if rule.wants(operand) {
                        let grad = BinaryGrad {
                            function: *self,
                            side,
                        };
                        let full = rule.emit(grad, &[a, b, dy])?;
                        rule.give_summed(operand, full)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Operator for BinaryGrad {
    fn name(&self) -> &'static str {
        match self.function {
            Binary::Add => "add_grad",
            Binary::Sub => "sub_grad",
            Binary::Mul => "mul_grad",
            Binary::Div => "div_grad",
            Binary::Pow => "pow_grad",
            Binary::Min => "min_grad",
            Binary::Max => "max_grad",
            Binary::Fmod => "fmod_grad",
            Binary::Mod => "mod_grad",
        }
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let side = match self.side {
            Side::A => "a",
            Side::B => "b",
        };
        vec![("side", side.to_owned())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(3, 3, "3")?;
        let shape = o.broadcast(&o.float(0)?, &o.float(1)?)?;
        o.float_shape(2, shape.dims())?;
        o.one(shape)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand < 3
    }
}

/// `(a, b) -> bool, their common shape`: a comparison of floats; false where one is NaN, but for
/// [`Compare::NotEqual`]. Gradients end here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `a = b`.
    Equal,
    /// `a ≠ b`.
    NotEqual,
    /// `a < b`.
    Less,
    /// `a ≤ b`.
    LessOrEqual,
    /// `a > b`.
    Greater,
    /// `a ≥ b`.
    GreaterOrEqual,
}

impl Operator for Compare {
    fn name(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::NotEqual => "not_equal",
            Self::Less => "less",
            Self::LessOrEqual => "less_or_equal",
            Self::Greater => "greater",
            Self::GreaterOrEqual => "greater_or_equal",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        Ok(vec![TensorType::new(DType::Bool, broadcast_floats(o)?)])
    }

    fn ends_gradient(&self) -> bool {
        true
    }
}

/// A function of truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    /// `(a) -> a's shape`.
    Not,
    /// `(a, b) -> their common shape`.
    And,
    /// `(a, b) -> their common shape`.
    Or,
    /// `(a, b) -> their common shape`.
    Xor,
}

impl Operator for Logic {
    fn name(&self) -> &'static str {
        match self {
            Self::Not => "not",
            Self::And => "and",
            Self::Or => "or",
            Self::Xor => "xor",
        }
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let shape = if *self == Self::Not {
            o.count(1, 1, "1")?;
            o.bool(0)?
        } else {
            o.count(2, 2, "2")?;
            o.broadcast(&o.bool(0)?, &o.bool(1)?)?
        };
        Ok(vec![TensorType::new(DType::Bool, shape)])
    }

    fn ends_gradient(&self) -> bool {
        true
    }
}

/// `(condition bool, a, b) -> their common shape`: `a` where the condition holds, else `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where;

impl Operator for Where {
    fn name(&self) -> &'static str {
        "where"
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(3, 3, "3")?;
        let values = o.broadcast(&o.float(1)?, &o.float(2)?)?;
        o.one(o.broadcast(&o.bool(0)?, &values)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand > 0
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let condition = rule.operand(0);
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        if rule.wants(1) || rule.wants(2) {
            let zero = rule.zero()?;
            for (operand, values) in [(1, [dy, zero]), (2, [zero, dy])] {
                if rule.wants(operand) {
                    let part = rule.emit(Self, &[condition, values[0], values[1]])?;
                    rule.give_summed(operand, part)?;
                }
            }
        }
        Ok(())
    }
}

/// `(x of any elements) -> x's shape`: the same numbers as elements of `to`, which is the graph's
/// float type, an integer type or bool. Floats are cut towards zero; a number is true unless it is
/// 0. From float to float the identity; else gradients end here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The type of the result's elements.
    pub to: DType,
}

impl Operator for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("to", self.to.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let shape = o.any(0).shape.clone();
        let fits = !self.to.is_float() || o.one(Shape::scalar())?[0].dtype == self.to;
        let expected = "the graph's float type, i32, i64 or bool";
        o.attribute("to", expected, self.to.size_bytes() as f64, fits)?;
        Ok(vec![TensorType::new(self.to, shape)])
    }

    fn ends_gradient(&self) -> bool {
        !self.to.is_float()
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.give(0, dy)
    }
}

/// `(x) -> shape`: x repeated along the dimensions that `shape` stretches or adds in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expand {
    /// The result's shape, to which x's broadcasts.
    pub shape: Shape,
}

impl Operator for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("shape", self.shape.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let shape = o.broadcast(&o.float(0)?, &self.shape)?;
        if shape != self.shape {
            return Err(o.rank_error(0, "dimensions that stretch to the shape"));
        }
        o.one(shape)
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.give_summed(0, dy)
    }
}

/// `(x) -> shape`: the sum of x over all that broadcasting `shape` to x's shape repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumTo {
    /// The result's shape, which broadcasts to x's.
    pub shape: Shape,
}

impl Operator for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("shape", self.shape.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        if o.broadcast(&x, &self.shape)? != x {
            return Err(o.rank_error(0, "dimensions to which the shape stretches"));
        }
        o.one(self.shape.clone())
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let shape = rule.shape(rule.operand(0));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, Expand { shape }, &[dy])
    }
}
