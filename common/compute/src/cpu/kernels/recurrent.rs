//! Kernels of recurrent layers: LSTM and GRU, forward and backward through time.
//!
//! The products with x are one for all steps; those with h are one a step, on rows that lie apart
//! where the batch comes first. Backward keeps the gradients of the gates of all steps, so that the
//! products with x and those for its weight are one each.

use std::sync::Arc;

use ringfold_graph::op::{Cell, Recurrent, RecurrentGrad};

use super::functions::sigmoid;
use super::rows::{broadcast, column_sum};
use crate::backend::{Precision, RunArgs};
use crate::cpu::gemm::{MatMul, RowStrides, matmul_strided};
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn forward<T: Element>(
    op: Recurrent,
    call: &Call,
    threads: usize,
) -> Arc<dyn Kernel<T>> {
    let shape = |operand: usize| &call.operands[operand].shape[..];
    Arc::new(Forward(Layer::new(op, shape(0), shape(2), threads)))
}

pub(crate) fn backward<T: Element>(
    op: RecurrentGrad,
    call: &Call,
    threads: usize,
) -> Arc<dyn Kernel<T>> {
    let shape = |operand: usize| &call.operands[operand].shape[..];
    Arc::new(Backward {
        layer: Layer::new(op.recurrent, shape(0), shape(2), threads),
        given: op.given,
    })
}

/// The floats that backward needs for itself.
pub(crate) fn scratch_len(op: RecurrentGrad, operands: &[Vec<usize>]) -> usize {
    let layer = Layer::new(op.recurrent, &operands[0], &operands[2], 1);
    layer.scratch().iter().sum()
}

/// A layer's sizes.
#[derive(Clone, Copy, Debug)]
struct Layer {
    op: Recurrent,
    samples: usize,
    time: usize,
    inputs: usize,
    hidden: usize,
    threads: usize,
}

/// Rows of a matrix, and how far apart they lie.
type Rows<'a, T> = (&'a [T], usize);

impl Layer {
    fn new(op: Recurrent, x: &[usize], w_hh: &[usize], threads: usize) -> Self {
        let (samples, time) = if op.time_first {
            (x[1], x[0])
        } else {
            (x[0], x[1])
        };
        Self {
            op,
            samples,
            time,
            inputs: x[2],
            hidden: w_hh[1],
            threads,
        }
    }

    /// Elements of all gates of one sample at one step.
    fn gates(&self) -> usize {
        self.op.cell.gates() * self.hidden
    }

    /// Backward's own room: the gradients of all gates, and of what a GRU keeps.
    fn scratch(&self) -> [usize; 2] {
        let rows = self.samples * self.time;
        let apart = match self.op.cell {
            Cell::Lstm => 0,
            Cell::Gru | Cell::GruResetFirst => self.hidden,
        };
        [rows * self.gates(), rows * apart]
    }

    /// The steps in the order of forward, each with the step before it.
    fn steps(self) -> impl DoubleEndedIterator<Item = (usize, Option<usize>)> {
        (0..self.time).map(move |i| {
            let at = |i: usize| {
                if self.op.reverse {
                    self.time - 1 - i
                } else {
                    i
                }
            };
            (at(i), i.checked_sub(1).map(at))
        })
    }

    fn last(&self) -> usize {
        if self.op.reverse { 0 } else { self.time - 1 }
    }

    /// Where a step's first row of `len` elements begins in a sequence.
    fn start(&self, step: usize, len: usize) -> usize {
        match self.op.time_first {
            true => step * self.samples * len,
            false => step * len,
        }
    }

    /// From one sample's row of `len` elements to the next one's.
    fn stride(&self, len: usize) -> usize {
        if self.op.time_first {
            len
        } else {
            self.time * len
        }
    }

    fn at(&self, step: usize, sample: usize, len: usize) -> usize {
        self.start(step, len) + sample * self.stride(len)
    }

    /// The rows of a step, or the state before the first.
    fn rows<'a, T>(&self, all: &'a [T], step: Option<usize>, start: &'a [T]) -> Rows<'a, T> {
        let len = self.hidden;
        step.map_or((start, len), |step| {
            (&all[self.start(step, len)..], self.stride(len))
        })
    }

    /// A sample's state before a step.
    fn state<'a, T>(
        &self,
        y: &'a [T],
        before: Option<usize>,
        h0: &'a [T],
        sample: usize,
    ) -> &'a [T] {
        let h = self.hidden;
        match before {
            Some(before) => &y[self.at(before, sample, h)..][..h],
            None => &h0[sample * h..][..h],
        }
    }

    /// A product of `m × k` and `k × n`; `transposed` says which is stored the other way round.
    fn product<T: Element>(
        &self,
        [m, n, k]: [usize; 3],
        transposed: [bool; 2],
        (dst, stride): (&mut [T], usize),
        lhs: Rows<'_, T>,
        rhs: Rows<'_, T>,
        accumulate: bool,
    ) {
        let spec = MatMul {
            m,
            n,
            k,
            lhs_transposed: transposed[0],
            rhs_transposed: transposed[1],
            accumulate,
            threads: self.threads,
            precision: Precision::Full,
        };
        let strides = RowStrides {
            dst: stride,
            lhs: lhs.1,
            rhs: rhs.1,
        };
        matmul_strided(&spec, &strides, T::ONE, dst, lhs.0, rhs.0);
    }
}

#[derive(Debug)]
struct Forward(Layer);

impl<T: Element> Kernel<T> for Forward {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let layer = &self.0;
        let (h, width) = (layer.hidden, layer.gates());
        let cell = layer.op.cell;
        let is_lstm = cell == Cell::Lstm;
        let [x, w_ih, w_hh, b_ih, b_hh, h0] = [0, 1, 2, 3, 4, 5].map(|i| operands.slice(i));
        let y = results.take(0);
        let states = layer.op.cell.states();
        let (gates, kept) = (results.take(1 + states), results.take(2 + states));
        // x W_ihᵀ + b_ih of all steps. Gates to which a product with h is added get b_hh too.
        let summed = if is_lstm { width } else { 2 * h };
        let biased = if cell == Cell::Gru { 2 * h } else { width };
        broadcast(gates, b_ih);
        for row in gates.chunks_exact_mut(width) {
            for (gate, &b) in row[..biased].iter_mut().zip(b_hh) {
                *gate += b;
            }
        }
        let rows = layer.samples * layer.time;
        let sizes = [rows, width, layer.inputs];
        let x = (x, layer.inputs);
        let w_ih = (w_ih, layer.inputs);
        layer.product(sizes, [false, true], (&mut *gates, width), x, w_ih, true);
        let (w_sum, w_apart) = w_hh.split_at(summed * h);
        for (step, before) in layer.steps() {
            let previous = layer.rows(y, before, h0);
            let to = (&mut gates[layer.start(step, width)..], layer.stride(width));
            let sizes = [layer.samples, summed, h];
            layer.product(sizes, [false, true], to, previous, (w_sum, h), true);
            if is_lstm {
                lstm_step(layer, (step, before), y, gates, kept, operands.slice(6));
                continue;
            }
            if cell == Cell::GruResetFirst {
                reset_step(layer, (step, before), y, gates, kept, h0);
                let start = layer.start(step, width) + 2 * h;
                let to = (&mut gates[start..], layer.stride(width));
                let reset = (&kept[layer.start(step, h)..], layer.stride(h));
                let sizes = [layer.samples, h, h];
                layer.product(sizes, [false, true], to, reset, (w_apart, h), true);
                mix_step(layer, (step, before), y, gates, h0);
                continue;
            }
            for sample in 0..layer.samples {
                kept[layer.at(step, sample, h)..][..h].copy_from_slice(&b_hh[2 * h..]);
            }
            let to = (&mut kept[layer.start(step, h)..], layer.stride(h));
            let sizes = [layer.samples, h, h];
            layer.product(sizes, [false, true], to, previous, (w_apart, h), true);
            gru_step(layer, (step, before), y, gates, kept, h0);
        }
        let last = |to: &mut [T], all: &[T]| {
            for (sample, to) in to.chunks_exact_mut(h).enumerate() {
                to.copy_from_slice(&all[layer.at(layer.last(), sample, h)..][..h]);
            }
        };
        last(results.take(1), y);
        if is_lstm {
            last(results.take(2), kept);
        }
    }
}

/// The four gates of a row.
fn quarters<T>(row: &mut [T], h: usize) -> [&mut [T]; 4] {
    let (i, row) = row.split_at_mut(h);
    let (f, row) = row.split_at_mut(h);
    let (g, o) = row.split_at_mut(h);
    [i, f, g, &mut o[..h]]
}

fn lstm_step<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    y: &mut [T],
    gates: &mut [T],
    cells: &mut [T],
    c0: &[T],
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let row = &mut gates[layer.at(step, sample, width)..][..width];
                let [i, f, g, o] = quarters(row, h);
                let here = layer.at(step, sample, h);
                for k in 0..h {
                    let c = match before {
                        Some(before) => cells[layer.at(before, sample, h) + k],
                        None => c0[sample * h + k],
                    };
                    i[k] = sigmoid(i[k]);
                    f[k] = sigmoid(f[k]);
                    g[k] = g[k].tanh();
                    o[k] = sigmoid(o[k]);
                    let c = f[k] * c + i[k] * g[k];
                    cells[here + k] = c;
                    y[here + k] = o[k] * c.tanh();
                }
            }
        },
    );
}

fn gru_step<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    y: &mut [T],
    gates: &mut [T],
    hidden: &[T],
    h0: &[T],
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let row = &mut gates[layer.at(step, sample, width)..][..width];
                let (r, row) = row.split_at_mut(h);
                let (z, n) = row.split_at_mut(h);
                let here = layer.at(step, sample, h);
                for k in 0..h {
                    let state = match before {
                        Some(before) => y[layer.at(before, sample, h) + k],
                        None => h0[sample * h + k],
                    };
                    r[k] = sigmoid(r[k]);
                    z[k] = sigmoid(z[k]);
                    n[k] = (n[k] + r[k] * hidden[here + k]).tanh();
                    y[here + k] = (T::ONE - z[k]) * n[k] + z[k] * state;
                }
            }
        },
    );
}

/// A GRU's gates r and z, and `r · h`, which is kept.
fn reset_step<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    y: &[T],
    gates: &mut [T],
    reset: &mut [T],
    h0: &[T],
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let row = &mut gates[layer.at(step, sample, width)..][..width];
                let (r, z) = row[..2 * h].split_at_mut(h);
                let state = layer.state(y, before, h0, sample);
                let reset = &mut reset[layer.at(step, sample, h)..][..h];
                for k in 0..h {
                    r[k] = sigmoid(r[k]);
                    z[k] = sigmoid(z[k]);
                    reset[k] = r[k] * state[k];
                }
            }
        },
    );
}

/// The gate n, and the state after the step.
fn mix_step<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    y: &mut [T],
    gates: &mut [T],
    h0: &[T],
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let row = &mut gates[layer.at(step, sample, width)..][..width];
                let (z, n) = row[h..].split_at_mut(h);
                let here = layer.at(step, sample, h);
                for k in 0..h {
                    let state = match before {
                        Some(before) => y[layer.at(before, sample, h) + k],
                        None => h0[sample * h + k],
                    };
                    n[k] = n[k].tanh();
                    y[here + k] = (T::ONE - z[k]) * n[k] + z[k] * state;
                }
            }
        },
    );
}

#[derive(Debug)]
struct Backward {
    layer: Layer,
    given: [bool; 3],
}

/// What backward reads at each step.
#[derive(Clone, Copy)]
struct Kept<'a, T> {
    /// The state before the first step that a step's function reads: c0 of an LSTM, h0 of a GRU.
    start: &'a [T],
    y: &'a [T],
    gates: &'a [T],
    kept: &'a [T],
}

/// What backward changes at each step.
struct Flow<'a, T> {
    /// Of the gates before their functions, at all steps.
    dgates: &'a mut [T],
    /// Of what a GRU keeps, at all steps.
    dhidden: &'a mut [T],
    /// Of h after the step; the step leaves what doesn't go through a product.
    dh: &'a mut [T],
    /// Of c after the step, then before it.
    dc: &'a mut [T],
}

impl<T: Element> Kernel<T> for Backward {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let layer = &self.layer;
        let states = layer.op.cell.states();
        let [x, w_ih, w_hh, h0] = [0, 1, 2, 3].map(|i| operands.slice(i));
        let kept = Kept {
            start: operands.slice(2 + states),
            y: operands.slice(3 + states),
            gates: operands.slice(4 + states),
            kept: operands.slice(5 + states),
        };
        let mut next = 6 + states;
        let [dy, dh_n, dc_n] = self.given.map(|given| {
            next += usize::from(given);
            given.then(|| operands.slice(next - 1))
        });
        let [dx, dw_ih, dw_hh, db_ih, db_hh, dh0] = [0, 1, 2, 3, 4, 5].map(|i| results.take(i));
        let dc0 = match layer.op.cell {
            Cell::Lstm => results.take(6),
            Cell::Gru | Cell::GruResetFirst => &mut [],
        };
        let [all, apart] = layer.scratch();
        let (dgates, scratch) = results.scratch().split_at_mut(all);
        let (dhidden, _) = scratch.split_at_mut(apart);
        let start = |to: &mut [T], from: Option<&[T]>| match from {
            Some(from) => to.copy_from_slice(&from[..to.len()]),
            None => to.fill(T::ZERO),
        };
        start(dh0, dh_n);
        start(dc0, dc_n);
        let mut flow = Flow {
            dgates,
            dhidden,
            dh: dh0,
            dc: dc0,
        };
        dw_hh.fill(T::ZERO);
        for (step, before) in layer.steps().rev() {
            if let Some(dy) = dy {
                add_rows(layer, step, flow.dh, dy);
            }
            match layer.op.cell {
                Cell::Lstm => lstm_step_grad(layer, (step, before), &kept, &mut flow),
                Cell::Gru => gru_step_grad(layer, (step, before), &kept, &mut flow),
                Cell::GruResetFirst => {
                    mix_step_grad(layer, (step, before), &kept, &mut flow);
                    self.through_reset(step, w_hh, kept.kept, &mut flow, dw_hh);
                    reset_step_grad(layer, (step, before), &kept, &mut flow);
                }
            }
            self.through_products((step, before), (w_hh, h0), kept.y, &mut flow, dw_hh);
        }
        let Flow {
            dgates, dhidden, ..
        } = flow;
        let (rows, width) = (layer.samples * layer.time, layer.gates());
        let (inputs, dgates) = (layer.inputs, &*dgates);
        let (of, x) = ((dgates, width), (x, inputs));
        let w_ih = (w_ih, inputs);
        layer.product(
            [rows, inputs, width],
            [false, false],
            (dx, inputs),
            of,
            w_ih,
            false,
        );
        let to = (dw_ih, inputs);
        layer.product([width, inputs, rows], [true, false], to, of, x, false);
        column_sum(db_ih, dgates);
        db_hh.copy_from_slice(db_ih);
        if layer.op.cell == Cell::Gru {
            column_sum(&mut db_hh[2 * layer.hidden..], dhidden);
        }
    }
}

impl Backward {
    /// The gradients that go through the step's products with h: to h before, and to the weight.
    fn through_products<T: Element>(
        &self,
        (step, before): (usize, Option<usize>),
        (w_hh, h0): (&[T], &[T]),
        y: &[T],
        flow: &mut Flow<'_, T>,
        dw_hh: &mut [T],
    ) {
        let layer = &self.layer;
        let (h, width, samples) = (layer.hidden, layer.gates(), layer.samples);
        let is_lstm = layer.op.cell == Cell::Lstm;
        let summed = if is_lstm { width } else { 2 * h };
        let (w_sum, w_apart) = w_hh.split_at(summed * h);
        let (dw_sum, dw_apart) = dw_hh.split_at_mut(summed * h);
        let previous = layer.rows(y, before, h0);
        let d: Rows<'_, T> = (
            &flow.dgates[layer.start(step, width)..],
            layer.stride(width),
        );
        let to = (&mut *flow.dh, h);
        // An LSTM's h goes on through products alone.
        let more = !is_lstm;
        layer.product(
            [samples, h, summed],
            [false, false],
            to,
            d,
            (w_sum, h),
            more,
        );
        layer.product(
            [summed, h, samples],
            [true, false],
            (dw_sum, h),
            d,
            previous,
            true,
        );
        if layer.op.cell == Cell::Gru {
            let d: Rows<'_, T> = (&flow.dhidden[layer.start(step, h)..], layer.stride(h));
            let to = (&mut *flow.dh, h);
            layer.product([samples, h, h], [false, false], to, d, (w_apart, h), true);
            layer.product(
                [h, h, samples],
                [true, false],
                (dw_apart, h),
                d,
                previous,
                true,
            );
        }
    }
}

impl Backward {
    /// The gradients that go through the step's product with `r · h`: to that, and to the weight.
    fn through_reset<T: Element>(
        &self,
        step: usize,
        w_hh: &[T],
        reset: &[T],
        flow: &mut Flow<'_, T>,
        dw_hh: &mut [T],
    ) {
        let layer = &self.layer;
        let (h, width, samples) = (layer.hidden, layer.gates(), layer.samples);
        let start = layer.start(step, width) + 2 * h;
        let dn = (&flow.dgates[start..], layer.stride(width));
        let here = layer.start(step, h);
        let to = (&mut flow.dhidden[here..], layer.stride(h));
        let w = (&w_hh[2 * h * h..], h);
        layer.product([samples, h, h], [false, false], to, dn, w, false);
        let to = (&mut dw_hh[2 * h * h..], h);
        let reset = (&reset[here..], layer.stride(h));
        layer.product([h, h, samples], [true, false], to, dn, reset, true);
    }
}

/// Adds a step's rows to a state.
fn add_rows<T: Element>(layer: &Layer, step: usize, state: &mut [T], all: &[T]) {
    let h = layer.hidden;
    for (sample, state) in state.chunks_exact_mut(h).enumerate() {
        let row = &all[layer.at(step, sample, h)..];
        state.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
    }
}

fn lstm_step_grad<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    kept: &Kept<'_, T>,
    flow: &mut Flow<'_, T>,
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let at = layer.at(step, sample, width);
                let gates = &kept.gates[at..at + width];
                let [di, df, dg, d_o] = quarters(&mut flow.dgates[at..at + width], h);
                let here = layer.at(step, sample, h);
                for k in 0..h {
                    let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * h + k]);
                    let c = match before {
                        Some(before) => kept.kept[layer.at(before, sample, h) + k],
                        None => kept.start[sample * h + k],
                    };
                    let t = kept.kept[here + k].tanh();
                    let dh = flow.dh[sample * h + k];
                    let dc = flow.dc[sample * h + k] + dh * o * (T::ONE - t * t);
                    di[k] = dc * g * i * (T::ONE - i);
                    df[k] = dc * c * f * (T::ONE - f);
                    dg[k] = dc * i * (T::ONE - g * g);
                    d_o[k] = dh * t * o * (T::ONE - o);
                    flow.dc[sample * h + k] = dc * f;
                }
            }
        },
    );
}

fn gru_step_grad<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    kept: &Kept<'_, T>,
    flow: &mut Flow<'_, T>,
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let at = layer.at(step, sample, width);
                let gates = &kept.gates[at..at + width];
                let dgates = &mut flow.dgates[at..at + width];
                let here = layer.at(step, sample, h);
                for k in 0..h {
                    let [r, z, n] = [0, 1, 2].map(|gate| gates[gate * h + k]);
                    let state = match before {
                        Some(before) => kept.y[layer.at(before, sample, h) + k],
                        None => kept.start[sample * h + k],
                    };
                    let dh = flow.dh[sample * h + k];
                    let dn = dh * (T::ONE - z) * (T::ONE - n * n);
                    let dr = dn * kept.kept[here + k];
                    dgates[k] = dr * r * (T::ONE - r);
                    dgates[h + k] = dh * (state - n) * z * (T::ONE - z);
                    dgates[2 * h + k] = dn;
                    flow.dhidden[here + k] = dn * r;
                    flow.dh[sample * h + k] = dh * z;
                }
            }
        },
    );
}

/// Of the gates z and n; h before the step gets what the mean of n and h gives it.
fn mix_step_grad<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    kept: &Kept<'_, T>,
    flow: &mut Flow<'_, T>,
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let at = layer.at(step, sample, width);
                let gates = &kept.gates[at..at + width];
                let dgates = &mut flow.dgates[at..at + width];
                let state = layer.state(kept.y, before, kept.start, sample);
                let dh = &mut flow.dh[sample * h..][..h];
                for k in 0..h {
                    let (z, n) = (gates[h + k], gates[2 * h + k]);
                    dgates[h + k] = dh[k] * (state[k] - n) * z * (T::ONE - z);
                    dgates[2 * h + k] = dh[k] * (T::ONE - z) * (T::ONE - n * n);
                    dh[k] *= z;
                }
            }
        },
    );
}

/// Of the gate r; h before the step gets what `r · h` gives it.
fn reset_step_grad<T: Element>(
    layer: &Layer,
    (step, before): (usize, Option<usize>),
    kept: &Kept<'_, T>,
    flow: &mut Flow<'_, T>,
) {
    let (h, width) = (layer.hidden, layer.gates());
    widest(
        #[inline(always)]
        || {
            for sample in 0..layer.samples {
                let at = layer.at(step, sample, width);
                let dreset = &flow.dhidden[layer.at(step, sample, h)..][..h];
                let state = layer.state(kept.y, before, kept.start, sample);
                let dh = &mut flow.dh[sample * h..][..h];
                for k in 0..h {
                    let r = kept.gates[at + k];
                    flow.dgates[at + k] = dreset[k] * state[k] * r * (T::ONE - r);
                    dh[k] += dreset[k] * r;
                }
            }
        },
    );
}
