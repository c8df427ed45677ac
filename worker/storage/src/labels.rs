//! Labels: class names that are found while files are read or known from a model, or numbers.

use std::collections::HashMap;

use ringfold_common::dataset::Target;
use ringfold_common::job::Loss;

use crate::error::{FieldPlace, StorageError};
use crate::limits::Limits;
use crate::records::Labels;

/// What becomes of label fields.
#[derive(Debug)]
pub(crate) enum LabelKind<'a> {
    /// Each new text is a new class.
    Find(FoundClasses),
    /// Each text is a class of a model.
    Known(KnownClasses<'a>),
    /// Each is a number.
    Values,
    /// Each is a number that the loss takes.
    Bounded(Loss),
}

impl<'a> LabelKind<'a> {
    /// For training under `loss`.
    pub fn of_loss(loss: Loss) -> Self {
        if loss.takes_classes() {
            Self::Find(FoundClasses::default())
        } else if loss.labels_expected().is_some() {
            Self::Bounded(loss)
        } else {
            Self::Values
        }
    }

    /// For a model trained to predict `target`.
    pub fn of_target(target: &'a Target) -> Self {
        match target {
            Target::Classes(names) => Self::Known(KnownClasses::new(names)),
            // Tokens have no label fields: they are read elsewhere.
            Target::Values(_) | Target::Tokens(_) => Self::Values,
        }
    }

    /// No labels yet.
    pub fn no_labels(&self) -> Labels {
        match self {
            Self::Find(_) | Self::Known(_) => Labels::Classes(Vec::new()),
            Self::Values | Self::Bounded(_) => Labels::Values(Vec::new()),
        }
    }
}

/// The distinct labels seen so far, in the order of their first record.
#[derive(Debug, Default)]
pub(crate) struct FoundClasses {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl FoundClasses {
    /// The number of `label` in the order of first records. `place` is called for an error.
    pub fn number(
        &mut self,
        label: &str,
        limits: &Limits,
        place: impl FnOnce() -> Box<FieldPlace>,
    ) -> Result<u32, StorageError> {
        if let Some(&number) = self.numbers.get(label) {
            return Ok(number);
        }
        if self.names.len() >= limits.classes_max {
            return Err(StorageError::TooManyClasses {
                place: place(),
                classes_max: limits.classes_max,
            });
        }
        let number = self.names.len() as u32;
        self.numbers.insert(label.to_owned(), number);
        self.names.push(label.to_owned());
        Ok(number)
    }

    /// The class names in their final order (as integers if all are integers, else by bytes), and
    /// for each number of [`Self::number`] the position in it.
    pub fn sorted(self) -> (Vec<String>, Vec<u32>) {
        let integers: Option<Vec<i64>> = self.names.iter().map(|name| name.parse().ok()).collect();
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        match integers {
            // `1` and `01` are two classes, told apart by their bytes.
            Some(integers) => order.sort_unstable_by_key(|&n| (integers[n], &self.names[n])),
            None => order.sort_unstable_by_key(|&n| &self.names[n]),
        }
        let mut positions = vec![0; order.len()];
        for (position, &number) in order.iter().enumerate() {
            positions[number] = position as u32;
        }
        let names = order.iter().map(|&n| self.names[n].clone()).collect();
        (names, positions)
    }
}

/// The classes of a trained model.
#[derive(Debug)]
pub(crate) struct KnownClasses<'a> {
    names: &'a [String],
    numbers: HashMap<&'a str, u32>,
}

/// Class names that an error shows.
const SHOWN_CLASSES_MAX: usize = 10;

impl<'a> KnownClasses<'a> {
    fn new(names: &'a [String]) -> Self {
        let numbers = names.iter().zip(0..);
        Self {
            names,
            numbers: numbers.map(|(name, n)| (name.as_str(), n)).collect(),
        }
    }

    /// The class number of `label`. `place` is called for an error.
    pub fn number(
        &self,
        label: &str,
        place: impl FnOnce() -> Box<FieldPlace>,
    ) -> Result<u32, StorageError> {
        let number = self.numbers.get(label).copied();
        number.ok_or_else(|| StorageError::UnknownLabel {
            place: place(),
            label: label.to_owned(),
            known: self.names.iter().take(SHOWN_CLASSES_MAX).cloned().collect(),
            classes: self.names.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(labels: &[&str]) -> (Vec<String>, Vec<u32>) {
        let mut found = FoundClasses::default();
        for label in labels {
            let number = found.number(label, &Limits::default(), || unreachable!());
            number.unwrap();
        }
        found.sorted()
    }

    #[test]
    fn integers_sort_as_numbers_and_text_by_bytes() {
        let (names, positions) = sorted(&["10", "9", "-1", "9", "09"]);
        assert_eq!(names, ["-1", "09", "9", "10"]);
        assert_eq!(positions, [3, 2, 0, 1]);
        let (names, _) = sorted(&["10", "9", "b", "B", "é"]);
        assert_eq!(names, ["10", "9", "B", "b", "é"]);
    }
}
