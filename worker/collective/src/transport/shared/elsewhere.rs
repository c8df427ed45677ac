//! Rings between processes where the system isn't Linux: there are none. Their segment is a sealed
//! memfd, and they meet under an abstract name.

use std::io;

use super::board::Board;
use crate::{AbortSignal, CollectiveError, Identity, Ring, RingOptions};

/// Where the ranks of a host meet: on Linux.
#[derive(Debug)]
pub struct SharedHost {
    never: std::convert::Infallible,
}

fn unsupported() -> CollectiveError {
    let what = "ranks in processes share memory on Linux only; use TCP, or threads of one process";
    let error = io::Error::new(io::ErrorKind::Unsupported, what);
    CollectiveError::system("share memory with ranks of this host", error)
}

impl SharedHost {
    /// Listens under a new name.
    ///
    /// # Errors
    /// [`CollectiveError::System`], always.
    pub fn bind() -> Result<Self, CollectiveError> {
        Err(unsupported())
    }

    /// What the other ranks are to be told, for [`join_shared`].
    #[must_use]
    pub fn address(&self) -> &str {
        match self.never {}
    }

    /// Joins the ring as rank 0.
    ///
    /// # Errors
    /// [`CollectiveError::System`], always.
    pub fn connect_ring(
        self,
        _: Identity,
        _: RingOptions,
        _: AbortSignal,
    ) -> Result<Ring, CollectiveError> {
        match self.never {}
    }

    pub(crate) fn join_board(
        self,
        _: Identity,
        _: RingOptions,
        _: AbortSignal,
    ) -> Result<Board, CollectiveError> {
        match self.never {}
    }
}

/// Joins the ring whose rank 0 listens at `address`, as another rank.
///
/// # Errors
/// [`CollectiveError::System`], always.
pub fn join_shared(
    _: &str,
    _: Identity,
    _: RingOptions,
    _: AbortSignal,
) -> Result<Ring, CollectiveError> {
    Err(unsupported())
}

pub(crate) fn join_board(
    _: &str,
    _: Identity,
    _: RingOptions,
    _: AbortSignal,
) -> Result<Board, CollectiveError> {
    Err(unsupported())
}
