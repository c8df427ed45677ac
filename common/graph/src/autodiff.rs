//! Reverse-mode differentiation: appends the backward nodes to a graph.
//!
//! 1. Find the *active* values: those that depend on a parameter and reach the loss.
//! 2. Walk the active nodes from last to first. Each hands a contribution to the gradient of each
//!    active operand, parameters first, so that a weight's gradient is ready before the gradient
//!    that the layer below waits for.
//! 3. When the last use of a parameter has been walked, its gradient is ready and is listed.
//!    Penalties depend on the parameter alone; they are added at that moment, in place, and not
//!    at the start of backward, where they would occupy memory as large as the weights.

use crate::error::GraphError;
use crate::graph::{Gradient, Graph, Node, NodeId, Origin, ParameterId, ValueId};
use crate::op::{Binary, L2PenaltyGrad, Op, SumTo, Unary};
use crate::shape::Shape;

/// Appends to `graph` the nodes that compute the gradient of `loss_scale` times its output `loss`
/// with respect to every parameter, and lists these gradients in gradient-ready order.
///
/// The result has a value of origin [`Origin::LossScale`], a float scalar given at run time. The
/// gradient is linear in it: ranks with micro-batches of `n_r` of `n` samples pass `n_r / n`, and
/// the sum of their gradients is that of the mean over all samples, with every penalty once.
///
/// # Errors
/// The loss doesn't exist or isn't a float scalar, the graph has gradients already, a parameter
/// isn't reached by the loss, or an operator on the way has no gradient.
pub fn differentiate(graph: &Graph, loss: &str) -> Result<Graph, GraphError> {
    let output = graph.output(loss)?;
    let ty = &graph.value(output.value).ty;
    if ty.shape.rank() != 0 || ty.dtype != graph.dtype {
        return Err(GraphError::LossType {
            name: loss.to_owned(),
            got: ty.clone(),
        });
    }
    let has_scale = |graph: &Graph| graph.values.iter().any(|v| v.origin == Origin::LossScale);
    if !graph.gradients.is_empty() || has_scale(graph) {
        return Err(GraphError::DifferentiatedAlready {
            name: graph.name.clone(),
        });
    }
    let mut backward = Backward::new(graph.clone(), output.value);
    backward.run(output.value)?;
    Ok(backward.graph)
}

/// The gradient of a value, as far as it is known.
#[derive(Clone, Copy)]
struct Adjoint {
    value: ValueId,
    /// No other value's gradient is the same value.
    exclusive: bool,
}

struct Backward {
    graph: Graph,
    /// By value of the forward graph: it depends on a parameter and reaches the loss.
    active: Vec<bool>,
    adjoints: Vec<Option<Adjoint>>,
    /// By value: penalties (factor, gradient of the penalty) that wait for the last use.
    penalties: Vec<Vec<(f64, ValueId)>>,
    /// By value: uses by active nodes that haven't been walked.
    uses_left: Vec<usize>,
}

impl Backward {
    fn new(graph: Graph, loss: ValueId) -> Self {
        let count = graph.values.len();
        let mut depends = vec![false; count];
        for parameter in &graph.parameters {
            depends[parameter.value.0 as usize] = true;
        }
        for node in &graph.nodes {
            let any = node.operands.iter().any(|v| depends[v.0 as usize]);
            let smooth = any && !node.op.operator().ends_gradient();
            for result in &node.results {
                let is_float = graph.values[result.0 as usize].ty.dtype.is_float();
                depends[result.0 as usize] = smooth && is_float;
            }
        }
        let mut active = vec![false; count];
        active[loss.0 as usize] = depends[loss.0 as usize];
        let mut uses_left = vec![0; count];
        for node in graph.nodes.iter().rev() {
            if !node.results.iter().any(|v| active[v.0 as usize]) {
                continue;
            }
            for operand in node.operands.iter().map(|v| v.0 as usize) {
                active[operand] |= depends[operand];
                uses_left[operand] += 1;
            }
        }
        Self {
            graph,
            active,
            adjoints: vec![None; count],
            penalties: vec![Vec::new(); count],
            uses_left,
        }
    }

    fn run(&mut self, loss: ValueId) -> Result<(), GraphError> {
        for parameter in &self.graph.parameters {
            if !self.active[parameter.value.0 as usize] {
                return Err(GraphError::ParameterUnreached {
                    name: parameter.name.clone(),
                });
            }
        }
        if self.graph.parameters.is_empty() {
            return Ok(());
        }
        let scale = self.graph.add_loss_scale();
        self.adjoints[loss.0 as usize] = Some(Adjoint {
            value: scale,
            exclusive: false,
        });
        for node in (0..self.graph.nodes.len()).rev() {
            self.walk(NodeId(node as u32))?;
        }
        // A penalty may have come between gradients that are results of one node.
        let values = &self.graph.values;
        let defined_at = |gradient: &Gradient| match values[gradient.value.0 as usize].origin {
            Origin::Node { node, .. } => Some(node),
            _ => None,
        };
        self.graph.gradients.sort_by_key(defined_at);
        Ok(())
    }

    /// Hands the contributions of one node to its operands.
    fn walk(&mut self, id: NodeId) -> Result<(), GraphError> {
        let node = self.graph.nodes[id.0 as usize].clone();
        if !node.results.iter().any(|v| self.active[v.0 as usize]) {
            return Ok(());
        }
        let mut rule = Rule {
            given: vec![false; node.operands.len()],
            handed: Vec::new(),
            first_new: self.graph.values.len() as u32,
            backward: self,
            id,
            node: &node,
        };
        node.op.operator().gradient(&mut rule)?;
        let given = rule.given;
        for (operand, given) in given.into_iter().enumerate() {
            if !given {
                self.walked(node.operands[operand])?;
            }
        }
        Ok(())
    }

    /// One more use of a value has been walked.
    fn walked(&mut self, target: ValueId) -> Result<(), GraphError> {
        self.uses_left[target.0 as usize] -= 1;
        if self.uses_left[target.0 as usize] == 0 {
            self.finish(target)?;
        }
        Ok(())
    }

    fn contribute(&mut self, target: ValueId, new: Adjoint) -> Result<(), GraphError> {
        let sum = match self.adjoints[target.0 as usize] {
            None => new,
            Some(known) => self.emit(Binary::Add, &[known.value, new.value])?,
        };
        self.adjoints[target.0 as usize] = Some(sum);
        Ok(())
    }

    fn emit(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<Adjoint, GraphError> {
        Ok(Adjoint {
            value: self.graph.apply(op, operands)?,
            exclusive: true,
        })
    }

    /// After the last use of a value: adds its penalties; lists the gradient of a parameter.
    fn finish(&mut self, target: ValueId) -> Result<(), GraphError> {
        for (lambda, dloss) in std::mem::take(&mut self.penalties[target.0 as usize]) {
            let mut operands = vec![target, dloss];
            operands.extend(self.adjoints[target.0 as usize].map(|known| known.value));
            let sum = self.emit(L2PenaltyGrad { lambda }, &operands)?;
            self.adjoints[target.0 as usize] = Some(sum);
        }
        let Origin::Parameter(parameter) = self.graph.value(target).origin else {
            return Ok(());
        };
        self.list(parameter, target)
    }

    fn list(&mut self, parameter: ParameterId, target: ValueId) -> Result<(), GraphError> {
        let Some(mut adjoint) = self.adjoints[target.0 as usize] else {
            return Ok(());
        };
        if !adjoint.exclusive {
            adjoint = self.emit(Unary::Identity, &[adjoint.value])?;
        }
        self.graph.gradients.push(Gradient {
            parameter,
            value: adjoint.value,
        });
        Ok(())
    }
}

/// What an operator's rule works with: one node, the gradients of its results, and a way to hand
/// on those of its operands.
pub(crate) struct Rule<'a> {
    backward: &'a mut Backward,
    id: NodeId,
    node: &'a Node,
    /// By operand: it has been given its gradient.
    given: Vec<bool>,
    /// Values that were handed on.
    handed: Vec<ValueId>,
    /// Values from this one on are the rule's own.
    first_new: u32,
}

impl Rule<'_> {
    pub(crate) fn not_differentiable(&self) -> GraphError {
        GraphError::NotDifferentiable {
            node: self.id,
            op: self.node.op.name(),
        }
    }

    pub(crate) fn operand_count(&self) -> usize {
        self.node.operands.len()
    }

    pub(crate) fn operand(&self, operand: usize) -> ValueId {
        self.node.operands[operand]
    }

    pub(crate) fn result(&self, result: usize) -> ValueId {
        self.node.results[result]
    }

    pub(crate) fn shape(&self, value: ValueId) -> Shape {
        self.backward.graph.value(value).ty.shape.clone()
    }

    /// The gradient of a result; `None` if the loss doesn't depend on it.
    pub(crate) fn dy(&self, result: usize) -> Option<ValueId> {
        // An active value is used by active nodes only after this one, and those have been walked.
        let known = self.backward.adjoints[self.result(result).0 as usize];
        known.map(|adjoint| adjoint.value)
    }

    /// True if an operand needs a gradient.
    pub(crate) fn wants(&self, operand: usize) -> bool {
        self.backward.active[self.operand(operand).0 as usize]
    }

    /// The first result of a new node.
    pub(crate) fn emit(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        self.backward.graph.apply(op, operands)
    }

    /// All results of a new node.
    pub(crate) fn emit_all(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        self.backward.graph.apply_all(op, operands)
    }

    /// The scalar 0.
    pub(crate) fn zero(&mut self) -> Result<ValueId, GraphError> {
        self.backward.graph.add_scalar(0.0)
    }

    /// Gives an operand a contribution to its gradient, at most one a position. What isn't wanted
    /// is ignored.
    pub(crate) fn give(&mut self, operand: usize, value: ValueId) -> Result<(), GraphError> {
        if !self.wants(operand) {
            return Ok(());
        }
        let exclusive = value.0 >= self.first_new && !self.handed.contains(&value);
        self.handed.push(value);
        let target = self.operand(operand);
        let new = Adjoint { value, exclusive };
        self.backward.contribute(target, new)?;
        self.given[operand] = true;
        self.backward.walked(target)
    }

    /// Gives an operand the first result of a new node, if it wants one.
    pub(crate) fn emit_to(
        &mut self,
        operand: usize,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<(), GraphError> {
        if !self.wants(operand) {
            return Ok(());
        }
        let value = self.emit(op, operands)?;
        self.give(operand, value)
    }

    /// The sum of `value` over what broadcasting repeated of an operand.
    pub(crate) fn summed(&mut self, operand: usize, value: ValueId) -> Result<ValueId, GraphError> {
        let shape = self.shape(self.operand(operand));
        if self.shape(value) == shape {
            return Ok(value);
        }
        self.emit(SumTo { shape }, &[value])
    }

    /// Gives an operand `value`, summed over what broadcasting repeated.
    pub(crate) fn give_summed(&mut self, operand: usize, value: ValueId) -> Result<(), GraphError> {
        if !self.wants(operand) {
            return Ok(());
        }
        let sum = self.summed(operand, value)?;
        self.give(operand, sum)
    }

    /// Gives an operand the gradient of a penalty: added in place after the operand's last use.
    pub(crate) fn penalty_to(
        &mut self,
        operand: usize,
        lambda: f64,
        dy: ValueId,
    ) -> Result<(), GraphError> {
        let target = self.operand(operand);
        if self.wants(operand) {
            self.backward.penalties[target.0 as usize].push((lambda, dy));
        }
        self.given[operand] = true;
        self.backward.walked(target)
    }
}

#[cfg(test)]
#[path = "autodiff_tests.rs"]
mod tests;
