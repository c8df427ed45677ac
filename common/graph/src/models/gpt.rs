//! GPT: a causal transformer over tokens, as GPT-2 (Radford et al.: "Language models are
//! unsupervised multitask learners", 2019).

mod step;

pub use step::{GptStep, gpt_step};

use ringfold_common::job::GptSpec;

use super::objective::finish_tokens;
use super::options::{check_dropout, check_l2, check_layers, check_sizes, refuse};
use super::{FEATURES, LABELS};
use crate::error::GraphError;
use crate::graph::{Graph, ValueId};
use crate::init::Initialiser;
use crate::op::{Attention, Binary, Dense, Dropout, Gather, Norm, NormOver, Slice, Unary};
use crate::shape::{DType, Shape, TensorType};

/// The standard deviation of initial weights (GPT-2, and section 2.3 of its report for residuals).
const DEVIATION: f64 = 0.02;

/// Added to variances by layer norms.
const EPS: f64 = 1e-5;

/// The options of [`gpt`].
#[derive(Clone, Debug, PartialEq)]
pub struct GptOptions {
    /// Different tokens.
    pub vocabulary: usize,
    /// Positions that have an embedding.
    pub context: usize,
    /// Tokens of one sample: at most `context`. A model that was trained on its whole context runs
    /// on shorter texts too.
    pub length: usize,
    /// Blocks of attention and perceptron.
    pub layers: usize,
    /// Heads of an attention: a divisor of the width.
    pub heads: usize,
    /// Elements of an embedding.
    pub width: usize,
    /// The probability of zeroing an element after the embeddings and at the end of each branch of
    /// a block, in `[0, 1)`.
    pub dropout: f64,
    /// The probability of zeroing a probability of an attention, in `[0, 1)`.
    pub attention_dropout: f64,
    /// The output's weight is that of the token embedding.
    pub tied: bool,
    /// `lambda` of `lambda / 2 · Σ w²` over all matrices; 0 for none.
    pub l2: f64,
    /// The type of all floats.
    pub dtype: DType,
}

impl GptOptions {
    /// The options of a job's GPT of a context that runs on texts of a length, in `f32`.
    #[must_use]
    pub fn of_job(
        spec: GptSpec,
        [context, length]: [usize; 2],
        vocabulary: usize,
        l2: f64,
    ) -> Self {
        Self {
            vocabulary,
            context,
            length,
            layers: spec.layers as usize,
            heads: spec.heads as usize,
            width: spec.width as usize,
            dropout: spec.dropout,
            attention_dropout: spec.attention_dropout,
            tied: spec.tied_embeddings,
            l2,
            dtype: DType::F32,
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        check_sizes(&[
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("length", self.length),
            ("width", self.width),
            ("heads", self.heads),
        ])?;
        if self.length > self.context {
            return Err(refuse("length", "at most the context", self.length));
        }
        check_layers("layers", self.layers, 1)?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(refuse("heads", "a divisor of the width", self.heads));
        }
        check_dropout("dropout", self.dropout)?;
        check_dropout("attention_dropout", self.attention_dropout)?;
        check_l2(self.l2)
    }
}

/// A GPT with its loss, not differentiated yet.
///
/// Inputs [`FEATURES`] and [`LABELS`], both `i32 [batch, length]`: tokens, and for each the one
/// that follows. Parameters have the names and layouts of nanoGPT: `transformer.wte.weight
/// [vocabulary, width]`, `transformer.wpe.weight [context, width]`; of block N, with prefix
/// `transformer.h.N`, `ln_1`, `attn.c_attn [3 · width, width]` (queries, keys, values),
/// `attn.c_proj`, `ln_2`, `mlp.c_fc [4 · width, width]` and `mlp.c_proj`, each with `.weight` and
/// `.bias`; `transformer.ln_f`; and `lm_head.weight [vocabulary, width]` unless embeddings are tied.
/// GELU is exact. Weights start normal with deviation 0.02, those of a block's `c_proj` with
/// 0.02 / √(2 · layers); biases at 0.
///
/// Outputs [`LOSS`](super::LOSS), [`DATA_LOSS`](super::DATA_LOSS) (the mean over all tokens),
/// [`LOGITS`](super::LOGITS) and [`PROBABILITIES`](super::PROBABILITIES) of
/// `[batch, length, vocabulary]`.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range.
pub fn gpt(options: &GptOptions) -> Result<Graph, GraphError> {
    options.check()?;
    let mut graph = Graph::new("gpt", options.dtype)?;
    let tokens = TensorType::new(DType::I32, Shape::batched(&[options.length]));
    let x = graph.add_input(FEATURES, tokens.clone())?;
    let y = graph.add_input(LABELS, tokens)?;
    let mut builder = Builder::new(&mut graph, options);
    let (mut value, embedding) = builder.embed(x)?;
    for layer in 0..options.layers {
        value = builder.block(&block_name(layer), value, |builder, qkv| {
            let attention = Attention {
                dropout: builder.dropout(options.attention_dropout),
                ..Attention::packed(options.heads, true)
            };
            Ok(builder.graph.apply_all(attention, &[qkv])?[0])
        })?;
    }
    let logits = builder.head(value, embedding)?;
    let weights = builder.weights;
    finish_tokens(&mut graph, logits, y, &weights, options.l2)?;
    Ok(graph)
}

fn block_name(layer: usize) -> String {
    format!("transformer.h.{layer}")
}

struct Builder<'a> {
    graph: &'a mut Graph,
    options: &'a GptOptions,
    /// All matrices.
    weights: Vec<ValueId>,
    dropouts: u64,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a mut Graph, options: &'a GptOptions) -> Self {
        Self {
            graph,
            options,
            weights: Vec::new(),
            dropouts: 0,
        }
    }

    /// The logits of the last block's result.
    fn head(&mut self, x: ValueId, embedding: ValueId) -> Result<ValueId, GraphError> {
        let x = self.norm("transformer.ln_f", x)?;
        let (vocabulary, width) = (self.options.vocabulary, self.options.width);
        let head = if self.options.tied {
            embedding
        } else {
            self.weight("lm_head", vocabulary, width, DEVIATION)?
        };
        self.graph.apply(Dense::Affine, &[x, head])
    }

    /// The weights of the embeddings of tokens and positions.
    fn embeddings(&mut self) -> Result<[ValueId; 2], GraphError> {
        let width = self.options.width;
        let wte = self.weight("transformer.wte", self.options.vocabulary, width, DEVIATION)?;
        let wpe = self.weight("transformer.wpe", self.options.context, width, DEVIATION)?;
        Ok([wte, wpe])
    }

    /// The sum of the embeddings of tokens and positions, and the former's weight.
    fn embed(&mut self, x: ValueId) -> Result<(ValueId, ValueId), GraphError> {
        let length = self.options.length;
        let [wte, mut wpe] = self.embeddings()?;
        if length < self.options.context {
            let slice = Slice {
                axis: 0,
                start: 0,
                step: 1,
                len: length,
            };
            wpe = self.graph.apply(slice, &[wpe])?;
        }
        let tokens = self.graph.apply(Gather { axis: 0 }, &[wte, x])?;
        let sum = self.graph.apply(Binary::Add, &[tokens, wpe])?;
        Ok((self.drop(sum)?, wte))
    }

    /// `x + attention(norm(x))`, then the same with a perceptron. `attend` makes of queries, keys
    /// and values in one row what is projected.
    fn block(
        &mut self,
        name: &str,
        x: ValueId,
        attend: impl FnOnce(&mut Self, ValueId) -> Result<ValueId, GraphError>,
    ) -> Result<ValueId, GraphError> {
        let width = self.options.width;
        let residual = DEVIATION / (2.0 * self.options.layers as f64).sqrt();
        let named = |part: &str| format!("{name}.{part}");

        let h = self.norm(&named("ln_1"), x)?;
        let qkv = self.affine(&named("attn.c_attn"), h, 3 * width, width, DEVIATION)?;
        let h = attend(self, qkv)?;
        let h = self.affine(&named("attn.c_proj"), h, width, width, residual)?;
        let h = self.drop(h)?;
        let x = self.graph.apply(Binary::Add, &[x, h])?;

        let h = self.norm(&named("ln_2"), x)?;
        let h = self.affine(&named("mlp.c_fc"), h, 4 * width, width, DEVIATION)?;
        let h = self.graph.apply(Unary::Gelu, &[h])?;
        let h = self.affine(&named("mlp.c_proj"), h, width, 4 * width, residual)?;
        let h = self.drop(h)?;
        self.graph.apply(Binary::Add, &[x, h])
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
        let shape = || Shape::fixed(&[self.options.width]);
        let ones = Initialiser::Constant(1.0);
        let weight = self
            .graph
            .add_parameter(&format!("{name}.weight"), shape(), ones)?;
        let bias =
            self.graph
                .add_parameter(&format!("{name}.bias"), shape(), Initialiser::Zeros)?;
        let norm = Norm {
            over: NormOver::Layer { axis: 2 },
            eps: EPS,
        };
        Ok(self.graph.apply_all(norm, &[x, weight, bias])?[0])
    }

    fn affine(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        inputs: usize,
        deviation: f64,
    ) -> Result<ValueId, GraphError> {
        let weight = self.weight(name, out, inputs, deviation)?;
        let bias = self.graph.add_parameter(
            &format!("{name}.bias"),
            Shape::fixed(&[out]),
            Initialiser::Zeros,
        )?;
        self.graph.apply(Dense::Affine, &[x, weight, bias])
    }

    /// The parameter `NAME.weight [rows, columns]`.
    fn weight(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        deviation: f64,
    ) -> Result<ValueId, GraphError> {
        let weight = self.graph.add_parameter(
            &format!("{name}.weight"),
            Shape::fixed(&[rows, columns]),
            Initialiser::Normal { deviation },
        )?;
        self.weights.push(weight);
        Ok(weight)
    }

    fn drop(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        match self.dropout(self.options.dropout) {
            Some(dropout) => self.graph.apply(dropout, &[x]),
            None => Ok(x),
        }
    }

    /// A dropout with a key of its own; `None` for a rate of 0.
    fn dropout(&mut self, rate: f64) -> Option<Dropout> {
        let key = self.dropouts;
        self.dropouts += u64::from(rate > 0.0);
        (rate > 0.0).then_some(Dropout { rate, key })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LOSS, UNITS_MAX};
    use super::*;
    use crate::differentiate;

    fn small() -> GptOptions {
        GptOptions {
            vocabulary: 7,
            context: 5,
            length: 5,
            layers: 2,
            heads: 2,
            width: 4,
            dropout: 0.1,
            attention_dropout: 0.2,
            tied: false,
            l2: 0.0,
            dtype: DType::F32,
        }
    }

    fn parameters(options: &GptOptions) -> Vec<String> {
        let graph = gpt(options).unwrap();
        graph.verify().unwrap();
        differentiate(&graph, LOSS).unwrap().verify().unwrap();
        let list = graph.parameters().iter();
        list.map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
            .collect()
    }

    #[test]
    fn names_and_shapes_are_those_of_nano_gpt() {
        let names = parameters(&small());
        assert_eq!(names.len(), 2 + 2 * 12 + 2 + 1);
        for expected in [
            "transformer.wte.weight f32[7, 4]",
            "transformer.wpe.weight f32[5, 4]",
            "transformer.h.1.ln_1.weight f32[4]",
            "transformer.h.1.attn.c_attn.weight f32[12, 4]",
            "transformer.h.0.attn.c_attn.bias f32[12]",
            "transformer.h.0.attn.c_proj.weight f32[4, 4]",
            "transformer.h.0.mlp.c_fc.weight f32[16, 4]",
            "transformer.h.0.mlp.c_proj.weight f32[4, 16]",
            "transformer.ln_f.bias f32[4]",
            "lm_head.weight f32[7, 4]",
        ] {
            assert!(
                names.iter().any(|name| name == expected),
                "{expected}: {names:?}"
            );
        }
        let mut tied = small();
        tied.tied = true;
        let names = parameters(&tied);
        assert!(
            !names.iter().any(|name| name.starts_with("lm_head")),
            "{names:?}"
        );
        // A shorter run has the same parameters.
        tied.length = 3;
        assert_eq!(parameters(&tied), names);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let with = |change: &dyn Fn(&mut GptOptions)| {
            let mut options = small();
            change(&mut options);
            match gpt(&options) {
                Err(GraphError::ModelOption { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(&|o| o.vocabulary = 0), "vocabulary");
        assert_eq!(with(&|o| o.context = UNITS_MAX + 1), "context");
        assert_eq!(with(&|o| o.length = 6), "length");
        assert_eq!(with(&|o| o.layers = 0), "layers");
        assert_eq!(with(&|o| o.heads = 3), "heads");
        assert_eq!(with(&|o| o.dropout = 1.0), "dropout");
        assert_eq!(with(&|o| o.attention_dropout = -0.1), "attention_dropout");
        assert_eq!(with(&|o| o.l2 = f64::NAN), "l2");
    }
}
