//! Reductions over dimensions.

use super::{Operator, list};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::graph::ValueId;
use crate::infer::{Inferred, Operands};
use crate::op::{Expand, Reshape};
use crate::shape::{DType, Dim, Shape, TensorType};

/// What a reduction computes of the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest; NaN if there is one. Ties share the gradient evenly, as PyTorch's `amax`.
    Max,
    /// The smallest; NaN if there is one. Ties share the gradient evenly, as PyTorch's `amin`.
    Min,
    /// Their product.
    Prod,
    /// `log Σ eˣ`, computed without overflow.
    LogSumExp,
    /// `Σ |x|`.
    L1,
    /// `√Σ x²`; the gradient at 0 is 0.
    L2,
}

/// `(x) -> x's shape without some dimensions, or with 1 in their place`. The order of the sums is
/// fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// What is computed.
    pub reduction: Reduction,
    /// The dimensions that go, ascending; all elements if every dimension is listed.
    pub axes: Vec<usize>,
    /// Keeps the dimensions as 1.
    pub keep: bool,
}

/// `(x, y, dy) -> dx`: the gradient of [`Reduce`], which `y` is the result of. `y` and `dy` have 1 in
/// place of the dimensions that were reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReduceGrad {
    /// What was computed: not the sum or mean, whose gradients are made of other operators.
    pub reduction: Reduction,
}

/// `(x) -> i64, x's shape without a dimension`: the position of the first largest element. Gradients end
/// here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgMax {
    /// The dimension that goes.
    pub axis: usize,
    /// Keeps the dimension as 1.
    pub keep: bool,
}

/// The shape after a reduction over `axes`.
fn reduced(x: &Shape, axes: &[usize], keep: bool) -> Shape {
    let dims = x.dims().iter().enumerate();
    let left = dims.filter_map(|(axis, &dim)| match axes.contains(&axis) {
        true => keep.then_some(Dim::Fixed(1)),
        false => Some(dim),
    });
    Shape::new(left.collect())
}

impl Reduction {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Sum => ("reduce_sum", "reduce_sum_grad"),
            Self::Mean => ("reduce_mean", "reduce_mean_grad"),
            Self::Max => ("reduce_max", "reduce_max_grad"),
            Self::Min => ("reduce_min", "reduce_min_grad"),
            Self::Prod => ("reduce_prod", "reduce_prod_grad"),
            Self::LogSumExp => ("reduce_log_sum_exp", "reduce_log_sum_exp_grad"),
            Self::L1 => ("reduce_l1", "reduce_l1_grad"),
            Self::L2 => ("reduce_l2", "reduce_l2_grad"),
        }
    }
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        self.reduction.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("axes", list(&self.axes)), ("keep", self.keep.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        for &axis in &self.axes {
            o.axis(0, axis)?;
        }
        let ascending = self.axes.windows(2).all(|pair| pair[0] < pair[1]);
        let count = self.axes.len() as f64;
        o.attribute("axes", "ascending dimensions", count, ascending)?;
        o.one(reduced(&x, &self.axes, self.keep))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let (x, y) = (rule.operand(0), rule.result(0));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        if !rule.wants(0) {
            return Ok(());
        }
        let shape = rule.shape(x);
        let kept = reduced(&shape, &self.axes, true);
        let keep = |rule: &mut Rule<'_>, value: ValueId| -> Result<ValueId, GraphError> {
            if rule.shape(value) == kept {
                return Ok(value);
            }
            let reshape = Reshape {
                shape: kept.clone(),
            };
            rule.emit(reshape, &[value])
        };
        let dy = keep(rule, dy)?;
        match self.reduction {
            Reduction::Sum => rule.emit_to(0, Expand { shape }, &[dy]),
            Reduction::Mean => rule.emit_to(0, Spread { shape }, &[dy]),
            reduction => {
                let y = keep(rule, y)?;
                rule.emit_to(0, ReduceGrad { reduction }, &[x, y, dy])
            }
        }
    }
}

/// `(x) -> shape`: x repeated to the shape as by [`Expand`] and divided by the number of
/// repetitions: the gradient of a mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The result's shape, to which x's broadcasts without new dimensions.
    pub shape: Shape,
}

impl Operator for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("shape", self.shape.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        if x.rank() != self.shape.rank() || o.broadcast(&x, &self.shape)? != self.shape {
            return Err(o.rank_error(0, "dimensions that stretch to the shape"));
        }
        o.one(self.shape.clone())
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let from = rule.shape(rule.operand(0));
        let pairs = from.dims().iter().zip(self.shape.dims()).enumerate();
        let axes = pairs.filter(|(_, (from, to))| from != to);
        let mean = Reduce {
            reduction: Reduction::Mean,
            axes: axes.map(|(axis, _)| axis).collect(),
            keep: true,
        };
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, mean, &[dy])
    }
}

impl Operator for ReduceGrad {
    fn name(&self) -> &'static str {
        self.reduction.names().1
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(3, 3, "3")?;
        let (x, y) = (o.float(0)?, o.same(1, 2)?);
        let shape = o.broadcast(&x, &y)?;
        o.shape(0, shape.dims())?;
        o.one(x)
    }
}

impl Operator for ArgMax {
    fn name(&self) -> &'static str {
        "arg_max"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("axis", self.axis.to_string()),
            ("keep", self.keep.to_string()),
        ]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        o.axis(0, self.axis)?;
        let shape = reduced(&x, &[self.axis], self.keep);
        Ok(vec![TensorType::new(DType::I64, shape)])
    }

    fn ends_gradient(&self) -> bool {
        true
    }
}
