//! One node for nodes that compute the same of the same operands (common subexpressions), and one
//! constant for equal ones. Exact.
//!
//! Nodes that draw random numbers stay apart. So do those whose result is a parameter's gradient:
//! it stands in an arena of its own.

use std::collections::BTreeMap;

use super::uses::Uses;
use super::{PassContext, Patch};
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::{Binary, Op};

/// Constants with more elements than this aren't compared.
pub const COMPARED_ELEMENTS_MAX: usize = 4096;

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let uses = Uses::new(graph);
    let mut patch = Patch::new("merge nodes that compute the same", graph);
    let mut known: BTreeMap<String, ValueId> = BTreeMap::new();
    for constant in &graph.constants {
        if constant.data.len() <= COMPARED_ELEMENTS_MAX {
            let ty = &graph.value(constant.value).ty;
            let key = format!("{ty} {:?}", constant.data);
            let first = *known.entry(key).or_insert(constant.value);
            if first != constant.value {
                patch.substitute(constant.value, first);
                patch.drop_constant(constant.value);
                patch.count();
            }
        }
    }
    let mut nodes: BTreeMap<(String, Vec<ValueId>), &[ValueId]> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if node.op.is_random() || node.results.iter().any(|&v| uses.is_gradient(v)) {
            continue;
        }
        let mut operands: Vec<ValueId> = node.operands.iter().map(|&v| patch.resolve(v)).collect();
        if matches!(node.op, Op::Binary(Binary::Add | Binary::Mul)) {
            operands.sort_unstable();
        }
        // The derived form tells operators and their numbers apart, to the bit of a float.
        let key = (format!("{:?}", node.op), operands);
        let first = *nodes.entry(key).or_insert(&node.results);
        if first == node.results {
            continue;
        }
        patch.remove(NodeId(i as u32));
        for (&old, &new) in node.results.iter().zip(first) {
            patch.substitute(old, new);
        }
        patch.count();
    }
    patch.some()
}
