//! The algorithms in time, up to 1,024 ranks and without sockets: every message takes what
//! [`cost`](super::cost) says that a message takes, every rank does its verbs in order, and the last
//! one's end is compared with what is predicted for all.

use std::collections::VecDeque;
use std::ops::Range;

use ringfold_common::ids::Rank;

use super::cost::{LinkCost, Medium, Way, explain, predict};
use super::direct::{PeerVerbs, broadcast_tree, halving_doubling};
use super::{Phase, Verbs, all_reduce, broadcast};
use crate::CollectiveError;
use crate::topology::RingTopology;

/// Folding is so fast that the ring, which folds while it sends, needs no pipeline here.
const COST: LinkCost = LinkCost {
    gamma_seconds_per_byte: LinkCost::LOOPBACK.beta_seconds_per_byte / 100.0,
    ..LinkCost::LOOPBACK
};

#[derive(Clone, Debug)]
enum Verb {
    Send(Rank, usize),
    Recv(Rank, usize),
    /// What comes is folded.
    Fold(Rank, usize),
}

struct Script {
    ring: RingTopology,
    verbs: VecDeque<Verb>,
}

impl Script {
    fn note(&mut self, verb: Verb) -> Result<(), CollectiveError> {
        self.verbs.push_back(verb);
        Ok(())
    }
}

impl Verbs for Script {
    fn send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Send(self.ring.next(), range.len()))
    }
    fn recv_reduce_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        Verbs::recv_reduce(self, range.clone())?;
        Verbs::send(self, range)
    }
    fn recv_reduce(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Fold(self.ring.prev(), range.len()))
    }
    fn recv_copy_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        Verbs::recv(self, range.clone())?;
        Verbs::send(self, range)
    }
    fn recv(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Recv(self.ring.prev(), range.len()))
    }
    fn flush(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}

impl PeerVerbs for Script {
    fn enter(&mut self, _: Phase) {}
    fn send(&mut self, to: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Send(to, range.len()))
    }
    fn recv(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Recv(from, range.len()))
    }
    fn recv_reduce(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Fold(from, range.len()))
    }
    fn flush(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}

/// When the last rank is done, in seconds. An element is a byte.
fn simulate(
    world: u32,
    algorithm: impl Fn(RingTopology, &mut Script) -> Result<(), CollectiveError>,
) -> f64 {
    let mut scripts: Vec<Script> = (0..world)
        .map(|rank| {
            let ring = RingTopology::new(Rank(rank), world).unwrap();
            let verbs = VecDeque::new();
            let mut script = Script { ring, verbs };
            algorithm(ring, &mut script).unwrap();
            script
        })
        .collect();
    // By receiver: from whom, and when the last byte is there, in the order of sending.
    let mut inboxes = vec![VecDeque::<(Rank, f64)>::new(); world as usize];
    let mut now = vec![0.0_f64; world as usize];
    // When a rank's link has sent all that it was given.
    let mut free = now.clone();
    loop {
        let mut moved = false;
        for rank in 0..world as usize {
            while let Some(verb) = scripts[rank].verbs.front() {
                match *verb {
                    Verb::Send(to, bytes) => {
                        let sending = bytes as f64 * COST.beta_seconds_per_byte;
                        free[rank] = free[rank].max(now[rank]) + sending;
                        let there = free[rank] + COST.alpha_seconds;
                        inboxes[to.0 as usize].push_back((Rank(rank as u32), there));
                    }
                    Verb::Recv(from, bytes) | Verb::Fold(from, bytes) => {
                        let due = inboxes[rank].iter().position(|(sender, _)| *sender == from);
                        let Some((_, there)) = due.and_then(|at| inboxes[rank].remove(at)) else {
                            break;
                        };
                        let folding = match verb {
                            Verb::Fold(..) => bytes as f64 * COST.gamma_seconds_per_byte,
                            _ => 0.0,
                        };
                        now[rank] = now[rank].max(there) + folding;
                    }
                }
                scripts[rank].verbs.pop_front();
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    assert!(
        scripts.iter().all(|script| script.verbs.is_empty()),
        "deadlock"
    );
    assert!(inboxes.iter().all(VecDeque::is_empty), "unread messages");
    now.into_iter().fold(0.0, f64::max)
}

const WORLDS: [u32; 9] = [2, 3, 4, 7, 16, 100, 256, 1000, 1024];
const LENGTHS: [usize; 4] = [1024, 64 << 10, 1 << 20, 64 << 20];

fn assert_near(simulated: f64, predicted: f64, within: f64, what: &str) {
    let ratio = predicted / simulated;
    assert!(
        (1.0 / within..=within).contains(&ratio),
        "{what}: predicted {predicted}, is {simulated}"
    );
}

#[test]
fn all_reduces_take_what_is_predicted_up_to_1024_ranks() {
    for world in WORLDS {
        for bytes in LENGTHS {
            let medium = Medium::TcpDirect;
            let of = |way| predict(medium, way, COST, bytes, world).as_secs_f64();
            let ring = simulate(world, |ring, verbs| all_reduce(ring, bytes, verbs));
            assert_near(
                ring,
                of(Way::Ring),
                1.1,
                &format!("ring of {world}, {bytes} bytes"),
            );
            let halving = simulate(world, |ring, verbs| halving_doubling(ring, bytes, verbs));
            let what = format!("halving among {world}, {bytes} bytes");
            assert_near(halving, of(Way::HalvingDoubling), 1.2, &what);
            // What is chosen is no worse than either, but for what predictions err by.
            let chosen = match explain(medium, COST, bytes, world).way {
                Way::Ring => ring,
                Way::HalvingDoubling => halving,
                _ => continue,
            };
            assert!(
                chosen <= 1.2 * ring.min(halving),
                "{world} ranks, {bytes} bytes"
            );
            // Nor is anything faster than its bytes on one link, or than word of it can spread.
            let share = f64::from(world - 1) / f64::from(world);
            let moved = 2.0 * share * bytes as f64 * COST.beta_seconds_per_byte;
            let rounds = f64::from(world.next_power_of_two().ilog2());
            assert!(chosen >= 0.999 * moved.max(rounds * COST.alpha_seconds));
        }
    }
}

#[test]
fn broadcasts_take_what_is_predicted_up_to_1024_ranks() {
    for world in WORLDS {
        for bytes in LENGTHS {
            let predicted = predict(Medium::TcpDirect, Way::Tree, COST, bytes, world).as_secs_f64();
            let tree = simulate(world, |ring, verbs| {
                broadcast_tree(ring, Rank(0), bytes, verbs)
            });
            // Where the world is no power of two, no rank is as far from the root as the model says.
            assert!(tree <= 1.001 * predicted, "{world} ranks, {bytes} bytes");
            assert_near(
                tree,
                predicted,
                2.0,
                &format!("tree of {world}, {bytes} bytes"),
            );
            // Around the ring the model counts segments that pass on as they come, and this simulation
            // whole messages: the model is the bound from below.
            let around = simulate(world, |ring, verbs| broadcast(ring, Rank(0), bytes, verbs));
            let least = predict_ring_broadcast(bytes, world);
            assert!(around >= 0.999 * least, "{around} {least}");
        }
    }
}

fn predict_ring_broadcast(bytes: usize, world: u32) -> f64 {
    super::cost::predict_broadcast(Way::Ring, COST, bytes, world).as_secs_f64()
}
