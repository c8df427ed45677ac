//! Rings between processes of one host.
//!
//! Rank 0 listens on a Unix socket in the abstract name space, which belongs to no file system and
//! ends with its process. The others call, with the same hello as over TCP. When all have proven
//! who they are, rank 0 makes the segment and one pipe a rank, and answers each with descriptors:
//! the segment, the write end of the rank's own pipe, and the read ends of the others'. A process
//! that dies closes its write end, which hangs up all its read ends: that is how it is missed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};

use super::board::{Board, Lifelines};
use super::memory::validate_shared;
use super::segment::{SHARED_WORLD_MAX, Segment};
use crate::transport::tcp::{
    Deadline, Heard, Introduction, PENDING_CONNECTIONS_MAX, PROTOCOL, Reader, Verdict, poll,
};
use crate::{
    AbortSignal, Address, CollectiveError, Identity, Mismatch, Peer, Ring, RingGap, RingOptions,
};

/// Descriptors that an answer carries: the segment, and one a rank.
const DESCRIPTORS_MAX: usize = 1 + SHARED_WORLD_MAX as usize;

/// Where the ranks of a host meet: rank 0's side.
#[derive(Debug)]
pub struct SharedHost {
    listener: UnixListener,
    address: String,
}

impl SharedHost {
    /// Listens under a new name.
    ///
    /// # Errors
    /// [`CollectiveError::System`].
    pub fn bind() -> Result<Self, CollectiveError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let failed = |error| CollectiveError::system("listen for ranks of this host", error);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("ringfold-ring-{}-{number}", std::process::id());
        let name = SocketAddr::from_abstract_name(&address).map_err(failed)?;
        let listener = UnixListener::bind_addr(&name).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// What the other ranks are to be told, for [`join_shared`].
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Joins the ring as rank 0: returns when all other ranks have called and got their
    /// descriptors. Only processes of the same user are heard.
    ///
    /// # Errors
    /// As [`Listener::connect_ring`](crate::Listener::connect_ring); the world is at most
    /// [`SHARED_WORLD_MAX`].
    pub fn connect_ring(
        self,
        identity: Identity,
        options: RingOptions,
        abort: AbortSignal,
    ) -> Result<Ring, CollectiveError> {
        let topology = validate_shared(&identity, &options)?;
        let board = self.join_board(identity, options, abort.clone())?;
        Ok(Ring::shared(identity, topology, board, abort))
    }

    /// [`connect_ring`](Self::connect_ring), below the operations.
    pub(crate) fn join_board(
        self,
        identity: Identity,
        options: RingOptions,
        abort: AbortSignal,
    ) -> Result<Board, CollectiveError> {
        validate_shared(&identity, &options)?;
        if identity.rank != Rank(0) {
            return Err(CollectiveError::OptionOutOfRange {
                option: "rank of the host's listener",
                got: identity.rank.to_string(),
                allowed: "0".to_owned(),
            });
        }
        let ours = introduction(identity, &options);
        let callers = self.meet(&ours, &options, &abort)?;
        let system = |error| CollectiveError::system("make a segment for a ring", error);
        let fd = Segment::create(identity.world, options.segment_bytes).map_err(system)?;
        let lifelines = hand_out(&fd, &callers, &ours).map_err(system)?;
        let segment = Segment::map(&fd, identity.world, options.segment_bytes).map_err(system)?;
        let segment = Arc::new(segment);
        Ok(Board::new(
            segment,
            &identity,
            &options,
            abort,
            Some(lifelines),
        ))
    }

    /// The sockets of all other ranks, in rank order.
    fn meet(
        &self,
        ours: &Introduction,
        options: &RingOptions,
        abort: &AbortSignal,
    ) -> Result<Vec<UnixStream>, CollectiveError> {
        let world = ours.identity.world as usize;
        let mut met: Vec<Option<UnixStream>> = (1..world).map(|_| None).collect();
        let mut pending: VecDeque<(UnixStream, Reader)> = VecDeque::new();
        let mut dropped = None;
        let deadline = start(options)?;
        while met.iter().any(Option::is_none) {
            abort.check()?;
            let late = {
                let mut fds = vec![
                    PollFd::from_borrowed_fd(abort.fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(deadline.fd(), PollFlags::IN),
                    PollFd::new(&self.listener, PollFlags::IN),
                ];
                let callers = pending.iter();
                fds.extend(callers.map(|(socket, _)| PollFd::new(socket, PollFlags::IN)));
                poll(&mut fds, None)?;
                !fds[1].revents().is_empty()
            };
            self.take_in(&mut pending)?;
            for _ in 0..pending.len() {
                let Some((socket, mut reader)) = pending.pop_front() else {
                    break;
                };
                match reader.read(&socket) {
                    Heard::Partial => pending.push_back((socket, reader)),
                    Heard::Message(Verdict::Hello, theirs) => {
                        match admit(ours, &theirs, &met) {
                            Ok(()) => met[theirs.identity.rank.0 as usize - 1] = Some(socket),
                            Err(mismatch) => {
                                // A caller that doesn't wait for the answer has gone already.
                                let _ = ours.write(Verdict::Refused, &socket);
                                if is_lost(&mismatch) {
                                    dropped = Some(mismatch.to_string());
                                    continue;
                                }
                                return Err(refused(theirs.identity.rank, mismatch));
                            }
                        }
                    }
                    Heard::OtherProtocol(got) => {
                        let _ = ours.write(Verdict::Refused, &socket);
                        let expected = PROTOCOL;
                        return Err(refused(Rank(1), Mismatch::Protocol { expected, got }));
                    }
                    Heard::Message(..) => dropped = Some("it answers, unasked".to_owned()),
                    Heard::Stranger(error) => dropped = Some(error.to_string()),
                }
            }
            if late {
                break;
            }
        }
        if let Some(why) = &dropped {
            tracing::info!(why, "dropped a caller that isn't a rank of the ring");
        }
        let missing = met.iter().position(Option::is_none);
        if let Some(at) = missing {
            return Err(CollectiveError::ConnectDeadline {
                deadline: options.connect_deadline,
                gap: Box::new(RingGap {
                    next: None,
                    prev: Some(same_host(Rank(at as u32 + 1))),
                    dropped: dropped.map(|why| (Address::SameHost, why)),
                }),
            });
        }
        Ok(met.into_iter().flatten().collect())
    }

    fn take_in(&self, pending: &mut VecDeque<(UnixStream, Reader)>) -> Result<(), CollectiveError> {
        for _ in 0..PENDING_CONNECTIONS_MAX {
            let (socket, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CollectiveError::system("accept a connection", error)),
            };
            let same_user = sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
            if !same_user || socket.set_nonblocking(true).is_err() {
                continue;
            }
            // Ranks are at most SHARED_WORLD_MAX, and say hello as they connect.
            if pending.len() == SHARED_WORLD_MAX as usize + PENDING_CONNECTIONS_MAX {
                pending.pop_front();
            }
            pending.push_back((socket, Reader::new()));
        }
        Ok(())
    }
}

/// Joins the ring whose rank 0 listens at `address`, as another rank.
///
/// # Errors
/// As [`Listener::connect_ring`](crate::Listener::connect_ring).
pub fn join_shared(
    address: &str,
    identity: Identity,
    options: RingOptions,
    abort: AbortSignal,
) -> Result<Ring, CollectiveError> {
    let topology = validate_shared(&identity, &options)?;
    let board = join_board(address, identity, options, abort.clone())?;
    Ok(Ring::shared(identity, topology, board, abort))
}

/// [`join_shared`], below the operations.
pub(crate) fn join_board(
    address: &str,
    identity: Identity,
    options: RingOptions,
    abort: AbortSignal,
) -> Result<Board, CollectiveError> {
    validate_shared(&identity, &options)?;
    abort.check()?;
    let host = same_host(Rank(0));
    let gone = |error: io::Error| CollectiveError::NeighbourGone {
        peer: host,
        source: Arc::new(error),
    };
    let ours = introduction(identity, &options);
    let name = SocketAddr::from_abstract_name(address).map_err(gone)?;
    let socket = UnixStream::connect_addr(&name).map_err(gone)?;
    ours.write(Verdict::Hello, &socket).map_err(gone)?;
    socket.set_nonblocking(true).map_err(gone)?;

    let deadline = start(&options)?;
    let mut reader = Reader::new();
    let mut descriptors = Vec::new();
    loop {
        abort.check()?;
        let mut fds = [
            PollFd::from_borrowed_fd(abort.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(deadline.fd(), PollFlags::IN),
            PollFd::new(&socket, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        if fds[2].revents().is_empty() {
            if fds[1].revents().is_empty() {
                continue;
            }
            return Err(CollectiveError::ConnectDeadline {
                deadline: options.connect_deadline,
                gap: Box::new(RingGap {
                    next: Some(crate::Unreached {
                        peer: host,
                        last: None,
                    }),
                    ..RingGap::default()
                }),
            });
        }
        match reader.read(Receiving(&socket, &mut descriptors)) {
            Heard::Partial => {}
            Heard::Message(verdict, theirs) => match (ours.check(Rank(0), &theirs), verdict) {
                (Err(mismatch), _) => return Err(refused(Rank(0), mismatch)),
                (Ok(()), Verdict::Accepted) => break,
                (Ok(()), _) => return Err(refused(Rank(0), Mismatch::Unstated)),
            },
            Heard::OtherProtocol(got) => {
                let expected = PROTOCOL;
                return Err(refused(Rank(0), Mismatch::Protocol { expected, got }));
            }
            Heard::Stranger(error) => return Err(gone(error)),
        }
    }
    let system = |error| CollectiveError::system("map the segment of a ring", error);
    let (segment, lifelines) = unpack(descriptors, &identity).map_err(system)?;
    let segment = Segment::map(&segment, identity.world, options.segment_bytes).map_err(system)?;
    let segment = Arc::new(segment);
    Ok(Board::new(
        segment,
        &identity,
        &options,
        abort,
        Some(lifelines),
    ))
}

fn introduction(identity: Identity, options: &RingOptions) -> Introduction {
    Introduction {
        identity,
        segment_bytes: options.segment_bytes as u32, // at most SEGMENT_BYTES_MAX
    }
}

fn same_host(rank: Rank) -> Peer {
    Peer {
        rank,
        addr: Address::SameHost,
    }
}

fn refused(rank: Rank, mismatch: Mismatch) -> CollectiveError {
    CollectiveError::Handshake {
        peer: same_host(rank),
        mismatch,
    }
}

fn start(options: &RingOptions) -> Result<Deadline, CollectiveError> {
    Deadline::after(options.connect_deadline)
        .map_err(|error| CollectiveError::system("start a timer", error))
}

/// Checks that a caller is a rank of the ring that hasn't called yet.
fn admit(
    ours: &Introduction,
    theirs: &Introduction,
    met: &[Option<UnixStream>],
) -> Result<(), Mismatch> {
    let rank = theirs.identity.rank;
    ours.check(rank, theirs)?;
    let place = (rank.0 as usize).checked_sub(1).and_then(|at| met.get(at));
    match place {
        Some(None) => Ok(()),
        // Rank 0 is this one; a rank that has called is taken.
        _ => Err(Mismatch::Rank {
            expected: Rank(met.iter().take_while(|m| m.is_some()).count() as u32 + 1),
            got: rank,
        }),
    }
}

/// True of a caller with an outdated address.
fn is_lost(mismatch: &Mismatch) -> bool {
    match mismatch {
        Mismatch::Job { .. } => true,
        Mismatch::MembershipEpoch { expected, got } => got < expected,
        _ => false,
    }
}

/// Answers every caller with its descriptors, and keeps rank 0's.
fn hand_out(
    segment: &OwnedFd,
    callers: &[UnixStream],
    ours: &Introduction,
) -> io::Result<Lifelines> {
    let pipes: Vec<(io::PipeReader, io::PipeWriter)> = (0..=callers.len())
        .map(|_| io::pipe())
        .collect::<io::Result<_>>()?;
    let answer = ours.encode(Verdict::Accepted);
    for (at, socket) in callers.iter().enumerate() {
        let rank = at + 1;
        let ends = pipes
            .iter()
            .enumerate()
            .map(|(of, (reader, writer))| match of == rank {
                true => writer.as_fd(),
                false => reader.as_fd(),
            });
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(segment.as_fd()).chain(ends).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("more descriptors than a message holds"));
        }
        let sent = sendmsg(
            socket,
            &[IoSlice::new(&answer)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        if sent != answer.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    let mut own = None;
    let mut others = Vec::new();
    for (of, (reader, writer)) in pipes.into_iter().enumerate() {
        // The other write ends are the callers' alone from here on.
        others.push((of != 0).then(|| reader.into()));
        if of == 0 {
            own = Some(writer.into());
        }
    }
    let own = own.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Lifelines { own, others })
}

/// The segment and the lifelines, in the order of `hand_out`.
fn unpack(descriptors: Vec<OwnedFd>, identity: &Identity) -> io::Result<(OwnedFd, Lifelines)> {
    let got = descriptors.len();
    if got != identity.world as usize + 1 {
        let what = format!("{got} descriptors for {} ranks", identity.world);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut descriptors = descriptors.into_iter();
    let segment = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
    let mut others: Vec<Option<OwnedFd>> = descriptors.map(Some).collect();
    let own = others[identity.rank.0 as usize]
        .take()
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((segment, Lifelines { own, others }))
}

/// A socket that is read from, and where descriptors that come along are put.
struct Receiving<'a>(&'a UnixStream, &'a mut Vec<OwnedFd>);

impl io::Read for Receiving<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(target)];
        let received = match recvmsg(self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => return Err(errno.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.1.extend(fds.take(DESCRIPTORS_MAX));
            }
        }
        Ok(received.bytes)
    }
}
