//! Forward, loss and gradients of networks over text against PyTorch, in `f32`.

mod support;

use ringfold_compute::{
    Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, TensorRef, TrainMemory,
};
use ringfold_graph::models::{GptOptions, LOGITS, LOSS, LstmOptions, PROBABILITIES, gpt, lstm};
use ringfold_graph::{DType, Graph, differentiate};
use serde_json::Value;

const TOLERANCE: f64 = 1e-5;

/// The model of a golden file, for texts of `length` tokens.
fn model(file: &Value, length: usize) -> Graph {
    let model = &file["model"];
    let size = |name: &str| model[name].as_u64().unwrap() as usize;
    let forward = match model["kind"].as_str().unwrap() {
        "gpt" => gpt(&GptOptions {
            vocabulary: size("vocabulary"),
            context: size("context"),
            length,
            layers: size("layers"),
            heads: size("heads"),
            width: size("width"),
            dropout: 0.0,
            attention_dropout: 0.0,
            tied: model["tied"].as_bool().unwrap(),
            l2: 0.0,
            dtype: DType::F32,
        }),
        "lstm" => lstm(&LstmOptions {
            vocabulary: size("vocabulary"),
            length,
            embedding: size("embedding"),
            hidden: size("hidden"),
            layers: size("layers"),
            dropout: 0.0,
            l2: 0.0,
            dtype: DType::F32,
        }),
        other => panic!("unknown model {other}"),
    };
    differentiate(&forward.unwrap(), LOSS).unwrap()
}

fn parameters(file: &Value, layout: &ParameterLayout) -> Vec<f32> {
    let mut parameters = layout.zeros::<f32>().unwrap();
    let initial = file["initial"].as_object().unwrap();
    assert_eq!(initial.len(), layout.slots().len());
    for slot in layout.slots() {
        let tensor = &initial[&slot.name];
        assert_eq!(
            support::sizes(&tensor["shape"]),
            slot.shape,
            "{}",
            slot.name
        );
        parameters[slot.range()].copy_from_slice(&support::floats::<f32>(&tensor["data"]));
    }
    parameters.to_vec()
}

fn assert_first_batch(name: &str) {
    let file = support::read(name);
    let context = file["model"]["context"].as_u64().unwrap() as usize;
    let graph = model(&file, context);
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch: file["batch"].as_u64().unwrap() as usize,
    };
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = cpu.plan::<f32>(&graph, &layout, options).unwrap();
    let mut arena = layout.zeros::<f32>().unwrap();
    arena.copy_from_slice(&parameters(&file, &layout));
    let batch = &file["batches"][0];
    let (x, y) = (support::ints(&batch["x"]), support::ints(&batch["y"]));
    let mut gradients = layout.zeros::<f32>().unwrap();
    let mut workspace = plan.workspace().unwrap();
    let memory = TrainMemory {
        workspace: &mut workspace,
        parameters: &*arena,
        gradients: &mut *gradients,
    };
    let inputs = [TensorRef::Int(&x), TensorRef::Int(&y)];
    let mut ready = |_: usize, _: &[f32]| {};
    plan.train(memory, &inputs, &RunArgs::default(), &mut ready)
        .unwrap();

    let first = &file["first"];
    let expected = support::floats::<f32>(&first["output"]["data"]);
    let logits = plan.output(&workspace, LOGITS).unwrap();
    support::assert_close(&format!("{name}: logits"), logits, &expected, TOLERANCE);
    support::assert_close(
        &format!("{name}: loss"),
        &[plan.scalar(&workspace, LOSS).unwrap()],
        &[first["loss"].as_f64().unwrap() as f32],
        TOLERANCE,
    );
    for slot in layout.slots() {
        support::assert_close(
            &format!("{name}: gradient of {}", slot.name),
            &gradients[slot.range()],
            &support::floats(&first["gradients"][&slot.name]["data"]),
            TOLERANCE,
        );
    }
}

/// A shorter text gives the first rows of a longer one's logits: what follows a token doesn't
/// change what is said of it.
fn assert_a_prefix_is_a_prefix(name: &str) {
    let file = support::read(name);
    let context = file["model"]["context"].as_u64().unwrap() as usize;
    let vocabulary = file["model"]["vocabulary"].as_u64().unwrap() as usize;
    let x = support::ints(&file["batches"][0]["x"]);
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let whole = support::floats::<f32>(&file["first"]["output"]["data"]);
    for length in 1..=context {
        let graph = model(&file, length);
        let layout = ParameterLayout::new::<f32>(&graph).unwrap();
        let mut arena = layout.zeros::<f32>().unwrap();
        arena.copy_from_slice(&parameters(&file, &layout));
        let options = PlanOptions {
            mode: Mode::Prediction,
            batch: 1,
        };
        let plan = cpu.plan::<f32>(&graph, &layout, options).unwrap();
        let mut workspace = plan.workspace().unwrap();
        plan.infer(&mut workspace, &arena, &[TensorRef::Int(&x[..length])])
            .unwrap();
        let what = format!("{name}: logits of {length} tokens");
        let logits = plan.output(&workspace, LOGITS).unwrap();
        support::assert_close(&what, logits, &whole[..length * vocabulary], TOLERANCE);
        let probabilities = plan.output(&workspace, PROBABILITIES).unwrap();
        for row in probabilities.chunks_exact(vocabulary) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
        }
    }
}

#[test]
fn gpt_of_untied_embeddings() {
    assert_first_batch("gpt.json");
    assert_a_prefix_is_a_prefix("gpt.json");
}

#[test]
fn lstm_of_two_layers() {
    assert_first_batch("lstm.json");
    assert_a_prefix_is_a_prefix("lstm.json");
}

#[test]
fn gpt_of_tied_embeddings() {
    assert_first_batch("gpt_tied.json");
    assert_a_prefix_is_a_prefix("gpt_tied.json");
}
