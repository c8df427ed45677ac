//! Kernels of losses of two tensors and of cross-entropy with every option. Sums are taken in `f64`
//! and rounded once.

use std::sync::Arc;

use ringfold_graph::op::{CrossEntropy, Distance, LossReduction, PairLoss};

use super::Source;
use super::functions::{sigmoid, sign, softplus};
use super::rows::log_softmax;
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Index, Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn pair<T: Element>(op: PairLoss, call: &Call) -> Arc<dyn Kernel<T>> {
    let share = share(op.reduction, &call.operands[0].shape);
    Arc::new(PairKernel { op, share })
}

pub(crate) fn pair_grad<T: Element>(op: PairLoss, call: &Call) -> Arc<dyn Kernel<T>> {
    let share = share(op.reduction, &call.operands[0].shape);
    Arc::new(PairGradKernel { op, share })
}

pub(crate) fn cross_entropy<T: Element>(op: CrossEntropy, call: &Call) -> Arc<dyn Kernel<T>> {
    let classes = call.operands[0].shape.last().copied().unwrap_or(1);
    Arc::new(CrossEntropyKernel { op, classes })
}

pub(crate) fn cross_entropy_grad<T: Element>(op: CrossEntropy, call: &Call) -> Arc<dyn Kernel<T>> {
    let classes = call.operands[0].shape.last().copied().unwrap_or(1);
    Arc::new(CrossEntropyGradKernel { op, classes })
}

/// What the sum of the losses is multiplied by.
fn share(reduction: LossReduction, shape: &[usize]) -> f64 {
    match reduction {
        LossReduction::None | LossReduction::Sum => 1.0,
        LossReduction::Mean => 1.0 / shape.iter().product::<usize>() as f64,
        LossReduction::BatchMean => 1.0 / shape.first().copied().unwrap_or(1) as f64,
    }
}

/// Keeps the logarithm of a rate finite, as PyTorch's.
const RATE_EPS: f64 = 1e-8;

/// The loss of one element.
#[inline(always)]
fn loss<T: Element>(distance: Distance, x: T, t: T) -> T {
    let half = T::from_f64(0.5);
    let d = x - t;
    match distance {
        Distance::Squared => d * d,
        Distance::Absolute => d.abs(),
        Distance::Huber { delta } => {
            let delta = T::from_f64(delta);
            let outside = delta * (d.abs() - half * delta);
            T::select(d.abs() <= delta, half * d * d, outside)
        }
        Distance::SmoothAbsolute { beta } => {
            let beta = T::from_f64(beta);
            T::select(d.abs() < beta, half * d * d / beta, d.abs() - half * beta)
        }
        Distance::Logistic => softplus(x) - x * t,
        Distance::KullbackLeibler if t <= T::ZERO => T::ZERO,
        Distance::KullbackLeibler => t * (t.ln() - x),
        Distance::PoissonLog => x.exp() - t * x,
        Distance::Poisson => x - t * (x + T::from_f64(RATE_EPS)).ln(),
        Distance::GammaLog { shape } => T::from_f64(shape) * (x + t * (-x).exp()),
    }
}

/// Its derivative with respect to x.
#[inline(always)]
fn slope<T: Element>(distance: Distance, x: T, t: T) -> T {
    let d = x - t;
    match distance {
        Distance::Squared => d + d,
        Distance::Absolute => sign(d),
        Distance::Huber { delta } => {
            let delta = T::from_f64(delta);
            T::select(d.abs() <= delta, d, delta * sign(d))
        }
        Distance::SmoothAbsolute { beta } => {
            let beta = T::from_f64(beta);
            T::select(d.abs() < beta, d / beta, sign(d))
        }
        Distance::Logistic => sigmoid(x) - t,
        Distance::KullbackLeibler => -t,
        Distance::PoissonLog => x.exp() - t,
        Distance::Poisson => T::ONE - t / (x + T::from_f64(RATE_EPS)),
        Distance::GammaLog { shape } => T::from_f64(shape) * (T::ONE - t * (-x).exp()),
    }
}

#[derive(Debug)]
struct PairKernel {
    op: PairLoss,
    share: f64,
}

impl<T: Element> Kernel<T> for PairKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, x, t) = (results.take(0), operands.slice(0), operands.slice(1));
        let losses = x.iter().zip(t);
        let losses = losses.map(|(&x, &t)| loss(self.op.distance, x, t));
        if self.op.reduction == LossReduction::None {
            dst.iter_mut().zip(losses).for_each(|(d, loss)| *d = loss);
        } else {
            let total: f64 = losses.map(Element::to_f64).sum();
            dst[0] = T::from_f64(total * self.share);
        }
    }
}

#[derive(Debug)]
struct PairGradKernel {
    op: PairLoss,
    share: f64,
}

impl<T: Element> Kernel<T> for PairGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, x, t) = (results.take(0), operands.slice(0), operands.slice(1));
        let dloss = operands.slice(2);
        let all = self.op.reduction == LossReduction::None;
        let share = T::from_f64(self.share);
        for (i, (d, (&x, &t))) in dst.iter_mut().zip(x.iter().zip(t)).enumerate() {
            let dloss = dloss[if all { i } else { 0 }] * share;
            *d = dloss * slope(self.op.distance, x, t);
        }
    }
}

/// The class that a row counts for; `None` if the row is ignored. Labels that are inputs have been
/// checked; a computed one out of range makes the loss NaN.
fn class(op: &CrossEntropy, labels: Index<'_>, row: usize) -> Option<i64> {
    Some(labels.at(row)).filter(|label| op.ignore != Some(*label))
}

/// The sum over rows that a mean is divided by.
fn weight_total<T: Element>(op: &CrossEntropy, labels: Index<'_>, weights: Option<&[T]>) -> f64 {
    let rows = (0..labels.len()).filter_map(|row| class(op, labels, row));
    rows.map(|label| match weights {
        Some(weights) => at(weights, label).map_or(f64::NAN, Element::to_f64),
        None => 1.0,
    })
    .sum()
}

fn at<T: Element>(row: &[T], label: i64) -> Option<T> {
    usize::try_from(label)
        .ok()
        .and_then(|label| row.get(label))
        .copied()
}

#[derive(Debug)]
struct CrossEntropyKernel {
    op: CrossEntropy,
    classes: usize,
}

impl<T: Element> Kernel<T> for CrossEntropyKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let (scores, labels) = (operands.slice(0), operands.index(1));
        let weights = (operands.len() == 3).then(|| operands.slice(2));
        let (op, row_len) = (&self.op, self.classes);
        let smooth = op.smoothing / row_len as f64;
        let row_loss = |row: usize| -> f64 {
            let Some(label) = class(op, labels, row) else {
                return 0.0;
            };
            let scores = &scores[row * row_len..(row + 1) * row_len];
            let shift = if op.log_probabilities {
                0.0
            } else {
                let max = super::max(scores).to_f64();
                let sum: f64 = scores.iter().map(|x| libm::exp(x.to_f64() - max)).sum();
                max + libm::log(sum)
            };
            let weight = |class: i64| match weights {
                Some(weights) => at(weights, class).map_or(f64::NAN, Element::to_f64),
                None => 1.0,
            };
            let log = |class: i64| at(scores, class).map_or(f64::NAN, |x| x.to_f64() - shift);
            let mut loss = -(1.0 - op.smoothing) * weight(label) * log(label);
            if smooth > 0.0 {
                let all = (0..row_len as i64).map(|class| weight(class) * log(class));
                loss -= smooth * all.sum::<f64>();
            }
            loss
        };
        if op.reduction == LossReduction::None {
            for (row, d) in dst.iter_mut().enumerate() {
                *d = T::from_f64(row_loss(row));
            }
            return;
        }
        let total: f64 = (0..labels.len()).map(row_loss).sum();
        dst[0] = T::from_f64(match op.reduction {
            LossReduction::Mean => total / weight_total(op, labels, weights),
            _ => total,
        });
    }
}

#[derive(Debug)]
struct CrossEntropyGradKernel {
    op: CrossEntropy,
    classes: usize,
}

impl<T: Element> Kernel<T> for CrossEntropyGradKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let (scores, labels) = (operands.slice(0), operands.index(1));
        let last = operands.len() - 1;
        let weights = (last == 3).then(|| operands.slice(2));
        let (op, dloss) = (&self.op, operands.slice(last));
        let share = match op.reduction {
            LossReduction::Mean => 1.0 / weight_total(op, labels, weights),
            _ => 1.0,
        };
        let smooth = T::from_f64(op.smoothing / self.classes as f64);
        let keep = T::from_f64(1.0 - op.smoothing);
        if !op.log_probabilities {
            log_softmax(dst, Source::Apart(scores), self.classes);
        }
        for (row, dst) in dst.chunks_exact_mut(self.classes).enumerate() {
            let Some(label) = class(op, labels, row) else {
                dst.fill(T::ZERO);
                continue;
            };
            let all = op.reduction == LossReduction::None;
            let factor = dloss[if all { row } else { 0 }] * T::from_f64(share);
            // What each class's log-probability is multiplied by in the loss.
            let part = |class: usize| {
                let weight = weights.map_or(T::ONE, |weights| weights[class]);
                let hit = T::select(class as i64 == label, keep, T::ZERO);
                weight * (hit + smooth)
            };
            let mut total = T::ZERO;
            (0..self.classes).for_each(|class| total += part(class));
            for (class, d) in dst.iter_mut().enumerate() {
                let probability = if op.log_probabilities {
                    T::ZERO
                } else {
                    d.exp() * total
                };
                *d = factor * (probability - part(class));
            }
        }
    }
}
