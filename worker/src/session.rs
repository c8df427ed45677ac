//! One session with the coordinator.

use std::time::Duration;

use ringfold_common::ids::Fence;
use ringfold_common::job::{Cause, Phase};
use ringfold_net::channel::ConnectError;
use ringfold_proto::v1::session_request::Message;
use ringfold_proto::v1::session_response::Message as Answer;
use ringfold_proto::v1::worker_service_client::WorkerServiceClient;
use ringfold_proto::{PROTOCOL_VERSION, required_fence, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::assignment::Assignment;
use crate::host;
use crate::kept::{KEPT_TICKS, Shelf};
use crate::prepare::{Preparation, Preparing, refusal};
use crate::rank::{ActiveRank, RankContext};
use crate::ring_start::RingStart;
use crate::slot::{Shutdown, SlotError, SlotOptions};

/// Messages that wait for a session, or for room in its stream.
const OUTGOING_MAX: usize = 256;
/// Messages in a session's stream.
const STREAM_MAX: usize = 16;
/// How often the coordinator learns of a new phase or step.
const PHASE_INTERVAL: Duration = Duration::from_millis(250);
/// Time that the coordinator has to answer Register.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a rank has to stop when its process does, and the coordinator to take the last words.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process was told to stop.
    Stopped,
    /// The coordinator won't have this worker; trying again is of no use.
    Refused(Status),
    /// It broke. `registered` says whether it had begun.
    Lost { registered: bool, reason: String },
}

/// What a process has from one session to the next.
pub(crate) struct Held {
    /// What it keeps of a job between two of its worlds.
    shelf: Shelf,
    /// The rank that it is, or was last.
    rank: Option<ActiveRank>,
    /// How that ended, if nobody may have heard of it.
    last_word: Option<v1::HeldRank>,
    /// Where ranks put what is for the coordinator.
    outgoing: mpsc::Sender<v1::SessionRequest>,
    /// Where sessions take it from.
    queue: mpsc::Receiver<v1::SessionRequest>,
}

impl Held {
    pub fn new() -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        Self {
            shelf: Shelf::default(),
            rank: None,
            last_word: None,
            outgoing,
            queue,
        }
    }

    /// What the next session says at once.
    fn of_rank(&self) -> Option<v1::HeldRank> {
        match &self.rank {
            Some(rank) => rank.held(),
            None => self.last_word.clone(),
        }
    }

    /// The rank has ended.
    fn forget_rank(&mut self) {
        self.last_word = self.rank.take().and_then(|rank| rank.held());
    }

    /// Stops the rank, if there is one.
    pub async fn stop(&mut self, reason: &str) {
        // It may wait for room for its last word.
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
        stop(&mut self.rank, reason).await;
    }
}

/// Holds one session to its end. A rank whose ring is formed outlives it, unless the process is to end.
pub(crate) async fn run(options: &SlotOptions, shutdown: &Shutdown, held: &mut Held) -> End {
    match open(options, held).await {
        Ok(mut session) => {
            let end = session.serve(shutdown).await;
            session.stop_preparing().await;
            let outlives = matches!(end, End::Lost { .. }) && session.held.of_rank().is_some();
            if !outlives {
                let reason = "the session with the coordinator ended";
                stop(&mut session.held.rank, reason).await;
            }
            end
        }
        Err(end) => end,
    }
}

async fn open<'a>(options: &SlotOptions, held: &'a mut Held) -> Result<Session<'a>, End> {
    let lost = |reason: String| End::Lost {
        registered: false,
        reason,
    };
    let channel = ringfold_net::channel::connect(&options.coordinator)
        .await
        .map_err(|error: ConnectError| lost(error.to_string()))?;
    let (stream, queue) = mpsc::channel(STREAM_MAX);
    let register = Message::Register(v1::Register {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        node: options.node.clone(),
        host: host::host_name(),
        pid: std::process::id(),
        cores: options.cores,
        memory_bytes: host::memory_bytes(),
        held: held.of_rank(),
    });
    let _ = stream.try_send(v1::SessionRequest {
        message: Some(register),
    });
    let mut client = WorkerServiceClient::new(channel)
        .max_decoding_message_size(ringfold_net::limits::MESSAGE_BYTES_MAX);
    let opening = async {
        let mut inbound = client
            .session(ReceiverStream::new(queue))
            .await?
            .into_inner();
        let first = inbound.message().await?;
        Ok::<_, Status>((inbound, first))
    };
    let (inbound, first) = tokio::time::timeout(REGISTER_TIMEOUT, opening)
        .await
        .map_err(|_| lost("the coordinator did not answer Register".to_owned()))?
        .map_err(|status| match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                End::Refused(status)
            }
            _ => lost(status.message().to_owned()),
        })?;
    let Some(Answer::Registered(registered)) = first.and_then(|response| response.message) else {
        return Err(lost(
            "the coordinator's first message was not Registered".to_owned(),
        ));
    };
    tracing::info!(
        slot = registered.slot_id,
        coordinator = %options.coordinator,
        version = %registered.coordinator_version,
        "registered"
    );
    let authority = options.coordinator.rsplit('/').next().unwrap_or_default();
    let address = options
        .advertise
        .or_else(|| host::source_address(authority));
    let context = RankContext {
        address: address.unwrap_or_else(|| [127, 0, 0, 1].into()),
        threads: options.cores,
        log_tail: options.log_tail.clone(),
        shelf: held.shelf.clone(),
        outgoing: held.outgoing.clone(),
    };
    let heartbeat = Duration::from_millis(registered.heartbeat_ms.clamp(10, 60_000));
    Ok(Session {
        node: options.node.clone(),
        client,
        context,
        inbound,
        heartbeat,
        held,
        stream,
        waiting: None,
        preparing: None,
        phase_sent: None,
        idle_ticks: 0,
    })
}

/// An open session.
struct Session<'a> {
    node: String,
    client: WorkerServiceClient<Channel>,
    context: RankContext,
    inbound: Streaming<v1::SessionResponse>,
    heartbeat: Duration,
    held: &'a mut Held,
    /// Into the stream of this session.
    stream: mpsc::Sender<v1::SessionRequest>,
    /// What is next for the stream.
    waiting: Option<v1::SessionRequest>,
    preparing: Option<Preparing>,
    /// The last phase that the coordinator was told.
    phase_sent: Option<(Fence, Phase)>,
    /// Ticks of `PHASE_INTERVAL` since there was a rank.
    idle_ticks: u32,
}

impl Session<'_> {
    async fn serve(&mut self, shutdown: &Shutdown) -> End {
        let mut heartbeat = tokio::time::interval(self.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut phase = tokio::time::interval(PHASE_INTERVAL);
        phase.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stream = self.stream.clone();
            tokio::select! {
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(reason) = self.handle(message).await {
                            return End::Lost { registered: true, reason };
                        }
                    }
                    Ok(None) => return lost("the coordinator closed the session"),
                    Err(status) => return lost(status.message()),
                },
                _ = heartbeat.tick() => self.offer(Message::Heartbeat(v1::Heartbeat {})),
                _ = phase.tick() => {
                    self.tell_phase();
                    self.count_idle();
                }
                () = ended(&mut self.held.rank) => self.held.forget_rank(),
                message = self.held.queue.recv(), if self.waiting.is_none() => {
                    self.waiting = message;
                }
                room = stream.reserve_owned(), if self.waiting.is_some() => match room {
                    Ok(room) => {
                        if let Some(message) = self.waiting.take() {
                            room.send(message);
                        }
                    }
                    Err(_) => return lost("the stream to the coordinator ended"),
                },
                () = shutdown.cancelled() => {
                    self.tell_phase();
                    match shutdown.agent_gone() {
                        false => self.leave().await,
                        true => self.report_exit().await,
                    }
                    return End::Stopped;
                }
            }
        }
    }

    /// The reason, if the session is of no more use.
    async fn handle(&mut self, response: v1::SessionResponse) -> Result<(), String> {
        match response.message {
            Some(Answer::Assign(assign)) => self.assign(assign).await,
            Some(Answer::Prepare(prepare)) => {
                self.prepare(prepare).await;
                Ok(())
            }
            Some(Answer::StartRing(start)) => {
                let fence = required_fence(start.fence).map_err(|error| error.to_string())?;
                let start = RingStart::try_from(start).map_err(|error| error.to_string())?;
                match self.rank_of(fence) {
                    Some(rank) => rank.connect(start),
                    None => tracing::debug!(%fence, "stale StartRing"),
                }
                Ok(())
            }
            Some(Answer::Abort(abort)) => {
                let fence = required_fence(abort.fence).map_err(|error| error.to_string())?;
                match self.rank_of(fence) {
                    Some(rank) => {
                        tracing::info!(%fence, "aborted: {}", abort.reason);
                        rank.abort(&abort.reason);
                    }
                    None => tracing::debug!(%fence, "stale Abort"),
                }
                Ok(())
            }
            Some(Answer::Registered(_)) | None => Ok(()),
        }
    }

    /// Gets ready to join a job.
    async fn prepare(&mut self, prepare: v1::Prepare) {
        let job = prepare.job;
        self.stop_preparing().await;
        let preparation = match Preparation::try_from(prepare) {
            Ok(preparation) => preparation,
            Err(error) => return self.offer(refusal(job, &error)),
        };
        // The last rank has said its last word, or the coordinator would not ask.
        self.last_rank_ended().await;
        match Preparing::start(preparation, self.context.clone()) {
            Ok(preparing) => self.preparing = Some(preparing),
            Err(error) => self.offer(refusal(job, &error)),
        }
    }

    async fn last_rank_ended(&mut self) {
        if let Some(mut last) = self.held.rank.take() {
            last.ended().await;
        }
    }

    async fn stop_preparing(&mut self) {
        if let Some(preparing) = self.preparing.take() {
            preparing.stop("there is something else to do").await;
        }
    }

    async fn assign(&mut self, assign: v1::Assign) -> Result<(), String> {
        let fence = assign.fence;
        let assignment = Assignment::try_from(assign).map_err(|error| error.to_string())?;
        self.stop_preparing().await;
        // The last rank has said its last word, or the coordinator would not assign another.
        self.last_rank_ended().await;
        self.held.last_word = None;
        tracing::info!(fence = %assignment.fence, world = assignment.world, "assigned");
        match ActiveRank::start(assignment, self.context.clone()) {
            Ok(rank) => self.held.rank = Some(rank),
            Err(cause) => self.offer(fail_at_start(fence, &cause)),
        }
        Ok(())
    }

    fn rank_of(&self, fence: Fence) -> Option<&ActiveRank> {
        self.held.rank.as_ref().filter(|rank| rank.fence == fence)
    }

    /// Tells the coordinator what the rank does, if that is news.
    fn tell_phase(&mut self) {
        let Some(rank) = &self.held.rank else { return };
        let (fence, phase) = (rank.fence, rank.phase());
        if self.phase_sent != Some((fence, phase)) {
            self.phase_sent = Some((fence, phase));
            self.offer(Message::PhaseChanged(v1::PhaseChanged {
                fence: Some(fence.into()),
                phase: Some(phase.into()),
            }));
        }
    }

    /// Drops what is kept of a job that nobody asks for any more.
    fn count_idle(&mut self) {
        self.idle_ticks = match self.held.rank {
            Some(_) => 0,
            None => self.idle_ticks.saturating_add(1),
        };
        if self.idle_ticks >= KEPT_TICKS && self.context.shelf.clear() {
            tracing::info!("no world of the last job came: its data and state are dropped");
        }
    }

    /// Sends what may be lost. If the queue is full, what is in it keeps the lease as well.
    fn offer(&self, message: Message) {
        let _ = self.context.outgoing.try_send(v1::SessionRequest {
            message: Some(message),
        });
    }

    /// Says goodbye before the rank stops: peers that miss it then have no say in why. Ends when
    /// the coordinator has closed the session.
    async fn leave(&mut self) {
        let reason = "the worker was told to stop".to_owned();
        let goodbye = v1::SessionRequest {
            message: Some(Message::Goodbye(v1::Goodbye {
                reason: reason.clone(),
            })),
        };
        let (stream, inbound) = (&self.stream, &mut self.inbound);
        let farewell = async {
            if stream.send(goodbye).await.is_ok() {
                while let Ok(Some(_)) = inbound.message().await {}
            }
        };
        let farewell = tokio::time::timeout(STOP_GRACE, farewell);
        let (closed, ()) = tokio::join!(biased; farewell, stop(&mut self.held.rank, &reason));
        if closed.is_err() {
            tracing::warn!("the coordinator did not answer the goodbye in time");
        }
    }

    /// Without an agent, nobody else says how this process ends.
    async fn report_exit(&mut self) {
        let line = SlotError::AgentGone.to_string();
        self.context.log_tail.push(&line);
        let report = v1::ReportExitRequest {
            node: self.node.clone(),
            pid: std::process::id(),
            exit: Some(v1::report_exit_request::Exit::Code(1)),
            log_tail: self.context.log_tail.lines(),
        };
        let reported = tokio::time::timeout(STOP_GRACE, self.client.report_exit(report)).await;
        if !matches!(reported, Ok(Ok(_))) {
            tracing::warn!("can't report the end of this process");
        }
        stop(&mut self.held.rank, &line).await;
    }
}

/// Stops the rank and waits for it, but not for ever.
async fn stop(rank: &mut Option<ActiveRank>, reason: &str) {
    if let Some(mut rank) = rank.take() {
        rank.abort(reason);
        if tokio::time::timeout(STOP_GRACE, rank.ended())
            .await
            .is_err()
        {
            tracing::warn!(fence = %rank.fence, "the rank did not stop in time");
        }
    }
}

fn lost(reason: &str) -> End {
    End::Lost {
        registered: true,
        reason: reason.to_owned(),
    }
}

fn fail_at_start(fence: Option<v1::Fence>, cause: &Cause) -> Message {
    Message::RankFailed(v1::RankFailed {
        fence,
        cause: Some(cause.into()),
        phase: Some(Phase::Starting.into()),
        log_tail: Vec::new(),
    })
}

/// Completes when the rank ends; never without one.
async fn ended(rank: &mut Option<ActiveRank>) {
    match rank {
        Some(rank) => rank.ended().await,
        None => std::future::pending().await,
    }
}
