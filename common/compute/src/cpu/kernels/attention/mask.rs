//! What is added to scores, and which are left out.

use ringfold_graph::DType;

use super::geometry::Geometry;
use crate::cpu::kernels::broadcast::strides_to;
use crate::cpu::memory::Operands;
use crate::element::Element;
use crate::plan::Call;

/// How the mask lies.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    pub(super) operand: usize,
    /// By head of queries, counted over all parts: its first element.
    pub(super) first: Vec<usize>,
    /// From one query to the next.
    pub(super) row: usize,
    /// From one key to the next, 0 or 1.
    pub(super) step: usize,
    pub(super) is_bool: bool,
}

/// A mask's elements.
#[derive(Clone, Copy)]
pub(super) enum MaskData<'a, T> {
    None,
    Float(&'a [T]),
    Bool(&'a [u8]),
}

impl Mask {
    pub(super) fn new(geometry: &Geometry, call: &Call, operand: usize) -> Self {
        let mask = &call.operands[operand];
        // [.., heads, queries, keys]: leading dimensions are those of the first operand.
        let shape = &call.operands[0].shape;
        let behind = if geometry.packed { 2 } else { 3 };
        let mut to = shape[..shape.len() - behind].to_vec();
        let all = geometry.parts * geometry.heads();
        let heads = match geometry.packed {
            true => geometry.heads(),
            false => shape[shape.len() - 3],
        };
        to.extend([heads, geometry.queries, geometry.keys]);
        let strides = strides_to(&mask.shape, &to);
        let outer = to.len() - 2;
        let first = (0..all).map(|mut head| {
            let mut at = 0;
            for axis in (0..outer).rev() {
                at += head % to[axis] * strides[axis];
                head /= to[axis];
            }
            at
        });
        Self {
            operand,
            first: first.collect(),
            row: strides[outer],
            step: strides[outer + 1],
            is_bool: mask.place.dtype == DType::Bool,
        }
    }

    /// The element of a head's query and key.
    pub(super) fn at(mask: Option<&Self>, head: usize, query: usize, key: usize) -> usize {
        mask.map_or(0, |mask| {
            mask.first[head] + query * mask.row + key * mask.step
        })
    }

    /// From one query to the next, and from one key to the next.
    pub(super) fn strides(mask: Option<&Self>) -> (usize, usize) {
        mask.map_or((0, 0), |mask| (mask.row, mask.step))
    }

    pub(super) fn data<'a, T: Element>(
        mask: Option<&Self>,
        operands: &Operands<'a, T>,
    ) -> MaskData<'a, T> {
        match mask {
            None => MaskData::None,
            Some(mask) if mask.is_bool => MaskData::Bool(operands.bools(mask.operand)),
            Some(mask) => MaskData::Float(operands.slice(mask.operand)),
        }
    }
}

/// Adds the mask to the scores of a row.
#[inline(always)]
pub(super) fn add_mask<T: Element>(
    row: &mut [T],
    data: MaskData<'_, T>,
    first: usize,
    step: usize,
) {
    match data {
        MaskData::None => {}
        MaskData::Float(mask) if step == 0 => {
            let number = mask[first];
            row.iter_mut().for_each(|x| *x += number);
        }
        MaskData::Float(mask) => {
            for (x, &number) in row.iter_mut().zip(&mask[first..]) {
                *x += number;
            }
        }
        MaskData::Bool(mask) => {
            let never = T::from_f64(f64::NEG_INFINITY);
            for (i, x) in row.iter_mut().enumerate() {
                *x = T::select(mask[first + i * step] != 0, *x, never);
            }
        }
    }
}
