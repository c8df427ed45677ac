//! Cuts a graph to what a mode computes.

use super::{Mode, PassContext, Patch};
use crate::graph::{Graph, NodeId, OutputRole};

pub(super) fn run(graph: &Graph, context: &PassContext) -> Option<Patch> {
    let mode = context.mode?;
    let mut patch = Patch::new("keep what the mode computes", graph);
    let roles = [
        OutputRole::Loss,
        OutputRole::Prediction,
        OutputRole::Derived,
    ];
    let kept = roles.into_iter().filter(|&role| mode.computes(role));
    patch.keep_roles(kept.collect());
    for output in &graph.outputs {
        if !mode.computes(output.role) {
            patch.count();
        }
    }
    if mode != Mode::Training {
        patch.forget_training();
        for _ in 0..graph.gradients.len() + graph.updates.len() {
            patch.count();
        }
        for (i, node) in graph.nodes.iter().enumerate() {
            let op = node.op.in_inference();
            if op != node.op {
                // An operator in inference takes the same operands: it always fits.
                let replaced = patch.replace(graph, NodeId(i as u32), op, &node.operands);
                debug_assert!(replaced.is_ok());
            }
        }
    }
    patch.some()
}
