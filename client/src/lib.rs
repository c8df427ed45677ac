//! Client library of the `ringfold.v1` API.
//!
//! ```no_run
//! # async fn example(spec: ringfold_common::job::JobSpec) -> Result<(), ringfold_client::ClientError> {
//! let mut client = ringfold_client::Client::connect("127.0.0.1:7070").await?;
//! let submitted = client.submit(&spec, "nightly-2026-11-24").await?;
//! let mut watch = client.watch(&submitted.job.job_id, 0);
//! while let Some(event) = watch.next().await? {
//!     println!("{event:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Contract: a call that fails changed nothing, or is safe to repeat: submissions by their token,
//! cancellations by themselves. [`Watch::next`] reconnects by itself and repeats no event.

mod error;
mod watch;

use ringfold_common::job::JobSpec;
use ringfold_proto::v1;
use ringfold_proto::v1::cluster_service_client::ClusterServiceClient;
use ringfold_proto::v1::job_service_client::JobServiceClient;
use tonic::transport::Channel;

pub use error::{ClientError, FieldViolation};
pub use ringfold_proto::v1 as api;
pub use watch::Watch;

/// A connection to a coordinator. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    jobs: JobServiceClient<Channel>,
    cluster: ClusterServiceClient<Channel>,
}

/// What a submission came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// The job.
    pub job: v1::Job,
    /// True if an earlier submission with the same token made it.
    pub existing: bool,
}

impl Client {
    /// Connects to `HOST:PORT` or `http://HOST:PORT`.
    ///
    /// # Errors
    /// If the address is none, or nobody answers.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        let channel = ringfold_net::channel::connect(address).await?;
        let cap = ringfold_net::limits::MESSAGE_BYTES_MAX;
        Ok(Self {
            jobs: JobServiceClient::new(channel.clone()).max_decoding_message_size(cap),
            cluster: ClusterServiceClient::new(channel).max_decoding_message_size(cap),
        })
    }

    /// A token that no other submission has.
    #[must_use]
    pub fn new_token() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// Submits a job. Submitting again with the same token and spec returns the same job; an empty
    /// token makes a job each time.
    ///
    /// # Errors
    /// If the coordinator refuses it or can't be reached.
    pub async fn submit(&mut self, spec: &JobSpec, token: &str) -> Result<Submitted, ClientError> {
        let request = v1::SubmitJobRequest {
            spec: Some(spec.into()),
            client_token: token.to_owned(),
        };
        let response = self.jobs.submit_job(request).await?.into_inner();
        Ok(Submitted {
            job: present(response.job, "job")?,
            existing: response.existing,
        })
    }

    /// One job.
    ///
    /// # Errors
    /// If there is none of that id, or the coordinator can't be reached.
    pub async fn job(&mut self, job_id: &str) -> Result<v1::Job, ClientError> {
        let request = v1::GetJobRequest {
            job_id: job_id.to_owned(),
        };
        present(self.jobs.get_job(request).await?.into_inner().job, "job")
    }

    /// All jobs in `states` (all states, if empty), newest first, at most `max`.
    ///
    /// # Errors
    /// If the coordinator can't be reached.
    pub async fn jobs(
        &mut self,
        states: &[v1::JobState],
        max: usize,
    ) -> Result<Vec<v1::Job>, ClientError> {
        let mut jobs = Vec::new();
        let mut page_token = String::new();
        while jobs.len() < max {
            let request = v1::ListJobsRequest {
                states: states.iter().map(|&state| state.into()).collect(),
                page_size: u32::try_from((max - jobs.len()).min(500)).unwrap_or(500),
                page_token,
            };
            let response = self.jobs.list_jobs(request).await?.into_inner();
            jobs.extend(response.jobs);
            page_token = response.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(jobs)
    }

    /// Ends a job; returns it as it is afterwards.
    ///
    /// # Errors
    /// If it has ended in another way, is unknown, or the coordinator can't be reached.
    pub async fn cancel(&mut self, job_id: &str) -> Result<v1::Job, ClientError> {
        let request = v1::CancelJobRequest {
            job_id: job_id.to_owned(),
        };
        present(self.jobs.cancel_job(request).await?.into_inner().job, "job")
    }

    /// The events of a job after number `after`, until it has ended.
    #[must_use]
    pub fn watch(&self, job_id: &str, after: u64) -> Watch {
        Watch::new(self.jobs.clone(), job_id.to_owned(), after)
    }

    /// The nodes and their slots.
    ///
    /// # Errors
    /// If the coordinator can't be reached.
    pub async fn nodes(&mut self) -> Result<v1::ListNodesResponse, ClientError> {
        Ok(self
            .cluster
            .list_nodes(v1::ListNodesRequest {})
            .await?
            .into_inner())
    }
}

fn present<T>(value: Option<T>, field: &'static str) -> Result<T, ClientError> {
    value.ok_or(ClientError::Incomplete { field })
}
