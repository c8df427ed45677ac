//! Text from a saved model, token by token.
//!
//! A model reads one token at a time and keeps what it needs of those before: a transformer the
//! keys and values of its context. When the context is full, its older half is forgotten: the
//! newer half is read again from the start, so that every token has between half a context and a
//! whole one before it, once there were so many.

use ringfold_common::dataset::Target;
use ringfold_common::job::Architecture;
use ringfold_common::vocabulary::Vocabulary;
use ringfold_compute::{
    Arena, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, TensorRef, Workspace,
};
use ringfold_graph::models::{LOGITS, gpt_step};
use ringfold_storage::{Model, ModelDescription};

use crate::error::TrainError;
use crate::network::{Network, gpt_options};
use crate::sampling::Sampler;

/// A saved model of text, with the tokens that it has read.
#[derive(Debug)]
pub struct Generator {
    description: ModelDescription,
    vocabulary: Vocabulary,
    parameters: Arena<f32>,
    plan: CpuPlan<f32>,
    workspace: Workspace<f32>,
    cache: Cache,
    /// Tokens in the cache, oldest first.
    read: Vec<i32>,
}

/// What a transformer keeps of the tokens that it has read.
#[derive(Debug)]
struct Cache {
    context: usize,
    heads: usize,
    /// Elements of one head's key or value.
    head_width: usize,
    /// Keys and values of each block, `[heads, context, head_width]`.
    blocks: Vec<[Vec<f32>; 2]>,
    /// The outputs that are their new rows.
    rows: Vec<[String; 2]>,
    /// Which positions are filled; the last is that of the token itself.
    mask: Vec<u8>,
}

impl Generator {
    /// Puts a model's tensors into a network that reads token by token, on `threads` threads of
    /// the caller's rayon pool.
    ///
    /// # Errors
    /// [`TrainError::NotOfText`]; a tensor that is missing, superfluous or of another shape.
    pub fn new(model: Model, threads: usize) -> Result<Self, TrainError> {
        let description = model.description;
        let (Target::Tokens(vocabulary), Architecture::Gpt(gpt)) =
            (&description.target, &description.model.architecture)
        else {
            return Err(TrainError::NotOfText {
                kind: description.model.architecture.kind(),
            });
        };
        let context = description.features as usize;
        let network = Network::new(
            &description.model,
            description.features,
            &description.target,
            0.0,
            threads,
        )?;
        let (parameters, _) = network.load(&model.tensors)?;
        let options = gpt_options(gpt, [context; 2], &description.target, 0.0);
        let step = gpt_step(&options)?;
        let (plan, workspace) = plan(&step.graph, network.layout(), threads)?;
        let head_width = options.width / options.heads;
        let cache = vec![0.0; context * options.width];
        Ok(Self {
            vocabulary: vocabulary.clone(),
            cache: Cache {
                context,
                heads: options.heads,
                head_width,
                blocks: vec![[cache.clone(), cache]; step.rows.len()],
                rows: step.rows,
                mask: vec![0; context + 1],
            },
            description,
            parameters,
            plan,
            workspace,
            read: Vec::with_capacity(context),
        })
    }

    /// How the model is described.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// The tokens that it reads and writes.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens that it sees at once.
    #[must_use]
    pub fn context(&self) -> usize {
        self.cache.context
    }

    /// Reads a token, and returns the scores (logits) of all tokens to follow it.
    ///
    /// # Errors
    /// A number that is no token.
    pub fn read(&mut self, token: u32) -> Result<&[f32], TrainError> {
        if self.read.len() == self.cache.context {
            let newer = self.read.split_off(self.cache.context.div_ceil(2));
            self.read.clear();
            self.cache.mask.fill(0);
            for token in newer {
                self.step(token)?;
            }
        }
        self.step(token as i32)?;
        Ok(self
            .plan
            .output(&self.workspace, LOGITS)
            .unwrap_or_default())
    }

    /// Reads `prompt`, then draws `count` tokens, reads each and hands it to `each`. Of a prompt
    /// that is longer than the context the end is read. Without a prompt the text starts after
    /// token 0.
    ///
    /// # Errors
    /// What [`Self::read`] refuses, and what `each` returns.
    pub fn generate<E: From<TrainError>>(
        &mut self,
        prompt: &[u32],
        count: u64,
        sampler: &mut Sampler,
        mut each: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let prompt = if prompt.is_empty() { &[0] } else { prompt };
        let seen = &prompt[prompt.len().saturating_sub(self.cache.context)..];
        let (last, before) = seen.split_last().unwrap_or((&0, &[]));
        for &token in before {
            self.read(token)?;
        }
        let mut token = *last;
        for _ in 0..count {
            token = sampler.draw(self.read(token)?) as u32;
            each(token)?;
        }
        Ok(())
    }

    /// Runs one token at the next position, which must be free.
    fn step(&mut self, token: i32) -> Result<(), TrainError> {
        let cache = &mut self.cache;
        let position = self.read.len();
        cache.mask[cache.context] = 1;
        let (token_input, position_input) = ([token], [position as i32]);
        let mut inputs = vec![
            TensorRef::Int(&token_input),
            TensorRef::Int(&position_input),
            TensorRef::Bool(&cache.mask),
        ];
        let blocks = cache.blocks.iter().flatten();
        inputs.extend(blocks.map(|cached| TensorRef::Float(cached)));
        self.plan
            .infer(&mut self.workspace, &self.parameters, &inputs)?;
        for (cached, names) in cache.blocks.iter_mut().zip(&cache.rows) {
            for (cached, name) in cached.iter_mut().zip(names) {
                let row = self.plan.output(&self.workspace, name).unwrap_or_default();
                let width = cache.head_width;
                for (head, row) in row.chunks_exact(width).enumerate().take(cache.heads) {
                    let start = (head * cache.context + position) * width;
                    cached[start..start + width].copy_from_slice(row);
                }
            }
        }
        cache.mask[position] = 1;
        self.read.push(token);
        Ok(())
    }
}

fn plan(
    graph: &ringfold_graph::Graph,
    layout: &ParameterLayout,
    threads: usize,
) -> Result<(CpuPlan<f32>, Workspace<f32>), TrainError> {
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 1,
    };
    let plan = Cpu::new(CpuOptions { threads })?.plan(graph, layout, options)?;
    let workspace = plan.workspace()?;
    Ok((plan, workspace))
}

#[cfg(test)]
mod tests;
