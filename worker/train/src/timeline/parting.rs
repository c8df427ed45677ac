//! What ranks have recorded when a job fails or is cancelled.
//!
//! The ring is broken then, so ranks hand their events over on connections of their own: rank 0 opens a
//! port when training begins, and tells all ranks where, with a secret, by the ring. Whoever stops early
//! calls there, shows the secret, sends its events and hangs up; rank 0 waits for all ranks, but not for
//! longer than [`WAIT`], and writes the file with what came. If rank 0 is gone there is no file.
//!
//! A call is a header of four little-endian words of 8 bytes (the secret, two words; rank; number of
//! events) and the events, [`WORDS`] words each. What isn't that is dropped. Events are no secret: names,
//! times and lengths of buckets. They go as they are.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use ringfold_collective::Ring;
use ringfold_common::clock::Clock;
use ringfold_common::ids::Rank;
use ringfold_storage::write_whole;

use super::{Event, Timeline, WORDS, events_max, from_words, shifts, to_words, trace};
use crate::error::TrainError;

/// How long rank 0 waits for the events of the others, and they for rank 0.
const WAIT: Duration = Duration::from_secs(1);
/// How often rank 0 looks for a call.
const LOOK: Duration = Duration::from_millis(2);
/// Room for an address and its port, padded with spaces.
const ADDRESS_BYTES: usize = 64;
const SECRET_BYTES: usize = 16;
/// Words before the events.
const HEADER_WORDS: usize = 4;

/// Where this rank hands its events over if the job ends early.
#[derive(Debug)]
pub struct Parting {
    rank: Rank,
    world: u32,
    secret: [u8; SECRET_BYTES],
    /// By rank, what is to be added to its times to make them rank 0's.
    shifts: Vec<i64>,
    /// At rank 0.
    listener: Option<TcpListener>,
    /// Elsewhere.
    addr: Option<SocketAddr>,
}

impl Parting {
    /// Agrees on a place. All ranks call it. If rank 0 can open no port, it will have its own events only.
    ///
    /// # Errors
    /// The ring's.
    pub fn agree(ring: &mut Ring, clock: &dyn Clock) -> Result<Self, TrainError> {
        let mut record = [b' '; ADDRESS_BYTES + SECRET_BYTES];
        let mut listener = None;
        if ring.rank() == Rank(0) && ring.world() > 1 {
            let ip = ring.local_ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
            match open(ip) {
                Ok((opened, addr, secret)) => {
                    let text = addr.to_string();
                    record[..text.len()].copy_from_slice(text.as_bytes());
                    record[ADDRESS_BYTES..].copy_from_slice(&secret);
                    listener = Some(opened);
                }
                Err(error) => tracing::warn!(
                    "can't open a port for timelines: if the job ends early, there will be rank 0's \
                     only: {error}"
                ),
            }
        }
        ring.broadcast(Rank(0), &mut record)?;
        let (addr, secret) = record.split_at(ADDRESS_BYTES);
        let addr = std::str::from_utf8(addr)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Ok(Self {
            rank: ring.rank(),
            world: ring.world(),
            secret: secret.try_into().unwrap_or_default(),
            shifts: shifts(ring, clock)?,
            listener,
            addr,
        })
    }

    /// Hands the events over; at rank 0, takes in those of the others and writes all to `path`. What
    /// can't be had is missing in the file, and said in the log. The ring has been left, so that the
    /// others are about to do the same.
    ///
    /// # Errors
    /// At rank 0, a file that can't be written.
    pub fn hand_over(
        self,
        timeline: &Timeline,
        path: &Path,
        clock: &dyn Clock,
    ) -> Result<(), TrainError> {
        if self.rank != Rank(0) {
            if let Some(addr) = self.addr
                && let Err(error) = self.call(addr, timeline)
            {
                tracing::info!("rank 0 at {addr} did not take this rank's timeline: {error}");
            }
            return Ok(());
        }
        let ranks = self.take_in(timeline, clock);
        let missing: Vec<String> = (0..).zip(&ranks).filter_map(missing).collect();
        if !missing.is_empty() {
            tracing::warn!("the timeline lacks rank {}", missing.join(", "));
        }
        let ranks: Vec<Vec<Event>> = ranks.into_iter().map(Option::unwrap_or_default).collect();
        Ok(write_whole(path, trace(&ranks, &self.shifts).as_bytes())?)
    }

    fn call(&self, addr: SocketAddr, timeline: &Timeline) -> io::Result<()> {
        let mut socket = TcpStream::connect_timeout(&addr, WAIT)?;
        socket.set_write_timeout(Some(WAIT))?;
        socket.set_read_timeout(Some(WAIT))?;
        let count = timeline.events.len() as u64;
        let mut bytes = Vec::with_capacity(8 * (HEADER_WORDS + WORDS * timeline.events.len()));
        bytes.extend(self.secret);
        bytes.extend(u64::from(self.rank.0).to_le_bytes());
        bytes.extend(count.to_le_bytes());
        let words = timeline.events.iter().flat_map(to_words);
        bytes.extend(words.flat_map(i64::to_le_bytes));
        socket.write_all(&bytes)?;
        // Rank 0 hangs up when it has all: this process may end then.
        socket.read(&mut [0]).map(drop)
    }

    /// The events of all ranks, by rank, as far as they came.
    fn take_in(&self, own: &Timeline, clock: &dyn Clock) -> Vec<Option<Vec<Event>>> {
        let mut ranks: Vec<Option<Vec<Event>>> = (0..self.world).map(|_| None).collect();
        ranks[0] = Some(own.events.iter().copied().collect());
        let Some(listener) = &self.listener else {
            return ranks;
        };
        let (sender, came) = mpsc::channel();
        let began = clock.monotonic();
        std::thread::scope(|scope| {
            // A thread a call, of at most one a rank and a few strangers'.
            let mut calls: Vec<TcpStream> = Vec::new();
            while ranks.iter().any(Option::is_none) {
                let left = WAIT.saturating_sub(clock.monotonic().saturating_sub(began));
                if left.is_zero() {
                    break;
                }
                if calls.len() < 2 * self.world as usize
                    && let Ok((socket, _)) = listener.accept()
                    && let Ok(call) = socket.try_clone()
                {
                    calls.push(call);
                    let sender = sender.clone();
                    scope.spawn(move || {
                        let heard = self.hear(&socket, left);
                        let _ = socket.shutdown(Shutdown::Both);
                        if let Ok(Some(call)) = heard {
                            // Whoever takes calls in waits for this.
                            let _ = sender.send(call);
                        }
                    });
                    continue;
                }
                if let Ok((rank, events)) = came.recv_timeout(LOOK.min(left)) {
                    ranks[rank] = Some(events);
                }
            }
            // Whoever is too slow is cut off.
            for call in calls {
                let _ = call.shutdown(Shutdown::Both);
            }
        });
        for (rank, events) in came.try_iter() {
            ranks[rank] = Some(events);
        }
        ranks
    }

    /// What a caller sends; nothing if it is none of the ranks.
    fn hear(
        &self,
        mut socket: &TcpStream,
        left: Duration,
    ) -> io::Result<Option<(usize, Vec<Event>)>> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(left))?;
        let mut header = [0; 8 * HEADER_WORDS];
        socket.read_exact(&mut header)?;
        let (secret, numbers) = header.split_at(SECRET_BYTES);
        let number = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let (rank, count) = (number(&numbers[..8]), number(&numbers[8..]));
        let known = (1..u64::from(self.world)).contains(&rank);
        if secret != self.secret || !known || count > events_max(self.world) as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; 8 * WORDS * count as usize];
        socket.read_exact(&mut bytes)?;
        let words = bytes.chunks_exact(8).map(|word| number(word) as i64);
        let words: Vec<i64> = words.collect();
        let events = words.chunks_exact(WORDS).filter_map(from_words).collect();
        Ok(Some((rank as usize, events)))
    }
}

fn missing((rank, events): (u32, &Option<Vec<Event>>)) -> Option<String> {
    events.is_none().then(|| rank.to_string())
}

/// A port, and a secret from the system.
fn open(ip: IpAddr) -> io::Result<(TcpListener, SocketAddr, [u8; SECRET_BYTES])> {
    let listener = TcpListener::bind((ip, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let mut secret = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok((listener, addr, secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Doing;
    use ringfold_collective::testing::run_ring;
    use ringfold_common::clock::SystemClock;
    use ringfold_common::ids::Step;

    fn recorded(rank: u32, world: u32) -> Timeline {
        let mut timeline = Timeline::new(world);
        for step in 1..=u64::from(rank) + 2 {
            let at = |ms| Duration::from_millis(10 * step + ms);
            timeline.add(Step(step), Doing::Update, at(0), at(5));
        }
        timeline
    }

    #[test]
    fn those_that_are_left_hand_over_and_strangers_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timeline.json");
        run_ring(4, |mut ring| {
            let clock = SystemClock::new();
            let parting = Parting::agree(&mut ring, &clock).unwrap();
            let (rank, world) = (ring.rank().0, ring.world());
            ring.barrier().unwrap();
            match rank {
                // It is gone.
                2 => return,
                // It knows no secret, and says that it is rank 2.
                3 => {
                    let parting = Parting {
                        rank: Rank(2),
                        secret: [0; SECRET_BYTES],
                        ..parting
                    };
                    let timeline = recorded(100, world);
                    return parting.hand_over(&timeline, &path, &clock).unwrap();
                }
                _ => {}
            }
            let timeline = recorded(rank, world);
            parting.hand_over(&timeline, &path, &clock).unwrap();
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let trace: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let events = |rank: u64| {
            let of_rank = trace.iter().filter(|event| event["pid"] == rank);
            of_rank.filter(|event| event["ph"] == "X").count()
        };
        assert_eq!([0, 1, 2, 3].map(events), [2, 3, 0, 0]);
    }
}
