//! The coordinator's shell: gRPC services around the state machine of `ringfold-coordinator-core`.
//!
//! | module | what it does |
//! |---|---|
//! | [`engine`] | owns core and store on one thread; every event goes through its queue |
//! | [`session`] | `WorkerService`: one task per worker session |
//! | [`jobs`] | `JobService` |
//! | [`nodes`] | `ClusterService` |
//! | [`status`] | errors to gRPC statuses with details |
//! | [`submission`] | what is refused when a job is submitted |
//! | [`wire`] | the core's views to messages |
//!
//! Contract:
//! - nothing is answered before it is durable: effects after a commit wait for it;
//! - the engine's queue is bounded; a session whose outbox is full is closed, so that one slow
//!   worker can't hold up the others;
//! - when the store fails, every session ends, the core is rebuilt from the store, and workers
//!   register again.

mod engine;
mod jobs;
mod nodes;
mod session;
mod status;
pub mod submission;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use ringfold_common::clock::Clock;
use ringfold_coordinator_core::CoreConfig;
use ringfold_coordinator_store::{Store, StoreError};
use ringfold_proto::v1::cluster_service_server::ClusterServiceServer;
use ringfold_proto::v1::job_service_server::JobServiceServer;
use ringfold_proto::v1::worker_service_server::WorkerServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

/// Time that connections have to close once the coordinator stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How a coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Leases, grace and limits of the core.
    pub core: CoreConfig,
    /// Between two ticks of the core.
    pub tick: Duration,
    /// Datasets that are inspected at a time, for submissions.
    pub inspections_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            core: CoreConfig::default(),
            tick: Duration::from_millis(200),
            inspections_max: 2,
        }
    }
}

/// Why a coordinator stopped.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The store can't be read, at the start or after a failed commit.
    #[error("can't read the coordinator's store: {0}")]
    Store(#[from] StoreError),
    /// The server's listener failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// Server reflection could not be set up.
    #[error("can't serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves on `listener` until `shutdown` is cancelled, then ends every stream and returns. A client
/// that doesn't close its connection is cut off.
///
/// # Errors
/// If the store can't be read, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    let engine = engine::start(store, clock, &options, shutdown.clone())?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let cap = ringfold_net::limits::MESSAGE_BYTES_MAX;
    let jobs = JobServiceServer::new(jobs::Jobs::new(
        engine.handle.clone(),
        options.inspections_max,
        shutdown.clone(),
    ))
    .max_decoding_message_size(cap);
    let nodes = ClusterServiceServer::new(nodes::Nodes::new(engine.handle.clone()))
        .max_decoding_message_size(cap);
    let sessions = WorkerServiceServer::new(session::Sessions::new(
        engine.handle.clone(),
        options.core.lease,
        shutdown.clone(),
    ))
    .max_decoding_message_size(cap);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ringfold_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Python's reflection client, and grpcurl before 1.8.8, know only the older protocol.
    let (reflection, reflection_alpha) = (described().build_v1()?, described().build_v1alpha()?);

    health_reporter
        .set_serving::<JobServiceServer<jobs::Jobs>>()
        .await;
    health_reporter
        .set_serving::<ClusterServiceServer<nodes::Nodes>>()
        .await;
    health_reporter
        .set_serving::<WorkerServiceServer<session::Sessions>>()
        .await;

    let server = ringfold_net::server::builder()
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(jobs)
        .add_service(nodes)
        .add_service(sessions)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.clone().cancelled_owned(),
        );
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let served = tokio::select! {
        served = server => served,
        () = overdue => {
            tracing::warn!("connections that did not close in time are cut");
            Ok(())
        }
    };
    // The engine ends with the server, whichever failed first.
    shutdown.cancel();
    let ended = engine.join().await;
    served?;
    ended
}
