//! Who reads what, as passes ask.

use crate::graph::{Graph, Node, NodeId, Origin, ValueId};

/// The readers of every value.
pub(crate) struct Uses {
    /// By value: the nodes that read it, once a position.
    readers: Vec<Vec<NodeId>>,
    is_gradient: Vec<bool>,
    /// By value: an output or a state's update.
    is_named: Vec<bool>,
}

impl Uses {
    pub(crate) fn new(graph: &Graph) -> Self {
        let count = graph.values.len();
        let mut uses = Self {
            readers: vec![Vec::new(); count],
            is_gradient: vec![false; count],
            is_named: vec![false; count],
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            for operand in &node.operands {
                uses.readers[operand.0 as usize].push(NodeId(i as u32));
            }
        }
        for gradient in &graph.gradients {
            uses.is_gradient[gradient.value.0 as usize] = true;
        }
        for output in &graph.outputs {
            uses.is_named[output.value.0 as usize] = true;
        }
        for update in &graph.updates {
            uses.is_named[update.value.0 as usize] = true;
        }
        uses
    }

    pub(crate) fn readers(&self, value: ValueId) -> &[NodeId] {
        &self.readers[value.0 as usize]
    }

    /// True if the value is a gradient.
    pub(crate) fn is_gradient(&self, value: ValueId) -> bool {
        self.is_gradient[value.0 as usize]
    }

    /// True if the value is read after the run: a gradient, an output, or an update.
    pub(crate) fn is_kept(&self, value: ValueId) -> bool {
        self.is_gradient(value) || self.is_named[value.0 as usize]
    }

    /// True if one node alone reads the value, whose only use it is.
    pub(crate) fn is_single(&self, value: ValueId) -> bool {
        self.readers(value).len() == 1 && !self.is_kept(value)
    }

    /// True if `new` may stand for `old`: gradients are nobody else's value, and what is read after
    /// the run is the result of a node.
    pub(crate) fn may_substitute(&self, graph: &Graph, old: ValueId, new: ValueId) -> bool {
        let is_node = matches!(graph.value(new).origin, Origin::Node { .. });
        !self.is_gradient(old)
            && !self.is_gradient(new)
            && (is_node || !self.is_named[old.0 as usize])
    }
}

/// The node that defines a value.
pub(crate) fn definer(graph: &Graph, value: ValueId) -> Option<(NodeId, &Node)> {
    match graph.value(value).origin {
        Origin::Node { node, .. } => Some((node, &graph.nodes[node.0 as usize])),
        _ => None,
    }
}

/// By value: it depends on the loss scale.
pub(crate) fn backward(graph: &Graph) -> Vec<bool> {
    let values = graph.values.iter();
    let mut backward: Vec<bool> = values.map(|v| v.origin == Origin::LossScale).collect();
    for node in &graph.nodes {
        if node.operands.iter().any(|v| backward[v.0 as usize]) {
            for value in &node.results {
                backward[value.0 as usize] = true;
            }
        }
    }
    backward
}

/// The position of the first backward node; the number of nodes if there is none.
pub(crate) fn backward_start(graph: &Graph) -> usize {
    let backward = backward(graph);
    let is_backward = |node: &Node| node.results.iter().any(|v| backward[v.0 as usize]);
    let found = graph.nodes.iter().position(is_backward);
    found.unwrap_or(graph.nodes.len())
}
