//! Which nodes a mode needs.

use ringfold_graph::{Graph, Mode, NodeId};

use crate::error::ComputeError;

/// What a mode computes of a graph.
pub(crate) struct Selection {
    /// The nodes to run, in order.
    pub nodes: Vec<NodeId>,
    /// By value: it is read after the run, as an output or as a state's new value.
    pub is_kept: Vec<bool>,
    /// By value: the position in the layout of the parameter whose gradient it is.
    pub gradient_of: Vec<Option<usize>>,
    /// By value: a selected node reads it.
    pub is_read: Vec<bool>,
}

impl Selection {
    pub(crate) fn new(graph: &Graph, mode: Mode) -> Result<Self, ComputeError> {
        let count = graph.values().len();
        let mut is_kept = vec![false; count];
        for output in graph.outputs() {
            is_kept[output.value.0 as usize] |= mode.computes(output.role);
        }
        if !is_kept.contains(&true) {
            return Err(ComputeError::NoOutputs {
                graph: graph.name().to_owned(),
                mode,
            });
        }
        let mut gradient_of = vec![None; count];
        if mode == Mode::Training {
            for update in graph.updates() {
                is_kept[update.value.0 as usize] = true;
            }
            for (slot, gradient) in graph.gradients().iter().enumerate() {
                gradient_of[gradient.value.0 as usize] = Some(slot);
            }
        }
        let mut is_read = vec![false; count];
        let mut nodes = Vec::new();
        for (i, node) in graph.nodes().iter().enumerate().rev() {
            let needed = node.results.iter().map(|value| value.0 as usize);
            if !needed
                .into_iter()
                .any(|v| is_read[v] || is_kept[v] || gradient_of[v].is_some())
            {
                continue;
            }
            nodes.push(NodeId(i as u32));
            for operand in &node.operands {
                is_read[operand.0 as usize] = true;
            }
        }
        nodes.reverse();
        Ok(Self {
            nodes,
            is_kept,
            gradient_of,
            is_read,
        })
    }
}
