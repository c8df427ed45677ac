//! What an all-reduce takes, predicted, and why one way of doing it is chosen.
//!
//! The model is Hockney's (1994): a message of `n` bytes takes `alpha + n * beta`; folding `n`
//! bytes takes `n * gamma`. For `w` ranks and a vector of `n` bytes (Thakur, Rabenseifner and
//! Gropp, 2005, "Optimization of Collective Communication Operations in MPICH"):
//!
//! | way | predicted |
//! |---|---|
//! | ring | `2(w-1) alpha + n(w-1)/w (beta + max(beta, gamma))`: segments are folded as they pass |
//! | halving-doubling, `p = w` | `2 log2(p) alpha + 2.2n(p-1)/p beta + n(p-1)/p gamma` |
//! | halving-doubling, `p < w` | the same, `+ 2 alpha + 2n beta + n gamma` |
//! | one shot over TCP | `alpha + (w-2) o + n(w-1) (beta + gamma)` |
//! | tree, for a broadcast | `ceil(log2(w)) (alpha + n beta)` |
//! | ring, for a broadcast | `(w-1) alpha + n beta`, since segments pass on as they come |
//! | exchange, of `n` bytes a rank | `alpha + (w-2) o + n(w-1)/w beta` |
//! | shared memory, one shot | `alpha + nw (beta + gamma)` |
//! | shared memory, slices | `b (2 alpha) + 2n beta + n(w-1)/w gamma`, in `b` blocks of a half slot |
//!
//! `o` is what one more message costs a rank while another is on its way (LogP's overhead; Culler et
//! al., 1993). The constants in [`LinkCost`] are of the order measured by `ringfold bench allreduce` on
//! one host; a ring over TCP measures its own when it is joined by the nearest medium. Where ranks
//! share cores, no model of this kind holds: the scheduler decides.

use std::fmt;
use std::time::Duration;

use super::direct::{DIRECT_WORLD_MAX, power_below};
use super::tree::Replicas;
use crate::topology::Hosts;
use crate::transport::shared::SHARED_WORLD_MAX;

/// The most bytes of contributions, over all ranks, that every rank of a host folds for itself.
pub const ONE_SHOT_BYTES: usize = 64 << 10;

/// The longest vector of which, over TCP, every rank gets and folds all contributions: they lie in
/// memory next to each other.
pub const DIRECT_ONE_SHOT_BYTES: usize = 64 << 10;

/// What a byte takes more in halving and doubling than around the ring: a half goes on only when all
/// of it has come. By which the two take the same between 256 and 512 KiB at four ranks on two
/// cores, as measured.
const UNPIPELINED: f64 = 1.1;

/// The share of an operation's time that its messages may take, beside that of its bytes, for it to
/// be long enough.
const MESSAGES_SHARE: f64 = 0.1;
/// The least and the most bytes that [`bucket_bytes`] says.
const BUCKET_BYTES: std::ops::RangeInclusive<usize> = 1 << 20..=25 << 20;

/// How an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Around the ring, twice.
    Ring,
    /// Every rank reads and folds all contributions.
    OneShot,
    /// Every rank folds its slice from its peers' memory, block by block.
    Slices,
    /// Halves to and from ranks twice as far away each time.
    HalvingDoubling,
    /// From the root to ranks half as far away each time.
    Tree,
    /// Every rank sends each other rank its part at once.
    Exchange,
    /// In the memory of each host, and between the hosts' leaders.
    Levels,
}

/// What ranks are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Sockets between neighbours.
    Tcp,
    /// Sockets between neighbours and to [other ranks](super::direct::direct_peers).
    TcpDirect,
    /// Memory, with halves of slots of so many bytes.
    Shared {
        /// The length of a half.
        half_bytes: usize,
    },
}

/// The constants of a medium.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkCost {
    /// Of a message, or of waiting for a tick.
    pub alpha_seconds: f64,
    /// Of one more message to or from other ranks while one is on its way.
    pub overhead_seconds: f64,
    /// Of a byte that is moved.
    pub beta_seconds_per_byte: f64,
    /// Of a byte that is folded.
    pub gamma_seconds_per_byte: f64,
}

impl LinkCost {
    /// TCP on the loopback of a virtual machine with two cores: 20 µs a message, 5 µs for one more at
    /// the same time, 2.5 GB/s.
    pub const LOOPBACK: Self = Self {
        alpha_seconds: 20e-6,
        overhead_seconds: 5e-6,
        beta_seconds_per_byte: 1.0 / 2.5e9,
        gamma_seconds_per_byte: 1.0 / 10e9,
    };
    /// Shared memory there: 0.4 µs a tick, 10 GB/s a rank.
    pub const SHARED: Self = Self {
        alpha_seconds: 0.4e-6,
        overhead_seconds: 0.0,
        beta_seconds_per_byte: 1.0 / 10e9,
        gamma_seconds_per_byte: 1.0 / 10e9,
    };

    /// The constants for `medium` when nothing was measured.
    #[must_use]
    pub fn of(medium: Medium) -> Self {
        match medium {
            Medium::Tcp | Medium::TcpDirect => Self::LOOPBACK,
            Medium::Shared { .. } => Self::SHARED,
        }
    }
}

/// A way, what it will take, and why it is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What is done.
    pub way: Way,
    /// What ranks are connected by.
    pub medium: Medium,
    /// What it should take.
    pub predicted: Duration,
    /// Bytes of the vector.
    pub bytes: usize,
    /// The number of ranks.
    pub world: u32,
}

impl fmt::Display for LinkCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} us a message, {:.1} us one more at the same time, {:.2} GB/s, folding at {:.2} GB/s",
            self.alpha_seconds * 1e6,
            self.overhead_seconds * 1e6,
            1e-9 / self.beta_seconds_per_byte,
            1e-9 / self.gamma_seconds_per_byte,
        )
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::OneShot => "one shot",
            Self::Slices => "slices",
            Self::HalvingDoubling => "halving and doubling",
            Self::Tree => "tree",
            Self::Exchange => "exchange",
            Self::Levels => "levels",
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match (self.medium, self.way) {
            (_, Way::Levels) => "most bytes stay in the memory of a host",
            (Medium::Tcp, _) => "neighbours have sockets only to each other",
            (Medium::Shared { .. }, Way::OneShot) => {
                "all contributions together are at most 64 KiB"
            }
            (Medium::Shared { .. }, _) => "all contributions together are over 64 KiB",
            (Medium::TcpDirect, Way::OneShot) => "one message costs more than all bytes",
            (Medium::TcpDirect, Way::Ring) => {
                "bytes cost more than messages, and the ring folds while it sends"
            }
            (Medium::TcpDirect, _) => "it has fewer messages than the ring, for few more bytes",
        };
        write!(
            f,
            "all-reduce of {} bytes over {} ranks: {}, since {why}; predicted {:.1?}",
            self.bytes, self.world, self.way, self.predicted
        )
    }
}

/// What a sum in the tree over replicas should take beyond a fast one of long vectors, as a share of
/// it: 0.1 is 10 %.
///
/// In shared memory a rank reads its slice of every contribution and folds them, `c` in all instead
/// of `w`. Over TCP the `c/w` contributions of a rank go straight to the owners of slices; where
/// ranks have sockets to neighbours only, they travel on average `w/2` places around the ring before
/// they are folded, where a fast sum folds them on the way.
#[must_use]
pub fn reproducible_overhead(medium: Medium, cost: LinkCost, replicas: &Replicas) -> f64 {
    let world = f64::from(replicas.world());
    if replicas.world() == 1 {
        return 0.0;
    }
    let contributions = replicas.node_counts().iter().sum::<usize>() as f64;
    let (beta, gamma) = (cost.beta_seconds_per_byte, cost.gamma_seconds_per_byte);
    let part = (world - 1.0) / world;
    let (fast, reproducible) = match medium {
        Medium::Shared { .. } => (
            2.0 * beta + part * gamma,
            (1.0 + contributions / world) * beta + (contributions - 1.0) / world * gamma,
        ),
        Medium::TcpDirect if replicas.world() <= DIRECT_WORLD_MAX => (
            2.0 * part * beta + part * gamma,
            (contributions / world * part + part) * beta + (contributions - 1.0) / world * gamma,
        ),
        Medium::Tcp | Medium::TcpDirect => (
            2.0 * part * beta + part * gamma,
            (contributions / world * (world - 1.0) / 2.0 + part) * beta
                + (contributions - 1.0) / world * gamma,
        ),
    };
    reproducible / fast - 1.0
}

/// The bytes of a vector whose all-reduce, around a ring, spends a tenth as much on messages as on
/// bytes: `10 w alpha / beta`, from 1 to 25 MiB. A long vector is cut into vectors of this length to
/// be summed while it is still computed.
#[must_use]
pub fn bucket_bytes(cost: LinkCost, world: u32) -> usize {
    let world = f64::from(world.max(1));
    let bytes = world * cost.alpha_seconds / cost.beta_seconds_per_byte / MESSAGES_SHARE;
    (bytes as usize).clamp(*BUCKET_BYTES.start(), *BUCKET_BYTES.end())
}

/// How a long vector is best summed while it is still computed, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// The most bytes of a part: [`bucket_bytes`], unless the caller has chosen.
    pub bytes_max: usize,
    /// True if the caller has.
    pub chosen: bool,
    /// Bytes of the vector.
    pub bytes: usize,
    /// What the sum of the whole should take, which is what there is to hide.
    pub whole: Duration,
    /// What a sum of one part should take.
    pub part: Duration,
    /// What that is predicted by.
    pub cost: LinkCost,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let why = match self.chosen {
            true => "as the caller has chosen",
            false => "for messages to take about a tenth of each, from 1 to 25 MiB",
        };
        write!(
            f,
            "{:.1} MiB in parts of at most {:.1} MiB, {why}; predicted {:.1?} for the whole, {:.1?} for a \
             part, by {}",
            mebibytes(self.bytes),
            mebibytes(self.bytes_max),
            self.whole,
            self.part,
            self.cost
        )
    }
}

/// Which way an all-reduce of `bytes` over `world` ranks is done, and what it should take. This is
/// the choice that the operations make. All ranks must choose alike, and therefore by the same `cost`.
#[must_use]
pub fn explain(medium: Medium, cost: LinkCost, bytes: usize, world: u32) -> Choice {
    let way = match medium {
        Medium::Tcp => Way::Ring,
        Medium::TcpDirect => all_reduce_way(cost, bytes, world),
        Medium::Shared { .. } => shared_way(bytes, world),
    };
    Choice {
        way,
        medium,
        predicted: predict(medium, way, cost, bytes, world),
        bytes,
        world,
    }
}

/// The way for an all-reduce of `bytes` over TCP with direct connections.
#[must_use]
pub fn all_reduce_way(cost: LinkCost, bytes: usize, world: u32) -> Way {
    let one_shot = world <= DIRECT_WORLD_MAX && bytes <= DIRECT_ONE_SHOT_BYTES;
    let ways = [Way::Ring, Way::HalvingDoubling, Way::OneShot];
    cheapest(&ways[..if one_shot { 3 } else { 2 }], |way| {
        predict(Medium::TcpDirect, way, cost, bytes, world)
    })
}

/// The way for a broadcast of `bytes` over TCP with direct connections: [`Way::Tree`] or
/// [`Way::Ring`].
#[must_use]
pub fn broadcast_way(cost: LinkCost, bytes: usize, world: u32) -> Way {
    cheapest(&[Way::Ring, Way::Tree], |way| {
        predict_broadcast(way, cost, bytes, world)
    })
}

/// The way for a reduce-scatter or an all-gather of `bytes` in all over TCP with direct
/// connections: [`Way::Exchange`] or [`Way::Ring`]. Both move the same bytes, and those of a ring
/// pass between neighbours only, which are mostly on one host: so it must save a tenth.
#[must_use]
pub fn exchange_way(cost: LinkCost, bytes: usize, world: u32) -> Way {
    let LinkCost {
        alpha_seconds: alpha,
        overhead_seconds: overhead,
        beta_seconds_per_byte: beta,
        ..
    } = cost;
    let others = f64::from(world.saturating_sub(1));
    let moved = bytes as f64 * others / f64::from(world.max(1)) * beta;
    let exchange = alpha + (others - 1.0).max(0.0) * overhead + moved;
    let saves = exchange < 0.9 * (others * alpha + moved);
    match saves && world <= DIRECT_WORLD_MAX {
        true => Way::Exchange,
        false => Way::Ring,
    }
}

/// The first of the ways that take the least.
fn cheapest(ways: &[Way], predicted: impl Fn(Way) -> Duration) -> Way {
    let least = ways.iter().copied().min_by_key(|&way| predicted(way));
    least.unwrap_or(Way::Ring)
}

/// What a broadcast of `bytes` should take by [`Way::Tree`] or else around the ring.
#[must_use]
pub fn predict_broadcast(way: Way, cost: LinkCost, bytes: usize, world: u32) -> Duration {
    let (alpha, moved) = (
        cost.alpha_seconds,
        bytes as f64 * cost.beta_seconds_per_byte,
    );
    let hops = f64::from(world.saturating_sub(1));
    let rounds = f64::from(world.max(1).next_power_of_two().ilog2());
    Duration::from_secs_f64(match way {
        _ if world <= 1 => 0.0,
        Way::Tree => rounds * (alpha + moved),
        _ => hops * alpha + moved,
    })
}

/// What an all-reduce of `bytes` by [`Way::Levels`] should take: inside the largest
/// host, between leaders, and from leaders to their hosts, one after the other. `inside` and
/// `between` are the constants of the two media.
#[must_use]
pub fn predict_hierarchical(
    hosts: &Hosts,
    (half_bytes, inside): (usize, LinkCost),
    between: LinkCost,
    bytes: usize,
) -> Duration {
    let largest = hosts.sizes().iter().copied().max().unwrap_or(1);
    let leaders = hosts.leaders().len() as u32;
    let shared = Medium::Shared { half_bytes };
    let fold = explain(shared, inside, bytes, largest).predicted;
    let way = all_reduce_way(between, bytes, leaders);
    let exchange = predict(Medium::TcpDirect, way, between, bytes, leaders);
    // A leader writes what its host then reads.
    let handed_out = match largest {
        1 => Duration::ZERO,
        _ => {
            let moved = 2.0 * bytes as f64 * inside.beta_seconds_per_byte;
            Duration::from_secs_f64(2.0 * inside.alpha_seconds + moved)
        }
    };
    fold + exchange + handed_out
}

/// The choice between a ring of all ranks and levels, for an all-reduce of `bytes`: levels must save a
/// tenth, as predictions are no better than that.
#[must_use]
pub fn explain_on_hosts(
    hosts: &Hosts,
    inside: (usize, LinkCost),
    medium: Medium,
    cost: LinkCost,
    bytes: usize,
) -> Choice {
    let flat = explain(medium, cost, bytes, hosts.world());
    let levels = predict_hierarchical(hosts, inside, cost, bytes);
    match levels < flat.predicted.mul_f64(0.9) {
        true => Choice {
            way: Way::Levels,
            predicted: levels,
            ..flat
        },
        false => flat,
    }
}

/// True if levels are worth joining: some hosts have several ranks, none has more than fit a segment,
/// and for vectors of some length levels should be faster.
#[must_use]
pub fn levels_may_pay(
    hosts: &Hosts,
    inside: (usize, LinkCost),
    medium: Medium,
    cost: LinkCost,
) -> bool {
    let fit = hosts.sizes().iter().all(|&ranks| ranks <= SHARED_WORLD_MAX);
    let several = (hosts.leaders().len() as u32) < hosts.world() && hosts.leaders().len() > 1;
    let lengths = (2..=28).map(|log| 1_usize << log);
    let pays = |bytes| explain_on_hosts(hosts, inside, medium, cost, bytes).way == Way::Levels;
    fit && several && lengths.into_iter().any(pays)
}

/// The way for contributions of `bytes` from each of `world` ranks of a host.
#[must_use]
pub fn shared_way(bytes: usize, world: u32) -> Way {
    match bytes.saturating_mul(world as usize) <= ONE_SHOT_BYTES {
        true => Way::OneShot,
        false => Way::Slices,
    }
}

/// What one way should take.
#[must_use]
pub fn predict(medium: Medium, way: Way, cost: LinkCost, bytes: usize, world: u32) -> Duration {
    if world <= 1 {
        return Duration::ZERO;
    }
    let LinkCost {
        alpha_seconds: alpha,
        overhead_seconds: overhead,
        beta_seconds_per_byte: beta,
        gamma_seconds_per_byte: gamma,
    } = cost;
    let (n, w) = (bytes as f64, f64::from(world));
    let share = (w - 1.0) / w;
    let seconds = match way {
        Way::Ring => 2.0 * (w - 1.0) * alpha + n * share * (beta + beta.max(gamma)),
        Way::HalvingDoubling => {
            let power = power_below(world);
            let (p, rounds) = (f64::from(power), f64::from(power.ilog2()));
            let share = (p - 1.0) / p;
            let folding_out = match power == world {
                true => 0.0,
                false => 2.0 * alpha + 2.0 * n * beta + n * gamma,
            };
            2.0 * rounds * alpha + n * share * (2.0 * UNPIPELINED * beta + gamma) + folding_out
        }
        Way::OneShot if medium == Medium::TcpDirect => {
            alpha + (w - 2.0) * overhead + n * (w - 1.0) * (beta + gamma)
        }
        Way::Tree => {
            return predict_broadcast(way, cost, bytes, world);
        }
        Way::Exchange => alpha + (w - 2.0) * overhead + n * share * beta,
        // Without the numbers of hosts' ranks, as if around the ring.
        Way::Levels => return predict(medium, Way::Ring, cost, bytes, world),
        Way::OneShot => alpha + n * w * (beta + gamma),
        Way::Slices => {
            let blocks = match medium {
                Medium::Shared { half_bytes } => bytes.div_ceil(half_bytes.max(1)).max(1) as f64,
                Medium::Tcp | Medium::TcpDirect => 1.0,
            };
            blocks * 2.0 * alpha + 2.0 * n * beta + n * share * gamma
        }
    };
    Duration::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests {
    use ringfold_common::ids::Rank;

    use super::super::direct::{Tally, halving_doubling};
    use super::*;
    use crate::topology::RingTopology;

    const SHARED: Medium = Medium::Shared {
        half_bytes: 256 << 10,
    };

    #[test]
    fn messages_of_buckets_cost_a_tenth() {
        for world in [16, 20, 50] {
            let cost = LinkCost::LOOPBACK;
            let bytes = bucket_bytes(cost, world);
            let time = |bytes| predict(Medium::Tcp, Way::Ring, cost, bytes, world).as_secs_f64();
            let (messages, all) = (time(0), time(bytes));
            let share = messages / (all - messages);
            assert!((0.05..0.11).contains(&share), "{world}: {share}");
        }
        assert_eq!(bucket_bytes(LinkCost::SHARED, 2), 1 << 20);
        assert_eq!(bucket_bytes(LinkCost::LOOPBACK, 4000), 25 << 20);
    }

    #[test]
    fn a_reproducible_sum_costs_nothing_where_it_moves_nothing_more() {
        let overhead = |medium, count, world| {
            let replicas = Replicas::new(count, world).unwrap();
            reproducible_overhead(medium, LinkCost::of(medium), &replicas)
        };
        let shared = Medium::Shared {
            half_bytes: 1 << 20,
        };
        for (count, world) in [(1, 1), (8, 1), (2, 2), (8, 2), (8, 4), (8, 8)] {
            assert!(
                overhead(shared, count, world).abs() < 1e-9,
                "{count} on {world}"
            );
        }
        assert!(overhead(Medium::Tcp, 8, 2).abs() < 1e-9);
        for (count, world) in [(1, 1), (8, 1), (2, 2), (8, 4), (8, 8), (64, 64)] {
            assert!(overhead(Medium::TcpDirect, count, world).abs() < 1e-9);
        }
        assert!(overhead(Medium::TcpDirect, 8, 3) > 0.1);
        assert!(overhead(Medium::TcpDirect, 128, 128) > 0.1);
        // Two of three ranks contribute two nodes.
        assert!(overhead(shared, 8, 3) > 0.1);
        assert!(overhead(Medium::Tcp, 4, 4) > 0.1);
    }

    #[test]
    fn predictions_stay_within_bounds_up_to_1024_ranks() {
        for medium in [Medium::Tcp, Medium::TcpDirect, SHARED] {
            let cost = LinkCost::of(medium);
            for world in (1..=10).map(|log| 1_u32 << log) {
                let mut last = Duration::ZERO;
                for bytes in (0..=30).map(|log| 1_usize << log) {
                    let choice = explain(medium, cost, bytes, world);
                    // No all-reduce moves less than `2n(w-1)/w` bytes by a rank that sends what it
                    // folds, or `n(w-1)/w` by one that reads it where it lies, nor faster than one
                    // message.
                    let share = f64::from(world - 1) / f64::from(world);
                    let bytes_least = bytes as f64 * share * cost.beta_seconds_per_byte;
                    let least = Duration::from_secs_f64(bytes_least.max(cost.alpha_seconds));
                    assert!(choice.predicted >= least, "{choice}");
                    // A large vector takes no more than three times what its bytes do, beside the
                    // messages.
                    let messages = 2.0 * f64::from(world) * cost.alpha_seconds;
                    let blocks = (bytes as f64 / (256 << 10) as f64 + 1.0) * 2.0;
                    let most = 3.5 * bytes as f64 * cost.beta_seconds_per_byte
                        + messages.max(blocks * cost.alpha_seconds);
                    if choice.way != Way::OneShot {
                        assert!(choice.predicted.as_secs_f64() <= most, "{choice}");
                    }
                    // More bytes never take less, but at the change of ways, where one more wait
                    // is paid for and copies are saved.
                    let slack = Duration::from_micros(20);
                    assert!(choice.predicted + slack >= last, "{choice} after {last:?}");
                    last = choice.predicted;
                }
            }
        }
    }

    #[test]
    fn the_ring_is_counted_as_its_simulation_sends() {
        let cost = LinkCost {
            alpha_seconds: 1.0,
            overhead_seconds: 0.0,
            beta_seconds_per_byte: 0.0,
            gamma_seconds_per_byte: 0.0,
        };
        for world in [2, 3, 64, 1024] {
            let messages = predict(Medium::Tcp, Way::Ring, cost, 1 << 20, world).as_secs();
            assert_eq!(messages, 2 * (u64::from(world) - 1));
        }
    }

    #[test]
    fn ways_are_predicted_by_what_their_verbs_send() {
        let of = |alpha_seconds, beta_seconds_per_byte| LinkCost {
            alpha_seconds,
            overhead_seconds: 0.0,
            beta_seconds_per_byte,
            gamma_seconds_per_byte: 0.0,
        };
        for world in [2_u32, 3, 4, 7, 8, 64, 100, 1024] {
            let bytes = 1024 * 1024;
            let tallies: Vec<Tally> = (0..world)
                .map(|rank| {
                    let mut tally = Tally::default();
                    let ring = RingTopology::new(Rank(rank), world).unwrap();
                    halving_doubling(ring, bytes, &mut tally).unwrap();
                    tally
                })
                .collect();
            let way = Way::HalvingDoubling;
            let messages = predict(Medium::TcpDirect, way, of(1.0, 0.0), bytes, world).as_secs();
            // A rank that stands for another sends no more messages than there are rounds.
            let most = tallies.iter().map(|tally| tally.sent.max(tally.received));
            let folds_out = u64::from(!world.is_power_of_two());
            assert_eq!(messages - folds_out, u64::from(most.max().unwrap()));
            let moved = predict(Medium::TcpDirect, way, of(0.0, 1.0), bytes, world).as_secs();
            let most = tallies.iter().map(|tally| tally.elements_sent as u64).max();
            assert!(moved + 1 >= most.unwrap(), "{moved} {most:?}");
        }
    }

    #[test]
    fn a_hierarchy_costs_its_leaders_ring_and_little_more_up_to_1024_ranks() {
        let half_bytes = 256 << 10;
        for hosts in [1_u32, 2, 3, 8, 16, 64, 128] {
            for a_host in [1_u32, 2, 8] {
                let host_of: Vec<u32> = (0..hosts * a_host).map(|rank| rank / a_host).collect();
                let places = Hosts::new(&host_of);
                for bytes in (0..=30).map(|log| 1_usize << log) {
                    let shared = (half_bytes, LinkCost::SHARED);
                    let between = LinkCost::LOOPBACK;
                    let all = predict_hierarchical(&places, shared, between, bytes);
                    let leaders = explain(Medium::TcpDirect, between, bytes, hosts).predicted;
                    assert!(all >= leaders);
                    // In memory a vector is written, read and folded, and written and read again,
                    // and its blocks are waited for.
                    let copies = 5.0 * bytes as f64 * LinkCost::SHARED.beta_seconds_per_byte;
                    let blocks = bytes.div_ceil(half_bytes) as f64 + 10.0;
                    let inside = copies + 4.0 * blocks * LinkCost::SHARED.alpha_seconds;
                    let slack = all.as_secs_f64() - leaders.as_secs_f64() - inside;
                    let one_shot = bytes * a_host as usize <= ONE_SHOT_BYTES;
                    assert!(
                        slack <= 0.0 || one_shot,
                        "{hosts} {a_host} {bytes}: {slack}"
                    );
                    // A message between leaders is a message saved between all.
                    if bytes <= 4096 && hosts > 1 && a_host == 8 {
                        let flat = explain(Medium::Tcp, between, bytes, hosts * a_host);
                        assert!(all < flat.predicted);
                    }
                }
            }
        }
    }

    #[test]
    fn few_bytes_go_in_few_messages_and_many_around_the_ring() {
        let way = |bytes, world| explain(Medium::TcpDirect, LinkCost::LOOPBACK, bytes, world).way;
        for world in [2, 3, 4, 8, 16] {
            assert_eq!(way(4, world), Way::OneShot);
        }
        // 62 more messages at the same time cost more than 11 after one another.
        assert_eq!(way(4, 64), Way::HalvingDoubling);
        assert_eq!(way(256 << 10, 4), Way::HalvingDoubling);
        assert_eq!(way(64 << 20, 4), Way::Ring);
        assert_eq!(way(4, 1024), Way::HalvingDoubling);
        assert_eq!(way(64 << 20, 3), Way::Ring);
        assert_eq!(broadcast_way(LinkCost::LOOPBACK, 100, 16), Way::Tree);
        assert_eq!(broadcast_way(LinkCost::LOOPBACK, 64 << 20, 16), Way::Ring);
        assert_eq!(exchange_way(LinkCost::LOOPBACK, 100, 16), Way::Exchange);
        assert_eq!(exchange_way(LinkCost::LOOPBACK, 64 << 20, 16), Way::Ring);
        assert_eq!(exchange_way(LinkCost::LOOPBACK, 100, 1024), Way::Ring);
        let words = explain(Medium::TcpDirect, LinkCost::LOOPBACK, 4, 4).to_string();
        assert_eq!(
            words,
            "all-reduce of 4 bytes over 4 ranks: one shot, since one message costs more than all \
             bytes; predicted 30.0µs"
        );
    }

    #[test]
    fn parts_say_what_they_are_chosen_by() {
        let cost = LinkCost::LOOPBACK;
        let mut parts = Parts {
            bytes_max: bucket_bytes(cost, 20),
            chosen: false,
            bytes: 42 << 20,
            whole: Duration::from_millis(34),
            part: Duration::from_millis(8),
            cost,
        };
        assert_eq!(
            parts.to_string(),
            format!(
                "42.0 MiB in parts of at most 9.5 MiB, for messages to take about a tenth of each, from \
                 1 to 25 MiB; predicted 34.0ms for the whole, 8.0ms for a part, by {cost}"
            )
        );
        parts.chosen = true;
        assert!(parts.to_string().contains("as the caller has chosen"));
    }

    #[test]
    fn an_explanation_names_the_way_the_reason_and_the_time() {
        let words = explain(SHARED, LinkCost::SHARED, 4096, 2).to_string();
        assert_eq!(
            words,
            "all-reduce of 4096 bytes over 2 ranks: one shot, since all contributions together \
             are at most 64 KiB; predicted 2.0µs"
        );
        let way = |bytes, world| explain(SHARED, LinkCost::SHARED, bytes, world).way;
        assert_eq!(way(32 << 10, 2), Way::OneShot);
        assert_eq!(way((32 << 10) + 4, 2), Way::Slices);
        let alone = explain(Medium::Tcp, LinkCost::LOOPBACK, 100, 1);
        assert_eq!(alone.predicted, Duration::ZERO);
    }
}
