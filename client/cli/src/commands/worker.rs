//! `ringfold worker`, and the slot processes that it starts.

use std::process::ExitCode;
use std::sync::Arc;

use ringfold_common::job::Failure;
use ringfold_net::telemetry::LogTail;
use ringfold_net::{shutdown, telemetry};
use ringfold_worker::{AgentOptions, SlotOptions, agent, host_name, slot};

use crate::args::{WorkerArgs, WorkerSlotArgs};
use crate::commands::train::current_program;
use crate::error::CliError;

pub async fn run(args: WorkerArgs) -> Result<ExitCode, CliError> {
    telemetry::init("info", None);
    let stop = shutdown::on_signals().map_err(|source| CliError::Signals { source })?;
    let options = AgentOptions {
        program: current_program()?,
        arguments: vec!["worker-slot".into()],
        coordinator: args.address.coordinator,
        node: args.node.unwrap_or_else(host_name),
        slots: args.slots,
        cores_per_slot: args.cores,
        advertise: args.advertise,
        connect_timeout: args.connect_timeout,
        log: Arc::new(|slot, line| eprintln!("[slot {slot}] {line}")),
    };
    agent::run(options, stop).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn run_slot(args: WorkerSlotArgs) -> Result<ExitCode, CliError> {
    let log_tail = LogTail::new(Failure::LOG_LINES_MAX, Failure::LOG_LINE_BYTES_MAX);
    telemetry::init(&args.log, Some(log_tail.clone()));
    slot::run(SlotOptions {
        coordinator: args.coordinator,
        node: args.node,
        cores: args.cores.max(1),
        advertise: args.advertise,
        log_tail,
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
