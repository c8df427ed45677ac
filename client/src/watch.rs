//! The events of one job, over as many connections as it takes.

use std::time::Duration;

use ringfold_common::error::ErrorCode;
use ringfold_common::job::JobState;
use ringfold_net::retry::Backoff;
use ringfold_proto::v1;
use ringfold_proto::v1::job_event::Kind;
use ringfold_proto::v1::job_service_client::JobServiceClient;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::error::ClientError;

/// Attempts to reach a coordinator that has gone, before giving up.
const ATTEMPTS_MAX: u32 = 12;

/// Follows one job.
#[derive(Debug)]
pub struct Watch {
    jobs: JobServiceClient<Channel>,
    job_id: String,
    after: u64,
    stream: Option<Streaming<v1::WatchJobResponse>>,
    backoff: Backoff,
    attempts: u32,
    ended: bool,
}

impl Watch {
    pub(crate) fn new(jobs: JobServiceClient<Channel>, job_id: String, after: u64) -> Self {
        Self {
            jobs,
            job_id,
            after,
            stream: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(4)),
            attempts: 0,
            ended: false,
        }
    }

    /// The next event; `None` after the one that ended the job. Safe to cancel.
    ///
    /// # Errors
    /// If the coordinator refuses, or can't be reached for about half a minute.
    pub async fn next(&mut self) -> Result<Option<v1::JobEvent>, ClientError> {
        while !self.ended {
            match self.try_next().await {
                Ok(Some(event)) => {
                    self.attempts = 0;
                    self.backoff.reset();
                    self.after = self.after.max(event.sequence);
                    self.ended = is_last(&event);
                    return Ok(Some(event));
                }
                // The coordinator closes a watch only after the last event, or when it stops.
                Ok(None) => self.retry(None).await?,
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    self.retry(Some(error)).await?;
                }
                // A connection that breaks in the middle of a stream comes as these.
                Err(
                    error @ ClientError::Refused {
                        code: ErrorCode::Internal,
                        ..
                    },
                ) => {
                    self.retry(Some(error)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<v1::JobEvent>, ClientError> {
        if self.stream.is_none() {
            let request = v1::WatchJobRequest {
                job_id: self.job_id.clone(),
                after_sequence: self.after,
            };
            self.stream = Some(self.jobs.watch_job(request).await?.into_inner());
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        Ok(stream.message().await?.and_then(|response| response.event))
    }

    async fn retry(&mut self, error: Option<ClientError>) -> Result<(), ClientError> {
        self.stream = None;
        self.attempts += 1;
        if self.attempts > ATTEMPTS_MAX {
            return Err(error.unwrap_or(ClientError::Incomplete { field: "event" }));
        }
        tokio::time::sleep(self.backoff.next_wait()).await;
        Ok(())
    }
}

fn is_last(event: &v1::JobEvent) -> bool {
    match &event.kind {
        Some(Kind::State(change)) => {
            JobState::try_from(change.state()).is_ok_and(JobState::is_terminal)
        }
        _ => false,
    }
}
