//! Where buffers stand in one workspace: disjoint ranges for buffers that are alive together.

use std::collections::BTreeMap;

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
    /// The elements, with padding, that are alive during one call at most: `len` can't be less.
    pub alive_max: usize,
}

/// How often the buffer at the end of the workspace is placed earlier, for each order.
const PROMOTIONS_MAX: usize = 48;

/// Places buffers one after another, each in the lowest gap that is free during its whole life.
///
/// The order decides how well they pack, and none is always best. Three are tried: the largest first;
/// those alive in the fullest calls first (greedy by size and by breadth: Pisarchyk, Lee: "Efficient
/// memory management for deep neural net inference", 2020); the earliest first. In each, the buffer
/// that ends last is moved to the front, again and again, as long as that is allowed. It ends early
/// where no more is taken than what is alive at once.
///
/// # Errors
/// [`ComputeError::TooLarge`].
pub fn place<T: Element>(buffers: &[Buffer]) -> Result<Placement, ComputeError> {
    let sizes = buffers.iter().map(|buffer| padded::<T>(buffer.len));
    let sizes: Option<Vec<usize>> = sizes.collect();
    let sizes = sizes.ok_or_else(too_large)?;
    let alive = alive(buffers, &sizes).ok_or_else(too_large)?;
    let alive_max = alive.values().copied().max().unwrap_or(0);
    let fullest = |i: usize| {
        let calls = alive.range(..=buffers[i].last).rev();
        // Up to the call at or before the first: what is alive changes only where it is listed.
        let mut most = 0;
        for (&call, &alive) in calls {
            most = most.max(alive);
            if call <= buffers[i].first {
                break;
            }
        }
        most
    };
    let fullest: Vec<usize> = (0..buffers.len()).map(fullest).collect();
    let sorted = |key: &dyn Fn(usize) -> [usize; 2]| -> Vec<usize> {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&i| (key(i), i));
        order
    };
    let descending = |n: usize| usize::MAX - n;
    let orders = [
        sorted(&|i| [descending(sizes[i]), buffers[i].first]),
        sorted(&|i| [descending(fullest[i]), descending(sizes[i])]),
        sorted(&|i| [buffers[i].first, descending(sizes[i])]),
    ];
    let mut best: Option<(Vec<usize>, usize)> = None;
    for mut order in orders {
        for _ in 0..=PROMOTIONS_MAX {
            let (offsets, len) = place_in_order(buffers, &sizes, &order)?;
            let last = order.iter().position(|&i| offsets[i] + sizes[i] == len);
            if best.as_ref().is_none_or(|(_, best)| len < *best) {
                best = Some((offsets, len));
            }
            match last {
                Some(position) if len > alive_max && position > 0 => {
                    order[..=position].rotate_right(1);
                }
                _ => break,
            }
        }
        if best.as_ref().is_some_and(|(_, len)| *len == alive_max) {
            break;
        }
    }
    let found = best.filter(|(_, len)| *len <= ARENA_ELEMENTS_MAX);
    let (offsets, len) = found.ok_or_else(too_large)?;
    Ok(Placement {
        offsets,
        len,
        alive_max,
    })
}

fn too_large() -> ComputeError {
    ComputeError::TooLarge {
        what: "the workspace",
        elements_max: ARENA_ELEMENTS_MAX,
    }
}

/// What is alive from each call on at which it changes; `None` if it overflows.
fn alive(buffers: &[Buffer], sizes: &[usize]) -> Option<BTreeMap<usize, usize>> {
    // By call: what comes alive and what has died.
    let mut changes: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (buffer, &size) in buffers.iter().zip(sizes) {
        let born = &mut changes.entry(buffer.first).or_default().0;
        *born = born.checked_add(size)?;
        let died = &mut changes.entry(buffer.last + 1).or_default().1;
        *died = died.checked_add(size)?;
    }
    let mut alive = 0usize;
    let mut by_call = BTreeMap::new();
    for (call, (born, died)) in changes {
        alive = (alive - died).checked_add(born)?;
        by_call.insert(call, alive);
    }
    Some(by_call)
}

/// The offsets and the length of the workspace.
fn place_in_order(
    buffers: &[Buffer],
    sizes: &[usize],
    order: &[usize],
) -> Result<(Vec<usize>, usize), ComputeError> {
    let mut offsets = vec![0; buffers.len()];
    let mut len = 0;
    // Placed buffers as (offset, end, buffer), sorted by offset.
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    for &i in order {
        let size = sizes[i];
        let mut offset = 0usize;
        for &(other_offset, other_end, other) in &placed {
            if !buffers[i].is_alive_with(&buffers[other]) {
                continue;
            }
            if offset.checked_add(size).ok_or_else(too_large)? <= other_offset {
                break;
            }
            offset = offset.max(other_end);
        }
        let end = offset.checked_add(size).ok_or_else(too_large)?;
        offsets[i] = offset;
        len = len.max(end);
        let at = placed.partition_point(|&(start, ..)| start <= offset);
        placed.insert(at, (offset, end, i));
    }
    Ok((offsets, len))
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
            let alive = |call: usize| -> usize {
                let alive = buffers.iter().filter(|b| (b.first..=b.last).contains(&call));
                alive.map(|b| padded::<f32>(b.len).unwrap()).sum()
            };
            prop_assert_eq!(placement.alive_max, (0..50).map(alive).max().unwrap());
            prop_assert!(placement.len >= placement.alive_max);
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
