//! One [`Fused`] node for a chain of element-wise nodes, in the forward and the backward part. Exact:
//! each step does what the node did.
//!
//! A node joins the one that reads its result if nothing else reads it and both have one shape; an
//! expansion joins as the broadcasting of its operand. The fused node stands where the last of the
//! chain stood, so that gradients stay in their order.
//!
//! A forward node whose result only the backward part reads joins it there only if it has at most
//! one operand as large as its result: that operand would be kept in place of the result. With more,
//! fusing would cost memory.

use std::collections::BTreeSet;

use super::uses::{Uses, backward_start, definer};
use super::{PassContext, Patch};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Arg, FUSED_OPERANDS_MAX, FUSED_STEPS_MAX, Function, Fused, Op, Step};

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let fusing = Fusing {
        graph,
        uses: Uses::new(graph),
        backward_start: backward_start(graph),
    };
    let mut patch = Patch::new("chains of element-wise nodes -> fused", graph);
    for i in (0..graph.nodes.len()).rev() {
        let root = NodeId(i as u32);
        if patch.removes(root) {
            continue;
        }
        let Some(group) = fusing.group(root) else {
            continue;
        };
        let (op, operands) = fusing.program(&group);
        let replaced = patch.replace(graph, root, op, &operands);
        debug_assert!(replaced.is_ok(), "{replaced:?}");
        for &node in &group {
            patch.remove(node);
        }
    }
    patch.some()
}

struct Fusing<'a> {
    graph: &'a Graph,
    uses: Uses,
    backward_start: usize,
}

impl Fusing<'_> {
    fn node(&self, id: NodeId) -> &Node {
        &self.graph.nodes[id.0 as usize]
    }

    /// The nodes that are fused into `root`, and it, in their order; `None` if it stays alone.
    fn group(&self, root: NodeId) -> Option<Vec<NodeId>> {
        if !is_elementwise(self.node(root)) {
            return None;
        }
        let mut group = vec![root];
        // From last to first: all readers of a candidate have been judged before it.
        let mut candidates: BTreeSet<NodeId> = self.definers(root).collect();
        while let Some(id) = candidates.pop_last() {
            if !self.joins(id, &group) {
                continue;
            }
            group.push(id);
            if self.fits(&group) {
                candidates.extend(self.definers(id));
            } else {
                group.pop();
            }
        }
        group.sort_unstable();
        (group.len() > 1).then_some(group)
    }

    fn definers(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let operands = self.node(id).operands.iter();
        operands.filter_map(|&value| definer(self.graph, value).map(|(id, _)| id))
    }

    /// True if every reader of a node's result is in the group.
    fn joins(&self, id: NodeId, group: &[NodeId]) -> bool {
        let node = self.node(id);
        let &[result] = node.results.as_slice() else {
            return false;
        };
        let readers = self.uses.readers(result);
        if readers.is_empty()
            || self.uses.is_kept(result)
            || !readers.iter().all(|reader| group.contains(reader))
        {
            return false;
        }
        if matches!(node.op, Op::Expand(_)) {
            return true;
        }
        let root = self.node(group[0]);
        let shape = |value: ValueId| &self.graph.value(value).ty.shape;
        let full = |value: &&ValueId| shape(**value) == shape(result);
        let crosses =
            (id.0 as usize) < self.backward_start && group[0].0 as usize >= self.backward_start;
        is_elementwise(node)
            && shape(result) == shape(root.results[0])
            && (!crosses || node.operands.iter().filter(full).count() <= 1)
    }

    /// True if the group's program is within limits.
    fn fits(&self, group: &[NodeId]) -> bool {
        let mut sorted = group.to_vec();
        sorted.sort_unstable();
        let (op, operands) = self.program(&sorted);
        op.steps.len() <= FUSED_STEPS_MAX && operands.len() <= FUSED_OPERANDS_MAX
    }

    /// The program of a group in order, and its operands.
    fn program(&self, group: &[NodeId]) -> (Fused, Vec<ValueId>) {
        let mut steps: Vec<Step> = Vec::new();
        let mut operands: Vec<ValueId> = Vec::new();
        // What stands for the result of each node of the group.
        let mut known: Vec<(ValueId, Arg)> = Vec::new();
        for &id in group {
            let node = self.node(id);
            let mut args = Vec::with_capacity(node.operands.len());
            for &value in &node.operands {
                let found = known.iter().find(|(result, _)| *result == value);
                args.push(found.map_or_else(
                    || {
                        let position = operands.iter().position(|&other| other == value);
                        Arg::Operand(position.unwrap_or_else(|| {
                            operands.push(value);
                            operands.len() - 1
                        }))
                    },
                    |&(_, arg)| arg,
                ));
            }
            match (&node.op, Function::of(&node.op)) {
                (Op::Fused(inner), _) => {
                    let base = steps.len();
                    for step in &inner.steps {
                        let args = step.args.iter().map(|arg| match *arg {
                            Arg::Operand(operand) => args[operand],
                            Arg::Step(step) => Arg::Step(base + step),
                        });
                        steps.push(Step {
                            function: step.function,
                            args: args.collect(),
                        });
                    }
                    known.push((node.results[0], Arg::Step(steps.len() - 1)));
                }
                (_, Some(function)) => {
                    steps.push(Step { function, args });
                    known.push((node.results[0], Arg::Step(steps.len() - 1)));
                }
                // An expansion is its operand.
                _ => known.push((node.results[0], args[0])),
            }
        }
        let last = group[group.len() - 1];
        let shape = self
            .graph
            .value(self.node(last).results[0])
            .ty
            .shape
            .clone();
        (Fused { shape, steps }, operands)
    }
}

/// True if a node can be steps of a fused one.
pub(super) fn is_elementwise(node: &Node) -> bool {
    matches!(node.op, Op::Fused(_)) || Function::of(&node.op).is_some()
}
