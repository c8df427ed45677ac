//! `ringfold bench allreduce`: the all-reduce between processes, or threads, of this host.
//!
//! This process starts one a rank, reads from each where it listens, and tells all; rank 0 prints.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use ringfold_collective::bench::{Measured, Mode, duplex, measure};
use ringfold_collective::{
    AbortSignal, CollectiveError, Identity, Links, Listener, PublicKey, RankKey, Ring, RingKeys,
    RingOptions, SharedHost, Surroundings, join_shared, memory_rings,
};
use ringfold_common::clock::SystemClock;
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

use crate::args::{BenchAllreduceArgs, BenchMode, BenchTransport};
use crate::error::CliError;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The ring failed.
    #[error("the ring failed")]
    Collective(#[from] CollectiveError),
    /// A process can't be started, or talked to.
    #[error("can't {what} rank {rank}")]
    Rank {
        /// What was tried.
        what: &'static str,
        /// The rank.
        rank: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A rank ended before its time; it said why on standard error.
    #[error("rank {rank} failed")]
    RankFailed {
        /// The rank.
        rank: u32,
    },
    /// An address that is none, or a key.
    #[error("rank {rank} listens at {got:?}: expected an address and a port, and a key with --tls")]
    Address {
        /// The rank.
        rank: u32,
        /// What it said.
        got: String,
    },
}

pub fn run(args: &BenchAllreduceArgs) -> Result<ExitCode, CliError> {
    check(args)?;
    match (args.rank, args.transport) {
        (Some(rank), _) => be_rank(rank, args)?,
        (None, BenchTransport::Mem) => in_threads(args)?,
        (None, _) => in_processes(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &BenchAllreduceArgs) -> Result<(), CliError> {
    let refuse = |flag, expected, got: String| {
        Err(CliError::Flag {
            flag,
            expected,
            got,
        })
    };
    if let Some(bytes) = args.bytes.iter().find(|&bytes| bytes % 4 != 0) {
        return refuse(
            "--bytes",
            "multiples of 4, the bytes of a number",
            bytes.to_string(),
        );
    }
    if !(args.seconds.is_finite() && args.seconds > 0.0) {
        return refuse("--seconds", "a number above 0", args.seconds.to_string());
    }
    if args.compression.is_some() && args.mode == BenchMode::Reproducible {
        return refuse(
            "--compression",
            "--mode fast with it",
            "--mode reproducible".to_owned(),
        );
    }
    if args.replicas.is_some_and(|replicas| replicas < args.ranks) {
        let got = args.replicas.unwrap_or(0).to_string();
        return refuse("--replicas", "at least as many as ranks", got);
    }
    let tcp = args.transport == BenchTransport::Tcp;
    if args.tls && !tcp {
        return refuse("--tls", "--transport tcp", "another transport".to_owned());
    }
    let names = args.hosts.len();
    if names != 0 && (!tcp || names != args.ranks as usize) {
        let expected = "a name for each rank, and --transport tcp";
        return refuse("--hosts", expected, args.hosts.join(","));
    }
    if !args.ip.is_empty() && (!tcp || args.ip.len() != args.ranks as usize) {
        let expected = "an address for each rank, and --transport tcp";
        return refuse("--ip", expected, format!("{:?}", args.ip));
    }
    Ok(())
}

fn mode(args: &BenchAllreduceArgs) -> Mode {
    if let Some(method) = args.compression {
        return Mode::Compressed(method);
    }
    match args.mode {
        BenchMode::Fast => Mode::Fast,
        BenchMode::Reproducible => Mode::Reproducible(args.replicas.unwrap_or(args.ranks)),
    }
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

fn options(args: &BenchAllreduceArgs) -> RingOptions {
    RingOptions {
        segment_bytes: args.segment,
        spin: !args.no_spin,
        ..RingOptions::default()
    }
}

/// Measures all lengths; rank 0 prints.
fn measure_all(mut ring: Ring, args: &BenchAllreduceArgs) -> Result<(), CliError> {
    let clock = SystemClock::new();
    if args.explain && ring.rank() == Rank(0) {
        eprintln!("links: {}", ring.link_cost());
    }
    for &bytes in &args.bytes {
        let mut measured = measure(&mut ring, &clock, bytes, mode(args), args.seconds)
            .map_err(BenchError::from)?;
        if args.transport == BenchTransport::Tcp && mode(args) == Mode::Fast {
            let plain =
                duplex(&mut ring, &clock, ip_of(Rank(0), args), bytes).map_err(BenchError::from)?;
            measured.duplex = plain;
        }
        if ring.rank() == Rank(0) {
            if args.explain {
                eprintln!("{}", ring.explain(bytes));
                eprintln!("while it is computed: {}", ring.explain_parts(bytes, None));
            }
            show(args, &measured).map_err(CliError::stdout)?;
        }
    }
    Ok(())
}

fn show(args: &BenchAllreduceArgs, measured: &Measured) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        return writeln!(out, "{measured}");
    }
    writeln!(
        out,
        "{:>10} bytes  median {:>10.1?}  p90 {:>10.1?}  {:>7.3} GB/s  copy {:.2} GB/s{}{}",
        measured.bytes,
        measured.median,
        measured.p90,
        measured.algorithm_bandwidth() / 1e9,
        measured.copy_bytes_per_second / 1e9,
        measured.traffic.map_or(String::new(), |traffic| format!(
            "  sent {} bytes, saved {}",
            traffic.sent_bytes,
            traffic.saved_bytes()
        )),
        measured
            .duplex_share()
            .map_or(String::new(), |share| format!(
                "  {:.0} % of a plain duplex connection",
                share * 100.0
            )),
    )
}

fn in_threads(args: &BenchAllreduceArgs) -> Result<(), CliError> {
    let aborts = (0..args.ranks).map(|_| AbortSignal::new());
    let aborts: Vec<AbortSignal> = aborts.collect::<Result<_, _>>().map_err(BenchError::from)?;
    let rings =
        memory_rings(identity(0, args.ranks), options(args), aborts).map_err(BenchError::from)?;
    std::thread::scope(|scope| {
        let ranks = rings.into_iter();
        let ranks: Vec<_> = ranks
            .map(|ring| scope.spawn(|| measure_all(ring, args)))
            .collect();
        for (rank, thread) in (0..).zip(ranks) {
            thread
                .join()
                .unwrap_or(Err(BenchError::RankFailed { rank }.into()))?;
        }
        Ok(())
    })
}

/// The processes of a measurement. Those that still run when it is dropped are killed.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            // One that has ended can't be killed.
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

/// Starts a process a rank, collects where each listens, and tells all.
fn in_processes(args: &BenchAllreduceArgs) -> Result<(), CliError> {
    let program = super::super::train::current_program()?;
    let failed = |what, rank| move |source| BenchError::Rank { what, rank, source };
    let mut ranks = Ranks(Vec::new());
    let mut addresses = Vec::new();
    let mut outputs: Vec<BufReader<ChildStdout>> = Vec::new();
    for rank in 0..args.ranks {
        let mut child = Command::new(&program)
            .args(std::env::args_os().skip(1))
            .args(["--rank", &rank.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed("start", rank))?;
        let output = child.stdout.take();
        ranks.0.push(child);
        let Some(output) = output else { continue };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).map_err(failed("hear", rank))?;
        addresses.push(line.trim().to_owned());
        outputs.push(output);
    }
    for (rank, child) in (0..).zip(&mut ranks.0) {
        if let Some(mut input) = child.stdin.take() {
            writeln!(input, "{}", addresses.join(" ")).map_err(failed("tell", rank))?;
        }
    }
    if let Some(output) = outputs.first_mut() {
        io::copy(output, &mut io::stdout()).map_err(CliError::stdout)?;
    }
    for (rank, child) in (0..).zip(&mut ranks.0) {
        if !child.wait().map_err(failed("wait for", rank))?.success() {
            return Err(BenchError::RankFailed { rank }.into());
        }
    }
    Ok(())
}

/// A process of [`in_processes`].
fn be_rank(rank: u32, args: &BenchAllreduceArgs) -> Result<(), CliError> {
    let ring = join(rank, args)?;
    measure_all(ring, args)
}

fn join(rank: u32, args: &BenchAllreduceArgs) -> Result<Ring, BenchError> {
    let (identity, options) = (identity(rank, args.ranks), options(args));
    let abort = AbortSignal::new()?;
    if args.transport == BenchTransport::Tcp {
        return join_tcp(identity, options, abort, args);
    }
    if rank == 0 {
        let host = SharedHost::bind()?;
        meet(rank, host.address())?;
        return Ok(host.connect_ring(identity, options, abort)?);
    }
    let peers = meet(rank, "-")?;
    let host = peers.first().map_or("", String::as_str);
    Ok(join_shared(host, identity, options, abort)?)
}

fn join_tcp(
    identity: Identity,
    options: RingOptions,
    abort: AbortSignal,
    args: &BenchAllreduceArgs,
) -> Result<Ring, BenchError> {
    let mut listener = Listener::bind(ip_of(identity.rank, args))?;
    let key = args.tls.then(RankKey::generate).transpose()?;
    let announced = match &key {
        Some(key) => format!("{}/{}", listener.addr(), key.public()),
        None => listener.addr().to_string(),
    };
    let (mut peers, mut keys): (Vec<SocketAddr>, _) = (Vec::new(), Vec::new());
    for (rank, got) in (0..).zip(meet(identity.rank.0, &announced)?) {
        let (addr, public) = got.split_once('/').unwrap_or((&got, ""));
        let (Ok(addr), Ok(public)) = (
            addr.parse(),
            args.tls.then(|| public.parse::<PublicKey>()).transpose(),
        ) else {
            return Err(BenchError::Address { rank, got });
        };
        peers.push(addr);
        keys.extend(public);
    }
    if let Some(key) = key {
        listener = listener.with_keys(RingKeys::new(key, keys));
    }
    let clock = SystemClock::new();
    if let Some(host) = args.hosts.get(identity.rank.0 as usize) {
        let links = Links::Measured(&clock);
        let around = Surroundings { host, links };
        return Ok(listener.connect_nearest(identity, &peers, options, abort, around)?);
    }
    let mut ring = listener.connect_ring(identity, &peers, options, abort)?;
    ring.measure_link(&clock)?;
    Ok(ring)
}

/// Where a rank listens.
fn ip_of(rank: Rank, args: &BenchAllreduceArgs) -> IpAddr {
    let given = args.ip.get(rank.0 as usize).copied();
    given.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Says where this rank listens and hears where all do.
fn meet(rank: u32, address: &str) -> Result<Vec<String>, BenchError> {
    let failed = |source| BenchError::Rank {
        what: "hear the addresses at",
        rank,
        source,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}
