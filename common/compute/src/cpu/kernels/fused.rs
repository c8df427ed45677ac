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
use crate::plan::{Call, Located};

/// Elements of a tile; a multiple of what dropout draws at a time.
const TILE: usize = 512;

/// A row on the stack, which starts with a cache line: vectors don't straddle lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Row<T>([T; TILE]);

impl<T: Element> Row<T> {
    const ZERO: Self = Self([T::ZERO; TILE]);
}

/// The most rows on the stack.
const ROWS_MAX: usize = FUSED_OPERANDS_MAX + FUSED_STEPS_MAX;

pub(crate) fn lower<T: Element>(op: &Fused, call: &Call, threads: usize) -> Arc<dyn Kernel<T>> {
    let to = &call.results[0];
    let operands = call.operands.iter().map(|operand| {
        if operand.place == to.place {
            Operand::InPlace
        } else {
            Operand::Apart(operand)
        }
    });
    let program = Program::new(op, to, operands);
    Arc::new(FusedKernel { program, threads })
}

/// What a program reads.
pub(super) enum Operand<'a> {
    /// What the result's place holds.
    InPlace,
    /// A piece as long as the result's, given with it.
    Given,
    /// A value that stands elsewhere.
    Apart(&'a Located),
}

/// Where an operand's row comes from.
#[derive(Clone, Debug)]
enum Feed {
    /// The operand is as long as the result, and stands elsewhere.
    Whole,
    /// It comes piece by piece.
    Given,
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

/// A fused chain with its operands and rows resolved.
#[derive(Debug)]
pub(super) struct Program {
    feeds: Vec<Feed>,
    steps: Vec<Placed>,
    /// Rows on the stack.
    rows: usize,
}

impl Program {
    /// The program of a chain whose result is `to`.
    pub(super) fn new<'a>(
        op: &Fused,
        to: &Located,
        operands: impl Iterator<Item = Operand<'a>>,
    ) -> Self {
        let len = to.place.len;
        let mut rows = 0;
        let mut row = || {
            rows += 1;
            rows - 1
        };
        let feeds = operands.map(|operand| match operand {
            Operand::InPlace => Feed::InPlace,
            Operand::Given => Feed::Given,
            Operand::Apart(operand) if operand.place.len == 1 => Feed::Scalar { row: row() },
            Operand::Apart(operand) if operand.place.len == len => Feed::Whole,
            Operand::Apart(operand) => {
                let walk = Walk::new(&to.shape, [&operand.shape]);
                Feed::Repeated { row: row(), walk }
            }
        });
        let feeds: Vec<Feed> = feeds.collect();
        let reads = feeds.iter().enumerate().map(|(operand, feed)| match feed {
            Feed::Whole | Feed::Given | Feed::Repeated { .. } => Read::Operand(operand),
            Feed::InPlace => Read::InPlace,
            Feed::Scalar { row } => Read::Row(*row),
        });
        let reads: Vec<Read> = reads.collect();
        let (steps, rows) = place(&op.steps, &reads, rows);
        Self { feeds, steps, rows }
    }

    /// Calls `f` with the program's rows and what they and its operands hold, for pieces of the result.
    /// The operand of the chain at position i is the node's at i + `offset`.
    pub(super) fn with<T: Element>(
        &self,
        operands: &Operands<'_, T>,
        offset: usize,
        args: &RunArgs,
        f: impl FnOnce(Running<'_, T>),
    ) {
        // A small program needs a small stack.
        match self.rows {
            0..=4 => self.with_rows(&mut [Row::ZERO; 4], (operands, offset), args, f),
            5..=8 => self.with_rows(&mut [Row::ZERO; 8], (operands, offset), args, f),
            _ => self.with_rows(&mut [Row::ZERO; ROWS_MAX], (operands, offset), args, f),
        }
    }

    fn with_rows<T: Element>(
        &self,
        rows: &mut [Row<T>],
        (operands, offset): (&Operands<'_, T>, usize),
        args: &RunArgs,
        f: impl FnOnce(Running<'_, T>),
    ) {
        let mut whole: [&[T]; FUSED_OPERANDS_MAX] = [&[]; FUSED_OPERANDS_MAX];
        for (operand, feed) in self.feeds.iter().enumerate() {
            match feed {
                Feed::InPlace | Feed::Given => {}
                Feed::Scalar { row } => rows[*row].0.fill(operands.scalar(operand + offset)),
                Feed::Whole | Feed::Repeated { .. } => {
                    whole[operand] = operands.slice(operand + offset);
                }
            }
        }
        f(Running {
            program: self,
            rows,
            whole,
            args,
        });
    }
}

/// A program while it runs.
pub(super) struct Running<'a, T> {
    program: &'a Program,
    rows: &'a mut [Row<T>],
    whole: [&'a [T]; FUSED_OPERANDS_MAX],
    args: &'a RunArgs,
}

impl<T: Element> Running<'_, T> {
    /// Computes the result's elements from `first` on, which are `dst`; `given` is the piece of the
    /// operand that is [`Operand::Given`], if there is one.
    pub(super) fn piece(&mut self, first: usize, dst: &mut [T], given: &[T]) {
        for (tile, dst) in dst.chunks_mut(TILE).enumerate() {
            let (done, len) = (tile * TILE, dst.len());
            let start = first + done;
            let mut parts = [Part::Row(0); FUSED_OPERANDS_MAX];
            for (operand, feed) in self.program.feeds.iter().enumerate() {
                match feed {
                    Feed::Whole => {
                        parts[operand] = Part::Slice(&self.whole[operand][start..start + len]);
                    }
                    Feed::Given => parts[operand] = Part::Slice(&given[done..done + len]),
                    Feed::Repeated { row, walk } => {
                        // A tile within a run needs no copy.
                        parts[operand] = match walk.piece(start, len) {
                            Some(at) => Part::Slice(&self.whole[operand][at..at + len]),
                            None => {
                                let to = &mut self.rows[*row].0[..len];
                                walk.copy(start, to, self.whole[operand]);
                                Part::Row(*row)
                            }
                        };
                    }
                    Feed::InPlace | Feed::Scalar { .. } => {}
                }
            }
            for step in &self.program.steps {
                run_step(step, self.rows, &parts, start, dst, self.args);
            }
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
struct FusedKernel {
    program: Program,
    /// The tiles are cut into so many runs for the team.
    threads: usize,
}

impl<T: Element> Kernel<T> for FusedKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
        each_run(self.threads, results.take(0), TILE, |tile, dst| {
            self.program.with(operands, 0, args, |mut program| {
                program.piece(tile * TILE, dst, &[]);
            });
        });
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
