//! Where buffers stand in one workspace: disjoint ranges for buffers that are alive together.

use crate::buffer::{ARENA_ELEMENTS_MAX, padded};
use crate::element::Element;
use crate::error::ComputeError;

/// A buffer and the calls during which it is alive, both ends included: an operand and a result
/// of one call are alive together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Elements.
    pub len: usize,
    /// The call that defines it.
    pub first: usize,
    /// The last call that reads it.
    pub last: usize,
}

impl Buffer {
    /// True if a call exists during which both are alive.
    #[must_use]
    pub fn is_alive_with(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where buffers stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// By buffer: its first element, aligned.
    pub offsets: Vec<usize>,
    /// The length of the workspace in elements.
    pub len: usize,
}

/// Places the largest buffers first, each in the lowest gap that is free during its whole life.
///
/// # Errors
/// [`ComputeError::TooLarge`].
pub fn place<T: Element>(buffers: &[Buffer]) -> Result<Placement, ComputeError> {
    let too_large = || ComputeError::TooLarge {
        what: "the workspace",
        elements_max: ARENA_ELEMENTS_MAX,
    };
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].len), buffers[i].first, i));
    let mut offsets = vec![0; buffers.len()];
    let mut len = 0;
    // Placed buffers as (offset, end, buffer), sorted by offset.
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    for i in order {
        let size = padded::<T>(buffers[i].len).ok_or_else(too_large)?;
        let mut offset = 0usize;
        for &(other_offset, other_end, other) in &placed {
            if !buffers[i].is_alive_with(&buffers[other]) {
                continue;
            }
            if offset + size <= other_offset {
                break;
            }
            offset = offset.max(other_end);
        }
        let end = offset
            .checked_add(size)
            .filter(|&end| end <= ARENA_ELEMENTS_MAX)
            .ok_or_else(too_large)?;
        offsets[i] = offset;
        len = len.max(end);
        let at = placed.partition_point(|&(start, ..)| start <= offset);
        placed.insert(at, (offset, end, i));
    }
    Ok(Placement { offsets, len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buffers() -> impl Strategy<Value = Vec<Buffer>> {
        let buffer = (1usize..200, 0usize..30, 0usize..10).prop_map(|(len, first, life)| Buffer {
            len,
            first,
            last: first + life,
        });
        proptest::collection::vec(buffer, 0..60)
    }

    proptest! {
        #[test]
        fn buffers_alive_together_are_disjoint(buffers in buffers()) {
            let placement = place::<f32>(&buffers).unwrap();
            for (i, a) in buffers.iter().enumerate() {
                let start = placement.offsets[i];
                prop_assert_eq!(start % 16, 0);
                prop_assert!(start + a.len <= placement.len);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let other = placement.offsets[j];
                    let disjoint = start + a.len <= other || other + b.len <= start;
                    prop_assert!(disjoint || !a.is_alive_with(b), "{} {}", i, j);
                }
            }
        }
    }

    #[test]
    fn a_dead_buffer_is_used_again() {
        let life = |first, last| Buffer {
            len: 16,
            first,
            last,
        };
        let placement = place::<f32>(&[life(0, 1), life(1, 2), life(2, 3)]).unwrap();
        assert_eq!(placement.offsets, [0, 16, 0]);
        assert_eq!(placement.len, 32);
    }

    #[test]
    fn a_workspace_has_a_limit() {
        let huge = Buffer {
            len: ARENA_ELEMENTS_MAX,
            first: 0,
            last: 1,
        };
        assert!(place::<f32>(&[huge]).is_ok());
        assert!(matches!(
            place::<f32>(&[huge, huge]),
            Err(ComputeError::TooLarge { .. })
        ));
    }
}
