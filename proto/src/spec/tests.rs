use ringfold_common::job::{
    Activation, AdaGradOptions, AdamOptions, Anneal, Architecture, BarzilaiBorweinFormula,
    BarzilaiBorweinOptions, CnnSpec, CompressionMethod, CompressionSpec, Decay, EmaSpec,
    EvaluateEvery, GptSpec, GroupSpec, Initialiser, LambOptions, LastBatch, LinearSpec,
    LionOptions, Loss, LstmSpec, Milestones, MlpSpec, ModelSpec, OneCycle, OnnxInput, OnnxSpec,
    OptimizerSpec, Period, Precision, Resnet18Spec, RmsPropOptions, ScheduleSpec, SgdOptions,
    SourceFile, Stem, TrainDuration, TrainSpec,
};

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
            loss_options: ringfold_common::job::LossOptions::default(),
            input: Vec::new(),
            weights: None,
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
            accumulate: 2,
            precision: Precision::Bf16,
            workspace_mb_max: Some(300),
            groups: vec![
                GroupSpec {
                    pattern: "*.bias".into(),
                    weight_decay: Some(0.0),
                    learning_rate_factor: 2.0,
                },
                GroupSpec {
                    pattern: "layers.0.*".into(),
                    weight_decay: None,
                    learning_rate_factor: 0.0,
                },
            ],
            decay_biases: false,
            optimizer: OptimizerSpec::Sgd(SgdOptions {
                learning_rate: 0.1,
                momentum: 0.9,
                dampening: 0.0,
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
            clip_value: Some(0.5),
            ema: Some(EmaSpec {
                decay: 0.99,
                warmup: true,
            }),
            l2: 1e-5,
            evaluate: EvaluateEvery::Period(Period::Steps(7)),
            report_steps: 10,
            check_steps: 100,
        },
        cluster: ClusterSpec {
            workers: 3,
            min_workers: 2,
            restarts_max: 0,
            replicas: 6,
            mode: FoldMode::Reproducible,
            threads: 2,
            device: Device::Cpu,
            compression: None,
            overlap: Overlap::On,
            bucket_bytes: 1 << 20,
            tls: true,
        },
        output: OutputSpec {
            dir: "/out".into(),
            timeline: Some("/timeline.json".into()),
        },
    }
}

fn variants() -> Vec<JobSpec> {
    let adam = AdamOptions {
        amsgrad: true,
        ..AdamOptions::adamw(1e-3)
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
    specs[4].train.accumulate = 1;
    specs[4].train.precision = Precision::F32;
    specs[4].train.groups = Vec::new();
    specs[4].train.decay_biases = true;
    specs[4].train.clip_value = None;
    specs[4].train.ema = None;
    specs.extend(compressions());
    specs
}

/// One spec a way to compress gradients.
fn compressions() -> impl Iterator<Item = JobSpec> {
    let methods = [
        CompressionMethod::Bf16,
        CompressionMethod::F16,
        CompressionMethod::Int8 { block: 64 },
        CompressionMethod::TopK { fraction: 0.25 },
        CompressionMethod::PowerSgd { rank: 3 },
    ];
    (1..).zip(methods).map(|(start_step, method)| {
        let mut spec = full();
        spec.cluster.mode = FoldMode::Fast;
        spec.cluster.compression = Some(CompressionSpec { method, start_step });
        spec
    })
}

#[test]
fn compression_without_numbers_has_defaults_and_is_checked() {
    let spec = |method, mode: FoldMode| {
        let mut wire = v1::JobSpec::from(&full());
        let cluster = wire.cluster.as_mut().unwrap();
        cluster.mode = v1::FoldMode::from(mode).into();
        let start_step = 0;
        cluster.compression = Some(v1::CompressionSpec { method, start_step });
        JobSpec::try_from(wire).map(|spec| spec.cluster.compression.unwrap())
    };
    use v1::compression_spec::Method;
    let int8 = Method::Int8(v1::Int8Compression { block: 0 });
    let got = spec(Some(int8), FoldMode::Fast).unwrap();
    assert_eq!(got.method, CompressionMethod::Int8 { block: 256 });
    assert_eq!(got.start_step, 1);
    let error = spec(Some(int8), FoldMode::Reproducible).unwrap_err();
    assert_eq!(error.field, "spec.cluster.compression.kind");
    let error = spec(None, FoldMode::Fast).unwrap_err();
    assert_eq!(error.field, "spec.cluster.compression.method");
    let top_k = Method::TopK(v1::TopKCompression { fraction: f64::NAN });
    let error = spec(Some(top_k), FoldMode::Auto).unwrap_err();
    assert_eq!(error.field, "spec.cluster.compression.fraction");
}

/// One spec an optimizer and a schedule.
fn rules() -> Vec<JobSpec> {
    let optimizers = [
        OptimizerSpec::Sgd(SgdOptions {
            momentum: 0.9,
            dampening: 0.5,
            ..SgdOptions::new(0.1)
        }),
        OptimizerSpec::RmsProp(RmsPropOptions {
            learning_rate: 0.1,
            alpha: 0.2,
            epsilon: 0.3,
            momentum: 0.4,
            centered: true,
            weight_decay: 0.5,
        }),
        OptimizerSpec::AdaGrad(AdaGradOptions {
            learning_rate: 0.1,
            rate_decay: 0.2,
            initial_accumulator: 0.3,
            epsilon: 0.4,
            weight_decay: 0.5,
        }),
        OptimizerSpec::Lamb(LambOptions {
            learning_rate: 0.1,
            beta1: 0.2,
            beta2: 0.3,
            epsilon: 0.4,
            weight_decay: 0.5,
        }),
        OptimizerSpec::Lion(LionOptions {
            learning_rate: 0.1,
            beta1: 0.2,
            beta2: 0.3,
            weight_decay: 0.4,
        }),
        OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions {
            learning_rate: 0.1,
            formula: BarzilaiBorweinFormula::Short,
            period_steps: Some(7),
            min_rate: 0.2,
            max_rate: 0.3,
            weight_decay: 0.4,
        }),
        OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions::new(0.1)),
    ];
    let decays = [
        Decay::MultiStep {
            milestones: Milestones::Steps(vec![2, 5]),
            gamma: 0.5,
        },
        Decay::MultiStep {
            milestones: Milestones::Epochs(vec![3]),
            gamma: 0.1,
        },
        Decay::Exponential {
            every: Period::Epochs(1),
            gamma: 0.9,
        },
        Decay::CosineRestarts {
            first: Period::Steps(8),
            factor: 2,
            min_rate: 0.01,
        },
        Decay::OneCycle(OneCycle {
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1e4,
            anneal: Anneal::Linear,
        }),
        Decay::Polynomial {
            over: Some(Period::Steps(3)),
            power: 2.0,
        },
        Decay::Linear {
            over: None,
            start_factor: 1.0,
            end_factor: 0.5,
        },
    ];
    let with = |change: &dyn Fn(&mut TrainSpec)| {
        let mut spec = full();
        spec.train.schedule.warmup_steps = 0;
        change(&mut spec.train);
        spec
    };
    let optimizers = optimizers.map(|rule| with(&|train| train.optimizer = rule));
    let decays = decays.map(|decay| with(&|train| train.schedule.decay = decay.clone()));
    optimizers.into_iter().chain(decays).collect()
}

#[test]
fn what_a_client_leaves_out_has_a_meaning() {
    let mut wire = v1::JobSpec::from(&full());
    let train = wire.train.as_mut().unwrap();
    (train.accumulate, train.decay_biases) = (0, None);
    train.groups[0].learning_rate_factor = None;
    let train = JobSpec::try_from(wire).unwrap().train;
    assert_eq!((train.accumulate, train.decay_biases), (1, true));
    assert_eq!(train.groups[0].learning_rate_factor, 1.0);
}

/// Every architecture, layer, activation, initialiser and loss.
fn models() -> Vec<JobSpec> {
    let text = r#"
[model]
kind = "sequential"
input = [2, 8, 8]
layers = [
    { kind = "conv2d", filters = 4, kernel = [3, 5], stride = [1, 2], dilation = 2, groups = 2 },
    { kind = "conv_transpose2d", filters = 4, kernel = 3, stride = 2, output_padding = 1 },
    { kind = "conv_transpose1d", filters = 4, kernel = 3, stride = 2, output_padding = 1 },
    { kind = "max_pool2d", size = 2, stride = 1, padding = 1 },
    { kind = "avg_pool2d", size = [2, 1] },
    { kind = "conv1d", filters = 4, kernel = 3, bias = false },
    { kind = "max_pool1d", size = 2 },
    { kind = "avg_pool1d", size = 2 },
    { kind = "global_max_pool" },
    { kind = "global_avg_pool" },
    { kind = "batch_norm", eps = 1e-3, momentum = 0.5 },
    { kind = "layer_norm" },
    { kind = "group_norm", groups = 2 },
    { kind = "rms_norm", eps = 1e-6 },
    { kind = "dropout", rate = 0.25 },
    { kind = "flatten" },
    { kind = "reshape", shape = [2, 3] },
    { kind = "embedding", vocabulary = 9, width = 4 },
    { kind = "positions" },
    { kind = "attention", heads = 2, causal = true, bias = false, dropout = 0.1 },
    { kind = "residual", layers = [{ kind = "dense", units = 4 }, { kind = "hard_swish" }] },
    { kind = "dense", units = 3, bias = false },
]
[data]
format = "csv"
path = "d.csv"
label = "y"
[train]
epochs = 2
global_batch = 4
[train.optimizer]
kind = "sgd"
learning_rate = 0.1
"#;
    let base = ringfold_common::job_file::parse(text, "job.toml", "/base", &[]).unwrap();
    let with = |change: &dyn Fn(&mut ModelSpec)| {
        let mut spec = base.clone();
        change(&mut spec.model);
        spec
    };
    let cnn = |activation| {
        Architecture::Cnn(CnnSpec {
            blocks: CnnSpec::default_blocks(),
            hidden: vec![7],
            activation,
            dropout: 0.5,
            initialiser: Initialiser::Orthogonal(2.0),
        })
    };
    let activations = Activation::NAMES.iter();
    let activations = activations.map(|&(_, f)| with(&|model| model.architecture = cnn(f)));
    let resnet = |stem| {
        with(&|model| {
            model.architecture = Architecture::Resnet18(Resnet18Spec {
                stem,
                width: 8,
                zero_init_residual: stem == Stem::Cifar,
                initialiser: Initialiser::HeNormalFanOut,
            });
        })
    };
    let losses = Loss::NAMES.iter().map(|&(_, loss)| {
        with(&|model| {
            model.loss = loss;
            match loss {
                Loss::CrossEntropy => {
                    model.loss_options.label_smoothing = 0.25;
                    model.loss_options.class_weights = vec![1.0, 2.0];
                }
                Loss::Huber => model.loss_options.delta = 2.0,
                Loss::Gamma => model.loss_options.shape = 3.0,
                _ => {}
            }
        })
    });
    let initialisers = [
        Initialiser::HeNormal,
        Initialiser::HeUniform,
        Initialiser::GlorotNormal,
        Initialiser::GlorotUniform,
        Initialiser::FanInUniform,
        Initialiser::HeNormalFanOut,
        Initialiser::HeUniformFanOut,
        Initialiser::Zeros,
        Initialiser::Ones,
        Initialiser::Constant(-1.5),
        Initialiser::Uniform(0.5),
        Initialiser::Normal(0.25),
        Initialiser::TruncatedNormal(0.02),
        Initialiser::Orthogonal(1.5),
    ];
    let initialisers = initialisers.into_iter().map(|initialiser| {
        with(&|model| model.architecture = Architecture::Softmax(LinearSpec { initialiser }))
    });
    let linear = with(&|model| {
        model.loss = Loss::MeanSquaredError;
        model.architecture = Architecture::Linear(LinearSpec {
            initialiser: Initialiser::Zeros,
        });
    });
    let onnx = with(&|model| {
        let file = |path: &str, digit: &str| SourceFile {
            path: path.into(),
            blake3: digit.repeat(64),
        };
        model.architecture = Architecture::Onnx(OnnxSpec {
            file: file("/nets/a.onnx", "a"),
            output: Some("scores".into()),
            freeze: vec!["stem.*".into()],
            inputs: vec![OnnxInput {
                name: "image".into(),
                features: [3, 7],
            }],
        });
        model.weights = Some(file("/nets/w.safetensors", "0"));
    });
    let mut specs = vec![
        base.clone(),
        linear,
        onnx,
        resnet(Stem::Cifar),
        resnet(Stem::Imagenet),
    ];
    specs.extend(activations.chain(losses).chain(initialisers));
    specs
}

#[test]
fn what_is_missing_in_a_layer_is_named() {
    let mut wire = v1::JobSpec::from(&models()[0]);
    let model = wire.model.as_mut().unwrap();
    let Some(v1::model_spec::Architecture::Sequential(sequential)) = &mut model.architecture else {
        panic!("sequential")
    };
    let Some(v1::layer::Kind::Conv2d(conv)) = &mut sequential.layers[0].kind else {
        panic!("conv2d")
    };
    conv.stride = None;
    assert_eq!(
        JobSpec::try_from(wire).unwrap_err().field,
        "spec.model.sequential.layers[0].stride"
    );
}

#[test]
fn tables_round_trip_and_need_a_format_and_a_label() {
    for (format, label) in TableFormat::ALL.into_iter().zip(
        [ColumnRef::Name("y".into()), ColumnRef::Index(3)]
            .into_iter()
            .cycle(),
    ) {
        let mut spec = full();
        let label = if format.has_names() {
            label
        } else {
            ColumnRef::Index(3)
        };
        let source = DataSource::Table(TableSource {
            format,
            path: "/data/t".into(),
            label,
        });
        spec.data.test = TestData::Files(source.clone());
        spec.data.source = source;
        assert_eq!(
            JobSpec::try_from(v1::JobSpec::from(&spec)),
            Ok(spec.clone())
        );

        let refused = |change: fn(&mut v1::TableSource)| {
            let mut wire = v1::JobSpec::from(&spec);
            let data = wire.data.as_mut().unwrap();
            match &mut data.source.as_mut().unwrap().format {
                Some(v1::data_source::Format::Table(table)) => change(table),
                other => panic!("{other:?}"),
            }
            JobSpec::try_from(wire).unwrap_err().field
        };
        assert_eq!(
            refused(|table| table.format = 0),
            "spec.data.source.table.format"
        );
        assert_eq!(
            refused(|table| table.label = None),
            "spec.data.source.table.label"
        );
        assert_eq!(refused(|table| table.path = "t".into()), "spec.data.path");
    }
}

#[test]
fn texts_round_trip_and_a_missing_stride_is_the_context() {
    let source = TextSource {
        path: "/data/t".into(),
        tokeniser: Tokeniser::Character,
        context: 8,
        stride: 3,
    };
    let mut spec = full();
    spec.data.scale = Scale::None;
    spec.data.source = DataSource::Text(source);
    spec.model.architecture = Architecture::Gpt(GptSpec {
        layers: 2,
        heads: 3,
        width: 12,
        dropout: 0.1,
        attention_dropout: 0.1,
        tied_embeddings: true,
    });
    let mut wire = v1::JobSpec::from(&spec);
    assert_eq!(JobSpec::try_from(wire.clone()), Ok(spec.clone()));
    spec.model.architecture = Architecture::Lstm(LstmSpec {
        embedding: 3,
        hidden: 5,
        layers: 2,
        dropout: 0.5,
    });
    let lstm = v1::JobSpec::from(&spec);
    assert_eq!(JobSpec::try_from(lstm), Ok(spec));
    let text = |wire: &mut v1::JobSpec, change: fn(&mut v1::TextSource)| match &mut wire
        .data
        .as_mut()
        .unwrap()
        .source
        .as_mut()
        .unwrap()
        .format
    {
        Some(v1::data_source::Format::Text(text)) => change(text),
        other => panic!("{other:?}"),
    };
    text(&mut wire, |text| text.stride = 0);
    match JobSpec::try_from(wire.clone()).unwrap().data.source {
        DataSource::Text(text) => assert_eq!(text.stride, 8),
        other => panic!("{other:?}"),
    }
    text(&mut wire, |text| text.path = "t".into());
    let error = JobSpec::try_from(wire.clone()).unwrap_err();
    assert_eq!(error.field, "spec.data.path");
    text(&mut wire, |text| text.tokeniser = 9);
    let error = JobSpec::try_from(wire).unwrap_err();
    assert_eq!(error.field, "spec.data.source.text.tokeniser");
}

#[test]
fn specs_round_trip() {
    for spec in variants().into_iter().chain(rules()).chain(models()) {
        assert_eq!(JobSpec::try_from(v1::JobSpec::from(&spec)), Ok(spec));
    }
}

#[test]
fn a_missing_part_is_named() {
    type Break = fn(&mut v1::JobSpec);
    let cases: [(Break, &str); 9] = [
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
            |spec| {
                let onnx = v1::model_spec::Architecture::Onnx(v1::OnnxSpec::default());
                spec.model.as_mut().unwrap().architecture = Some(onnx);
            },
            "spec.model.onnx.file",
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

    let mut wire = v1::JobSpec::from(&full());
    let weights = SourceFile::unread("w.safetensors".into());
    wire.model.as_mut().unwrap().weights = Some((&weights).into());
    assert_eq!(
        JobSpec::try_from(wire).unwrap_err().field,
        "spec.model.weights.path"
    );
}
