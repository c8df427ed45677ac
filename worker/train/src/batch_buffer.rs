//! Room for the inputs and labels of a batch.

use ringfold_common::dataset::Target;
use ringfold_compute::TensorRef;
use ringfold_storage::{Features, LabelsOut, Records, Scaler};

/// Inputs `[batch, width]` and labels of a batch, of the kind of a job's records.
#[derive(Clone, Debug)]
pub struct BatchBuffer {
    width: usize,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// Features and one class a record.
    Classes(Vec<f32>, Vec<i32>),
    /// Features and numbers.
    Values(Vec<f32>, Vec<f32>),
    /// Tokens, and for each the one that follows it.
    Tokens(Vec<i32>, Vec<i32>),
}

impl BatchBuffer {
    /// Room for `batch` records of `width` numbers or tokens.
    pub(crate) fn new(batch: usize, width: usize, target: &Target) -> Self {
        let count = batch * width;
        Self {
            width,
            content: match target {
                Target::Classes(_) => Content::Classes(vec![0.0; count], vec![0; batch]),
                Target::Values(outputs) => {
                    Content::Values(vec![0.0; count], vec![0.0; batch * *outputs as usize])
                }
                Target::Tokens(_) => Content::Tokens(vec![0; count], vec![0; count]),
            },
        }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let numbers = match &self.content {
            Content::Classes(features, labels) => features.len() + labels.len(),
            Content::Values(features, labels) => features.len() + labels.len(),
            Content::Tokens(tokens, labels) => tokens.len() + labels.len(),
        };
        // All are of 32 bits.
        (numbers * 4) as u64
    }

    /// Fills the first `len` rows with the records at `indices`.
    ///
    /// # Panics
    /// If there are not `len` indices, or records are of another kind.
    pub fn gather(
        &mut self,
        len: usize,
        records: &Records,
        scaler: &Scaler,
        indices: impl IntoIterator<Item = u64>,
    ) {
        let count = len * self.width;
        match &mut self.content {
            Content::Classes(features, labels) => {
                let labels = LabelsOut::Classes(&mut labels[..len]);
                records.gather(indices, scaler, &mut features[..count], labels);
            }
            Content::Values(features, labels) => {
                let labels = LabelsOut::Values(&mut labels[..len]);
                records.gather(indices, scaler, &mut features[..count], labels);
            }
            Content::Tokens(tokens, labels) => {
                records.gather_tokens(indices, &mut tokens[..count], &mut labels[..count]);
            }
        }
    }

    /// Fills the first `len` rows with features alone.
    ///
    /// # Panics
    /// If there are not `len` indices, or a row is of tokens.
    pub fn gather_features(
        &mut self,
        len: usize,
        rows: &Features,
        scaler: &Scaler,
        indices: impl IntoIterator<Item = u64>,
    ) {
        match &mut self.content {
            Content::Classes(features, _) | Content::Values(features, _) => {
                rows.gather(indices, scaler, &mut features[..len * self.width]);
            }
            Content::Tokens(..) => panic!("features are no tokens"),
        }
    }

    /// The tokens of all rows, to be filled; empty if records aren't of tokens.
    pub fn tokens_mut(&mut self) -> &mut [i32] {
        match &mut self.content {
            Content::Tokens(tokens, _) => tokens,
            _ => &mut [],
        }
    }

    /// The inputs of a run that takes labels, and of one that doesn't.
    pub(crate) fn inputs(&self, batch: usize) -> [TensorRef<'_, f32>; 2] {
        let count = batch * self.width;
        match &self.content {
            Content::Classes(features, labels) => [
                TensorRef::Float(&features[..count]),
                TensorRef::Int(&labels[..batch]),
            ],
            Content::Values(features, labels) => [
                TensorRef::Float(&features[..count]),
                TensorRef::Float(&labels[..batch]),
            ],
            Content::Tokens(tokens, labels) => [
                TensorRef::Int(&tokens[..count]),
                TensorRef::Int(&labels[..count]),
            ],
        }
    }

    /// The class labels of the batch, or the labels of all its tokens.
    pub(crate) fn classes(&self, batch: usize) -> Option<&[i32]> {
        match &self.content {
            Content::Classes(_, labels) => Some(&labels[..batch]),
            Content::Tokens(_, labels) => Some(&labels[..batch * self.width]),
            Content::Values(..) => None,
        }
    }
}
