//! The tables of a job file, one function each.

use super::document::{Item, Located, Value};
use super::reader::Reader;
use crate::job::{
    Activation, AdamOptions, Architecture, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec,
    Decay, Device, EvaluateEvery, IdxSource, Initialiser, JobSpec, LastBatch, Loss, MlpSpec,
    ModelSpec, OptimizerSpec, OutputSpec, Period, Scale, ScheduleSpec, SgdOptions, TestData,
    TrainDuration, TrainSpec,
};

const ACTIVATIONS: [(&str, Activation); 4] = [
    ("relu", Activation::Relu),
    ("gelu", Activation::Gelu),
    ("tanh", Activation::Tanh),
    ("sigmoid", Activation::Sigmoid),
];

const INITIALISERS: [(&str, Initialiser); 5] = [
    ("he_normal", Initialiser::HeNormal),
    ("he_uniform", Initialiser::HeUniform),
    ("glorot_normal", Initialiser::GlorotNormal),
    ("glorot_uniform", Initialiser::GlorotUniform),
    ("fan_in_uniform", Initialiser::FanInUniform),
];

const LOSSES: [(&str, Loss); 2] = [
    ("cross_entropy", Loss::CrossEntropy),
    ("mean_squared_error", Loss::MeanSquaredError),
];

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Csv,
    Idx,
}

const FORMATS: [(&str, Format); 2] = [("csv", Format::Csv), ("idx", Format::Idx)];

pub(super) fn job(root: &Item, default_name: &str) -> Result<JobSpec, Located> {
    let root = Reader::new(root, "")?;
    let name = root
        .optional_string("name", "a string")?
        .unwrap_or_else(|| default_name.to_owned());
    let spec = JobSpec {
        name,
        model: model(root.table("model")?)?,
        data: data(root.table("data")?)?,
        train: train(root.table("train")?)?,
        cluster: cluster(root.optional_table("cluster")?)?,
        output: output(root.optional_table("output")?)?,
    };
    root.finish()?;
    Ok(spec)
}

fn model(table: Reader<'_>) -> Result<ModelSpec, Located> {
    table.choice("kind", &[("mlp", ())])?;
    let mlp = MlpSpec {
        hidden: table.whole_u32_list("hidden", "a list of widths such as [128, 64]")?,
        activation: table.choice_or("activation", &ACTIVATIONS, Activation::Relu)?,
        dropout: table.number_or("dropout", 0.0)?,
        initialiser: table.choice_or("initialiser", &INITIALISERS, Initialiser::HeUniform)?,
    };
    let loss = table.choice_or("loss", &LOSSES, Loss::CrossEntropy)?;
    table.finish()?;
    Ok(ModelSpec {
        architecture: Architecture::Mlp(mlp),
        loss,
    })
}

fn data(table: Reader<'_>) -> Result<DataSpec, Located> {
    let source = match table.choice("format", &FORMATS)? {
        Format::Csv => DataSource::Csv(CsvSource {
            path: table.string("path", "the path of a CSV file")?,
            label: label(&table)?,
            header: table.boolean_or("header", true)?,
            delimiter: delimiter(&table)?,
        }),
        Format::Idx => DataSource::Idx(IdxSource {
            images: table.string("images", "the path of an IDX file")?,
            labels: table.string("labels", "the path of an IDX file")?,
        }),
    };
    let spec = DataSpec {
        scale: scale(&table)?,
        test: match table.optional_table("test")? {
            None => TestData::None,
            Some(test) => test_data(test, &source)?,
        },
        source,
    };
    table.finish()?;
    Ok(spec)
}

fn label(table: &Reader<'_>) -> Result<ColumnRef, Located> {
    let expected = "the label's column: a name, or a number from 0";
    let item = table.required("label", expected)?;
    match &item.value {
        Value::String(name) => Ok(ColumnRef::Name(name.clone())),
        Value::Integer(index) => u32::try_from(*index)
            .map(ColumnRef::Index)
            .map_err(|_| table.bad(item, "label", expected, index.to_string())),
        other => Err(table.bad(item, "label", expected, other.describe())),
    }
}

fn delimiter(table: &Reader<'_>) -> Result<u8, Located> {
    let expected = "one ASCII character";
    let Some(item) = table.get("delimiter") else {
        return Ok(b',');
    };
    match &item.value {
        Value::String(text) if text.len() == 1 => Ok(text.as_bytes()[0]),
        other => Err(table.bad(item, "delimiter", expected, other.describe())),
    }
}

fn scale(table: &Reader<'_>) -> Result<Scale, Located> {
    let Some(item) = table.get("scale") else {
        return Ok(Scale::None);
    };
    if let Value::Table(_) = item.value {
        let divide = Reader::new(item, "data.scale")?;
        let scale = Scale::Divide(divide.number("divide")?);
        divide.finish()?;
        return Ok(scale);
    }
    match &item.value {
        Value::String(text) if text == "none" => Ok(Scale::None),
        Value::String(text) if text == "standardize" => Ok(Scale::Standardize),
        Value::String(text) if text == "min_max" => Ok(Scale::MinMax),
        other => Err(table.bad(
            item,
            "scale",
            "\"none\" or \"standardize\" or \"min_max\" or { divide = NUMBER }",
            other.describe(),
        )),
    }
}

fn test_data(table: Reader<'_>, source: &DataSource) -> Result<TestData, Located> {
    let files_key = if matches!(source, DataSource::Csv(_)) {
        "path"
    } else {
        "images"
    };
    table.exclusive("fraction", files_key)?;
    let test = if let Some(fraction) = table.optional_number("fraction")? {
        TestData::Fraction {
            fraction,
            seed: table.whole_or("seed", 0)?,
        }
    } else {
        match source {
            DataSource::Csv(csv) => TestData::Files(DataSource::Csv(CsvSource {
                path: table.string("path", "the path of a CSV file, or `fraction`")?,
                ..csv.clone()
            })),
            DataSource::Idx(_) => TestData::Files(DataSource::Idx(IdxSource {
                images: table.string("images", "the path of an IDX file, or `fraction`")?,
                labels: table.string("labels", "the path of an IDX file")?,
            })),
        }
    };
    table.finish()?;
    Ok(test)
}

fn train(table: Reader<'_>) -> Result<TrainSpec, Located> {
    table.exclusive("epochs", "steps")?;
    let duration = match (table.whole("epochs")?, table.whole("steps")?) {
        (Some(epochs), _) => TrainDuration::Epochs(epochs),
        (None, Some(steps)) => TrainDuration::Steps(steps),
        (None, None) => {
            return Err(table.missing("epochs", "a whole number, or `train.steps`"));
        }
    };
    let expected_batch = "a whole number: the samples of one step over all workers";
    let spec = TrainSpec {
        duration,
        global_batch: table
            .whole_u32("global_batch")?
            .ok_or_else(|| table.missing("global_batch", expected_batch))?,
        last_batch: table.choice_or(
            "last_batch",
            &[("keep", LastBatch::Keep), ("drop", LastBatch::Drop)],
            LastBatch::Keep,
        )?,
        seed: table.whole_or("seed", 0)?,
        optimizer: optimizer(table.table("optimizer")?)?,
        schedule: match table.optional_table("schedule")? {
            None => ScheduleSpec {
                warmup_steps: 0,
                decay: Decay::Constant,
            },
            Some(schedule_table) => schedule(schedule_table)?,
        },
        clip_norm: table.optional_number("clip_norm")?,
        l2: table.number_or("l2", 0.0)?,
        evaluate: period(&table, "evaluate_epochs", "evaluate_steps")?
            .map_or(EvaluateEvery::End, EvaluateEvery::Period),
        report_steps: table.whole_or("report_steps", 20)?,
        check_steps: table.whole_or("check_steps", 100)?,
    };
    table.finish()?;
    Ok(spec)
}

fn period(
    table: &Reader<'_>,
    epochs_key: &'static str,
    steps_key: &'static str,
) -> Result<Option<Period>, Located> {
    table.exclusive(epochs_key, steps_key)?;
    let epochs = table.whole(epochs_key)?.map(Period::Epochs);
    let steps = table.whole(steps_key)?.map(Period::Steps);
    Ok(epochs.or(steps))
}

#[derive(Clone, Copy)]
enum OptimizerKind {
    Sgd,
    Adam,
    AdamW,
}

fn optimizer(table: Reader<'_>) -> Result<OptimizerSpec, Located> {
    let kinds = [
        ("sgd", OptimizerKind::Sgd),
        ("adam", OptimizerKind::Adam),
        ("adamw", OptimizerKind::AdamW),
    ];
    let adam = |weight_decay: f64| -> Result<AdamOptions, Located> {
        Ok(AdamOptions {
            learning_rate: table.number("learning_rate")?,
            beta1: table.number_or("beta1", 0.9)?,
            beta2: table.number_or("beta2", 0.999)?,
            epsilon: table.number_or("epsilon", 1e-8)?,
            weight_decay: table.number_or("weight_decay", weight_decay)?,
        })
    };
    let optimizer = match table.choice("kind", &kinds)? {
        OptimizerKind::Sgd => OptimizerSpec::Sgd(SgdOptions {
            learning_rate: table.number("learning_rate")?,
            momentum: table.number_or("momentum", 0.0)?,
            nesterov: table.boolean_or("nesterov", false)?,
            weight_decay: table.number_or("weight_decay", 0.0)?,
        }),
        OptimizerKind::Adam => OptimizerSpec::Adam(adam(0.0)?),
        OptimizerKind::AdamW => OptimizerSpec::AdamW(adam(0.01)?),
    };
    table.finish()?;
    Ok(optimizer)
}

#[derive(Clone, Copy)]
enum ScheduleKind {
    Constant,
    Step,
    Cosine,
}

fn schedule(table: Reader<'_>) -> Result<ScheduleSpec, Located> {
    let kinds = [
        ("constant", ScheduleKind::Constant),
        ("step", ScheduleKind::Step),
        ("cosine", ScheduleKind::Cosine),
    ];
    let decay = match table.choice_or("kind", &kinds, ScheduleKind::Constant)? {
        ScheduleKind::Constant => Decay::Constant,
        ScheduleKind::Step => Decay::Step {
            every: period(&table, "every_epochs", "every_steps")?
                .ok_or_else(|| table.missing("every_epochs", "a whole number, or `every_steps`"))?,
            gamma: table.number("gamma")?,
        },
        ScheduleKind::Cosine => Decay::Cosine {
            min_rate: table.number_or("min_rate", 0.0)?,
        },
    };
    let spec = ScheduleSpec {
        warmup_steps: table.whole_or("warmup_steps", 0)?,
        decay,
    };
    table.finish()?;
    Ok(spec)
}

fn cluster(table: Option<Reader<'_>>) -> Result<ClusterSpec, Located> {
    let mut spec = ClusterSpec {
        workers: 1,
        threads: 0,
        device: Device::Auto,
    };
    if let Some(table) = table {
        spec.workers = table.whole_u32("workers")?.unwrap_or(1);
        spec.threads = table.whole_u32("threads")?.unwrap_or(0);
        let devices = [("auto", Device::Auto), ("cpu", Device::Cpu)];
        spec.device = table.choice_or("device", &devices, Device::Auto)?;
        table.finish()?;
    }
    Ok(spec)
}

fn output(table: Option<Reader<'_>>) -> Result<OutputSpec, Located> {
    let mut dir = "out".to_owned();
    if let Some(table) = table {
        dir = table
            .optional_string("dir", "the path of a directory")?
            .unwrap_or(dir);
        table.finish()?;
    }
    Ok(OutputSpec { dir })
}

/// Makes every path of a spec absolute.
pub(super) fn resolve_paths(spec: &mut JobSpec, base_dir: &str) {
    resolve_source(&mut spec.data.source, base_dir);
    if let TestData::Files(files) = &mut spec.data.test {
        resolve_source(files, base_dir);
    }
    resolve(&mut spec.output.dir, base_dir);
}

fn resolve_source(source: &mut DataSource, base_dir: &str) {
    match source {
        DataSource::Csv(csv) => resolve(&mut csv.path, base_dir),
        DataSource::Idx(idx) => {
            resolve(&mut idx.images, base_dir);
            resolve(&mut idx.labels, base_dir);
        }
    }
}

fn resolve(path: &mut String, base_dir: &str) {
    if !path.starts_with('/') {
        let relative = path.strip_prefix("./").unwrap_or(path);
        *path = format!("{}/{relative}", base_dir.trim_end_matches('/'));
    }
}
