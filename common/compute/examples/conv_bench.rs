//! Times one convolution at a time on the calling thread, for `bench/conv_vs_pytorch.py`.
//!
//! Reads lines of `batch in_channels out_channels size kernel stride padding groups` and answers
//! each with the shortest seconds of the forward pass with bias, the input gradient and the weight
//! gradient, weight packing and folding included, out of three runs each. With
//! the argument `direct` it takes the sums of the definition, without Winograd's.

use std::io::BufRead;

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_compute::cpu::conv::{Algorithm, Conv2d, Convolution, Epilogue, Simd};

const RUNS: usize = 3;

fn shortest(clock: &SystemClock, mut f: impl FnMut()) -> f64 {
    let times = (0..RUNS).map(|_| {
        let start = clock.monotonic();
        f();
        (clock.monotonic() - start).as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn noise(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0)
        .collect()
}

fn time(clock: &SystemClock, conv: &Conv2d, algorithm: Algorithm) -> [f64; 3] {
    let kernels = Convolution::new(conv, Simd::widest(), algorithm).expect("a sound shape");
    let batch = conv.batch;
    let (x, mut dy) = (
        noise(batch * conv.image_in()),
        noise(batch * conv.image_out()),
    );
    let (weights, bias) = (noise(conv.weights()), noise(conv.out_channels));
    let mut packed = vec![0.0; kernels.forward_packed()];
    let mut scratch = vec![0.0; kernels.forward_scratch(batch)];
    let forward = shortest(clock, || {
        kernels.pack_forward(&mut packed, &weights);
        let epilogue = Epilogue {
            bias: Some(&bias),
            relu: false,
        };
        kernels.forward(batch, &mut dy, &x, &packed, epilogue, &mut scratch);
    });
    let mut dx = vec![0.0; x.len()];
    let mut packed = vec![0.0; kernels.input_gradient_packed()];
    let mut scratch = vec![0.0; kernels.input_gradient_scratch(batch)];
    let input = shortest(clock, || {
        kernels.pack_input_gradient(&mut packed, &weights);
        kernels.input_gradient(batch, &mut dx, &dy, &packed, &mut scratch);
    });
    let mut partials = vec![0.0; kernels.weight_partials()];
    let mut scratch = vec![0.0; kernels.weight_scratch()];
    let mut dw = weights;
    let weight = shortest(clock, || {
        let units = 0..kernels.weight_units();
        kernels.weight_run(units, &mut partials, &x, &dy, &mut scratch);
        kernels.fold_weights(&mut dw, &partials);
    });
    [forward, input, weight]
}

fn main() {
    let clock = SystemClock::new();
    let algorithm = match std::env::args().nth(1).as_deref() {
        Some("direct") => Algorithm::Direct,
        _ => Algorithm::Fastest,
    };
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let numbers: Result<Vec<usize>, _> = line.split_whitespace().map(str::parse).collect();
        let Ok(
            &[
                batch,
                in_channels,
                out_channels,
                size,
                kernel,
                stride,
                padding,
                groups,
            ],
        ) = numbers.as_deref()
        else {
            eprintln!("eight numbers expected, got {line:?}");
            std::process::exit(2);
        };
        let conv = Conv2d {
            batch,
            in_channels,
            out_channels,
            in_h: size,
            in_w: size,
            kernel_h: kernel,
            kernel_w: kernel,
            stride: [stride; 2],
            padding: [padding; 2],
            padding_after: [padding; 2],
            dilation: [1, 1],
            groups,
        };
        let [forward, input, weight] = time(&clock, &conv, algorithm);
        println!("{forward} {input} {weight}");
    }
}
