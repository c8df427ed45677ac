//! Training on text.

use ringfold_common::job::{GptSpec, TextSource, Tokeniser};

use super::*;
use crate::{Generator, Sampler, SamplingOptions};

/// A small GPT on a text that says one thing again and again.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let path = fixture.dir.path().join("text.txt");
    std::fs::write(&path, "one ring, no loss. ".repeat(80)).unwrap();
    let spec = &mut fixture.spec;
    spec.model.architecture = Architecture::Gpt(GptSpec {
        layers: 1,
        heads: 2,
        width: 16,
        dropout: 0.0,
        attention_dropout: 0.0,
        tied_embeddings: true,
    });
    spec.data = DataSpec {
        source: DataSource::Text(TextSource {
            path: path.to_str().unwrap().to_owned(),
            tokeniser: Tokeniser::Character,
            context: 12,
            stride: 12,
        }),
        scale: Scale::None,
        test: TestData::Fraction {
            fraction: 0.2,
            seed: 0,
        },
    };
    spec.train.duration = TrainDuration::Epochs(30);
    spec.train.l2 = 0.0;
    spec.train.evaluate = EvaluateEvery::End;
    fixture
}

#[test]
fn losses_on_text_do_not_depend_on_the_world_and_metrics_are_of_tokens() {
    let fixture = fixture();
    let (results, log) = fixture.train(1, 1);
    let alone = log.losses();
    let one = summary(results);
    assert!(one.metrics["test_accuracy"] > 0.8, "{one:?}");
    let (loss, perplexity) = (one.metrics["test_loss"], one.metrics["test_perplexity"]);
    assert!((loss.exp() - perplexity).abs() < 1e-9, "{one:?}");

    // Of the saved model too.
    let out = fixture.dir.path().join("out");
    let predictor = Predictor::new(ModelFiles::read(&out).unwrap()).unwrap();
    let (sums, matrix) = predictor.evaluate(fixture.dataset().test()).unwrap();
    assert_eq!(matrix, None);
    let metrics = sums.metrics("test");
    assert_eq!(metrics["test_accuracy"], one.metrics["test_accuracy"]);
    assert!((metrics["test_loss"] - loss).abs() < 1e-6);

    // It has learned the text.
    let mut generator = Generator::new(ModelFiles::read(&out).unwrap(), 1).unwrap();
    let vocabulary = generator.vocabulary().clone();
    let prompt = vocabulary.encode(b"one ring").unwrap();
    let mut text = Vec::new();
    let options = SamplingOptions {
        temperature: 0.0,
        ..SamplingOptions::default()
    };
    let mut sampler = Sampler::new(options);
    let each = |token| {
        vocabulary.decode(token, &mut text);
        Ok::<_, TrainError>(())
    };
    generator.generate(&prompt, 11, &mut sampler, each).unwrap();
    assert_eq!(String::from_utf8_lossy(&text), ", no loss. ");

    let (results, log) = fixture.train(2, 1);
    summary(results);
    for (step, (a, b)) in alone.iter().zip(log.losses()).enumerate() {
        assert!(((a - b) / a).abs() < 1e-3, "step {step}: {a} and {b}");
    }
}

#[test]
fn a_limit_of_the_workspace_is_kept_and_changes_no_bit() {
    let mut fixture = fixture();
    let spec = &mut fixture.spec;
    spec.model.architecture = Architecture::Gpt(GptSpec {
        layers: 4,
        heads: 2,
        width: 32,
        dropout: 0.1,
        attention_dropout: 0.0,
        tied_embeddings: true,
    });
    let DataSource::Text(text) = &mut spec.data.source else {
        unreachable!("the fixture's data")
    };
    std::fs::write(&text.path, "one ring, no loss. ".repeat(400)).unwrap();
    (text.context, text.stride) = (60, 60);
    spec.train.duration = TrainDuration::Steps(4);
    let trained = |fixture: &Fixture| summary(fixture.train(1, 2).0);
    let free = trained(&fixture);
    fixture.spec.train.workspace_mb_max = Some(4);
    let limited = trained(&fixture);
    assert_eq!(limited.weights_blake3, free.weights_blake3);
    let saved = free.execution.arena_bytes - limited.execution.arena_bytes;
    assert!(saved > 1_000_000, "{free:?} {limited:?}");

    fixture.spec.train.workspace_mb_max = Some(1);
    let (results, _) = fixture.train(1, 2);
    let error = results.into_iter().next().unwrap().unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    let expected = "a workspace of 1000000 bytes was asked for, and the least is ";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("the largest buffers are: "), "{error}");
}
