//! Why a model can't be read or written.

use crate::error::GraphError;

/// An ONNX model that isn't read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OnnxError {
    /// The bytes aren't a protobuf message.
    #[error("byte {offset}: expected {expected}")]
    Wire {
        /// From the start of the file.
        offset: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// The model is larger than a cap.
    #[error("{what}: more than {max}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The cap.
        max: usize,
    },
    /// The model as a whole can't be read.
    #[error("model: expected {expected}, got {got}")]
    Model {
        /// What was expected.
        expected: &'static str,
        /// What the file has.
        got: String,
    },
    /// A tensor's numbers stand in another file.
    #[error(
        "tensor {tensor:?}: its data stand in the file {location:?}, which wasn't given: export the model with its weights inside (in PyTorch, external_data=False)"
    )]
    ExternalData {
        /// The tensor.
        tensor: String,
        /// The file, as the model names it.
        location: String,
    },
    /// A tensor's header and data don't fit, or its elements are of a type that isn't read.
    #[error("tensor {tensor:?}: expected {expected}, got {got}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What was expected.
        expected: &'static str,
        /// What the file has.
        got: String,
    },
    /// An input or output of the model can't be read.
    #[error("{kind} {name:?}: expected {expected}, got {got}")]
    Place {
        /// Input, output or option.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What was expected.
        expected: &'static str,
        /// What the file or the caller has.
        got: String,
    },
    /// An operator, or a use of it, that Ringfold lacks.
    #[error("node {node:?}: operator {operator} of opset {opset}: {what}")]
    Unsupported {
        /// The node's name, or its first result's.
        node: String,
        /// The operator, with its domain if that isn't ONNX's own.
        operator: String,
        /// The version of the operator's set.
        opset: i64,
        /// What isn't supported.
        what: String,
    },
    /// A node's operands don't fit its operator.
    #[error("node {node:?}: operator {operator} of opset {opset}")]
    Node {
        /// The node's name, or its first result's.
        node: String,
        /// The operator.
        operator: String,
        /// The version of the operator's set.
        opset: i64,
        /// What the graph refused.
        #[source]
        source: Box<GraphError>,
    },
    /// The graph that the model would be isn't one.
    #[error("the model doesn't make a graph")]
    Graph(#[from] GraphError),
    /// An operator of the graph has no form in ONNX.
    #[error("{node} {op}: has no form in ONNX")]
    NoForm {
        /// The node.
        node: crate::graph::NodeId,
        /// Its operator.
        op: &'static str,
    },
    /// A weight that the graph has isn't given, or doesn't fit.
    #[error("weight {name:?}: expected {expected} elements, got {got}")]
    Weight {
        /// The parameter or state.
        name: String,
        /// By its shape.
        expected: usize,
        /// What was given; 0 if it wasn't.
        got: usize,
    },
}

impl OnnxError {
    /// The key of the job file that a job's model can't have because of this.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Place { kind: "freeze", .. } => "model.freeze",
            Self::Place { kind: "output", .. } => "model.output",
            _ => "model.path",
        }
    }
}
