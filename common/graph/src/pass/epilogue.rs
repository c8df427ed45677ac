//! A chain of element-wise nodes becomes part of the product of matrices that it follows: a bias, an
//! activation, dropout, a residual, the mask of an activation's gradient. The kernel takes it of each
//! block of the product while the block is in a near cache. Exact: each step does what the node did.
//!
//! The new node stands where the product stood, so the chain's other operands must be there by then: of
//! two products that a chain reads, it joins the later one. A product that others read, too, such as
//! what the gradient of an activation needs, is a result besides; then the chain must follow the
//! product at once, or its result would take memory for longer. A chain of the backward part doesn't
//! join a product of the forward part: the place of what was to be computed again would be for nothing.

use super::fuse::is_elementwise;
use super::uses::{Uses, backward_start, definer};
use super::{PassContext, Patch};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Arg, FUSED_OPERANDS_MAX, Function, Fused, FusedProduct, Op, Product, Step};

pub(super) fn run(graph: &Graph, _: &PassContext) -> Option<Patch> {
    let finding = Finding {
        graph,
        uses: Uses::new(graph),
        backward_start: backward_start(graph),
    };
    let mut patch = Patch::new("element-wise chains -> parts of products", graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        let root = NodeId(i as u32);
        let Some(found) = finding.product_of(root, node) else {
            continue;
        };
        // Another chain may have joined it.
        if patch.removes(found.id) {
            continue;
        }
        let added = patch.node(graph, found.id, found.op, &found.operands);
        debug_assert!(added.is_ok(), "{added:?}");
        let Ok(added) = added else { continue };
        if let [product, _] = added[..] {
            patch.substitute(found.result, product);
        }
        patch.substitute(node.results[0], added[added.len() - 1]);
        patch.remove(found.id);
        patch.remove(root);
        patch.count();
    }
    patch.some()
}

/// A product that a chain can join.
struct Found {
    id: NodeId,
    /// What the product alone gives.
    result: ValueId,
    op: FusedProduct,
    operands: Vec<ValueId>,
}

struct Finding<'a> {
    graph: &'a Graph,
    uses: Uses,
    backward_start: usize,
}

impl Finding<'_> {
    /// The product that the chain `root` can join.
    fn product_of(&self, root: NodeId, chain: &Node) -> Option<Found> {
        if !is_elementwise(chain) {
            return None;
        }
        let operands = chain.operands.iter();
        let defined = operands.filter_map(|&value| Some((definer(self.graph, value)?, value)));
        let ((id, node), result) = defined.max_by_key(|&((id, _), _)| id)?;
        let product = Product::of(&node.op)?;
        let ty = |value: ValueId| &self.graph.value(value).ty;
        let is_forward = |id: NodeId| (id.0 as usize) < self.backward_start;
        let keeps_product = self
            .uses
            .readers(result)
            .iter()
            .any(|&reader| reader != root)
            || self.uses.is_kept(result);
        if ty(result) != ty(chain.results[0])
            || is_forward(id) != is_forward(root)
            || self.uses.is_gradient(result)
            || keeps_product && !self.follows(id, root)
            || self.uses.is_gradient(chain.results[0]) && self.passes_gradients(id, root)
        {
            return None;
        }
        let (steps, others) = joined(chain, result)?;
        let shape = ty(result).shape.clone();
        Some(Found {
            id,
            result,
            op: FusedProduct {
                product,
                operands: node.operands.len(),
                keeps_product,
                chain: Fused { shape, steps },
            },
            operands: node.operands.iter().copied().chain(others).collect(),
        })
    }

    /// The nodes between two.
    fn between(&self, first: NodeId, last: NodeId) -> &[Node] {
        &self.graph.nodes[first.0 as usize + 1..last.0 as usize]
    }

    /// True if nothing is computed between the two nodes.
    fn follows(&self, product: NodeId, root: NodeId) -> bool {
        let between = self.between(product, root);
        between.iter().all(|node| node.op.is_view())
    }

    /// True if a gradient would come after a later one.
    fn passes_gradients(&self, product: NodeId, root: NodeId) -> bool {
        let mut results = self.between(product, root).iter().flat_map(|n| &n.results);
        results.any(|&value| self.uses.is_gradient(value))
    }
}

/// The steps of a chain whose operand 0 is the product, and its other operands; `None` if they are too
/// many.
fn joined(chain: &Node, product: ValueId) -> Option<(Vec<Step>, Vec<ValueId>)> {
    let mut others: Vec<ValueId> = Vec::new();
    let mut number = |value: ValueId| {
        if value == product {
            return 0;
        }
        let known = others.iter().position(|&other| other == value);
        1 + known.unwrap_or_else(|| {
            others.push(value);
            others.len() - 1
        })
    };
    let numbers = chain.operands.iter().map(|&value| number(value));
    let numbers: Vec<usize> = numbers.collect();
    let steps = match (&chain.op, Function::of(&chain.op)) {
        (Op::Fused(fused), _) => {
            let mut steps = fused.steps.clone();
            for arg in steps.iter_mut().flat_map(|step| &mut step.args) {
                if let Arg::Operand(operand) = arg {
                    *operand = numbers[*operand];
                }
            }
            steps
        }
        (_, Some(function)) => {
            let args = numbers.into_iter().map(Arg::Operand).collect();
            vec![Step { function, args }]
        }
        _ => return None,
    };
    (others.len() < FUSED_OPERANDS_MAX).then_some((steps, others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differentiate;
    use crate::graph::OutputRole;
    use crate::init::Initialiser;
    use crate::op::{Binary, Dense, Dropout, MatMul, MeanSquaredError, Unary};
    use crate::pass::{Mode, optimise};
    use crate::shape::{DType, Shape, TensorType};

    fn graph(width: usize) -> (Graph, ValueId) {
        let mut graph = Graph::new("g", DType::F32).unwrap();
        let ty = TensorType::new(DType::F32, Shape::batched(&[width]));
        let x = graph.add_input("x", ty).unwrap();
        (graph, x)
    }

    fn parameter(graph: &mut Graph, name: &str, dims: &[usize]) -> ValueId {
        graph
            .add_parameter(name, Shape::fixed(dims), Initialiser::Zeros)
            .unwrap()
    }

    /// The operators after the passes for a mode, each with its operands.
    fn nodes(graph: &Graph, mode: Mode) -> Vec<String> {
        let optimised = optimise(graph, mode).unwrap().graph;
        let nodes = optimised.nodes().iter().map(|node| {
            let values = node.operands.iter().map(ToString::to_string);
            let values: Vec<String> = values.collect();
            format!("{}({})", node.op, values.join(", "))
        });
        nodes.collect()
    }

    /// An activation, dropout and a residual; the gradient of the layer below.
    #[test]
    fn what_follows_a_product_becomes_part_of_it() {
        let (mut graph, x) = graph(4);
        let mut h = x;
        for i in 0..2 {
            let w = parameter(&mut graph, &format!("w{i}"), &[4, 4]);
            let y = graph.apply(Dense::Affine, &[h, w]).unwrap();
            let y = graph.apply(Unary::Relu, &[y]).unwrap();
            let dropout = Dropout { rate: 0.5, key: i };
            let y = graph.apply(dropout, &[y]).unwrap();
            h = graph.apply(Binary::Add, &[h, y]).unwrap();
        }
        graph.add_output("h", OutputRole::Prediction, h).unwrap();
        let loss = graph.apply(MeanSquaredError::Loss, &[h, x]).unwrap();
        graph.add_output("loss", OutputRole::Loss, loss).unwrap();
        let graph = differentiate(&graph, "loss").unwrap();
        let predicted = [
            "affine_fused<program={ t0 = relu(product); t1 = add(a2, t0) }>(%0, %1, %0)",
            "affine_fused<program={ t0 = relu(product); t1 = add(a2, t0) }>(%4, %2, %4)",
        ];
        assert_eq!(nodes(&graph, Mode::Prediction), predicted);
        // The gradient of ReLU reads its result, which dropout reads, too.
        let trained = nodes(&graph, Mode::Training);
        assert_eq!(trained.len(), 10);
        assert_eq!(
            trained[0],
            "affine_fused<program={ t0 = relu(product) }>(%0, %1)"
        );
        let below = "affine_grad_input_fused<program={ t0 = add(a2, product); \
                     t1 = dropout<rate=0.5, key=0>(t0); t2 = relu_grad(a3, t1) }>(%10, %2, %9, %4)";
        assert_eq!(trained[8], below);
    }

    #[test]
    fn a_product_that_others_read_is_a_result_too() {
        let (mut graph, x) = graph(4);
        let w = parameter(&mut graph, "w", &[3, 4]);
        let b = parameter(&mut graph, "b", &[3]);
        let y = graph.apply(Dense::Affine, &[x, w, b]).unwrap();
        let h = graph.apply(Unary::Gelu, &[y]).unwrap();
        graph.add_output("y", OutputRole::Prediction, y).unwrap();
        graph.add_output("h", OutputRole::Prediction, h).unwrap();
        let optimised = optimise(&graph, Mode::Prediction).unwrap().graph;
        let [node] = optimised.nodes() else {
            panic!("{optimised}")
        };
        assert_eq!(
            node.op.to_string(),
            "affine_fused<program={ t0 = gelu(product) }>"
        );
        let named: Vec<ValueId> = optimised.outputs().iter().map(|o| o.value).collect();
        assert_eq!(named, node.results);
        // Another node stands between: its operands would be needed for longer.
        let (mut graph, x) = self::graph(4);
        let w = parameter(&mut graph, "w", &[4, 4]);
        let y = graph.apply(Dense::Affine, &[x, w]).unwrap();
        let softmax = crate::op::Softmax::Plain { axis: 1 };
        let p = graph.apply(softmax, &[x]).unwrap();
        let h = graph.apply(Unary::Gelu, &[y]).unwrap();
        for (name, value) in [("y", y), ("p", p), ("h", h)] {
            graph
                .add_output(name, OutputRole::Prediction, value)
                .unwrap();
        }
        let kept = nodes(&graph, Mode::Prediction);
        assert_eq!(kept, ["affine(%0, %1)", "softmax<axis=1>(%0)", "gelu(%2)"]);
    }

    #[test]
    fn of_two_products_a_chain_joins_the_later_one() {
        let (mut graph, x) = graph(4);
        let [a, b] = ["a", "b"].map(|name| {
            let w = parameter(&mut graph, name, &[4, 3]);
            graph.apply(MatMul::default(), &[x, w]).unwrap()
        });
        let gate = graph.apply(Unary::Silu, &[a]).unwrap();
        let y = graph.apply(Binary::Mul, &[gate, b]).unwrap();
        graph.add_output("y", OutputRole::Prediction, y).unwrap();
        let expected = [
            "matmul(%0, %1)",
            "matmul_fused<program={ t0 = silu(a2); t1 = mul(t0, product) }>(%0, %2, %3)",
        ];
        assert_eq!(nodes(&graph, Mode::Prediction), expected);
        // A larger result than the product's is no epilogue.
        let (mut graph, x) = self::graph(4);
        let w = parameter(&mut graph, "w", &[4, 1]);
        let y = graph.apply(MatMul::default(), &[x, w]).unwrap();
        let y = graph.apply(Binary::Add, &[y, x]).unwrap();
        graph.add_output("y", OutputRole::Prediction, y).unwrap();
        let kept = nodes(&graph, Mode::Prediction);
        assert_eq!(kept, ["matmul(%0, %1)", "add(%2, %0)"]);
    }

    #[test]
    fn gradients_stay_in_order_and_chains_on_their_side() {
        let (mut graph, x) = graph(4);
        // A weight that is used twice: its gradient is the sum of two products.
        let w = parameter(&mut graph, "w", &[4, 4]);
        let mut h = x;
        for _ in 0..2 {
            h = graph.apply(Dense::Affine, &[h, w]).unwrap();
            h = graph.apply(Unary::Softplus, &[h]).unwrap();
        }
        let loss = graph.apply(MeanSquaredError::Loss, &[h, x]).unwrap();
        graph.add_output("loss", OutputRole::Loss, loss).unwrap();
        let graph = differentiate(&graph, "loss").unwrap();
        let trained = nodes(&graph, Mode::Training);
        let starts = [
            "affine_fused<program={ t0 = softplus(product) }>",
            "affine_fused<program={ t0 = softplus(product) }>",
            "mean_squared_error(",
            "mean_squared_error_grad(",
            "softplus_grad(",
            "affine_grad_weight(",
            "affine_grad_input_fused<program={ t0 = softplus_grad(a2, product) }>",
            "affine_grad_weight_fused<program={ t0 = add(",
        ];
        assert_eq!(trained.len(), starts.len(), "{trained:?}");
        for (node, start) in trained.iter().zip(starts) {
            assert!(node.starts_with(start), "{node}: {start}");
        }
    }

    #[test]
    fn broken_parts_are_refused() {
        let (mut graph, x) = graph(4);
        let w = parameter(&mut graph, "w", &[4, 4]);
        let step = |args: &[Arg]| Step {
            function: Function::Binary(Binary::Add),
            args: args.to_vec(),
        };
        let good = FusedProduct {
            product: Product::MatMul(MatMul::default()),
            operands: 2,
            keeps_product: true,
            chain: Fused {
                shape: Shape::batched(&[4]),
                steps: vec![step(&[Arg::Operand(0), Arg::Operand(1)])],
            },
        };
        let results = graph.apply_all(good.clone(), &[x, w, x]).unwrap();
        assert_eq!(results.len(), 2);
        let bad = |change: &dyn Fn(&mut FusedProduct)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        for broken in [
            bad(&|op| op.product = Product::Dense(Dense::GradBias)),
            bad(&|op| op.operands = 4),
            bad(&|op| op.operands = 1),
            bad(&|op| op.chain.shape = Shape::batched(&[5])),
            bad(&|op| op.chain.steps = vec![step(&[Arg::Operand(1); 2])]),
            bad(&|op| op.chain.steps = vec![step(&[Arg::Operand(0), Arg::Operand(2)])]),
        ] {
            let refused = graph.apply_all(broken.clone(), &[x, w, x]);
            assert!(refused.is_err(), "{broken:?}");
        }
    }
}
