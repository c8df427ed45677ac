//! Kernels of affine maps.

use std::sync::Arc;

use ringfold_graph::op::Dense;

use super::matmul::{ProductKernel, Products};
use super::rows;
use crate::backend::RunArgs;
use crate::cpu::gemm::MatMul;
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(
    op: Dense,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    match op {
        Dense::GradBias => Arc::new(ColumnSum),
        _ => Arc::new(ProductKernel(product(
            op,
            call.operands.len(),
            call,
            options,
        ))),
    }
}

/// The product of an operator that isn't [`Dense::GradBias`], of a call whose first `operands` operands
/// and first result are those of `op`.
pub(super) fn product(op: Dense, operands: usize, call: &Call, options: KernelOptions) -> Products {
    let rows = |operand: usize| -> usize {
        let dims = &call.operands[operand].shape;
        dims[..dims.len() - 1].iter().product()
    };
    let columns = |operand: usize| -> usize {
        let last = call.operands[operand].shape.last();
        last.copied().unwrap_or(1)
    };
    let product = MatMul {
        m: rows(0),
        n: 0,
        k: 0,
        lhs_transposed: false,
        rhs_transposed: false,
        accumulate: false,
        threads: options.threads,
        precision: options.precision,
    };
    let spec = match op {
        Dense::Affine => MatMul {
            n: rows(1),
            k: columns(0),
            rhs_transposed: true,
            ..product
        },
        Dense::GradInput | Dense::GradBias => MatMul {
            n: columns(1),
            k: columns(0),
            ..product
        },
        Dense::GradWeight => MatMul {
            m: columns(0),
            n: columns(1),
            k: rows(0),
            lhs_transposed: true,
            ..product
        },
    };
    Products::one(spec, op == Dense::Affine && operands == 3)
}

#[derive(Debug)]
struct ColumnSum;

impl<T: Element> Kernel<T> for ColumnSum {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        rows::column_sum(results.take(0), operands.slice(0));
    }
}
