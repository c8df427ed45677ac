//! Gradients that are handed over part by part.

use proptest::prelude::*;
use ringfold_graph::op::MeanSquaredError;
use ringfold_graph::{DType, Graph, Op, Shape};

use super::networks::{images, tokens};
use crate::backend::{PartsMemory, TrainHook};
use crate::error::ComputeError;
use crate::testing::{Growth, RandomGraph, Rig, finish, input, parameter, random_graphs};

/// Keeps what it is handed, and the order.
#[derive(Default)]
struct Keep<'g> {
    parts: Vec<&'g mut [f32]>,
    /// By part, a copy of what it held when it came.
    seen: Vec<Vec<f32>>,
    /// Parts that were there when the backward part began.
    before_backward: Vec<usize>,
}

impl<'g> TrainHook<'g, f32> for Keep<'g> {
    fn backward(&mut self) {
        self.before_backward.push(self.parts.len());
    }

    fn finished(&mut self, part: usize, gradients: &'g mut [f32]) {
        assert_eq!(part, self.parts.len());
        self.seen.push(gradients.to_vec());
        self.parts.push(gradients);
    }
}

fn run_in_parts(rig: &mut Rig<f32>, ends: &[usize]) -> Result<(Vec<f32>, usize), ComputeError> {
    let mut keep = Keep::default();
    let mut state = rig.state.to_vec();
    let memory = PartsMemory {
        workspace: &mut rig.workspace,
        parameters: &rig.parameters,
        state: &mut state,
        gradients: &mut rig.gradients,
        ends,
    };
    rig.plan
        .train_in_parts(memory, &rig.inputs.refs(), &rig.args, &mut keep)?;
    assert_eq!(keep.parts.len(), ends.len());
    for (part, seen) in keep.parts.iter().zip(&keep.seen) {
        assert!(
            part.iter()
                .zip(seen)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
    assert!(keep.before_backward.len() <= 1);
    let early = keep.before_backward.first().copied().unwrap_or(0);
    Ok((keep.seen.concat(), early))
}

/// Any parts give what a run without them gives, and are final when they are handed over.
/// Returns the loss, which may overflow.
fn check(graph: &Graph, cuts: &[f64]) -> f32 {
    let mut rig = Rig::<f32>::new(graph, 3);
    let loss = rig.run();
    let expected = rig.gradients.to_vec();
    let len = rig.layout.len();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * len as f64) as usize).collect();
    ends.push(len);
    ends.sort_unstable();
    for slot in rig.layout.slots() {
        rig.gradients[slot.range()].fill(f32::NAN);
    }
    let (got, _) = run_in_parts(&mut rig, &ends).unwrap();
    let same = got.iter().zip(&expected);
    assert!(
        same.into_iter().all(|(a, b)| a.to_bits() == b.to_bits()),
        "{ends:?}"
    );
    assert_eq!(got.len(), expected.len());
    loss
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn parts_are_final_and_the_same(
        random in random_graphs(),
        cuts in proptest::collection::vec(0.0..1.0_f64, 0..6),
    ) {
        check(&random.build(DType::F32), &cuts);
    }
}

#[test]
fn parts_of_whole_networks() {
    for graph in [images(DType::F32), tokens(DType::F32)] {
        assert!(check(&graph, &[]).is_finite());
        check(&graph, &[0.0, 0.1, 0.2, 0.5, 0.5, 0.9]);
    }
}

/// `log(1 + exp(x))` of a plan that isn't simplified overflows, and its parts are the same still.
#[test]
fn parts_of_a_loss_that_overflows() {
    let growth = vec![Growth::Scale(1000.0), Growth::Twice(1), Growth::Unstable(2)];
    let random = RandomGraph {
        features: 3,
        growth,
        cross_entropy: false,
        penalty_every: 1,
    };
    let loss = check(&random.build(DType::F32), &[0.5]);
    assert!(loss.is_infinite(), "{loss}");
}

/// What is a gradient and an operand of another stays until that has been computed.
#[test]
fn a_gradient_that_is_read_again_is_handed_over_later() {
    let mut graph = Graph::new("sum", DType::F32).unwrap();
    let x = input(&mut graph, "x", Shape::batched(&[4]));
    let a = parameter(&mut graph, "a", &[4]);
    let b = parameter(&mut graph, "b", &[4]);
    let sum = graph
        .apply(ringfold_graph::op::Binary::Add, &[a, b])
        .unwrap();
    let scaled = graph
        .apply(ringfold_graph::op::Binary::Mul, &[x, sum])
        .unwrap();
    let loss = graph
        .apply(Op::from(MeanSquaredError::Loss), &[scaled, x])
        .unwrap();
    check(&finish(graph, loss), &[0.5]);
}

#[test]
fn gradients_come_while_the_backward_part_goes_on() {
    let mut rig = Rig::<f32>::new(&images(DType::F32), 3);
    let starts = rig.layout.slots().iter().skip(1).map(|slot| slot.offset);
    let ends: Vec<usize> = starts.chain([rig.layout.len()]).collect();
    let (_, before_backward) = run_in_parts(&mut rig, &ends).unwrap();
    assert_eq!(before_backward, 0);
    let released = rig.plan.released_by(&ends);
    // The first parts come long before the run has ended, one after the other: more than half of the
    // instructions are the forward part's.
    let last = *released.last().unwrap();
    assert!(released[0] * 4 < last * 3, "{released:?}");
    let distinct: std::collections::BTreeSet<usize> = released.iter().copied().collect();
    assert!(distinct.len() > ends.len() / 2, "{released:?}");
}

#[test]
fn parts_that_are_not_the_gradients_are_refused() {
    let mut rig = Rig::<f32>::new(&images(DType::F32), 3);
    let len = rig.layout.len();
    rig.gradients.fill(7.0);
    for ends in [
        vec![],
        vec![len - 1],
        vec![len + 1],
        vec![len / 2, len / 3, len],
    ] {
        let error = run_in_parts(&mut rig, &ends).unwrap_err();
        let expected = matches!(
            error,
            ComputeError::BufferLen { .. } | ComputeError::PartsOrder
        );
        assert!(expected, "{error}");
    }
    assert!(rig.gradients.iter().all(|&x| x == 7.0));
}
