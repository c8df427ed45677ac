//! Seeded simulation of the coordinator core: a cluster of model workers, clients that submit and
//! cancel, and every fault at once. After each event, checkers that know nothing of the core's
//! insides look for a broken promise; at the end the faults stop, and every job must end.
//!
//! A failure prints its seed. `RINGFOLD_SIM_SEED=17 cargo test -p ringfold-coordinator-core
//! --test sim one_seed -- --nocapture` replays it, event by event.

#[path = "../../coordinator/core/tests/rig/mod.rs"]
mod rig;

mod checkers;
mod draw;
mod plan;
mod worker;
mod world;

use std::collections::BTreeMap;

use world::World;

const SEEDS: u64 = 1_000;
const EVENTS: u32 = 150;
const SEED_VARIABLE: &str = "RINGFOLD_SIM_SEED";

/// Plays one seed to its end. Counts of what happened, by name.
fn play(seed: u64, tell: bool) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut world = World::new(seed, tell);
    for _ in 0..EVENTS {
        plan::act(&mut world)?;
    }
    plan::recover(&mut world)?;
    Ok(world.counts)
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    let mut counts = BTreeMap::new();
    for seed in 0..SEEDS {
        match play(seed, false) {
            Ok(of_seed) => {
                for (name, count) in of_seed {
                    *counts.entry(name).or_insert(0) += count;
                }
            }
            Err(broken) => panic!("{SEED_VARIABLE}={seed}: {broken}"),
        }
    }
    println!("{counts:#?}");
    // A simulation in which nothing happens proves nothing.
    for (name, at_least) in [
        ("succeeded", 1_000),
        ("failed", 800),
        ("cancelled", 1_000),
        ("restarts", 1_000),
        ("crashes after a commit", 500),
        ("requeued", 500),
        ("recovered", 500),
        ("returned", 500),
        ("grown", 20),
        ("worlds with fewer ranks", 200),
        ("existing tokens", 200),
        ("refusals", 500),
        ("leases expired", 500),
        ("processes ended", 500),
        ("causes sought", 50),
        ("aborts", 1_000),
        ("dropped jobs", 500),
        ("stale messages", 1_000),
    ] {
        let count = counts.get(name).copied().unwrap_or(0);
        assert!(count >= at_least, "{name}: {count}, expected {at_least}");
    }
}

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var(SEED_VARIABLE) else {
        return;
    };
    let seed = seed.parse().expect("a whole number");
    if let Err(broken) = play(seed, true) {
        panic!("{SEED_VARIABLE}={seed}: {broken}");
    }
}

#[test]
fn a_seed_gives_the_same_history_twice() {
    for seed in 0..20 {
        let history = |_| {
            let mut world = World::new(seed, false);
            for _ in 0..EVENTS {
                plan::act(&mut world).unwrap();
            }
            world.history
        };
        let [first, second] = [0, 1].map(history);
        assert!(first == second, "seed {seed}");
    }
}
