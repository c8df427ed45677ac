//! The sum over replicas has the same bits for every world, transport and segment size.

use half::bf16;
use ringfold_collective::algorithm::Replicas;
use ringfold_collective::testing::{join, join_memory, join_processes, on_threads};
use ringfold_collective::{
    AbortSignal, CollectiveError, Element, HEADER_BYTES, ReplicaBuffers, Ring, RingOptions,
};
use ringfold_common::ids::Rank;

type Join = fn(u32, RingOptions) -> Vec<(Ring, AbortSignal)>;
const TRANSPORTS: [Join; 4] = [join, join_neighbours, join_memory, join_processes];

/// TCP without connections beside the ring.
fn join_neighbours(world: u32, options: RingOptions) -> Vec<(Ring, AbortSignal)> {
    let direct = false;
    join(world, RingOptions { direct, ..options })
}

/// Values of very different sizes, so that every order of adding gives other bits.
fn value(replica: u32, place: usize) -> f32 {
    let mut x = (u64::from(replica) << 32 | place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let size = ((x >> 40) % 24) as i32 - 12;
    ((x & 0xffff) as f32 - 32768.0) * 2.0_f32.powi(size)
}

fn sums<T: Element>(
    ring: &mut Ring,
    replicas: &Replicas,
    elements: usize,
    of: impl Fn(f32) -> T,
) -> Vec<T> {
    let mut buffers = ReplicaBuffers::new(replicas, ring.rank(), elements).unwrap();
    let mut last = Vec::new();
    // Twice with the same buffers: the second step finds them as the first left them.
    for _ in 0..2 {
        buffers.clear();
        while let Some(replica) = buffers.due() {
            let vector: Vec<T> = (0..elements).map(|i| of(value(replica, i))).collect();
            buffers.push(vector).unwrap();
        }
        last = ring.reproducible_all_reduce(&mut buffers).unwrap().to_vec();
    }
    last
}

/// The sum by the definition of the tree.
fn tree(replicas: std::ops::Range<u32>, count: u32, place: usize) -> Option<f32> {
    if replicas.start >= count {
        return None;
    }
    if replicas.len() == 1 {
        return Some(value(replicas.start, place));
    }
    let middle = replicas.start + replicas.len() as u32 / 2;
    let left = tree(replicas.start..middle, count, place)?;
    Some(tree(middle..replicas.end, count, place).map_or(left, |right| left + right))
}

#[test]
fn the_bits_are_the_same_for_all_worlds_on_all_transports() {
    let options = |segment_bytes| RingOptions {
        segment_bytes,
        ..RingOptions::default()
    };
    let mut orders_matter = false;
    for count in 1..=16_u32 {
        let elements = 1001;
        let expected: Vec<u32> = (0..elements)
            .map(|i| {
                tree(0..count.next_power_of_two(), count, i)
                    .unwrap()
                    .to_bits()
            })
            .collect();
        let in_turn = |i| (1..count).fold(value(0, i), |sum, replica| sum + value(replica, i));
        orders_matter |= (0..elements).any(|i| in_turn(i).to_bits() != expected[i]);
        for world in 1..=count {
            let replicas = Replicas::new(count, world).unwrap();
            for join in TRANSPORTS {
                let results = on_threads(join(world, options(64)), |(mut ring, _)| {
                    let sums = sums(&mut ring, &replicas, elements, |v| v);
                    sums.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                });
                for result in results {
                    assert!(result == expected, "{replicas:?}");
                }
            }
        }
    }
    assert!(
        orders_matter,
        "values for which any order will do test nothing"
    );
}

#[test]
fn other_types_and_vectors_of_many_blocks_too() {
    let (count, elements) = (6, 60_000);
    let bits = |world: u32, join: Join| {
        let replicas = Replicas::new(count, world).unwrap();
        let rings = join(world, RingOptions::default());
        let mut results = on_threads(rings, |(mut ring, _)| {
            let wide = sums(&mut ring, &replicas, elements, f64::from);
            let narrow = sums(&mut ring, &replicas, elements, bf16::from_f32);
            let wide: Vec<u64> = wide.into_iter().map(f64::to_bits).collect();
            let narrow: Vec<u16> = narrow.into_iter().map(bf16::to_bits).collect();
            (wide, narrow)
        });
        results.pop().unwrap()
    };
    let expected = bits(1, join_memory);
    for world in [2, 3, 4, 6] {
        for join in TRANSPORTS {
            assert!(bits(world, join) == expected, "{world} ranks");
        }
    }
}

/// What the table in the crate's documentation says, in bytes that were really moved.
#[test]
fn what_is_sent_or_read_beyond_a_fast_sum_is_as_documented() {
    // More than is ever sent whole; a frame holds a message.
    let (elements, segment_bytes) = (30_000_u64, 1 << 20);
    let options = RingOptions {
        segment_bytes,
        ..RingOptions::default()
    };
    for count in [1, 2, 5, 6, 8, 11, 16] {
        for world in 1..=count.min(8) {
            let replicas = Replicas::new(count, world).unwrap();
            for join in [join as Join, join_memory, join_processes] {
                let moved = on_threads(join(world, options), |(mut ring, _)| {
                    sums(&mut ring, &replicas, elements as usize, |v| v);
                    let metrics = ring.metrics();
                    let frames = 2 * 2 * u64::from(world - 1);
                    match ring.is_shared() {
                        true => metrics.bytes_received,
                        // Both phases of both sums.
                        false => metrics.bytes_sent - frames * HEADER_BYTES as u64,
                    }
                });
                let moved: u64 = moved.iter().sum();
                let nodes = replicas.extra_nodes() as u64;
                let fast = 2 * elements * u64::from(world - 1);
                let expected = 2 * 4 * (fast + replicas.extra_elements(elements));
                assert_eq!(moved, expected, "{replicas:?}");
                // That is, extra nodes times all slices but one, to a few elements.
                let extra = expected / 8 - fast;
                let part = nodes * elements * u64::from(world - 1) / u64::from(world);
                assert!(extra.abs_diff(part) <= nodes * u64::from(world));
            }
        }
    }
}

#[test]
fn wrong_buffers_are_refused_and_change_nothing() {
    on_threads(join_memory(2, RingOptions::default()), |(mut ring, _)| {
        let replicas = Replicas::new(4, 2).unwrap();
        let mut buffers = ReplicaBuffers::new(&replicas, ring.rank(), 2).unwrap();
        assert_eq!(buffers.due(), Some(ring.rank().0 * 2));
        let error = buffers.push(vec![1.0_f32]).unwrap_err();
        assert!(matches!(error, CollectiveError::ReplicaLength { .. }));
        buffers.push(vec![1.0, 2.0]).unwrap();
        let error = ring.reproducible_all_reduce(&mut buffers).unwrap_err();
        assert_eq!(error.to_string(), "1 replicas at a rank that holds 2");
        buffers.push(vec![1.0, 2.0]).unwrap();
        assert!(buffers.push(vec![1.0, 2.0]).unwrap_err().is_argument());
        assert_eq!(
            ring.reproducible_all_reduce(&mut buffers).unwrap(),
            [4.0, 8.0]
        );

        let other = Replicas::new(4, 1).unwrap();
        let mut buffers = ReplicaBuffers::<f32>::new(&other, Rank(0), 2).unwrap();
        let error = ring.reproducible_all_reduce(&mut buffers).unwrap_err();
        assert!(error.is_argument(), "{error}");
        assert!(ReplicaBuffers::<f32>::new(&other, Rank(1), 2).is_err());
    });
}
