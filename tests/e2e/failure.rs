//! What dies, and what is said about it.

use std::process::Command;

use crate::harness::{Cluster, ENDLESS, children_of, digits, is_running, poll, signal, text};

/// A job over all slots that has taken a step.
fn running(cluster: &Cluster, workers: &str, out: &str) -> (String, serde_json::Value) {
    let arguments = [&ENDLESS[..], &["--workers", workers, "--output", out]].concat();
    let id = cluster.submit(&digits(), &arguments);
    let job = cluster.wait_for(&id, "running");
    (id, job)
}

fn pid_of_rank(job: &serde_json::Value, rank: usize) -> u32 {
    job["ranks"][rank]["pid"].as_u64().unwrap() as u32
}

fn host() -> String {
    let output = Command::new("uname").arg("-n").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_killed_rank_is_named_with_host_signal_phase_and_log_and_replaced() {
    let out = tempfile::tempdir().unwrap();
    let out = text(out.path());
    let cluster = Cluster::with_slots(3);
    let (id, job) = running(&cluster, "3", &out);
    signal(pid_of_rank(&job, 1), "KILL");
    let last = cluster.end_of(&id);
    assert_eq!(last["state"], "failed");
    let reason = last["reason"].as_str().unwrap();
    let expected = format!(
        "rank 1 on node alpha (host {}) was killed by signal 9 (SIGKILL)",
        host()
    );
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.contains("while training step"), "{reason}");
    assert!(reason.contains("last log line: "), "{reason}");
    let failure = &last["failure"];
    assert_eq!(
        (&failure["rank"], &failure["cause"]),
        (&1.into(), &"signalled".into())
    );
    assert!(!failure["log_tail"].as_array().unwrap().is_empty());

    // The agent starts another process, and the node is whole again.
    cluster.wait_for_slots(3);
    let next = cluster.submit(
        &digits(),
        &["--workers", "3", "--epochs", "1", "--output", &out],
    );
    assert_eq!(cluster.end_of(&next)["state"], "succeeded");
}

#[test]
fn a_killed_agent_takes_its_slots_with_it() {
    let out = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with_slots(1);
    cluster.add_agent("beta", 1);
    let (id, _) = running(&cluster, "2", &text(out.path()));
    let slots = children_of(cluster.agents[1].pid());
    assert_eq!(slots.len(), 1);
    cluster.agents[1].signal("KILL");
    let last = cluster.end_of(&id);
    assert_eq!(last["state"], "failed");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("on node beta"), "{reason}");
    poll("the slots' end", || {
        slots.iter().all(|&pid| !is_running(pid)).then_some(())
    });
    cluster.wait_for_slots(1);
}

#[test]
fn an_agent_that_is_told_to_stop_leaves_in_order() {
    let out = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::with_slots(2);
    let (id, _) = running(&cluster, "2", &text(out.path()));
    let slots = children_of(cluster.agents[0].pid());
    cluster.agents[0].signal("TERM");
    assert!(cluster.agents[0].wait().success());
    assert!(slots.iter().all(|&pid| !is_running(pid)), "{slots:?}");
    let last = cluster.end_of(&id);
    assert_eq!(last["state"], "failed");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("was told to stop"), "{reason}");
    cluster.wait_for_slots(0);
}

#[test]
fn a_stopped_rank_loses_its_lease_and_comes_back() {
    let out = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&["--memory", "--lease", "2"]);
    cluster.add_agent("alpha", 2);
    let (id, job) = running(&cluster, "2", &text(out.path()));
    let pid = pid_of_rank(&job, 1);
    signal(pid, "STOP");
    let last = cluster.end_of(&id);
    let reason = last["reason"].as_str().unwrap().to_owned();
    signal(pid, "CONT");
    assert_eq!(last["state"], "failed");
    assert!(
        reason.starts_with("rank 1 ") && reason.contains("was silent for"),
        "{reason}"
    );
    cluster.wait_for_slots(2);
    assert!(is_running(pid), "the process goes on and registers again");
}

#[test]
fn a_rank_that_sees_other_data_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d.csv");
    let rows = |n: usize| {
        (0..n)
            .map(|i| format!("{i},{}\n", i % 2))
            .collect::<String>()
    };
    std::fs::write(&data, rows(20)).unwrap();
    let job = dir.path().join("job.toml");
    std::fs::write(
        &job,
        "[model]\nkind = \"mlp\"\nhidden = []\n[data]\nformat = \"csv\"\npath = \"d.csv\"\n\
         header = false\nlabel = 1\n[train]\nepochs = 1\nglobal_batch = 4\n\
         optimizer = { kind = \"sgd\", learning_rate = 0.1 }\n",
    )
    .unwrap();
    let mut cluster = Cluster::start(&["--memory"]);
    let id = cluster.submit(&text(&job), &[]);
    // The file changes between the submission and the start.
    std::fs::write(&data, rows(21)).unwrap();
    cluster.add_agent("alpha", 1);
    let last = cluster.end_of(&id);
    assert_eq!(last["state"], "failed");
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.contains("it saw 20 training") && reason.contains("here are 21"),
        "{reason}"
    );
    assert!(reason.contains("while loading data"), "{reason}");
}
