//! What a run promises: no allocation, the same bits, refusals that change nothing.

use proptest::prelude::*;
use ringfold_graph::models::{LOSS, MlpOptions, mlp};
use ringfold_graph::{DType, Graph, differentiate};

use crate::backend::{Backend, Mode, PlanOptions, RunArgs, TensorRef, TrainMemory};
use crate::buffer::Workspace;
use crate::cpu::counting::counts;
use crate::cpu::{Cpu, CpuOptions};
use crate::error::ComputeError;
use crate::testing::{Rig, random_graphs};

fn classifier(hidden: &[usize]) -> Graph {
    let mut options = MlpOptions::classifier(20, hidden, 5);
    options.dropout = 0.25;
    options.l2 = 0.01;
    differentiate(&mlp(&options).unwrap(), LOSS).unwrap()
}

fn bits(slice: &[f32]) -> Vec<u32> {
    slice.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_run_allocates_nothing() {
    let mut rig = Rig::<f32>::new(&classifier(&[96, 64]), 48);
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 48,
    };
    let predict = cpu
        .plan::<f32>(&classifier(&[96, 64]), &rig.layout, options)
        .unwrap();
    let inputs: Vec<f32> = vec![0.5; 48 * 20];
    let mut workspace = predict.workspace().unwrap();
    let labels = [1i32; 48];
    let train_inputs = [TensorRef::Float(&inputs), TensorRef::Int(&labels)];
    let mut step = |i: u64| {
        let memory = TrainMemory {
            workspace: &mut rig.workspace,
            parameters: &*rig.parameters,
            gradients: &mut *rig.gradients,
        };
        let args = RunArgs {
            step: i,
            ..RunArgs::default()
        };
        let mut ready = |_: usize, _: &[f32]| {};
        rig.plan
            .train(memory, &train_inputs, &args, &mut ready)
            .unwrap();
        predict
            .infer(&mut workspace, &rig.parameters, &train_inputs[..1])
            .unwrap();
        predict.output(&workspace, "probabilities").unwrap()[0]
    };
    // The gemm crate looks up the machine's caches on its first call.
    step(0);
    let before = counts();
    for i in 1..=50 {
        step(i);
    }
    let after = counts();
    assert_eq!(after.own, before.own);
    let calls = after.gemm_calls - before.gemm_calls;
    // Forward, weight and operand products of three layers, the first without the operand's, and
    // the forward products of the prediction.
    assert_eq!(calls, 50 * (3 + 3 + 2 + 3));
    assert!(after.gemm - before.gemm <= 2 * calls);
}

#[test]
fn bits_do_not_depend_on_earlier_runs_or_other_plans() {
    let graph = classifier(&[33, 17]);
    let mut rig = Rig::<f32>::new(&graph, 13);
    let loss = rig.run();
    let gradients = bits(&rig.gradients);
    // A dirty workspace shared with a larger plan, dirty gradients.
    let mut other = Rig::<f32>::new(&graph, 29);
    other.run();
    rig.workspace = Workspace::new(other.plan.workspace_len()).unwrap();
    rig.workspace.arena.fill(f32::NAN);
    for slot in rig.layout.slots() {
        rig.gradients[slot.range()].fill(f32::NAN);
    }
    assert_eq!(rig.run().to_bits(), loss.to_bits());
    assert_eq!(bits(&rig.gradients), gradients);
    assert_eq!(rig.run().to_bits(), loss.to_bits());
    assert_eq!(bits(&rig.gradients), gradients);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let mut options = MlpOptions::classifier(700, &[300, 200], 10);
    options.dropout = 0.1;
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    let run = |threads| {
        let mut rig = Rig::<f32>::with_threads(&graph, 96, threads);
        let loss = rig.run();
        (loss.to_bits(), bits(&rig.gradients))
    };
    let one = run(1);
    for threads in [2, 3, 4] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn padding_stays_zero_and_dirty_memory_does_not_matter(
        random in random_graphs(),
        batch in 1usize..9,
    ) {
        let graph = random.build(DType::F32);
        let mut rig = Rig::<f32>::new(&graph, batch);
        let loss = rig.run();
        let gradients = bits(&rig.gradients);
        rig.workspace.arena.fill(f32::NAN);
        for slot in rig.layout.slots() {
            rig.gradients[slot.range()].fill(f32::NAN);
        }
        prop_assert_eq!(rig.run().to_bits(), loss.to_bits());
        prop_assert_eq!(bits(&rig.gradients), gradients);
        let mut padding = rig.gradients.to_vec();
        for slot in rig.layout.slots() {
            padding[slot.range()].fill(0.0);
        }
        prop_assert!(padding.iter().all(|&x| x.to_bits() == 0));
    }
}

#[test]
fn finished_gradients_are_final_and_in_order() {
    let graph = classifier(&[33, 17]);
    let mut rig = Rig::<f32>::new(&graph, 13);
    rig.run();
    let expected = rig.gradients.to_vec();
    rig.gradients.fill(0.0);
    let mut seen = Vec::new();
    let mut ready = |slot: usize, finished: &[f32]| {
        assert_eq!(bits(finished), bits(&expected[..finished.len()]));
        seen.push((slot, finished.len()));
    };
    let memory = TrainMemory {
        workspace: &mut rig.workspace,
        parameters: &*rig.parameters,
        gradients: &mut *rig.gradients,
    };
    rig.plan
        .train(memory, &rig.inputs.refs(), &rig.args, &mut ready)
        .unwrap();
    let slots = rig.layout.slots();
    let starts = slots.iter().skip(1).map(|slot| slot.offset);
    let ends: Vec<(usize, usize)> = starts.chain([rig.layout.len()]).enumerate().collect();
    assert_eq!(seen, ends);
}

/// Micro-batches of 5 and 8 samples, scaled by 5/13 and 8/13, give the gradient of all 13.
#[test]
fn scaled_gradients_of_uneven_parts_sum_to_the_whole() {
    let mut options = MlpOptions::classifier(6, &[9], 4);
    options.l2 = 0.1;
    options.dtype = DType::F64;
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    let x: Vec<f64> = (0..13 * 6)
        .map(|i| ((i * 7) % 11) as f64 / 5.0 - 1.0)
        .collect();
    let y: Vec<i32> = (0..13).map(|i| i % 4).collect();
    let gradients = |from: usize, to: usize| {
        let mut rig = Rig::<f64>::new(&graph, to - from);
        let memory = TrainMemory {
            workspace: &mut rig.workspace,
            parameters: &*rig.parameters,
            gradients: &mut *rig.gradients,
        };
        let inputs = [
            TensorRef::Float(&x[from * 6..to * 6]),
            TensorRef::Int(&y[from..to]),
        ];
        let args = RunArgs {
            loss_scale: (to - from) as f64 / 13.0,
            ..RunArgs::default()
        };
        let mut ready = |_: usize, _: &[f64]| {};
        rig.plan.train(memory, &inputs, &args, &mut ready).unwrap();
        rig.gradients.to_vec()
    };
    let (whole, first, second) = (gradients(0, 13), gradients(0, 5), gradients(5, 13));
    for ((whole, first), second) in whole.iter().zip(first).zip(second) {
        assert!((whole - (first + second)).abs() < 1e-14);
    }
}

#[test]
fn evaluation_drops_nothing_and_agrees_with_prediction() {
    let graph = classifier(&[33, 17]);
    let rig = Rig::<f32>::new(&graph, 13);
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = |mode| {
        let options = PlanOptions { mode, batch: 13 };
        cpu.plan::<f32>(&graph, &rig.layout, options).unwrap()
    };
    let (evaluate, predict) = (plan(Mode::Evaluation), plan(Mode::Prediction));
    let mut workspace = Backend::<f32>::workspace(&cpu, &[&evaluate, &predict]).unwrap();
    let inputs = rig.inputs.refs();
    cpu.infer(
        &evaluate,
        &mut workspace,
        &rig.parameters,
        &rig.state,
        &inputs,
    )
    .unwrap();
    let mut logits = vec![0.0; 13 * 5];
    cpu.read_output(&evaluate, &workspace, "logits", &mut logits)
        .unwrap();
    cpu.infer(
        &predict,
        &mut workspace,
        &rig.parameters,
        &rig.state,
        &inputs[..1],
    )
    .unwrap();
    assert_eq!(predict.output(&workspace, "logits").unwrap(), logits);
    let probabilities = predict.output(&workspace, "probabilities").unwrap();
    for row in probabilities.chunks(5) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
    assert!(predict.output(&workspace, "loss").is_none());
}

/// Every refusal leaves gradients and workspace as they were.
#[test]
fn refused_runs_change_nothing() {
    let graph = classifier(&[8]);
    let mut rig = Rig::<f32>::new(&graph, 3);
    rig.run();
    let x = [0.5f32; 60];
    let good = [0i32, 4, 2];
    let before = (bits(&rig.gradients), bits(&rig.workspace.arena));
    let mut refuse = |inputs: &[TensorRef<'_, f32>], args: &RunArgs| {
        let memory = TrainMemory {
            workspace: &mut rig.workspace,
            parameters: &*rig.parameters,
            gradients: &mut *rig.gradients,
        };
        let mut ready = |_: usize, _: &[f32]| {};
        let error = rig
            .plan
            .train(memory, inputs, args, &mut ready)
            .unwrap_err();
        assert_eq!(bits(&rig.gradients), before.0);
        assert_eq!(bits(&rig.workspace.arena), before.1);
        error
    };
    let args = RunArgs::default();
    for (position, label) in [(0, -1), (1, 5), (2, i32::MAX), (0, i32::MIN)] {
        let mut labels = good;
        labels[position] = label;
        assert_eq!(
            refuse(&[TensorRef::Float(&x), TensorRef::Int(&labels)], &args),
            ComputeError::LabelOutOfRange {
                name: "y".into(),
                sample: position,
                label: i64::from(label),
                classes: 5
            }
        );
    }
    assert!(matches!(
        refuse(&[TensorRef::Float(&x)], &args),
        ComputeError::InputCount { .. }
    ));
    assert!(matches!(
        refuse(&[TensorRef::Float(&x[1..]), TensorRef::Int(&good)], &args),
        ComputeError::InputLen { .. }
    ));
    assert!(matches!(
        refuse(&[TensorRef::Float(&x), TensorRef::Float(&x[..3])], &args),
        ComputeError::InputDType { .. }
    ));
    let args = RunArgs {
        loss_scale: f64::INFINITY,
        ..args
    };
    assert!(matches!(
        refuse(&[TensorRef::Float(&x), TensorRef::Int(&good)], &args),
        ComputeError::LossScale { .. }
    ));
}

#[test]
fn buffers_and_modes_are_checked() {
    let graph = classifier(&[8]);
    let mut rig = Rig::<f32>::new(&graph, 3);
    let inputs = rig.inputs.refs();
    let mut small = Workspace::new(rig.plan.workspace_len() - 1).unwrap();
    let mut ready = |_: usize, _: &[f32]| {};
    let mut train = |workspace: &mut Workspace<f32>, parameters: &[f32], gradients: &mut [f32]| {
        let memory = TrainMemory {
            workspace,
            parameters,
            gradients,
        };
        let error = rig.plan.train(memory, &inputs, &rig.args, &mut ready);
        match error.unwrap_err() {
            ComputeError::BufferLen { what, .. } => what,
            other => panic!("{other}"),
        }
    };
    let (p, g, w) = (&*rig.parameters, &mut *rig.gradients, &mut rig.workspace);
    assert_eq!(train(&mut small, p, g), "workspace");
    assert_eq!(train(w, &p[1..], g), "parameters");
    assert_eq!(train(w, p, &mut g[1..]), "gradients");
    assert_eq!(
        rig.plan.infer(w, p, &inputs).unwrap_err(),
        ComputeError::WrongMode {
            mode: Mode::Training
        }
    );
    assert!(matches!(
        Cpu::new(CpuOptions { threads: 0 }),
        Err(ComputeError::ThreadsZero)
    ));
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let mut to = [0.0f32; 2];
    assert!(matches!(
        cpu.read_output(&rig.plan, w, "nothing", &mut to),
        Err(ComputeError::OutputUnknown { .. })
    ));
    assert!(matches!(
        cpu.read_output(&rig.plan, w, "loss", &mut to),
        Err(ComputeError::BufferLen { .. })
    ));
}
