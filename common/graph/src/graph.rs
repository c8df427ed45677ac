//! The graph, its parts, and how it is built.

use std::fmt;

use crate::error::GraphError;
use crate::infer::infer;
use crate::init::Initialiser;
use crate::op::{Binary, Op};
use crate::shape::{DType, Shape, TensorType};

/// The longest name of an input, parameter or output, in bytes.
pub const NAME_LEN_MAX: usize = 256;

/// A node of one graph: its position in the order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A parameter of one graph: its position in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub u32);

/// A state of one graph: its position in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for ParameterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The graph input at this position in [`Graph::inputs`].
    Input(usize),
    /// A parameter.
    Parameter(ParameterId),
    /// The constant at this position in [`Graph::constants`].
    Constant(usize),
    /// A state.
    State(StateId),
    /// The scalar by which the loss is multiplied before it is differentiated.
    LossScale,
    /// A node's result at position `result`.
    Node {
        /// The node.
        node: NodeId,
        /// The position in [`Node::results`].
        result: usize,
    },
}

/// A tensor in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its elements and shape.
    pub ty: TensorType,
    /// What defines it.
    pub origin: Origin,
}

/// The application of an operator to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// The values that it reads, in the operator's order.
    pub operands: Vec<ValueId>,
    /// The values that it defines.
    pub results: Vec<ValueId>,
}

/// A tensor that is given anew at every run.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The name, unique among inputs.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A tensor that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The name, unique among parameters, as in a PyTorch state dict: `layers.0.weight`.
    pub name: String,
    /// The value.
    pub value: ValueId,
    /// The value before the first step.
    pub initialiser: Initialiser,
}

/// The elements of a constant, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstantData {
    /// Floats; rounded to the graph's type.
    Float(Vec<f64>),
    /// Integers.
    Int(Vec<i64>),
    /// Truth values.
    Bool(Vec<bool>),
}

impl ConstantData {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float(data) => data.len(),
            Self::Int(data) => data.len(),
            Self::Bool(data) => data.len(),
        }
    }

    /// True if there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor that is part of the model and never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The value.
    pub value: ValueId,
    /// Its elements.
    pub data: ConstantData,
}

/// A float tensor that runs carry from one to the next and no gradient changes: running
/// statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The name, unique among states and parameters, as in a PyTorch state dict: `bn.running_mean`.
    pub name: String,
    /// The value before a run.
    pub value: ValueId,
    /// Every element before the first run.
    pub initial: f64,
    /// True if it counts runs: its elements are whole numbers, also where a trainer means the
    /// states of several runs.
    pub counts: bool,
}

/// After a training run, a state takes this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The state.
    pub state: StateId,
    /// The result of a node, of the state's type.
    pub value: ValueId,
}

/// What an output is for: it decides in which modes a plan computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputRole {
    /// A loss: needs labels; computed in training and evaluation.
    Loss,
    /// What the model says about each sample; computed in every mode.
    Prediction,
    /// A form of the prediction for people (probabilities); computed in prediction only.
    Derived,
}

/// A named result of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The name, unique among outputs.
    pub name: String,
    /// What it is for.
    pub role: OutputRole,
    /// The value; several outputs may name one value.
    pub value: ValueId,
}

/// The gradient of the scaled loss with respect to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gradient {
    /// The parameter.
    pub parameter: ParameterId,
    /// The value, of the parameter's type.
    pub value: ValueId,
}

/// A model as data: values, nodes in an order in which they may run, inputs, parameters, outputs,
/// and (once differentiated) gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) states: Vec<State>,
    pub(crate) updates: Vec<Update>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) gradients: Vec<Gradient>,
}

impl Graph {
    /// An empty graph whose floats are of `dtype`.
    ///
    /// # Errors
    /// [`GraphError::NotFloat`] if `dtype` isn't a float.
    pub fn new(name: &str, dtype: DType) -> Result<Self, GraphError> {
        if !dtype.is_float() {
            return Err(GraphError::NotFloat {
                kind: "graph",
                name: name.to_owned(),
                got: dtype,
            });
        }
        Ok(Self {
            name: name.to_owned(),
            dtype,
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            parameters: Vec::new(),
            constants: Vec::new(),
            states: Vec::new(),
            updates: Vec::new(),
            outputs: Vec::new(),
            gradients: Vec::new(),
        })
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of every float in the graph.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// All values; a [`ValueId`] is a position here.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All nodes in order of execution; a [`NodeId`] is a position here.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs in order of declaration.
    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The parameters in order of declaration; a [`ParameterId`] is a position here.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The constants in order of declaration.
    #[must_use]
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// The states in order of declaration; a [`StateId`] is a position here.
    #[must_use]
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// What training runs change of the states.
    #[must_use]
    pub fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// The outputs in order of declaration.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// One gradient per parameter in gradient-ready order; empty before [`crate::differentiate`].
    #[must_use]
    pub fn gradients(&self) -> &[Gradient] {
        &self.gradients
    }

    /// The value `id`.
    ///
    /// # Panics
    /// If `id` is of another, larger graph.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The parameter `id`.
    ///
    /// # Panics
    /// If `id` is of another, larger graph.
    #[must_use]
    pub fn parameter(&self, id: ParameterId) -> &Parameter {
        &self.parameters[id.0 as usize]
    }

    /// The output of this name.
    ///
    /// # Errors
    /// [`GraphError::OutputUnknown`].
    pub fn output(&self, name: &str) -> Result<&Output, GraphError> {
        let found = self.outputs.iter().find(|output| output.name == name);
        found.ok_or_else(|| GraphError::OutputUnknown {
            name: name.to_owned(),
        })
    }

    /// Declares an input.
    ///
    /// # Errors
    /// A bad or taken name, a zero dimension, or floats of another type than the graph's.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> Result<ValueId, GraphError> {
        let position = self.inputs.len();
        let value = self.push_value(ty, Origin::Input(position));
        self.inputs.push(Input {
            name: name.to_owned(),
            value,
        });
        let checked = self.verify_input(position);
        if checked.is_err() {
            self.inputs.pop();
            self.values.pop();
        }
        checked.map(|()| value)
    }

    /// Declares a parameter of the graph's float type.
    ///
    /// # Errors
    /// A bad or taken name, a dimension that is zero or the batch, a bad initialiser.
    pub fn add_parameter(
        &mut self,
        name: &str,
        shape: Shape,
        initialiser: Initialiser,
    ) -> Result<ValueId, GraphError> {
        let position = self.parameters.len();
        let id = ParameterId(position as u32);
        let ty = TensorType::new(self.dtype, shape);
        let value = self.push_value(ty, Origin::Parameter(id));
        self.parameters.push(Parameter {
            name: name.to_owned(),
            value,
            initialiser,
        });
        let checked = self.verify_parameter(position);
        if checked.is_err() {
            self.parameters.pop();
            self.values.pop();
        }
        checked.map(|()| value)
    }

    /// Declares a constant.
    ///
    /// # Errors
    /// [`GraphError::Constant`] if the data doesn't fit the type.
    pub fn add_constant(
        &mut self,
        ty: TensorType,
        data: ConstantData,
    ) -> Result<ValueId, GraphError> {
        let position = self.constants.len();
        let value = self.push_value(ty, Origin::Constant(position));
        self.constants.push(Constant { value, data });
        let checked = self.verify_constant(position);
        if checked.is_err() {
            self.constants.pop();
            self.values.pop();
        }
        checked.map(|()| value)
    }

    /// Declares a constant float scalar.
    ///
    /// # Errors
    /// As [`Graph::add_constant`].
    pub fn add_scalar(&mut self, number: f64) -> Result<ValueId, GraphError> {
        let ty = TensorType::new(self.dtype, Shape::scalar());
        self.add_constant(ty, ConstantData::Float(vec![number]))
    }

    /// Declares a state of the graph's float type whose elements start at `initial`; returns the
    /// value before a run.
    ///
    /// # Errors
    /// A bad or taken name, a dimension that is zero or the batch, a number that isn't finite.
    pub fn add_state(
        &mut self,
        name: &str,
        shape: Shape,
        initial: f64,
    ) -> Result<(StateId, ValueId), GraphError> {
        self.push_state(name, shape, initial, false)
    }

    /// Declares a scalar state that counts training runs from 0, with its update; PyTorch's
    /// `num_batches_tracked`.
    ///
    /// # Errors
    /// A bad or taken name.
    pub fn add_counter(&mut self, name: &str) -> Result<StateId, GraphError> {
        let (id, count) = self.push_state(name, Shape::scalar(), 0.0, true)?;
        let one = self.add_scalar(1.0)?;
        let next = self.apply(Binary::Add, &[count, one])?;
        self.add_update(id, next)?;
        Ok(id)
    }

    fn push_state(
        &mut self,
        name: &str,
        shape: Shape,
        initial: f64,
        counts: bool,
    ) -> Result<(StateId, ValueId), GraphError> {
        let position = self.states.len();
        let id = StateId(position as u32);
        let ty = TensorType::new(self.dtype, shape);
        let value = self.push_value(ty, Origin::State(id));
        self.states.push(State {
            name: name.to_owned(),
            value,
            initial,
            counts,
        });
        let checked = self.verify_state(position);
        if checked.is_err() {
            self.states.pop();
            self.values.pop();
        }
        checked.map(|()| (id, value))
    }

    /// Says what a training run leaves in a state.
    ///
    /// # Errors
    /// [`GraphError::Update`]: another type, not the result of a node, or a second update.
    pub fn add_update(&mut self, state: StateId, value: ValueId) -> Result<(), GraphError> {
        self.updates.push(Update { state, value });
        let checked = self.verify_update(self.updates.len() - 1);
        if checked.is_err() {
            self.updates.pop();
        }
        checked
    }

    /// Appends a node and returns its first result.
    ///
    /// # Errors
    /// Operands or attributes that don't fit the operator; the graph is unchanged.
    pub fn apply(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        // Every operator has a result.
        self.apply_all(op, operands).map(|results| results[0])
    }

    /// Appends a node and returns all its results.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_all(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let op = op.into();
        let node = NodeId(self.nodes.len() as u32);
        let mut types = Vec::with_capacity(operands.len());
        for (operand, &value) in operands.iter().enumerate() {
            let Some(found) = self.values.get(value.0 as usize) else {
                return Err(GraphError::OperandUndefined {
                    node,
                    op: op.name(),
                    operand,
                    value,
                });
            };
            types.push(&found.ty);
        }
        let types = infer(node, &op, self.dtype, &types)?;
        let results: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(result, ty)| self.push_value(ty, Origin::Node { node, result }))
            .collect();
        self.nodes.push(Node {
            op,
            operands: operands.to_vec(),
            results: results.clone(),
        });
        Ok(results)
    }

    /// Names a value as an output.
    ///
    /// # Errors
    /// A bad or taken name, or a value that isn't the result of a node.
    pub fn add_output(
        &mut self,
        name: &str,
        role: OutputRole,
        value: ValueId,
    ) -> Result<(), GraphError> {
        let position = self.outputs.len();
        self.outputs.push(Output {
            name: name.to_owned(),
            role,
            value,
        });
        let checked = self.verify_output(position);
        if checked.is_err() {
            self.outputs.pop();
        }
        checked
    }

    /// Declares the loss scale.
    pub(crate) fn add_loss_scale(&mut self) -> ValueId {
        let ty = TensorType::new(self.dtype, Shape::scalar());
        self.push_value(ty, Origin::LossScale)
    }

    fn push_value(&mut self, ty: TensorType, origin: Origin) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { ty, origin });
        id
    }
}
