//! Wrong input: one clear line on standard error and the right exit code.

use std::fs;
use std::net::TcpListener;

use tempfile::TempDir;

use crate::support::{Cluster, args, digits, ringfold, temp_dir, text};

/// Nobody listens there.
const NOBODY: &str = "127.0.9.9:1";

/// A directory to write wrong files to.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: temp_dir() }
    }

    fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).expect("write a file");
        self.path(name)
    }

    /// The error of `ringfold train` with the digits job and these flags.
    #[track_caller]
    fn train(&self, flags: &[&str]) -> String {
        let (job, out) = (digits(), self.path("out"));
        let arguments = args(&[&["train", &job, "--steps", "5", "--output", &out], flags]);
        ringfold(&arguments).error(2)
    }

    /// The same on a CSV file of two features and a label.
    #[track_caller]
    fn train_on(&self, csv: &str, flags: &[&str]) -> String {
        let path = format!("data.path={}", self.file("data.csv", csv));
        let columns = ["--set", &path, "--set", "data.label=2"];
        self.train(&[&columns[..], flags].concat())
    }
}

#[test]
fn a_job_file_that_is_not_there_is_named() {
    let place = Place::new();
    let missing = place.path("nope.toml");
    let error = ringfold(&["train", &missing]).error(2);
    let expected = format!("can't read the job file {missing}: No such file or directory");
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn an_unknown_key_gets_its_line_and_a_suggestion() {
    let place = Place::new();
    let job = fs::read_to_string(digits()).expect("read the job file");
    let line = job
        .lines()
        .position(|line| line.starts_with("global_batch"));
    let line = line.expect("a line with global_batch") + 1;
    let job = place.file("job.toml", &job.replace("global_batch =", "global_bach ="));
    let error = ringfold(&["train", &job]).error(2);
    let expected = format!(
        "{job}:{line}:1: unknown key `train.global_bach` (did you mean `global_batch`?); \
         expected one of: "
    );
    assert!(error.starts_with(&expected), "{error}");

    let error = place.train(&["--set", "train.global_bach=7"]);
    let expected = "--set train.global_bach=7: unknown key `train.global_bach` (did you mean";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn values_that_cannot_be_are_refused_with_what_was_expected() {
    let place = Place::new();
    let error = place.train(&["--workers", "100"]);
    assert_eq!(
        error,
        "--workers 100: `cluster.workers` is 100: expected at most train.global_batch (64), so \
         that every rank has a sample"
    );
    let error = place.train(&["--set", "train.optimizer.kind=sgdd"]);
    assert!(
        error.contains("`train.optimizer.kind` is the string \"sgdd\": expected \"sgd\""),
        "{error}"
    );
    let error = place.train(&["--set", "workers"]);
    assert!(error.contains("expected KEY=VALUE"), "{error}");
}

#[test]
fn data_that_cannot_be_used_is_named_with_line_and_column() {
    let place = Place::new();
    let error = place.train(&["--set", "data.path=nope.csv"]);
    assert!(
        error.ends_with("/examples/digits/nope.csv: no such file"),
        "{error}"
    );

    let data = place.path("data.csv");
    let error = place.train_on("1,2,a\n3,x,b\n", &[]);
    assert_eq!(
        error,
        format!("{data}: line 2 (record 2), column 1: \"x\" is not a number")
    );
    let error = place.train_on("1,2,a\n3,b\n", &[]);
    assert_eq!(
        error,
        format!("{data}: line 2 (record 2): 2 fields, expected 3")
    );
    let error = place.train_on("", &[]);
    assert_eq!(error, format!("{data}: the file is empty"));

    let squared = ["--set", "model.loss=mean_squared_error"];
    let error = place.train_on("1,2,a\n3,4,b\n", &squared);
    assert!(
        error.starts_with(&format!("{data}: line 1 (record 1), ")) && error.contains("\"a\""),
        "{error}"
    );
}

#[test]
fn the_output_must_be_a_directory() {
    let place = Place::new();
    let file = place.file("taken", "");
    let error = ringfold(&["train", &digits(), "--output", &file]).error(2);
    assert_eq!(error, format!("{file}: is a file, expected a directory"));

    // On a cluster it is known only to the host of rank 0: the job fails.
    let mut cluster = Cluster::start();
    cluster.worker("alpha", 2);
    let submission = cluster.submission(&[]);
    let job = submission[1].clone();
    let submit = ["submit", &job, "--json", "--output", &file];
    cluster.run(&submit).succeeded();
    let failed = cluster.job_at("job-1", "failed");
    let reason = failed["reason"].as_str().unwrap_or_default();
    let expected = format!("failed: {file}: is a file, expected a directory; while starting");
    assert!(
        reason.starts_with("rank 0 on node alpha (host ") && reason.contains(&expected),
        "{reason}"
    );
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let job = digits();
    let expected = format!("can't reach a coordinator at {NOBODY}: Connection refused");
    for command in [
        &["submit", &job][..],
        &["jobs"],
        &["job", "1"],
        &["watch", "1"],
        &["cancel", "1"],
        &["nodes"],
    ] {
        let error = ringfold(&[command, &["--coordinator", NOBODY]].concat()).error(3);
        assert!(error.starts_with(&expected), "{command:?}: {error}");
    }
    let worker = ["worker", "--coordinator", NOBODY, "--connect-timeout", "1"];
    let output = ringfold(&worker).exited(3);
    assert!(
        output.stderr.contains(&format!("error: {expected}")),
        "{output}"
    );

    for command in ["jobs", "worker"] {
        let error = ringfold(&[command, "--coordinator", "nonsense"]).error(2);
        assert!(
            error.starts_with("\"nonsense\" is not an address of a coordinator"),
            "{error}"
        );
    }
}

#[test]
fn job_ids_that_are_none_or_unknown_are_refused() {
    let cluster = Cluster::start();
    for command in ["job", "watch", "cancel"] {
        let error = cluster.run(&[command, "job-17"]).error(2);
        assert_eq!(error, "job-17 is unknown", "{command}");
        let error = cluster.run(&[command, "seventeen"]).error(2);
        assert_eq!(
            error, "`seventeen` is not a job id: expected `job-` and a number, as in `job-17`",
            "{command}"
        );
    }
}

#[test]
fn a_coordinator_that_cannot_listen_says_why() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address").to_string();
    let error = ringfold(&["coordinator", "--memory", "--listen", &address]).error(1);
    assert_eq!(
        error,
        format!("can't listen on {address}: the port is in use by another process")
    );

    let error = ringfold(&["coordinator", "--memory", "--listen", "0.0.0.0:0"]).error(2);
    assert_eq!(
        error,
        "0.0.0.0:0 is not a loopback address: anyone who reaches it could submit jobs"
    );
    let exposed = ["--memory", "--listen", "0.0.0.0:0", "--insecure", "--json"];
    let mut exposed = crate::support::Process::start(&args(&[&["coordinator"], &exposed]));
    exposed.line_with("\"address\":\"0.0.0.0:");

    let place = Place::new();
    let file = place.file("data", "");
    let coordinator = ["coordinator", "--listen", "127.0.0.1:0", "--data", &file];
    let error = ringfold(&coordinator).error(1);
    assert!(error.contains(&file), "{error}");
}

#[test]
fn a_worker_that_the_coordinator_refuses_ends_with_its_words() {
    let cluster = Cluster::start();
    let output = cluster.run(&["worker", "--node", "two words"]).exited(1);
    let error = "\nerror: the coordinator refused this worker: node: expected 1 to 253 bytes";
    assert!(output.stderr.contains(error), "{output}");
}

#[test]
fn a_model_that_is_none_is_named() {
    let place = Place::new();
    let records = place.file("records.csv", "1,2\n");
    let dir = text(place.dir.path());
    for arguments in [
        &["predict", "--model", &dir, "--input", &records][..],
        &["evaluate", "--model", &dir, "--input", &records],
    ] {
        let error = ringfold(arguments).error(2);
        assert_eq!(error, format!("{dir}/model.json: no such file"));
    }
}
