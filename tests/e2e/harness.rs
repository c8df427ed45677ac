//! Starting, watching and ending processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ringfold_common::clock::{Clock, SystemClock};
use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

pub fn digits() -> String {
    text(&repository("examples/digits/job.toml"))
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The program, without the settings of whoever runs the tests.
pub fn ringfold(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfold"));
    command
        .args(arguments)
        .env_remove("RINGFOLD_COORDINATOR")
        .env_remove("RINGFOLD_LOG")
        .stdin(Stdio::null());
    command
}

/// What a command that has ended left.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Its standard output as JSON lines.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Its only, or last, JSON line.
    pub fn last_json(&self) -> Value {
        self.json()
            .pop()
            .unwrap_or_else(|| panic!("no output: {self:?}"))
    }

    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Fails unless the command did, with this code and these words on standard error.
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:#?}");
        }
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Done {
    let output = ringfold(arguments).output().expect("the program starts");
    Done {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that is killed when the test lets go of it.
pub struct Process {
    child: Child,
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = ringfold(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let lines = child
            .stdout
            .take()
            .map(|stdout| BufReader::new(stdout).lines());
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        self.lines.as_mut()?.next().map(|line| line.expect("text"))
    }

    /// The next JSON line for which `wanted` is true.
    pub fn json_line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.line().expect("a line before the end");
            let value: Value = serde_json::from_str(&line).expect("a JSON line");
            if wanted(&value) {
                return value;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        poll("the end of a process", || {
            self.child.try_wait().expect("a child")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name, such as `KILL`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success(), "kill -s {name} {pid}");
}

/// Asks until there is an answer; panics when the limit has passed.
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            clock.monotonic() < LIMIT,
            "{what} did not come within {LIMIT:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose command line holds `word`.
pub fn processes_with(word: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
    .collect()
}

/// Slot processes that a process started.
pub fn children_of(parent: u32) -> Vec<u32> {
    processes_with("worker-slot")
        .into_iter()
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = stat.rsplit(')').next().unwrap_or_default();
            after.split_whitespace().nth(1) == Some(&parent.to_string())
        })
        .collect()
}

/// True while a process is there and not a zombie.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .next();
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// A coordinator and the agents that were started for it.
pub struct Cluster {
    pub address: String,
    pub coordinator: Process,
    pub agents: Vec<Process>,
}

impl Cluster {
    /// A coordinator on a free port.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", arguments)
    }

    pub fn start_at(listen: &str, arguments: &[&str]) -> Self {
        let mut all = vec!["coordinator", "--json", "--listen", listen];
        all.extend(arguments);
        let mut coordinator = Process::start(&all);
        let line = coordinator.json_line(|line| line["event"] == "listening");
        let address = line["address"].as_str().expect("an address").to_owned();
        Self {
            address,
            coordinator,
            agents: Vec::new(),
        }
    }

    /// With agents of one slot each, all registered.
    pub fn with_slots(slots: u32) -> Self {
        let mut cluster = Self::start(&["--memory"]);
        cluster.add_agent("alpha", slots);
        cluster
    }

    /// Starts an agent and waits until its slots are registered.
    pub fn add_agent(&mut self, node: &str, slots: u32) {
        let before = self.slots().len();
        let arguments = [
            "worker",
            "--coordinator",
            &self.address,
            "--node",
            node,
            "--slots",
        ];
        let slots_text = slots.to_string();
        let mut all = arguments.to_vec();
        all.push(&slots_text);
        self.agents.push(Process::start(&all));
        self.wait_for_slots(before + slots as usize);
    }

    pub fn wait_for_slots(&self, count: usize) {
        poll("registered slots", || {
            (self.slots().len() == count).then_some(())
        });
    }

    /// Runs a command against this coordinator.
    pub fn run(&self, arguments: &[&str]) -> Done {
        let mut all = arguments.to_vec();
        all.extend(["--coordinator", &self.address]);
        run(&all)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.run(&all).succeeded().last_json()
    }

    pub fn slots(&self) -> Vec<Value> {
        let nodes = self.json(&["nodes"]);
        let nodes = nodes["nodes"].as_array().expect("nodes");
        nodes
            .iter()
            .flat_map(|node| node["slots"].as_array().expect("slots").clone())
            .collect()
    }

    /// Submits and returns the job's id.
    pub fn submit(&self, job: &str, arguments: &[&str]) -> String {
        let mut all = vec!["submit", job];
        all.extend(arguments);
        let reply = self.json(&all);
        reply["job_id"].as_str().expect("a job id").to_owned()
    }

    pub fn job(&self, id: &str) -> Value {
        self.json(&["job", id])
    }

    /// Waits until a job is in a state and has taken a step, if it is to run.
    pub fn wait_for(&self, id: &str, state: &str) -> Value {
        poll(&format!("{id} to be {state}"), || {
            let job = self.job(id);
            let there = job["state"] == state && (state != "running" || !job["progress"].is_null());
            assert!(
                there
                    || !matches!(
                        job["state"].as_str(),
                        Some("failed" | "cancelled" | "succeeded")
                    ),
                "{id} ended otherwise: {job:#}"
            );
            there.then_some(job)
        })
    }

    /// The last event of a job, which this waits for.
    pub fn end_of(&self, id: &str) -> Value {
        let mut all = vec!["watch", id, "--json", "--coordinator"];
        all.push(&self.address);
        run(&all).last_json()
    }
}

/// A job that goes on until somebody ends it.
pub const ENDLESS: [&str; 4] = ["--epochs", "1000000", "--set", "train.report_steps=5"];
