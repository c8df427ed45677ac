//! Which column of a table is what, and whether two files agree on it.

use std::path::Path;

use ringfold_common::job::ColumnRef;

use crate::dataset::{Columns, SourceFormat};
use crate::error::StorageError;
use crate::limits::Limits;
use crate::table::{Opener, Table};

/// Column names that an error shows.
const SHOWN_NAMES_MAX: usize = 8;

/// The columns of a labelled table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// All columns, the label's included.
    pub columns: usize,
    /// The label's column.
    pub label: usize,
    /// Names of all columns, the label's included.
    pub names: Option<Vec<String>>,
    /// The dimensions of a record, where the file gives them.
    pub dims: Vec<u32>,
}

impl Layout {
    /// Finds the label's column in `file`.
    pub fn find(
        file: &dyn Table,
        label: &ColumnRef,
        limits: &Limits,
    ) -> Result<Self, StorageError> {
        let label = find_label(file, label)?;
        let layout = Self {
            columns: file.columns(),
            label,
            names: file.names().map(<[String]>::to_vec),
            dims: file.dims(Some(label)),
        };
        check_width(file.path(), file.columns() - 1, limits)?;
        Ok(layout)
    }

    /// Features of a record.
    pub fn width(&self) -> usize {
        self.columns - 1
    }

    /// Names of the features.
    pub fn feature_names(&self) -> Option<Vec<String>> {
        let mut names = self.names.clone()?;
        names.remove(self.label);
        Some(names)
    }

    /// The public form of it.
    pub fn to_columns(&self, opener: Opener) -> Columns {
        let label_column = self.label as u32;
        Columns {
            feature_names: self.feature_names(),
            label_name: self.names.as_ref().map(|names| names[self.label].clone()),
            format: match opener {
                Opener::Csv { header, delimiter } => SourceFormat::Csv {
                    header,
                    delimiter,
                    label_column,
                },
                Opener::Table(format) => SourceFormat::Table {
                    format,
                    label_column,
                },
            },
            dims: self.dims.clone(),
        }
    }

    /// Refuses a file at `path` whose layout isn't that of `other`, which is of `other_path`.
    pub fn check_same(
        &self,
        path: &Path,
        other: &Self,
        other_path: &Path,
    ) -> Result<(), StorageError> {
        let other_name = other_path.display().to_string();
        if let (Some(names), Some(other_names)) = (&self.names, &other.names) {
            check_names(path, names, &other_name, other_names)?;
        }
        if self.columns != other.columns {
            return Err(StorageError::ColumnsDiffer {
                path: path.to_owned(),
                other: other_name,
                expected: other.columns,
                got: self.columns,
            });
        }
        if self.label != other.label {
            return Err(StorageError::LabelColumnDiffers {
                path: path.to_owned(),
                other: other_name,
                expected: other.label,
                got: self.label,
            });
        }
        Ok(())
    }
}

/// Refuses the first of `names` that differs from the one of `other_names` at its place. Lists of
/// different lengths agree as far as the shorter one goes.
pub(crate) fn check_names(
    path: &Path,
    names: &[String],
    other: &str,
    other_names: &[String],
) -> Result<(), StorageError> {
    let mut pairs = names.iter().zip(other_names).enumerate();
    match pairs.find(|(_, (name, other_name))| name != other_name) {
        Some((column, (name, other_name))) => Err(StorageError::HeaderDiffers {
            path: path.to_owned(),
            other: other.to_owned(),
            column,
            expected: other_name.clone(),
            got: name.clone(),
        }),
        None => Ok(()),
    }
}

/// Refuses a number of features that is zero or above the cap.
pub(crate) fn check_width(path: &Path, width: usize, limits: &Limits) -> Result<(), StorageError> {
    if width == 0 {
        return Err(StorageError::NoFeatures {
            path: path.to_owned(),
        });
    }
    if width > limits.features_max as usize {
        return Err(StorageError::TooManyFeatures {
            path: path.to_owned(),
            features: width as u64,
            features_max: limits.features_max,
        });
    }
    Ok(())
}

fn find_label(file: &dyn Table, label: &ColumnRef) -> Result<usize, StorageError> {
    let names = file.names().unwrap_or_default();
    let missing = |nearest| StorageError::MissingLabelColumn {
        path: file.path().to_owned(),
        label: label.clone(),
        columns: file.columns(),
        names: names.iter().take(SHOWN_NAMES_MAX).cloned().collect(),
        nearest,
    };
    match label {
        ColumnRef::Index(index) => {
            let index = *index as usize;
            if index < file.columns() {
                Ok(index)
            } else {
                Err(missing(None))
            }
        }
        ColumnRef::Name(name) => {
            let mut found = (0..names.len()).filter(|&column| names[column] == *name);
            match (found.next(), found.next()) {
                (Some(column), None) => Ok(column),
                (Some(first), Some(second)) => Err(StorageError::LabelColumnTwice {
                    path: file.path().to_owned(),
                    name: name.clone(),
                    first,
                    second,
                }),
                (None, _) => Err(missing(nearest(name, names))),
            }
        }
    }
}

/// The one of `names` that is most likely meant by `name`: at most a third of its letters differ,
/// capitals aside.
fn nearest(name: &str, names: &[String]) -> Option<String> {
    let wanted: Vec<char> = name.to_lowercase().chars().take(100).collect();
    let distance = |other: &String| {
        let other: Vec<char> = other.to_lowercase().chars().take(100).collect();
        edit_distance(&wanted, &other)
    };
    let distances = names.iter().map(|other| (distance(other), other));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= wanted.len()).then(|| nearest.clone())
}

/// Insertions, deletions and substitutions between two words (Levenshtein), row by row.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        let distance = |a: &str, b: &str| {
            edit_distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("flaw", "lawn"), 2);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let names = ["age", "price", "Species"].map(str::to_owned);
        assert_eq!(nearest("species", &names).as_deref(), Some("Species"));
        assert_eq!(nearest("prices", &names).as_deref(), Some("price"));
        assert_eq!(nearest("label", &names), None);
        assert_eq!(nearest("label", &[]), None);
    }
}
