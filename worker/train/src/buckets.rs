//! Buckets: the messages in which the flat gradient is summed while the rest of it is computed.
//!
//! Gradients stand in the order in which the backward pass finishes them, so a bucket is a range, and
//! buckets are closed in order. They end where parameters do. The first one is small, so that the sum
//! begins early; the last one too, since nothing is left to hide it behind.

use ringfold_compute::ParameterLayout;

/// What part of a bucket the first and the last one are at most, if parameters allow it.
const SMALL: usize = 4;

/// Where buckets end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    ends: Vec<usize>,
}

impl Buckets {
    /// The buckets of a gradient of `layout`, of at most `bytes_max` bytes, those of one parameter
    /// excepted.
    #[must_use]
    pub fn new(layout: &ParameterLayout, bytes_max: usize) -> Self {
        let starts = layout.slots().iter().skip(1).map(|slot| slot.offset);
        let end = (!layout.is_empty()).then_some(layout.len());
        let slot_ends: Vec<usize> = starts.chain(end).collect();
        Self {
            ends: cut(&slot_ends, (bytes_max / size_of::<f32>()).max(1)),
        }
    }

    /// Where each ends, in elements of the gradient.
    #[must_use]
    pub fn ends(&self) -> &[usize] {
        &self.ends
    }

    /// The bytes of the longest.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        let lengths = starts.zip(&self.ends).map(|(start, end)| end - start);
        lengths.max().unwrap_or(0) * size_of::<f32>()
    }
}

/// Some of `ends`, with the last of them, that are `most` apart, but for the first and the last
/// stretch; more only where `ends` are.
fn cut(ends: &[usize], most: usize) -> Vec<usize> {
    let small = (most / SMALL).max(1);
    let mut cuts: Vec<usize> = Vec::new();
    let mut last = 0;
    for &end in ends {
        let start = cuts.last().copied().unwrap_or(0);
        let allowed = if cuts.is_empty() { small } else { most };
        if last > start && end - start > allowed {
            cuts.push(last);
        }
        last = end;
    }
    let Some(&end) = ends.last() else {
        return cuts;
    };
    let start = cuts.last().copied().unwrap_or(0);
    // The first end from which on little is left, if the last stretch isn't little itself.
    let split = ends
        .iter()
        .copied()
        .find(|&at| at > start && end - at <= small);
    cuts.extend(split.filter(|&at| at < end && end - start > small));
    cuts.push(end);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_and_the_last_are_small() {
        let ends: Vec<usize> = (1..=100).map(|i| i * 10).collect();
        assert_eq!(cut(&ends, 200), [50, 250, 450, 650, 850, 950, 1000]);
        assert_eq!(cut(&[10, 3000, 3010, 3020], 200), [10, 3000, 3020]);
        assert_eq!(cut(&[7], 200), [7]);
        assert!(cut(&[], 200).is_empty());
        assert_eq!(cut(&[1, 2, 3], 1), [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn buckets_are_whole_parameters_and_no_longer_than_allowed(
            lengths in proptest::collection::vec(1usize..300, 1..60),
            most in 1usize..1000,
        ) {
            let mut end = 0;
            let ends: Vec<usize> = lengths.iter().map(|len| { end += len; end }).collect();
            let cuts = cut(&ends, most);
            prop_assert_eq!(cuts.last(), ends.last());
            let mut start = 0;
            for &cut in &cuts {
                prop_assert!(cut > start && ends.contains(&cut));
                let alone = ends.iter().filter(|&&end| end > start && end <= cut).count() == 1;
                prop_assert!(alone || cut - start <= most, "{cuts:?}");
                start = cut;
            }
        }
    }
}
