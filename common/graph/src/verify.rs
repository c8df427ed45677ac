//! The check of a whole graph: everything that the rest of the house relies on.

use crate::error::{GradientProblem, GraphError};
use crate::graph::{ConstantData, Graph, NAME_LEN_MAX, NodeId, Origin, ParameterId, ValueId};
use crate::infer::infer;
use crate::op::{Dropout, Op};
use crate::pass::uses::backward_start;
use crate::shape::{DType, Dim, Shape};

impl Graph {
    /// Checks every rule of the crate's contract.
    ///
    /// # Errors
    /// The first breach: inputs, parameters, links, nodes, outputs, gradients, in this order.
    pub fn verify(&self) -> Result<(), GraphError> {
        for position in 0..self.inputs.len() {
            self.verify_input(position)?;
        }
        for position in 0..self.parameters.len() {
            self.verify_parameter(position)?;
        }
        for position in 0..self.constants.len() {
            self.verify_constant(position)?;
        }
        for position in 0..self.states.len() {
            self.verify_state(position)?;
        }
        self.verify_origins()?;
        self.verify_nodes()?;
        self.verify_dropout_keys()?;
        for position in 0..self.outputs.len() {
            self.verify_output(position)?;
        }
        for position in 0..self.updates.len() {
            self.verify_update(position)?;
        }
        self.verify_gradients()
    }

    pub(crate) fn verify_constant(&self, position: usize) -> Result<(), GraphError> {
        let constant = &self.constants[position];
        let ty = &self.value(constant.value).ty;
        let fits = match &constant.data {
            ConstantData::Float(_) => ty.dtype == self.dtype,
            ConstantData::Int(_) => ty.dtype.is_index(),
            ConstantData::Bool(_) => ty.dtype == DType::Bool,
        };
        let elements = ty.shape.elements(1);
        if fits && !ty.shape.has_batch() && elements == Some(constant.data.len()) {
            return Ok(());
        }
        Err(GraphError::Constant {
            value: constant.value,
            ty: ty.clone(),
            got: constant.data.len(),
        })
    }

    pub(crate) fn verify_state(&self, position: usize) -> Result<(), GraphError> {
        const KIND: &str = "state";
        let state = &self.states[position];
        let earlier = self.states[..position].iter().map(|other| &other.name);
        let parameters = self.parameters.iter().map(|other| &other.name);
        verify_name(KIND, &state.name, earlier.chain(parameters))?;
        let ty = &self.value(state.value).ty;
        verify_dimensions(KIND, &state.name, &ty.shape)?;
        if ty.shape.has_batch() || ty.dtype != self.dtype || !state.initial.is_finite() {
            return Err(GraphError::State {
                name: state.name.clone(),
                got: ty.clone(),
                initial: state.initial,
            });
        }
        Ok(())
    }

    /// An update's value is the result of a node, of the state's type; a state has one update.
    pub(crate) fn verify_update(&self, position: usize) -> Result<(), GraphError> {
        let update = self.updates[position];
        let broken = GraphError::Update {
            state: update.state.0,
            value: update.value,
        };
        let twice = self.updates[..position]
            .iter()
            .any(|other| other.state == update.state);
        let Some(state) = self.states.get(update.state.0 as usize) else {
            return Err(broken);
        };
        if twice
            || self.node_of(update.value).is_none()
            || self.value(update.value).ty != self.value(state.value).ty
        {
            return Err(broken);
        }
        Ok(())
    }

    pub(crate) fn verify_input(&self, position: usize) -> Result<(), GraphError> {
        const KIND: &str = "input";
        let input = &self.inputs[position];
        let earlier = self.inputs[..position].iter().map(|other| &other.name);
        verify_name(KIND, &input.name, earlier)?;
        let ty = &self.value(input.value).ty;
        verify_dimensions(KIND, &input.name, &ty.shape)?;
        if ty.dtype.is_float() && ty.dtype != self.dtype {
            return Err(GraphError::NotFloat {
                kind: KIND,
                name: input.name.clone(),
                got: ty.dtype,
            });
        }
        Ok(())
    }

    pub(crate) fn verify_parameter(&self, position: usize) -> Result<(), GraphError> {
        const KIND: &str = "parameter";
        let parameter = &self.parameters[position];
        let earlier = self.parameters[..position].iter().map(|other| &other.name);
        verify_name(KIND, &parameter.name, earlier)?;
        let ty = &self.value(parameter.value).ty;
        verify_dimensions(KIND, &parameter.name, &ty.shape)?;
        if ty.shape.has_batch() {
            return Err(GraphError::ParameterShape {
                name: parameter.name.clone(),
                got: ty.shape.clone(),
            });
        }
        if ty.dtype != self.dtype {
            return Err(GraphError::NotFloat {
                kind: KIND,
                name: parameter.name.clone(),
                got: ty.dtype,
            });
        }
        match parameter.initialiser.invalid_number() {
            Some(got) => Err(GraphError::Initialiser {
                name: parameter.name.clone(),
                got,
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn verify_output(&self, position: usize) -> Result<(), GraphError> {
        let output = &self.outputs[position];
        let earlier = self.outputs[..position].iter().map(|other| &other.name);
        verify_name("output", &output.name, earlier)?;
        if self.node_of(output.value).is_none() {
            return Err(GraphError::OutputOrigin {
                name: output.name.clone(),
                value: output.value,
            });
        }
        let got = self.value(output.value).ty.dtype;
        if got != self.dtype {
            return Err(GraphError::NotFloat {
                kind: "output",
                name: output.name.clone(),
                got,
            });
        }
        Ok(())
    }

    /// The node that defines a value, if the value exists and a node does.
    fn node_of(&self, value: ValueId) -> Option<NodeId> {
        match self.values.get(value.0 as usize)?.origin {
            Origin::Node { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Every value and what defines it name each other.
    fn verify_origins(&self) -> Result<(), GraphError> {
        let mut loss_scales = 0;
        for (i, value) in self.values.iter().enumerate() {
            let id = ValueId(i as u32);
            let named = match value.origin {
                Origin::Input(position) => self.inputs.get(position).map(|input| input.value),
                Origin::Parameter(parameter) => {
                    let found = self.parameters.get(parameter.0 as usize);
                    found.map(|parameter| parameter.value)
                }
                Origin::Constant(position) => {
                    let found = self.constants.get(position);
                    found.map(|constant| constant.value)
                }
                Origin::State(state) => {
                    let found = self.states.get(state.0 as usize);
                    found.map(|state| state.value)
                }
                Origin::LossScale => {
                    loss_scales += 1;
                    let fits = loss_scales == 1
                        && value.ty.shape.rank() == 0
                        && value.ty.dtype == self.dtype;
                    fits.then_some(id)
                }
                Origin::Node { node, result } => {
                    let found = self.nodes.get(node.0 as usize);
                    found.and_then(|node| node.results.get(result).copied())
                }
            };
            if named != Some(id) {
                return Err(GraphError::OriginBroken { value: id });
            }
        }
        Ok(())
    }

    fn verify_nodes(&self) -> Result<(), GraphError> {
        for (i, node) in self.nodes.iter().enumerate() {
            let id = NodeId(i as u32);
            let mut types = Vec::with_capacity(node.operands.len());
            for (operand, &value) in node.operands.iter().enumerate() {
                let defined = self.values.get(value.0 as usize).filter(|_| {
                    // A value that no node defines is there from the start.
                    self.node_of(value).is_none_or(|definer| definer < id)
                });
                let Some(defined) = defined else {
                    return Err(GraphError::OperandUndefined {
                        node: id,
                        op: node.op.name(),
                        operand,
                        value,
                    });
                };
                types.push(&defined.ty);
            }
            let expected = infer(id, &node.op, self.dtype, &types)?;
            if node.results.len() != expected.len() {
                return Err(GraphError::ResultCount {
                    node: id,
                    op: node.op.name(),
                    expected: expected.len(),
                    got: node.results.len(),
                });
            }
            for (result, &value) in node.results.iter().enumerate() {
                let origin = Origin::Node { node: id, result };
                let found = self.values.get(value.0 as usize);
                let Some(found) = found.filter(|found| found.origin == origin) else {
                    return Err(GraphError::OriginBroken { value });
                };
                if found.ty != expected[result] {
                    return Err(GraphError::ResultType {
                        node: id,
                        op: node.op.name(),
                        value,
                        expected: expected[result].clone(),
                        got: found.ty.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// No two dropout nodes of the forward part share a key. The backward part starts with the first
    /// node that depends on the loss scale; it repeats the forward part's masks.
    fn verify_dropout_keys(&self) -> Result<(), GraphError> {
        let mut keys: Vec<(u64, NodeId)> = Vec::new();
        for (i, node) in self.nodes[..backward_start(self)].iter().enumerate() {
            let id = NodeId(i as u32);
            let here: Vec<u64> = match &node.op {
                Op::Dropout(Dropout { key, .. }) => vec![*key],
                Op::Fused(fused) => fused.dropout_keys().collect(),
                Op::FusedProduct(fused) => fused.chain.dropout_keys().collect(),
                Op::Attention(attention) => attention.dropout.iter().map(|d| d.key).collect(),
                _ => continue,
            };
            for key in here {
                if let Some(&(_, first)) = keys.iter().find(|(other, _)| *other == key) {
                    return Err(GraphError::DropoutKeyShared {
                        node: id,
                        key,
                        first,
                    });
                }
                keys.push((key, id));
            }
        }
        Ok(())
    }

    fn verify_gradients(&self) -> Result<(), GraphError> {
        if self.gradients.is_empty() {
            return Ok(());
        }
        let mut listed = vec![false; self.parameters.len()];
        let mut used: Vec<ValueId> = self.outputs.iter().map(|output| output.value).collect();
        let mut last = NodeId(0);
        for gradient in &self.gradients {
            let parameter = gradient.parameter;
            let problem = |problem| GraphError::Gradient { parameter, problem };
            let Some(seen) = listed.get_mut(parameter.0 as usize) else {
                return Err(problem(GradientProblem::UnknownParameter));
            };
            if std::mem::replace(seen, true) {
                return Err(problem(GradientProblem::Twice));
            }
            let value = gradient.value;
            let node = self.node_of(value).filter(|_| !used.contains(&value));
            let Some(node) = node else {
                return Err(problem(GradientProblem::Shared { value }));
            };
            used.push(value);
            let expected = &self.value(self.parameter(parameter).value).ty;
            let got = &self.value(value).ty;
            if expected != got {
                return Err(problem(GradientProblem::Type {
                    expected: expected.clone(),
                    got: got.clone(),
                }));
            }
            if node < last {
                return Err(problem(GradientProblem::Order { value }));
            }
            last = node;
        }
        match listed.iter().position(|seen| !seen) {
            Some(missing) => Err(GraphError::Gradient {
                parameter: ParameterId(missing as u32),
                problem: GradientProblem::Missing,
            }),
            None => Ok(()),
        }
    }
}

fn verify_name<'a>(
    kind: &'static str,
    name: &str,
    mut earlier: impl Iterator<Item = &'a String>,
) -> Result<(), GraphError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(good) {
        return Err(GraphError::Name {
            kind,
            name: name.to_owned(),
        });
    }
    if earlier.any(|other| other == name) {
        return Err(GraphError::NameTaken {
            kind,
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn verify_dimensions(kind: &'static str, name: &str, shape: &Shape) -> Result<(), GraphError> {
    if !shape.dims().contains(&Dim::Fixed(0)) {
        return Ok(());
    }
    Err(GraphError::ZeroDimension {
        kind,
        name: name.to_owned(),
        got: shape.clone(),
    })
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
