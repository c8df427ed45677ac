//! Pooling as plans run it, against its definition; threads.

use proptest::prelude::*;
use ringfold_graph::op::{MeanSquaredError, Pool, Pooling, Windows};
use ringfold_graph::{DType, Graph, OutputRole, Shape};

use crate::backend::TensorRef;
use crate::testing::{Rig, finish, input, parameter};

/// The mean of squares of what is pooled from a parameter, so that the gradient runs too.
fn graph(pool: Pool, dims: [usize; 4]) -> Option<Graph> {
    let mut graph = Graph::new("pooling", DType::F32).unwrap();
    let x = parameter(&mut graph, "x", &dims);
    let y = graph.apply(pool, &[x]).ok()?;
    let dims = graph.value(y).ty.shape.bind(1);
    let target = input(&mut graph, "t", Shape::fixed(&dims));
    let loss = graph.apply(MeanSquaredError::Loss, &[y, target]).unwrap();
    graph.add_output("y", OutputRole::Prediction, y).unwrap();
    Some(finish(graph, loss))
}

/// The elements of a plane that a window sees, in their order, and how many it sees with the margin.
fn window(pool: &Pool, image: [usize; 2], at: [usize; 2]) -> (Vec<usize>, usize) {
    let axis = |axis: usize| -> Vec<Option<usize>> {
        let windows = &pool.windows;
        let end = windows.before[axis] + image[axis];
        let all = (0..pool.kernel[axis])
            .map(|k| at[axis] * windows.stride[axis] + k * windows.dilation[axis]);
        let all = all.filter(|&at| at < end + windows.after[axis]);
        all.map(|at| {
            at.checked_sub(windows.before[axis])
                .filter(|&at| at < image[axis])
        })
        .collect()
    };
    let (rows, columns) = (axis(0), axis(1));
    let padded = rows.len() * columns.len();
    let inside = rows.into_iter().flatten().flat_map(|row| {
        let columns = columns.clone().into_iter().flatten();
        columns.map(move |column| row * image[1] + column)
    });
    (inside.collect(), padded)
}

fn check(pool: Pool, dims: [usize; 4]) {
    let Some(graph) = graph(pool, dims) else {
        return;
    };
    let mut rig = Rig::<f32>::new(&graph, 1);
    rig.run();
    let y = rig.plan.output(&rig.workspace, "y").unwrap().to_vec();
    let TensorRef::Float(target) = rig.inputs.refs()[0] else {
        panic!("floats");
    };
    let target = target.to_vec();
    let shape = rig.plan.outputs().find(|spec| spec.name == "y").unwrap();
    let [planes, h, w] = [dims[0] * dims[1], shape.shape[2], shape.shape[3]];
    let image = [dims[2], dims[3]];
    let x = &rig.parameters[..planes * image[0] * image[1]];
    let mut want_dx = vec![0.0f64; x.len()];
    for (i, &y) in y.iter().enumerate() {
        let (plane, row, column) = (i / (h * w), i / w % h, i % w);
        let (inside, padded) = window(&pool, image, [row, column]);
        let start = plane * image[0] * image[1];
        let dy = 2.0 / target.len() as f64 * f64::from(y - target[i]);
        let inside: Vec<usize> = inside.into_iter().map(|at| start + at).collect();
        match pool.pooling {
            Pooling::Max => {
                let first = inside.iter().copied();
                let largest = first
                    .reduce(|a, b| if x[b] > x[a] { b } else { a })
                    .unwrap();
                assert_eq!(y, x[largest]);
                want_dx[largest] += dy;
            }
            Pooling::Average { count_margin } => {
                let count = if count_margin { padded } else { inside.len() } as f64;
                let sum: f64 = inside.iter().map(|&at| f64::from(x[at])).sum();
                assert!((f64::from(y) - sum / count).abs() < 1e-5);
                inside.iter().for_each(|&at| want_dx[at] += dy / count);
            }
        }
    }
    for (got, want) in rig.gradients.iter().zip(&want_dx) {
        assert!(
            (f64::from(*got) - want).abs() < 1e-5,
            "{got} for {want}, {pool:?}"
        );
    }
    for threads in [2, 3] {
        let mut many = Rig::<f32>::with_threads(&graph, 1, threads);
        many.run();
        assert!(many.gradients[..] == rig.gradients[..]);
    }
}

fn pools() -> impl Strategy<Value = Pool> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    let kinds = prop_oneof![
        Just(Pooling::Max),
        any::<bool>().prop_map(|count_margin| Pooling::Average { count_margin }),
    ];
    let windows = (pair(1..4), pair(0..3), pair(0..3), pair(1..3));
    (kinds, pair(1..5), windows, any::<bool>()).prop_map(|(pooling, kernel, windows, ceil)| {
        let (stride, before, after, dilation) = windows;
        Pool {
            pooling,
            kernel,
            windows: Windows {
                stride,
                before,
                after,
                dilation,
            },
            ceil,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pools_are_their_definition(pool in pools(), size in [1usize..20, 1usize..20]) {
        check(pool, [2, 3, size[0], size[1]]);
    }
}

/// A window of two elements, two apart, over an image of one column with a margin of one: it steps
/// over the image, so there is no maximum and no mean.
#[test]
fn windows_that_step_over_the_image_are_refused() {
    let pool = |pooling, dilation| Pool {
        pooling,
        kernel: [3, 2],
        windows: Windows {
            before: [0, 1],
            after: [0, 1],
            dilation,
            ..Windows::default()
        },
        ceil: false,
    };
    let average = Pooling::Average {
        count_margin: false,
    };
    for pooling in [Pooling::Max, average] {
        assert!(graph(pool(pooling, [1, 2]), [2, 3, 3, 1]).is_none());
        for (dilation, width) in [([1, 2], 2), ([1, 1], 1)] {
            let pool = pool(pooling, dilation);
            assert!(graph(pool, [2, 3, 3, width]).is_some());
            check(pool, [2, 3, 3, width]);
        }
    }
}

#[test]
fn large_pools_of_networks() {
    let windows = |kernel: usize, stride: usize, margin: usize| Pool {
        pooling: Pooling::Max,
        kernel: [kernel; 2],
        windows: Windows {
            stride: [stride; 2],
            ..Windows::padded(margin, margin)
        },
        ceil: false,
    };
    check(windows(2, 2, 0), [4, 32, 28, 28]);
    check(windows(2, 2, 0), [4, 64, 14, 14]);
    check(windows(3, 2, 1), [2, 16, 56, 56]);
}
