//! One rank from assignment to end, on its own thread.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringfold_collective::{
    AbortSignal, Identity, Links, Listener, RankKey, Ring, RingOptions, Surroundings,
};
use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::dataset::DatasetInfo;
use ringfold_common::ids::{Fence, Rank, Step};
use ringfold_common::job::{Cause, Evaluation, Phase, Progress, Summary};
use ringfold_net::telemetry::LogTail;
use ringfold_proto::v1;
use ringfold_proto::v1::session_request::Message;
use ringfold_storage::{BytesRead, Dataset, ReadOptions, StorageError};
use ringfold_train::{Observer, RankJob, TrainError};
use tokio::sync::{mpsc, oneshot};

use crate::assignment::Assignment;
use crate::ring_start::{KeyError, RingStart};

/// How often a rank that waits for the others looks whether it was aborted.
const ABORT_POLL: Duration = Duration::from_millis(20);

/// What a rank's thread needs of its process.
#[derive(Clone)]
pub(crate) struct RankContext {
    /// Where the ring's listener binds.
    pub address: IpAddr,
    /// Threads of a rank whose job does not say.
    pub threads: u32,
    /// The last lines of the process's log.
    pub log_tail: LogTail,
    /// To the coordinator.
    pub outgoing: mpsc::Sender<v1::SessionRequest>,
}

/// A rank that runs.
pub(crate) struct ActiveRank {
    pub fence: Fence,
    /// What it does; the session tells the coordinator.
    pub phase: Arc<Mutex<Phase>>,
    abort: AbortSignal,
    start: std_mpsc::Sender<RingStart>,
    ended: oneshot::Receiver<()>,
}

impl ActiveRank {
    /// Starts the thread.
    pub fn start(assignment: Assignment, context: RankContext) -> Result<Self, Cause> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Cause::Error(format!("can't {what}: {error}"))
        };
        let abort = AbortSignal::new().map_err(|error| failed("make an abort signal", &error))?;
        let phase = Arc::new(Mutex::new(Phase::Starting));
        let (start, started) = std_mpsc::channel();
        let (ended_sender, ended) = oneshot::channel();
        let fence = assignment.fence;
        let runner = Runner {
            assignment,
            context,
            abort: abort.clone(),
            phase: Arc::clone(&phase),
        };
        std::thread::Builder::new()
            .name(format!("rank-{}", fence.rank))
            .spawn(move || {
                runner.run(&started);
                let _ = ended_sender.send(());
            })
            .map_err(|error| failed("start the rank's thread", &error))?;
        Ok(Self {
            fence,
            phase,
            abort,
            start,
            ended,
        })
    }

    /// All ranks listen.
    pub fn connect(&self, start: RingStart) {
        // A rank that has ended takes no addresses.
        let _ = self.start.send(start);
    }

    /// Asks the rank to stop.
    pub fn abort(&self, reason: &str) {
        self.abort.abort(reason);
    }

    /// Completes when the rank has ended and has said so.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the addresses of all ranks.
type Started = std_mpsc::Receiver<RingStart>;

/// The thread's side.
struct Runner {
    assignment: Assignment,
    context: RankContext,
    abort: AbortSignal,
    phase: Arc<Mutex<Phase>>,
}

/// Why a rank ended before its job did.
#[derive(Debug, thiserror::Error)]
enum RankError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{0}")]
    OtherData(String),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl RankError {
    /// `None` if the coordinator asked for the end.
    fn cause(&self) -> Option<Cause> {
        match self {
            Self::Train(error) => error.cause(),
            Self::OtherData(_) | Self::Keys(_) => Some(Cause::Error(self.to_string())),
        }
    }
}

impl From<StorageError> for RankError {
    fn from(error: StorageError) -> Self {
        Self::Train(error.into())
    }
}

impl Runner {
    /// Runs to the end and says how it was.
    fn run(self, started: &Started) {
        let fence = self.assignment.fence;
        let result = catch_unwind(AssertUnwindSafe(|| self.train(started)));
        let aborted = self.abort.reason().is_some();
        let failed = |cause: Cause| {
            // Without the line that says the cause once more.
            let log_tail = self.context.log_tail.lines();
            tracing::error!(%fence, "{cause}");
            let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            Message::RankFailed(v1::RankFailed {
                fence: Some(fence.into()),
                cause: Some((&cause).into()),
                phase: Some(phase.into()),
                log_tail,
            })
        };
        let stopped = Message::RankStopped(v1::RankStopped {
            fence: Some(fence.into()),
        });
        let message = match result {
            Ok(Ok(summary)) => Message::RankFinished(v1::RankFinished {
                fence: Some(fence.into()),
                summary: summary.as_ref().map(Into::into),
            }),
            Ok(Err(error)) => match error.cause() {
                // What goes wrong after an abort is its consequence.
                None => stopped,
                Some(_) if aborted => stopped,
                Some(cause) => failed(cause),
            },
            Err(panic) => failed(Cause::Error(format!("panicked: {}", panic_text(&*panic)))),
        };
        self.send(message);
    }

    fn train(&self, started: &Started) -> Result<Option<Summary>, RankError> {
        let Assignment {
            fence,
            world,
            spec,
            part,
            ..
        } = &self.assignment;
        if fence.rank == Rank(0) {
            // Better found before the data is read than after.
            ringfold_storage::check_output_dir(Path::new(&spec.output.dir))?;
        }
        self.set_phase(Phase::LoadingData);
        let dataset = self.load()?;

        self.set_phase(Phase::FormingRing);
        let clock = SystemClock::new();
        let mut ring = self.form_ring(started, &clock)?;
        self.send(Message::RankTraining(v1::RankTraining {
            fence: Some((*fence).into()),
        }));

        let job = RankJob {
            spec,
            dataset: &dataset,
            rank: fence.rank,
            world: *world,
            part,
            threads: match spec.cluster.threads {
                0 => self.context.threads,
                threads => threads,
            },
        };
        Ok(ringfold_train::train(
            &job,
            &mut ring,
            &self.abort,
            self,
            &clock,
        )?)
    }

    /// Says where this rank listens, and by which key it is known if the job asks for TLS; waits for
    /// the others' and joins the ring.
    fn form_ring(&self, started: &Started, clock: &dyn Clock) -> Result<Ring, RankError> {
        let Assignment {
            fence, world, spec, ..
        } = &self.assignment;
        let mut listener = Listener::bind(self.context.address).map_err(TrainError::from)?;
        // A membership epoch has one ring, so the key is good for nothing else.
        let key = match spec.cluster.tls {
            true => Some(RankKey::generate().map_err(TrainError::from)?),
            false => None,
        };
        let public = key.as_ref().map(|key| key.public().0.to_vec());
        self.send(Message::RankListening(v1::RankListening {
            fence: Some((*fence).into()),
            address: listener.addr().to_string(),
            key: public.unwrap_or_default(),
        }));
        let start = self.wait_for(started)?;
        if let Some(key) = key {
            listener = listener.with_keys(start.keys(fence.rank, key)?);
        }
        let identity = Identity {
            job: fence.job,
            membership_epoch: fence.membership_epoch,
            rank: fence.rank,
            world: *world,
            spec_hash: self.assignment.spec_hash,
        };
        let host = crate::host_name();
        let around = Surroundings {
            host: &host,
            links: Links::Measured(clock),
        };
        let (options, abort) = (RingOptions::default(), self.abort.clone());
        let ring = listener
            .connect_nearest(identity, &start.peers, options, abort, around)
            .map_err(TrainError::from)?;
        let levels = ring.is_on_levels();
        match (ring.is_shared(), spec.cluster.tls) {
            _ if *world == 1 => {}
            (true, _) => tracing::info!("joined in shared memory"),
            (false, true) => {
                tracing::info!(link = %ring.link_cost(), levels, "joined over TCP under TLS");
            }
            (false, false) => {
                tracing::info!(link = %ring.link_cost(), levels, "joined over TCP without TLS");
            }
        }
        Ok(ring)
    }

    /// Loads the data and checks that it is what the coordinator saw.
    fn load(&self) -> Result<Dataset, RankError> {
        let Assignment {
            spec,
            dataset: expected,
            spec_hash,
            ..
        } = &self.assignment;
        let hook = |_: BytesRead| match self.abort.reason() {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        };
        let options = ReadOptions {
            progress: Some(&hook),
            ..ReadOptions::default()
        };
        let loaded = Dataset::load(&spec.data, spec.model.loss, &options);
        if let Some(reason) = self.abort.reason() {
            return Err(TrainError::Aborted {
                reason: reason.to_owned(),
            }
            .into());
        }
        let dataset = loaded?;
        if dataset.info() != expected {
            return Err(RankError::OtherData(difference(expected, dataset.info())));
        }
        if spec.hash(dataset.info()) != *spec_hash {
            return Err(RankError::OtherData(
                "the job's spec hash is not the coordinator's: install the same version of \
                 ringfold on both"
                    .to_owned(),
            ));
        }
        Ok(dataset)
    }

    fn wait_for(&self, started: &Started) -> Result<RingStart, TrainError> {
        loop {
            match started.recv_timeout(ABORT_POLL) {
                Ok(start) => return Ok(start),
                Err(std_mpsc::RecvTimeoutError::Timeout) => {
                    if let Some(reason) = self.abort.reason() {
                        return Err(TrainError::Aborted {
                            reason: reason.to_owned(),
                        });
                    }
                }
                Err(std_mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(TrainError::Aborted {
                        reason: "the session ended".to_owned(),
                    });
                }
            }
        }
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Waits for room; a session that has ended takes nothing.
    fn send(&self, message: Message) {
        let _ = self.context.outgoing.blocking_send(v1::SessionRequest {
            message: Some(message),
        });
    }

    fn fence(&self) -> Option<v1::Fence> {
        Some(self.assignment.fence.into())
    }
}

impl Observer for Runner {
    fn phase(&self, phase: Phase) {
        self.set_phase(phase);
    }

    fn step(&self, step: Step) {
        self.set_phase(Phase::Training(step));
    }

    fn progress(&self, progress: &Progress) {
        let message = Message::RankProgress(v1::RankProgress {
            fence: self.fence(),
            progress: Some(progress.into()),
        });
        // A session that is slow or gone must not hold up the step.
        let _ = self.context.outgoing.try_send(v1::SessionRequest {
            message: Some(message),
        });
    }

    fn evaluation(&self, evaluation: &Evaluation) {
        self.send(Message::RankEvaluation(v1::RankEvaluation {
            fence: self.fence(),
            evaluation: Some(evaluation.into()),
        }));
    }
}

/// How this host's data differs from what the coordinator saw.
fn difference(expected: &DatasetInfo, got: &DatasetInfo) -> String {
    let counts = |info: &DatasetInfo| {
        format!(
            "{} training and {} test records of {} features with {} outputs",
            info.train_records,
            info.test_records,
            info.features,
            info.target.outputs()
        )
    };
    let (coordinator, here) = (counts(expected), counts(got));
    if coordinator == here {
        return format!(
            "the dataset differs from the coordinator's: both have {here}, but not the same bytes"
        );
    }
    format!("the dataset differs from the coordinator's: it saw {coordinator}, here are {here}")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}
