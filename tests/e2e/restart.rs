//! A coordinator that comes back on its data directory.

use serde_json::Value;

use crate::support::{Cluster, args, pid_of_rank, until};

#[test]
fn a_job_goes_on_without_the_coordinator_and_comes_back_in_the_same_epoch() {
    let mut cluster = Cluster::durable([127, 0, 7, 1]);
    cluster.worker("alpha", 1);
    cluster.worker("beta", 1);
    // Long enough to be interrupted, and run to its end twice.
    let job = ["--epochs", "120", "--workers", "2"];
    let undisturbed = cluster.submit(&job);
    let undisturbed = cluster.job_at(&undisturbed, "succeeded");

    let id = cluster.submit(&job);
    let before = cluster.job_in_training(&id);
    let mut watcher = cluster.begin(&["watch", &id, "--json"]);
    watcher.line_with("progress");
    cluster.kill_coordinator();
    // Nobody hears of it, but training goes on.
    let metrics = std::path::PathBuf::from(cluster.path("out")).join("metrics.jsonl");
    let lines = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let reported = lines();
    until("more steps", || (lines() > reported + 2).then_some(()));
    cluster.start_coordinator();

    let after = cluster.job_at(&id, "succeeded");
    assert_eq!(
        after["summary"]["weights_blake3"],
        undisturbed["summary"]["weights_blake3"]
    );
    let epoch = |job: &Value| job["membership_epoch"].as_u64();
    assert_eq!((epoch(&before), epoch(&after)), (Some(1), Some(1)));
    for rank in 0..2 {
        let pid = pid_of_rank(&after, rank);
        let before = (0..2).map(|rank| pid_of_rank(&before, rank));
        assert!(
            before.clone().any(|b| b == pid),
            "workers came back by themselves"
        );
    }

    // The watcher saw it through, without a repetition.
    let watched = watcher.wait().succeeded();
    let last = watched.finished();
    assert_eq!(last["weights_blake3"], after["summary"]["weights_blake3"]);
    let lines = watched.json_lines();
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line["sequence"].as_u64().expect("a number"))
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let heard = lines.iter().any(|line| {
        let reason = line["reason"].as_str();
        line["state"] == "running"
            && reason.is_some_and(|reason| {
                reason.starts_with("training: the coordinator was restarted and has heard from ")
            })
    });
    assert!(heard, "{watched}");
    assert!(!lines.iter().any(|line| line["state"] == "queued"));
    let told: Vec<&str> = watched.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{watched}");
    assert!(told[0].starts_with("lost the coordinator ("), "{watched}");
    assert_eq!(told[1], "the coordinator is back", "{watched}");
}

#[test]
fn an_ended_job_is_known_to_the_next_coordinator() {
    let mut cluster = Cluster::durable([127, 0, 7, 2]);
    cluster.worker("alpha", 2);
    let done = cluster.submit(&["--epochs", "1"]);
    let done = cluster.job_at(&done, "succeeded");
    let cancelled = cluster.submit(&["--workers", "9", "--token", "once"]);
    cluster.run(&["cancel", &cancelled]).succeeded();
    let cancelled = cluster.job(&cancelled);

    cluster.coordinator().signal(crate::support::Signal::TERM);
    cluster.coordinator().wait().exited(0);
    cluster.start_coordinator();
    assert_eq!(cluster.job("job-1"), done);
    assert_eq!(cluster.job("job-2"), cancelled);
    let flags = ["--workers", "9", "--token", "once"];
    let again = cluster.run(&cluster.submission(&flags)).succeeded().json();
    assert_eq!(again["existing"], true, "{again}");
    assert_eq!(cluster.submit(&["--workers", "9"]), "job-3");

    let watched = cluster.run(&["watch", "job-1", "--json"]).succeeded();
    let last = watched.finished();
    assert_eq!(last["weights_blake3"], done["summary"]["weights_blake3"]);
}

#[test]
fn two_coordinators_on_one_directory_are_one_too_many() {
    let cluster = Cluster::durable([127, 0, 7, 3]);
    let data = cluster.path("data");
    let second = args(&[&["coordinator", "--listen", "127.0.0.1:0", "--data", &data]]);
    let error = cluster.run(&second).error(1);
    let expected = format!("open {data}/coordinator.redb: another coordinator has it open");
    assert_eq!(error, expected);
}
