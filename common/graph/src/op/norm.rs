//! Normalisations, with their gradients fused.

use super::{Op, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape};

/// What is normalised together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormOver {
    /// `(x [r.., d..], w [d..], b [d..]) -> (y, mean [r..], rstd [r..])`: the dimensions from `axis`
    /// on.
    Layer {
        /// The first of the dimensions `d..`.
        axis: usize,
    },
    /// `(x [r.., d..], w [d..]) -> (y, rstd [r..])`: the same without a mean: `rstd` is one over the
    /// root of the mean square.
    Rms {
        /// The first of the dimensions `d..`.
        axis: usize,
    },
    /// `(x [n, c, ..], w [c], b [c]) -> (y, mean [n, groups], rstd [n, groups])`: groups of adjacent
    /// channels of each sample. As many groups as channels: instance normalisation.
    Group {
        /// The number of groups, a divisor of the channels.
        groups: usize,
    },
    /// `(x [n, c, ..], w [c], b [c], running_mean [c], running_var [c]) -> (y, mean [c], rstd [c],
    /// new_running_mean [c], new_running_var [c])`: each channel over the samples. New running
    /// statistics are `(1 - momentum) · old + momentum · batch's`, with the unbiased variance, as
    /// PyTorch's. In evaluation and prediction y comes of the running statistics.
    Batch {
        /// The weight of the batch's statistics, in `[0, 1]`.
        momentum: f64,
    },
    /// [`NormOver::Batch`] in evaluation and prediction: only y is computed.
    Running,
}

/// `y = (x - mean) · rstd · w + b` with `rstd = 1 / √(variance + eps)`; the variance is the biased
/// one. Operands and results: see [`NormOver`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// What is normalised together.
    pub over: NormOver,
    /// Added to the variance, positive.
    pub eps: f64,
}

/// `(x, w, mean, rstd, dy) -> (dx, dw, db)`, for RMS `(x, w, rstd, dy) -> (dx, dw)`: the gradient of
/// [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormGrad(pub Norm);

/// The shapes that a normalisation of x goes by.
struct Parts {
    /// Of w and b.
    weight: Shape,
    /// Of mean and rstd.
    rows: Shape,
}

impl Norm {
    fn names(&self) -> (&'static str, &'static str) {
        match self.over {
            NormOver::Layer { .. } => ("layer_norm", "layer_norm_grad"),
            NormOver::Rms { .. } => ("rms_norm", "rms_norm_grad"),
            NormOver::Group { .. } => ("group_norm", "group_norm_grad"),
            NormOver::Batch { .. } => ("batch_norm", "batch_norm_grad"),
            NormOver::Running => ("batch_norm_running", "batch_norm_running_grad"),
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        let own = match self.over {
            NormOver::Layer { axis } | NormOver::Rms { axis } => vec![("axis", axis.to_string())],
            NormOver::Group { groups } => vec![("groups", groups.to_string())],
            NormOver::Batch { momentum } => vec![("momentum", momentum.to_string())],
            NormOver::Running => Vec::new(),
        };
        own.into_iter()
            .chain([("eps", self.eps.to_string())])
            .collect()
    }

    fn is_rms(&self) -> bool {
        matches!(self.over, NormOver::Rms { .. })
    }

    fn parts(&self, o: &Operands<'_>) -> Result<Parts, GraphError> {
        let fits = self.eps.is_finite() && self.eps > 0.0;
        o.attribute("eps", "a positive number", self.eps, fits)?;
        let x = o.float(0)?;
        if let NormOver::Layer { axis } | NormOver::Rms { axis } = self.over {
            o.axis(0, axis)?;
            let (rows, weight) = x.dims().split_at(axis);
            let weight = Shape::new(weight.to_vec());
            let fits = !weight.has_batch();
            o.attribute("axis", "dimensions without the batch", axis as f64, fits)?;
            return Ok(Parts {
                weight,
                rows: Shape::new(rows.to_vec()),
            });
        }
        if x.rank() < 2 {
            return Err(o.rank_error(0, "at least 2"));
        }
        let channels = o.fixed_axis(0, 1)?;
        let weight = Shape::fixed(&[channels]);
        let rows = match self.over {
            NormOver::Group { groups } => {
                let fits = groups > 0 && channels.is_multiple_of(groups);
                o.attribute("groups", "a divisor of the channels", groups as f64, fits)?;
                Shape::new(vec![x.dims()[0], Dim::Fixed(groups)])
            }
            NormOver::Batch { momentum } => {
                let fits = (0.0..=1.0).contains(&momentum);
                o.attribute("momentum", "a number in [0, 1]", momentum, fits)?;
                weight.clone()
            }
            _ => weight.clone(),
        };
        Ok(Parts { weight, rows })
    }
}

impl Operator for Norm {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self.over {
            NormOver::Rms { .. } => o.count(2, 2, "2")?,
            NormOver::Layer { .. } | NormOver::Group { .. } => o.count(3, 3, "3")?,
            NormOver::Batch { .. } | NormOver::Running => o.count(5, 5, "5")?,
        }
        let Parts { weight, rows } = self.parts(o)?;
        for operand in 1..o.len() {
            o.float_shape(operand, weight.dims())?;
        }
        let x = o.float(0)?;
        match self.over {
            NormOver::Rms { .. } => o.floats([x, rows]),
            NormOver::Layer { .. } | NormOver::Group { .. } => o.floats([x, rows.clone(), rows]),
            NormOver::Batch { .. } | NormOver::Running => {
                o.floats([x, rows.clone(), rows.clone(), rows.clone(), rows])
            }
        }
    }

    fn in_inference(&self) -> Option<Op> {
        let running = Self {
            over: NormOver::Running,
            eps: self.eps,
        };
        matches!(self.over, NormOver::Batch { .. }).then(|| running.into())
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if self.over == NormOver::Running {
            return Err(rule.not_differentiable());
        }
        let (x, w) = (rule.operand(0), rule.operand(1));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        if self.is_rms() {
            let grads = rule.emit_all(NormGrad(*self), &[x, w, rule.result(1), dy])?;
            rule.give(1, grads[1])?;
            return rule.give(0, grads[0]);
        }
        let (mean, rstd) = (rule.result(1), rule.result(2));
        let grads = rule.emit_all(NormGrad(*self), &[x, w, mean, rstd, dy])?;
        rule.give(1, grads[1])?;
        rule.give(2, grads[2])?;
        rule.give(0, grads[0])
    }
}

impl Operator for NormGrad {
    fn name(&self) -> &'static str {
        self.0.names().1
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let count = if self.0.is_rms() { 4 } else { 5 };
        o.count(count, count, if count == 4 { "4" } else { "5" })?;
        let Parts { weight, rows } = self.0.parts(o)?;
        o.float_shape(1, weight.dims())?;
        for operand in 2..count - 1 {
            o.float_shape(operand, rows.dims())?;
        }
        let x = o.same(0, count - 1)?;
        match count {
            4 => o.floats([x, weight]),
            _ => o.floats([x, weight.clone(), weight]),
        }
    }
}
