//! A job's network from its spec and what is known of its data: what the coordinator checks when a job
//! is submitted is what every rank builds when it starts.
//!
//! Whatever can be wrong with a model on its own is found here: layers that don't fit each other or
//! the records, an ONNX file that doesn't fit, a loss without a gradient, groups without a parameter.
//! Building takes milliseconds and no memory for weights.

use ringfold_common::dataset::Target;
use ringfold_common::job::{Architecture, GroupSpec, IdleGroup, ModelSpec};

use crate::autodiff::differentiate;
use crate::error::GraphError;
use crate::graph::Graph;
use crate::models::{self, Frame, LOSS};
use crate::onnx::{ImportedTensor, OnnxError, read_for_job};
use crate::pass::{Record, simplify};

/// The records that a model is for.
#[derive(Clone, Copy, Debug)]
pub struct RecordShape<'a> {
    /// Numbers in one record; of text, tokens.
    pub features: u32,
    /// The dimensions of a record, where the files give them; empty otherwise.
    pub dims: &'a [u32],
    /// What a label is.
    pub target: &'a Target,
}

/// The network of a job.
#[derive(Clone, Debug)]
pub struct JobNetwork {
    /// Differentiated.
    pub graph: Graph,
    /// What simplified the forward graph before that.
    pub simplified: Vec<Record>,
    /// Initial values that a file gives; others are drawn. Some may be no part of the network.
    pub given: Vec<ImportedTensor>,
}

/// A job's model that can't be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A built-in model's options don't fit each other or the data.
    #[error("can't build the model")]
    Graph(#[from] GraphError),
    /// The ONNX file can't be trained on the data.
    #[error("{path}")]
    Onnx {
        /// The file.
        path: String,
        /// Why; it names node, operator and opset.
        source: Box<OnnxError>,
    },
}

impl ModelError {
    /// The key of the job file that can't be right.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Graph(error) => error.field(),
            Self::Onnx { source, .. } => source.field().to_owned(),
        }
    }
}

impl JobNetwork {
    /// The network of `model` for `records`, with an L2 penalty of `l2`; `onnx` are the bytes of the
    /// file, for a model from one.
    ///
    /// # Errors
    /// An option, a layer or a file that doesn't fit the data.
    pub fn build(
        model: &ModelSpec,
        onnx: Option<&[u8]>,
        records: RecordShape<'_>,
        l2: f64,
    ) -> Result<Self, ModelError> {
        let dims: Vec<usize> = records.dims.iter().map(|&size| size as usize).collect();
        let (inputs, outputs) = (records.features as usize, records.target.outputs() as usize);
        let frame = Frame::of_model(model, inputs, &dims, outputs, l2)?;
        if let (Architecture::Onnx(spec), Some(bytes)) = (&model.architecture, onnx) {
            let in_file = |source: OnnxError| ModelError::Onnx {
                path: spec.file.path.clone(),
                source: Box::new(source),
            };
            let read = read_for_job(bytes, spec, &frame).map_err(in_file)?;
            let built = differentiated(&read.graph).map_err(|error| in_file(error.into()))?;
            return Ok(Self {
                graph: built.0,
                simplified: built.1,
                given: read.tensors,
            });
        }
        let (graph, simplified) = differentiated(&models::build(model, &frame)?)?;
        Ok(Self {
            graph,
            simplified,
            given: Vec::new(),
        })
    }

    /// Names and shapes of all that is trained or kept by training, the states last: what a file of
    /// weights must hold.
    #[must_use]
    pub fn tensors(&self) -> Vec<(&str, Vec<usize>)> {
        let graph = &self.graph;
        let shape = |value| {
            let dims = graph.value(value).ty.shape.dims().iter();
            // Neither a parameter nor a state depends on the batch.
            dims.filter_map(|dim| dim.fixed()).collect()
        };
        let parameters = graph.parameters().iter();
        let parameters = parameters.map(|one| (one.name.as_str(), shape(one.value)));
        let states = graph.states().iter();
        let states = states.map(|one| (one.name.as_str(), shape(one.value)));
        parameters.chain(states).collect()
    }

    /// Numbers that are trained.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        let parameters = self.graph.parameters().iter();
        let sizes = parameters.map(|one| {
            let shape = &self.graph.value(one.value).ty.shape;
            let dims = shape.dims().iter().filter_map(|dim| dim.fixed());
            dims.fold(1u64, |product, size| product.saturating_mul(size as u64))
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Checks that each group of a job has a parameter.
    ///
    /// # Errors
    /// The first one that has none.
    pub fn check_groups(&self, groups: &[GroupSpec]) -> Result<(), IdleGroup> {
        let names = self.graph.parameters().iter();
        IdleGroup::check(groups, names.map(|parameter| parameter.name.as_str()))
    }
}

/// A model as it is trained, and what simplified it before it was differentiated.
///
/// # Errors
/// A loss that can't be differentiated, or that doesn't depend on a parameter.
pub fn differentiated(forward: &Graph) -> Result<(Graph, Vec<Record>), GraphError> {
    let simple = simplify(forward)?;
    let graph = differentiate(&simple.graph, LOSS)?;
    graph.verify()?;
    Ok((graph, simple.records))
}

#[cfg(test)]
mod tests {
    use ringfold_common::job::{
        CnnBlock, CnnSpec, DenseLayer, Initialiser, Layer, LayerSpec, Loss, SequentialSpec,
    };

    use super::*;

    fn digits() -> Target {
        Target::Classes((0..10).map(|class| class.to_string()).collect())
    }

    fn build(model: &ModelSpec, features: u32) -> Result<JobNetwork, ModelError> {
        let target = digits();
        let records = RecordShape {
            features,
            dims: &[],
            target: &target,
        };
        JobNetwork::build(model, None, records, 0.0)
    }

    fn list(units: &[u32]) -> ModelSpec {
        let layer = |&units| LayerSpec {
            line: 7,
            layer: Layer::Dense(DenseLayer { units, bias: true }),
        };
        let spec = SequentialSpec {
            layers: units.iter().map(layer).collect(),
            initialiser: Initialiser::HeUniform,
        };
        ModelSpec::new(Architecture::Sequential(spec), Loss::CrossEntropy)
    }

    fn group(pattern: &str) -> GroupSpec {
        GroupSpec {
            pattern: pattern.to_owned(),
            weight_decay: None,
            learning_rate_factor: 0.5,
        }
    }

    #[test]
    fn tensors_and_groups_are_those_of_the_network() {
        let network = build(&list(&[5, 10]), 3).unwrap();
        let tensors = network.tensors();
        let expected: [(&str, &[usize]); 4] = [
            ("0.weight", &[5, 3]),
            ("0.bias", &[5]),
            ("1.weight", &[10, 5]),
            ("1.bias", &[10]),
        ];
        let got: Vec<(&str, &[usize])> = tensors.iter().map(|(n, s)| (*n, &s[..])).collect();
        assert_eq!(got, expected);
        assert_eq!(network.parameter_count(), 3 * 5 + 5 + 5 * 10 + 10);
        assert_eq!(network.check_groups(&[group("*.bias")]), Ok(()));
        let idle = network.check_groups(&[group("*.bias"), group("norm.*")]);
        assert_eq!(idle.unwrap_err().field(), "train.group[1].match");
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_key() {
        let field = |model: &ModelSpec, features| build(model, features).unwrap_err().field();
        assert_eq!(field(&list(&[5, 9]), 3), "model.layers");
        let mut sizes = list(&[10]);
        sizes.input = vec![1, 8, 8];
        assert_eq!(field(&sizes, 63), "model.input");
        let cnn = CnnSpec {
            blocks: vec![CnnBlock {
                filters: 2,
                kernel: 9,
                padding: 0,
                pool: 1,
                batch_norm: false,
            }],
            hidden: Vec::new(),
            activation: ringfold_common::job::Activation::Relu,
            dropout: 0.0,
            initialiser: Initialiser::HeUniform,
        };
        let mut cnn = ModelSpec::new(Architecture::Cnn(cnn), Loss::CrossEntropy);
        assert_eq!(field(&cnn, 64), "model.input");
        cnn.input = vec![1, 8, 8];
        assert_eq!(field(&cnn, 64), "model.blocks[0]");
        let mut weighted = list(&[10]);
        weighted.loss_options.class_weights = vec![1.0; 9];
        assert_eq!(field(&weighted, 3), "model.class_weights");
    }
}
