//! One test for each rejection.

use crate::autodiff::differentiate;
use crate::error::{GradientProblem, GraphError};
use crate::graph::{Graph, NodeId, Origin, OutputRole, ParameterId, ValueId};
use crate::init::Initialiser;
use crate::models::{LOSS, MlpOptions, mlp};
use crate::op::{Binary, Dense, Dropout, L2Penalty, Op, Softmax, SoftmaxCrossEntropy, Unary};
use crate::shape::{DType, Dim, Shape, TensorType};

const RELU: Unary = Unary::Relu;

/// `x: f32[batch, 3]`, `y: i32[batch]`, `w: f32[2, 3]`.
fn small() -> (Graph, ValueId, ValueId, ValueId) {
    let mut graph = Graph::new("g", DType::F32).unwrap();
    let x = graph
        .add_input("x", TensorType::new(DType::F32, Shape::batched(&[3])))
        .unwrap();
    let y = graph
        .add_input("y", TensorType::new(DType::I32, Shape::batched(&[])))
        .unwrap();
    let w = graph
        .add_parameter("w", Shape::fixed(&[2, 3]), Initialiser::Zeros)
        .unwrap();
    (graph, x, y, w)
}

fn trained() -> Graph {
    let mut options = MlpOptions::classifier(3, &[4], 2);
    options.dropout = 0.5;
    differentiate(&mlp(&options).unwrap(), LOSS).unwrap()
}

#[test]
fn operand_count() {
    let (mut graph, x, ..) = small();
    let error = graph.apply(Dense::Affine, &[x]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "#0 affine: expected 2 or 3 operands, got 1"
    );
}

#[test]
fn operand_dtype() {
    let (mut graph, _, y, _) = small();
    let error = graph.apply(RELU, &[y]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "#0 relu: operand 0: expected elements of f32, got i32"
    );
}

#[test]
fn operand_rank() {
    let (mut graph, x, y, w) = small();
    let sum = graph.apply(Dense::GradBias, &[w]).unwrap();
    let error = graph.apply(Dense::Affine, &[x, sum]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "#1 affine: operand 1: expected 2 dimensions, got shape [3]"
    );
    let loss = graph.apply(SoftmaxCrossEntropy::Loss, &[x, y]).unwrap();
    let error = graph
        .apply(Softmax::Plain { axis: 1 }, &[loss])
        .unwrap_err();
    assert!(matches!(error, GraphError::OperandRank { .. }));
}

#[test]
fn operand_shape() {
    let (mut graph, x, _, w) = small();
    let error = graph.apply(Binary::Add, &[x, w]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "#0 add: operands [batch, 3] and [2, 3] don't broadcast"
    );
    let y = graph.apply(Dense::Affine, &[x, w]).unwrap();
    let error = graph.apply(Dense::Affine, &[y, w]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "#1 affine: operand 1: expected shape [2, 2], got [2, 3]"
    );
}

#[test]
fn operand_undefined() {
    let (mut graph, x, ..) = small();
    let error = graph.apply(RELU, &[ValueId(9)]).unwrap_err();
    assert!(matches!(error, GraphError::OperandUndefined { .. }));
    let a = graph.apply(RELU, &[x]).unwrap();
    let b = graph.apply(RELU, &[a]).unwrap();
    graph.nodes[0].operands[0] = b;
    assert_eq!(
        graph.verify().unwrap_err().to_string(),
        "#0 relu: operand 0: %4 isn't defined before the node"
    );
}

#[test]
fn attributes() {
    for (op, attribute) in [
        (Op::from(Dropout { rate: 1.0, key: 0 }), "rate"),
        (L2Penalty { lambda: -1.0 }.into(), "lambda"),
        (Unary::Scale { factor: f64::NAN }.into(), "factor"),
    ] {
        let (mut graph, x, ..) = small();
        match graph.apply(op, &[x]).unwrap_err() {
            GraphError::Attribute { attribute: got, .. } => assert_eq!(got, attribute),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn dropout_keys() {
    let (mut graph, x, ..) = small();
    let dropout = Dropout { rate: 0.5, key: 7 };
    let a = graph.apply(dropout, &[x]).unwrap();
    graph.apply(dropout, &[a]).unwrap();
    assert_eq!(
        graph.verify().unwrap_err(),
        GraphError::DropoutKeyShared {
            node: NodeId(1),
            key: 7,
            first: NodeId(0)
        }
    );
    trained().verify().unwrap();
}

#[test]
fn result_type() {
    let (mut graph, x, ..) = small();
    let a = graph.apply(RELU, &[x]).unwrap();
    graph.values[a.0 as usize].ty.shape = Shape::fixed(&[1]);
    assert_eq!(
        graph.verify().unwrap_err().to_string(),
        "#0 relu: result %3: expected f32[batch, 3], got f32[1]"
    );
}

#[test]
fn result_count() {
    let (mut graph, x, ..) = small();
    graph.apply(RELU, &[x]).unwrap();
    graph.nodes[0].results.clear();
    graph.values.pop();
    assert!(matches!(
        graph.verify().unwrap_err(),
        GraphError::ResultCount { got: 0, .. }
    ));
}

#[test]
fn broken_origins() {
    let (good, x, ..) = small();
    for origin in [
        Origin::Input(1),
        Origin::Input(9),
        Origin::Parameter(ParameterId(0)),
        Origin::LossScale,
        Origin::Node {
            node: NodeId(0),
            result: 0,
        },
    ] {
        let mut graph = good.clone();
        graph.values[x.0 as usize].origin = origin;
        assert_eq!(
            graph.verify().unwrap_err(),
            GraphError::OriginBroken { value: x }
        );
    }
}

#[test]
fn names() {
    let (mut graph, x, ..) = small();
    let shape = Shape::fixed(&[1]);
    for name in ["", "a b", "naïve", &"n".repeat(257)] {
        assert!(matches!(
            graph.add_parameter(name, shape.clone(), Initialiser::Zeros),
            Err(GraphError::Name { .. })
        ));
    }
    let taken = |kind, name: &str| GraphError::NameTaken {
        kind,
        name: name.into(),
    };
    assert_eq!(
        graph.add_parameter("w", shape.clone(), Initialiser::Zeros),
        Err(taken("parameter", "w"))
    );
    let ty = TensorType::new(DType::F32, shape);
    assert_eq!(graph.add_input("x", ty), Err(taken("input", "x")));
    let a = graph.apply(RELU, &[x]).unwrap();
    graph.add_output("o", OutputRole::Prediction, a).unwrap();
    assert_eq!(
        graph.add_output("o", OutputRole::Prediction, a),
        Err(taken("output", "o"))
    );
    // A refusal changes nothing.
    graph.verify().unwrap();
    assert_eq!(graph.parameters().len(), 1);
}

#[test]
fn zero_dimensions() {
    let (mut graph, ..) = small();
    assert!(matches!(
        graph.add_input("z", TensorType::new(DType::F32, Shape::batched(&[0]))),
        Err(GraphError::ZeroDimension { .. })
    ));
    assert!(matches!(
        graph.add_parameter("z", Shape::fixed(&[3, 0]), Initialiser::Zeros),
        Err(GraphError::ZeroDimension { .. })
    ));
}

#[test]
fn parameters_are_fixed_finite_floats() {
    let (mut graph, .., w) = small();
    assert!(matches!(
        graph.add_parameter("b", Shape::new(vec![Dim::Batch]), Initialiser::Zeros),
        Err(GraphError::ParameterShape { .. })
    ));
    let bad = Initialiser::Normal {
        deviation: f64::INFINITY,
    };
    assert!(matches!(
        graph.add_parameter("b", Shape::fixed(&[1]), bad),
        Err(GraphError::Initialiser { .. })
    ));
    graph.values[w.0 as usize].ty.dtype = DType::F64;
    assert!(matches!(
        graph.verify(),
        Err(GraphError::NotFloat {
            kind: "parameter",
            ..
        })
    ));
}

#[test]
fn floats_are_of_one_type() {
    assert!(matches!(
        Graph::new("g", DType::I32),
        Err(GraphError::NotFloat { kind: "graph", .. })
    ));
    let (mut graph, ..) = small();
    assert!(matches!(
        graph.add_input("z", TensorType::new(DType::F64, Shape::batched(&[1]))),
        Err(GraphError::NotFloat { kind: "input", .. })
    ));
}

#[test]
fn outputs_are_results_of_nodes() {
    let (mut graph, x, ..) = small();
    for value in [x, ValueId(99)] {
        assert_eq!(
            graph.add_output("o", OutputRole::Prediction, value),
            Err(GraphError::OutputOrigin {
                name: "o".into(),
                value
            })
        );
    }
}

#[test]
fn gradients() {
    let good = trained();
    let problem = |change: &dyn Fn(&mut Graph)| {
        let mut graph = good.clone();
        change(&mut graph);
        match graph.verify().unwrap_err() {
            GraphError::Gradient { problem, .. } => problem,
            other => panic!("{other}"),
        }
    };
    use GradientProblem::{Missing, Order, Shared, Twice, Type, UnknownParameter};
    assert_eq!(
        problem(&|g| g.gradients[0].parameter = ParameterId(99)),
        UnknownParameter
    );
    assert_eq!(problem(&|g| g.gradients[1] = g.gradients[0]), Twice);
    assert_eq!(problem(&|g| g.gradients.truncate(3)), Missing);
    assert!(matches!(problem(&|g| g.gradients.swap(0, 3)), Order { .. }));
    let value = good.gradients[1].value;
    assert!(matches!(
        problem(&|g| g.gradients[0].value = value),
        Type { .. }
    ));
    let logits = good.output("logits").unwrap().value;
    for shared in [logits, ValueId(0)] {
        assert_eq!(
            problem(&|g| g.gradients[0].value = shared),
            Shared { value: shared }
        );
    }
}
