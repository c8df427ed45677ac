//! The options of built-in networks over text, or sequences of numbers. Vocabulary, context and sizes
//! of records follow from the data.

use serde::{Deserialize, Serialize};

/// `"gpt"`: a causal transformer as GPT-2's (Radford et al., 2019), with exact GELU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GptSpec {
    /// Blocks of attention and perceptron.
    pub layers: u32,
    /// Heads of an attention: a divisor of the width.
    pub heads: u32,
    /// Elements of an embedding.
    pub width: u32,
    /// The share of values set to zero in training, after the embeddings and at the end of each
    /// branch of a block, in [0, 1).
    pub dropout: f64,
    /// The share of an attention's probabilities set to zero in training, in [0, 1).
    #[serde(default)]
    pub attention_dropout: f64,
    /// The output's weight is that of the token embedding.
    pub tied_embeddings: bool,
}

/// `"lstm"`: layers of long short-term memory. Every record starts from states of 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LstmSpec {
    /// Elements of an embedding; 0 for sequences of numbers, which need none.
    pub embedding: u32,
    /// Elements of a layer's state.
    pub hidden: u32,
    /// Layers, one after the other.
    pub layers: u32,
    /// The share of values set to zero in training, after the embedding and after each layer, in
    /// [0, 1).
    pub dropout: f64,
}

impl LstmSpec {
    /// True if its inputs are tokens, and not numbers.
    #[must_use]
    pub fn takes_text(&self) -> bool {
        self.embedding > 0
    }
}
