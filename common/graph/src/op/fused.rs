//! What the fusing passes make: a chain of element-wise operators as one node, and a convolution with
//! what follows it.

use std::fmt::Write;

use super::{Binary, BinaryGrad, Conv, ConvPart, Dropout, Op, Operator, Unary, UnaryGrad};
use crate::infer::{Inferred, Operands};
use crate::shape::Shape;

/// The most operands of a [`Fused`].
pub const FUSED_OPERANDS_MAX: usize = 8;
/// The most steps of a [`Fused`].
pub const FUSED_STEPS_MAX: usize = 16;

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// An operand of the node, broadcast to its shape.
    Operand(usize),
    /// The result of an earlier step.
    Step(usize),
}

/// What a step computes of each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// A function of one number.
    Unary(Unary),
    /// Its gradient.
    UnaryGrad(UnaryGrad),
    /// A function of two numbers.
    Binary(Binary),
    /// Its gradient for one side.
    BinaryGrad(BinaryGrad),
    /// Zeroing at random, by the element's position in the result.
    Dropout(Dropout),
}

impl Function {
    /// The function of an element-wise operator.
    #[must_use]
    pub fn of(op: &Op) -> Option<Self> {
        Some(match op {
            Op::Unary(op) => Self::Unary(*op),
            Op::UnaryGrad(op) => Self::UnaryGrad(*op),
            Op::Binary(op) => Self::Binary(*op),
            Op::BinaryGrad(op) => Self::BinaryGrad(*op),
            Op::Dropout(op) => Self::Dropout(*op),
            _ => return None,
        })
    }

    /// The operator that applies it to whole tensors.
    #[must_use]
    pub fn op(self) -> Op {
        match self {
            Self::Unary(op) => op.into(),
            Self::UnaryGrad(op) => op.into(),
            Self::Binary(op) => op.into(),
            Self::BinaryGrad(op) => op.into(),
            Self::Dropout(op) => op.into(),
        }
    }

    /// The number of arguments.
    #[must_use]
    pub fn arity(self) -> usize {
        match self {
            Self::Unary(_) | Self::Dropout(_) => 1,
            Self::UnaryGrad(_) | Self::Binary(_) => 2,
            Self::BinaryGrad(_) => 3,
        }
    }
}

/// One function applied to operands and earlier results.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The function.
    pub function: Function,
    /// Its arguments.
    pub args: Vec<Arg>,
}

/// `(a, b, ..) -> shape`: a small program of element-wise functions. Every operand broadcasts to
/// `shape`, every step is taken for each element of it, and the last step's result is the node's.
/// Made by the pass that fuses, after differentiation; it has no gradient of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// The result's shape.
    pub shape: Shape,
    /// The steps, 1 to [`FUSED_STEPS_MAX`].
    pub steps: Vec<Step>,
}

impl Fused {
    /// The keys of the streams that dropout steps draw from.
    pub(crate) fn dropout_keys(&self) -> impl Iterator<Item = u64> {
        self.steps.iter().filter_map(|step| match step.function {
            Function::Dropout(op) => Some(op.key),
            _ => None,
        })
    }

    /// Without its dropout steps; `None` if it has none.
    pub(crate) fn without_dropout(&self) -> Option<Self> {
        self.dropout_keys().next()?;
        let mut op = self.clone();
        for step in &mut op.steps {
            if let Function::Dropout(_) = step.function {
                step.function = Function::Unary(Unary::Identity);
            }
        }
        Some(op)
    }

    /// The steps, with operands named by `operand`.
    pub(crate) fn printed(&self, operand: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for (i, step) in self.steps.iter().enumerate() {
            let args = step.args.iter().map(|arg| match arg {
                Arg::Operand(i) => operand(*i),
                Arg::Step(i) => format!("t{i}"),
            });
            let args: Vec<String> = args.collect();
            let separator = if i == 0 { "" } else { "; " };
            let op = step.function.op();
            // Writing to a string doesn't fail.
            let _ = write!(text, "{separator}t{i} = {op}({})", args.join(", "));
        }
        text
    }
}

impl Operator for Fused {
    fn name(&self) -> &'static str {
        "fused"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let printed = self.printed(|operand| format!("a{operand}"));
        vec![("program", format!("{{ {printed} }}"))]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, FUSED_OPERANDS_MAX, "1 to 8")?;
        for operand in 0..o.len() {
            if o.broadcast(&o.float(operand)?, &self.shape)? != self.shape {
                return Err(o.rank_error(operand, "dimensions that stretch to the shape"));
            }
        }
        let count = self.steps.len();
        let fits = (1..=FUSED_STEPS_MAX).contains(&count);
        o.attribute("program", "1 to 16 steps", count as f64, fits)?;
        for (i, step) in self.steps.iter().enumerate() {
            let known = step.args.iter().all(|arg| match *arg {
                Arg::Operand(operand) => operand < o.len(),
                Arg::Step(step) => step < i,
            });
            let fits = known && step.args.len() == step.function.arity();
            o.attribute("program", "a step's arguments", i as f64, fits)?;
            if let Function::Dropout(op) = step.function {
                let fits = (0.0..1.0).contains(&op.rate);
                o.attribute("rate", "a number in [0, 1)", op.rate, fits)?;
            }
        }
        o.one(self.shape.clone())
    }

    fn may_run_in_place(&self, _: usize) -> bool {
        // The planner sees that an operand has as many elements as the result: none is repeated.
        true
    }

    fn in_inference(&self) -> Option<Op> {
        self.without_dropout().map(Op::from)
    }

    fn is_random(&self) -> bool {
        self.dropout_keys().next().is_some()
    }
}

/// `(x, w, b?) -> y`: a forward convolution, and [`Unary::Relu`] of its result while it is at hand.
/// Made by a pass, after differentiation; it has no gradient of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvRelu(pub Conv);

impl Operator for ConvRelu {
    fn name(&self) -> &'static str {
        "conv_relu"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.attributes()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let is_forward = self.0.part == ConvPart::Forward;
        let groups = self.0.groups as f64;
        o.attribute("part", "a forward convolution", groups, is_forward)?;
        self.0.infer(o)
    }
}
