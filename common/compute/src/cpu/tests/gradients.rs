//! Every operator's gradient against central differences, alone and inside random graphs.

use proptest::prelude::*;
use ringfold_graph::op::{
    Binary, Compare, Concat, Dense, Dropout, Expand, L2Penalty, MeanSquaredError, Softmax,
    SoftmaxCrossEntropy, SumTo, Unary, Where,
};
use ringfold_graph::op::{
    Conv, ConvPart, CrossEntropy, Distance, Gather, LossReduction, Margin, MatMul, Norm, NormOver,
    Pad, PairLoss, Pool, Pooling, Reduce, Reduction, Reshape, Slice, SliceGrad, Spread, Transpose,
    Windows,
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

/// What is left by a division, where a small change doesn't change how often the divisor is taken.
#[test]
fn remainders() {
    for function in [Binary::Fmod, Binary::Mod] {
        let mut graph = Graph::new("operator", DType::F64).unwrap();
        let a = parameter(&mut graph, "a", &[3, 4]);
        let b = parameter(&mut graph, "b", &[4]);
        // Near -7.5, -2.5, 2.5, 7.5 by numbers near 3 and -3: the ratios are far from whole numbers.
        let mut near = |x: ValueId, centres: Vec<f64>| {
            let small = graph.apply(Unary::Scale { factor: 0.05 }, &[x]).unwrap();
            let ty = TensorType::new(DType::F64, Shape::fixed(&[4]));
            let data = ConstantData::Float(centres);
            let centres = graph.add_constant(ty, data).unwrap();
            graph.apply(Binary::Add, &[small, centres]).unwrap()
        };
        let a = near(a, vec![-7.5, -2.0, 2.0, 7.5]);
        let b = near(b, vec![3.0, -3.0, 3.0, -3.0]);
        let y = graph.apply(function, &[a, b]).unwrap();
        let target = input(&mut graph, "target", Shape::fixed(&[3, 4]));
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        assert_gradients(&finish(graph, loss), 1);
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

/// Checks an operator on parameters `dims` and constants of ones; its first result goes into a
/// squared error.
fn assert_with_ones(op: impl Into<Op>, dims: &[&[usize]], ones: &[&[usize]]) {
    let mut graph = Graph::new("operator", DType::F64).unwrap();
    let mut operands: Vec<ValueId> = dims
        .iter()
        .enumerate()
        .map(|(i, dims)| parameter(&mut graph, &format!("p{i}"), dims))
        .collect();
    for dims in ones {
        let ty = TensorType::new(DType::F64, Shape::fixed(dims));
        let data = vec![1.0; dims.iter().product()];
        let constant = graph.add_constant(ty, ConstantData::Float(data));
        operands.push(constant.unwrap());
    }
    let y = graph.apply(op, &operands).unwrap();
    let shape = graph.value(y).ty.shape.clone();
    let target = input(&mut graph, "target", shape);
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}

#[test]
fn norms() {
    let norm = |over| Norm { over, eps: 1e-5 };
    assert_operator(
        norm(NormOver::Layer { axis: 1 }),
        &[&[3, 2, 4], &[2, 4], &[2, 4]],
    );
    assert_operator(norm(NormOver::Rms { axis: 2 }), &[&[3, 2, 4], &[4]]);
    for groups in [1, 2, 4] {
        let dims: &[&[usize]] = &[&[2, 4, 3], &[4], &[4]];
        assert_operator(norm(NormOver::Group { groups }), dims);
    }
    let batch = norm(NormOver::Batch { momentum: 0.1 });
    assert_with_ones(batch, &[&[4, 3, 2, 2], &[3], &[3]], &[&[3], &[3]]);
    assert_with_ones(batch, &[&[5, 3], &[3], &[3]], &[&[3], &[3]]);
}

#[test]
fn losses_of_two_tensors() {
    use Distance::{GammaLog, Huber, Logistic, PoissonLog, SmoothAbsolute, Squared};
    for distance in [
        Squared,
        Huber { delta: 0.8 },
        SmoothAbsolute { beta: 0.7 },
        Logistic,
        PoissonLog,
        GammaLog { shape: 1.7 },
    ] {
        for reduction in [
            LossReduction::Sum,
            LossReduction::Mean,
            LossReduction::BatchMean,
            LossReduction::None,
        ] {
            let mut graph = Graph::new("loss", DType::F64).unwrap();
            let x = parameter(&mut graph, "x", &[3, 4]);
            let t = input(&mut graph, "t", Shape::fixed(&[3, 4]));
            let op = PairLoss {
                distance,
                reduction,
            };
            let mut loss = graph.apply(op, &[x, t]).unwrap();
            if reduction == LossReduction::None {
                let zeros = input(&mut graph, "zeros", Shape::fixed(&[3, 4]));
                let operands = [loss, zeros];
                loss = graph.apply(MeanSquaredError::Loss, &operands).unwrap();
            }
            assert_gradients(&finish(graph, loss), 1);
        }
    }
}

#[test]
fn cross_entropy_with_options() {
    for (ignore, smoothing, log_probabilities) in [
        (None, 0.0, false),
        (Some(2), 0.2, false),
        (Some(0), 0.1, true),
    ] {
        for reduction in [LossReduction::Sum, LossReduction::Mean] {
            let mut graph = Graph::new("ce", DType::F64).unwrap();
            let x = parameter(&mut graph, "x", &[2, 3, 4]);
            let ty = TensorType::new(DType::I64, Shape::fixed(&[2, 3]));
            let labels = ConstantData::Int(vec![0, 2, 1, 3, 0, 1]);
            let labels = graph.add_constant(ty, labels).unwrap();
            let ty = TensorType::new(DType::F64, Shape::fixed(&[4]));
            let weights = ConstantData::Float(vec![1.0, 0.5, 2.0, 0.25]);
            let weights = graph.add_constant(ty, weights).unwrap();
            let op = CrossEntropy {
                log_probabilities,
                ignore,
                smoothing,
                reduction,
            };
            let loss = graph.apply(op, &[x, labels, weights]).unwrap();
            assert_gradients(&finish(graph, loss), 1);
        }
    }
}

#[test]
fn convolutions() {
    for (stride, before, after, dilation, groups) in [
        ([1, 1], [0, 0], [0, 0], [1, 1], 1),
        ([2, 1], [1, 0], [0, 2], [1, 2], 1),
        ([1, 2], [2, 1], [1, 1], [2, 1], 2),
    ] {
        let windows = Windows {
            stride,
            before,
            after,
            dilation,
        };
        let part = ConvPart::Forward;
        let conv = Conv {
            windows,
            groups,
            part,
        };
        let w = [4, 2 / groups, 3, 2];
        assert_operator(conv, &[&[2, 2, 6, 5], &w, &[4]]);
        // The transposed convolution of what the convolution makes of an image of 6 by 5.
        let mut graph = Graph::new("size", DType::F64).unwrap();
        let x = parameter(&mut graph, "x", &[2, 2, 6, 5]);
        let w_value = parameter(&mut graph, "w", &w);
        let y = graph.apply(conv, &[x, w_value]).unwrap();
        let y = graph.value(y).ty.shape.bind(1);
        let part = ConvPart::Image { size: [6, 5] };
        assert_operator(Conv { part, ..conv }, &[&y, &w]);
    }
    let conv = Conv {
        windows: Windows::default(),
        groups: 2,
        part: ConvPart::Forward,
    };
    assert_operator(conv, &[&[2, 4, 3, 2], &[2, 2, 1, 1]]);
}

#[test]
fn pooling() {
    for pooling in [
        Pooling::Max,
        Pooling::Average { count_margin: true },
        Pooling::Average {
            count_margin: false,
        },
    ] {
        for (stride, margin, ceil) in [([2, 2], [0, 0], false), ([3, 1], [1, 1], true)] {
            let pool = Pool {
                pooling,
                kernel: [3, 2],
                windows: Windows {
                    stride,
                    ..Windows::padded(margin[0], margin[1])
                },
                ceil,
            };
            assert_operator(pool, &[&[2, 2, 6, 5]]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn convolutions_of_any_windows(
        stride in [1usize..3, 1..3], before in [0usize..3, 0..3], after in [0usize..3, 0..3],
        dilation in [1usize..3, 1..3], groups in 1usize..3, kernel in [1usize..4, 1..4],
    ) {
        let windows = Windows { stride, before, after, dilation };
        let conv = Conv { windows, groups, part: ConvPart::Forward };
        assert_operator(conv, &[&[2, 2, 5, 6], &[2, 2 / groups, kernel[0], kernel[1]]]);
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
