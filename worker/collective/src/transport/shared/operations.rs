//! What ranks of one host write and read between ticks, operation by operation.
//!
//! `n` bytes a rank, `w` ranks, `h` bytes a half slot:
//!
//! | operation | blocks | ticks a block | bytes written and read a rank |
//! |---|---|---|---|
//! | all-reduce, one shot | 1 | 1 | `n`, `n(w-1)` |
//! | all-reduce | `n/h` | 2 | `n`, `2n(w-1)/w` |
//! | reduce-scatter | `n/h` | 1 | `n(w-1)/w` each |
//! | all-gather, gather | `n/h` | 1 | `n`, `n(w-1)` (at the root) |
//! | broadcast | `n/h` | 1 | `n` at the root, `n` |
//! | all-to-all | `n/h` | 1 | `n(w-1)/w` each |

use std::ops::Range;

use ringfold_common::ids::Rank;

use super::Board;
use crate::CollectiveError;
use crate::algorithm::TreeStep;
use crate::algorithm::cost::{Way, shared_way};
use crate::element::Fold;
use crate::topology::chunk;

/// Bytes that are folded at a time: what stays in the first cache.
const STRIP_BYTES: usize = 8 << 10;

/// How the terms of all ranks become one.
pub(crate) struct Terms<'a> {
    /// By rank, how many it has; one each if that is empty.
    pub counts: &'a [usize],
    pub steps: &'a [TreeStep],
    pub fold: Fold,
    pub element_bytes: usize,
}

impl Terms<'_> {
    /// The most that a rank has.
    fn per_rank_max(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(1)
    }

    /// How many all ranks but `me` have, of `world`.
    fn of_others(&self, me: u32, world: u32) -> usize {
        match self.counts.get(me as usize) {
            Some(mine) => self.counts.iter().sum::<usize>() - mine,
            None => world as usize - 1,
        }
    }

    /// The most terms on the stack.
    fn depth(&self) -> usize {
        let mut depth: usize = 0;
        let depths = self.steps.iter().map(|step| {
            match step {
                TreeStep::Push(..) => depth += 1,
                TreeStep::Fold(..) => {}
                TreeStep::Merge => depth -= 1,
            }
            depth
        });
        depths.max().unwrap_or(0)
    }
}

impl Board {
    /// Folds the terms of all ranks; the result ends in `mine[0]`, everywhere. A rank's terms are
    /// equally long.
    pub(crate) fn all_reduce(
        &mut self,
        mine: &mut [&mut [u8]],
        terms: &Terms<'_>,
    ) -> Result<(), CollectiveError> {
        let len = mine[0].len();
        let most = terms.per_rank_max();
        let of_others = terms.of_others(self.rank, self.world);
        let mut stack = vec![0; terms.depth() * STRIP_BYTES];
        if shared_way(len * most, self.world) == Way::OneShot {
            self.begin_block()?;
            for (at, term) in mine.iter().enumerate() {
                self.write(at * len, term);
            }
            let posted = self.post();
            self.wait_all(posted)?;
            for strip in strips(0..len) {
                let source = |rank: u32, term: usize| {
                    self.read(rank, term * len + strip.start..term * len + strip.end)
                };
                let result = run(terms, &mut stack, strip.len(), source);
                mine[0][strip].copy_from_slice(result);
            }
            self.bytes_received += (len * of_others) as u64;
            return Ok(());
        }

        let (me, world) = (self.rank, self.world as usize);
        let slice_bytes = whole(
            self.segment.half_bytes() / (most * world),
            terms.element_bytes,
        );
        let mut start = 0;
        while start < len {
            let end = len.min(start + slice_bytes * world);
            let elements = (end - start) / terms.element_bytes;
            let slice_of = |rank: u32| {
                let slice = chunk(elements, self.world, rank);
                start + slice.start * terms.element_bytes..start + slice.end * terms.element_bytes
            };
            let slices: Vec<Range<usize>> = (0..self.world).map(slice_of).collect();
            let place = |term: usize, rank: u32| (term * world + rank as usize) * slice_bytes;
            let own = slices[self.rank as usize].clone();

            // 1. What the others are to fold.
            self.begin_block()?;
            for (at, term) in mine.iter().enumerate() {
                for rank in (0..self.world).filter(|&rank| rank != me) {
                    self.write(place(at, rank), &term[slices[rank as usize].clone()]);
                }
            }
            let posted = self.post();

            // 2. This rank's slice, straight from its peers' slots.
            self.wait_all(posted)?;
            for strip in strips(own.clone()) {
                let within = strip.start - own.start..strip.end - own.start;
                let result = {
                    let source = |rank: u32, term: usize| {
                        if rank == self.rank {
                            return &mine[term][strip.clone()];
                        }
                        let at = place(term, self.rank);
                        self.read(rank, at + within.start..at + within.end)
                    };
                    run(terms, &mut stack, strip.len(), source)
                };
                mine[0][strip].copy_from_slice(result);
                self.write(place(0, self.rank) + within.start, result);
            }
            let posted = self.post();

            // 3. The results of the others.
            for hop in 1..self.world {
                let rank = (self.rank + hop) % self.world;
                self.wait_for(rank, posted)?;
                let slice = slices[rank as usize].clone();
                let at = place(0, rank);
                let result = self.read(rank, at..at + slice.len());
                mine[0][slice].copy_from_slice(result);
            }
            let read = (end - start - own.len()) + own.len() * of_others;
            self.bytes_received += read as u64;
            self.bytes_done = end;
            start = end;
        }
        Ok(())
    }

    /// Folds `values` over all ranks; this rank's chunk of the result is complete.
    pub(crate) fn reduce_scatter(
        &mut self,
        values: &mut [u8],
        terms: &Terms<'_>,
    ) -> Result<(), CollectiveError> {
        let (me, world) = (self.rank, self.world);
        let element_bytes = terms.element_bytes;
        let elements = values.len() / element_bytes;
        let chunk_of = |rank: u32| {
            let chunk = chunk(elements, world, rank);
            chunk.start * element_bytes..chunk.end * element_bytes
        };
        let slice_bytes = whole(self.segment.half_bytes() / world as usize, element_bytes);
        let mut stack = vec![0; terms.depth() * STRIP_BYTES];
        for piece in pieces(chunk_of(0).len(), slice_bytes) {
            self.begin_block()?;
            for rank in (0..world).filter(|&rank| rank != me) {
                let part = part_of(&chunk_of(rank), &piece);
                self.write(rank as usize * slice_bytes, &values[part]);
            }
            let posted = self.post();
            self.wait_all(posted)?;
            let own = part_of(&chunk_of(self.rank), &piece);
            for strip in strips(own.clone()) {
                let at = self.rank as usize * slice_bytes + strip.start - own.start;
                let result = {
                    let source = |rank: u32, _: usize| match rank == self.rank {
                        true => &values[strip.clone()],
                        false => self.read(rank, at..at + strip.len()),
                    };
                    run(terms, &mut stack, strip.len(), source)
                };
                values[strip].copy_from_slice(result);
            }
            self.bytes_received += (own.len() * (world as usize - 1)) as u64;
            self.bytes_done = piece.end * world as usize;
        }
        Ok(())
    }

    /// Every rank for which `takes` is true ends with the block of every rank in `all`, which is
    /// `world` blocks in rank order.
    pub(crate) fn gather(
        &mut self,
        block: &[u8],
        all: &mut [u8],
        takes: bool,
    ) -> Result<(), CollectiveError> {
        let len = block.len();
        for piece in pieces(len, self.segment.half_bytes()) {
            self.begin_block()?;
            self.write(0, &block[piece.clone()]);
            let posted = self.post();
            if takes {
                for hop in 0..self.world {
                    let rank = (self.rank + hop) % self.world;
                    self.wait_for(rank, posted)?;
                    let start = rank as usize * len + piece.start;
                    let got = self.read(rank, 0..piece.len());
                    all[start..start + piece.len()].copy_from_slice(got);
                }
                self.bytes_received += (piece.len() * (self.world as usize - 1)) as u64;
            }
            self.bytes_done = piece.end;
        }
        Ok(())
    }

    /// Overwrites `bytes` with those of `root`.
    pub(crate) fn broadcast(
        &mut self,
        root: Rank,
        bytes: &mut [u8],
    ) -> Result<(), CollectiveError> {
        for piece in pieces(bytes.len(), self.segment.half_bytes()) {
            self.begin_block()?;
            if self.rank == root.0 {
                self.write(0, &bytes[piece.clone()]);
                self.post();
            } else {
                let posted = self.post();
                self.wait_for(root.0, posted)?;
                self.bytes_received += piece.len() as u64;
                bytes[piece.clone()].copy_from_slice(self.read(root.0, 0..piece.len()));
            }
            self.bytes_done = piece.end;
        }
        Ok(())
    }

    /// Exchanges block `b` of rank `a` with block `a` of rank `b`, for all.
    pub(crate) fn all_to_all(&mut self, blocks: &mut [u8]) -> Result<(), CollectiveError> {
        let (me, world) = (self.rank as usize, self.world as usize);
        let len = blocks.len() / world;
        let slice_bytes = self.segment.half_bytes() / world;
        for piece in pieces(len, slice_bytes) {
            self.begin_block()?;
            for to in (0..world).filter(|&to| to != me) {
                let start = to * len + piece.start;
                self.write(to * slice_bytes, &blocks[start..start + piece.len()]);
            }
            let posted = self.post();
            for hop in 1..self.world {
                let from = (self.rank + hop) % self.world;
                self.wait_for(from, posted)?;
                let at = self.rank as usize * slice_bytes;
                let start = from as usize * len + piece.start;
                let got = self.read(from, at..at + piece.len());
                blocks[start..start + piece.len()].copy_from_slice(got);
            }
            self.bytes_received += (piece.len() * (world - 1)) as u64;
            self.bytes_done = piece.end * world;
        }
        Ok(())
    }

    /// Returns once every rank has entered.
    pub(crate) fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.begin_block()?;
        let posted = self.post();
        self.wait_all(posted)
    }
}

/// Folds one strip: `len` bytes of every term, which `source` gives by rank and term.
fn run<'s, 'a>(
    terms: &Terms<'_>,
    stack: &'s mut [u8],
    len: usize,
    source: impl Fn(u32, usize) -> &'a [u8],
) -> &'s [u8] {
    let mut depth = 0;
    for step in terms.steps {
        match *step {
            TreeStep::Push(rank, term) => {
                stack[depth * STRIP_BYTES..][..len].copy_from_slice(source(rank.0, term));
                depth += 1;
            }
            TreeStep::Fold(rank, term) => {
                let top = &mut stack[(depth - 1) * STRIP_BYTES..][..len];
                (terms.fold)(top, source(rank.0, term));
            }
            TreeStep::Merge => {
                depth -= 1;
                let (below, top) = stack.split_at_mut(depth * STRIP_BYTES);
                let below = &mut below[(depth - 1) * STRIP_BYTES..][..len];
                (terms.fold)(below, &top[..len]);
            }
        }
    }
    &stack[..len]
}

/// `bytes` in whole elements.
fn whole(bytes: usize, element_bytes: usize) -> usize {
    bytes / element_bytes * element_bytes
}

/// `0..len` in pieces of at most `most`; one empty piece if it is empty.
fn pieces(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len.max(1))
        .step_by(most)
        .map(move |start| start..len.min(start + most))
}

/// `range` in strips.
fn strips(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    range
        .clone()
        .step_by(STRIP_BYTES)
        .map(move |start| start..range.end.min(start + STRIP_BYTES))
}

/// The part of `chunk` at `piece`, which may reach over its end.
fn part_of(chunk: &Range<usize>, piece: &Range<usize>) -> Range<usize> {
    let at = |offset: usize| chunk.end.min(chunk.start + offset);
    at(piece.start)..at(piece.end)
}
