//! `WorkerService`: one task per worker session.

use std::time::Duration;

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::{JobId, NodeName, RingKey, SlotId};
use ringfold_common::job::{Cause, Phase};
use ringfold_coordinator_core::{Event, ExitCause, Fence, Held, SlotInfo, StreamEnd};
use ringfold_proto::v1::session_request::Message;
use ringfold_proto::v1::session_response::Message as Answer;
use ringfold_proto::v1::worker_service_server::WorkerService;
use ringfold_proto::{
    FieldError, PROTOCOL_VERSION, required_fence, required_field, required_hash, v1,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::Handle;
use crate::status;

/// Messages on their way to one worker. A worker that lets it fill up is disconnected.
const OUTBOX_MAX: usize = 64;
/// Time that a new session has for its first message.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a node's or host's name.
const NAME_BYTES_MAX: usize = 253;

pub(crate) struct Sessions {
    engine: Handle,
    lease: Duration,
    shutdown: CancellationToken,
}

impl Sessions {
    pub fn new(engine: Handle, lease: Duration, shutdown: CancellationToken) -> Self {
        Self {
            engine,
            lease,
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(REGISTER_TIMEOUT, inbound.message());
        let first = first.await.map_err(|_| {
            status::new(
                ErrorCode::DeadlineExceeded,
                "the session's first message did not come",
            )
        })??;
        let Some(v1::SessionRequest {
            message: Some(Message::Register(mut register)),
        }) = first
        else {
            return Err(status::new(
                ErrorCode::InvalidArgument,
                "the session's first message: expected Register",
            ));
        };
        check_version(&register)?;
        let held = register.held.take().map(held).transpose();
        let held = held.map_err(|error| status::field(&error))?;
        let info = slot_info(register).map_err(|error| status::field(&error))?;

        let slot = self.engine.new_slot();
        let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let registered = Answer::Registered(v1::Registered {
            slot_id: slot.0,
            heartbeat_ms: millis(self.lease / 4).max(1),
            lease_ms: millis(self.lease),
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let _ = outbox.try_send(Ok(v1::SessionResponse {
            message: Some(registered),
        }));
        tracing::info!(%slot, node = %info.node, pid = info.pid, "registered");
        self.engine.open(slot, info, held, outbox.clone()).await?;

        let (engine, shutdown) = (self.engine.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                end = read(&engine, slot, inbound, &outbox) => end,
                () = shutdown.cancelled() => StreamEnd::Lost,
            };
            tracing::info!(%slot, ?end, "session ended");
            let _ = engine.event(Event::SlotClosed { slot, end }).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn report_exit(
        &self,
        request: Request<v1::ReportExitRequest>,
    ) -> Result<Response<v1::ReportExitResponse>, Status> {
        let report = request.into_inner();
        let exit = required_field(report.exit, "exit").map_err(|error| status::field(&error))?;
        let cause = match exit {
            v1::report_exit_request::Exit::Code(code) => ExitCause::Exited(code),
            v1::report_exit_request::Exit::Signal(signal) => ExitCause::Signalled(signal),
        };
        let node = NodeName(report.node);
        let (pid, log_tail) = (report.pid, report.log_tail);
        self.engine
            .event(Event::ProcessExited {
                node,
                pid,
                cause,
                log_tail,
            })
            .await?;
        Ok(Response::new(v1::ReportExitResponse {}))
    }
}

/// A worker must speak the same protocol and be of the same minor version.
fn check_version(register: &v1::Register) -> Result<(), Status> {
    let ours = env!("CARGO_PKG_VERSION");
    let minor = |version: &str| {
        let mut parts = version.split('.').map(str::to_owned);
        (parts.next(), parts.next())
    };
    if register.protocol == PROTOCOL_VERSION && minor(&register.version) == minor(ours) {
        return Ok(());
    }
    Err(status::new(
        ErrorCode::FailedPrecondition,
        format!(
            "the worker is ringfold {:.40} (protocol {}), the coordinator is ringfold {ours} \
             (protocol {PROTOCOL_VERSION}): install the same version on both",
            register.version, register.protocol
        ),
    ))
}

/// The rank that a worker brings along.
fn held(held: v1::HeldRank) -> Result<(Fence, Held), FieldError> {
    use v1::held_rank::State;
    let fence = required_fence(held.fence)?;
    let held = match required_field(held.state, "held.state")? {
        State::Training(phase) => Held::Training(phase.try_into()?),
        State::Finished(m) => Held::Finished(m.summary.map(Into::into)),
        State::Failed(m) => Held::Failed {
            cause: Cause::try_from(required_field(m.cause, "held.failed.cause")?)?,
            phase: Phase::try_from(required_field(m.phase, "held.failed.phase")?)?,
            log_tail: m.log_tail,
        },
    };
    Ok((fence, held))
}

fn slot_info(register: v1::Register) -> Result<SlotInfo, FieldError> {
    let name = |field: &str, text: String| {
        let fits = !text.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if fits {
            return Ok(text);
        }
        Err(FieldError {
            field: field.to_owned(),
            expected: format!("1 to {NAME_BYTES_MAX} bytes without spaces"),
            got: format!("{} bytes", text.len()),
        })
    };
    Ok(SlotInfo {
        node: NodeName(name("node", register.node)?),
        host: name("host", register.host)?,
        pid: register.pid,
        cores: register.cores,
        memory_bytes: register.memory_bytes,
        version: register.version,
    })
}

/// Hands a session's messages to the core until the session ends.
async fn read(
    engine: &Handle,
    slot: SlotId,
    mut inbound: Streaming<v1::SessionRequest>,
    outbox: &mpsc::Sender<Result<v1::SessionResponse, Status>>,
) -> StreamEnd {
    loop {
        let message = match inbound.message().await {
            Ok(Some(v1::SessionRequest { message })) => message,
            Ok(None) => return StreamEnd::Lost,
            Err(error) => {
                tracing::debug!(%slot, "session broke: {error}");
                return StreamEnd::Lost;
            }
        };
        // What follows, such as the end of its rank, is a consequence.
        if let Some(Message::Goodbye(goodbye)) = &message {
            tracing::info!(%slot, "leaves: {:.200}", goodbye.reason);
            return StreamEnd::Left;
        }
        match event(slot, message) {
            Ok(event) => {
                if engine.event(event).await.is_err() {
                    return StreamEnd::Lost;
                }
            }
            Err(error) => {
                tracing::warn!(%slot, "sent a bad message: {error}");
                let _ = outbox.try_send(Err(status::field(&error)));
                return StreamEnd::Lost;
            }
        }
    }
}

/// A message as the core's event.
fn event(slot: SlotId, message: Option<Message>) -> Result<Event, FieldError> {
    Ok(match required_field(message, "message")? {
        Message::Heartbeat(_) => Event::Heard { slot },
        Message::RankListening(m) => Event::RankListening {
            slot,
            fence: required_fence(m.fence)?,
            address: address(m.address)?,
            key: ring_key(&m.key)?,
        },
        Message::RankTraining(m) => Event::RankTraining {
            slot,
            fence: required_fence(m.fence)?,
        },
        Message::PhaseChanged(m) => Event::PhaseChanged {
            slot,
            fence: required_fence(m.fence)?,
            phase: required_field(m.phase, "phase")?.try_into()?,
        },
        Message::RankProgress(m) => Event::Progress {
            slot,
            fence: required_fence(m.fence)?,
            progress: required_field(m.progress, "progress")?.into(),
        },
        Message::RankEvaluation(m) => Event::Evaluation {
            slot,
            fence: required_fence(m.fence)?,
            evaluation: required_field(m.evaluation, "evaluation")?.into(),
        },
        Message::RankFinished(m) => Event::RankFinished {
            slot,
            fence: required_fence(m.fence)?,
            summary: m.summary.map(Into::into),
        },
        Message::RankFailed(m) => Event::RankFailed {
            slot,
            fence: required_fence(m.fence)?,
            cause: Cause::try_from(required_field(m.cause, "cause")?)?,
            phase: Phase::try_from(required_field(m.phase, "phase")?)?,
            log_tail: m.log_tail,
        },
        Message::RankStopped(m) => Event::RankStopped {
            slot,
            fence: required_fence(m.fence)?,
        },
        Message::Prepared(m) => {
            let job = JobId(m.job);
            if m.error.is_empty() {
                return Ok(Event::Prepared { slot, job });
            }
            tracing::warn!(%slot, %job, "can't join: {:.1000}", m.error);
            Event::PrepareFailed { slot, job }
        }
        Message::Register(_) | Message::Goodbye(_) => {
            return Err(FieldError {
                field: "message".into(),
                expected: "anything but a second Register".into(),
                got: "Register".into(),
            });
        }
    })
}

/// The key that a rank announces; none if it is empty.
fn ring_key(bytes: &[u8]) -> Result<Option<RingKey>, FieldError> {
    match bytes {
        [] => Ok(None),
        bytes => Ok(Some(RingKey(required_hash(bytes, "rank_listening.key")?))),
    }
}

/// An address of a rank's listener, as peers will parse it.
fn address(text: String) -> Result<String, FieldError> {
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(text),
        _ => Err(FieldError {
            field: "rank_listening.address".into(),
            expected: "IP:PORT".into(),
            got: format!("{text:.60?}"),
        }),
    }
}
