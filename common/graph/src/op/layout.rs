//! Operators that move elements and compute nothing.

use super::{Operator, list};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape, TensorType};

/// `(x of any elements) -> shape`: the same elements in the same order; flatten, squeeze and unsqueeze
/// too. [`Shape::reshape`] finds the shape from a list with 0 and -1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// The result's shape.
    pub shape: Shape,
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("shape", self.shape.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.any(0);
        let size = x.shape.size();
        let fits = size.is_some() && size == self.shape.size();
        let got = size.map_or(f64::INFINITY, |(count, _)| count as f64);
        o.attribute("shape", "as many elements as the operand", got, fits)?;
        Ok(vec![TensorType::new(x.dtype, self.shape.clone())])
    }

    fn is_view(&self) -> bool {
        true
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let shape = rule.shape(rule.operand(0));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, Self { shape }, &[dy])
    }
}

/// `(x) -> x's dimensions in another order`: dimension `i` of the result is `order[i]` of x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// The operand's dimensions in the result's order.
    pub order: Vec<usize>,
}

impl Operator for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("order", list(&self.order))]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        let fits = sorted.iter().copied().eq(0..x.rank());
        let count = self.order.len() as f64;
        o.attribute("order", "each dimension once", count, fits)?;
        let dims = self.order.iter().map(|&axis| x.dims()[axis]);
        o.one(Shape::new(dims.collect()))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let mut order = vec![0; self.order.len()];
        for (i, &axis) in self.order.iter().enumerate() {
            order[axis] = i;
        }
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, Self { order }, &[dy])
    }
}

/// `(a, b, ..) -> one tensor`: the operands one after another along a dimension that isn't the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The dimension.
    pub axis: usize,
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string())]
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, usize::MAX, "at least 1")?;
        let mut dims = o.float(0)?.dims().to_vec();
        let mut total = 0usize;
        for operand in 0..o.len() {
            let shape = o.float(operand)?;
            let len = o.fixed_axis(operand, self.axis)?;
            dims[self.axis] = Dim::Fixed(len);
            o.shape(operand, &dims)?;
            total = total.saturating_add(len);
            debug_assert_eq!(shape.rank(), dims.len());
        }
        dims[self.axis] = Dim::Fixed(total);
        o.one(Shape::new(dims))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        let mut start = 0;
        for operand in 0..rule.operand_count() {
            let shape = rule.shape(rule.operand(operand));
            let len = shape.dims()[self.axis].fixed().unwrap_or(1);
            let slice = Slice {
                axis: self.axis,
                start,
                step: 1,
                len,
            };
            rule.emit_to(operand, slice, &[dy])?;
            start += len;
        }
        Ok(())
    }
}

/// `(x) -> x with `len` elements along a dimension that isn't the batch`: those at `start`, `start +
/// step`, …. A split is a slice for each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The dimension.
    pub axis: usize,
    /// The first position.
    pub start: usize,
    /// From one position to the next; may be negative, not 0.
    pub step: isize,
    /// The number of positions, at least 1.
    pub len: usize,
}

/// `(dy) -> dx`: the gradient of [`Slice`] of a dimension that had `dim` elements: dy at its
/// positions, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceGrad {
    /// The slice.
    pub slice: Slice,
    /// The elements along the dimension before the slice.
    pub dim: usize,
}

impl Slice {
    fn printed(&self) -> Vec<(&'static str, String)> {
        vec![
            ("axis", self.axis.to_string()),
            ("start", self.start.to_string()),
            ("step", self.step.to_string()),
            ("len", self.len.to_string()),
        ]
    }

    fn check(&self, o: &Operands<'_>, dim: usize) -> Result<(), GraphError> {
        let steps = self.len.saturating_sub(1) as isize;
        let last = self
            .step
            .checked_mul(steps)
            .and_then(|way| way.checked_add_unsigned(self.start));
        let inside = last.is_some_and(|last| last >= 0 && (last as usize) < dim);
        let fits = self.step != 0 && self.len > 0 && self.start < dim && inside;
        let got = self.start as f64;
        o.attribute("start", "positions inside the dimension", got, fits)
    }
}

fn with_dim(shape: &Shape, axis: usize, dim: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims[axis] = Dim::Fixed(dim);
    Shape::new(dims)
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        self.check(o, o.fixed_axis(0, self.axis)?)?;
        o.one(with_dim(&x, self.axis, self.len))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let shape = rule.shape(rule.operand(0));
        let dim = shape.dims()[self.axis].fixed().unwrap_or(1);
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, SliceGrad { slice: *self, dim }, &[dy])
    }
}

impl Operator for SliceGrad {
    fn name(&self) -> &'static str {
        "slice_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut list = self.slice.printed();
        list.push(("dim", self.dim.to_string()));
        list
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let dy = o.float(0)?;
        let len = o.fixed_axis(0, self.slice.axis)?;
        let fits = len == self.slice.len;
        o.attribute("len", "the dimension of the operand", len as f64, fits)?;
        self.slice.check(o, self.dim)?;
        o.one(with_dim(&dy, self.slice.axis, self.dim))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, self.slice, &[dy])
    }
}

/// What stands in the margin of [`Pad`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// This number.
    Constant(f64),
    /// The elements mirrored at the end, without the end itself.
    Reflect,
    /// The element at the end.
    Edge,
}

/// `(x) -> x with a margin along a dimension that isn't the batch`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pad {
    /// The dimension.
    pub axis: usize,
    /// New elements before the first.
    pub before: usize,
    /// New elements after the last.
    pub after: usize,
    /// What they are.
    pub margin: Margin,
}

/// `(dy) -> dx`: the gradient of [`Pad`]: each element's own and those of its copies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PadGrad(pub Pad);

impl Pad {
    fn printed(&self) -> Vec<(&'static str, String)> {
        let margin = match self.margin {
            Margin::Constant(number) => number.to_string(),
            Margin::Reflect => "reflect".to_owned(),
            Margin::Edge => "edge".to_owned(),
        };
        vec![
            ("axis", self.axis.to_string()),
            ("before", self.before.to_string()),
            ("after", self.after.to_string()),
            ("margin", margin),
        ]
    }

    fn check(&self, o: &Operands<'_>, dim: usize) -> Result<(), GraphError> {
        let most = self.before.max(self.after);
        let fits = self.margin != Margin::Reflect || most < dim;
        o.attribute(
            "before, after",
            "less than the dimension",
            most as f64,
            fits,
        )
    }
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let x = o.float(0)?;
        let dim = o.fixed_axis(0, self.axis)?;
        self.check(o, dim)?;
        o.one(with_dim(
            &x,
            self.axis,
            self.before.saturating_add(dim).saturating_add(self.after),
        ))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        rule.emit_to(0, PadGrad(*self), &[dy])
    }
}

impl Operator for PadGrad {
    fn name(&self) -> &'static str {
        "pad_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.0.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let dy = o.float(0)?;
        let padded = o.fixed_axis(0, self.0.axis)?;
        let dim = padded.saturating_sub(self.0.before.saturating_add(self.0.after));
        let expected = "more elements than the margin";
        o.attribute("before, after", expected, padded as f64, dim > 0)?;
        self.0.check(o, dim)?;
        o.one(with_dim(&dy, self.0.axis, dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::shape::DType;

    #[test]
    fn attributes_out_of_range_are_refused() {
        let mut graph = Graph::new("g", DType::F32).unwrap();
        let ty = TensorType::new(DType::F32, Shape::batched(&[4, 5]));
        let x = graph.add_input("x", ty).unwrap();
        let slice = Slice {
            axis: 1,
            start: 3,
            step: -1,
            len: 4,
        };
        assert!(graph.apply(slice, &[x]).is_ok());
        assert!(graph.apply(Slice { len: 5, ..slice }, &[x]).is_err());
        assert!(graph.apply(Slice { step: 0, ..slice }, &[x]).is_err());
        assert!(graph.apply(Slice { axis: 0, ..slice }, &[x]).is_err());
        let order = |order: &[usize]| Transpose {
            order: order.to_vec(),
        };
        assert!(graph.apply(order(&[2, 0, 1]), &[x]).is_ok());
        assert!(graph.apply(order(&[2, 0, 0]), &[x]).is_err());
        let shape = Shape::batched(&[21]);
        assert!(graph.apply(Reshape { shape }, &[x]).is_err());
        assert!(graph.apply(Concat { axis: 0 }, &[x, x]).is_err());
        let pad = Pad {
            axis: 1,
            before: 4,
            after: 0,
            margin: Margin::Reflect,
        };
        assert!(graph.apply(pad, &[x]).is_err());
        // Sizes that overflow are refused when they are planned, not here.
        let huge = Pad {
            before: usize::MAX,
            margin: Margin::Edge,
            ..pad
        };
        assert!(graph.apply(huge, &[x]).is_ok());
    }
}
