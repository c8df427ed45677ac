//! A client channel, and one clear error when nobody answers.

use std::error::Error as StdError;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::limits;

/// Why a channel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one.
    #[error(
        "{address:?} is not an address of a coordinator: expected HOST:PORT or http://HOST:PORT"
    )]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// Nobody answers there.
    #[error("can't reach a coordinator at {address}: {cause}")]
    Unreachable {
        /// The address.
        address: String,
        /// The innermost cause.
        cause: String,
    },
}

/// `HOST:PORT` or `http://HOST:PORT` as a URI.
///
/// # Errors
/// If it is neither.
pub fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let bad = || ConnectError::BadAddress {
        address: address.to_owned(),
    };
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let parsed: http::Uri = uri.parse().map_err(|_| bad())?;
    if parsed.scheme_str() != Some("http") || parsed.port().is_none() {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|_| bad())?;
    Ok(endpoint
        .connect_timeout(limits::CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits::PING_INTERVAL)
        .keep_alive_timeout(limits::PING_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// A connected channel.
///
/// # Errors
/// If the address is none, or nobody answers within [`limits::CONNECT_TIMEOUT`].
pub async fn connect(address: &str) -> Result<Channel, ConnectError> {
    let unreachable = |cause: String| ConnectError::Unreachable {
        address: address.to_owned(),
        cause,
    };
    let endpoint = endpoint(address)?;
    // The endpoint's own limit covers the TCP handshake; this one a peer that never speaks.
    let limit = limits::CONNECT_TIMEOUT + Duration::from_secs(1);
    match tokio::time::timeout(limit, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(innermost(&error))),
        Err(_) => Err(unreachable(format!(
            "no answer within {} s",
            limit.as_secs()
        ))),
    }
}

/// The text of the innermost cause, which says what the system said.
#[must_use]
pub fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_refused() {
        for address in [
            "",
            "host",
            "http://host",
            "ftp://h:1",
            "a b:1",
            "https://h:1",
        ] {
            assert!(
                matches!(endpoint(address), Err(ConnectError::BadAddress { .. })),
                "{address:?}"
            );
        }
        for address in ["127.0.0.1:1", "http://host:1", "[::1]:7000"] {
            assert!(endpoint(address).is_ok(), "{address:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_one_clear_message() {
        let (listener, address) = crate::server::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        drop(listener);
        let error = connect(&address.to_string()).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("can't reach a coordinator at {address}: "))
                && error.contains("refused"),
            "{error}"
        );
    }
}
