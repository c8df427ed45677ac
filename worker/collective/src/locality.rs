//! From sockets to shared memory, where all ranks turn out to be on one host.
//!
//! A ring is always joined over TCP first, since addresses are all that a coordinator hands out.
//! Then the ranks compare *where* they are: the boot of the kernel, the network name space and the
//! user ([`place`]). If all are equal, abstract Unix sockets and descriptors pass between any two of
//! them, and they join again in shared memory. Every rank decides by the same bytes, so that all
//! move or none does.

use ringfold_common::ids::Rank;

use crate::transport::shared::{SHARED_WORLD_MAX, SharedHost, join_shared};
use crate::{CollectiveError, Ring, RingOptions};

/// Bytes of the name that rank 0 listens under, padded with zeros; all zeros if it can't.
const ADDRESS_BYTES: usize = 96;
/// Bytes that say where a rank is; all zeros if it doesn't know.
const PLACE_BYTES: usize = 128;

impl Ring {
    /// The same ring in shared memory if all ranks are processes of one user on one host, and this
    /// one otherwise. All ranks must call it, with the same options.
    ///
    /// # Errors
    /// As [`all_gather`](Ring::all_gather) and
    /// [`Listener::connect_ring`](crate::Listener::connect_ring).
    pub fn into_nearest(self, options: RingOptions) -> Result<Self, CollectiveError> {
        self.into_nearest_of(options, place())
    }

    /// [`into_nearest`](Self::into_nearest) for a rank at `here`.
    fn into_nearest_of(
        mut self,
        options: RingOptions,
        here: [u8; PLACE_BYTES],
    ) -> Result<Self, CollectiveError> {
        let world = self.world();
        if world == 1 || world > SHARED_WORLD_MAX || self.is_shared() {
            return Ok(self);
        }
        let places = self.all_gather_bytes(&here)?;
        if here == [0; PLACE_BYTES] || places.iter().any(|place| *place != here) {
            return Ok(self);
        }
        let host = if self.rank() == Rank(0) {
            SharedHost::bind().ok()
        } else {
            None
        };
        let mut address = [0; ADDRESS_BYTES];
        let name = host.as_ref().map_or("", SharedHost::address).as_bytes();
        if name.len() <= ADDRESS_BYTES {
            address[..name.len()].copy_from_slice(name);
        }
        self.broadcast(Rank(0), &mut address[..])?;
        let end = address.iter().position(|&byte| byte == 0);
        let name = String::from_utf8_lossy(&address[..end.unwrap_or(ADDRESS_BYTES)]).into_owned();
        if name.is_empty() {
            return Ok(self);
        }
        let (identity, abort) = (*self.identity(), self.abort.clone());
        // The sockets stay open until all have joined: a rank that fails is missed at once.
        match host {
            Some(host) => host.connect_ring(identity, options, abort),
            None => join_shared(&name, identity, options, abort),
        }
    }
}

/// Where this process is: equal for two processes exactly if they see one name space of abstract
/// sockets, as one user. All zeros if the system doesn't say.
fn place() -> [u8; PLACE_BYTES] {
    let mut place = [0; PLACE_BYTES];
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let network = std::fs::read_link("/proc/self/ns/net");
    if let (Ok(boot), Ok(network)) = (boot, network) {
        let user = rustix::process::geteuid().as_raw();
        let text = format!("{} {} {user}", boot.trim(), network.display());
        if text.len() <= PLACE_BYTES {
            place[..text.len()].copy_from_slice(text.as_bytes());
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::join;

    fn moved(places: &[u8]) -> Vec<bool> {
        let rings = join(places.len() as u32, RingOptions::default());
        std::thread::scope(|scope| {
            let ranks = rings.into_iter().zip(places);
            let ranks: Vec<_> = ranks
                .map(|((ring, _), &place)| {
                    scope.spawn(move || {
                        let options = RingOptions::default();
                        let mut ring = ring.into_nearest_of(options, [place; PLACE_BYTES]).unwrap();
                        let mut values = [f32::from(ring.rank().0 as u8), 1.0];
                        ring.all_reduce_sum_f32(&mut values).unwrap();
                        let world = ring.world() as f32;
                        assert_eq!(values, [world * (world - 1.0) / 2.0, world]);
                        ring.is_shared()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_of_one_host_move_to_shared_memory_and_others_stay() {
        assert_eq!(moved(&[7, 7, 7]), [true; 3]);
        assert_eq!(moved(&[7, 7, 8]), [false; 3]);
        assert_eq!(moved(&[7]), [false]);
        // Nobody knows where it is.
        assert_eq!(moved(&[0, 0]), [false; 2]);
    }

    #[test]
    fn this_process_knows_where_it_is() {
        assert_ne!(place(), [0; PLACE_BYTES]);
        assert_eq!(place(), place());
    }
}
