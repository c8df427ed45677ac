//! Drops nodes that no output, gradient or update needs, and constants that nobody reads.

use super::{PassContext, Patch};
use crate::graph::{Graph, NodeId};

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let mut is_live = vec![false; graph.values.len()];
    let outputs = graph.outputs.iter().map(|output| output.value);
    let updates = graph.updates.iter().map(|update| update.value);
    let gradients = graph.gradients.iter().map(|gradient| gradient.value);
    for value in outputs.chain(updates).chain(gradients) {
        is_live[value.0 as usize] = true;
    }
    let mut patch = Patch::new("drop what nobody reads", graph);
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        if node.results.iter().any(|value| is_live[value.0 as usize]) {
            for operand in &node.operands {
                is_live[operand.0 as usize] = true;
            }
        } else {
            patch.remove(NodeId(i as u32));
            patch.count();
        }
    }
    for constant in &graph.constants {
        if !is_live[constant.value.0 as usize] {
            patch.drop_constant(constant.value);
            patch.count();
        }
    }
    patch.some()
}
