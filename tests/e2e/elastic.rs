//! Jobs that go on when ranks are lost: with fewer, or with others, and to the same weights.

use serde_json::Value;

use crate::support::{Cluster, Signal, pid_of_rank, signal};

/// A job whose weights depend on its replicas only, long enough to be disturbed.
const JOB: [&str; 8] = [
    "--epochs",
    "120",
    "--workers",
    "3",
    "--set",
    "cluster.replicas=6",
    "--set",
    "cluster.mode=reproducible",
];

fn weights(job: &Value) -> &str {
    let hash = job["summary"]["weights_blake3"].as_str();
    hash.expect("a hash of the weights")
}

#[track_caller]
fn undisturbed(cluster: &Cluster) -> Value {
    let id = cluster.submit(&JOB);
    cluster.job_at(&id, "succeeded")
}

#[test]
fn killed_ranks_are_survived_and_the_weights_are_those_of_the_undisturbed_run() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 3);
    let undisturbed = undisturbed(&cluster);

    let id = cluster.submit(&JOB);
    for (fault, rank) in [1, 0, 1].into_iter().enumerate() {
        let job = cluster.job_in_training(&id);
        signal(pid_of_rank(&job, rank), Signal::KILL);
        crate::support::until("the fault is known", || {
            (cluster.job(&id)["restarts_used"] == fault + 1).then_some(())
        });
    }
    let job = cluster.job_at(&id, "succeeded");
    assert_eq!(weights(&job), weights(&undisturbed));
    let restarts = job["restarts"].as_array().expect("restarts");
    assert_eq!(restarts.len(), 3, "{job}");
    for restart in restarts {
        let cause = restart["cause"].as_str().expect("a cause");
        assert!(
            cause.contains(" was killed by signal 9 (SIGKILL) while "),
            "{cause}"
        );
    }
    assert!(job["membership_epoch"].as_u64() >= Some(4), "{job}");
    let shown = cluster.run(&["job", &id]).succeeded().stdout;
    assert!(shown.contains("faults survived  3; world "), "{shown}");
}

#[test]
fn a_job_waits_below_its_minimum_and_goes_on_when_a_worker_joins() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let beta = cluster.worker("beta", 1);
    let undisturbed = undisturbed(&cluster);

    let minimum = ["--set", "cluster.min_workers=3"];
    let id = cluster.submit(&[&JOB[..], &minimum].concat());
    cluster.job_in_training(&id);
    cluster.workers[beta].signal(Signal::TERM);
    cluster.workers[beta].wait().exited(0);
    let waits = crate::support::until("a reason to wait", || {
        let job = cluster.job(&id);
        let reason = job["reason"].as_str().expect("a reason").to_owned();
        reason.starts_with("waiting: ").then_some(reason)
    });
    assert_eq!(waits, "waiting: needs 3 slots, 2 free of 2 registered");
    cluster.worker("gamma", 1);
    let job = cluster.job_at(&id, "succeeded");
    assert_eq!(weights(&job), weights(&undisturbed));
    assert_eq!(job["restarts_used"], 0, "to leave in order is no fault");
}
