//! Logs on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The environment variable that sets what is logged, such as `debug` or `ringfold_worker=trace`.
pub const LOG_VARIABLE: &str = "RINGFOLD_LOG";

/// Starts logging on standard error: what [`LOG_VARIABLE`] says, else `default`. A second call
/// changes nothing.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::try_new(default).unwrap_or_default());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
