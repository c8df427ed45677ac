//! Kernels of scaled-dot-product attention (Dao: "FlashAttention-2: faster attention with better
//! parallelism and work partitioning", 2023, algorithms 1 and 2).
//!
//! Scores are computed in blocks of [`QUERIES`] × [`KEYS`]. Forward keeps for each query the largest
//! score m and the sum l of exp(score - m) so far, and scales what it has whenever m grows; it saves
//! m + log l. Backward computes the blocks again, key blocks outermost, and adds up the gradients of
//! keys and values, and those of the queries. The blocks and their order are fixed, so bits don't
//! depend on threads. Blocks wholly above the diagonal of a causal attention are skipped.
//!
//! With dropout the blocks of exp(score - m) are multiplied by their factors before they meet the
//! values, and the sums l are of what they were before. With F the factors, backward has dv = (P · F)ᵀ
//! dy and dP = F · (dy vᵀ); Σ P · dP of a row is still Σ y · dy.

mod backward;
mod drop;
mod forward;
mod geometry;
mod mask;

use std::sync::Arc;

use ringfold_graph::op::{Attention, AttentionGrad};

use self::backward::Backward;
use self::forward::Forward;
use self::geometry::Geometry;
use self::mask::Mask;
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::element::Element;
use crate::plan::Call;

/// Rows of a block of scores.
const QUERIES: usize = 64;
/// Columns of a block of scores.
const KEYS: usize = 64;
/// Units of work, at most: the parts are spread evenly over them.
const UNITS_MAX: usize = 8;

pub(crate) fn forward<T: Element>(
    op: Attention,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let geometry = Geometry::new(op, &shapes(call));
    let mask =
        (call.operands.len() > op.sources()).then(|| Mask::new(&geometry, call, op.sources()));
    Arc::new(Forward {
        geometry,
        mask,
        dropout: op.dropout,
        options,
    })
}

pub(crate) fn backward<T: Element>(
    op: AttentionGrad,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let sources = op.attention.sources();
    let geometry = Geometry::of_grad(op, &shapes(call));
    let mask = op.mask.then(|| Mask::new(&geometry, call, sources));
    Arc::new(Backward {
        geometry,
        mask,
        mask_gradient: op.mask_gradient,
        dropout: op.attention.dropout,
        options,
    })
}

/// The floats that forward needs for itself.
pub(crate) fn scratch_len(op: Attention, operands: &[Vec<usize>]) -> usize {
    let geometry = Geometry::new(op, operands);
    geometry.units() * FORWARD_SCRATCH
}

/// The floats that backward needs for itself.
pub(crate) fn grad_scratch_len(op: AttentionGrad, operands: &[Vec<usize>]) -> usize {
    let geometry = Geometry::of_grad(op, operands);
    geometry.units() * geometry.backward_scratch()
}

/// A block of scores; the largest score and the sum of each of its rows.
const FORWARD_SCRATCH: usize = QUERIES * KEYS + 2 * QUERIES;

fn shapes(call: &Call) -> Vec<Vec<usize>> {
    let operands = call.operands.iter();
    operands.map(|operand| operand.shape.clone()).collect()
}
