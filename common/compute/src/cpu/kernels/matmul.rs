//! Products of matrices and of stacks of matrices.

use std::sync::Arc;

use ringfold_graph::op;

use super::broadcast::{Walk, strides_to};
use crate::backend::RunArgs;
use crate::cpu::gemm::{MatMul, matmul};
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(
    op: op::MatMul,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let split = |shape: &[usize]| -> (Vec<usize>, usize, usize) {
        let (leading, matrix) = shape.split_at(shape.len() - 2);
        (leading.to_vec(), matrix[0], matrix[1])
    };
    let (a, a_rows, a_columns) = split(&call.operands[0].shape);
    let (b, _, _) = split(&call.operands[1].shape);
    let (to, m, n) = split(&call.results[0].shape);
    let k = if op.a_transposed { a_rows } else { a_columns };
    let mut spec = MatMul {
        m,
        n,
        k,
        lhs_transposed: op.a_transposed,
        rhs_transposed: op.b_transposed,
        accumulate: false,
        threads: options.threads,
        precision: options.precision,
    };
    let b_is_one = strides_to(&b, &to).iter().all(|&stride| stride == 0);
    if a == to && b_is_one && !op.a_transposed {
        // One matrix for the whole stack: the stack is one tall matrix.
        spec.m *= to.iter().product::<usize>();
        return Arc::new(MatMulKernel {
            spec,
            pairs: vec![(0, 0)],
        });
    }
    let walk = Walk::new(&to, [&a, &b]);
    let mut pairs = Vec::new();
    walk.runs(|_, [i, j]| {
        let [step_a, step_b] = walk.steps();
        pairs.extend((0..walk.run()).map(|l| ((i + l * step_a) * m * k, (j + l * step_b) * k * n)));
    });
    Arc::new(MatMulKernel { spec, pairs })
}

/// One product for each pair of first elements.
#[derive(Debug)]
struct MatMulKernel {
    spec: MatMul,
    pairs: Vec<(usize, usize)>,
}

impl<T: Element> Kernel<T> for MatMulKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        let (dst, a, b) = (results.take(0), operands.slice(0), operands.slice(1));
        let MatMul { m, n, k, .. } = self.spec;
        for (dst, &(i, j)) in dst.chunks_exact_mut(m * n).zip(&self.pairs) {
            matmul(&self.spec, dst, &a[i..i + m * k], &b[j..j + k * n]);
        }
    }
}
