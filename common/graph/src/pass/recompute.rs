//! Forward values that the backward part computes again, so that memory needn't keep them.
//!
//! Each chosen node gets a copy before the first backward node that reads its result; backward nodes
//! read the copy. A copy reads the copies of what is chosen, too. Masks of dropout are the same:
//! they depend on the node's key. Exact.
//!
//! This is not one of the passes: [`candidates`] says what may be chosen, whoever plans memory
//! chooses, and [`patch`] makes the graph. Merging equal nodes afterwards would undo it.

use std::collections::{BTreeMap, BTreeSet};

use super::Patch;
use super::uses::{Uses, backward_start, definer};
use crate::cost::node_flops;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Function, Op, Softmax};

/// Nodes that may be computed again together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The nodes in order: the last one's result is read by the backward part; the others lead to it
    /// and are read by the forward part alone.
    pub nodes: Vec<NodeId>,
    /// The bytes that needn't be kept, less those that must be kept in their place.
    pub bytes: u64,
    /// What computing them again costs.
    pub flops: u64,
}

/// What may be computed again, in order: cheap forward nodes whose results the backward part reads
/// (functions of elements, dropout, normalisations, softmax, and moves), with the cheap nodes that
/// lead to them.
#[must_use]
pub fn candidates(graph: &Graph, batch: usize) -> Vec<Candidate> {
    let finding = Finding {
        graph,
        uses: Uses::new(graph),
        start: backward_start(graph),
        batch,
    };
    (0..finding.start as u32)
        .filter_map(|node| finding.candidate(NodeId(node)))
        .collect()
}

struct Finding<'a> {
    graph: &'a Graph,
    uses: Uses,
    start: usize,
    batch: usize,
}

impl Finding<'_> {
    fn candidate(&self, id: NodeId) -> Option<Candidate> {
        let results = &self.graph.nodes[id.0 as usize].results;
        let saved = results.iter().filter(|&&value| self.is_kept(value));
        let saved = self.bytes(saved.copied());
        // What is read after the run is kept anyway; a view is its operand.
        let is_output = results.iter().any(|&value| self.uses.is_kept(value));
        let is_view = self.graph.nodes[id.0 as usize].op.is_view();
        if saved == 0 || is_output || is_view || !self.is_cheap(id) {
            return None;
        }
        let mut nodes = BTreeSet::from([id]);
        let mut kept_instead = BTreeSet::new();
        let mut ahead = vec![id];
        while let Some(id) = ahead.pop() {
            for &value in &self.graph.nodes[id.0 as usize].operands {
                match definer(self.graph, value) {
                    Some((before, _)) if !self.is_kept(value) && !self.uses.is_kept(value) => {
                        if self.is_cheap(before) {
                            if nodes.insert(before) {
                                ahead.push(before);
                            }
                        } else {
                            kept_instead.insert(value);
                        }
                    }
                    _ => {}
                }
            }
        }
        let flops = nodes.iter().map(|id| {
            let node = &self.graph.nodes[id.0 as usize];
            node_flops(self.graph, node, self.batch)
        });
        let flops = flops.fold(0, u64::saturating_add);
        let bytes = saved.checked_sub(self.bytes(kept_instead))?;
        (bytes > 0).then(|| Candidate {
            bytes,
            flops,
            nodes: nodes.into_iter().collect(),
        })
    }

    fn bytes(&self, values: impl IntoIterator<Item = ValueId>) -> u64 {
        let bytes = values.into_iter().map(|value| {
            let ty = &self.graph.value(value).ty;
            let elements = ty.shape.elements(self.batch).unwrap_or(usize::MAX) as u64;
            elements.saturating_mul(ty.dtype.size_bytes() as u64)
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// True if the backward part, but for its first node, reads the value or a view of it.
    fn is_kept(&self, value: ValueId) -> bool {
        self.uses.readers(value).iter().any(|&id| {
            let node = &self.graph.nodes[id.0 as usize];
            let is_later = id.0 as usize > self.start;
            is_later || node.op.is_view() && self.is_kept(node.results[0])
        })
    }

    fn is_cheap(&self, id: NodeId) -> bool {
        is_cheap(&self.graph.nodes[id.0 as usize].op)
    }
}

fn is_cheap(op: &Op) -> bool {
    Function::of(op).is_some()
        || matches!(
            op,
            Op::Fused(_)
                | Op::Softmax(Softmax::Plain { .. } | Softmax::Log { .. })
                | Op::Norm(_)
                | Op::Compare(_)
                | Op::Where(_)
                | Op::Cast(_)
                | Op::Expand(_)
                | Op::Transpose(_)
                | Op::Reshape(_)
                | Op::Slice(_)
                | Op::Pad(_)
                | Op::Concat(_)
                | Op::Gather(_)
        )
}

/// The patch that computes `chosen` nodes, which are forward ones, and their views again. `None` if
/// nothing would read the copies.
#[must_use]
pub fn patch(graph: &Graph, chosen: &BTreeSet<NodeId>) -> Option<Patch> {
    let uses = Uses::new(graph);
    let start = backward_start(graph);
    let mut chosen = chosen.clone();
    // Nodes are in order: a view of a view is found, too.
    for (i, node) in graph.nodes.iter().enumerate().take(start) {
        let copied = |value: &ValueId| defines(graph, &chosen, *value);
        if node.op.is_view() && node.operands.first().is_some_and(copied) {
            chosen.insert(NodeId(i as u32));
        }
    }
    // By chosen node, the last first: where its copy stands.
    let mut places: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for &id in chosen.iter().rev() {
        let node = &graph.nodes[id.0 as usize];
        let readers = node.results.iter().flat_map(|&value| uses.readers(value));
        let first = readers.filter_map(|reader| match reader.0 as usize > start {
            true => Some(*reader),
            false => places.get(reader).copied(),
        });
        if let Some(first) = first.min() {
            places.insert(id, first);
        }
    }
    let mut patch = Patch::new("compute again what the backward part reads", graph);
    let mut copies: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let reads = |node: &Node, copies: &BTreeMap<ValueId, ValueId>| -> Vec<ValueId> {
        let operands = node.operands.iter();
        operands
            .map(|value| copies.get(value).copied().unwrap_or(*value))
            .collect()
    };
    for (&id, &before) in &places {
        let node = &graph.nodes[id.0 as usize];
        let operands = reads(node, &copies);
        let results = patch.node(graph, before, node.op.clone(), &operands);
        // The operator and types are those of a node that verified.
        let results = results.ok()?;
        copies.extend(node.results.iter().copied().zip(results));
        patch.count();
    }
    for (i, node) in graph.nodes.iter().enumerate().skip(start + 1) {
        let operands = reads(node, &copies);
        if operands != node.operands {
            let id = NodeId(i as u32);
            patch.replace(graph, id, node.op.clone(), &operands).ok()?;
        }
    }
    patch.some()
}

fn defines(graph: &Graph, nodes: &BTreeSet<NodeId>, value: ValueId) -> bool {
    definer(graph, value).is_some_and(|(id, _)| nodes.contains(&id))
}
