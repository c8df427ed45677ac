//! The port that a rank registers.

use std::net::{IpAddr, SocketAddr, TcpListener};

use super::connect::connect;
use crate::identity::validate;
use crate::{AbortSignal, CollectiveError, Identity, Ring, RingOptions};

/// An open port, on which one ring can be joined.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Listens on a free port of `ip`, which should be an address under which the other ranks
    /// reach this one: the address with the port is what they are to be told.
    ///
    /// # Errors
    /// [`CollectiveError::System`] if the address is not this machine's.
    pub fn bind(ip: IpAddr) -> Result<Self, CollectiveError> {
        Self::bind_to(SocketAddr::new(ip, 0))
    }

    /// Listens on the port that `addr` names, for a ring whose addresses are fixed beforehand.
    ///
    /// # Errors
    /// [`CollectiveError::System`] if the address is taken, or not this machine's.
    pub fn bind_to(addr: SocketAddr) -> Result<Self, CollectiveError> {
        let failed = |error| CollectiveError::system("listen for ring neighbours", error);
        let listener = TcpListener::bind(addr).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Joins the ring: returns when both neighbours are connected and proven. `peers` are the
    /// addresses of all ranks in rank order. `abort` ends this call and every later one on the
    /// ring. A world of one needs no neighbour and uses no socket.
    ///
    /// # Errors
    /// - an [argument error](CollectiveError::is_argument);
    /// - [`Handshake`](CollectiveError::Handshake), also at the neighbour;
    /// - [`NeighbourGone`](CollectiveError::NeighbourGone);
    /// - [`ConnectDeadline`](CollectiveError::ConnectDeadline), which says who was missing;
    /// - [`Aborted`](CollectiveError::Aborted); [`System`](CollectiveError::System).
    pub fn connect_ring(
        self,
        identity: Identity,
        peers: &[SocketAddr],
        options: RingOptions,
        abort: AbortSignal,
    ) -> Result<Ring, CollectiveError> {
        let topology = validate(&identity, peers, &options)?;
        abort.check()?;
        let link = if topology.world() == 1 {
            None
        } else {
            let abort = abort.clone();
            let link = connect(self.listener, topology, identity, peers, &options, abort)?;
            Some(link)
        };
        Ok(Ring::new(identity, topology, link, abort))
    }
}
