use ringfold_common::job::{GptSpec, Loss, LstmSpec, ModelSpec};
use ringfold_common::random::Stream;
use ringfold_storage::{Columns, Scaler, SourceFormat, Tensor};

use super::*;
use crate::sampling::SamplingOptions;

const CONTEXT: usize = 9;

fn description(architecture: Architecture) -> ModelDescription {
    ModelDescription {
        job_name: "text".into(),
        model: ModelSpec::new(architecture, Loss::CrossEntropy),
        features: CONTEXT as u32,
        target: Target::Tokens(Vocabulary::Bytes),
        scaler: Scaler::None,
        columns: Columns {
            feature_names: None,
            label_name: None,
            format: SourceFormat::Text { stride: 1 },
            dims: Vec::new(),
        },
    }
}

fn gpt(tied_embeddings: bool) -> Architecture {
    Architecture::Gpt(GptSpec {
        layers: 2,
        heads: 3,
        width: 12,
        dropout: 0.5,
        attention_dropout: 0.1,
        tied_embeddings,
    })
}

fn lstm() -> Architecture {
    Architecture::Lstm(LstmSpec {
        embedding: 5,
        hidden: 8,
        layers: 2,
        dropout: 0.5,
    })
}

/// A model of random weights, and its network.
fn model(architecture: Architecture) -> (Model, Network) {
    let description = description(architecture);
    let network = Network::new(
        &description.model,
        (description.features, &[]),
        &description.target,
        0.0,
        1,
    )
    .unwrap();
    let noise = Stream::new(5, 0);
    let tensors = network.layout().slots().iter().map(|slot| {
        let values = slot.range().map(|at| noise.normal(at as u64) as f32 * 0.3);
        Tensor {
            name: slot.name.clone(),
            shape: slot.shape.clone(),
            values: values.collect(),
        }
    });
    let tensors = tensors.collect();
    let model = Model {
        description,
        tensors,
        onnx: None,
    };
    (model, network)
}

fn generator() -> Generator {
    Generator::new(model(gpt(true)).0, 1).unwrap()
}

fn tokens(count: usize) -> Vec<u32> {
    let noise = Stream::new(6, 0);
    (0..count).map(|at| noise.word(at as u64) % 256).collect()
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-4, "{got} {expected}");
    }
}

/// What the whole network says of a text of one context.
fn whole(model: &Model, network: &Network, tokens: &[u32]) -> Vec<f32> {
    let (parameters, _) = network.load(&model.tensors).unwrap();
    let mut plans = network.plans([(Mode::Prediction, 1)]).unwrap();
    let (plan, workspace, batch) = plans.get(Mode::Prediction, 1);
    for (to, &token) in batch.tokens_mut().iter_mut().zip(tokens) {
        *to = token as i32;
    }
    plan.infer(workspace, &parameters, &batch.inputs(1)[..1])
        .unwrap();
    plan.output(workspace, LOGITS).unwrap().to_vec()
}

#[test]
fn reading_token_by_token_gives_what_the_whole_network_does() {
    for architecture in [gpt(true), gpt(false), lstm()] {
        let (model, network) = model(architecture);
        let tokens = tokens(CONTEXT);
        let expected = whole(&model, &network, &tokens);
        let mut generator = Generator::new(model, 1).unwrap();
        for (&token, expected) in tokens.iter().zip(expected.chunks_exact(256)) {
            assert_close(generator.read(token).unwrap(), expected);
        }
    }
}

#[test]
fn a_full_context_goes_on_from_its_newer_half() {
    let tokens = tokens(2 * CONTEXT);
    let mut long = generator();
    for &token in &tokens[..=CONTEXT] {
        long.read(token).unwrap();
    }
    // The tenth token is read after the newer four of nine.
    let mut short = generator();
    for &token in &tokens[CONTEXT - CONTEXT / 2..=CONTEXT] {
        short.read(token).unwrap();
    }
    for &token in &tokens[CONTEXT + 1..] {
        let expected = short.read(token).unwrap().to_vec();
        assert_close(long.read(token).unwrap(), &expected);
    }
}

fn generated(prompt: &[u32], count: u64, seed: u64) -> Vec<u32> {
    let options = SamplingOptions {
        seed,
        ..SamplingOptions::default()
    };
    let mut tokens = Vec::new();
    generator()
        .generate(prompt, count, &mut Sampler::new(options), |token| {
            tokens.push(token);
            Ok::<_, TrainError>(())
        })
        .unwrap();
    tokens
}

#[test]
fn a_seed_gives_the_same_text_and_a_long_prompt_that_of_its_end() {
    let prompt = tokens(3 * CONTEXT);
    let text = generated(&prompt[..4], 30, 1);
    assert_eq!(text.len(), 30);
    assert_eq!(text, generated(&prompt[..4], 30, 1));
    assert_ne!(text, generated(&prompt[..4], 30, 2));
    let end = generated(&prompt[2 * CONTEXT..], 30, 1);
    assert_eq!(generated(&prompt, 30, 1), end);
    assert_eq!(generated(&[], 5, 1), generated(&[0], 5, 1));
    assert!(generated(&prompt, 0, 1).is_empty());
}

#[test]
fn what_is_no_token_and_what_knows_no_text_is_refused() {
    let error = generator().read(256).unwrap_err();
    assert!(matches!(error, TrainError::Compute(_)), "{error}");
    let (mut model, _) = model(gpt(true));
    model.description.target = Target::Values(1);
    let error = Generator::new(model, 1).unwrap_err();
    assert!(matches!(error, TrainError::NotOfText { .. }), "{error}");
    assert!(error.to_string().contains("\"gpt\""), "{error}");
}
