//! A coordinator, agents, and jobs that are submitted.

use crate::harness::{Cluster, ENDLESS, Process, digits, poll, run, text};

#[test]
fn a_submitted_job_gives_the_weights_of_a_local_one() {
    let mut cluster = Cluster::start(&["--memory"]);
    cluster.add_agent("alpha", 1);
    cluster.add_agent("beta", 2);
    let out = tempfile::tempdir().unwrap();
    let out = text(out.path());
    let arguments = ["--workers", "3", "--epochs", "3", "--output", &out];

    let mut submit = vec!["submit", "--watch", "--json"];
    let job = digits();
    submit.push(&job);
    submit.extend(arguments);
    let lines = cluster.run(&submit).succeeded().json();
    assert_eq!(lines[0]["event"], "submitted");
    let last = lines.last().unwrap();
    assert_eq!(last["state"], "succeeded");

    let mut train = vec!["train", "--json", &job];
    train.extend(arguments);
    let local = run(&train).succeeded().last_json();
    assert_eq!(last["weights_blake3"], local["weights_blake3"]);

    // A watch of a job that has ended shows it again, and the job says where its ranks ran.
    let id = lines[0]["job_id"].as_str().unwrap();
    assert_eq!(&cluster.end_of(id), last);
    let job = cluster.job(id);
    assert_eq!(job["summary"]["weights_blake3"], last["weights_blake3"]);
    let ranks = job["ranks"].as_array().unwrap();
    let mut nodes: Vec<&str> = ranks
        .iter()
        .map(|rank| rank["node"].as_str().unwrap())
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["alpha", "beta", "beta"]);
}

#[test]
fn tables_are_for_people() {
    let cluster = Cluster::with_slots(1);
    let out = tempfile::tempdir().unwrap();
    let id = cluster.submit(
        &digits(),
        &[
            "--workers",
            "1",
            "--epochs",
            "1",
            "--output",
            &text(out.path()),
        ],
    );
    cluster.end_of(&id);
    let nodes = cluster.run(&["nodes"]).succeeded().stdout;
    assert!(nodes.contains("alpha") && nodes.contains("free"), "{nodes}");
    let jobs = cluster.run(&["jobs"]).succeeded().stdout;
    assert!(
        jobs.contains("digits") && jobs.contains("succeeded"),
        "{jobs}"
    );
    let job = cluster.run(&["job", &id]).succeeded().stdout;
    for words in ["state", "test_accuracy", "weights_blake3", "RANK"] {
        assert!(job.contains(words), "{words:?} is not in {job}");
    }
    let none = cluster
        .run(&["jobs", "--state", "running"])
        .succeeded()
        .stdout;
    assert!(!none.contains("digits"), "{none}");
}

#[test]
fn one_token_is_one_job() {
    let cluster = Cluster::start(&["--memory"]);
    let first = cluster.json(&["submit", &digits(), "--token", "once"]);
    let second = cluster.json(&["submit", &digits(), "--token", "once"]);
    assert_eq!(first["job_id"], second["job_id"]);
    assert_eq!(
        (&first["existing"], &second["existing"]),
        (&false.into(), &true.into())
    );
    let other = ["submit", &digits(), "--token", "once", "--seed", "9"];
    cluster
        .run(&other)
        .failed(2, &["\"once\" belongs to job-1"]);
    assert_eq!(cluster.run(&["jobs", "--json"]).json().len(), 1);
}

#[test]
fn jobs_wait_their_turn_and_say_what_for() {
    let mut cluster = Cluster::with_slots(1);
    let out = tempfile::tempdir().unwrap();
    let dir = |name: &str| text(&out.path().join(name));
    let long = cluster.submit(
        &digits(),
        &[&ENDLESS[..], &["--workers", "1", "--output", &dir("a")]].concat(),
    );
    cluster.wait_for(&long, "running");
    let wide = cluster.submit(
        &digits(),
        &["--workers", "2", "--epochs", "1", "--output", &dir("b")],
    );
    let behind = cluster.submit(
        &digits(),
        &["--workers", "1", "--epochs", "1", "--output", &dir("c")],
    );
    assert_eq!(
        cluster.job(&wide)["reason"],
        "waiting: needs 2 slots, 0 free of 1 registered"
    );
    let reason = cluster.job(&behind)["reason"].as_str().unwrap().to_owned();
    assert_eq!(
        reason,
        format!("waiting: 1 ahead in the queue, {wide} is first")
    );

    let cancelled = cluster.run(&["cancel", &long]).succeeded();
    assert_eq!(cancelled.stdout, format!("{long}: cancelled by a user\n"));
    cluster.run(&["cancel", &long]).succeeded();
    poll("one free slot of one", || {
        (cluster.job(&wide)["reason"] == "waiting: needs 2 slots, 1 free of 1 registered")
            .then_some(())
    });
    cluster.add_agent("beta", 1);
    for id in [&wide, &behind] {
        assert_eq!(cluster.end_of(id)["state"], "succeeded");
    }
    cluster
        .run(&["cancel", &wide])
        .failed(1, &["has succeeded already"]);
    assert_eq!(cluster.end_of(&long)["state"], "cancelled");
}

#[test]
fn a_restarted_coordinator_knows_its_jobs() {
    let data = tempfile::tempdir().unwrap();
    let data = text(data.path());
    let out = tempfile::tempdir().unwrap();
    let dir = |name: &str| text(&out.path().join(name));
    let mut cluster = Cluster::start(&["--data", &data, "--lease", "5"]);
    cluster.add_agent("alpha", 2);
    let done = cluster.submit(&digits(), &["--epochs", "2", "--output", &dir("a")]);
    let end = cluster.end_of(&done);
    let before = cluster.job(&done);

    // A job of many steps, so that the coordinator dies in its middle.
    let steps = ["--steps", "30000", "--set", "train.evaluate_epochs=1000"];
    let running = cluster.submit(&digits(), &[&steps[..], &["--output", &dir("b")]].concat());
    cluster.wait_for(&running, "running");
    cluster.coordinator.signal("KILL");
    cluster.coordinator.wait();
    run(&["jobs", "--coordinator", &cluster.address]).failed(3, &["can't reach a coordinator"]);

    let listen = cluster.address.clone();
    let restarted = Cluster::start_at(&listen, &["--data", &data, "--lease", "5"]);
    assert_eq!(restarted.job(&done), before);
    assert_eq!(
        restarted.end_of(&done)["weights_blake3"],
        end["weights_blake3"]
    );
    // Workers come back by themselves, and the job runs from its start.
    let last = restarted.end_of(&running);
    assert_eq!(last["state"], "succeeded", "{last:#}");
    assert_eq!(last["steps"], 30_000);
    assert_eq!(restarted.job(&running)["membership_epoch"], 2);

    run(&["coordinator", "--listen", "127.0.0.1:0", "--data", &data])
        .failed(1, &["coordinator.redb"]);
}

#[test]
fn a_watch_outlives_the_coordinator() {
    let data = tempfile::tempdir().unwrap();
    let data = text(data.path());
    let out = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&["--data", &data]);
    // Nobody can run it yet.
    let id = cluster.submit(
        &digits(),
        &[
            "--workers",
            "1",
            "--epochs",
            "1",
            "--output",
            &text(out.path()),
        ],
    );
    let mut watch = Process::start(&["watch", &id, "--json", "--coordinator", &cluster.address]);
    watch.json_line(|line| line["state"] == "queued");
    cluster.coordinator.signal("TERM");
    assert!(cluster.coordinator.wait().success());
    let listen = cluster.address.clone();
    let mut restarted = Cluster::start_at(&listen, &["--data", &data]);
    restarted.add_agent("alpha", 1);
    let last = watch.json_line(|line| line["event"] == "finished");
    assert_eq!(last["state"], "succeeded");
    assert!(watch.wait().success());
}
