//! Operations a second of matrix products on one thread, by processor time: `f32`, and operands rounded
//! to bfloat16 where the processor can.
//!
//! `cargo run --release -p ringfold-compute --example gemm_bench`

use ringfold_compute::Precision;
use ringfold_compute::cpu::gemm::{MatMul, check_bf16, matmul};

/// Name, rows, columns, length of the sums, and which operands are stored transposed: the products of
/// a GPT's and a perceptron's layers, and a cube.
type Shape = (&'static str, [usize; 3], [bool; 2]);
const SHAPES: [Shape; 9] = [
    ("cube", [1024, 1024, 1024], [false, false]),
    ("gpt wide forward", [2048, 1536, 384], [false, true]),
    ("gpt wide to input", [2048, 384, 1536], [false, false]),
    ("gpt wide to weight", [1536, 384, 2048], [true, false]),
    ("gpt head", [2048, 65, 384], [false, true]),
    ("attention scores", [64, 64, 64], [false, true]),
    ("mlp forward", [128, 512, 784], [false, true]),
    ("mlp to weight", [512, 784, 128], [true, false]),
    ("mlp to input", [128, 512, 512], [false, false]),
];

/// Nanoseconds that this thread has run, as the kernel's scheduler counts them.
fn cpu_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn main() {
    let mut precisions = vec![Precision::Full];
    match check_bf16::<f32>() {
        Ok(()) => precisions.push(Precision::Bf16),
        Err(error) => eprintln!("skipped: {error}"),
    }
    for (name, [m, n, k], [lhs_transposed, rhs_transposed]) in SHAPES {
        let number = |i: usize| (i * 7919 % 2003) as f32 / 997.0 - 1.0;
        let lhs: Vec<f32> = (0..m * k).map(number).collect();
        let rhs: Vec<f32> = (0..k * n).map(number).collect();
        let mut dst = vec![0.0; m * n];
        let flops = (2 * m * n * k) as f64;
        let runs = (1e9 / flops).ceil() as usize;
        let mut best = vec![f64::INFINITY; precisions.len()];
        // In turns, since other load comes and goes.
        for _ in 0..12 {
            for (best, &precision) in best.iter_mut().zip(&precisions) {
                let spec = MatMul {
                    m,
                    n,
                    k,
                    lhs_transposed,
                    rhs_transposed,
                    accumulate: false,
                    threads: 1,
                    precision,
                };
                let start = cpu_nanoseconds();
                (0..runs).for_each(|_| matmul(&spec, &mut dst, &lhs, &rhs));
                *best = best.min((cpu_nanoseconds() - start) / runs as f64);
            }
        }
        let rates: Vec<String> = best.iter().map(|t| format!("{:.0}", flops / t)).collect();
        let ratio = best[0] / best[best.len() - 1];
        println!(
            "{{\"shape\":\"{name}\",\"m\":{m},\"n\":{n},\"k\":{k},\"gflops\":[{}],\"ratio\":{ratio:.2}}}",
            rates.join(",")
        );
    }
}
