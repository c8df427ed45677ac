//! Who waits for what, and tokens.

use serde_json::Value;

use crate::support::{Cluster, ENDLESS, until};

/// Waits until a queued job gives this reason.
#[track_caller]
fn waits_with(cluster: &Cluster, id: &str, reason: &str) {
    until(&format!("{id} {reason:?}"), || {
        let job = cluster.job_at(id, "queued");
        (job["reason"] == reason).then_some(())
    });
}

#[test]
fn a_job_waits_for_slots_and_starts_when_a_worker_joins() {
    let mut cluster = Cluster::start();
    let wide = cluster.submit(&["--workers", "3", "--steps", "20"]);
    let reason = "waiting: needs 3 slots, 0 free of 0 registered";
    waits_with(&cluster, &wide, reason);
    cluster.worker("alpha", 2);
    let reason = "waiting: needs 3 slots, 2 free of 2 registered";
    waits_with(&cluster, &wide, reason);

    // First in, first out: two slots are free, and still the second job waits.
    let narrow = cluster.submit(&["--workers", "1", "--steps", "20"]);
    let reason = "waiting: 1 ahead in the queue, job-1 is first";
    waits_with(&cluster, &narrow, reason);
    let table = cluster
        .run(&["jobs", "--state", "queued"])
        .succeeded()
        .stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows[1].starts_with("job-2 ") && rows[1].ends_with(reason),
        "{table}"
    );
    assert!(rows[2].starts_with("job-1 "), "{table}");

    cluster.worker("beta", 1);
    let started = |job: Value| job["started_unix_ms"].as_u64().expect("a time");
    let wide = started(cluster.job_at(&wide, "succeeded"));
    let narrow = started(cluster.job_at(&narrow, "succeeded"));
    assert!(wide <= narrow, "{wide} {narrow}");
}

#[test]
fn a_job_waits_for_the_one_that_runs() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 1);
    let first = cluster.submit(&[&ENDLESS[..], &["--workers", "1"]].concat());
    cluster.job_in_training(&first);
    let second = cluster.submit(&["--workers", "1", "--steps", "20"]);
    let reason = "waiting: needs 1 slot, 0 free of 1 registered";
    waits_with(&cluster, &second, reason);
    let mut watcher = cluster.begin(&["watch", &second, "--json"]);
    watcher.line_with(reason);
    cluster.run(&["cancel", &first]).succeeded();
    watcher.wait().succeeded();
}

#[test]
fn submitting_twice_with_one_token_makes_one_job() {
    let cluster = Cluster::start();
    let submit = |flags: &[&str]| cluster.run(&cluster.submission(flags));
    let first = submit(&["--token", "nightly"]).succeeded().json();
    let second = submit(&["--token", "nightly"]).succeeded().json();
    assert_eq!(first["existing"], false);
    assert_eq!(second["existing"], true);
    assert_eq!(first["job_id"], second["job_id"]);
    assert_eq!(cluster.run(&["jobs", "--json"]).json_lines().len(), 1);

    let other = submit(&["--token", "nightly", "--seed", "9"]).error(2);
    let expected = "the client token \"nightly\" belongs to job-1, which has another spec";
    assert_eq!(other, expected);

    // Without a token, each submission is a job.
    assert_eq!(submit(&[]).succeeded().json()["job_id"], "job-2");
    assert_eq!(submit(&[]).succeeded().json()["job_id"], "job-3");
}

#[test]
fn a_queued_job_can_be_cancelled() {
    let cluster = Cluster::start();
    let job = cluster.submit(&[]);
    let said = cluster.run(&["cancel", &job]).succeeded().stdout;
    assert_eq!(said, "job-1: cancelled by a user\n");
    let watched = cluster.run(&["watch", &job, "--json"]).exited(1).finished();
    assert_eq!(watched["state"], "cancelled");
    assert_eq!(watched["steps"], 0);
}
