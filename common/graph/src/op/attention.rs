//! Scaled-dot-product attention as one operator, with its gradient.
//!
//! Backward computes the scores again in blocks, from the log-sum-exp of each row that forward saves,
//! so that nothing of the size queries × keys is ever held (Dao: "FlashAttention-2", 2023).

use super::{Dropout, Op, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::graph::ValueId;
use crate::infer::{Inferred, Operands};
use crate::shape::{DType, Dim, Shape};

/// How queries, keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionLayout {
    /// `(q [.., h, t, d], k [.., g, s, d], v [.., g, s, e], mask?) -> (y [.., h, t, e], lse [.., h, t])`;
    /// h is a multiple of g, and adjacent heads of q share those of k and v (grouped queries).
    Heads,
    /// `(qkv [.., t, (heads + 2 · groups) · d], mask?) -> (y [.., t, heads · d], lse [.., heads, t])`:
    /// in each row first the heads of q, then those of k, then those of v.
    Packed {
        /// Heads of q.
        heads: usize,
        /// Heads of k and of v: a divisor of `heads`.
        groups: usize,
    },
}

/// `y = softmax(scale · q kᵀ + mask) v` for each head; `lse` is the logarithm of the softmax's sum.
///
/// The mask broadcasts to `[.., h, t, s]`: floats are added, truth values say where attention may go
/// (PyTorch's convention). A row that may go nowhere has y = 0 and lse = -∞.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// How the operands lie.
    pub layout: AttentionLayout,
    /// Query i sees only keys j ≤ i.
    pub causal: bool,
    /// The factor of the scores, finite; `None`: 1 / √d.
    pub scale: Option<f64>,
    /// In training the probabilities are dropped before they meet v. Element i of the mask, which is
    /// that of a tensor `[.., h, t, s']` with s' the next multiple of 4 from s, is computed where it is
    /// needed and never held; `lse` is as without.
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// Heads apart, no causality, the usual scale.
    #[must_use]
    pub fn heads() -> Self {
        Self {
            layout: AttentionLayout::Heads,
            causal: false,
            scale: None,
            dropout: None,
        }
    }

    /// The packed queries, keys and values of one projection, all with as many heads.
    #[must_use]
    pub fn packed(heads: usize, causal: bool) -> Self {
        let groups = heads;
        Self {
            layout: AttentionLayout::Packed { heads, groups },
            causal,
            scale: None,
            dropout: None,
        }
    }

    /// The operands before the mask: 1 or 3.
    #[must_use]
    pub fn sources(&self) -> usize {
        match self.layout {
            AttentionLayout::Heads => 3,
            AttentionLayout::Packed { .. } => 1,
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::new();
        if let AttentionLayout::Packed { heads, groups } = self.layout {
            list.push(("heads", heads.to_string()));
            list.push(("groups", groups.to_string()));
        }
        list.push(("causal", self.causal.to_string()));
        list.extend(self.scale.map(|scale| ("scale", scale.to_string())));
        if let Some(Dropout { rate, key }) = self.dropout {
            list.push(("dropout", rate.to_string()));
            list.push(("key", key.to_string()));
        }
        list
    }

    /// The shapes of the results y and lse, and `[.., h, t, s]`.
    fn shapes(&self, o: &Operands<'_>) -> Result<[Shape; 3], GraphError> {
        let scale = self.scale.unwrap_or(1.0);
        o.attribute("scale", "a finite number", scale, scale.is_finite())?;
        if let Some(dropout) = self.dropout {
            dropout.check(o)?;
        }
        let (leading, [h, t, s], y) = match self.layout {
            AttentionLayout::Heads => {
                let (leading, [h, t, d]) = split(o, 0)?;
                let (_, [groups, s, _]) = split(o, 1)?;
                let (_, [.., e]) = split(o, 2)?;
                let fits = groups > 0 && h.is_multiple_of(groups);
                o.attribute("heads", "a multiple of those of k", h as f64, fits)?;
                o.shape(1, with(&leading, &[groups, s, d]).dims())?;
                o.shape(2, with(&leading, &[groups, s, e]).dims())?;
                let y = with(&leading, &[h, t, e]);
                (leading, [h, t, s], y)
            }
            AttentionLayout::Packed { heads, groups } => {
                let fits = groups > 0 && heads > 0 && heads.is_multiple_of(groups);
                let expected = "a positive multiple of the groups";
                o.attribute("heads", expected, heads as f64, fits)?;
                let shape = o.float(0)?;
                let Some((leading, &[Dim::Fixed(t), Dim::Fixed(width)])) =
                    shape.dims().split_last_chunk::<2>()
                else {
                    return Err(o.rank_error(0, "at least 2, the batch not among the last 2"));
                };
                let parts = groups.saturating_mul(2).saturating_add(heads);
                let fits = width > 0 && width.is_multiple_of(parts);
                let expected = "a divisor of the last dimension: heads + 2 · groups";
                o.attribute("heads", expected, width as f64, fits)?;
                let y = with(leading, &[t, width / parts * heads]);
                (leading.to_vec(), [heads, t, t], y)
            }
        };
        Ok([y, with(&leading, &[h, t]), with(&leading, &[h, t, s])])
    }

    /// Checks the mask, if there is one among `own` operands.
    fn check_mask(&self, o: &Operands<'_>, own: usize, scores: &Shape) -> Result<(), GraphError> {
        let operand = self.sources();
        if own == operand {
            return Ok(());
        }
        let mask = match o.any(operand).dtype {
            DType::Bool => o.bool(operand)?,
            _ => o.float(operand)?,
        };
        if o.broadcast(&mask, scores)? != *scores {
            return Err(o.rank_error(operand, "dimensions that stretch to [.., h, t, s]"));
        }
        Ok(())
    }
}

/// The leading dimensions and the last three of an operand.
fn split(o: &Operands<'_>, operand: usize) -> Result<(Vec<Dim>, [usize; 3]), GraphError> {
    let shape = o.float(operand)?;
    match shape.dims().split_last_chunk::<3>() {
        Some((leading, &[Dim::Fixed(a), Dim::Fixed(b), Dim::Fixed(c)])) => {
            Ok((leading.to_vec(), [a, b, c]))
        }
        _ => Err(o.rank_error(operand, "at least 3, the batch not among the last 3")),
    }
}

fn with(leading: &[Dim], last: &[usize]) -> Shape {
    let last = last.iter().map(|&n| Dim::Fixed(n));
    Shape::new(leading.iter().copied().chain(last).collect())
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self.layout {
            AttentionLayout::Heads => o.count(3, 4, "3 or 4")?,
            AttentionLayout::Packed { .. } => o.count(1, 2, "1 or 2")?,
        }
        let [y, lse, scores] = self.shapes(o)?;
        self.check_mask(o, o.len(), &scores)?;
        o.floats([y, lse])
    }

    fn in_inference(&self) -> Option<Op> {
        let plain = Self {
            dropout: None,
            ..*self
        };
        self.dropout.map(|_| plain.into())
    }

    fn is_random(&self) -> bool {
        self.dropout.is_some()
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        if rule.dy(1).is_some() {
            // The logarithm is for backward alone.
            return Err(rule.not_differentiable());
        }
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        let (count, sources) = (rule.operand_count(), self.sources());
        let mut operands: Vec<ValueId> = (0..count).map(|i| rule.operand(i)).collect();
        operands.extend([rule.result(0), rule.result(1), dy]);
        let grad = AttentionGrad {
            attention: *self,
            mask: count > sources,
            mask_gradient: count > sources && rule.wants(sources),
        };
        let grads = rule.emit_all(Op::from(grad), &operands)?;
        for (operand, grad) in grads.into_iter().enumerate() {
            rule.give(operand, grad)?;
        }
        Ok(())
    }
}

/// `(operands of the attention.., y, lse, dy) -> (gradients of q, k and v, or of qkv; of a mask of
/// floats if wanted)`: the gradient of [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionGrad {
    /// The attention.
    pub attention: Attention,
    /// It has a mask.
    pub mask: bool,
    /// The last result is the mask's gradient.
    pub mask_gradient: bool,
}

impl Operator for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut list = self.attention.printed();
        list.push(("mask", self.mask.to_string()));
        list.push(("mask_gradient", self.mask_gradient.to_string()));
        list
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let sources = self.attention.sources();
        let own = sources + usize::from(self.mask);
        let expected = "those of the attention, y, lse and dy";
        o.count(own + 3, own + 3, expected)?;
        let [y, lse, scores] = self.attention.shapes(o)?;
        self.attention.check_mask(o, own, &scores)?;
        o.float_shape(own, y.dims())?;
        o.float_shape(own + 1, lse.dims())?;
        o.float_shape(own + 2, y.dims())?;
        let mut shapes = Vec::with_capacity(4);
        for operand in 0..sources + usize::from(self.mask_gradient) {
            shapes.push(o.float(operand)?);
        }
        o.floats(shapes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::shape::TensorType;

    #[test]
    fn shapes_and_masks_are_checked() {
        let mut graph = Graph::new("g", DType::F32).unwrap();
        let mut input = |name: &str, dtype, dims: &[usize]| {
            let ty = TensorType::new(dtype, Shape::batched(dims));
            graph.add_input(name, ty).unwrap()
        };
        let q = input("q", DType::F32, &[4, 5, 8]);
        let k = input("k", DType::F32, &[2, 7, 8]);
        let v = input("v", DType::F32, &[2, 7, 3]);
        let odd = input("odd", DType::F32, &[3, 7, 8]);
        let mask = input("mask", DType::Bool, &[1, 5, 7]);
        let wide = input("wide", DType::Bool, &[1, 5, 8]);
        let qkv = input("qkv", DType::F32, &[5, 24]);
        let heads = Attention::heads();
        let results = graph.apply_all(heads, &[q, k, v, mask]).unwrap();
        let shape = |graph: &Graph, v: ValueId| graph.value(v).ty.shape.clone();
        assert_eq!(shape(&graph, results[0]), Shape::batched(&[4, 5, 3]));
        assert_eq!(shape(&graph, results[1]), Shape::batched(&[4, 5]));
        assert!(graph.apply_all(heads, &[q, k, v, wide]).is_err());
        assert!(graph.apply_all(heads, &[q, odd, v]).is_err());
        assert!(graph.apply_all(heads, &[q, v, k]).is_err());
        let results = graph.apply_all(Attention::packed(2, true), &[qkv]).unwrap();
        assert_eq!(shape(&graph, results[0]), Shape::batched(&[5, 8]));
        assert!(graph.apply_all(Attention::packed(5, true), &[qkv]).is_err());
        assert!(graph.apply_all(Attention::packed(0, true), &[qkv]).is_err());
        let rate = 1.0;
        let dropout = Some(Dropout { rate, key: 0 });
        let certain = Attention { dropout, ..heads };
        assert!(graph.apply_all(certain, &[q, k, v]).is_err());
        let scale = Some(f64::NAN);
        assert!(
            graph
                .apply_all(Attention { scale, ..heads }, &[q, k, v])
                .is_err()
        );
    }
}
