//! End to end: the `ringfold` command as users run it, in real processes, over real sockets, with
//! real signals.
//!
//! | module | what it tests |
//! |---|---|
//! | [`support`] | the harness: processes that end with their test, clusters, bounded polls |
//! | [`train`] | `ringfold train` with 1 to 4 workers |
//! | [`cluster`] | coordinator, agents, `submit`, `jobs`, `job`, `nodes`, `watch`, `cancel` |
//! | [`queue`] | who waits for what, and tokens |
//! | [`faults`] | killed, stopped and silent processes |
//! | [`signals`] | Ctrl-C and SIGKILL of `ringfold train` |
//! | [`restart`] | a coordinator that comes back |
//!
//! What a machine lacks is said in a line `skipped: reason`; `--nocapture` shows it.

mod cluster;
mod faults;
mod queue;
mod restart;
mod signals;
mod support;
mod train;
