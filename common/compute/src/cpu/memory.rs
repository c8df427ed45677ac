//! The memories of one run, and how a kernel borrows from them.

use std::ops::Range;

use ringfold_graph::DType;

use super::kernel::Write;
use super::kernels::Source;
use super::view::{view, view_mut};
use crate::backend::TensorRef;
use crate::element::Element;
use crate::plan::{Place, Space};

/// The most ranges that one instruction writes: results and scratch.
pub(crate) const WRITES_MAX: usize = 8;

/// Everything that a run reads and writes.
pub(crate) struct Memory<'a, T> {
    pub workspace: &'a mut [T],
    /// The gradients from element `gradients_from` on: those before have been handed over.
    pub gradients: &'a mut [T],
    pub gradients_from: usize,
    pub parameters: &'a [T],
    pub state: &'a [T],
    pub constants: &'a [T],
    pub inputs: &'a [TensorRef<'a, T>],
    pub loss_scale: T,
}

/// What an instruction writes: its results, then its scratch.
pub(crate) struct Results<'a, T> {
    slices: [&'a mut [T]; WRITES_MAX],
    places: &'a [Place],
}

/// What remains readable while results are borrowed.
pub(crate) struct Operands<'a, T> {
    workspace: Rest<'a, T>,
    gradients: Rest<'a, T>,
    parameters: &'a [T],
    state: &'a [T],
    constants: &'a [T],
    inputs: &'a [TensorRef<'a, T>],
    loss_scale: &'a T,
    places: &'a [Place],
    result: Place,
}

/// A memory without the ranges that are being written: each part with its offset.
struct Rest<'a, T> {
    parts: [(usize, &'a [T]); WRITES_MAX + 1],
    count: usize,
}

impl<'a, T: Element> Rest<'a, T> {
    /// Splits the ranges of `writes` that lie in `space` off the memory, which begins at element
    /// `from` of it; they are sorted.
    fn split(
        (from, mut memory): (usize, &'a mut [T]),
        space: Space,
        writes: &[Write],
        results: &mut [&'a mut [T]; WRITES_MAX],
    ) -> Self {
        let mut rest = Self {
            parts: [(0, &[]); WRITES_MAX + 1],
            count: 0,
        };
        let mut start = from;
        for write in writes.iter().filter(|write| write.place.space == space) {
            let (before, after) = memory.split_at_mut(write.place.offset - start);
            let extent = write.place.extent::<T>();
            let (result, after) = after.split_at_mut(extent);
            rest.push(start, before);
            results[write.result] = result;
            start = write.place.offset + extent;
            memory = after;
        }
        rest.push(start, memory);
        rest
    }

    fn push(&mut self, start: usize, part: &'a [T]) {
        self.parts[self.count] = (start, part);
        self.count += 1;
    }

    fn get(&self, offset: usize, extent: usize) -> &'a [T] {
        let parts = self.parts[..self.count].iter().rev();
        let mut found = parts.skip_while(|(start, _)| *start > offset);
        let &(start, part) = found.next().unwrap_or(&self.parts[0]);
        &part[offset - start..offset - start + extent]
    }
}

impl<T: Element> Memory<'_, T> {
    /// Zeros a range of the gradients.
    pub(crate) fn clear_gradients(&mut self, range: Range<usize>) {
        let from = self.gradients_from;
        self.gradients[range.start - from..range.end - from].fill(T::ZERO);
    }

    /// The ranges to write, and everything else to read.
    ///
    /// # Panics
    /// If a range isn't in the workspace or the gradients, lies outside, or overlaps another.
    pub(crate) fn borrow<'b>(
        &'b mut self,
        writes: &[Write],
        results: &'b [Place],
        operands: &'b [Place],
    ) -> (Results<'b, T>, Operands<'b, T>) {
        let mut slices: [&mut [T]; WRITES_MAX] = std::array::from_fn(|_| &mut [] as &mut [T]);
        let workspace = Rest::split((0, self.workspace), Space::Workspace, writes, &mut slices);
        let gradients = (self.gradients_from, &mut *self.gradients);
        let gradients = Rest::split(gradients, Space::Gradients, writes, &mut slices);
        let operands = Operands {
            workspace,
            gradients,
            parameters: self.parameters,
            state: self.state,
            constants: self.constants,
            inputs: self.inputs,
            loss_scale: &self.loss_scale,
            places: operands,
            result: results[0],
        };
        let results = Results {
            slices,
            places: results,
        };
        (results, operands)
    }
}

impl<'a, T: Element> Results<'a, T> {
    /// The floats of a result, once.
    pub(crate) fn take(&mut self, result: usize) -> &'a mut [T] {
        std::mem::take(&mut self.slices[result])
    }

    /// The kernel's own room.
    pub(crate) fn scratch(&mut self) -> &'a mut [T] {
        self.take(self.places.len())
    }

    /// The truth values of a result, once.
    pub(crate) fn bools(&mut self, result: usize) -> &'a mut [u8] {
        let len = self.places[result].len;
        view_mut(self.take(result), len)
    }

    /// The integers of a result, once.
    pub(crate) fn ints(&mut self, result: usize) -> &'a mut [i32] {
        let len = self.places[result].len;
        view_mut(self.take(result), len)
    }

    /// The long integers of a result, once.
    pub(crate) fn longs(&mut self, result: usize) -> &'a mut [i64] {
        let len = self.places[result].len;
        view_mut(self.take(result), len)
    }
}

/// An operand of integers.
#[derive(Clone, Copy, Debug)]
pub enum Index<'a> {
    /// Of 32 bits.
    Int(&'a [i32]),
    /// Of 64 bits.
    Long(&'a [i64]),
}

impl Index<'_> {
    /// The integer at `i`.
    #[must_use]
    #[inline(always)]
    pub fn at(&self, i: usize) -> i64 {
        match self {
            Self::Int(slice) => i64::from(slice[i]),
            Self::Long(slice) => slice[i],
        }
    }

    /// The number of integers.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Int(slice) => slice.len(),
            Self::Long(slice) => slice.len(),
        }
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// What an operand is has been verified, and inputs have been checked: the panics below can't happen.
impl<'a, T: Element> Operands<'a, T> {
    /// The number of operands.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    fn memory(&self, place: Place) -> &'a [T] {
        let range = place.offset..place.offset + place.extent::<T>();
        match place.space {
            Space::Workspace => self.workspace.get(place.offset, range.len()),
            Space::Gradients => self.gradients.get(place.offset, range.len()),
            Space::Parameters => &self.parameters[range],
            Space::State => &self.state[range],
            Space::Constants => &self.constants[range],
            Space::LossScale => std::slice::from_ref(self.loss_scale),
            Space::Input(input) => match self.inputs[input] {
                TensorRef::Float(slice) => slice,
                _ => unreachable!("input {input} was checked to be of floats"),
            },
        }
    }

    /// A float operand that stands apart from the results.
    ///
    /// # Panics
    /// If it overlaps a result; the planner excludes it.
    pub(crate) fn slice(&self, operand: usize) -> &'a [T] {
        self.memory(self.places[operand])
    }

    /// A float operand that may stand in the first result's place.
    pub(crate) fn source(&self, operand: usize) -> Source<'a, T> {
        if self.places[operand] == self.result {
            Source::InPlace
        } else {
            Source::Apart(self.slice(operand))
        }
    }

    /// A float operand of one element.
    pub(crate) fn scalar(&self, operand: usize) -> T {
        self.slice(operand)[0]
    }

    /// An operand of truth values.
    pub(crate) fn bools(&self, operand: usize) -> &'a [u8] {
        let place = self.places[operand];
        match place.space {
            Space::Input(input) => match self.inputs[input] {
                TensorRef::Bool(slice) => slice,
                _ => unreachable!("input {input} was checked to be of truth values"),
            },
            _ => view(self.memory(place), place.len),
        }
    }

    /// An operand of integers.
    pub(crate) fn index(&self, operand: usize) -> Index<'a> {
        let place = self.places[operand];
        match (place.space, place.dtype) {
            (Space::Input(input), _) => match self.inputs[input] {
                TensorRef::Int(slice) => Index::Int(slice),
                TensorRef::Long(slice) => Index::Long(slice),
                _ => unreachable!("input {input} was checked to be of integers"),
            },
            (_, DType::I32) => Index::Int(view(self.memory(place), place.len)),
            _ => Index::Long(view(self.memory(place), place.len)),
        }
    }

    /// The type of an operand's elements.
    pub(crate) fn dtype(&self, operand: usize) -> DType {
        self.places[operand].dtype
    }
}
