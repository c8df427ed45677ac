//! Arguments, their help and examples.

mod bench;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::bench::{
    BenchAllreduceArgs, BenchCommand, BenchMode, BenchModel, BenchTrainArgs, BenchTransport,
};

/// Where commands look for a coordinator, unless told.
pub const COORDINATOR_DEFAULT: &str = "127.0.0.1:7070";

/// The shortest lease.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// Data-parallel training across any set of machines.
#[derive(Debug, Parser)]
#[command(
    name = "ringfold",
    version,
    max_term_width = 100,
    propagate_version = true
)]
#[command(after_help = "Examples:
  ringfold train examples/digits/job.toml          train on this machine
  ringfold coordinator --data /var/lib/ringfold    start a cluster,
  ringfold worker --slots 4                        give it workers,
  ringfold submit job.toml --watch                 and train there

RINGFOLD_LOG sets what is logged to standard error, such as RINGFOLD_LOG=debug.
Exit codes: 0 done; 1 failed; 2 wrong input; 3 no coordinator; 130 interrupted.")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a job on this machine, with a coordinator and worker processes of its own
    #[command(after_help = "Examples:
  ringfold train examples/digits/job.toml
  ringfold train job.toml --workers 4 --threads 1 --seed 7
  ringfold train job.toml --steps 100 --set train.global_batch=256 --json")]
    Train(TrainArgs),
    /// Run the coordinator of a cluster
    #[command(after_help = "Examples:
  ringfold coordinator --data /var/lib/ringfold
  ringfold coordinator --listen 0.0.0.0:7070 --insecure --data /var/lib/ringfold
  ringfold coordinator --listen 127.0.0.1:0 --memory")]
    Coordinator(CoordinatorArgs),
    /// Offer this machine's cores to a cluster
    #[command(after_help = "Examples:
  ringfold worker --coordinator 10.0.0.1:7070 --slots 4
  ringfold worker --slots 2 --cores 8 --node alpha")]
    Worker(WorkerArgs),
    /// One slot process of an agent
    #[command(hide = true)]
    WorkerSlot(WorkerSlotArgs),
    /// Submit a job to a cluster
    #[command(after_help = "Examples:
  ringfold submit job.toml
  ringfold submit job.toml --watch --workers 8
  ringfold submit job.toml --token nightly-2026-11-24    (twice is once)")]
    Submit(SubmitArgs),
    /// Check a job with its data and model files, as a coordinator would, without running it
    #[command(after_help = "Examples:
  ringfold check job.toml
  ringfold check job.toml --workers 8 --json")]
    Check(CheckArgs),
    /// List jobs, newest first
    #[command(after_help = "Examples:
  ringfold jobs
  ringfold jobs --state running --state queued --json")]
    Jobs(JobsArgs),
    /// Show one job: state, reason, metrics, ranks
    #[command(after_help = "Examples:
  ringfold job job-17
  ringfold job 17 --json")]
    Job(JobArgs),
    /// Follow a job until it ends
    #[command(after_help = "Examples:
  ringfold watch job-17
  ringfold watch job-17 --json")]
    Watch(JobArgs),
    /// End a job
    #[command(after_help = "Example:
  ringfold cancel job-17")]
    Cancel(JobArgs),
    /// List nodes and their slots
    #[command(after_help = "Example:
  ringfold nodes --json")]
    Nodes(NodesArgs),
    /// Write a trained model's predictions for records without labels
    #[command(after_help = "Examples:
  ringfold predict --model out --input new.csv > predictions.csv
  ringfold predict --model out --input new.csv --probabilities --output p.csv
  ringfold predict --model out --input t10k-images-idx3-ubyte.gz")]
    Predict(PredictArgs),
    /// Print a trained model's loss, accuracy and confusion matrix
    #[command(after_help = "Examples:
  ringfold evaluate --model out --job job.toml           (the job's own test records)
  ringfold evaluate --model out --input labelled.csv
  ringfold evaluate --model out --images i.gz --labels l.gz --json")]
    Evaluate(EvaluateArgs),
    /// Write a trained model for other programs
    #[command(after_help = "Examples:
  ringfold export out --onnx model.onnx     (its input x takes records as in the data files)")]
    Export(ExportArgs),
    /// Measure how fast this machine is at what jobs do
    #[command(
        subcommand,
        after_help = "Examples:
  ringfold bench allreduce --ranks 2
  ringfold bench train --model mlp --json"
    )]
    Bench(BenchCommand),
    /// Look into a model
    #[command(after_help = "Examples:
  ringfold model inspect job.toml
  ringfold model inspect out --mode prediction --json")]
    Model(ModelArgs),
    /// Write text with a model that was trained on text
    #[command(after_help = "Examples:
  ringfold generate out --prompt 'HAMLET.' --tokens 500
  ringfold generate out --prompt 'To be' --temperature 0.8 --top-k 20 --seed 7
  ringfold generate out --top-p 0.9 --json | tail -1

The same model, prompt and seed give the same text on one kind of processor. When the model's
context is full, its older half is forgotten.")]
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    pub command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Print a model's parameters, layers, operations, memory, and what passes made of its graph
    #[command(after_help = "Examples:
  ringfold model inspect job.toml
  ringfold model inspect job.toml --batch 256 --workspace-bytes-max 8000000
  ringfold model inspect out --mode prediction --batch 1 --json
  ringfold model inspect net.onnx
  ringfold model inspect job.toml --dump text
  ringfold model inspect job.toml --dump dot | dot -Tsvg > model.svg

A number of operations is one multiplication, addition or function of an element. An ONNX file has
no loss without a job: its first output gets the mean squared error.")]
    Inspect(ModelInspectArgs),
}

/// How a job is read, and shown while it runs.
#[derive(Debug, Args)]
pub struct JobFileArgs {
    /// The job file; docs/job-file.md lists its keys
    #[arg(value_name = "JOB")]
    pub job: PathBuf,
    /// Ranks of the job (cluster.workers)
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Threads of each rank; 0 shares out the cores (cluster.threads)
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Optimizer updates, in place of train.epochs (train.steps)
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub steps: Option<u64>,
    /// Passes over the training data, in place of train.steps (train.epochs)
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Seed of weights, order and dropout (train.seed)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the model goes, relative to the job file (output.dir)
    #[arg(long, value_name = "DIR")]
    pub output: Option<String>,
    /// Where a timeline of the last steps of all ranks goes, for ui.perfetto.dev: each rank's waits for
    /// data, forward and backward parts, buckets, updates and evaluations. The last 16384 events of a
    /// rank are kept, fewer where there are over 16 ranks; ranks' clocks agree to within about a round
    /// trip of their network. Relative to the job file; written on the host of rank 0 when the job
    /// has ended, with what the ranks that are alive have recorded if it failed or was cancelled
    /// (output.timeline)
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<String>,
    /// Any key of the job file, such as train.global_batch=256; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub job_file: JobFileArgs,
    /// Print one JSON object a line; the last has "event":"finished"
    #[arg(long)]
    pub json: bool,
    /// Print the logs of coordinator and workers to standard error
    #[arg(long, short)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = COORDINATOR_DEFAULT)]
    pub listen: SocketAddr,
    /// Directory that holds the coordinator's state
    #[arg(long, value_name = "DIR", required_unless_present = "memory")]
    pub data: Option<PathBuf>,
    /// Keep the state in memory only: it is gone with the process
    #[arg(long, conflicts_with = "data")]
    pub memory: bool,
    /// Allow to listen beyond loopback, where anyone who reaches the port may submit jobs
    #[arg(long)]
    pub insecure: bool,
    /// Seconds of silence after which a worker counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = lease)]
    pub lease: Duration,
    /// Print the address as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CoordinatorAddress {
    /// The coordinator
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "RINGFOLD_COORDINATOR",
        default_value = COORDINATOR_DEFAULT
    )]
    pub coordinator: String,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub address: CoordinatorAddress,
    /// Worker processes: ranks that this node can run at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// CPU cores of each slot; 0 shares out those of the host
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cores: u32,
    /// The node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Address that other ranks reach this host by [default: that of the route to the coordinator]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// Seconds to wait for the coordinator at the start
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub connect_timeout: Duration,
}

#[derive(Debug, Args)]
pub struct WorkerSlotArgs {
    #[arg(long)]
    pub coordinator: String,
    #[arg(long)]
    pub node: String,
    #[arg(long)]
    pub cores: u32,
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    #[arg(long, default_value = "info")]
    pub log: String,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub job_file: JobFileArgs,
    #[command(flatten)]
    pub address: CoordinatorAddress,
    /// Follow the job until it ends
    #[arg(long)]
    pub watch: bool,
    /// Submitting again with the same token and job file gives the same job
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub job_file: JobFileArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(flatten)]
    pub address: CoordinatorAddress,
    /// Only jobs in this state; may be repeated
    #[arg(long, value_name = "STATE")]
    pub state: Vec<StateArg>,
    /// Jobs to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max: usize,
    /// Print one JSON object a job
    #[arg(long)]
    pub json: bool,
}

/// A job's state, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StateArg {
    Queued,
    Starting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job's id, such as job-17
    #[arg(value_name = "ID")]
    pub job_id: String,
    #[command(flatten)]
    pub address: CoordinatorAddress,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(flatten)]
    pub address: CoordinatorAddress,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PredictArgs {
    /// The directory of the trained model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Records without labels, in the format of the training data
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the predictions go [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the probability of every class too
    #[arg(long)]
    pub probabilities: bool,
    /// Write JSON lines in place of CSV
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The directory of the trained model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The ONNX file to write
    #[arg(long, value_name = "FILE")]
    pub onnx: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("records").required(true))]
pub struct EvaluateArgs {
    /// The directory of the trained model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// A labelled CSV file with the columns of the training data; or a text, for a model of text
    #[arg(long, value_name = "FILE", group = "records")]
    pub input: Option<PathBuf>,
    /// IDX images; needs --labels
    #[arg(long, value_name = "FILE", group = "records", requires = "labels")]
    pub images: Option<PathBuf>,
    /// IDX labels
    #[arg(long, value_name = "FILE", requires = "images")]
    pub labels: Option<PathBuf>,
    /// A job file: its test records are evaluated
    #[arg(long, value_name = "JOB", group = "records")]
    pub job: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ModelInspectArgs {
    /// A job file, the directory of a trained model, or an ONNX file (*.onnx)
    #[arg(value_name = "JOB|DIR|ONNX")]
    pub path: PathBuf,
    /// What the model is run for
    #[arg(long, value_enum, default_value_t = ModeArg::Training)]
    pub mode: ModeArg,
    /// Samples in one run [default: a rank's share of the job's batch; 1 without a job]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Compute values again in the backward pass until the workspace is no larger [default: the
    /// job's train.workspace_mb_max]
    #[arg(long, value_name = "BYTES")]
    pub workspace_bytes_max: Option<usize>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "dump")]
    pub json: bool,
    /// Print graphs in place of the tables: as text before and after each pass, or the last as DOT
    #[arg(long, value_enum, value_name = "FORM")]
    pub dump: Option<DumpArg>,
}

/// What a model is run for, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeArg {
    Training,
    Evaluation,
    Prediction,
}

/// The form of a graph, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DumpArg {
    Text,
    Dot,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The directory of the trained model
    #[arg(value_name = "MODEL_DIR")]
    pub model: PathBuf,
    /// What the text begins with; of a long one the model sees the end [default: nothing]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub prompt: String,
    /// Tokens to write: characters or bytes, as the model was trained
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub tokens: u64,
    /// Below 1 likely tokens become likelier, above 1 less so; 0 always takes the likeliest
    #[arg(long, value_name = "X", default_value = "1", value_parser = temperature)]
    pub temperature: f64,
    /// Draw from the N likeliest tokens only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Draw from the likeliest tokens only that together have probability X
    #[arg(long, value_name = "X", value_parser = probability)]
    pub top_p: Option<f64>,
    /// Which tokens are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object a token; the last line has "event":"finished" and the whole text
    #[arg(long)]
    pub json: bool,
}

fn temperature(text: &str) -> Result<f64, String> {
    number_within(text, |x| x.is_finite() && x >= 0.0, "a number of 0 or more")
}

fn probability(text: &str) -> Result<f64, String> {
    number_within(text, |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}

fn number_within(text: &str, fits: fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number| fits(number));
    number.ok_or_else(|| format!("expected {expected}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("expected 0 to 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A lease is some ticks and heartbeats long.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = seconds(text)?;
    if lease < LEASE_MIN {
        return Err("expected 1 to 86400 seconds".to_owned());
    }
    Ok(lease)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_help_with_an_example() {
        for command in Arguments::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains(&format!("ringfold {name}")), "{name}");
        }
    }

    #[test]
    fn durations_are_checked() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "x", "-1", "nan", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(lease("1"), Ok(LEASE_MIN));
        assert!(lease("0.9").is_err());
    }

    #[test]
    fn numbers_of_sampling_are_checked() {
        assert_eq!(temperature("0"), Ok(0.0));
        assert_eq!(probability("1"), Ok(1.0));
        for bad in ["-0.1", "inf", "nan", "x"] {
            assert!(temperature(bad).is_err(), "{bad}");
        }
        for bad in ["0", "1.1", "nan", ""] {
            assert!(probability(bad).is_err(), "{bad}");
        }
    }
}
