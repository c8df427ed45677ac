//! What an all-reduce takes, predicted, and why one way of doing it is chosen.
//!
//! The model is Hockney's (1994): a message of `n` bytes takes `alpha + n * beta`; folding `n`
//! bytes takes `n * gamma`. For `w` ranks and a vector of `n` bytes (Thakur, Rabenseifner and
//! Gropp, 2005, "Optimization of Collective Communication Operations in MPICH"):
//!
//! | way | predicted |
//! |---|---|
//! | ring | `2(w-1) alpha + 2n(w-1)/w beta + n(w-1)/w gamma` |
//! | shared memory, one shot | `alpha + nw (beta + gamma)` |
//! | shared memory, slices | `b (2 alpha) + 2n beta + n(w-1)/w gamma`, in `b` blocks of a half slot |
//!
//! The constants in [`LinkCost`] are of the order measured by `ringfold bench allreduce` on one host, and
//! are meant to be replaced by what is measured where a job runs. Where ranks share cores, no model
//! of this kind holds: the scheduler decides.

use std::fmt;
use std::time::Duration;

use ringfold_common::ids::Rank;

use super::tree::Replicas;

/// The most bytes of contributions, over all ranks, that every rank of a host folds for itself.
pub const ONE_SHOT_BYTES: usize = 64 << 10;

/// How an all-reduce is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Around the ring, twice.
    Ring,
    /// Every rank reads and folds all contributions.
    OneShot,
    /// Every rank folds its slice from its peers' memory, block by block.
    Slices,
}

/// What ranks are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Sockets between neighbours.
    Tcp,
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
    /// Of a byte that is moved.
    pub beta_seconds_per_byte: f64,
    /// Of a byte that is folded.
    pub gamma_seconds_per_byte: f64,
}

impl LinkCost {
    /// TCP on the loopback of a virtual machine with two cores: 20 µs a message, 2.5 GB/s.
    pub const LOOPBACK: Self = Self {
        alpha_seconds: 20e-6,
        beta_seconds_per_byte: 1.0 / 2.5e9,
        gamma_seconds_per_byte: 1.0 / 10e9,
    };
    /// Shared memory there: 0.4 µs a tick, 10 GB/s a rank.
    pub const SHARED: Self = Self {
        alpha_seconds: 0.4e-6,
        beta_seconds_per_byte: 1.0 / 10e9,
        gamma_seconds_per_byte: 1.0 / 10e9,
    };

    /// The constants for `medium` when nothing was measured.
    #[must_use]
    pub fn of(medium: Medium) -> Self {
        match medium {
            Medium::Tcp => Self::LOOPBACK,
            Medium::Shared { .. } => Self::SHARED,
        }
    }
}

/// A way, what it will take, and why it is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What is done.
    pub way: Way,
    /// What it should take.
    pub predicted: Duration,
    /// Bytes of the vector.
    pub bytes: usize,
    /// The number of ranks.
    pub world: u32,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::OneShot => "one shot",
            Self::Slices => "slices",
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.way {
            Way::Ring => "neighbours have sockets only to each other",
            Way::OneShot => "all contributions together are at most 64 KiB",
            Way::Slices => "all contributions together are over 64 KiB",
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
/// of `w`. Over TCP the `c/w` contributions of a rank travel on average `w/2` places around the ring
/// before they are folded, where a fast sum folds them on the way.
#[must_use]
pub fn reproducible_overhead(medium: Medium, cost: LinkCost, replicas: Replicas) -> f64 {
    let world = f64::from(replicas.world());
    if replicas.world() == 1 {
        return 0.0;
    }
    let ranks = (0..replicas.world()).map(Rank);
    let contributions: usize = ranks.map(|rank| replicas.nodes(rank).len()).sum();
    let contributions = contributions as f64;
    let (beta, gamma) = (cost.beta_seconds_per_byte, cost.gamma_seconds_per_byte);
    let part = (world - 1.0) / world;
    let (fast, reproducible) = match medium {
        Medium::Shared { .. } => (
            2.0 * beta + part * gamma,
            (1.0 + contributions / world) * beta + (contributions - 1.0) / world * gamma,
        ),
        Medium::Tcp => (
            2.0 * part * beta + part * gamma,
            (contributions / world * (world - 1.0) / 2.0 + part) * beta
                + (contributions - 1.0) / world * gamma,
        ),
    };
    reproducible / fast - 1.0
}

/// Which way an all-reduce of `bytes` over `world` ranks is done, and what it should take. This is
/// the choice that the operations make; `cost` changes the prediction only.
#[must_use]
pub fn explain(medium: Medium, cost: LinkCost, bytes: usize, world: u32) -> Choice {
    let way = match medium {
        Medium::Tcp => Way::Ring,
        Medium::Shared { .. } => shared_way(bytes, world),
    };
    Choice {
        way,
        predicted: predict(medium, way, cost, bytes, world),
        bytes,
        world,
    }
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
        beta_seconds_per_byte: beta,
        gamma_seconds_per_byte: gamma,
    } = cost;
    let (n, w) = (bytes as f64, f64::from(world));
    let share = (w - 1.0) / w;
    let seconds = match way {
        Way::Ring => 2.0 * (w - 1.0) * alpha + 2.0 * n * share * beta + n * share * gamma,
        Way::OneShot => alpha + n * w * (beta + gamma),
        Way::Slices => {
            let blocks = match medium {
                Medium::Shared { half_bytes } => bytes.div_ceil(half_bytes.max(1)).max(1) as f64,
                Medium::Tcp => 1.0,
            };
            blocks * 2.0 * alpha + 2.0 * n * beta + n * share * gamma
        }
    };
    Duration::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Medium = Medium::Shared {
        half_bytes: 256 << 10,
    };

    #[test]
    fn a_reproducible_sum_costs_nothing_where_it_moves_nothing_more() {
        let overhead = |medium, count, world| {
            let replicas = Replicas::new(count, world).unwrap();
            reproducible_overhead(medium, LinkCost::of(medium), replicas)
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
        // Two of three ranks contribute two nodes.
        assert!(overhead(shared, 8, 3) > 0.1);
        assert!(overhead(Medium::Tcp, 4, 4) > 0.1);
    }

    #[test]
    fn predictions_stay_within_bounds_up_to_1024_ranks() {
        for medium in [Medium::Tcp, SHARED] {
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
            beta_seconds_per_byte: 0.0,
            gamma_seconds_per_byte: 0.0,
        };
        for world in [2, 3, 64, 1024] {
            let messages = predict(Medium::Tcp, Way::Ring, cost, 1 << 20, world).as_secs();
            assert_eq!(messages, 2 * (u64::from(world) - 1));
        }
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
