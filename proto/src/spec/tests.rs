use super::*;

/// A spec that uses every field.
fn full() -> JobSpec {
    JobSpec {
        name: "full".into(),
        model: ModelSpec {
            architecture: Architecture::Mlp(MlpSpec {
                hidden: vec![32, 16],
                activation: Activation::Gelu,
                dropout: 0.25,
                initialiser: Initialiser::GlorotNormal,
            }),
            loss: Loss::CrossEntropy,
        },
        data: DataSpec {
            source: DataSource::Csv(CsvSource {
                path: "/data/train.csv".into(),
                label: ColumnRef::Name("y".into()),
                header: true,
                delimiter: b';',
            }),
            scale: Scale::Divide(16.0),
            test: TestData::Fraction {
                fraction: 0.2,
                seed: 9,
            },
        },
        train: TrainSpec {
            duration: TrainDuration::Epochs(3),
            global_batch: 64,
            last_batch: LastBatch::Drop,
            seed: 4,
            optimizer: OptimizerSpec::Sgd(SgdOptions {
                learning_rate: 0.1,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 1e-4,
            }),
            schedule: ScheduleSpec {
                warmup_steps: 5,
                decay: Decay::Step {
                    every: Period::Epochs(2),
                    gamma: 0.5,
                },
            },
            clip_norm: Some(1.0),
            l2: 1e-5,
            evaluate: EvaluateEvery::Period(Period::Steps(7)),
            report_steps: 10,
            check_steps: 100,
        },
        cluster: ClusterSpec {
            workers: 3,
            threads: 2,
            device: Device::Cpu,
        },
        output: OutputSpec { dir: "/out".into() },
    }
}

fn variants() -> Vec<JobSpec> {
    let adam = AdamOptions {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
    };
    let idx = IdxSource {
        images: "/i".into(),
        labels: "/l".into(),
    };
    let mut specs = vec![full(); 5];
    specs[1].train.optimizer = OptimizerSpec::Adam(adam);
    specs[1].train.schedule.decay = Decay::Cosine { min_rate: 1e-4 };
    specs[1].data.scale = Scale::MinMax;
    specs[2].train.optimizer = OptimizerSpec::AdamW(adam);
    specs[2].train.schedule.decay = Decay::Constant;
    specs[2].data.scale = Scale::Standardize;
    specs[2].train.clip_norm = None;
    specs[3].data.source = DataSource::Idx(idx.clone());
    specs[3].data.test = TestData::Files(DataSource::Idx(idx));
    specs[3].train.duration = TrainDuration::Steps(9);
    specs[3].train.evaluate = EvaluateEvery::End;
    specs[4].data.test = TestData::None;
    specs[4].data.scale = Scale::None;
    specs[4].model.loss = Loss::MeanSquaredError;
    specs[4].train.evaluate = EvaluateEvery::Period(Period::Epochs(1));
    specs
}

#[test]
fn specs_round_trip() {
    for spec in variants() {
        assert_eq!(JobSpec::try_from(v1::JobSpec::from(&spec)), Ok(spec));
    }
}

#[test]
fn a_missing_part_is_named() {
    type Break = fn(&mut v1::JobSpec);
    let cases: [(Break, &str); 8] = [
        (|spec| spec.model = None, "spec.model"),
        (
            |spec| spec.model.as_mut().unwrap().architecture = None,
            "spec.model.architecture",
        ),
        (
            |spec| spec.model.as_mut().unwrap().loss = 0,
            "spec.model.loss",
        ),
        (
            |spec| spec.data.as_mut().unwrap().source = None,
            "spec.data.source",
        ),
        (
            |spec| spec.data.as_mut().unwrap().scale = None,
            "spec.data.scale",
        ),
        (
            |spec| spec.train.as_mut().unwrap().optimizer = None,
            "spec.train.optimizer",
        ),
        (
            |spec| spec.train.as_mut().unwrap().duration = None,
            "spec.train.duration",
        ),
        (
            |spec| spec.cluster.as_mut().unwrap().device = 77,
            "spec.cluster.device",
        ),
    ];
    for (break_it, field) in cases {
        let mut wire = v1::JobSpec::from(&full());
        break_it(&mut wire);
        assert_eq!(JobSpec::try_from(wire).unwrap_err().field, field);
    }
}

#[test]
fn values_out_of_range_and_relative_paths_are_named() {
    let mut wire = v1::JobSpec::from(&full());
    wire.train.as_mut().unwrap().global_batch = 0;
    assert_eq!(
        JobSpec::try_from(wire).unwrap_err().field,
        "spec.train.global_batch"
    );

    let mut wire = v1::JobSpec::from(&full());
    wire.output.as_mut().unwrap().dir = "out".into();
    assert_eq!(
        JobSpec::try_from(wire).unwrap_err().field,
        "spec.output.dir"
    );
}
