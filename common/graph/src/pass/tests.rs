//! What each pass does, by the graph that it leaves.

use super::{
    Mode, Optimised, PassContext, Record, SIMPLIFYING, optimise, optimise_watched, recompute,
    simplify,
};
use crate::graph::{ConstantData, Graph, NodeId, OutputRole, ValueId};
use crate::models::{LOSS, MlpOptions, mlp};
use crate::op::{
    Binary, Cast, Conv, ConvPart, Dense, Dropout, Expand, MeanSquaredError, Op, Reshape, Softmax,
    Transpose, Unary, Windows,
};
use crate::shape::{DType, Shape, TensorType};
use crate::{Initialiser, differentiate};

fn graph() -> (Graph, ValueId) {
    let mut graph = Graph::new("g", DType::F32).unwrap();
    let ty = TensorType::new(DType::F32, Shape::batched(&[4]));
    let x = graph.add_input("x", ty).unwrap();
    (graph, x)
}

/// The nodes of a graph as text, without its names.
fn nodes(graph: &Graph) -> Vec<String> {
    let lines = graph.to_string();
    let lines = lines.lines().filter(|line| line.trim().starts_with('#'));
    lines.map(|line| line.trim().to_owned()).collect()
}

/// The nodes that the simplifying passes leave of what `build` makes of an input.
fn simplified(build: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Vec<String> {
    let (mut graph, x) = graph();
    let y = build(&mut graph, x);
    // Whatever stands at the end is a node.
    let y = graph.apply(Unary::Sin, &[y]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let mut nodes = nodes(&simplify(&graph).unwrap().graph);
    let last = nodes.pop().unwrap();
    assert!(last.contains("sin("), "{last}");
    nodes
}

fn ops(nodes: &[String]) -> Vec<&str> {
    nodes
        .iter()
        .map(|node| node.split_once(" = ").unwrap().1)
        .collect()
}

#[test]
fn logarithms_take_their_stable_forms() {
    let nodes = simplified(|g, x| {
        let y = g.apply(Softmax::Plain { axis: 1 }, &[x]).unwrap();
        g.apply(Unary::Log, &[y]).unwrap()
    });
    assert_eq!(ops(&nodes), ["log_softmax<axis=1>(%0)"]);
    let nodes = simplified(|g, x| {
        let one = g.add_scalar(1.0).unwrap();
        let y = g.apply(Unary::Exp, &[x]).unwrap();
        let y = g.apply(Binary::Add, &[one, y]).unwrap();
        g.apply(Unary::Log, &[y]).unwrap()
    });
    assert_eq!(ops(&nodes), ["softplus(%0)"]);
    let nodes = simplified(|g, x| {
        let y = g.apply(Unary::Sigmoid, &[x]).unwrap();
        g.apply(Unary::Log, &[y]).unwrap()
    });
    assert_eq!(ops(&nodes), ["neg(%0)", "softplus(%1)", "neg(%2)"]);
    // A two is no one.
    let nodes = simplified(|g, x| {
        let two = g.add_scalar(2.0).unwrap();
        let y = g.apply(Unary::Exp, &[x]).unwrap();
        let y = g.apply(Binary::Add, &[y, two]).unwrap();
        g.apply(Unary::Log, &[y]).unwrap()
    });
    assert_eq!(nodes.len(), 3);
}

#[test]
fn what_changes_nothing_goes() {
    let nodes = simplified(|g, x| {
        let [one, zero] = [1.0, 0.0].map(|number| g.add_scalar(number).unwrap());
        let mut y = x;
        for (op, number) in [
            (Binary::Mul, one),
            (Binary::Div, one),
            (Binary::Add, zero),
            (Binary::Sub, zero),
            (Binary::Pow, one),
        ] {
            y = g.apply(op, &[y, number]).unwrap();
        }
        y = g.apply(Binary::Add, &[zero, y]).unwrap();
        y = g.apply(Unary::Identity, &[y]).unwrap();
        y = g.apply(Cast { to: DType::F32 }, &[y]).unwrap();
        y = g.apply(Dropout { rate: 0.0, key: 0 }, &[y]).unwrap();
        for _ in 0..2 {
            y = g.apply(Unary::Neg, &[y]).unwrap();
        }
        for shape in [Shape::batched(&[2, 2]), Shape::batched(&[4])] {
            y = g.apply(Reshape { shape }, &[y]).unwrap();
        }
        for order in [vec![1, 0], vec![1, 0], vec![0, 1]] {
            y = g.apply(Transpose { order }, &[y]).unwrap();
        }
        y
    });
    assert!(nodes.is_empty(), "{nodes:?}");
}

#[test]
fn products_with_constants_are_scales_and_quotients_stay() {
    let nodes = simplified(|g, x| {
        let [c, four, three, two] = [1.5, 4.0, 3.0, 2.0].map(|n| g.add_scalar(n).unwrap());
        let y = g.apply(Binary::Mul, &[c, x]).unwrap();
        let y = g.apply(Binary::Div, &[y, four]).unwrap();
        let y = g.apply(Binary::Div, &[y, three]).unwrap();
        g.apply(Binary::Pow, &[y, two]).unwrap()
    });
    let expected = [
        "scale<factor=1.5>(%0)",
        "scale<factor=0.25>(%2)",
        "div(%3, %1)",
        "mul(%4, %4)",
    ];
    assert_eq!(ops(&nodes), expected);
    // A constant that makes the result larger is no factor.
    let (mut graph, _) = graph();
    let p = graph
        .add_parameter("p", Shape::fixed(&[1]), Initialiser::Zeros)
        .unwrap();
    let ty = TensorType::new(DType::F32, Shape::fixed(&[3]));
    let ones = graph
        .add_constant(ty, ConstantData::Float(vec![1.0; 3]))
        .unwrap();
    let y = graph.apply(Binary::Mul, &[p, ones]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    assert_eq!(simplify(&graph).unwrap().graph, graph);
}

#[test]
fn constants_are_computed_as_a_kernel_would() {
    let (mut graph, x) = graph();
    let ty = TensorType::new(DType::F32, Shape::fixed(&[2, 2]));
    let data = ConstantData::Float(vec![0.1, 0.2, 3.0, 4.0]);
    let c = graph.add_constant(ty, data).unwrap();
    let third = graph.add_scalar(3.0).unwrap();
    let c = graph.apply(Transpose { order: vec![1, 0] }, &[c]).unwrap();
    let c = graph.apply(Binary::Div, &[c, third]).unwrap();
    let shape = Shape::fixed(&[4]);
    let c = graph.apply(Reshape { shape }, &[c]).unwrap();
    let y = graph.apply(Binary::Add, &[x, c]).unwrap();
    // Not folded: its bits are the kernel's business.
    let e = graph.apply(Unary::Exp, &[c]).unwrap();
    let y = graph.apply(Binary::Add, &[y, e]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let simple = simplify(&graph).unwrap().graph;
    assert_eq!(simple.nodes().len(), 3);
    let expected: Vec<f64> = [0.1f32, 3.0, 0.2, 4.0]
        .iter()
        .map(|x| f64::from(x / 3.0))
        .collect();
    assert_eq!(simple.constants().len(), 1);
    assert_eq!(simple.constants()[0].data, ConstantData::Float(expected));
}

#[test]
fn equal_nodes_are_one_but_masks_are_not() {
    let nodes = simplified(|g, x| {
        let a = g.apply(Unary::Exp, &[x]).unwrap();
        let b = g.apply(Unary::Exp, &[x]).unwrap();
        let [one, uno] = [0.5, 0.5].map(|n| g.add_scalar(n).unwrap());
        let a = g.apply(Binary::Add, &[a, one]).unwrap();
        let b = g.apply(Binary::Add, &[uno, b]).unwrap();
        let a = g.apply(Dropout { rate: 0.5, key: 0 }, &[a]).unwrap();
        let b = g.apply(Dropout { rate: 0.5, key: 1 }, &[b]).unwrap();
        g.apply(Binary::Add, &[a, b]).unwrap()
    });
    let names: Vec<&str> = ops(&nodes).iter().map(|op| &op[..3]).collect();
    assert_eq!(names, ["exp", "add", "dro", "dro", "add"]);
}

#[test]
fn what_is_read_after_the_run_stays_a_node_of_its_own() {
    let (mut graph, x) = graph();
    let copy = graph.apply(Unary::Identity, &[x]).unwrap();
    graph
        .add_output("copy", OutputRole::Prediction, copy)
        .unwrap();
    assert_eq!(simplify(&graph).unwrap().graph, graph);
}

#[test]
fn a_mode_keeps_what_it_computes() {
    let mut options = MlpOptions::classifier(8, &[16], 4);
    options.dropout = 0.5;
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    let outputs = |mode| -> Vec<String> {
        let cut = optimise(&graph, mode).unwrap().graph;
        assert_eq!(cut.parameters().len(), graph.parameters().len());
        let outputs = cut.outputs().iter();
        outputs.map(|output| output.name.clone()).collect()
    };
    assert_eq!(outputs(Mode::Training), ["loss", "data_loss", "logits"]);
    assert_eq!(outputs(Mode::Evaluation), ["loss", "data_loss", "logits"]);
    assert_eq!(outputs(Mode::Prediction), ["logits", "probabilities"]);
    let predict = optimise(&graph, Mode::Prediction).unwrap().graph;
    assert!(predict.gradients().is_empty());
    let names = predict.nodes().iter().map(|node| node.op.name());
    let names: Vec<&str> = names.collect();
    assert_eq!(names, ["affine_fused", "affine", "softmax"]);
}

#[test]
fn chains_are_fused_where_the_last_one_stood() {
    let (mut graph, x) = graph();
    let p = graph
        .add_parameter("p", Shape::fixed(&[4]), Initialiser::Zeros)
        .unwrap();
    let wide = Shape::batched(&[4]);
    let p = graph.apply(Expand { shape: wide }, &[p]).unwrap();
    let a = graph.apply(Unary::Tanh, &[x]).unwrap();
    let b = graph.apply(Binary::Mul, &[a, p]).unwrap();
    // Read twice: a node of its own.
    let c = graph.apply(Unary::Sigmoid, &[b]).unwrap();
    let d = graph.apply(Dropout { rate: 0.5, key: 7 }, &[c]).unwrap();
    let e = graph.apply(Binary::Add, &[d, c]).unwrap();
    graph.add_output("y", OutputRole::Prediction, e).unwrap();
    graph.add_output("c", OutputRole::Loss, c).unwrap();
    let fused = optimise(&graph, Mode::Training).unwrap().graph;
    let nodes = nodes(&fused);
    let expected = [
        "fused<program={ t0 = tanh(a1); t1 = mul(t0, a0); t2 = sigmoid(t1) }>(%1, %0)",
        "fused<program={ t0 = dropout<rate=0.5, key=7>(a0); t1 = add(t0, a0) }>(%2)",
    ];
    assert_eq!(ops(&nodes), expected);
}

#[test]
fn relu_becomes_part_of_its_convolution() {
    let mut graph = Graph::new("g", DType::F32).unwrap();
    let ty = TensorType::new(DType::F32, Shape::batched(&[2, 6, 6]));
    let x = graph.add_input("x", ty).unwrap();
    let conv = Conv {
        windows: Windows::default(),
        groups: 1,
        part: ConvPart::Forward,
    };
    let mut h = x;
    for i in 0..2 {
        let shape = Shape::fixed(&[2, 2, 3, 3]);
        let name = format!("w{i}");
        let w = graph
            .add_parameter(&name, shape, Initialiser::Zeros)
            .unwrap();
        h = graph.apply(conv, &[h, w]).unwrap();
        // The second is read before ReLU, too.
        if i == 1 {
            graph
                .add_output("before", OutputRole::Prediction, h)
                .unwrap();
        }
        h = graph.apply(Unary::Relu, &[h]).unwrap();
    }
    graph.add_output("y", OutputRole::Prediction, h).unwrap();
    let fused = optimise(&graph, Mode::Training).unwrap().graph;
    let names = fused.nodes().iter().map(|node| node.op.name());
    let names: Vec<&str> = names.collect();
    assert_eq!(names, ["conv_relu", "conv", "relu"]);
}

#[test]
fn a_patch_that_breaks_a_rule_is_refused() {
    let (mut graph, x) = graph();
    let y = graph.apply(Unary::Exp, &[x]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let mut patch = super::Patch::new("remove what is read", &graph);
    patch.remove(NodeId(0));
    patch.count();
    assert!(patch.apply(&graph).is_err());
    let mut optimised = Optimised::untouched(graph.clone());
    assert!(optimised.apply("broken", &patch).is_err());
    assert_eq!(optimised, Optimised::untouched(graph));
}

#[test]
fn records_say_what_was_done() {
    let (mut graph, x) = graph();
    let y = graph.apply(Unary::Identity, &[x]).unwrap();
    let y = graph.apply(Unary::Exp, &[y]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    let context = PassContext { mode: None };
    let mut optimised = Optimised::untouched(graph);
    let mut seen = Vec::new();
    let mut watch = |records: &[Record], graph: &Graph| {
        seen.push((records[0].pass, records.len(), graph.nodes().len()));
    };
    optimised
        .settle(&SIMPLIFYING, &context, &mut watch)
        .unwrap();
    assert_eq!(seen, [("rewrite", 1, 1)]);
    let record = optimised.records[0].clone();
    assert_eq!((record.pass, record.sites), ("rewrite", 1));
    assert_eq!((record.nodes_before, record.nodes_after), (2, 1));
    let printed =
        "rewrite: copies and moves of nothing -> x, at 1: 2 -> 1 nodes\n  - #0 identity\n";
    assert_eq!(record.to_string(), printed);
}

/// Everything that `ringfold model inspect --dump text` prints of a small network: a change of a pass
/// shows here. `RINGFOLD_BLESS=1` writes it anew.
#[test]
fn the_dump_of_a_small_network_is_as_committed() {
    let (mut graph, x) = graph();
    let shape = Shape::fixed(&[3, 4]);
    let w = graph
        .add_parameter("w", shape, Initialiser::Normal { deviation: 0.1 })
        .unwrap();
    let shape = Shape::fixed(&[3]);
    let b = graph.add_parameter("b", shape, Initialiser::Zeros).unwrap();
    let h = graph.apply(Dense::Affine, &[x, w, b]).unwrap();
    let h = graph.apply(Unary::Gelu, &[h]).unwrap();
    let two = graph.add_scalar(2.0).unwrap();
    let h = graph.apply(Binary::Mul, &[h, two]).unwrap();
    let p = graph.apply(Softmax::Plain { axis: 1 }, &[h]).unwrap();
    let p = graph.apply(Unary::Log, &[p]).unwrap();
    graph
        .add_output("log_p", OutputRole::Prediction, p)
        .unwrap();
    let ty = TensorType::new(DType::F32, Shape::batched(&[3]));
    let y = graph.add_input("y", ty).unwrap();
    let loss = graph.apply(MeanSquaredError::Loss, &[p, y]).unwrap();
    graph.add_output(LOSS, OutputRole::Loss, loss).unwrap();
    let simple = simplify(&graph).unwrap();
    let mut text = format!("{graph}");
    for record in &simple.records {
        text += &record.to_string();
    }
    let graph = differentiate(&simple.graph, LOSS).unwrap();
    text += &graph.to_string();
    let mut watch = |records: &[Record], graph: &Graph| {
        records
            .iter()
            .for_each(|record| text += &record.to_string());
        text += &graph.to_string();
    };
    let last = optimise_watched(&graph, Mode::Training, &mut watch).unwrap();
    text += &crate::dump::dot(&last.graph);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pass/golden/dump.txt");
    if std::env::var_os("RINGFOLD_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn values_are_computed_again_before_backward_reads_them() {
    let (mut graph, x) = graph();
    let mut h = x;
    for i in 0..2 {
        let fixed = Shape::fixed(&[4, 4]);
        let name = format!("w{i}");
        let w = graph
            .add_parameter(&name, fixed, Initialiser::Zeros)
            .unwrap();
        h = graph.apply(Dense::Affine, &[h, w]).unwrap();
        h = graph.apply(Unary::Softplus, &[h]).unwrap();
    }
    let loss = graph.apply(MeanSquaredError::Loss, &[h, x]).unwrap();
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    let graph = differentiate(&graph, "loss").unwrap();
    let found = recompute::candidates(&graph, 8);
    let bytes = 8 * 4 * 4;
    // The second softplus is read by the first backward node alone.
    let nodes: Vec<_> = found.iter().map(|c| (&c.nodes[..], c.bytes)).collect();
    assert_eq!(
        nodes,
        [0, 1, 2].map(|i| (&[[NodeId(0)], [NodeId(1)], [NodeId(2)]][i][..], bytes))
    );
    assert!(
        found
            .iter()
            .all(|c| c.cost > 0 && c.cost < recompute::cost(&graph, 8))
    );
    let patch = recompute::patch(&graph, &[NodeId(1)].into()).unwrap();
    let again = patch.apply(&graph).unwrap();
    assert_eq!(again.nodes().len(), graph.nodes().len() + 1);
    let copies = again.nodes().iter().enumerate();
    let copies = copies.filter(|(_, node)| node.op == Op::Unary(Unary::Softplus));
    let positions: Vec<usize> = copies.map(|(i, _)| i).collect();
    assert_eq!(positions.len(), 3, "{again}");
    assert!(positions[2] > 5, "{again}");
    assert_eq!(recompute::patch(&graph, &[].into()), None);
}
