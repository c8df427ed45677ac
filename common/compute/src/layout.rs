//! Where each parameter stands in the flat parameter and gradient arenas.

use ringfold_graph::{Graph, Initialiser};

use crate::buffer::{ARENA_ELEMENTS_MAX, Arena, padded};
use crate::element::Element;
use crate::error::ComputeError;

/// One parameter in the flat arenas.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSlot {
    /// The name, as in the graph.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The first element in the arena; a multiple of 64 bytes.
    pub offset: usize,
    /// The number of elements, without padding.
    pub len: usize,
    /// How it starts.
    pub initialiser: Initialiser,
}

impl ParameterSlot {
    /// The parameter's elements in an arena, without padding.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// The layout of the parameter and gradient arenas: every parameter once, in gradient-ready order,
/// aligned, with zero padding between. All plans of one model share one layout.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterLayout {
    slots: Vec<ParameterSlot>,
    len: usize,
}

impl ParameterLayout {
    /// The layout of a differentiated graph's parameters for elements of type `T`.
    ///
    /// # Errors
    /// [`ComputeError::NotDifferentiated`], [`ComputeError::ElementType`],
    /// [`ComputeError::TooLarge`], or a graph that doesn't verify.
    pub fn new<T: Element>(graph: &Graph) -> Result<Self, ComputeError> {
        graph.verify()?;
        check_element::<T>(graph)?;
        if graph.gradients().is_empty() {
            return Err(ComputeError::NotDifferentiated {
                graph: graph.name().to_owned(),
            });
        }
        let too_large = || ComputeError::TooLarge {
            what: "the parameters",
            elements_max: ARENA_ELEMENTS_MAX,
        };
        let mut slots = Vec::new();
        let mut end = 0usize;
        for gradient in graph.gradients() {
            let parameter = graph.parameter(gradient.parameter);
            let shape = &graph.value(parameter.value).ty.shape;
            // The shape has no batch dimension: any batch size gives the same.
            let len = shape.elements(1).ok_or_else(too_large)?;
            slots.push(ParameterSlot {
                name: parameter.name.clone(),
                shape: shape.bind(1),
                offset: end,
                len,
                initialiser: parameter.initialiser,
            });
            end = padded::<T>(len)
                .and_then(|len| end.checked_add(len))
                .filter(|&end| end <= ARENA_ELEMENTS_MAX)
                .ok_or_else(too_large)?;
        }
        Ok(Self { slots, len: end })
    }

    /// The parameters in gradient-ready order, which is the order of their offsets.
    #[must_use]
    pub fn slots(&self) -> &[ParameterSlot] {
        &self.slots
    }

    /// The parameter of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&ParameterSlot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// The length of the arenas in elements, with padding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of elements of all parameters, without padding.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.slots.iter().map(|slot| slot.len).sum()
    }

    /// Writes the initial values under `seed`, and zero into the padding. The values are computed
    /// in `f64` and rounded; they depend on seed, name and element index alone.
    ///
    /// # Errors
    /// [`ComputeError::BufferLen`].
    pub fn initialise<T: Element>(
        &self,
        seed: u64,
        parameters: &mut [T],
    ) -> Result<(), ComputeError> {
        check_len("parameters", self.len, parameters.len())?;
        parameters.fill(T::ZERO);
        for slot in &self.slots {
            let values = slot.initialiser.values(seed, &slot.name);
            for (i, element) in parameters[slot.range()].iter_mut().enumerate() {
                *element = T::from_f64(values.at(i as u64));
            }
        }
        Ok(())
    }

    /// An arena of this layout with the initial values under `seed`.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn initial<T: Element>(&self, seed: u64) -> Result<Arena<T>, ComputeError> {
        let mut arena = self.zeros()?;
        self.initialise(seed, &mut arena)?;
        Ok(arena)
    }

    /// An arena of this layout with zeros: for gradients and optimizer state.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn zeros<T: Element>(&self) -> Result<Arena<T>, ComputeError> {
        Arena::zeros(self.len)
    }
}

/// One state in its arena.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSlot {
    /// The name, as in the graph.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The first element in the arena; a multiple of 64 bytes.
    pub offset: usize,
    /// The number of elements, without padding.
    pub len: usize,
    /// Every element before the first run.
    pub initial: f64,
    /// True if its elements are counts: whole numbers.
    pub counts: bool,
}

impl StateSlot {
    /// The state's elements in an arena, without padding.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// The layout of the state arena: what training runs change without a gradient (running
/// statistics), in the order of the graph, aligned. All plans of one model share one layout.
#[derive(Clone, Debug, PartialEq)]
pub struct StateLayout {
    slots: Vec<StateSlot>,
    len: usize,
}

impl StateLayout {
    /// The layout of a graph's states for elements of type `T`; empty for most graphs.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn new<T: Element>(graph: &Graph) -> Result<Self, ComputeError> {
        let too_large = || ComputeError::TooLarge {
            what: "the states",
            elements_max: ARENA_ELEMENTS_MAX,
        };
        let mut slots = Vec::new();
        let mut end = 0usize;
        for state in graph.states() {
            let shape = &graph.value(state.value).ty.shape;
            let len = shape.elements(1).ok_or_else(too_large)?;
            slots.push(StateSlot {
                name: state.name.clone(),
                shape: shape.bind(1),
                offset: end,
                len,
                initial: state.initial,
                counts: state.counts,
            });
            end = padded::<T>(len)
                .and_then(|len| end.checked_add(len))
                .filter(|&end| end <= ARENA_ELEMENTS_MAX)
                .ok_or_else(too_large)?;
        }
        Ok(Self { slots, len: end })
    }

    /// The states in the order of the graph.
    #[must_use]
    pub fn slots(&self) -> &[StateSlot] {
        &self.slots
    }

    /// The state of this name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&StateSlot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// The length of the arena in elements, with padding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no states.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An arena with the initial values.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn initial<T: Element>(&self) -> Result<Arena<T>, ComputeError> {
        let mut arena = Arena::zeros(self.len)?;
        for slot in &self.slots {
            arena[slot.range()].fill(T::from_f64(slot.initial));
        }
        Ok(arena)
    }
}

pub(crate) fn check_element<T: Element>(graph: &Graph) -> Result<(), ComputeError> {
    if graph.dtype() == T::DTYPE {
        return Ok(());
    }
    Err(ComputeError::ElementType {
        expected: graph.dtype(),
        got: T::DTYPE,
    })
}

pub(crate) fn check_len(
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), ComputeError> {
    if expected == got {
        return Ok(());
    }
    Err(ComputeError::BufferLen {
        what,
        expected,
        got,
    })
}

#[cfg(test)]
mod tests {
    use ringfold_graph::differentiate;
    use ringfold_graph::models::{LOSS, MlpOptions, mlp};

    use super::*;

    #[test]
    fn slots_are_in_ready_order_aligned_and_disjoint() {
        let graph = mlp(&MlpOptions::classifier(8, &[16, 12], 4)).unwrap();
        let layout = ParameterLayout::new::<f32>(&differentiate(&graph, LOSS).unwrap()).unwrap();
        let slots: Vec<_> = layout
            .slots()
            .iter()
            .map(|slot| (slot.name.as_str(), slot.offset, slot.len))
            .collect();
        assert_eq!(
            slots,
            [
                ("layers.2.weight", 0, 48),
                ("layers.2.bias", 48, 4),
                ("layers.1.weight", 64, 192),
                ("layers.1.bias", 256, 12),
                ("layers.0.weight", 272, 128),
                ("layers.0.bias", 400, 16),
            ]
        );
        assert_eq!(layout.len(), 416);
        assert_eq!(layout.parameter_count(), 400);
    }

    #[test]
    fn initial_values_do_not_depend_on_the_rest_of_the_model() {
        let initial = |hidden: &[usize]| {
            let graph = mlp(&MlpOptions::classifier(8, hidden, 4)).unwrap();
            let layout =
                ParameterLayout::new::<f32>(&differentiate(&graph, LOSS).unwrap()).unwrap();
            let arena = layout.initial::<f32>(7).unwrap();
            let slot = layout.slot("layers.0.weight").unwrap();
            arena[slot.range()].to_vec()
        };
        assert_eq!(initial(&[16]), initial(&[16, 12]));
    }

    #[test]
    fn the_forward_graph_alone_has_no_layout() {
        let graph = mlp(&MlpOptions::classifier(8, &[], 4)).unwrap();
        assert!(matches!(
            ParameterLayout::new::<f32>(&graph),
            Err(ComputeError::NotDifferentiated { .. })
        ));
        assert!(matches!(
            ParameterLayout::new::<f64>(&graph),
            Err(ComputeError::ElementType { .. })
        ));
    }
}
