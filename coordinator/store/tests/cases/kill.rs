//! What survives the death of the process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use ringfold_common::ids::Revision;
use ringfold_coordinator_store::{FileStore, Store, StoreError};

use super::{commit_next, record};

/// Names the directory in which the child is to commit.
const CHILD_DIRECTORY: &str = "RINGFOLD_STORE_CHILD_DIRECTORY";

#[test]
fn reopening_shows_everything() {
    let directory = tempfile::tempdir().unwrap();
    let nested = directory.path().join("made/on/open");
    let mut before = None;
    for at in 0..3 {
        let mut store = FileStore::open(&nested).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(before.unwrap_or_else(|| loaded.clone()), loaded);
        commit_next(&mut store, at);
        before = Some(store.load().unwrap());
    }
    assert_eq!(before.unwrap().jobs.len(), 3);
}

#[test]
fn a_file_that_is_open_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let first = FileStore::open(directory.path()).unwrap();
    let error = FileStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    let path = first.path().display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
    drop(first);
    FileStore::open(directory.path()).unwrap();
}

#[test]
fn a_file_that_another_process_has_open_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Child::start(directory.path());
    child.wait_for_commits(1);
    let error = FileStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    child.kill();
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut at = 0;
    for commits in [1, 2, 5, 11, 23] {
        let mut child = Child::start(directory.path());
        child.wait_for_commits(commits);
        let acknowledged = child.kill();
        assert!(acknowledged >= at + commits);

        let mut store = FileStore::open(directory.path()).unwrap();
        let found = store.load().unwrap();
        at = found.revision.0;
        // One more may have been made durable and not yet acknowledged.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&at),
            "acknowledged {acknowledged}, found {at}"
        );
        assert_eq!(found.next_job.0, at + 1);
        let expected: Vec<_> = (1..=at).map(record).collect();
        assert_eq!(found.jobs, expected);
    }
}

/// Not a test of its own: what the child process of the tests above does.
#[test]
fn child_commits_until_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let mut store = FileStore::open(directory.as_ref()).unwrap();
    let Revision(mut at) = store.load().unwrap().revision;
    loop {
        commit_next(&mut store, at);
        at += 1;
        let mut out = std::io::stdout().lock();
        // Without a reader, the parent is gone.
        if writeln!(out, "\nacknowledged {at}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

struct Child {
    process: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
    acknowledged: u64,
}

impl Child {
    fn start(directory: &std::path::Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_commits_until_killed", "--nocapture"])
            .env(CHILD_DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            output,
            acknowledged: 0,
        }
    }

    fn wait_for_commits(&mut self, commits: u64) {
        for _ in 0..commits {
            assert!(self.next_commit(), "the child ended");
        }
    }

    /// SIGKILL, in the middle of whatever it does. The last revision that it acknowledged.
    fn kill(mut self) -> u64 {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while self.next_commit() {}
        self.acknowledged
    }

    /// Reads on to the next acknowledged revision. False at the end of the output.
    fn next_commit(&mut self) -> bool {
        let mut line = String::new();
        loop {
            line.clear();
            // The last line may be cut off: it was not acknowledged.
            if self.output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
                return false;
            }
            if let Some(revision) = line.strip_prefix("acknowledged ") {
                self.acknowledged = revision.trim_end().parse().unwrap();
                return true;
            }
        }
    }
}
