use proptest::prelude::*;
use ringfold_graph::models::{LOSS, MlpOptions, mlp};
use ringfold_graph::op::L2Penalty;
use ringfold_graph::{DType, differentiate};

use super::*;
use crate::testing::random_graphs;

fn no_scratch(_: &Op, _: &[Vec<usize>], _: &[Vec<usize>]) -> usize {
    0
}

/// Room for as much as the first result: it must not lie where anything is needed.
fn some_scratch(_: &Op, _: &[Vec<usize>], results: &[Vec<usize>]) -> usize {
    results[0].iter().product()
}

fn program(graph: &Graph, mode: Mode, batch: usize) -> Result<Program, ComputeError> {
    let layout = ParameterLayout::new::<f32>(graph)?;
    Program::new::<f32>(graph, &layout, PlanOptions { mode, batch }, &no_scratch)
}

fn overlap(a: Place, b: Place) -> bool {
    a.space == b.space && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}

/// Replays a program and remembers which node wrote each element last: every operand must read
/// what the node that defines it wrote, from the first element to the last.
fn assert_sound(graph: &Graph, program: &Program) {
    let mut workspace: Vec<Option<ValueId>> = vec![None; program.workspace_len];
    let mut gradients: Vec<Option<ValueId>> = vec![None; program.parameters_len];
    let mut finished: Vec<(Place, ValueId)> = Vec::new();
    // By value: the value whose elements it shows.
    let mut shows: Vec<ValueId> = (0..graph.values().len() as u32).map(ValueId).collect();
    for call in &program.calls {
        let node = &graph.nodes()[call.node.0 as usize];
        for (position, (operand, &value)) in call.operands.iter().zip(&node.operands).enumerate() {
            let place = operand.place;
            let range = place.offset..place.offset + place.len;
            let held = match place.space {
                Space::Workspace => &workspace[range],
                Space::Gradients => &gradients[range],
                _ => continue,
            };
            let value = shows[value.0 as usize];
            assert!(held.iter().all(|held| *held == Some(value)), "{call:?}");
            for (i, result) in call.results.iter().enumerate() {
                let here = i == 0 && (call.is_view || call.in_place == Some(position));
                assert_eq!(here, place == result.place, "{call:?}");
                assert!(here || !overlap(place, result.place), "{call:?}");
            }
        }
        if let Some(scratch) = call.scratch {
            let memory = match scratch.space {
                Space::Gradients => &mut gradients,
                _ => &mut workspace,
            };
            memory[scratch.offset..scratch.offset + scratch.len].fill(None);
            assert!(finished.iter().all(|(done, _)| !overlap(*done, scratch)));
            let mut touched = call.operands.iter().chain(&call.results);
            assert!(
                touched.all(|here| !overlap(here.place, scratch)),
                "{call:?}"
            );
        }
        if call.is_view {
            shows[node.results[0].0 as usize] = shows[node.operands[0].0 as usize];
        }
        for (result, value) in call.results.iter().zip(&node.results) {
            let place = result.place;
            if !call.is_view {
                let memory = match place.space {
                    Space::Workspace => &mut workspace,
                    Space::Gradients => &mut gradients,
                    space => panic!("result in {space:?}"),
                };
                memory[place.offset..place.offset + place.len].fill(Some(*value));
                assert!(finished.iter().all(|(done, _)| !overlap(*done, place)));
            }
            if graph.gradients().iter().any(|g| g.value == *value) && !call.finishes.is_empty() {
                finished.push((place, *value));
            }
        }
    }
    for (spec, place) in &program.outputs {
        let value = shows[graph.output(&spec.name).unwrap().value.0 as usize];
        let held = &workspace[place.offset..place.offset + place.len];
        assert!(held.iter().all(|held| *held == Some(value)), "{spec:?}");
    }
    let expected = if program.mode == Mode::Training {
        graph.gradients().len()
    } else {
        0
    };
    assert_eq!(finished.len(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_value_is_overwritten_while_it_is_needed(random in random_graphs(), batch in 1usize..9) {
        let graph = random.build(DType::F32);
        for mode in [Mode::Training, Mode::Evaluation, Mode::Prediction] {
            assert_sound(&graph, &program(&graph, mode, batch).unwrap());
            let layout = ParameterLayout::new::<f32>(&graph).unwrap();
            let options = PlanOptions { mode, batch };
            let program = Program::new::<f32>(&graph, &layout, options, &some_scratch).unwrap();
            assert_sound(&graph, &program);
            // What is alive at the peak, padding aside, fits the two memories, and is the most.
            let lent = if mode == Mode::Training { program.parameters_len } else { 0 };
            prop_assert!(program.workspace_len >= program.workspace_len_min);
            prop_assert!(program.peak.bytes() <= 4 * (program.workspace_len + lent));
        }
    }
}

fn classifier() -> Graph {
    let mut options = MlpOptions::classifier(8, &[16, 12], 4);
    options.dropout = 0.5;
    options.l2 = 0.1;
    differentiate(&mlp(&options).unwrap(), LOSS).unwrap()
}

#[test]
fn a_mode_computes_its_outputs_and_no_more() {
    let graph = classifier();
    let outputs = |mode| -> Vec<String> {
        let program = program(&graph, mode, 3).unwrap();
        assert_sound(&graph, &program);
        let outputs = program.outputs.iter();
        outputs.map(|(spec, _)| spec.name.clone()).collect()
    };
    assert_eq!(outputs(Mode::Training), ["loss", "data_loss", "logits"]);
    assert_eq!(outputs(Mode::Evaluation), ["loss", "data_loss", "logits"]);
    assert_eq!(outputs(Mode::Prediction), ["logits", "probabilities"]);
    let prediction = program(&graph, Mode::Prediction, 3).unwrap();
    assert_eq!(prediction.inputs.len(), 1);
    assert!(prediction.label_checks.is_empty());
    // Dropout and activations run in place: one buffer a layer, of which two are alive.
    assert!(
        prediction
            .calls
            .iter()
            .all(|call| call.op.name() != "dropout")
    );
}

/// Gradients stand in their arena from the start of a chain: the penalty is added in place, and
/// the workspace holds activations only.
#[test]
fn the_workspace_does_not_grow_with_the_weights() {
    let graph = classifier();
    let program = program(&graph, Mode::Training, 1).unwrap();
    let weights: usize = graph
        .gradients()
        .iter()
        .map(|g| graph.value(g.value).ty.shape.elements(1).unwrap())
        .sum();
    assert!(program.workspace_len < weights, "{}", program.workspace_len);
}

#[test]
fn what_cannot_be_planned() {
    let graph = classifier();
    assert_eq!(
        program(&graph, Mode::Training, 0).unwrap_err(),
        ComputeError::BatchEmpty
    );
    assert!(matches!(
        program(&graph, Mode::Training, usize::MAX / 2).unwrap_err(),
        ComputeError::TooLarge { .. }
    ));
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch: 1,
    };
    let forward = mlp(&MlpOptions::classifier(8, &[16, 12], 4)).unwrap();
    assert!(matches!(
        Program::new::<f32>(&forward, &layout, options, &no_scratch).unwrap_err(),
        ComputeError::NotDifferentiated { .. }
    ));
    assert!(matches!(
        Program::new::<f64>(&graph, &layout, options, &no_scratch).unwrap_err(),
        ComputeError::ElementType { .. }
    ));
    let other = mlp(&MlpOptions::classifier(8, &[16, 13], 4)).unwrap();
    let other = differentiate(&other, LOSS).unwrap();
    for mode in [Mode::Training, Mode::Prediction] {
        assert!(matches!(
            Program::new::<f32>(&other, &layout, PlanOptions { mode, batch: 1 }, &no_scratch)
                .unwrap_err(),
            ComputeError::LayoutMismatch { .. }
        ));
    }
    // A graph whose one output is a loss predicts nothing.
    let mut blind = Graph::new("blind", DType::F32).unwrap();
    let w = crate::testing::parameter(&mut blind, "w", &[2]);
    let loss = blind.apply(L2Penalty { lambda: 1.0 }, &[w]).unwrap();
    let blind = crate::testing::finish(blind, loss);
    assert!(matches!(
        program(&blind, Mode::Prediction, 1).unwrap_err(),
        ComputeError::NoOutputs { .. }
    ));
}
