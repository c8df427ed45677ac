//! Times training steps: forward, backward and SGD with momentum.
//!
//! `step_bench NETWORK BATCH REPLICAS THREADS`, then a number of steps on each line of the standard
//! input; it answers each with one line of JSON: samples a second, seconds of the processor a step,
//! the multiply-add peak that was measured beside, elements of memory, the loss. The batch is
//! cut into so many replicas that run at once, each on as many threads.

mod networks;

use std::io::BufRead;

use networks::Network;
use ringfold_common::clock::{Clock, SystemClock};
use ringfold_compute::cpu::conv::Simd;
use ringfold_compute::cpu::conv::peak::{ROUND_FLOPS, multiply_adds};
use ringfold_compute::cpu::parallel::for_units;
use ringfold_compute::cpu::team::{self, Team};
use ringfold_compute::{
    Arena, Cpu, CpuOptions, CpuPlan, Mode, ParameterLayout, PlanOptions, RunArgs, StateLayout,
    TensorRef, TrainMemory, Workspace,
};

type AnyError = Box<dyn std::error::Error>;

/// What one replica has for itself.
struct Replica {
    workspace: Workspace<f32>,
    gradients: Arena<f32>,
    state: Arena<f32>,
    features: Vec<f32>,
    labels: Vec<i32>,
}

struct Bench {
    plan: CpuPlan<f32>,
    replicas: Vec<Replica>,
    parameters: Arena<f32>,
    momentum: Arena<f32>,
    threads: usize,
}

impl Bench {
    fn new(
        network: &Network,
        batch: usize,
        count: usize,
        threads: usize,
    ) -> Result<Self, AnyError> {
        let layout = ParameterLayout::new::<f32>(&network.graph)?;
        let options = PlanOptions {
            mode: Mode::Training,
            batch: batch / count,
        };
        let cpu = Cpu::new(CpuOptions { threads })?;
        let plan = cpu.plan::<f32>(&network.graph, &layout, options)?;
        let states = StateLayout::new::<f32>(&network.graph)?;
        let noise = |i: usize| ((i * 7919) % 1009) as f32 / 504.0 - 1.0;
        let replica = |_| -> Result<Replica, AnyError> {
            Ok(Replica {
                workspace: plan.workspace()?,
                gradients: layout.zeros()?,
                state: states.initial()?,
                features: (0..options.batch * network.features).map(noise).collect(),
                labels: (0..options.batch as i32).map(|i| i % 10).collect(),
            })
        };
        Ok(Self {
            replicas: (0..count).map(replica).collect::<Result<_, _>>()?,
            parameters: layout.initial(1)?,
            momentum: layout.zeros()?,
            threads: count * threads,
            plan,
        })
    }

    fn step(&mut self, step: u64) {
        let (plan, parameters) = (&self.plan, &self.parameters[..]);
        let args = RunArgs {
            step,
            loss_scale: 1.0 / self.replicas.len() as f64,
            ..RunArgs::default()
        };
        let train = |replica: &mut Replica| {
            let memory = TrainMemory {
                workspace: &mut replica.workspace,
                parameters,
                gradients: &mut replica.gradients[..],
            };
            let inputs = [
                TensorRef::Float(&replica.features),
                TensorRef::Int(&replica.labels),
            ];
            let ready = &mut |_: usize, _: &[f32]| {};
            plan.train_with_state(memory, &mut replica.state, &inputs, &args, ready)
                .expect("memory and inputs of the plan");
        };
        let threads = self.threads / self.replicas.len();
        team::each_on(threads, &mut self.replicas, |_, replica| train(replica));
        self.update();
    }

    /// `v ← 0.9 · v + Σ g`, `w ← w - 0.01 · v`.
    fn update(&mut self) {
        let len = self.parameters.len().div_ceil(self.threads);
        let replicas = &self.replicas;
        let one = |part: usize, [w, v]: [&mut [f32]; 2]| {
            let start = part * len;
            for (i, replica) in replicas.iter().enumerate() {
                let gradients = &replica.gradients[start..start + w.len()];
                let decay = if i == 0 { 0.9 } else { 1.0 };
                for (v, &g) in v.iter_mut().zip(gradients) {
                    *v = decay * *v + g;
                }
            }
            for (w, v) in w.iter_mut().zip(v) {
                *w -= 0.01 * *v;
            }
        };
        let slices = [&mut self.parameters[..], &mut self.momentum[..]];
        for_units(0..self.threads, slices, [len; 2], self.threads, &one);
    }
}

/// Seconds that the threads of this process have run.
fn processor_seconds() -> Result<f64, AnyError> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or("0").parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn peak_resident_bytes() -> Result<f64, AnyError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap_or("0 kB").trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}

/// Operations a second of the processor's time in registers, on this thread.
fn peak() -> Result<f64, AnyError> {
    const ROUNDS: usize = 1 << 23;
    let mut best = 0.0f64;
    for _ in 0..3 {
        let start = processor_seconds()?;
        std::hint::black_box(multiply_adds(Simd::widest(), ROUNDS));
        let seconds = processor_seconds()? - start;
        best = best.max((ROUNDS * ROUND_FLOPS) as f64 / seconds);
    }
    Ok(best)
}

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, numbers @ ..] = &args[..] else {
        return Err("NETWORK BATCH REPLICAS THREADS expected".into());
    };
    let numbers: Result<Vec<usize>, _> = numbers.iter().map(|n| n.parse()).collect();
    let &[batch, replicas, threads] = &numbers?[..] else {
        return Err("NETWORK BATCH REPLICAS THREADS expected".into());
    };
    let network = match name.as_str() {
        "cnn" => networks::cnn()?,
        "resnet18" => networks::resnet18()?,
        other => return Err(format!("cnn or resnet18 expected, got {other}").into()),
    };
    let mut team = Team::new(replicas * threads)?;
    let mut bench = Bench::new(&network, batch, replicas, threads)?;
    let clock = SystemClock::new();
    let mut done = 0;
    for line in std::io::stdin().lock().lines() {
        let steps: u64 = line?.trim().parse()?;
        let peak = peak()?;
        let (start, busy) = (clock.monotonic(), processor_seconds()?);
        let mut shortest = f64::INFINITY;
        for step in done..done + steps {
            let start = clock.monotonic();
            team.install(|| bench.step(step));
            shortest = shortest.min((clock.monotonic() - start).as_secs_f64());
        }
        done += steps;
        let seconds = (clock.monotonic() - start).as_secs_f64();
        let busy = (processor_seconds()? - busy) / steps as f64;
        let flops = (network.flops * batch) as f64;
        let first = &bench.replicas[0];
        println!(
            "{}",
            serde_json::json!({
                "samples_per_second": batch as f64 * steps as f64 / seconds,
                "samples_per_second_best": batch as f64 / shortest,
                "processor_seconds_per_step": busy,
                "gflops": flops * steps as f64 / seconds / 1e9,
                "gflops_per_processor_second": flops / busy / 1e9,
                "peak_gflops_per_core": peak / 1e9,
                "share_of_peak": flops / busy / peak,
                "workspace_bytes": 4 * bench.plan.workspace_len() * replicas,
                "arena_bytes": 4 * first.gradients.len() * (replicas + 2),
                "peak_resident_bytes": peak_resident_bytes()?,
                "loss": bench.plan.scalar(&first.workspace, "loss"),
            })
        );
    }
    Ok(())
}
