use super::*;
use crate::graph::OutputRole;
use crate::init::Initialiser;
use crate::models::{LOSS, MlpOptions, mlp};
use crate::op::{Dense, L2Penalty, MeanSquaredError};
use crate::shape::{DType, Shape, TensorType};

fn ready_order(graph: &Graph) -> Vec<&str> {
    let gradients = graph.gradients().iter();
    gradients
        .map(|gradient| graph.parameter(gradient.parameter).name.as_str())
        .collect()
}

#[test]
fn gradients_are_ready_from_the_last_layer_to_the_first() {
    let mut options = MlpOptions::classifier(8, &[16, 12], 4);
    options.dropout = 0.1;
    options.l2 = 0.01;
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    graph.verify().unwrap();
    assert_eq!(
        ready_order(&graph),
        [
            "layers.2.weight",
            "layers.2.bias",
            "layers.1.weight",
            "layers.1.bias",
            "layers.0.weight",
            "layers.0.bias",
        ]
    );
    // Each weight's gradient is ready before the gradient of the layer's operand is computed, and
    // the features have no gradient.
    let count = |op: Dense| {
        let nodes = graph.nodes().iter();
        nodes.filter(|node| node.op == op.into()).count()
    };
    assert_eq!(count(Dense::GradWeight), 3);
    assert_eq!(count(Dense::GradInput), 2);
}

#[test]
fn a_graph_is_differentiated_once() {
    let graph = mlp(&MlpOptions::regression(2, &[], 1)).unwrap();
    let once = differentiate(&graph, LOSS).unwrap();
    assert_eq!(
        differentiate(&once, LOSS).unwrap_err(),
        GraphError::DifferentiatedAlready { name: "mlp".into() }
    );
}

#[test]
fn the_loss_is_a_known_scalar() {
    let graph = mlp(&MlpOptions::regression(2, &[], 1)).unwrap();
    assert_eq!(
        differentiate(&graph, "cost").unwrap_err(),
        GraphError::OutputUnknown {
            name: "cost".into()
        }
    );
    assert!(matches!(
        differentiate(&graph, "prediction").unwrap_err(),
        GraphError::LossType { .. }
    ));
}

#[test]
fn a_parameter_that_the_loss_does_not_reach_is_named() {
    let mut graph = mlp(&MlpOptions::regression(2, &[], 1)).unwrap();
    graph
        .add_parameter("unused", Shape::fixed(&[2]), Initialiser::Zeros)
        .unwrap();
    assert_eq!(
        differentiate(&graph, LOSS).unwrap_err(),
        GraphError::ParameterUnreached {
            name: "unused".into()
        }
    );
}

#[test]
fn gradient_operators_have_no_gradient() {
    let mut graph = Graph::new("g", DType::F32).unwrap();
    let w = graph
        .add_parameter("w", Shape::fixed(&[2, 2]), Initialiser::Zeros)
        .unwrap();
    let sum = graph.apply(Dense::GradBias, &[w]).unwrap();
    let loss = graph.apply(L2Penalty { lambda: 1.0 }, &[sum]).unwrap();
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    assert_eq!(
        differentiate(&graph, "loss").unwrap_err(),
        GraphError::NotDifferentiable {
            node: NodeId(0),
            op: "affine_grad_bias"
        }
    );
}

/// Two parameters whose gradient is one and the same value get a place each.
#[test]
fn shared_gradients_are_copied() {
    let mut graph = Graph::new("g", DType::F64).unwrap();
    let shape = Shape::fixed(&[3]);
    let a = graph
        .add_parameter("a", shape.clone(), Initialiser::Zeros)
        .unwrap();
    let b = graph
        .add_parameter("b", shape.clone(), Initialiser::Zeros)
        .unwrap();
    let t = graph
        .add_input("t", TensorType::new(DType::F64, shape))
        .unwrap();
    let sum = graph.apply(Binary::Add, &[a, b]).unwrap();
    let loss = graph.apply(MeanSquaredError::Loss, &[sum, t]).unwrap();
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    let graph = differentiate(&graph, "loss").unwrap();
    graph.verify().unwrap();
    assert_ne!(graph.gradients()[0].value, graph.gradients()[1].value);
}
