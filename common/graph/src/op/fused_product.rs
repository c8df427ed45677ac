//! A product of matrices with the chain of element-wise operators that follows it: what the pass
//! `epilogue` makes.

use super::fused::Fused;
use super::{Arg, Dense, MatMul, Op, Operator};
use crate::infer::{Inferred, Operands};
use crate::shape::TensorType;

/// The operators whose kernels are products of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// An affine map or a product of its gradient; not [`Dense::GradBias`], which is a sum.
    Dense(Dense),
    /// A product of matrices or of stacks of matrices.
    MatMul(MatMul),
}

impl Product {
    /// The product that an operator is.
    #[must_use]
    pub fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Dense(op) if *op != Dense::GradBias => Some(Self::Dense(*op)),
            Op::MatMul(op) => Some(Self::MatMul(*op)),
            _ => None,
        }
    }

    /// The operator of the product alone.
    #[must_use]
    pub fn op(self) -> Op {
        match self {
            Self::Dense(op) => op.into(),
            Self::MatMul(op) => op.into(),
        }
    }
}

/// `(operands of the product .., others ..) -> y` or `-> (product, y)`: a product, and a chain of
/// element-wise functions that is taken of each block of it while the block is at hand. Operand 0 of
/// the chain is the product; its others are what follows the product's operands. Made by a pass, after
/// differentiation; it has no gradient of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedProduct {
    /// The product.
    pub product: Product,
    /// The number of its operands.
    pub operands: usize,
    /// The product is read by others, too: it is the first result.
    pub keeps_product: bool,
    /// The chain, of the product's shape.
    pub chain: Fused,
}

impl Operator for FusedProduct {
    fn name(&self) -> &'static str {
        match self.product {
            Product::Dense(Dense::Affine) => "affine_fused",
            Product::Dense(Dense::GradInput) => "affine_grad_input_fused",
            Product::Dense(Dense::GradWeight) => "affine_grad_weight_fused",
            Product::Dense(Dense::GradBias) => "affine_grad_bias_fused",
            Product::MatMul(_) => "matmul_fused",
        }
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut attributes = self.product.op().operator().attributes();
        let printed = self.chain.printed(|operand| match operand.checked_sub(1) {
            None => "product".to_owned(),
            Some(other) => format!("a{}", self.operands + other),
        });
        attributes.push(("program", format!("{{ {printed} }}")));
        attributes
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let is_product = self.product != Product::Dense(Dense::GradBias);
        o.attribute("product", "a product of matrices", 0.0, is_product)?;
        o.count(self.operands, usize::MAX, "the product's and the chain's")?;
        let (own, others) = o.types().split_at(self.operands);
        let mut results = self.product.op().operator().infer(&o.with(own))?;
        let product = results[0].clone();
        let rank = self.chain.shape.rank() as f64;
        let fits = product.shape == self.chain.shape;
        o.attribute("program", "the product's shape", rank, fits)?;
        let args = self.chain.steps.iter().flat_map(|step| &step.args);
        let reads = args.filter(|arg| **arg == Arg::Operand(0)).count();
        o.attribute("program", "a step of the product", 0.0, reads > 0)?;
        let types: Vec<&TensorType> = [&product]
            .into_iter()
            .chain(others.iter().copied())
            .collect();
        let chained = self.chain.infer(&o.with(&types))?;
        if !self.keeps_product {
            results.clear();
        }
        results.extend(chained);
        Ok(results)
    }

    fn in_inference(&self) -> Option<Op> {
        let chain = self.chain.without_dropout()?;
        Some(
            Self {
                chain,
                ..self.clone()
            }
            .into(),
        )
    }

    fn is_random(&self) -> bool {
        self.chain.is_random()
    }
}
