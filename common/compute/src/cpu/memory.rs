//! The memories of one run, and how a kernel borrows from them.

use super::kernels::Source;
use crate::backend::TensorRef;
use crate::element::Element;
use crate::plan::{Place, Space};

/// Everything that a run reads and writes.
pub(crate) struct Memory<'a, T> {
    pub workspace: &'a mut [T],
    pub gradients: &'a mut [T],
    pub parameters: &'a [T],
    pub inputs: &'a [TensorRef<'a, T>],
    pub loss_scale: T,
}

/// What remains readable while a result is borrowed: each written memory in two parts, before and
/// after the result.
pub(crate) struct Operands<'a, T> {
    workspace: Split<'a, T>,
    gradients: Split<'a, T>,
    parameters: &'a [T],
    inputs: &'a [TensorRef<'a, T>],
    loss_scale: &'a T,
    result: Place,
}

/// A memory without the range that is being written.
struct Split<'a, T> {
    before: &'a [T],
    after: &'a [T],
    /// The offset of `after` in the memory.
    after_start: usize,
}

impl<'a, T> Split<'a, T> {
    fn whole(slice: &'a [T]) -> Self {
        Self {
            after_start: slice.len(),
            before: slice,
            after: &[],
        }
    }

    /// Splits off the range of `place`.
    fn around(slice: &'a mut [T], place: Place) -> (&'a mut [T], Self) {
        let (before, rest) = slice.split_at_mut(place.offset);
        let (result, after) = rest.split_at_mut(place.len);
        let split = Self {
            before,
            after,
            after_start: place.offset + place.len,
        };
        (result, split)
    }

    fn get(&self, place: Place) -> &'a [T] {
        if place.offset >= self.after_start {
            let start = place.offset - self.after_start;
            &self.after[start..start + place.len]
        } else {
            &self.before[place.offset..place.offset + place.len]
        }
    }
}

impl<T: Element> Memory<'_, T> {
    /// The result's elements to write, and everything else to read.
    ///
    /// # Panics
    /// If `result` isn't in the workspace or the gradients, or lies outside.
    pub(crate) fn borrow(&mut self, result: Place) -> (&mut [T], Operands<'_, T>) {
        let (slice, workspace, gradients) = match result.space {
            Space::Workspace => {
                let (slice, workspace) = Split::around(self.workspace, result);
                (slice, workspace, Split::whole(self.gradients))
            }
            Space::Gradients => {
                let (slice, gradients) = Split::around(self.gradients, result);
                (slice, Split::whole(self.workspace), gradients)
            }
            space => unreachable!("a plan writes to {space:?}"),
        };
        let operands = Operands {
            workspace,
            gradients,
            parameters: self.parameters,
            inputs: self.inputs,
            loss_scale: &self.loss_scale,
            result,
        };
        (slice, operands)
    }
}

impl<'a, T: Element> Operands<'a, T> {
    /// An operand that stands apart from the result.
    ///
    /// # Panics
    /// If it overlaps the result or isn't a float; the planner and the check of inputs exclude both.
    pub(crate) fn slice(&self, place: Place) -> &'a [T] {
        match place.space {
            Space::Workspace => self.workspace.get(place),
            Space::Gradients => self.gradients.get(place),
            Space::Parameters => &self.parameters[place.offset..place.offset + place.len],
            Space::LossScale => std::slice::from_ref(self.loss_scale),
            Space::Input(input) => match self.inputs[input] {
                TensorRef::Float(slice) => slice,
                TensorRef::Int(_) => unreachable!("input {input} was checked to be of floats"),
            },
        }
    }

    /// An operand that may stand in the result's place.
    pub(crate) fn source(&self, place: Place) -> Source<'a, T> {
        if place == self.result {
            Source::InPlace
        } else {
            Source::Apart(self.slice(place))
        }
    }

    /// An operand of one element.
    pub(crate) fn scalar(&self, place: Place) -> T {
        self.slice(place)[0]
    }

    /// An operand of integers.
    pub(crate) fn labels(&self, place: Place) -> &'a [i32] {
        match place.space {
            Space::Input(input) => match self.inputs[input] {
                TensorRef::Int(slice) => slice,
                TensorRef::Float(_) => unreachable!("input {input} was checked to be of integers"),
            },
            space => unreachable!("labels are inputs, not in {space:?}"),
        }
    }
}
