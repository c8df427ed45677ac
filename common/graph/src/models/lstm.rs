//! LSTM over tokens, as the language models of recurrent networks (Zaremba, Sutskever, Vinyals:
//! "Recurrent neural network regularization", 2014).

mod numbers;

pub use numbers::lstm_numbers;

use ringfold_common::job::LstmSpec;

use super::objective::finish_tokens;
use super::options::{check_dropout, check_l2, check_layers, check_sizes};
use super::{FEATURES, LABELS, LOGITS};
use crate::error::GraphError;
use crate::graph::{Graph, OutputRole, ValueId};
use crate::init::{Initialiser, InitialiserScheme};
use crate::op::{Cell, Dense, Dropout, Expand, Gather, Recurrent, Reshape};
use crate::shape::{DType, Dim, Shape, TensorType};

/// The options of [`lstm`].
#[derive(Clone, Debug, PartialEq)]
pub struct LstmOptions {
    /// Different tokens.
    pub vocabulary: usize,
    /// Tokens of one sample.
    pub length: usize,
    /// Elements of an embedding.
    pub embedding: usize,
    /// Elements of a layer's state.
    pub hidden: usize,
    /// Layers, one after the other.
    pub layers: usize,
    /// The probability of zeroing an element of the embeddings and of each layer's result, in
    /// `[0, 1)`.
    pub dropout: f64,
    /// `lambda` of `lambda / 2 · Σ w²` over all matrices; 0 for none.
    pub l2: f64,
    /// The type of all floats.
    pub dtype: DType,
}

impl LstmOptions {
    /// The options of a job's LSTM over texts of a length, in `f32`.
    #[must_use]
    pub fn of_job(spec: LstmSpec, length: usize, vocabulary: usize, l2: f64) -> Self {
        Self {
            vocabulary,
            length,
            embedding: spec.embedding as usize,
            hidden: spec.hidden as usize,
            layers: spec.layers as usize,
            dropout: spec.dropout,
            l2,
            dtype: DType::F32,
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        check_sizes(&[
            ("vocabulary", self.vocabulary),
            ("length", self.length),
            ("embedding", self.embedding),
            ("hidden", self.hidden),
        ])?;
        check_layers("layers", self.layers, 1)?;
        check_dropout("dropout", self.dropout)?;
        check_l2(self.l2)
    }
}

/// An LSTM over text with its loss, not differentiated yet. Every sample starts from states of 0.
///
/// Inputs [`FEATURES`] and [`LABELS`], both `i32 [batch, length]`: tokens, and for each the one
/// that follows. Parameters have PyTorch's layouts: `embedding.weight [vocabulary, embedding]`; of
/// layer N `lstm.weight_ih_lN`, `lstm.weight_hh_lN`, `lstm.bias_ih_lN`, `lstm.bias_hh_lN`;
/// `head.weight [vocabulary, hidden]` and `head.bias`. They start as PyTorch's: embeddings normal
/// with deviation 1, all else uniform on `±1/√hidden`.
///
/// Outputs as [`gpt`](super::gpt)'s.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range.
pub fn lstm(options: &LstmOptions) -> Result<Graph, GraphError> {
    options.check()?;
    let mut graph = Graph::new("lstm", options.dtype)?;
    let tokens = TensorType::new(DType::I32, Shape::batched(&[options.length]));
    let x = graph.add_input(FEATURES, tokens.clone())?;
    let y = graph.add_input(LABELS, tokens)?;
    let zeros = zeros(&mut graph, x, options.hidden)?;
    let mut builder = Builder {
        graph: &mut graph,
        options,
        weights: Vec::new(),
    };
    let mut value = builder.embed(x)?;
    for layer in 0..options.layers {
        let results = builder.layer(layer, value, [zeros; 2])?;
        value = builder.drop(results[0], layer as u64 + 1)?;
    }
    let logits = builder.head(value)?;
    let weights = builder.weights;
    finish_tokens(&mut graph, logits, y, &weights, options.l2)?;
    Ok(graph)
}

/// The step of an LSTM over text, and how its inputs and outputs follow each other.
#[derive(Clone, Debug)]
pub struct LstmStep {
    /// The graph.
    ///
    /// Inputs in order: [`FEATURES`], `i32 [batch, 1]`, the token; then for each layer its states h
    /// and c, float `[batch, hidden]`. Outputs: [`LOGITS`], float `[batch, 1, vocabulary]`; and
    /// those of `states`.
    pub graph: Graph,
    /// For each layer the names of the outputs that are its next h and c.
    pub states: Vec<[String; 2]>,
}

/// The step of the LSTM that [`lstm`] makes of the same options; `length` and dropout don't count.
/// Its parameters are the same.
///
/// # Errors
/// As [`lstm`].
pub fn lstm_step(options: &LstmOptions) -> Result<LstmStep, GraphError> {
    options.check()?;
    let mut graph = Graph::new("lstm_step", options.dtype)?;
    let x = graph.add_input(FEATURES, TensorType::new(DType::I32, Shape::batched(&[1])))?;
    let state = TensorType::new(options.dtype, Shape::batched(&[options.hidden]));
    let mut states = Vec::with_capacity(options.layers);
    for layer in 0..options.layers {
        let mut input = |part: &str| graph.add_input(&format!("{part}_l{layer}"), state.clone());
        states.push([input("h")?, input("c")?]);
    }
    let mut builder = Builder {
        graph: &mut graph,
        options,
        weights: Vec::new(),
    };
    let mut value = builder.embed(x)?;
    let mut next = Vec::with_capacity(options.layers);
    for (layer, states) in states.into_iter().enumerate() {
        let results = builder.layer(layer, value, states)?;
        value = results[0];
        next.push([results[1], results[2]]);
    }
    let logits = builder.head(value)?;
    graph.add_output(LOGITS, OutputRole::Prediction, logits)?;
    let mut names = Vec::with_capacity(options.layers);
    for (layer, next) in next.into_iter().enumerate() {
        let pair = ["h", "c"].map(|part| format!("next_{part}_l{layer}"));
        for (name, value) in pair.iter().zip(next) {
            graph.add_output(name, OutputRole::Prediction, value)?;
        }
        names.push(pair);
    }
    Ok(LstmStep {
        graph,
        states: names,
    })
}

/// Zeros of `[batch of x, hidden]`.
fn zeros(graph: &mut Graph, x: ValueId, hidden: usize) -> Result<ValueId, GraphError> {
    let zero = graph.add_scalar(0.0)?;
    let shape = Shape::fixed(&[1, 1]);
    let zero = graph.apply(Reshape { shape }, &[zero])?;
    let batch = graph.value(x).ty.shape.dims().first().copied();
    let dims = batch.into_iter().chain([Dim::Fixed(hidden)]).collect();
    let shape = Shape::new(dims);
    graph.apply(Expand { shape }, &[zero])
}

struct Builder<'a> {
    graph: &'a mut Graph,
    options: &'a LstmOptions,
    /// All matrices.
    weights: Vec<ValueId>,
}

impl Builder<'_> {
    fn embed(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let sizes = [self.options.vocabulary, self.options.embedding];
        let normal = Initialiser::Normal { deviation: 1.0 };
        let weight = self.parameter("embedding.weight", &sizes, normal)?;
        let value = self.graph.apply(Gather { axis: 0 }, &[weight, x])?;
        self.drop(value, 0)
    }

    /// The results of one layer: those of all steps, then h and c after the last.
    fn layer(
        &mut self,
        layer: usize,
        x: ValueId,
        states: [ValueId; 2],
    ) -> Result<Vec<ValueId>, GraphError> {
        let hidden = self.options.hidden;
        let inputs = if layer == 0 {
            self.options.embedding
        } else {
            hidden
        };
        let rows = hidden.saturating_mul(Cell::Lstm.gates());
        let uniform = self.uniform();
        let mut operands = vec![x];
        for (part, sizes) in [
            ("weight_ih", &[rows, inputs][..]),
            ("weight_hh", &[rows, hidden]),
            ("bias_ih", &[rows]),
            ("bias_hh", &[rows]),
        ] {
            let name = format!("lstm.{part}_l{layer}");
            operands.push(self.parameter(&name, sizes, uniform)?);
        }
        operands.extend(states);
        let op = Recurrent {
            cell: Cell::Lstm,
            time_first: false,
            reverse: false,
        };
        self.graph.apply_all(op, &operands)
    }

    fn head(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let sizes = [self.options.vocabulary, self.options.hidden];
        let uniform = self.uniform();
        let weight = self.parameter("head.weight", &sizes, uniform)?;
        let bias = self.parameter("head.bias", &sizes[..1], uniform)?;
        self.graph.apply(Dense::Affine, &[x, weight, bias])
    }

    /// PyTorch's initial values of layers with `hidden` inputs.
    fn uniform(&self) -> Initialiser {
        InitialiserScheme::LinearDefault.bias(self.options.hidden)
    }

    fn parameter(
        &mut self,
        name: &str,
        sizes: &[usize],
        initialiser: Initialiser,
    ) -> Result<ValueId, GraphError> {
        let value = self
            .graph
            .add_parameter(name, Shape::fixed(sizes), initialiser)?;
        if sizes.len() == 2 {
            self.weights.push(value);
        }
        Ok(value)
    }

    fn drop(&mut self, x: ValueId, key: u64) -> Result<ValueId, GraphError> {
        let rate = self.options.dropout;
        if rate == 0.0 {
            return Ok(x);
        }
        self.graph.apply(Dropout { rate, key }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LOSS, UNITS_MAX};
    use super::*;
    use crate::differentiate;

    fn small() -> LstmOptions {
        LstmOptions {
            vocabulary: 7,
            length: 5,
            embedding: 3,
            hidden: 4,
            layers: 2,
            dropout: 0.1,
            l2: 0.1,
            dtype: DType::F32,
        }
    }

    fn parameters(graph: &Graph) -> Vec<String> {
        let list = graph.parameters().iter();
        list.map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
            .collect()
    }

    #[test]
    fn names_and_shapes_are_those_of_pytorch_and_the_step_has_the_same() {
        let graph = lstm(&small()).unwrap();
        graph.verify().unwrap();
        differentiate(&graph, LOSS).unwrap().verify().unwrap();
        let expected = [
            "embedding.weight f32[7, 3]",
            "lstm.weight_ih_l0 f32[16, 3]",
            "lstm.weight_hh_l0 f32[16, 4]",
            "lstm.bias_ih_l0 f32[16]",
            "lstm.bias_hh_l0 f32[16]",
            "lstm.weight_ih_l1 f32[16, 4]",
            "lstm.weight_hh_l1 f32[16, 4]",
            "lstm.bias_ih_l1 f32[16]",
            "lstm.bias_hh_l1 f32[16]",
            "head.weight f32[7, 4]",
            "head.bias f32[7]",
        ];
        assert_eq!(parameters(&graph), expected);
        let mut options = small();
        options.dropout = 0.0;
        let step = lstm_step(&options).unwrap();
        step.graph.verify().unwrap();
        assert_eq!(parameters(&step.graph), expected);
        assert_eq!(step.states.len(), 2);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let with = |change: &dyn Fn(&mut LstmOptions)| {
            let mut options = small();
            change(&mut options);
            match lstm(&options) {
                Err(GraphError::ModelOption { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(&|o| o.vocabulary = 0), "vocabulary");
        assert_eq!(with(&|o| o.length = 0), "length");
        assert_eq!(with(&|o| o.embedding = 0), "embedding");
        assert_eq!(with(&|o| o.hidden = UNITS_MAX + 1), "hidden");
        assert_eq!(with(&|o| o.layers = 0), "layers");
        assert_eq!(with(&|o| o.dropout = -0.1), "dropout");
        assert_eq!(with(&|o| o.l2 = -1.0), "l2");
    }
}
