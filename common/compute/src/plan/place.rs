//! Where buffers stand: disjoint ranges for buffers that are alive together.
//!
//! There are two memories. A gradient arena is written from front to back as the backward part goes
//! on; what lies in a gradient's range before it is written would be idle, so it is *lent*: a buffer
//! that is dead by then may stand there. What doesn't fit stands in the workspace.

use std::collections::BTreeMap;
use std::ops::Range;

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

/// A memory whose ranges are lent until they are needed: the gradient arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lender {
    /// Its length in elements, aligned.
    pub len: usize,
    /// Its ranges in order, disjoint and together all of it: the first element of each, aligned, and
    /// the call from which on the range is the lender's own.
    pub ranges: Vec<(usize, usize)>,
}

/// Where a buffer stands: its first element, aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// In the workspace.
    Own(usize),
    /// In the lender.
    Lent(usize),
}

/// Where buffers stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// By buffer: where it stands.
    pub spots: Vec<Spot>,
    /// The length of the workspace in elements.
    pub len: usize,
    /// A bound: what is alive during one call, with padding, less what the lender has then, can't be
    /// less at any call.
    pub len_min: usize,
    /// The call during which the most elements are alive, those of the lender's own included.
    pub fullest: usize,
}

/// How often the buffer at the end of the workspace is placed earlier, for each order.
const PROMOTIONS_MAX: usize = 48;

/// Places buffers one after another, each in the lowest gap that is free during its whole life; the
/// lender lies below the workspace.
///
/// The order decides how well they pack, and none is always best. Three are tried: the largest first;
/// those alive in the fullest calls first (greedy by size and by breadth: Pisarchyk, Lee: "Efficient
/// memory management for deep neural net inference", 2020); the earliest first. In each, the buffer
/// that ends last is moved to the front, again and again, as long as that is allowed. It ends early
/// where no more is taken than the bound.
///
/// # Errors
/// [`ComputeError::TooLarge`].
pub fn place<T: Element>(buffers: &[Buffer], lender: &Lender) -> Result<Placement, ComputeError> {
    let sizes = buffers.iter().map(|buffer| padded::<T>(buffer.len));
    let sizes: Option<Vec<usize>> = sizes.collect();
    let sizes = sizes.ok_or_else(too_large)?;
    let alive = alive(buffers, &sizes, lender).ok_or_else(too_large)?;
    let most = alive.values().copied().max().unwrap_or(0);
    let fullest = alive.iter().find(|(_, alive)| **alive == most);
    let len_min = most.saturating_sub(lender.len);
    let orders = orders(buffers, &sizes, &alive);
    let mut best: Option<(Vec<usize>, usize)> = None;
    for mut order in orders {
        for _ in 0..=PROMOTIONS_MAX {
            let (offsets, end) = place_in_order(buffers, &sizes, lender, &order)?;
            let len = end - lender.len;
            let last = order.iter().position(|&i| offsets[i] + sizes[i] == end);
            if best.as_ref().is_none_or(|(_, best)| len < *best) {
                best = Some((offsets, len));
            }
            match last {
                Some(position) if len > len_min && position > 0 => {
                    order[..=position].rotate_right(1);
                }
                _ => break,
            }
        }
        if best.as_ref().is_some_and(|(_, len)| *len == len_min) {
            break;
        }
    }
    let found = best.filter(|(_, len)| *len <= ARENA_ELEMENTS_MAX);
    let (offsets, len) = found.ok_or_else(too_large)?;
    let spots = offsets
        .into_iter()
        .map(|offset| match offset.checked_sub(lender.len) {
            Some(own) => Spot::Own(own),
            None => Spot::Lent(offset),
        });
    Ok(Placement {
        spots: spots.collect(),
        len,
        len_min,
        fullest: fullest.map_or(0, |(&call, _)| call),
    })
}

/// The orders in which buffers are placed.
fn orders(buffers: &[Buffer], sizes: &[usize], alive: &BTreeMap<usize, usize>) -> [Vec<usize>; 3] {
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
        // What is empty may stand anywhere.
        let mut order: Vec<usize> = (0..buffers.len()).filter(|&i| sizes[i] > 0).collect();
        order.sort_by_key(|&i| (key(i), i));
        order
    };
    let descending = |n: usize| usize::MAX - n;
    [
        sorted(&|i| [descending(sizes[i]), buffers[i].first]),
        sorted(&|i| [descending(fullest[i]), descending(sizes[i])]),
        sorted(&|i| [buffers[i].first, descending(sizes[i])]),
    ]
}

fn too_large() -> ComputeError {
    ComputeError::TooLarge {
        what: "the workspace",
        elements_max: ARENA_ELEMENTS_MAX,
    }
}

/// What is alive from each call on at which it changes, the lender's own included; `None` if it
/// overflows.
fn alive(buffers: &[Buffer], sizes: &[usize], lender: &Lender) -> Option<BTreeMap<usize, usize>> {
    // By call: what comes alive and what has died.
    let mut changes: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (buffer, &size) in buffers.iter().zip(sizes) {
        let born = &mut changes.entry(buffer.first).or_default().0;
        *born = born.checked_add(size)?;
        let died = &mut changes.entry(buffer.last + 1).or_default().1;
        *died = died.checked_add(size)?;
    }
    for (range, from) in lender.owned() {
        let born = &mut changes.entry(from).or_default().0;
        *born = born.checked_add(range.len())?;
    }
    let mut alive = 0usize;
    let mut by_call = BTreeMap::new();
    for (call, (born, died)) in changes {
        alive = (alive - died).checked_add(born)?;
        by_call.insert(call, alive);
    }
    Some(by_call)
}

impl Lender {
    /// Each range, and the call from which on it is the lender's own.
    fn owned(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let ends = self.ranges.iter().skip(1).map(|&(start, _)| start);
        let ends = ends.chain([self.len]);
        let ranges = self.ranges.iter().zip(ends);
        ranges.map(|(&(start, from), end)| (start..end, from))
    }
}

/// The offsets, counted from the lender's first element on, and the end of all buffers, at least that
/// of the lender.
fn place_in_order(
    buffers: &[Buffer],
    sizes: &[usize],
    lender: &Lender,
    order: &[usize],
) -> Result<(Vec<usize>, usize), ComputeError> {
    let mut offsets = vec![0; buffers.len()];
    let mut end_max = lender.len;
    // What is taken as (offset, end, first call, last call), sorted by offset.
    let owned = lender.owned();
    let mut placed: Vec<(usize, usize, usize, usize)> = owned
        .map(|(range, from)| (range.start, range.end, from, usize::MAX))
        .collect();
    for &i in order {
        let (buffer, size) = (&buffers[i], sizes[i]);
        let mut offset = 0usize;
        for &(other_offset, other_end, first, last) in &placed {
            if buffer.first > last || first > buffer.last {
                continue;
            }
            offset = within(offset, size, lender)?;
            if offset.checked_add(size).ok_or_else(too_large)? <= other_offset {
                break;
            }
            offset = offset.max(other_end);
        }
        offset = within(offset, size, lender)?;
        let end = offset.checked_add(size).ok_or_else(too_large)?;
        offsets[i] = offset;
        end_max = end_max.max(end);
        let at = placed.partition_point(|&(start, ..)| start <= offset);
        placed.insert(at, (offset, end, buffer.first, buffer.last));
    }
    Ok((offsets, end_max))
}

/// `offset`, or the start of the workspace if a buffer there would reach out of the lender.
fn within(offset: usize, size: usize, lender: &Lender) -> Result<usize, ComputeError> {
    let end = offset.checked_add(size).ok_or_else(too_large)?;
    let straddles = offset < lender.len && end > lender.len;
    Ok(if straddles { lender.len } else { offset })
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

    /// Ranges that are the lender's own from later and later calls on, as gradients are.
    fn lender() -> impl Strategy<Value = Lender> {
        let range = (1usize..20, 0usize..12);
        proptest::collection::vec(range, 0..8).prop_map(|ranges| {
            let (mut len, mut from) = (0, 0);
            let ranges = ranges.into_iter().map(|(lines, calls)| {
                let start = len;
                len += lines * 16;
                from += calls;
                (start, from)
            });
            let ranges = ranges.collect();
            Lender { len, ranges }
        })
    }

    proptest! {
        #[test]
        fn buffers_alive_together_are_disjoint(buffers in buffers(), lender in lender()) {
            let placement = place::<f32>(&buffers, &lender).unwrap();
            let size = |b: &Buffer| padded::<f32>(b.len).unwrap();
            let alive = |call: usize| -> usize {
                let alive = buffers.iter().filter(|b| (b.first..=b.last).contains(&call));
                let own = lender.owned().filter(|(_, from)| *from <= call);
                alive.map(size).sum::<usize>() + own.map(|(range, _)| range.len()).sum::<usize>()
            };
            let most = (0..200).map(alive).max().unwrap();
            prop_assert_eq!(placement.len_min, most.saturating_sub(lender.len));
            prop_assert_eq!(alive(placement.fullest), most);
            prop_assert!(placement.len >= placement.len_min);
            // A lender never costs: without it the workspace is as large at least.
            let apart = place::<f32>(&buffers, &Lender::default()).unwrap();
            prop_assert!(placement.len_min <= apart.len);
            prop_assert!(placement.len <= buffers.iter().map(size).sum());
            for (i, a) in buffers.iter().enumerate() {
                let start = match placement.spots[i] {
                    Spot::Own(start) => {
                        prop_assert!(start + a.len <= placement.len);
                        start
                    }
                    Spot::Lent(start) => {
                        prop_assert!(start + a.len <= lender.len);
                        for (range, from) in lender.owned() {
                            let apart = start + a.len <= range.start || range.end <= start;
                            prop_assert!(apart || a.last < from, "{} in {:?}", i, range);
                        }
                        start
                    }
                };
                prop_assert_eq!(start % 16, 0);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let (other, same) = match (placement.spots[i], placement.spots[j]) {
                        (Spot::Own(_), Spot::Own(other)) => (other, true),
                        (Spot::Lent(_), Spot::Lent(other)) => (other, true),
                        _ => (0, false),
                    };
                    let disjoint = !same || start + a.len <= other || other + b.len <= start;
                    prop_assert!(disjoint || !a.is_alive_with(b), "{} {}", i, j);
                }
            }
        }
    }

    fn life(first: usize, last: usize) -> Buffer {
        Buffer {
            len: 16,
            first,
            last,
        }
    }

    #[test]
    fn a_dead_buffer_is_used_again() {
        let buffers = [life(0, 1), life(1, 2), life(2, 3)];
        let placement = place::<f32>(&buffers, &Lender::default()).unwrap();
        assert_eq!(placement.spots, [0, 16, 0].map(Spot::Own));
        assert_eq!(placement.len, 32);
    }

    #[test]
    fn what_is_lent_is_given_back_in_time() {
        let lender = Lender {
            len: 32,
            ranges: vec![(0, 1), (16, 2)],
        };
        let placement = place::<f32>(&[life(0, 0), life(0, 1), life(0, 2)], &lender).unwrap();
        let expected = [Spot::Lent(0), Spot::Lent(16), Spot::Own(0)];
        assert_eq!(placement.spots, expected);
        assert_eq!((placement.len, placement.len_min), (16, 16));
    }

    #[test]
    fn a_workspace_has_a_limit() {
        let huge = Buffer {
            len: ARENA_ELEMENTS_MAX,
            first: 0,
            last: 1,
        };
        let alone = Lender::default();
        assert!(place::<f32>(&[huge], &alone).is_ok());
        assert!(matches!(
            place::<f32>(&[huge, huge], &alone),
            Err(ComputeError::TooLarge { .. })
        ));
    }
}
