//! Measures an all-reduce between processes (or threads) of this host.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};

use ringfold_collective::bench::{Mode, measure};
use ringfold_collective::{
    AbortSignal, Identity, Listener, Ring, RingOptions, SharedHost, join_shared, memory_rings,
};
use ringfold_common::clock::SystemClock;
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

const HELP: &str = "\
Measures the all-reduce of f32 vectors between the ranks of this host.

Usage: bench_allreduce [--ranks N] [--transport shm|tcp|mem] [--bytes LIST]
                       [--mode fast|reproducible] [--replicas R] [--segment BYTES]
                       [--seconds S] [--json]

  --ranks N        processes; threads with `mem` [default: 2]
  --transport T    shm: shared memory, tcp: the loopback, mem: memory of one process [default: shm]
  --bytes LIST     lengths of the vector, by commas [default: 4096,65536,1048576,67108864]
  --mode M         fast, or reproducible: the same bits for every number of ranks [default: fast]
  --replicas R     of a reproducible sum [default: N]
  --segment BYTES  payload of a frame, or half a slot of shared memory [default: 262144]
  --seconds S      how long to measure each length [default: 1]
  --json           one line of JSON a length; else a table
";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Arguments {
    ranks: u32,
    transport: String,
    bytes: Vec<usize>,
    mode: Mode,
    segment: usize,
    seconds: f64,
    json: bool,
    /// Set in the processes that this one starts.
    rank: Option<u32>,
}

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = parse(&words).and_then(|arguments| match (arguments.rank, &*arguments.transport) {
        (Some(rank), _) => be_rank(rank, &arguments),
        (None, "mem") => in_threads(&arguments),
        (None, _) => in_processes(&words, &arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_allreduce: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Arguments, Failure> {
    let mut arguments = Arguments {
        ranks: 2,
        transport: "shm".to_owned(),
        bytes: vec![4 << 10, 64 << 10, 1 << 20, 64 << 20],
        mode: Mode::Fast,
        segment: RingOptions::default().segment_bytes,
        seconds: 1.0,
        json: false,
        rank: None,
    };
    let (mut reproducible, mut replicas) = (false, None);
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        if flag == "--json" {
            arguments.json = true;
            continue;
        }
        let value = words.next().ok_or(format!("{flag} needs a value"))?;
        match (flag.as_str(), value.as_str()) {
            ("--ranks", n) => arguments.ranks = n.parse()?,
            ("--transport", "shm" | "tcp" | "mem") => arguments.transport.clone_from(value),
            ("--bytes", list) => {
                arguments.bytes = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            ("--mode", "fast") => reproducible = false,
            ("--mode", "reproducible") => reproducible = true,
            ("--replicas", n) => replicas = Some(n.parse()?),
            ("--segment", n) => arguments.segment = n.parse()?,
            ("--seconds", n) => arguments.seconds = n.parse()?,
            ("--rank", n) => arguments.rank = Some(n.parse()?),
            _ => return Err(format!("unknown option {flag} {value}; see --help").into()),
        }
    }
    if reproducible {
        arguments.mode = Mode::Reproducible(replicas.unwrap_or(arguments.ranks));
    }
    Ok(arguments)
}

fn identity(rank: u32, world: u32) -> Identity {
    Identity {
        job: JobId(1),
        membership_epoch: MembershipEpoch(1),
        rank: Rank(rank),
        world,
        spec_hash: SpecHash([0; 32]),
    }
}

fn options(arguments: &Arguments) -> RingOptions {
    RingOptions {
        segment_bytes: arguments.segment,
        ..RingOptions::default()
    }
}

/// Measures all lengths; rank 0 prints.
fn run(mut ring: Ring, arguments: &Arguments) -> Result<(), Failure> {
    let clock = SystemClock::new();
    for &bytes in &arguments.bytes {
        let measured = measure(&mut ring, &clock, bytes, arguments.mode, arguments.seconds)?;
        if ring.rank() != Rank(0) {
            continue;
        }
        if arguments.json {
            println!("{measured}");
        } else {
            println!(
                "{bytes:>10} bytes  median {:>10.1?}  p90 {:>10.1?}  {:>7.3} GB/s  copy {:.2} GB/s",
                measured.median,
                measured.p90,
                measured.algorithm_bandwidth() / 1e9,
                measured.copy_bytes_per_second / 1e9,
            );
        }
    }
    Ok(())
}

fn in_threads(arguments: &Arguments) -> Result<(), Failure> {
    let aborts = (0..arguments.ranks)
        .map(|_| AbortSignal::new())
        .collect::<Result<_, _>>()?;
    let rings = memory_rings(identity(0, arguments.ranks), options(arguments), aborts)?;
    std::thread::scope(|scope| {
        let ranks = rings
            .into_iter()
            .map(|ring| scope.spawn(|| run(ring, arguments)))
            .collect::<Vec<_>>();
        ranks
            .into_iter()
            .try_for_each(|rank| rank.join().map_err(|_| "a rank panicked")?)
    })
}

/// Starts a process a rank, collects where each listens, and tells all.
fn in_processes(words: &[String], arguments: &Arguments) -> Result<(), Failure> {
    let mut ranks: Vec<Child> = Vec::new();
    let mut addresses = Vec::new();
    let mut outputs = Vec::new();
    for rank in 0..arguments.ranks {
        let mut child = Command::new(std::env::current_exe()?)
            .args(words)
            .args(["--rank", &rank.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        addresses.push(line.trim().to_owned());
        outputs.push(output);
        ranks.push(child);
    }
    for rank in &mut ranks {
        let mut input = rank.stdin.take().ok_or("no input")?;
        writeln!(input, "{}", addresses.join(" "))?;
    }
    std::io::copy(&mut outputs[0], &mut std::io::stdout())?;
    for mut rank in ranks {
        if !rank.wait()?.success() {
            return Err("a rank failed".into());
        }
    }
    Ok(())
}

/// A process of `in_processes`.
fn be_rank(rank: u32, arguments: &Arguments) -> Result<(), Failure> {
    let (identity, options) = (identity(rank, arguments.ranks), options(arguments));
    let abort = AbortSignal::new()?;
    let hear = |address: &str| -> Result<Vec<String>, Failure> {
        println!("{address}");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    };
    let ring = if arguments.transport == "tcp" {
        let listener = Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let peers: Vec<SocketAddr> = hear(&listener.addr().to_string())?
            .iter()
            .map(|peer| peer.parse())
            .collect::<Result<_, _>>()?;
        listener.connect_ring(identity, &peers, options, abort)?
    } else if rank == 0 {
        let host = SharedHost::bind()?;
        hear(host.address())?;
        host.connect_ring(identity, options, abort)?
    } else {
        let peers = hear("-")?;
        let host = peers.first().ok_or("rank 0 gave no address")?;
        join_shared(host, identity, options, abort)?
    };
    run(ring, arguments)
}
