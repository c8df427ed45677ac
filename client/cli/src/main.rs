//! The `ringfold` command: raw arguments become typed ones once, a command runs, and its result
//! becomes an exit code.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | arguments, their help and examples |
//! | [`job_file`] | reads a job file and lays flags over it |
//! | [`commands`] | one module a command |
//! | [`output`] | the same events for people (progress bar, tables) and for machines (JSON lines) |
//! | [`error`] | what a user sees when a command fails, and the exit codes |

mod args;
mod commands;
mod error;
mod job_file;
mod output;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, ModelCommand};
use error::CliError;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })
        .and_then(|runtime| {
            let result = runtime.block_on(run(arguments));
            // Reads of standard input can't be cancelled.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, CliError> {
    match arguments.command {
        Command::Train(args) => commands::train::run(args).await,
        Command::Coordinator(args) => commands::coordinator::run(args).await,
        Command::Worker(args) => commands::worker::run(args).await,
        Command::WorkerSlot(args) => commands::worker::run_slot(args).await,
        Command::Submit(args) => commands::submit::run(args).await,
        Command::Check(args) => commands::check::run(&args),
        Command::Jobs(args) => commands::jobs::list(args).await,
        Command::Job(args) => commands::jobs::show(args).await,
        Command::Watch(args) => commands::submit::watch(args).await,
        Command::Cancel(args) => commands::jobs::cancel(args).await,
        Command::Nodes(args) => commands::nodes::run(args).await,
        Command::Predict(args) => commands::predict::run(&args),
        Command::Evaluate(args) => commands::evaluate::run(&args),
        Command::Bench(command) => commands::bench::run(command).await,
        Command::Model(args) => match args.command {
            ModelCommand::Inspect(args) => commands::model::inspect(&args),
        },
        Command::Export(args) => commands::export::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
    }
}
