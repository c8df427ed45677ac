//! Milliseconds of one training step: MLP 784-512-512-10 with ReLU, forward, backward and SGD.
//!
//! `cargo run --release -p ringfold-compute --example mlp_step [threads [batch [steps]]]`

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_compute::cpu::team::Team;
use ringfold_compute::{
    Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, TensorRef, TrainMemory,
};
use ringfold_graph::differentiate;
use ringfold_graph::models::{LOSS, MlpOptions, mlp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let mut next = |default| args.next().unwrap_or(Ok(default));
    let (threads, batch, steps) = (next(1)?, next(128)?, next(200)?);
    let graph = differentiate(&mlp(&MlpOptions::classifier(784, &[512, 512], 10))?, LOSS)?;
    let layout = ParameterLayout::new::<f32>(&graph)?;
    let options = PlanOptions {
        mode: Mode::Training,
        batch,
    };
    let mut team = Team::new(threads)?;
    let plan = Cpu::new(CpuOptions { threads })?.plan::<f32>(&graph, &layout, options)?;
    let mut parameters = layout.initial::<f32>(1)?;
    let mut gradients = layout.zeros::<f32>()?;
    let mut workspace = plan.workspace()?;
    let features: Vec<f32> = (0..batch * 784).map(|i| (i % 97) as f32 / 97.0).collect();
    let labels: Vec<i32> = (0..batch as i32).map(|i| i % 10).collect();
    let inputs = [TensorRef::Float(&features), TensorRef::Int(&labels)];
    let clock = SystemClock::new();
    let mut times_ms = Vec::with_capacity(steps);
    for step in 0..steps as u64 {
        let start = clock.monotonic();
        let memory = TrainMemory {
            workspace: &mut workspace,
            parameters: &parameters[..],
            gradients: &mut gradients[..],
        };
        let args = RunArgs {
            step,
            ..RunArgs::default()
        };
        team.install(|| plan.train(memory, &inputs, &args, &mut |_: usize, _: &[f32]| {}))?;
        for (parameter, gradient) in parameters.iter_mut().zip(gradients.iter()) {
            *parameter -= 0.1 * gradient;
        }
        times_ms.push((clock.monotonic() - start).as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    let loss = plan.scalar(&workspace, LOSS).unwrap_or(f32::NAN);
    println!(
        "batch {batch}, {threads} threads: median {:.3} ms, best {:.3} ms a step; loss {loss:e}",
        times_ms[steps / 2],
        times_ms[0],
    );
    Ok(())
}
