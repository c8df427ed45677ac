//! Milliseconds of one training step with and without passes, taken in turns in one run.
//!
//! `cargo run --release -p ringfold-compute --example pass_step [rounds [part of a name]]`

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_compute::{
    Arena, CompileOptions, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, RunArgs,
    TensorRef, TrainMemory, Workspace,
};
use ringfold_graph::models::{LOSS, MlpOptions, mlp};
use ringfold_graph::op::{
    Binary, Dense, Dropout, Gather, MatMul, Norm, NormOver, Reduce, Reduction, Reshape, Softmax,
    SoftmaxCrossEntropy, Transpose, Unary,
};
use ringfold_graph::{
    Activation, DType, Graph, GraphError, Initialiser, OutputRole, Shape, TensorType, ValueId,
    differentiate,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().map_or(Ok(30), |arg| arg.parse::<usize>())?;
    let wanted = args.next().unwrap_or_default();
    let mut gelu = MlpOptions::classifier(784, &[512, 512], 10);
    gelu.activation = Activation::Gelu;
    gelu.dropout = 0.1;
    let relu = MlpOptions::classifier(784, &[512, 512], 10);
    let softmax = MlpOptions::classifier(1000, &[], 10);
    for (name, graph, batch) in [
        ("MLP, ReLU", mlp(&relu)?, 128),
        ("MLP, ReLU", mlp(&relu)?, 1024),
        ("MLP, GELU, dropout", mlp(&gelu)?, 128),
        ("MLP, GELU, dropout", mlp(&gelu)?, 1024),
        ("softmax regression", mlp(&softmax)?, 256),
        ("element-wise chain", chain()?, 1024),
        ("transformer, 2 layers", transformer(2)?, 1),
        ("transformer, 2 layers", transformer(2)?, 8),
    ] {
        if !format!("{name}, batch {batch}").contains(&wanted) {
            continue;
        }
        let graph = differentiate(&graph, LOSS)?;
        let mut plain = Rig::new(&graph, batch, false)?;
        let mut optimised = Rig::new(&graph, batch, true)?;
        for _ in 0..rounds {
            plain.step()?;
            optimised.step()?;
        }
        println!(
            "{name}, batch {batch}: best {:.3} ms without passes, {:.3} ms with; \
             workspace {} and {} KiB",
            plain.best_ms(),
            optimised.best_ms(),
            plain.plan.workspace_len() * 4 / 1024,
            optimised.plan.workspace_len() * 4 / 1024,
        );
    }
    Ok(())
}

/// A plan with what it runs on.
struct Rig {
    plan: CpuPlan<f32>,
    parameters: Arena<f32>,
    gradients: Arena<f32>,
    workspace: Workspace<f32>,
    floats: Vec<f32>,
    labels: Vec<i32>,
    times_ms: Vec<f64>,
}

impl Rig {
    fn new(graph: &Graph, batch: usize, optimise: bool) -> Result<Self, Failure> {
        let layout = ParameterLayout::new::<f32>(graph)?;
        let options = PlanOptions {
            mode: Mode::Training,
            batch,
        };
        let how = CompileOptions {
            optimise,
            ..CompileOptions::default()
        };
        let cpu = Cpu::new(CpuOptions { threads: 1 })?;
        let plan = cpu.plan_with::<f32>(graph, &layout, options, &how)?;
        let longest = plan.inputs().iter().map(|spec| spec.len).max().unwrap_or(0);
        Ok(Self {
            parameters: layout.initial(1)?,
            gradients: layout.zeros()?,
            workspace: plan.workspace()?,
            floats: (0..longest).map(|i| (i % 97) as f32 / 97.0).collect(),
            labels: (0..longest as i32).map(|i| i % 10).collect(),
            times_ms: Vec::new(),
            plan,
        })
    }

    fn step(&mut self) -> Result<(), Failure> {
        let inputs = self.plan.inputs().iter().map(|spec| match spec.dtype {
            DType::I32 => TensorRef::Int(&self.labels[..spec.len]),
            _ => TensorRef::Float(&self.floats[..spec.len]),
        });
        let inputs: Vec<TensorRef<'_, f32>> = inputs.collect();
        let clock = SystemClock::new();
        let start = clock.monotonic();
        let memory = TrainMemory {
            workspace: &mut self.workspace,
            parameters: &self.parameters[..],
            gradients: &mut self.gradients[..],
        };
        let mut ready = |_: usize, _: &[f32]| {};
        self.plan
            .train(memory, &inputs, &RunArgs::default(), &mut ready)?;
        self.times_ms
            .push((clock.monotonic() - start).as_secs_f64() * 1e3);
        Ok(())
    }

    fn best_ms(&self) -> f64 {
        self.times_ms.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// What memory bounds: two gates, a residual and a mask of wide rows, and their sum.
fn chain() -> Result<Graph, GraphError> {
    let mut graph = Graph::new("chain", DType::F32)?;
    let ty = TensorType::new(DType::F32, Shape::batched(&[2048]));
    let x = graph.add_input("x", ty)?;
    let w = parameter(&mut graph, "w", &[2048])?;
    let b = parameter(&mut graph, "b", &[2048])?;
    let h = graph.apply(Binary::Mul, &[x, w])?;
    let h = graph.apply(Binary::Add, &[h, b])?;
    let h = graph.apply(Unary::HardSwish, &[h])?;
    let h = graph.apply(Unary::Scale { factor: 0.5 }, &[h])?;
    let h = graph.apply(Binary::Add, &[h, x])?;
    let h = graph.apply(Unary::LeakyRelu { slope: 0.1 }, &[h])?;
    let sum = Reduce {
        reduction: Reduction::Mean,
        axes: vec![0, 1],
        keep: false,
    };
    let loss = graph.apply(sum, &[h])?;
    graph.add_output(LOSS, OutputRole::Loss, loss)?;
    Ok(graph)
}

const WIDTH: usize = 192;
const HEADS: usize = 6;
const CONTEXT: usize = 128;

/// Blocks of attention and a perceptron, as GPT's.
fn transformer(layers: usize) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("transformer", DType::F32)?;
    let ty = TensorType::new(DType::I32, Shape::batched(&[CONTEXT]));
    let ids = graph.add_input("ids", ty.clone())?;
    let table = parameter(&mut graph, "embedding", &[65, WIDTH])?;
    let mut x = graph.apply(Gather { axis: 0 }, &[table, ids])?;
    for layer in 0..layers {
        let name = |part: &str| format!("{layer}.{part}");
        let h = norm(&mut graph, &name("norm1"), x)?;
        let mixed = attention(&mut graph, &name("attention"), h)?;
        x = residual(&mut graph, x, mixed, 2 * layer as u64)?;
        let h = norm(&mut graph, &name("norm2"), x)?;
        let up = dense(&mut graph, &name("up"), h, [4 * WIDTH, WIDTH])?;
        let up = graph.apply(Unary::GeluTanh, &[up])?;
        let down = dense(&mut graph, &name("down"), up, [WIDTH, 4 * WIDTH])?;
        x = residual(&mut graph, x, down, 2 * layer as u64 + 1)?;
    }
    let x = norm(&mut graph, "norm", x)?;
    let logits = graph.apply(Dense::Affine, &[x, table])?;
    let y = graph.add_input("y", ty)?;
    let loss = graph.apply(SoftmaxCrossEntropy::Loss, &[logits, y])?;
    graph.add_output(LOSS, OutputRole::Loss, loss)?;
    Ok(graph)
}

fn parameter(graph: &mut Graph, name: &str, dims: &[usize]) -> Result<ValueId, GraphError> {
    let initialiser = Initialiser::Normal { deviation: 0.05 };
    graph.add_parameter(name, Shape::fixed(dims), initialiser)
}

fn dense(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    dims: [usize; 2],
) -> Result<ValueId, GraphError> {
    let w = parameter(graph, &format!("{name}.weight"), &dims)?;
    let b = parameter(graph, &format!("{name}.bias"), &dims[..1])?;
    graph.apply(Dense::Affine, &[x, w, b])
}

fn norm(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
    let w = parameter(graph, &format!("{name}.weight"), &[WIDTH])?;
    let b = parameter(graph, &format!("{name}.bias"), &[WIDTH])?;
    let over = NormOver::Layer { axis: 2 };
    graph.apply(Norm { over, eps: 1e-5 }, &[x, w, b])
}

fn residual(
    graph: &mut Graph,
    x: ValueId,
    branch: ValueId,
    key: u64,
) -> Result<ValueId, GraphError> {
    let branch = graph.apply(Dropout { rate: 0.1, key }, &[branch])?;
    graph.apply(Binary::Add, &[x, branch])
}

fn attention(graph: &mut Graph, name: &str, h: ValueId) -> Result<ValueId, GraphError> {
    let order = || vec![0, 2, 1, 3];
    let mut heads = Vec::with_capacity(3);
    for part in ["q", "k", "v"] {
        let y = dense(graph, &format!("{name}.{part}"), h, [WIDTH, WIDTH])?;
        let shape = Shape::batched(&[CONTEXT, HEADS, WIDTH / HEADS]);
        let y = graph.apply(Reshape { shape }, &[y])?;
        heads.push(graph.apply(Transpose { order: order() }, &[y])?);
    }
    let transposed = MatMul {
        b_transposed: true,
        ..MatMul::default()
    };
    let scores = graph.apply(transposed, &[heads[0], heads[1]])?;
    let factor = ((WIDTH / HEADS) as f64).sqrt().recip();
    let scores = graph.apply(Unary::Scale { factor }, &[scores])?;
    let weights = graph.apply(Softmax::Plain { axis: 3 }, &[scores])?;
    let mixed = graph.apply(MatMul::default(), &[weights, heads[2]])?;
    let mixed = graph.apply(Transpose { order: order() }, &[mixed])?;
    let shape = Shape::batched(&[CONTEXT, WIDTH]);
    let mixed = graph.apply(Reshape { shape }, &[mixed])?;
    dense(graph, &format!("{name}.out"), mixed, [WIDTH, WIDTH])
}
