//! The session's small parts.

use ringfold_common::ids::{Fence, JobId, MembershipEpoch, Rank};

use crate::error::{FieldError, required};
use crate::v1;

impl From<Fence> for v1::Fence {
    fn from(fence: Fence) -> Self {
        Self {
            job: fence.job.0,
            membership_epoch: fence.membership_epoch.0,
            rank: fence.rank.0,
        }
    }
}

impl From<v1::Fence> for Fence {
    fn from(fence: v1::Fence) -> Self {
        Self {
            job: JobId(fence.job),
            membership_epoch: MembershipEpoch(fence.membership_epoch),
            rank: Rank(fence.rank),
        }
    }
}

/// The fence of a message, which must have one.
///
/// # Errors
/// If it is missing.
pub fn required_fence(fence: Option<v1::Fence>) -> Result<Fence, FieldError> {
    required(fence, "fence").map(Fence::from)
}

/// A field that must be there.
///
/// # Errors
/// If it is missing.
pub fn required_field<T>(value: Option<T>, field: &str) -> Result<T, FieldError> {
    required(value, field)
}

/// A 32-byte hash, or key.
///
/// # Errors
/// If it has another length.
pub fn required_hash(bytes: &[u8], field: &str) -> Result<[u8; 32], FieldError> {
    crate::job::hash_from_wire(bytes, field)
}
