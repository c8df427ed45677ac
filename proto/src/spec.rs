//! `JobSpec` both ways. Receiving validates the whole spec.

use ringfold_common::job::{
    Architecture, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec, Device, FoldMode,
    IdxSource, JobSpec, OutputSpec, Overlap, Scale, TableFormat, TableSource, TestData, TextSource,
    Tokeniser,
};

use crate::error::{FieldError, required};
use crate::v1;

/// Pairs each variant of a common enum with its value on the wire, both ways.
macro_rules! wire_enum {
    ($common:ident, $wire:ident, $field:literal, { $($variant:ident),+ $(,)? }) => {
        impl From<$common> for v1::$wire {
            fn from(value: $common) -> Self {
                match value { $($common::$variant => Self::$variant),+ }
            }
        }

        impl TryFrom<v1::$wire> for $common {
            type Error = FieldError;

            fn try_from(value: v1::$wire) -> Result<Self, FieldError> {
                match value {
                    $(v1::$wire::$variant => Ok(Self::$variant),)+
                    v1::$wire::Unspecified => Err(FieldError::new(
                        $field,
                        concat!("one of", $(" ", stringify!($variant)),+),
                        "an unknown or unspecified value",
                    )),
                }
            }
        }
    };
}

mod compression;
mod model;
mod optimizer;
mod schedule;
mod train;

wire_enum!(Tokeniser, Tokeniser, "spec.data.source.text.tokeniser", { Byte, Character });
wire_enum!(TableFormat, TableFormat, "spec.data.source.table.format", { Jsonl, Parquet, Arrow });
wire_enum!(Device, Device, "spec.cluster.device", { Auto, Cpu });
wire_enum!(Overlap, Overlap, "spec.cluster.overlap", { Auto, On, Off });
wire_enum!(FoldMode, FoldMode, "spec.cluster.mode", { Auto, Fast, Reproducible });

impl From<&JobSpec> for v1::JobSpec {
    fn from(spec: &JobSpec) -> Self {
        Self {
            name: spec.name.clone(),
            model: Some((&spec.model).into()),
            data: Some((&spec.data).into()),
            train: Some((&spec.train).into()),
            cluster: Some(v1::ClusterSpec {
                workers: spec.cluster.workers,
                threads: spec.cluster.threads,
                replicas: spec.cluster.replicas,
                mode: v1::FoldMode::from(spec.cluster.mode).into(),
                device: v1::Device::from(spec.cluster.device).into(),
                overlap: v1::Overlap::from(spec.cluster.overlap).into(),
                bucket_bytes: spec.cluster.bucket_bytes,
                compression: spec.cluster.compression.map(Into::into),
                min_workers: spec.cluster.min_workers,
                restarts_max: Some(spec.cluster.restarts_max),
                tls: spec.cluster.tls,
            }),
            output: Some(v1::OutputSpec {
                dir: spec.output.dir.clone(),
                timeline: spec.output.timeline.clone(),
            }),
        }
    }
}

impl TryFrom<v1::JobSpec> for JobSpec {
    type Error = FieldError;

    fn try_from(spec: v1::JobSpec) -> Result<Self, FieldError> {
        let cluster = required(spec.cluster, "spec.cluster")?;
        let output = required(spec.output, "spec.output")?;
        let spec = Self {
            name: spec.name,
            model: required(spec.model, "spec.model")?.try_into()?,
            data: required(spec.data, "spec.data")?.try_into()?,
            train: required(spec.train, "spec.train")?.try_into()?,
            cluster: ClusterSpec {
                workers: cluster.workers,
                min_workers: match cluster.min_workers {
                    0 => ClusterSpec::min_workers_default(),
                    workers => workers,
                },
                restarts_max: cluster.restarts_max.unwrap_or(ClusterSpec::RESTARTS_MAX),
                replicas: match cluster.replicas {
                    0 => cluster.workers,
                    replicas => replicas,
                },
                mode: match cluster.mode() {
                    v1::FoldMode::Unspecified => FoldMode::Auto,
                    mode => mode.try_into()?,
                },
                threads: cluster.threads,
                device: cluster.device().try_into()?,
                overlap: match cluster.overlap() {
                    v1::Overlap::Unspecified => Overlap::Auto,
                    overlap => overlap.try_into()?,
                },
                bucket_bytes: cluster.bucket_bytes,
                compression: cluster.compression.map(TryInto::try_into).transpose()?,
                tls: cluster.tls,
            },
            output: OutputSpec {
                dir: output.dir,
                timeline: output.timeline,
            },
        };
        spec.validate()?;
        require_absolute_paths(&spec)?;
        Ok(spec)
    }
}

/// On the wire every path is absolute: the receiver has another working directory.
fn require_absolute_paths(spec: &JobSpec) -> Result<(), FieldError> {
    let absolute = |field: &str, path: &str| {
        if path.starts_with('/') {
            return Ok(());
        }
        Err(FieldError::new(
            field,
            "an absolute path",
            format!("{path:?}"),
        ))
    };
    let source = |prefix: &str, source: &DataSource| match source {
        DataSource::Csv(csv) => absolute(&format!("{prefix}.path"), &csv.path),
        DataSource::Idx(idx) => {
            absolute(&format!("{prefix}.images"), &idx.images)?;
            absolute(&format!("{prefix}.labels"), &idx.labels)
        }
        DataSource::Text(text) => absolute(&format!("{prefix}.path"), &text.path),
        DataSource::Table(table) => absolute(&format!("{prefix}.path"), &table.path),
    };
    source("spec.data", &spec.data.source)?;
    if let TestData::Files(files) = &spec.data.test {
        source("spec.data.test", files)?;
    }
    if let Architecture::Onnx(onnx) = &spec.model.architecture {
        absolute("spec.model.onnx.file.path", &onnx.file.path)?;
    }
    if let Some(weights) = &spec.model.weights {
        absolute("spec.model.weights.path", &weights.path)?;
    }
    if let Some(timeline) = &spec.output.timeline {
        absolute("spec.output.timeline", timeline)?;
    }
    absolute("spec.output.dir", &spec.output.dir)
}

impl From<&DataSpec> for v1::DataSpec {
    fn from(data: &DataSpec) -> Self {
        use v1::scale::Kind;
        let scale = match data.scale {
            Scale::None => Kind::None(v1::Unit {}),
            Scale::Divide(divisor) => Kind::Divide(divisor),
            Scale::Standardize => Kind::Standardize(v1::Unit {}),
            Scale::MinMax => Kind::MinMax(v1::Unit {}),
        };
        let test = match &data.test {
            TestData::None => None,
            TestData::Fraction { fraction, seed } => {
                Some(v1::test_data::Kind::Fraction(v1::TestFraction {
                    fraction: *fraction,
                    seed: *seed,
                }))
            }
            TestData::Files(files) => Some(v1::test_data::Kind::Files(files.into())),
        };
        Self {
            source: Some((&data.source).into()),
            scale: Some(v1::Scale { kind: Some(scale) }),
            test: test.map(|kind| v1::TestData { kind: Some(kind) }),
        }
    }
}

impl TryFrom<v1::DataSpec> for DataSpec {
    type Error = FieldError;

    fn try_from(data: v1::DataSpec) -> Result<Self, FieldError> {
        use v1::scale::Kind;
        let scale = required(data.scale, "spec.data.scale")?;
        let scale = match required(scale.kind, "spec.data.scale.kind")? {
            Kind::None(_) => Scale::None,
            Kind::Divide(divisor) => Scale::Divide(divisor),
            Kind::Standardize(_) => Scale::Standardize,
            Kind::MinMax(_) => Scale::MinMax,
        };
        let test = match data.test {
            None => TestData::None,
            Some(test) => match required(test.kind, "spec.data.test.kind")? {
                v1::test_data::Kind::Fraction(part) => TestData::Fraction {
                    fraction: part.fraction,
                    seed: part.seed,
                },
                v1::test_data::Kind::Files(files) => {
                    TestData::Files(source_from_wire(files, "spec.data.test.files")?)
                }
            },
        };
        let source = source_from_wire(
            required(data.source, "spec.data.source")?,
            "spec.data.source",
        )?;
        Ok(Self {
            source,
            scale,
            test,
        })
    }
}

impl From<&DataSource> for v1::DataSource {
    fn from(source: &DataSource) -> Self {
        let format = match source {
            DataSource::Csv(csv) => v1::data_source::Format::Csv(v1::CsvSource {
                path: csv.path.clone(),
                label: Some(match &csv.label {
                    ColumnRef::Name(name) => v1::csv_source::Label::LabelName(name.clone()),
                    ColumnRef::Index(index) => v1::csv_source::Label::LabelIndex(*index),
                }),
                header: csv.header,
                delimiter: csv.delimiter.into(),
            }),
            DataSource::Idx(idx) => v1::data_source::Format::Idx(v1::IdxSource {
                images: idx.images.clone(),
                labels: idx.labels.clone(),
            }),
            DataSource::Text(text) => v1::data_source::Format::Text(v1::TextSource {
                path: text.path.clone(),
                tokeniser: v1::Tokeniser::from(text.tokeniser).into(),
                context: text.context,
                stride: text.stride,
            }),
            DataSource::Table(table) => v1::data_source::Format::Table(v1::TableSource {
                format: v1::TableFormat::from(table.format).into(),
                path: table.path.clone(),
                label: Some(match &table.label {
                    ColumnRef::Name(name) => v1::table_source::Label::LabelName(name.clone()),
                    ColumnRef::Index(index) => v1::table_source::Label::LabelIndex(*index),
                }),
            }),
        };
        Self {
            format: Some(format),
        }
    }
}

fn source_from_wire(source: v1::DataSource, field: &str) -> Result<DataSource, FieldError> {
    match required(source.format, &format!("{field}.format"))? {
        v1::data_source::Format::Csv(csv) => {
            let label = required(csv.label, &format!("{field}.csv.label"))?;
            let delimiter = if csv.delimiter == 0 {
                u32::from(b',')
            } else {
                csv.delimiter
            };
            Ok(DataSource::Csv(CsvSource {
                path: csv.path,
                label: match label {
                    v1::csv_source::Label::LabelName(name) => ColumnRef::Name(name),
                    v1::csv_source::Label::LabelIndex(index) => ColumnRef::Index(index),
                },
                header: csv.header,
                delimiter: u8::try_from(delimiter).map_err(|_| {
                    FieldError::new(
                        &format!("{field}.csv.delimiter"),
                        "an ASCII code",
                        csv.delimiter,
                    )
                })?,
            }))
        }
        v1::data_source::Format::Idx(idx) => Ok(DataSource::Idx(IdxSource {
            images: idx.images,
            labels: idx.labels,
        })),
        v1::data_source::Format::Text(text) => Ok(DataSource::Text(TextSource {
            tokeniser: text.tokeniser().try_into()?,
            path: text.path,
            context: text.context,
            stride: if text.stride == 0 {
                text.context
            } else {
                text.stride
            },
        })),
        v1::data_source::Format::Table(table) => Ok(DataSource::Table(TableSource {
            format: table.format().try_into()?,
            label: match required(table.label, &format!("{field}.table.label"))? {
                v1::table_source::Label::LabelName(name) => ColumnRef::Name(name),
                v1::table_source::Label::LabelIndex(index) => ColumnRef::Index(index),
            },
            path: table.path,
        })),
    }
}

#[cfg(test)]
mod tests;
