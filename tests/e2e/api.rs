//! The gRPC API as other programs meet it.

use ringfold_common::job_file;
use ringfold_proto::v1;
use ringfold_proto::v1::cluster_service_client::ClusterServiceClient;
use ringfold_proto::v1::job_service_client::JobServiceClient;
use ringfold_proto::v1::worker_service_client::WorkerServiceClient;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;
use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest as AlphaRequest;
use tonic_types::StatusExt;

use crate::harness::{Cluster, digits, repository, text};

fn with_channel<T>(cluster: &Cluster, body: impl AsyncFnOnce(Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let uri = format!("http://{}", cluster.address);
        body(Channel::from_shared(uri).unwrap().connect().await.unwrap()).await
    })
}

fn spec() -> v1::JobSpec {
    let file = std::fs::read_to_string(digits()).unwrap();
    let base = text(&repository("examples/digits").canonicalize().unwrap());
    let spec = job_file::parse(&file, "job.toml", &base, &[]).unwrap();
    (&spec).into()
}

fn submit(spec: v1::JobSpec) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        spec: Some(spec),
        client_token: String::new(),
    }
}

#[test]
fn health_and_reflection_are_the_standard_ones() {
    let cluster = Cluster::start(&["--memory"]);
    let services = [
        "ringfold.v1.JobService",
        "ringfold.v1.ClusterService",
        "ringfold.v1.WorkerService",
    ];
    with_channel(&cluster, async |channel| {
        let mut health = HealthClient::new(channel.clone());
        for service in services.into_iter().chain([""]) {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let status = health.check(request).await.unwrap().into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "{service}");
        }
        let mut older = AlphaClient::new(channel.clone());
        let request = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(AlphaRequest::ListServices(String::new())),
        };
        let reply = older
            .server_reflection_info(tokio_stream::iter([request]))
            .await;
        assert!(
            reply
                .unwrap()
                .into_inner()
                .message()
                .await
                .unwrap()
                .is_some()
        );

        let mut reflection = ServerReflectionClient::new(channel);
        let ask = |message| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let requests = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(
                "ringfold.v1.JobService".to_owned(),
            )),
        ];
        let replies = reflection
            .server_reflection_info(tokio_stream::iter(requests))
            .await
            .unwrap();
        let replies: Vec<ServerReflectionResponse> =
            replies.into_inner().map(Result::unwrap).collect().await;
        let Some(MessageResponse::ListServicesResponse(list)) = &replies[0].message_response else {
            panic!("{replies:?}");
        };
        for service in services {
            assert!(
                list.service.iter().any(|listed| listed.name == service),
                "{list:?}"
            );
        }
        assert!(matches!(
            replies[1].message_response,
            Some(MessageResponse::FileDescriptorResponse(_))
        ));
    });
}

#[test]
fn requests_have_ids() {
    let cluster = Cluster::start(&["--memory"]);
    with_channel(&cluster, async |channel| {
        let mut client = ClusterServiceClient::new(channel);
        let reply = client.list_nodes(v1::ListNodesRequest {}).await.unwrap();
        assert!(!reply.metadata().get("x-request-id").unwrap().is_empty());
        let mut request = Request::new(v1::ListNodesRequest {});
        request
            .metadata_mut()
            .insert("x-request-id", "mine-17".parse().unwrap());
        let reply = client.list_nodes(request).await.unwrap();
        assert_eq!(reply.metadata().get("x-request-id").unwrap(), "mine-17");
    });
}

fn refused(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let fields = status
        .get_details_bad_request()
        .expect("a detail")
        .field_violations;
    assert_eq!(fields[0].field, field, "{status:?}");
}

#[test]
fn a_bad_field_is_named_and_changes_nothing() {
    let cluster = Cluster::start(&["--memory"]);
    with_channel(&cluster, async |channel| {
        let mut jobs = JobServiceClient::new(channel);
        let mut bad = spec();
        bad.train.as_mut().unwrap().global_batch = 0;
        refused(
            &jobs.submit_job(submit(bad)).await.unwrap_err(),
            "spec.train.global_batch",
        );
        let mut bad = spec();
        bad.output.as_mut().unwrap().dir = "out".to_owned();
        refused(
            &jobs.submit_job(submit(bad)).await.unwrap_err(),
            "spec.output.dir",
        );
        let mut bad = spec();
        bad.model = None;
        refused(
            &jobs.submit_job(submit(bad)).await.unwrap_err(),
            "spec.model",
        );
        let error = jobs
            .submit_job(v1::SubmitJobRequest::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let mut huge = spec();
        huge.name = "x".repeat(8 << 20);
        let error = jobs.submit_job(submit(huge)).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
        let error = jobs
            .get_job(v1::GetJobRequest { job_id: "x".into() })
            .await
            .unwrap_err();
        refused(&error, "job_id");
        let list = jobs
            .list_jobs(v1::ListJobsRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert!(list.jobs.is_empty());
    });
}

#[test]
fn pages_and_watches_go_on_where_they_were() {
    let cluster = Cluster::start(&["--memory"]);
    with_channel(&cluster, async |channel| {
        let mut jobs = JobServiceClient::new(channel);
        for _ in 0..5 {
            jobs.submit_job(submit(spec())).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListJobsRequest {
                page_size: 2,
                page_token,
                states: Vec::new(),
            };
            let page = jobs.list_jobs(request).await.unwrap().into_inner();
            assert!(page.jobs.len() <= 2);
            seen.extend(page.jobs.into_iter().map(|job| job.job_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, ["job-5", "job-4", "job-3", "job-2", "job-1"]);
        let request = v1::ListJobsRequest {
            page_size: 9999,
            ..Default::default()
        };
        assert_eq!(
            jobs.list_jobs(request).await.unwrap_err().code(),
            Code::InvalidArgument
        );

        jobs.cancel_job(v1::CancelJobRequest {
            job_id: "job-1".into(),
        })
        .await
        .unwrap();
        let watch = |after_sequence| v1::WatchJobRequest {
            job_id: "job-1".into(),
            after_sequence,
        };
        let mut all = jobs.watch_job(watch(0)).await.unwrap().into_inner();
        let mut numbers = Vec::new();
        while let Some(response) = all.message().await.unwrap() {
            numbers.push(response.event.unwrap().sequence);
        }
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let last = *numbers.last().unwrap();
        let mut rest = jobs.watch_job(watch(last - 1)).await.unwrap().into_inner();
        let event = rest.message().await.unwrap().unwrap().event.unwrap();
        assert_eq!(event.sequence, last);
        assert!(rest.message().await.unwrap().is_none());
    });
}

#[test]
fn a_worker_of_another_version_is_refused_with_both_versions() {
    let cluster = Cluster::start(&["--memory"]);
    with_channel(&cluster, async |channel| {
        let mut workers = WorkerServiceClient::new(channel);
        let register = |version: &str, protocol| v1::SessionRequest {
            message: Some(v1::session_request::Message::Register(v1::Register {
                version: version.to_owned(),
                protocol,
                node: "n".into(),
                host: "h".into(),
                pid: 1,
                cores: 1,
                memory_bytes: 0,
            })),
        };
        for (version, protocol) in [("9.9.9", 1), (env!("CARGO_PKG_VERSION"), 999)] {
            let stream = tokio_stream::iter([register(version, protocol)]);
            let error = workers.session(stream).await.unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition);
            for words in [
                version,
                env!("CARGO_PKG_VERSION"),
                "install the same version",
            ] {
                assert!(error.message().contains(words), "{error:?}");
            }
        }
        let heartbeat = v1::SessionRequest {
            message: Some(v1::session_request::Message::Heartbeat(v1::Heartbeat {})),
        };
        let error = workers
            .session(tokio_stream::iter([heartbeat]))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    });
    assert!(cluster.slots().is_empty());
}
