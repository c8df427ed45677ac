//! The names of operations and of their phases.

use std::fmt;

use ringfold_common::ids::Rank;

use crate::{ElementType, Reduce};

/// Which operation a message belongs to. Ranks must call the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every rank ends with the fold of all.
    AllReduce(ElementType, Reduce),
    /// Every rank ends with its chunk of the fold of all.
    ReduceScatter(ElementType, Reduce),
    /// Every rank ends with the block of every rank.
    AllGather,
    /// Every rank ends with the bytes of this rank.
    Broadcast(Rank),
    /// This rank ends with the block of every rank.
    Gather(Rank),
    /// Every rank ends with one block of every rank.
    AllToAll,
    /// Nobody leaves before all have entered.
    Barrier,
    /// Every rank ends with the sum of so many replicas in the order of one tree.
    Reproducible(ElementType, u32),
}

/// What a message is for within its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// First lap: partial sums.
    ReduceScatter,
    /// Second lap, or the only one: complete values from their owners.
    AllGather,
    /// From the root outwards.
    Broadcast,
    /// Blocks on the way to the rank that they are for.
    Route,
    /// Whole contributions, of which every rank folds all.
    OneShot,
    /// Word of who has entered.
    Barrier,
}

impl Kind {
    /// The most messages that pass a link of a ring of `world` ranks. The last link of a broadcast
    /// carries none, and links away from the root of a gather carry fewer.
    #[must_use]
    pub fn steps(self, world: u32) -> u32 {
        match self {
            Self::AllReduce(..) | Self::Barrier => 2 * world.saturating_sub(1),
            Self::ReduceScatter(..) | Self::AllGather | Self::Gather(_) => world.saturating_sub(1),
            Self::Broadcast(_) => u32::from(world > 1),
            Self::AllToAll => world * world.saturating_sub(1) / 2,
            Self::Reproducible(..) => (world + 2) * world.saturating_sub(1) / 2,
        }
    }

    /// Bytes of one element of the operand.
    #[must_use]
    pub fn element_bytes(self) -> usize {
        match self {
            Self::AllReduce(number, _)
            | Self::ReduceScatter(number, _)
            | Self::Reproducible(number, _) => number.bytes(),
            _ => 1,
        }
    }

    /// The phase of message `step`, counted from 0, on any link of a ring of `world` ranks.
    #[must_use]
    pub fn phase(self, step: u32, world: u32) -> Phase {
        match self {
            Self::AllReduce(..) | Self::Barrier if step + 1 < world => Phase::ReduceScatter,
            Self::ReduceScatter(..) => Phase::ReduceScatter,
            Self::AllReduce(..) | Self::Barrier | Self::AllGather => Phase::AllGather,
            Self::Broadcast(_) => Phase::Broadcast,
            Self::Reproducible(..) if step >= Self::AllToAll.steps(world) => Phase::AllGather,
            Self::Gather(_) | Self::AllToAll | Self::Reproducible(..) => Phase::Route,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce(number, reduce) => write!(f, "all-reduce {reduce} {number}"),
            Self::ReduceScatter(number, reduce) => write!(f, "reduce-scatter {reduce} {number}"),
            Self::Broadcast(root) => write!(f, "broadcast from rank {root}"),
            Self::Gather(root) => write!(f, "gather to rank {root}"),
            Self::AllGather => f.write_str("all-gather"),
            Self::AllToAll => f.write_str("all-to-all"),
            Self::Barrier => f.write_str("barrier"),
            Self::Reproducible(number, count) => {
                write!(f, "reproducible sum {number} of {count} replicas")
            }
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReduceScatter => "reduce-scatter",
            Self::AllGather => "all-gather",
            Self::Broadcast => "broadcast",
            Self::Route => "route",
            Self::OneShot => "one shot",
            Self::Barrier => "barrier",
        })
    }
}
