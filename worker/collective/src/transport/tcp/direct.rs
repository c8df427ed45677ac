//! The verbs between any two ranks over their own sockets: all directions move in one loop, and one
//! poll waits for all.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};

use super::frame::{Call, Header};
use super::receiver::Receiver;
use super::sender::Sender;
use super::session::{Operand, TcpLink, header};
use super::stream::Stream;
use super::{Advance, SideError};
use crate::algorithm::Phase;
use crate::algorithm::direct::{PeerVerbs, Tally};
use crate::element::Fold;
use crate::{CollectiveError, Metrics, Neighbour, Peer, Position};

/// What a poll says of a socket whose peer sends no more. Data may wait there besides.
#[cfg(target_os = "linux")]
const ENDED: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const ENDED: PollFlags = PollFlags::HUP;

/// One connection beside the ring, on which both sides send.
pub(super) struct Pair {
    sender: Sender,
    receiver: Receiver,
}

/// The connections beside the ring, by rank.
pub(super) struct Pairs(Vec<Option<Box<Pair>>>);

/// One operation under way between ranks that needn't be neighbours.
pub(crate) struct DirectSession<'a> {
    link: &'a mut TcpLink,
    operand: Operand<'a>,
    call: Call,
    phase: Phase,
    /// The ranks that the algorithm deals with.
    peers: Vec<Rank>,
    /// Messages received, and to receive, in all.
    step: u32,
    steps: u32,
}

impl Pair {
    pub fn new(socket: Stream, peer: Peer, segment_bytes: usize, header: Header) -> Self {
        let socket = Arc::new(socket);
        Self {
            sender: Sender::new(socket.clone(), peer, segment_bytes, header),
            receiver: Receiver::new(socket, peer, segment_bytes, header),
        }
    }
}

impl Pairs {
    pub fn new(world: u32, pairs: impl Iterator<Item = Pair>) -> Self {
        let mut by_rank: Vec<Option<Box<Pair>>> = (0..world).map(|_| None).collect();
        for pair in pairs {
            let rank = pair.sender.peer.rank.0 as usize;
            by_rank[rank] = Some(Box::new(pair));
        }
        Self(by_rank)
    }

    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    pub fn sockets(&self) -> impl Iterator<Item = &Stream> {
        self.all().map(|pair| &*pair.sender.socket)
    }

    pub fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        self.all().map(|pair| &pair.receiver)
    }

    pub fn count(&self, metrics: &mut Metrics) {
        for pair in self.all() {
            metrics.bytes_sent += pair.sender.bytes_sent;
            metrics.bytes_received += pair.receiver.bytes_received;
            metrics.stale_frames_dropped += pair.receiver.stale_frames;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter().flatten().map(|pair| &**pair)
    }

    fn of(&self, rank: Rank) -> Option<&Pair> {
        self.0.get(rank.0 as usize)?.as_deref()
    }

    fn of_mut(&mut self, rank: Rank) -> Option<&mut Pair> {
        self.0.get_mut(rank.0 as usize)?.as_deref_mut()
    }
}

impl TcpLink {
    /// True if there are connections beside the ring.
    pub fn is_direct(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// Starts the operation `call` on `operand`, in which this rank does what `tally` says.
    pub fn begin_direct<'a>(
        &'a mut self,
        call: Call,
        operand: Operand<'a>,
        tally: Tally,
    ) -> DirectSession<'a> {
        let header = header(&self.identity, call);
        for &rank in &tally.peers {
            if let Some(pair) = self.pairs.of_mut(rank) {
                pair.sender.begin(header);
                pair.receiver.begin(header);
            }
        }
        self.resume_direct(call, operand, tally)
    }

    /// Goes on with the operation `call`, with the same peers, on another operand.
    pub fn resume_direct<'a>(
        &'a mut self,
        call: Call,
        operand: Operand<'a>,
        tally: Tally,
    ) -> DirectSession<'a> {
        DirectSession {
            link: self,
            operand,
            call,
            phase: Phase::Route,
            steps: tally.received.max(1),
            peers: tally.peers.into_iter().collect(),
            step: 0,
        }
    }
}

impl PeerVerbs for DirectSession<'_> {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    fn send(&mut self, to: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        let range = self.bytes_of(range);
        self.pair_mut(to)?.sender.queue(range);
        // At once, so that it is on its way while others are queued.
        self.send_some(to)?;
        Ok(())
    }

    fn recv(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(from, range, None)
    }

    fn recv_reduce(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(from, range, self.operand.fold)
    }

    fn flush(&mut self) -> Result<(), CollectiveError> {
        loop {
            self.link.abort.check()?;
            let moved = self.send_to_all()?;
            if !self.owes() {
                return Ok(());
            }
            if !moved {
                self.wait(None)?;
            }
        }
    }
}

impl DirectSession<'_> {
    fn receive(
        &mut self,
        from: Rank,
        range: Range<usize>,
        fold: Option<Fold>,
    ) -> Result<(), CollectiveError> {
        let range = self.bytes_of(range);
        self.pair_mut(from)?.receiver.expect(range, fold);
        while !self.pair(from)?.receiver.done() {
            self.link.abort.check()?;
            let sent = self.send_to_all()?;
            let operand = &mut *self.operand.bytes;
            let Some(pair) = self.link.pairs.of_mut(from) else {
                return Err(not_connected());
            };
            let received = pair.receiver.advance(operand);
            let received = received.map_err(|error| self.blame(from, error, true))?;
            if received == Advance::Blocked && !sent {
                self.wait(Some(from))?;
            }
        }
        self.step += 1;
        Ok(())
    }

    /// Writes what the sockets take; true if bytes moved.
    fn send_to_all(&mut self) -> Result<bool, CollectiveError> {
        let mut moved = false;
        for at in 0..self.peers.len() {
            moved |= self.send_some(self.peers[at])?;
        }
        Ok(moved)
    }

    fn send_some(&mut self, to: Rank) -> Result<bool, CollectiveError> {
        let operand = &*self.operand.bytes;
        let Some(pair) = self.link.pairs.of_mut(to) else {
            return Err(not_connected());
        };
        let sent = pair.sender.advance(operand);
        let sent = sent.map_err(|error| self.blame(to, error, false))?;
        Ok(matches!(sent, Advance::Moved | Advance::Segment))
    }

    fn owes(&self) -> bool {
        let pairs = self
            .peers
            .iter()
            .filter_map(|&rank| self.link.pairs.of(rank));
        pairs.into_iter().any(|pair| pair.sender.owes())
    }

    /// Returns when a socket can move bytes, or the abort signal is given.
    ///
    /// A peer that is not waited for is watched for its end only while it is owed something.
    fn wait(&self, from: Option<Rank>) -> Result<(), CollectiveError> {
        let abort = self.link.abort.fd();
        let mut fds = vec![PollFd::from_borrowed_fd(abort, PollFlags::IN)];
        let mut polled = Vec::with_capacity(self.peers.len());
        for &rank in &self.peers {
            let pair = self.pair(rank)?;
            let mut flags = PollFlags::empty();
            if from == Some(rank) {
                flags |= PollFlags::IN;
            }
            if pair.sender.owes() {
                flags |= PollFlags::OUT | ENDED;
            }
            if !flags.is_empty() {
                fds.push(PollFd::from_borrowed_fd(pair.sender.socket.as_fd(), flags));
                polled.push(rank);
            }
        }
        if !self.link.poll(&mut fds, self.call)? {
            return Err(self.stalled(from));
        }
        let ended = ENDED | PollFlags::HUP | PollFlags::ERR;
        for (fd, &rank) in fds[1..].iter().zip(&polled) {
            let owed = self.pair(rank)?.sender.owes();
            // What it sent before its end is read first, if it is waited for.
            if owed && from != Some(rank) && fd.revents().intersects(ended) {
                return Err(self.blame(rank, SideError::Closed(None), false));
            }
        }
        Ok(())
    }

    fn stalled(&self, from: Option<Rank>) -> CollectiveError {
        let peer = |rank: Rank| self.link.pairs.of(rank).map(|pair| pair.sender.peer);
        let owed = self.peers.iter().copied().find(|&rank| {
            let pair = self.link.pairs.of(rank);
            pair.is_some_and(|pair| pair.sender.owes())
        });
        let at = match (from, owed) {
            (Some(rank), _) => self.position(rank, true),
            (None, Some(rank)) => self.position(rank, false),
            (None, None) => self.position(self.link.identity.rank, false),
        };
        CollectiveError::Stalled {
            deadline: self.link.progress_deadline(),
            at: Box::new(at),
            receive_from: from.and_then(peer),
            send_to: owed.and_then(peer),
        }
    }

    fn bytes_of(&self, range: Range<usize>) -> Range<usize> {
        let element_bytes = self.operand.element_bytes;
        range.start * element_bytes..range.end * element_bytes
    }

    fn pair(&self, rank: Rank) -> Result<&Pair, CollectiveError> {
        self.link.pairs.of(rank).ok_or_else(not_connected)
    }

    fn pair_mut(&mut self, rank: Rank) -> Result<&mut Pair, CollectiveError> {
        self.link.pairs.of_mut(rank).ok_or_else(not_connected)
    }

    fn blame(&self, rank: Rank, error: SideError, receiving: bool) -> CollectiveError {
        let Some(pair) = self.link.pairs.of(rank) else {
            return not_connected();
        };
        let peer = pair.sender.peer;
        let at = Box::new(self.position(rank, receiving));
        match error {
            SideError::Fault(fault) => CollectiveError::BadFrame { peer, at, fault },
            SideError::Closed(source) => CollectiveError::PeerClosed {
                peer,
                neighbour: Neighbour::Direct,
                at,
                source: source.map(Arc::new),
            },
        }
    }

    /// The step is that of this rank's messages received, whatever the connection.
    fn position(&self, rank: Rank, receiving: bool) -> Position {
        let (_, bytes_done, bytes_expected) = match (self.link.pairs.of(rank), receiving) {
            (Some(pair), true) => pair.receiver.progress(),
            (Some(pair), false) => pair.sender.progress(),
            (None, _) => (0, 0, 0),
        };
        Position {
            operation: self.call.operation,
            kind: self.call.kind,
            phase: self.phase,
            step: self.step.min(self.steps - 1),
            steps: self.steps,
            bytes_done: bytes_done as u64,
            bytes_expected: bytes_expected as u64,
            last_sign: self.link.last_sign(rank),
        }
    }
}

/// An algorithm deals only with ranks that are connected: `direct_peers`.
fn not_connected() -> CollectiveError {
    let error = std::io::Error::from(std::io::ErrorKind::NotConnected);
    CollectiveError::system("reach a rank beside the ring", error)
}
