//! How long a rank looks for its sockets to be ready before it sleeps.
//!
//! To sleep and be woken takes tens of microseconds, more than a short message does: so a rank first
//! looks for about as long. Where that comes to nothing (a slow link, a peer that computes), it looks
//! less and less often, so that it costs next to nothing; the first look that pays brings it back.
//! Ranks that share cores, and threads that run beside a computation, never look: they would take the
//! core that they wait for.

use std::cell::Cell;
use std::net::SocketAddr;

use crate::topology::RingTopology;

/// Looks before a sleep: some tens of microseconds, as one takes half of one.
const LOOKS: u32 = 80;
/// The most waits in a row that sleep at once.
const PASS_MAX: u32 = 63;

/// One thread at a time has it.
#[derive(Debug)]
pub(crate) struct Patience {
    looks: u32,
    /// Off while its thread runs beside a computation.
    pub may_spin: bool,
    /// Waits that sleep at once before one looks again.
    pass: Cell<u32>,
    /// As many as that was the last time.
    passed: Cell<u32>,
}

impl Patience {
    /// That of a rank that sleeps at once.
    pub const fn none() -> Self {
        Self {
            looks: 0,
            may_spin: true,
            pass: Cell::new(0),
            passed: Cell::new(0),
        }
    }

    /// That of a rank whose peers have these addresses: ranks of one address share the cores of one host.
    pub fn of(topology: RingTopology, peers: &[SocketAddr]) -> Self {
        let own = peers[topology.rank().0 as usize].ip();
        let here = peers.iter().filter(|peer| peer.ip() == own).count();
        match have_cores(here) {
            true => Self {
                looks: LOOKS,
                ..Self::none()
            },
            false => Self::none(),
        }
    }

    /// How often the wait that begins now looks before it sleeps.
    pub fn looks(&self) -> u32 {
        match self.pass.get() {
            _ if !self.may_spin => 0,
            0 => self.looks,
            pass => {
                self.pass.set(pass - 1);
                0
            }
        }
    }

    /// Looking has paid.
    pub fn paid(&self) {
        self.passed.set(0);
    }

    /// It has come to nothing: twice as many waits, and one, pass until the next look.
    pub fn came_to_nothing(&self) {
        let pass = (2 * self.passed.get() + 1).min(PASS_MAX);
        self.passed.set(pass);
        self.pass.set(pass);
    }
}

/// True if so many ranks of this host can have a core each.
pub(crate) fn have_cores(ranks: usize) -> bool {
    ranks <= std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfold_common::ids::Rank;

    fn peers(hosts: &[u8]) -> Vec<SocketAddr> {
        let peer = |host: &u8| SocketAddr::from(([10, 0, 0, *host], 1));
        hosts.iter().map(peer).collect()
    }

    #[test]
    fn ranks_that_share_cores_sleep_at_once() {
        let looks = |hosts: &[u8], rank| {
            let topology = RingTopology::new(Rank(rank), hosts.len() as u32).unwrap();
            Patience::of(topology, &peers(hosts)).looks()
        };
        let mut crowded = vec![1; std::thread::available_parallelism().unwrap().get() + 1];
        assert_eq!(looks(&crowded, 0), 0);
        crowded.push(2);
        assert_eq!(looks(&crowded, crowded.len() as u32 - 1), LOOKS);
        assert_eq!(Patience::none().looks(), 0);
    }

    #[test]
    fn who_looks_in_vain_looks_less_often_until_it_pays() {
        let mut patience = Patience {
            looks: 5,
            ..Patience::none()
        };
        let mut looked = Vec::new();
        for wait in 0..300 {
            if patience.looks() > 0 {
                looked.push(wait);
                patience.came_to_nothing();
            }
        }
        // One more than 1, 3, 7, 15, 31 and then 63 waits between two.
        assert_eq!(looked, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
        while patience.looks() == 0 {}
        patience.paid();
        assert_eq!(patience.looks(), 5);
        patience.came_to_nothing();
        assert_eq!((patience.looks(), patience.looks()), (0, 5));
        patience.may_spin = false;
        assert_eq!(patience.looks(), 0);
    }
}
