//! Sockets as the ring wants them, and `poll`.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, sockopt};

use crate::{CollectiveError, RingOptions};

/// An idle connection is probed after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// … this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// The end of a connection is an error and not a signal. Where there is no such flag, sockets have an
/// option.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

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
    #[cfg(target_vendor = "apple")]
    sockopt::set_socket_nosigpipe(socket, true)?;
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

/// What the system lets a socket's buffer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferLimits {
    /// As it tunes buffers itself.
    pub tuned: usize,
    /// As a program may set them.
    pub settable: usize,
}

impl BufferLimits {
    /// Of buffers to send and to receive, whichever is less; none if the system doesn't say.
    pub fn of_system() -> Option<Self> {
        let last = |path: &str| -> Option<usize> {
            let text = std::fs::read_to_string(path).ok()?;
            text.split_whitespace().last()?.parse().ok()
        };
        let least = |paths: [&str; 2]| Some(last(paths[0])?.min(last(paths[1])?));
        Some(Self {
            tuned: least(["/proc/sys/net/ipv4/tcp_wmem", "/proc/sys/net/ipv4/tcp_rmem"])?,
            settable: least(["/proc/sys/net/core/wmem_max", "/proc/sys/net/core/rmem_max"])?,
        })
    }
}

/// The buffers that a link needs which has so many bytes on its way (its bandwidth times its round
/// trip), if it is left to us: none where the system's own tuning reaches as far, or further than what
/// may be set. Twice the bytes on their way, so that a sender fills the link while its bytes are being
/// acknowledged.
pub(super) fn buffers_for(on_their_way: usize, limits: BufferLimits) -> Option<usize> {
    let wanted = on_their_way.saturating_mul(2);
    let set = wanted.min(limits.settable);
    (wanted > limits.tuned && set > limits.tuned).then_some(set)
}

/// Sets the kernel's buffers of a connected socket.
pub(super) fn set_buffers(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    sockopt::set_socket_send_buffer_size(socket, bytes)?;
    sockopt::set_socket_recv_buffer_size(socket, bytes)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_set_only_where_the_systems_own_are_too_short() {
        let limits = BufferLimits {
            tuned: 4 << 20,
            settable: 64 << 20,
        };
        // 10 Gb/s with 0.2 ms there and back.
        assert_eq!(buffers_for(250_000, limits), None);
        // 10 Gb/s with 10 ms.
        assert_eq!(buffers_for(12_500_000, limits), Some(25_000_000));
        assert_eq!(buffers_for(usize::MAX, limits), Some(64 << 20));
        let settable = 208 << 10;
        assert_eq!(
            buffers_for(12_500_000, BufferLimits { settable, ..limits }),
            None
        );
    }
}
