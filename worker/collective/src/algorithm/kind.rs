//! The names of operations and of their phases.

use std::fmt;

use ringfold_common::ids::Rank;

/// Which operation a message belongs to. Ranks must call the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`all_reduce`](super::all_reduce) of 32-bit floats.
    AllReduceF32,
    /// [`all_reduce`](super::all_reduce) of 64-bit floats.
    AllReduceF64,
    /// [`broadcast`](super::broadcast) from this rank.
    Broadcast(Rank),
    /// [`all_gather`](super::all_gather).
    AllGather,
    /// [`barrier`](super::barrier).
    Barrier,
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
}

impl Kind {
    /// The number of messages that pass each link of a ring of `world` ranks. The last link of a
    /// broadcast carries none.
    #[must_use]
    pub fn steps(self, world: u32) -> u32 {
        match self {
            Self::AllReduceF32 | Self::AllReduceF64 | Self::Barrier => 2 * world.saturating_sub(1),
            Self::AllGather => world.saturating_sub(1),
            Self::Broadcast(_) => u32::from(world > 1),
        }
    }

    /// The phase of message `step`, counted from 0, on any link of a ring of `world` ranks.
    #[must_use]
    pub fn phase(self, step: u32, world: u32) -> Phase {
        match self {
            Self::AllReduceF32 | Self::AllReduceF64 | Self::Barrier if step + 1 < world => {
                Phase::ReduceScatter
            }
            Self::Broadcast(_) => Phase::Broadcast,
            _ => Phase::AllGather,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduceF32 => f.write_str("all-reduce f32"),
            Self::AllReduceF64 => f.write_str("all-reduce f64"),
            Self::Broadcast(root) => write!(f, "broadcast from rank {root}"),
            Self::AllGather => f.write_str("all-gather"),
            Self::Barrier => f.write_str("barrier"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReduceScatter => "reduce-scatter",
            Self::AllGather => "all-gather",
            Self::Broadcast => "broadcast",
        })
    }
}
