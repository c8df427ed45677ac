//! A saved model applied to records.

use ringfold_common::dataset::Target;
use ringfold_compute::{Arena, Mode};
use ringfold_graph::models::{FEATURES, PREDICTION, PROBABILITIES, VARIANCE};
use ringfold_graph::onnx::{Scaling, write_scaled};
use ringfold_storage::{Features, Model, ModelDescription, Records, Scaler};

use crate::error::TrainError;
use crate::evaluate::{ConfusionMatrix, Sums, argmax, evaluate};
use crate::network::{Network, Sourced};

/// A saved model, ready to run.
#[derive(Debug)]
pub struct Predictor {
    description: ModelDescription,
    network: Network,
    parameters: Arena<f32>,
    state: Arena<f32>,
}

/// What is predicted for one record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prediction<'a> {
    /// The most likely class and the probabilities of all.
    Class {
        /// Its number.
        class: usize,
        /// Its name.
        name: &'a str,
        /// One a class.
        probabilities: &'a [f32],
    },
    /// Numbers.
    Values(&'a [f32]),
    /// Normal distributions.
    Normal {
        /// The mean of each value.
        means: &'a [f32],
        /// Its variance.
        variances: &'a [f32],
    },
}

/// A network with its parameters and state as a model of ONNX; see [`Predictor::to_onnx`].
///
/// # Errors
/// [`TrainError::Onnx`] for an operator that ONNX lacks.
pub(crate) fn to_onnx(
    network: &Network,
    scaler: &Scaler,
    (parameters, state): (&[f32], &[f32]),
) -> Result<Vec<u8>, TrainError> {
    let tensors = network.tensors(parameters, state);
    let tensors = tensors.iter().map(|tensor| (tensor.name, tensor.values));
    let (offset, factor) = match scaler {
        Scaler::None => (vec![], vec![]),
        Scaler::Uniform { factor } => (vec![0.0], vec![*factor]),
        Scaler::PerFeature { offset, factor } => (offset.clone(), factor.clone()),
    };
    let scaling = Scaling {
        input: FEATURES,
        offset: &offset,
        factor: &factor,
    };
    let scaling = (!factor.is_empty()).then_some(scaling);
    let graph = network.graph();
    Ok(write_scaled(graph, &tensors.collect(), scaling.as_slice())?)
}

impl Predictor {
    /// Puts a model's tensors into its network, on one thread.
    ///
    /// # Errors
    /// A tensor that is missing, superfluous or of another shape.
    pub fn new(model: Model) -> Result<Self, TrainError> {
        let description = model.description;
        let sourced = Sourced {
            spec: &description.model,
            onnx: model.onnx.as_deref(),
        };
        let network = Network::new(
            sourced,
            (description.features, &description.columns.dims),
            &description.target,
            0.0,
            1,
        )?;
        let (parameters, state) = network.load(&model.tensors)?;
        Ok(Self {
            description,
            network,
            parameters,
            state,
        })
    }

    /// How the model is described.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// The model as one of ONNX, with the scaling of features: its input `x` takes records as they stand
    /// in files, without the label.
    ///
    /// # Errors
    /// [`TrainError::Onnx`] for an operator that ONNX lacks.
    pub fn to_onnx(&self) -> Result<Vec<u8>, TrainError> {
        let scaler = &self.description.scaler;
        to_onnx(&self.network, scaler, (&self.parameters, &self.state))
    }

    /// Predicts every record in order.
    ///
    /// # Errors
    /// What a run refuses, and what `each` returns.
    pub fn predict<E: From<TrainError>>(
        &self,
        features: &Features,
        mut each: impl FnMut(Prediction<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let sizes = self
            .network
            .chunks(0..features.len())
            .map(|chunk| (Mode::Prediction, (chunk.end - chunk.start) as usize));
        let mut plans = self.network.plans(sizes)?;
        for chunk in self.network.chunks(0..features.len()) {
            let len = (chunk.end - chunk.start) as usize;
            let (plan, workspace, batch) = plans.get(Mode::Prediction, len);
            batch.gather_features(len, features, &self.description.scaler, chunk);
            let inputs = batch.inputs(len);
            plan.infer_with_state(workspace, &self.parameters, &self.state, &inputs[..1])
                .map_err(TrainError::from)?;
            match self.network.target() {
                Target::Classes(names) => {
                    let all = plan.output(workspace, PROBABILITIES).unwrap_or_default();
                    for probabilities in all.chunks_exact(names.len().max(1)) {
                        let class = argmax(probabilities);
                        each(Prediction::Class {
                            class,
                            name: &names[class],
                            probabilities,
                        })?;
                    }
                }
                // Every token has its label: there is nothing to predict but the text's end, which
                // is for the generator.
                Target::Tokens(_) => {}
                Target::Values(count) => {
                    let all = plan.output(workspace, PREDICTION).unwrap_or_default();
                    let count = (*count).max(1) as usize;
                    if let Some(variances) = plan.output(workspace, VARIANCE) {
                        let pairs = all.chunks_exact(count).zip(variances.chunks_exact(count));
                        for (means, variances) in pairs {
                            each(Prediction::Normal { means, variances })?;
                        }
                        continue;
                    }
                    for values in all.chunks_exact(count) {
                        each(Prediction::Values(values))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Evaluates labelled records; with a confusion matrix for classes.
    ///
    /// # Errors
    /// What a run refuses.
    pub fn evaluate(
        &self,
        records: &Records,
    ) -> Result<(Sums, Option<ConfusionMatrix>), TrainError> {
        let sizes = self
            .network
            .chunks(0..records.len())
            .map(|chunk| (Mode::Evaluation, (chunk.end - chunk.start) as usize));
        let mut plans = self.network.plans(sizes)?;
        let target = self.network.target();
        let mut matrix = match target {
            Target::Classes(names) => Some(ConfusionMatrix::new(names.len())),
            // A matrix of all tokens would be none to look at.
            Target::Values(_) | Target::Tokens(_) => None,
        };
        let sums = evaluate(
            &mut plans,
            &self.network,
            (&self.parameters, &self.state),
            (records, &self.description.scaler),
            0..records.len(),
            |truth, predicted| {
                if let Some(matrix) = &mut matrix {
                    matrix.add(truth, predicted);
                }
            },
            || Ok(()),
        )?;
        Ok((sums, matrix))
    }
}
