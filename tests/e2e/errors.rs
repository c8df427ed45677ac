//! One clear message and a non-zero exit for everything that a user can get wrong.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Cluster, digits, repository, run, text};

/// A job file that is right, with `from` replaced by `to`.
fn job_with(from: &str, to: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let digits = repository("examples/digits");
    let job = fs::read_to_string(digits.join("job.toml")).unwrap();
    assert!(job.contains(from), "{from:?}");
    let path = dir.path().join("job.toml");
    fs::write(&path, job.replacen(from, to, 1)).unwrap();
    fs::copy(
        digits.join("digits.csv.gz"),
        dir.path().join("digits.csv.gz"),
    )
    .unwrap();
    (dir, text(&path))
}

fn train(job: &str, code: i32, words: &[&str]) {
    run(&["train", job]).failed(code, words);
}

#[test]
fn job_files() {
    let (_dir, job) = job_with("global_batch", "global_bach");
    train(
        &job,
        2,
        &[
            "job.toml:",
            "unknown key `train.global_bach` (did you mean `global_batch`?)",
        ],
    );
    let (_dir, job) = job_with("epochs = 30", "epochs = \"many\"");
    train(
        &job,
        2,
        &["`train.epochs` is the string \"many\": expected a whole number"],
    );
    train(
        "no/such/job.toml",
        2,
        &["can't read the job file no/such/job.toml", "No such file"],
    );
    let bad = ["train", &digits(), "--set", "train.global_batch"];
    run(&bad).failed(2, &["--set: expected KEY=VALUE"]);
    let bad = ["train", &digits(), "--workers", "65"];
    run(&bad).failed(2, &["--workers 65", "at most train.global_batch (64)"]);
}

#[test]
fn data() {
    let (_dir, job) = job_with("digits.csv.gz\"", "nowhere.csv\"");
    train(&job, 2, &["nowhere.csv"]);
    let (dir, job) = job_with("digits.csv.gz\"", "bad.csv\"");
    let row = |last: &str| format!("{}{last}\n", "1,".repeat(64));
    fs::write(
        dir.path().join("bad.csv"),
        row("3") + &row("4").replacen('1', "x", 1),
    )
    .unwrap();
    train(&job, 2, &["bad.csv", "line 2", "\"x\""]);
    fs::write(dir.path().join("bad.csv"), row("3") + "1,2\n").unwrap();
    train(&job, 2, &["bad.csv", "line 2"]);
    let (_dir, job) = job_with("loss = \"cross_entropy\"", "loss = \"mean_squared_error\"");
    run(&["train", &job, "--epochs", "1", "--json"]).succeeded();
    let (_dir, job) = job_with("dir = \"out\"", "dir = \"digits.csv.gz\"");
    let failed = run(&["train", &job, "--json"]);
    let reason = failed.last_json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("digits.csv.gz"), "{reason}");
    assert_eq!(failed.code, Some(1));
}

#[test]
fn coordinators() {
    let cluster = Cluster::start(&["--memory"]);
    let taken = ["coordinator", "--memory", "--listen", &cluster.address];
    run(&taken).failed(1, &["the port is in use by another process", "hint: "]);
    run(&["coordinator", "--memory", "--listen", "0.0.0.0:0"])
        .failed(2, &["not a loopback address", "--insecure"]);
    // Nobody listens on port 1 of loopback.
    let nobody = ["--coordinator", "127.0.0.1:1"];
    for command in [
        &["jobs"][..],
        &["nodes"],
        &["job", "job-1"],
        &["submit", &digits()],
    ] {
        run(&[command, &nobody].concat()).failed(3, &["can't reach a coordinator at 127.0.0.1:1"]);
    }
    run(&[
        "worker",
        "--coordinator",
        "127.0.0.1:1",
        "--connect-timeout",
        "0.2",
    ]);
    run(&["jobs", "--coordinator", "nonsense"]).failed(2, &["expected HOST:PORT"]);
    cluster
        .run(&["job", "job-7"])
        .failed(2, &["job-7 is unknown"]);
    cluster
        .run(&["cancel", "job-7"])
        .failed(2, &["job-7 is unknown"]);
    cluster
        .run(&["watch", "seven"])
        .failed(2, &["`seven` is not a job id", "job-17"]);
}

#[test]
fn a_worker_without_a_coordinator_gives_up() {
    let output = crate::harness::ringfold(&[
        "worker",
        "--coordinator",
        "127.0.0.1:1",
        "--connect-timeout",
        "0.2",
    ])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("error: can't reach a coordinator at 127.0.0.1:1"),
        "{stderr}"
    );
}

#[test]
fn models() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = text(dir.path());
    run(&["predict", "--model", &nothing, "--input", "x.csv"]).failed(2, &["model.json"]);
    let out = text(&dir.path().join("out"));
    run(&["train", &digits(), "--epochs", "1", "--output", &out]).succeeded();
    let narrow: PathBuf = dir.path().join("narrow.csv");
    fs::write(&narrow, "1,2,3\n").unwrap();
    run(&["predict", "--model", &out, "--input", &text(&narrow)]).failed(2, &["narrow.csv", "64"]);
    run(&["predict", "--model", &out, "--input", "absent.csv"]).failed(2, &["absent.csv"]);
    run(&["evaluate", "--model", &out, "--input", "absent.csv"]).failed(2, &["absent.csv"]);
}
