//! Forward values that the backward part computes again, so that memory needn't keep them.
//!
//! Each chosen node gets a copy before the first backward node that reads its result; backward nodes
//! read the copy. A copy reads the copies of what is chosen, too. Masks of dropout are the same:
//! they depend on the node's key. A normalisation's copy takes the statistics that the forward part
//! found, and is made of element-wise nodes, which the fusing pass joins with what follows. Exact.
//!
//! This is not one of the passes: [`candidates`] says what may be chosen, whoever plans memory
//! chooses, and [`patch`] makes the graph. Merging equal nodes afterwards would undo it.

use std::collections::{BTreeMap, BTreeSet};

use super::Patch;
use super::uses::{Uses, backward_start, definer};
use crate::cost::node_flops;
use crate::error::GraphError;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Binary, Function, Norm, NormOver, Op, Reshape, Unary};
use crate::shape::{Dim, Shape};

/// What moving a byte between memory and a core counts, in operations: a core that does 100
/// operations a nanosecond moves some 10 bytes.
const BYTE_OPERATIONS: u64 = 10;
/// What an exponential or the like counts, in operations.
const FUNCTION_OPERATIONS: u64 = 16;

/// Nodes that may be computed again together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The nodes in order: the last one's result is read by the backward part; the others lead to it
    /// and are read by the forward part alone.
    pub nodes: Vec<NodeId>,
    /// The bytes that needn't be kept, less those that must be kept in their place.
    pub bytes: u64,
    /// What computing them again costs, in operations: their arithmetic, and moving what they read and
    /// leave.
    pub cost: u64,
}

/// What a run costs, in the operations of [`Candidate::cost`]. Saturates.
#[must_use]
pub fn cost(graph: &Graph, batch: usize) -> u64 {
    let nodes = graph.nodes.iter().map(|node| {
        let values = node.operands.iter().chain(&node.results).copied();
        let moved = bytes(graph, batch, values).saturating_mul(BYTE_OPERATIONS);
        operations(graph, node, batch).saturating_add(moved)
    });
    nodes.fold(0, u64::saturating_add)
}

/// What may be computed again, in order: forward nodes whose results the backward part reads, each with
/// the nodes that lead to it and whose results it doesn't.
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
        let node = &self.graph.nodes[id.0 as usize];
        let results = copied(node);
        let saved = results.iter().filter(|&&value| self.is_kept(value));
        let saved = self.bytes(saved.copied());
        // What is read after the run is kept anyway; a view is its operand.
        let is_output = results.iter().any(|&value| self.uses.is_kept(value));
        if saved == 0 || is_output || node.op.is_view() {
            return None;
        }
        let mut nodes = BTreeSet::from([id]);
        let mut read = BTreeSet::new();
        let mut kept_instead = BTreeSet::new();
        let mut ahead = vec![id];
        while let Some(id) = ahead.pop() {
            for &value in &self.graph.nodes[id.0 as usize].operands {
                match definer(self.graph, value) {
                    Some((before, node))
                        if !self.is_kept(value)
                            && !self.uses.is_kept(value)
                            && copied(node).contains(&value) =>
                    {
                        if nodes.insert(before) {
                            ahead.push(before);
                        }
                    }
                    Some(_) => {
                        read.insert(value);
                        if !self.is_kept(value) {
                            kept_instead.insert(value);
                        }
                    }
                    None => {
                        read.insert(value);
                    }
                }
            }
        }
        let moved = self
            .bytes(read)
            .saturating_add(self.bytes(results.iter().copied()));
        let operations = nodes.iter().map(|id| {
            let node = &self.graph.nodes[id.0 as usize];
            operations(self.graph, node, self.batch)
        });
        let moved = moved.saturating_mul(BYTE_OPERATIONS);
        let cost = operations.fold(moved, u64::saturating_add);
        let bytes = saved.checked_sub(self.bytes(kept_instead))?;
        (bytes > 0).then(|| Candidate {
            bytes,
            cost,
            nodes: nodes.into_iter().collect(),
        })
    }

    fn bytes(&self, values: impl IntoIterator<Item = ValueId>) -> u64 {
        bytes(self.graph, self.batch, values)
    }

    /// True if the backward part, but for its first node, reads the value or a view of it.
    fn is_kept(&self, value: ValueId) -> bool {
        self.uses.readers(value).iter().any(|&id| {
            let node = &self.graph.nodes[id.0 as usize];
            let is_later = id.0 as usize > self.start;
            is_later || node.op.is_view() && self.is_kept(node.results[0])
        })
    }
}

fn bytes(graph: &Graph, batch: usize, values: impl IntoIterator<Item = ValueId>) -> u64 {
    let bytes = values.into_iter().map(|value| {
        let ty = &graph.value(value).ty;
        let elements = ty.shape.elements(batch).unwrap_or(usize::MAX) as u64;
        elements.saturating_mul(ty.dtype.size_bytes() as u64)
    });
    bytes.fold(0, u64::saturating_add)
}

/// The arithmetic of a node, with functions that take longer than a sum counted as such.
fn operations(graph: &Graph, node: &Node, batch: usize) -> u64 {
    let flops = node_flops(graph, node, batch);
    let is_slow = match Function::of(&node.op) {
        Some(Function::Unary(op)) => !matches!(
            op,
            Unary::Identity
                | Unary::Scale { .. }
                | Unary::Neg
                | Unary::Abs
                | Unary::Relu
                | Unary::LeakyRelu { .. }
                | Unary::HardSwish
                | Unary::HardSigmoid { .. }
                | Unary::Clip { .. }
        ),
        Some(Function::Dropout(_)) => true,
        _ => false,
    };
    flops.saturating_mul(if is_slow { FUNCTION_OPERATIONS } else { 1 })
}

/// The results that a copy of a node gives: of a normalisation with saved statistics y alone.
fn copied(node: &Node) -> &[ValueId] {
    match node.op {
        Op::Norm(norm) if takes_statistics(&norm) => &node.results[..1],
        _ => &node.results,
    }
}

/// True if y can be had element by element once the statistics are known.
fn takes_statistics(norm: &Norm) -> bool {
    matches!(
        norm.over,
        NormOver::Layer { .. } | NormOver::Rms { .. } | NormOver::Batch { .. }
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
        let readers = copied(node).iter().flat_map(|&value| uses.readers(value));
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
        // The operators and types are those of nodes that verified.
        let results = match node.op {
            Op::Norm(norm) if takes_statistics(&norm) => {
                vec![normalised(&mut patch, graph, before, norm, node, &operands).ok()?]
            }
            _ => patch.node(graph, before, node.op.clone(), &operands).ok()?,
        };
        copies.extend(copied(node).iter().copied().zip(results));
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

/// y of a normalisation from x and the statistics in its results, with the roundings of its kernel:
/// `(x - mean) · rstd · w + b`, of a batch `(x - mean) · (rstd · w) + b`, of RMS `x · rstd · w`.
fn normalised(
    patch: &mut Patch,
    graph: &Graph,
    before: NodeId,
    norm: Norm,
    node: &Node,
    operands: &[ValueId],
) -> Result<ValueId, GraphError> {
    let (x, w) = (operands[0], operands[1]);
    let rank = graph.value(node.operands[0]).ty.shape.rank();
    // As many dimensions of 1 follow as the statistics lack.
    let spread = |patch: &mut Patch, value: ValueId, after: usize| {
        let dims = patch.ty(graph, value).shape.dims().to_vec();
        let ones = std::iter::repeat_n(Dim::Fixed(1), after);
        let shape = Shape::new(dims.into_iter().chain(ones).collect());
        let results = patch.node(graph, before, Reshape { shape }, &[value])?;
        Ok::<_, GraphError>(results[0])
    };
    let apply = |patch: &mut Patch, op: Binary, a: ValueId, b: ValueId| {
        Ok::<_, GraphError>(patch.node(graph, before, op, &[a, b])?[0])
    };
    if let NormOver::Batch { .. } = norm.over {
        let factor = apply(patch, Binary::Mul, node.results[2], w)?;
        let [mean, factor, b] = [node.results[1], factor, operands[2]];
        let mean = spread(patch, mean, rank - 2)?;
        let factor = spread(patch, factor, rank - 2)?;
        let b = spread(patch, b, rank - 2)?;
        let y = apply(patch, Binary::Sub, x, mean)?;
        let y = apply(patch, Binary::Mul, y, factor)?;
        return apply(patch, Binary::Add, y, b);
    }
    let own = graph.value(node.operands[1]).ty.shape.rank();
    let is_rms = matches!(norm.over, NormOver::Rms { .. });
    let rstd = spread(patch, node.results[if is_rms { 1 } else { 2 }], own)?;
    let centred = match is_rms {
        true => x,
        false => {
            let mean = spread(patch, node.results[1], own)?;
            apply(patch, Binary::Sub, x, mean)?
        }
    };
    let y = apply(patch, Binary::Mul, centred, rstd)?;
    let y = apply(patch, Binary::Mul, y, w)?;
    match is_rms {
        true => Ok(y),
        false => apply(patch, Binary::Add, y, operands[2]),
    }
}

fn defines(graph: &Graph, nodes: &BTreeSet<NodeId>, value: ValueId) -> bool {
    definer(graph, value).is_some_and(|(id, _)| nodes.contains(&id))
}
