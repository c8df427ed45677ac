//! Files for tests, and short forms of the specs that name them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ringfold_common::job::{
    Activation, Architecture, ColumnRef, CsvSource, DataSource, DataSpec, IdxSource, Initialiser,
    Loss, MlpSpec, ModelSpec, Scale, TableFormat, TableSource, TestData, TextSource, Tokeniser,
};
use ringfold_storage::{
    Dataset, LabelsOut, ModelDescription, ReadOptions, Records, Scaler, StorageError, inspect,
};

pub const CLASSES: Loss = Loss::CrossEntropy;
pub const VALUES: Loss = Loss::MeanSquaredError;

/// A directory that goes away with the test.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

pub fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 1).unwrap()
}

/// A table of the format of this name, whose label is named.
pub fn table_named(path: &Path, format: &str, label: &str) -> DataSource {
    let format = TableFormat::ALL.into_iter().find(|f| f.name() == format);
    DataSource::Table(TableSource {
        format: format.unwrap(),
        path: text(path),
        label: ColumnRef::Name(label.to_owned()),
    })
}

/// A model trained on a dataset; storage doesn't look into it.
pub fn describe(spec: &DataSpec, loss: Loss) -> ModelDescription {
    let model = ModelSpec {
        loss,
        ..model_spec()
    };
    ModelDescription::new("job".to_owned(), model, &load(spec, loss))
}

/// An IDX file.
pub fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A comma-separated file with a header, whose label is named.
pub fn csv_named(path: &Path, label: &str) -> CsvSource {
    CsvSource {
        path: text(path),
        label: ColumnRef::Name(label.to_owned()),
        header: true,
        delimiter: b',',
    }
}

/// A comma-separated file without a header.
pub fn csv_plain(path: &Path, label: u32) -> CsvSource {
    CsvSource {
        path: text(path),
        label: ColumnRef::Index(label),
        header: false,
        delimiter: b',',
    }
}

pub fn idx_source(images: &Path, labels: &Path) -> DataSource {
    DataSource::Idx(IdxSource {
        images: text(images),
        labels: text(labels),
    })
}

/// A text with records side by side.
pub fn text_source(path: &Path, tokeniser: Tokeniser, context: u32) -> DataSource {
    DataSource::Text(TextSource {
        path: text(path),
        tokeniser,
        context,
        stride: context,
    })
}

/// A model; storage doesn't look into it.
pub fn model_spec() -> ModelSpec {
    let mlp = MlpSpec {
        hidden: vec![3],
        activation: Activation::Relu,
        dropout: 0.1,
        initialiser: Initialiser::HeUniform,
    };
    ModelSpec::new(Architecture::Mlp(mlp), Loss::CrossEntropy)
}

/// Training data alone, unscaled.
pub fn spec(source: DataSource) -> DataSpec {
    DataSpec {
        source,
        scale: Scale::None,
        test: TestData::None,
    }
}

pub fn load(spec: &DataSpec, loss: Loss) -> Dataset {
    let options = ReadOptions::default();
    let dataset = Dataset::load(spec, loss, &options).unwrap();
    // The coordinator and the ranks see the same.
    assert_eq!(*dataset.info(), inspect(spec, loss, &options).unwrap());
    dataset
}

/// The error that both `inspect` and `load` give.
pub fn refusal(spec: &DataSpec, loss: Loss) -> StorageError {
    refusal_with(spec, loss, &ReadOptions::default())
}

pub fn refusal_with(spec: &DataSpec, loss: Loss, options: &ReadOptions<'_>) -> StorageError {
    let inspected = inspect(spec, loss, options).unwrap_err();
    let loaded = Dataset::load(spec, loss, options).unwrap_err();
    assert_eq!(inspected.to_string(), loaded.to_string());
    inspected
}

/// The error of a CSV file with these bytes, header and label named `y`.
pub fn csv_refusal(bytes: impl AsRef<[u8]>, loss: Loss) -> StorageError {
    let dir = Dir::new();
    let path = dir.file("data.csv", bytes);
    refusal(&spec(DataSource::Csv(csv_named(&path, "y"))), loss)
}

/// Asserts that an error's text, less the directory, is `expected`.
#[track_caller]
pub fn assert_text(error: &StorageError, expected: &str) {
    let text = error.to_string();
    let shown = text
        .split_whitespace()
        .map(|word| match word.rfind('/') {
            Some(slash) if word.starts_with('/') => &word[slash + 1..],
            _ => word,
        })
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(shown, expected, "{error:?}");
}

/// All features and class labels of records.
pub fn class_rows(records: &Records, scaler: &Scaler) -> (Vec<f32>, Vec<i32>) {
    let count = records.len() as usize;
    let (mut features, mut labels) = (vec![0.0; count * records.width()], vec![-1; count]);
    let out = LabelsOut::Classes(&mut labels);
    records.gather(0..records.len(), scaler, &mut features, out);
    (features, labels)
}

/// All features and value labels of records.
pub fn value_rows(records: &Records, scaler: &Scaler) -> (Vec<f32>, Vec<f32>) {
    let count = records.len() as usize;
    let (mut features, mut labels) = (vec![0.0; count * records.width()], vec![f32::NAN; count]);
    let out = LabelsOut::Values(&mut labels);
    records.gather(0..records.len(), scaler, &mut features, out);
    (features, labels)
}

/// All tokens and labels of the records of a text.
pub fn token_rows(records: &Records) -> (Vec<i32>, Vec<i32>) {
    let count = records.len() as usize * records.width();
    let (mut tokens, mut labels) = (vec![-1; count], vec![-1; count]);
    records.gather_tokens(0..records.len(), &mut tokens, &mut labels);
    (tokens, labels)
}

/// A CSV text with header `f0..`, `y` at `label_column`, quoting every third field.
pub fn csv_text(rows: &[Vec<f32>], labels: &[String], label_column: usize, end: &str) -> String {
    let width = rows[0].len();
    let mut names: Vec<String> = (0..width).map(|n| format!("f{n}")).collect();
    names.insert(label_column, "y".to_owned());
    let mut text = names.join(",") + end;
    for (row, label) in rows.iter().zip(labels) {
        let mut fields: Vec<String> = row.iter().map(f32::to_string).collect();
        fields.insert(label_column, label.clone());
        for (n, field) in fields.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if n % 3 == 1 || field.contains([',', '"']) {
                write!(text, "{comma}\"{}\"", field.replace('"', "\"\"")).unwrap();
            } else {
                write!(text, "{comma}{field}").unwrap();
            }
        }
        text += end;
    }
    text
}
