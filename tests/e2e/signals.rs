//! `ringfold train` and signals: whatever ends it, no process is left.

use tempfile::TempDir;

use crate::support::{
    FRAGILE, Process, Signal, args, digits, group_members, signal, temp_dir, text,
};

/// `ringfold train` in training, with three worker processes.
struct Training {
    process: Process,
    workers: Vec<u32>,
    _dir: TempDir,
}

impl Training {
    #[track_caller]
    fn start(flags: &[&str]) -> Self {
        let dir = temp_dir();
        let (job, out) = (digits(), text(&dir.path().join("out")));
        let mut process = Process::start(&args(&[
            &["train", &job, "--workers", "3", "--output", &out],
            &FRAGILE,
            flags,
        ]));
        // In either style, this is said when all ranks train.
        process.line_with("training");
        let mut workers = group_members(process.pid());
        workers.retain(|&pid| pid != process.pid());
        assert_eq!(workers.len(), 3, "{workers:?}");
        Self {
            process,
            workers,
            _dir: dir,
        }
    }
}

#[test]
fn ctrl_c_cancels_the_job_and_leaves_no_process() {
    let mut training = Training::start(&["--json"]);
    training.process.line_with("progress");
    training.process.signal_group(Signal::INT);
    let output = training.process.wait().exited(130);
    let last = output.finished();
    assert_eq!(last["state"], "cancelled", "{output}");
    assert!(last["steps"].as_u64() >= Some(20), "{last}");
    training.process.leaves_no_process();
}

#[test]
fn sigterm_does_the_same() {
    let mut training = Training::start(&[]);
    training.process.signal(Signal::TERM);
    let output = training.process.wait().exited(130);
    assert!(
        output.stdout.ends_with("job-1 cancelled by a user\n"),
        "{output}"
    );
    training.process.leaves_no_process();
}

#[test]
fn sigkill_leaves_no_process() {
    let mut training = Training::start(&[]);
    training.process.signal(Signal::KILL);
    training.process.leaves_no_process();
}

#[test]
fn a_killed_worker_ends_the_command_with_its_name() {
    let mut training = Training::start(&[]);
    signal(training.workers[0], Signal::KILL);
    let output = training.process.wait().exited(1);
    let reason = "was killed by signal 9 (SIGKILL) while ";
    let says = |line: &str| line.starts_with("job-1 failed: rank ") && line.contains(reason);
    assert!(output.stdout.lines().any(says), "{output}");
    training.process.leaves_no_process();
}
