//! Backward: the gradients of queries, keys, values and mask.

use ringfold_graph::op::Dropout;

use super::drop::Drop;
use super::geometry::{Block, Geometry, Plane};
use super::mask::{Mask, MaskData, add_mask};
use super::{KEYS, QUERIES};
use crate::backend::RunArgs;
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::kernels::sum_wide;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::for_units;
use crate::cpu::simd::widest;
use crate::element::Element;

/// With P = exp(scores - lse) and D = Σ y · dy of each row: dv = Pᵀ dy, dP = dy vᵀ,
/// dS = P · (dP - D), dq = scale · dS k, dk = scale · dSᵀ q.
#[derive(Debug)]
pub(super) struct Backward {
    pub(super) geometry: Geometry,
    pub(super) mask: Option<Mask>,
    pub(super) mask_gradient: bool,
    pub(super) dropout: Option<Dropout>,
    pub(super) options: KernelOptions,
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
    drop: Option<Drop>,
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
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
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
            drop: Drop::new(self.dropout, g, args),
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
            drop: saved.drop,
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
                        head: masked,
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
        self.dscores(block, (scores, dscores), saved, lse, dots);
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

    /// Scores to P, dropped, and dP to dS.
    fn dscores<T: Element>(
        &self,
        block: &Block,
        (scores, dscores): (&mut [T], &mut [T]),
        saved: &Saved<'_, T>,
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
                    add_mask(p, saved.mask, block.mask + row * mask_row, mask_step);
                    let (lse, dot) = (lse[row], dots[row]);
                    if lse == T::from_f64(f64::NEG_INFINITY) {
                        p.fill(T::ZERO);
                        ds.fill(T::ZERO);
                        continue;
                    }
                    let Some(drop) = &saved.drop else {
                        for (p, ds) in p.iter_mut().zip(ds) {
                            *p = (*p - lse).exp();
                            *ds = *p * (*ds - dot);
                        }
                        continue;
                    };
                    let factors = drop.row::<T>(block.head, block.query + row, block.key);
                    for ((p, ds), &factor) in p.iter_mut().zip(ds).zip(&factors) {
                        let whole = (*p - lse).exp();
                        *ds = whole * (*ds * factor - dot);
                        *p = whole * factor;
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
