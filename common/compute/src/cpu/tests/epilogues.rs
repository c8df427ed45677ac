//! Products that take the chains after them along give the bits of products alone and chains alone.

use proptest::prelude::*;
use ringfold_graph::op::{Binary, Dense, Dropout, MatMul, MeanSquaredError, Unary};
use ringfold_graph::pass::{FUSING, Mode, Optimised, PassContext, SIMPLIFYING};
use ringfold_graph::{DType, Graph, OutputRole, Shape, ValueId};

use super::networks::{images, tokens};
use crate::backend::{CompileOptions, PlanOptions, Precision};
use crate::cpu::{Cpu, CpuOptions, check_precision};
use crate::element::Element;
use crate::layout::ParameterLayout;
use crate::testing::{Inputs, Rig, finish, input, parameter, random_graphs};

/// What the simplifying passes leave, and what the fusing ones make of it.
fn apart_and_fused(graph: &Graph, mode: Mode) -> [Graph; 2] {
    let context = PassContext { mode: Some(mode) };
    let mut optimised = Optimised::untouched(graph.clone());
    let settle = |optimised: &mut Optimised, passes| {
        optimised.settle(passes, &context, &mut |_, _| {}).unwrap();
        optimised.graph.clone()
    };
    let apart = settle(&mut optimised, &SIMPLIFYING);
    [apart, settle(&mut optimised, &FUSING)]
}

fn epilogues(graph: &Graph) -> usize {
    let names = graph.nodes().iter().map(|node| node.op.name());
    names.filter(|name| name.ends_with("_fused")).count()
}

/// Bits of the loss, gradients and predictions of a graph as it is.
fn bits<T: Element>(graph: &Graph, batch: usize, threads: usize, precision: Precision) -> Vec<u64> {
    let how = CompileOptions {
        optimise: false,
        workspace_bytes_max: None,
        precision,
    };
    let mut rig = Rig::<T>::compiled(graph, batch, threads, &how).unwrap();
    // What wasn't written is seen.
    rig.workspace.arena.fill(T::from_f64(f64::NAN));
    let mut all = vec![rig.run()];
    for slot in rig.layout.slots() {
        all.extend(&rig.gradients[slot.range()]);
    }
    for output in rig.plan.outputs().map(|spec| spec.name.clone()) {
        all.extend(rig.plan.output(&rig.workspace, &output).unwrap());
    }
    // Exact in f64.
    all.into_iter().map(|x| x.to_f64().to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_graphs_give_the_same_bits(random in random_graphs(), batch in 1usize..40) {
        let [apart, fused] = apart_and_fused(&random.build(DType::F32), Mode::Training);
        let expected = bits::<f32>(&apart, batch, 1, Precision::Full);
        prop_assert_eq!(bits::<f32>(&fused, batch, 1, Precision::Full), expected, "{}", fused);
    }
}

/// A step after a product.
#[derive(Clone, Debug)]
enum After {
    Activation(Unary),
    Dropout,
    Residual,
    Row,
    Column,
    Scalar,
    /// The value so far is read at the end, too.
    Kept,
}

fn after() -> impl Strategy<Value = After> {
    let activation = prop_oneof![
        Just(Unary::Relu),
        Just(Unary::Gelu),
        Just(Unary::GeluTanh),
        Just(Unary::Silu),
        Just(Unary::Tanh),
        Just(Unary::Sigmoid),
        Just(Unary::Scale { factor: 0.3 }),
    ];
    prop_oneof![
        3 => activation.prop_map(After::Activation),
        1 => Just(After::Dropout),
        1 => Just(After::Residual),
        1 => Just(After::Row),
        1 => Just(After::Column),
        1 => Just(After::Scalar),
        1 => Just(After::Kept),
    ]
}

/// Products of these widths, each with what follows it; the residual is the first product.
fn network(
    dtype: DType,
    inputs: usize,
    width: usize,
    layers: &[Vec<After>],
    stacked: bool,
) -> Graph {
    let mut graph = Graph::new("epilogues", dtype).unwrap();
    let x = match stacked {
        true => Shape::batched(&[3, inputs]),
        false => Shape::batched(&[inputs]),
    };
    let mut h = input(&mut graph, "x", x);
    let mut kept: Vec<ValueId> = Vec::new();
    let mut residual = None;
    let mut key = 0;
    for (i, layer) in layers.iter().enumerate() {
        let from = graph
            .value(h)
            .ty
            .shape
            .dims()
            .last()
            .unwrap()
            .fixed()
            .unwrap();
        let name = |part: &str| format!("{i}.{part}");
        let y = if i % 2 == 0 {
            let w = parameter(&mut graph, &name("w"), &[width, from]);
            let b = parameter(&mut graph, &name("b"), &[width]);
            graph.apply(Dense::Affine, &[h, w, b]).unwrap()
        } else if stacked {
            let w = parameter(&mut graph, &name("w"), &[3, from, width]);
            let shape = Shape::batched(&[3, 1, from]);
            let rows = graph
                .apply(ringfold_graph::op::Reshape { shape }, &[h])
                .unwrap();
            let y = graph.apply(MatMul::default(), &[rows, w]).unwrap();
            let y = graph.apply(Unary::Gelu, &[y]).unwrap();
            let shape = Shape::batched(&[3, width]);
            graph
                .apply(ringfold_graph::op::Reshape { shape }, &[y])
                .unwrap()
        } else {
            let w = parameter(&mut graph, &name("w"), &[from, width]);
            graph.apply(MatMul::default(), &[h, w]).unwrap()
        };
        h = y;
        for (j, after) in layer.iter().enumerate() {
            let name = format!("{i}.{j}");
            h = match after {
                After::Activation(op) => graph.apply(*op, &[h]),
                After::Dropout => {
                    key += 1;
                    graph.apply(Dropout { rate: 0.4, key }, &[h])
                }
                After::Residual => {
                    let other = *residual.get_or_insert(y);
                    graph.apply(Binary::Add, &[other, h])
                }
                After::Row => {
                    let row = parameter(&mut graph, &name, &[width]);
                    graph.apply(Binary::Add, &[h, row])
                }
                After::Column if stacked => {
                    let column = parameter(&mut graph, &name, &[3, 1]);
                    graph.apply(Binary::Mul, &[h, column])
                }
                After::Scalar | After::Column => {
                    let scalar = parameter(&mut graph, &name, &[]);
                    graph.apply(Binary::Sub, &[h, scalar])
                }
                After::Kept => {
                    kept.push(h);
                    Ok(h)
                }
            }
            .unwrap();
        }
    }
    for value in kept {
        h = graph.apply(Binary::Add, &[h, value]).unwrap();
    }
    let shape = graph.value(h).ty.shape.clone();
    let y = input(&mut graph, "y", shape);
    let copy = graph.apply(Unary::Neg, &[h]).unwrap();
    graph
        .add_output("prediction", OutputRole::Prediction, copy)
        .unwrap();
    let loss = graph.apply(MeanSquaredError::Loss, &[h, y]).unwrap();
    finish(graph, loss)
}

fn check<T: Element>(graph: &Graph, batch: usize, precision: Precision) -> usize {
    let [apart, fused] = apart_and_fused(graph, Mode::Training);
    for threads in [1, 2, 3] {
        let expected = bits::<T>(&apart, batch, threads, precision);
        let got = bits::<T>(&fused, batch, threads, precision);
        assert!(got == expected, "{threads} threads, batch {batch}\n{fused}");
    }
    epilogues(&fused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Widths beside those of tiles, blocks and what dropout draws at a time; sums of several runs.
    #[test]
    fn products_with_chains_give_the_bits_of_both_apart(
        layers in proptest::collection::vec(proptest::collection::vec(after(), 0..5), 1..4),
        inputs in prop_oneof![1usize..70, 500usize..530],
        width in prop_oneof![1usize..70, Just(64), Just(512), 510usize..600],
        batch in prop_oneof![1usize..20, 160usize..200],
        stacked: bool,
    ) {
        check::<f32>(&network(DType::F32, inputs, width, &layers, stacked), batch, Precision::Full);
        if batch < 20 {
            check::<f64>(&network(DType::F64, inputs, width, &layers, stacked), batch, Precision::Full);
        }
        if check_precision::<f32>(Precision::Bf16).is_ok() {
            check::<f32>(&network(DType::F32, inputs, width, &layers, stacked), batch, Precision::Bf16);
        }
    }
}

/// Results of more columns than are packed at a time, and blocks of some of them.
#[test]
fn wide_products_give_the_same_bits() {
    let layer = vec![
        After::Row,
        After::Activation(Unary::Gelu),
        After::Dropout,
        After::Residual,
    ];
    let graph = network(DType::F32, 600, 1700, &[layer.clone(), layer], false);
    assert!(check::<f32>(&graph, 180, Precision::Full) >= 2);
    if let Err(error) = check_precision::<f32>(Precision::Bf16) {
        println!("skipped: {error}");
    } else {
        check::<f32>(&graph, 180, Precision::Bf16);
    }
}

#[test]
fn whole_networks_give_the_same_bits() {
    for graph in [images(DType::F32), tokens(DType::F32)] {
        check::<f32>(&graph, 40, Precision::Full);
    }
    assert!(check::<f32>(&tokens(DType::F32), 3, Precision::Full) >= 1);
}

/// A prediction that is fused differs in no bit, and its dropout is gone.
#[test]
fn predictions_give_the_same_bits() {
    let layer = vec![After::Activation(Unary::Silu), After::Dropout, After::Kept];
    let graph = network(DType::F32, 33, 77, &[layer.clone(), layer], false);
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 19,
    };
    let how = CompileOptions {
        optimise: false,
        ..CompileOptions::default()
    };
    let [apart, fused] = apart_and_fused(&graph, Mode::Prediction);
    // The dropout of a plan whose graph was fused for training is gone, too.
    let [_, trained] = apart_and_fused(&graph, Mode::Training);
    let predict = |graph: &Graph| -> Vec<u32> {
        let plan = cpu.plan_with::<f32>(graph, &layout, options, &how).unwrap();
        let mut workspace = plan.workspace().unwrap();
        let parameters = layout.initial::<f32>(1).unwrap();
        let inputs = Inputs::random(&plan, 2);
        plan.infer(&mut workspace, &parameters, &inputs.refs())
            .unwrap();
        let predicted = plan.output(&workspace, "prediction").unwrap();
        predicted.iter().map(|x| x.to_bits()).collect()
    };
    let expected = predict(&apart);
    assert_eq!(predict(&fused), expected);
    assert_eq!(predict(&trained), expected);
    assert!(epilogues(&fused) >= 1 && epilogues(&trained) >= 1);
}
