//! A connection to another rank: bytes as they are, or under TLS.
//!
//! One thread at a time uses it. Under TLS, bytes that were taken may still lie here until the socket
//! takes their ciphertext ([`owes`](Stream::owes)), at most [`TAKEN_MAX`] and what the handshake adds.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, sendmsg};
use rustls::Connection;

use super::socket::NO_SIGNAL;
use super::tls::{self, PublicKey};

/// The most bytes that are taken for TLS at once.
const TAKEN_MAX: usize = 64 << 10;

/// A non-blocking socket, and TLS on it if ranks have keys.
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<Mutex<Connection>>,
}

impl Stream {
    pub fn new(socket: TcpStream, tls: Option<Connection>) -> Self {
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(TAKEN_MAX));
            Mutex::new(connection)
        });
        Self { socket, tls }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The key that the other side holds, under TLS, once the handshake is over.
    pub fn key(&self) -> Option<PublicKey> {
        tls::shown(&*self.tls()?)
    }

    /// Closes both directions.
    pub fn shut_down(&self) {
        // A socket that is closed already is what we want.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// True if the socket has yet to take bytes that were written.
    pub fn owes(&self) -> bool {
        self.tls()
            .is_some_and(|connection| connection.wants_write())
    }

    /// Gives the socket what it is owed; false if it can't take all now.
    pub fn flush(&self) -> io::Result<bool> {
        match self.tls() {
            None => Ok(true),
            Some(mut connection) => self.flush_tls(&mut connection),
        }
    }

    /// Takes bytes to send: as many as the socket takes, or, under TLS, as fit here once all that was
    /// taken before has gone.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(mut connection) = self.tls() else {
            let mut control = SendAncillaryBuffer::default();
            return Ok(sendmsg(&self.socket, parts, &mut control, NO_SIGNAL)?);
        };
        if !self.flush_tls(&mut connection)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = connection.writer().write_vectored(parts)?;
        self.flush_tls(&mut connection)?;
        Ok(taken)
    }

    /// Reads what there is; 0 at the end.
    pub fn read(&self, target: &mut [u8]) -> io::Result<usize> {
        let Some(mut connection) = self.tls() else {
            return (&self.socket).read(target);
        };
        loop {
            match connection.reader().read(target) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
            if !self.hear(&mut connection)? {
                return Ok(0);
            }
        }
    }

    /// Looks at what there is without taking it; 0 at the end. Under TLS it may be less than what has
    /// come.
    pub fn peek(&self, target: &mut [u8]) -> io::Result<usize> {
        let Some(mut connection) = self.tls() else {
            return self.socket.peek(target);
        };
        loop {
            let mut reader = connection.reader();
            match reader.fill_buf() {
                Ok(there) => {
                    let len = there.len().min(target.len());
                    target[..len].copy_from_slice(&there[..len]);
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
            if !self.hear(&mut connection)? {
                return Ok(0);
            }
        }
    }

    /// Reads from the socket once; false at its end.
    fn hear(&self, connection: &mut Connection) -> io::Result<bool> {
        if connection.read_tls(&mut &self.socket)? == 0 {
            return Ok(false);
        }
        let processed = connection.process_new_packets();
        // An alert, or the handshake's next message.
        let flushed = self.flush_tls(connection);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        flushed?;
        Ok(true)
    }

    fn flush_tls(&self, connection: &mut Connection) -> io::Result<bool> {
        while connection.wants_write() {
            match connection.write_tls(&mut NoSignal(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn tls(&self) -> Option<MutexGuard<'_, Connection>> {
        let tls = self.tls.as_ref()?;
        Some(tls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        Stream::read(self, target)
    }
}

/// For handshakes, whose messages fit the buffers of a new connection.
impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut connection) = self.tls() else {
            return (&self.socket).write(bytes);
        };
        // Until both have proven who they are, it is kept here.
        let taken = connection.writer().write(bytes)?;
        self.flush_tls(&mut connection)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose end is an error and not a signal.
struct NoSignal<'a>(&'a TcpStream);

impl Write for NoSignal<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut control = SendAncillaryBuffer::default();
        match sendmsg(self.0, parts, &mut control, NO_SIGNAL) {
            Ok(moved) => Ok(moved),
            Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
