//! The harness.
//!
//! Contract: a process that a test started, and every process that it started in turn, ends with
//! the test, even if the test panics. Every wait has a limit, and says what it waited for.

mod cluster;
mod process;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfold_common::clock::{Clock, SystemClock};
use serde_json::Value;

pub use cluster::{Cluster, pid_of_rank};
pub use process::{Process, Signal, group_members, signal};

/// Limit of one wait. Far more than any takes, so that a loaded machine passes.
pub const LIMIT: Duration = Duration::from_secs(600);
/// Between two looks.
const POLL: Duration = Duration::from_millis(15);

/// What a command came to.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
}

impl Output {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// The output of a command that must have ended with `code`.
    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// The line `error: ...` of a command that must have failed with `code` and said nothing else
    /// but, perhaps, a hint.
    #[track_caller]
    pub fn error(self, code: i32) -> String {
        let output = self.exited(code);
        let mut lines = output.stderr.lines();
        let error = lines.next().and_then(|line| line.strip_prefix("error: "));
        let rest: Vec<&str> = lines.collect();
        let only_hint = rest.is_empty() || (rest.len() == 1 && rest[0].starts_with("hint: "));
        match error {
            Some(error) if only_hint => error.to_owned(),
            _ => panic!("expected one line `error: ...`\n{output}"),
        }
    }

    /// Standard output as JSON, one value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("{error} in the line {line:?}\n{self}"),
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The only line of standard output, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "{self}");
        lines.remove(0)
    }

    /// The last line of a job's events, which must say that it has ended.
    #[track_caller]
    pub fn finished(&self) -> Value {
        let last = self.json_lines().pop().unwrap_or_default();
        assert_eq!(last["event"], "finished", "{self}");
        last
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, out, err) = (self.code, &self.stdout, &self.stderr);
        write!(
            f,
            "exit code {code:?}\n-- stdout\n{out}\n-- stderr\n{err}\n--"
        )
    }
}

/// Runs `ringfold` to its end.
#[track_caller]
pub fn ringfold<S: AsRef<str>>(args: &[S]) -> Output {
    Process::start(args).wait()
}

/// Looks until there is something to see.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(LIMIT, what, look)
}

/// Looks until there is something to see, but not for longer than `limit`.
#[track_caller]
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock.monotonic() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(POLL);
    }
}

/// Says what this machine lacks, past the test runner's capture.
pub fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// A directory that ends with the test.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("make a temporary directory")
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(path);
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The job file of the digits example.
pub fn digits() -> String {
    text(&repository("examples/digits/job.toml"))
}

/// Arguments as one list.
pub fn args(parts: &[&[&str]]) -> Vec<String> {
    parts.concat().into_iter().map(str::to_owned).collect()
}

/// Flags of a job that goes on until somebody ends it.
pub const ENDLESS: [&str; 4] = [
    "--steps",
    "100000000",
    "--set",
    "train.evaluate_epochs=1000",
];

/// And one that ends with its first rank.
pub const FRAGILE: [&str; 6] = [
    "--steps",
    "100000000",
    "--set",
    "train.evaluate_epochs=1000",
    "--set",
    "cluster.restarts_max=0",
];
