//! A coordinator and its agents.

use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use super::{Output, Process, args, digits, temp_dir, text, until};

/// A coordinator, agents, and a directory. All end with the test.
pub struct Cluster {
    /// Dropped first, so that agents don't outlive it and complain.
    pub workers: Vec<Process>,
    coordinator: Option<Process>,
    pub address: SocketAddr,
    flags: Vec<String>,
    dir: TempDir,
}

impl Cluster {
    /// A coordinator that keeps its state in memory.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&["--memory"])
    }

    /// A coordinator that keeps its state on disk, on a loopback address of its own: between two
    /// lives, nobody takes its port.
    #[track_caller]
    pub fn durable(address: [u8; 4]) -> Self {
        let dir = temp_dir();
        let data = text(&dir.path().join("data"));
        Self::start_in(dir, (address, 0).into(), args(&[&["--data", &data]]))
    }

    /// A coordinator with these flags.
    #[track_caller]
    pub fn start_with(flags: &[&str]) -> Self {
        Self::start_in(temp_dir(), ([127, 0, 0, 1], 0).into(), args(&[flags]))
    }

    #[track_caller]
    fn start_in(dir: TempDir, listen: SocketAddr, flags: Vec<String>) -> Self {
        let mut cluster = Self {
            workers: Vec::new(),
            coordinator: None,
            address: listen,
            flags,
            dir,
        };
        cluster.start_coordinator();
        cluster
    }

    /// Starts the coordinator, again where it was.
    #[track_caller]
    pub fn start_coordinator(&mut self) {
        let mut arguments = self.flags.clone();
        let listen = self.address.to_string();
        arguments.splice(
            0..0,
            args(&[&["coordinator", "--json", "--listen", &listen]]),
        );
        let mut coordinator = Process::start(&arguments);
        let line: Value = serde_json::from_str(&coordinator.line_with("listening")).expect("JSON");
        let address = line["address"].as_str().expect("an address");
        self.address = address.parse().expect("an address");
        self.coordinator = Some(coordinator);
    }

    /// The coordinator's process.
    pub fn coordinator(&mut self) -> &mut Process {
        self.coordinator.as_mut().expect("a coordinator")
    }

    /// Ends the coordinator with SIGKILL.
    #[track_caller]
    pub fn kill_coordinator(&mut self) {
        let mut coordinator = self.coordinator.take().expect("a coordinator");
        coordinator.signal(super::Signal::KILL);
        coordinator.wait();
    }

    /// Starts an agent and waits for its slots. Gives its place in `workers`.
    #[track_caller]
    pub fn worker(&mut self, node: &str, slots: usize) -> usize {
        self.worker_with(node, slots, &[])
    }

    /// [`worker`](Self::worker) with environment variables.
    #[track_caller]
    pub fn worker_with(&mut self, node: &str, slots: usize, environment: &[(&str, &str)]) -> usize {
        let slots_text = slots.to_string();
        let coordinator = self.address.to_string();
        let arguments = args(&[
            &["worker", "--node", node, "--slots", &slots_text],
            &["--cores", "1", "--coordinator", &coordinator],
        ]);
        self.workers
            .push(Process::start_with(&arguments, environment));
        until(&format!("{slots} slots of {node}"), || {
            (self.slots_of(node).len() == slots).then_some(())
        });
        self.workers.len() - 1
    }

    /// Runs a command on this cluster.
    #[track_caller]
    pub fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Output {
        self.begin(arguments).wait()
    }

    /// Starts a command on this cluster.
    #[track_caller]
    pub fn begin<S: AsRef<str>>(&self, arguments: &[S]) -> Process {
        let address = self.address.to_string();
        Process::start_with(arguments, &[("RINGFOLD_COORDINATOR", &address)])
    }

    /// A path in the cluster's directory.
    pub fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    /// `submit` of the digits job with these flags; its model goes to the cluster's directory.
    pub fn submission(&self, flags: &[&str]) -> Vec<String> {
        let (job, out) = (digits(), self.path("out"));
        args(&[&["submit", &job, "--json", "--output", &out], flags])
    }

    /// Submits the digits job with these flags and gives its id.
    #[track_caller]
    pub fn submit(&self, flags: &[&str]) -> String {
        let object = self.run(&self.submission(flags)).succeeded().json();
        assert_eq!(object["event"], "submitted");
        object["job_id"].as_str().expect("a job id").to_owned()
    }

    /// A job as `ringfold job --json` shows it.
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.run(&["job", id, "--json"]).succeeded().json()
    }

    /// Waits until a job has this state.
    #[track_caller]
    pub fn job_at(&self, id: &str, state: &str) -> Value {
        until(&format!("{id} {state}"), || {
            let job = self.job(id);
            let now = job["state"].as_str().expect("a state");
            let ended = ["succeeded", "failed", "cancelled"].contains(&now);
            assert!(!ended || now == state, "{id} is {now}: {}", job["reason"]);
            (now == state).then_some(job)
        })
    }

    /// Waits until a job has trained for a while.
    #[track_caller]
    pub fn job_in_training(&self, id: &str) -> Value {
        until(&format!("progress of {id}"), || {
            let job = self.job_at(id, "running");
            (job["progress"]["step"].as_u64() >= Some(20)).then_some(job)
        })
    }

    /// The slots of a node as `ringfold nodes --json` shows them.
    #[track_caller]
    pub fn slots_of(&self, node: &str) -> Vec<Value> {
        let reply = self.run(&["nodes", "--json"]).succeeded().json();
        let nodes = reply["nodes"].as_array().expect("nodes");
        let of_node = nodes.iter().filter(|object| object["name"] == node);
        of_node
            .flat_map(|object| object["slots"].as_array().expect("slots").clone())
            .collect()
    }
}

/// The process of one rank of a job.
#[track_caller]
pub fn pid_of_rank(job: &Value, rank: usize) -> u32 {
    let pid = job["ranks"][rank]["pid"].as_u64().expect("a process id");
    u32::try_from(pid).expect("a process id")
}
