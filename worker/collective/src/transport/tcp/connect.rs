//! One poll loop that meets both neighbours.

use std::net::{SocketAddr, TcpListener};

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};

use super::acceptor::Acceptor;
use super::deadline::Deadline;
use super::dialer::Dialer;
use super::handshake::Introduction;
use super::session::TcpLink;
use super::socket::poll;
use crate::topology::RingTopology;
use crate::{AbortSignal, Address, CollectiveError, Identity, Peer, RingGap, RingOptions};

/// Meets both neighbours of a world of at least two. Everything passed in has been validated.
pub(super) fn connect(
    listener: TcpListener,
    topology: RingTopology,
    identity: Identity,
    peers: &[SocketAddr],
    options: &RingOptions,
    abort: AbortSignal,
) -> Result<TcpLink, CollectiveError> {
    let peer = |rank: Rank| Peer {
        rank,
        addr: Address::Tcp(peers[rank.0 as usize]),
    };
    let (next, prev) = (peer(topology.next()), peer(topology.prev()));
    let ours = Introduction {
        identity,
        segment_bytes: options.segment_bytes as u32, // at most SEGMENT_BYTES_MAX
    };
    let deadline = Deadline::after(options.connect_deadline)
        .map_err(|error| CollectiveError::system("start a timer", error))?;
    let mut dialer = Dialer::new(next, peers[next.rank.0 as usize], options)?;
    let mut acceptor = Acceptor::new(listener, prev.rank);

    while !(dialer.met() && acceptor.met()) {
        abort.check()?;
        let (deadline_passed, dialer_ready) = {
            let mut fds = vec![
                PollFd::from_borrowed_fd(abort.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(deadline.fd(), PollFlags::IN),
            ];
            let dialer_at = fds.len();
            fds.extend(dialer.interest());
            fds.extend(acceptor.interests());
            poll(&mut fds, None)?;
            let ready = |at: usize| !fds[at].revents().is_empty();
            (ready(1), !dialer.met() && ready(dialer_at))
        };
        // What has arrived in time counts, even if this thread looks too late.
        if dialer_ready {
            dialer.advance(&ours, options)?;
        }
        if !acceptor.met() {
            acceptor.advance(&ours, options)?;
        }
        if deadline_passed {
            break;
        }
    }
    match (dialer.into_socket(), acceptor.into_socket()) {
        (Ok(to_next), Ok(from_prev)) => {
            tracing::debug!(rank = %identity.rank, %next, %prev, "joined the ring");
            let (to_next, from_prev) = ((to_next, next), (from_prev, prev));
            Ok(TcpLink::new(to_next, from_prev, identity, options, abort))
        }
        (to_next, from_prev) => Err(CollectiveError::ConnectDeadline {
            deadline: options.connect_deadline,
            gap: Box::new(RingGap {
                next: to_next.err(),
                prev: from_prev.is_err().then_some(prev),
                dropped: from_prev
                    .err()
                    .flatten()
                    .map(|(addr, why)| (Address::Tcp(addr), why)),
            }),
        }),
    }
}
