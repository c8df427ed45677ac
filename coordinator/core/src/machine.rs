//! The state, and the way from an event to its effects.
//!
//! Invariants between two events:
//! - a job has a [`Run`] if and only if it is starting or running, and is in the queue if and only
//!   if it is queued;
//! - a slot whose post is not stopping is a seat of the run that its fence names, and that run
//!   looks for no one to blame;
//! - what differs between a job's record and the store is its reason, by `durable_reason`.

mod elastic;
mod faults;
mod growth;
mod queries;
mod queue;
mod ranks;
mod returns;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use ringfold_common::clock::UnixMillis;
use ringfold_common::ids::{JobId, Revision, SlotId};
use ringfold_common::job::{JobEvent, JobEventKind, JobState, Reason, Summary};

use crate::config::CoreConfig;
use crate::effect::{CloseReason, Effect};
use crate::event::{Event, Fence, Now, SlotInfo};
use crate::record::{Change, Snapshot};
use ranks::RankMessage;
use state::{Job, Run, Slot};

/// Event numbers that are reserved with one commit, so that not each progress needs one.
const EVENT_NUMBERS_RESERVED: u64 = 64;

/// The coordinator's state machine. See the crate's documentation for the contract.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    revision: Revision,
    next_job: JobId,
    jobs: BTreeMap<JobId, Job>,
    /// Queued jobs. First in, first out is the order of ids.
    queue: BTreeSet<JobId>,
    /// Jobs that have a run.
    active: BTreeSet<JobId>,
    /// Ended jobs, in the order in which they ended.
    ended: BTreeSet<(Revision, JobId)>,
    /// Jobs by client token.
    tokens: BTreeMap<String, JobId>,
    slots: BTreeMap<SlotId, Slot>,
    stale_messages: u64,
}

/// What one event has led to so far.
#[derive(Debug)]
struct Turn {
    now: Now,
    effects: Vec<Effect>,
    /// Jobs whose records are to be committed.
    touched: BTreeSet<JobId>,
    /// Jobs that are to be dropped.
    dropped: Vec<JobId>,
    /// A job that was queued in this turn: nobody was told of it yet.
    queued: Option<JobId>,
    /// True if an id was handed out.
    next_job_moved: bool,
    /// True if the queue or the free slots are not what they were.
    queue_moved: bool,
}

impl Turn {
    fn new(now: Now) -> Self {
        Self {
            now,
            effects: Vec::new(),
            touched: BTreeSet::new(),
            dropped: Vec::new(),
            queued: None,
            next_job_moved: false,
            queue_moved: false,
        }
    }
}

impl Core {
    /// A core that knows what the store holds, and no slot. Perform the effects as those of
    /// [`Self::apply`]: jobs that ran are queued again.
    #[must_use]
    pub fn restore(config: CoreConfig, snapshot: Snapshot, now: Now) -> (Self, Vec<Effect>) {
        let last = snapshot.jobs.iter().map(|record| record.id.next()).max();
        let mut core = Self {
            revision: snapshot.revision,
            next_job: snapshot.next_job.max(last.unwrap_or_default()),
            jobs: BTreeMap::new(),
            queue: BTreeSet::new(),
            active: BTreeSet::new(),
            ended: BTreeSet::new(),
            tokens: BTreeMap::new(),
            slots: BTreeMap::new(),
            stale_messages: 0,
            config,
        };
        let mut turn = Turn::new(now);
        let mut interrupted = Vec::new();
        let mut rejoining = Vec::new();
        for record in snapshot.jobs {
            let id = record.id;
            if let Some(token) = &record.client_token {
                core.tokens.insert(token.clone(), id);
            }
            if record.state.is_terminal() {
                let at = record.ended_revision.unwrap_or_default();
                core.ended.insert((at, id));
            } else if returns::may_go_on(&record) {
                rejoining.push(id);
            } else {
                core.queue.insert(id);
                if record.state != JobState::Queued {
                    interrupted.push(id);
                }
            }
            let events_max = core.config.events_per_job_max;
            let mut job = Job::restore(record, events_max);
            core.waits_for_workers(&mut job, now);
            core.jobs.insert(id, job);
        }
        for id in interrupted {
            core.requeue(id, &mut turn);
        }
        for id in rejoining {
            core.await_ranks(id, &mut turn);
        }
        core.prune(&mut turn);
        core.refresh_reasons(&mut turn, |reason| *reason == Reason::CoordinatorRestarted);
        let effects = core.seal(turn);
        (core, effects)
    }

    /// Takes one event and returns what to do about it, in order.
    ///
    /// [`Event`] says what each event means, [`Effect`] what each effect asks for. A job whose
    /// first cause is still sought when its grace ends fails with the best cause at hand, at the
    /// next event of any kind.
    #[must_use]
    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut turn = Turn::new(now);
        self.handle(event, &mut turn);
        self.settle_blames(&mut turn);
        if turn.queue_moved {
            self.start_gangs(&mut turn);
            self.refresh_reasons(&mut turn, |_| false);
            self.grow(&mut turn);
        }
        self.seal(turn)
    }

    fn handle(&mut self, event: Event, turn: &mut Turn) {
        match event {
            Event::SlotRegistered { slot, info } => {
                self.register(slot, info, turn);
            }
            Event::SlotReturned {
                slot,
                info,
                fence,
                held,
            } => self.slot_returned(slot, info, fence, held, turn),
            Event::Heard { slot } => {
                if !self.renew(slot, turn) {
                    self.stale_messages += 1;
                }
            }
            Event::SlotClosed { slot, end } => self.close(slot, end, turn),
            Event::ProcessExited {
                node,
                pid,
                cause,
                log_tail,
            } => self.process_exited(&node, pid, cause, &log_tail, turn),
            Event::Submit {
                request,
                spec,
                dataset,
                client_token,
            } => {
                let result = self.submit(spec, dataset, client_token, turn);
                Self::reply_first(request, result, turn);
            }
            Event::Cancel { request, job } => {
                let result = self.cancel(job, turn);
                Self::reply_first(request, result, turn);
            }
            Event::RankListening {
                slot,
                fence,
                address,
                key,
            } => self.rank(slot, fence, RankMessage::Listening(address, key), turn),
            Event::RankTraining { slot, fence } => {
                self.rank(slot, fence, RankMessage::Training, turn);
            }
            Event::PhaseChanged { slot, fence, phase } => {
                self.rank(slot, fence, RankMessage::Phase(phase), turn);
            }
            Event::Progress {
                slot,
                fence,
                progress,
            } => self.rank(slot, fence, RankMessage::Progress(progress), turn),
            Event::Evaluation {
                slot,
                fence,
                evaluation,
            } => self.rank(slot, fence, RankMessage::Evaluation(evaluation), turn),
            Event::RankFinished {
                slot,
                fence,
                summary,
            } => self.rank(slot, fence, RankMessage::Finished(summary), turn),
            Event::RankFailed {
                slot,
                fence,
                cause,
                phase,
                log_tail,
            } => self.rank(
                slot,
                fence,
                RankMessage::Failed(cause, phase, log_tail),
                turn,
            ),
            Event::RankStopped { slot, fence } => {
                self.rank(slot, fence, RankMessage::Stopped, turn);
            }
            Event::Prepared { slot, job } => self.prepared(slot, job, true, turn),
            Event::PrepareFailed { slot, job } => self.prepared(slot, job, false, turn),
            Event::Tick => {
                self.expire_leases(turn);
                self.wake_waiting(turn);
            }
        }
    }

    /// False if it is not registered now.
    fn register(&mut self, slot: SlotId, info: SlotInfo, turn: &mut Turn) -> bool {
        if self.slots.contains_key(&slot) {
            self.stale_messages += 1;
            return false;
        }
        if self.slots.len() >= self.config.slots_max {
            let max = self.config.slots_max;
            let reason = CloseReason::SlotsFull { max };
            turn.effects.push(Effect::CloseSlot { slot, reason });
            return false;
        }
        let heard = turn.now.monotonic;
        let (post, joining) = (None, None);
        let new = Slot {
            info,
            heard,
            post,
            away: false,
            joining,
        };
        self.slots.insert(slot, new);
        turn.queue_moved = true;
        true
    }

    /// Renews a slot's lease. False if it is not registered.
    fn renew(&mut self, slot: SlotId, turn: &Turn) -> bool {
        let found = self.slots.get_mut(&slot);
        found.map(|slot| slot.heard = turn.now.monotonic).is_some()
    }

    /// Takes the post off a slot, if the post is the one that `fence` names.
    fn free(&mut self, slot: SlotId, fence: Fence, turn: &mut Turn) {
        if let Some(slot) = self.slots.get_mut(&slot)
            && slot.post.is_some_and(|post| post.fence == fence)
        {
            slot.post = None;
            turn.queue_moved = true;
        }
    }

    /// Moves a job to a state that does not end it.
    fn set_state(&mut self, id: JobId, state: JobState, reason: Reason, turn: &mut Turn) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.record.state = state;
            job.record.reason = reason;
            turn.touched.insert(id);
            publish_state(job, turn);
        }
    }

    /// Changes the reason of a job, not its state. The store learns of it some other time.
    fn set_reason(&mut self, id: JobId, reason: Reason, turn: &mut Turn) {
        let untold = turn.queued.take_if(|queued| *queued == id).is_some();
        if let Some(job) = self.jobs.get_mut(&id)
            && (untold || job.record.reason != reason)
        {
            job.record.reason = reason;
            publish_state(job, turn);
        }
    }

    /// Ends a job for good. Its run is over; its slots are the caller's business.
    fn end(
        &mut self,
        id: JobId,
        state: JobState,
        reason: Reason,
        summary: Option<Summary>,
        turn: &mut Turn,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let revision = self.revision.next();
        if let Some(run) = job.run.take() {
            job.record.ranks = run.reports();
        }
        job.record.progress = job.progress.take();
        job.record.state = state;
        job.record.reason = reason;
        job.record.summary = summary;
        job.record.finished = Some(turn.now.wall);
        job.record.ended_revision = Some(revision);
        turn.touched.insert(id);
        publish_state(job, turn);
        // No event follows: give back the numbers that were reserved.
        job.record.next_event_sequence = job.log.next_sequence();
        self.queue.remove(&id);
        self.active.remove(&id);
        self.ended.insert((revision, id));
        turn.queue_moved = true;
        self.let_joiners_go(id);
        self.prune(turn);
    }

    /// Drops the jobs that ended first, down to the limit.
    fn prune(&mut self, turn: &mut Turn) {
        while self.ended.len() > self.config.ended_jobs_max {
            let Some((_, id)) = self.ended.pop_first() else {
                return;
            };
            if let Some(job) = self.jobs.remove(&id)
                && let Some(token) = &job.record.client_token
            {
                self.tokens.remove(token);
            }
            turn.dropped.push(id);
        }
    }

    /// The effects of a turn, with the commit in front.
    fn seal(&mut self, turn: Turn) -> Vec<Effect> {
        let mut changes = Vec::new();
        if turn.next_job_moved {
            changes.push(Change::SetNextJob(self.next_job));
        }
        for id in turn.touched {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.durable_reason = job.record.reason.clone();
                changes.push(Change::PutJob(Box::new(job.record.clone())));
            }
        }
        changes.extend(turn.dropped.into_iter().map(Change::DropJob));
        if changes.is_empty() {
            return turn.effects;
        }
        let expected = self.revision;
        self.revision = expected.next();
        let mut effects = vec![Effect::Commit { expected, changes }];
        effects.extend(turn.effects);
        effects
    }

    fn run_mut(&mut self, id: JobId) -> Option<&mut Run> {
        self.jobs.get_mut(&id)?.run.as_mut()
    }
}

/// Publishes a job's state as its record has it now.
fn publish_state(job: &mut Job, turn: &mut Turn) {
    let kind = JobEventKind::State {
        state: job.record.state,
        reason: job.record.reason.clone(),
        summary: job.record.summary.clone().map(Box::new),
    };
    publish(job, kind, turn);
}

/// Numbers, keeps and publishes one event; reserves more numbers if the store's are used up.
fn publish(job: &mut Job, kind: JobEventKind, turn: &mut Turn) {
    let (id, membership_epoch) = (job.record.id, job.record.membership_epoch);
    let at: UnixMillis = turn.now.wall;
    let event = job.log.push(|sequence| JobEvent {
        job: id,
        sequence,
        at,
        membership_epoch,
        kind,
    });
    if event.sequence >= job.record.next_event_sequence {
        job.record.next_event_sequence = event.sequence + EVENT_NUMBERS_RESERVED;
        turn.touched.insert(id);
    }
    turn.effects.push(Effect::Publish(event));
}
