//! How the weight gradient's work is cut up, and where the partial sums of its units lie.
//!
//! A unit is a part of the batch and a range of blocks of output channels. The cut follows from the
//! shape alone, so that the order of summation never depends on threads.

use std::ops::Range;

/// Units that the work is cut into, at most.
pub const UNITS_MAX: usize = 8;

/// The units of one weight gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Units {
    batch: usize,
    /// Parts of the batch.
    parts: usize,
    /// Blocks of output channels, counted over all groups.
    blocks: usize,
    /// Blocks of output channels of a unit.
    unit_blocks: usize,
    /// Elements of the sums for one block of output channels.
    block_sums: usize,
}

impl Units {
    /// At most `parts` parts of the batch, rounded down to a power of two, at least one.
    pub fn new(batch: usize, parts: usize, blocks: usize, block_sums: usize) -> Self {
        let parts = 1 << parts.min(batch).clamp(1, UNITS_MAX).ilog2();
        Self {
            batch,
            parts,
            blocks,
            unit_blocks: blocks.div_ceil(UNITS_MAX / parts),
            block_sums,
        }
    }

    /// Parts of the batch.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Blocks of output channels, counted over all groups.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Elements of the sums for one block of output channels.
    pub fn block_sums(&self) -> usize {
        self.block_sums
    }

    /// Units of work.
    pub fn count(&self) -> usize {
        self.parts * self.ranges()
    }

    /// Elements of the partial sums of all units.
    pub fn partials(&self) -> usize {
        self.parts * self.blocks * self.block_sums
    }

    /// The part of the batch and the blocks of output channels of a unit.
    pub fn work(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let (part, range) = (unit / self.ranges(), unit % self.ranges());
        let image = |part: usize| self.batch * part / self.parts;
        let first = range * self.unit_blocks;
        let last = (first + self.unit_blocks).min(self.blocks);
        (image(part)..image(part + 1), first..last)
    }

    /// The work of units that follow each other, those of one part of the batch together: images,
    /// blocks, and where their sums lie among those of these units.
    pub fn merged(self, units: Range<usize>) -> impl Iterator<Item = [Range<usize>; 3]> {
        let ranges = self.ranges();
        let start = self.sums(units.start).start;
        (units.start / ranges..units.end.div_ceil(ranges)).map(move |part| {
            let first = units.start.max(part * ranges);
            let last = units.end.min((part + 1) * ranges) - 1;
            let ((images, from), (_, to)) = (self.work(first), self.work(last));
            let sums = self.sums(first).start - start..self.sums(last).end - start;
            [images, from.start..to.end, sums]
        })
    }

    /// Where the partial sums of a unit lie among those of all units.
    pub fn sums(&self, unit: usize) -> Range<usize> {
        let (_, blocks) = self.work(unit);
        let part = unit / self.ranges() * self.blocks;
        (part + blocks.start) * self.block_sums..(part + blocks.end) * self.block_sums
    }

    /// Ranges of blocks that each part of the batch is cut into.
    fn ranges(&self) -> usize {
        self.blocks.div_ceil(self.unit_blocks)
    }
}
