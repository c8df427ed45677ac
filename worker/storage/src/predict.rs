//! Further data for a saved model.

use std::path::Path;
use std::sync::Arc;

use ringfold_common::dataset::Target;
use ringfold_common::job::ColumnRef;

use crate::dataset::{SourceFormat, formats_differ};
use crate::error::{Column, StorageError};
use crate::idx::IdxFile;
use crate::labels::LabelKind;
use crate::layout::{Layout, check_names};
use crate::limits::ReadOptions;
use crate::model::ModelDescription;
use crate::part::{Keep, check_like, read_idx, read_table};
use crate::records::{Features, Records, Values};
use crate::stream::Pass;
use crate::table::{Opener, Table};
use crate::text::read_windows;
use crate::windows::WindowShape;

/// What errors call the other side of a comparison.
const MODEL: &str = "the model";

/// Records to predict labels for.
#[derive(Clone, Debug, PartialEq)]
pub struct Unlabelled {
    /// Their features, unscaled: gather them with the model's scaler.
    pub features: Features,
    /// The label column, if the file has one: it was not read.
    pub ignored_label: Option<Column>,
}

/// Files of labelled records, in the format of the model's training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelledFiles<'a> {
    /// A table of the format and columns of the training file; or a text, read as the training
    /// text was.
    File(&'a Path),
    /// A pair of IDX files.
    Idx {
        /// The images.
        images: &'a Path,
        /// The labels.
        labels: &'a Path,
    },
}

/// Reads records to predict labels for. A table holds the model's feature columns in their
/// order, with the label's column among them or without: told by the name of the label where the
/// model has a header, else by the number of columns. An IDX file holds images. A text is not for
/// prediction: every token in it has its label.
///
/// # Errors
/// [`StorageError::FormatsDiffer`] for a model of text, those of [`inspect`](crate::inspect) about features, and those about columns that differ from
/// the model's.
pub fn read_unlabelled(
    path: &Path,
    description: &ModelDescription,
    options: &ReadOptions<'_>,
) -> Result<Unlabelled, StorageError> {
    let pass = Pass::new(&[path], options)?;
    let width = description.features as usize;
    let unlabelled = match description.columns.format {
        SourceFormat::Text { .. } => return Err(formats_differ("records", "text")),
        SourceFormat::Idx => {
            let images = IdxFile::open_images(&pass, path)?;
            check_like(path, images.width, Some((MODEL, width)))?;
            let mut values = Vec::new();
            images.read(|chunk| values.extend_from_slice(chunk))?;
            Unlabelled {
                features: Features::new(width, Values::U8(values)),
                ignored_label: None,
            }
        }
        SourceFormat::Csv { .. } | SourceFormat::Table { .. } => {
            let (opener, label_column) = opener_of(&description.columns.format);
            let mut file = opener.open(&pass, path)?;
            let label = find_optional_label(&*file, label_column, description)?;
            let mut values = Vec::new();
            while file.advance()? {
                file.features(label, &mut values)?;
            }
            Unlabelled {
                features: Features::new(width, Values::F32(values)),
                ignored_label: label.map(|index| Column {
                    index,
                    name: file.names().map(|names| names[index].clone()),
                }),
            }
        }
    };
    pass.report()?;
    Ok(unlabelled)
}

/// Reads labelled records to evaluate a model on. Class labels become the model's class numbers.
///
/// # Errors
/// Those of [`inspect`](crate::inspect), those about columns that differ from the model's,
/// [`StorageError::FormatsDiffer`], and [`StorageError::UnknownLabel`].
pub fn read_labelled(
    files: &LabelledFiles<'_>,
    description: &ModelDescription,
    options: &ReadOptions<'_>,
) -> Result<Records, StorageError> {
    let mut kind = LabelKind::of_target(&description.target);
    let width = description.features as usize;
    let part = match (*files, &description.columns.format) {
        (
            LabelledFiles::File(path),
            format @ (SourceFormat::Csv { .. } | SourceFormat::Table { .. }),
        ) => {
            let (opener, label_column) = opener_of(format);
            let pass = Pass::new(&[path], options)?;
            let mut file = opener.open(&pass, path)?;
            check_columns(&*file, width + 1)?;
            let label = match &description.columns.label_name {
                Some(name) if file.names().is_some() => ColumnRef::Name(name.clone()),
                _ => ColumnRef::Index(label_column),
            };
            let layout = Layout::find(&*file, &label, &pass.limits)?;
            check_feature_names(&*file, Some(layout.label), description)?;
            let part = read_table(&pass, &mut *file, &layout, &mut kind, Keep::Records)?;
            pass.report()?;
            part
        }
        (LabelledFiles::Idx { images, labels }, SourceFormat::Idx) => {
            let pass = Pass::new(&[images, labels], options)?;
            let part = read_idx(
                &pass,
                images,
                labels,
                &mut kind,
                Keep::Records,
                Some((MODEL, width)),
            )?;
            pass.report()?;
            part
        }
        (LabelledFiles::File(path), &SourceFormat::Text { stride }) => {
            let Target::Tokens(vocabulary) = &description.target else {
                return Err(formats_differ("text", "a table"));
            };
            let shape = WindowShape {
                context: width,
                stride: (stride as usize).max(1),
            };
            let pass = Pass::new(&[path], options)?;
            let windows = read_windows(&pass, path, vocabulary, shape)?;
            pass.report()?;
            return Ok(Records::of_text(windows));
        }
        (LabelledFiles::File(_), SourceFormat::Idx) => return Err(formats_differ("idx", "csv")),
        (
            LabelledFiles::Idx { .. },
            format @ (SourceFormat::Csv { .. } | SourceFormat::Table { .. }),
        ) => {
            let (opener, _) = opener_of(format);
            return Err(formats_differ(opener.name(), "idx"));
        }
        (LabelledFiles::Idx { .. }, SourceFormat::Text { .. }) => {
            return Err(formats_differ("text", "idx"));
        }
    };
    Ok(Records::all(Arc::new(part.features), Arc::new(part.labels)))
}

/// How files of a table are opened, and where their label was in the training file.
///
/// # Panics
/// If files aren't tables.
fn opener_of(format: &SourceFormat) -> (Opener, u32) {
    match *format {
        SourceFormat::Csv {
            header,
            delimiter,
            label_column,
        } => (Opener::Csv { header, delimiter }, label_column),
        SourceFormat::Table {
            format,
            label_column,
        } => (Opener::Table(format), label_column),
        SourceFormat::Idx | SourceFormat::Text { .. } => panic!("files of a table"),
    }
}

/// The label's column in a file that may have none, once its columns are those of the model.
fn find_optional_label(
    file: &dyn Table,
    label_column: u32,
    description: &ModelDescription,
) -> Result<Option<usize>, StorageError> {
    let width = description.features as usize;
    let label = match (file.names(), &description.columns.label_name) {
        (Some(names), Some(label)) => names.iter().position(|name| name == label),
        _ if file.columns() == width + 1 => Some(label_column as usize),
        _ => None,
    };
    check_feature_names(file, label, description)?;
    check_columns(file, width + usize::from(label.is_some()))?;
    Ok(label)
}

fn check_columns(file: &dyn Table, expected: usize) -> Result<(), StorageError> {
    if file.columns() == expected {
        return Ok(());
    }
    Err(StorageError::ColumnsDiffer {
        path: file.path().to_owned(),
        other: MODEL.to_owned(),
        expected,
        got: file.columns(),
    })
}

/// Refuses feature columns whose names aren't the model's, where both have names.
fn check_feature_names(
    file: &dyn Table,
    label: Option<usize>,
    description: &ModelDescription,
) -> Result<(), StorageError> {
    let (Some(names), Some(expected)) = (file.names(), &description.columns.feature_names) else {
        return Ok(());
    };
    // The expected names with the label's put back where the file has it, so that the column in
    // an error is the file's.
    let mut expected = expected.clone();
    if let Some(label) = label.filter(|&label| label <= expected.len()) {
        expected.insert(label, names[label].clone());
    }
    check_names(file.path(), names, MODEL, &expected)
}
