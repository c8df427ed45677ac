//! A job's model as a graph, its layout, and its plans for every batch size that will occur.

use std::collections::BTreeMap;

use ringfold_common::dataset::Target;
use ringfold_common::job::{Activation, Architecture, Initialiser, Loss, ModelSpec};
use ringfold_compute::{
    Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, TensorRef, Workspace,
};
use ringfold_graph::models::{self, LOSS, MlpOptions};
use ringfold_graph::{DType, Graph, InitialiserScheme, differentiate};
use ringfold_storage::{LabelsOut, NamedTensor};

use crate::error::TrainError;

/// A differentiated model with its layout.
#[derive(Clone, Debug)]
pub struct Network {
    graph: Graph,
    layout: ParameterLayout,
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
        let Architecture::Mlp(mlp) = &model.architecture;
        let forward = models::mlp(&MlpOptions {
            inputs: features as usize,
            hidden: mlp.hidden.iter().map(|&width| width as usize).collect(),
            outputs: target.outputs() as usize,
            activation: match mlp.activation {
                Activation::Relu => ringfold_graph::Activation::Relu,
                Activation::Gelu => ringfold_graph::Activation::Gelu,
                Activation::Tanh => ringfold_graph::Activation::Tanh,
                Activation::Sigmoid => ringfold_graph::Activation::Sigmoid,
            },
            dropout: mlp.dropout,
            loss: match model.loss {
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
        })?;
        let graph = differentiate(&forward, LOSS)?;
        let layout = ParameterLayout::new::<f32>(&graph)?;
        let cpu = Cpu::new(CpuOptions { threads })?;
        Ok(Self {
            graph,
            layout,
            target: target.clone(),
            features: features as usize,
            cpu,
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

    /// The parameters as named tensors.
    #[must_use]
    pub fn tensors<'a>(&'a self, parameters: &'a [f32]) -> Vec<NamedTensor<'a>> {
        self.layout
            .slots()
            .iter()
            .map(|slot| NamedTensor {
                name: &slot.name,
                shape: &slot.shape,
                values: &parameters[slot.range()],
            })
            .collect()
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
