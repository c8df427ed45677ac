//! Meeting the rank before and, beside the ring, lower ranks: whoever calls must prove to be one.
//! Others are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::dialer::no_tls;
use super::handshake::{Heard, Introduction, PROTOCOL, Reader, Verdict};
use super::socket::tune;
use super::stream::Stream;
use super::tls::RingKeys;
use crate::{Address, CollectiveError, Mismatch, Peer, RingOptions};

/// The most callers that may be connected without having said who they are. One more makes room
/// by dropping the one that has waited longest; a true neighbour calls again.
pub const PENDING_CONNECTIONS_MAX: usize = 16;

/// The connection from the rank before, on its way.
pub(super) struct Acceptor {
    listener: TcpListener,
    neighbour: Rank,
    pending: VecDeque<Caller>,
    met: bool,
    /// The connection from the rank before, until it is taken.
    socket: Option<Stream>,
    /// Lower ranks that have called for a connection beside the ring.
    direct: BTreeMap<Rank, Stream>,
    /// Under TLS.
    keys: Option<RingKeys>,
    /// Who was dropped last, and why.
    dropped: Option<(SocketAddr, String)>,
}

/// Someone who hasn't proven who they are.
struct Caller {
    socket: Stream,
    addr: SocketAddr,
    reader: Reader,
}

impl Acceptor {
    /// `listener` is non-blocking.
    pub fn new(listener: TcpListener, neighbour: Rank, keys: Option<RingKeys>) -> Self {
        Self {
            keys,
            listener,
            neighbour,
            pending: VecDeque::new(),
            met: false,
            socket: None,
            direct: BTreeMap::new(),
            dropped: None,
        }
    }

    pub fn met(&self) -> bool {
        self.met
    }

    /// True once `rank` has called for a connection beside the ring.
    pub fn met_directly(&self, rank: Rank) -> bool {
        self.direct.contains_key(&rank)
    }

    /// The proven socket of the rank before, once.
    pub fn take_socket(&mut self) -> Option<Stream> {
        self.socket.take()
    }

    /// The proven sockets beside the ring.
    pub fn into_direct(self) -> BTreeMap<Rank, Stream> {
        self.direct
    }

    /// Who was dropped last, and why.
    pub fn dropped(&self) -> Option<(SocketAddr, String)> {
        self.dropped.clone()
    }

    /// What to poll for: the listener, then every caller.
    pub fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = PollFd::new(&self.listener, PollFlags::IN);
        let callers = self.pending.iter();
        std::iter::once(listener)
            .chain(callers.map(|caller| PollFd::new(&caller.socket, PollFlags::IN)))
    }

    /// Takes in new callers, and listens to all.
    ///
    /// # Errors
    /// [`CollectiveError::Handshake`] if the caller is a rank of this job and membership epoch, or
    /// of a newer one, with which this rank can't form a ring.
    pub fn advance(
        &mut self,
        ours: &Introduction,
        options: &RingOptions,
    ) -> Result<(), CollectiveError> {
        self.take_in(options)?;
        for _ in 0..self.pending.len() {
            let Some(mut caller) = self.pending.pop_front() else {
                break;
            };
            match caller.reader.read(&caller.socket) {
                Heard::Partial => self.pending.push_back(caller),
                Heard::Message(Verdict::Hello, _) if self.met() => {
                    self.drop_caller(caller.addr, "the rank before has called already");
                }
                Heard::Message(verdict @ (Verdict::Hello | Verdict::HelloDirect), theirs) => {
                    self.answer(caller, ours, verdict, &theirs)?;
                }
                Heard::Message(..) => self.drop_caller(caller.addr, "it answers, unasked"),
                Heard::OtherProtocol(got) => {
                    let expected = PROTOCOL;
                    self.refuse(&caller, ours);
                    return Err(CollectiveError::Handshake {
                        peer: Peer {
                            rank: self.neighbour,
                            addr: Address::Tcp(caller.addr),
                        },
                        mismatch: Mismatch::Protocol { expected, got },
                    });
                }
                Heard::Stranger(error) => self.drop_caller(caller.addr, &why_strange(&error)),
            }
        }
        Ok(())
    }

    fn take_in(&mut self, options: &RingOptions) -> Result<(), CollectiveError> {
        // As many a turn as may wait at once, so that a flood can't keep this loop.
        for _ in 0..PENDING_CONNECTIONS_MAX {
            let (socket, addr) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if out_of_resources(&error) => {
                    return Err(CollectiveError::system("accept a connection", error));
                }
                // The caller has gone again, or its network: `accept(2)` says to go on.
                Err(_) => continue,
            };
            if let Err(error) = tune(&socket, options) {
                self.drop_caller(addr, &error.to_string());
                continue;
            }
            if self.pending.len() == PENDING_CONNECTIONS_MAX
                && let Some(oldest) = self.pending.pop_front()
            {
                self.drop_caller(oldest.addr, "it was silent, and others called");
            }
            let tls = self.keys.as_ref().map(RingKeys::answer).transpose();
            self.pending.push_back(Caller {
                socket: Stream::new(socket, tls.map_err(no_tls)?),
                addr,
                reader: Reader::new(),
            });
        }
        Ok(())
    }

    fn answer(
        &mut self,
        caller: Caller,
        ours: &Introduction,
        hello: Verdict,
        theirs: &Introduction,
    ) -> Result<(), CollectiveError> {
        let direct = hello == Verdict::HelloDirect;
        let rank = theirs.identity.rank;
        if let Some(keys) = &self.keys
            && (keys.of_rank(rank).is_none() || caller.socket.key() != keys.of_rank(rank))
        {
            self.drop_caller(
                caller.addr,
                "it has the key of another rank than it says it is",
            );
            return Ok(());
        }
        let expected = match direct {
            true => rank,
            false => self.neighbour,
        };
        let Err(mismatch) = ours.check(expected, theirs) else {
            if direct && rank >= ours.identity.rank {
                self.drop_caller(caller.addr, "it is no lower rank, which is to be called");
                return Ok(());
            }
            match ours.write(Verdict::Accepted, &caller.socket) {
                // A rank that calls again has lost its first connection.
                Ok(()) if direct => drop(self.direct.insert(rank, caller.socket)),
                Ok(()) => (self.met, self.socket) = (true, Some(caller.socket)),
                Err(error) => self.drop_caller(caller.addr, &error.to_string()),
            }
            return Ok(());
        };
        self.refuse(&caller, ours);
        let peer = Peer {
            rank: theirs.identity.rank,
            addr: Address::Tcp(caller.addr),
        };
        let lost = match mismatch {
            Mismatch::Job { .. } => true,
            Mismatch::MembershipEpoch { expected, got } => got < expected,
            _ => false,
        };
        if lost {
            // Not the neighbour, but someone with an outdated address.
            self.drop_caller(caller.addr, &format!("{peer} {mismatch}"));
            return Ok(());
        }
        Err(CollectiveError::Handshake { peer, mismatch })
    }

    /// Tells the caller who this rank is, so that it can see why not.
    fn refuse(&mut self, caller: &Caller, ours: &Introduction) {
        if let Err(error) = ours.write(Verdict::Refused, &caller.socket) {
            tracing::debug!(addr = %caller.addr, %error, "a refused caller didn't wait");
        }
    }

    fn drop_caller(&mut self, addr: SocketAddr, why: &str) {
        tracing::info!(%addr, why, "dropped a caller that isn't the neighbour");
        self.dropped = Some((addr, why.to_owned()));
    }
}

fn why_strange(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => "it calls without TLS".to_owned(),
        Some(rustls::Error::InvalidCertificate(_)) => "its key is no rank's".to_owned(),
        _ => error.to_string(),
    }
}

fn out_of_resources(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else {
        return true;
    };
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::INVAL | Errno::BADF
    )
}
