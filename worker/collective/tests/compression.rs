//! Compressed sums on every transport: all ranks get the same bytes, near the exact sum.

use half::{bf16, f16};
use proptest::prelude::*;
use ringfold_collective::algorithm::Replicas;
use ringfold_collective::compression::{Compressor, Half, HalfSum, Matrix, Method, Traffic};
use ringfold_collective::testing::{join, join_memory, join_processes, on_threads};
use ringfold_collective::{AbortSignal, CollectiveError, ReplicaBuffers, Ring, RingOptions};
use ringfold_common::random::Stream;

/// How a ring of so many ranks is made.
type Join = fn(u32) -> Vec<(Ring, AbortSignal)>;

const TRANSPORTS: &[(&str, Join)] = &[
    ("tcp", |world| join(world, RingOptions::default())),
    ("memory", |world| join_memory(world, RingOptions::default())),
    ("shared memory", |world| {
        join_processes(world, RingOptions::default())
    }),
];

/// The vector of a rank: normal numbers of very different sizes.
fn vector(rank: u32, call: u64, elements: usize) -> Vec<f32> {
    let stream = Stream::new(u64::from(rank), call);
    let number = |at: u64| stream.normal(at) * 10f64.powi((at % 5) as i32 - 3);
    (0..elements as u64).map(|at| number(at) as f32).collect()
}

/// Runs `body` at every rank; all must return the same bits, which are returned.
fn agreed(world: u32, join: Join, body: impl Fn(&mut Ring, u32) -> Vec<f32> + Sync) -> Vec<f32> {
    let results = on_threads(join(world), |(mut ring, _)| {
        let rank = ring.rank().0;
        body(&mut ring, rank)
    });
    let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|x| x.to_bits()).collect() };
    for other in &results[1..] {
        assert_eq!(bits(other), bits(&results[0]));
    }
    results.into_iter().next().unwrap()
}

/// The exact sum of all ranks' values at each place, and that of their sizes.
fn exact(vectors: &[Vec<f32>]) -> Vec<(f64, f64)> {
    (0..vectors[0].len())
        .map(|at| {
            let terms = vectors.iter().map(|vector| f64::from(vector[at]));
            let sizes = terms.clone().map(f64::abs);
            (terms.sum(), sizes.sum())
        })
        .collect()
}

#[test]
fn halves_are_near_the_exact_sum() {
    for (method, u) in [(Method::Bf16, 2f64.powi(-8)), (Method::F16, 2f64.powi(-11))] {
        for (transport, join) in TRANSPORTS {
            for (world, elements) in [(2, 1000), (3, 1), (3, 1001), (4, 40_000), (5, 0)] {
                let sums = agreed(world, *join, |ring, rank| {
                    let mut compressor = Compressor::new(method, elements, &[]).unwrap();
                    let mut values = vector(rank, 0, elements);
                    let traffic = compressor.all_reduce(ring, 0, &mut values).unwrap();
                    let part = elements.div_ceil(world as usize) as u64;
                    assert_eq!(traffic.sent_bytes, 2 * 2 * u64::from(world - 1) * part);
                    values
                });
                let vectors: Vec<_> = (0..world).map(|rank| vector(rank, 0, elements)).collect();
                if elements == 0 {
                    continue;
                }
                for (got, (sum, sizes)) in sums.iter().zip(exact(&vectors)) {
                    // The second term is where f16 loses precision.
                    let bound = sizes * (2.01 * u + 1e-6) + f64::from(world + 1) * 3e-8;
                    let error = (f64::from(*got) - sum).abs();
                    assert!(
                        error <= bound,
                        "{method:?} {transport} {world}: {got} for {sum}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_world_of_one_keeps_its_values() {
    for (_, join) in TRANSPORTS {
        let sums = agreed(1, *join, |ring, _| {
            let mut values = vector(0, 0, 100);
            let traffic =
                Compressor::new(Method::Bf16, 100, &[])
                    .unwrap()
                    .all_reduce(ring, 0, &mut values);
            assert_eq!(traffic.unwrap(), Traffic::default());
            values
        });
        assert_eq!(sums, vector(0, 0, 100));
    }
}

#[test]
fn ranges_that_are_not_there_are_refused_and_the_ring_goes_on() {
    agreed(2, TRANSPORTS[1].1, |ring, _| {
        let mut compressor = Compressor::new(Method::F16, 10, &[]).unwrap();
        for start in [5, usize::MAX] {
            let error = compressor
                .all_reduce(ring, start, &mut [0.0; 6])
                .unwrap_err();
            assert!(
                matches!(error, CollectiveError::CompressedRange { .. }),
                "{error}"
            );
            assert!(error.is_argument());
        }
        let mut values = [1.0; 6];
        compressor.all_reduce(ring, 4, &mut values).unwrap();
        values.to_vec()
    });
}

/// The sum of replicas' vectors in halves by the definition: every node of the tree is rounded.
fn tree_sum(half: Half, replicas: std::ops::Range<usize>, vectors: &[Vec<f32>]) -> Vec<f32> {
    let round = |value: f32| match half {
        Half::Bf16 => bf16::from_f32(value).to_f32(),
        Half::F16 => f16::from_f32(value).to_f32(),
    };
    if replicas.len() == 1 {
        return vectors[replicas.start].iter().map(|&x| round(x)).collect();
    }
    let left = replicas.len().next_power_of_two() / 2;
    let middle = replicas.start + left;
    let (a, b) = (
        tree_sum(half, replicas.start..middle, vectors),
        tree_sum(half, middle..replicas.end, vectors),
    );
    a.iter().zip(&b).map(|(a, b)| round(a + b)).collect()
}

#[test]
fn a_reproducible_sum_in_halves_is_that_of_the_tree_on_any_number_of_ranks() {
    let (head, rest) = (900, 7);
    for half in [Half::Bf16, Half::F16] {
        for count in [1_u32, 2, 3, 6, 8] {
            let vectors: Vec<_> = (0..count).map(|r| vector(r, 1, head + rest)).collect();
            let expected = tree_sum(half, 0..count as usize, &vectors);
            for world in 1..=count {
                for (_, join) in TRANSPORTS {
                    let replicas = Replicas::new(count, world).unwrap();
                    let sums = agreed(world, *join, |ring, _| {
                        let rank = ring.rank();
                        let mut buffers =
                            ReplicaBuffers::new(&replicas, rank, head + rest).unwrap();
                        for replica in replicas.of(rank) {
                            let mut mine = vectors[replica as usize].clone();
                            half.round(&mut mine[..head]);
                            let add = |sums: &mut [f32], terms: &[f32]| {
                                sums.iter_mut().zip(terms).for_each(|(a, b)| *a += b);
                                half.round(&mut sums[..head]);
                            };
                            buffers.push_with(mine, add).unwrap();
                        }
                        let mut sum = HalfSum::new(half, &replicas, rank, head, rest).unwrap();
                        let traffic = sum.all_reduce(ring, &mut buffers).unwrap();
                        assert!(world == 1 || traffic.saved_bytes() > 0);
                        buffers.sum().unwrap().clone()
                    });
                    assert_eq!(
                        sums[..head],
                        expected[..head],
                        "{half:?} {count} on {world}"
                    );
                    let exact = exact(&vectors);
                    for (got, (sum, _)) in sums.iter().zip(exact).skip(head) {
                        assert!((f64::from(*got) - sum).abs() < 1e-5 * sum.abs().max(1.0));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn ranges_add_up_to_the_whole(cut in 0_usize..500, world in 2_u32..5) {
        let whole = agreed(world, TRANSPORTS[1].1, |ring, rank| {
            let mut values = vector(rank, 2, 500);
            Compressor::new(Method::Bf16, 500, &[]).unwrap().all_reduce(ring, 0, &mut values).unwrap();
            values
        });
        let ranges = agreed(world, TRANSPORTS[1].1, |ring, rank| {
            let mut compressor = Compressor::new(Method::Bf16, 500, &[]).unwrap();
            let mut values = vector(rank, 2, 500);
            compressor.all_reduce(ring, cut, &mut values[cut..]).unwrap();
            compressor.all_reduce(ring, 0, &mut values[..cut]).unwrap();
            values
        });
        // Each element is rounded for itself.
        prop_assert_eq!(whole, ranges);
    }
}

/// Matrices of every kind in a vector of 2,000, with gaps: wide, tall, one too thin to compress.
const MATRICES: [Matrix; 3] = [matrix(16, 10, 60), matrix(620, 40, 8), matrix(1000, 2, 3)];

const fn matrix(start: usize, rows: usize, columns: usize) -> Matrix {
    Matrix {
        start,
        rows,
        columns,
    }
}

const WITH_FEEDBACK: [Method; 4] = [
    Method::Int8 { block: 64 },
    Method::TopK { fraction: 0.05 },
    Method::PowerSgd { rank: 1, seed: 4 },
    Method::PowerSgd { rank: 3, seed: 4 },
];

#[test]
fn what_is_not_sent_is_kept_and_nothing_is_lost() {
    const ELEMENTS: usize = 2000;
    const CALLS: u64 = 12;
    for method in WITH_FEEDBACK {
        for (transport, join) in TRANSPORTS {
            for world in [2, 3, 5] {
                let ranks = on_threads(join(world), |(mut ring, _)| {
                    let rank = ring.rank().0;
                    let mut compressor = Compressor::new(method, ELEMENTS, &MATRICES).unwrap();
                    let mut total = vec![0.0_f64; ELEMENTS];
                    let mut results = Vec::new();
                    for call in 0..CALLS {
                        let mut values = vector(rank, call, ELEMENTS);
                        // In two ranges, of which none cuts a matrix.
                        let (head, tail) = values.split_at_mut(980);
                        let mut traffic = compressor.all_reduce(&mut ring, 980, tail).unwrap();
                        traffic += compressor.all_reduce(&mut ring, 0, head).unwrap();
                        assert!(traffic.saved_bytes() > 0, "{method:?} {traffic:?}");
                        total
                            .iter_mut()
                            .zip(&values)
                            .for_each(|(a, b)| *a += f64::from(*b));
                        results.extend(values.iter().map(|x| x.to_bits()));
                    }
                    (results, total, compressor.kept().unwrap().to_vec())
                });
                let (results, total, _) = &ranks[0];
                for (other, _, _) in &ranks[1..] {
                    assert!(
                        other == results,
                        "{method:?} {transport} {world}: other bytes"
                    );
                }
                for (at, total) in total.iter().enumerate() {
                    let kept: f64 = ranks.iter().map(|rank| f64::from(rank.2[at])).sum();
                    let put_in = (0..world).flat_map(|rank| {
                        (0..CALLS).map(move |call| f64::from(vector_at(rank, call, at)))
                    });
                    let (sum, sizes) = put_in.fold((0.0, 0.0), |(sum, sizes), term: f64| {
                        (sum + term, sizes + term.abs())
                    });
                    // The product of factors is rounded at the size of its largest elements.
                    let bound = 1e-4 * sizes.max(1.0);
                    let error = (total + kept - sum).abs();
                    assert!(
                        error < bound,
                        "{method:?} {transport} {world} {at}: {error}"
                    );
                }
            }
        }
    }
}

fn vector_at(rank: u32, call: u64, at: usize) -> f32 {
    let at = at as u64;
    let number = Stream::new(u64::from(rank), call).normal(at);
    (number * 10f64.powi((at % 5) as i32 - 3)) as f32
}

#[test]
fn bytes_are_near_the_exact_sum() {
    for (_, join) in TRANSPORTS {
        let sums = agreed(3, *join, |ring, rank| {
            let method = Method::Int8 { block: 64 };
            let mut compressor = Compressor::new(method, 1000, &[]).unwrap();
            let mut values = vector(rank, 0, 1000);
            compressor.all_reduce(ring, 0, &mut values).unwrap();
            values
        });
        let vectors: Vec<_> = (0..3).map(|rank| vector(rank, 0, 1000)).collect();
        for (got, (sum, _)) in sums.iter().zip(exact(&vectors)) {
            // Three values off by 1/254 of at most 40 each, and a sum of at most 120.
            assert!((f64::from(*got) - sum).abs() < 2.0 * 120.0 / 254.0);
        }
    }
}

#[test]
fn all_elements_are_sent_with_a_fraction_of_one() {
    let sums = agreed(3, TRANSPORTS[0].1, |ring, rank| {
        let mut compressor = Compressor::new(Method::TopK { fraction: 1.0 }, 300, &[]).unwrap();
        let mut values = vector(rank, 0, 300);
        let traffic = compressor.all_reduce(ring, 0, &mut values).unwrap();
        assert!(
            traffic.saved_bytes() < 0,
            "indices cost more than they save"
        );
        assert!(compressor.kept().unwrap().iter().all(|&kept| kept == 0.0));
        values
    });
    let vectors: Vec<_> = (0..3).map(|rank| vector(rank, 0, 300)).collect();
    for (at, sum) in sums.iter().enumerate() {
        assert_eq!(*sum, vectors[0][at] + vectors[1][at] + vectors[2][at]);
    }
}

#[test]
fn a_matrix_of_low_rank_is_found_by_power_iteration() {
    let (rows, columns) = (30, 20);
    let of_rank = |rank: u32| -> Vec<f32> {
        // Every rank has the same two directions in other amounts.
        let (u, v) = (vector(90, 0, 2 * rows), vector(91, 0, 2 * columns));
        let at = |i: usize, j: usize| {
            u[i] * v[j] * (rank + 1) as f32 + u[rows + i] * v[columns + j] * 0.5
        };
        (0..rows * columns)
            .map(|at_| at(at_ / columns, at_ % columns))
            .collect()
    };
    let sums = agreed(3, TRANSPORTS[2].1, |ring, rank| {
        let method = Method::PowerSgd { rank: 2, seed: 1 };
        let matrices = [matrix(0, rows, columns)];
        let mut compressor = Compressor::new(method, rows * columns, &matrices).unwrap();
        let mut values = of_rank(rank);
        compressor.all_reduce(ring, 0, &mut values).unwrap();
        values
    });
    let vectors: Vec<_> = (0..3).map(of_rank).collect();
    let greatest = sums.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (got, (sum, _)) in sums.iter().zip(exact(&vectors)) {
        assert!((f64::from(*got) - sum).abs() < 1e-4 * f64::from(greatest));
    }
}

#[test]
fn options_out_of_range_are_refused() {
    for (method, expected) in [
        (
            Method::Int8 { block: 7 },
            "block is 7: allowed is 8 to 65536",
        ),
        (
            Method::TopK { fraction: 0.0 },
            "fraction is 0: allowed is above 0, up to 1",
        ),
        (Method::TopK { fraction: f64::NAN }, "fraction is NaN"),
        (
            Method::PowerSgd { rank: 65, seed: 0 },
            "rank is 65: allowed is 1 to 64",
        ),
    ] {
        let error = Compressor::new(method, 10, &[]).unwrap_err();
        assert!(
            error.is_argument() && error.to_string().contains(expected),
            "{error}"
        );
    }
    let method = Method::PowerSgd { rank: 1, seed: 0 };
    for matrix in [
        matrix(0, 11, 1),
        matrix(9, 2, 1),
        matrix(0, usize::MAX, 2),
        matrix(0, 0, 5),
    ] {
        assert!(Compressor::new(method, 10, &[matrix]).is_err());
    }
}

#[test]
fn a_number_that_is_not_finite_is_named_where_it_is_and_ends_the_ring() {
    for method in WITH_FEEDBACK {
        for (_, join) in TRANSPORTS {
            let errors = on_threads(join(2), |(mut ring, _)| {
                let mut values = vec![1.0; 2000];
                if ring.rank().0 == 1 {
                    values[77] = f32::NAN;
                }
                let mut compressor = Compressor::new(method, 2000, &MATRICES).unwrap();
                let error = compressor
                    .all_reduce(&mut ring, 0, &mut values)
                    .unwrap_err();
                assert!(matches!(
                    ring.barrier().unwrap_err(),
                    CollectiveError::Poisoned { .. }
                ));
                error
            });
            assert_eq!(
                errors[1].to_string(),
                "element 77 is NaN: only finite numbers can be compressed"
            );
            assert_eq!(errors[0].accused().len(), 1, "{}", errors[0]);
        }
    }
}

#[test]
fn a_rank_that_sends_what_can_not_be_right_is_named() {
    for (_, join) in TRANSPORTS {
        let errors = on_threads(join(2), |(mut ring, _)| {
            if ring.rank().0 == 1 {
                // What int8 would send, but all bytes are ones: scales are NaN.
                let mut parts = vec![0xff_u8; 2 * (64 + 4)];
                ring.all_to_all(&mut parts).unwrap();
                return None;
            }
            let mut compressor = Compressor::new(Method::Int8 { block: 64 }, 128, &[]).unwrap();
            compressor.all_reduce(&mut ring, 0, &mut [1.0; 128]).err()
        });
        let error = errors[0].as_ref().expect("an error");
        let expected = "rank 1 sent a compressed block that can't be right: the scale of block 0";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.accused()[0].0, 1);

        let errors = on_threads(join(2), |(mut ring, _)| {
            if ring.rank().0 == 1 {
                let mut all = vec![0; 2 * 16];
                ring.all_gather(&[0xff_u8; 16], &mut all).unwrap();
                return None;
            }
            let mut compressor =
                Compressor::new(Method::TopK { fraction: 0.02 }, 100, &[]).unwrap();
            compressor.all_reduce(&mut ring, 0, &mut [1.0; 100]).err()
        });
        let error = errors[0].as_ref().expect("an error");
        let expected = "index 0 is 4294967295: expected one below 100";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
