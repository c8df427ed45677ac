//! Algebra, stable forms, and moves that cancel.
//!
//! | rule | bits |
//! |---|---|
//! | `log(softmax x)` is `log_softmax x` | change, towards the true value |
//! | `log(1 + exp x)` is `softplus x` | change, towards the true value |
//! | `log(sigmoid x)` is `-softplus(-x)` | change, towards the true value |
//! | `x · 1`, `x / 1`, `x - 0`, `x + 0`, `x ^ 1` are `x` | same, but `-0 + 0` stays `-0` |
//! | a copy, a move that moves nothing, a cast to the same type are `x` | same |
//! | `-(-x)` is `x` | same |
//! | a transpose of a transpose, a reshape of a reshape are one | same |
//! | `x · c` and, for a power of two, `x / c` are a scale | same |
//! | `x ^ 2` is `x · x` | may change the last one, towards the true value |
//!
//! Division by another constant is never turned into a product: its bits would change for the worse.
//!
//! A rule that looks through a value drops it only if nothing else reads it. In a graph that will be
//! differentiated, the stable forms are taken even if something does: the value stays for the others.

use std::collections::BTreeSet;

use super::uses::{Uses, definer};
use super::{PassContext, Patch};
use crate::graph::{ConstantData, Graph, Node, NodeId, ValueId};
use crate::op::{Binary, Dropout, Op, Reshape, Softmax, Transpose, Unary};

/// A node to which a rule may apply.
struct Site<'a> {
    graph: &'a Graph,
    uses: &'a Uses,
    patch: &'a mut Patch,
    id: NodeId,
    node: &'a Node,
    /// The graph will be differentiated.
    is_forward: bool,
}

/// What stands for the node's result, if the rule applies.
type Rule = fn(&mut Site<'_>) -> Option<ValueId>;

const RULES: [(&str, Rule); 9] = [
    ("log(softmax x) -> log_softmax x", log_softmax),
    ("log(1 + exp x) -> softplus x", softplus),
    ("log(sigmoid x) -> -softplus(-x)", log_sigmoid),
    ("x * 1, x / 1, x - 0, x + 0, x ^ 1 -> x", neutral),
    ("copies and moves of nothing -> x", copy),
    ("-(-x) -> x", double_negation),
    ("moves of moves -> one move", moves),
    ("x * c, x / 2^k -> scale", scale),
    ("x ^ 2 -> x * x", square),
];

/// The first rule that applies anywhere, wherever it applies.
pub(super) fn run(graph: &Graph, context: &PassContext) -> Option<Patch> {
    let uses = Uses::new(graph);
    let patches = RULES
        .iter()
        .map(|&(label, rule)| apply(graph, context, &uses, label, rule));
    patches.flatten().next()
}

fn apply(
    graph: &Graph,
    context: &PassContext,
    uses: &Uses,
    label: &'static str,
    rule: Rule,
) -> Option<Patch> {
    let mut patch = Patch::new(label, graph);
    // Sites of one patch share no node: each is judged by the graph as it was.
    let mut touched: BTreeSet<NodeId> = BTreeSet::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let id = NodeId(i as u32);
        let around = node.operands.iter().flat_map(|&v| definer(graph, v));
        let mut here: Vec<NodeId> = around.map(|(id, _)| id).collect();
        here.push(id);
        if node.results.len() != 1 || here.iter().any(|id| touched.contains(id)) {
            continue;
        }
        let new = rule(&mut Site {
            graph,
            uses,
            patch: &mut patch,
            id,
            node,
            is_forward: context.mode.is_none(),
        });
        if let Some(new) = new {
            patch.substitute(node.results[0], new);
            patch.remove(id);
            patch.count();
            touched.extend(here);
            // What stands for the result is read by those who read the result.
            touched.extend(uses.readers(node.results[0]));
        }
    }
    patch.some()
}

impl<'a> Site<'a> {
    fn operand(&self, operand: usize) -> Option<ValueId> {
        self.node.operands.get(operand).copied()
    }

    /// The operator and operands that define an operand.
    fn inner(&self, operand: usize) -> Option<(&'a Op, &'a [ValueId])> {
        self.define(self.operand(operand)?)
    }

    fn define(&self, value: ValueId) -> Option<(&'a Op, &'a [ValueId])> {
        let (_, node) = definer(self.graph, value)?;
        Some((&node.op, &node.operands))
    }

    /// True if looking through an operand saves its node, or is worth it anyway.
    fn may_look_through(&self, operand: usize) -> bool {
        let value = self.node.operands[operand];
        self.is_forward || self.uses.is_single(value)
    }

    /// True if the result has the type of a value, which may stand for it.
    fn is_like(&self, value: ValueId) -> bool {
        let result = self.node.results[0];
        self.graph.value(value).ty == self.graph.value(result).ty
            && self.uses.may_substitute(self.graph, result, value)
    }

    /// The number that every element of a constant is.
    fn number(&self, value: ValueId) -> Option<f64> {
        let constants = self.graph.constants.iter();
        let constant = constants
            .into_iter()
            .find(|constant| constant.value == value)?;
        match &constant.data {
            ConstantData::Float(data) => {
                let first = *data.first()?;
                let same = |x: &f64| x.to_bits() == first.to_bits();
                data.iter().all(same).then_some(first)
            }
            _ => None,
        }
    }

    fn emit(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Option<ValueId> {
        let results = self.patch.node(self.graph, self.id, op, operands);
        debug_assert!(results.is_ok(), "{results:?}");
        results.ok().map(|results| results[0])
    }
}

fn log_softmax(site: &mut Site<'_>) -> Option<ValueId> {
    let (Op::Unary(Unary::Log), Some((Op::Softmax(Softmax::Plain { axis }), inner))) =
        (&site.node.op, site.inner(0))
    else {
        return None;
    };
    let found = site.may_look_through(0);
    let axis = *axis;
    found.then(|| site.emit(Softmax::Log { axis }, &[inner[0]]))?
}

fn softplus(site: &mut Site<'_>) -> Option<ValueId> {
    let (Op::Unary(Unary::Log), Some((Op::Binary(Binary::Add), sum))) =
        (&site.node.op, site.inner(0))
    else {
        return None;
    };
    let one_of = |exponential: ValueId, one: ValueId| match site.define(exponential)? {
        (Op::Unary(Unary::Exp), x) if site.number(one) == Some(1.0) => Some(x[0]),
        _ => None,
    };
    let x = one_of(sum[0], sum[1]).or_else(|| one_of(sum[1], sum[0]))?;
    let same = site.graph.value(x).ty == site.graph.value(site.node.results[0]).ty;
    (same && site.may_look_through(0)).then(|| site.emit(Unary::Softplus, &[x]))?
}

fn log_sigmoid(site: &mut Site<'_>) -> Option<ValueId> {
    let (Op::Unary(Unary::Log), Some((Op::Unary(Unary::Sigmoid), x))) =
        (&site.node.op, site.inner(0))
    else {
        return None;
    };
    if !site.may_look_through(0) {
        return None;
    }
    let minus = site.emit(Unary::Neg, &[x[0]])?;
    let softplus = site.emit(Unary::Softplus, &[minus])?;
    site.emit(Unary::Neg, &[softplus])
}

fn neutral(site: &mut Site<'_>) -> Option<ValueId> {
    let Op::Binary(op) = site.node.op else {
        return None;
    };
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let is = |value: ValueId, number: f64| site.number(value) == Some(number);
    let left = match op {
        Binary::Mul | Binary::Div | Binary::Pow => is(b, 1.0),
        Binary::Add | Binary::Sub => is(b, 0.0),
        Binary::Min | Binary::Max | Binary::Fmod | Binary::Mod => false,
    };
    if left && site.is_like(a) {
        return Some(a);
    }
    let right = match op {
        Binary::Mul => is(a, 1.0),
        Binary::Add => is(a, 0.0),
        _ => false,
    };
    (right && site.is_like(b)).then_some(b)
}

fn copy(site: &mut Site<'_>) -> Option<ValueId> {
    let x = site.operand(0)?;
    let moves_nothing = match &site.node.op {
        Op::Unary(Unary::Identity | Unary::Scale { factor: 1.0 }) => true,
        Op::Dropout(Dropout { rate, .. }) => *rate == 0.0,
        Op::Reshape(_) | Op::Expand(_) | Op::SumTo(_) | Op::Cast(_) => true,
        Op::Transpose(op) => op.order.iter().copied().eq(0..op.order.len()),
        Op::Slice(op) => op.start == 0 && op.step == 1,
        Op::Pad(op) => op.before == 0 && op.after == 0,
        Op::Concat(_) => site.node.operands.len() == 1,
        _ => false,
    };
    // A move between equal types moves nothing.
    (moves_nothing && site.is_like(x)).then_some(x)
}

fn double_negation(site: &mut Site<'_>) -> Option<ValueId> {
    let (Op::Unary(Unary::Neg), Some((Op::Unary(Unary::Neg), inner))) =
        (&site.node.op, site.inner(0))
    else {
        return None;
    };
    let x = inner[0];
    site.is_like(x).then_some(x)
}

fn moves(site: &mut Site<'_>) -> Option<ValueId> {
    let (op, inner) = site.inner(0)?;
    let x = inner[0];
    match (&site.node.op, op) {
        (Op::Transpose(outer), Op::Transpose(first)) => {
            let order: Vec<usize> = outer.order.iter().map(|&axis| first.order[axis]).collect();
            if order.iter().copied().eq(0..order.len()) && site.is_like(x) {
                return Some(x);
            }
            let found = site.uses.is_single(site.node.operands[0]);
            found.then(|| site.emit(Transpose { order }, &[x]))?
        }
        (Op::Reshape(outer), Op::Reshape(_)) => {
            if site.is_like(x) {
                return Some(x);
            }
            let shape = outer.shape.clone();
            site.emit(Reshape { shape }, &[x])
        }
        _ => None,
    }
}

fn scale(site: &mut Site<'_>) -> Option<ValueId> {
    let (a, b) = (site.operand(0)?, site.operand(1)?);
    let (x, factor) = match (&site.node.op, site.number(a), site.number(b)) {
        (Op::Binary(Binary::Mul), _, Some(c)) => (a, c),
        (Op::Binary(Binary::Mul), Some(c), _) => (b, c),
        (Op::Binary(Binary::Div), _, Some(c)) => {
            // The reciprocal is exact, and so is the product unless the quotient isn't.
            let mantissa = c.to_bits() & ((1 << 52) - 1);
            let is_power = mantissa == 0 && (2f64.powi(-64)..=2f64.powi(64)).contains(&c.abs());
            (a, is_power.then_some(1.0 / c)?)
        }
        _ => return None,
    };
    let same = site.graph.value(x).ty == site.graph.value(site.node.results[0]).ty;
    (same && factor.is_finite()).then(|| site.emit(Unary::Scale { factor }, &[x]))?
}

fn square(site: &mut Site<'_>) -> Option<ValueId> {
    let (x, exponent) = (site.operand(0)?, site.operand(1)?);
    let fits = site.node.op == Op::Binary(Binary::Pow)
        && site.number(exponent) == Some(2.0)
        && site.graph.value(x).ty == site.graph.value(site.node.results[0]).ty;
    fits.then(|| site.emit(Binary::Mul, &[x, x]))?
}
