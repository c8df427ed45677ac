//! Sharded evaluation, and the confusion matrix.

use std::collections::BTreeMap;
use std::ops::Range;

use ringfold_common::dataset::Target;
use ringfold_compute::Mode;
use ringfold_graph::models::{DATA_LOSS, LOGITS};
use ringfold_storage::{Records, Scaler};

use crate::error::TrainError;
use crate::network::{Network, Plans};

/// Records in one evaluation run.
pub const EVALUATION_BATCH: usize = 256;

/// Tokens in one evaluation run of text.
pub const EVALUATION_TOKENS: usize = 4096;

/// Runs of at most `batch` records that cover `records`, in order.
///
/// # Panics
/// If `batch` is zero.
pub fn chunks(records: Range<u64>, batch: usize) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = records.end;
    (records.start..end)
        .step_by(batch)
        .map(move |start| start..(start + batch as u64).min(end))
}

/// Sums over evaluated records. Sums of shards add up to those of the whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Records evaluated.
    pub records: f64,
    /// The sum of their losses.
    pub loss: f64,
    /// Labels whose class or token was the most likely one; unset if labels are numbers.
    pub correct: Option<f64>,
    /// Labels of one record: tokens of its context, else 1.
    pub labels_per_record: f64,
    /// True if labels are tokens, whose loss has a perplexity.
    pub of_tokens: bool,
}

impl Sums {
    /// Sums over no record.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        let (counts, of_tokens) = match network.target() {
            Target::Classes(_) => (true, false),
            Target::Values(_) => (false, false),
            Target::Tokens(_) => (true, true),
        };
        Self {
            records: 0.0,
            loss: 0.0,
            correct: counts.then_some(0.0),
            labels_per_record: if of_tokens {
                network.features() as f64
            } else {
                1.0
            },
            of_tokens,
        }
    }

    /// As numbers for an all-reduce.
    #[must_use]
    pub fn to_array(&self) -> [f64; 3] {
        [self.records, self.loss, self.correct.unwrap_or(0.0)]
    }

    /// Takes the sums over all ranks.
    pub fn set_from(&mut self, [records, loss, correct]: [f64; 3]) {
        self.records = records;
        self.loss = loss;
        self.correct = self.correct.map(|_| correct);
    }

    /// `PREFIX_loss`, the mean over labels; `PREFIX_accuracy` for classes and tokens;
    /// `PREFIX_perplexity` = exp(loss) for tokens. Empty without records.
    #[must_use]
    pub fn metrics(&self, prefix: &str) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        if self.records > 0.0 {
            let loss = self.loss / self.records;
            metrics.insert(format!("{prefix}_loss"), loss);
            if self.of_tokens {
                metrics.insert(format!("{prefix}_perplexity"), loss.exp());
            }
            if let Some(correct) = self.correct {
                let labels = self.records * self.labels_per_record;
                metrics.insert(format!("{prefix}_accuracy"), correct / labels);
            }
        }
        metrics
    }
}

/// Evaluates `range` of `records` with parameters and state, and hands every label's true and
/// predicted class or token to `seen`, unless labels are numbers. `go_on` is asked before each run.
///
/// # Errors
/// What a run refuses, and what `go_on` says.
pub fn evaluate(
    plans: &mut Plans,
    network: &Network,
    (parameters, state): (&[f32], &[f32]),
    (records, scaler): (&Records, &Scaler),
    range: Range<u64>,
    mut seen: impl FnMut(usize, usize),
    go_on: impl Fn() -> Result<(), TrainError>,
) -> Result<Sums, TrainError> {
    let mut sums = Sums::new(network);
    for chunk in network.chunks(range) {
        go_on()?;
        let len = (chunk.end - chunk.start) as usize;
        let (plan, workspace, batch) = plans.get(Mode::Evaluation, len);
        batch.gather(len, records, scaler, chunk);
        plan.infer_with_state(workspace, parameters, state, &batch.inputs(len))?;
        let loss = plan
            .scalar(workspace, DATA_LOSS)
            .map_or(f64::NAN, f64::from);
        sums.records += len as f64;
        sums.loss += loss * len as f64;
        let logits = plan.output(workspace, LOGITS);
        if let (Some(correct), Some(logits), Some(classes)) =
            (&mut sums.correct, logits, batch.classes(len))
        {
            let width = logits.len() / classes.len();
            for (row, &class) in logits.chunks_exact(width).zip(classes) {
                let predicted = argmax(row);
                *correct += f64::from(predicted == class as usize);
                seen(class as usize, predicted);
            }
        }
    }
    Ok(sums)
}

/// The position of the greatest element, the first of equals. NaN is never the greatest.
#[must_use]
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, &value) in row.iter().enumerate() {
        if value > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best
}

/// How often each class was predicted as each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// A matrix of zeros.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts one record.
    ///
    /// # Panics
    /// If a class is none.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        assert!(truth < self.classes && predicted < self.classes);
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// Rows are true classes, columns predicted ones.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks(self.classes.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_range() {
        let lengths: Vec<u64> = chunks(10..10 + 600, 256).map(|c| c.end - c.start).collect();
        assert_eq!(lengths, [256, 256, 88]);
        assert_eq!(chunks(5..5, 1).count(), 0);
    }

    #[test]
    fn argmax_takes_the_first_greatest_and_survives_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 1);
    }

    #[test]
    fn a_confusion_matrix_counts_by_row() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(0, 1);
        matrix.add(0, 1);
        matrix.add(1, 1);
        assert_eq!(matrix.rows().collect::<Vec<_>>(), [[0, 2], [0, 1]]);
    }
}
