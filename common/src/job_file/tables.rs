//! The tables of a job file, one function each.

mod model;
mod train;

use self::model::required_u32;
use super::document::{Item, Located, Value};
use super::reader::Reader;
use crate::job::{
    Architecture, ClusterSpec, ColumnRef, CompressionMethod, CompressionSpec, CsvSource,
    DataSource, DataSpec, Device, FoldMode, IdxSource, JobSpec, OutputSpec, Overlap, Scale,
    TableFormat, TableSource, TestData, TextSource, Tokeniser, limits,
};

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Csv,
    Tsv,
    Table(TableFormat),
    Idx,
    Text,
}

const FORMATS: [(&str, Format); 7] = [
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("jsonl", Format::Table(TableFormat::Jsonl)),
    ("parquet", Format::Table(TableFormat::Parquet)),
    ("arrow", Format::Table(TableFormat::Arrow)),
    ("idx", Format::Idx),
    ("text", Format::Text),
];

const TOKENISERS: [(&str, Tokeniser); 2] = [
    ("byte", Tokeniser::Byte),
    ("character", Tokeniser::Character),
];

pub(super) fn job(root: &Item, default_name: &str) -> Result<JobSpec, Located> {
    let root = Reader::new(root, "")?;
    let name = root
        .optional_string("name", "a string")?
        .unwrap_or_else(|| default_name.to_owned());
    let spec = JobSpec {
        name,
        model: model::model(root.table("model")?)?,
        data: data(root.table("data")?)?,
        train: train::train(root.table("train")?)?,
        cluster: cluster(root.optional_table("cluster")?)?,
        output: output(root.optional_table("output")?)?,
    };
    root.finish()?;
    Ok(spec)
}

fn data(table: Reader<'_>) -> Result<DataSpec, Located> {
    let source = match table.choice("format", &FORMATS)? {
        format @ (Format::Csv | Format::Tsv) => DataSource::Csv(CsvSource {
            path: table.string("path", "the path of a file with one record a line")?,
            label: label(&table)?,
            header: table.boolean_or("header", true)?,
            delimiter: match format {
                Format::Tsv => b'\t',
                _ => delimiter(&table)?,
            },
        }),
        Format::Table(format) => DataSource::Table(TableSource {
            format,
            path: table.string("path", "the path of a file of this format")?,
            label: label(&table)?,
        }),
        Format::Idx => DataSource::Idx(IdxSource {
            images: table.string("images", "the path of an IDX file")?,
            labels: table.string("labels", "the path of an IDX file")?,
        }),
        Format::Text => DataSource::Text(text(&table)?),
    };
    let spec = DataSpec {
        scale: match source {
            DataSource::Text(_) => Scale::None,
            _ => scale(&table)?,
        },
        test: match table.optional_table("test")? {
            None => TestData::None,
            Some(test) => test_data(test, &source)?,
        },
        source,
    };
    table.finish()?;
    Ok(spec)
}

fn text(table: &Reader<'_>) -> Result<TextSource, Located> {
    let context = required_u32(table, "context")?;
    Ok(TextSource {
        path: table.string("path", "the path of a text file")?,
        tokeniser: table.choice("tokeniser", &TOKENISERS)?,
        context,
        stride: table.whole_u32("stride")?.unwrap_or(context),
    })
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
    let files_key = match source {
        DataSource::Csv(_) | DataSource::Text(_) | DataSource::Table(_) => "path",
        DataSource::Idx(_) => "images",
    };
    table.exclusive("fraction", files_key)?;
    let test = if let Some(fraction) = table.optional_number("fraction")? {
        TestData::Fraction {
            fraction,
            seed: match source {
                // The last tokens are taken, not some.
                DataSource::Text(_) => 0,
                _ => table.whole_or("seed", 0)?,
            },
        }
    } else {
        match source {
            DataSource::Csv(csv) => TestData::Files(DataSource::Csv(CsvSource {
                path: table.string("path", "the path of a CSV file, or `fraction`")?,
                ..csv.clone()
            })),
            DataSource::Table(like) => TestData::Files(DataSource::Table(TableSource {
                path: table.string("path", "the path of a file of this format, or `fraction`")?,
                ..like.clone()
            })),
            DataSource::Idx(_) => TestData::Files(DataSource::Idx(IdxSource {
                images: table.string("images", "the path of an IDX file, or `fraction`")?,
                labels: table.string("labels", "the path of an IDX file")?,
            })),
            DataSource::Text(text) => TestData::Files(DataSource::Text(TextSource {
                path: table.string("path", "the path of a text file, or `fraction`")?,
                ..text.clone()
            })),
        }
    };
    table.finish()?;
    Ok(test)
}

fn cluster(table: Option<Reader<'_>>) -> Result<ClusterSpec, Located> {
    let mut spec = ClusterSpec {
        workers: 1,
        min_workers: ClusterSpec::min_workers_default(),
        restarts_max: ClusterSpec::RESTARTS_MAX,
        replicas: 1,
        mode: FoldMode::Auto,
        threads: 0,
        device: Device::Auto,
        compression: None,
        overlap: Overlap::Auto,
        bucket_bytes: 0,
        tls: false,
    };
    if let Some(table) = table {
        spec.workers = table.whole_u32("workers")?.unwrap_or(1);
        spec.min_workers = table.whole_u32("min_workers")?.unwrap_or(spec.min_workers);
        let restarts_max = table.whole_u32("restarts_max")?;
        spec.restarts_max = restarts_max.unwrap_or(spec.restarts_max);
        spec.replicas = table.whole_u32("replicas")?.unwrap_or(spec.workers);
        let modes = [
            ("auto", FoldMode::Auto),
            ("fast", FoldMode::Fast),
            ("reproducible", FoldMode::Reproducible),
        ];
        spec.mode = table.choice_or("mode", &modes, FoldMode::Auto)?;
        spec.threads = table.whole_u32("threads")?.unwrap_or(0);
        let devices = [("auto", Device::Auto), ("cpu", Device::Cpu)];
        spec.device = table.choice_or("device", &devices, Device::Auto)?;
        let compressed = table.optional_table("compression")?;
        spec.compression = compressed.map(compression).transpose()?;
        let overlaps = [
            ("auto", Overlap::Auto),
            ("on", Overlap::On),
            ("off", Overlap::Off),
        ];
        spec.overlap = table.choice_or("overlap", &overlaps, Overlap::Auto)?;
        spec.bucket_bytes = bucket_bytes(&table)?;
        spec.tls = table.boolean_or("tls", false)?;
        table.finish()?;
    }
    Ok(spec)
}

fn compression(table: Reader<'_>) -> Result<CompressionSpec, Located> {
    let kinds = [
        ("bf16", CompressionMethod::Bf16),
        ("f16", CompressionMethod::F16),
        ("int8", CompressionMethod::Int8 { block: 256 }),
        ("topk", CompressionMethod::TopK { fraction: 0.01 }),
        ("powersgd", CompressionMethod::PowerSgd { rank: 4 }),
    ];
    let mut method = table.choice("kind", &kinds)?;
    match &mut method {
        CompressionMethod::Bf16 | CompressionMethod::F16 => {}
        CompressionMethod::Int8 { block } => {
            *block = table.whole_u32("block")?.unwrap_or(*block);
        }
        CompressionMethod::TopK { fraction } => {
            *fraction = table.number_or("fraction", *fraction)?;
        }
        CompressionMethod::PowerSgd { rank } => {
            *rank = table.whole_u32("rank")?.unwrap_or(*rank);
        }
    }
    let start_step = table.whole_or("start_step", 1)?;
    table.finish()?;
    Ok(CompressionSpec { method, start_step })
}

/// `bucket_mb` in bytes; 0 if it isn't there.
fn bucket_bytes(table: &Reader<'_>) -> Result<u64, Located> {
    const KEY: &str = "bucket_mb";
    let (Some(item), Some(mebibytes)) = (table.get(KEY), table.optional_number(KEY)?) else {
        return Ok(0);
    };
    let bytes = mebibytes * f64::from(1 << 20);
    if bytes >= 1.0 && bytes <= limits::BUCKET_BYTES_MAX as f64 {
        return Ok(bytes as u64);
    }
    let expected = "more than 0 and at most 1024";
    Err(table.bad(item, KEY, expected, mebibytes.to_string()))
}

fn output(table: Option<Reader<'_>>) -> Result<OutputSpec, Located> {
    let mut output = OutputSpec {
        dir: "out".to_owned(),
        timeline: None,
    };
    if let Some(table) = table {
        let dir = table.optional_string("dir", "the path of a directory")?;
        output.dir = dir.unwrap_or(output.dir);
        output.timeline = table.optional_string("timeline", "the path of a file")?;
        table.finish()?;
    }
    Ok(output)
}

/// Makes every path of a spec absolute.
pub(super) fn resolve_paths(spec: &mut JobSpec, base_dir: &str) {
    resolve_source(&mut spec.data.source, base_dir);
    if let TestData::Files(files) = &mut spec.data.test {
        resolve_source(files, base_dir);
    }
    if let Architecture::Onnx(onnx) = &mut spec.model.architecture {
        resolve(&mut onnx.file.path, base_dir);
    }
    if let Some(weights) = &mut spec.model.weights {
        resolve(&mut weights.path, base_dir);
    }
    resolve(&mut spec.output.dir, base_dir);
    if let Some(timeline) = &mut spec.output.timeline {
        resolve(timeline, base_dir);
    }
}

fn resolve_source(source: &mut DataSource, base_dir: &str) {
    match source {
        DataSource::Csv(csv) => resolve(&mut csv.path, base_dir),
        DataSource::Idx(idx) => {
            resolve(&mut idx.images, base_dir);
            resolve(&mut idx.labels, base_dir);
        }
        DataSource::Text(text) => resolve(&mut text.path, base_dir),
        DataSource::Table(table) => resolve(&mut table.path, base_dir),
    }
}

fn resolve(path: &mut String, base_dir: &str) {
    if !path.starts_with('/') {
        let relative = path.strip_prefix("./").unwrap_or(path);
        *path = format!("{}/{relative}", base_dir.trim_end_matches('/'));
    }
}
