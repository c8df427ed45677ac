//! `ringfold jobs`, `ringfold job` and `ringfold cancel`.

use std::io::Write;
use std::process::ExitCode;

use ringfold_client::{Client, api};
use ringfold_net::telemetry;

use crate::args::{JobArgs, JobsArgs, StateArg};
use crate::error::CliError;
use crate::output::{json, people};

pub async fn list(args: JobsArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let states: Vec<api::JobState> = args.state.iter().map(|&state| state.into()).collect();
    let mut client = Client::connect(&args.address.coordinator).await?;
    let jobs = client.jobs(&states, args.max).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        for job in &jobs {
            writeln!(out, "{}", json::job(job)).map_err(CliError::stdout)?;
        }
    } else {
        people::jobs(&mut out, &jobs).map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn show(args: JobArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let mut client = Client::connect(&args.address.coordinator).await?;
    let job = client.job(&args.job_id).await?;
    print(&job, args.json)
}

pub async fn cancel(args: JobArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let mut client = Client::connect(&args.address.coordinator).await?;
    let job = client.cancel(&args.job_id).await?;
    if args.json {
        return print(&job, true);
    }
    writeln!(std::io::stdout(), "{}: {}", job.job_id, job.reason).map_err(CliError::stdout)?;
    Ok(ExitCode::SUCCESS)
}

fn print(job: &api::Job, as_json: bool) -> Result<ExitCode, CliError> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json::job(job)).map_err(CliError::stdout)?;
    } else {
        people::job(&mut out, job).map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<StateArg> for api::JobState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Queued => Self::Queued,
            StateArg::Starting => Self::Starting,
            StateArg::Running => Self::Running,
            StateArg::Succeeded => Self::Succeeded,
            StateArg::Failed => Self::Failed,
            StateArg::Cancelled => Self::Cancelled,
        }
    }
}
