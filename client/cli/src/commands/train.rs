//! `ringfold train`: a coordinator in this process, worker processes, one job.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ringfold_client::Client;
use ringfold_common::clock::SystemClock;
use ringfold_common::job::JobSpec;
use ringfold_common::job_file::JobFile;
use ringfold_coordinator::{CoordinatorError, Options};
use ringfold_coordinator_store::MemoryStore;
use ringfold_net::{server, shutdown, telemetry};
use ringfold_train::network::check_precision;
use ringfold_worker::{AgentError, AgentOptions, agent};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::TrainArgs;
use crate::commands::submit::{follow, outcome};
use crate::error::CliError;
use crate::job_file;
use crate::output::{Renderer, Style};

pub async fn run(args: TrainArgs) -> Result<ExitCode, CliError> {
    telemetry::init(if args.verbose { "info" } else { "error" }, None);
    let file = job_file::read(&args.job_file)?;
    let spec = &file.spec;
    // A rank would find the same: here it is the user's input, not a job's fault.
    check_host(&file)?;
    let interrupted = shutdown::on_signals().map_err(|source| CliError::Signals { source })?;
    let mut renderer = Renderer::new(Style::choose(args.json));

    let cluster = LocalCluster::start(spec, args.verbose).await?;
    let result = train(&file, &cluster, &mut renderer, &interrupted).await;
    let stopped = cluster.stop().await;
    match result {
        // A worker that can't start says more than the job that waits for it.
        Err(CliError::Client(error)) => Err(stopped.err().unwrap_or(error.into())),
        Err(error) => Err(error),
        Ok(code) => stopped.map(|()| code),
    }
}

/// Checks what a job asks of the host that its ranks run on.
pub fn check_host(file: &JobFile) -> Result<(), CliError> {
    let spec = &file.spec;
    ringfold_storage::check_output_dir(Path::new(&spec.output.dir))?;
    check_precision(spec.train.precision)
        .map_err(|error| job_file::at_key(file, "train.precision", error.to_string()))
}

async fn train(
    file: &JobFile,
    cluster: &LocalCluster,
    renderer: &mut Renderer,
    interrupted: &CancellationToken,
) -> Result<ExitCode, CliError> {
    let mut client = Client::connect(&cluster.address).await?;
    let token = Client::new_token();
    let submitted = tokio::select! {
        submitted = client.submit(&file.spec, &token) => {
            submitted.map_err(|error| job_file::refused(file, error))?
        }
        () = interrupted.cancelled() => {
            return Ok(ExitCode::from(crate::error::EXIT_INTERRUPTED));
        }
    };
    let job_id = submitted.job.job_id;
    let last = tokio::select! {
        last = follow(&client, &job_id, renderer, Some(interrupted)) => last?,
        // The agent stops by itself only when it can't go on; `stop` says why.
        () = cluster.agent_ended.cancelled() => return Ok(ExitCode::FAILURE),
    };
    Ok(outcome(last.as_ref(), interrupted.is_cancelled()))
}

/// A coordinator and an agent that live as long as one command.
pub struct LocalCluster {
    address: String,
    coordinator_stop: CancellationToken,
    agent_stop: CancellationToken,
    agent_ended: CancellationToken,
    coordinator: JoinHandle<Result<(), CoordinatorError>>,
    agent: JoinHandle<Result<(), AgentError>>,
}

impl LocalCluster {
    /// Where the coordinator listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts both; the agent with a slot a worker of `spec`.
    pub async fn start(spec: &JobSpec, verbose: bool) -> Result<Self, CliError> {
        let (listener, address) = server::bind(([127, 0, 0, 1], 0).into()).await?;
        let coordinator_stop = CancellationToken::new();
        let coordinator = tokio::spawn(ringfold_coordinator::serve(
            listener,
            Box::new(MemoryStore::default()),
            Arc::new(SystemClock::new()),
            Options::default(),
            coordinator_stop.clone(),
        ));

        let log_level = if verbose { "info" } else { "warn" };
        let options = AgentOptions {
            program: current_program()?,
            arguments: vec!["worker-slot".into(), "--log".into(), log_level.into()],
            coordinator: address.to_string(),
            node: "local".to_owned(),
            slots: spec.cluster.workers,
            cores_per_slot: spec.cluster.threads,
            advertise: None,
            connect_timeout: Duration::from_secs(10),
            log: Arc::new(move |slot, line| {
                if verbose {
                    eprintln!("[worker {slot}] {line}");
                }
            }),
        };
        let agent_stop = CancellationToken::new();
        let agent_ended = CancellationToken::new();
        let (stop, ended) = (agent_stop.clone(), agent_ended.clone());
        let agent = tokio::spawn(async move {
            let result = agent::run(options, stop).await;
            ended.cancel();
            result
        });
        Ok(Self {
            address: address.to_string(),
            coordinator_stop,
            agent_stop,
            agent_ended,
            coordinator,
            agent,
        })
    }

    /// Ends workers, then the coordinator. No process is left when it returns.
    pub async fn stop(self) -> Result<(), CliError> {
        self.agent_stop.cancel();
        let agent = self.agent.await.unwrap_or(Ok(()));
        self.coordinator_stop.cancel();
        let coordinator = self.coordinator.await.unwrap_or(Ok(()));
        agent?;
        Ok(coordinator?)
    }
}

/// This program, for worker processes to run.
pub fn current_program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|source| {
        CliError::Agent(AgentError::Spawn {
            program: PathBuf::from("ringfold"),
            source,
        })
    })
}
