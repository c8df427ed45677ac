//! Kernels of products of matrices with the chains that follow them.
//!
//! The product is computed as it is alone. Each block of it that is written is taken through the chain
//! by the thread that wrote it, while the block is in a near cache: in its place, or, if the product is
//! a result, too, into the same elements of the other result.
//!
//! Invariant of the unsafe code: blocks of one product don't overlap, each is reached by one thread
//! alone until it has been taken through the chain, and its elements of both results are those of its
//! rows and columns.

use std::sync::Arc;

use ringfold_graph::op::{FusedProduct, Product};

use super::fused::{Operand, Program, Running};
use super::matmul::Products;
use super::{dense, matmul};
use crate::backend::RunArgs;
use crate::cpu::gemm::Block;
use crate::cpu::kernel::{Kernel, KernelOptions};
use crate::cpu::memory::{Operands, Results};
use crate::cpu::parallel::Shared;
use crate::element::Element;
use crate::plan::Call;

pub(crate) fn lower<T: Element>(
    op: &FusedProduct,
    call: &Call,
    options: KernelOptions,
) -> Arc<dyn Kernel<T>> {
    let products = match op.product {
        Product::Dense(dense) => dense::product(dense, op.operands, call, options),
        Product::MatMul(product) => matmul::stack(product, call, options),
    };
    let product = match op.keeps_product {
        true => Operand::Given,
        false => Operand::InPlace,
    };
    let others = call.operands.iter().skip(op.operands);
    let operands = [product].into_iter().chain(others.map(Operand::Apart));
    // All results have one shape.
    let program = Program::new(&op.chain, &call.results[0], operands);
    Arc::new(FusedProductKernel {
        products,
        program,
        keeps_product: op.keeps_product,
        offset: op.operands - 1,
    })
}

#[derive(Debug)]
struct FusedProductKernel {
    products: Products,
    program: Program,
    keeps_product: bool,
    /// Operand i of the chain, from 1 on, is the node's at i and this.
    offset: usize,
}

impl<T: Element> Kernel<T> for FusedProductKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
        let dst = results.take(0);
        let apart = self.keeps_product.then(|| Shared::new(results.take(1)));
        let columns = self.products.columns();
        let written = |first: usize, dst: &Shared<'_, T>, block: Block| {
            self.program
                .with(operands, self.offset, args, |mut program| {
                    // SAFETY: the block is this thread's.
                    unsafe { take(&mut program, dst, apart.as_ref(), &block, first, columns) };
                });
        };
        self.products.run(dst, operands, Some(&written));
    }
}

/// Takes a block through the chain. `first` is the element of the result with which the block's product
/// begins, which has so many `columns`.
///
/// # Safety
/// Nobody else reaches the block's elements of both slices.
unsafe fn take<T: Element>(
    program: &mut Running<'_, T>,
    dst: &Shared<'_, T>,
    apart: Option<&Shared<'_, T>>,
    block: &Block,
    first: usize,
    columns: usize,
) {
    let (rows, width) = (block.rows.len(), block.columns.len());
    // Whole rows without gaps are one piece.
    let (pieces, len) = match width == columns && block.stride == columns {
        true => (1, rows * width),
        false => (rows, width),
    };
    for piece in 0..pieces {
        let at = block.at + piece * block.stride;
        let start = first + (block.rows.start + piece) * columns + block.columns.start;
        // SAFETY: these are elements of the block, and the same ones of the other result.
        unsafe {
            let product = dst.range(at..at + len);
            match apart {
                Some(to) => program.piece(start, to.range(start..start + len), product),
                None => program.piece(start, product, &[]),
            }
        }
    }
}
