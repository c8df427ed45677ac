//! Gradients of recurrent layers against differences; orders of operands and directions.

use proptest::prelude::*;
use ringfold_graph::layers::{RecurrentStack, recurrent};
use ringfold_graph::op::{Binary, Cell, MeanSquaredError, Recurrent, Transpose};
use ringfold_graph::{DType, Graph, Shape, ValueId};

use crate::testing::{Rig, assert_gradients, finish, input, parameter};

/// Which results go into the loss.
type Used = [bool; 3];

/// A layer on parameters alone; each result that is used goes into a squared error.
fn layer(op: Recurrent, [n, t, i, h]: [usize; 4], used: Used) -> Graph {
    let mut graph = Graph::new("layer", DType::F64).unwrap();
    let rows = h * op.cell.gates();
    let sequence = |len| {
        if op.time_first {
            [t, n, len]
        } else {
            [n, t, len]
        }
    };
    let mut operands = vec![parameter(&mut graph, "x", &sequence(i))];
    for (name, dims) in [
        ("w_ih", &[rows, i][..]),
        ("w_hh", &[rows, h]),
        ("b_ih", &[rows]),
        ("b_hh", &[rows]),
        ("h0", &[n, h]),
        ("c0", &[n, h]),
    ] {
        if name != "c0" || op.cell == Cell::Lstm {
            operands.push(parameter(&mut graph, name, dims));
        }
    }
    let results = graph.apply_all(op, &operands).unwrap();
    let mut loss: Option<ValueId> = None;
    for result in 0..=op.cell.states() {
        if used[result] {
            let y = results[result];
            let shape = graph.value(y).ty.shape.clone();
            let target = input(&mut graph, &format!("target{result}"), shape);
            let more = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
            loss = Some(match loss {
                None => more,
                Some(loss) => graph.apply(Binary::Add, &[loss, more]).unwrap(),
            });
        }
    }
    finish(graph, loss.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(36))]
    #[test]
    fn recurrent_gradients_are_differences(
        cell in prop_oneof![Just(Cell::Lstm), Just(Cell::Gru), Just(Cell::GruResetFirst)],
        time_first: bool, reverse: bool,
        sizes in [1usize..4, 1..5, 1..4, 1..4],
        used in prop_oneof![
            Just([true, false, false]), Just([false, true, false]), Just([true, true, true]),
        ],
    ) {
        let op = Recurrent { cell, time_first, reverse };
        assert_gradients(&layer(op, sizes, used), 1);
    }
}

/// Layers in both directions, of a batch, time first and batch first.
#[test]
fn stacks_give_the_same_in_both_orders() {
    for cell in [Cell::Lstm, Cell::Gru, Cell::GruResetFirst] {
        let run = |time_first: bool| {
            let mut graph = Graph::new("stack", DType::F64).unwrap();
            let options = RecurrentStack {
                cell,
                hidden: 3,
                layers: 2,
                bidirectional: true,
                time_first,
            };
            let mut x = input(&mut graph, "x", Shape::batched(&[4, 2]));
            let turn = || Transpose {
                order: vec![1, 0, 2],
            };
            if time_first {
                x = graph.apply(turn(), &[x]).unwrap();
            }
            let (mut y, last) = recurrent(&mut graph, "rnn", x, &options).unwrap();
            if time_first {
                y = graph.apply(turn(), &[y]).unwrap();
            }
            assert_eq!(last.len(), 4);
            assert_eq!(graph.value(y).ty.shape, Shape::batched(&[4, 6]));
            assert_eq!(graph.parameters()[4].name, "rnn.weight_ih_l0_reverse");
            let target = input(&mut graph, "target", Shape::batched(&[4, 6]));
            let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
            let graph = finish(graph, loss);
            assert_gradients(&graph, 2);
            Rig::<f64>::new(&graph, 5).run()
        };
        let (first, second) = (run(false), run(true));
        assert!((first - second).abs() < 1e-14, "{first} {second}");
    }
}
