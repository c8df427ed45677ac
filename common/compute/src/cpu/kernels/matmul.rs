//! Products of matrices and of stacks of matrices.

use std::sync::Arc;

use ringfold_graph::op;

use super::broadcast::{Walk, strides_to};
use crate::backend::RunArgs;
use crate::cpu::gemm::{Block, MatMul, matmul_then};
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::Shared;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(
    op: op::MatMul,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    Arc::new(ProductKernel(stack(op, call, options)))
}

/// The products of a stack, of a call whose first operands and first result are those of `op`.
pub(super) fn stack(op: op::MatMul, call: &Call, options: KernelOptions) -> Products {
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
        return Products::one(spec, false);
    }
    let walk = Walk::new(&to, [&a, &b]);
    let mut pairs = Vec::new();
    walk.runs(|_, [i, j]| {
        let [step_a, step_b] = walk.steps();
        pairs.extend((0..walk.run()).map(|l| ((i + l * step_a) * m * k, (j + l * step_b) * k * n)));
    });
    Products {
        spec,
        pairs,
        has_bias: false,
    }
}

/// A product, or those of a stack: result = lhs · rhs, plus the bias in every row.
#[derive(Debug)]
pub(super) struct Products {
    spec: MatMul,
    /// The first elements of both operands, a pair a product.
    pairs: Vec<(usize, usize)>,
    /// Operand 2 is a bias.
    has_bias: bool,
}

/// What is done with the blocks of products as soon as they are written, each with the first element of
/// its product in the result. See [`crate::cpu::gemm::Written`].
pub(super) type WrittenOf<'a, T> = &'a (dyn Fn(usize, &Shared<'_, T>, Block) + Sync);

impl Products {
    /// A single product.
    pub(super) fn one(spec: MatMul, has_bias: bool) -> Self {
        Self {
            spec,
            pairs: vec![(0, 0)],
            has_bias,
        }
    }

    /// Columns of the result.
    pub(super) fn columns(&self) -> usize {
        self.spec.n
    }

    /// Writes the result; then `written` takes its blocks.
    pub(super) fn run<T: Element>(
        &self,
        dst: &mut [T],
        operands: &Operands<'_, T>,
        written: Option<WrittenOf<'_, T>>,
    ) {
        let (a, b) = (operands.slice(0), operands.slice(1));
        let bias = self.has_bias.then(|| operands.slice(2));
        let MatMul { m, n, k, .. } = self.spec;
        for (i, (dst, &(a_at, b_at))) in dst.chunks_exact_mut(m * n).zip(&self.pairs).enumerate() {
            let sides = [&a[a_at..a_at + m * k], &b[b_at..b_at + k * n]];
            let Some(written) = written else {
                matmul_then(&self.spec, dst, sides, bias, None);
                continue;
            };
            let then = |dst: &Shared<'_, T>, block: Block| written(i * m * n, dst, block);
            matmul_then(&self.spec, dst, sides, bias, Some(&then));
        }
    }
}

#[derive(Debug)]
pub(super) struct ProductKernel(pub Products);

impl<T: Element> Kernel<T> for ProductKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, _: &RunArgs) {
        self.0.run(results.take(0), operands, None);
    }
}
