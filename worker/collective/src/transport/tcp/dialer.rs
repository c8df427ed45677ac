//! Meeting the next rank, or a higher one: connect, say hello, read the answer; again if the connection fails.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::deadline::Deadline;
use super::handshake::{Heard, Introduction, PROTOCOL, Reader, Verdict};
use super::socket::dial;
use super::stream::Stream;
use super::tls::RingKeys;
use crate::{CollectiveError, Mismatch, Peer, RingOptions, Unreached};

/// How long to wait after a failed attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// The connection to another rank, on its way.
pub(super) struct Dialer {
    peer: Peer,
    /// [`Verdict::Hello`] or [`Verdict::HelloDirect`].
    hello: Verdict,
    addr: SocketAddr,
    /// Under TLS.
    keys: Option<RingKeys>,
    state: State,
    /// Why the last attempt failed.
    last: Option<Arc<io::Error>>,
    /// An attempt once got through to a listener.
    reached: bool,
}

enum State {
    /// The last attempt failed.
    Pausing(Deadline),
    /// The kernel is connecting.
    Connecting(TcpStream),
    /// The hello is out.
    Asked(Stream, Reader),
    /// Proven; none once the socket has been taken.
    Met(Option<Stream>),
}

impl Dialer {
    /// Begins the first attempt at once.
    pub fn new(
        peer: Peer,
        addr: SocketAddr,
        hello: Verdict,
        options: &RingOptions,
        keys: Option<RingKeys>,
    ) -> Result<Self, CollectiveError> {
        let mut dialer = Self {
            keys,
            peer,
            hello,
            addr,
            state: pause()?,
            last: None,
            reached: false,
        };
        dialer.start(options)?;
        Ok(dialer)
    }

    pub fn met(&self) -> bool {
        matches!(self.state, State::Met(_))
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The proven socket, if there is one.
    pub fn take_socket(&mut self) -> Option<Stream> {
        match &mut self.state {
            State::Met(socket) => socket.take(),
            _ => None,
        }
    }

    /// Why there is none.
    pub fn unreached(&self) -> Option<Unreached> {
        (!self.met()).then(|| Unreached {
            peer: self.peer,
            last: self.last.clone(),
        })
    }

    /// What to poll for, until the neighbour is met.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let (fd, flags) = match &self.state {
            State::Pausing(pause) => (pause.fd(), PollFlags::IN),
            State::Connecting(socket) => (socket.as_fd(), PollFlags::OUT),
            State::Asked(socket, _) => (socket.as_fd(), PollFlags::IN),
            State::Met(_) => return None,
        };
        Some(PollFd::from_borrowed_fd(fd, flags))
    }

    /// Goes on, after the poll said that it can.
    ///
    /// # Errors
    /// [`CollectiveError::Handshake`] if the neighbour can't form a ring with this rank,
    /// [`CollectiveError::NeighbourGone`] if it has left.
    pub fn advance(
        &mut self,
        ours: &Introduction,
        options: &RingOptions,
    ) -> Result<(), CollectiveError> {
        match std::mem::replace(&mut self.state, pause()?) {
            State::Pausing(_) => self.start(options),
            State::Met(socket) => {
                self.state = State::Met(socket);
                Ok(())
            }
            State::Connecting(socket) => {
                let connected = match socket.take_error() {
                    Ok(None) => {
                        self.reached = true;
                        let tls = self.keys.as_ref().map(|keys| keys.call(self.peer.rank));
                        let stream = Stream::new(socket, tls.transpose().map_err(no_tls)?);
                        ours.write(self.hello, &stream).map(|()| stream)
                    }
                    Ok(Some(error)) | Err(error) => Err(error),
                };
                match connected {
                    Ok(stream) => {
                        self.state = State::Asked(stream, Reader::new());
                        Ok(())
                    }
                    Err(error) => self.failed(error),
                }
            }
            State::Asked(socket, mut reader) => match reader.read(&socket) {
                Heard::Partial => {
                    self.state = State::Asked(socket, reader);
                    Ok(())
                }
                Heard::Message(Verdict::Hello | Verdict::HelloDirect, _) => {
                    self.failed(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it says hello where an answer is due",
                    ))
                }
                Heard::Message(verdict, theirs) => {
                    let checked = ours.check(self.peer.rank, &theirs);
                    let mismatch = match (verdict, checked) {
                        (Verdict::Accepted, Ok(())) => {
                            self.state = State::Met(Some(socket));
                            return Ok(());
                        }
                        (_, Err(mismatch)) => mismatch,
                        (_, Ok(())) => Mismatch::Unstated,
                    };
                    Err(self.mismatch(mismatch))
                }
                Heard::OtherProtocol(got) => Err(self.mismatch(Mismatch::Protocol {
                    expected: PROTOCOL,
                    got,
                })),
                Heard::Stranger(error) => match self.keys {
                    None => self.failed(error),
                    Some(_) => self.failed_under_tls(error),
                },
            },
        }
    }

    fn start(&mut self, options: &RingOptions) -> Result<(), CollectiveError> {
        match dial(self.addr, options) {
            Ok(socket) => {
                self.state = State::Connecting(socket);
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    /// Another attempt will follow, unless the neighbour's listener has gone for good: it listened
    /// before its address was known, and once.
    fn failed(&mut self, error: io::Error) -> Result<(), CollectiveError> {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let error = Arc::new(error);
        self.state = pause()?;
        self.last = Some(error.clone());
        if self.reached && refused {
            return Err(CollectiveError::NeighbourGone {
                peer: self.peer,
                source: error,
            });
        }
        Ok(())
    }

    /// A peer that proves to be another, or that doesn't take this rank for the one that it is, will do
    /// so again.
    fn failed_under_tls(&mut self, error: io::Error) -> Result<(), CollectiveError> {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
                Err(CollectiveError::Untrusted {
                    peer: self.peer,
                    source: Arc::new(error),
                })
            }
            _ if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
            {
                let what = "it hung up under TLS: do both ranks have keys?";
                self.failed(io::Error::new(error.kind(), what))
            }
            _ => self.failed(error),
        }
    }

    fn mismatch(&self, mismatch: Mismatch) -> CollectiveError {
        CollectiveError::Handshake {
            peer: self.peer,
            mismatch,
        }
    }
}

pub(super) fn no_tls(error: rustls::Error) -> CollectiveError {
    CollectiveError::system("begin TLS", io::Error::other(error))
}

fn pause() -> Result<State, CollectiveError> {
    Deadline::after(PAUSE)
        .map(State::Pausing)
        .map_err(|error| CollectiveError::system("start a timer", error))
}
