//! Records in memory, and the gather that fills a micro-batch.

use std::sync::Arc;

use ringfold_common::order::Permutation;

use crate::scaler::Scaler;
use crate::windows::Windows;

/// The features of records, without labels: a row-major matrix `[len, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    values: Values,
}

/// Feature values as compactly as their source allows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// Of IDX files.
    U8(Vec<u8>),
    /// Of CSV files.
    F32(Vec<f32>),
}

impl Features {
    /// Rows of `width` values.
    ///
    /// # Panics
    /// If `width` is zero or the values aren't whole rows.
    pub(crate) fn new(width: usize, values: Values) -> Self {
        let count = match &values {
            Values::U8(values) => values.len(),
            Values::F32(values) => values.len(),
        };
        assert!(
            width > 0 && count.is_multiple_of(width),
            "{count} values in rows of {width}"
        );
        Self { width, values }
    }

    /// Records.
    #[must_use]
    pub fn len(&self) -> u64 {
        let count = match &self.values {
            Values::U8(values) => values.len(),
            Values::F32(values) => values.len(),
        };
        (count / self.width) as u64
    }

    /// True if there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in one record.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes the scaled features of the records at `indices` to `out`, row-major
    /// `[indices, width]`. Allocates nothing.
    ///
    /// # Panics
    /// If `out` doesn't hold exactly that many rows, or an index is not below [`Self::len`], or
    /// the scaler is of another width.
    pub fn gather(&self, indices: impl IntoIterator<Item = u64>, scaler: &Scaler, out: &mut [f32]) {
        let mut rows = out.chunks_exact_mut(self.width);
        for index in indices {
            let row = rows.next().expect("features_out has a row for every index");
            self.copy_row(index, scaler, row);
        }
        assert!(
            rows.len() == 0 && rows.into_remainder().is_empty(),
            "features_out has one row for every index"
        );
    }

    /// [`Self::gather`], with the label of each row.
    fn gather_with<T>(
        &self,
        rows: impl Iterator<Item = u64>,
        scaler: &Scaler,
        features_out: &mut [f32],
        labels_out: &mut [T],
        label: impl Fn(usize) -> T,
    ) {
        let mut labels = labels_out.iter_mut();
        let rows = rows.inspect(|&row| {
            *labels
                .next()
                .expect("labels_out has an element for every index") = label(row as usize);
        });
        self.gather(rows, scaler, features_out);
        assert!(
            labels.len() == 0,
            "labels_out has one element for every index"
        );
    }

    /// Writes one scaled row.
    #[inline]
    pub(crate) fn copy_row(&self, index: u64, scaler: &Scaler, out: &mut [f32]) {
        let start = index as usize * self.width;
        let range = start..start + self.width;
        match &self.values {
            Values::U8(values) => scaler.scale_bytes(&values[range], out),
            Values::F32(values) => scaler.scale(&values[range], out),
        }
    }
}

/// The labels of records.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Labels {
    /// Class numbers.
    Classes(Vec<u32>),
    /// Numbers to predict.
    Values(Vec<f32>),
}

impl Labels {
    /// Forgets all labels, but not their kind.
    pub fn clear(&mut self) {
        match self {
            Self::Classes(numbers) => numbers.clear(),
            Self::Values(numbers) => numbers.clear(),
        }
    }
}

/// Where a gather writes labels: one element a record.
#[derive(Debug)]
pub enum LabelsOut<'a> {
    /// Class numbers, for [`Target::Classes`](ringfold_common::dataset::Target::Classes).
    Classes(&'a mut [i32]),
    /// Numbers, for [`Target::Values`](ringfold_common::dataset::Target::Values) of one value.
    Values(&'a mut [f32]),
}

/// Labelled records: the training or the test part of a dataset. Cloning shares the memory.
#[derive(Clone, Debug)]
pub struct Records {
    content: Content,
}

/// Where records are.
#[derive(Clone, Debug)]
enum Content {
    /// Rows of a table.
    Table {
        features: Arc<Features>,
        labels: Arc<Labels>,
        selection: Selection,
    },
    /// Windows of a text.
    Text(Windows),
}

/// Which rows of a table are records of a part.
#[derive(Clone, Copy, Debug)]
enum Selection {
    /// The first `len`, in order.
    First { len: u64 },
    /// Those at positions `start..start + len` of a permutation.
    Permuted {
        permutation: Permutation,
        start: u64,
        len: u64,
    },
}

impl Selection {
    fn len(&self) -> u64 {
        match *self {
            Self::First { len } | Self::Permuted { len, .. } => len,
        }
    }

    /// The row of the table that is the record at `index`.
    ///
    /// # Panics
    /// If there is no such record.
    #[inline]
    fn row(&self, index: u64) -> u64 {
        assert!(index < self.len(), "record {index} of {}", self.len());
        match self {
            Self::First { .. } => index,
            Self::Permuted {
                permutation, start, ..
            } => permutation.at(start + index),
        }
    }
}

impl Records {
    /// All rows of a table.
    pub(crate) fn all(features: Arc<Features>, labels: Arc<Labels>) -> Self {
        let len = features.len();
        let content = Content::Table {
            features,
            labels,
            selection: Selection::First { len },
        };
        Self { content }
    }

    /// The windows of a text.
    pub(crate) fn of_text(windows: Windows) -> Self {
        let content = Content::Text(windows);
        Self { content }
    }

    /// None of the records of this part.
    pub(crate) fn none(&self) -> Self {
        self.select(Selection::First { len: 0 })
    }

    /// Other rows of the same table; windows of a text can't be selected, only left out.
    fn select(&self, selection: Selection) -> Self {
        let content = match &self.content {
            Content::Table {
                features, labels, ..
            } => Content::Table {
                features: Arc::clone(features),
                labels: Arc::clone(labels),
                selection,
            },
            Content::Text(windows) => Content::Text(windows.none()),
        };
        Self { content }
    }

    /// The rows at positions `start..start + len` of a permutation of the table's rows.
    pub(crate) fn permuted(&self, permutation: Permutation, start: u64, len: u64) -> Self {
        self.select(Selection::Permuted {
            permutation,
            start,
            len,
        })
    }

    /// Records.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Table { selection, .. } => selection.len(),
            Content::Text(windows) => windows.len(),
        }
    }

    /// True if there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in one record, without its label; of text, tokens.
    #[must_use]
    pub fn width(&self) -> usize {
        match &self.content {
            Content::Table { features, .. } => features.width(),
            Content::Text(windows) => windows.context(),
        }
    }

    /// Writes one unscaled row of a table.
    ///
    /// # Panics
    /// If records are windows of a text.
    pub(crate) fn copy_raw(&self, index: u64, out: &mut [f32]) {
        let Content::Table {
            features,
            selection,
            ..
        } = &self.content
        else {
            panic!("tokens are no quantities");
        };
        features.copy_row(selection.row(index), &Scaler::None, out);
    }

    /// Writes the tokens of the records at `indices` to `tokens_out`, row-major
    /// `[indices, width]`, and to `labels_out` for each the token that follows it. Allocates
    /// nothing.
    ///
    /// # Panics
    /// If records are rows of a table, if `tokens_out` or `labels_out` don't hold exactly one row
    /// for every index, or if an index is not below [`Self::len`].
    pub fn gather_tokens(
        &self,
        indices: impl IntoIterator<Item = u64>,
        tokens_out: &mut [i32],
        labels_out: &mut [i32],
    ) {
        let Content::Text(windows) = &self.content else {
            panic!("rows of a table are no tokens");
        };
        let width = windows.context();
        let mut rows = tokens_out
            .chunks_exact_mut(width)
            .zip(labels_out.chunks_exact_mut(width));
        for index in indices {
            let (tokens, labels) = rows.next().expect("a row for every index");
            windows.copy(index, tokens, labels);
        }
        assert!(rows.next().is_none(), "one row for every index");
    }

    /// Writes the scaled features of the records at `indices` to `features_out`, row-major
    /// `[indices, width]`, and their labels to `labels_out`. Allocates nothing.
    ///
    /// # Panics
    /// If `features_out` or `labels_out` don't hold exactly one row or label for every index, if
    /// `labels_out` is not of the kind of the dataset's target, if an index is not below
    /// [`Self::len`], if the scaler is of another width, or if records are windows of a text.
    pub fn gather(
        &self,
        indices: impl IntoIterator<Item = u64>,
        scaler: &Scaler,
        features_out: &mut [f32],
        labels_out: LabelsOut<'_>,
    ) {
        let Content::Table {
            features,
            labels,
            selection,
        } = &self.content
        else {
            panic!("records of a text have tokens");
        };
        let rows = indices.into_iter().map(|index| selection.row(index));
        match (&**labels, labels_out) {
            (Labels::Classes(labels), LabelsOut::Classes(out)) => {
                features.gather_with(rows, scaler, features_out, out, |row| labels[row] as i32);
            }
            (Labels::Values(labels), LabelsOut::Values(out)) => {
                features.gather_with(rows, scaler, features_out, out, |row| labels[row]);
            }
            (Labels::Classes(_), LabelsOut::Values(_)) => {
                panic!("labels_out is for values, the labels are classes")
            }
            (Labels::Values(_), LabelsOut::Classes(_)) => {
                panic!("labels_out is for classes, the labels are values")
            }
        }
    }
}
