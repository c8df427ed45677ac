//! Values that can't be right, whatever the cluster.

mod model;
mod optimizer;
mod schedule;
mod text_model;
mod train;

use std::borrow::Cow;

use super::compression;
use super::spec::{
    ColumnRef, CsvSource, DataSource, DataSpec, JobSpec, Scale, TableSource, TestData, TextSource,
};

/// Caps on what a job may ask for. Each is far above what this version is tested at.
pub mod limits {
    /// Bytes of a job's name.
    pub const NAME_BYTES_MAX: usize = 200;
    /// Bytes of a path.
    pub const PATH_BYTES_MAX: usize = 4096;
    /// Hidden layers of a perceptron.
    pub const HIDDEN_LAYERS_MAX: usize = 64;
    /// Width of one hidden layer.
    pub const WIDTH_MAX: u32 = 1 << 16;
    /// Height or width of a kernel or window, their steps and margins.
    pub const WINDOW_MAX: u32 = 1 << 10;
    /// Blocks of a convolutional network.
    pub const BLOCKS_MAX: usize = 32;
    /// Layers of a list, those inside others included.
    pub const LAYERS_MAX: usize = 512;
    /// Lists of layers inside each other.
    pub const LAYERS_DEPTH_MAX: usize = 8;
    /// Tokens of an embedding.
    pub const VOCABULARY_MAX: u32 = 1 << 24;
    /// Weights of classes.
    pub const CLASS_WEIGHTS_MAX: usize = 1 << 16;
    /// Numbers in one record.
    pub const FEATURES_MAX: u64 = 1 << 24;
    /// Blocks or layers of a network over text.
    pub const TEXT_LAYERS_MAX: u32 = 256;
    /// Tokens of a record of text, and from one record to the next.
    pub const CONTEXT_MAX: u32 = 1 << 16;
    /// Samples of a global batch.
    pub const GLOBAL_BATCH_MAX: u32 = 1 << 20;
    /// Epochs of a job.
    pub const EPOCHS_MAX: u64 = 1 << 32;
    /// Steps of a job.
    pub const STEPS_MAX: u64 = 1 << 40;
    /// Ranks of a job.
    pub const WORKERS_MAX: u32 = 1024;
    /// Faults that a job may be told to survive.
    pub const RESTARTS_MAX: u32 = 1_000_000;
    /// Logical data-parallel workers of a job.
    pub const REPLICAS_MAX: u32 = 1 << 16;
    /// Rounds of a batch.
    pub const ACCUMULATE_MAX: u32 = 1 << 16;
    /// The largest `train.workspace_mb_max`: a terabyte.
    pub const WORKSPACE_MB_MAX: u32 = 1 << 20;
    /// Parameter groups.
    pub const GROUPS_MAX: usize = 64;
    /// Bytes of a group's pattern.
    pub const PATTERN_BYTES_MAX: usize = 200;
    /// Milestones of a schedule.
    pub const MILESTONES_MAX: usize = 1000;
    /// Patterns of weights that aren't trained.
    pub const FREEZE_MAX: usize = 64;
    /// Inputs of an ONNX file that a job feeds.
    pub const ONNX_INPUTS_MAX: usize = 64;
    /// Bytes of the name of a model's output.
    pub const OUTPUT_NAME_BYTES_MAX: usize = 1024;
    /// Threads of a rank.
    pub const THREADS_MAX: u32 = 1024;
    /// Elements that share a scale, at least.
    pub const COMPRESSION_BLOCK_MIN: u32 = 8;
    /// Elements that share a scale, at most.
    pub const COMPRESSION_BLOCK_MAX: u32 = 1 << 16;
    /// Columns of the factors of a compressed matrix.
    pub const COMPRESSION_RANK_MAX: u32 = 64;
    /// Bytes of one message of the gradient.
    pub const BUCKET_BYTES_MAX: u64 = 1 << 30;
}

/// A value that can't be right. `field` is the key of the job file, such as `train.global_batch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {got}: expected {expected}")]
pub struct SpecError {
    /// The key, with its tables.
    pub field: Cow<'static, str>,
    /// What would have been right.
    pub expected: String,
    /// What it is.
    pub got: String,
}

/// Checks one value.
pub(super) fn check(
    ok: bool,
    field: impl Into<Cow<'static, str>>,
    got: impl ToString,
    expected: impl Into<String>,
) -> Result<(), SpecError> {
    if ok {
        return Ok(());
    }
    Err(SpecError {
        field: field.into(),
        expected: expected.into(),
        got: got.to_string(),
    })
}

pub(super) fn check_count(
    field: impl Into<Cow<'static, str>>,
    got: u64,
    min: u64,
    max: u64,
) -> Result<(), SpecError> {
    check(
        (min..=max).contains(&got),
        field,
        got,
        format!("a whole number from {min} to {max}"),
    )
}

fn check_positive(field: impl Into<Cow<'static, str>>, got: f64) -> Result<(), SpecError> {
    check(
        got.is_finite() && got > 0.0,
        field,
        got,
        "a finite number above 0",
    )
}

fn check_non_negative(field: impl Into<Cow<'static, str>>, got: f64) -> Result<(), SpecError> {
    check(
        got.is_finite() && got >= 0.0,
        field,
        got,
        "a finite number, 0 or more",
    )
}

fn check_share(field: impl Into<Cow<'static, str>>, got: f64) -> Result<(), SpecError> {
    check(
        (0.0..1.0).contains(&got),
        field,
        got,
        "a number from 0 up to, but not, 1",
    )
}

fn check_path(field: &'static str, path: &str) -> Result<(), SpecError> {
    check(
        !path.is_empty() && path.len() <= limits::PATH_BYTES_MAX && !path.contains('\0'),
        field,
        format!("{:?}", path.chars().take(80).collect::<String>()),
        format!("a path of 1 to {} bytes", limits::PATH_BYTES_MAX),
    )
}

impl JobSpec {
    /// Checks every value against its range, and values against each other.
    ///
    /// # Errors
    /// The first field, in the order of the job file, whose value can't be right.
    pub fn validate(&self) -> Result<(), SpecError> {
        check(
            !self.name.trim().is_empty()
                && self.name.len() <= limits::NAME_BYTES_MAX
                && !self.name.chars().any(char::is_control),
            "name",
            format!("{:?}", self.name.chars().take(80).collect::<String>()),
            format!(
                "1 to {} bytes without control characters",
                limits::NAME_BYTES_MAX
            ),
        )?;
        model::validate(&self.model)?;
        text_model::validate_kind(&self.model.architecture, &self.data.source)?;
        validate_data(&self.data)?;
        train::validate(&self.train)?;
        check_count(
            "cluster.workers",
            self.cluster.workers.into(),
            1,
            limits::WORKERS_MAX.into(),
        )?;
        check_count(
            "cluster.min_workers",
            self.cluster.min_workers.into(),
            1,
            self.cluster.workers.into(),
        )?;
        check_count(
            "cluster.restarts_max",
            self.cluster.restarts_max.into(),
            0,
            limits::RESTARTS_MAX.into(),
        )?;
        check_count(
            "cluster.replicas",
            self.cluster.replicas.into(),
            1,
            limits::REPLICAS_MAX.into(),
        )?;
        check_count(
            "cluster.threads",
            self.cluster.threads.into(),
            0,
            limits::THREADS_MAX.into(),
        )?;
        check_count(
            "cluster.bucket_bytes",
            self.cluster.bucket_bytes,
            0,
            limits::BUCKET_BYTES_MAX,
        )?;
        check(
            self.cluster.workers <= self.train.global_batch,
            "cluster.workers",
            self.cluster.workers,
            format!(
                "at most train.global_batch ({}), so that every rank has a sample",
                self.train.global_batch
            ),
        )?;
        check(
            self.cluster.replicas >= self.cluster.workers,
            "cluster.replicas",
            self.cluster.replicas,
            format!(
                "at least cluster.workers ({}), so that every rank has one",
                self.cluster.workers
            ),
        )?;
        check(
            self.cluster.replicas <= self.train.global_batch,
            "cluster.replicas",
            self.cluster.replicas,
            format!(
                "at most train.global_batch ({}), so that every replica has a sample",
                self.train.global_batch
            ),
        )?;
        check(
            u64::from(self.train.accumulate) * u64::from(self.cluster.replicas)
                <= u64::from(self.train.global_batch),
            "train.accumulate",
            self.train.accumulate,
            format!(
                "at most train.global_batch ({}) / cluster.replicas ({}), so that every round has \
                 a sample",
                self.train.global_batch, self.cluster.replicas
            ),
        )?;
        let classes = match self.data.source {
            DataSource::Csv(_) | DataSource::Table(_) => None,
            DataSource::Idx(_) => Some("\"idx\", whose labels are classes"),
            DataSource::Text(_) => Some("\"text\", whose labels are tokens"),
        };
        if let Some(format) = classes {
            check(
                self.model.loss.takes_classes(),
                "model.loss",
                format!("{:?}", self.model.loss.name()),
                format!("\"cross_entropy\" for data.format {format}"),
            )?;
        }
        compression::validate(&self.cluster)?;
        if let Some(timeline) = &self.output.timeline {
            check_path("output.timeline", timeline)?;
        }
        check_path("output.dir", &self.output.dir)
    }
}

fn validate_data(data: &DataSpec) -> Result<(), SpecError> {
    match &data.source {
        DataSource::Csv(csv) => validate_csv("data.path", csv)?,
        DataSource::Table(table) => validate_table("data.path", table)?,
        DataSource::Idx(idx) => {
            check_path("data.images", &idx.images)?;
            check_path("data.labels", &idx.labels)?;
        }
        DataSource::Text(text) => {
            validate_text("data.path", text)?;
            check(
                data.scale == Scale::None,
                "data.scale",
                "a way to scale",
                "\"none\" for data.format \"text\", whose tokens are no quantities",
            )?;
        }
    }
    if let Scale::Divide(divisor) = data.scale {
        let factor = (1.0 / divisor) as f32;
        check(
            divisor.is_finite() && factor.is_finite() && factor != 0.0,
            "data.scale.divide",
            divisor,
            "a finite number other than 0, whose inverse a 32-bit float can hold",
        )?;
    }
    match (&data.test, &data.source) {
        (TestData::None, _) => Ok(()),
        (TestData::Fraction { fraction, .. }, _) => check(
            *fraction > 0.0 && *fraction < 1.0,
            "data.test.fraction",
            fraction,
            "a number between 0 and 1",
        ),
        (TestData::Files(DataSource::Csv(csv)), DataSource::Csv(_)) => {
            validate_csv("data.test.path", csv)
        }
        (TestData::Files(DataSource::Idx(idx)), DataSource::Idx(_)) => {
            check_path("data.test.images", &idx.images)?;
            check_path("data.test.labels", &idx.labels)
        }
        (TestData::Files(DataSource::Text(text)), DataSource::Text(_)) => {
            validate_text("data.test.path", text)
        }
        (TestData::Files(DataSource::Table(test)), DataSource::Table(table))
            if test.format == table.format =>
        {
            validate_table("data.test.path", test)
        }
        (TestData::Files(_), _) => check(
            false,
            "data.test",
            "of another format",
            "files of the format of [data]",
        ),
    }
}

fn validate_text(field: &'static str, text: &TextSource) -> Result<(), SpecError> {
    check_path(field, &text.path)?;
    let max = u64::from(limits::CONTEXT_MAX);
    check_count("data.context", text.context.into(), 1, max)?;
    check_count("data.stride", text.stride.into(), 1, max)
}

fn validate_table(field: &'static str, table: &TableSource) -> Result<(), SpecError> {
    check_path(field, &table.path)?;
    check(
        table.format.has_names() || matches!(table.label, ColumnRef::Index(_)),
        "data.label",
        "a name",
        format!(
            "a column number from 0, because columns of data.format {:?} have no names",
            table.format.name()
        ),
    )
}

fn validate_csv(field: &'static str, csv: &CsvSource) -> Result<(), SpecError> {
    check_path(field, &csv.path)?;
    check(
        csv.delimiter.is_ascii() && !matches!(csv.delimiter, b'"' | b'\n' | b'\r' | 0),
        "data.delimiter",
        format!("{:?}", char::from(csv.delimiter)),
        "one ASCII character other than a quote or a line end",
    )?;
    check(
        csv.header || matches!(csv.label, ColumnRef::Index(_)),
        "data.label",
        "a name",
        "a column number from 0, because data.header is false",
    )
}
