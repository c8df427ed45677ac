//! One poll loop that meets both neighbours, and then the ranks beside the ring.

use std::net::{SocketAddr, TcpListener};

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};

use super::acceptor::Acceptor;
use super::deadline::Deadline;
use super::dialer::Dialer;
use super::handshake::{Introduction, Verdict};
use super::patience::Patience;
use super::session::{Sockets, TcpLink};
use super::socket::poll;
use super::stream::Stream;
use super::tls::RingKeys;
use crate::algorithm::direct::direct_peers;
use crate::topology::RingTopology;
use crate::{
    AbortSignal, Address, CollectiveError, Identity, Peer, RingGap, RingOptions, Unreached,
};

/// Everyone that a rank is to meet: its neighbours, which it has met, and the ranks beside the ring.
pub(crate) struct Meeting<'a> {
    topology: RingTopology,
    peers: &'a [SocketAddr],
    options: &'a RingOptions,
    abort: AbortSignal,
    keys: Option<RingKeys>,
    ours: Introduction,
    deadline: Deadline,
    acceptor: Acceptor,
    /// The rank before.
    prev: Peer,
    next: Dialer,
    /// The higher ranks beside the ring, from when the ring has closed on this rank.
    higher: Vec<Dialer>,
    /// The lower ones, which call.
    lower: Vec<Rank>,
}

/// Meets the neighbours of a rank in a world of at least two. Everything passed in has been validated.
///
/// They come first, since a rank that differs from them is to be told so as a neighbour. Calls
/// from lower ranks are answered from the beginning.
pub(super) fn meet_neighbours<'a>(
    (listener, keys): (TcpListener, Option<RingKeys>),
    topology: RingTopology,
    identity: Identity,
    peers: &'a [SocketAddr],
    options: &'a RingOptions,
    abort: AbortSignal,
) -> Result<(Meeting<'a>, TcpLink), CollectiveError> {
    let (next, prev) = (peer(peers, topology.next()), peer(peers, topology.prev()));
    let ours = Introduction {
        identity,
        segment_bytes: options.segment_bytes as u32, // at most SEGMENT_BYTES_MAX
    };
    let addr = peers[next.rank.0 as usize];
    let mut meeting = Meeting {
        topology,
        peers,
        options,
        abort,
        keys: keys.clone(),
        ours,
        deadline: Deadline::after(options.connect_deadline)
            .map_err(|error| CollectiveError::system("start a timer", error))?,
        acceptor: Acceptor::new(listener, prev.rank, keys.clone()),
        prev,
        next: Dialer::new(next, addr, Verdict::Hello, options, keys.clone())?,
        higher: Vec::new(),
        lower: Vec::new(),
    };
    meeting.run(|meeting| meeting.next.met() && meeting.acceptor.met())?;
    tracing::debug!(rank = %identity.rank, %next, %prev, "joined the ring");
    let (Some(prev_socket), Some(next_socket)) =
        (meeting.acceptor.take_socket(), meeting.next.take_socket())
    else {
        return Err(meeting.too_late());
    };
    let sockets = Sockets {
        next: (next_socket, next),
        prev: (prev_socket, prev),
    };
    let mut link = TcpLink::new(sockets, identity, options, meeting.abort.clone());
    if options.spin {
        *link.patience_mut() = Patience::of(topology, peers);
    }
    Ok((meeting, link))
}

impl Meeting<'_> {
    /// Meets the ranks beside the ring. All ranks do, or none.
    pub(crate) fn meet_directly(mut self, link: &mut TcpLink) -> Result<(), CollectiveError> {
        self.begin_direct()?;
        self.run(|meeting| {
            let called = |&rank| meeting.acceptor.met_directly(rank);
            meeting.higher.iter().all(Dialer::met) && meeting.lower.iter().all(called)
        })?;
        let mut sockets: Vec<(Stream, Peer)> = self
            .acceptor
            .into_direct()
            .into_iter()
            .map(|(rank, socket)| (socket, peer(self.peers, rank)))
            .collect();
        for mut dialer in self.higher {
            let peer = dialer.peer();
            sockets.extend(dialer.take_socket().map(|socket| (socket, peer)));
        }
        link.add_direct(sockets);
        Ok(())
    }

    fn begin_direct(&mut self) -> Result<(), CollectiveError> {
        let topology = self.topology;
        for rank in direct_peers(topology) {
            if rank < topology.rank() {
                self.lower.push(rank);
                continue;
            }
            let addr = self.peers[rank.0 as usize];
            let peer = peer(self.peers, rank);
            let (hello, keys) = (Verdict::HelloDirect, self.keys.clone());
            let dialer = Dialer::new(peer, addr, hello, self.options, keys)?;
            self.higher.push(dialer);
        }
        Ok(())
    }

    /// Meets whoever comes, until all are there that `done` asks for.
    fn run(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), CollectiveError> {
        while !done(self) {
            self.abort.check()?;
            let (deadline_passed, ready) = self.wait()?;
            // What has arrived in time counts, even if this thread looks too late.
            let dialers = std::iter::once(&mut self.next).chain(&mut self.higher);
            for (dialer, ready) in dialers.zip(ready) {
                if ready {
                    dialer.advance(&self.ours, self.options)?;
                }
            }
            self.acceptor.advance(&self.ours, self.options)?;
            if deadline_passed {
                break;
            }
        }
        match done(self) {
            true => Ok(()),
            false => Err(self.too_late()),
        }
    }

    /// Waits, and says whether the deadline has passed and which dialers can go on.
    fn wait(&self) -> Result<(bool, Vec<bool>), CollectiveError> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.abort.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.deadline.fd(), PollFlags::IN),
        ];
        let dialers = || std::iter::once(&self.next).chain(&self.higher);
        let interests: Vec<Option<PollFd<'_>>> = dialers().map(Dialer::interest).collect();
        let waiting: Vec<bool> = interests.iter().map(Option::is_some).collect();
        fds.extend(interests.into_iter().flatten());
        fds.extend(self.acceptor.interests());
        poll(&mut fds, None)?;
        let mut results = fds[2..].iter().map(|fd| !fd.revents().is_empty());
        let ready = waiting
            .into_iter()
            .map(|waiting| waiting && results.next().unwrap_or(false))
            .collect();
        Ok((!fds[1].revents().is_empty(), ready))
    }

    fn too_late(&self) -> CollectiveError {
        let mut dialers = std::iter::once(&self.next).chain(&self.higher);
        let next: Option<Unreached> = dialers.find_map(Dialer::unreached);
        let absent = |&&rank: &&Rank| !self.acceptor.met_directly(rank);
        let lower = self.lower.iter().find(absent);
        let prev = match self.acceptor.met() {
            false => Some(self.prev),
            true => lower.map(|&rank| peer(self.peers, rank)),
        };
        let dropped = self.acceptor.dropped();
        CollectiveError::ConnectDeadline {
            deadline: self.options.connect_deadline,
            gap: Box::new(RingGap {
                next,
                prev,
                dropped: dropped.map(|(addr, why)| (Address::Tcp(addr), why)),
            }),
        }
    }
}

fn peer(peers: &[SocketAddr], rank: Rank) -> Peer {
    Peer {
        rank,
        addr: Address::Tcp(peers[rank.0 as usize]),
    }
}
