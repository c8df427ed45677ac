//! From submission to a gang start, and cancelling.

use std::sync::Arc;

use ringfold_common::dataset::{DatasetInfo, RankPart};
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SlotId};
use ringfold_common::job::{JobSpec, JobState, Phase, RankReport, Reason};

use super::state::{Job, Post, Run, Seat, Stage};
use super::{Core, Turn};
use crate::effect::{Assignment, Command, Effect, Refusal, Reply};
use crate::event::{Fence, RequestId};
use crate::record::JobRecord;

impl Core {
    /// Puts the reply to a request before the other effects of its turn.
    pub(super) fn reply_first(request: RequestId, result: Result<Reply, Refusal>, turn: &mut Turn) {
        turn.effects.insert(0, Effect::Reply { request, result });
    }

    pub(super) fn submit(
        &mut self,
        spec: JobSpec,
        dataset: DatasetInfo,
        client_token: Option<String>,
        turn: &mut Turn,
    ) -> Result<Reply, Refusal> {
        let client_token = client_token.filter(|token| !token.is_empty());
        if let Some(token) = &client_token
            && let Some(existing) = self.find_token(token, &spec)?
        {
            let (job, existing) = (existing, true);
            return Ok(Reply::Submitted { job, existing });
        }
        self.check_submission(&spec)?;

        let id = self.next_job;
        self.next_job = id.next();
        turn.next_job_moved = true;
        if let Some(token) = &client_token {
            self.tokens.insert(token.clone(), id);
        }
        let reason = self.waiting_reason(spec.cluster.workers, self.queue.len());
        let record = JobRecord {
            id,
            spec,
            dataset,
            client_token,
            state: JobState::Queued,
            reason,
            membership_epoch: MembershipEpoch(0),
            submitted: turn.now.wall,
            started: None,
            finished: None,
            ranks: Vec::new(),
            progress: None,
            evaluation: None,
            summary: None,
            restarts_used: 0,
            restarts: Vec::new(),
            next_event_sequence: 1,
            ended_revision: None,
        };
        let job = Job::new(record, self.config.events_per_job_max);
        turn.touched.insert(id);
        // Told once it is known whether it waits: a job that starts at once never did.
        turn.queued = Some(id);
        self.jobs.insert(id, job);
        self.queue.insert(id);
        turn.queue_moved = true;
        Ok(Reply::Submitted {
            job: id,
            existing: false,
        })
    }

    /// The job that was submitted with this token, if any.
    fn find_token(&self, token: &str, spec: &JobSpec) -> Result<Option<JobId>, Refusal> {
        let max = self.config.token_bytes_max;
        let bytes = token.len();
        if bytes > max {
            return Err(Refusal::TokenTooLong { bytes, max });
        }
        let Some(&id) = self.tokens.get(token) else {
            return Ok(None);
        };
        let same = |job: &Job| job.record.spec == *spec;
        if !self.jobs.get(&id).is_some_and(same) {
            let token = token.to_owned();
            return Err(Refusal::TokenTaken { token, job: id });
        }
        Ok(Some(id))
    }

    fn check_submission(&self, spec: &JobSpec) -> Result<(), Refusal> {
        spec.validate()?;
        let workers = spec.cluster.workers;
        let max = self.config.slots_max;
        if usize::try_from(workers).unwrap_or(usize::MAX) > max {
            return Err(Refusal::TooManyWorkers { workers, max });
        }
        let max = self.config.queued_jobs_max;
        if self.queue.len() >= max {
            return Err(Refusal::QueueFull { max });
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, id: JobId, turn: &mut Turn) -> Result<Reply, Refusal> {
        let Some(job) = self.jobs.get(&id) else {
            return Err(Refusal::UnknownJob { job: id });
        };
        match job.record.state {
            JobState::Cancelled => {
                let (job, already) = (id, true);
                return Ok(Reply::Cancelled { job, already });
            }
            state @ (JobState::Succeeded | JobState::Failed) => {
                return Err(Refusal::JobEnded { job: id, state });
            }
            JobState::Queued | JobState::Starting | JobState::Running => {}
        }
        let reason = Reason::CancelledByUser;
        self.stop_ranks(id, &reason.to_string(), turn);
        self.end(id, JobState::Cancelled, reason, None, turn);
        Ok(Reply::Cancelled {
            job: id,
            already: false,
        })
    }

    /// Puts a job that a former coordinator ran back at its place in the queue.
    pub(super) fn requeue(&mut self, id: JobId, turn: &mut Turn) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.record.started = None;
            job.record.ranks.clear();
            job.record.progress = None;
            job.record.evaluation = None;
        }
        self.set_state(id, JobState::Queued, Reason::CoordinatorRestarted, turn);
    }

    /// Starts jobs from the head of the queue for as long as the head's gang fits.
    pub(super) fn start_gangs(&mut self, turn: &mut Turn) {
        while let Some(&head) = self.queue.first()
            && !self.may_recover()
        {
            let Some(job) = self.jobs.get(&head) else {
                self.queue.remove(&head);
                continue;
            };
            let Some(gang) = self.gang(job, turn.now) else {
                return;
            };
            self.start(head, &gang, turn);
        }
    }

    /// Makes `gang`, in rank order, the next world of a queued job.
    fn start(&mut self, id: JobId, gang: &[SlotId], turn: &mut Turn) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let membership_epoch = job.record.membership_epoch.next();
        job.record.membership_epoch = membership_epoch;
        job.record.started = Some(turn.now.wall);
        let spec = Arc::new(job.record.spec.clone());
        let dataset = Arc::new(job.record.dataset.clone());
        let spec_hash = spec.hash(&dataset);
        let submitted = job.record.submitted;
        let world = u32::try_from(gang.len()).unwrap_or(u32::MAX);
        let parts = RankPart::of_all(world, spec.cluster.replicas, dataset.test_records);

        let mut seats = Vec::with_capacity(gang.len());
        let mut commands = Vec::with_capacity(gang.len());
        for ((rank, id_of_slot), part) in (0..world).map(Rank).zip(gang).zip(parts) {
            let fence = Fence {
                job: id,
                membership_epoch,
                rank,
            };
            let Some(slot) = self.slots.get_mut(id_of_slot) else {
                continue;
            };
            let stopping = false;
            slot.post = Some(Post { fence, stopping });
            slot.joining = None;
            seats.push(Seat {
                slot: *id_of_slot,
                report: RankReport {
                    rank,
                    node: slot.info.node.clone(),
                    host: slot.info.host.clone(),
                    pid: slot.info.pid,
                    ring_address: None,
                },
                ring_key: None,
                stage: Stage::Loading,
                phase: Phase::Starting,
            });
            let command = Command::Assign(Assignment {
                fence,
                world,
                spec: Arc::clone(&spec),
                dataset: Arc::clone(&dataset),
                part,
                spec_hash,
                submitted,
            });
            commands.push(Effect::Send {
                slot: *id_of_slot,
                command,
            });
        }
        let run = Run {
            seats,
            blame: None,
            summary: None,
        };
        job.record.ranks = run.reports();
        job.run = Some(run);
        job.wait = None;
        self.queue.remove(&id);
        self.active.insert(id);
        self.let_joiners_go(id);
        let reason = Reason::FormingRing { ready: 0, world };
        self.set_state(id, JobState::Starting, reason, turn);
        turn.effects.extend(commands);
    }

    /// Brings the reasons of queued jobs up to date, except those that `keep` says yes to.
    pub(super) fn refresh_reasons(&mut self, turn: &mut Turn, keep: impl Fn(&Reason) -> bool) {
        let queued: Vec<_> = self.queue.iter().copied().collect();
        for (position, id) in queued.into_iter().enumerate() {
            let Some(job) = self.jobs.get(&id) else {
                continue;
            };
            if !keep(&job.record.reason) && !self.waits_for_its_ranks(job, turn.now) {
                let reason = self.waiting_reason(Self::fewest(job, turn.now), position);
                self.set_reason(id, reason, turn);
            }
        }
    }

    /// Why a job that needs so many slots, with so many jobs before it, waits.
    fn waiting_reason(&self, needed: u32, position: usize) -> Reason {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        match self.queue.first() {
            Some(&head) if position > 0 => Reason::Behind {
                head,
                ahead: count(position),
            },
            _ => {
                let free = self.slots.values().filter(|slot| slot.post.is_none());
                Reason::NeedsSlots {
                    needed,
                    free: count(free.count()),
                    registered: count(self.slots.len()),
                }
            }
        }
    }
}
