//! Convolutions as plans run them: `f32` against `f64`, which takes another way; threads; memory.

use proptest::prelude::*;
use ringfold_graph::op::{Conv, ConvPart, MeanSquaredError, Windows};
use ringfold_graph::{DType, Graph, Shape};

use crate::cpu::counting::counts;
use crate::testing::{Rig, finish, input, parameter};

/// A convolution of a parameter, so that all of its parts run.
#[derive(Clone, Debug)]
struct Case {
    samples: usize,
    groups: usize,
    /// Channels of the image and of the result, in a group.
    channels: [usize; 2],
    image: [usize; 2],
    kernel: [usize; 2],
    windows: Windows,
    bias: bool,
    /// The convolution goes from the result to the image.
    transposed: bool,
}

impl Case {
    fn square(samples: usize, channels: [usize; 2], image: usize, kernel: usize) -> Self {
        Self {
            samples,
            groups: 1,
            channels,
            image: [image; 2],
            kernel: [kernel; 2],
            windows: Windows::padded(kernel / 2, kernel / 2),
            bias: false,
            transposed: false,
        }
    }

    /// The graph, or `None` if the windows don't fit.
    fn graph(&self, dtype: DType) -> Option<Graph> {
        let mut graph = Graph::new("convolution", dtype).unwrap();
        let [ins, outs] = self.channels.map(|channels| channels * self.groups);
        let [h, w] = self.image;
        let [kh, kw] = self.kernel;
        let conv = Conv {
            windows: self.windows,
            groups: self.groups,
            part: ConvPart::Forward,
        };
        let weight = parameter(&mut graph, "w", &[outs, self.channels[0], kh, kw]);
        let x = parameter(&mut graph, "x", &[self.samples, ins, h, w]);
        let mut operands = vec![x, weight];
        if self.bias {
            operands.push(parameter(&mut graph, "b", &[outs]));
        }
        let mut y = graph.apply(conv, &operands).ok()?;
        if self.transposed {
            let part = ConvPart::Image { size: self.image };
            y = graph.apply(Conv { part, ..conv }, &[y, weight]).ok()?;
        }
        let dims = graph.value(y).ty.shape.bind(1);
        let target = input(&mut graph, "t", Shape::fixed(&dims));
        let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
        Some(finish(graph, loss))
    }

    /// Compares losses and gradients of `f32` and `f64`, and the bits of several threads.
    fn check(&self) {
        let (Some(narrow), Some(wide)) = (self.graph(DType::F32), self.graph(DType::F64)) else {
            return;
        };
        let mut wide = Rig::<f64>::new(&wide, 1);
        let expected = wide.run();
        let mut one = Rig::<f32>::new(&narrow, 1);
        one.workspace.arena.fill(f32::NAN);
        let loss = one.run();
        let off = (f64::from(loss) - expected).abs();
        assert!(off < 1e-4 * expected, "{loss} for {expected}, {self:?}");
        for slot in one.layout.slots() {
            let same = wide.layout.slots().iter().find(|s| s.name == slot.name);
            let want = &wide.gradients[same.unwrap().range()];
            let got = &one.gradients[slot.range()];
            let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
                let off = (f64::from(got) - want).abs();
                let name = &slot.name;
                assert!(
                    off <= 2e-4 * largest,
                    "{name}[{i}]: {got} for {want}, {self:?}"
                );
            }
        }
        for threads in [2, 3, 7] {
            let mut many = Rig::<f32>::with_threads(&narrow, 1, threads);
            assert_eq!(many.run().to_bits(), loss.to_bits());
            let bits = |slice: &[f32]| slice.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&many.gradients), bits(&one.gradients), "{self:?}");
        }
    }
}

#[test]
fn shapes_of_networks() {
    let strided = |case: Case, stride: usize| Case {
        windows: Windows {
            stride: [stride; 2],
            ..case.windows
        },
        ..case
    };
    for case in [
        Case::square(3, [1, 32], 28, 5),
        Case::square(3, [32, 64], 14, 5),
        Case::square(2, [3, 64], 32, 3),
        Case::square(2, [64, 64], 16, 3),
        strided(Case::square(3, [64, 128], 16, 3), 2),
        strided(Case::square(3, [64, 128], 16, 1), 2),
        Case::square(33, [64, 32], 4, 3),
        Case::square(5, [32, 48], 8, 1),
        strided(Case::square(2, [3, 16], 32, 7), 2),
        Case {
            groups: 32,
            bias: true,
            ..Case::square(3, [1, 1], 9, 3)
        },
        Case {
            groups: 2,
            transposed: true,
            ..Case::square(4, [32, 32], 8, 3)
        },
    ] {
        case.check();
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    let channels = proptest::sample::select(vec![1usize, 2, 3, 16, 17, 32, 48]);
    let sizes = (pair(1..14), pair(1..6));
    let windows = (pair(1..4), pair(0..4), pair(0..4), pair(1..3));
    let all = (1usize..6, 1usize..4, [channels.clone(), channels]);
    (all, sizes, windows, any::<bool>(), any::<bool>()).prop_map(
        |((samples, groups, channels), (image, kernel), windows, bias, transposed)| {
            let (stride, before, after, dilation) = windows;
            Case {
                samples,
                groups,
                channels,
                image,
                kernel,
                windows: Windows {
                    stride,
                    before,
                    after,
                    dilation,
                },
                bias,
                transposed,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn narrow_and_wide_agree(case in cases()) {
        case.check();
    }

    #[test]
    fn kernels_of_three_agree(case in cases(), padding in [[0usize..3, 0..3], [0..3, 0..3]]) {
        let [before, after] = padding;
        let windows = Windows { before, after, ..Windows::default() };
        Case { kernel: [3; 2], windows, channels: [32, 48], ..case }.check();
    }
}

#[test]
fn a_run_allocates_nothing() {
    for case in [
        Case::square(9, [32, 64], 14, 5),
        Case::square(9, [64, 64], 16, 3),
        Case {
            groups: 32,
            bias: true,
            ..Case::square(3, [1, 1], 9, 3)
        },
    ] {
        let mut rig = Rig::<f32>::new(&case.graph(DType::F32).unwrap(), 1);
        let inputs = rig.inputs.refs().len();
        assert_eq!(inputs, 1);
        rig.run();
        let before = counts();
        rig.run();
        let after = counts();
        // The list of inputs that the rig makes.
        assert!(after.own - before.own <= 1, "{case:?}");
        assert_eq!(after.gemm_calls, before.gemm_calls, "{case:?}");
    }
}
