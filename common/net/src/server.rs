//! A bound listener and a server builder with caps.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

use crate::limits;
use crate::request_id::RequestIdLayer;

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the port.
    #[error("can't listen on {address}: the port is in use by another process")]
    PortInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("can't listen on {address}")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds a listener; port 0 takes any free port. Returns the address that it really has.
///
/// # Errors
/// If the address can't be had.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse { address },
        _ => BindError::Other { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A server builder with the caps of [`limits`] and request ids.
#[must_use]
pub fn builder() -> Server<Stack<RequestIdLayer, Identity>> {
    Server::builder()
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(limits::HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(limits::PING_INTERVAL))
        .http2_keepalive_timeout(Some(limits::PING_TIMEOUT))
        .tcp_nodelay(true)
        .layer(RequestIdLayer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = bind(address).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("can't listen on {address}: the port is in use by another process")
        );
    }
}
