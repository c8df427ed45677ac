//! What nodes cost: floating-point operations.
//!
//! A product of matrices and a convolution count a multiplication and an addition apart: `2 m n k`.
//! Every other operator counts its arithmetic on numbers: an element-wise function of an element is
//! one operation, whatever it is, so that `exp` counts as much as `+`. Moves count nothing. Attention
//! counts the pairs of a query and a key that it sees, and in the backward part its scores again.

use crate::graph::{Graph, Node};
use crate::op::{
    Attention, AttentionLayout, Conv, ConvPart, Dense, MatMul, Op, Pool, PoolGrad, Recurrent,
};
use crate::pass::uses::backward;

/// Floating-point operations of an operator on operands and results of these dimensions. Saturates.
#[must_use]
pub fn flops(op: &Op, operands: &[Vec<usize>], results: &[Vec<usize>]) -> u64 {
    let len = |shapes: &[Vec<usize>], i: usize| -> u64 {
        let dims = shapes.get(i).map(Vec::as_slice).unwrap_or_default();
        dims.iter()
            .fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    };
    let (x, y) = (len(operands, 0), len(results, 0));
    let last = |shapes: &[Vec<usize>], i: usize| -> u64 {
        let dims = shapes.get(i).and_then(|dims| dims.last());
        dims.copied().unwrap_or(1) as u64
    };
    match op {
        Op::Dense(Dense::Affine) => {
            let bias = if operands.len() == 3 { y } else { 0 };
            product(y, last(operands, 0)).saturating_add(bias)
        }
        Op::Dense(Dense::GradInput) => product(y, last(operands, 0)),
        Op::Dense(Dense::GradWeight) => product(x, last(operands, 1)),
        Op::Dense(Dense::GradBias) | Op::SumTo(_) | Op::Reduce(_) => x,
        Op::MatMul(MatMul { a_transposed, .. }) => {
            let dims = operands.first().map(Vec::as_slice).unwrap_or_default();
            let back = if *a_transposed { 2 } else { 1 };
            let k = dims.len().checked_sub(back).map_or(1, |i| dims[i]);
            product(y, k as u64)
        }
        Op::ConvRelu(op) => flops(&Op::Conv(op.0), operands, results).saturating_add(y),
        Op::Conv(Conv { part, .. }) => match part {
            // Each element of y is a sum over one filter.
            ConvPart::Forward => product(y, filter(&operands[1])),
            ConvPart::Image { .. } => product(x, filter(&operands[1])),
            ConvPart::Weight { .. } => product(x, filter(&results[0])),
        },
        Op::Pool(Pool { kernel, .. }) => y.saturating_mul((kernel[0] * kernel[1]) as u64),
        Op::PoolGrad(PoolGrad { pool, .. }) => {
            let dy = len(operands, operands.len().saturating_sub(1));
            dy.saturating_mul((pool.kernel[0] * pool.kernel[1]) as u64)
        }
        Op::Fused(op) => y.saturating_mul(op.steps.len() as u64),
        Op::FusedProduct(op) => {
            let own = op.operands.min(operands.len());
            let product = flops(&op.product.op(), &operands[..own], results);
            product.saturating_add(y.saturating_mul(op.chain.steps.len() as u64))
        }
        Op::UnaryGrad(_) | Op::BinaryGrad(_) => y.saturating_mul(2),
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Logic(_) | Op::Where(_) => y,
        Op::Dropout(_) | Op::Spread(_) | Op::ArgMax(_) | Op::Cast(_) => x.max(y),
        // Largest, difference, exponential, sum, quotient.
        Op::Softmax(_) | Op::SoftmaxCrossEntropy(_) | Op::CrossEntropy(_) => x.saturating_mul(5),
        Op::CrossEntropyGrad(_) | Op::ReduceGrad(_) => x.saturating_mul(5),
        // Mean, variance, difference, scale, shift.
        Op::Norm(_) => x.saturating_mul(7),
        Op::NormGrad(_) => x.saturating_mul(12),
        Op::PairLoss(_) | Op::PairLossGrad(_) | Op::MeanSquaredError(_) => x.saturating_mul(3),
        Op::L2Penalty(_) | Op::L2PenaltyGrad(_) => x.saturating_mul(2),
        Op::GatherGrad(_) => x,
        // The products of scores and of values, scale and softmax.
        Op::Attention(op) => attention(op, operands, |d, e| 2 * (d + e) + 6),
        // Scores again; the gradients of weights, values, keys and queries.
        Op::AttentionGrad(op) => attention(&op.attention, operands, |d, e| 6 * d + 4 * e + 5),
        Op::Recurrent(op) => recurrent(op, operands, 1),
        Op::RecurrentGrad(op) => recurrent(&op.recurrent, operands, 2),
        _ => 0,
    }
}

fn product(sums: u64, length: u64) -> u64 {
    sums.saturating_mul(length).saturating_mul(2)
}

/// What an attention counts, given what a pair of query and key costs with keys of d and values of e
/// elements.
fn attention(op: &Attention, operands: &[Vec<usize>], pair: impl Fn(u64, u64) -> u64) -> u64 {
    let shape = |i: usize| operands.get(i).map(Vec::as_slice).unwrap_or_default();
    let dim = |shape: &[usize], back: usize| -> u64 {
        let at = shape.len().checked_sub(back);
        at.map_or(1, |at| shape[at] as u64)
    };
    let (q, k, v) = (shape(0), shape(1), shape(2));
    let own = match op.layout {
        AttentionLayout::Heads => 3,
        AttentionLayout::Packed { .. } => 2,
    };
    let leading = q.iter().rev().skip(own);
    let leading = leading.fold(1, |product: u64, &n| product.saturating_mul(n as u64));
    let (heads, queries, keys, d, e) = match op.layout {
        AttentionLayout::Heads => (dim(q, 3), dim(q, 2), dim(k, 2), dim(q, 1), dim(v, 1)),
        AttentionLayout::Packed { heads, groups } => {
            let d = dim(q, 1) / (heads + 2 * groups).max(1) as u64;
            (heads as u64, dim(q, 2), dim(q, 2), d, d)
        }
    };
    let pairs = match op.causal {
        // Query i sees i + 1 keys, at most all.
        true => {
            let few = queries.min(keys);
            let triangle = few.saturating_mul(few + 1) / 2;
            triangle.saturating_add((queries - few).saturating_mul(keys))
        }
        false => queries.saturating_mul(keys),
    };
    let all = leading.saturating_mul(heads).saturating_mul(pairs);
    all.saturating_mul(pair(d, e))
}

/// A layer's products with the input and the state, and the functions of its gates and states;
/// `times` over.
fn recurrent(op: &Recurrent, operands: &[Vec<usize>], times: u64) -> u64 {
    let [x, _, w_hh] = [0, 1, 2].map(|i| operands.get(i).map(Vec::as_slice).unwrap_or_default());
    let (Some((&inputs, steps)), Some(&hidden)) = (x.split_last(), w_hh.last()) else {
        return 0;
    };
    let steps = steps
        .iter()
        .fold(1, |product: u64, &n| product.saturating_mul(n as u64));
    let (inputs, hidden, gates) = (inputs as u64, hidden as u64, op.cell.gates() as u64);
    let gates = gates.saturating_mul(hidden);
    // Two biases and a function a gate; the new states.
    let own = gates
        .saturating_mul(3)
        .saturating_add(hidden.saturating_mul(5));
    let step = product(gates, inputs.saturating_add(hidden)).saturating_add(own);
    steps.saturating_mul(step).saturating_mul(times)
}

/// The elements of one filter: all of a kernel but its first dimension.
fn filter(kernel: &[usize]) -> u64 {
    let dims = kernel.iter().skip(1);
    dims.fold(1, |product: u64, &n| product.saturating_mul(n as u64))
}

/// Floating-point operations of one node for a batch.
#[must_use]
pub fn node_flops(graph: &Graph, node: &Node, batch: usize) -> u64 {
    let bind = |values: &[crate::ValueId]| -> Vec<Vec<usize>> {
        let shapes = values.iter().map(|&value| &graph.value(value).ty.shape);
        shapes.map(|shape| shape.bind(batch)).collect()
    };
    flops(&node.op, &bind(&node.operands), &bind(&node.results))
}

/// By node: it is part of the backward pass, since it depends on the loss scale.
#[must_use]
pub fn is_backward(graph: &Graph) -> Vec<bool> {
    let backward = backward(graph);
    let nodes = graph.nodes().iter();
    nodes
        .map(|node| node.results.iter().any(|v| backward[v.0 as usize]))
        .collect()
}

/// Floating-point operations of a run, forward and backward.
#[must_use]
pub fn run_flops(graph: &Graph, batch: usize) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for (node, is_backward) in graph.nodes().iter().zip(is_backward(graph)) {
        let flops = node_flops(graph, node, batch);
        let sum = if is_backward {
            &mut sums.1
        } else {
            &mut sums.0
        };
        *sum = sum.saturating_add(flops);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{LOSS, MlpOptions, mlp};
    use crate::{differentiate, pass};

    #[test]
    fn an_mlp_counts_its_products() {
        let graph = mlp(&MlpOptions::classifier(784, &[512, 512], 10)).unwrap();
        let graph = differentiate(&graph, LOSS).unwrap();
        let weights = 784 * 512 + 512 * 512 + 512 * 10;
        let (forward, backward) = run_flops(&graph, 1);
        // Forward once; backward for every weight, and for every input but the first layer's.
        assert!((2 * weights..2 * weights + 8_000).contains(&forward));
        let backward_products = 4 * weights - 2 * 784 * 512;
        assert!((backward_products..backward_products + 8_000).contains(&backward));
        let fused = pass::optimise(&graph, pass::Mode::Training).unwrap().graph;
        // The softmax of the probabilities is gone.
        let (fused_forward, fused_backward) = run_flops(&fused, 1);
        assert!(fused_forward <= forward && fused_backward <= backward);
    }

    #[test]
    fn attention_counts_the_pairs_that_it_sees() {
        let (n, h, t, d) = (2, 3, 8, 4);
        let pair = 2 * (4 + 4) + 6;
        let apart = [n, h, t, d].to_vec();
        let heads = [apart.clone(), apart.clone(), apart];
        let all = flops(&Op::Attention(Attention::heads()), &heads, &[]);
        assert_eq!(all, 2 * 3 * 64 * pair);
        let packed = vec![vec![n, t, 3 * h * d]];
        let causal = Attention::packed(3, true);
        let forward = flops(&Op::Attention(causal), &packed, &[]);
        assert_eq!(forward, 2 * 3 * (8 * 9 / 2) * pair);
        let grad = crate::op::AttentionGrad {
            attention: causal,
            mask: false,
            mask_gradient: false,
        };
        let backward = flops(&Op::AttentionGrad(grad), &packed, &[]);
        assert!(backward > 2 * forward && backward < 3 * forward);
        // Later queries see all keys.
        let few = [vec![1, 5, d], vec![1, 2, d], vec![1, 2, d]];
        let heads = Attention {
            causal: true,
            ..Attention::heads()
        };
        assert_eq!(flops(&Op::Attention(heads), &few, &[]), (1 + 4 * 2) * pair);
    }

    #[test]
    fn recurrent_layers_count_both_products() {
        let layer = Recurrent {
            cell: crate::op::Cell::Lstm,
            time_first: false,
            reverse: false,
        };
        let operands = [vec![2, 5, 7], vec![4 * 3, 7], vec![4 * 3, 3]];
        let step = 2 * 12 * (7 + 3) + 3 * 12 + 5 * 3;
        assert_eq!(flops(&Op::Recurrent(layer), &operands, &[]), 2 * 5 * step);
    }

    #[test]
    fn convolutions_count_filters() {
        let conv = |part| {
            Op::Conv(Conv {
                windows: crate::op::Windows::default(),
                groups: 2,
                part,
            })
        };
        let (x, w, y) = (vec![3, 4, 8, 8], vec![6, 2, 3, 3], vec![3, 6, 6, 6]);
        let expected = 2 * (3 * 6 * 36) * (2 * 9);
        let forward = flops(
            &conv(ConvPart::Forward),
            &[x.clone(), w.clone()],
            std::slice::from_ref(&y),
        );
        assert_eq!(forward, expected);
        let part = ConvPart::Image { size: [8, 8] };
        assert_eq!(
            flops(
                &conv(part),
                &[y.clone(), w.clone()],
                std::slice::from_ref(&x)
            ),
            expected
        );
        let part = ConvPart::Weight { size: [3, 3] };
        assert_eq!(flops(&conv(part), &[y, x], &[w]), expected);
    }
}
