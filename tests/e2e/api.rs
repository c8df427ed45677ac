//! The gRPC API, with a client that isn't ours: generated stubs, health and reflection.

use std::process::Command;
use std::time::Duration;

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::job_file;
use ringfold_proto::v1;
use ringfold_proto::v1::job_service_client::JobServiceClient;
use ringfold_proto::v1::session_request::Message;
use ringfold_proto::v1::worker_service_client::WorkerServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use crate::support::{Cluster, LIMIT, digits, skipped};

const SERVICES: [&str; 3] = [
    "ringfold.v1.ClusterService",
    "ringfold.v1.JobService",
    "ringfold.v1.WorkerService",
];

async fn channel(cluster: &Cluster) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address));
    let endpoint = endpoint.expect("a URI").timeout(LIMIT);
    endpoint.connect().await.expect("connect")
}

async fn jobs(cluster: &Cluster) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel(cluster).await)
}

/// The digits job as a message.
fn spec() -> v1::JobSpec {
    let text = std::fs::read_to_string(digits()).expect("read the job file");
    let base = digits().replace("/job.toml", "");
    let spec = job_file::parse(&text, "job.toml", &base, &[]).expect("a job");
    v1::JobSpec::from(&spec)
}

fn submission(spec: v1::JobSpec, client_token: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        spec: Some(spec),
        client_token: client_token.to_owned(),
    }
}

/// The fields that a status' `BadRequest` detail names.
fn bad_fields(status: &Status) -> Vec<String> {
    let detail = status.get_details_bad_request();
    let violations = detail
        .into_iter()
        .flat_map(|detail| detail.field_violations);
    violations.map(|violation| violation.field).collect()
}

#[tokio::test]
async fn every_service_is_healthy() {
    let cluster = Cluster::start();
    let mut health = HealthClient::new(channel(&cluster).await);
    for service in [""].iter().chain(&SERVICES) {
        let request = HealthCheckRequest {
            service: (*service).to_owned(),
        };
        let reply = health.check(request).await.expect("a check").into_inner();
        assert_eq!(reply.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest {
        service: "ringfold.v1.Nothing".to_owned(),
    };
    let status = health.check(request).await.expect_err("no such service");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let cluster = Cluster::start();
    let mut reflection = ServerReflectionClient::new(channel(&cluster).await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(SERVICES[1].to_owned())),
    ];
    let replies = reflection
        .server_reflection_info(tokio_stream::iter(requests))
        .await;
    let mut replies = replies.expect("replies").into_inner();
    let mut next = async || {
        let reply = replies.message().await.expect("a reply");
        reply.and_then(|reply| reply.message_response)
    };
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else {
        panic!("no list of services");
    };
    let mut names: Vec<&str> = list.service.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    let others = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ];
    assert_eq!(names, [&others[..], &SERVICES].concat());
    let Some(MessageResponse::FileDescriptorResponse(file)) = next().await else {
        panic!("no description of {}", SERVICES[1]);
    };
    assert!(!file.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn every_reply_carries_a_request_id() {
    let cluster = Cluster::start();
    let mut jobs = jobs(&cluster).await;
    let list = |id: Option<&'static str>| {
        let mut request = Request::new(v1::ListJobsRequest::default());
        if let Some(id) = id {
            let id = id.parse().expect("a header");
            request.metadata_mut().insert("x-request-id", id);
        }
        request
    };
    let mut ids = Vec::new();
    for brought in [Some("trace-77"), None, None] {
        let reply = jobs.list_jobs(list(brought)).await.expect("a reply");
        let id = reply.metadata().get("x-request-id").expect("an id");
        ids.push(id.to_str().expect("text").to_owned());
    }
    assert_eq!(ids[0], "trace-77");
    assert!(ids[1].len() >= 16 && ids[1] != ids[2], "{ids:?}");

    // A refusal carries it too.
    let mut request = Request::new(v1::GetJobRequest {
        job_id: "job-9".to_owned(),
    });
    let id = "trace-78".parse().expect("a header");
    request.metadata_mut().insert("x-request-id", id);
    let status = jobs.get_job(request).await.expect_err("no such job");
    assert_eq!(status.code(), Code::NotFound);
    let id = status.metadata().get("x-request-id");
    assert_eq!(id.map(|id| id.as_bytes()), Some(&b"trace-78"[..]));
}

#[tokio::test]
async fn a_bad_field_is_named_in_the_details() {
    let cluster = Cluster::start();
    let mut jobs = jobs(&cluster).await;
    let mut refused = async |change: &dyn Fn(&mut v1::JobSpec), field: &str| {
        let mut spec = spec();
        change(&mut spec);
        let reply = jobs.submit_job(submission(spec, "")).await;
        let status = reply.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert_eq!(bad_fields(&status), [field], "{status}");
        let info = status.get_details_error_info().expect("details");
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            ("ringfold", "INVALID_ARGUMENT")
        );
        status.message().to_owned()
    };
    refused(&|spec| spec.train = None, "spec.train").await;
    let none = |spec: &mut v1::JobSpec| spec.train.as_mut().expect("train").global_batch = 0;
    let message = refused(&none, "spec.train.global_batch").await;
    assert!(message.contains("expected"), "{message}");
    let many = |spec: &mut v1::JobSpec| spec.cluster.as_mut().expect("cluster").workers = 65;
    refused(&many, "spec.cluster.workers").await;
    let device = |spec: &mut v1::JobSpec| spec.cluster.as_mut().expect("cluster").device = 99;
    refused(&device, "spec.cluster.device").await;
    let relative = |spec: &mut v1::JobSpec| *csv_path(spec) = "digits.csv.gz".to_owned();
    let message = refused(&relative, "spec.data.path").await;
    assert!(message.contains("absolute"), "{message}");
    let output = |spec: &mut v1::JobSpec| {
        spec.output.as_mut().expect("output").dir = "out".to_owned();
    };
    refused(&output, "spec.output.dir").await;
    let missing = |spec: &mut v1::JobSpec| *csv_path(spec) = "/nowhere/at/all.csv".to_owned();
    let message = refused(&missing, "spec.data").await;
    assert_eq!(message, "/nowhere/at/all.csv: no such file");

    let nothing = v1::SubmitJobRequest::default();
    let status = jobs.submit_job(nothing).await.expect_err("no spec");
    assert_eq!(
        (status.code(), bad_fields(&status)),
        (Code::InvalidArgument, vec!["spec".to_owned()])
    );
    let long = submission(spec(), &"x".repeat(129));
    let status = jobs.submit_job(long).await.expect_err("a long token");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let list = v1::ListJobsRequest::default();
    let jobs = jobs
        .list_jobs(list)
        .await
        .expect("a list")
        .into_inner()
        .jobs;
    assert!(jobs.is_empty(), "a refusal changes nothing");
}

fn csv_path(spec: &mut v1::JobSpec) -> &mut String {
    let source = spec.data.as_mut().and_then(|data| data.source.as_mut());
    match source.and_then(|source| source.format.as_mut()) {
        Some(v1::data_source::Format::Csv(csv)) => &mut csv.path,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let cluster = Cluster::start();
    let mut jobs = jobs(&cluster).await;
    let large = submission(spec(), &"x".repeat(5 << 20));
    let status = jobs.submit_job(large).await.expect_err("5 MiB");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    jobs.list_jobs(v1::ListJobsRequest::default())
        .await
        .expect("the connection still serves");
}

#[tokio::test]
async fn jobs_come_in_pages_newest_first() {
    let cluster = Cluster::start();
    let mut jobs = jobs(&cluster).await;
    for _ in 0..5 {
        jobs.submit_job(submission(spec(), ""))
            .await
            .expect("a job");
    }
    let mut pages = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListJobsRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = jobs.list_jobs(request).await.expect("a page").into_inner();
        pages.push(
            page.jobs
                .into_iter()
                .map(|job| job.job_id)
                .collect::<Vec<_>>(),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        assert!(pages.len() < 5, "{pages:?}");
    }
    let expected: [&[&str]; 3] = [&["job-5", "job-4"], &["job-3", "job-2"], &["job-1"]];
    assert_eq!(pages, expected);

    let of_state = v1::ListJobsRequest {
        states: vec![v1::JobState::Running.into()],
        ..Default::default()
    };
    let running = jobs.list_jobs(of_state).await.expect("a page").into_inner();
    assert!(running.jobs.is_empty());
    for (page_size, page_token) in [(1001, ""), (2, "page 2")] {
        let request = v1::ListJobsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        let status = jobs.list_jobs(request).await.expect_err("a bad page");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(bad_fields(&status).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_watch_begins_after_the_number_asked_for() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let id = cluster.submit(&["--epochs", "2"]);
    cluster.job_at(&id, "succeeded");
    let mut jobs = jobs(&cluster).await;
    let mut numbers = async |after_sequence: u64| {
        let request = v1::WatchJobRequest {
            job_id: id.clone(),
            after_sequence,
        };
        let mut stream = jobs.watch_job(request).await.expect("a watch").into_inner();
        let mut numbers = Vec::new();
        while let Some(reply) = stream.message().await.expect("an event") {
            numbers.push(reply.event.expect("an event").sequence);
        }
        numbers
    };
    let all = numbers(0).await;
    let last = *all.last().expect("events");
    assert_eq!(all, (1..=last).collect::<Vec<_>>());
    assert!(last >= 6, "{all:?}");
    assert_eq!(numbers(3).await, all[3..]);
    // Whoever has seen all gets the end once more, so that every watch ends.
    assert_eq!(numbers(last).await.len(), 1);
}

#[tokio::test]
async fn a_worker_of_another_version_is_refused() {
    let cluster = Cluster::start();
    let mut workers = WorkerServiceClient::new(channel(&cluster).await);
    let register = v1::Register {
        version: "9.9.9".to_owned(),
        protocol: ringfold_proto::PROTOCOL_VERSION,
        node: "alpha".to_owned(),
        host: "alpha".to_owned(),
        pid: 1,
        cores: 1,
        memory_bytes: 0,
        held: None,
    };
    let first = v1::SessionRequest {
        message: Some(Message::Register(register)),
    };
    let reply = workers.session(tokio_stream::iter([first])).await;
    let status = reply.expect_err("another version");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    for part in [
        "ringfold 9.9.9",
        concat!("ringfold ", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(status.message().contains(part), "{status}");
    }

    let other = v1::SessionRequest {
        message: Some(Message::Heartbeat(v1::Heartbeat {})),
    };
    let reply = workers.session(tokio_stream::iter([other])).await;
    let status = reply.expect_err("no Register");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(cluster.slots_of("alpha").is_empty());
}

#[tokio::test]
async fn a_stopping_coordinator_ends_its_watches() {
    let mut cluster = Cluster::start();
    let id = cluster.submit(&[]);
    let request = v1::WatchJobRequest {
        job_id: id,
        after_sequence: 0,
    };
    let mut jobs = jobs(&cluster).await;
    let mut stream = jobs.watch_job(request).await.expect("a watch").into_inner();
    stream.message().await.expect("an event");
    cluster.coordinator().signal(crate::support::Signal::TERM);
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    };
    let end = tokio::time::timeout(LIMIT, end).await.expect("an end");
    assert_eq!(end.expect_err("a reason").code(), Code::Unavailable);
    cluster.coordinator().wait().exited(0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_does_not_hold_the_coordinator_up() {
    let mut cluster = Cluster::start();
    let id = cluster.submit(&[]);
    let request = v1::WatchJobRequest {
        job_id: id,
        after_sequence: 0,
    };
    let mut jobs = jobs(&cluster).await;
    let _stream = jobs.watch_job(request).await.expect("a watch");
    // This thread drives the client's connection, and from here on it does not.
    let clock = SystemClock::new();
    cluster.coordinator().signal(crate::support::Signal::TERM);
    cluster.coordinator().wait().exited(0);
    assert!(clock.monotonic() < Duration::from_secs(15));
}

#[test]
fn grpcurl_can_use_the_api() {
    let run = |arguments: &[&str]| Command::new("grpcurl").args(arguments).output();
    if run(&["-version"]).is_err() {
        skipped("grpcurl isn't installed");
        return;
    }
    let cluster = Cluster::start();
    let address = cluster.address.to_string();
    let call = |arguments: &[&str]| {
        let output = run(&[&["-plaintext"], arguments].concat()).expect("run grpcurl");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    };
    let services = call(&[&address, "list"]);
    for service in SERVICES {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let job = cluster.submit(&[]);
    let request = format!("{{\"job_id\": \"{job}\"}}");
    let method = "ringfold.v1.JobService/GetJob";
    let reply: serde_json::Value =
        serde_json::from_str(&call(&["-d", &request, &address, method])).expect("JSON");
    assert_eq!(reply["job"]["state"], "JOB_STATE_QUEUED", "{reply}");
    assert_eq!(reply["job"]["spec"]["name"], "digits", "{reply}");
}
