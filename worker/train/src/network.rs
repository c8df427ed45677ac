//! A job's model as a graph, its layout, and its plans for every batch size that will occur.

use std::collections::BTreeMap;
use std::ops::Range;

use ringfold_common::dataset::Target;
use ringfold_common::job::{
    Activation, Architecture, GptSpec, Initialiser, Loss, LstmSpec, MlpSpec, ModelSpec,
};
use ringfold_compute::{
    Arena, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, StateLayout, Workspace,
};
use ringfold_graph::models::{self, GptOptions, LOSS, LstmOptions, MlpOptions};
use ringfold_graph::{DType, Graph, GraphError, InitialiserScheme, differentiate};
use ringfold_storage::{NamedTensor, Tensor};

use crate::batch_buffer::BatchBuffer;
use crate::error::TrainError;
use crate::evaluate::{EVALUATION_BATCH, EVALUATION_TOKENS, chunks};

/// A differentiated model with its layouts.
#[derive(Clone, Debug)]
pub struct Network {
    graph: Graph,
    layout: ParameterLayout,
    states: StateLayout,
    target: Target,
    features: usize,
    cpu: Cpu,
}

impl Network {
    /// The network of `model` for records of `features` numbers and labels of `target`, with an
    /// L2 penalty of `l2`, on `threads` threads of the caller's rayon pool.
    ///
    /// # Errors
    /// An option that is out of range, or sizes that can't be addressed.
    pub fn new(
        model: &ModelSpec,
        features: u32,
        target: &Target,
        l2: f64,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let features = features as usize;
        let forward = match &model.architecture {
            Architecture::Mlp(mlp) => mlp_graph(mlp, model.loss, features, target, l2)?,
            Architecture::Lstm(lstm) => models::lstm(&lstm_options(lstm, features, target, l2))?,
            Architecture::Gpt(gpt) => models::gpt(&gpt_options(gpt, [features; 2], target, l2))?,
        };
        Self::from_graph(&forward, features, target, threads)
    }

    /// The network of a model that is not differentiated yet.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub(crate) fn from_graph(
        forward: &Graph,
        features: usize,
        target: &Target,
        threads: usize,
    ) -> Result<Self, TrainError> {
        let graph = differentiate(forward, LOSS)?;
        let layout = ParameterLayout::new::<f32>(&graph)?;
        let states = StateLayout::new::<f32>(&graph)?;
        let cpu = Cpu::new(CpuOptions { threads })?;
        Ok(Self {
            graph,
            layout,
            states,
            target: target.clone(),
            features,
            cpu,
        })
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

    /// Plans for each mode and batch size.
    ///
    /// # Errors
    /// Sizes that can't be addressed.
    pub fn plans(
        &self,
        sizes: impl IntoIterator<Item = (Mode, usize)>,
    ) -> Result<Plans, TrainError> {
        let mut plans = BTreeMap::new();
        for (mode, batch) in sizes {
            let plan = self
                .cpu
                .plan(&self.graph, &self.layout, PlanOptions { mode, batch })?;
            plans.insert((mode as u8, batch), plan);
        }
        let elements = plans
            .values()
            .map(CpuPlan::workspace_len)
            .max()
            .unwrap_or(0);
        let batch_max = plans.keys().map(|&(_, batch)| batch).max().unwrap_or(0);
        Ok(Plans {
            plans,
            workspace: Workspace::new(elements)?,
            batch: BatchBuffer::new(batch_max, self.features, &self.target),
        })
    }

    /// The runs in which `records` are evaluated or predicted, in order: of at most
    /// [`EVALUATION_BATCH`] records, and of text of so many that they have [`EVALUATION_TOKENS`]
    /// tokens, but one record at least.
    pub fn chunks(&self, records: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let batch = match self.target {
            Target::Tokens(_) => {
                (EVALUATION_TOKENS / self.features.max(1)).clamp(1, EVALUATION_BATCH)
            }
            Target::Classes(_) | Target::Values(_) => EVALUATION_BATCH,
        };
        chunks(records, batch)
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

fn mlp_graph(
    mlp: &MlpSpec,
    loss: Loss,
    features: usize,
    target: &Target,
    l2: f64,
) -> Result<Graph, GraphError> {
    models::mlp(&MlpOptions {
        inputs: features,
        hidden: mlp.hidden.iter().map(|&width| width as usize).collect(),
        outputs: target.outputs() as usize,
        activation: match mlp.activation {
            Activation::Relu => ringfold_graph::Activation::Relu,
            Activation::Gelu => ringfold_graph::Activation::Gelu,
            Activation::Tanh => ringfold_graph::Activation::Tanh,
            Activation::Sigmoid => ringfold_graph::Activation::Sigmoid,
        },
        dropout: mlp.dropout,
        loss: match loss {
            Loss::CrossEntropy => models::Loss::CrossEntropy,
            Loss::MeanSquaredError => models::Loss::MeanSquaredError,
        },
        l2,
        initialiser: match mlp.initialiser {
            Initialiser::HeNormal => InitialiserScheme::HeNormal,
            Initialiser::HeUniform => InitialiserScheme::HeUniform,
            Initialiser::GlorotNormal => InitialiserScheme::GlorotNormal,
            Initialiser::GlorotUniform => InitialiserScheme::GlorotUniform,
            Initialiser::FanInUniform => InitialiserScheme::LinearDefault,
        },
        dtype: DType::F32,
    })
}

/// The options of an LSTM over texts of a length.
pub(crate) fn lstm_options(
    lstm: &LstmSpec,
    length: usize,
    target: &Target,
    l2: f64,
) -> LstmOptions {
    LstmOptions {
        vocabulary: target.outputs() as usize,
        length,
        embedding: lstm.embedding as usize,
        hidden: lstm.hidden as usize,
        layers: lstm.layers as usize,
        dropout: lstm.dropout,
        l2,
        dtype: DType::F32,
    }
}

/// The options of a GPT of a context that runs on texts of a length.
pub(crate) fn gpt_options(
    gpt: &GptSpec,
    [context, length]: [usize; 2],
    target: &Target,
    l2: f64,
) -> GptOptions {
    GptOptions {
        vocabulary: target.outputs() as usize,
        context,
        length,
        layers: gpt.layers as usize,
        heads: gpt.heads as usize,
        width: gpt.width as usize,
        dropout: gpt.dropout,
        tied: gpt.tied_embeddings,
        l2,
        dtype: DType::F32,
    }
}

/// The plans of one rank, which share a workspace and a batch buffer.
#[derive(Debug)]
pub struct Plans {
    plans: BTreeMap<(u8, usize), CpuPlan<f32>>,
    /// Intermediate values and outputs of the last run.
    pub workspace: Workspace<f32>,
    /// The batch that the next run reads.
    pub batch: BatchBuffer,
}

impl Plans {
    /// The plan for a mode and batch size, with the memory that it runs in.
    ///
    /// # Panics
    /// If it was not among those asked for.
    pub fn get(
        &mut self,
        mode: Mode,
        batch: usize,
    ) -> (&CpuPlan<f32>, &mut Workspace<f32>, &mut BatchBuffer) {
        let plan = &self.plans[&(mode as u8, batch)];
        (plan, &mut self.workspace, &mut self.batch)
    }
}
