//! Ranks of one host: they see each other's memory, so nothing travels around a ring.
//!
//! Each rank has a slot in one shared segment, of two halves that blocks of operations use in turn,
//! and a counter of *ticks*. A rank writes what its peers need into its slot, posts a tick, waits
//! for the ticks of the others and reads straight from their slots. Blocks are so small that a slot
//! stays in the caches: an operand crosses the memory bus once in and once out.
//!
//! | module | what it holds |
//! |---|---|
//! | `segment` | the mapping and its layout |
//! | `ticks` | the words by which ranks wait for each other; `model` checks them |
//! | `board` | a rank's view: post, wait, deadline, abort, a peer's death |
//! | `operations` | what is written and read between ticks |
//! | `memory` | rings between threads of this process |
//! | `process` | rings between processes: the segment travels as a descriptor. On Linux only |
//!
//! **Memory.** A ring of `w` ranks maps [`shared_bytes`]`(w, segment_bytes)` bytes, once a host:
//! two halves of [`RingOptions::segment_bytes`](crate::RingOptions::segment_bytes) (rounded up to
//! pages, at least 64 KiB) a rank, and a page or more of counters. It has no name in any file
//! system: it is gone when the last of its processes is.
//!
//! **Waiting.** A rank spins for some microseconds if every rank can have a core, yields a few
//! times, and then sleeps in the kernel (futex), from where it looks every few milliseconds for an
//! abort and for a peer that died without a word.

mod board;
#[cfg(all(test, target_os = "linux", not(miri)))]
mod faults;
mod memory;
mod operations;
#[cfg(target_os = "linux")]
mod process;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod process;
mod segment;
mod ticks;

pub(crate) use board::Board;
pub use memory::memory_rings;
pub(crate) use operations::Terms;
pub(crate) use process::join_board;
pub use process::{SharedHost, join_shared};
pub(crate) use segment::half_bytes;
pub use segment::{SHARED_WORLD_MAX, shared_bytes};
