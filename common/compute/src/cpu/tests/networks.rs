//! Whole networks of many operators: states, views, several results, no allocation.

use ringfold_graph::op::{
    ArgMax, Binary, Cast, Compare, Conv, ConvPart, Dense, Gather, L2Penalty, Logic, MatMul,
    MeanSquaredError, Norm, NormOver, Pool, Pooling, Reduce, Reduction, Reshape, Softmax,
    SoftmaxCrossEntropy, Transpose, Unary, Windows,
};
use ringfold_graph::{DType, Graph, OutputRole, Shape, TensorType, ValueId, layers};

use crate::backend::{Mode, PlanOptions, RunArgs, TensorRef, TrainMemory};
use crate::cpu::counting::counts;
use crate::cpu::{Cpu, CpuOptions};
use crate::layout::{ParameterLayout, StateLayout};
use crate::testing::{Rig, assert_gradients, finish, input, parameter};

/// A small convolutional network with batch normalisation and a residual.
pub(super) fn images(dtype: DType) -> Graph {
    let mut graph = Graph::new("images", dtype).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[2, 6, 6]));
    let conv = Conv {
        windows: Windows::padded(1, 1),
        groups: 1,
        part: ConvPart::Forward,
    };
    let first = parameter(&mut graph, "conv1.weight", &[4, 2, 3, 3]);
    let h = graph.apply(conv, &[x, first]).unwrap();
    let h = layers::batch_norm(&mut graph, "bn1", h, 1e-5, 0.1).unwrap();
    let h = graph.apply(Unary::Silu, &[h]).unwrap();
    let second = parameter(&mut graph, "conv2.weight", &[4, 4, 3, 3]);
    let inner = graph.apply(conv, &[h, second]).unwrap();
    let inner = layers::batch_norm(&mut graph, "bn2", inner, 1e-5, 0.1).unwrap();
    let h = graph.apply(Binary::Add, &[h, inner]).unwrap();
    let pool = Pool {
        pooling: Pooling::Average { count_margin: true },
        kernel: [2, 2],
        windows: Windows {
            stride: [2, 2],
            ..Windows::default()
        },
        ceil: false,
    };
    let h = graph.apply(pool, &[h]).unwrap();
    let shape = graph.value(h).ty.shape.reshape(&[0, -1]).unwrap();
    let h = graph.apply(Reshape { shape }, &[h]).unwrap();
    let w = parameter(&mut graph, "fc.weight", &[3, 36]);
    let b = parameter(&mut graph, "fc.bias", &[3]);
    let logits = graph.apply(Dense::Affine, &[h, w, b]).unwrap();
    classify(graph, logits, Shape::batched(&[]))
}

/// One block of a transformer over 5 tokens of 11.
pub(super) fn tokens(dtype: DType) -> Graph {
    let mut graph = Graph::new("tokens", dtype).unwrap();
    let ty = TensorType::new(DType::I64, Shape::batched(&[5]));
    let ids = graph.add_input("ids", ty).unwrap();
    let table = parameter(&mut graph, "embedding", &[11, 8]);
    let x = graph.apply(Gather { axis: 0 }, &[table, ids]).unwrap();
    let w = parameter(&mut graph, "norm.weight", &[8]);
    let b = parameter(&mut graph, "norm.bias", &[8]);
    let norm = Norm {
        over: NormOver::Layer { axis: 2 },
        eps: 1e-5,
    };
    let h = graph.apply(norm, &[x, w, b]).unwrap();
    // [batch, 5, 8] to [batch, 2 heads, 5, 4].
    let heads = |graph: &mut Graph, name: &str| -> ValueId {
        let w = parameter(graph, name, &[8, 8]);
        let y = graph.apply(Dense::Affine, &[h, w]).unwrap();
        let shape = Shape::batched(&[5, 2, 4]);
        let y = graph.apply(Reshape { shape }, &[y]).unwrap();
        let order = vec![0, 2, 1, 3];
        graph.apply(Transpose { order }, &[y]).unwrap()
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| heads(&mut graph, name));
    let transposed = MatMul {
        b_transposed: true,
        ..MatMul::default()
    };
    let scores = graph.apply(transposed, &[q, k]).unwrap();
    let scores = graph
        .apply(Unary::Scale { factor: 0.5 }, &[scores])
        .unwrap();
    let weights = graph.apply(Softmax::Plain { axis: 3 }, &[scores]).unwrap();
    let mixed = graph.apply(MatMul::default(), &[weights, v]).unwrap();
    let order = vec![0, 2, 1, 3];
    let mixed = graph.apply(Transpose { order }, &[mixed]).unwrap();
    let shape = Shape::batched(&[5, 8]);
    let mixed = graph.apply(Reshape { shape }, &[mixed]).unwrap();
    let x = graph.apply(Binary::Add, &[x, mixed]).unwrap();
    // The head is the embedding, shared.
    let logits = graph.apply(Dense::Affine, &[x, table]).unwrap();
    classify(graph, logits, Shape::batched(&[5]))
}

fn classify(mut graph: Graph, logits: ValueId, labels: Shape) -> Graph {
    let ty = TensorType::new(DType::I32, labels);
    let y = graph.add_input("y", ty).unwrap();
    let loss = graph
        .apply(SoftmaxCrossEntropy::Loss, &[logits, y])
        .unwrap();
    graph
        .add_output("logits", OutputRole::Prediction, logits)
        .unwrap();
    finish(graph, loss)
}

#[test]
fn gradients_of_whole_networks() {
    assert_gradients(&images(DType::F64), 3);
    assert_gradients(&tokens(DType::F64), 2);
}

/// Graphs whose batch is merged with another dimension, and means over it.
#[test]
fn the_batch_may_be_merged_and_reduced() {
    let mut graph = Graph::new("merged", DType::F64).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[3, 4]));
    let w = parameter(&mut graph, "w", &[2, 4]);
    let shape = graph.value(x).ty.shape.reshape(&[-1, 4]).unwrap();
    let rows = graph.apply(Reshape { shape }, &[x]).unwrap();
    let y = graph.apply(Dense::Affine, &[rows, w]).unwrap();
    let mean = Reduce {
        reduction: Reduction::Mean,
        axes: vec![0],
        keep: false,
    };
    let mean = graph.apply(mean, &[y]).unwrap();
    let target = input(&mut graph, "t", Shape::fixed(&[2]));
    let operands = [mean, target];
    let loss = graph.apply(MeanSquaredError::Loss, &operands).unwrap();
    assert_gradients(&finish(graph, loss), 5);
}

#[test]
fn dirty_memory_and_threads_do_not_matter_and_a_run_allocates_nothing() {
    for graph in [images(DType::F32), tokens(DType::F32)] {
        let run = |threads| {
            let mut rig = Rig::<f32>::with_threads(&graph, 4, threads);
            rig.run();
            rig.workspace.arena.fill(f32::NAN);
            for slot in rig.layout.slots() {
                rig.gradients[slot.range()].fill(f32::NAN);
            }
            let loss = rig.run();
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (loss.to_bits(), bits(&rig.gradients), bits(&rig.state))
        };
        let one = run(1);
        assert!(f32::from_bits(one.0).is_finite());
        assert!(one == run(2));
        let mut rig = Rig::<f32>::new(&graph, 4);
        rig.run();
        let inputs = rig.inputs.refs();
        let before = counts();
        for step in 0..5 {
            let memory = TrainMemory {
                workspace: &mut rig.workspace,
                parameters: &*rig.parameters,
                gradients: &mut *rig.gradients,
            };
            let args = RunArgs {
                step,
                ..RunArgs::default()
            };
            rig.plan
                .train_with_state(
                    memory,
                    &mut rig.state,
                    &inputs,
                    &args,
                    &mut |_: usize, _: &[f32]| {},
                )
                .unwrap();
        }
        assert_eq!(counts().own, before.own);
    }
}

/// PyTorch: `running = 0.9 · running + 0.1 · batch's`, the variance unbiased; evaluation uses them.
#[test]
fn running_statistics_are_kept_and_used() {
    let mut graph = Graph::new("bn", DType::F64).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[2]));
    let y = layers::batch_norm(&mut graph, "bn", x, 1e-5, 0.1).unwrap();
    let target = input(&mut graph, "t", Shape::batched(&[2]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let graph = finish(graph, loss);
    let mut rig = Rig::<f64>::new(&graph, 3);
    let names = StateLayout::new::<f64>(&graph).unwrap();
    let values = [1.0, -2.0, 2.0, 0.0, 6.0, 5.0];
    let inputs = [TensorRef::Float(&values), TensorRef::Float(&[0.0; 6])];
    let at = |state: &[f64], name: &str| state[names.slot(name).unwrap().range()].to_vec();
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    let mut train = |state: &mut [f64], inputs: &[TensorRef<'_, f64>]| {
        let memory = TrainMemory {
            workspace: &mut rig.workspace,
            parameters: &*rig.parameters,
            gradients: &mut *rig.gradients,
        };
        let args = RunArgs::default();
        let mut ready = |_: usize, _: &[f64]| {};
        rig.plan
            .train_with_state(memory, state, inputs, &args, &mut ready)
    };
    let state = &mut rig.state;
    // A refused run changes nothing.
    train(state, &inputs[..1]).unwrap_err();
    assert_eq!(at(state, "bn.num_batches_tracked"), [0.0]);
    train(state, &inputs).unwrap();
    assert!(close(&at(state, "bn.running_mean"), &[0.3, 0.1]));
    assert!(close(&at(state, "bn.running_var"), &[0.9 + 0.7, 0.9 + 1.3]));
    train(state, &inputs).unwrap();
    assert!(close(&at(state, "bn.running_mean"), &[0.57, 0.19]));
    assert_eq!(at(state, "bn.num_batches_tracked"), [2.0]);
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 3,
    };
    let predict = cpu.plan::<f64>(&graph, &rig.layout, options).unwrap();
    let mut workspace = predict.workspace().unwrap();
    let parameters = &rig.parameters;
    predict
        .infer(&mut workspace, parameters, &inputs[..1])
        .unwrap_err();
    predict
        .infer_with_state(&mut workspace, parameters, state, &inputs[..1])
        .unwrap();
    let y = predict.output(&workspace, "y").unwrap();
    let var = at(state, "bn.running_var")[0];
    assert!(close(&y[..1], &[(1.0 - 0.57) / (var + 1e-5).sqrt()]));
}

/// Integers and truth values between operators, seen as floats at the end.
#[test]
fn integers_and_truth_values() {
    let mut graph = Graph::new("types", DType::F32).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[3]));
    let zero = graph.add_scalar(0.0).unwrap();
    let two = graph.add_scalar(2.0).unwrap();
    let positive = graph.apply(Compare::Greater, &[x, zero]).unwrap();
    let large = graph.apply(Compare::GreaterOrEqual, &[x, two]).unwrap();
    let not = graph.apply(Logic::Not, &[large]).unwrap();
    let mut values = vec![("not", not)];
    for (name, logic) in [("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)] {
        let value = graph.apply(logic, &[positive, not]).unwrap();
        values.push((name, value));
    }
    let first = ArgMax {
        axis: 1,
        keep: false,
    };
    values.push(("arg_max", graph.apply(first, &[x]).unwrap()));
    let int = graph.apply(Cast { to: DType::I32 }, &[x]).unwrap();
    values.push(("int", int));
    let truth = graph.apply(Cast { to: DType::Bool }, &[int]).unwrap();
    values.push(("bool", truth));
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    for (name, value) in values {
        let float = graph.apply(Cast { to: DType::F32 }, &[value]).unwrap();
        graph
            .add_output(name, OutputRole::Prediction, float)
            .unwrap();
    }
    let w = parameter(&mut graph, "w", &[1]);
    let loss = graph.apply(L2Penalty { lambda: 1.0 }, &[w]).unwrap();
    let graph = finish(graph, loss);
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 2,
    };
    let plan = cpu.plan::<f32>(&graph, &layout, options).unwrap();
    let mut workspace = plan.workspace().unwrap();
    let x = [-1.7, 0.0, 2.0, 3.9, 0.5, 3.9];
    let parameters = layout.zeros::<f32>().unwrap();
    plan.infer(&mut workspace, &parameters, &[TensorRef::Float(&x)])
        .unwrap();
    let expected: [&[f32]; 7] = [
        &[1.0, 1.0, 0.0, 0.0, 1.0, 0.0],
        &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        &[1.0, 1.0, 1.0, 1.0, 0.0, 1.0],
        &[2.0, 0.0],
        &[-1.0, 0.0, 2.0, 3.0, 0.0, 3.0],
        &[1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
    ];
    for (name, expected) in names.iter().zip(expected) {
        assert_eq!(plan.output(&workspace, name).unwrap(), expected, "{name}");
    }
}

#[test]
fn composed_layers() {
    let mut graph = Graph::new("conv1d", DType::F64).unwrap();
    let x = parameter(&mut graph, "x", &[2, 2, 5]);
    let w = parameter(&mut graph, "w", &[3, 2, 2]);
    let b = parameter(&mut graph, "b", &[3]);
    let conv = Conv {
        windows: Windows::padded(0, 1),
        groups: 1,
        part: ConvPart::Forward,
    };
    let y = layers::conv1d(&mut graph, conv, x, w, Some(b)).unwrap();
    assert_eq!(graph.value(y).ty.shape, Shape::fixed(&[2, 3, 6]));
    let target = input(&mut graph, "t", Shape::fixed(&[2, 3, 6]));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    assert_gradients(&finish(graph, loss), 1);

    let mut graph = Graph::new("normal", DType::F64).unwrap();
    let mean = parameter(&mut graph, "mean", &[4]);
    let log = parameter(&mut graph, "log", &[4]);
    let variance = graph.apply(Unary::Exp, &[log]).unwrap();
    let x = input(&mut graph, "x", Shape::fixed(&[4]));
    let nll = layers::gaussian_nll(&mut graph, mean, x, variance, 1e-6).unwrap();
    let sum = Reduce {
        reduction: Reduction::Sum,
        axes: vec![0],
        keep: false,
    };
    let loss = graph.apply(sum, &[nll]).unwrap();
    assert_gradients(&finish(graph, loss), 1);
}
