//! Chains: values that take one place after another without moving.
//!
//! Two things make a chain. A *view* (a reshape) is its operand under another shape: the values are
//! one *class*, which is read until the last use of any of them. An element-wise node writes its
//! result over an operand whose class nobody reads later: the result is a new class in the same
//! buffer.

use ringfold_graph::{Graph, Op, Origin, ValueId};

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
    /// By value: its chain, if a selected node defines it and it isn't a view of what no node
    /// defines.
    pub buffer_of: Vec<Option<usize>>,
    /// By value: the input, parameter, constant or state that it is a view of.
    pub view_of: Vec<Option<ValueId>>,
    /// By call: the operand whose place the first result takes.
    pub in_place: Vec<Option<usize>>,
    /// By call: there is nothing to compute.
    pub is_view: Vec<bool>,
}

/// Values that are one another's views, named by the first one.
struct Classes {
    /// By value: its class.
    root: Vec<usize>,
    /// By class: the last call that reads it.
    last_use: Vec<usize>,
    /// By class: one of its values is the gradient of a parameter.
    is_gradient: Vec<bool>,
    /// By class: one of its values is read after the run.
    is_kept: Vec<bool>,
}

impl Chains {
    /// Chains of the selected nodes, each with its operator in `ops`. `extents` are the lengths of
    /// values in the workspace.
    pub(crate) fn new(graph: &Graph, selection: &Selection, ops: &[Op], extents: &[usize]) -> Self {
        let count = extents.len();
        let mut chains = Self {
            buffers: Vec::new(),
            buffer_of: vec![None; count],
            view_of: vec![None; count],
            in_place: Vec::with_capacity(ops.len()),
            is_view: Vec::with_capacity(ops.len()),
        };
        let classes = chains.classify(graph, selection, ops);
        for (position, &id) in selection.nodes.iter().enumerate() {
            let node = &graph.nodes()[id.0 as usize];
            let is_view = chains.is_view[position];
            let reusable = |&operand: &usize| {
                let v = node.operands[operand].0 as usize;
                let class = classes.root[v];
                let (from, to) = (graph.value(node.operands[operand]), node.results[0]);
                let readers = node.operands.iter();
                !is_view
                    && ops[position].may_run_in_place(operand)
                    && chains.buffer_of[v].is_some()
                    && classes.last_use[class] == position
                    && !classes.is_gradient[class]
                    && extents[v] == extents[to.0 as usize]
                    && from.ty.dtype == graph.value(to).ty.dtype
                    // Read once: another operand must not change while it is read.
                    && readers.filter(|r| classes.root[r.0 as usize] == class).count() == 1
            };
            let operand = (0..node.operands.len()).find(reusable);
            chains.in_place.push(operand);
            for (i, result) in node.results.iter().map(|v| v.0 as usize).enumerate() {
                if chains.view_of[result].is_some() {
                    continue;
                }
                let joined = if is_view {
                    chains.buffer_of[node.operands[0].0 as usize]
                } else {
                    let operand = operand.filter(|_| i == 0);
                    operand.and_then(|o| chains.buffer_of[node.operands[o].0 as usize])
                };
                let buffer = joined.unwrap_or(chains.buffers.len());
                if joined.is_none() {
                    chains.buffers.push(Chain {
                        lifetime: Buffer {
                            len: extents[result],
                            first: position,
                            last: position,
                        },
                        gradient_of: None,
                    });
                }
                chains.buffer_of[result] = Some(buffer);
                let chain = &mut chains.buffers[buffer];
                let last = classes.last_use[classes.root[result]];
                chain.lifetime.last = chain.lifetime.last.max(last);
                chain.gradient_of = chain.gradient_of.or(selection.gradient_of[result]);
            }
        }
        chains
    }

    /// Finds the views and what they make one class.
    fn classify(&mut self, graph: &Graph, selection: &Selection, ops: &[Op]) -> Classes {
        let count = self.buffer_of.len();
        let mut classes = Classes {
            root: (0..count).collect(),
            last_use: vec![0; count],
            is_gradient: selection.gradient_of.iter().map(Option::is_some).collect(),
            is_kept: selection.is_kept.clone(),
        };
        for (position, &id) in selection.nodes.iter().enumerate() {
            let node = &graph.nodes()[id.0 as usize];
            let (from, to) = match (ops[position].is_view(), node.operands.first()) {
                (true, Some(from)) => (from.0 as usize, node.results[0].0 as usize),
                _ => {
                    self.is_view.push(false);
                    continue;
                }
            };
            let class = classes.root[from];
            let (gradient, kept) = (classes.is_gradient[to], classes.is_kept[to]);
            let is_node = matches!(graph.values()[class].origin, Origin::Node { .. });
            // Gradients stand in one arena, what is kept in another; a gradient stands alone.
            let joins = if is_node {
                !(classes.is_gradient[class] || gradient && classes.is_kept[class])
            } else {
                !gradient && !kept
            };
            self.is_view.push(joins);
            if joins {
                classes.root[to] = class;
                classes.is_gradient[class] |= gradient;
                classes.is_kept[class] |= kept;
                if !is_node {
                    self.view_of[to] = Some(ValueId(class as u32));
                }
            }
        }
        for (position, &id) in selection.nodes.iter().enumerate() {
            let node = &graph.nodes()[id.0 as usize];
            for value in node.operands.iter().chain(&node.results) {
                let class = classes.root[value.0 as usize];
                classes.last_use[class] = position;
            }
        }
        for class in 0..count {
            if classes.is_kept[class] {
                classes.last_use[class] = selection.nodes.len();
            }
        }
        classes
    }
}
