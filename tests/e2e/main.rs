//! The `ringfold` binary as its users meet it: real processes, real sockets, real signals.
//!
//! Every test has its own coordinator on a port of its own and a temporary directory. Whatever it
//! starts ends with it. Waits are polls with a generous limit: a loaded machine makes them longer,
//! not red.

mod api;
mod cluster;
mod errors;
mod failure;
mod harness;
mod models;
mod train;
