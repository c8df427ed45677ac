//! Functions of each element.

use super::Operator;
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};

/// `(x) -> x's shape`: a function that is applied to each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// A copy. Autodiff uses it where a gradient needs a place of its own.
    Identity,
    /// `factor · x`.
    Scale {
        /// The factor, finite.
        factor: f64,
    },
    /// `-x`.
    Neg,
    /// `|x|`; the derivative at 0 is 0.
    Abs,
    /// `eˣ`.
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// `1 / √x`.
    Rsqrt,
    /// `1 / x`.
    Reciprocal,
    /// The error function.
    Erf,
    /// The sine.
    Sin,
    /// The cosine.
    Cos,
    /// `max(x, 0)`; the derivative at 0 is 0.
    Relu,
    /// `x · Φ(x)` with the error function (Hendrycks, Gimpel: "Gaussian error linear units",
    /// 2016), PyTorch's default.
    Gelu,
    /// The tanh approximation of the same paper: `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `log(1 + eˣ)`, computed without overflow.
    Softplus,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x` where positive, else `alpha · (eˣ - 1)`.
    Elu {
        /// The limit on the negative side is `-alpha`; finite.
        alpha: f64,
    },
    /// `x` where positive, else `slope · x`.
    LeakyRelu {
        /// The factor on the negative side, finite.
        slope: f64,
    },
    /// `x · min(max(x + 3, 0), 6) / 6`.
    HardSwish,
    /// `min(max(slope · x + offset, 0), 1)`; PyTorch: slope 1/6, offset 1/2.
    HardSigmoid {
        /// The slope between the ends, finite.
        slope: f64,
        /// The value at 0, finite.
        offset: f64,
    },
    /// `min(max(x, min), max)`; the derivative at the ends is 1, as PyTorch's.
    Clip {
        /// The lower end; may be infinite, not NaN.
        min: f64,
        /// The upper end; may be infinite, not NaN.
        max: f64,
    },
    /// -1, 0 or 1; gradients end here.
    Sign,
    /// The next integer below; gradients end here.
    Floor,
    /// The next integer above; gradients end here.
    Ceil,
    /// The nearest integer, ties to even; gradients end here.
    Round,
}

/// What backward keeps of a function of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The derivative is a function of the result.
    Result,
    /// The derivative is a function of the operand.
    Operand,
}

impl Unary {
    /// What the derivative is a function of, and what [`UnaryGrad`] takes.
    #[must_use]
    pub fn saved(self) -> Saved {
        match self {
            Self::Relu
            | Self::Tanh
            | Self::Sigmoid
            | Self::Exp
            | Self::Sqrt
            | Self::Rsqrt
            | Self::Reciprocal => Saved::Result,
            _ => Saved::Operand,
        }
    }

    /// The name of the function and of its gradient.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Identity => ("identity", "identity_grad"),
            Self::Scale { .. } => ("scale", "scale_grad"),
            Self::Neg => ("neg", "neg_grad"),
            Self::Abs => ("abs", "abs_grad"),
            Self::Exp => ("exp", "exp_grad"),
            Self::Log => ("log", "log_grad"),
            Self::Sqrt => ("sqrt", "sqrt_grad"),
            Self::Rsqrt => ("rsqrt", "rsqrt_grad"),
            Self::Reciprocal => ("reciprocal", "reciprocal_grad"),
            Self::Erf => ("erf", "erf_grad"),
            Self::Sin => ("sin", "sin_grad"),
            Self::Cos => ("cos", "cos_grad"),
            Self::Relu => ("relu", "relu_grad"),
            Self::Gelu => ("gelu", "gelu_grad"),
            Self::GeluTanh => ("gelu_tanh", "gelu_tanh_grad"),
            Self::Tanh => ("tanh", "tanh_grad"),
            Self::Sigmoid => ("sigmoid", "sigmoid_grad"),
            Self::Softplus => ("softplus", "softplus_grad"),
            Self::Silu => ("silu", "silu_grad"),
            Self::Elu { .. } => ("elu", "elu_grad"),
            Self::LeakyRelu { .. } => ("leaky_relu", "leaky_relu_grad"),
            Self::HardSwish => ("hard_swish", "hard_swish_grad"),
            Self::HardSigmoid { .. } => ("hard_sigmoid", "hard_sigmoid_grad"),
            Self::Clip { .. } => ("clip", "clip_grad"),
            Self::Sign => ("sign", "sign_grad"),
            Self::Floor => ("floor", "floor_grad"),
            Self::Ceil => ("ceil", "ceil_grad"),
            Self::Round => ("round", "round_grad"),
        }
    }

    fn numbers(self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Scale { factor } => vec![("factor", factor)],
            Self::Elu { alpha } => vec![("alpha", alpha)],
            Self::LeakyRelu { slope } => vec![("slope", slope)],
            Self::HardSigmoid { slope, offset } => vec![("slope", slope), ("offset", offset)],
            Self::Clip { min, max } => vec![("min", min), ("max", max)],
            _ => Vec::new(),
        }
    }

    fn printed(self) -> Vec<(&'static str, String)> {
        let numbers = self.numbers().into_iter();
        numbers
            .map(|(name, number)| (name, number.to_string()))
            .collect()
    }

    fn check(self, o: &Operands<'_>) -> Result<(), GraphError> {
        for (name, number) in self.numbers() {
            if let Self::Clip { .. } = self {
                o.attribute(name, "a number", number, !number.is_nan())?;
            } else {
                o.attribute(name, "a finite number", number, number.is_finite())?;
            }
        }
        Ok(())
    }
}

impl Operator for Unary {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        self.check(o)?;
        o.count(1, 1, "1")?;
        o.one(o.float(0)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand == 0
    }

    fn is_view(&self) -> bool {
        matches!(self, Self::Identity)
    }

    fn ends_gradient(&self) -> bool {
        matches!(self, Self::Sign | Self::Floor | Self::Ceil | Self::Round)
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        match self {
            Self::Identity => rule.give(0, dy),
            Self::Scale { .. } | Self::Neg => rule.emit_to(0, *self, &[dy]),
            _ => {
                let saved = match self.saved() {
                    Saved::Result => rule.result(0),
                    Saved::Operand => rule.operand(0),
                };
                rule.emit_to(0, UnaryGrad(*self), &[saved, dy])
            }
        }
    }
}

/// `(saved, dy) -> dx`: `dy · f'`, where `saved` is the result or the operand of `f`, as
/// [`Unary::saved`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnaryGrad(pub Unary);

impl Operator for UnaryGrad {
    fn name(&self) -> &'static str {
        self.0.names().1
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        self.0.check(o)?;
        o.count(2, 2, "2")?;
        o.one(o.same(0, 1)?)
    }

    fn may_run_in_place(&self, operand: usize) -> bool {
        operand < 2
    }
}
