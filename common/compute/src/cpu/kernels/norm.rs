//! Kernels of normalisations, forward and backward. Statistics are sums in `f64`.
//!
//! With threads the channels of batch normalisation, and forward the rows of layer normalisation, are
//! cut into as many runs for the team.
//!
//! Invariant of the unsafe code: rows (see `Channels`) have no element in common, and only the one
//! thread that computes a row writes its elements and its statistics; gradients of a weight that
//! several rows share are summed by one thread, for `threads` is 1 then.

use std::sync::Arc;

use ringfold_graph::op::{Norm, NormOver};

use super::runs::{Shared, each_index};
use super::{LANES, fold, sum_wide};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn norm<T: Element>(op: Norm, call: &Call, threads: usize) -> Arc<dyn Kernel<T>> {
    match rows_of(op, call) {
        Rows::Elements { len } => Arc::new(LayerKernel { op, len, threads }),
        Rows::Channels(channels) => Arc::new(ChannelKernel {
            op,
            channels,
            threads,
        }),
    }
}

pub(crate) fn norm_grad<T: Element>(op: Norm, call: &Call, threads: usize) -> Arc<dyn Kernel<T>> {
    match rows_of(op, call) {
        Rows::Elements { len } => Arc::new(LayerGradKernel { op, len }),
        Rows::Channels(channels) => Arc::new(ChannelGradKernel {
            channels,
            threads: if channels.groups.is_some() {
                1
            } else {
                threads
            },
        }),
    }
}

/// What is normalised together, a row.
enum Rows {
    /// So many adjacent elements, each with a weight of its own.
    Elements { len: usize },
    /// Channels, each with one weight.
    Channels(Channels),
}

fn rows_of(op: Norm, call: &Call) -> Rows {
    let shape = &call.operands[0].shape;
    match op.over {
        NormOver::Layer { axis } | NormOver::Rms { axis } => Rows::Elements {
            len: shape[axis..].iter().product(),
        },
        over => Rows::Channels(Channels {
            samples: shape[0],
            channels: shape[1],
            inner: shape[2..].iter().product(),
            groups: match over {
                NormOver::Group { groups } => Some(groups),
                _ => None,
            },
        }),
    }
}

/// x seen as `[samples, channels, inner]`.
#[derive(Clone, Copy, Debug)]
struct Channels {
    samples: usize,
    channels: usize,
    inner: usize,
    /// A row is a group of one sample's channels; without, a channel of all samples.
    groups: Option<usize>,
}

impl Channels {
    fn rows(&self) -> usize {
        self.groups
            .map_or(self.channels, |groups| self.samples * groups)
    }

    /// The pieces of a row: the range of elements and the channel of each.
    fn pieces(self, row: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
        let (count, width) = match self.groups {
            Some(groups) => (self.channels / groups, self.channels / groups),
            None => (self.samples, 1),
        };
        (0..count).map(move |i| {
            let (sample, channel) = match self.groups {
                Some(groups) => (row / groups, row % groups * width + i),
                None => (i, row),
            };
            let start = (sample * self.channels + channel) * self.inner;
            (start..start + self.inner, channel)
        })
    }

    /// Elements in a row.
    fn row_len(&self) -> usize {
        self.samples * self.channels * self.inner / self.rows()
    }
}

/// `(mean, 1 / √(variance + eps), variance)` of the pieces of a row.
#[inline(always)]
fn statistics<'a, T: Element, I: Iterator<Item = &'a [T]>>(
    pieces: impl Fn() -> I,
    len: usize,
    eps: f64,
) -> (f64, f64, f64) {
    let sum: f64 = pieces().map(|x| sum_wide(x, x, |x, _| x)).sum();
    let mean = sum / len as f64;
    let squares = pieces().map(|x| sum_wide(x, x, |x, _| (x - mean) * (x - mean)));
    let variance = squares.sum::<f64>() / len as f64;
    (mean, 1.0 / (variance + eps).sqrt(), variance)
}

#[derive(Debug)]
struct LayerKernel {
    op: Norm,
    len: usize,
    threads: usize,
}

impl<T: Element> Kernel<T> for LayerKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (x, w) = (operands.slice(0), operands.slice(1));
        let is_rms = matches!(self.op.over, NormOver::Rms { .. });
        let (len, eps) = (self.len, self.op.eps);
        let y = Shared::new(results.take(0));
        let first = Shared::new(results.take(1));
        let second = Shared::new(if is_rms { &mut [] } else { results.take(2) });
        each_index(self.threads, x.len() / len, len, |rows| {
            widest(
                #[inline(always)]
                || {
                    for row in rows {
                        let here = row * len..(row + 1) * len;
                        let x = &x[here.clone()];
                        // SAFETY: only this row writes here.
                        let y = unsafe { y.range(here) };
                        if is_rms {
                            let square = sum_wide(x, x, |a, b| a * b) / len as f64;
                            let rstd = T::from_f64(1.0 / (square + eps).sqrt());
                            // SAFETY: only this row writes here.
                            unsafe { first.set(row, rstd) };
                            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                                *y = x * rstd * w;
                            }
                        } else {
                            let (mean, rstd, _) = statistics(|| std::iter::once(x), len, eps);
                            let (mean, rstd) = (T::from_f64(mean), T::from_f64(rstd));
                            // SAFETY: only this row writes here.
                            unsafe {
                                first.set(row, mean);
                                second.set(row, rstd);
                            }
                            let b = operands.slice(2);
                            for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
                                *y = (x - mean) * rstd * w + b;
                            }
                        }
                    }
                },
            );
        });
    }
}

/// `dx = rstd · (g - mean(g) - x̂ · mean(g x̂))` with `g = dy · w`; without a mean for RMS.
#[derive(Debug)]
struct LayerGradKernel {
    op: Norm,
    len: usize,
}

impl<T: Element> Kernel<T> for LayerGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let is_rms = matches!(self.op.over, NormOver::Rms { .. });
        let (x, w) = (operands.slice(0), operands.slice(1));
        let last = operands.len() - 1;
        let (rstds, dy) = (operands.slice(last - 1), operands.slice(last));
        let (dx, dw) = (results.take(0), results.take(1));
        let db = if is_rms { &mut [][..] } else { results.take(2) };
        dw.fill(T::ZERO);
        db.fill(T::ZERO);
        let len = self.len;
        let inverse = 1.0 / len as f64;
        widest(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(len).zip(dy.chunks_exact(len));
                for (row, (dx, (x, dy))) in dx.chunks_exact_mut(len).zip(rows).enumerate() {
                    let rstd = rstds[row];
                    let mean = if is_rms {
                        T::ZERO
                    } else {
                        operands.slice(2)[row]
                    };
                    // g stands in dx.
                    for ((d, &dy), &w) in dx.iter_mut().zip(dy).zip(w) {
                        *d = dy * w;
                    }
                    let centre = mean.to_f64();
                    let dot = sum_wide(dx, x, |g, x| g * (x - centre)) * rstd.to_f64() * inverse;
                    let shift = match is_rms {
                        true => 0.0,
                        false => sum_wide(dx, x, |g, _| g) * inverse,
                    };
                    let (dot, shift) = (T::from_f64(dot), T::from_f64(shift));
                    for (((d, &x), dw), &dy) in dx.iter_mut().zip(x).zip(dw.iter_mut()).zip(dy) {
                        let normal = (x - mean) * rstd;
                        *dw += dy * normal;
                        *d = rstd * (*d - shift - normal * dot);
                    }
                    for (db, &dy) in db.iter_mut().zip(dy) {
                        *db += dy;
                    }
                }
            },
        );
    }
}

/// Sums over pieces: of the first, and of the product of both.
#[derive(Clone, Copy)]
struct Sums([[f64; LANES]; 2]);

impl Sums {
    const ZERO: Self = Self([[0.0; LANES]; 2]);

    /// Adds `a` and `a · b` of each element for `(a, b) = f(x, y)`.
    #[inline(always)]
    fn add<T: Element>(&mut self, x: &[T], y: &[T], f: impl Fn(f64, f64) -> (f64, f64)) {
        let [plain, product] = &mut self.0;
        let mut one = |i: usize, x: T, y: T| {
            let (a, b) = f(x.to_f64(), y.to_f64());
            plain[i] += a;
            product[i] += a * b;
        };
        let (x_chunks, x_rest) = x.as_chunks::<LANES>();
        let (y_chunks, y_rest) = y.as_chunks::<LANES>();
        for (x, y) in x_chunks.iter().zip(y_chunks) {
            for i in 0..LANES {
                one(i, x[i], y[i]);
            }
        }
        for (i, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
            one(i, x, y);
        }
    }

    #[inline(always)]
    fn fold(self) -> [f64; 2] {
        self.0.map(fold)
    }
}

#[derive(Debug)]
struct ChannelKernel {
    op: Norm,
    channels: Channels,
    threads: usize,
}

impl ChannelKernel {
    /// `(mean, 1 / √(variance + eps), variance)` of a row.
    #[inline(always)]
    fn statistics<T: Element>(&self, row: usize, x: &[T]) -> (f64, f64, f64) {
        let len = self.channels.row_len() as f64;
        let mut pieces = self.channels.pieces(row).peekable();
        // Squares of differences from any element near the mean lose nothing in `f64`.
        let near = pieces.peek().and_then(|(range, _)| x.get(range.start));
        let near = near.map_or(0.0, |x| x.to_f64());
        let mut sums = Sums::ZERO;
        for (range, _) in pieces {
            let x = &x[range];
            sums.add(
                x,
                x,
                #[inline(always)]
                |x, _| (x - near, x - near),
            );
        }
        let [sum, squares] = sums.fold();
        // A NaN stays.
        let variance = (squares - sum * sum / len) / len;
        let variance = if variance < 0.0 { 0.0 } else { variance };
        (
            near + sum / len,
            1.0 / (variance + self.op.eps).sqrt(),
            variance,
        )
    }
}

impl<T: Element> Kernel<T> for ChannelKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (x, w, b) = (operands.slice(0), operands.slice(1), operands.slice(2));
        let [y, means, rstds] = [0, 1, 2].map(|i| Shared::new(results.take(i)));
        let (channels, len) = (self.channels, self.channels.row_len());
        let running = match self.op.over {
            NormOver::Batch { momentum } => {
                let new = [3, 4].map(|i| Shared::new(results.take(i)));
                Some((momentum, new))
            }
            _ => None,
        };
        each_index(self.threads, channels.rows(), len, |rows| {
            widest(
                #[inline(always)]
                || {
                    for row in rows {
                        let (mean, rstd) = if self.op.over == NormOver::Running {
                            let variance = operands.slice(4)[row].to_f64();
                            let rstd = 1.0 / (variance + self.op.eps).sqrt();
                            (operands.slice(3)[row], T::from_f64(rstd))
                        } else {
                            let (mean, rstd, variance) = self.statistics(row, x);
                            if let Some((momentum, [new_mean, new_var])) = &running {
                                let unbiased = variance * len as f64 / (len.max(2) - 1) as f64;
                                let step = |old: T, new: f64| {
                                    T::from_f64((1.0 - *momentum) * old.to_f64() + *momentum * new)
                                };
                                // SAFETY: only this row writes here.
                                unsafe {
                                    new_mean.set(row, step(operands.slice(3)[row], mean));
                                    new_var.set(row, step(operands.slice(4)[row], unbiased));
                                }
                            }
                            (T::from_f64(mean), T::from_f64(rstd))
                        };
                        // SAFETY: only this row writes here.
                        unsafe {
                            means.set(row, mean);
                            rstds.set(row, rstd);
                        }
                        for (range, channel) in channels.pieces(row) {
                            let factor = rstd * w[channel];
                            let b = b[channel];
                            // SAFETY: rows have no piece in common.
                            let y = unsafe { y.range(range.clone()) };
                            for (y, &x) in y.iter_mut().zip(&x[range]) {
                                *y = (x - mean) * factor + b;
                            }
                        }
                    }
                },
            );
        });
    }
}

#[derive(Debug)]
struct ChannelGradKernel {
    channels: Channels,
    threads: usize,
}

impl<T: Element> Kernel<T> for ChannelGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (x, w) = (operands.slice(0), operands.slice(1));
        let (means, rstds, dy) = (operands.slice(2), operands.slice(3), operands.slice(4));
        let [dx, dw, db] = [0, 1, 2].map(|i| {
            let slice = results.take(i);
            if i > 0 {
                slice.fill(T::ZERO);
            }
            Shared::new(slice)
        });
        let channels = self.channels;
        let inverse = 1.0 / channels.row_len() as f64;
        each_index(self.threads, channels.rows(), channels.row_len(), |rows| {
            widest(
                #[inline(always)]
                || {
                    for row in rows {
                        let (mean, rstd) = (means[row], rstds[row]);
                        let centre = mean.to_f64();
                        let (mut shift, mut dot) = (0.0, 0.0);
                        let mut add = |channel: usize, sums: Sums| {
                            let [total, product] = sums.fold();
                            let product = product * rstd.to_f64();
                            // SAFETY: a channel has one row, or one thread has all rows.
                            unsafe {
                                dw.add(channel, T::from_f64(product));
                                db.add(channel, T::from_f64(total));
                            }
                            shift += total * w[channel].to_f64();
                            dot += product * w[channel].to_f64();
                        };
                        let (mut sums, mut last) = (Sums::ZERO, None);
                        for (range, channel) in channels.pieces(row) {
                            if let Some(last) = last.filter(|&last| last != channel) {
                                add(last, std::mem::replace(&mut sums, Sums::ZERO));
                            }
                            last = Some(channel);
                            sums.add(
                                &dy[range.clone()],
                                &x[range],
                                #[inline(always)]
                                |dy, x| (dy, x - centre),
                            );
                        }
                        if let Some(last) = last {
                            add(last, sums);
                        }
                        let (shift, dot) =
                            (T::from_f64(shift * inverse), T::from_f64(dot * inverse));
                        for (range, channel) in channels.pieces(row) {
                            let w = w[channel];
                            let (x, dy) = (&x[range.clone()], &dy[range.clone()]);
                            // SAFETY: rows have no piece in common.
                            let dx = unsafe { dx.range(range) };
                            for ((d, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                                *d = rstd * (dy * w - shift - (x - mean) * rstd * dot);
                            }
                        }
                    }
                },
            );
        });
    }
}
