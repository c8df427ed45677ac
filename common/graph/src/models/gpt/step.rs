//! A GPT that reads one token at a time and remembers the keys and values of those before.

use super::{Builder, GptOptions, block_name};
use crate::error::GraphError;
use crate::graph::{Graph, OutputRole, ValueId};
use crate::models::{FEATURES, LOGITS};
use crate::op::{Attention, Binary, Concat, Gather, Reshape, Slice};
use crate::shape::{DType, Dim, Shape, TensorType};

/// The step of a GPT, and how its inputs and outputs follow each other.
#[derive(Clone, Debug)]
pub struct GptStep {
    /// The graph.
    ///
    /// Inputs in order: [`FEATURES`], `i32 [batch, 1]`, the token; `position`, `i32 [batch, 1]`;
    /// `mask`, `bool [batch, 1, 1, context + 1]`: which of the cached positions are there, the
    /// token itself being the last; then for each block its cached keys and its cached values,
    /// float `[batch, heads, context, width / heads]`.
    ///
    /// Outputs: [`LOGITS`], float `[batch, 1, vocabulary]`; and those of `rows`.
    pub graph: Graph,
    /// For each block the names of the outputs of its new key and its new value, float
    /// `[batch, heads, 1, width / heads]`: they belong into the caches at the token's position.
    pub rows: Vec<[String; 2]>,
}

/// The step of the GPT that [`gpt`](super::gpt) makes of the same options; `length` and dropout
/// don't count. Its parameters are the same, and so are the logits that it gives one after the
/// other, but for rounding.
///
/// # Errors
/// As [`gpt`](super::gpt).
pub fn gpt_step(options: &GptOptions) -> Result<GptStep, GraphError> {
    options.check()?;
    let options = &GptOptions {
        dropout: 0.0,
        attention_dropout: 0.0,
        ..options.clone()
    };
    let mut graph = Graph::new("gpt_step", options.dtype)?;
    let one = TensorType::new(DType::I32, Shape::batched(&[1]));
    let x = graph.add_input(FEATURES, one.clone())?;
    let position = graph.add_input("position", one)?;
    let seen = Shape::batched(&[1, 1, options.context + 1]);
    let mask = graph.add_input("mask", TensorType::new(DType::Bool, seen))?;
    let head = options.width / options.heads;
    let cache = Shape::batched(&[options.heads, options.context, head]);
    let cache = TensorType::new(options.dtype, cache);
    let mut caches = Vec::with_capacity(options.layers);
    for layer in 0..options.layers {
        let mut input = |part: &str| {
            let name = format!("{}.{part}", block_name(layer));
            graph.add_input(&name, cache.clone())
        };
        caches.push([input("keys")?, input("values")?]);
    }

    let mut builder = Builder::new(&mut graph, options);
    let [wte, wpe] = builder.embeddings()?;
    let token = builder.graph.apply(Gather { axis: 0 }, &[wte, x])?;
    let place = builder.graph.apply(Gather { axis: 0 }, &[wpe, position])?;
    let mut value = builder.graph.apply(Binary::Add, &[token, place])?;
    let mut new = Vec::with_capacity(options.layers);
    for (layer, cache) in caches.into_iter().enumerate() {
        value = builder.block(&block_name(layer), value, |builder, qkv| {
            let (y, rows) = attend(builder, qkv, cache, mask)?;
            new.push(rows);
            Ok(y)
        })?;
    }
    let logits = builder.head(value, wte)?;
    graph.add_output(LOGITS, OutputRole::Prediction, logits)?;
    let mut rows = Vec::with_capacity(options.layers);
    for (layer, [key, value]) in new.into_iter().enumerate() {
        let names = ["key", "value"].map(|part| format!("{}.{part}", block_name(layer)));
        graph.add_output(&names[0], OutputRole::Prediction, key)?;
        graph.add_output(&names[1], OutputRole::Prediction, value)?;
        rows.push(names);
    }
    Ok(GptStep { graph, rows })
}

/// Attention of one row to the cached ones and itself; the result, and the row's key and value.
fn attend(
    builder: &mut Builder<'_>,
    qkv: ValueId,
    cache: [ValueId; 2],
    mask: ValueId,
) -> Result<(ValueId, [ValueId; 2]), GraphError> {
    let (heads, width) = (builder.options.heads, builder.options.width);
    let graph = &mut *builder.graph;
    let mut part = |number: usize| {
        let slice = Slice {
            axis: 2,
            start: number * width,
            step: 1,
            len: width,
        };
        let row = graph.apply(slice, &[qkv])?;
        let shape = batched_like(graph, row, &[heads, 1, width / heads]);
        graph.apply(Reshape { shape }, &[row])
    };
    let (q, rows) = (part(0)?, [part(1)?, part(2)?]);
    let keys = graph.apply(Concat { axis: 2 }, &[cache[0], rows[0]])?;
    let values = graph.apply(Concat { axis: 2 }, &[cache[1], rows[1]])?;
    let y = graph.apply_all(Attention::heads(), &[q, keys, values, mask])?[0];
    let shape = batched_like(graph, y, &[1, width]);
    Ok((graph.apply(Reshape { shape }, &[y])?, rows))
}

/// The batch of `value`, then `dims`.
fn batched_like(graph: &Graph, value: ValueId, dims: &[usize]) -> Shape {
    let batch = graph.value(value).ty.shape.dims().first().copied();
    let dims = dims.iter().map(|&size| Dim::Fixed(size));
    Shape::new(batch.into_iter().chain(dims).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::gpt;

    #[test]
    fn a_step_has_the_parameters_of_the_whole() {
        for tied in [false, true] {
            let options = GptOptions {
                vocabulary: 7,
                context: 5,
                length: 5,
                layers: 2,
                heads: 2,
                width: 4,
                dropout: 0.1,
                attention_dropout: 0.1,
                tied,
                l2: 0.1,
                dtype: DType::F32,
            };
            let step = gpt_step(&options).unwrap();
            step.graph.verify().unwrap();
            let parameters = |graph: &Graph| -> Vec<String> {
                let list = graph.parameters().iter();
                list.map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
                    .collect()
            };
            assert_eq!(parameters(&step.graph), parameters(&gpt(&options).unwrap()));
            assert_eq!(step.graph.inputs().len(), 3 + 2 * 2);
            assert_eq!(step.rows.len(), 2);
        }
    }
}
