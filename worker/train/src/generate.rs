//! Text from a saved model, token by token.
//!
//! A model reads one token at a time and keeps what it needs of those before: a recurrent network
//! its states, a transformer the keys and values of its context. When the context is full, its older half is forgotten: the
//! newer half is read again from the start, so that every token has between half a context and a
//! whole one before it, once there were so many.

use ringfold_common::dataset::Target;
use ringfold_common::job::Architecture;
use ringfold_common::vocabulary::Vocabulary;
use ringfold_compute::{
    Arena, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, TensorRef, Workspace,
};
use ringfold_graph::models::{GptOptions, LOGITS, LstmOptions, gpt_step, lstm_step};
use ringfold_storage::{Model, ModelDescription};

use crate::error::TrainError;
use crate::network::Network;
use crate::sampling::Sampler;

/// A saved model of text, with the tokens that it has read.
#[derive(Debug)]
pub struct Generator {
    description: ModelDescription,
    vocabulary: Vocabulary,
    parameters: Arena<f32>,
    plan: CpuPlan<f32>,
    workspace: Workspace<f32>,
    memory: Memory,
    /// Tokens in a transformer's cache, oldest first.
    read: Vec<i32>,
}

/// What a model keeps of the tokens that it has read.
#[derive(Debug)]
enum Memory {
    Transformer(Cache),
    Recurrent(States),
}

/// What a recurrent network keeps: h and c of each layer.
#[derive(Debug)]
struct States {
    layers: Vec<[Vec<f32>; 2]>,
    /// The outputs that are the next ones.
    names: Vec<[String; 2]>,
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
    /// the caller's team.
    ///
    /// # Errors
    /// [`TrainError::NotOfText`]; a tensor that is missing, superfluous or of another shape.
    pub fn new(model: Model, threads: usize) -> Result<Self, TrainError> {
        let description = model.description;
        let architecture = &description.model.architecture;
        let not_of_text = || TrainError::NotOfText {
            kind: architecture.kind(),
        };
        let Target::Tokens(vocabulary) = &description.target else {
            return Err(not_of_text());
        };
        let context = description.features as usize;
        let tokens = vocabulary.len();
        let network = Network::new(
            &description.model,
            (description.features, &description.columns.dims),
            &description.target,
            0.0,
            threads,
        )?;
        let (parameters, _) = network.load(&model.tensors)?;
        let (graph, memory) = match architecture {
            Architecture::Gpt(gpt) => {
                let options = GptOptions::of_job(*gpt, [context; 2], tokens, 0.0);
                let step = gpt_step(&options)?;
                (
                    step.graph,
                    Memory::Transformer(Cache::new(&options, step.rows)),
                )
            }
            Architecture::Lstm(lstm) => {
                let options = LstmOptions::of_job(*lstm, context, tokens, 0.0);
                let step = lstm_step(&options)?;
                let zeros = vec![0.0; options.hidden];
                let states = States {
                    layers: vec![[zeros.clone(), zeros]; step.states.len()],
                    names: step.states,
                };
                (step.graph, Memory::Recurrent(states))
            }
            _ => return Err(not_of_text()),
        };
        let (plan, workspace) = plan(&graph, network.layout(), threads)?;
        Ok(Self {
            vocabulary: vocabulary.clone(),
            memory,
            description,
            parameters,
            plan,
            workspace,
            read: Vec::new(),
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

    /// Tokens that it sees at once; unset for a recurrent network, which has no limit.
    #[must_use]
    pub fn context(&self) -> Option<usize> {
        match &self.memory {
            Memory::Transformer(cache) => Some(cache.context),
            Memory::Recurrent(_) => None,
        }
    }

    /// Reads a token, and returns the scores (logits) of all tokens to follow it.
    ///
    /// # Errors
    /// A number that is no token.
    pub fn read(&mut self, token: u32) -> Result<&[f32], TrainError> {
        if let Memory::Transformer(cache) = &mut self.memory
            && self.read.len() == cache.context
        {
            let newer = self.read.split_off(cache.context.div_ceil(2));
            self.read.clear();
            cache.mask.fill(0);
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
        let skipped = self
            .context()
            .map_or(0, |context| prompt.len().saturating_sub(context));
        let seen = &prompt[skipped..];
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

    /// Runs one token at the next position, which must be free, and remembers it.
    fn step(&mut self, token: i32) -> Result<(), TrainError> {
        let (tokens, positions) = ([token], [self.read.len() as i32]);
        let mut inputs = vec![TensorRef::Int(&tokens)];
        let kept = match &mut self.memory {
            Memory::Transformer(cache) => {
                cache.mask[cache.context] = 1;
                inputs.push(TensorRef::Int(&positions));
                inputs.push(TensorRef::Bool(&cache.mask));
                &cache.blocks
            }
            Memory::Recurrent(states) => &states.layers,
        };
        let kept = kept.iter().flatten();
        inputs.extend(kept.map(|kept| TensorRef::Float(kept)));
        self.plan
            .infer(&mut self.workspace, &self.parameters, &inputs)?;
        let output = |name: &String| {
            let output = self.plan.output(&self.workspace, name);
            output.unwrap_or_default()
        };
        match &mut self.memory {
            Memory::Transformer(cache) => {
                cache.keep(self.read.len(), output);
                self.read.push(token);
            }
            Memory::Recurrent(states) => {
                let names = states.names.iter().flatten();
                for (state, name) in states.layers.iter_mut().flatten().zip(names) {
                    state.copy_from_slice(output(name));
                }
            }
        }
        Ok(())
    }
}

impl Cache {
    /// Nothing yet.
    fn new(options: &GptOptions, rows: Vec<[String; 2]>) -> Self {
        let zeros = vec![0.0; options.context * options.width];
        Self {
            context: options.context,
            heads: options.heads,
            head_width: options.width / options.heads,
            blocks: vec![[zeros.clone(), zeros]; rows.len()],
            rows,
            mask: vec![0; options.context + 1],
        }
    }

    /// Takes the new rows into a position.
    fn keep<'o>(&mut self, position: usize, output: impl Fn(&String) -> &'o [f32]) {
        let width = self.head_width;
        let names = self.rows.iter().flatten();
        for (cached, name) in self.blocks.iter_mut().flatten().zip(names) {
            let rows = output(name).chunks_exact(width);
            for (head, row) in rows.enumerate().take(self.heads) {
                let start = (head * self.context + position) * width;
                cached[start..start + width].copy_from_slice(row);
            }
        }
        self.mask[position] = 1;
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
