//! The ring over TCP: one connection from the rank before, one to the next rank; and one, in both
//! directions, with each of the [other ranks](crate::algorithm::direct::direct_peers).
//!
//! One thread, non-blocking sockets and `poll`. All directions move whenever they can, so
//! that no size of the kernel's buffers can make ranks that send wait for each other; the same
//! poll watches the abort signal. Nothing is allocated after an operation's first run.
//!
//! | module | what it holds |
//! |---|---|
//! | `listener` | the port that a rank registers, and how a ring is joined |
//! | `connect`, `dialer`, `acceptor` | one poll loop that meets both neighbours, then the others |
//! | `handshake` | what ranks tell each other first |
//! | `frame` | the header before every segment |
//! | `sender`, `receiver` | one direction each, as state machines over a socket |
//! | `session` | the verbs of the ring: both directions at once |
//! | `direct` | the verbs between any two ranks: all directions at once |
//! | `stream`, `tls` | a connection as it is or under TLS; who may be at its other end |
//! | `socket`, `deadline` | options of sockets; a timer that can be polled |
//! | `patience` | how long a rank looks before it sleeps |

mod acceptor;
mod connect;
mod deadline;
mod dialer;
mod direct;
mod frame;
mod handshake;
mod listener;
mod patience;
mod receiver;
mod sender;
mod session;
mod socket;
mod stream;
mod tls;

pub use acceptor::PENDING_CONNECTIONS_MAX;
#[cfg(target_os = "linux")]
pub(crate) use deadline::Deadline;
pub use frame::{Call, FrameFault, HEADER_BYTES};
pub(crate) use frame::{code, kind_of, round_trips};
pub use handshake::HANDSHAKE_BYTES;
#[cfg(target_os = "linux")]
pub(crate) use handshake::{Heard, Introduction, PROTOCOL, Reader, Verdict};
pub use listener::Listener;
pub(crate) use patience::have_cores;
pub use receiver::STALE_FRAMES_MAX;
pub(crate) use session::{Operand, TcpLink};
#[cfg(target_os = "linux")]
pub(crate) use socket::poll;
pub(crate) use socket::poll as poll_sockets;
pub use tls::{KeyText, PublicKey, RankKey, RingKeys};

use std::io;

/// What one attempt to move bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advance {
    /// There is nothing to move.
    Idle,
    /// The socket can't take or give bytes now.
    Blocked,
    /// Bytes moved.
    Moved,
    /// Bytes moved, and they completed a segment of the operand.
    Segment,
}

/// Why one side of a rank can't go on.
#[derive(Debug)]
enum SideError {
    /// The socket is closed, in order or by an error.
    Closed(Option<io::Error>),
    /// The peer sent what doesn't belong there.
    Fault(FrameFault),
}
