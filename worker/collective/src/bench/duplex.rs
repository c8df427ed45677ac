//! What a plain connection carries in both directions at once: what an all-reduce of two ranks over TCP,
//! which moves as many bytes, can come near to.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ringfold_common::clock::Clock;
use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};

use crate::transport::tcp::poll_sockets;
use crate::{CollectiveError, Reduce, Ring};

const ROUNDS: usize = 7;
/// Room for an address and its port, padded with spaces.
const ADDRESS_BYTES: usize = 64;

/// The median time of a few rounds in which two ranks send each other `bytes` on one connection, both at
/// once, from memory to memory. Rank 0 listens on `ip`. All ranks call it; `None` unless they are two.
///
/// # Errors
/// Those of the ring, and [`System`](CollectiveError::System) for the connection.
pub fn duplex(
    ring: &mut Ring,
    clock: &dyn Clock,
    ip: IpAddr,
    bytes: usize,
) -> Result<Option<Duration>, CollectiveError> {
    if ring.world() != 2 {
        return Ok(None);
    }
    let socket = connect(ring, ip)?;
    let (sent, mut received) = (vec![1_u8; bytes], vec![0_u8; bytes]);
    let mut samples = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        ring.barrier()?;
        let start = clock.monotonic();
        exchange(&socket, &sent, &mut received)?;
        samples.push((clock.monotonic() - start).as_secs_f64());
    }
    ring.all_reduce(&mut samples, Reduce::Max)?;
    samples.sort_by(f64::total_cmp);
    Ok(Some(Duration::from_secs_f64(samples[ROUNDS / 2])))
}

/// One connection between the two ranks.
fn connect(ring: &mut Ring, ip: IpAddr) -> Result<TcpStream, CollectiveError> {
    let failed = |error| CollectiveError::system("connect two ranks beside the ring", error);
    let listener = match ring.rank() {
        Rank(0) => Some(TcpListener::bind((ip, 0)).map_err(failed)?),
        _ => None,
    };
    let addr = listener.as_ref().map(TcpListener::local_addr).transpose();
    let text = addr
        .map_err(failed)?
        .map_or(String::new(), |addr| addr.to_string());
    let mut record = [b' '; ADDRESS_BYTES];
    record[..text.len()].copy_from_slice(text.as_bytes());
    let records = ring.all_gather_bytes(&record)?;
    let caller = match listener {
        Some(_) => None,
        None => {
            let addr: Option<SocketAddr> = std::str::from_utf8(&records[0])
                .ok()
                .and_then(|text| text.trim().parse().ok());
            let addr = addr.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
            Some(TcpStream::connect(addr).map_err(failed)?)
        }
    };
    // Past it the call has been made, so that nobody waits for one that never comes.
    ring.barrier()?;
    let socket = match (caller, listener) {
        (Some(socket), _) => socket,
        (None, Some(listener)) => listener.accept().map_err(failed)?.0,
        (None, None) => return Err(failed(io::ErrorKind::NotConnected.into())),
    };
    socket.set_nonblocking(true).map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    Ok(socket)
}

/// Sends all of `sent` and fills `received`, with as long reads and writes as the socket allows.
fn exchange(
    mut socket: &TcpStream,
    mut sent: &[u8],
    mut received: &mut [u8],
) -> Result<(), CollectiveError> {
    let failed = |error| CollectiveError::system("send and receive at once", error);
    let moved = |result: io::Result<usize>| match result {
        Ok(0) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        Ok(moved) => Ok(moved),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            _ => Err(failed(error)),
        },
    };
    while !(sent.is_empty() && received.is_empty()) {
        let mut progress = 0;
        if !sent.is_empty() {
            let written = moved(socket.write(sent))?;
            sent = &sent[written..];
            progress += written;
        }
        if !received.is_empty() {
            let read = moved(socket.read(received))?;
            received = &mut std::mem::take(&mut received)[read..];
            progress += read;
        }
        if progress == 0 {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !received.is_empty());
            flags.set(PollFlags::OUT, !sent.is_empty());
            poll_sockets(&mut [PollFd::new(socket, flags)], None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RingOptions;
    use crate::testing::{join_memory, on_threads};
    use ringfold_common::clock::SystemClock;
    use std::net::Ipv4Addr;

    #[test]
    fn two_ranks_exchange_all_bytes_and_agree_on_the_time() {
        for world in [2, 3] {
            let times = on_threads(
                join_memory(world, RingOptions::default()),
                |(mut ring, _)| {
                    let clock = SystemClock::new();
                    duplex(&mut ring, &clock, Ipv4Addr::LOCALHOST.into(), 3 << 20).unwrap()
                },
            );
            assert_eq!(times[0].is_some(), world == 2);
            assert_eq!(times[0], times[1]);
        }
    }
}
