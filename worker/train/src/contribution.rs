//! What some samples add to a step: their gradient, what they make of the model's state, their loss.

use std::ops::{Deref, DerefMut};

use ringfold_compute::{Arena, ComputeError, StateLayout};

/// The weighted gradient of some samples of a step, and the state after them and their mean loss
/// times the same weight, one after the other in one arena. The weights of a step's parts add up to
/// 1, so the sum of all contributions is the gradient of the whole batch, the mean of the states and
/// the mean loss, the same bits on all ranks; one all-reduce makes it.
#[derive(Debug)]
pub struct Contribution {
    arena: Arena<f32>,
    gradients_len: usize,
}

/// Gradient, state and loss, one after the other: what is summed over replicas.
impl Deref for Contribution {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.arena
    }
}

impl DerefMut for Contribution {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.arena
    }
}

impl Contribution {
    /// Elements after the gradient, for a model with so many of state: that, and the loss. A step's
    /// mean loss is an `f32` already, and rounded once more by each addition of the fold.
    #[must_use]
    pub fn rest_len(states: usize) -> usize {
        states + 1
    }

    /// Zeros for `parameters` and `states` elements.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn new(parameters: usize, states: usize) -> Result<Self, ComputeError> {
        Ok(Self {
            arena: Arena::zeros(parameters + Self::rest_len(states))?,
            gradients_len: parameters,
        })
    }

    /// The gradient, laid out as the parameters.
    #[must_use]
    pub fn gradients(&self) -> &[f32] {
        &self.arena[..self.gradients_len]
    }

    /// The gradient, to be changed.
    pub fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.arena[..self.gradients_len]
    }

    /// Gradient and state, for a run: the state starts as `before`, which the run updates.
    pub fn start(&mut self, before: &[f32]) -> (&mut [f32], &mut [f32]) {
        let (gradients, rest) = self.start_rest(before);
        let states = rest.len() - 1;
        (gradients, &mut rest[..states])
    }

    /// As [`start`](Self::start), with the element of the loss behind the state.
    pub fn start_rest(&mut self, before: &[f32]) -> (&mut [f32], &mut [f32]) {
        let (gradients, rest) = self.split();
        rest[..before.len()].copy_from_slice(before);
        (gradients, rest)
    }

    /// The gradient, and what follows it: state and loss.
    pub fn split(&mut self) -> (&mut [f32], &mut [f32]) {
        self.arena.split_at_mut(self.gradients_len)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &[f32] {
        &self.arena[self.gradients_len..self.arena.len() - 1]
    }

    /// The mean loss of the samples, weighed.
    #[must_use]
    pub fn loss(&self) -> f32 {
        self.arena[self.arena.len() - 1]
    }

    /// Sets the mean loss of the samples, weighed.
    pub fn set_loss(&mut self, loss: f64) {
        let at = self.arena.len() - 1;
        self.arena[at] = loss as f32;
    }

    /// Weighs the state that a run left; the run weighs its gradient itself.
    pub fn weigh_state(&mut self, weight: f64) {
        let states = self.gradients_len..self.arena.len() - 1;
        Self::weigh(&mut self.arena[states], weight);
    }

    /// Weighs a state.
    pub fn weigh(state: &mut [f32], weight: f64) {
        let weight = weight as f32;
        state.iter_mut().for_each(|element| *element *= weight);
    }

    /// That of no sample.
    pub fn clear(&mut self) {
        self.arena.fill(0.0);
    }

    /// Adds that of other samples.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.arena.iter_mut().zip(other.arena.iter()) {
            *sum += part;
        }
    }

    /// Once all parts of the step are in: the state after it. Counts are rounded, since the weights
    /// add up to 1 in rounded numbers only.
    ///
    /// # Panics
    /// If `state` is of another layout.
    pub fn finish_state(&self, states: &StateLayout, state: &mut [f32]) {
        state.copy_from_slice(self.state());
        for slot in states.slots().iter().filter(|slot| slot.counts) {
            let counts = &mut state[slot.range()];
            counts.iter_mut().for_each(|count| *count = count.round());
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfold_compute::ParameterLayout;
    use ringfold_graph::op::MeanSquaredError;
    use ringfold_graph::{DType, Graph, OutputRole, Shape, TensorType, differentiate, layers};

    use super::*;

    #[test]
    fn parts_add_up_to_the_mean_of_the_states_and_counts_stay_whole() {
        let mut graph = Graph::new("bn", DType::F32).unwrap();
        let ty = TensorType::new(DType::F32, Shape::batched(&[2]));
        let x = graph.add_input("x", ty).unwrap();
        let y = layers::batch_norm(&mut graph, "bn", x, 1e-5, 0.1).unwrap();
        let loss = graph.apply(MeanSquaredError::Loss, &[y, x]).unwrap();
        graph.add_output("loss", OutputRole::Loss, loss).unwrap();
        let graph = differentiate(&graph, "loss").unwrap();
        let parameters = ParameterLayout::new::<f32>(&graph).unwrap();
        let states = StateLayout::new::<f32>(&graph).unwrap();
        let mut state = states.initial::<f32>().unwrap();
        let mean = states.slot("bn.running_mean").unwrap().range();
        let tracked = states.slot("bn.num_batches_tracked").unwrap().range();
        for step in 0..1000u16 {
            let mut sum = Contribution::new(parameters.len(), states.len()).unwrap();
            let mut part = Contribution::new(parameters.len(), states.len()).unwrap();
            // Three parts of seven samples.
            for (len, value) in [(3.0, 1.0), (2.0, 2.0), (2.0, 6.0)] {
                let weight = len / 7.0;
                let (gradients, after) = part.start(&state);
                gradients.fill(weight as f32);
                after[mean.clone()].fill(value);
                after[tracked.clone()][0] += 1.0;
                part.weigh_state(weight);
                part.set_loss(f64::from(value) * weight);
                sum.add(&part);
            }
            sum.finish_state(&states, &mut state);
            assert!((sum.gradients()[0] - 1.0).abs() < 1e-6);
            assert!((sum.loss() - 19.0 / 7.0).abs() < 1e-6);
            assert!((state[mean.clone()][1] - 19.0 / 7.0).abs() < 1e-6);
            assert_eq!(state[tracked.clone()], [f32::from(step) + 1.0]);
            sum.clear();
            assert!(sum.iter().all(|&x| x == 0.0));
        }
    }
}
