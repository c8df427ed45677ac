//! Every operation, type and reduction against a plain loop, for many worlds and lengths, on every
//! transport in one table. The idea is that of Gloo's tests.

use half::{bf16, f16};
use ringfold_collective::testing::{join, join_memory, join_processes, on_threads};
use ringfold_collective::topology::chunk;
use ringfold_collective::{AbortSignal, Element, Reduce, Ring, RingOptions};
use ringfold_common::ids::Rank;

/// How a ring of so many ranks is made.
type Join = fn(u32) -> Vec<Ring>;

/// Every transport.
const TRANSPORTS: &[(&str, Join)] = &[
    ("tcp", |world| rings(join(world, RingOptions::default()))),
    ("tcp between neighbours", |world| {
        let direct = false;
        rings(join(
            world,
            RingOptions {
                direct,
                ..RingOptions::default()
            },
        ))
    }),
    ("memory", |world| {
        rings(join_memory(world, RingOptions::default()))
    }),
    ("shared memory", |world| {
        rings(join_processes(world, RingOptions::default()))
    }),
];

fn rings(joined: Vec<(Ring, AbortSignal)>) -> Vec<Ring> {
    joined.into_iter().map(|(ring, _)| ring).collect()
}

const WORLDS: [u32; 18] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 32,
];
/// The last one is above what goes in one shot.
const LENGTHS: [usize; 9] = [0, 1, 2, 3, 4, 100, 1000, 10_000, 60_000];

/// A number of which a test can make and know exact values.
trait Number: Element + PartialEq + std::fmt::Debug {
    /// `value` is at most 128.
    fn of(value: u32) -> Self;
    fn mean(sum: u32, count: u32) -> Self;
}

macro_rules! number {
    ($number:ty, $of:expr, $mean:expr) => {
        impl Number for $number {
            fn of(value: u32) -> Self {
                $of(value)
            }
            fn mean(sum: u32, count: u32) -> Self {
                $mean(sum, count)
            }
        }
    };
}

number!(f32, |v| v as f32, |s, c| s as f32 / c as f32);
number!(f64, f64::from, |s, c| f64::from(s) / f64::from(c));
number!(bf16, |v| bf16::from_f32(v as f32), |s, c| bf16::from_f32(
    s as f32 / c as f32
));
number!(f16, |v| f16::from_f32(v as f32), |s, c| f16::from_f32(
    s as f32 / c as f32
));
number!(i32, |v| v as i32, |s, c| (s / c) as i32);
number!(i64, i64::from, |s, c| i64::from(s / c));
number!(u8, |v| v as u8, |s, c| (s / c) as u8);

/// From 0 to 3, so that the sum over 32 ranks is exact in every type.
fn value(rank: u32, place: usize) -> u32 {
    (rank * 7 + place as u32 * 3 + (rank * place as u32) % 5) % 4
}

fn mine<T: Number>(rank: u32, length: usize) -> Vec<T> {
    (0..length).map(|i| T::of(value(rank, i))).collect()
}

fn expected<T: Number>(world: u32, place: usize, reduce: Reduce) -> T {
    let terms = (0..world).map(|rank| value(rank, place));
    match reduce {
        Reduce::Sum => T::of(terms.sum()),
        Reduce::Mean => T::mean(terms.sum(), world),
        Reduce::Min => T::of(terms.min().unwrap()),
        Reduce::Max => T::of(terms.max().unwrap()),
    }
}

fn check_reductions<T: Number>(ring: &mut Ring, length: usize) {
    let (rank, world) = (ring.rank().0, ring.world());
    for reduce in Reduce::ALL {
        let right = |place: usize| expected::<T>(world, place, reduce);
        let mut values = mine::<T>(rank, length);
        ring.all_reduce(&mut values, reduce).unwrap();
        let wrong = (0..length).find(|&i| values[i] != right(i));
        assert_eq!(wrong, None, "all-reduce {reduce} of {length}: {values:?}");

        let mut values = mine::<T>(rank, length);
        let part = ring.reduce_scatter(&mut values, reduce).unwrap();
        assert_eq!(part, chunk(length, world, rank));
        let wrong = part.clone().find(|&i| values[i] != right(i));
        assert_eq!(wrong, None, "reduce-scatter {reduce} of {length}");
    }
}

fn check_copies<T: Number>(ring: &mut Ring, length: usize) {
    let (rank, world) = (ring.rank().0, ring.world());
    let block = mine::<T>(rank, length);
    let blocks: Vec<T> = (0..world).flat_map(|r| mine::<T>(r, length)).collect();

    let mut all = vec![T::default(); length * world as usize];
    ring.all_gather(&block, &mut all).unwrap();
    assert!(all == blocks, "all-gather of {length}");

    for root in [0, world / 2, world - 1] {
        let mut values = block.clone();
        ring.broadcast(Rank(root), &mut values).unwrap();
        assert!(values == mine::<T>(root, length), "broadcast of {length}");

        let mut all = vec![T::default(); if rank == root { blocks.len() } else { 0 }];
        ring.gather(Rank(root), &block, &mut all).unwrap();
        assert!(rank != root || all == blocks, "gather of {length}");
    }

    // The block from `a` to `b` is that of a rank that only these two would make up.
    let pair = |a: u32, b: u32| mine::<T>(a * 5 + b * 3, length);
    let mut exchanged: Vec<T> = (0..world).flat_map(|to| pair(rank, to)).collect();
    ring.all_to_all(&mut exchanged).unwrap();
    let right: Vec<T> = (0..world).flat_map(|from| pair(from, rank)).collect();
    assert!(exchanged == right, "all-to-all of {length}");
    ring.barrier().unwrap();
}

/// All lengths in small worlds; in large ones, where a message takes its time on few cores, each
/// type has some of the lengths, and every length its types.
fn lengths(world: u32, turn: usize) -> impl Iterator<Item = usize> {
    let below = (world as usize).saturating_sub(1);
    let all = LENGTHS.into_iter().chain([below]).enumerate();
    all.filter(move |(at, _)| world <= 5 || (at + turn).is_multiple_of(4))
        // Long ones are for the ways of few ranks, and take their time.
        .filter(move |(_, length)| *length <= 10_000 || world <= 9)
        .map(|(_, length)| length)
}

fn check_all(ring: &mut Ring) {
    let world = ring.world();
    for length in lengths(world, 0) {
        check_reductions::<f32>(ring, length);
        check_copies::<u8>(ring, length);
    }
    for length in lengths(world, 1) {
        check_reductions::<f64>(ring, length);
        check_reductions::<i32>(ring, length);
    }
    for length in lengths(world, 2) {
        check_reductions::<bf16>(ring, length);
        check_reductions::<i64>(ring, length);
        check_copies::<f64>(ring, length);
    }
    for length in lengths(world, 3) {
        check_reductions::<f16>(ring, length);
        check_reductions::<u8>(ring, length);
        check_copies::<bf16>(ring, length);
    }
}

#[test]
fn every_operation_gives_what_a_plain_loop_gives() {
    for (name, join) in TRANSPORTS {
        for world in WORLDS {
            eprintln!("{name}, {world} ranks");
            on_threads(join(world), |mut ring| check_all(&mut ring));
        }
    }
}
