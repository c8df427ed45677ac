use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use ringfold_collective::testing::run_ring;
use ringfold_common::clock::SystemClock;
use ringfold_common::job::{
    Activation, AdamOptions, Architecture, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec,
    Decay, Device, FoldMode, Initialiser, LastBatch, Loss, MlpSpec, ModelSpec, OptimizerSpec,
    OutputSpec, Overlap, Precision, Scale, ScheduleSpec, SgdOptions, TestData, TrainDuration,
    TrainSpec,
};
use ringfold_common::random::Stream;
use ringfold_storage::ReadOptions;

use super::*;
use crate::Predictor;

/// A job on a small seeded dataset: three noisy classes in four dimensions.
struct Fixture {
    dir: tempfile::TempDir,
    spec: JobSpec,
}

impl Fixture {
    fn new(loss: Loss) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let noise = Stream::new(11, 0);
        let mut csv = String::from("a,b,c,d,y\n");
        for i in 0..157u64 {
            let class = i % 3;
            let x: Vec<f64> = (0..4)
                .map(|j| f64::from(u8::from(class == j)) * 2.0 + noise.normal(i * 4 + j) * 0.5)
                .collect();
            let label = match loss {
                Loss::CrossEntropy => ["red", "green", "blue"][class as usize].to_owned(),
                _ => format!("{}", x[0] - 2.0 * x[1] + 0.5),
            };
            writeln!(csv, "{},{},{},{},{label}", x[0], x[1], x[2], x[3]).unwrap();
        }
        let path = dir.path().join("data.csv");
        std::fs::write(&path, csv).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let spec = JobSpec {
            name: "fixture".into(),
            model: ModelSpec {
                architecture: Architecture::Mlp(MlpSpec {
                    hidden: vec![16],
                    activation: Activation::Tanh,
                    dropout: 0.0,
                    initialiser: Initialiser::GlorotUniform,
                }),
                loss,
                loss_options: ringfold_common::job::LossOptions::default(),
                input: Vec::new(),
                weights: None,
            },
            data: DataSpec {
                source: DataSource::Csv(CsvSource {
                    path: text(path),
                    label: ColumnRef::Name("y".into()),
                    header: true,
                    delimiter: b',',
                }),
                scale: Scale::Standardize,
                test: TestData::Fraction {
                    fraction: 0.2,
                    seed: 5,
                },
            },
            train: TrainSpec {
                duration: TrainDuration::Epochs(8),
                global_batch: 16,
                last_batch: LastBatch::Keep,
                seed: 9,
                accumulate: 1,
                precision: Precision::F32,
                workspace_mb_max: None,
                optimizer: OptimizerSpec::Adam(AdamOptions::adam(0.02)),
                groups: Vec::new(),
                decay_biases: true,
                schedule: ScheduleSpec {
                    warmup_steps: 3,
                    decay: Decay::Cosine { min_rate: 0.001 },
                },
                clip_norm: Some(2.0),
                clip_value: None,
                ema: None,
                l2: 1e-3,
                evaluate: EvaluateEvery::Period(Period::Epochs(2)),
                report_steps: 1,
                check_steps: 5,
            },
            cluster: ClusterSpec {
                workers: 1,
                min_workers: 1,
                restarts_max: 0,
                replicas: 1,
                mode: FoldMode::Fast,
                threads: 1,
                device: Device::Cpu,
                compression: None,
                overlap: Overlap::Auto,
                bucket_bytes: 0,
                tls: false,
            },
            output: OutputSpec {
                dir: text(dir.path().join("out")),
                timeline: None,
            },
        };
        Self { dir, spec }
    }

    fn dataset(&self) -> Dataset {
        Dataset::load(
            &self.spec.data,
            self.spec.model.loss,
            &ReadOptions::default(),
        )
        .unwrap()
    }

    /// Trains in a world of `world` threads; the result of each rank, and what rank 0 reported.
    fn train(&self, world: u32, threads: u32) -> (Vec<Result<Option<Summary>, TrainError>>, Log) {
        let dataset = self.dataset();
        let log = Log::default();
        let clock = SystemClock::new();
        let mut spec = self.spec.clone();
        spec.cluster.workers = world;
        spec.cluster.replicas = spec.cluster.replicas.max(world);
        let results = run_ring(world, |mut ring| {
            let rank = ring.rank();
            let test_records = dataset.info().test_records;
            let job = RankJob {
                spec: &spec,
                dataset: &dataset,
                rank,
                world,
                part: &RankPart::of(rank, world, spec.cluster.replicas, test_records),
                threads,
            };
            train(
                &job,
                &mut ring,
                &AbortSignal::new().unwrap(),
                &log,
                &clock,
                &mut None,
            )
        });
        (results, log)
    }
}

#[derive(Default)]
struct Log {
    losses: Mutex<Vec<f64>>,
    evaluations: Mutex<Vec<Evaluation>>,
}

impl Observer for Log {
    fn phase(&self, _: Phase) {}
    fn step(&self, _: Step) {}
    fn progress(&self, progress: &Progress) {
        self.losses.lock().unwrap().push(progress.loss);
    }
    fn evaluation(&self, evaluation: &Evaluation) {
        self.evaluations.lock().unwrap().push(evaluation.clone());
    }
}

impl Log {
    fn losses(&self) -> Vec<f64> {
        self.losses.lock().unwrap().clone()
    }
}

fn summary(results: Vec<Result<Option<Summary>, TrainError>>) -> Summary {
    let mut results = results.into_iter().map(|result| result.unwrap());
    let first = results.next().unwrap().unwrap();
    assert!(results.all(|other| other.is_none()));
    first
}

#[test]
fn losses_do_not_depend_on_the_world() {
    for loss in [Loss::CrossEntropy, Loss::MeanSquaredError] {
        let fixture = Fixture::new(loss);
        let (results, log) = fixture.train(1, 1);
        let alone = log.losses();
        assert_eq!(alone.len() as u64, summary(results).steps);
        assert!(alone.last().unwrap() * 2.0 < alone[0], "{alone:?}");
        for world in 2..=5 {
            let (results, log) = fixture.train(world, 1);
            summary(results);
            for (step, (a, b)) in alone.iter().zip(log.losses()).enumerate() {
                assert!(
                    ((a - b) / a).abs() < 1e-4,
                    "world {world} step {step}: {a} and {b}"
                );
            }
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bits_on_any_number_of_threads() {
    let fixture = Fixture::new(Loss::CrossEntropy);
    let hash = |world, threads| summary(fixture.train(world, threads).0).weights_blake3;
    assert_eq!(hash(2, 1), hash(2, 1));
    assert_eq!(hash(2, 1), hash(2, 3));
}

#[test]
fn the_summary_the_saved_model_and_the_metrics_agree() {
    let fixture = Fixture::new(Loss::CrossEntropy);
    let (results, log) = fixture.train(3, 1);
    let summary = summary(results);
    let records = fixture.dataset().info().train_records;
    assert_eq!((summary.epochs, summary.samples), (8, 8 * records));
    assert!(summary.metrics["test_accuracy"] > 0.9, "{summary:?}");

    let evaluations = log.evaluations.lock().unwrap().clone();
    assert_eq!(evaluations.len(), 4);
    assert_eq!(
        evaluations[3].metrics["test_loss"],
        summary.metrics["test_loss"]
    );

    let out = fixture.dir.path().join("out");
    let model = ModelFiles::read(&out).unwrap();
    let views: Vec<_> = model.tensors.iter().map(|tensor| tensor.view()).collect();
    assert_eq!(weights_blake3(&views), summary.weights_blake3);

    let (sums, matrix) = Predictor::new(model)
        .unwrap()
        .evaluate(fixture.dataset().test())
        .unwrap();
    let metrics = sums.metrics("test");
    assert_eq!(metrics["test_accuracy"], summary.metrics["test_accuracy"]);
    assert!((metrics["test_loss"] - summary.metrics["test_loss"]).abs() < 1e-6);
    let matrix = matrix.unwrap();
    let total: u64 = matrix.rows().flatten().sum();
    assert_eq!(total, fixture.dataset().info().test_records);

    let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, summary.steps + 4);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["event"], "progress");
}

#[test]
fn more_ranks_than_samples_still_train() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.train.global_batch = 5;
    fixture.spec.train.duration = TrainDuration::Steps(30);
    // 126 training records: every 26th batch has one sample, so four of five ranks have none.
    let (results, log) = fixture.train(5, 1);
    summary(results);
    let (_, alone) = fixture.train(1, 1);
    for (a, b) in alone.losses().iter().zip(log.losses()) {
        assert!(((a - b) / a).abs() < 1e-4);
    }
}

#[test]
fn numbers_that_run_away_are_an_error_that_names_the_step() {
    let mut fixture = Fixture::new(Loss::MeanSquaredError);
    fixture.spec.train.clip_norm = None;
    fixture.spec.train.optimizer = OptimizerSpec::Sgd(SgdOptions {
        momentum: 0.9,
        ..SgdOptions::new(1e6)
    });
    let (results, _) = fixture.train(2, 1);
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
        assert!(error.to_string().contains("after step"), "{error}");
    }
}

#[test]
fn an_abort_ends_every_rank() {
    let fixture = Fixture::new(Loss::CrossEntropy);
    let dataset = fixture.dataset();
    let abort = AbortSignal::new().unwrap();
    abort.abort("enough");
    let clock = SystemClock::new();
    let results = run_ring(1, |mut ring| {
        let job = RankJob {
            spec: &fixture.spec,
            dataset: &dataset,
            rank: Rank(0),
            world: 1,
            part: &RankPart::of(Rank(0), 1, 1, dataset.info().test_records),
            threads: 1,
        };
        train(&job, &mut ring, &abort, &Log::default(), &clock, &mut None)
    });
    let error = results.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "aborted: enough");
    assert_eq!(error.cause(), None);
}

#[test]
fn a_rank_whose_weights_differ_is_named_by_all() {
    let errors = run_ring(4, |mut ring| {
        let value = if ring.rank() == Rank(2) {
            1.0 + f32::EPSILON
        } else {
            1.0
        };
        check_weights(&mut ring, Step(7), &[&[0.5], &[value]])
            .unwrap_err()
            .to_string()
    });
    for error in errors {
        assert_eq!(
            error,
            "after step 7 the weights of rank 2 differ from those of the other ranks"
        );
    }
    let agreed = run_ring(3, |mut ring| {
        check_weights(&mut ring, Step(7), &[&[0.5]]).is_ok()
    });
    assert_eq!(agreed, [true; 3]);
}

mod checkpoints;
mod compression;
mod precision;
mod replicas;
mod resume;
mod states;
mod text;
mod timeline;
mod updates;
