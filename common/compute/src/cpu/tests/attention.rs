//! Attention against its composition of simpler operators, and its gradient against differences.

use proptest::prelude::*;
use ringfold_graph::layers::{SelfAttention, self_attention};
use ringfold_graph::op::{
    Attention, AttentionLayout, Binary, Dropout, MatMul, MeanSquaredError, Reshape, Slice, Softmax,
    Transpose, Unary,
};
use ringfold_graph::{ConstantData, DType, Graph, Initialiser, Shape, TensorType, ValueId};

use crate::element::Element;
use crate::testing::{Rig, assert_gradients, finish, input, parameter};

#[derive(Clone, Copy, Debug)]
enum Mask {
    None,
    /// Trained floats of these leading and last dimensions: 1 where false.
    Float([bool; 4]),
    Bool([bool; 4]),
}

#[derive(Clone, Debug)]
struct Case {
    samples: usize,
    groups: usize,
    share: usize,
    queries: usize,
    keys: usize,
    d: usize,
    e: usize,
    causal: bool,
    scale: Option<f64>,
    mask: Mask,
    dropout: Option<Dropout>,
}

impl Case {
    fn scores(&self) -> [usize; 4] {
        [
            self.samples,
            self.groups * self.share,
            self.queries,
            self.keys,
        ]
    }

    fn mask(&self, graph: &mut Graph) -> Option<ValueId> {
        let dims = |full: [bool; 4]| -> Vec<usize> {
            let pairs = self.scores().into_iter().zip(full);
            pairs.map(|(n, full)| if full { n } else { 1 }).collect()
        };
        match self.mask {
            Mask::None => None,
            Mask::Float(full) => Some(parameter(graph, "mask", &dims(full))),
            Mask::Bool(full) => {
                let shape = Shape::fixed(&dims(full));
                let data = (0..shape.elements(1).unwrap()).map(|i| i % 3 != 1);
                let data = ConstantData::Bool(data.collect());
                let ty = TensorType::new(DType::Bool, shape);
                Some(graph.add_constant(ty, data).unwrap())
            }
        }
    }

    fn graph(&self, fused: bool, dtype: DType) -> Graph {
        let mut graph = Graph::new("attention", dtype).unwrap();
        let [n, h, t, s] = self.scores();
        let q = parameter(&mut graph, "q", &[n, h, t, self.d]);
        let k = parameter(&mut graph, "k", &[n, self.groups, s, self.d]);
        let v = parameter(&mut graph, "v", &[n, self.groups, s, self.e]);
        let mask = self.mask(&mut graph);
        let op = Attention {
            layout: AttentionLayout::Heads,
            causal: self.causal,
            scale: self.scale,
            dropout: self.dropout,
        };
        let y = match fused {
            true => {
                let operands: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
                graph.apply_all(op, &operands).unwrap()[0]
            }
            false => self.composed(&mut graph, [q, k, v], mask),
        };
        let target = input(&mut graph, "target", Shape::fixed(&[n, h, t, self.e]));
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        finish(graph, loss)
    }

    /// The same of products, a softmax and a mask.
    fn composed(&self, graph: &mut Graph, qkv: [ValueId; 3], mask: Option<ValueId>) -> ValueId {
        let [n, h, t, s] = self.scores();
        let split = |graph: &mut Graph, x: ValueId, heads: usize, rows: usize, len: usize| {
            let share = h / heads;
            let shape = Shape::fixed(&[n, self.groups, self.share / share, rows, len]);
            graph.apply(Reshape { shape }, &[x]).unwrap()
        };
        let q = split(graph, qkv[0], h, t, self.d);
        let k = split(graph, qkv[1], self.groups, s, self.d);
        let v = split(graph, qkv[2], self.groups, s, self.e);
        let product = |b_transposed| MatMul {
            a_transposed: false,
            b_transposed,
        };
        let scores = graph.apply(product(true), &[q, k]).unwrap();
        let factor = self.scale.unwrap_or(1.0 / (self.d as f64).sqrt());
        let scores = graph.apply(Unary::Scale { factor }, &[scores]).unwrap();
        let shape = Shape::fixed(&[n, h, t, s]);
        let mut scores = graph.apply(Reshape { shape }, &[scores]).unwrap();
        let float = graph.dtype();
        if let Some(mask) = mask {
            scores = match graph.value(mask).ty.dtype {
                DType::Bool => {
                    let never = graph.add_scalar(-1e30).unwrap();
                    graph
                        .apply(ringfold_graph::op::Where, &[mask, scores, never])
                        .unwrap()
                }
                _ => graph.apply(Binary::Add, &[scores, mask]).unwrap(),
            };
        }
        if self.causal {
            let data = (0..t * s).map(|i| if i % s > i / s { -1e30 } else { 0.0 });
            let data = ConstantData::Float(data.collect());
            let ty = TensorType::new(float, Shape::fixed(&[t, s]));
            let mask = graph.add_constant(ty, data).unwrap();
            scores = graph.apply(Binary::Add, &[scores, mask]).unwrap();
        }
        let mut p = graph.apply(Softmax::Plain { axis: 3 }, &[scores]).unwrap();
        if let Some(dropout) = self.dropout {
            // The masks are the same where the keys are a multiple of 4.
            p = graph.apply(dropout, &[p]).unwrap();
        }
        let shape = Shape::fixed(&[n, self.groups, self.share, t, s]);
        let p = graph.apply(Reshape { shape }, &[p]).unwrap();
        let y = graph.apply(product(false), &[p, v]).unwrap();
        let shape = Shape::fixed(&[n, h, t, self.e]);
        graph.apply(Reshape { shape }, &[y]).unwrap()
    }
}

/// The loss and the gradients by name.
fn run<T: Element>(graph: &Graph, threads: usize) -> (f64, Vec<(String, Vec<f64>)>) {
    let mut rig = Rig::<T>::with_threads(graph, 1, threads);
    let loss = rig.run().to_f64();
    let mut gradients: Vec<_> = rig
        .layout
        .slots()
        .iter()
        .map(|slot| {
            let gradient = &rig.gradients[slot.range()];
            let gradient = gradient.iter().map(|x| x.to_f64());
            (slot.name.clone(), gradient.collect::<Vec<_>>())
        })
        .collect();
    gradients.sort_by(|a, b| a.0.cmp(&b.0));
    (loss, gradients)
}

fn assert_as_composed(case: &Case) {
    let (loss, gradients) = run::<f64>(&case.graph(true, DType::F64), 1);
    let (expected, composed) = run::<f64>(&case.graph(false, DType::F64), 1);
    assert!(
        (loss - expected).abs() < 1e-12,
        "{case:?}: {loss} {expected}"
    );
    for ((name, got), (_, expected)) in gradients.iter().zip(&composed) {
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let error = (got - expected).abs();
            assert!(error < 1e-12, "{case:?}: {name}[{i}]: {got} {expected}");
        }
    }
}

fn cases(most: usize) -> impl Strategy<Value = Case> {
    let mask = prop_oneof![
        Just(Mask::None),
        any::<[bool; 4]>().prop_map(Mask::Float),
        // Every query may go somewhere: truth values run along the keys and differ there.
        any::<[bool; 3]>().prop_map(|[a, b, c]| Mask::Bool([a, b, c, true])),
    ];
    let sizes = (1usize..3, 1usize..3, 1usize..3);
    let lengths = (1..most, 3..most + 3, 1usize..9, 1usize..9);
    let scale = prop_oneof![Just(None), Just(Some(0.7))];
    (sizes, lengths, any::<bool>(), scale, mask).prop_map(
        |((samples, groups, share), (queries, keys, d, e), causal, scale, mask)| Case {
            samples,
            groups,
            share,
            queries,
            keys,
            d,
            e,
            // With both, a query could be left without a key.
            causal: causal && !matches!(mask, Mask::Bool(_)),
            scale,
            mask,
            dropout: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn attention_is_its_composition(case in cases(150)) {
        assert_as_composed(&case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn attention_gradients_are_differences(case in cases(6)) {
        assert_gradients(&case.graph(true, DType::F64), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn dropped_attention_is_its_composition(case in cases(150), rate in 0.0f64..0.9) {
        let mut case = Case { dropout: Some(Dropout { rate, key: 3 }), ..case };
        case.keys = case.keys.next_multiple_of(4);
        assert_as_composed(&case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn dropped_attention_gradients_are_differences(case in cases(6), rate in 0.1f64..0.7) {
        let case = Case { dropout: Some(Dropout { rate, key: 1 }), ..case };
        assert_gradients(&case.graph(true, DType::F64), 1);
    }
}

/// Attention of packed operands, and of the same operands cut and transposed.
fn packed_graph(packed: bool, [n, t, heads, groups, d]: [usize; 5], dtype: DType) -> Graph {
    let dropout = Some(Dropout { rate: 0.3, key: 5 });
    let mut graph = Graph::new("packed", dtype).unwrap();
    let qkv = parameter(&mut graph, "qkv", &[n, t, (heads + 2 * groups) * d]);
    let y = if packed {
        let op = Attention {
            layout: AttentionLayout::Packed { heads, groups },
            dropout,
            ..Attention::packed(heads, true)
        };
        graph.apply_all(op, &[qkv]).unwrap()[0]
    } else {
        let mut start = 0;
        let operands = [heads, groups, groups].map(|count| {
            let slice = Slice {
                axis: 2,
                start: start * d,
                step: 1,
                len: count * d,
            };
            start += count;
            let part = graph.apply(slice, &[qkv]).unwrap();
            let shape = Shape::fixed(&[n, t, count, d]);
            let part = graph.apply(Reshape { shape }, &[part]).unwrap();
            let order = vec![0, 2, 1, 3];
            graph.apply(Transpose { order }, &[part]).unwrap()
        });
        let causal = true;
        let op = Attention {
            causal,
            dropout,
            ..Attention::heads()
        };
        let y = graph.apply_all(op, &operands).unwrap()[0];
        let order = vec![0, 2, 1, 3];
        let y = graph.apply(Transpose { order }, &[y]).unwrap();
        let shape = Shape::fixed(&[n, t, heads * d]);
        graph.apply(Reshape { shape }, &[y]).unwrap()
    };
    let target = input(&mut graph, "target", Shape::fixed(&[n, t, heads * d]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    finish(graph, loss)
}

#[test]
fn packed_operands_give_the_same() {
    for sizes in [[2, 70, 4, 2, 8], [1, 5, 3, 3, 2], [11, 9, 2, 1, 4]] {
        let packed = run::<f64>(&packed_graph(true, sizes, DType::F64), 1);
        let apart = run::<f64>(&packed_graph(false, sizes, DType::F64), 1);
        assert!((packed.0 - apart.0).abs() < 1e-14);
        for (a, b) in packed.1[0].1.iter().zip(&apart.1[0].1) {
            assert!((a - b).abs() < 1e-14, "{a} {b}");
        }
    }
}

#[test]
fn bits_of_attention_do_not_depend_on_threads() {
    let sizes = [11, 70, 4, 2, 8];
    for packed in [true, false] {
        let graph = packed_graph(packed, sizes, DType::F32);
        let one = run::<f32>(&graph, 1);
        for threads in [2, 3, 8] {
            assert!(run::<f32>(&graph, threads) == one, "{threads} threads");
        }
    }
}

/// A query without any key gets zeros and has no gradient.
#[test]
fn rows_that_see_nothing_are_zero() {
    let mut graph = Graph::new("blind", DType::F64).unwrap();
    let q = parameter(&mut graph, "q", &[1, 2, 3]);
    let ty = TensorType::new(DType::Bool, Shape::fixed(&[2, 3]));
    let data = ConstantData::Bool(vec![false, false, false, true, false, true]);
    let mask = graph.add_constant(ty, data).unwrap();
    let k = parameter(&mut graph, "k", &[1, 3, 3]);
    let y = graph
        .apply_all(Attention::heads(), &[q, k, k, mask])
        .unwrap()[0];
    let target = input(&mut graph, "target", Shape::fixed(&[1, 2, 3]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    let graph = finish(graph, loss);
    let (_, gradients) = run::<f64>(&graph, 1);
    assert_eq!(gradients[1].0, "q");
    assert_eq!(gradients[1].1[..3], [0.0; 3]);
    assert!(gradients[1].1[3..].iter().all(|&x| x != 0.0));
    assert_gradients(&graph, 1);
}

/// Self-attention of a batch: the layer's parameters have gradients, and theirs are right.
#[test]
fn a_layer_of_self_attention_differentiates() {
    let mut graph = Graph::new("layer", DType::F64).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[5, 6]));
    let weight = Initialiser::Normal { deviation: 0.7 };
    let options = SelfAttention {
        heads: 2,
        causal: true,
        bias: true,
        input: weight,
        output: weight,
        dropout: None,
    };
    let y = self_attention(&mut graph, "attention", x, &options).unwrap();
    let target = input(&mut graph, "target", Shape::batched(&[5, 6]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 2);
    let mut graph = Graph::new("layer", DType::F64).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[5, 6]));
    let odd = SelfAttention {
        heads: 4,
        ..options
    };
    assert!(self_attention(&mut graph, "attention", x, &odd).is_err());
}
