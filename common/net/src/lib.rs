//! Channel and server builders, retry, shutdown and telemetry: what every shell of Ringfold shares.
//!
//! | module | what it holds |
//! |---|---|
//! | [`limits`] | caps on messages, streams and times; each a documented constant |
//! | [`server`] | a bound listener and a server builder with those caps |
//! | [`channel`] | a client channel, and one clear error when nobody answers |
//! | [`request_id`] | every request and reply carries `x-request-id` |
//! | [`retry`] | growing waits between attempts |
//! | [`shutdown`] | one token that Ctrl-C and SIGTERM cancel |
//! | [`telemetry`] | logs on standard error |

pub mod channel;
pub mod limits;
pub mod request_id;
pub mod retry;
pub mod server;
pub mod shutdown;
pub mod telemetry;
