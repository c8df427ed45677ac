//! The verbs of the ring over two sockets: both directions move in one loop, and one poll waits for both.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::direct::{Pair, Pairs};
use super::frame::{Call, Header};
use super::patience::Patience;
use super::receiver::Receiver;
use super::sender::Sender;
use super::socket::{BufferLimits, buffers_for, set_buffers};
use super::stream::Stream;
use super::{Advance, SideError};
use crate::algorithm::Verbs;
use crate::algorithm::cost::LinkCost;
use crate::element::Fold;
use crate::{
    AbortSignal, CollectiveError, Identity, LastSign, Metrics, Neighbour, Peer, Position,
    RingOptions,
};

/// How long a rank that waits lets pass before it looks whether others are in another call.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// To look without waiting.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The connections of a rank.
pub(crate) struct TcpLink {
    sender: Sender,
    receiver: Receiver,
    pub(super) pairs: Pairs,
    pub(super) identity: Identity,
    pub(super) abort: AbortSignal,
    progress_deadline: Duration,
    patience: Patience,
    segment_bytes: usize,
    /// The caller has chosen the sockets' buffers.
    buffers_are_set: bool,
}

/// Connected, proven, non-blocking sockets.
pub(super) struct Sockets {
    pub next: (Stream, Peer),
    pub prev: (Stream, Peer),
}

/// What an operation works on.
pub(crate) struct Operand<'a> {
    /// Little-endian values.
    pub bytes: &'a mut [u8],
    /// Bytes of one of them.
    pub element_bytes: usize,
    /// How to fold them; none if the operation only copies.
    pub fold: Option<Fold>,
}

/// One operation under way.
pub(crate) struct Session<'a> {
    link: &'a mut TcpLink,
    operand: Operand<'a>,
    call: Call,
}

impl TcpLink {
    /// Takes over the sockets.
    pub(super) fn new(
        sockets: Sockets,
        identity: Identity,
        options: &RingOptions,
        abort: AbortSignal,
    ) -> Self {
        let header = header(&identity, Call::none());
        let segment_bytes = options.segment_bytes;
        let ((next, next_peer), (prev, prev_peer)) = (sockets.next, sockets.prev);
        Self {
            pairs: Pairs::new(identity.world, std::iter::empty()),
            segment_bytes,
            buffers_are_set: options.socket_buffer_bytes.is_some(),
            sender: Sender::new(next, next_peer, segment_bytes, header),
            receiver: Receiver::new(prev, prev_peer, segment_bytes, header),
            identity,
            abort,
            progress_deadline: options.progress_deadline,
            patience: Patience::none(),
        }
    }

    /// This rank's address on the connection to the next one.
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        let addr = self.sender.socket.socket().local_addr();
        addr.ok().map(|addr| addr.ip())
    }

    /// How it waits.
    pub fn patience_mut(&mut self) -> &mut Patience {
        &mut self.patience
    }

    /// Takes over connections beside the ring, before the first operation that uses them.
    pub(super) fn add_direct(&mut self, sockets: Vec<(Stream, Peer)>) {
        let header = header(&self.identity, Call::none());
        let pair = |(socket, peer)| Pair::new(socket, peer, self.segment_bytes, header);
        self.pairs = Pairs::new(self.identity.world, sockets.into_iter().map(pair));
    }

    /// Sets sockets' buffers to what a link of this cost holds, unless the caller has set them.
    pub fn size_buffers(&self, cost: LinkCost) -> Result<(), CollectiveError> {
        let there_and_back = 2.0 * cost.alpha_seconds;
        let on_their_way = (there_and_back / cost.beta_seconds_per_byte) as usize;
        let limits = BufferLimits::of_system().filter(|_| !self.buffers_are_set);
        let Some(bytes) = limits.and_then(|limits| buffers_for(on_their_way, limits)) else {
            return Ok(());
        };
        for socket in self.sockets() {
            set_buffers(socket.socket(), bytes)
                .map_err(|error| CollectiveError::system("set the buffers of a socket", error))?;
        }
        Ok(())
    }

    fn sockets(&self) -> impl Iterator<Item = &Stream> {
        let ring = [&*self.sender.socket, &*self.receiver.socket];
        ring.into_iter().chain(self.pairs.sockets())
    }

    /// Starts the operation `call` on `operand`.
    pub fn begin<'a>(&'a mut self, call: Call, operand: Operand<'a>) -> Session<'a> {
        let header = header(&self.identity, call);
        self.sender.begin(header);
        self.receiver.begin(header);
        Session {
            link: self,
            operand,
            call,
        }
    }

    /// Goes on with the operation `call` on another operand.
    pub fn resume<'a>(&'a mut self, call: Call, operand: Operand<'a>) -> Session<'a> {
        Session {
            link: self,
            operand,
            call,
        }
    }

    /// Closes both directions of both connections, so that the neighbours see it at once.
    pub fn shut_down(&self) {
        for socket in self.sockets() {
            socket.shut_down();
        }
    }

    pub(super) fn progress_deadline(&self) -> Duration {
        self.progress_deadline
    }

    /// Adds this link's counters to `metrics`.
    pub fn count(&self, metrics: &mut Metrics) {
        metrics.bytes_sent += self.sender.bytes_sent;
        metrics.bytes_received += self.receiver.bytes_received;
        metrics.stale_frames_dropped += self.receiver.stale_frames;
        self.pairs.count(metrics);
    }

    /// Waits until one of `fds` is ready; false if the progress deadline passed. Now and then it
    /// looks whether a rank is in another call than `call`, which may be one that doesn't send to
    /// this rank on the connections that it waits for.
    pub(super) fn poll(&self, fds: &mut [PollFd<'_>], call: Call) -> Result<bool, CollectiveError> {
        let looks = self.patience.looks();
        for _ in 0..looks {
            if super::socket::poll(fds, Some(&AT_ONCE))? > 0 {
                self.patience.paid();
                return Ok(true);
            }
        }
        if looks > 0 {
            self.patience.came_to_nothing();
        }
        let mut left = self.progress_deadline;
        loop {
            let turn = left.min(LOOK_AROUND);
            // Bounded by `validate`, so it fits.
            let timeout = Timespec::try_from(turn).ok();
            if super::socket::poll(fds, timeout.as_ref())? > 0 {
                return Ok(true);
            }
            left -= turn;
            if left.is_zero() {
                return Ok(false);
            }
            let header = header(&self.identity, call);
            let receivers = std::iter::once(&self.receiver).chain(self.pairs.receivers());
            for receiver in receivers {
                if let Err(fault) = receiver.check_ahead(header) {
                    return Err(CollectiveError::BadFrame {
                        peer: receiver.peer,
                        at: Box::new(self.before(call, receiver.peer.rank)),
                        fault,
                    });
                }
            }
        }
    }

    /// The last thing that `rank` was known to do: what came of it on any connection, or else what
    /// its connection took.
    pub(super) fn last_sign(&self, rank: Rank) -> LastSign {
        let receivers = std::iter::once(&self.receiver).chain(self.pairs.receivers());
        let came = receivers
            .filter(|receiver| receiver.peer.rank == rank)
            .filter_map(Receiver::last_sign)
            .max_by_key(|sign| match sign {
                LastSign::Sent { call, step, .. } => (call.operation, *step),
                _ => (0, 0),
            });
        let took = || match self.sender.peer.rank == rank {
            true => self.sender.last_sign(),
            false => None,
        };
        came.or_else(took).unwrap_or_default()
    }

    /// This rank's position with `rank`, of which nothing of `call` has come on a connection.
    fn before(&self, call: Call, rank: Rank) -> Position {
        let world = self.identity.world;
        Position {
            operation: call.operation,
            kind: call.kind,
            phase: call.kind.phase(0, world),
            step: 0,
            steps: call.kind.steps(world),
            bytes_done: 0,
            bytes_expected: call.bytes,
            last_sign: self.last_sign(rank),
        }
    }

    #[cfg(test)]
    fn prev_socket(&self) -> &Stream {
        &self.receiver.socket
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Verbs for Session<'_> {
    fn send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        let range = self.bytes_of(range);
        self.link.sender.queue(range);
        Ok(())
    }

    fn recv_reduce_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(range, self.operand.fold, true)
    }

    fn recv_reduce(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(range, self.operand.fold, false)
    }

    fn recv_copy_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(range, None, true)
    }

    fn recv(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.receive(range, None, false)
    }

    fn flush(&mut self) -> Result<(), CollectiveError> {
        while self.link.sender.owes() {
            self.link.abort.check()?;
            if self.send_some()? == Advance::Blocked {
                self.wait()?;
            }
        }
        Ok(())
    }
}

impl Session<'_> {
    fn receive(
        &mut self,
        range: Range<usize>,
        fold: Option<Fold>,
        pass_on: bool,
    ) -> Result<(), CollectiveError> {
        let range = self.bytes_of(range);
        if pass_on {
            self.link.sender.queue_unready(range.clone());
        }
        self.link.receiver.expect(range, fold);
        while !self.link.receiver.done() {
            self.link.abort.check()?;
            let sent = self.send_some()?;
            let received = self
                .link
                .receiver
                .advance(self.operand.bytes)
                .map_err(|error| self.blame(Neighbour::Prev, error))?;
            if received == Advance::Segment && pass_on {
                self.link.sender.release_segment();
            }
            if received == Advance::Blocked && matches!(sent, Advance::Blocked | Advance::Idle) {
                self.wait()?;
            }
        }
        Ok(())
    }

    fn send_some(&mut self) -> Result<Advance, CollectiveError> {
        self.link
            .sender
            .advance(self.operand.bytes)
            .map_err(|error| self.blame(Neighbour::Next, error))
    }

    /// Returns when a socket can move bytes, or the abort signal is given.
    ///
    /// The next rank is watched for its end only while it is owed something. A rank that has all
    /// that it needs may leave the ring while this one still receives.
    fn wait(&self) -> Result<(), CollectiveError> {
        let TcpLink {
            sender, receiver, ..
        } = &*self.link;
        let receiving = !receiver.done();
        let mut fds = [
            PollFd::from_borrowed_fd(self.link.abort.fd(), PollFlags::IN),
            PollFd::new(&sender.socket, PollFlags::IN),
            PollFd::new(&receiver.socket, PollFlags::IN),
        ];
        if sender.ready() {
            fds[1] = PollFd::new(&sender.socket, PollFlags::IN | PollFlags::OUT);
        }
        let fds = match (sender.owes(), receiving) {
            (true, true) => &mut fds[..],
            (true, false) => &mut fds[..2],
            (false, _) => {
                fds.swap(1, 2);
                &mut fds[..2]
            }
        };
        if !self.link.poll(fds, self.call)? {
            return Err(CollectiveError::Stalled {
                deadline: self.link.progress_deadline,
                at: Box::new(self.position(if receiving {
                    Neighbour::Prev
                } else {
                    Neighbour::Next
                })),
                receive_from: receiving.then_some(receiver.peer),
                send_to: sender.ready().then_some(sender.peer),
            });
        }
        let ended = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if sender.owes() && fds[1].revents().intersects(ended) {
            sender
                .check_alive()
                .map_err(|error| self.blame(Neighbour::Next, error))?;
        }
        Ok(())
    }

    fn bytes_of(&self, range: Range<usize>) -> Range<usize> {
        let element_bytes = self.operand.element_bytes;
        range.start * element_bytes..range.end * element_bytes
    }

    fn blame(&self, neighbour: Neighbour, error: SideError) -> CollectiveError {
        let peer = match neighbour {
            Neighbour::Next => self.link.sender.peer,
            _ => self.link.receiver.peer,
        };
        let at = Box::new(self.position(neighbour));
        match error {
            SideError::Fault(fault) => CollectiveError::BadFrame { peer, at, fault },
            SideError::Closed(source) => CollectiveError::PeerClosed {
                peer,
                neighbour,
                at,
                source: source.map(Arc::new),
            },
        }
    }

    fn position(&self, neighbour: Neighbour) -> Position {
        let (step, bytes_done, bytes_expected) = match neighbour {
            Neighbour::Next => self.link.sender.progress(),
            _ => self.link.receiver.progress(),
        };
        let world = self.link.identity.world;
        let kind = self.call.kind;
        Position {
            operation: self.call.operation,
            kind,
            phase: kind.phase(step, world),
            step,
            steps: kind.steps(world),
            bytes_done: bytes_done as u64,
            bytes_expected: bytes_expected as u64,
            last_sign: self.link.last_sign(match neighbour {
                Neighbour::Next => self.link.sender.peer.rank,
                _ => self.link.receiver.peer.rank,
            }),
        }
    }
}

pub(super) fn header(identity: &Identity, call: Call) -> Header {
    Header {
        job: identity.job,
        membership_epoch: identity.membership_epoch,
        call,
        step: 0,
        segment: 0,
        payload_bytes: 0,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
