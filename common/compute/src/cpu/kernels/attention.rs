//! Kernels of scaled-dot-product attention (Dao: "FlashAttention-2: faster attention with better
//! parallelism and work partitioning", 2023, algorithms 1 and 2).
//!
//! Scores are computed in blocks of [`QUERIES`] × [`KEYS`]. Forward keeps for each query the largest
//! score m and the sum l of exp(score - m) so far, and scales what it has whenever m grows; it saves
//! m + log l. Backward computes the blocks again, key blocks outermost, and adds up the gradients of
//! keys and values, and those of the queries. The blocks and their order are fixed, so bits don't
//! depend on threads. Blocks wholly above the diagonal of a causal attention are skipped.

use std::sync::Arc;

use ringfold_graph::DType;
use ringfold_graph::op::{Attention, AttentionGrad, AttentionLayout};

use super::broadcast::strides_to;
use super::{LANES, sum, sum_wide};
use crate::backend::{Precision, RunArgs};
use crate::cpu::gemm::{MatMul, RowStrides, matmul_strided};
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::for_units;
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

/// Rows of a block of scores.
const QUERIES: usize = 64;
/// Columns of a block of scores.
const KEYS: usize = 64;
/// Units of work, at most: the parts are spread evenly over them.
const UNITS_MAX: usize = 8;

pub(crate) fn forward<T: Element>(
    op: Attention,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let geometry = Geometry::new(op, &shapes(call));
    let mask =
        (call.operands.len() > op.sources()).then(|| Mask::new(&geometry, call, op.sources()));
    Arc::new(Forward {
        geometry,
        mask,
        options,
    })
}

pub(crate) fn backward<T: Element>(
    op: AttentionGrad,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let sources = op.attention.sources();
    let geometry = Geometry::of_grad(op, &shapes(call));
    let mask = op.mask.then(|| Mask::new(&geometry, call, sources));
    Arc::new(Backward {
        geometry,
        mask,
        mask_gradient: op.mask_gradient,
        options,
    })
}

/// The floats that forward needs for itself.
pub(crate) fn scratch_len(op: Attention, operands: &[Vec<usize>]) -> usize {
    let geometry = Geometry::new(op, operands);
    geometry.units() * FORWARD_SCRATCH
}

/// The floats that backward needs for itself.
pub(crate) fn grad_scratch_len(op: AttentionGrad, operands: &[Vec<usize>]) -> usize {
    let geometry = Geometry::of_grad(op, operands);
    geometry.units() * geometry.backward_scratch()
}

/// A block of scores; the largest score and the sum of each of its rows.
const FORWARD_SCRATCH: usize = QUERIES * KEYS + 2 * QUERIES;

fn shapes(call: &Call) -> Vec<Vec<usize>> {
    let operands = call.operands.iter();
    operands.map(|operand| operand.shape.clone()).collect()
}

/// Where a tensor's rows lie within its piece of a part.
#[derive(Clone, Copy, Debug)]
struct Plane {
    /// Elements of a part.
    part: usize,
    /// The first row of the first head.
    first: usize,
    /// From one head to the next.
    head: usize,
    /// From one row to the next.
    row: usize,
    /// Elements of a row.
    len: usize,
}

impl Plane {
    /// Heads of `rows` rows one after another, `heads` a part.
    fn dense(heads: usize, rows: usize, len: usize) -> Self {
        Self {
            part: heads * rows * len,
            first: 0,
            head: rows * len,
            row: len,
            len,
        }
    }

    /// A part's piece of the tensor.
    fn piece<T>(self, all: &[T], part: usize) -> &[T] {
        &all[part * self.part..][..self.part]
    }

    /// Where row `row` of a head begins in a part's piece.
    fn at(&self, head: usize, row: usize) -> usize {
        self.first + head * self.head + row * self.row
    }
}

/// Sizes and places. A *part* is what may run apart from others: a sample, or a head of keys with
/// the heads of queries that share it where these lie together.
#[derive(Clone, Debug)]
struct Geometry {
    causal: bool,
    scale: f64,
    parts: usize,
    /// Units that the parts are spread over, at most.
    units_max: usize,
    /// Heads of keys and values in a part.
    groups: usize,
    /// Heads of queries for each of these.
    share: usize,
    queries: usize,
    keys: usize,
    q: Plane,
    k: Plane,
    v: Plane,
    y: Plane,
    /// The result and its gradient have one operand: q, k and v are planes of one tensor.
    packed: bool,
}

impl Geometry {
    fn new(op: Attention, operands: &[Vec<usize>]) -> Self {
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
    fn of_grad(op: AttentionGrad, operands: &[Vec<usize>]) -> Self {
        let units_max = if op.mask_gradient { 1 } else { UNITS_MAX };
        Self {
            units_max,
            ..Self::new(op.attention, operands)
        }
    }

    fn heads(&self) -> usize {
        self.groups * self.share
    }

    /// Parts of a unit.
    fn unit_parts(&self) -> usize {
        self.parts.div_ceil(self.units_max).max(1)
    }

    fn units(&self) -> usize {
        self.parts.div_ceil(self.unit_parts())
    }

    /// Two blocks; Σ y · dy for each query of the heads that share keys.
    fn backward_scratch(&self) -> usize {
        2 * QUERIES * KEYS + self.share * self.queries
    }

    /// The parts of a unit.
    fn parts_of(&self, unit: usize) -> std::ops::Range<usize> {
        let first = unit * self.unit_parts();
        first..(first + self.unit_parts()).min(self.parts)
    }

    /// How many of the keys from `key` on, at most `count`, a query sees.
    fn seen(&self, query: usize, key: usize, count: usize) -> usize {
        match self.causal {
            true => (query + 1).saturating_sub(key).min(count),
            false => count,
        }
    }
}

/// How the mask lies.
#[derive(Clone, Debug)]
struct Mask {
    operand: usize,
    /// By head of queries, counted over all parts: its first element.
    first: Vec<usize>,
    /// From one query to the next.
    row: usize,
    /// From one key to the next, 0 or 1.
    step: usize,
    is_bool: bool,
}

/// A mask's elements.
#[derive(Clone, Copy)]
enum MaskData<'a, T> {
    None,
    Float(&'a [T]),
    Bool(&'a [u8]),
}

impl Mask {
    fn new(geometry: &Geometry, call: &Call, operand: usize) -> Self {
        let mask = &call.operands[operand];
        // [.., heads, queries, keys]: leading dimensions are those of the first operand.
        let shape = &call.operands[0].shape;
        let behind = if geometry.packed { 2 } else { 3 };
        let mut to = shape[..shape.len() - behind].to_vec();
        let all = geometry.parts * geometry.heads();
        let heads = match geometry.packed {
            true => geometry.heads(),
            false => shape[shape.len() - 3],
        };
        to.extend([heads, geometry.queries, geometry.keys]);
        let strides = strides_to(&mask.shape, &to);
        let outer = to.len() - 2;
        let first = (0..all).map(|mut head| {
            let mut at = 0;
            for axis in (0..outer).rev() {
                at += head % to[axis] * strides[axis];
                head /= to[axis];
            }
            at
        });
        Self {
            operand,
            first: first.collect(),
            row: strides[outer],
            step: strides[outer + 1],
            is_bool: mask.place.dtype == DType::Bool,
        }
    }

    /// The element of a head's query and key.
    fn at(mask: Option<&Self>, head: usize, query: usize, key: usize) -> usize {
        mask.map_or(0, |mask| {
            mask.first[head] + query * mask.row + key * mask.step
        })
    }

    /// From one query to the next, and from one key to the next.
    fn strides(mask: Option<&Self>) -> (usize, usize) {
        mask.map_or((0, 0), |mask| (mask.row, mask.step))
    }

    fn data<'a, T: Element>(mask: Option<&Self>, operands: &Operands<'a, T>) -> MaskData<'a, T> {
        match mask {
            None => MaskData::None,
            Some(mask) if mask.is_bool => MaskData::Bool(operands.bools(mask.operand)),
            Some(mask) => MaskData::Float(operands.slice(mask.operand)),
        }
    }
}

/// A block of scores: its rows and columns, and where the mask of the first begins.
#[derive(Clone, Copy)]
struct Block {
    query: usize,
    rows: usize,
    key: usize,
    columns: usize,
    mask: usize,
    /// Of products.
    precision: Precision,
}

impl Block {
    /// `scores = factor · rows of a · rows of bᵀ`.
    fn product<T: Element>(&self, scores: &mut [T], a: (&[T], Plane), b: (&[T], Plane), factor: T) {
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
    fn add<T: Element>(
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

/// The largest element; NaN may be passed over.
#[inline(always)]
fn largest<T: Element>(row: &[T], from: T) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut lanes = [from; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, x);
    }
    lanes.iter().fold(from, |a, &b| larger(a, b))
}

/// Adds the mask to the scores of a row.
#[inline(always)]
fn add_mask<T: Element>(row: &mut [T], data: MaskData<'_, T>, first: usize, step: usize) {
    match data {
        MaskData::None => {}
        MaskData::Float(mask) if step == 0 => {
            let number = mask[first];
            row.iter_mut().for_each(|x| *x += number);
        }
        MaskData::Float(mask) => {
            for (x, &number) in row.iter_mut().zip(&mask[first..]) {
                *x += number;
            }
        }
        MaskData::Bool(mask) => {
            let never = T::from_f64(f64::NEG_INFINITY);
            for (i, x) in row.iter_mut().enumerate() {
                *x = T::select(mask[first + i * step] != 0, *x, never);
            }
        }
    }
}

#[derive(Debug)]
struct Forward {
    geometry: Geometry,
    mask: Option<Mask>,
    options: KernelOptions,
}

impl<T: Element> Kernel<T> for Forward {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let g = &self.geometry;
        let slices = [results.take(0), results.take(1), results.scratch()];
        let (parts, heads) = (g.unit_parts(), g.heads() * g.queries);
        let steps = [parts * g.y.part, parts * heads, FORWARD_SCRATCH];
        let q = operands.slice(0);
        let (k, v) = match g.packed {
            true => (q, q),
            false => (operands.slice(1), operands.slice(2)),
        };
        let mask = Mask::data(self.mask.as_ref(), operands);
        for_units(
            0..g.units(),
            slices,
            steps,
            self.options.threads,
            &|unit, pieces| {
                let [y, lse, scratch] = pieces;
                for (i, part) in g.parts_of(unit).enumerate() {
                    let y = &mut y[i * g.y.part..][..g.y.part];
                    let (q, k, v) = (g.q.piece(q, part), g.k.piece(k, part), g.v.piece(v, part));
                    for head in 0..g.heads() {
                        let lse = &mut lse[i * heads + head * g.queries..][..g.queries];
                        let masked = part * g.heads() + head;
                        self.head(head, masked, (y, lse), (q, k, v), mask, scratch);
                    }
                }
            },
        );
    }
}

impl Forward {
    fn head<T: Element>(
        &self,
        head: usize,
        masked: usize,
        (y, lse): (&mut [T], &mut [T]),
        (q, k, v): (&[T], &[T], &[T]),
        mask: MaskData<'_, T>,
        scratch: &mut [T],
    ) {
        let g = &self.geometry;
        let group = head / g.share;
        let (scores, sums) = scratch.split_at_mut(QUERIES * KEYS);
        let sums = &mut sums[..QUERIES];
        for query in (0..g.queries).step_by(QUERIES) {
            let rows = QUERIES.min(g.queries - query);
            let y = &mut y[g.y.at(head, query)..];
            let most = &mut lse[query..query + rows];
            most.fill(T::from_f64(f64::NEG_INFINITY));
            sums.fill(T::ZERO);
            for row in 0..rows {
                y[row * g.y.row..][..g.y.len].fill(T::ZERO);
            }
            let last = g.seen(query + rows - 1, 0, g.keys);
            for key in (0..last).step_by(KEYS) {
                let block = Block {
                    query,
                    rows,
                    key,
                    columns: KEYS.min(last - key),
                    mask: Mask::at(self.mask.as_ref(), masked, query, key),
                    precision: self.options.precision,
                };
                let factor = T::from_f64(g.scale);
                let (q, k) = (&q[g.q.at(head, query)..], &k[g.k.at(group, key)..]);
                block.product(scores, (q, g.q), (k, g.k), factor);
                self.softmax(&block, scores, mask, (most, sums), y);
                let v = &v[g.v.at(group, key)..];
                block.add((y, g.y), scores, false, (v, g.v), T::ONE);
            }
            finish_rows((most, sums), y, g.y);
        }
    }

    /// Scores to exp(score - the largest so far), 0 where the query doesn't see the key.
    fn softmax<T: Element>(
        &self,
        block: &Block,
        scores: &mut [T],
        mask: MaskData<'_, T>,
        (most, sums): (&mut [T], &mut [T]),
        y: &mut [T],
    ) {
        let g = &self.geometry;
        let (mask_row, mask_step) = Mask::strides(self.mask.as_ref());
        widest(
            #[inline(always)]
            || {
                for row in 0..block.rows {
                    let scores = &mut scores[row * KEYS..][..block.columns];
                    let seen = g.seen(block.query + row, block.key, block.columns);
                    let (seen, unseen) = scores.split_at_mut(seen);
                    unseen.fill(T::ZERO);
                    add_mask(seen, mask, block.mask + row * mask_row, mask_step);
                    let before = most[row];
                    let now = largest(seen, before);
                    if now == T::from_f64(f64::NEG_INFINITY) {
                        // Nothing is seen yet, but for NaN.
                        seen.iter_mut()
                            .for_each(|x| *x = T::select(x.is_nan(), *x, T::ZERO));
                        sums[row] += sum(seen, |x| x);
                        continue;
                    }
                    for x in seen.iter_mut() {
                        *x = (*x - now).exp();
                    }
                    let factor = (before - now).exp();
                    most[row] = now;
                    sums[row] = sums[row] * factor + sum(seen, |x| x);
                    if block.key > 0 && factor != T::ONE {
                        let y = &mut y[row * g.y.row..][..g.y.len];
                        y.iter_mut().for_each(|y| *y *= factor);
                    }
                }
            },
        );
    }
}

/// Divides by the sums; the largest scores become log-sum-exps.
fn finish_rows<T: Element>((most, sums): (&mut [T], &mut [T]), y: &mut [T], plane: Plane) {
    for (row, (most, &sum)) in most.iter_mut().zip(&*sums).enumerate() {
        if sum == T::ZERO {
            continue;
        }
        let inverse = T::ONE / sum;
        let y = &mut y[row * plane.row..][..plane.len];
        y.iter_mut().for_each(|y| *y *= inverse);
        *most += sum.ln();
    }
}

/// With P = exp(scores - lse) and D = Σ y · dy of each row: dv = Pᵀ dy, dP = dy vᵀ,
/// dS = P · (dP - D), dq = scale · dS k, dk = scale · dSᵀ q.
#[derive(Debug)]
struct Backward {
    geometry: Geometry,
    mask: Option<Mask>,
    mask_gradient: bool,
    options: KernelOptions,
}

/// What backward reads.
#[derive(Clone, Copy)]
struct Saved<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    y: &'a [T],
    lse: &'a [T],
    dy: &'a [T],
    mask: MaskData<'a, T>,
}

/// What backward writes of one part: the gradients of q, k and v, or the first alone; that of the
/// mask, or nothing.
struct Grads<'a, T> {
    of: [&'a mut [T]; 3],
    mask: &'a mut [T],
}

/// The gradient of q, k or v.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;

impl<T> Grads<'_, T> {
    /// The tensor in which the gradient of [`Q`], [`K`] or [`V`] lies.
    fn tensor(&mut self, which: usize) -> &mut [T] {
        let packed = self.of[K].is_empty();
        self.of[if packed { Q } else { which }]
    }
}

impl<T: Element> Kernel<T> for Backward {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let g = &self.geometry;
        let sources = if g.packed { 1 } else { 3 };
        let [k, v] = if g.packed { [0, 0] } else { [1, 2] };
        let own = sources + usize::from(self.mask.is_some());
        let saved = Saved {
            q: operands.slice(0),
            k: operands.slice(k),
            v: operands.slice(v),
            y: operands.slice(own),
            lse: operands.slice(own + 1),
            dy: operands.slice(own + 2),
            mask: Mask::data(self.mask.as_ref(), operands),
        };
        let mut result = |result: usize, exists: bool| match exists {
            true => results.take(result),
            false => &mut [][..],
        };
        let dq = result(0, true);
        let (dk, dv) = (result(1, !g.packed), result(2, !g.packed));
        let dmask = result(sources, self.mask_gradient);
        let parts = g.unit_parts();
        let [k_part, v_part] = if g.packed {
            [0; 2]
        } else {
            [g.k.part, g.v.part]
        };
        let steps = [
            parts * g.q.part,
            parts * k_part,
            parts * v_part,
            dmask.len(),
            g.backward_scratch(),
        ];
        let slices = [dq, dk, dv, dmask, results.scratch()];
        for_units(
            0..g.units(),
            slices,
            steps,
            self.options.threads,
            &|unit, pieces| {
                let [dq, dk, dv, dmask, scratch] = pieces;
                dmask.fill(T::ZERO);
                for (i, part) in g.parts_of(unit).enumerate() {
                    let mut grads = Grads {
                        of: [
                            &mut dq[i * g.q.part..][..g.q.part],
                            &mut dk[i * k_part..][..k_part],
                            &mut dv[i * v_part..][..v_part],
                        ],
                        mask: dmask,
                    };
                    grads.of.iter_mut().for_each(|grad| grad.fill(T::ZERO));
                    for group in 0..g.groups {
                        self.group(part, group, &mut grads, &saved, scratch);
                    }
                }
            },
        );
    }
}

impl Backward {
    /// The heads of one part that share one head of keys.
    fn group<T: Element>(
        &self,
        part: usize,
        group: usize,
        grads: &mut Grads<'_, T>,
        saved: &Saved<'_, T>,
        scratch: &mut [T],
    ) {
        let g = &self.geometry;
        let saved = Saved {
            q: g.q.piece(saved.q, part),
            k: g.k.piece(saved.k, part),
            v: g.v.piece(saved.v, part),
            y: g.y.piece(saved.y, part),
            dy: g.y.piece(saved.dy, part),
            lse: &saved.lse[part * g.heads() * g.queries..],
            mask: saved.mask,
        };
        let (blocks, dots) = scratch.split_at_mut(2 * QUERIES * KEYS);
        let heads = group * g.share..(group + 1) * g.share;
        for (head, dots) in heads.clone().zip(dots.chunks_exact_mut(g.queries)) {
            row_dots(dots, saved.y, saved.dy, head, g.y);
        }
        for key in (0..g.keys).step_by(KEYS) {
            let first = if g.causal { key / QUERIES * QUERIES } else { 0 };
            for (head, dots) in heads.clone().zip(dots.chunks_exact(g.queries)) {
                for query in (first..g.queries).step_by(QUERIES) {
                    let rows = QUERIES.min(g.queries - query);
                    let columns = g.seen(query + rows - 1, key, KEYS.min(g.keys - key));
                    if columns == 0 {
                        continue;
                    }
                    let masked = part * g.heads() + head;
                    let block = Block {
                        query,
                        rows,
                        key,
                        columns,
                        mask: Mask::at(self.mask.as_ref(), masked, query, key),
                        precision: self.options.precision,
                    };
                    let place = (head, group);
                    self.block(&block, place, grads, &saved, blocks, &dots[query..]);
                }
            }
        }
    }

    fn block<T: Element>(
        &self,
        block: &Block,
        (head, group): (usize, usize),
        grads: &mut Grads<'_, T>,
        saved: &Saved<'_, T>,
        blocks: &mut [T],
        dots: &[T],
    ) {
        let g = &self.geometry;
        let (scores, dscores) = blocks.split_at_mut(QUERIES * KEYS);
        let scale = T::from_f64(g.scale);
        let (of_q, of_k) = (g.q.at(head, block.query), g.k.at(group, block.key));
        let (of_y, of_v) = (g.y.at(head, block.query), g.v.at(group, block.key));
        let (q, k) = ((&saved.q[of_q..], g.q), (&saved.k[of_k..], g.k));
        let (dy, v) = ((&saved.dy[of_y..], g.y), (&saved.v[of_v..], g.v));
        block.product(scores, q, k, scale);
        block.product(dscores, dy, v, T::ONE);
        let lse = &saved.lse[head * g.queries + block.query..];
        self.dscores(block, (scores, dscores), saved.mask, lse, dots);
        if self.mask_gradient {
            let (row, step) = Mask::strides(self.mask.as_ref());
            for (i, dscores) in dscores.chunks(KEYS).take(block.rows).enumerate() {
                for (j, &d) in dscores[..block.columns].iter().enumerate() {
                    grads.mask[block.mask + i * row + j * step] += d;
                }
            }
        }
        let dv = &mut grads.tensor(V)[of_v..];
        block.add((dv, g.v), scores, true, dy, T::ONE);
        let dk = &mut grads.tensor(K)[of_k..];
        block.add((dk, g.k), dscores, true, q, scale);
        let dq = &mut grads.tensor(Q)[of_q..];
        block.add((dq, g.q), dscores, false, k, scale);
    }

    /// Scores to P, dP to dS.
    fn dscores<T: Element>(
        &self,
        block: &Block,
        (scores, dscores): (&mut [T], &mut [T]),
        mask: MaskData<'_, T>,
        lse: &[T],
        dots: &[T],
    ) {
        let g = &self.geometry;
        let (mask_row, mask_step) = Mask::strides(self.mask.as_ref());
        widest(
            #[inline(always)]
            || {
                for row in 0..block.rows {
                    let seen = g.seen(block.query + row, block.key, block.columns);
                    let range = row * KEYS..row * KEYS + block.columns;
                    let (p, unseen) = scores[range.clone()].split_at_mut(seen);
                    unseen.fill(T::ZERO);
                    let (ds, unseen) = dscores[range].split_at_mut(seen);
                    unseen.fill(T::ZERO);
                    add_mask(p, mask, block.mask + row * mask_row, mask_step);
                    let (lse, dot) = (lse[row], dots[row]);
                    if lse == T::from_f64(f64::NEG_INFINITY) {
                        p.fill(T::ZERO);
                        ds.fill(T::ZERO);
                        continue;
                    }
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = (*p - lse).exp();
                        *ds = *p * (*ds - dot);
                    }
                }
            },
        );
    }
}

/// Σ y · dy of each row of a head.
fn row_dots<T: Element>(dots: &mut [T], y: &[T], dy: &[T], head: usize, plane: Plane) {
    widest(
        #[inline(always)]
        || {
            for (row, dot) in dots.iter_mut().enumerate() {
                let at = plane.at(head, row);
                let (y, dy) = (&y[at..at + plane.len], &dy[at..at + plane.len]);
                *dot = T::from_f64(sum_wide(y, dy, |y, dy| y * dy));
            }
        },
    );
}
