//! Owns core and store on one thread. Every event goes through one bounded queue, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringfold_common::clock::Clock;
use ringfold_common::error::ErrorCode;
use ringfold_common::ids::SlotId;
use ringfold_common::job::{JobEvent, JobEventKind};
use ringfold_coordinator_core::{
    Core, CoreConfig, Effect, Event, Fence, Held, Now, Refusal, Reply, RequestId, SlotInfo,
};
use ringfold_coordinator_store::{Store, StoreError};
use ringfold_proto::v1;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{CoordinatorError, Options, status, wire};

/// Inputs that wait for the engine. Senders wait when it is full.
const QUEUE_MAX: usize = 1024;

/// Published events that a watcher may lag behind before it has to read the job's log again.
const BROADCAST_MAX: usize = 1024;

/// The coordinator itself was stopped for this many ticks: silence then proves nothing.
const PAUSED_TICKS: u32 = 10;

/// Where the engine puts what a session is to send.
pub(crate) type Outbox = mpsc::Sender<Result<v1::SessionResponse, Status>>;

/// What a client's request comes to.
pub(crate) type Outcome = Result<Reply, Refusal>;

type Query = Box<dyn FnOnce(&Core) + Send>;

enum Input {
    Event(Event),
    Open {
        slot: SlotId,
        info: SlotInfo,
        held: Option<(Fence, Held)>,
        outbox: Outbox,
    },
    Request {
        event: Event,
        request: RequestId,
        reply: oneshot::Sender<Outcome>,
    },
    Query(Query),
}

/// A running engine.
pub(crate) struct Engine {
    pub handle: Handle,
    ended: oneshot::Receiver<Result<(), CoordinatorError>>,
}

impl Engine {
    /// Waits for its end.
    pub async fn join(self) -> Result<(), CoordinatorError> {
        drop(self.handle);
        self.ended.await.unwrap_or(Ok(()))
    }
}

/// Talks to the engine.
#[derive(Clone)]
pub(crate) struct Handle {
    queue: mpsc::Sender<Input>,
    events: broadcast::Sender<JobEvent>,
    next_slot: Arc<AtomicU64>,
    next_request: Arc<AtomicU64>,
}

impl Handle {
    /// A slot id that was never given out.
    pub fn new_slot(&self) -> SlotId {
        SlotId(self.next_slot.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands an event to the core.
    pub async fn event(&self, event: Event) -> Result<(), Status> {
        self.send(Input::Event(event)).await
    }

    /// Registers a session.
    pub async fn open(
        &self,
        slot: SlotId,
        info: SlotInfo,
        held: Option<(Fence, Held)>,
        outbox: Outbox,
    ) -> Result<(), Status> {
        let open = Input::Open {
            slot,
            info,
            held,
            outbox,
        };
        self.send(open).await
    }

    /// Hands a client's request to the core and waits for its answer, which is durable.
    pub async fn request(&self, event: impl FnOnce(RequestId) -> Event) -> Result<Reply, Status> {
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        self.send(Input::Request {
            event: event(request),
            request,
            reply,
        })
        .await?;
        let outcome = answer.await.map_err(|_| unavailable())?;
        outcome.map_err(|refusal| status::refusal(&refusal))
    }

    /// Looks at the core.
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let query = Box::new(move |core: &Core| {
            let _ = sender.send(look(core));
        });
        self.send(Input::Query(query)).await?;
        answer.await.map_err(|_| unavailable())
    }

    /// Everything that is published from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<JobEvent> {
        self.events.subscribe()
    }

    async fn send(&self, input: Input) -> Result<(), Status> {
        self.queue.send(input).await.map_err(|_| unavailable())
    }
}

fn unavailable() -> Status {
    status::new(
        ErrorCode::Unavailable,
        "the coordinator is stopping or reloading its store",
    )
}

/// Loads the store and starts the engine's thread and its ticks.
pub(crate) fn start(
    mut store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    options: &Options,
    shutdown: CancellationToken,
) -> Result<Engine, CoordinatorError> {
    let snapshot = store.load()?;
    let (queue, inputs) = mpsc::channel(QUEUE_MAX);
    let (events, _) = broadcast::channel(BROADCAST_MAX);
    let now = now(clock.as_ref());
    let (core, effects) = Core::restore(options.core.clone(), snapshot, now);
    let mut state = State {
        core,
        store,
        clock,
        config: options.core.clone(),
        tick: options.tick,
        last_tick: now.monotonic,
        outboxes: BTreeMap::new(),
        replies: BTreeMap::new(),
        events: events.clone(),
    };
    state.perform(effects)?;

    let (ended_sender, ended) = oneshot::channel();
    let stop = shutdown.clone();
    std::thread::Builder::new()
        .name("coordinator".into())
        .spawn(move || {
            let result = state.run(inputs, &stop);
            if let Err(error) = &result {
                tracing::error!("{error}");
            }
            stop.cancel();
            let _ = ended_sender.send(result);
        })
        .map_err(|error| tracing::error!("can't start the coordinator's thread: {error}"))
        .ok();

    tokio::spawn(tick(queue.clone(), options.tick, shutdown));
    let handle = Handle {
        queue,
        events,
        next_slot: Arc::new(AtomicU64::new(1)),
        next_request: Arc::new(AtomicU64::new(1)),
    };
    Ok(Engine { handle, ended })
}

/// Ticks until shutdown, then lets go of the queue.
async fn tick(queue: mpsc::Sender<Input>, interval: Duration, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => {
                // Wakes the engine's thread, which then sees the shutdown.
                let _ = queue.send(Input::Event(Event::Tick)).await;
                return;
            }
        }
        if queue.send(Input::Event(Event::Tick)).await.is_err() {
            return;
        }
    }
}

fn now(clock: &dyn Clock) -> Now {
    Now {
        monotonic: clock.monotonic(),
        wall: clock.wall(),
    }
}

struct State {
    core: Core,
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    config: CoreConfig,
    tick: Duration,
    last_tick: Duration,
    outboxes: BTreeMap<SlotId, Outbox>,
    replies: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    events: broadcast::Sender<JobEvent>,
}

impl State {
    fn run(
        &mut self,
        mut inputs: mpsc::Receiver<Input>,
        stop: &CancellationToken,
    ) -> Result<(), CoordinatorError> {
        while let Some(input) = inputs.blocking_recv() {
            if stop.is_cancelled() {
                return Ok(());
            }
            match input {
                Input::Event(Event::Tick) => self.tick()?,
                Input::Event(event) => {
                    if let Event::SlotClosed { slot, .. } = &event {
                        self.outboxes.remove(slot);
                    }
                    self.apply(event)?;
                }
                Input::Open {
                    slot,
                    info,
                    held,
                    outbox,
                } => {
                    self.outboxes.insert(slot, outbox);
                    self.apply(match held {
                        None => Event::SlotRegistered { slot, info },
                        Some((fence, held)) => Event::SlotReturned {
                            slot,
                            info,
                            fence,
                            held,
                        },
                    })?;
                }
                Input::Request {
                    event,
                    request,
                    reply,
                } => {
                    self.replies.insert(request, reply);
                    self.apply(event)?;
                }
                Input::Query(query) => query(&self.core),
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<(), StoreError> {
        let effects = self.core.apply(now(self.clock.as_ref()), event);
        self.perform(effects)
    }

    /// A tick; after a pause of the coordinator itself, every slot first gets a fresh lease.
    fn tick(&mut self) -> Result<(), StoreError> {
        let now = self.clock.monotonic();
        let paused = now.saturating_sub(self.last_tick) > self.tick * PAUSED_TICKS;
        self.last_tick = now;
        if paused {
            tracing::warn!("the coordinator was held up; leases start anew");
            for slot in self.core.slots().map(|view| view.slot).collect::<Vec<_>>() {
                self.apply(Event::Heard { slot })?;
            }
        }
        self.apply(Event::Tick)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), StoreError> {
        for effect in effects {
            match effect {
                Effect::Commit { expected, changes } => {
                    if let Err(error) = self.store.commit(expected, &changes) {
                        tracing::error!(
                            "the store failed, reloading it; every session ends: {error}"
                        );
                        return self.reload();
                    }
                }
                Effect::Send { slot, command } => self.send(slot, wire::command(&command)),
                Effect::CloseSlot { slot, reason } => {
                    tracing::warn!("{slot} is closed: {reason}");
                    if let Some(outbox) = self.outboxes.remove(&slot) {
                        let _ = outbox.try_send(Err(status::new(reason.code(), reason)));
                    }
                }
                Effect::Reply { request, result } => {
                    if let Some(reply) = self.replies.remove(&request) {
                        // The client may have gone.
                        let _ = reply.send(result);
                    }
                }
                Effect::Publish(event) => {
                    log(&event);
                    // Nobody may be watching.
                    let _ = self.events.send(event);
                }
            }
        }
        Ok(())
    }

    /// Starts over from the store, without sessions and without pending requests.
    fn reload(&mut self) -> Result<(), StoreError> {
        self.outboxes.clear();
        self.replies.clear();
        let snapshot = self.store.load()?;
        let now = now(self.clock.as_ref());
        let (core, effects) = Core::restore(self.config.clone(), snapshot, now);
        self.core = core;
        for effect in effects {
            match effect {
                // A second failure in a row ends the coordinator.
                Effect::Commit { expected, changes } => {
                    self.store.commit(expected, &changes)?;
                }
                other => self.perform(vec![other])?,
            }
        }
        Ok(())
    }

    /// Puts a message into a session's outbox; a session that does not drain it is closed.
    fn send(&mut self, slot: SlotId, message: v1::SessionResponse) {
        let Some(outbox) = self.outboxes.get(&slot) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = outbox.try_send(Ok(message)) {
            tracing::warn!("{slot} does not read what it is sent; its session ends");
            self.outboxes.remove(&slot);
        }
    }
}

/// State changes are logged; progress is for watchers.
fn log(event: &JobEvent) {
    match &event.kind {
        JobEventKind::State { state, reason, .. } => {
            tracing::info!(job = %event.job, epoch = event.membership_epoch.0, "{state}: {reason}");
        }
        JobEventKind::Progress(progress) => {
            tracing::debug!(job = %event.job, step = progress.step.0, loss = progress.loss, "progress");
        }
        JobEventKind::Evaluation(evaluation) => {
            tracing::debug!(job = %event.job, step = evaluation.step.0, "evaluated");
        }
    }
}
