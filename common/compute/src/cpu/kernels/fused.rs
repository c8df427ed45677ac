//! Kernels of fused chains of element-wise operators.
//!
//! The result is taken in tiles of [`TILE`] elements that stay in the nearest cache. For each tile
//! every step runs over rows of one tile's length with the loops of the unfused kernels, so that its
//! bits are theirs. A row is a piece of an operand, or a buffer on the stack: a copy of what
//! broadcasting repeats in a tile, or the result of an earlier step. The last step writes the result.
//! With threads the tiles are cut into as many runs for the team.

use std::sync::Arc;

use ringfold_graph::op::{Arg, FUSED_OPERANDS_MAX, FUSED_STEPS_MAX, Function, Fused, Step};

use super::broadcast::Walk;
use super::dropout::dropout_from;
use super::elementwise::{binary_grad_row, binary_row};
use super::runs::each_run;
use super::{Source, functions};
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::element::Element;
use crate::plan::Call;

/// Elements of a tile; a multiple of what dropout draws at a time.
const TILE: usize = 512;

/// A row on the stack, which starts with a cache line: vectors don't straddle lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row<T>([T; TILE]);

/// The most rows on the stack.
const ROWS_MAX: usize = FUSED_OPERANDS_MAX + FUSED_STEPS_MAX;

pub(crate) fn lower<T: Element>(op: &Fused, call: &Call, threads: usize) -> Arc<dyn Kernel<T>> {
    let program = Program::new(op, call, threads);
    // A small program needs a small stack.
    match program.rows {
        0..=4 => Arc::new(FusedKernel::<4>(program)),
        5..=8 => Arc::new(FusedKernel::<8>(program)),
        _ => Arc::new(FusedKernel::<ROWS_MAX>(program)),
    }
}

/// Where an operand's row comes from.
#[derive(Clone, Debug)]
enum Feed {
    /// The operand is as long as the result, and stands elsewhere.
    Whole,
    /// It stands where the result does, whose tile the last step alone writes.
    InPlace,
    /// One element, which is copied once.
    Scalar { row: usize },
    /// Broadcasting repeats it: a walk along the result.
    Repeated { row: usize, walk: Walk<1> },
}

/// Where a step reads.
#[derive(Clone, Copy, Debug)]
enum Read {
    /// A row on the stack.
    Row(usize),
    /// The tile's part of an operand, which may have been copied to a row.
    Operand(usize),
    /// What the result's tile holds.
    InPlace,
}

/// A step with its rows.
#[derive(Clone, Copy, Debug)]
struct Placed {
    function: Function,
    args: [Read; 3],
    /// The row that it writes; `None`: the result.
    to: Option<usize>,
}

#[derive(Debug)]
struct Program {
    feeds: Vec<Feed>,
    steps: Vec<Placed>,
    /// Rows on the stack.
    rows: usize,
    /// The tiles are cut into so many runs for the team.
    threads: usize,
}

impl Program {
    fn new(op: &Fused, call: &Call, threads: usize) -> Self {
        let to = &call.results[0];
        let len = to.place.len;
        let mut rows = 0;
        let mut row = || {
            rows += 1;
            rows - 1
        };
        let feeds = call.operands.iter().map(|operand| {
            if operand.place == to.place {
                Feed::InPlace
            } else if operand.place.len == 1 {
                Feed::Scalar { row: row() }
            } else if operand.place.len == len {
                Feed::Whole
            } else {
                let walk = Walk::new(&to.shape, [&operand.shape]);
                Feed::Repeated { row: row(), walk }
            }
        });
        let feeds: Vec<Feed> = feeds.collect();
        let reads = feeds.iter().enumerate().map(|(operand, feed)| match feed {
            Feed::Whole | Feed::Repeated { .. } => Read::Operand(operand),
            Feed::InPlace => Read::InPlace,
            Feed::Scalar { row } => Read::Row(*row),
        });
        let reads: Vec<Read> = reads.collect();
        let (steps, rows) = place(&op.steps, &reads, rows);
        Self {
            feeds,
            steps,
            rows,
            threads,
        }
    }
}

/// Gives each step but the last a row; a row whose last reader has run is used again.
fn place(steps: &[Step], reads: &[Read], first_free: usize) -> (Vec<Placed>, usize) {
    let mut rows = first_free;
    let mut free: Vec<usize> = Vec::new();
    let mut row_of = vec![0; steps.len()];
    let mut placed = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        // Arguments that a function doesn't have are the first again, and aren't read.
        let mut args = [Read::InPlace; 3];
        for (position, arg) in args.iter_mut().enumerate() {
            *arg = match step.args.get(position).unwrap_or(&step.args[0]) {
                Arg::Operand(operand) => reads[*operand],
                Arg::Step(step) => Read::Row(row_of[*step]),
            };
        }
        let to = (i + 1 < steps.len()).then(|| {
            free.pop().unwrap_or_else(|| {
                rows += 1;
                rows - 1
            })
        });
        row_of[i] = to.unwrap_or(0);
        // Freed only now: a step never writes a row that it reads.
        for (j, earlier) in row_of.iter().enumerate().take(i) {
            let reads_it = |step: &Step| step.args.contains(&Arg::Step(j));
            if reads_it(step) && !steps[i + 1..].iter().any(reads_it) {
                free.push(*earlier);
            }
        }
        placed.push(Placed {
            function: step.function,
            args,
            to,
        });
    }
    (placed, rows)
}

#[derive(Debug)]
struct FusedKernel<const ROWS: usize>(Program);

impl<T: Element, const ROWS: usize> Kernel<T> for FusedKernel<ROWS> {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
        each_run(self.0.threads, results.take(0), TILE, |tile, dst| {
            self.run_tiles(tile, dst, operands, args);
        });
    }
}

impl<const ROWS: usize> FusedKernel<ROWS> {
    /// The tiles from `first` on, whose elements are `dst`.
    fn run_tiles<T: Element>(
        &self,
        first: usize,
        dst: &mut [T],
        operands: &Operands<'_, T>,
        args: &RunArgs,
    ) {
        let mut rows = [Row([T::ZERO; TILE]); ROWS];
        let mut whole: [&[T]; FUSED_OPERANDS_MAX] = [&[]; FUSED_OPERANDS_MAX];
        for (operand, feed) in self.0.feeds.iter().enumerate() {
            match feed {
                Feed::InPlace => {}
                Feed::Scalar { row } => rows[*row].0.fill(operands.scalar(operand)),
                Feed::Whole | Feed::Repeated { .. } => whole[operand] = operands.slice(operand),
            }
        }
        for (tile, dst) in dst.chunks_mut(TILE).enumerate() {
            let (start, len) = ((first + tile) * TILE, dst.len());
            let mut parts = [Part::Row(0); FUSED_OPERANDS_MAX];
            for (operand, feed) in self.0.feeds.iter().enumerate() {
                match feed {
                    Feed::Whole => {
                        parts[operand] = Part::Slice(&whole[operand][start..start + len])
                    }
                    Feed::Repeated { row, walk } => {
                        // A tile within a run needs no copy.
                        parts[operand] = match walk.piece(start, len) {
                            Some(at) => Part::Slice(&whole[operand][at..at + len]),
                            None => {
                                walk.copy(start, &mut rows[*row].0[..len], whole[operand]);
                                Part::Row(*row)
                            }
                        };
                    }
                    Feed::InPlace | Feed::Scalar { .. } => {}
                }
            }
            for step in &self.0.steps {
                run_step(step, &mut rows, &parts, start, dst, args);
            }
        }
    }
}

/// Where a tile's part of an operand is.
#[derive(Clone, Copy)]
enum Part<'a, T> {
    Slice(&'a [T]),
    Row(usize),
}

/// One step over one tile, which starts at the result's element `start`.
fn run_step<T: Element>(
    step: &Placed,
    rows: &mut [Row<T>],
    parts: &[Part<'_, T>; FUSED_OPERANDS_MAX],
    start: usize,
    dst: &mut [T],
    args: &RunArgs,
) {
    let len = dst.len();
    let Some(to) = step.to else {
        let [a, b, c] = step.args.map(|read| match read {
            Read::InPlace => Source::InPlace,
            Read::Operand(operand) => match parts[operand] {
                Part::Slice(slice) => Source::Apart(slice),
                Part::Row(row) => Source::Apart(&rows[row].0[..len]),
            },
            Read::Row(row) => Source::Apart(&rows[row].0[..len]),
        });
        return compute(step.function, dst, [a, b, c], start, args);
    };
    // The row that is written, and those before and after it.
    let (before, rest) = rows.split_at_mut(to);
    // A row was counted for each step: there is one.
    let Some((row, after)) = rest.split_first_mut() else {
        return;
    };
    let at = |row: usize| match row.checked_sub(to + 1) {
        Some(later) => Source::Apart(&after[later].0[..len]),
        None => Source::Apart(&before[row].0[..len]),
    };
    let sources = step.args.map(|read| match read {
        Read::InPlace => Source::Apart(&*dst),
        Read::Operand(operand) => match parts[operand] {
            Part::Slice(slice) => Source::Apart(slice),
            Part::Row(row) => at(row),
        },
        Read::Row(row) => at(row),
    });
    compute(step.function, &mut row.0[..len], sources, start, args);
}

fn compute<T: Element>(
    function: Function,
    to: &mut [T],
    [a, b, c]: [Source<'_, T>; 3],
    start: usize,
    args: &RunArgs,
) {
    match function {
        Function::Unary(op) => functions::unary(op, to, a),
        Function::UnaryGrad(op) => functions::unary_grad(op.0, to, a, b),
        Function::Binary(op) => binary_row(op, to, a, b),
        Function::BinaryGrad(op) => binary_grad_row(op, to, [a, b, c]),
        Function::Dropout(op) => dropout_from(&op, args, start, to, a),
    }
}

#[cfg(test)]
mod tests {
    use ringfold_graph::op::{Binary, Unary};

    use super::*;

    fn step(function: impl Into<Option<Function>>, args: &[Arg]) -> Step {
        Step {
            function: function.into().unwrap(),
            args: args.to_vec(),
        }
    }

    #[test]
    fn rows_are_used_again_and_never_read_while_written() {
        let add = Function::Binary(Binary::Add);
        let exp = Function::Unary(Unary::Exp);
        let steps = [
            step(exp, &[Arg::Operand(0)]),
            step(exp, &[Arg::Step(0)]),
            step(exp, &[Arg::Step(1)]),
            step(add, &[Arg::Step(2), Arg::Operand(1)]),
            step(add, &[Arg::Step(3), Arg::Step(2)]),
        ];
        let reads = [Read::Operand(0), Read::Row(0)];
        let (placed, rows) = place(&steps, &reads, 1);
        assert_eq!(rows, 3);
        for step in &placed {
            for arg in step.args {
                assert!(!matches!((arg, step.to), (Read::Row(a), Some(b)) if a == b));
            }
        }
        assert_eq!(placed[4].to, None);
    }
}
