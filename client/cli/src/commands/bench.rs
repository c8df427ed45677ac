//! `ringfold bench`: how fast this machine is at what jobs do.

mod allreduce;

pub use allreduce::BenchError;

use std::process::ExitCode;

use crate::args::BenchCommand;
use crate::error::CliError;

pub fn run(command: &BenchCommand) -> Result<ExitCode, CliError> {
    match command {
        BenchCommand::Allreduce(args) => allreduce::run(args),
    }
}
