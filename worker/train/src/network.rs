//! A job's model as a graph, its layout, and its plans for every batch size that will occur.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ringfold_common::dataset::Target;
use ringfold_common::job::{self, ModelSpec};
use ringfold_compute::{
    Arena, CompileOptions, ComputeError, Cpu, CpuOptions, CpuPlan, Inspection, Mode,
    ParameterLayout, PlanOptions, Precision, StateLayout, Workspace, inspect,
};
use ringfold_graph::Graph;
#[cfg(test)]
use ringfold_graph::job::differentiated;
use ringfold_graph::job::{JobNetwork, RecordShape};
use ringfold_graph::onnx::{ImportedTensor, TensorKind};
use ringfold_graph::pass::Record;
use ringfold_storage::{ModelSources, NamedTensor, Tensor};

use crate::batch_buffer::BatchBuffer;
use crate::error::TrainError;
use crate::evaluate::{EVALUATION_BATCH, EVALUATION_TOKENS, chunks};

/// A differentiated model with its layouts.
#[derive(Clone, Debug)]
pub struct Network {
    graph: Graph,
    /// What simplified it before it was differentiated.
    simplified: Vec<Record>,
    layout: ParameterLayout,
    states: StateLayout,
    target: Target,
    features: usize,
    threads: usize,
    /// Initial values that a file gives; others are drawn.
    given: Vec<ImportedTensor>,
    precision: Precision,
    /// The most bytes of a plan's workspace.
    workspace_bytes_max: Option<usize>,
    /// The most records of an evaluation run.
    evaluation_batch: usize,
}

/// Checks that this processor can train in a precision.
///
/// # Errors
/// What it lacks.
pub fn check_precision(precision: job::Precision) -> Result<(), ComputeError> {
    ringfold_compute::cpu::check_precision::<f32>(of_job(precision))
}

fn of_job(precision: job::Precision) -> Precision {
    match precision {
        job::Precision::F32 => Precision::Full,
        job::Precision::Bf16 => Precision::Bf16,
    }
}

/// A job's model, and the content of the file that it is from.
#[derive(Clone, Copy, Debug)]
pub struct Sourced<'a> {
    /// What the job says.
    pub spec: &'a ModelSpec,
    /// The bytes of the ONNX file, for a model from one.
    pub onnx: Option<&'a [u8]>,
}

impl<'a> From<&'a ModelSpec> for Sourced<'a> {
    fn from(spec: &'a ModelSpec) -> Self {
        Self { spec, onnx: None }
    }
}

impl Network {
    /// The network of `model` for records of `features` numbers, whose dimensions are `dims` if the
    /// files give them, and labels of `target`, with an L2 penalty of `l2`, on `threads` threads of
    /// the caller's team.
    ///
    /// # Errors
    /// An option, a layer or a file that doesn't fit the data, or sizes that can't be addressed.
    pub fn new<'a>(
        model: impl Into<Sourced<'a>>,
        (features, dims): (u32, &[u32]),
        target: &Target,
        l2: f64,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let Sourced { spec: model, onnx } = model.into();
        let records = RecordShape {
            features,
            dims,
            target,
        };
        let JobNetwork {
            graph,
            simplified,
            given,
        } = JobNetwork::build(model, onnx, records, l2)?;
        let built = (graph, simplified);
        let network = Self::of_differentiated(built, features as usize, target, threads)?;
        Ok(Self { given, ..network })
    }

    /// The network of a model that is not differentiated yet.
    ///
    /// # Errors
    /// As [`Network::new`].
    #[cfg(test)]
    pub(crate) fn from_graph(
        forward: &Graph,
        features: usize,
        target: &Target,
        threads: usize,
    ) -> Result<Self, TrainError> {
        Self::of_differentiated(differentiated(forward)?, features, target, threads)
    }

    fn of_differentiated(
        (graph, simplified): (Graph, Vec<Record>),
        features: usize,
        target: &Target,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let layout = ParameterLayout::new::<f32>(&graph)?;
        let states = StateLayout::new::<f32>(&graph)?;
        Ok(Self {
            graph,
            simplified,
            layout,
            states,
            target: target.clone(),
            features,
            threads,
            precision: Precision::Full,
            workspace_bytes_max: None,
            evaluation_batch: match target {
                Target::Tokens(_) => {
                    (EVALUATION_TOKENS / features.max(1)).clamp(1, EVALUATION_BATCH)
                }
                Target::Classes(_) | Target::Values(_) => EVALUATION_BATCH,
            },
            given: Vec::new(),
        })
    }

    /// With the operands of training's matrix products rounded; evaluation and prediction don't.
    #[must_use]
    pub fn with_precision(mut self, precision: job::Precision) -> Self {
        self.precision = of_job(precision);
        self
    }

    /// With at most `bytes_max` of workspace in each plan. Evaluation runs in batches that fit: half as
    /// large, again and again.
    ///
    /// # Errors
    /// As [`Network::inspect`], the limit excepted: [`Network::plans_on`] is what refuses it.
    pub fn with_workspace_max(mut self, bytes_max: Option<usize>) -> Result<Self, TrainError> {
        self.workspace_bytes_max = bytes_max;
        let Some(bytes_max) = bytes_max else {
            return Ok(self);
        };
        let cpu = Cpu::new(CpuOptions {
            threads: self.threads,
        })?;
        while self.evaluation_batch > 1 {
            let options = PlanOptions {
                mode: Mode::Evaluation,
                batch: self.evaluation_batch,
            };
            let how = CompileOptions::default();
            let compiled = cpu.compiled::<f32>(&self.graph, &self.layout, options, &how)?;
            if compiled.workspace_bytes() <= bytes_max {
                break;
            }
            self.evaluation_batch /= 2;
        }
        Ok(self)
    }

    /// The differentiated graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The patches that simplified the graph before it was differentiated.
    #[must_use]
    pub fn simplified(&self) -> &[Record] {
        &self.simplified
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

    /// Numbers or tokens in one record.
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
    /// As [`Network::plans_on`].
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
    /// Sizes that can't be addressed, a limit of the workspace that can't be kept, or a processor
    /// without the network's precision.
    pub fn plans_on(
        &self,
        sizes: impl IntoIterator<Item = (Mode, usize, usize)>,
    ) -> Result<Plans, TrainError> {
        let mut plans = BTreeMap::new();
        for (mode, batch, threads) in sizes {
            if let Entry::Vacant(entry) = plans.entry((mode as u8, batch, threads)) {
                let cpu = Cpu::new(CpuOptions { threads })?;
                let options = PlanOptions { mode, batch };
                let how = CompileOptions {
                    precision: match mode {
                        Mode::Training => self.precision,
                        Mode::Evaluation | Mode::Prediction => Precision::Full,
                    },
                    workspace_bytes_max: self.workspace_bytes_max,
                    ..CompileOptions::default()
                };
                entry.insert(cpu.plan_with(&self.graph, &self.layout, options, &how)?);
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

    /// The runs in which `records` are evaluated or predicted, in order: of at most
    /// [`EVALUATION_BATCH`] records, and of text of so many that they have [`EVALUATION_TOKENS`]
    /// tokens, but one record at least; of fewer if the workspace is limited.
    pub fn chunks(&self, records: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        chunks(records, self.evaluation_batch)
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

    /// Parameters and state before the first step: the file's, if the network is from one, else
    /// drawn; in their place those of the file of weights that the job names.
    ///
    /// # Errors
    /// Sizes that can't be had, or a file of weights of other names or shapes.
    pub fn initial(
        &self,
        seed: u64,
        sources: &ModelSources,
    ) -> Result<(Arena<f32>, Arena<f32>), TrainError> {
        let slots = self.layout.slots().iter();
        let slots = slots.map(|slot| (slot.name.as_str(), slot.shape.as_slice()));
        let states = self.states.slots().iter();
        let states = states.map(|slot| (slot.name.as_str(), slot.shape.as_slice()));
        let expected: Vec<(&str, &[usize])> = slots.chain(states).collect();
        if let Some(tensors) = sources.weights(&expected)? {
            return self.load(&tensors);
        }
        let (mut parameters, mut state) = (self.layout.initial(seed)?, self.states.initial()?);
        for tensor in &self.given {
            // Weights that nothing depends on are no part of the network.
            match tensor.kind {
                TensorKind::Parameter => {
                    if let Some(slot) = self.layout.slot(&tensor.name) {
                        parameters[slot.range()].copy_from_slice(&tensor.data);
                    }
                }
                TensorKind::State => {
                    if let Some(slot) = self.states.slot(&tensor.name) {
                        state[slot.range()].copy_from_slice(&tensor.data);
                    }
                }
            }
        }
        Ok((parameters, state))
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
        (self.workspace.len() * size_of::<f32>()) as u64 + self.batch.bytes()
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
