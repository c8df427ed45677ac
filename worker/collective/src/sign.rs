//! The last thing that a rank was known to do.

use std::fmt;

use crate::transport::tcp::Call;

/// What a rank last showed of itself, as seen by another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastSign {
    /// Nothing since the ring was joined.
    #[default]
    Joined,
    /// Bytes came of it.
    Sent {
        /// Of which call.
        call: Call,
        /// The number of the message on its connection, from 0.
        step: u32,
        /// Payload bytes of that message that came.
        bytes: u64,
    },
    /// It never sends to this rank; its connection took bytes.
    Took {
        /// Of which call the last ones were.
        call: Call,
        /// Headers included, since the ring was joined.
        bytes: u64,
    },
    /// In shared memory: it has begun a call.
    Entered {
        /// Which one.
        call: Call,
        /// Ticks that it has posted since the ring was joined.
        ticks: u32,
    },
}

impl LastSign {
    pub(crate) fn call_mut(&mut self) -> Option<&mut Call> {
        match self {
            Self::Joined => None,
            Self::Sent { call, .. } | Self::Took { call, .. } | Self::Entered { call, .. } => {
                Some(call)
            }
        }
    }
}

impl fmt::Display for LastSign {
    /// Completes "rank 2: …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined => f.write_str("it has joined, and nothing came of it since"),
            Self::Sent { call, step, bytes } => write!(
                f,
                "the last that came of it were {bytes} bytes of message {} of {call}",
                step + 1
            ),
            Self::Took { call, bytes } => write!(
                f,
                "its connection has taken {bytes} bytes, the last of {call}"
            ),
            Self::Entered { call, ticks } => {
                write!(f, "it was last seen in {call}, after {ticks} ticks in all")
            }
        }
    }
}
