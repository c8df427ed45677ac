//! `ringfold check`: what would refuse a job, without a cluster.

use std::io::Write;
use std::process::ExitCode;

use ringfold_coordinator::submission;

use crate::args::CheckArgs;
use crate::commands::train::check_host;
use crate::error::CliError;
use crate::job_file;
use crate::output::{json, people};

/// Makes the checks of a submission here: data and model files are read on this machine.
pub fn run(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let file = job_file::read(&args.job_file)?;
    let checked = submission::check(file.spec.clone())
        .map_err(|error| job_file::at_key(&file, &error.field(), error.message()))?;
    check_host(&file)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json::checked(&checked)).map_err(CliError::stdout)?;
    } else {
        people::checked(&mut out, &checked).map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}
