//! One rank from assignment to end, on its own thread.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringfold_collective::{
    AbortSignal, Identity, Links, Listener, RankKey, Ring, RingOptions, Surroundings,
};
use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::ids::{Fence, Rank, Step};
use ringfold_common::job::{Cause, Evaluation, Phase, Progress, Summary};
use ringfold_net::telemetry::LogTail;
use ringfold_proto::v1;
use ringfold_proto::v1::held_rank::State;
use ringfold_proto::v1::session_request::Message;
use ringfold_train::{Observer, RankJob, TrainError};
use tokio::sync::{mpsc, oneshot};

use crate::assignment::Assignment;
use crate::data::{JobData, RankError};
use crate::kept::{Kept, Key, Shelf};
use crate::ring_start::RingStart;

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
    /// What the process keeps of the job that it was a rank of last.
    pub shelf: Shelf,
    /// To the coordinator, by whatever session there is: what is sent meanwhile waits.
    pub outgoing: mpsc::Sender<v1::SessionRequest>,
}

/// How a rank stands that may outlive its session; the next one brings it along.
pub(crate) type Standing = Arc<Mutex<Option<State>>>;

/// A rank that runs.
pub(crate) struct ActiveRank {
    pub fence: Fence,
    /// What it does; the session tells the coordinator.
    pub phase: Arc<Mutex<Phase>>,
    /// Set from the forming of its ring on, until it stops because it was told to.
    standing: Standing,
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
        let standing = Standing::default();
        let (start, started) = std_mpsc::channel();
        let (ended_sender, ended) = oneshot::channel();
        let fence = assignment.fence;
        let runner = Runner {
            assignment,
            context,
            abort: abort.clone(),
            phase: Arc::clone(&phase),
            standing: Arc::clone(&standing),
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
            standing,
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

    /// What the next session says of it. `None` if it needs a session: its ring is not formed, or it
    /// stopped as it was told.
    pub fn held(&self) -> Option<v1::HeldRank> {
        let standing = self.standing.lock();
        let mut state = standing.unwrap_or_else(PoisonError::into_inner).clone()?;
        if let State::Training(phase) = &mut state {
            *phase = self.phase().into();
        }
        Some(v1::HeldRank {
            fence: Some(self.fence.into()),
            state: Some(state),
        })
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
    standing: Standing,
}

impl Runner {
    /// Runs to the end and says how it was.
    fn run(self, started: &Started) {
        let fence = self.assignment.fence;
        let key = Key::from(&self.assignment);
        let mut kept = self.context.shelf.take(key);
        let result = catch_unwind(AssertUnwindSafe(|| self.train(started, &mut kept)));
        // For the next world, before the coordinator can make one: also of a rank that has finished,
        // as long as another might not.
        let keeps = match &result {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.cause().is_none_or(|cause| cause.is_survivable()),
            Err(_) => false,
        };
        if keeps {
            self.context.shelf.put(key, kept);
        }
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
        self.stands(match &message {
            Message::RankFinished(finished) => Some(State::Finished(finished.clone())),
            Message::RankFailed(failed) => Some(State::Failed(failed.clone())),
            _ => None,
        });
        self.send(message);
    }

    fn train(&self, started: &Started, kept: &mut Kept) -> Result<Option<Summary>, RankError> {
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
        let dataset = match kept.dataset.take() {
            Some(dataset) => dataset,
            None => {
                self.set_phase(Phase::LoadingData);
                let data = JobData {
                    spec,
                    dataset: &self.assignment.dataset,
                    spec_hash: self.assignment.spec_hash,
                };
                data.load(&self.abort)?
            }
        };
        let dataset = &*kept.dataset.insert(dataset);

        self.set_phase(Phase::FormingRing);
        let clock = SystemClock::new();
        let mut ring = self.form_ring(started, &clock)?;
        self.stands(Some(State::Training(Phase::FormingRing.into())));
        self.send(Message::RankTraining(v1::RankTraining {
            fence: Some((*fence).into()),
        }));

        let job = RankJob {
            spec,
            dataset,
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
            &mut kept.state,
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

    fn stands(&self, state: Option<State>) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Waits for room.
    fn send(&self, message: Message) {
        let _ = self.context.outgoing.blocking_send(v1::SessionRequest {
            message: Some(message),
        });
    }

    /// What a session that is slow or gone must not hold up the step for.
    fn offer(&self, message: Message) {
        let _ = self.context.outgoing.try_send(v1::SessionRequest {
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
        self.offer(message);
    }

    fn evaluation(&self, evaluation: &Evaluation) {
        self.offer(Message::RankEvaluation(v1::RankEvaluation {
            fence: self.fence(),
            evaluation: Some(evaluation.into()),
        }));
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}
