//! Milliseconds of one training step with and without passes, taken in turns in one run, one thread.
//!
//! `cargo run --release -p ringfold-compute --example pass_step [rounds [part of a name [plain|passes]]]`
//!
//! With one of the two alone, for a profiler.

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::job::{self, CnnSpec, Resnet18Spec, Stem};
use ringfold_compute::{
    Arena, CompileOptions, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, RunArgs,
    StateLayout, TensorRef, TrainMemory, Workspace,
};
use ringfold_graph::models::{Frame, GptOptions, LOSS, MlpOptions, cnn, gpt, mlp, resnet18};
use ringfold_graph::op::{Binary, Reduce, Reduction, Unary};
use ringfold_graph::{
    Activation, DType, Graph, GraphError, Initialiser, OutputRole, Shape, TensorType, ValueId,
    differentiate,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().map_or(Ok(30), |arg| arg.parse::<usize>())?;
    let wanted = args.next().unwrap_or_default();
    let only = args.next();
    let relu = MlpOptions::classifier(784, &[512, 512], 10);
    let mut gelu = relu.clone();
    gelu.activation = Activation::Gelu;
    gelu.dropout = 0.1;
    let softmax = MlpOptions::classifier(1000, &[], 10);
    for (name, graph, batch) in [
        ("MLP, ReLU", mlp(&relu)?, 128),
        ("MLP, ReLU", mlp(&relu)?, 1024),
        ("MLP, GELU, dropout", mlp(&gelu)?, 128),
        ("MLP, GELU, dropout", mlp(&gelu)?, 1024),
        ("softmax regression", mlp(&softmax)?, 256),
        ("element-wise chain", chain()?, 1024),
        ("CNN", lenet()?, 128),
        ("ResNet-18", resnet()?, 16),
        ("GPT", transformer(0.0)?, 8),
        ("GPT, dropout", transformer(0.1)?, 8),
    ] {
        let name = format!("{name}, batch {batch}");
        if !name.contains(&wanted) {
            continue;
        }
        let graph = differentiate(&graph, LOSS)?;
        let mut rigs = Vec::new();
        for (way, optimise) in [("plain", false), ("passes", true)] {
            if only.as_deref().is_none_or(|only| only == way) {
                rigs.push((way, Rig::new(&graph, batch, optimise)?));
            }
        }
        for _ in 0..rounds {
            for (_, rig) in &mut rigs {
                rig.step()?;
            }
        }
        for (way, rig) in rigs {
            println!(
                "{name}, {way}: best {:.3} ms, median {:.3} ms; workspace {} KiB",
                rig.quantile_ms(0.0),
                rig.quantile_ms(0.5),
                rig.plan.workspace_len() * 4 / 1024,
            );
        }
    }
    Ok(())
}

/// A plan with what it runs on.
struct Rig {
    plan: CpuPlan<f32>,
    parameters: Arena<f32>,
    gradients: Arena<f32>,
    workspace: Workspace<f32>,
    state: Arena<f32>,
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
            state: StateLayout::new::<f32>(graph)?.initial()?,
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
        let args = RunArgs::default();
        let mut ready = |_: usize, _: &[f32]| {};
        self.plan
            .train_with_state(memory, &mut self.state, &inputs, &args, &mut ready)?;
        self.times_ms
            .push((clock.monotonic() - start).as_secs_f64() * 1e3);
        Ok(())
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut times = self.times_ms.clone();
        times.sort_by(f64::total_cmp);
        let at = (quantile * times.len() as f64) as usize;
        times.get(at).copied().unwrap_or(f64::NAN)
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

/// The network of `ringfold bench train --model cnn`.
fn lenet() -> Result<Graph, GraphError> {
    let spec = CnnSpec {
        blocks: CnnSpec::default_blocks(),
        hidden: vec![512],
        activation: job::Activation::Relu,
        dropout: 0.0,
        initialiser: job::Initialiser::HeNormal,
    };
    cnn(&spec, &Frame::image_classifier(&[1, 28, 28], 10))
}

/// The network of `ringfold bench train --model resnet18`.
fn resnet() -> Result<Graph, GraphError> {
    let spec = Resnet18Spec {
        stem: Stem::Cifar,
        width: 64,
        zero_init_residual: false,
        initialiser: job::Initialiser::HeNormal,
    };
    resnet18(&spec, &Frame::image_classifier(&[3, 32, 32], 10))
}

/// The network of `ringfold bench train --model gpt`.
fn transformer(dropout: f64) -> Result<Graph, GraphError> {
    gpt(&GptOptions {
        vocabulary: 65,
        context: 256,
        length: 256,
        layers: 6,
        heads: 6,
        width: 384,
        dropout,
        attention_dropout: 0.0,
        tied: false,
        l2: 0.0,
        dtype: DType::F32,
    })
}

fn parameter(graph: &mut Graph, name: &str, dims: &[usize]) -> Result<ValueId, GraphError> {
    let initialiser = Initialiser::Normal { deviation: 0.05 };
    graph.add_parameter(name, Shape::fixed(dims), initialiser)
}
