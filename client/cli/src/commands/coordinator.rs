//! `ringfold coordinator`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use ringfold_common::clock::SystemClock;
use ringfold_coordinator::Options;
use ringfold_coordinator_store::{FileStore, MemoryStore, Store};
use ringfold_net::{server, shutdown, telemetry};

use crate::args::CoordinatorArgs;
use crate::error::CliError;

pub async fn run(args: CoordinatorArgs) -> Result<ExitCode, CliError> {
    telemetry::init("info", None);
    if !args.listen.ip().is_loopback() {
        if !args.insecure {
            return Err(CliError::Exposed {
                listen: args.listen,
            });
        }
        tracing::warn!(
            "--insecure: anyone who reaches {} may submit jobs",
            args.listen
        );
    }
    let store: Box<dyn Store> = match &args.data {
        Some(dir) => Box::new(FileStore::open(dir)?),
        None => Box::new(MemoryStore::default()),
    };
    let stop = shutdown::on_signals().map_err(|source| CliError::Signals { source })?;
    let (listener, address) = server::bind(args.listen).await?;
    announce(&address.to_string(), args.json).map_err(CliError::stdout)?;
    let mut options = Options::default();
    options.core.lease = args.lease;
    let clock = Arc::new(SystemClock::new());
    ringfold_coordinator::serve(listener, store, clock, options, stop).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says where it listens, for whoever started it with port 0.
fn announce(address: &str, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let line = serde_json::json!({ "event": "listening", "address": address });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "listening on {address}")?;
    }
    out.flush()
}
