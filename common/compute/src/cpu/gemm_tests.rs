use proptest::prelude::*;

use super::*;
use crate::cpu::team::Team;

fn element(i: usize) -> f64 {
    ((i * 37 + 11) % 19) as f64 - 9.0
}

fn reference(spec: &MatMul, dst: &mut [f64], lhs: &[f64], rhs: &[f64]) {
    let &MatMul { m, n, k, .. } = spec;
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|l| {
                    let a = if spec.lhs_transposed {
                        l * m + i
                    } else {
                        i * k + l
                    };
                    let b = if spec.rhs_transposed {
                        j * k + l
                    } else {
                        l * n + j
                    };
                    lhs[a] * rhs[b]
                })
                .sum();
            let before = if spec.accumulate { dst[i * n + j] } else { 0.0 };
            dst[i * n + j] = before + sum;
        }
    }
}

/// Small integers: sums are exact in both types, whatever their order.
fn assert_exact(spec: &MatMul) {
    let &MatMul { m, n, k, .. } = spec;
    let lhs: Vec<f64> = (0..m * k).map(element).collect();
    let rhs: Vec<f64> = (0..k * n).map(|i| element(i + 5)).collect();
    let start: Vec<f64> = (0..m * n).map(|i| element(i + 3)).collect();
    let mut expected = start.clone();
    reference(spec, &mut expected, &lhs, &rhs);
    let mut got = start.clone();
    matmul(spec, &mut got, &lhs, &rhs);
    assert_eq!(got, expected, "{spec:?}");
    let single = |slice: &[f64]| slice.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let mut got = single(&start);
    matmul(spec, &mut got, &single(&lhs), &single(&rhs));
    assert_eq!(got, single(&expected), "{spec:?}");
    // What machines without our own kernel do.
    let mut got = single(&start);
    by_crate(
        spec,
        &spec.dense(),
        1.0,
        (&mut got, None),
        &single(&lhs),
        &single(&rhs),
    );
    assert_eq!(got, single(&expected), "{spec:?}");
}

/// Operands large enough to be packed, in every form, with rows apart and a factor.
#[test]
fn large_products_are_exact() {
    for (lhs_transposed, rhs_transposed) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        for (m, n, k) in [(201, 1601, 40), (300, 131, 530), (35, 70, 1000)] {
            let spec = MatMul {
                m,
                n,
                k,
                lhs_transposed,
                rhs_transposed,
                accumulate: true,
                threads: 2,
                precision: Precision::Full,
            };
            let mut team = Team::new(2).unwrap();
            team.install(|| assert_exact(&spec));
            let strides = RowStrides {
                dst: n + 3,
                lhs: spec.lhs().1 + 1,
                rhs: spec.rhs().1 + 2,
            };
            let number = |i: usize| element(i) as f32;
            let lhs: Vec<f32> = (0..spec.lhs().0 * strides.lhs).map(number).collect();
            let rhs: Vec<f32> = (0..spec.rhs().0 * strides.rhs).map(number).collect();
            let mut got = vec![1.0; m * strides.dst];
            let mut expected = got.clone();
            matmul_strided(&spec, &strides, 0.5, &mut got, &lhs, &rhs);
            team.install(|| by_crate(&spec, &strides, 0.5, (&mut expected, None), &lhs, &rhs));
            assert_eq!(got, expected, "{spec:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agrees_with_the_definition(
        m in 1usize..70, n in 1usize..70, k in 1usize..70,
        lhs_transposed: bool, rhs_transposed: bool, accumulate: bool, threads in 1usize..3,
    ) {
        assert_exact(&MatMul {
            m, n, k, lhs_transposed, rhs_transposed, accumulate, threads, precision: Precision::Full,
        });
    }
}

/// The crate sums a single row, and few elements, in another order: no thread gets those alone.
#[test]
fn bits_by_the_crate_do_not_depend_on_threads() {
    let turns = [(false, false), (true, false), (false, true), (true, true)];
    for (m, n, k) in [
        (17, 33, 300),
        (33, 7, 511),
        (97, 40, 600),
        (1, 70, 90),
        (51, 14, 57),
        (300, 1, 40),
        (16, 16, 33),
    ] {
        for (lhs_transposed, rhs_transposed) in turns {
            let fraction = |i: usize| 1.0 / (element(i) + 30.5);
            let lhs: Vec<f64> = (0..m * k).map(fraction).collect();
            let rhs: Vec<f64> = (0..k * n).map(|i| fraction(i + 5)).collect();
            let product = |threads| {
                let spec = MatMul {
                    precision: Precision::Full,
                    m,
                    n,
                    k,
                    lhs_transposed,
                    rhs_transposed,
                    accumulate: false,
                    threads,
                };
                let mut dst = vec![0.0; m * n];
                let mut team = Team::new(threads).unwrap();
                team.install(|| matmul(&spec, &mut dst, &lhs, &rhs));
                dst.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            };
            let one = product(1);
            for threads in 2..6 {
                assert!(
                    product(threads) == one,
                    "{m} × {n} × {k}, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn biases_are_added_to_every_row() {
    for k in [7, K_RUN + 9] {
        let spec = MatMul {
            m: 35,
            n: 41,
            k,
            lhs_transposed: false,
            rhs_transposed: true,
            accumulate: false,
            threads: 2,
            precision: Precision::Full,
        };
        let lhs: Vec<f64> = (0..35 * k).map(element).collect();
        let rhs: Vec<f64> = (0..k * 41).map(|i| element(i + 5)).collect();
        let bias: Vec<f64> = (0..41).map(|i| element(i + 2)).collect();
        let mut expected = bias.repeat(35);
        let sum = MatMul {
            accumulate: true,
            ..spec
        };
        reference(&sum, &mut expected, &lhs, &rhs);
        let mut got = vec![f64::NAN; 35 * 41];
        matmul_then(&spec, &mut got, [&lhs, &rhs], Some(&bias), None);
        assert_eq!(got, expected);
        let [lhs, rhs, bias] = [lhs, rhs, bias].map(|x| {
            let x = x.iter().map(|&x| x as f32);
            x.collect::<Vec<_>>()
        });
        let mut got = vec![f32::NAN; 35 * 41];
        matmul_then(&spec, &mut got, [&lhs, &rhs], Some(&bias), None);
        assert!(got.iter().zip(&expected).all(|(&x, &y)| f64::from(x) == y));
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn pieces_are_even_and_cover_the_result() {
    let spec = |m, n, threads, lhs_transposed, rhs_transposed| MatMul {
        m,
        n,
        k: 512,
        lhs_transposed,
        rhs_transposed,
        accumulate: false,
        threads,
        precision: Precision::Full,
    };
    // Columns of the weights are turned once, not by each thread.
    assert_eq!(piece(&spec(128, 512, 2, false, true)), [128, 256]);
    // Few columns, or few rows.
    assert_eq!(piece(&spec(128, 10, 2, false, true)), [64, 10]);
    assert_eq!(piece(&spec(10, 512, 2, true, false)), [10, 256]);
    assert_eq!(piece(&spec(1, 1, 3, false, false)), [1, 1]);
    for threads in 1..9 {
        for (m, n) in [(1, 7), (13, 40), (128, 512), (515, 784), (1000, 10)] {
            let [rows, columns] = piece(&spec(m, n, threads, true, false));
            assert!((1..=m).contains(&rows) && (1..=n).contains(&columns));
            assert!(m.div_ceil(rows) * n.div_ceil(columns) <= threads);
        }
    }
}

#[test]
fn long_sums_are_cut() {
    for (lhs_transposed, rhs_transposed) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        assert_exact(&MatMul {
            m: 20,
            n: 30,
            k: 2 * K_RUN + 7,
            lhs_transposed,
            rhs_transposed,
            accumulate: true,
            threads: 1,
            precision: Precision::Full,
        });
    }
}

#[test]
#[should_panic(expected = "left operand")]
fn lengths_are_checked() {
    let spec = MatMul {
        m: 2,
        n: 2,
        k: 2,
        lhs_transposed: false,
        rhs_transposed: false,
        accumulate: false,
        threads: 1,
        precision: Precision::Full,
    };
    matmul(&spec, &mut [0.0f32; 4], &[0.0; 3], &[0.0; 4]);
}
