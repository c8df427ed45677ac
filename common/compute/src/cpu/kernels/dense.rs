//! Kernels of affine maps.

use std::sync::Arc;

use ringfold_graph::op::Dense;

use super::rows;
use crate::backend::RunArgs;
use crate::cpu::gemm::{MatMul, matmul, matmul_bias};
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(
    op: Dense,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
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
        Dense::GradInput => MatMul {
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
        Dense::GradBias => return Arc::new(ColumnSum),
    };
    Arc::new(AffineKernel { spec })
}

/// Result = lhs · rhs, plus the bias in every row.
#[derive(Debug)]
struct AffineKernel {
    spec: MatMul,
}

impl<T: Element> Kernel<T> for AffineKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let dst = results.take(0);
        let (lhs, rhs) = (operands.slice(0), operands.slice(1));
        match operands.len() {
            3 => matmul_bias(&self.spec, dst, lhs, rhs, operands.slice(2)),
            _ => matmul(&self.spec, dst, lhs, rhs),
        }
    }
}

#[derive(Debug)]
struct ColumnSum;

impl<T: Element> Kernel<T> for ColumnSum {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        rows::column_sum(results.take(0), operands.slice(0));
    }
}
