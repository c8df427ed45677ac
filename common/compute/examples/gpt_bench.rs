//! Tokens a second of a GPT's training step (forward, backward, AdamW), as `bench/models.py`
//! runs it in turns with PyTorch: 6 layers, 6 heads, width 384, context 256, vocabulary 65, batch 8.
//!
//! `cargo run --release -p ringfold-compute --example gpt_bench [replicas [threads [steps [precision [MiB]]]]]`
//!
//! Each replica takes its part of the batch on its own thread; its products are cut for `threads`. The
//! precision is `f32` or `bf16`; MiB is the most of a replica's workspace.

use std::sync::{Mutex, PoisonError};

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_compute::cpu::team::{self, Team};
use ringfold_compute::{
    Arena, CompileOptions, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, Precision,
    RunArgs, TensorRef, TrainMemory, Workspace,
};
use ringfold_graph::layers::{SelfAttention, self_attention};
use ringfold_graph::op::{Binary, Dense, Gather, Norm, NormOver, SoftmaxCrossEntropy, Unary};
use ringfold_graph::{
    DType, Graph, GraphError, Initialiser, OutputRole, Shape, TensorType, ValueId, differentiate,
};

const LAYERS: usize = 6;
const HEADS: usize = 6;
const WIDTH: usize = 384;
const CONTEXT: usize = 256;
const VOCABULARY: usize = 65;
const BATCH: usize = 8;

const WEIGHT: Initialiser = Initialiser::Normal { deviation: 0.02 };

fn affine(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    [inputs, outputs]: [usize; 2],
) -> Result<ValueId, GraphError> {
    let w = graph.add_parameter(
        &format!("{name}.weight"),
        Shape::fixed(&[outputs, inputs]),
        WEIGHT,
    )?;
    let b = graph.add_parameter(
        &format!("{name}.bias"),
        Shape::fixed(&[outputs]),
        Initialiser::Zeros,
    )?;
    graph.apply(Dense::Affine, &[x, w, b])
}

fn layer_norm(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
    let mut parameter = |part: &str, start| {
        let shape = Shape::fixed(&[WIDTH]);
        graph.add_parameter(&format!("{name}.{part}"), shape, start)
    };
    let w = parameter("weight", Initialiser::Constant(1.0))?;
    let b = parameter("bias", Initialiser::Zeros)?;
    let norm = Norm {
        over: NormOver::Layer { axis: 2 },
        eps: 1e-5,
    };
    Ok(graph.apply_all(norm, &[x, w, b])?[0])
}

fn gpt() -> Result<Graph, GraphError> {
    let mut graph = Graph::new("gpt", DType::F32)?;
    let tokens = TensorType::new(DType::I32, Shape::batched(&[CONTEXT]));
    let x = graph.add_input("x", tokens.clone())?;
    let y = graph.add_input("y", tokens)?;
    let embedding = Shape::fixed(&[VOCABULARY, WIDTH]);
    let embedding = graph.add_parameter("tokens.weight", embedding, WEIGHT)?;
    let positions = Shape::fixed(&[CONTEXT, WIDTH]);
    let positions = graph.add_parameter("positions.weight", positions, WEIGHT)?;
    let mut h = graph.apply(Gather { axis: 0 }, &[embedding, x])?;
    h = graph.apply(Binary::Add, &[h, positions])?;
    let attention = SelfAttention {
        heads: HEADS,
        causal: true,
        bias: true,
        input: WEIGHT,
        output: WEIGHT,
        dropout: None,
    };
    for layer in 0..LAYERS {
        let named = |part: &str| format!("layers.{layer}.{part}");
        let normal = layer_norm(&mut graph, &named("norm1"), h)?;
        let change = self_attention(&mut graph, &named("self_attn"), normal, &attention)?;
        h = graph.apply(Binary::Add, &[h, change])?;
        let normal = layer_norm(&mut graph, &named("norm2"), h)?;
        let wide = affine(&mut graph, &named("linear1"), normal, [WIDTH, 4 * WIDTH])?;
        let wide = graph.apply(Unary::Gelu, &[wide])?;
        let change = affine(&mut graph, &named("linear2"), wide, [4 * WIDTH, WIDTH])?;
        h = graph.apply(Binary::Add, &[h, change])?;
    }
    let h = layer_norm(&mut graph, "norm", h)?;
    let head = Shape::fixed(&[VOCABULARY, WIDTH]);
    let head = graph.add_parameter("head.weight", head, WEIGHT)?;
    let logits = graph.apply(Dense::Affine, &[h, head])?;
    let loss = graph.apply(SoftmaxCrossEntropy::Loss, &[logits, y])?;
    graph.add_output("loss", OutputRole::Loss, loss)?;
    differentiate(&graph, "loss")
}

/// Floats that each thread of the update takes at a time.
const UPDATE_RUN: usize = 1 << 16;

/// AdamW on a range of the parameters, with the sum of the replicas' gradients.
fn update(parameters: &mut [f32], moments: [&mut [f32]; 2], gradients: &[&[f32]], step: u64) {
    let (rate, beta1, beta2, decay) = (3e-4f32, 0.9f32, 0.95f32, 0.1f32);
    let correction1 = 1.0 - beta1.powi(step as i32 + 1);
    let correction2 = (1.0 - beta2.powi(step as i32 + 1)).sqrt();
    let [first, second] = moments;
    let elements = parameters.iter_mut().zip(first).zip(second);
    let (one, others) = gradients.split_first().expect("a replica");
    for (i, ((w, m), v)) in elements.enumerate() {
        let g = others.iter().fold(one[i], |g, other| g + other[i]);
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        let change = (*m / correction1) / (v.sqrt() / correction2 + 1e-8);
        *w -= rate * (change + decay * *w);
    }
}

/// A replica's own memory and data.
struct Replica {
    workspace: Workspace<f32>,
    gradients: Arena<f32>,
    x: Vec<i32>,
    y: Vec<i32>,
}

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Seconds of processor time of this process.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<f64> = fields
        .split(' ')
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args()
        .skip(1)
        .take(3)
        .map(|arg| arg.parse::<usize>());
    let mut next = |default| args.next().unwrap_or(Ok(default));
    let (replicas, threads, steps) = (next(2)?, next(1)?, next(5)?);
    let graph = gpt()?;
    let layout = ParameterLayout::new::<f32>(&graph)?;
    let batch = BATCH / replicas;
    let options = PlanOptions {
        mode: Mode::Training,
        batch,
    };
    let mut team = Team::new(replicas * threads)?;
    let how = CompileOptions {
        precision: match std::env::args().nth(4).as_deref() {
            Some("bf16") => Precision::Bf16,
            _ => Precision::Full,
        },
        workspace_bytes_max: match std::env::args().nth(5) {
            Some(mebibytes) => Some(mebibytes.parse::<usize>()? << 20),
            None => None,
        },
        ..CompileOptions::default()
    };
    let cpu = Cpu::new(CpuOptions { threads })?;
    let plan = cpu.plan_with::<f32>(&graph, &layout, options, &how)?;
    let mut parameters = layout.initial::<f32>(1)?;
    let mut moments = [layout.zeros::<f32>()?, layout.zeros::<f32>()?];
    let tokens = |shift: usize| -> Vec<i32> {
        let all = 0..batch * CONTEXT;
        all.map(|i| ((i + shift) * 7 % VOCABULARY) as i32).collect()
    };
    let mut all = Vec::new();
    for replica in 0..replicas {
        all.push(Replica {
            workspace: plan.workspace()?,
            gradients: layout.zeros()?,
            x: tokens(replica),
            y: tokens(replica + 1),
        });
    }
    let clock = SystemClock::new();
    let mut seconds = Vec::new();
    let mut cpu = Vec::new();
    for step in 0..=steps as u64 {
        let (start, cpu_start) = (clock.monotonic(), cpu_seconds());
        team.install(|| train(&plan, &parameters, (&mut all, threads), step))?;
        let gradients: Vec<&[f32]> = all.iter().map(|replica| &replica.gradients[..]).collect();
        let [first, second] = &mut moments;
        let runs = parameters
            .chunks_mut(UPDATE_RUN)
            .zip(first.chunks_mut(UPDATE_RUN));
        let runs = runs.zip(second.chunks_mut(UPDATE_RUN)).enumerate();
        let runs: Vec<_> = runs.collect();
        let mut hands: Vec<Vec<_>> = (0..replicas).map(|_| Vec::new()).collect();
        for run in runs {
            hands[run.0 % replicas].push(run);
        }
        std::thread::scope(|scope| {
            for hand in hands {
                scope.spawn(|| {
                    for (run, ((parameters, first), second)) in hand {
                        let range = run * UPDATE_RUN..run * UPDATE_RUN + parameters.len();
                        let gradients: Vec<&[f32]> =
                            gradients.iter().map(|all| &all[range.clone()]).collect();
                        update(parameters, [first, second], &gradients, step);
                    }
                });
            }
        });
        if step > 0 {
            seconds.push((clock.monotonic() - start).as_secs_f64());
            cpu.push(cpu_seconds() - cpu_start);
        }
    }
    let loss = plan.scalar(&all[0].workspace, "loss").unwrap_or(f32::NAN);
    let tokens = (BATCH * CONTEXT) as f64;
    let least = |list: &[f64]| list.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "{{\"replicas\":{replicas},\"threads\":{threads},\"tokens_per_second\":{:.0},\
         \"cpu_seconds_per_step\":{:.3},\"arena_bytes\":{},\"peak_resident_kib\":{},\"loss\":{loss}}}",
        tokens / least(&seconds),
        least(&cpu),
        plan.workspace_len() * 4,
        status("VmHWM:"),
    );
    Ok(())
}

/// One gradient of each replica, each on a thread.
fn train(
    plan: &CpuPlan<f32>,
    parameters: &[f32],
    (all, threads): (&mut [Replica], usize),
    step: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let scale = 1.0 / all.len() as f64;
    let one = |replica: &mut Replica| {
        let memory = TrainMemory {
            workspace: &mut replica.workspace,
            parameters,
            gradients: &mut replica.gradients[..],
        };
        let args = RunArgs {
            step,
            loss_scale: scale,
            ..RunArgs::default()
        };
        let inputs = [TensorRef::Int(&replica.x), TensorRef::Int(&replica.y)];
        plan.train(memory, &inputs, &args, &mut |_: usize, _: &[f32]| {})
    };
    let outcomes = Mutex::new(Ok(()));
    team::each_on(threads, all, |_, replica| {
        if let Err(error) = one(replica) {
            *outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
        }
    });
    let outcome = outcomes.into_inner();
    Ok(outcome.unwrap_or_else(PoisonError::into_inner)?)
}
