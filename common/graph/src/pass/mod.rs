//! Passes: rewritings of a graph that leave its meaning.
//!
//! # Contract
//! - A *pass* is a pure function of a graph and a [`PassContext`] that returns a labelled [`Patch`],
//!   or nothing. It doesn't change the graph; [`Patch::apply`] does, and [`Graph::verify`] runs on
//!   what comes of it.
//! - [`optimise`] runs the passes in the order of [`PASSES`], each until it has nothing more to do, and
//!   the simplifying ones in rounds until none has. The result depends on graph and context alone.
//!   Optimising what was optimised changes nothing.
//! - Inputs, parameters and states stay, in their order. So do the gradients, which stay in
//!   gradient-ready order. Outputs that the mode doesn't compute go.
//! - Random operators are neither merged nor reordered against their keys: masks stay those of the
//!   unoptimised graph.
//! - A run of the optimised graph gives the same numbers. Passes marked *exact* give the same bits,
//!   but for the sign of a zero (`x + 0`). The stable rewrites ([`rewrite`] lists them) change the
//!   last bits, towards the true value.
//!
//! | pass | what it does | exact |
//! |---|---|---|
//! | `specialise` | cuts outputs, gradients and updates that the mode doesn't compute; dropout is gone in inference | yes |
//! | [`fold`] | computes what depends on constants alone, where the result's bits are those of a kernel | yes |
//! | [`rewrite`] | algebra, stable forms, moves that cancel | as listed there |
//! | [`merge`] | one node for nodes that compute the same | yes |
//! | `dead` | drops what nobody reads | yes |
//! | `conv_relu` | ReLU becomes part of the convolution that it follows | yes |
//! | [`fuse`] | one node for a chain of element-wise nodes | yes |
//! | [`epilogue`] | a chain becomes part of the product of matrices that it follows | yes |
//!
//! [`simplify`] runs the passes up to `dead` on a graph that isn't differentiated, without cutting
//! anything: the stable forms are then what is differentiated. [`recompute`] isn't one of the
//! passes: whoever plans memory chooses its values.

mod conv_relu;
mod dead;
pub mod epilogue;
pub mod fold;
pub mod fuse;
pub mod merge;
mod patch;
pub mod recompute;
pub mod rewrite;
mod specialise;
#[cfg(test)]
mod tests;
pub(crate) mod uses;

use std::fmt;

pub use self::patch::Patch;
use crate::error::GraphError;
use crate::graph::{Graph, NodeId, OutputRole};

/// What a graph is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Losses, predictions and gradients; dropout is on.
    Training,
    /// Losses and predictions; dropout is off.
    Evaluation,
    /// Predictions and their derived forms; dropout is off, labels aren't read.
    Prediction,
}

impl Mode {
    /// True if the mode computes outputs of this role.
    #[must_use]
    pub fn computes(self, role: OutputRole) -> bool {
        match role {
            OutputRole::Loss => self != Self::Prediction,
            OutputRole::Prediction => true,
            OutputRole::Derived => self == Self::Prediction,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Training => "training",
            Self::Evaluation => "evaluation",
            Self::Prediction => "prediction",
        })
    }
}

/// What passes know besides the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassContext {
    /// What the graph will be run for; `None`: it will be differentiated, and every output stays.
    pub mode: Option<Mode>,
}

/// A pass with its name.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// The name in records and dumps.
    pub name: &'static str,
    /// What it would change.
    pub run: fn(&Graph, &PassContext) -> Option<Patch>,
}

/// The passes that simplify; they run in rounds, in this order, until none has a patch.
pub const SIMPLIFYING: [Pass; 5] = [
    Pass {
        name: "specialise",
        run: specialise::run,
    },
    Pass {
        name: "fold",
        run: fold::run,
    },
    Pass {
        name: "rewrite",
        run: rewrite::run,
    },
    Pass {
        name: "merge",
        run: merge::run,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// The passes that make larger nodes; they run after those that simplify.
pub const FUSING: [Pass; 4] = [
    Pass {
        name: "conv_relu",
        run: conv_relu::run,
    },
    Pass {
        name: "fuse",
        run: fuse::run,
    },
    Pass {
        name: "epilogue",
        run: epilogue::run,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// The most patches of one pass in one round, and the most rounds: a pass that goes on is stopped
/// there. Each patch leaves a graph that is right, so stopping is safe.
pub const PATCHES_MAX: usize = 64;

/// A patch that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pass.
    pub pass: &'static str,
    /// What the patch did.
    pub label: &'static str,
    /// At how many places.
    pub sites: usize,
    /// Nodes before it.
    pub nodes_before: usize,
    /// Nodes after it.
    pub nodes_after: usize,
    /// The nodes that it took away, as the graph before it numbers them.
    pub removed: Vec<Touched>,
    /// The nodes that it put in, as the graph after it numbers them.
    pub added: Vec<Touched>,
}

/// A node of which a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Its number.
    pub node: NodeId,
    /// Its operator with attributes.
    pub op: String,
}

/// Nodes that a record prints, each way.
const PRINTED_MAX: usize = 16;

impl fmt::Display for Record {
    /// A line of pass, label and counts, and a line for each node that went or came.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}, at {}: {} -> {} nodes",
            self.pass, self.label, self.sites, self.nodes_before, self.nodes_after
        )?;
        for (sign, nodes) in [('-', &self.removed), ('+', &self.added)] {
            for touched in nodes.iter().take(PRINTED_MAX) {
                writeln!(f, "  {sign} {} {}", touched.node, touched.op)?;
            }
            if nodes.len() > PRINTED_MAX {
                writeln!(f, "  {sign} {} more", nodes.len() - PRINTED_MAX)?;
            }
        }
        Ok(())
    }
}

/// A graph that passes have changed, and what they did.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimised {
    /// The graph.
    pub graph: Graph,
    /// The patches in the order in which they were applied.
    pub records: Vec<Record>,
}

impl Optimised {
    /// A graph that no pass has seen.
    #[must_use]
    pub fn untouched(graph: Graph) -> Self {
        Self {
            graph,
            records: Vec::new(),
        }
    }

    /// Applies a patch of `pass`.
    ///
    /// # Errors
    /// As [`Patch::apply`].
    pub fn apply(&mut self, pass: &'static str, patch: &Patch) -> Result<(), GraphError> {
        let (graph, added) = patch.apply_numbered(&self.graph)?;
        let touched = |graph: &Graph, node: NodeId| Touched {
            node,
            op: graph.nodes[node.0 as usize].op.to_string(),
        };
        let removed = patch.removed().map(|node| touched(&self.graph, node));
        self.records.push(Record {
            pass,
            label: patch.label(),
            sites: patch.sites(),
            nodes_before: self.graph.nodes.len(),
            nodes_after: graph.nodes.len(),
            removed: removed.collect(),
            added: added.iter().map(|&node| touched(&graph, node)).collect(),
        });
        self.graph = graph;
        Ok(())
    }

    /// Runs each of `passes` until it has no patch; `watch` sees what each pass that changed the graph
    /// did, and what it left. Returns true if one did.
    ///
    /// # Errors
    /// A patch whose graph doesn't verify.
    pub fn run(
        &mut self,
        passes: &[Pass],
        context: &PassContext,
        watch: &mut dyn FnMut(&[Record], &Graph),
    ) -> Result<bool, GraphError> {
        let mut changed = false;
        for pass in passes {
            let before = self.records.len();
            for _ in 0..PATCHES_MAX {
                let Some(patch) = (pass.run)(&self.graph, context) else {
                    break;
                };
                self.apply(pass.name, &patch)?;
            }
            if self.records.len() > before {
                changed = true;
                watch(&self.records[before..], &self.graph);
            }
        }
        Ok(changed)
    }

    /// Runs `passes` in rounds until none has a patch.
    ///
    /// # Errors
    /// As [`Optimised::run`].
    pub fn settle(
        &mut self,
        passes: &[Pass],
        context: &PassContext,
        watch: &mut dyn FnMut(&[Record], &Graph),
    ) -> Result<(), GraphError> {
        for _ in 0..PATCHES_MAX {
            if !self.run(passes, context, watch)? {
                break;
            }
        }
        Ok(())
    }
}

/// Simplifies and fuses a graph for a mode. In training it has been differentiated.
///
/// # Errors
/// The graph doesn't verify.
pub fn optimise(graph: &Graph, mode: Mode) -> Result<Optimised, GraphError> {
    optimise_watched(graph, mode, &mut |_, _| {})
}

/// [`optimise`], while `watch` sees the patches of each pass that changed the graph, and what it left.
///
/// # Errors
/// As [`optimise`].
pub fn optimise_watched(
    graph: &Graph,
    mode: Mode,
    watch: &mut dyn FnMut(&[Record], &Graph),
) -> Result<Optimised, GraphError> {
    graph.verify()?;
    let context = PassContext { mode: Some(mode) };
    let mut optimised = Optimised::untouched(graph.clone());
    optimised.settle(&SIMPLIFYING, &context, watch)?;
    optimised.settle(&FUSING, &context, watch)?;
    Ok(optimised)
}

/// Simplifies a graph that will be differentiated: every output stays.
///
/// # Errors
/// The graph doesn't verify.
pub fn simplify(graph: &Graph) -> Result<Optimised, GraphError> {
    graph.verify()?;
    let context = PassContext { mode: None };
    let mut optimised = Optimised::untouched(graph.clone());
    optimised.settle(&SIMPLIFYING, &context, &mut |_, _| {})?;
    Ok(optimised)
}
