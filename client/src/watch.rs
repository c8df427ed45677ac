//! The events of one job, over as many connections as it takes.

use std::fmt;
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

/// A watch that was open for so long has reached its coordinator: attempts are counted anew.
const STEADY: Duration = Duration::from_secs(10);

/// Hears of each attempt that failed, and of the first one that did not.
type Hear = dyn Fn(Option<&ClientError>) + Send;

struct OnInterruption(Box<Hear>);

impl fmt::Debug for OnInterruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnInterruption")
    }
}

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
    on_interruption: Option<OnInterruption>,
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
            on_interruption: None,
        }
    }

    /// Calls `hear` with the error each time that an attempt failed and another will follow, and
    /// with `None` when the watch is back.
    #[must_use]
    pub fn on_interruption(mut self, hear: impl Fn(Option<&ClientError>) + Send + 'static) -> Self {
        self.on_interruption = Some(OnInterruption(Box::new(hear)));
        self
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
                Ok(None) => {
                    self.retry(ClientError::Incomplete { field: "event" })
                        .await?;
                }
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    self.retry(error).await?;
                }
                // A connection that breaks in the middle of a stream comes as these.
                Err(
                    error @ ClientError::Refused {
                        code: ErrorCode::Internal,
                        ..
                    },
                ) => {
                    self.retry(error).await?;
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
            if let (Some(OnInterruption(hear)), 1..) = (&self.on_interruption, self.attempts) {
                hear(None);
            }
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let message = if self.attempts == 0 {
            stream.message().await
        } else {
            match tokio::time::timeout(STEADY, stream.message()).await {
                Ok(message) => message,
                // A job may be silent for long.
                Err(_) => {
                    self.attempts = 0;
                    self.backoff.reset();
                    stream.message().await
                }
            }
        };
        Ok(message?.and_then(|response| response.event))
    }

    async fn retry(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.stream = None;
        self.attempts += 1;
        if self.attempts > ATTEMPTS_MAX {
            return Err(error);
        }
        if let Some(OnInterruption(hear)) = &self.on_interruption {
            hear(Some(&error));
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
