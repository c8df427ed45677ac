//! A job's dataset: training and test records of one or more files.

use std::path::Path;
use std::sync::Arc;

use ringfold_common::dataset::{DatasetInfo, Target};
use ringfold_common::job::{DataSource, DataSpec, Loss, TableFormat, TestData, TextSource};
use ringfold_common::order::Permutation;
use ringfold_common::random::{Domain, stream_key};
use serde::{Deserialize, Serialize};

use crate::error::StorageError;
use crate::labels::LabelKind;
use crate::limits::ReadOptions;
use crate::part::{Keep, Part, open_table, read_idx, read_table};
use crate::records::{Labels, Records};
use crate::scaler::Scaler;
use crate::stream::Pass;
use crate::table::Opener;
use crate::text::{Text, read_text};

/// What the columns of a dataset are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Names of the features, in order, where the file gives them.
    pub feature_names: Option<Vec<String>>,
    /// Name of the label, where the file gives it.
    pub label_name: Option<String>,
    /// What the files look like, for readers of more such files.
    pub format: SourceFormat,
    /// The dimensions of a record, where the files give them: height and width of
    /// IDX images.
    #[serde(default)]
    pub dims: Vec<u32>,
}

/// How records of a dataset lie in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// A CSV file.
    Csv {
        /// True if the first line names the columns.
        header: bool,
        /// The byte between fields.
        delimiter: u8,
        /// The label's column, from 0.
        label_column: u32,
    },
    /// A table whose file says how its columns lie.
    Table {
        /// How the file is laid out.
        format: TableFormat,
        /// The label's column, from 0.
        label_column: u32,
    },
    /// A pair of IDX files.
    Idx,
    /// A text.
    Text {
        /// Tokens from the start of one record to that of the next.
        stride: u32,
    },
}

impl Columns {
    fn of_text(stride: u32) -> Self {
        Self {
            feature_names: None,
            label_name: None,
            format: SourceFormat::Text { stride },
            dims: Vec::new(),
        }
    }
}

/// Reads and validates the files that `spec` names, and says what they hold. Keeps no record.
///
/// # Errors
/// The first thing that is wrong, in the order of the files; or
/// [`StorageError::Cancelled`] if the hook of `options` asked for it.
pub fn inspect(
    spec: &DataSpec,
    loss: Loss,
    options: &ReadOptions<'_>,
) -> Result<DatasetInfo, StorageError> {
    if let DataSource::Text(source) = &spec.source {
        return whole_text(source, spec, options, Keep::Nothing).map(|text| text.info);
    }
    Contents::read(spec, loss, options, Keep::Nothing).map(|contents| contents.info)
}

/// [`inspect`] with what is known of the columns.
///
/// # Errors
/// Those of [`inspect`].
pub fn inspect_columns(
    spec: &DataSpec,
    loss: Loss,
    options: &ReadOptions<'_>,
) -> Result<(DatasetInfo, Columns), StorageError> {
    if let DataSource::Text(source) = &spec.source {
        let text = whole_text(source, spec, options, Keep::Nothing)?;
        return Ok((text.info, Columns::of_text(source.stride)));
    }
    let contents = Contents::read(spec, loss, options, Keep::Nothing)?;
    Ok((contents.info, contents.columns))
}

/// Reads a text dataset, watched to its end.
fn whole_text(
    source: &TextSource,
    spec: &DataSpec,
    options: &ReadOptions<'_>,
    keep: Keep,
) -> Result<Text, StorageError> {
    let pass = Pass::new(&paths(spec), options)?;
    let text = read_text(&pass, source, spec, keep)?;
    pass.report()?;
    Ok(text)
}

/// A dataset in memory, with the scaler fitted on its training records.
#[derive(Clone, Debug)]
pub struct Dataset {
    info: DatasetInfo,
    columns: Columns,
    scaler: Scaler,
    train: Records,
    test: Records,
}

impl Dataset {
    /// Reads the files that `spec` names: the pass of [`inspect`], with the records kept. Features
    /// of IDX files take one byte in memory, those of tables four, tokens one or two.
    ///
    /// # Errors
    /// Those of [`inspect`], and those of fitting the scaler: [`StorageError::Divisor`],
    /// [`StorageError::Unscalable`].
    pub fn load(
        spec: &DataSpec,
        loss: Loss,
        options: &ReadOptions<'_>,
    ) -> Result<Self, StorageError> {
        if let DataSource::Text(source) = &spec.source {
            let text = whole_text(source, spec, options, Keep::Records)?;
            return Ok(Self::of_text(text, source));
        }
        let contents = Contents::read(spec, loss, options, Keep::Records)?;
        let table = |part: Part| Records::all(Arc::new(part.features), Arc::new(part.labels));
        let all = table(contents.train);
        let (train, test) = match contents.test {
            TestPart::None => (all.clone(), all.none()),
            TestPart::Files(part) => (all, table(part)),
            TestPart::Split(split) => split.apply(&all),
        };
        let names = contents.columns.feature_names.as_deref();
        let scaler = Scaler::fit(spec.scale, &train, names)?;
        Ok(Self {
            info: contents.info,
            columns: contents.columns,
            scaler,
            train,
            test,
        })
    }

    fn of_text(text: Text, source: &TextSource) -> Self {
        let stride = source.stride;
        Self {
            info: text.info,
            columns: Columns::of_text(stride),
            scaler: Scaler::None,
            train: Records::of_text(text.train),
            test: Records::of_text(text.test),
        }
    }

    /// What [`inspect`] says of the same files.
    #[must_use]
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// What the columns are.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Fitted on the training records.
    #[must_use]
    pub fn scaler(&self) -> &Scaler {
        &self.scaler
    }

    /// The training records.
    #[must_use]
    pub fn train(&self) -> &Records {
        &self.train
    }

    /// The test records; empty if the job names no test data.
    #[must_use]
    pub fn test(&self) -> &Records {
        &self.test
    }
}

/// What the files of a table hold.
struct Contents {
    info: DatasetInfo,
    columns: Columns,
    /// All records of the training files, those split off for testing included.
    train: Part,
    test: TestPart,
}

/// Where the test records are.
enum TestPart {
    None,
    Files(Part),
    Split(Split),
}

impl Contents {
    fn read(
        spec: &DataSpec,
        loss: Loss,
        options: &ReadOptions<'_>,
        keep: Keep,
    ) -> Result<Self, StorageError> {
        let mut kind = LabelKind::of_loss(loss);
        let pass = Pass::new(&paths(spec), options)?;
        let (columns, mut train, files) = match &spec.source {
            source @ (DataSource::Csv(_) | DataSource::Table(_)) => {
                let (mut file, layout) = open_table(&pass, source)?;
                let train = read_table(&pass, &mut *file, &layout, &mut kind, keep)?;
                let opener = Opener::of(source);
                let test = match &spec.test {
                    TestData::Files(test) if Opener::of(test).is_some() => {
                        if format_name(test) != format_name(source) {
                            return Err(formats_differ(format_name(source), format_name(test)));
                        }
                        let (mut test_file, test_layout) = open_table(&pass, test)?;
                        test_layout.check_same(test_file.path(), &layout, file.path())?;
                        Some(read_table(
                            &pass,
                            &mut *test_file,
                            &test_layout,
                            &mut kind,
                            keep,
                        )?)
                    }
                    TestData::Files(other) => {
                        return Err(formats_differ(format_name(source), format_name(other)));
                    }
                    TestData::None | TestData::Fraction { .. } => None,
                };
                let opener = opener.expect("a source of a table");
                (layout.to_columns(opener), train, test)
            }
            DataSource::Idx(source) => {
                let (images, labels) = (Path::new(&source.images), Path::new(&source.labels));
                let train = read_idx(&pass, images, labels, &mut kind, keep, None)?;
                let test = match &spec.test {
                    TestData::Files(DataSource::Idx(test)) => {
                        let like = Some((source.images.as_str(), train.width));
                        let (images, labels) = (Path::new(&test.images), Path::new(&test.labels));
                        Some(read_idx(&pass, images, labels, &mut kind, keep, like)?)
                    }
                    TestData::Files(other) => {
                        return Err(formats_differ("idx", format_name(other)));
                    }
                    TestData::None | TestData::Fraction { .. } => None,
                };
                let columns = Columns {
                    feature_names: None,
                    label_name: None,
                    format: SourceFormat::Idx,
                    dims: train.dims.clone(),
                };
                (columns, train, test)
            }
            DataSource::Text(_) => return Err(formats_differ("a table", "text")),
        };
        pass.report()?;
        let (train_records, test_records, mut test) = match (files, &spec.test) {
            (Some(part), _) => (train.records, part.records, TestPart::Files(part)),
            (None, &TestData::Fraction { fraction, seed }) => {
                let split = Split::new(fraction, seed, train.records)?;
                let test_records = split.test_records;
                let train_records = train.records - test_records;
                (train_records, test_records, TestPart::Split(split))
            }
            (None, _) => (train.records, 0, TestPart::None),
        };
        let target = match kind {
            LabelKind::Find(classes) => {
                let (names, positions) = classes.sorted();
                renumber(&mut train.labels, &positions);
                if let TestPart::Files(part) = &mut test {
                    renumber(&mut part.labels, &positions);
                }
                Target::Classes(names)
            }
            LabelKind::Known(_) | LabelKind::Values | LabelKind::Bounded(_) => Target::Values(1),
        };
        Ok(Self {
            info: DatasetInfo {
                train_records,
                test_records,
                features: train.width as u32,
                target,
                fingerprint: pass.fingerprint(),
            },
            columns,
            train,
            test,
        })
    }
}

/// The seeded split of one table: test record j is row `at(j)` of the permutation, training record
/// j is row `at(test_records + j)`.
struct Split {
    permutation: Permutation,
    test_records: u64,
}

impl Split {
    fn new(fraction: f64, seed: u64, records: u64) -> Result<Self, StorageError> {
        let test_records = (fraction * records as f64).round() as u64;
        if test_records == 0 || test_records >= records {
            return Err(StorageError::EmptySplit {
                fraction,
                records,
                test_records,
            });
        }
        let key = stream_key(seed, Domain::Split, 0, 0);
        Ok(Self {
            permutation: Permutation::new(key, records),
            test_records,
        })
    }

    /// Training and test records of the rows of `all`.
    fn apply(&self, all: &Records) -> (Records, Records) {
        let test = all.permuted(self.permutation, 0, self.test_records);
        let train_records = all.len() - self.test_records;
        let train = all.permuted(self.permutation, self.test_records, train_records);
        (train, test)
    }
}

/// The files that `spec` names, in the order of the job file.
fn paths(spec: &DataSpec) -> Vec<&Path> {
    let mut sources = vec![&spec.source];
    if let TestData::Files(source) = &spec.test {
        sources.push(source);
    }
    let paths = sources.into_iter().flat_map(|source| match source {
        DataSource::Csv(source) => vec![source.path.as_str()],
        DataSource::Table(source) => vec![source.path.as_str()],
        DataSource::Idx(source) => vec![source.images.as_str(), source.labels.as_str()],
        DataSource::Text(source) => vec![source.path.as_str()],
    });
    paths.map(Path::new).collect()
}

/// The name of a source's format in a job file.
pub(crate) fn format_name(source: &DataSource) -> &'static str {
    match source {
        DataSource::Csv(_) => "csv",
        DataSource::Table(source) => source.format.name(),
        DataSource::Idx(_) => "idx",
        DataSource::Text(_) => "text",
    }
}

pub(crate) fn formats_differ(expected: &'static str, got: &'static str) -> StorageError {
    StorageError::FormatsDiffer { expected, got }
}

/// Replaces each class number by its position in the sorted classes.
fn renumber(labels: &mut Labels, positions: &[u32]) {
    if let Labels::Classes(numbers) = labels {
        for number in numbers {
            *number = positions[*number as usize];
        }
    }
}
