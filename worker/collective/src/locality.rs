//! The nearest medium: which ranks share a host, and what a ring of them is best made of.
//!
//! Addresses are all that a coordinator hands out, so neighbours always meet over TCP first. Around
//! that ring the ranks compare *where* they are: the boot of the kernel, the network name space, the
//! user and the host's name ([`place`]). If two places are equal, abstract Unix sockets and
//! descriptors pass between the two. Then
//!
//! - ranks that are all on one host join again in shared memory, and the sockets go;
//! - others connect beside the ring, measure what their links cost, and
//! - if some of them share a host, they add [levels](crate::hierarchy): shared memory inside hosts and
//!   a ring between hosts, which an all-reduce takes where that should cost less.
//!
//! Every rank decides by the same bytes, so that all do the same. Nothing is connected that is not
//! used.

use std::net::SocketAddr;

use ringfold_common::clock::Clock;
use ringfold_common::ids::Rank;

use crate::algorithm::Kind;
use crate::algorithm::cost::{LinkCost, Medium, levels_may_pay};
use crate::hierarchy::Levels;
use crate::over_tcp::{self, Net};
use crate::topology::{Hosts, RingTopology};
use crate::transport::shared::{SHARED_WORLD_MAX, SharedHost, half_bytes, join_shared};
use crate::transport::tcp::{Call, TcpLink};
use crate::{AbortSignal, CollectiveError, Identity, Listener, Ring, RingOptions};

/// Bytes in which a rank says where it is, or how it is reached, padded with zeros; all zeros if it
/// doesn't know.
const RECORD_BYTES: usize = 192;

pub(crate) type Record = [u8; RECORD_BYTES];

/// What [`Listener::connect_nearest`] looks at.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The name of this rank's host. Ranks with different names share no memory.
    pub host: &'a str,
    /// What links cost.
    pub links: Links<'a>,
}

/// Where a ring knows from what its links over TCP cost.
#[derive(Clone, Copy)]
pub enum Links<'a> {
    /// From [measuring](Ring::measure_link) them, by this clock.
    Measured(&'a dyn Clock),
    /// From the caller. The same at all ranks.
    Known(LinkCost),
}

impl Listener {
    /// Joins the ring as [`connect_ring`](Self::connect_ring) does, by the nearest medium: in shared
    /// memory if all ranks are processes of one user on one host; over TCP if not, with
    /// [levels](Ring::is_on_levels) if some of them are. All ranks must call it, with the same options
    /// and the same kind of [`Links`].
    ///
    /// # Errors
    /// As [`connect_ring`](Self::connect_ring) and [`Ring::all_gather`]; an error in the exchange of
    /// places names operation 0.
    pub fn connect_nearest(
        self,
        identity: Identity,
        peers: &[SocketAddr],
        options: RingOptions,
        abort: AbortSignal,
        around: Surroundings<'_>,
    ) -> Result<Ring, CollectiveError> {
        let topology = self.validate(&identity, peers, &options)?;
        abort.check()?;
        if topology.world() == 1 {
            return Ok(Ring::new(identity, topology, None, abort));
        }
        let here = place(around.host);
        let (ip, keys) = (self.addr().ip(), self.keys().cloned());
        let listen = |hosts: &Hosts| {
            let listener = Listener::bind(ip)?;
            Ok(match keys {
                Some(keys) => listener.with_keys(keys.of(hosts.leaders())),
                None => listener,
            })
        };
        let (meeting, mut link) = self.meet(topology, identity, peers, &options, abort.clone())?;
        let hosts = hosts_of(&exchange(topology, &mut link, &here)?);

        let together = hosts.leaders().len() == 1 && hosts.world() <= SHARED_WORLD_MAX;
        if together {
            let host = match topology.rank() {
                Rank(0) => SharedHost::bind().ok(),
                _ => None,
            };
            let name = record(host.as_ref().map_or("", SharedHost::address));
            let names = exchange(topology, &mut link, &name)?;
            // The sockets stay open until all have joined: a rank that fails is missed at once.
            match (host, text(&names[0])) {
                // Rank 0 can't listen.
                (_, "") => {}
                (Some(host), _) => return host.connect_ring(identity, options, abort),
                (None, name) => return join_shared(name, identity, options, abort),
            }
        }

        if options.direct {
            meeting.meet_directly(&mut link)?;
        }
        let mut net = Net::new(link);
        let call = joining(topology.world());
        match around.links {
            Links::Measured(clock) => net.measure(topology, call, clock)?,
            Links::Known(cost) => net.set_cost(cost),
        }
        let shared = (half_bytes(options.segment_bytes), LinkCost::SHARED);
        if !together && levels_may_pay(&hosts, shared, net.medium(), net.cost()) {
            let levels = Levels::join(hosts, identity, listen, options, abort.clone(), |record| {
                exchange(topology, net.link_mut(), record)
            })?;
            net.add_levels(levels);
        }
        Ok(Ring::new(identity, topology, Some(net), abort))
    }
}

/// The call under which ranks tell each other what they need to know before the first one.
fn joining(world: u32) -> Call {
    Call {
        operation: 0,
        kind: Kind::AllGather,
        bytes: u64::from(world) * RECORD_BYTES as u64,
    }
}

/// The records of all ranks, in rank order.
fn exchange(
    ring: RingTopology,
    link: &mut TcpLink,
    mine: &Record,
) -> Result<Vec<Record>, CollectiveError> {
    let world = ring.world();
    let mut all = vec![[0; RECORD_BYTES]; world as usize];
    all[ring.rank().0 as usize] = *mine;
    over_tcp::around_the_ring(ring, link, joining(world), all.as_flattened_mut())?;
    Ok(all)
}

/// Who shares a host: those in one place. A rank that doesn't know its place is alone.
fn hosts_of(places: &[Record]) -> Hosts {
    let host_of = |(rank, place): (usize, &Record)| match place {
        [0, ..] => rank,
        _ => places
            .iter()
            .position(|other| other == place)
            .unwrap_or(rank),
    };
    let host_of: Vec<u32> = places
        .iter()
        .enumerate()
        .map(|p| host_of(p) as u32)
        .collect();
    Hosts::new(&host_of)
}

/// `text`, or nothing if it is too long.
pub(crate) fn record(text: &str) -> Record {
    let mut record = [0; RECORD_BYTES];
    if text.len() <= RECORD_BYTES {
        record[..text.len()].copy_from_slice(text.as_bytes());
    }
    record
}

/// What [`record`] was made of; nothing if it isn't text.
pub(crate) fn text(record: &Record) -> &str {
    let end = record.iter().position(|&byte| byte == 0);
    std::str::from_utf8(&record[..end.unwrap_or(RECORD_BYTES)]).unwrap_or("")
}

/// Where this process is: equal for two processes exactly if they see one name space of abstract
/// sockets, as one user, and their hosts have one name. Empty if the system doesn't say.
fn place(host: &str) -> Record {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let network = std::fs::read_link("/proc/self/ns/net");
    let (Ok(boot), Ok(network)) = (boot, network) else {
        return [0; RECORD_BYTES];
    };
    let user = rustix::process::geteuid().as_raw();
    // The name comes last: of a name that is too long, the beginning counts.
    let mut place = format!("{} {} {user} {host}", boot.trim(), network.display());
    let mut end = place.len().min(RECORD_BYTES);
    while !place.is_char_boundary(end) {
        end -= 1;
    }
    place.truncate(end);
    record(&place)
}

impl Ring {
    /// True if all-reduces may go by levels: shared memory inside hosts, TCP between their leaders.
    #[must_use]
    pub fn is_on_levels(&self) -> bool {
        self.net().is_some_and(Net::has_levels)
    }

    /// What the links of this ring are taken to cost: as [measured](Self::measure_link), or
    /// [`LinkCost::of`].
    #[must_use]
    pub fn link_cost(&self) -> LinkCost {
        self.net().map_or(LinkCost::of(self.medium()), Net::cost)
    }

    /// Measures what links cost, over TCP, and chooses ways by it from here on. Buffers of sockets
    /// are set to what the links hold. In shared memory, where ways don't depend on it, it does
    /// nothing. All ranks must call it.
    ///
    /// # Errors
    /// As [`barrier`](Self::barrier).
    pub fn measure_link(&mut self, clock: &dyn Clock) -> Result<LinkCost, CollectiveError> {
        if matches!(self.medium(), Medium::Tcp | Medium::TcpDirect) {
            self.measure(clock)?;
        }
        Ok(self.link_cost())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::cost::Way;
    use crate::testing::{identity, listener, on_threads};
    use crate::{PIECE_BYTES, Reduce};
    use ringfold_common::clock::SystemClock;

    /// Joins ranks on hosts of these names, and returns whether they are in shared memory and whether
    /// on levels.
    fn joined(hosts: &[&str]) -> Vec<(bool, bool)> {
        let world = hosts.len() as u32;
        let listeners: Vec<Listener> = hosts.iter().map(|_| listener()).collect();
        let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
        let ranks = (0..world).zip(listeners).zip(hosts).collect();
        on_threads(ranks, |((rank, listener), host)| {
            let clock = SystemClock::new();
            let around = Surroundings {
                host,
                links: Links::Measured(&clock),
            };
            let abort = AbortSignal::new().unwrap();
            let options = RingOptions::default();
            let mut ring = listener
                .connect_nearest(identity(rank, world), &peers, options, abort, around)
                .unwrap();
            for elements in [1, 3, 1000, 200_000, 3_000_000] {
                let mut values = vec![rank as f32 + 1.0; elements];
                ring.all_reduce(&mut values, Reduce::Sum).unwrap();
                let sum = (world * (world + 1) / 2) as f32;
                assert!(values.iter().all(|&value| value == sum));
            }
            assert_eq!(ring.metrics().operations, 5);
            (ring.is_shared(), ring.is_on_levels())
        })
    }

    #[test]
    fn ranks_of_one_host_share_memory_and_others_connect() {
        assert_eq!(joined(&["a", "a", "a"]), [(true, false); 3]);
        assert_eq!(joined(&["a", "b"]), [(false, false); 2]);
        assert_eq!(joined(&["a"]), [(false, false)]);
    }

    #[test]
    fn hosts_of_several_ranks_add_levels_and_all_ranks_sum_alike() {
        for hosts in [
            &["a", "a", "b", "b"][..],
            &["a", "b", "a"],
            &["c", "c", "c", "b", "b", "a"],
        ] {
            let all = joined(hosts);
            assert!(all.iter().all(|&(shared, _)| !shared));
            assert!(all.iter().all(|got| *got == all[0]), "{hosts:?}");
        }
    }

    /// Joins ranks on levels that pay for every vector of at least 1 MiB, whatever was measured.
    fn on_levels<T: Send>(hosts: &[&str], body: impl Fn(Ring) -> T + Sync) -> Vec<T> {
        let world = hosts.len() as u32;
        let listeners: Vec<Listener> = hosts.iter().map(|_| listener()).collect();
        let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
        let ranks = (0..world).zip(listeners).zip(hosts).collect();
        on_threads(ranks, |((rank, listener), host)| {
            // 1 Gb/s, of which levels need less than a ring of all ranks.
            let cost = LinkCost {
                alpha_seconds: 100e-6,
                beta_seconds_per_byte: 8e-9,
                ..LinkCost::LOOPBACK
            };
            let links = Links::Known(cost);
            let around = Surroundings { host, links };
            let abort = AbortSignal::new().unwrap();
            let options = RingOptions::default();
            let ring = listener
                .connect_nearest(identity(rank, world), &peers, options, abort, around)
                .unwrap();
            assert!(ring.is_on_levels());
            assert_eq!(ring.explain(4 << 20).way, Way::Levels);
            body(ring)
        })
    }

    #[test]
    fn sums_means_and_extremes_on_levels_are_those_of_all_ranks() {
        for hosts in [
            &["a", "a", "b", "b", "b"][..],
            &["c", "a", "c", "a", "c", "b"],
        ] {
            let world = hosts.len() as u32;
            let sum = world * (world + 1) / 2;
            // One piece, and two.
            for elements in [1 << 20, PIECE_BYTES / 4 + 3] {
                on_levels(hosts, |mut ring| {
                    let mine = ring.rank().0 + 1;
                    for round in 1..=3 {
                        let mut values = vec![mine as f32 * round as f32; elements];
                        ring.all_reduce(&mut values, Reduce::Sum).unwrap();
                        assert!(values.iter().all(|&v| v == (sum * round) as f32));
                    }
                    let mut values = vec![f64::from(mine); elements / 2];
                    ring.all_reduce(&mut values, Reduce::Mean).unwrap();
                    let mean = f64::from(sum) / f64::from(world);
                    assert!(values.iter().all(|&value| value == mean));
                    let mut values = vec![mine as i32; elements];
                    ring.all_reduce(&mut values, Reduce::Max).unwrap();
                    assert!(values.iter().all(|&value| value == world as i32));
                    ring.barrier().unwrap();
                });
            }
        }
    }

    #[test]
    fn a_rank_that_leaves_fails_all_hosts_by_its_number_in_the_world() {
        let errors = on_levels(&["a", "b", "a", "b"], |mut ring| {
            let mut values = vec![1.0_f32; 1 << 20];
            ring.all_reduce(&mut values, Reduce::Sum).unwrap();
            if ring.rank() == Rank(3) {
                return None;
            }
            ring.keep_operands(true);
            let error = ring.all_reduce(&mut values, Reduce::Sum).unwrap_err();
            assert!(values.iter().all(|&value| value == 4.0));
            Some(error)
        });
        for error in errors.iter().take(3) {
            let error = error.as_ref().unwrap();
            let words = error.to_string();
            assert!(
                words.contains("operation 2 (all-reduce sum f32)"),
                "{words}"
            );
            assert_eq!(error.accused().len(), 1, "{words}");
        }
        // Rank 1 shares its host, and rank 0 hears of rank 1.
        assert_eq!(errors[1].as_ref().unwrap().accused(), [Rank(3)]);
        assert_eq!(errors[0].as_ref().unwrap().accused(), [Rank(1)]);
        assert_eq!(errors[2].as_ref().unwrap().accused(), [Rank(0)]);
    }

    #[test]
    fn ranks_that_do_not_know_where_they_are_are_alone() {
        let places = [record(""), record("x"), record(""), record("x")];
        assert_eq!(hosts_of(&places).sizes(), [1, 2, 1]);
    }

    #[test]
    fn this_process_knows_where_it_is() {
        assert_ne!(place("a"), [0; RECORD_BYTES]);
        assert_eq!(place("a"), place("a"));
        assert_ne!(place("a"), place("b"));
        assert_ne!(place(&"é".repeat(300)), [0; RECORD_BYTES]);
    }
}
