//! The port that a rank registers.

use std::net::{IpAddr, SocketAddr, TcpListener};

use super::connect::{Meeting, meet_neighbours};
use super::session::TcpLink;
use super::tls::RingKeys;
use crate::identity::validate;
use crate::over_tcp::Net;
use crate::topology::RingTopology;
use crate::{AbortSignal, CollectiveError, Identity, Ring, RingOptions};

/// An open port, on which one ring can be joined.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    addr: SocketAddr,
    keys: Option<RingKeys>,
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
        Ok(Self {
            listener,
            addr,
            keys: None,
        })
    }

    /// All connections of the ring are to be under TLS, by these keys. Ranks in shared memory have no
    /// connections.
    #[must_use]
    pub fn with_keys(mut self, keys: RingKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// The keys, if there are any.
    pub(crate) fn keys(&self) -> Option<&RingKeys> {
        self.keys.as_ref()
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
    /// - [`Untrusted`](CollectiveError::Untrusted), if there are [keys](Self::with_keys);
    /// - [`ConnectDeadline`](CollectiveError::ConnectDeadline), which says who was missing;
    /// - [`Aborted`](CollectiveError::Aborted); [`System`](CollectiveError::System).
    pub fn connect_ring(
        self,
        identity: Identity,
        peers: &[SocketAddr],
        options: RingOptions,
        abort: AbortSignal,
    ) -> Result<Ring, CollectiveError> {
        let topology = self.validate(&identity, peers, &options)?;
        abort.check()?;
        if topology.world() == 1 {
            return Ok(Ring::new(identity, topology, None, abort));
        }
        let (meeting, mut link) = self.meet(topology, identity, peers, &options, abort.clone())?;
        if options.direct {
            meeting.meet_directly(&mut link)?;
        }
        Ok(Ring::new(identity, topology, Some(Net::new(link)), abort))
    }

    /// Checks everything that the caller chose.
    pub(crate) fn validate(
        &self,
        identity: &Identity,
        peers: &[SocketAddr],
        options: &RingOptions,
    ) -> Result<RingTopology, CollectiveError> {
        let topology = validate(identity, peers, options)?;
        match self.keys.as_ref().map(RingKeys::world) {
            Some(got) if got != peers.len() => Err(CollectiveError::KeyCount {
                world: identity.world,
                got,
            }),
            _ => Ok(topology),
        }
    }

    /// Meets the neighbours. Everything passed in has been validated.
    pub(crate) fn meet<'a>(
        self,
        topology: RingTopology,
        identity: Identity,
        peers: &'a [SocketAddr],
        options: &'a RingOptions,
        abort: AbortSignal,
    ) -> Result<(Meeting<'a>, TcpLink), CollectiveError> {
        let listening = (self.listener, self.keys);
        meet_neighbours(listening, topology, identity, peers, options, abort)
    }
}
