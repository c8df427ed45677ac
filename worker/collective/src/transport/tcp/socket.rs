//! Sockets as the ring wants them, and `poll`.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::{CollectiveError, RingOptions};

/// An idle connection is probed after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// … this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// Waits until one of `fds` is ready; 0 means that `timeout` passed. Signals don't end it.
pub(crate) fn poll(
    fds: &mut [PollFd<'_>],
    timeout: Option<&Timespec>,
) -> Result<usize, CollectiveError> {
    loop {
        match rustix::event::poll(fds, timeout) {
            Ok(ready) => return Ok(ready),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(CollectiveError::system("poll sockets", errno)),
        }
    }
}

/// A non-blocking socket that has begun to connect to `addr`. It becomes writable when it has
/// connected or failed; `take_error` then tells which.
pub(super) fn dial(addr: SocketAddr, options: &RingOptions) -> io::Result<TcpStream> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = TcpStream::from(new_socket(family)?);
    tune(&socket, options)?;
    match rustix::net::connect(&socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the options of a connection, before or after it is connected.
pub(super) fn tune(socket: &TcpStream, options: &RingOptions) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    if let Some(bytes) = options.socket_buffer_bytes {
        sockopt::set_socket_send_buffer_size(socket, bytes)?;
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    Ok(())
}

/// A TCP socket that child processes don't inherit.
#[cfg(target_os = "linux")]
fn new_socket(family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// A TCP socket that child processes don't inherit, but for one that starts at this very moment.
#[cfg(not(target_os = "linux"))]
fn new_socket(family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}
