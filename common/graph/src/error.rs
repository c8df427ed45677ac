//! What this crate refuses, and why.

use std::fmt;

use crate::graph::{NodeId, ParameterId, ValueId};
use crate::shape::{DType, Shape, TensorType};

/// A graph that can't be built, verified or differentiated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// A node has too few or too many operands.
    #[error("{node} {op}: expected {expected} operands, got {got}")]
    OperandCount {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// What the operator takes.
        expected: &'static str,
        /// What the node has.
        got: usize,
    },
    /// A node refers to a value that isn't defined before it.
    #[error("{node} {op}: operand {operand}: {value} isn't defined before the node")]
    OperandUndefined {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The position of the operand.
        operand: usize,
        /// The value that isn't there yet.
        value: ValueId,
    },
    /// An operand has elements of another type.
    #[error("{node} {op}: operand {operand}: expected elements of {expected}, got {got}")]
    OperandDType {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The position of the operand.
        operand: usize,
        /// The element types that the operator takes.
        expected: &'static str,
        /// The element type of the operand.
        got: DType,
    },
    /// An operand has another number of dimensions.
    #[error("{node} {op}: operand {operand}: expected {expected} dimensions, got shape {got}")]
    OperandRank {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The position of the operand.
        operand: usize,
        /// The number of dimensions that the operator needs.
        expected: &'static str,
        /// The shape of the operand.
        got: Shape,
    },
    /// An operand's shape doesn't fit those before it.
    #[error("{node} {op}: operand {operand}: expected shape {expected}, got {got}")]
    OperandShape {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The position of the operand.
        operand: usize,
        /// The shape that the other operands ask for.
        expected: Shape,
        /// The shape of the operand.
        got: Shape,
    },
    /// An attribute of an operator is out of range.
    #[error("{node} {op}: attribute {attribute}: expected {expected}, got {got}")]
    Attribute {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The attribute's name.
        attribute: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        got: f64,
    },
    /// Two forward dropout nodes draw from one stream.
    #[error("{node} dropout: key {key} is that of {first}; each forward dropout needs its own")]
    DropoutKeyShared {
        /// The later node.
        node: NodeId,
        /// The key.
        key: u64,
        /// The earlier node.
        first: NodeId,
    },
    /// A node's recorded result isn't what its operator gives.
    #[error("{node} {op}: result {value}: expected {expected}, got {got}")]
    ResultType {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// The result.
        value: ValueId,
        /// The inferred type.
        expected: TensorType,
        /// The recorded type.
        got: TensorType,
    },
    /// A node has another number of results than its operator.
    #[error("{node} {op}: expected {expected} results, got {got}")]
    ResultCount {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// What the operator gives.
        expected: usize,
        /// What the node has.
        got: usize,
    },
    /// The link between a value and what defines it is broken.
    #[error("{value}: what defines it doesn't name it as its result")]
    OriginBroken {
        /// The value.
        value: ValueId,
    },
    /// A name is empty, too long, or has characters other than letters, digits, `_`, `-`, `.`, `/`.
    #[error("{kind} name {name:?}: expected 1 to 256 letters, digits and characters of \"_-./\"")]
    Name {
        /// Input, parameter or output.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Two inputs, parameters or outputs share a name.
    #[error("{kind} name {name:?} is taken")]
    NameTaken {
        /// Input, parameter or output.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A dimension of an input or parameter is zero.
    #[error("{kind} {name:?}: expected dimensions of at least 1, got shape {got}")]
    ZeroDimension {
        /// Input or parameter.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its shape.
        got: Shape,
    },
    /// A parameter has a dimension that depends on the batch.
    #[error("parameter {name:?}: expected a fixed shape, got {got}")]
    ParameterShape {
        /// Its name.
        name: String,
        /// Its shape.
        got: Shape,
    },
    /// A parameter's or the graph's elements aren't floats of the graph's type.
    #[error("{kind} {name:?}: expected float elements of the graph's type, got {got}")]
    NotFloat {
        /// Graph, input or parameter.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its element type.
        got: DType,
    },
    /// An initialiser's number isn't finite, or its spread is negative.
    #[error("parameter {name:?}: initialiser: expected finite, non-negative spread, got {got}")]
    Initialiser {
        /// The parameter.
        name: String,
        /// The number.
        got: f64,
    },
    /// A constant's data doesn't fit its type.
    #[error("{value}: constant of {ty}: got {got} elements, or elements of another kind")]
    Constant {
        /// The constant.
        value: ValueId,
        /// Its type.
        ty: TensorType,
        /// The number of elements given.
        got: usize,
    },
    /// A state isn't a fixed float tensor with a finite initial value.
    #[error(
        "state {name:?}: expected fixed floats and a finite initial value, got {got}, {initial}"
    )]
    State {
        /// Its name.
        name: String,
        /// Its type.
        got: TensorType,
        /// Its initial value.
        initial: f64,
    },
    /// A state's update isn't one node's result of the state's type, or the state has another.
    #[error("update of state {state}: {value} isn't its only update, or isn't of its type")]
    Update {
        /// The state's position.
        state: u32,
        /// The value.
        value: ValueId,
    },
    /// Two operands don't broadcast to one shape.
    #[error("{node} {op}: operands {first} and {second} don't broadcast")]
    Broadcast {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
        /// A shape.
        first: Shape,
        /// The shape that doesn't fit it.
        second: Shape,
    },
    /// An output is not the result of a node.
    #[error("output {name:?}: {value} isn't the result of a node")]
    OutputOrigin {
        /// The output.
        name: String,
        /// Its value.
        value: ValueId,
    },
    /// An output with this name doesn't exist.
    #[error("no output is named {name:?}")]
    OutputUnknown {
        /// The name.
        name: String,
    },
    /// The loss is not one float.
    #[error("loss {name:?}: expected a float scalar, got {got}")]
    LossType {
        /// The output's name.
        name: String,
        /// Its type.
        got: TensorType,
    },
    /// The graph has gradients already.
    #[error("graph {name:?} is differentiated already")]
    DifferentiatedAlready {
        /// The graph.
        name: String,
    },
    /// The loss doesn't depend on a parameter.
    #[error("parameter {name:?} isn't reached by the loss")]
    ParameterUnreached {
        /// The parameter.
        name: String,
    },
    /// There is no gradient rule for an operator on the path from a parameter to the loss.
    #[error("{node} {op}: has no gradient")]
    NotDifferentiable {
        /// The node.
        node: NodeId,
        /// Its operator.
        op: &'static str,
    },
    /// The list of gradients isn't one gradient per parameter.
    #[error("gradient of parameter {parameter}: {problem}")]
    Gradient {
        /// The parameter.
        parameter: ParameterId,
        /// What is wrong.
        problem: GradientProblem,
    },
    /// A layer of a list, or a block, doesn't fit.
    #[error("{place}: {problem}")]
    Layer {
        /// Where it stands.
        place: LayerPlace,
        /// What is wrong.
        problem: Box<GraphError>,
    },
    /// What comes before a layer has another shape than it takes.
    #[error("its input is {got}, expected {expected}")]
    LayerInput {
        /// What the layer takes.
        expected: &'static str,
        /// The shape of a sample.
        got: String,
    },
    /// The last layer doesn't give the model's outputs.
    #[error(
        "the last layer gives {got} a sample: expected [{expected}], one number for each class or \
         target (under \"normal\" a mean and a variance)"
    )]
    ModelOutput {
        /// Classes or targets.
        expected: usize,
        /// The shape of a sample.
        got: String,
    },
    /// An option of a built-in model is out of range.
    #[error("model option {option}: expected {expected}, got {got}")]
    ModelOption {
        /// The option.
        option: &'static str,
        /// The range.
        expected: &'static str,
        /// The value, printed.
        got: String,
    },
}

/// Where a layer or block stands in a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// Its key, such as `model.layers[2]`.
    pub key: String,
    /// The layer's kind; empty for a block.
    pub kind: &'static str,
    /// Its line; 0 if it isn't known.
    pub line: u32,
}

impl fmt::Display for LayerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, kind, line } = self;
        match (kind.is_empty(), line) {
            (true, 0) => f.write_str(key),
            (true, line) => write!(f, "{key} (line {line})"),
            (false, 0) => write!(f, "{key} ({kind})"),
            (false, line) => write!(f, "{key} ({kind}, line {line})"),
        }
    }
}

impl GraphError {
    /// The key of the job file that a job's model can't have because of this.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Layer { place, .. } => place.key.clone(),
            Self::ModelOutput { .. } => "model.layers".to_owned(),
            Self::ModelOption { option, .. } => match *option {
                "l2" => "train.l2".to_owned(),
                "inputs" | "outputs" | "vocabulary" | "length" | "context" => "data".to_owned(),
                option => format!("model.{option}"),
            },
            _ => "model".to_owned(),
        }
    }
}

/// What is wrong with an entry in the list of gradients.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GradientProblem {
    /// The parameter doesn't exist.
    #[error("there is no such parameter")]
    UnknownParameter,
    /// The parameter is listed twice.
    #[error("it is listed twice")]
    Twice,
    /// The parameter isn't listed, but others are.
    #[error("it isn't listed")]
    Missing,
    /// The value is of another type than the parameter.
    #[error("expected {expected}, got {got}")]
    Type {
        /// The parameter's type.
        expected: TensorType,
        /// The gradient's type.
        got: TensorType,
    },
    /// The value isn't the result of a node, or is an output or another parameter's gradient too.
    #[error("{value} isn't the result of a node that serves this gradient alone")]
    Shared {
        /// The value.
        value: ValueId,
    },
    /// The entry stands before one whose node comes later.
    #[error("{value} is ready before the entry that precedes it")]
    Order {
        /// The value.
        value: ValueId,
    },
}
