//! Arguments of `ringfold bench`.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use ringfold_collective::compression::Method;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure the all-reduce of 32-bit floats between processes of this host
    #[command(after_help = "Examples:
  ringfold bench allreduce
  ringfold bench allreduce --ranks 4 --transport tcp --bytes 4096,1048576 --json
  ringfold bench allreduce --mode reproducible --replicas 8 --explain
  ringfold bench allreduce --transport tcp --compression topk=0.001 --json

A line a length: median_us and p90_us of the slowest rank; algbw_gbps, bytes of the vector a second;
busbw_gbps, what each rank of a ring would have to send to be as fast; copy_gbps, what all ranks
together copy from memory to memory in the same run. With --compression also sent_bytes, what a rank
sends in one all-reduce, and saved_bytes, what 32-bit floats would have been beyond that. Two ranks over
tcp also measure duplex_us, what as many bytes take both ways on a plain connection, and say duplex_share,
how near the all-reduce comes to that.")]
    Allreduce(BenchAllreduceArgs),
    /// Measure training steps of a model on made-up data
    #[command(after_help = "Examples:
  ringfold bench train --model mlp
  ringfold bench train --model resnet18 --workers 2 --threads 1 --json
  ringfold bench train --model gpt --workers 1 --threads 2 --replicas 2
  ringfold bench train --model mlp --batch 1024 --set train.optimizer.momentum=0

The processes are those of `ringfold train`. A sample is a record: an image, or a window of text.
The peak is what as many threads multiply and add in registers, measured before and after the run.")]
    Train(BenchTrainArgs),
}

/// A model to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchModel {
    /// A perceptron, 784-512-512-10
    Mlp,
    /// Convolutions 5x5 of 32 and 64 filters with pools, 512 units, 28 x 28 pixels
    Cnn,
    /// ResNet-18 with the stem for 32 x 32 pixels
    Resnet18,
    /// Softmax regression, 1000-10
    Softmax,
    /// 6 layers, 6 heads, width 384, context 256, 65 characters, AdamW
    Gpt,
}

impl BenchModel {
    /// The name of the flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Resnet18 => "resnet18",
            Self::Softmax => "softmax",
            Self::Gpt => "gpt",
        }
    }
}

#[derive(Debug, Args)]
pub struct BenchTrainArgs {
    /// The model
    #[arg(long, value_enum)]
    pub model: BenchModel,
    /// Samples of a step, over all workers [default: by model, 8 to 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: Option<u32>,
    /// Ranks, each a process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Threads of each rank [default: the cores, shared out]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Parts that a batch is cut into [default: as many as workers]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Steps, at least 20 [default: by model]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(20..=1_000_000_000))]
    pub steps: Option<u64>,
    /// Any key of the job file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Print the logs of coordinator and workers to standard error
    #[arg(long, short)]
    pub verbose: bool,
}

/// What bytes move over in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchTransport {
    /// Memory that processes share
    Shm,
    /// Sockets of the loopback
    Tcp,
    /// Memory of one process, between threads
    Mem,
}

/// `--compression`: a name and perhaps a number.
fn compression(text: &str) -> Result<Method, String> {
    let (name, number) = match text.split_once('=') {
        None => (text, None),
        Some((name, number)) => (name, Some(number)),
    };
    fn or<T: std::str::FromStr>(number: Option<&str>, default: T) -> Result<T, String> {
        number.map_or(Ok(default), |text| {
            text.parse().map_err(|_| format!("{text:?} is no number"))
        })
    }
    match name {
        "bf16" if number.is_none() => Ok(Method::Bf16),
        "f16" if number.is_none() => Ok(Method::F16),
        "int8" => Ok(Method::Int8 {
            block: or(number, 256)?,
        }),
        "topk" => Ok(Method::TopK {
            fraction: or(number, 0.01)?,
        }),
        "powersgd" => Ok(Method::PowerSgd {
            rank: or(number, 4)?,
            seed: 1,
        }),
        _ => Err("expected bf16, f16, int8[=BLOCK], topk[=FRACTION] or powersgd[=RANK]".to_owned()),
    }
}

/// In which order numbers are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchMode {
    /// The order that is fastest
    Fast,
    /// One order for every number of ranks
    Reproducible,
}

#[derive(Debug, Args)]
pub struct BenchAllreduceArgs {
    /// Processes, or threads with `mem`
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub ranks: u32,
    /// What bytes move over
    #[arg(long, value_enum, default_value_t = BenchTransport::Shm)]
    pub transport: BenchTransport,
    /// Lengths of the vector, by commas
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "4096,65536,1048576,67108864"
    )]
    pub bytes: Vec<usize>,
    /// In which order numbers are added
    #[arg(long, value_enum, default_value_t = BenchMode::Fast)]
    pub mode: BenchMode,
    /// How the vector is compressed: bf16, f16, int8[=BLOCK], topk[=FRACTION], powersgd[=RANK]
    #[arg(long, value_name = "KIND", value_parser = compression)]
    pub compression: Option<Method>,
    /// Replicas of a reproducible sum; as many as ranks unless given
    #[arg(long, value_name = "R")]
    pub replicas: Option<u32>,
    /// Bytes of payload a frame, or of half a slot of shared memory
    #[arg(long, value_name = "BYTES", default_value_t = 262_144)]
    pub segment: usize,
    /// How long each length is measured
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub seconds: f64,
    /// Say on standard error what links cost, which way each length goes, why, and the time predicted;
    /// and in which parts training would sum it while it is computed
    #[arg(long)]
    pub explain: bool,
    /// TLS on the connections of `tcp`
    #[arg(long)]
    pub tls: bool,
    /// Over `tcp`, sleep at once instead of looking for some tens of microseconds first
    #[arg(long)]
    pub no_spin: bool,
    /// With `tcp`, the name of each rank's host, by commas: ranks of one name share memory
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// With `tcp`, the address that each rank listens on, by commas [default: the loopback]
    #[arg(long, value_name = "IPS", value_delimiter = ',')]
    pub ip: Vec<IpAddr>,
    /// Print one line of JSON a length
    #[arg(long)]
    pub json: bool,
    /// Set in the processes that the command starts
    #[arg(long, hide = true)]
    pub rank: Option<u32>,
}
