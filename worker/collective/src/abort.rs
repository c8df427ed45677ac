//! A way to end blocking calls from another thread.

use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use crate::CollectiveError;

/// Ends, from any thread, every blocking call of the ring that was connected with it. Clones are
/// the same signal. Once given it stays given.
#[derive(Clone, Debug)]
pub struct AbortSignal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reason: OnceLock<String>,
    /// Readable from the first abort on: nobody reads the byte that it wrote.
    reader: PipeReader,
    writer: PipeWriter,
}

impl AbortSignal {
    /// A signal that has not been given.
    ///
    /// # Errors
    /// [`CollectiveError::System`] if the process is out of file descriptors.
    pub fn new() -> Result<Self, CollectiveError> {
        let (reader, writer) =
            std::io::pipe().map_err(|error| CollectiveError::system("open a pipe", error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                reason: OnceLock::new(),
                reader,
                writer,
            }),
        })
    }

    /// Gives the signal: blocking calls return [`CollectiveError::Aborted`] with `reason`. Returns
    /// false, and keeps the first reason, if it had been given already. Never blocks.
    pub fn abort(&self, reason: impl Into<String>) -> bool {
        let first = self.shared.reason.set(reason.into()).is_ok();
        if first && let Err(error) = (&self.shared.writer).write_all(&[1]) {
            // The one byte in an empty pipe whose both ends are open: only a bug can refuse it.
            tracing::error!(%error, "cannot wake the ring that is to be aborted");
        }
        first
    }

    /// The reason, once the signal has been given.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.shared.reason.get().map(String::as_str)
    }

    /// `Err` once the signal has been given.
    pub(crate) fn check(&self) -> Result<(), CollectiveError> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(CollectiveError::Aborted {
                reason: reason.to_owned(),
            }),
        }
    }

    /// Becomes readable when the signal is given, and stays so.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.reader.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let signal = AbortSignal::new().unwrap();
        assert!(signal.check().is_ok());
        assert!(signal.clone().abort("lease lost"));
        assert!(!signal.abort("too late"));
        assert_eq!(signal.reason(), Some("lease lost"));
        let error = signal.check().unwrap_err();
        assert_eq!(error.to_string(), "aborted: lease lost");
    }
}
