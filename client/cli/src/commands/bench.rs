//! `ringfold bench`: how fast this machine is at what jobs do.
//!
//! | module | what it measures |
//! |---|---|
//! | `allreduce` | the all-reduce between processes of this host |
//! | `train` | training steps of a model |
//! | `preset` | the models of `train` |

mod allreduce;
mod preset;
mod train;

use std::process::ExitCode;

pub use allreduce::BenchError;

use crate::args::BenchCommand;
use crate::error::CliError;

pub async fn run(command: BenchCommand) -> Result<ExitCode, CliError> {
    match command {
        BenchCommand::Allreduce(args) => allreduce::run(&args),
        BenchCommand::Train(args) => train::run(args).await,
    }
}
