//! Ranks that share hosts: shared memory inside a host, a ring of the hosts' leaders between them.
//!
//! A [`Hierarchy`] is made of a [`Ring`] of all ranks and a list that says which rank is on which
//! host ([`Hosts`]). A vector goes through it in pieces of [`PIECE_BYTES`]: the ranks of a host fold
//! theirs in shared memory, leaders fold those of hosts over TCP, and each hands the result to its
//! host. Every rank ends with the bytes of the leaders' ring.
//!
//! A failure of one of the two rings fails the other at once, so that the ranks of all hosts learn of
//! it. An operand is unspecified after an error.

use std::net::{IpAddr, SocketAddr};

use ringfold_common::ids::Rank;

use crate::element::divide;
use crate::topology::Hosts;
use crate::transport::shared::{SHARED_WORLD_MAX, SharedHost, join_shared};
use crate::{CollectiveError, Element, Identity, Listener, Reduce, Ring, RingOptions};

/// The bytes of a vector that pass the hierarchy at once. Ranks hear of their leader once a piece,
/// so that a [progress deadline](RingOptions::progress_deadline) must be longer than leaders take
/// for one.
pub const PIECE_BYTES: usize = 8 << 20;

/// Bytes of the name of a host's meeting point and of an address, padded with zeros.
const NAME_BYTES: usize = 96;
const ADDR_BYTES: usize = 64;

/// This rank's place among hosts, from [`Ring::into_hierarchy`]. Calls are made and fail as those of
/// [`Ring`].
pub struct Hierarchy {
    hosts: Hosts,
    rank: Rank,
    /// The ranks of this host; rank 0 of it is the leader.
    host: Ring,
    /// At a leader: those of all hosts.
    leaders: Option<Ring>,
}

impl Ring {
    /// The same ranks as a hierarchy. `host_of` says, by rank, the number of its host; ranks of a
    /// host must be processes of one user there, or of this process. A leader binds a port of `ip`,
    /// under which the other leaders reach it. All ranks must call it, with the same list and options.
    ///
    /// # Errors
    /// - [`AddressCount`](CollectiveError::AddressCount) unless there is one host a rank,
    ///   [`OptionOutOfRange`](CollectiveError::OptionOutOfRange) if one has more than
    ///   [`SHARED_WORLD_MAX`] ranks, having done nothing but to close this ring;
    /// - as [`all_gather`](Ring::all_gather) and [`Listener::connect_ring`].
    pub fn into_hierarchy(
        mut self,
        ip: IpAddr,
        host_of: &[u32],
        options: RingOptions,
    ) -> Result<Hierarchy, CollectiveError> {
        let hosts = self.check_hosts(host_of)?;
        let (rank, identity) = (self.rank(), *self.identity());
        let leads = hosts.leader(rank) == rank;
        let meeting = leads.then(SharedHost::bind).transpose()?;
        let listener = leads.then(|| Listener::bind(ip)).transpose()?;
        let record = record(meeting.as_ref(), listener.as_ref());
        let records = self.all_gather_bytes(&record)?;

        let local = Identity {
            rank: hosts.local_rank(rank),
            world: hosts.local_world(rank),
            ..identity
        };
        let host = match meeting {
            Some(meeting) => meeting.connect_ring(local, options, self.abort.clone())?,
            None => {
                let name = text(&records[hosts.leader(rank).0 as usize][..NAME_BYTES]);
                join_shared(&name, local, options, self.abort.clone())?
            }
        };
        let leaders = match listener {
            None => None,
            Some(listener) => {
                let among = Identity {
                    rank: hosts.host_index(rank),
                    world: hosts.leaders().len() as u32,
                    ..identity
                };
                let peers = addresses(&hosts, &records)?;
                Some(listener.connect_ring(among, &peers, options, self.abort.clone())?)
            }
        };
        // The first ring stays open until this rank has joined: one that fails is missed at once.
        Ok(Hierarchy {
            hosts,
            rank,
            host,
            leaders,
        })
    }

    fn check_hosts(&self, host_of: &[u32]) -> Result<Hosts, CollectiveError> {
        let world = self.world();
        if host_of.len() != world as usize {
            return Err(CollectiveError::AddressCount {
                world,
                got: host_of.len(),
            });
        }
        let hosts = Hosts::new(host_of);
        let most = (0..world).map(|rank| hosts.local_world(Rank(rank))).max();
        match most {
            Some(most) if most > SHARED_WORLD_MAX => Err(CollectiveError::OptionOutOfRange {
                option: "ranks of a host",
                got: most.to_string(),
                allowed: format!("at most {SHARED_WORLD_MAX}"),
            }),
            _ => Ok(hosts),
        }
    }
}

impl Hierarchy {
    /// Which rank is where.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// This rank, among all.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Folds `values` over all ranks, element by element. All ranks end with identical bytes.
    ///
    /// # Errors
    /// As [`Ring::all_reduce`]; the ranks in an error are those of this host, from 0 on, or of the
    /// ring of leaders.
    pub fn all_reduce<T: Element>(
        &mut self,
        values: &mut [T],
        reduce: Reduce,
    ) -> Result<(), CollectiveError> {
        // A mean of means would be wrong where hosts differ in size.
        let folded = match reduce {
            Reduce::Mean => Reduce::Sum,
            other => other,
        };
        let world = self.hosts.world();
        let piece = PIECE_BYTES / size_of::<T>();
        let pieces = values.len().div_ceil(piece).max(1);
        for at in 0..pieces {
            let end = values.len().min((at + 1) * piece);
            let part = &mut values[at * piece..end];
            let (host, leaders) = (&mut self.host, self.leaders.as_mut());
            Self::both(host, leaders, |host, leaders| {
                host.all_reduce(part, folded)?;
                if let Some(leaders) = leaders {
                    leaders.all_reduce(part, folded)?;
                }
                host.broadcast(Rank(0), part)
            })?;
        }
        if reduce == Reduce::Mean {
            divide(values, world);
        }
        Ok(())
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// As [`Ring::barrier`].
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        Self::both(&mut self.host, self.leaders.as_mut(), |host, leaders| {
            host.barrier()?;
            if let Some(leaders) = leaders {
                leaders.barrier()?;
            }
            host.barrier()
        })
    }

    /// Runs a part of an operation. If it fails, both rings do.
    fn both(
        host: &mut Ring,
        mut leaders: Option<&mut Ring>,
        run: impl FnOnce(&mut Ring, Option<&mut Ring>) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let result = run(host, leaders.as_deref_mut());
        if let Err(error) = &result
            && !error.is_argument()
        {
            host.fail(error);
            if let Some(leaders) = leaders {
                leaders.fail(error);
            }
        }
        result
    }
}

/// What a leader tells all: where its host meets, and where it listens.
fn record(
    meeting: Option<&SharedHost>,
    listener: Option<&Listener>,
) -> [u8; NAME_BYTES + ADDR_BYTES] {
    let mut record = [0; NAME_BYTES + ADDR_BYTES];
    let addr = listener.map(|listener| listener.addr().to_string());
    let texts = [meeting.map(SharedHost::address), addr.as_deref()];
    let (name_place, addr_place) = record.split_at_mut(NAME_BYTES);
    for (text, place) in texts.into_iter().zip([name_place, addr_place]) {
        let text = text.unwrap_or("").as_bytes();
        // Longer than any name or address is; whoever reads it then finds none.
        if text.len() <= place.len() {
            place[..text.len()].copy_from_slice(text);
        }
    }
    record
}

fn text(padded: &[u8]) -> String {
    let end = padded.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&padded[..end.unwrap_or(padded.len())]).into_owned()
}

fn addresses(
    hosts: &Hosts,
    records: &[[u8; NAME_BYTES + ADDR_BYTES]],
) -> Result<Vec<SocketAddr>, CollectiveError> {
    let leaders = hosts.leaders().iter();
    leaders
        .map(|leader| {
            let addr = text(&records[leader.0 as usize][NAME_BYTES..]);
            addr.parse().map_err(|_| {
                let what = format!("rank {leader} says that it listens at {addr:?}");
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
                CollectiveError::system("reach the leader of a host", error)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{join, on_threads};
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn on_hosts<T: Send>(host_of: &[u32], body: impl Fn(Hierarchy) -> T + Sync) -> Vec<T> {
        let rings = join(host_of.len() as u32, RingOptions::default());
        on_threads(rings, |(ring, _)| {
            let options = RingOptions::default();
            body(ring.into_hierarchy(HERE, host_of, options).unwrap())
        })
    }

    #[test]
    fn sums_and_means_are_those_of_all_ranks_wherever_they_are() {
        for host_of in [
            &[5][..],
            &[1, 1, 1],
            &[0, 1, 2, 3],
            &[0, 0, 1, 1, 1],
            &[9, 4, 9, 4, 9, 7],
        ] {
            let world = host_of.len() as u32;
            let sum = world * (world + 1) / 2;
            for elements in [0, 1, 100, 70_000] {
                on_hosts(host_of, |mut all| {
                    let mine = all.rank().0 + 1;
                    let mut values = vec![mine as f32; elements];
                    all.all_reduce(&mut values, Reduce::Sum).unwrap();
                    assert!(values.iter().all(|&value| value == sum as f32));
                    let mut values = vec![f64::from(mine); elements];
                    all.all_reduce(&mut values, Reduce::Mean).unwrap();
                    let mean = f64::from(sum) / f64::from(world);
                    assert!(values.iter().all(|&value| value == mean));
                    let mut values = vec![mine as i32; elements];
                    all.all_reduce(&mut values, Reduce::Max).unwrap();
                    assert!(values.iter().all(|&value| value == world as i32));
                    all.barrier().unwrap();
                });
            }
        }
    }

    #[test]
    fn vectors_of_several_pieces_are_summed_whole() {
        let elements = PIECE_BYTES / 4 + 3;
        on_hosts(&[0, 0, 1], |mut all| {
            let mut values: Vec<f32> = (0..elements).map(|i| (i % 7) as f32).collect();
            all.all_reduce(&mut values, Reduce::Sum).unwrap();
            let wrong = (0..elements).find(|&i| values[i] != 3.0 * (i % 7) as f32);
            assert_eq!(wrong, None);
        });
    }

    #[test]
    fn a_rank_that_leaves_fails_all_hosts() {
        let errors = on_hosts(&[0, 0, 1, 1], |mut all| {
            all.barrier().unwrap();
            if all.rank() == Rank(3) {
                return None;
            }
            Some(all.all_reduce(&mut [1.0_f32; 10], Reduce::Sum).unwrap_err())
        });
        for error in errors.iter().take(3).flatten() {
            assert!(!error.accused().is_empty(), "{error}");
        }
        assert_eq!(errors.iter().flatten().count(), 3);
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        let rings = join(2, RingOptions::default());
        on_threads(rings, |(ring, _)| {
            let made = ring.into_hierarchy(HERE, &[0], RingOptions::default());
            assert!(made.err().unwrap().is_argument());
        });
    }
}
