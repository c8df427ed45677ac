//! A job's model as a graph, its layout, and its plans for every batch size that will occur.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ringfold_common::dataset::Target;
use ringfold_common::job::ModelSpec;
use ringfold_compute::{
    Arena, CompileOptions, Cpu, CpuOptions, CpuPlan, Inspection, Mode, ParameterLayout,
    PlanOptions, StateLayout, TensorRef, Workspace, inspect,
};
use ringfold_graph::models::{self, Frame, LOSS};
use ringfold_graph::pass::simplify;
use ringfold_graph::{Graph, differentiate};
use ringfold_storage::{LabelsOut, NamedTensor, Tensor};

use crate::error::TrainError;

/// A differentiated model with its layouts.
#[derive(Clone, Debug)]
pub struct Network {
    graph: Graph,
    layout: ParameterLayout,
    states: StateLayout,
    target: Target,
    features: usize,
    threads: usize,
}

impl Network {
    /// The network of `model` for records of `features` numbers, whose dimensions are `dims` if the
    /// files give them, and labels of `target`, with an L2 penalty of `l2`, on `threads` threads of
    /// the caller's team.
    ///
    /// # Errors
    /// An option or a layer that doesn't fit the data, or sizes that can't be addressed.
    pub fn new(
        model: &ModelSpec,
        (features, dims): (u32, &[u32]),
        target: &Target,
        l2: f64,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let dims: Vec<usize> = dims.iter().map(|&size| size as usize).collect();
        let outputs = target.outputs() as usize;
        let frame = Frame::of_model(model, features as usize, &dims, outputs, l2)?;
        let forward = models::build(model, &frame)?;
        Self::from_graph(&forward, features, target, threads)
    }

    /// The network of a model that is not differentiated yet.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub(crate) fn from_graph(
        forward: &Graph,
        features: u32,
        target: &Target,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let graph = differentiate(&simplify(forward)?.graph, LOSS)?;
        let layout = ParameterLayout::new::<f32>(&graph)?;
        let states = StateLayout::new::<f32>(&graph)?;
        Ok(Self {
            graph,
            layout,
            states,
            target: target.clone(),
            features: features as usize,
            threads,
        })
    }

    /// The differentiated graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where each parameter stands.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Where each state stands: running statistics.
    #[must_use]
    pub fn states(&self) -> &StateLayout {
        &self.states
    }

    /// What a label is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Numbers in one record.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// What the network holds, costs and takes in a mode.
    ///
    /// # Errors
    /// Sizes that can't be addressed, or a limit of memory that can't be kept.
    pub fn inspect(
        &self,
        options: PlanOptions,
        how: &CompileOptions,
    ) -> Result<Inspection, TrainError> {
        let cpu = Cpu::new(CpuOptions {
            threads: self.threads,
        })?;
        Ok(inspect::<f32>(
            &cpu,
            &self.graph,
            &self.layout,
            options,
            how,
        )?)
    }

    /// Plans for each mode and batch size, on the network's threads.
    ///
    /// # Errors
    /// Sizes that can't be addressed.
    pub fn plans(
        &self,
        sizes: impl IntoIterator<Item = (Mode, usize)>,
    ) -> Result<Plans, TrainError> {
        let sizes = sizes.into_iter();
        self.plans_on(sizes.map(|(mode, batch)| (mode, batch, self.threads)))
    }

    /// Plans for each mode, batch size and number of threads of the caller's team.
    ///
    /// # Errors
    /// Sizes that can't be addressed.
    pub fn plans_on(
        &self,
        sizes: impl IntoIterator<Item = (Mode, usize, usize)>,
    ) -> Result<Plans, TrainError> {
        let mut plans = BTreeMap::new();
        for (mode, batch, threads) in sizes {
            if let Entry::Vacant(entry) = plans.entry((mode as u8, batch, threads)) {
                let cpu = Cpu::new(CpuOptions { threads })?;
                let options = PlanOptions { mode, batch };
                entry.insert(cpu.plan(&self.graph, &self.layout, options)?);
            }
        }
        let elements = plans
            .values()
            .map(CpuPlan::workspace_len)
            .max()
            .unwrap_or(0);
        let batch_max = plans.keys().map(|&(_, batch, _)| batch).max().unwrap_or(0);
        Ok(Plans {
            plans,
            threads: self.threads,
            workspace: Workspace::new(elements)?,
            batch: BatchBuffer::new(batch_max, self.features, &self.target),
        })
    }

    /// Parameters and states as named tensors.
    #[must_use]
    pub fn tensors<'a>(&'a self, parameters: &'a [f32], state: &'a [f32]) -> Vec<NamedTensor<'a>> {
        let parameters = self.layout.slots().iter().map(|slot| NamedTensor {
            name: &slot.name,
            shape: &slot.shape,
            values: &parameters[slot.range()],
        });
        let states = self.states.slots().iter().map(|slot| NamedTensor {
            name: &slot.name,
            shape: &slot.shape,
            values: &state[slot.range()],
        });
        parameters.chain(states).collect()
    }

    /// Parameters and state of a model that was saved.
    ///
    /// # Errors
    /// A tensor that is missing, superfluous or of another shape.
    pub(crate) fn load(&self, tensors: &[Tensor]) -> Result<(Arena<f32>, Arena<f32>), TrainError> {
        let (mut parameters, mut state) = (self.layout.zeros()?, self.states.initial()?);
        // Every place that waits for its tensor: the shape, the range, and whether it is a state's.
        let slots = self.layout.slots().iter();
        let slots = slots.map(|slot| (&*slot.name, (&*slot.shape, slot.range(), false)));
        let states = self.states.slots().iter();
        let states = states.map(|slot| (&*slot.name, (&*slot.shape, slot.range(), true)));
        let mut places: BTreeMap<&str, (&[usize], Range<usize>, bool)> =
            slots.chain(states).collect();
        for Tensor {
            name,
            shape,
            values,
        } in tensors
        {
            let place = places.remove(name.as_str());
            let expected = place.as_ref().map(|(shape, ..)| shape.to_vec());
            let Some((_, range, is_state)) = place.filter(|(expected, ..)| expected == shape)
            else {
                return Err(TrainError::Tensor {
                    name: name.clone(),
                    got: Some(shape.clone()),
                    expected,
                });
            };
            let arena = if is_state {
                &mut state
            } else {
                &mut parameters
            };
            arena[range].copy_from_slice(values);
        }
        if let Some((name, (shape, ..))) = places.pop_first() {
            return Err(TrainError::Tensor {
                name: name.to_owned(),
                got: None,
                expected: Some(shape.to_vec()),
            });
        }
        Ok((parameters, state))
    }
}

/// The plans of one rank, which share a workspace and a batch buffer.
#[derive(Debug)]
pub struct Plans {
    plans: BTreeMap<(u8, usize, usize), CpuPlan<f32>>,
    threads: usize,
    /// Intermediate values and outputs of the last run.
    pub workspace: Workspace<f32>,
    /// The batch that the next run reads.
    pub batch: BatchBuffer,
}

impl Plans {
    /// Bytes of the memory that they share.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let batch = self.batch.features.len() + self.batch.labels.len();
        ((self.workspace.len() + batch) * 4) as u64
    }

    /// The plan for a mode and batch size on the network's threads, with the memory that it runs
    /// in.
    ///
    /// # Panics
    /// If it was not among those asked for.
    pub fn get(
        &mut self,
        mode: Mode,
        batch: usize,
    ) -> (&CpuPlan<f32>, &mut Workspace<f32>, &mut BatchBuffer) {
        self.get_on(mode, batch, self.threads)
    }

    /// The plan for a mode, batch size and number of threads, with the memory that it runs in.
    ///
    /// # Panics
    /// If it was not among those asked for.
    pub fn get_on(
        &mut self,
        mode: Mode,
        batch: usize,
        threads: usize,
    ) -> (&CpuPlan<f32>, &mut Workspace<f32>, &mut BatchBuffer) {
        let plan = &self.plans[&(mode as u8, batch, threads)];
        (plan, &mut self.workspace, &mut self.batch)
    }
}

/// Room for the features and labels of a batch.
#[derive(Clone, Debug)]
pub struct BatchBuffer {
    width: usize,
    features: Vec<f32>,
    labels: LabelBuffer,
}

#[derive(Clone, Debug)]
enum LabelBuffer {
    Classes(Vec<i32>),
    Values(Vec<f32>),
}

impl LabelBuffer {
    fn len(&self) -> usize {
        match self {
            Self::Classes(labels) => labels.len(),
            Self::Values(labels) => labels.len(),
        }
    }
}

impl BatchBuffer {
    fn new(batch: usize, width: usize, target: &Target) -> Self {
        Self {
            width,
            features: vec![0.0; batch * width],
            labels: match target {
                Target::Classes(_) => LabelBuffer::Classes(vec![0; batch]),
                Target::Values(count) => LabelBuffer::Values(vec![0.0; batch * *count as usize]),
            },
        }
    }

    /// The first `batch` rows, to be filled.
    pub fn fill(&mut self, batch: usize) -> (&mut [f32], LabelsOut<'_>) {
        let labels = match &mut self.labels {
            LabelBuffer::Classes(labels) => LabelsOut::Classes(&mut labels[..batch]),
            LabelBuffer::Values(labels) => LabelsOut::Values(&mut labels[..batch]),
        };
        (&mut self.features[..batch * self.width], labels)
    }

    /// The inputs of a run that takes labels, and of one that doesn't.
    pub(crate) fn inputs(&self, batch: usize) -> [TensorRef<'_, f32>; 2] {
        let labels = match &self.labels {
            LabelBuffer::Classes(labels) => TensorRef::Int(&labels[..batch]),
            LabelBuffer::Values(labels) => TensorRef::Float(&labels[..batch]),
        };
        [
            TensorRef::Float(&self.features[..batch * self.width]),
            labels,
        ]
    }

    /// The class labels of the batch, if labels are classes.
    pub(crate) fn classes(&self, batch: usize) -> Option<&[i32]> {
        match &self.labels {
            LabelBuffer::Classes(labels) => Some(&labels[..batch]),
            LabelBuffer::Values(_) => None,
        }
    }
}
