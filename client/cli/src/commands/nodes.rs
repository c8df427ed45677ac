//! `ringfold nodes`.

use std::io::Write;
use std::process::ExitCode;

use ringfold_client::Client;
use ringfold_net::telemetry;

use crate::args::NodesArgs;
use crate::error::CliError;
use crate::output::{json, people};

pub async fn run(args: NodesArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let mut client = Client::connect(&args.address.coordinator).await?;
    let reply = client.nodes().await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json::nodes(&reply)).map_err(CliError::stdout)?;
    } else {
        people::nodes(&mut out, &reply).map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}
