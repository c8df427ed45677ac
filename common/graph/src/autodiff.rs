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
use crate::graph::{Gradient, Graph, NodeId, Origin, ParameterId, ValueId};
use crate::op::Op;

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

/// What a node hands to the gradient of one operand.
enum Contribution {
    /// The result of a new node.
    Emit(Op, Vec<ValueId>),
    /// The gradient of the node's result, unchanged.
    Forward,
    /// The gradient of a penalty of this factor.
    Penalty(f64),
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
            for result in &node.results {
                depends[result.0 as usize] = any;
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
        Ok(())
    }

    /// Hands the contributions of one node to its operands.
    fn walk(&mut self, id: NodeId) -> Result<(), GraphError> {
        let node = self.graph.nodes[id.0 as usize].clone();
        let result = node.results[0];
        if !self.active[result.0 as usize] {
            return Ok(());
        }
        // An active value is used by active nodes only after it, and those have been walked.
        let Some(Adjoint { value: dy, .. }) = self.adjoints[result.0 as usize] else {
            return Ok(());
        };
        for (operand, contribution) in contributions(id, &node.op, &node.operands, result, dy)? {
            let target = node.operands[operand];
            if self.active[target.0 as usize] {
                self.contribute(target, contribution, dy)?;
            }
            self.uses_left[target.0 as usize] -= 1;
            if self.uses_left[target.0 as usize] == 0 {
                self.finish(target)?;
            }
        }
        Ok(())
    }

    fn contribute(
        &mut self,
        target: ValueId,
        contribution: Contribution,
        dy: ValueId,
    ) -> Result<(), GraphError> {
        let new = match contribution {
            Contribution::Forward => Adjoint {
                value: dy,
                exclusive: false,
            },
            Contribution::Emit(op, operands) => self.emit(op, &operands)?,
            Contribution::Penalty(lambda) => {
                self.penalties[target.0 as usize].push((lambda, dy));
                return Ok(());
            }
        };
        let sum = match self.adjoints[target.0 as usize] {
            None => new,
            Some(known) => self.emit(Op::Add, &[known.value, new.value])?,
        };
        self.adjoints[target.0 as usize] = Some(sum);
        Ok(())
    }

    fn emit(&mut self, op: Op, operands: &[ValueId]) -> Result<Adjoint, GraphError> {
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
            let sum = self.emit(Op::L2PenaltyGrad { lambda }, &operands)?;
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
            adjoint = self.emit(Op::Identity, &[adjoint.value])?;
        }
        self.graph.gradients.push(Gradient {
            parameter,
            value: adjoint.value,
        });
        Ok(())
    }
}

/// One contribution per operand of a node whose result `y` has the gradient `dy`, in the order in
/// which they are to be computed.
fn contributions(
    node: NodeId,
    op: &Op,
    operands: &[ValueId],
    y: ValueId,
    dy: ValueId,
) -> Result<Vec<(usize, Contribution)>, GraphError> {
    use Contribution::{Emit, Forward, Penalty};
    let list = match *op {
        Op::Affine => {
            let (x, w) = (operands[0], operands[1]);
            let mut list = vec![(1, Emit(Op::AffineGradWeight, vec![dy, x]))];
            if operands.len() == 3 {
                list.push((2, Emit(Op::AffineGradBias, vec![dy])));
            }
            list.push((0, Emit(Op::AffineGradInput, vec![dy, w])));
            list
        }
        Op::Activation(activation) => {
            let uses_result = activation.derivative_uses_result();
            let saved = if uses_result { y } else { operands[0] };
            vec![(0, Emit(Op::ActivationGrad(activation), vec![saved, dy]))]
        }
        Op::Dropout { .. } | Op::Scale { .. } => vec![(0, Emit(op.clone(), vec![dy]))],
        Op::Softmax => vec![(0, Emit(Op::SoftmaxGrad, vec![y, dy]))],
        Op::SoftmaxCrossEntropy => {
            let (logits, labels) = (operands[0], operands[1]);
            let gradient = Emit(Op::SoftmaxCrossEntropyGrad, vec![logits, labels, dy]);
            // Labels are integers and never active.
            vec![(0, gradient), (1, Forward)]
        }
        Op::MeanSquaredError => {
            let (a, b) = (operands[0], operands[1]);
            vec![
                (0, Emit(Op::MeanSquaredErrorGrad, vec![a, b, dy])),
                (1, Emit(Op::MeanSquaredErrorGrad, vec![b, a, dy])),
            ]
        }
        Op::L2Penalty { lambda } => vec![(0, Penalty(lambda))],
        Op::Add => vec![(0, Forward), (1, Forward)],
        Op::Identity => vec![(0, Forward)],
        Op::AffineGradInput
        | Op::AffineGradWeight
        | Op::AffineGradBias
        | Op::ActivationGrad(_)
        | Op::SoftmaxGrad
        | Op::SoftmaxCrossEntropyGrad
        | Op::MeanSquaredErrorGrad
        | Op::L2PenaltyGrad { .. } => {
            return Err(GraphError::NotDifferentiable {
                node,
                op: op.name(),
            });
        }
    };
    Ok(list)
}

#[cfg(test)]
#[path = "autodiff_tests.rs"]
mod tests;
