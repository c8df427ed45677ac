use proptest::prelude::*;

use super::*;

/// Numbers between -1 and 1, without a pattern.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// What sums of so many products of numbers up to 1 may be off by.
fn tolerance(winograd: bool, terms: usize) -> f64 {
    if winograd {
        3e-5 * (terms as f64).sqrt()
    } else {
        4e-6 + 1e-7 * terms as f64
    }
}

fn close(what: &str, conv: &Conv2d, got: &[f32], want: &[f64], tolerance: f64) {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance, "{what} {i}: {got} for {want}, {conv:?}");
    }
}

struct Case {
    conv: Conv2d,
    x: Vec<f32>,
    dy: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    winograd: bool,
    /// With all images' transformed inputs at once.
    pairs: bool,
}

impl Case {
    fn new(conv: Conv2d) -> Self {
        Self {
            conv,
            x: noise(conv.batch * conv.image_in(), 1),
            dy: noise(conv.batch * conv.image_out(), 2),
            weights: noise(conv.weights(), 3),
            bias: noise(conv.out_channels, 4),
            winograd: false,
            pairs: false,
        }
    }

    fn kernels(&self, simd: Simd) -> Convolution {
        let mut kernels = Convolution::new(&self.conv, simd, Algorithm::Direct).unwrap();
        if self.winograd {
            kernels.forward = Pass::Winograd(Winograd::forward(&self.conv, simd));
            kernels.input_gradient = Pass::Winograd(Winograd::input_gradient(&self.conv, simd));
            kernels.weight_gradient = if self.pairs {
                Weights::Pairs(WinogradPairs::new(&self.conv, simd))
            } else {
                Weights::Winograd(WinogradWeights::new(&self.conv, simd))
            };
        }
        kernels
    }

    /// Whether or not it would be faster.
    fn by_winograd(conv: Conv2d) -> Self {
        assert!(Winograd::fits(&conv));
        Self {
            winograd: true,
            ..Self::new(conv)
        }
    }

    /// `[y, dx, dw, db]`, with the batch cut into pieces of `images`, and NaN wherever nothing
    /// was written.
    fn run(&self, simd: Simd, images: usize, relu: bool) -> [Vec<f32>; 4] {
        let kernels = self.kernels(simd);
        let conv = &self.conv;
        let nan = |len: usize| vec![f32::NAN; len];
        let [mut y, mut dx, mut dw, mut db] = [
            self.dy.len(),
            self.x.len(),
            self.weights.len(),
            self.bias.len(),
        ]
        .map(nan);
        let mut packed = nan(kernels.forward_packed());
        kernels.pack_forward(&mut packed, &self.weights);
        let epilogue = Epilogue {
            bias: Some(&self.bias),
            relu,
        };
        let mut scratch = nan(kernels.forward_scratch(images));
        for (x, y) in self
            .x
            .chunks(images * conv.image_in())
            .zip(y.chunks_mut(images * conv.image_out()))
        {
            let images = x.len() / conv.image_in();
            kernels.forward(images, y, x, &packed, epilogue, &mut scratch);
        }
        let mut packed = nan(kernels.input_gradient_packed());
        kernels.pack_input_gradient(&mut packed, &self.weights);
        let mut scratch = nan(kernels.input_gradient_scratch(images));
        let pieces = dx.chunks_mut(images * conv.image_in());
        for (dx, dy) in pieces.zip(self.dy.chunks(images * conv.image_out())) {
            let images = dx.len() / conv.image_in();
            kernels.input_gradient(images, dx, dy, &packed, &mut scratch);
        }
        let mut partials = nan(kernels.weight_partials());
        assert!(kernels.weight_units() <= UNITS_MAX);
        // In an order that depends on the pieces.
        let mut units: Vec<usize> = (0..kernels.weight_units()).collect();
        units.rotate_left(images % kernels.weight_units());
        let mut scratch = nan(kernels.weight_scratch());
        for run in units.chunk_by(|a, b| a + 1 == *b && b % (images + 1) != 0) {
            let run = run[0]..run[run.len() - 1] + 1;
            let range = [run.start, run.end - 1].map(|unit| kernels.weight_unit_range(unit));
            let partial = &mut partials[range[0].start..range[1].end];
            kernels.weight_run(run, partial, &self.x, &self.dy, &mut scratch);
        }
        kernels.fold_weights(&mut dw, &partials);
        kernels.bias_gradient(0..conv.out_channels, &mut db, &self.dy);
        [y, dx, dw, db]
    }

    fn check(&self, simd: Simd) {
        let conv = &self.conv;
        let [y, dx, dw, db] = self.run(simd, conv.batch, true);
        let [x64, dy64, w64, b64] = [&self.x, &self.dy, &self.weights, &self.bias].map(|v| wide(v));
        let mut want = vec![0.0; y.len()];
        reference::forward(conv, &mut want, &x64, &w64, Some(&b64), true);
        let off = tolerance(self.winograd, conv.group_in() * conv.taps());
        close("y", conv, &y, &want, off);
        let mut want = vec![0.0; dx.len()];
        reference::input_gradient(conv, &mut want, &dy64, &w64);
        let off = tolerance(self.winograd, conv.group_out() * conv.taps());
        close("dx", conv, &dx, &want, off);
        let pixels = conv.batch * conv.out_h() * conv.out_w();
        let mut want = vec![0.0; dw.len()];
        reference::weight_gradient(conv, &mut want, &x64, &dy64);
        let off = tolerance(self.winograd, pixels);
        close("dw", conv, &dw, &want, off);
        let off = tolerance(false, pixels);
        let mut want = vec![0.0; db.len()];
        reference::bias_gradient(conv, &mut want, &dy64);
        close("db", conv, &db, &want, off);
    }

    fn check_all(&self) {
        for simd in Simd::levels() {
            self.check(simd);
        }
        let simd = Simd::widest();
        let whole = self.run(simd, self.conv.batch, false);
        for images in 1..self.conv.batch {
            let cut = self.run(simd, images, false);
            for (a, b) in whole.iter().zip(&cut) {
                assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

pub(super) fn square(channels: [usize; 2], size: usize, kernel: usize) -> Conv2d {
    Conv2d {
        batch: 2,
        in_channels: channels[0],
        out_channels: channels[1],
        in_h: size,
        in_w: size,
        kernel_h: kernel,
        kernel_w: kernel,
        stride: [1, 1],
        padding: [kernel / 2, kernel / 2],
        padding_after: [kernel / 2, kernel / 2],
        dilation: [1, 1],
        groups: 1,
    }
}

fn strided(conv: Conv2d, stride: usize) -> Conv2d {
    Conv2d {
        stride: [stride, stride],
        ..conv
    }
}

#[test]
fn shapes_of_networks() {
    let shapes = [
        square([1, 32], 28, 5),
        square([32, 64], 14, 5),
        square([3, 64], 32, 3),
        square([64, 64], 32, 3),
        strided(square([64, 128], 32, 3), 2),
        strided(square([64, 128], 32, 1), 2),
        square([64, 32], 16, 1),
        square([256, 64], 8, 3),
        square([64, 128], 4, 3),
        strided(square([3, 16], 64, 7), 2),
        square([32, 32], 7, 3),
    ];
    for conv in shapes {
        Case::new(conv).check_all();
    }
}

#[test]
fn many_images_share_a_pack() {
    let conv = Conv2d {
        batch: 37,
        ..square([32, 32], 4, 3)
    };
    Case::new(conv).check(Simd::widest());
}

#[test]
fn one_dimension() {
    let conv = Conv2d {
        in_h: 1,
        kernel_h: 1,
        padding: [0, 2],
        padding_after: [0, 2],
        ..square([5, 7], 33, 5)
    };
    Case::new(conv).check_all();
}

#[test]
fn an_empty_batch_has_no_weight_gradient() {
    let conv = Conv2d {
        batch: 0,
        ..square([16, 16], 4, 3)
    };
    let case = Case::new(conv);
    let kernels = case.kernels(Simd::widest());
    let mut partials = vec![f32::NAN; kernels.weight_partials()];
    let mut scratch = vec![0.0; kernels.weight_scratch()];
    let units = 0..kernels.weight_units();
    kernels.weight_run(units, &mut partials, &[], &[], &mut scratch);
    let mut dw = case.weights.clone();
    kernels.fold_weights(&mut dw, &partials);
    assert!(dw.iter().all(|&dw| dw == 0.0));
}

fn depthwise(channels: usize, size: usize, kernel: usize) -> Conv2d {
    Conv2d {
        groups: channels,
        ..square([channels; 2], size, kernel)
    }
}

#[test]
fn depthwise_shapes() {
    for size in [4, 7, 14, 16, 33] {
        for kernel in [1, 3, 5] {
            Case::new(depthwise(5, size, kernel)).check_all();
            Case::new(strided(depthwise(3, size, kernel), 2)).check_all();
        }
    }
}

proptest! {
    #[test]
    fn any_depthwise(conv in any_conv(), channels in 1usize..20) {
        let conv = Conv2d {
            in_channels: channels,
            out_channels: channels,
            groups: channels,
            ..conv
        };
        Case::new(conv).check_all();
    }
}

#[test]
fn winograd_shapes() {
    for conv in [
        square([64, 64], 32, 3),
        square([128, 32], 16, 3),
        square([32, 256], 8, 3),
        square([20, 7], 9, 3),
        square([32, 64], 14, 5),
        square([48, 32], 9, 5),
        square([20, 7], 7, 5),
    ] {
        Case::by_winograd(conv).check_all();
        let case = Case::by_winograd(conv);
        Case {
            pairs: true,
            ..case
        }
        .check_all();
    }
    let many = Conv2d {
        batch: 37,
        ..square([32, 32], 4, 3)
    };
    assert!(Winograd::pays(&many));
    Case::by_winograd(many).check(Simd::widest());
}

proptest! {
    #[test]
    fn any_winograd(conv in any_conv(), large: bool) {
        let kernel = if large { 5 } else { 3 };
        let conv = Conv2d {
            in_h: conv.in_h + kernel - 1,
            in_w: conv.in_w + kernel - 1,
            kernel_h: kernel,
            kernel_w: kernel,
            stride: [1, 1],
            padding: conv.padding.map(|p| p.min(kernel - 1)),
            padding_after: conv.padding_after.map(|p| p.min(kernel - 1)),
            dilation: [1, 1],
            ..conv
        };
        let case = Case::by_winograd(conv);
        case.check_all();
        Case { pairs: true, ..case }.check_all();
    }
}

fn any_conv() -> impl Strategy<Value = Conv2d> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    let channels = (1usize..4, 1usize..20, 1usize..20, 1usize..4);
    let paddings = [pair(0..4), pair(0..4)];
    let sizes = (pair(1..12), pair(1..5), pair(1..5), paddings, pair(1..4));
    let all = (channels, sizes).prop_map(|((groups, ins, outs, batch), sizes)| {
        let ([in_h, in_w], [kernel_h, kernel_w], stride, paddings, dilation) = sizes;
        let [padding, padding_after] = paddings;
        Conv2d {
            batch,
            in_channels: groups * ins,
            out_channels: groups * outs,
            in_h,
            in_w,
            kernel_h,
            kernel_w,
            stride,
            padding,
            padding_after,
            dilation,
            groups,
        }
    });
    all.prop_filter("the kernel fits", |conv| conv.check().is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_parameters(conv in any_conv()) {
        Case::new(conv).check_all();
    }

    #[test]
    fn reference_gradients_are_differences(conv in any_conv()) {
        let case = Case::new(Conv2d { batch: 1, ..conv });
        let conv = &case.conv;
        let [x, dy, w] = [&case.x, &case.dy, &case.weights].map(|v| wide(v));
        let loss = |x: &[f64], w: &[f64]| {
            let mut y = vec![0.0; dy.len()];
            reference::forward(conv, &mut y, x, w, None, false);
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
        };
        let (mut dx, mut dw) = (x.clone(), w.clone());
        reference::input_gradient(conv, &mut dx, &dy, &w);
        reference::weight_gradient(conv, &mut dw, &x, &dy);
        let moved = |v: &[f64], i: usize, by: f64| {
            let mut v = v.to_vec();
            v[i] += by;
            v
        };
        for i in (0..x.len()).step_by(1 + x.len() / 7) {
            let slope = (loss(&moved(&x, i, 0.5), &w) - loss(&moved(&x, i, -0.5), &w)).abs();
            prop_assert!((slope - dx[i].abs()).abs() < 1e-9);
        }
        for i in (0..w.len()).step_by(1 + w.len() / 7) {
            let slope = loss(&x, &moved(&w, i, 0.5)) - loss(&x, &moved(&w, i, -0.5));
            prop_assert!((slope - dw[i]).abs() < 1e-9);
        }
    }
}

#[test]
fn refusals_name_the_field() {
    let good = square([4, 4], 5, 3);
    let zero = Conv2d { groups: 0, ..good };
    assert_eq!(zero.check(), Err(ConvError::Zero { field: "groups" }));
    let groups = Conv2d { groups: 3, ..good };
    let refused = ConvError::Groups {
        channels: 4,
        groups: 3,
    };
    assert_eq!(groups.check(), Err(refused));
    let kernel = Conv2d {
        padding: [0, 0],
        padding_after: [0, 0],
        kernel_h: 6,
        ..good
    };
    assert!(matches!(kernel.check(), Err(ConvError::Kernel { .. })));
    let large = Conv2d {
        batch: 1 << 40,
        ..good
    };
    assert_eq!(large.check(), Err(ConvError::TooLarge));
}
