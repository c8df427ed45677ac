//! Chains: values that take one place after another without moving.

use ringfold_graph::{Graph, Origin};

use super::place::Buffer;
use super::select::Selection;

/// A chain of values that share one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// From the first value's definition to the last value's last use.
    pub lifetime: Buffer,
    /// The parameter (position in the layout) whose gradient is the chain's last value.
    pub gradient_of: Option<usize>,
}

/// All chains of a selection.
#[derive(Clone, Debug)]
pub struct Chains {
    /// The chains, in order of their first value.
    pub buffers: Vec<Chain>,
    /// By value: its chain, if a selected node defines it.
    pub buffer_of: Vec<Option<usize>>,
    /// By call: the operand whose place the result takes.
    pub in_place: Vec<Option<usize>>,
}

impl Chains {
    pub(crate) fn new(graph: &Graph, selection: &Selection, lens: &[usize]) -> Self {
        let last_use = last_uses(graph, selection);
        let mut chains = Self {
            buffers: Vec::new(),
            buffer_of: vec![None; lens.len()],
            in_place: Vec::with_capacity(selection.nodes.len()),
        };
        for (position, &id) in selection.nodes.iter().enumerate() {
            let node = &graph.nodes()[id.0 as usize];
            // Operators have one result now; `Graph::verify` pins it.
            let result = node.results[0].0 as usize;
            let reusable = |&operand: &usize| {
                let value = node.operands[operand];
                let v = value.0 as usize;
                node.op.may_run_in_place(operand)
                    && matches!(graph.value(value).origin, Origin::Node { .. })
                    && last_use[v] == position
                    && selection.gradient_of[v].is_none()
                    && lens[v] == lens[result]
                    // Read once: another operand must not change while it is read.
                    && node.operands.iter().filter(|&&other| other == value).count() == 1
            };
            let operand = (0..node.operands.len()).find(reusable);
            chains.in_place.push(operand);
            let buffer = operand
                .and_then(|operand| chains.buffer_of[node.operands[operand].0 as usize])
                .unwrap_or(chains.buffers.len());
            if buffer == chains.buffers.len() {
                chains.buffers.push(Chain {
                    lifetime: Buffer {
                        len: lens[result],
                        first: position,
                        last: position,
                    },
                    gradient_of: None,
                });
            }
            chains.buffer_of[result] = Some(buffer);
            let chain = &mut chains.buffers[buffer];
            chain.lifetime.last = last_use[result];
            chain.gradient_of = selection.gradient_of[result];
        }
        chains
    }
}

/// By value: the position of the last selected node that reads it; outputs are read after the end.
fn last_uses(graph: &Graph, selection: &Selection) -> Vec<usize> {
    let mut last_use = vec![0; graph.values().len()];
    for (position, &id) in selection.nodes.iter().enumerate() {
        for operand in &graph.nodes()[id.0 as usize].operands {
            last_use[operand.0 as usize] = position;
        }
    }
    for (v, last) in last_use.iter_mut().enumerate() {
        if selection.is_output[v] {
            *last = selection.nodes.len();
        }
    }
    last_use
}
