//! `ringfold submit` and `ringfold watch`.

use std::process::ExitCode;

use ringfold_client::{Client, ClientError, api};
use ringfold_net::{shutdown, telemetry};
use tokio_util::sync::CancellationToken;

use crate::args::{JobArgs, SubmitArgs};
use crate::error::{CliError, EXIT_INTERRUPTED};
use crate::job_file;
use crate::output::{Renderer, Style};

pub async fn run(args: SubmitArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let file = job_file::read(&args.job_file)?;
    let mut client = Client::connect(&args.address.coordinator).await?;
    let token = args.token.unwrap_or_else(Client::new_token);
    let submitted = client.submit(&file.spec, &token).await;
    let submitted = submitted.map_err(|error| job_file::refused(&file, error))?;
    let mut renderer = Renderer::new(Style::choose(args.json));
    renderer.submitted(&submitted).map_err(CliError::stdout)?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    watch_to_end(&client, &submitted.job.job_id, renderer).await
}

pub async fn watch(args: JobArgs) -> Result<ExitCode, CliError> {
    telemetry::init("warn", None);
    let client = Client::connect(&args.address.coordinator).await?;
    watch_to_end(
        &client,
        &args.job_id,
        Renderer::new(Style::choose(args.json)),
    )
    .await
}

/// Watches until the job ends or the user has seen enough; the job itself goes on.
async fn watch_to_end(
    client: &Client,
    job_id: &str,
    mut renderer: Renderer,
) -> Result<ExitCode, CliError> {
    let interrupted = shutdown::on_signals().map_err(|source| CliError::Signals { source })?;
    tokio::select! {
        last = follow(client, job_id, &mut renderer, None) => Ok(outcome(last?.as_ref(), false)),
        () = interrupted.cancelled() => {
            renderer.left(job_id);
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

/// Shows a job's events to its end and returns its last state. When `cancel_on` is cancelled, so
/// is the job.
pub async fn follow(
    client: &Client,
    job_id: &str,
    renderer: &mut Renderer,
    cancel_on: Option<&CancellationToken>,
) -> Result<Option<api::StateChange>, CliError> {
    let mut watch = client
        .watch(job_id, 0)
        .on_interruption(renderer.on_interruption());
    let mut last = None;
    let mut cancelled = false;
    loop {
        let event = tokio::select! {
            event = watch.next() => event?,
            () = cancellation(cancel_on), if !cancelled => {
                cancelled = true;
                match client.clone().cancel(job_id).await {
                    // It ended on its own in the meantime.
                    Ok(_) | Err(ClientError::Refused { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let Some(event) = event else { return Ok(last) };
        renderer.event(&event).map_err(CliError::stdout)?;
        if let Some(api::job_event::Kind::State(change)) = event.kind {
            last = Some(change);
        }
    }
}

async fn cancellation(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The exit code for a job's end.
pub fn outcome(last: Option<&api::StateChange>, interrupted: bool) -> ExitCode {
    match last.map(api::StateChange::state) {
        Some(api::JobState::Succeeded) => ExitCode::SUCCESS,
        _ if interrupted => ExitCode::from(EXIT_INTERRUPTED),
        _ => ExitCode::FAILURE,
    }
}
