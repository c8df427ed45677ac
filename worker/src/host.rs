//! What this host is and has.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

/// A name that is taken for this host's, where it isn't empty: for trying several hosts on one.
const HOST_VARIABLE: &str = "RINGFOLD_HOST";

/// The host's name.
#[must_use]
pub fn host_name() -> String {
    if let Some(name) = std::env::var(HOST_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
    {
        return name;
    }
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// CPU cores that this process may use.
pub(crate) fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Memory of the host in bytes; 0 if unknown.
pub(crate) fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = info.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0).saturating_mul(1024)
}

/// This host's address on the route to `authority` (`HOST:PORT`). No packet is sent.
pub(crate) fn source_address(authority: &str) -> Option<IpAddr> {
    authority.to_socket_addrs().ok()?.find_map(|to| {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_to_loopback_starts_at_loopback() {
        assert_eq!(source_address("127.0.0.1:9"), Some([127, 0, 0, 1].into()));
        assert_eq!(source_address("not an address"), None);
    }

    #[test]
    fn the_host_has_a_name_and_a_core() {
        assert!(!host_name().is_empty());
        assert!(cores() >= 1);
    }
}
