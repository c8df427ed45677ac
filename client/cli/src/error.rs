//! What a user sees when a command fails, and the exit codes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use ringfold_client::ClientError;
use ringfold_common::error::{ErrorCode, one_line};
use ringfold_common::job_file::JobFileError;
use ringfold_common::vocabulary::EncodeError;
use ringfold_compute::ComputeError;
use ringfold_coordinator::CoordinatorError;
use ringfold_coordinator_store::StoreError;
use ringfold_net::channel::ConnectError;
use ringfold_net::server::BindError;
use ringfold_storage::StorageError;
use ringfold_train::TrainError;
use ringfold_worker::{AgentError, SlotError};

use crate::commands::bench::BenchError;

/// The exit code of a command that a signal interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The async runtime can't start.
    #[error("can't start the runtime")]
    Runtime {
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses signal handlers.
    #[error("can't handle signals")]
    Signals {
        /// What the system said.
        source: io::Error,
    },
    /// A job file can't be read.
    #[error("can't read the job file {}", .path.display())]
    ReadJobFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A job file is wrong.
    #[error(transparent)]
    JobFile(#[from] JobFileError),
    /// A flag is wrong.
    #[error("{flag}: expected {expected}, got {got:?}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What would have been right.
        expected: &'static str,
        /// What it was.
        got: String,
    },
    /// A coordinator that strangers could reach.
    #[error("{listen} is not a loopback address: anyone who reaches it could submit jobs")]
    Exposed {
        /// The address asked for.
        listen: std::net::SocketAddr,
    },
    /// A port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The coordinator's store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator stopped.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The agent stopped.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A slot process stopped.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Made-up data can't be written.
    #[error("can't write data to train on")]
    BenchData {
        /// What the system said.
        source: io::Error,
    },
    /// A job that was to be measured didn't end well.
    #[error("the job failed: {reason}")]
    BenchJob {
        /// Its reason.
        reason: String,
    },
    /// A measurement failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A call to the coordinator failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files can't be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A model can't be run.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Data that no job can be trained on.
    #[error("{0}")]
    Data(String),
    /// Records that don't fit the model.
    #[error("{0}")]
    Mismatch(String),
    /// A prompt that the model has no tokens for.
    #[error("--prompt")]
    Prompt(#[from] EncodeError),
    /// Output can't be written.
    #[error("can't write {what}")]
    Write {
        /// What was being written.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl CliError {
    /// An error of writing to standard output.
    pub fn stdout(source: io::Error) -> Self {
        Self::Write {
            what: "to standard output".to_owned(),
            source,
        }
    }

    /// Prints the error, and a hint if there is one, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // Whoever read our output has read enough.
        if let Self::Write { source, .. } = self
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {}", one_line(self));
        if let Some(hint) = self.hint() {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.exit_code())
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Storage(error) | Self::Train(TrainError::Storage(error)) => error.hint(),
            Self::Exposed { .. } => Some("add --insecure if the network is trusted".to_owned()),
            Self::Client(ClientError::Connect(ConnectError::Unreachable { .. })) => Some(
                "start one with `ringfold coordinator --data DIR`, or name it with --coordinator"
                    .to_owned(),
            ),
            Self::Agent(AgentError::Connect(ConnectError::Unreachable { .. })) => {
                Some("name the coordinator with --coordinator HOST:PORT".to_owned())
            }
            Self::Bind(BindError::PortInUse { .. }) => {
                Some("choose another with --listen IP:PORT; port 0 takes a free one".to_owned())
            }
            Self::Prompt(EncodeError::UnknownCharacter { .. }) => {
                Some("the model knows the characters of its training text only".to_owned())
            }
            _ => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::JobFile(_)
            | Self::Flag { .. }
            | Self::Exposed { .. }
            | Self::Data(_)
            | Self::Mismatch(_)
            | Self::Prompt(_)
            | Self::Train(
                TrainError::NotOfText { .. }
                | TrainError::Compute(ComputeError::WorkspaceBytes { .. }),
            ) => ErrorCode::InvalidArgument.exit_code(),
            Self::ReadJobFile { .. } => ErrorCode::NotFound.exit_code(),
            Self::Storage(error) | Self::Train(TrainError::Storage(error)) => {
                error.code().exit_code()
            }
            Self::Client(error) => error.code().exit_code(),
            Self::Agent(AgentError::Connect(ConnectError::BadAddress { .. })) => {
                ErrorCode::InvalidArgument.exit_code()
            }
            Self::Agent(AgentError::Connect(ConnectError::Unreachable { .. })) => {
                ErrorCode::Unavailable.exit_code()
            }
            Self::Slot(SlotError::Refused { .. }) => ringfold_worker::slot::EXIT_REFUSED,
            _ => 1,
        }
    }
}
