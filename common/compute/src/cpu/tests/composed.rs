//! Picks of elements, running sums and composed functions against differences.

use ringfold_graph::compose;
use ringfold_graph::op::{CumSum, GatherElements, MeanSquaredError};
use ringfold_graph::{ConstantData, DType, Graph, OutputRole, Shape, TensorType, ValueId};

use crate::testing::{Rig, assert_gradients, finish, input, parameter};

/// The graph of a function of parameters in a squared error.
fn graph(dims: &[&[usize]], apply: impl Fn(&mut Graph, &[ValueId]) -> ValueId) -> Graph {
    let mut graph = Graph::new("composed", DType::F64).unwrap();
    let operands: Vec<ValueId> = dims
        .iter()
        .enumerate()
        .map(|(i, dims)| parameter(&mut graph, &format!("p{i}"), dims))
        .collect();
    let y = apply(&mut graph, &operands);
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let shape = graph.value(y).ty.shape.clone();
    let target = input(&mut graph, "target", shape);
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    finish(graph, loss)
}

fn index(graph: &mut Graph, dims: &[usize], data: &[i64]) -> ValueId {
    let ty = TensorType::new(DType::I64, Shape::fixed(dims));
    let data = ConstantData::Int(data.to_vec());
    graph.add_constant(ty, data).unwrap()
}

#[test]
fn elements_are_picked() {
    for axis in [0, 1] {
        let graph = graph(&[&[3, 4]], |graph, operands| {
            let picks = index(graph, &[2, 3], &[2, 0, -1, 1, 2, 2]);
            let op = GatherElements { axis };
            graph.apply(op, &[operands[0], picks]).unwrap()
        });
        assert_gradients(&graph, 1);
        let mut rig = Rig::<f64>::new(&graph, 1);
        rig.run();
        let y = rig.plan.output(&rig.workspace, "y").unwrap();
        let x = &rig.parameters;
        let expected = match axis {
            0 => [x[8], x[1], x[10], x[4], x[9], x[10]],
            _ => [x[2], x[0], x[3], x[5], x[6], x[6]],
        };
        assert_eq!(y, expected);
    }
}

#[test]
fn running_sums() {
    for axis in [0, 1, 2] {
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            let op = CumSum {
                axis,
                exclusive,
                reverse,
            };
            let graph = graph(&[&[2, 3, 4]], |graph, x| graph.apply(op, x).unwrap());
            assert_gradients(&graph, 1);
        }
    }
}

#[test]
fn vectors_are_multiplied_as_numpy_does() {
    for (a, b, y) in [
        (&[3][..], &[3][..], &[][..]),
        (&[3], &[3, 2], &[2]),
        (&[2, 3], &[3], &[2]),
        (&[3], &[4, 3, 2], &[4, 2]),
        (&[4, 2, 3], &[3], &[4, 2]),
        (&[4, 2, 3], &[3, 5], &[4, 2, 5]),
    ] {
        let graph = graph(&[a, b], |graph, operands| {
            let product = compose::matmul(graph, operands[0], operands[1]).unwrap();
            assert_eq!(graph.value(product).ty.shape, Shape::fixed(y));
            product
        });
        assert_gradients(&graph, 1);
    }
}

#[test]
fn composed_functions() {
    assert_gradients(
        &graph(&[&[3, 4]], |g, x| compose::mish(g, x[0]).unwrap()),
        1,
    );
    let (alpha, gamma) = (compose::SELU_ALPHA, compose::SELU_GAMMA);
    let selu = |g: &mut Graph, x: &[ValueId]| compose::selu(g, x[0], alpha, gamma).unwrap();
    assert_gradients(&graph(&[&[3, 4]], selu), 1);
    let prelu = |g: &mut Graph, x: &[ValueId]| compose::prelu(g, x[0], x[1]).unwrap();
    assert_gradients(&graph(&[&[3, 4, 2], &[4, 1]], prelu), 1);
    let sum_square = |g: &mut Graph, x: &[ValueId]| {
        let square = compose::sum_square(g, x[0], vec![1], true).unwrap();
        compose::log_sum(g, square, vec![0], false).unwrap()
    };
    assert_gradients(&graph(&[&[3, 4]], sum_square), 1);
}

#[test]
fn one_hot_rows_name_their_index() {
    let graph = graph(&[&[3, 4]], |graph, x| {
        let picks = index(graph, &[3], &[2, -4, 7]);
        let rows = compose::one_hot(graph, picks, 4, [0.5, 2.0]).unwrap();
        let least = compose::arg_min(graph, rows, 1, false).unwrap();
        assert_eq!(graph.value(least).ty.shape, Shape::fixed(&[3]));
        let op = ringfold_graph::op::Binary::Mul;
        graph.apply(op, &[x[0], rows]).unwrap()
    });
    let mut rig = Rig::<f64>::new(&graph, 1);
    rig.run();
    let y = rig.plan.output(&rig.workspace, "y").unwrap();
    let rows = [0.5, 0.5, 2.0, 0.5, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];
    let expected = rig.parameters.iter().zip(rows).map(|(x, row)| x * row);
    assert_eq!(y, expected.collect::<Vec<_>>());
    assert_gradients(&graph, 1);
    let mut graph = Graph::new("depth", DType::F32).unwrap();
    let picks = index(&mut graph, &[1], &[0]);
    assert!(compose::one_hot(&mut graph, picks, 0, [0.0, 1.0]).is_err());
}
