use super::*;
use crate::job::{
    Architecture, ColumnRef, CompressionMethod, DataSource, Decay, EvaluateEvery, GptSpec,
    LstmSpec, OptimizerSpec, Overlap, Period, Scale, TableFormat, TableSource, TestData,
    TextSource, Tokeniser, TrainDuration,
};

const MINIMAL: &str = r#"
[model]
kind = "mlp"
hidden = [8]

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

fn read(text: &str) -> Result<JobSpec, JobFileError> {
    parse(text, "dir/job.toml", "/base", &[])
}

fn message(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn set(key: &str, value: &str) -> Override {
    Override {
        flag: format!("--set {key}={value}"),
        key: key.into(),
        value: value.into(),
    }
}

#[test]
fn a_minimal_file_gets_the_documented_defaults() {
    let spec = read(MINIMAL).unwrap();
    assert_eq!(spec.name, "job");
    assert_eq!(spec.cluster.workers, 1);
    assert_eq!(spec.output.dir, "/base/out");
    assert_eq!(spec.data.scale, Scale::None);
    assert_eq!(spec.data.test, TestData::None);
    assert_eq!(spec.train.evaluate, EvaluateEvery::End);
    let DataSource::Csv(csv) = &spec.data.source else {
        panic!("csv")
    };
    assert_eq!(
        (csv.path.as_str(), csv.delimiter, csv.header),
        ("/base/d.csv", b',', true)
    );
}

fn text(data: &str) -> String {
    let model =
        "[model]\nkind = \"gpt\"\nlayers = 2\nheads = 3\nwidth = 12\n[data]\nformat = \"text\"\n";
    let train = "[train]\nsteps = 1\nglobal_batch = 1\n[train.optimizer]\nkind = \"sgd\"\n\
                 learning_rate = 0.1\n";
    format!("{model}{data}\n{train}")
}

#[test]
fn a_text_is_read_and_what_is_not_for_text_is_refused() {
    let good = "path = \"t\"\ntokeniser = \"character\"\ncontext = 8\n";
    let of = |data: &str| read(&text(data)).unwrap().data;
    let expected = TextSource {
        path: "/base/t".into(),
        tokeniser: Tokeniser::Character,
        context: 8,
        stride: 8,
    };
    assert_eq!(of(good).source, DataSource::Text(expected.clone()));
    let strided = of(&format!("{good}stride = 3\n[data.test]\npath = \"u\""));
    let strided_source = TextSource {
        stride: 3,
        ..expected
    };
    let test = TextSource {
        path: "/base/u".into(),
        ..strided_source.clone()
    };
    assert_eq!(strided.source, DataSource::Text(strided_source));
    assert_eq!(strided.test, TestData::Files(DataSource::Text(test)));
    let refused = |data: &str| message(&text(data));
    for (more, key) in [
        ("scale = \"standardize\"", "data.scale"),
        ("label = \"y\"", "data.label"),
        ("[data.test]\nfraction = 0.1\nseed = 3", "data.test.seed"),
    ] {
        let message = refused(&format!("{good}{more}"));
        assert!(
            message.contains(&format!("unknown key `{key}`")),
            "{message}"
        );
    }
    let gpt = GptSpec {
        layers: 2,
        heads: 3,
        width: 12,
        dropout: 0.0,
        attention_dropout: 0.0,
        tied_embeddings: true,
    };
    let spec = read(&text(good)).unwrap();
    assert_eq!(spec.model.architecture, Architecture::Gpt(gpt));
    for (from, to, expected) in [
        (
            "heads = 3",
            "heads = 5",
            "`model.heads` is 5: expected a divisor of model.width (12)",
        ),
        (
            "heads = 3",
            "heads = 0",
            "`model.heads` is 0: expected a divisor",
        ),
        ("layers = 2", "layers = 0", "`model.layers` is 0"),
        ("width = 12", "hidden = []", "missing key `model.width`"),
        (
            "width = 12",
            "width = 12\nactivation = \"relu\"",
            "unknown key `model.activation`",
        ),
        (
            "heads = 3",
            "heads = 3\nloss = \"mean_squared_error\"",
            "`model.loss` is",
        ),
        (
            "kind = \"gpt\"\nlayers = 2\nheads = 3\nwidth = 12",
            "kind = \"mlp\"\nhidden = []",
            "`model.kind` is \"mlp\": expected \"gpt\" or \"lstm\"",
        ),
    ] {
        let message = message(&text(good).replace(from, to));
        assert!(message.contains(expected), "{message}");
    }
    let gpt_keys = "kind = \"gpt\"\nlayers = 2\nheads = 3\nwidth = 12";
    let lstm = |keys: &str| text(good).replace(gpt_keys, &format!("kind = \"lstm\"\n{keys}"));
    let expected = LstmSpec {
        embedding: 3,
        hidden: 5,
        layers: 1,
        dropout: 0.0,
    };
    let spec = read(&lstm("embedding = 3\nhidden = 5")).unwrap();
    assert_eq!(spec.model.architecture, Architecture::Lstm(expected));
    let message_of = message(&lstm("embedding = 3\nhidden = 0"));
    assert!(message_of.contains("`model.hidden` is 0"), "{message_of}");
    let table = MINIMAL.replace(
        "kind = \"mlp\"\nhidden = [8]",
        "kind = \"gpt\"\nlayers = 1\nheads = 1\nwidth = 1",
    );
    let message = message(&table);
    assert!(
        message.contains("`model.kind` is \"gpt\": expected a model of numbers"),
        "{message}"
    );
    let zero = refused(&good.replace("context = 8", "context = 0"));
    assert!(zero.contains("`data.context` is 0: expected"), "{zero}");
    let long = refused(&format!("{good}stride = 65537"));
    assert!(long.contains("`data.stride` is 65537"), "{long}");
    let missing = refused(&good.replace("context = 8", ""));
    assert!(missing.contains("missing key `data.context`"), "{missing}");
    let word = refused(&good.replace("character", "word"));
    assert!(
        word.contains("expected \"byte\" or \"character\""),
        "{word}"
    );
}

#[test]
fn every_key_is_read() {
    let spec = read(
        r#"
name = "digits"
[model]
kind = "mlp"
hidden = [128, 64]
activation = "tanh"
dropout = 0.1
initialiser = "glorot_normal"
loss = "cross_entropy"
[data]
format = "csv"
path = "/abs/d.csv.gz"
label = 64
header = false
delimiter = "\t"
scale = { divide = 16 }
[data.test]
fraction = 0.2
seed = 3
[train]
epochs = 30
global_batch = 64
seed = 18446744073709551615
last_batch = "drop"
clip_norm = 1
l2 = 1e-4
evaluate_epochs = 1
report_steps = 5
check_steps = 0
[train.optimizer]
kind = "adamw"
learning_rate = 2e-3
beta1 = 0.8
beta2 = 0.99
epsilon = 1e-7
weight_decay = 0.1
[train.schedule]
kind = "cosine"
warmup_steps = 50
min_rate = 1e-5
[cluster]
workers = 2
threads = 1
device = "cpu"
overlap = "on"
bucket_mb = 0.5
tls = true
[output]
dir = "./o"
timeline = "t.json"
"#,
    )
    .unwrap();
    let Architecture::Mlp(mlp) = &spec.model.architecture else {
        panic!("mlp")
    };
    assert_eq!(
        (mlp.hidden.as_slice(), mlp.dropout),
        ([128, 64].as_slice(), 0.1)
    );
    let DataSource::Csv(csv) = &spec.data.source else {
        panic!("csv")
    };
    assert_eq!((csv.path.as_str(), csv.delimiter), ("/abs/d.csv.gz", b'\t'));
    assert_eq!(csv.label, ColumnRef::Index(64));
    assert_eq!(spec.data.scale, Scale::Divide(16.0));
    assert_eq!(
        spec.data.test,
        TestData::Fraction {
            fraction: 0.2,
            seed: 3
        }
    );
    assert_eq!(spec.train.seed, u64::MAX);
    assert_eq!(spec.train.clip_norm, Some(1.0));
    assert_eq!(
        spec.train.evaluate,
        EvaluateEvery::Period(Period::Epochs(1))
    );
    assert!(matches!(spec.train.optimizer, OptimizerSpec::AdamW(adam) if adam.beta1 == 0.8));
    assert_eq!(spec.train.schedule.decay, Decay::Cosine { min_rate: 1e-5 });
    assert_eq!(spec.cluster.overlap, Overlap::On);
    assert_eq!(spec.cluster.bucket_bytes, 1 << 19);
    assert!(spec.cluster.tls);
    assert_eq!(spec.output.dir, "/base/o");
    assert_eq!(spec.output.timeline.as_deref(), Some("/base/t.json"));
}

#[test]
fn tables_are_read() {
    let of = |data: &str| {
        let csv = "format = \"csv\"\npath = \"d.csv\"\nlabel = \"y\"";
        read(&MINIMAL.replace(csv, data))
    };
    for format in TableFormat::ALL {
        let name = format.name();
        let data = format!("format = \"{name}\"\npath = \"d\"\nlabel = 2\n");
        let spec = of(&format!("{data}[data.test]\npath = \"t\"")).unwrap();
        let table = |path: &str| {
            DataSource::Table(TableSource {
                format,
                path: path.to_owned(),
                label: ColumnRef::Index(2),
            })
        };
        assert_eq!(spec.data.source, table("/base/d"));
        assert_eq!(spec.data.test, TestData::Files(table("/base/t")));
        let error = of(&format!("{data}header = true")).unwrap_err();
        assert!(error.to_string().contains("header"), "{error}");
    }
    let tsv = of("format = \"tsv\"\npath = \"d\"\nlabel = \"y\"").unwrap();
    assert!(matches!(&tsv.data.source, DataSource::Csv(csv) if csv.delimiter == b'\t'));
    let error = of("format = \"tsv\"\npath = \"d\"\nlabel = \"y\"\ndelimiter = \",\"");
    assert!(error.unwrap_err().to_string().contains("delimiter"));
}

#[test]
fn idx_files_and_step_schedules_are_read() {
    let text = MINIMAL
        .replace(
            "format = \"csv\"\npath = \"d.csv\"\nlabel = \"y\"",
            "format = \"idx\"\nimages = \"i\"\nlabels = \"l\"\nscale = \"standardize\"\n\
             [data.test]\nimages = \"ti\"\nlabels = \"tl\"",
        )
        .replace("epochs = 2", "steps = 9\nevaluate_steps = 3")
        + "[train.schedule]\nkind = \"step\"\nevery_steps = 4\ngamma = 0.5\n";
    let spec = read(&text).unwrap();
    assert!(
        matches!(&spec.data.test, TestData::Files(DataSource::Idx(idx)) if idx.images == "/base/ti")
    );
    assert_eq!(spec.train.duration, TrainDuration::Steps(9));
    assert_eq!(
        spec.train.schedule.decay,
        Decay::Step {
            every: Period::Steps(4),
            gamma: 0.5
        }
    );
}

#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let cases = [
        // (from, to, message)
        (
            "epochs = 2",
            "epoch = 2",
            "dir/job.toml:12:1: unknown key `train.epoch` (did you mean `epochs`?)",
        ),
        (
            "global_batch = 4",
            "global_batch = 4\nlast_bach = \"keep\"",
            "dir/job.toml:14:1: unknown key `train.last_bach` (did you mean `last_batch`?); expected one of: accumulate, check_steps,",
        ),
        (
            "epochs = 2",
            "epochs = \"2\"",
            "dir/job.toml:12:1: `train.epochs` is the string \"2\": expected a whole number from 0 to",
        ),
        (
            "epochs = 2",
            "epochs = 2.5",
            "`train.epochs` is the number 2.5: expected a whole number",
        ),
        (
            "epochs = 2",
            "epochs = -2",
            "`train.epochs` is -2: expected a whole number",
        ),
        (
            "epochs = 2",
            "epochs = 0",
            "dir/job.toml:12:1: `train.epochs` is 0: expected a whole number from 1 to",
        ),
        (
            "epochs = 2",
            "epochs = 2\nsteps = 4",
            "dir/job.toml:13:1: `train.epochs` and `train.steps` exclude each other",
        ),
        (
            "global_batch = 4",
            "global_batch = 0",
            "dir/job.toml:13:1: `train.global_batch` is 0: expected a whole number from 1 to",
        ),
        (
            "hidden = [8]",
            "hidden = 8",
            "dir/job.toml:4:1: `model.hidden` is the number 8: expected a list of widths",
        ),
        (
            "hidden = [8]",
            "hidden = [8, \"x\"]",
            "`model.hidden` is the string \"x\": expected a whole number",
        ),
        (
            "hidden = [8]",
            "hidden = [8]\ndropout = 1.0",
            "dir/job.toml:5:1: `model.dropout` is 1: expected a number from 0 up to, but not, 1",
        ),
        (
            "kind = \"mlp\"",
            "kind = \"mpl\"",
            "dir/job.toml:3:1: `model.kind` is the string \"mpl\": expected \"mlp\" or",
        ),
        (
            "kind = \"sgd\"",
            "kind = \"sgdd\"",
            "dir/job.toml:16:1: `train.optimizer.kind` is the string \"sgdd\": expected \"sgd\" or \"rmsprop\" or \"adagrad\" or \"adam\" or \"adamw\" or \"lamb\" or \"lion\" or \"barzilai_borwein\"",
        ),
        (
            "learning_rate = 0.1",
            "",
            "dir/job.toml:15:8: missing key `train.optimizer.learning_rate`: expected a number",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = nan",
            "`train.optimizer.learning_rate` is NaN: expected a finite number above 0",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\nnesterov = true",
            "dir/job.toml:18:1: `train.optimizer.nesterov` is true",
        ),
        (
            "label = \"y\"",
            "label = -1",
            "dir/job.toml:9:1: `data.label` is -1: expected the label's column",
        ),
        (
            "label = \"y\"",
            "label = \"y\"\nheader = false",
            "`data.label` is a name: expected a column number from 0",
        ),
        (
            "label = \"y\"",
            "label = \"y\"\nscale = \"log\"",
            "`data.scale` is the string \"log\": expected \"none\"",
        ),
        (
            "label = \"y\"",
            "label = \"y\"\nscale = { divide = 0 }",
            "dir/job.toml:10:11: `data.scale.divide` is 0: expected a finite number other than 0, \
             whose inverse a 32-bit float can hold",
        ),
        (
            "label = \"y\"",
            "label = \"y\"\ndelimiter = \"ab\"",
            "`data.delimiter` is the string \"ab\": expected one ASCII character",
        ),
        (
            "label = \"y\"",
            "label = \"y\"\n[data.test]\nfraction = 2",
            "`data.test.fraction` is 2: expected a number between 0 and 1",
        ),
        (
            "[data]",
            "[date]",
            "dir/job.toml:6:2: unknown key `date` (did you mean `data`?)",
        ),
        ("[data]", "[data", "dir/job.toml:6:"),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\nworkers = 5",
            "dir/job.toml:19:1: `cluster.workers` is 5: expected at most train.global_batch (4)",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\ndevice = \"cuda\"",
            "`cluster.device` is the string \"cuda\": expected \"auto\" or \"cpu\"",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"zip\"",
            "dir/job.toml:19:1: `cluster.compression.kind` is the string \"zip\": expected \"bf16\"",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"f16\"\nrank = 2",
            "dir/job.toml:20:1: unknown key `cluster.compression.rank`",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"topk\"\nfraction = 0",
            "`cluster.compression.fraction` is 0: expected a number above 0, up to 1",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"int8\"\nblock = 4",
            "`cluster.compression.block` is 4: expected a whole number from 8 to 65536",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"powersgd\"\nrank = 65",
            "`cluster.compression.rank` is 65: expected a whole number from 1 to 64",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster.compression]\nkind = \"bf16\"\nstart_step = 0",
            "`cluster.compression.start_step` is 0: expected a whole number from 1 to",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\nmode = \"reproducible\"\n[cluster.compression]\n\
             kind = \"powersgd\"",
            "`cluster.compression.kind` is \"powersgd\": expected \"bf16\" or \"f16\" with \
             cluster.mode \"reproducible\"",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\nbucket_mb = 0",
            "dir/job.toml:19:1: `cluster.bucket_mb` is 0: expected more than 0 and at most 1024",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\nbucket_mb = 1024.5",
            "`cluster.bucket_mb` is 1024.5: expected more than 0 and at most 1024",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[cluster]\noverlap = true",
            "`cluster.overlap` is true: expected \"auto\" or \"on\" or \"off\"",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(MINIMAL.contains(from), "{from}");
        let got = message(&MINIMAL.replacen(from, to, 1));
        assert!(
            got.contains(expected),
            "{to}:\n got      {got}\n expected {expected}"
        );
    }
}

#[test]
fn syntax_errors_name_the_line() {
    let got = message("a = 1\nb = = 2\n");
    assert!(got.starts_with("dir/job.toml:2:"), "{got}");
    assert!(got.contains("not valid TOML"), "{got}");
}

#[test]
fn a_huge_file_is_refused() {
    let got = message(&"#".repeat(JOB_FILE_BYTES_MAX + 1));
    assert!(got.contains("a job file has at most"), "{got}");
}

#[test]
fn gradients_are_compressed_as_the_file_says() {
    let compression = |lines: &str| {
        let text = format!("{MINIMAL}\n[cluster.compression]\n{lines}");
        let spec = parse(&text, "job.toml", "/base", &[]).unwrap();
        spec.cluster.compression.unwrap()
    };
    for (lines, method) in [
        ("kind = \"bf16\"", CompressionMethod::Bf16),
        ("kind = \"f16\"", CompressionMethod::F16),
        ("kind = \"int8\"", CompressionMethod::Int8 { block: 256 }),
        (
            "kind = \"int8\"\nblock = 64",
            CompressionMethod::Int8 { block: 64 },
        ),
        (
            "kind = \"topk\"",
            CompressionMethod::TopK { fraction: 0.01 },
        ),
        (
            "kind = \"topk\"\nfraction = 0.5",
            CompressionMethod::TopK { fraction: 0.5 },
        ),
        (
            "kind = \"powersgd\"",
            CompressionMethod::PowerSgd { rank: 4 },
        ),
        (
            "kind = \"powersgd\"\nrank = 1",
            CompressionMethod::PowerSgd { rank: 1 },
        ),
    ] {
        let got = compression(lines);
        assert_eq!((got.method, got.start_step), (method, 1), "{lines}");
    }
    assert_eq!(compression("kind = \"bf16\"\nstart_step = 7").start_step, 7);
    let plain = parse(MINIMAL, "job.toml", "/base", &[]).unwrap();
    assert_eq!(plain.cluster.compression, None);
}

#[test]
fn overrides_win_over_the_file() {
    let overrides = [
        set("train.global_batch", "256"),
        set("train.steps", "7"),
        set("cluster.workers", "3"),
        set("output.dir", "elsewhere"),
        set("data.test", "{ fraction = 0.5 }"),
        set("model.hidden", "[4, 4]"),
    ];
    let spec = parse(MINIMAL, "job.toml", "/base", &overrides).unwrap();
    assert_eq!(spec.train.global_batch, 256);
    assert_eq!(spec.train.duration, TrainDuration::Steps(7));
    assert_eq!(spec.cluster.workers, 3);
    assert_eq!(spec.output.dir, "/base/elsewhere");
    assert_eq!(
        spec.data.test,
        TestData::Fraction {
            fraction: 0.5,
            seed: 0
        }
    );
}

#[test]
fn a_bad_override_names_the_flag() {
    let got = |key, value| {
        parse(MINIMAL, "job.toml", "/base", &[set(key, value)])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        got("train.global_batch", "many"),
        "--set train.global_batch=many: `train.global_batch` is the string \"many\": expected a \
         whole number from 0 to 4294967295"
    );
    assert!(got("train.globalbatch", "1").starts_with("--set train.globalbatch=1: unknown key"));
    assert!(got("train..x", "1").contains("a dotted key"));
    assert!(got("name.x", "1").contains("unknown key") || got("name.x", "1").contains("string"));
    assert!(got("train.epochs.x", "1").contains("a key inside a table"));
}

proptest::proptest! {
    /// Whatever the text, the parser answers.
    #[test]
    fn any_text_gets_an_answer(text in "\\PC*", value in "\\PC*") {
        let _ = parse(&text, "job.toml", "/", &[set("train.x", &value)]);
        let _ = parse(MINIMAL, "job.toml", "/", &[set("data.test", &value)]);
    }
}
