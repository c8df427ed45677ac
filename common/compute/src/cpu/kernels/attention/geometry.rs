//! Sizes of an attention, where its operands' rows lie, and the products of a block.

use ringfold_graph::op::{Attention, AttentionGrad, AttentionLayout};

use super::{KEYS, QUERIES, UNITS_MAX};
use crate::backend::Precision;
use crate::cpu::gemm::{MatMul, RowStrides, matmul_strided};
use crate::element::Element;

/// Where a tensor's rows lie within its piece of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    /// Elements of a part.
    pub(super) part: usize,
    /// The first row of the first head.
    pub(super) first: usize,
    /// From one head to the next.
    pub(super) head: usize,
    /// From one row to the next.
    pub(super) row: usize,
    /// Elements of a row.
    pub(super) len: usize,
}

impl Plane {
    /// Heads of `rows` rows one after another, `heads` a part.
    pub(super) fn dense(heads: usize, rows: usize, len: usize) -> Self {
        Self {
            part: heads * rows * len,
            first: 0,
            head: rows * len,
            row: len,
            len,
        }
    }

    /// A part's piece of the tensor.
    pub(super) fn piece<T>(self, all: &[T], part: usize) -> &[T] {
        &all[part * self.part..][..self.part]
    }

    /// Where row `row` of a head begins in a part's piece.
    pub(super) fn at(&self, head: usize, row: usize) -> usize {
        self.first + head * self.head + row * self.row
    }
}

/// Sizes and places. A *part* is what may run apart from others: a sample, or a head of keys with
/// the heads of queries that share it where these lie together.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) causal: bool,
    pub(super) scale: f64,
    pub(super) parts: usize,
    /// Units that the parts are spread over, at most.
    pub(super) units_max: usize,
    /// Heads of keys and values in a part.
    pub(super) groups: usize,
    /// Heads of queries for each of these.
    pub(super) share: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) q: Plane,
    pub(super) k: Plane,
    pub(super) v: Plane,
    pub(super) y: Plane,
    /// The result and its gradient have one operand: q, k and v are planes of one tensor.
    pub(super) packed: bool,
}

impl Geometry {
    pub(super) fn new(op: Attention, operands: &[Vec<usize>]) -> Self {
        let shape = &operands[0];
        let geometry = match op.layout {
            AttentionLayout::Heads => {
                let (leading, last) = shape.split_at(shape.len() - 3);
                let [heads, queries, d] = [last[0], last[1], last[2]];
                let [groups, keys] = [3, 2].map(|i| operands[1][operands[1].len() - i]);
                let e = operands[2][operands[2].len() - 1];
                let share = heads / groups;
                Self {
                    parts: leading.iter().product::<usize>() * groups,
                    groups: 1,
                    share,
                    queries,
                    keys,
                    q: Plane::dense(share, queries, d),
                    k: Plane::dense(1, keys, d),
                    v: Plane::dense(1, keys, e),
                    y: Plane::dense(share, queries, e),
                    packed: false,
                    causal: op.causal,
                    scale: 0.0,
                    units_max: UNITS_MAX,
                }
            }
            AttentionLayout::Packed { heads, groups } => {
                let (leading, last) = shape.split_at(shape.len() - 2);
                let [t, row] = [last[0], last[1]];
                let d = row / (heads + 2 * groups);
                let plane = |before: usize| Plane {
                    part: t * row,
                    first: before * d,
                    head: d,
                    row,
                    len: d,
                };
                Self {
                    parts: leading.iter().product(),
                    groups,
                    share: heads / groups,
                    queries: t,
                    keys: t,
                    q: plane(0),
                    k: plane(heads),
                    v: plane(heads + groups),
                    y: Plane {
                        part: t * heads * d,
                        first: 0,
                        head: d,
                        row: heads * d,
                        len: d,
                    },
                    packed: true,
                    causal: op.causal,
                    scale: 0.0,
                    units_max: UNITS_MAX,
                }
            }
        };
        let usual = 1.0 / (geometry.q.len as f64).sqrt();
        Self {
            scale: op.scale.unwrap_or(usual),
            ..geometry
        }
    }

    /// A mask's gradient is a sum over all parts: one unit then does everything.
    pub(super) fn of_grad(op: AttentionGrad, operands: &[Vec<usize>]) -> Self {
        let units_max = if op.mask_gradient { 1 } else { UNITS_MAX };
        Self {
            units_max,
            ..Self::new(op.attention, operands)
        }
    }

    pub(super) fn heads(&self) -> usize {
        self.groups * self.share
    }

    /// Parts of a unit.
    pub(super) fn unit_parts(&self) -> usize {
        self.parts.div_ceil(self.units_max).max(1)
    }

    pub(super) fn units(&self) -> usize {
        self.parts.div_ceil(self.unit_parts())
    }

    /// Two blocks; Σ y · dy for each query of the heads that share keys.
    pub(super) fn backward_scratch(&self) -> usize {
        2 * QUERIES * KEYS + self.share * self.queries
    }

    /// The parts of a unit.
    pub(super) fn parts_of(&self, unit: usize) -> std::ops::Range<usize> {
        let first = unit * self.unit_parts();
        first..(first + self.unit_parts()).min(self.parts)
    }

    /// How many of the keys from `key` on, at most `count`, a query sees.
    pub(super) fn seen(&self, query: usize, key: usize, count: usize) -> usize {
        match self.causal {
            true => (query + 1).saturating_sub(key).min(count),
            false => count,
        }
    }
}

/// A block of scores: its rows and columns, and where the mask of the first begins.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) query: usize,
    pub(super) rows: usize,
    pub(super) key: usize,
    pub(super) columns: usize,
    pub(super) mask: usize,
    /// Counted over all parts.
    pub(super) head: usize,
    /// Of products.
    pub(super) precision: Precision,
}

impl Block {
    /// `scores = factor · rows of a · rows of bᵀ`.
    pub(super) fn product<T: Element>(
        &self,
        scores: &mut [T],
        a: (&[T], Plane),
        b: (&[T], Plane),
        factor: T,
    ) {
        let spec = MatMul {
            m: self.rows,
            n: self.columns,
            k: a.1.len,
            lhs_transposed: false,
            rhs_transposed: true,
            accumulate: false,
            threads: 1,
            precision: self.precision,
        };
        let strides = RowStrides {
            dst: KEYS,
            lhs: a.1.row,
            rhs: b.1.row,
        };
        matmul_strided(&spec, &strides, factor, scores, a.0, b.0);
    }

    /// `to += factor · scores · rows of b`; with the scores transposed, `to` has a row a key.
    pub(super) fn add<T: Element>(
        &self,
        (to, plane): (&mut [T], Plane),
        scores: &[T],
        transposed: bool,
        b: (&[T], Plane),
        factor: T,
    ) {
        let (m, k) = match transposed {
            true => (self.columns, self.rows),
            false => (self.rows, self.columns),
        };
        let spec = MatMul {
            m,
            n: plane.len,
            k,
            lhs_transposed: transposed,
            rhs_transposed: false,
            accumulate: true,
            threads: 1,
            precision: self.precision,
        };
        let strides = RowStrides {
            dst: plane.row,
            lhs: KEYS,
            rhs: b.1.row,
        };
        matmul_strided(&spec, &strides, factor, to, scores, b.0);
    }
}
