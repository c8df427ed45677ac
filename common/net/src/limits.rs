//! Caps on what crosses the network.

use std::time::Duration;

/// Bytes of one message, either way. A larger one is refused with OUT_OF_RANGE.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Streams (calls and sessions) of one connection at a time.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// Bytes of a call's headers.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Silence after which a connection is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Time that a pinged connection has to answer.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Time that a connection attempt has.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
