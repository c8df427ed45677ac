//! Rings between threads of this process.

use std::sync::Arc;

use ringfold_common::ids::Rank;

use super::board::Board;
use super::segment::{SHARED_WORLD_MAX, Segment};
use crate::identity::{validate_identity, validate_options};
use crate::topology::RingTopology;
use crate::{AbortSignal, CollectiveError, Identity, Ring, RingOptions};

/// Checks what the caller chose.
pub(super) fn validate_shared(
    identity: &Identity,
    options: &RingOptions,
) -> Result<RingTopology, CollectiveError> {
    let topology = validate_identity(identity)?;
    if identity.world > SHARED_WORLD_MAX {
        return Err(CollectiveError::OptionOutOfRange {
            option: "world in shared memory",
            got: identity.world.to_string(),
            allowed: format!("at most {SHARED_WORLD_MAX} ranks on one host"),
        });
    }
    validate_options(options)?;
    Ok(topology)
}

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

#[cfg(test)]
mod tests {
    use crate::testing::{join_memory, on_threads};
    use crate::{Reduce, RingOptions};
    use ringfold_common::ids::Rank;

    /// Small enough for Miri and ThreadSanitizer, which are to see every kind of access to slots.
    #[test]
    fn threads_read_only_what_was_posted() {
        let options = RingOptions {
            segment_bytes: 64 << 10,
            ..RingOptions::default()
        };
        on_threads(join_memory(3, options), |(mut ring, _)| {
            let me = ring.rank().0;
            // One shot; slices in one block, and in several.
            for elements in [5, 8_000, 50_000] {
                let mut values = vec![me as i32; elements];
                ring.all_reduce(&mut values, Reduce::Sum).unwrap();
                assert!(values.iter().all(|&value| value == 3));
            }
            let mut values = vec![me as i64; 300];
            let mine = ring.reduce_scatter(&mut values, Reduce::Max).unwrap();
            assert!(values[mine].iter().all(|&value| value == 2));
            let mut values = [me as u8; 7];
            ring.broadcast(Rank(1), &mut values).unwrap();
            assert_eq!(values, [1; 7]);
            let mut all = [0; 3];
            ring.all_gather(&[me as u8], &mut all).unwrap();
            assert_eq!(all, [0, 1, 2]);
            let mut blocks = [0, 1, 2].map(|to| (me * 10 + to) as u8);
            ring.all_to_all(&mut blocks).unwrap();
            assert_eq!(blocks, [0, 1, 2].map(|from| (from * 10 + me) as u8));
            ring.barrier().unwrap();
        });
    }
}
