//! From a graph to a program that is fast and fits: passes, then planning, then, where the workspace
//! is too large, values that are computed again.
//!
//! Which values: those that save the most bytes for what they cost come first. Two questions are asked:
//! - *What costs next to nothing?* Values that together cost at most a [`FREE_SHARE`]th of a training
//!   run are computed again without being asked for, if that makes the workspace noticeably smaller.
//! - *What makes the workspace fit a limit?* The fewest values are looked for, in steps and then by
//!   bisection; sizes don't quite fall with the number of values, so the smallest of all that were
//!   tried counts.

use std::collections::BTreeSet;

use ringfold_graph::pass::recompute::{self, Candidate};
use ringfold_graph::pass::{self, Optimised, PassContext, Record};
use ringfold_graph::{Graph, Mode, NodeId};

use super::{Program, ScratchLen};
use crate::backend::{CompileOptions, PlanOptions};
use crate::element::Element;
use crate::error::ComputeError;
use crate::inspect::peak;
use crate::layout::ParameterLayout;

/// What is computed again without being asked for costs at most this part of a run.
pub const FREE_SHARE: u64 = 50;
/// It is done if at least so many bytes, and a tenth of the workspace, are saved.
const FREE_BYTES_MIN: usize = 1 << 20;
/// Numbers of values that are tried for a limit before bisection.
const STEPS: usize = 16;
/// The most buffers that a refusal names.
const LARGEST: usize = 5;

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
    let whole = compiler.finish(simple.clone())?;
    let limit = how.workspace_bytes_max;
    let fits = |compiled: &Compiled| limit.is_none_or(|max| compiled.workspace_bytes() <= max);
    if options.mode != Mode::Training || !how.optimise && fits(&whole) {
        return if fits(&whole) {
            Ok(whole)
        } else {
            Err(compiler.refused(&whole, limit))
        };
    }
    let candidates = candidates(&simple.graph, options.batch);
    let (compiled, count) = if how.optimise {
        compiler.spare(&simple, whole, &candidates)?
    } else {
        (whole, 0)
    };
    match limit {
        Some(bytes_max) if !fits(&compiled) => {
            compiler.shrink(&simple, compiled, (&candidates, count), bytes_max)
        }
        _ => Ok(compiled),
    }
}

/// What may be computed again: most bytes for an operation first.
fn candidates(graph: &Graph, batch: usize) -> Vec<Candidate> {
    let mut candidates = recompute::candidates(graph, batch);
    // Without a quotient, so that the order is exact.
    candidates.sort_by(|a, b| {
        let worth =
            |x: &Candidate, other: &Candidate| u128::from(x.bytes) * u128::from(other.cost.max(1));
        let order = worth(b, a).cmp(&worth(a, b));
        order.then(a.nodes.cmp(&b.nodes))
    });
    candidates
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

    /// Computes again what costs next to nothing, if that saves memory; and how many values that are.
    fn spare(
        &self,
        simple: &Optimised,
        whole: Compiled,
        candidates: &[Candidate],
    ) -> Result<(Compiled, usize), ComputeError> {
        let bytes = whole.workspace_bytes();
        if bytes < FREE_BYTES_MIN {
            return Ok((whole, 0));
        }
        let mut left = recompute::cost(&simple.graph, self.options.batch) / FREE_SHARE;
        let affordable = candidates.iter().take_while(|candidate| {
            let rest = left.checked_sub(candidate.cost);
            left = rest.unwrap_or(left);
            rest.is_some()
        });
        let count = affordable.count();
        if count == 0 {
            return Ok((whole, 0));
        }
        let spared = self.with(simple, &candidates[..count])?;
        let saved = bytes.saturating_sub(spared.workspace_bytes());
        if saved >= FREE_BYTES_MIN.max(bytes / 10) {
            Ok((spared, count))
        } else {
            Ok((whole, 0))
        }
    }

    /// Computes more values again than `count` of the candidates, until the workspace fits.
    fn shrink(
        &self,
        simple: &Optimised,
        compiled: Compiled,
        (candidates, count): (&[Candidate], usize),
        bytes_max: usize,
    ) -> Result<Compiled, ComputeError> {
        let mut best = compiled;
        // So many are too few.
        let mut low = count;
        let mut found = None;
        let steps = (1..=STEPS).map(|step| count + (candidates.len() - count) * step / STEPS);
        for more in steps {
            if more == low {
                continue;
            }
            let tried = self.with(simple, &candidates[..more])?;
            if tried.workspace_bytes() <= bytes_max {
                found = Some((tried, more));
                break;
            }
            if tried.workspace_bytes() < best.workspace_bytes() {
                best = tried;
            }
            low = more;
        }
        let Some((mut fitting, mut high)) = found else {
            return Err(self.refused(&best, Some(bytes_max)));
        };
        while low + 1 < high {
            let between = low.midpoint(high);
            let tried = self.with(simple, &candidates[..between])?;
            if tried.workspace_bytes() <= bytes_max {
                (fitting, high) = (tried, between);
            } else {
                low = between;
            }
        }
        Ok(fitting)
    }

    /// Why a limit can't be kept; `best` is the smallest that was found.
    fn refused(&self, best: &Compiled, bytes_max: Option<usize>) -> ComputeError {
        let largest = peak(&best.program, self.layout).into_iter().take(LARGEST);
        ComputeError::WorkspaceBytes {
            bytes_min: best.workspace_bytes(),
            bytes_max: bytes_max.unwrap_or(0),
            largest: largest.map(|row| (row.what, row.bytes)).collect(),
        }
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
