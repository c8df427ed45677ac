//! Graphs and data for this crate's tests.

use proptest::prelude::*;
use ringfold_common::random::Stream;
use ringfold_graph::op::{
    Binary, Dense, Dropout, Expand, L2Penalty, MeanSquaredError, Reshape, Softmax,
    SoftmaxCrossEntropy, Transpose, Unary,
};
use ringfold_graph::{
    DType, Dim, Graph, Initialiser, OutputRole, Shape, TensorType, ValueId, differentiate,
};

use crate::backend::{CompileOptions, Mode, PlanOptions, RunArgs, TensorRef, TrainMemory};
use crate::buffer::{Arena, Workspace};
use crate::cpu::team::Team;
use crate::cpu::{Cpu, CpuOptions, CpuPlan};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, StateLayout};

/// Every function of one element. Those from the second on are smooth up to [`SMOOTH_END`].
pub const UNARY: [Unary; 28] = [
    Unary::Relu,
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::Tanh,
    Unary::Sigmoid,
    Unary::Softplus,
    Unary::Silu,
    Unary::Erf,
    Unary::Sin,
    Unary::Cos,
    Unary::Neg,
    Unary::Identity,
    Unary::Scale { factor: -1.5 },
    Unary::Elu { alpha: 1.0 },
    Unary::Exp,
    Unary::Log,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Reciprocal,
    Unary::Abs,
    Unary::LeakyRelu { slope: 0.1 },
    Unary::HardSwish,
    Unary::HardSigmoid {
        slope: 0.2,
        offset: 0.5,
    },
    Unary::Clip {
        min: -0.5,
        max: 0.8,
    },
    Unary::Sign,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
];

/// The end of the functions that are smooth everywhere.
pub const SMOOTH_END: usize = 13;

/// A parameter with normal initial values.
pub fn parameter(graph: &mut Graph, name: &str, dims: &[usize]) -> ValueId {
    let initialiser = Initialiser::Normal { deviation: 0.7 };
    graph
        .add_parameter(name, Shape::fixed(dims), initialiser)
        .unwrap()
}

/// A float input of a given shape.
pub fn input(graph: &mut Graph, name: &str, shape: Shape) -> ValueId {
    let ty = TensorType::new(graph.dtype(), shape);
    graph.add_input(name, ty).unwrap()
}

/// Names the loss and differentiates.
pub fn finish(mut graph: Graph, loss: ValueId) -> Graph {
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    let graph = differentiate(&graph, "loss").unwrap();
    graph.verify().unwrap();
    graph
}

/// An owned input of one run.
pub enum Owned<T> {
    Float(Vec<T>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Bool(Vec<u8>),
}

/// The owned inputs of one run.
pub struct Inputs<T>(pub Vec<Owned<T>>);

impl<T: Element> Inputs<T> {
    /// Normal floats and labels in range.
    pub fn random(plan: &CpuPlan<T>, seed: u64) -> Self {
        let inputs = plan.inputs().iter().enumerate().map(|(i, spec)| {
            let stream = Stream::new(seed, i as u64);
            let elements = 0..spec.len as u64;
            let checks = plan.label_checks().iter();
            let checks = checks.filter(|check| check.input == i);
            let classes = checks.map(|check| check.classes).min().unwrap_or(2) as u32;
            let label = |e| stream.word(e) % classes;
            match spec.dtype {
                DType::F32 | DType::F64 => {
                    Owned::Float(elements.map(|e| T::from_f64(stream.normal(e))).collect())
                }
                DType::I32 => Owned::Int(elements.map(|e| label(e) as i32).collect()),
                DType::I64 => Owned::Long(elements.map(|e| i64::from(label(e))).collect()),
                DType::Bool => Owned::Bool(elements.map(|e| label(e) as u8).collect()),
            }
        });
        Self(inputs.collect())
    }

    pub fn refs(&self) -> Vec<TensorRef<'_, T>> {
        let refs = self.0.iter().map(|input| match input {
            Owned::Float(data) => TensorRef::Float(data),
            Owned::Int(data) => TensorRef::Int(data),
            Owned::Long(data) => TensorRef::Long(data),
            Owned::Bool(data) => TensorRef::Bool(data),
        });
        refs.collect()
    }
}

/// A training plan with everything that it needs.
pub struct Rig<T> {
    pub layout: ParameterLayout,
    pub plan: CpuPlan<T>,
    pub workspace: Workspace<T>,
    pub parameters: Arena<T>,
    pub gradients: Arena<T>,
    pub state: Arena<T>,
    pub inputs: Inputs<T>,
    pub args: RunArgs,
    team: Team,
}

impl<T: Element> Rig<T> {
    pub fn new(graph: &Graph, batch: usize) -> Self {
        Self::with_threads(graph, batch, 1)
    }

    pub fn with_threads(graph: &Graph, batch: usize, threads: usize) -> Self {
        Self::compiled(graph, batch, threads, &CompileOptions::default()).unwrap()
    }

    pub fn compiled(
        graph: &Graph,
        batch: usize,
        threads: usize,
        how: &CompileOptions,
    ) -> Result<Self, ComputeError> {
        let layout = ParameterLayout::new::<T>(graph).unwrap();
        let options = PlanOptions {
            mode: Mode::Training,
            batch,
        };
        let cpu = Cpu::new(CpuOptions { threads }).unwrap();
        let plan = cpu.plan_with::<T>(graph, &layout, options, how)?;
        Ok(Self {
            workspace: plan.workspace().unwrap(),
            parameters: layout.initial(1).unwrap(),
            gradients: layout.zeros().unwrap(),
            state: StateLayout::new::<T>(graph).unwrap().initial().unwrap(),
            inputs: Inputs::random(&plan, 2),
            args: RunArgs {
                seed: 3,
                step: 4,
                replica: 5,
                loss_scale: 1.0,
            },
            layout,
            plan,
            team: Team::new(threads).unwrap(),
        })
    }

    /// Runs the plan and returns the loss.
    pub fn run(&mut self) -> T {
        let memory = TrainMemory {
            workspace: &mut self.workspace,
            parameters: &*self.parameters,
            gradients: &mut *self.gradients,
        };
        let (plan, state, inputs) = (&self.plan, &mut self.state, self.inputs.refs());
        let args = &self.args;
        self.team.install(|| {
            let mut ready = |_: usize, _: &[T]| {};
            plan.train_with_state(memory, state, &inputs, args, &mut ready)
                .unwrap();
        });
        self.plan.scalar(&self.workspace, "loss").unwrap()
    }
}

/// Compares every gradient with central differences, extrapolated (Richardson): the loss must be
/// smooth where it is taken.
pub fn assert_gradients(graph: &Graph, batch: usize) {
    const H: f64 = 1e-4;
    let mut rig = Rig::<f64>::new(graph, batch);
    rig.args.loss_scale = 0.75;
    let loss = rig.run();
    let gradients = rig.gradients.to_vec();
    for slot in rig.layout.slots().to_vec() {
        for i in slot.range() {
            let at = rig.parameters[i];
            let mut central = |h: f64| {
                rig.parameters[i] = at + h;
                let above = rig.run();
                rig.parameters[i] = at - h;
                let below = rig.run();
                rig.parameters[i] = at;
                (above - below) / (2.0 * h)
            };
            let slope = (4.0 * central(H) - central(2.0 * H)) / 3.0;
            let (got, expected) = (gradients[i], 0.75 * slope);
            let error = (got - expected).abs() / (1.0 + expected.abs() + loss.abs());
            assert!(
                error < 1e-7,
                "{}[{}]: gradient {got}, differences {expected}\n{graph}",
                slot.name,
                i - slot.offset
            );
        }
    }
}

/// One more operator of a random graph.
#[derive(Clone, Debug)]
pub enum Growth {
    /// To this many units, with or without bias.
    Affine(usize, bool),
    /// A square affine whose weight is used twice.
    Shared,
    Activation(usize),
    Dropout(f64),
    /// The sum with an earlier value of the same shape, or with itself.
    Add(usize),
    Scale(f64),
    Softmax,
    Identity,
    /// To another shape and back: two views.
    Reshape,
    /// With the order of dimensions changed and changed back.
    Transpose,
    /// A function of two tensors, the other a row of parameters: plain, or expanded first.
    Row(usize, bool),
    /// With a constant: what is neutral, what is a scale, what is neither.
    Constant(usize),
    /// A form that is better computed in another.
    Unstable(usize),
    /// The function of two tensors, of the value and itself.
    Twice(usize),
}

/// Functions of two tensors; the last has a kink.
const BINARY: [Binary; 4] = [Binary::Add, Binary::Mul, Binary::Sub, Binary::Max];

/// A random graph: growth from the features, the loss, and a penalty on some parameters.
#[derive(Clone, Debug)]
pub struct RandomGraph {
    pub features: usize,
    pub growth: Vec<Growth>,
    pub cross_entropy: bool,
    pub penalty_every: usize,
}

/// Every operator may appear.
pub fn random_graphs() -> impl Strategy<Value = RandomGraph> {
    graphs(0)
}

/// Every operator but ReLU and the maximum, whose kinks central differences can't cross.
pub fn smooth_graphs() -> impl Strategy<Value = RandomGraph> {
    graphs(1)
}

fn graphs(first_activation: usize) -> impl Strategy<Value = RandomGraph> {
    let growth = prop_oneof![
        3 => (1usize..7, any::<bool>()).prop_map(|(units, bias)| Growth::Affine(units, bias)),
        1 => Just(Growth::Shared),
        3 => (first_activation..SMOOTH_END).prop_map(Growth::Activation),
        1 => (0.0..0.8f64).prop_map(Growth::Dropout),
        2 => any::<usize>().prop_map(Growth::Add),
        1 => (-2.0..2.0f64).prop_map(Growth::Scale),
        1 => Just(Growth::Softmax),
        1 => Just(Growth::Identity),
        2 => Just(Growth::Reshape),
        1 => Just(Growth::Transpose),
        2 => (0..BINARY.len() - first_activation, any::<bool>()).prop_map(|(op, expand)| Growth::Row(op, expand)),
        2 => (0..6usize).prop_map(Growth::Constant),
        1 => (0..3usize).prop_map(Growth::Unstable),
        1 => (0..2usize).prop_map(Growth::Twice),
    ];
    let growth = proptest::collection::vec(growth, 0..9);
    (1usize..6, growth, any::<bool>(), 1usize..4).prop_map(
        |(features, growth, cross_entropy, penalty_every)| RandomGraph {
            features,
            growth,
            cross_entropy,
            penalty_every,
        },
    )
}

impl RandomGraph {
    /// The differentiated graph.
    pub fn build(&self, dtype: DType) -> Graph {
        let graph = self.forward(dtype);
        let graph = differentiate(&graph, "loss").unwrap();
        graph.verify().unwrap();
        graph
    }

    /// The graph before it is differentiated.
    pub fn forward(&self, dtype: DType) -> Graph {
        let mut graph = Graph::new("random", dtype).unwrap();
        let mut value = input(&mut graph, "x", Shape::batched(&[self.features]));
        // The first operator is affine, so that there is a parameter.
        value = self.grow(&mut graph, value, &Growth::Affine(4, true), 0);
        for (i, growth) in self.growth.iter().enumerate() {
            value = self.grow(&mut graph, value, growth, i + 1);
        }
        let mut loss = self.loss(&mut graph, value);
        graph
            .add_output("prediction", OutputRole::Prediction, value)
            .unwrap();
        let weights: Vec<ValueId> = graph.parameters().iter().map(|p| p.value).collect();
        for &weight in weights.iter().step_by(self.penalty_every) {
            let penalty = graph.apply(L2Penalty { lambda: 0.1 }, &[weight]).unwrap();
            loss = graph.apply(Binary::Add, &[loss, penalty]).unwrap();
        }
        graph.add_output("loss", OutputRole::Loss, loss).unwrap();
        graph
    }

    fn loss(&self, graph: &mut Graph, value: ValueId) -> ValueId {
        let shape = graph.value(value).ty.shape.clone();
        if self.cross_entropy {
            let ty = TensorType::new(DType::I32, Shape::batched(&[]));
            let y = graph.add_input("y", ty).unwrap();
            graph.apply(SoftmaxCrossEntropy::Loss, &[value, y]).unwrap()
        } else {
            let y = input(graph, "y", shape);
            graph.apply(MeanSquaredError::Loss, &[value, y]).unwrap()
        }
    }

    fn grow(&self, graph: &mut Graph, value: ValueId, growth: &Growth, i: usize) -> ValueId {
        let units = match graph.value(value).ty.shape.dims() {
            [Dim::Batch, Dim::Fixed(units)] => *units,
            other => panic!("{other:?}"),
        };
        let name = |part: &str| format!("{i}.{part}");
        match *growth {
            Growth::Affine(out, bias) => {
                let mut operands = vec![value, parameter(graph, &name("weight"), &[out, units])];
                if bias {
                    operands.push(parameter(graph, &name("bias"), &[out]));
                }
                graph.apply(Dense::Affine, &operands).unwrap()
            }
            Growth::Shared => {
                let weight = parameter(graph, &name("weight"), &[units, units]);
                let once = graph.apply(Dense::Affine, &[value, weight]).unwrap();
                graph.apply(Dense::Affine, &[once, weight]).unwrap()
            }
            Growth::Activation(kind) => graph.apply(UNARY[kind], &[value]).unwrap(),
            Growth::Dropout(rate) => {
                let key = i as u64;
                graph.apply(Dropout { rate, key }, &[value]).unwrap()
            }
            Growth::Add(pick) => {
                let ty = graph.value(value).ty.clone();
                let values = (0..graph.values().len() as u32).map(ValueId);
                let same: Vec<ValueId> = values.filter(|&v| graph.value(v).ty == ty).collect();
                graph
                    .apply(Binary::Add, &[value, same[pick % same.len()]])
                    .unwrap()
            }
            Growth::Scale(factor) => graph.apply(Unary::Scale { factor }, &[value]).unwrap(),
            Growth::Softmax => graph.apply(Softmax::Plain { axis: 1 }, &[value]).unwrap(),
            Growth::Identity => graph.apply(Unary::Identity, &[value]).unwrap(),
            Growth::Transpose => {
                let order = vec![1, 0];
                let order = || order.clone();
                let turned = graph.apply(Transpose { order: order() }, &[value]);
                let back = Transpose { order: order() };
                graph.apply(back, &[turned.unwrap()]).unwrap()
            }
            Growth::Row(op, expand) => {
                let mut row = parameter(graph, &name("row"), &[units]);
                if expand {
                    let shape = Shape::batched(&[units]);
                    row = graph.apply(Expand { shape }, &[row]).unwrap();
                }
                graph.apply(BINARY[op], &[value, row]).unwrap()
            }
            Growth::Constant(kind) => {
                let (op, number) = [
                    (Binary::Mul, 1.0),
                    (Binary::Add, 0.0),
                    (Binary::Mul, 2.5),
                    (Binary::Div, 4.0),
                    (Binary::Div, 3.0),
                    (Binary::Sub, 0.5),
                ][kind];
                let constant = graph.add_scalar(number).unwrap();
                graph.apply(op, &[value, constant]).unwrap()
            }
            Growth::Unstable(kind) => {
                let inner = match kind {
                    0 => graph.apply(Softmax::Plain { axis: 1 }, &[value]),
                    1 => graph.apply(Unary::Sigmoid, &[value]),
                    _ => {
                        let one = graph.add_scalar(1.0).unwrap();
                        let power = graph.apply(Unary::Exp, &[value]).unwrap();
                        graph.apply(Binary::Add, &[power, one])
                    }
                };
                graph.apply(Unary::Log, &[inner.unwrap()]).unwrap()
            }
            Growth::Twice(op) => graph.apply(BINARY[op], &[value, value]).unwrap(),
            Growth::Reshape => {
                let shape = Shape::new(vec![Dim::batches(units)]);
                let flat = graph.apply(Reshape { shape }, &[value]).unwrap();
                let shape = Shape::batched(&[units]);
                graph.apply(Reshape { shape }, &[flat]).unwrap()
            }
        }
    }
}
