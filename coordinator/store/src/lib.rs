//! The coordinator's durable state behind one domain transaction.
//!
//! [`Store::commit`] takes the changes of one event, never keys and values, and is all or
//! nothing. Its revision is compared and set: a coordinator that is not the latest changes
//! nothing. What a commit means is said once, by
//! [`Snapshot::apply`](ringfold_coordinator_core::Snapshot::apply); every implementation passes the
//! cases of `tests/cases`.
//!
//! | store | for |
//! |---|---|
//! | [`MemoryStore`] | tests, and clusters that may forget |
//! | [`FileStore`] | one coordinator: one crash-safe file |

mod error;
mod file;
mod memory;

use ringfold_common::ids::Revision;
use ringfold_coordinator_core::{Change, Snapshot};

pub use error::{RecordError, StoreError};
pub use file::FileStore;
pub use memory::MemoryStore;

/// Durable state. One owner at a time; calls block until they are done.
pub trait Store: Send {
    /// Everything that is durable now.
    ///
    /// # Errors
    /// If it can't be read, or is not what this version wrote.
    fn load(&mut self) -> Result<Snapshot, StoreError>;

    /// Makes `changes` durable, all or none, if the store is at revision `expected`. Returns the
    /// revision after it, `expected.next()`. Once it has returned, the changes survive the death
    /// of the process and of the machine.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`], with nothing changed, if the store is at another
    /// revision. After any other error the caller can't know whether the changes were made:
    /// it loads again.
    fn commit(&mut self, expected: Revision, changes: &[Change]) -> Result<Revision, StoreError>;
}
