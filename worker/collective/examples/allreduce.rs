//! All-reduces a vector across processes that know each other's addresses: no coordinator.

use std::net::SocketAddr;
use std::process::ExitCode;

use ringfold_collective::{AbortSignal, Identity, Listener, RingOptions};
use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

const HELP: &str = "\
Sums a vector over the ranks of a ring, over TCP, and prints how fast.

Usage: allreduce --rank R --peers ADDR,ADDR,... [--mib N] [--rounds N]

  --rank R        this process's position in the list, from 0
  --peers LIST    the address of every rank, in rank order
  --mib N         length of the vector in MiB of f32 [default: 64]
  --rounds N      how many times to sum it [default: 20]
  --help          print this

Start one process a rank, in any order, within 30 s:
  allreduce --rank 0 --peers 127.0.0.1:7001,127.0.0.1:7002 &
  allreduce --rank 1 --peers 127.0.0.1:7001,127.0.0.1:7002
";

struct Arguments {
    rank: u32,
    peers: Vec<SocketAddr>,
    mib: usize,
    rounds: u32,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().is_none_or(|word| word == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match parse(words).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("allreduce: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn std::error::Error>> {
    let (mut rank, mut peers, mut mib, mut rounds) = (None, None, 64, 20);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rank" => rank = Some(value.parse()?),
            "--peers" => {
                let addrs: Result<_, _> = value.split(',').map(str::parse).collect();
                peers = Some(addrs?);
            }
            "--mib" => mib = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            _ => return Err(format!("unknown option {flag}; see --help").into()),
        }
    }
    Ok(Arguments {
        rank: rank.ok_or("--rank is missing; see --help")?,
        peers: peers.ok_or("--peers is missing; see --help")?,
        mib,
        rounds,
    })
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let Arguments {
        rank,
        ref peers,
        mib,
        rounds,
    } = *arguments;
    let addr = *peers
        .get(rank as usize)
        .ok_or("--rank is not in the list of --peers")?;
    let identity = Identity {
        job: JobId(1),
        membership_epoch: MembershipEpoch(1),
        rank: Rank(rank),
        world: u32::try_from(peers.len())?,
        spec_hash: SpecHash([0; 32]),
    };
    let listener = Listener::bind_to(addr)?;
    let options = RingOptions::default();
    let mut ring = listener.connect_ring(identity, peers, options, AbortSignal::new()?)?;

    let mut values = vec![0.0_f32; mib << 18];
    let bytes = size_of_val(&values[..]) as f64;
    let clock = SystemClock::new();
    let mut best = f64::INFINITY;
    for round in 0..rounds {
        values.fill(rank as f32 + 1.0);
        ring.barrier()?;
        let start = clock.monotonic();
        ring.all_reduce_sum_f32(&mut values)?;
        best = best.min((clock.monotonic() - start).as_secs_f64());
        let expected = (ring.world() * (ring.world() + 1) / 2) as f32;
        if values.iter().any(|&sum| sum != expected) {
            return Err(format!("round {round}: not every sum is {expected}").into());
        }
    }
    // What one rank sends in the time: the share of the vector that no algorithm can avoid.
    let world = f64::from(ring.world());
    let sent = bytes * 2.0 * (world - 1.0) / world;
    println!(
        "rank {rank} of {world}: {mib} MiB in {:.2} ms at best of {rounds}; \
         vector {:.2} GB/s, sent {:.2} GB/s",
        best * 1e3,
        bytes / best / 1e9,
        sent / best / 1e9,
    );
    Ok(())
}
