//! Rings between threads of this process.

use std::sync::Arc;

use ringfold_common::ids::Rank;

use super::board::Board;
use super::process::validate_shared;
use super::segment::Segment;
use crate::{AbortSignal, CollectiveError, Identity, Ring, RingOptions};

/// The rings of all ranks, in rank order, one for each signal in `aborts`. Each is to be given to
/// a thread of its own. `first` is the identity of rank 0; the others differ by their rank.
///
/// # Errors
/// An [argument error](CollectiveError::is_argument), or [`System`](CollectiveError::System) if
/// there is no memory.
pub fn memory_rings(
    first: Identity,
    options: RingOptions,
    aborts: Vec<AbortSignal>,
) -> Result<Vec<Ring>, CollectiveError> {
    let identities = (0..first.world).map(|rank| Identity {
        rank: Rank(rank),
        ..first
    });
    validate_shared(&first, &options)?;
    if aborts.len() != first.world as usize {
        return Err(CollectiveError::AddressCount {
            world: first.world,
            got: aborts.len(),
        });
    }
    let segment = Segment::in_process(first.world, options.segment_bytes)
        .map_err(|error| CollectiveError::system("map memory for a ring", error))?;
    let segment = Arc::new(segment);
    let rings = identities.zip(aborts).map(|(identity, abort)| {
        let topology = validate_shared(&identity, &options)?;
        let board = Board::new(
            Arc::clone(&segment),
            &identity,
            &options,
            abort.clone(),
            None,
        );
        Ok(Ring::shared(identity, topology, board, abort))
    });
    rings.collect()
}
