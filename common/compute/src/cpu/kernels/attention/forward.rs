//! Forward: results, and the log-sum-exp of each query's scores.

use ringfold_graph::op::Dropout;

use super::drop::Drop;
use super::geometry::{Block, Geometry, Plane};
use super::mask::{Mask, MaskData, add_mask};
use super::{FORWARD_SCRATCH, KEYS, QUERIES};
use crate::backend::RunArgs;
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::kernels::{LANES, sum};
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::for_units;
use crate::cpu::simd::widest;
use crate::element::Element;

#[derive(Debug)]
pub(super) struct Forward {
    pub(super) geometry: Geometry,
    pub(super) mask: Option<Mask>,
    pub(super) dropout: Option<Dropout>,
    pub(super) options: KernelOptions,
}

impl<T: Element> Kernel<T> for Forward {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
        let g = &self.geometry;
        let drop = Drop::new(self.dropout, g, args);
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
                        let sources = (q, k, v);
                        self.head((head, masked), (y, lse), sources, (mask, drop), scratch);
                    }
                }
            },
        );
    }
}

impl Forward {
    fn head<T: Element>(
        &self,
        (head, masked): (usize, usize),
        (y, lse): (&mut [T], &mut [T]),
        (q, k, v): (&[T], &[T], &[T]),
        (mask, drop): (MaskData<'_, T>, Option<Drop>),
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
                    head: masked,
                    precision: self.options.precision,
                };
                let factor = T::from_f64(g.scale);
                let (q, k) = (&q[g.q.at(head, query)..], &k[g.k.at(group, key)..]);
                block.product(scores, (q, g.q), (k, g.k), factor);
                self.softmax(&block, scores, (mask, drop), (most, sums), y);
                let v = &v[g.v.at(group, key)..];
                block.add((y, g.y), scores, false, (v, g.v), T::ONE);
            }
            finish_rows((most, sums), y, g.y);
        }
    }

    /// Scores to exp(score - the largest so far), dropped, 0 where the query doesn't see the key.
    fn softmax<T: Element>(
        &self,
        block: &Block,
        scores: &mut [T],
        (mask, drop): (MaskData<'_, T>, Option<Drop>),
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
                    if let Some(drop) = &drop {
                        let factors = drop.row::<T>(block.head, block.query + row, block.key);
                        for (x, &factor) in seen.iter_mut().zip(&factors) {
                            *x *= factor;
                        }
                    }
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
