//! What a ring is, how it is to behave, and the caps on both.

use std::net::SocketAddr;
use std::time::Duration;

use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

use crate::CollectiveError;
use crate::topology::RingTopology;

/// The most ranks in a ring.
pub const WORLD_MAX: u32 = 4096;

/// The most elements in one operation (bytes, for a broadcast or an all-gather).
pub const OPERATION_ELEMENTS_MAX: usize = 1 << 34;

/// The most payload bytes in one frame, and the greatest [`RingOptions::segment_bytes`].
pub const SEGMENT_BYTES_MAX: usize = 4 << 20;

/// The smallest [`RingOptions::segment_bytes`].
const SEGMENT_BYTES_MIN: usize = 64;

/// The greatest deadline: a week.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who this rank is. Neighbours compare all of it before the first byte of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The job that the ring works for.
    pub job: JobId,
    /// The number of the job's world. A ring lives for one.
    pub membership_epoch: MembershipEpoch,
    /// This rank's position, below `world`.
    pub rank: Rank,
    /// The number of ranks, at least 1 and at most [`WORLD_MAX`].
    pub world: u32,
    /// The hash of what all ranks must agree on: job spec and dataset.
    pub spec_hash: SpecHash,
}

/// How a ring behaves. Start from [`RingOptions::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// How long joining may take in all, from the call of `connect_ring`. 30 s by default.
    pub connect_deadline: Duration,
    /// How long an operation may go on without one byte moving in either direction. 30 s by
    /// default; at least 1 ms.
    pub progress_deadline: Duration,
    /// Payload bytes of a full frame, the unit of pipelining: a multiple of 8 from 64 to
    /// [`SEGMENT_BYTES_MAX`], the same at all ranks. 256 KiB by default.
    pub segment_bytes: usize,
    /// Sets the kernel's send and receive buffers of both sockets. By default, and best on most
    /// links, the kernel tunes them itself.
    pub socket_buffer_bytes: Option<usize>,
    /// Whether ranks that are no neighbours are connected, too
    /// ([`direct_peers`](crate::algorithm::direct::direct_peers)), so that short messages take few
    /// hops. The same at all ranks. True by default.
    pub direct: bool,
    /// Whether, over TCP, a rank that waits looks for some tens of microseconds before it sleeps, if every
    /// rank of its host can have a core. Ranks may differ. True by default.
    pub spin: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(30),
            progress_deadline: Duration::from_secs(30),
            segment_bytes: 256 << 10,
            socket_buffer_bytes: None,
            direct: true,
            spin: true,
        }
    }
}

/// Checks everything that the caller of `connect_ring` chose.
pub(crate) fn validate(
    identity: &Identity,
    peers: &[SocketAddr],
    options: &RingOptions,
) -> Result<RingTopology, CollectiveError> {
    let topology = validate_identity(identity)?;
    if peers.len() != identity.world as usize {
        return Err(CollectiveError::AddressCount {
            world: identity.world,
            got: peers.len(),
        });
    }
    validate_options(options)?;
    Ok(topology)
}

/// Checks the world and the rank.
pub(crate) fn validate_identity(identity: &Identity) -> Result<RingTopology, CollectiveError> {
    let Identity { rank, world, .. } = *identity;
    if world == 0 || world > WORLD_MAX {
        return Err(CollectiveError::WorldOutOfRange { world });
    }
    RingTopology::new(rank, world).ok_or(CollectiveError::RankOutsideWorld { rank, world })
}

/// Checks the ranges of options.
pub(crate) fn validate_options(options: &RingOptions) -> Result<(), CollectiveError> {
    let segment_bytes = options.segment_bytes;
    if !segment_bytes.is_multiple_of(8)
        || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
    {
        return Err(CollectiveError::OptionOutOfRange {
            option: "segment_bytes",
            got: segment_bytes.to_string(),
            allowed: format!("a multiple of 8 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"),
        });
    }
    for (option, got) in [
        ("connect_deadline", options.connect_deadline),
        ("progress_deadline", options.progress_deadline),
    ] {
        if got < Duration::from_millis(1) || got > DEADLINE_MAX {
            return Err(CollectiveError::OptionOutOfRange {
                option,
                got: format!("{got:?}"),
                allowed: "from 1 ms to a week".to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses an operand that is over [`OPERATION_ELEMENTS_MAX`].
pub(crate) fn check_elements(elements: usize) -> Result<(), CollectiveError> {
    if elements > OPERATION_ELEMENTS_MAX {
        return Err(CollectiveError::TooManyElements { elements });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(rank: u32, world: u32) -> Identity {
        Identity {
            job: JobId(1),
            membership_epoch: MembershipEpoch(1),
            rank: Rank(rank),
            world,
            spec_hash: SpecHash([0; 32]),
        }
    }

    fn peers(count: usize) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], 1)); count]
    }

    #[test]
    fn every_cap_is_checked() {
        let options = RingOptions::default();
        let refused = |identity: Identity, peers: &[SocketAddr], options: &RingOptions| {
            let error = validate(&identity, peers, options).unwrap_err();
            assert!(error.is_argument(), "{error}");
            error.to_string()
        };
        let cap = WORLD_MAX as usize;
        assert!(validate(&identity(0, WORLD_MAX), &peers(cap), &options).is_ok());
        let error = refused(identity(0, WORLD_MAX + 1), &peers(cap + 1), &options);
        assert!(error.contains("4097") && error.contains("4096"), "{error}");
        refused(identity(0, 0), &[], &options);
        let error = refused(identity(2, 2), &peers(2), &options);
        assert!(error.contains("rank 2"), "{error}");
        let error = refused(identity(0, 2), &peers(3), &options);
        assert!(error.contains("3 addresses"), "{error}");
        for segment_bytes in [0, 56, 100, SEGMENT_BYTES_MAX + 8] {
            let options = RingOptions {
                segment_bytes,
                ..options
            };
            let error = refused(identity(0, 2), &peers(2), &options);
            assert!(error.contains("segment_bytes"), "{error}");
        }
        for progress_deadline in [Duration::ZERO, Duration::MAX] {
            let options = RingOptions {
                progress_deadline,
                ..options
            };
            let error = refused(identity(0, 2), &peers(2), &options);
            assert!(error.contains("progress_deadline"), "{error}");
        }
    }

    #[test]
    fn elements_are_capped() {
        assert!(check_elements(OPERATION_ELEMENTS_MAX).is_ok());
        let error = check_elements(OPERATION_ELEMENTS_MAX + 1).unwrap_err();
        assert!(error.is_argument());
        assert!(error.to_string().contains("17179869185"), "{error}");
    }
}
