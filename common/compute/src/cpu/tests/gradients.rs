//! Every operator's gradient against central differences, alone and inside random graphs.

use proptest::prelude::*;
use ringfold_graph::op::{
    Binary, Compare, Concat, Dense, Dropout, Expand, L2Penalty, MeanSquaredError, Softmax,
    SoftmaxCrossEntropy, SumTo, Unary, Where,
};
use ringfold_graph::op::{
    Gather, Margin, MatMul, Pad, Reduce, Reduction, Reshape, Slice, SliceGrad, Spread, Transpose,
};
use ringfold_graph::{ConstantData, DType, Graph, Op, Shape, TensorType, ValueId};

use crate::testing::{
    SMOOTH_END, UNARY, assert_gradients, finish, input, parameter, smooth_graphs,
};

/// Checks an operator on parameters of these dimensions; its result goes into a squared error.
fn assert_operator(op: impl Into<Op>, dims: &[&[usize]]) {
    let op = op.into();
    let mut graph = Graph::new("operator", DType::F64).unwrap();
    let operands: Vec<ValueId> = dims
        .iter()
        .enumerate()
        .map(|(i, dims)| parameter(&mut graph, &format!("p{i}"), dims))
        .collect();
    let y = graph.apply(op.clone(), &operands).unwrap();
    let shape = graph.value(y).ty.shape.clone();
    let target = input(&mut graph, "target", shape);
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn affine() {
    assert_operator(Dense::Affine, &[&[2, 3, 4], &[5, 4], &[5]]);
    for (n, i, o) in [(1, 1, 1), (3, 4, 2), (17, 5, 9)] {
        assert_operator(Dense::Affine, &[&[n, i], &[o, i]]);
        assert_operator(Dense::Affine, &[&[n, i], &[o, i], &[o]]);
    }
}

#[test]
fn unary() {
    for function in &UNARY[1..SMOOTH_END] {
        assert_operator(*function, &[&[5, 7]]);
    }
    assert_operator(Dropout { rate: 0.4, key: 9 }, &[&[5, 7]]);
}

/// Functions with a pole or a kink, at points away from it.
#[test]
fn unary_away_from_kinks() {
    for function in &UNARY[SMOOTH_END..24] {
        let mut graph = Graph::new("operator", DType::F64).unwrap();
        let p = parameter(&mut graph, "p", &[3, 5]);
        // exp is positive; its logarithm's distance from the kinks is random but fixed.
        let x = graph.apply(Unary::Exp, &[p]).unwrap();
        let y = graph.apply(*function, &[x]).unwrap();
        let target = input(&mut graph, "target", Shape::fixed(&[3, 5]));
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        assert_gradients(&finish(graph, loss), 1);
    }
}

const BINARY: [Binary; 5] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Min,
    Binary::Max,
];

#[test]
fn binary() {
    for function in BINARY {
        for dims in [
            [&[5, 7][..], &[5, 7]],
            [&[5, 7], &[7]],
            [&[5, 1], &[5, 7]],
            [&[], &[3]],
            [&[2, 1, 3], &[4, 1]],
        ] {
            assert_operator(function, &dims);
        }
    }
}

/// Quotients and powers of positive numbers.
#[test]
fn quotients_and_powers() {
    for function in [Binary::Div, Binary::Pow] {
        let mut graph = Graph::new("operator", DType::F64).unwrap();
        let a = parameter(&mut graph, "a", &[3, 5]);
        let b = parameter(&mut graph, "b", &[3, 1]);
        let a = graph.apply(Unary::Exp, &[a]).unwrap();
        let b = graph.apply(Unary::Exp, &[b]).unwrap();
        let y = graph.apply(function, &[a, b]).unwrap();
        let target = input(&mut graph, "target", Shape::fixed(&[3, 5]));
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        assert_gradients(&finish(graph, loss), 1);
    }
}

#[test]
fn broadcasts_and_choices() {
    let shape = Shape::fixed(&[2, 3, 4]);
    assert_operator(Expand { shape }, &[&[3, 1]]);
    let shape = Shape::fixed(&[3, 1]);
    assert_operator(SumTo { shape }, &[&[2, 3, 4]]);
    let mut graph = Graph::new("where", DType::F64).unwrap();
    let a = parameter(&mut graph, "a", &[3, 4]);
    let b = parameter(&mut graph, "b", &[4]);
    let c = input(&mut graph, "c", Shape::fixed(&[3, 1]));
    let condition = graph.apply(Compare::Less, &[c, b]).unwrap();
    let y = graph.apply(Where, &[condition, a, b]).unwrap();
    let target = input(&mut graph, "target", Shape::fixed(&[3, 4]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn binary_of_any_broadcast(
        dims in proptest::collection::vec((1usize..4, any::<bool>(), any::<bool>()), 0..4),
        function in 0..BINARY.len(),
    ) {
        let side = |stretch: &dyn Fn(&(usize, bool, bool)) -> bool| -> Vec<usize> {
            dims.iter().map(|d| if stretch(d) { 1 } else { d.0 }).collect()
        };
        assert_operator(BINARY[function], &[&side(&|d| d.1), &side(&|d| d.2)]);
    }
}

#[test]
fn reductions() {
    use Reduction::{L1, L2, LogSumExp, Max, Mean, Min, Prod, Sum};
    for reduction in [Sum, Mean, Max, Min, Prod, LogSumExp, L1, L2] {
        for axes in [&[][..], &[0], &[1], &[2], &[0, 2], &[1, 2], &[0, 1, 2]] {
            for keep in [false, true] {
                let axes = axes.to_vec();
                assert_operator(
                    Reduce {
                        reduction,
                        axes,
                        keep,
                    },
                    &[&[3, 2, 4]],
                );
            }
        }
    }
    let shape = Shape::fixed(&[3, 2, 4]);
    assert_operator(Spread { shape }, &[&[3, 1, 1]]);
}

#[test]
fn moves() {
    let shape = Shape::fixed(&[4, 6]);
    assert_operator(Reshape { shape }, &[&[2, 3, 4]]);
    for order in [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 2, 1], [2, 1, 0]] {
        let order = order.to_vec();
        assert_operator(Transpose { order }, &[&[2, 3, 4]]);
    }
    for axis in [0, 1] {
        assert_operator(Concat { axis }, &[&[2, 3], &[2, 3], &[2, 3]]);
        for (start, step, len) in [(0, 1, 3), (1, 1, 2), (2, -2, 2), (4, -1, 5), (0, 3, 2)] {
            let slice = Slice {
                axis,
                start,
                step,
                len,
            };
            assert_operator(slice, &[&[5, 5, 2]]);
            let dim = 7;
            let mut dims = [3, 3, 2];
            dims[axis] = len;
            assert_operator(SliceGrad { slice, dim }, &[&dims]);
        }
        for margin in [Margin::Constant(0.5), Margin::Reflect, Margin::Edge] {
            let (before, after) = (2, 1);
            let pad = Pad {
                axis,
                before,
                after,
                margin,
            };
            assert_operator(pad, &[&[3, 4, 2]]);
        }
    }
}

#[test]
fn gathers() {
    for axis in [0, 1] {
        let mut graph = Graph::new("gather", DType::F64).unwrap();
        let x = parameter(&mut graph, "x", &[4, 3, 2]);
        let ty = TensorType::new(DType::I64, Shape::fixed(&[2, 2]));
        let index = graph
            .add_constant(ty, ConstantData::Int(vec![2, 0, -1, 2]))
            .unwrap();
        let y = graph.apply(Gather { axis }, &[x, index]).unwrap();
        let shape = graph.value(y).ty.shape.clone();
        let target = input(&mut graph, "target", shape);
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        assert_gradients(&finish(graph, loss), 1);
    }
}

#[test]
fn matrix_products() {
    for a_transposed in [false, true] {
        for b_transposed in [false, true] {
            let op = MatMul {
                a_transposed,
                b_transposed,
            };
            let a = if a_transposed { [4, 3] } else { [3, 4] };
            let b = if b_transposed { [5, 4] } else { [4, 5] };
            let stack = |leading: &[usize], matrix: [usize; 2]| [leading, &matrix].concat();
            for (leading_a, leading_b) in [
                (&[][..], &[][..]),
                (&[2], &[]),
                (&[2, 1], &[3]),
                (&[], &[2]),
            ] {
                assert_operator(op, &[&stack(leading_a, a), &stack(leading_b, b)]);
            }
        }
    }
}

#[test]
fn add() {
    assert_operator(Binary::Add, &[&[5, 7], &[5, 7]]);
    let mut graph = Graph::new("twice", DType::F64).unwrap();
    let w = parameter(&mut graph, "w", &[3]);
    let twice = graph.apply(Binary::Add, &[w, w]).unwrap();
    let loss = graph.apply(L2Penalty { lambda: 2.0 }, &[twice]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn softmax() {
    for columns in [1, 2, 17, 40] {
        for axis in [0, 1] {
            assert_operator(Softmax::Plain { axis }, &[&[3, columns]]);
            assert_operator(Softmax::Log { axis }, &[&[3, columns]]);
        }
    }
}

#[test]
fn mean_squared_error() {
    let mut graph = Graph::new("mse", DType::F64).unwrap();
    let a = parameter(&mut graph, "a", &[3, 4]);
    let b = parameter(&mut graph, "b", &[3, 4]);
    let loss = graph.apply(MeanSquaredError::Loss, &[a, b]).unwrap();
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
            .apply(SoftmaxCrossEntropy::Loss, &[logits, labels])
            .unwrap();
        assert_gradients(&finish(graph, loss), 1);
    }
}

#[test]
fn l2_penalty() {
    let mut graph = Graph::new("l2", DType::F64).unwrap();
    let w = parameter(&mut graph, "w", &[3, 4]);
    let loss = graph.apply(L2Penalty { lambda: 0.3 }, &[w]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn random_compositions(random in smooth_graphs(), batch in 1usize..6) {
        assert_gradients(&random.build(DType::F64), batch);
    }
}
