//! One part of a dataset: the labelled records of one table or of one pair of IDX files.

use std::path::Path;

use ringfold_common::job::{CsvSource, DataSource, TableSource};

use crate::error::{FieldPlace, FieldRole, StorageError};
use crate::idx::IdxFile;
use crate::labels::LabelKind;
use crate::layout::Layout;
use crate::records::{Features, Labels, Values};
use crate::stream::Pass;
use crate::table::{Opener, Table};

/// Whether records are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// They are only counted and checked.
    Nothing,
    /// They are kept.
    Records,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Part {
    pub records: u64,
    pub width: usize,
    /// The dimensions of a record, where the files give them.
    pub dims: Vec<u32>,
    /// Empty under [`Keep::Nothing`].
    pub features: Features,
    /// Empty under [`Keep::Nothing`]. Class numbers are those of the label kind: not yet sorted if
    /// they were found.
    pub labels: Labels,
}

/// Reads the labelled records of an open table.
pub(crate) fn read_table(
    pass: &Pass<'_>,
    file: &mut dyn Table,
    layout: &Layout,
    kind: &mut LabelKind<'_>,
    keep: Keep,
) -> Result<Part, StorageError> {
    let (mut records, mut values, mut labels) = (0, Vec::new(), kind.no_labels());
    let column = layout.label;
    while file.advance()? {
        records += 1;
        file.features(Some(column), &mut values)?;
        match &mut labels {
            Labels::Classes(numbers) => {
                let place = || file.place(column, FieldRole::ClassLabel);
                let label = file.class_at(column)?;
                numbers.push(match kind {
                    LabelKind::Find(classes) => classes.number(&label, &pass.limits, place)?,
                    LabelKind::Known(classes) => classes.number(&label, place)?,
                    LabelKind::Values | LabelKind::Bounded(_) => {
                        unreachable!("labels are of the kind")
                    }
                });
            }
            Labels::Values(numbers) => {
                let number = file.number_at(column, FieldRole::ValueLabel)?;
                if let LabelKind::Bounded(loss) = kind
                    && !loss.takes_label(number)
                {
                    return Err(StorageError::LabelOutOfRange {
                        place: file.place(column, FieldRole::ValueLabel),
                        label: number,
                        loss: loss.name(),
                        expected: loss.labels_expected().unwrap_or_default(),
                    });
                }
                numbers.push(number);
            }
        }
        if keep == Keep::Nothing {
            values.clear();
            labels.clear();
        }
    }
    values.shrink_to_fit();
    Ok(Part {
        records,
        width: layout.width(),
        dims: layout.dims.clone(),
        features: Features::new(layout.width(), Values::F32(values)),
        labels,
    })
}

/// Opens a table and finds its label column.
///
/// # Panics
/// If the source is no table.
pub(crate) fn open_table<'p>(
    pass: &'p Pass<'p>,
    source: &DataSource,
) -> Result<(Box<dyn Table + 'p>, Layout), StorageError> {
    let (DataSource::Csv(CsvSource { path, label, .. })
    | DataSource::Table(TableSource { path, label, .. })) = source
    else {
        panic!("a source of a table");
    };
    let opener = Opener::of(source).expect("a source of a table");
    let file = opener.open(pass, Path::new(path))?;
    let layout = Layout::find(&*file, label, &pass.limits)?;
    Ok((file, layout))
}

/// Reads a pair of IDX files. `like` is another file and the features that images must have too.
pub(crate) fn read_idx(
    pass: &Pass<'_>,
    images_path: &Path,
    labels_path: &Path,
    kind: &mut LabelKind<'_>,
    keep: Keep,
    like: Option<(&str, usize)>,
) -> Result<Part, StorageError> {
    let images = IdxFile::open_images(pass, images_path)?;
    let (image_count, width) = (images.records, images.width);
    let dims = images.dims.clone();
    check_like(images.path(), width, like)?;
    let mut values = Vec::new();
    images.read(|chunk| {
        if keep == Keep::Records {
            values.extend_from_slice(chunk);
        }
    })?;
    let file = IdxFile::open_labels(pass, labels_path)?;
    if file.records != image_count {
        return Err(StorageError::CountsDiffer {
            images: images_path.to_owned(),
            labels: labels_path.to_owned(),
            image_count,
            label_count: file.records,
        });
    }
    let mut bytes = Vec::new();
    file.read(|chunk| bytes.extend_from_slice(chunk))?;
    let mut numbers = class_numbers(pass, labels_path, &bytes, kind)?;
    if keep == Keep::Nothing {
        numbers = Vec::new();
    }
    values.shrink_to_fit();
    Ok(Part {
        records: image_count,
        width,
        dims,
        features: Features::new(width, Values::U8(values)),
        labels: Labels::Classes(numbers),
    })
}

/// Refuses images of another size than those of `like`.
pub(crate) fn check_like(
    path: &Path,
    width: usize,
    like: Option<(&str, usize)>,
) -> Result<(), StorageError> {
    match like {
        Some((other, expected)) if expected != width => Err(StorageError::FeaturesDiffer {
            path: path.to_owned(),
            other: other.to_owned(),
            expected: expected as u32,
            got: width as u64,
        }),
        _ => Ok(()),
    }
}

/// The class numbers of IDX labels: a label is the name of its class.
fn class_numbers(
    pass: &Pass<'_>,
    path: &Path,
    labels: &[u8],
    kind: &mut LabelKind<'_>,
) -> Result<Vec<u32>, StorageError> {
    // 256 look-ups by name, not one a record.
    let mut numbers = [None; 256];
    let number_of = |(index, &label): (usize, &u8)| {
        if let Some(number) = numbers[usize::from(label)] {
            return Ok(number);
        }
        let name = label.to_string();
        let place = || {
            Box::new(FieldPlace {
                path: path.to_owned(),
                line: None,
                record: index as u64 + 1,
                column: None,
                role: FieldRole::ClassLabel,
            })
        };
        let number = match kind {
            LabelKind::Find(classes) => {
                // Classes are those from 0 to the greatest, seen or not.
                for smaller in 0..label {
                    classes.number(&smaller.to_string(), &pass.limits, place)?;
                }
                classes.number(&name, &pass.limits, place)?
            }
            LabelKind::Known(classes) => classes.number(&name, place)?,
            LabelKind::Values | LabelKind::Bounded(_) => {
                return Err(StorageError::LabelsAreClasses {
                    path: path.to_owned(),
                });
            }
        };
        numbers[usize::from(label)] = Some(number);
        Ok(number)
    };
    labels.iter().enumerate().map(number_of).collect()
}
