//! Results with and without passes, and with values computed again.

use proptest::prelude::*;
use ringfold_graph::op::{
    Binary, Conv, ConvPart, Dense, Dropout, MeanSquaredError, Reshape, Unary, Windows,
};
use ringfold_graph::{DType, Graph, OutputRole, Shape, differentiate, pass};

use super::networks::{images, tokens};
use crate::backend::{CompileOptions, Mode, PlanOptions, Precision};
use crate::cpu::{Cpu, CpuOptions};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, StateLayout};
use crate::testing::{Inputs, Rig, finish, input, parameter, random_graphs};

const PLAIN: CompileOptions = CompileOptions {
    optimise: false,
    workspace_bytes_max: None,
    precision: Precision::Full,
};

/// Loss, gradients, states, and the order in which gradients are ready.
fn train<T: Element>(graph: &Graph, batch: usize, how: &CompileOptions) -> Vec<T> {
    let mut rig = Rig::<T>::compiled(graph, batch, 1, how).unwrap();
    // What wasn't written is seen.
    rig.workspace.arena.fill(T::from_f64(f64::NAN));
    let mut all = vec![rig.run()];
    for slot in rig.layout.slots() {
        all.extend(&rig.gradients[slot.range()]);
    }
    all.extend(rig.state.iter());
    all
}

/// Every output of a mode without gradients.
fn infer(graph: &Graph, mode: Mode, batch: usize, how: &CompileOptions) -> Vec<f64> {
    let layout = ParameterLayout::new::<f64>(graph).unwrap();
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions { mode, batch };
    let plan = cpu.plan_with::<f64>(graph, &layout, options, how).unwrap();
    let mut workspace = plan.workspace().unwrap();
    let state = StateLayout::new::<f64>(graph).unwrap().initial().unwrap();
    let parameters = layout.initial(1).unwrap();
    let inputs = Inputs::random(&plan, 2);
    plan.infer_with_state(&mut workspace, &parameters, &state, &inputs.refs())
        .unwrap();
    let outputs = plan.outputs();
    let values = outputs.flat_map(|spec| plan.output(&workspace, &spec.name).unwrap());
    values.copied().collect()
}

/// The same numbers; zeros may differ in their sign.
fn assert_same<T: Element>(got: &[T], expected: &[T], graph: &Graph) {
    assert_eq!(got.len(), expected.len());
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!(a == b || a.is_nan() && b.is_nan(), "{i}: {a} {b}\n{graph}");
    }
}

fn assert_near(got: &[f64], expected: &[f64], graph: &Graph) {
    assert_eq!(got.len(), expected.len());
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        let near = (a - b).abs() <= 1e-6 * (1.0 + b.abs());
        assert!(near || !b.is_finite(), "{i}: {a} {b}\n{graph}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn passes_keep_results(random in random_graphs()) {
        let graph = random.build(DType::F64);
        let how = CompileOptions::default();
        // Logarithms of zeros are where the stable forms differ from what they replace.
        let plain = train::<f64>(&graph, 3, &PLAIN);
        assert_near(&train(&graph, 3, &how), &plain, &graph);
        let forward = random.forward(DType::F64);
        let simple = pass::simplify(&forward).unwrap().graph;
        let simple = differentiate(&simple, "loss").unwrap();
        assert_near(&train(&simple, 3, &how), &plain, &graph);
        for mode in [Mode::Evaluation, Mode::Prediction] {
            assert_near(&infer(&graph, mode, 3, &how), &infer(&graph, mode, 3, &PLAIN), &graph);
        }
    }

    #[test]
    fn passes_settle_and_keep_the_order_of_gradients(random in random_graphs()) {
        let graph = random.build(DType::F32);
        for mode in [Mode::Training, Mode::Evaluation, Mode::Prediction] {
            let once = pass::optimise(&graph, mode).unwrap();
            prop_assert_eq!(&once, &pass::optimise(&graph, mode).unwrap());
            let twice = pass::optimise(&once.graph, mode).unwrap();
            prop_assert!(twice.records.is_empty(), "{:?}\n{}", twice.records, once.graph);
            prop_assert_eq!(&once.graph, &twice.graph);
            if mode == Mode::Training {
                let order = |graph: &Graph| -> Vec<_> {
                    graph.gradients().iter().map(|gradient| gradient.parameter).collect()
                };
                prop_assert_eq!(order(&graph), order(&once.graph));
            }
        }
    }

    #[test]
    fn values_that_are_computed_again_are_the_same(random in random_graphs()) {
        let graph = random.build(DType::F32);
        let default = CompileOptions::default();
        let whole = train::<f32>(&graph, 9, &default);
        let rig = Rig::<f32>::compiled(&graph, 9, 1, &default).unwrap();
        let bytes = rig.plan.workspace_len() * 4;
        let limited = |bytes| CompileOptions { workspace_bytes_max: Some(bytes), ..default };
        // The error names a size that can be had.
        let Err(error) = Rig::<f32>::compiled(&graph, 9, 1, &limited(0)) else {
            return Err(TestCaseError::fail("no workspace is empty"));
        };
        let ComputeError::WorkspaceBytes { bytes_min, bytes_max: 0, .. } = error else {
            return Err(TestCaseError::fail(error.to_string()));
        };
        prop_assert!(bytes_min <= bytes);
        let how = limited(bytes_min);
        let small = Rig::<f32>::compiled(&graph, 9, 1, &how).unwrap();
        prop_assert!(small.plan.workspace_len() * 4 <= bytes_min);
        assert_same(&train(&graph, 9, &how), &whole, &graph);
    }
}

#[test]
fn whole_networks_are_the_same_to_the_bit() {
    for graph in [images(DType::F32), tokens(DType::F32)] {
        let plain = train::<f32>(&graph, 40, &PLAIN);
        let how = CompileOptions::default();
        assert_same(&train(&graph, 40, &how), &plain, &graph);
        let optimised = pass::optimise(&graph, Mode::Training).unwrap();
        let fused = optimised.records.iter().any(|record| record.pass == "fuse");
        assert!(fused, "{}", optimised.graph);
    }
}

/// Convolutions with ReLU: dense with a bias, by points, depthwise.
fn rectified(dtype: DType) -> Graph {
    let mut graph = Graph::new("rectified", dtype).unwrap();
    let mut h = input(&mut graph, "x", Shape::batched(&[2, 9, 9]));
    for (i, (shape, groups)) in [([16, 2, 5, 5], 1), ([16, 16, 3, 3], 1), ([16, 1, 3, 3], 16)]
        .into_iter()
        .enumerate()
    {
        let w = parameter(&mut graph, &format!("{i}.weight"), &shape);
        let mut operands = vec![h, w];
        if i != 1 {
            operands.push(parameter(&mut graph, &format!("{i}.bias"), &shape[..1]));
        }
        let conv = Conv {
            windows: Windows::padded(1, 1),
            groups,
            part: ConvPart::Forward,
        };
        h = graph.apply(conv, &operands).unwrap();
        h = graph.apply(Unary::Relu, &[h]).unwrap();
    }
    let shape = graph.value(h).ty.shape.clone();
    let y = input(&mut graph, "y", shape);
    let loss = graph.apply(MeanSquaredError::Loss, &[h, y]).unwrap();
    finish(graph, loss)
}

#[test]
fn relu_in_a_convolution_is_relu_after_it() {
    fn check<T: Element>() {
        let graph = rectified(T::DTYPE);
        let optimised = pass::optimise(&graph, Mode::Training).unwrap().graph;
        let names = optimised.nodes().iter().map(|node| node.op.name());
        assert_eq!(names.filter(|name| *name == "conv_relu").count(), 3);
        let plain = train::<T>(&graph, 3, &PLAIN);
        assert_same(
            &train(&graph, 3, &CompileOptions::default()),
            &plain,
            &graph,
        );
    }
    check::<f32>();
    check::<f64>();
}

/// Rows, channels, columns and scalars against tensors of several tiles; masks; gradients.
fn broad(dtype: DType) -> Graph {
    let mut graph = Graph::new("broad", dtype).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[3, 5, 7]));
    let mut h = x;
    for (i, dims) in [&[7][..], &[3, 1, 1], &[5, 1], &[], &[3, 5, 7]]
        .into_iter()
        .enumerate()
    {
        let p = parameter(&mut graph, &format!("p{i}"), dims);
        let op = [
            Binary::Mul,
            Binary::Add,
            Binary::Max,
            Binary::Mul,
            Binary::Sub,
        ][i];
        h = graph.apply(op, &[h, p]).unwrap();
        h = graph.apply(Unary::Tanh, &[h]).unwrap();
        let dropout = Dropout {
            rate: 0.3,
            key: i as u64,
        };
        h = graph.apply(dropout, &[h]).unwrap();
        h = graph.apply(Unary::GeluTanh, &[h]).unwrap();
        h = graph.apply(Binary::Add, &[h, x]).unwrap();
    }
    let y = input(&mut graph, "y", Shape::batched(&[3, 5, 7]));
    graph
        .add_output("prediction", OutputRole::Prediction, h)
        .unwrap();
    let loss = graph.apply(MeanSquaredError::Loss, &[h, y]).unwrap();
    finish(graph, loss)
}

#[test]
fn fused_chains_broadcast_and_drop_as_their_parts() {
    let graph = broad(DType::F32);
    for batch in [1, 4, 31] {
        let plain = train::<f32>(&graph, batch, &PLAIN);
        assert_same(
            &train(&graph, batch, &CompileOptions::default()),
            &plain,
            &graph,
        );
    }
    let graph = broad(DType::F64);
    let how = CompileOptions::default();
    for mode in [Mode::Evaluation, Mode::Prediction] {
        assert_same(
            &infer(&graph, mode, 9, &how),
            &infer(&graph, mode, 9, &PLAIN),
            &graph,
        );
    }
    let fused = pass::optimise(&graph, Mode::Prediction).unwrap().graph;
    assert!(fused.nodes().len() <= 4, "{fused}");
}

/// Blocks of a function of four times `width` elements between products: what backward reads can be
/// had for little.
fn deep_of(layers: usize, width: usize) -> Graph {
    let mut graph = Graph::new("deep", DType::F32).unwrap();
    let mut h = input(&mut graph, "x", Shape::batched(&[width]));
    for i in 0..layers {
        let w = parameter(&mut graph, &format!("{i}.up"), &[4 * width, width]);
        let up = graph.apply(Dense::Affine, &[h, w]).unwrap();
        let wide = graph.apply(Unary::Gelu, &[up]).unwrap();
        let key = i as u64;
        let wide = graph.apply(Dropout { rate: 0.1, key }, &[wide]).unwrap();
        // A view on the way.
        let shape = Shape::batched(&[4, width]);
        let wide = graph.apply(Reshape { shape }, &[wide]).unwrap();
        let shape = Shape::batched(&[4 * width]);
        let wide = graph.apply(Reshape { shape }, &[wide]).unwrap();
        let w = parameter(&mut graph, &format!("{i}.down"), &[width, 4 * width]);
        let down = graph.apply(Dense::Affine, &[wide, w]).unwrap();
        h = graph.apply(Binary::Add, &[h, down]).unwrap();
    }
    let y = input(&mut graph, "y", Shape::batched(&[width]));
    let loss = graph.apply(MeanSquaredError::Loss, &[h, y]).unwrap();
    finish(graph, loss)
}

fn deep(layers: usize) -> Graph {
    deep_of(layers, 16)
}

#[test]
fn a_limit_of_memory_is_kept_with_the_same_bits() {
    let graph = deep(6);
    let default = CompileOptions::default();
    let whole = Rig::<f32>::compiled(&graph, 32, 1, &default).unwrap();
    let bytes = whole.plan.workspace_len() * 4;
    let how = CompileOptions {
        workspace_bytes_max: Some(bytes * 7 / 10),
        ..default
    };
    let small = Rig::<f32>::compiled(&graph, 32, 1, &how).unwrap();
    assert!(small.plan.workspace_len() * 4 <= bytes * 7 / 10);
    assert_same(
        &train::<f32>(&graph, 32, &how),
        &train(&graph, 32, &default),
        &graph,
    );
}

#[test]
fn the_least_workspace_of_whole_networks_gives_the_same_bits() {
    for graph in [images(DType::F32), tokens(DType::F32)] {
        let default = CompileOptions::default();
        let limited = |bytes| CompileOptions {
            workspace_bytes_max: Some(bytes),
            ..default
        };
        let error = Rig::<f32>::compiled(&graph, 40, 1, &limited(0)).err();
        let Some(ComputeError::WorkspaceBytes {
            bytes_min, largest, ..
        }) = error
        else {
            panic!("no workspace is empty: {error:?}")
        };
        assert!(!largest.is_empty() && largest.is_sorted_by_key(|(_, bytes)| usize::MAX - bytes));
        let how = limited(bytes_min);
        let least = Rig::<f32>::compiled(&graph, 40, 1, &how).unwrap();
        let whole = Rig::<f32>::compiled(&graph, 40, 1, &default).unwrap();
        assert!(least.plan.workspace_len() < whole.plan.workspace_len());
        let plain = train::<f32>(&graph, 40, &PLAIN);
        assert_same(&train(&graph, 40, &how), &plain, &graph);
    }
}

#[test]
fn what_costs_next_to_nothing_is_computed_again_without_being_asked_for() {
    let (graph, batch) = (deep_of(6, 512), 1024);
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch,
    };
    let bytes = |how: &CompileOptions| {
        let compiled = cpu.compiled::<f32>(&graph, &layout, options, how).unwrap();
        let again = compiled
            .records
            .iter()
            .any(|record| record.pass == "recompute");
        (compiled.workspace_bytes(), again)
    };
    let (default, again) = bytes(&CompileOptions::default());
    let (plain, _) = bytes(&PLAIN);
    assert!(again && default * 10 <= plain * 9, "{default} of {plain}");
}

#[test]
fn workspaces_are_near_what_is_alive_at_once() {
    for graph in [
        images(DType::F32),
        tokens(DType::F32),
        broad(DType::F32),
        deep(6),
    ] {
        let layout = ParameterLayout::new::<f32>(&graph).unwrap();
        for mode in [Mode::Training, Mode::Prediction] {
            let options = PlanOptions { mode, batch: 32 };
            if mode == Mode::Prediction
                && graph.output("loss").is_ok()
                && graph.outputs().len() == 1
            {
                continue;
            }
            let how = CompileOptions::default();
            let cpu = Cpu::new(CpuOptions::default()).unwrap();
            let compiled = cpu.compiled::<f32>(&graph, &layout, options, &how).unwrap();
            let program = &compiled.program;
            // The gradients lend their memory in training: both count.
            let gradients = match mode {
                Mode::Training => program.parameters_len,
                _ => 0,
            };
            let (len, bound) = (program.workspace_len, program.workspace_len_min);
            assert!(
                (len + gradients) * 100 <= (bound + gradients) * 110,
                "{} in {mode}: {len} of {bound}, and {gradients} of gradients",
                graph.name(),
            );
        }
    }
}
