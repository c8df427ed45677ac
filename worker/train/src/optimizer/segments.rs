//! Which elements of the arenas are updated at which learning rate, with which weight decay.

use std::ops::Range;

use ringfold_common::job::{IdleGroup, TrainSpec};
use ringfold_compute::ParameterLayout;

use crate::error::TrainError;

/// Elements that are updated alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Where they stand, padding included.
    pub range: Range<usize>,
    /// What the learning rate is multiplied by.
    pub rate_factor: f64,
    /// Their weight decay.
    pub weight_decay: f64,
}

/// One segment a parameter, in the order of the layout. The first group that matches a parameter's
/// name counts; a decay that it does not set is that of the optimizer, which spares parameters of
/// fewer than two dimensions if the job says so.
///
/// # Errors
/// [`TrainError::Group`].
pub fn segments(layout: &ParameterLayout, train: &TrainSpec) -> Result<Vec<Segment>, TrainError> {
    let slots = layout.slots();
    IdleGroup::check(&train.groups, slots.iter().map(|slot| slot.name.as_str()))?;
    let ends = slots.iter().skip(1).map(|slot| slot.offset);
    let ends = ends.chain([layout.len()]);
    let segment = |(slot, end): (&ringfold_compute::ParameterSlot, usize)| {
        let group = train.groups.iter().find(|group| group.matches(&slot.name));
        let spared = !train.decay_biases && slot.shape.len() < 2;
        let decay = if spared {
            0.0
        } else {
            train.optimizer.weight_decay()
        };
        Segment {
            range: slot.offset..end,
            rate_factor: group.map_or(1.0, |group| group.learning_rate_factor),
            weight_decay: group.and_then(|group| group.weight_decay).unwrap_or(decay),
        }
    };
    Ok(slots.iter().zip(ends).map(segment).collect())
}

/// Neighbours that are updated alike, joined: a job without groups has one segment.
pub(super) fn merged(parameters: Vec<Segment>) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in parameters {
        match merged.last_mut() {
            Some(last)
                if last.rate_factor == segment.rate_factor
                    && last.weight_decay == segment.weight_decay =>
            {
                last.range.end = segment.range.end;
            }
            _ => merged.push(segment),
        }
    }
    merged
}
