//! A slot process: sessions one after the other, until it is told to stop.

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringfold_net::retry::Backoff;
use ringfold_net::telemetry::LogTail;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::session::{self, End, Held};

/// The exit code of a slot process that the coordinator refused: starting it again is of no use.
pub const EXIT_REFUSED: u8 = 4;

/// Time from the end of standard input to the end of this process, whatever it does.
const ORPHAN_GRACE: Duration = Duration::from_secs(4);

/// What an agent writes to a slot's standard input before it closes it in an orderly way. An input
/// that ends without it means that the agent has gone.
pub(crate) const STOP_WORD: &[u8] = b"stop\n";

/// What a slot process is told by its agent.
#[derive(Clone, Debug)]
pub struct SlotOptions {
    /// The coordinator, as `HOST:PORT` or `http://HOST:PORT`.
    pub coordinator: String,
    /// The node's name.
    pub node: String,
    /// CPU cores that it may use, from 1.
    pub cores: u32,
    /// The address that other ranks reach this host by; by default that of the route to the
    /// coordinator.
    pub advertise: Option<IpAddr>,
    /// The last lines of the process's log.
    pub log_tail: LogTail,
}

/// Why a slot process ended early.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The coordinator won't have this worker.
    #[error("the coordinator refused this worker: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// The agent ended without a word.
    #[error("lost the connection to the agent that started this process")]
    AgentGone,
    /// The system refuses signal handlers.
    #[error("can't handle signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Tells the process to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    agent_gone: Arc<AtomicBool>,
}

impl Shutdown {
    /// Completes when the process is to end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// True if it is to end because its agent has gone, and not because it was told to.
    pub fn agent_gone(&self) -> bool {
        self.agent_gone.load(Ordering::Acquire)
    }

    fn told(&self) {
        self.token.cancel();
    }

    fn orphaned(&self) {
        if !self.token.is_cancelled() {
            self.agent_gone.store(true, Ordering::Release);
            self.token.cancel();
        }
    }

    fn outcome(&self) -> Result<(), SlotError> {
        match self.agent_gone() {
            true => Err(SlotError::AgentGone),
            false => Ok(()),
        }
    }
}

/// Runs a slot until standard input ends or SIGTERM comes. SIGINT is ignored: a terminal sends it
/// to the whole process group, and the agent decides.
///
/// # Errors
/// If the coordinator refuses this worker, or its agent ends without telling it to stop.
pub async fn run(options: SlotOptions) -> Result<(), SlotError> {
    let shutdown = Shutdown::default();
    stop_with_parent(shutdown.clone());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => stop.told(),
            }
        }
    });

    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut held = Held::new();
    loop {
        let end = tokio::select! {
            end = session::run(&options, &shutdown, &mut held) => end,
            // While connecting; a session that is open sees the token itself.
            () = stopped_for_long(&shutdown) => End::Stopped,
        };
        if !matches!(end, End::Lost { .. }) {
            held.stop("the worker was told to stop").await;
        }
        match end {
            End::Stopped => return shutdown.outcome(),
            End::Refused(status) => {
                return Err(SlotError::Refused {
                    message: status.message().to_owned(),
                });
            }
            End::Lost { registered, reason } => {
                if registered {
                    backoff.reset();
                }
                tracing::warn!("no session with the coordinator: {reason}");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = shutdown.cancelled() => {
                held.stop("the worker was told to stop").await;
                return shutdown.outcome();
            }
        }
    }
}

/// Completes some time after the token was cancelled.
async fn stopped_for_long(shutdown: &Shutdown) {
    shutdown.cancelled().await;
    tokio::time::sleep(ORPHAN_GRACE).await;
}

/// The agent holds the other end of standard input. When that ends, so does this process: in order
/// if it can, at once if not.
fn stop_with_parent(shutdown: Shutdown) {
    let watch = move || {
        let mut input = std::io::stdin().lock();
        let mut word = [0; STOP_WORD.len()];
        match input.read_exact(&mut word) {
            Ok(()) if word == STOP_WORD => shutdown.told(),
            _ => shutdown.orphaned(),
        }
        std::thread::sleep(ORPHAN_GRACE);
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(watch)
    {
        // Without the watch this process could outlive its parent.
        tracing::error!("can't watch the parent process: {error}");
        std::process::exit(1);
    }
}
