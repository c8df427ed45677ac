//! `JobService`.

use std::sync::Arc;

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::JobId;
use ringfold_common::job::{JobEvent, JobEventKind, JobSpec, JobState};
use ringfold_coordinator_core::{Event, Reply};
use ringfold_proto::v1::job_service_server::JobService;
use ringfold_proto::{FieldError, required_field, v1};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::engine::Handle;
use crate::{status, submission, wire};

/// Jobs in one reply of `ListJobs`, unless the request says otherwise.
const PAGE_SIZE_DEFAULT: u32 = 100;
/// Jobs in one reply of `ListJobs` at most.
const PAGE_SIZE_MAX: u32 = 1000;
/// Events on their way to one watcher.
const WATCH_QUEUE_MAX: usize = 64;

pub(crate) struct Jobs {
    engine: Handle,
    inspections: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Jobs {
    pub fn new(engine: Handle, inspections_max: usize, shutdown: CancellationToken) -> Self {
        Self {
            engine,
            inspections: Arc::new(Semaphore::new(inspections_max.max(1))),
            shutdown,
        }
    }

    async fn job(&self, id: JobId) -> Result<v1::Job, Status> {
        self.engine
            .query(move |core| core.job(id).map(|view| wire::job(&view)))
            .await?
            .ok_or_else(|| unknown(id))
    }
}

fn unknown(id: JobId) -> Status {
    status::new(ErrorCode::NotFound, format!("{id} is unknown"))
}

fn bad_field(field: &str, expected: &str, got: impl ToString) -> Status {
    status::field(&FieldError {
        field: field.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    })
}

fn parse_id(text: &str) -> Result<JobId, Status> {
    text.parse().map_err(status::job_id)
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let request = request.into_inner();
        let spec = required_field(request.spec, "spec")
            .and_then(JobSpec::try_from)
            .map_err(|error| status::field(&error))?;
        let token = Some(request.client_token).filter(|token| !token.is_empty());

        // Reading a dataset takes a thread and disk bandwidth: a few at a time.
        let permit = Arc::clone(&self.inspections).acquire_owned().await;
        let inspected = spec;
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            submission::check(inspected)
        })
        .await
        .map_err(|error| status::new(ErrorCode::Internal, error))?;
        let submission::Checked { spec, dataset, .. } =
            checked.map_err(|error| status::submission(&error))?;

        let reply = self
            .engine
            .request(|request| Event::Submit {
                request,
                spec,
                dataset,
                client_token: token,
            })
            .await?;
        match reply {
            Reply::Submitted { job, existing } => Ok(Response::new(v1::SubmitJobResponse {
                job: Some(self.job(job).await?),
                existing,
            })),
            Reply::Cancelled { .. } => Err(mismatched_reply()),
        }
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let job = self.job(parse_id(&request.into_inner().job_id)?).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size if size <= PAGE_SIZE_MAX => size,
            size => {
                let expected = format!("0 to {PAGE_SIZE_MAX}");
                return Err(bad_field("page_size", &expected, size));
            }
        } as usize;
        let before = match request.page_token.as_str() {
            "" => JobId(u64::MAX),
            token => parse_id(token)
                .map_err(|_| bad_field("page_token", "one of an earlier reply", "another"))?,
        };
        let states = request
            .states()
            .map(JobState::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| status::field(&error))?;
        let reply = self
            .engine
            .query(move |core| {
                let mut matching = core
                    .jobs()
                    .rev()
                    .filter(|view| view.record.id < before)
                    .filter(|view| states.is_empty() || states.contains(&view.record.state));
                let jobs: Vec<v1::Job> = matching
                    .by_ref()
                    .take(size)
                    .map(|view| v1::Job {
                        ranks: Vec::new(),
                        ..wire::job(&view)
                    })
                    .collect();
                let more = matching.next().is_some();
                let last = jobs.last().filter(|_| more).map(|job| job.job_id.clone());
                v1::ListJobsResponse {
                    jobs,
                    next_page_token: last.unwrap_or_default(),
                }
            })
            .await?;
        Ok(Response::new(reply))
    }

    type WatchJobStream = ReceiverStream<Result<v1::WatchJobResponse, Status>>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let job = parse_id(&request.job_id)?;
        let published = self.engine.subscribe();
        self.job(job).await?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        let watch = Watch {
            engine: self.engine.clone(),
            job,
            after: request.after_sequence,
            sender,
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let sender = watch.sender.clone();
            tokio::select! {
                result = watch.run(published) => {
                    if let Err(status) = result {
                        let _ = sender.send(Err(status)).await;
                    }
                }
                () = shutdown.cancelled() => {
                    let stopping = status::new(ErrorCode::Unavailable, "the coordinator is stopping");
                    let _ = sender.try_send(Err(stopping));
                }
                // The watcher has gone.
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let job = parse_id(&request.into_inner().job_id)?;
        match self
            .engine
            .request(|request| Event::Cancel { request, job })
            .await?
        {
            Reply::Cancelled { job, .. } => Ok(Response::new(v1::CancelJobResponse {
                job: Some(self.job(job).await?),
            })),
            Reply::Submitted { .. } => Err(mismatched_reply()),
        }
    }
}

fn mismatched_reply() -> Status {
    status::new(
        ErrorCode::Internal,
        "the coordinator gave the answer to another request",
    )
}

/// Follows one job: first what is kept of its past, then what is published.
struct Watch {
    engine: Handle,
    job: JobId,
    after: u64,
    sender: mpsc::Sender<Result<v1::WatchJobResponse, Status>>,
}

impl Watch {
    async fn run(mut self, mut published: broadcast::Receiver<JobEvent>) -> Result<(), Status> {
        if self.catch_up().await? {
            return Ok(());
        }
        loop {
            match published.recv().await {
                Ok(event) if event.job == self.job && event.sequence > self.after => {
                    if self.forward(&event).await {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    if self.catch_up().await? {
                        return Ok(());
                    }
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(status::new(
                        ErrorCode::Unavailable,
                        "the coordinator is stopping",
                    ));
                }
            }
        }
    }

    /// Sends what is kept. Where events are no longer kept, the job's present state stands for
    /// them. True if the job has ended or the watcher has gone.
    async fn catch_up(&mut self) -> Result<bool, Status> {
        let (job, after) = (self.job, self.after);
        let events = self
            .engine
            .query(move |core| {
                let kept = core.events_after(job, after)?;
                let mut events: Vec<JobEvent> = kept.events.into_iter().cloned().collect();
                let ended_unseen = events.is_empty()
                    && core
                        .job(job)
                        .is_some_and(|view| view.record.state.is_terminal());
                if kept.missed || ended_unseen {
                    let record = core.job(job)?.record;
                    let next = events
                        .first()
                        .map_or(kept.next_sequence, |event| event.sequence);
                    events.insert(
                        0,
                        JobEvent {
                            job,
                            sequence: next.saturating_sub(1),
                            at: record
                                .finished
                                .or(record.started)
                                .unwrap_or(record.submitted),
                            membership_epoch: record.membership_epoch,
                            kind: JobEventKind::State {
                                state: record.state,
                                reason: record.reason.clone(),
                                summary: record.summary.clone().map(Box::new),
                            },
                        },
                    );
                }
                Some(events)
            })
            .await?
            .ok_or_else(|| unknown(job))?;
        for event in events {
            if self.forward(&event).await {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if that was the last event, or the watcher has gone.
    async fn forward(&mut self, event: &JobEvent) -> bool {
        self.after = self.after.max(event.sequence);
        let response = v1::WatchJobResponse {
            event: Some(event.into()),
        };
        let gone = self.sender.send(Ok(response)).await.is_err();
        let ended = matches!(
            &event.kind,
            JobEventKind::State { state, .. } if state.is_terminal()
        );
        gone || ended
    }
}
