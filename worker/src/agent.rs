//! The agent: starts, watches, reports and restarts the slot processes of a node.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::job::Failure;
use ringfold_net::channel::ConnectError;
use ringfold_net::retry::Backoff;
use ringfold_net::telemetry::LogTail;
use ringfold_proto::v1;
use ringfold_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::slot::{EXIT_REFUSED, STOP_WORD};

/// Time that slot processes have to end in order.
pub const STOP_GRACE: Duration = Duration::from_secs(6);
/// Slots of one agent.
pub const SLOTS_MAX: u32 = 1024;

/// First wait before a slot that ended is started again; it doubles up to [`RESTART_WAIT_MAX`].
const RESTART_WAIT_FIRST: Duration = Duration::from_millis(200);
/// The longest wait before a slot is started again.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);
/// A slot that lived this long starts over with short waits.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Attempts to report an exit.
const REPORT_ATTEMPTS: u32 = 5;
/// Bytes of one line of a slot's log; the rest of the line is dropped.
const LOG_LINE_BYTES_MAX: u64 = 64 << 10;

/// Takes a line of a slot's log.
pub type LogSink = Arc<dyn Fn(u32, &str) + Send + Sync>;

/// How an agent runs.
#[derive(Clone)]
pub struct AgentOptions {
    /// The program that the slots run, with the arguments that make it one; the agent adds
    /// `--coordinator`, `--node`, `--cores` and `--advertise`.
    pub program: PathBuf,
    /// See [`AgentOptions::program`].
    pub arguments: Vec<OsString>,
    /// The coordinator.
    pub coordinator: String,
    /// The node's name.
    pub node: String,
    /// Slot processes, 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// CPU cores of each slot; 0 shares out those of the host.
    pub cores_per_slot: u32,
    /// The address that other hosts reach this one by.
    pub advertise: Option<IpAddr>,
    /// Time to wait for a coordinator at the start.
    pub connect_timeout: Duration,
    /// Takes the slots' log lines.
    pub log: LogSink,
}

/// Why an agent stopped early.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No coordinator answered at the start.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A slot process can't be started.
    #[error("can't start a worker process ({program})")]
    Spawn {
        /// What was to be run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The coordinator won't have this worker.
    #[error("{line}")]
    Refused {
        /// The last line that the slot's process wrote.
        line: String,
    },
}

/// Runs the node's slots until `shutdown`, then ends them all. When it returns, no slot process is
/// left.
///
/// # Errors
/// If no coordinator answers in time, a process can't be started, or the coordinator refuses this
/// version.
pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), AgentError> {
    let channel = connect(&options, &shutdown).await?;
    let Some(channel) = channel else {
        return Ok(());
    };
    let stop = shutdown.child_token();
    let mut slots = tokio::task::JoinSet::new();
    for slot in 0..options.slots.clamp(1, SLOTS_MAX) {
        let supervisor = Supervisor {
            slot,
            options: options.clone(),
            client: WorkerServiceClient::new(channel.clone()),
            stop: stop.clone(),
        };
        slots.spawn(supervisor.run());
    }
    let mut first_error = None;
    while let Some(joined) = slots.join_next().await {
        if let Ok(Err(error)) = joined {
            first_error.get_or_insert(error);
            stop.cancel();
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// A channel to the coordinator, which must answer once within the timeout. `None` on shutdown.
async fn connect(
    options: &AgentOptions,
    shutdown: &CancellationToken,
) -> Result<Option<Channel>, AgentError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let deadline = tokio::time::sleep(options.connect_timeout);
    tokio::pin!(deadline);
    let mut told = false;
    loop {
        let error = match ringfold_net::channel::connect(&options.coordinator).await {
            Ok(channel) => return Ok(Some(channel)),
            Err(error @ ConnectError::BadAddress { .. }) => return Err(error.into()),
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) && !options.connect_timeout.is_zero() {
            tracing::warn!(
                "{error}; trying for {} s",
                options.connect_timeout.as_secs()
            );
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = &mut deadline => return Err(error.into()),
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Keeps one slot's process running.
struct Supervisor {
    slot: u32,
    options: AgentOptions,
    client: WorkerServiceClient<Channel>,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(mut self) -> Result<(), AgentError> {
        let mut backoff = Backoff::new(RESTART_WAIT_FIRST, RESTART_WAIT_MAX);
        while !self.stop.is_cancelled() {
            let lived = SystemClock::new();
            self.run_once().await?;
            if lived.monotonic() >= STEADY_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// One process from start to end.
    async fn run_once(&mut self) -> Result<(), AgentError> {
        let mut child = self.spawn()?;
        let pid = child.id().unwrap_or(0);
        // Held apart: `wait` would close it, and the slot would take that for our end.
        let stdin = child.stdin.take();
        let tail = LogTail::new(Failure::LOG_LINES_MAX, Failure::LOG_LINE_BYTES_MAX);
        let log = child.stderr.take().map(|stderr| {
            tokio::spawn(follow(
                stderr,
                self.slot,
                tail.clone(),
                Arc::clone(&self.options.log),
            ))
        });
        let status = tokio::select! {
            status = child.wait() => status,
            () = self.stop.cancelled() => {
                end(&mut child, stdin).await;
                return Ok(());
            }
        };
        // The process is gone: what it wrote is in the pipe, unless a process of its own holds it.
        if let Some(log) = log {
            let _ = tokio::time::timeout(Duration::from_millis(500), log).await;
        }
        let Ok(status) = status else { return Ok(()) };
        if status.code() == Some(EXIT_REFUSED.into()) {
            let line = tail.lines().pop().unwrap_or_default();
            let line = line.trim_start_matches("error: ").to_owned();
            return Err(AgentError::Refused { line });
        }
        tracing::warn!(slot = self.slot, pid, "the slot's process ended: {status}");
        self.report(pid, status, tail.lines()).await;
        Ok(())
    }

    fn spawn(&self) -> Result<Child, AgentError> {
        let options = &self.options;
        let cores = match options.cores_per_slot {
            0 => (crate::host::cores() / options.slots.max(1)).max(1),
            cores => cores,
        };
        let mut command = Command::new(&options.program);
        command
            .args(&options.arguments)
            .args([
                "--coordinator",
                &options.coordinator,
                "--node",
                &options.node,
            ])
            .args(["--cores", &cores.to_string()]);
        if let Some(address) = options.advertise {
            command.args(["--advertise", &address.to_string()]);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| AgentError::Spawn {
                program: options.program.clone(),
                source,
            })
    }

    /// Tells the coordinator how the process ended. An unreachable one learns from the session's
    /// end that it is gone.
    async fn report(&mut self, pid: u32, status: ExitStatus, log_tail: Vec<String>) {
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => v1::report_exit_request::Exit::Code(code),
            (None, signal) => v1::report_exit_request::Exit::Signal(signal.unwrap_or(0)),
        };
        let request = v1::ReportExitRequest {
            node: self.options.node.clone(),
            pid,
            exit: Some(exit),
            log_tail,
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for _ in 0..REPORT_ATTEMPTS {
            let Err(status) = self.client.report_exit(request.clone()).await else {
                return;
            };
            tracing::warn!(
                "can't report the end of process {pid}: {}",
                status.message()
            );
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Ends a process: with a word, and by force if that does not help.
async fn end(child: &mut Child, stdin: Option<ChildStdin>) {
    if let Some(mut stdin) = stdin {
        // A process that takes no word has ended, or ends with its input.
        let _ = stdin.write_all(STOP_WORD).await;
    }
    if tokio::time::timeout(STOP_GRACE, child.wait())
        .await
        .is_err()
    {
        tracing::warn!("a worker process did not stop in time and is killed");
        let _ = child.kill().await;
    }
}

/// Hands on a process's log lines and keeps the last ones.
async fn follow(stderr: ChildStderr, slot: u32, tail: LogTail, sink: LogSink) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(LOG_LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                tail.push(text);
                sink(slot, text);
            }
        }
    }
}
