//! From a graph to a program that is fast and fits: passes, then planning, then, where the workspace
//! is too large, values that are computed again.
//!
//! Which values: those that save the most bytes for what they cost come first. The fewest that make
//! the workspace fit are looked for by bisection; sizes don't quite fall with the number of values, so
//! the smallest of all that were tried counts.

use std::collections::BTreeSet;

use ringfold_graph::pass::recompute::{self, Candidate};
use ringfold_graph::pass::{self, Optimised, PassContext, Record};
use ringfold_graph::{Graph, Mode, NodeId};

use super::{Program, ScratchLen};
use crate::backend::{CompileOptions, PlanOptions};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::ParameterLayout;

/// A graph as passes left it, and its program.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The graph.
    pub graph: Graph,
    /// What the passes did, in order.
    pub records: Vec<Record>,
    /// The program.
    pub program: Program,
}

impl Compiled {
    /// Bytes of workspace.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        let size = self.graph.dtype().size_bytes();
        self.program.workspace_len.saturating_mul(size)
    }
}

/// Compiles `graph` for elements of type `T`.
///
/// # Errors
/// As [`Program::new`]; [`ComputeError::WorkspaceBytes`].
pub fn compile<T: Element>(
    graph: &Graph,
    layout: &ParameterLayout,
    options: PlanOptions,
    how: &CompileOptions,
    scratch: ScratchLen<'_>,
) -> Result<Compiled, ComputeError> {
    let compiler = Compiler::<T> {
        layout,
        options,
        how,
        scratch,
        element: std::marker::PhantomData,
    };
    let simple = if how.optimise {
        graph.verify()?;
        let context = compiler.context();
        let mut optimised = Optimised::untouched(graph.clone());
        optimised.settle(&pass::SIMPLIFYING, &context, &mut |_, _| {})?;
        optimised
    } else {
        Optimised::untouched(graph.clone())
    };
    let compiled = compiler.finish(simple.clone())?;
    match how.workspace_bytes_max {
        Some(bytes_max) if compiled.workspace_bytes() > bytes_max => {
            compiler.shrink(&simple, compiled, bytes_max)
        }
        _ => Ok(compiled),
    }
}

struct Compiler<'a, T> {
    layout: &'a ParameterLayout,
    options: PlanOptions,
    how: &'a CompileOptions,
    scratch: ScratchLen<'a>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Compiler<'_, T> {
    fn context(&self) -> PassContext {
        PassContext {
            mode: Some(self.options.mode),
        }
    }

    /// Fuses and plans.
    fn finish(&self, mut graph: Optimised) -> Result<Compiled, ComputeError> {
        if self.how.optimise {
            graph.settle(&pass::FUSING, &self.context(), &mut |_, _| {})?;
        }
        let program = Program::new::<T>(&graph.graph, self.layout, self.options, self.scratch)?;
        Ok(Compiled {
            graph: graph.graph,
            records: graph.records,
            program,
        })
    }

    /// Computes values again until the workspace fits.
    fn shrink(
        &self,
        simple: &Optimised,
        whole: Compiled,
        bytes_max: usize,
    ) -> Result<Compiled, ComputeError> {
        let refused = |bytes_min| ComputeError::WorkspaceBytes {
            bytes_min,
            bytes_max,
        };
        if self.options.mode != Mode::Training {
            return Err(refused(whole.workspace_bytes()));
        }
        let mut candidates = recompute::candidates(&simple.graph, self.options.batch);
        // Most bytes for an operation first; without a quotient, so that the order is exact.
        candidates.sort_by(|a, b| {
            let worth = |x: &Candidate, other: &Candidate| {
                u128::from(x.bytes) * u128::from(other.flops.max(1))
            };
            let order = worth(b, a).cmp(&worth(a, b));
            order.then(a.nodes.cmp(&b.nodes))
        });
        let mut best = whole;
        let (mut low, mut high) = (1, candidates.len());
        // All of them first: whether it can be done at all.
        let mut count = high;
        while low <= high && count > 0 {
            let tried = self.with(simple, &candidates[..count])?;
            let fits = tried.workspace_bytes() <= bytes_max;
            if fits || tried.workspace_bytes() < best.workspace_bytes() {
                best = tried;
            }
            if fits {
                high = count - 1;
            } else {
                low = count + 1;
            }
            count = low.midpoint(high);
        }
        if best.workspace_bytes() > bytes_max {
            return Err(refused(best.workspace_bytes()));
        }
        Ok(best)
    }

    fn with(&self, simple: &Optimised, candidates: &[Candidate]) -> Result<Compiled, ComputeError> {
        let mut graph = simple.clone();
        let nodes = candidates.iter().flat_map(|candidate| &candidate.nodes);
        let chosen: BTreeSet<NodeId> = nodes.copied().collect();
        if let Some(patch) = recompute::patch(&graph.graph, &chosen) {
            graph.apply("recompute", &patch)?;
        }
        self.finish(graph)
    }
}
