//! Every operator's gradient against central differences, alone and inside random graphs.

use proptest::prelude::*;
use ringfold_graph::{DType, Graph, Op, Shape, TensorType, ValueId};

use crate::testing::{ACTIVATIONS, assert_gradients, finish, input, parameter, smooth_graphs};

/// Checks an operator on parameters of these dimensions; its result goes into a squared error.
fn assert_operator(op: &Op, dims: &[&[usize]]) {
    let mut graph = Graph::new("operator", DType::F64).unwrap();
    let operands: Vec<ValueId> = dims
        .iter()
        .enumerate()
        .map(|(i, dims)| parameter(&mut graph, &format!("p{i}"), dims))
        .collect();
    let y = graph.apply(op.clone(), &operands).unwrap();
    let shape = graph.value(y).ty.shape.clone();
    let target = input(&mut graph, "target", shape);
    let loss = graph.apply(Op::MeanSquaredError, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn affine() {
    for (n, i, o) in [(1, 1, 1), (3, 4, 2), (17, 5, 9)] {
        assert_operator(&Op::Affine, &[&[n, i], &[o, i]]);
        assert_operator(&Op::Affine, &[&[n, i], &[o, i], &[o]]);
    }
}

#[test]
fn elementwise() {
    for activation in ACTIVATIONS {
        assert_operator(&Op::Activation(activation), &[&[5, 7]]);
    }
    assert_operator(&Op::Scale { factor: -1.5 }, &[&[5, 7]]);
    assert_operator(&Op::Identity, &[&[5, 7]]);
    assert_operator(&Op::Dropout { rate: 0.4, key: 9 }, &[&[5, 7]]);
}

#[test]
fn add() {
    assert_operator(&Op::Add, &[&[5, 7], &[5, 7]]);
    let mut graph = Graph::new("twice", DType::F64).unwrap();
    let w = parameter(&mut graph, "w", &[3]);
    let twice = graph.apply(Op::Add, &[w, w]).unwrap();
    let loss = graph
        .apply(Op::L2Penalty { lambda: 2.0 }, &[twice])
        .unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn softmax() {
    for columns in [1, 2, 17, 40] {
        assert_operator(&Op::Softmax, &[&[3, columns]]);
    }
}

#[test]
fn mean_squared_error() {
    let mut graph = Graph::new("mse", DType::F64).unwrap();
    let a = parameter(&mut graph, "a", &[3, 4]);
    let b = parameter(&mut graph, "b", &[3, 4]);
    let loss = graph.apply(Op::MeanSquaredError, &[a, b]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn softmax_cross_entropy() {
    for classes in [1, 2, 19] {
        let mut graph = Graph::new("ce", DType::F64).unwrap();
        let logits = parameter(&mut graph, "logits", &[6, classes]);
        let ty = TensorType::new(DType::I32, Shape::fixed(&[6]));
        let labels = graph.add_input("labels", ty).unwrap();
        let loss = graph
            .apply(Op::SoftmaxCrossEntropy, &[logits, labels])
            .unwrap();
        assert_gradients(&finish(graph, loss), 1);
    }
}

#[test]
fn l2_penalty() {
    let mut graph = Graph::new("l2", DType::F64).unwrap();
    let w = parameter(&mut graph, "w", &[3, 4]);
    let loss = graph.apply(Op::L2Penalty { lambda: 0.3 }, &[w]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn random_compositions(random in smooth_graphs(), batch in 1usize..6) {
        assert_gradients(&random.build(DType::F64), batch);
    }
}
