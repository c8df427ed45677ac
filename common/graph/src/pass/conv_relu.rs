//! ReLU becomes part of the convolution that it follows: the kernel takes it while the result is in
//! registers. Exact, since the result alone is what backward reads of ReLU.

use super::uses::{Uses, definer};
use super::{PassContext, Patch};
use crate::graph::{Graph, NodeId};
use crate::op::{ConvPart, ConvRelu, Op, Unary};

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let uses = Uses::new(graph);
    let mut patch = Patch::new("relu(conv) -> conv_relu", graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        if node.op != Op::Unary(Unary::Relu) || !uses.is_single(node.operands[0]) {
            continue;
        }
        if let Some((id, inner)) = definer(graph, node.operands[0])
            && let Op::Conv(conv) = inner.op
            && conv.part == ConvPart::Forward
        {
            // It stands where the convolution stood; its readers come after ReLU.
            let new = patch.node(graph, id, ConvRelu(conv), &inner.operands);
            debug_assert!(new.is_ok(), "{new:?}");
            if let Ok(new) = new {
                patch.substitute(node.results[0], new[0]);
                patch.remove(id);
                patch.remove(NodeId(i as u32));
                patch.count();
            }
        }
    }
    patch.some()
}
