//! A cluster: coordinator, agents, and the commands that look at it.

use serde_json::Value;

use crate::support::{Cluster, ENDLESS, Signal, args, digits, ringfold, until};

#[test]
fn a_cluster_trains_the_same_weights_as_one_machine() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 1);
    cluster.worker("beta", 2);
    let flags = ["--epochs", "3", "--workers", "3"];
    let watched = cluster.run(&cluster.submission(&[&flags[..], &["--watch"]].concat()));
    let watched = watched.succeeded();
    let there = watched.finished();
    assert_eq!(there["state"], "succeeded");
    let first = watched.json_lines().remove(0);
    assert_eq!(
        (&first["event"], &first["job_id"], &first["existing"]),
        (&"submitted".into(), &"job-1".into(), &false.into())
    );

    let (job, out) = (digits(), cluster.path("local"));
    let local = args(&[&["train", &job, "--json", "--output", &out], &flags]);
    let here = ringfold(&local).succeeded().finished();
    assert!(here["weights_blake3"].is_string(), "{here}");
    assert_eq!(there["weights_blake3"], here["weights_blake3"]);
    assert_eq!(there["metrics"], here["metrics"]);
}

#[test]
fn a_job_over_two_hosts_trains_the_same_weights_as_one_machine() {
    let mut cluster = Cluster::start();
    cluster.worker_with("alpha", 2, &[("RINGFOLD_HOST", "north")]);
    cluster.worker_with("beta", 2, &[("RINGFOLD_HOST", "south")]);
    let flags = ["--epochs", "2", "--workers", "4"];
    let watched = cluster.run(&cluster.submission(&[&flags[..], &["--watch"]].concat()));
    let there = watched.succeeded().finished();
    let job = cluster.job("job-1");
    let hosts: Vec<_> = (0..4)
        .map(|rank| job["ranks"][rank]["host"].as_str())
        .collect();
    assert_eq!(
        hosts,
        ["north", "north", "south", "south"].map(Some),
        "{job}"
    );

    let (job, out) = (digits(), cluster.path("local"));
    let local = args(&[&["train", &job, "--json", "--output", &out], &flags]);
    let here = ringfold(&local).succeeded().finished();
    assert!(here["weights_blake3"].is_string(), "{here}");
    assert_eq!(there["weights_blake3"], here["weights_blake3"]);
}

#[test]
fn a_job_under_tls_trains_the_same_weights_as_one_without() {
    let hosts = ["north", "south", "east"];
    let trained = |tls: &str, hosts: &[&str], joined: &str| {
        let mut cluster = Cluster::start();
        for (at, host) in hosts.iter().copied().enumerate() {
            cluster.worker_with(&format!("node-{at}"), 1, &[("RINGFOLD_HOST", host)]);
        }
        let tls = format!("cluster.tls={tls}");
        let flags = ["--epochs", "2", "--workers", "3", "--watch", "--set", &tls];
        let last = cluster.run(&cluster.submission(&flags)).succeeded();
        for worker in &cluster.workers {
            until(&format!("{joined:?} in a worker's log"), || {
                worker.log().contains(joined).then_some(())
            });
        }
        last.finished()["weights_blake3"].clone()
    };
    let plain = trained("false", &hosts, "joined over TCP without TLS");
    assert!(plain.is_string(), "{plain}");
    let encrypted = trained("true", &hosts, "joined over TCP under TLS");
    assert_eq!(encrypted, plain);
    // In memory there is nothing to encrypt.
    let shared = trained("true", &["north"; 3], "joined in shared memory");
    assert_eq!(shared, plain);
}

#[test]
fn an_ended_job_can_be_looked_at_in_every_way() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let flags = ["--epochs", "2", "--watch"];
    let seen = cluster
        .run(&cluster.submission(&flags))
        .succeeded()
        .finished();

    let job = cluster.job("job-1");
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["summary"]["weights_blake3"], seen["weights_blake3"]);
    assert_eq!(job["ranks"].as_array().map(Vec::len), Some(2), "{job}");
    assert_eq!(job["dataset"]["features"], 64);
    assert_eq!(cluster.job("1"), job, "the number alone is an id too");
    let shown = cluster.run(&["job", "job-1"]).succeeded().stdout;
    for part in [
        "job-1 (digits)\n",
        "state            succeeded\n",
        "1,438 training and 359 test records, 64 features",
        "RANK  NODE   HOST",
        "1     alpha  ",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }

    // Watching it from the start gives what the watcher at the time saw.
    let watched = cluster
        .run(&["watch", "job-1", "--json"])
        .succeeded()
        .finished();
    assert_eq!(watched, seen);
    let shown = cluster.run(&["watch", "job-1"]).succeeded().stdout;
    assert!(shown.contains("job-1 succeeded\n"), "{shown}");

    let listed = cluster.run(&["jobs", "--json"]).succeeded().json();
    let without_ranks = |mut job: Value| {
        job["ranks"] = Value::Array(Vec::new());
        job
    };
    assert_eq!(listed, without_ranks(job));
    let table = cluster.run(&["jobs"]).succeeded().stdout;
    let row = "job-1  digits  succeeded  2        46/46  finished\n";
    let header = "JOB    NAME    STATE      WORKERS  STEP   REASON\n";
    assert_eq!(table, format!("{header}{row}"));
    let failed = cluster.run(&["jobs", "--state", "failed"]).succeeded();
    assert_eq!(failed.stdout.lines().count(), 1, "{failed}");
}

#[test]
fn nodes_and_their_slots_are_listed() {
    let mut cluster = Cluster::start();
    let none = cluster.run(&["nodes"]).succeeded().stdout;
    assert_eq!(none, "no nodes: start one with `ringfold worker`\n");
    cluster.worker("alpha", 1);
    cluster.worker("beta", 2);
    let job = cluster.submit(&[&ENDLESS[..], &["--workers", "2"]].concat());
    cluster.job_in_training(&job);

    let reply = cluster.run(&["nodes", "--json"]).succeeded().json();
    assert_eq!(reply["coordinator_version"], env!("CARGO_PKG_VERSION"));
    let nodes = reply["nodes"].as_array().expect("nodes");
    let names: Vec<&Value> = nodes.iter().map(|node| &node["name"]).collect();
    assert_eq!(names, ["alpha", "beta"]);
    let slots = || nodes.iter().filter_map(|node| node["slots"].as_array());
    let mut states: Vec<&Value> = slots().flatten().map(|slot| &slot["state"]).collect();
    states.sort_by_key(|state| state.to_string());
    assert_eq!(states, ["assigned", "assigned", "free"]);
    for slot in slots().flatten() {
        assert_eq!(slot["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(slot["cores"], 1);
        let expected = (slot["state"] == "assigned").then_some("job-1");
        assert_eq!(slot["job_id"].as_str(), expected);
    }
    let table = cluster.run(&["nodes"]).succeeded().stdout;
    for part in ["NODE ", "beta ", " free ", "job-1 rank 1 "] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
}

#[test]
fn a_cancelled_job_frees_its_slots() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let endless = cluster.submit(&ENDLESS);
    let pids = |job: &Value| -> Vec<u64> {
        let ranks = job["ranks"].as_array().expect("ranks");
        ranks
            .iter()
            .filter_map(|rank| rank["pid"].as_u64())
            .collect()
    };
    let ran = cluster.job_in_training(&endless);
    let mut watcher = cluster.begin(&["watch", &endless, "--json"]);
    watcher.line_with("progress");

    let cancelled = cluster.run(&["cancel", &endless, "--json"]).succeeded();
    assert_eq!(cancelled.json()["state"], "cancelled");
    let again = cluster.run(&["cancel", &endless]).succeeded();
    assert_eq!(again.stdout, "job-1: cancelled by a user\n");
    let watched = watcher.wait().exited(1).finished();
    assert_eq!(watched["state"], "cancelled");
    assert!(watched["steps"].as_u64() >= Some(20), "{watched}");

    let next = cluster.submit(&["--steps", "30"]);
    let next = cluster.job_at(&next, "succeeded");
    let (mut before, mut after) = (pids(&ran), pids(&next));
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(before, after, "the same processes run the next job");
    let late = cluster.run(&["cancel", "job-2"]).error(1);
    assert_eq!(late, "job-2 has succeeded already");
}

#[test]
fn a_watcher_that_is_interrupted_leaves_the_job_alone() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let id = cluster.submit(&ENDLESS);
    let mut watcher = cluster.begin(&["watch", &id]);
    watcher.line_with("training");
    watcher.signal(Signal::INT);
    let output = watcher.wait().exited(130);
    let note = "job-1 goes on; `ringfold cancel job-1` ends it\n";
    assert_eq!(output.stderr, note);
    let step = |job: Value| job["progress"]["step"].as_u64();
    let before = step(cluster.job_in_training("job-1"));
    until("more steps", || {
        (step(cluster.job_at("job-1", "running")) > before).then_some(())
    });
}
