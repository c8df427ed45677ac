//! Killed, stopped and silent processes: the job ends with a reason that names who, where and
//! what; the cluster goes on.

use serde_json::Value;

use crate::support::{Cluster, FRAGILE, Signal, pid_of_rank, signal, until};

/// A job of three ranks that trains, on the nodes given.
#[track_caller]
fn endless_job(cluster: &mut Cluster, nodes: &[(&str, usize)]) -> (String, Value) {
    for (node, slots) in nodes {
        cluster.worker(node, *slots);
    }
    let id = cluster.submit(&[&FRAGILE[..], &["--workers", "3"]].concat());
    let job = cluster.job_in_training(&id);
    (id, job)
}

/// "rank R on node N (host H) ", as reasons begin.
fn rank_at(job: &Value, rank: usize) -> String {
    let report = &job["ranks"][rank];
    let part = |key: &str| report[key].as_str().expect("a name").to_owned();
    format!(
        "rank {rank} on node {} (host {}) ",
        part("node"),
        part("host")
    )
}

/// Three free slots run a short job.
#[track_caller]
fn cluster_goes_on(cluster: &Cluster) {
    let next = cluster.submit(&["--workers", "3", "--steps", "20"]);
    cluster.job_at(&next, "succeeded");
}

#[test]
fn a_killed_slot_fails_its_job_and_is_started_again() {
    let mut cluster = Cluster::start();
    let (id, job) = endless_job(&mut cluster, &[("alpha", 3)]);
    let killed = pid_of_rank(&job, 1);
    signal(killed, Signal::KILL);

    let failed = cluster.job_at(&id, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    let begin = rank_at(&job, 1) + "was killed by signal 9 (SIGKILL) while training step ";
    assert!(reason.starts_with(&begin), "{reason}");
    let failure = &failed["failure"];
    for (key, value) in [
        ("rank", Value::from(1)),
        ("node", "alpha".into()),
        ("cause", "signalled".into()),
        ("detail", 9.into()),
        ("phase", "training".into()),
    ] {
        assert_eq!(failure[key], value, "{key} in {failure}");
    }
    assert!(failure["step"].as_u64() >= Some(1), "{failure}");

    let table = cluster.run(&["jobs"]).succeeded().stdout;
    assert!(table.contains(reason), "{table}");
    let shown = cluster.run(&["watch", &id]).exited(1).stdout;
    assert!(
        shown.contains(&format!("{id} failed: {reason}\n")),
        "{shown}"
    );

    cluster_goes_on(&cluster);
    let slots = cluster.slots_of("alpha");
    assert_eq!(slots.len(), 3);
    assert!(slots.iter().all(|slot| slot["pid"] != killed), "{slots:?}");
}

/// The number of events of each of three ranks in a timeline, once it is there.
#[track_caller]
fn events_in(timeline: &str) -> [usize; 3] {
    let text = until("the timeline", || std::fs::read_to_string(timeline).ok());
    let trace: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let of = |rank: u64| {
        let rank = trace.iter().filter(|event| event["pid"] == rank);
        rank.filter(|event| event["ph"] == "X").count()
    };
    [0, 1, 2].map(of)
}

#[test]
fn a_job_that_fails_or_is_cancelled_leaves_the_timeline_of_those_that_are_alive() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 3);
    for kills in [true, false] {
        let timeline = cluster.path(&format!("timeline-{kills}.json"));
        let flags = ["--workers", "3", "--timeline", &timeline];
        let id = cluster.submit(&[&FRAGILE[..], &flags].concat());
        let job = cluster.job_in_training(&id);
        match kills {
            true => signal(pid_of_rank(&job, 1), Signal::KILL),
            false => {
                let _ = cluster.run(&["cancel", &id]).succeeded();
            }
        }
        cluster.job_at(&id, if kills { "failed" } else { "cancelled" });
        let events = events_in(&timeline);
        let lacks: Vec<usize> = (0..3).filter(|&rank| events[rank] == 0).collect();
        assert_eq!(lacks, if kills { vec![1] } else { vec![] }, "{events:?}");
    }
}

#[test]
fn a_killed_agent_takes_its_slots_and_their_job_with_it() {
    let mut cluster = Cluster::start();
    let (id, job) = endless_job(&mut cluster, &[("alpha", 2), ("beta", 1)]);
    cluster.workers[1].signal(Signal::KILL);
    cluster.workers[1].leaves_no_process();

    let failed = cluster.job_at(&id, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    let ranks = job["ranks"].as_array().expect("ranks");
    let rank = ranks.iter().position(|rank| rank["node"] == "beta");
    let begin = rank_at(&job, rank.expect("a rank on beta"));
    let end = "; last log line: lost the connection to the agent that started this process";
    assert!(
        reason.starts_with(&(begin + "exited with code 1 while training step "))
            && reason.ends_with(end),
        "{reason}"
    );
    until("beta gone", || {
        cluster.slots_of("beta").is_empty().then_some(())
    });
    cluster.worker("gamma", 1);
    cluster_goes_on(&cluster);
}

#[test]
fn an_agent_that_is_told_to_stop_leaves_in_order() {
    let mut cluster = Cluster::start();
    let (id, _) = endless_job(&mut cluster, &[("alpha", 2), ("beta", 1)]);
    cluster.workers[1].signal(Signal::TERM);
    cluster.workers[1].wait().exited(0);
    cluster.workers[1].leaves_no_process();

    let failed = cluster.job_at(&id, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(
        reason.contains(" on node beta ") && reason.contains(" was told to stop while training "),
        "{reason}"
    );
    assert_eq!(failed["failure"]["cause"], "worker_stopped");
    cluster.worker("gamma", 1);
    cluster_goes_on(&cluster);
}

#[test]
fn a_silent_slot_loses_its_lease_and_may_come_back() {
    let mut cluster = Cluster::start_with(&["--memory", "--lease", "2"]);
    let (id, job) = endless_job(&mut cluster, &[("alpha", 3)]);
    let stopped = pid_of_rank(&job, 2);
    signal(stopped, Signal::STOP);

    let failed = cluster.job_at(&id, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    let begin = rank_at(&job, 2) + "was silent for ";
    assert!(
        reason.starts_with(&begin) && reason.contains(" ms, longer than its lease, while training"),
        "{reason}"
    );
    assert_eq!(failed["failure"]["cause"], "lease_expired_ms");
    let silent_ms = failed["failure"]["detail"].as_u64();
    assert!(silent_ms >= Some(2000), "{silent_ms:?}");
    let lists_it = |cluster: &Cluster| {
        let slots = cluster.slots_of("alpha");
        slots.iter().any(|slot| slot["pid"] == stopped)
    };
    assert!(!lists_it(&cluster));

    signal(stopped, Signal::CONT);
    until("the slot that went on", || lists_it(&cluster).then_some(()));
    cluster_goes_on(&cluster);
}

#[test]
fn a_slot_that_is_killed_while_idle_is_started_again() {
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 1);
    let pid = |cluster: &Cluster| cluster.slots_of("alpha").first()?["pid"].as_u64();
    let killed = pid(&cluster).expect("a slot");
    signal(u32::try_from(killed).expect("a process id"), Signal::KILL);
    until("another process", || {
        pid(&cluster).filter(|&pid| pid != killed)
    });
}

/// A queued job of one rank on four records, and where these are. Nobody can run it yet.
#[track_caller]
fn queued_on_data(cluster: &Cluster) -> (String, String) {
    let data = cluster.path("data.csv");
    std::fs::write(&data, "1,2,a\n3,4,b\n5,6,a\n7,8,b\n").expect("write data");
    let path = format!("data.path={data}");
    let settings = [
        &path,
        "data.label=2",
        "train.global_batch=2",
        "data.scale=none",
        "data.test.fraction=0.5",
    ];
    let mut flags = vec!["--workers", "1", "--steps", "5"];
    flags.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    (cluster.submit(&flags), data)
}

#[test]
fn data_that_is_gone_when_the_job_runs_is_named() {
    let mut cluster = Cluster::start();
    let (job, data) = queued_on_data(&cluster);
    std::fs::remove_file(&data).expect("remove data");
    cluster.worker("alpha", 1);
    let failed = cluster.job_at(&job, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    let expected = format!("failed: {data}: no such file; while loading data");
    assert!(reason.contains(&expected), "{reason}");
}

#[test]
fn data_that_differs_from_what_the_coordinator_saw_is_refused() {
    let mut cluster = Cluster::start();
    let (job, data) = queued_on_data(&cluster);
    std::fs::write(&data, "1,2,a\n3,4,b\n5,6,a\n7,9,b\n").expect("change data");
    cluster.worker("alpha", 1);
    let failed = cluster.job_at(&job, "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains("not the same bytes"), "{reason}");
    assert!(reason.contains("while loading data"), "{reason}");
}
