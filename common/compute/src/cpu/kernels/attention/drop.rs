//! The factors of dropped probabilities, drawn a row of a block at a time.

use ringfold_graph::op::Dropout;

use super::KEYS;
use super::geometry::Geometry;
use crate::backend::RunArgs;
use crate::cpu::kernels::dropout::{DRAWN, Factors};
use crate::element::Element;

const _: () = assert!(KEYS == DRAWN, "a row of a block is drawn at once");

/// The factors of all probabilities of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drop {
    factors: Factors,
    queries: u64,
    /// From one query to the next: the keys, up to the next multiple of 4.
    row: u64,
}

impl Drop {
    pub(super) fn new(
        dropout: Option<Dropout>,
        geometry: &Geometry,
        args: &RunArgs,
    ) -> Option<Self> {
        let dropout = dropout.filter(|dropout| dropout.rate > 0.0)?;
        Some(Self {
            factors: Factors::new(&dropout, args),
            queries: geometry.queries as u64,
            row: geometry.keys.next_multiple_of(4) as u64,
        })
    }

    /// Those of a head's query and the keys from `key` on, a multiple of [`KEYS`]. Heads are counted over
    /// all parts.
    #[inline(always)]
    pub(super) fn row<T: Element>(&self, head: usize, query: usize, key: usize) -> [T; KEYS] {
        let row = head as u64 * self.queries + query as u64;
        self.factors.draw(row * self.row + key as u64)
    }
}
