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

/// Waits until a world of several ranks has made steps: each of them holds the state then.
#[track_caller]
fn several_in_training(cluster: &Cluster, id: &str) -> Value {
    let mut seen = None;
    crate::support::until("steps of several ranks", || {
        let job = cluster.job_at(id, "running");
        let several = job["ranks"].as_array().map(Vec::len) >= Some(2);
        let epoch = job["membership_epoch"].as_u64();
        let step = job["progress"]["step"].as_u64();
        let (seen_epoch, seen_step) = *seen.get_or_insert((epoch, step));
        if seen_epoch != epoch {
            seen = Some((epoch, step));
        }
        (several && seen_epoch == epoch && step > seen_step).then_some(job)
    })
}

/// Why it went on in other worlds.
fn causes(job: &Value) -> Vec<&str> {
    let restarts = job["restarts"].as_array().expect("restarts").iter();
    restarts
        .filter_map(|restart| restart["cause"].as_str())
        .collect()
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
    let mut watcher = cluster.begin(&["watch", &id, "--json"]);
    for fault in 0..3 {
        let job = several_in_training(&cluster, &id);
        let world = job["ranks"].as_array().expect("ranks").len();
        // Rank 0 once, which has the job's files; else the last one.
        let rank = if fault == 1 { 0 } else { world - 1 };
        signal(pid_of_rank(&job, rank), Signal::KILL);
        crate::support::until("the fault is known", || {
            (cluster.job(&id)["restarts_used"] == fault + 1).then_some(())
        });
    }
    let job = cluster.job_at(&id, "succeeded");
    assert_eq!(weights(&job), weights(&undisturbed));
    // It may have grown between.
    let kills = causes(&job)
        .into_iter()
        .filter(|cause| cause.contains(" was killed by signal 9 (SIGKILL) while "))
        .count();
    assert_eq!(kills, 3, "{job}");
    assert!(job["membership_epoch"].as_u64() >= Some(4), "{job}");
    // Nobody began anew: the next world goes on after the furthest step of the last.
    let lines = watcher.wait().succeeded().json_lines();
    let progress = lines.iter().filter(|line| line["event"] == "progress");
    let steps: Vec<u64> = progress.filter_map(|line| line["step"].as_u64()).collect();
    assert!(steps.is_sorted(), "{steps:?}");
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

#[test]
fn a_job_that_lost_a_rank_grows_again_when_its_slot_is_back() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 3);
    let undisturbed = undisturbed(&cluster);

    let endless = ["--steps", "100000000"];
    let id = cluster.submit(&[&endless[..], &JOB[2..]].concat());
    let job = cluster.job_in_training(&id);
    signal(pid_of_rank(&job, 2), Signal::KILL);
    // The agent starts the process again; it loads the data, and the job takes it in.
    let grown = crate::support::until("three ranks again", || {
        let job = cluster.job(&id);
        let world = job["ranks"].as_array().map(Vec::len);
        let epoch = job["membership_epoch"].as_u64();
        (epoch > Some(2) && world == Some(3) && job["state"] == "running").then_some(job)
    });
    assert_eq!(causes(&grown).last(), Some(&"growing from 2 to 3 ranks"));
    assert_eq!(grown["restarts_used"], 1, "growth is no fault");
    cluster.run(&["cancel", &id]).succeeded();

    // Disturbed and grown, it ends with the same weights too.
    let id = cluster.submit(&JOB);
    let job = cluster.job_in_training(&id);
    signal(pid_of_rank(&job, 2), Signal::KILL);
    let job = cluster.job_at(&id, "succeeded");
    assert_eq!(weights(&job), weights(&undisturbed));
}
