//! Ids, units, job, cluster and dataset types, job files, error codes and the clock.
//!
//! This crate does no IO and knows no async runtime. Everything in it is a value or a pure
//! function, so that the coordinator's core, the workers and the clients can share it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | newtype ids: a [`JobId`](ids::JobId) can't be passed for a [`Rank`](ids::Rank) |
//! | [`job`] | [`JobSpec`](job::JobSpec), states, and what a job reports |
//! | [`job_file`] | TOML to `JobSpec`; errors name file, line, key and what was expected |
//! | [`dataset`] | what a dataset is known to hold; the part of it that a rank owns |
//! | [`replicas`] | which replicas each rank holds, so that their sums meet in few parts |
//! | [`order`] | sample order as a pure function of (seed, epoch, position) |
//! | [`random`] | the counter-based generator behind shuffling, dropout and initialisers |
//! | [`simd`] | a loop compiled for the widest vectors of the machine |
//! | [`vocabulary`] | text as tokens, and tokens as text |
//! | [`error`] | the ten error codes at the edge |
//! | [`clock`] | time as an argument |

pub mod clock;
pub mod dataset;
pub mod error;
pub mod ids;
pub mod job;
pub mod job_file;
pub mod order;
pub mod random;
pub mod replicas;
pub mod simd;
pub mod vocabulary;
