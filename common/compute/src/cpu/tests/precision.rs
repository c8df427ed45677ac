//! Training with operands rounded to bfloat16 beside training without.

use ringfold_graph::layers::{SelfAttention, self_attention};
use ringfold_graph::op::{Binary, Dense, Gather, Norm, NormOver, SoftmaxCrossEntropy, Unary};
use ringfold_graph::{
    DType, Graph, Initialiser, OutputRole, Shape, TensorType, ValueId, differentiate,
};

use crate::backend::{CompileOptions, Precision};
use crate::cpu::gemm::check_bf16;
use crate::error::ComputeError;
use crate::testing::{Inputs, Owned, Rig};

const BF16: CompileOptions = CompileOptions {
    optimise: true,
    workspace_bytes_max: None,
    precision: Precision::Bf16,
};

fn missing() -> bool {
    let missing = check_bf16::<f32>().err();
    if let Some(error) = &missing {
        println!("skipped: {error}");
    }
    missing.is_some()
}

const WIDTH: usize = 32;
const CONTEXT: usize = 16;
const VOCABULARY: usize = 12;
const WEIGHT: Initialiser = Initialiser::Normal { deviation: 0.1 };

fn parameter(graph: &mut Graph, name: &str, dims: &[usize], start: Initialiser) -> ValueId {
    graph
        .add_parameter(name, Shape::fixed(dims), start)
        .unwrap()
}

fn layer_norm(graph: &mut Graph, name: &str, x: ValueId) -> ValueId {
    let one = Initialiser::Constant(1.0);
    let w = parameter(graph, &format!("{name}.weight"), &[WIDTH], one);
    let b = parameter(graph, &format!("{name}.bias"), &[WIDTH], Initialiser::Zeros);
    let over = NormOver::Layer { axis: 2 };
    graph
        .apply_all(Norm { over, eps: 1e-5 }, &[x, w, b])
        .unwrap()[0]
}

/// Two layers of two heads, which predict tokens.
fn gpt() -> Graph {
    let mut graph = Graph::new("gpt", DType::F32).unwrap();
    let tokens = TensorType::new(DType::I32, Shape::batched(&[CONTEXT]));
    let x = graph.add_input("x", tokens.clone()).unwrap();
    let y = graph.add_input("y", tokens).unwrap();
    let embedding = parameter(&mut graph, "tokens", &[VOCABULARY, WIDTH], WEIGHT);
    let positions = parameter(&mut graph, "positions", &[CONTEXT, WIDTH], WEIGHT);
    let mut h = graph.apply(Gather { axis: 0 }, &[embedding, x]).unwrap();
    h = graph.apply(Binary::Add, &[h, positions]).unwrap();
    let attention = SelfAttention {
        heads: 2,
        causal: true,
        bias: true,
        input: WEIGHT,
        output: WEIGHT,
        dropout: None,
    };
    for layer in 0..2 {
        let normal = layer_norm(&mut graph, &format!("{layer}.norm1"), h);
        let name = format!("{layer}.attention");
        let change = self_attention(&mut graph, &name, normal, &attention).unwrap();
        h = graph.apply(Binary::Add, &[h, change]).unwrap();
        let normal = layer_norm(&mut graph, &format!("{layer}.norm2"), h);
        let name = |part: &str| format!("{layer}.{part}");
        let wide = parameter(&mut graph, &name("wide"), &[4 * WIDTH, WIDTH], WEIGHT);
        let bias = parameter(&mut graph, &name("bias"), &[4 * WIDTH], Initialiser::Zeros);
        let wide = graph.apply(Dense::Affine, &[normal, wide, bias]).unwrap();
        let wide = graph.apply(Unary::Gelu, &[wide]).unwrap();
        let narrow = parameter(&mut graph, &name("narrow"), &[WIDTH, 4 * WIDTH], WEIGHT);
        let change = graph.apply(Dense::Affine, &[wide, narrow]).unwrap();
        h = graph.apply(Binary::Add, &[h, change]).unwrap();
    }
    let h = layer_norm(&mut graph, "norm", h);
    let head = parameter(&mut graph, "head", &[VOCABULARY, WIDTH], WEIGHT);
    let logits = graph.apply(Dense::Affine, &[h, head]).unwrap();
    let loss = graph
        .apply(SoftmaxCrossEntropy::Loss, &[logits, y])
        .unwrap();
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    differentiate(&graph, "loss").unwrap()
}

/// The losses of Adam's steps; sequences count on from where they start, by a step of 1 to 5.
fn curve(how: &CompileOptions, threads: usize) -> Vec<f32> {
    let mut rig = Rig::<f32>::compiled(&gpt(), 8, threads, how).unwrap();
    let len = rig.parameters.len();
    let (mut first, mut second) = (vec![0.0f32; len], vec![0.0f32; len]);
    let mut losses = Vec::new();
    for step in 0..60usize {
        let tokens = |shift: usize| -> Vec<i32> {
            let all = (0..8).flat_map(|i| (0..CONTEXT).map(move |t| (i, t)));
            all.map(|(i, t)| {
                let (start, stride) = (i * 5 + step * 7, (i + step) % 5 + 1);
                ((start + (t + shift) * stride) % VOCABULARY) as i32
            })
            .collect()
        };
        rig.inputs = Inputs(vec![Owned::Int(tokens(0)), Owned::Int(tokens(1))]);
        losses.push(rig.run());
        let corrections = [0.9f32, 0.99].map(|beta| 1.0 - beta.powi(step as i32 + 1));
        for (i, w) in rig.parameters.iter_mut().enumerate() {
            let g = rig.gradients[i];
            first[i] = 0.9 * first[i] + 0.1 * g;
            second[i] = 0.99 * second[i] + 0.01 * g * g;
            let root = (second[i] / corrections[1]).sqrt() + 1e-8;
            *w -= 3e-3 * first[i] / corrections[0] / root;
        }
    }
    losses
}

#[test]
fn a_gpt_learns_as_in_f32() {
    if missing() {
        return;
    }
    let full = curve(&CompileOptions::default(), 1);
    let bf16 = curve(&BF16, 1);
    assert_ne!(full, bf16);
    assert!(full[59] < 0.5 * full[0], "{full:?}");
    let apart = full.iter().zip(&bf16).map(|(a, b)| (a - b).abs());
    let most = apart.fold(0.0, f32::max);
    println!(
        "losses differ by at most {most}: {} and {}",
        full[59], bf16[59]
    );
    assert!(most < 0.01, "{most}: {full:?} {bf16:?}");
}

#[test]
fn bits_do_not_depend_on_threads_with_bf16() {
    if !missing() {
        assert_eq!(curve(&BF16, 1), curve(&BF16, 3));
    }
}

#[test]
fn plans_of_f64_have_no_bf16() {
    let mut graph = Graph::new("f64", DType::F64).unwrap();
    let x = graph.add_input("x", TensorType::new(DType::F64, Shape::batched(&[3])));
    let w = parameter(&mut graph, "w", &[2, 3], WEIGHT);
    let y = graph.apply(Dense::Affine, &[x.unwrap(), w]).unwrap();
    let loss = graph
        .apply(ringfold_graph::op::L2Penalty { lambda: 1.0 }, &[w])
        .unwrap();
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let graph = differentiate(&graph, "loss").unwrap();
    let error = Rig::<f64>::compiled(&graph, 2, 1, &BF16).err();
    assert!(
        matches!(error, Some(ComputeError::Bf16 { .. })),
        "{error:?}"
    );
}
