//! The tensor-graph IR: shapes, verifier, text dump, reverse-mode autodiff, initialisers, and the
//! built-in models.
//!
//! This crate is pure: no IO, clocks, threads or unseeded randomness, and no output that depends on
//! hash order. The same calls give the same graph and the same dump, byte for byte.
//!
//! # Contract
//! - A [`Graph`] is a list of *values* (graph inputs, parameters, constants, states, the loss scale,
//!   results of nodes) and a list of *nodes* in an order in which they may run: every operand of a node is
//!   defined before it. Ids ([`ValueId`], [`NodeId`], [`ParameterId`]) are positions in these
//!   lists; they belong to one graph.
//! - Every value has a [`TensorType`]: a [`DType`] and a [`Shape`] whose dimensions are fixed or
//!   multiples of the batch ([`Dim::Batch`], [`Dim::BatchTimes`]). A model is built once and bound to a batch size when it is planned.
//!   Tensors are dense and row-major. All floats of one graph have one type, [`Graph::dtype`];
//!   indices are `i32` or `i64`, conditions `bool`.
//! - A *state* ([`Graph::add_state`]) is a float tensor that training runs change without a
//!   gradient, such as running statistics: its [`Update`] names the value that a run leaves in it.
//! - [`Graph::apply`] infers the type of a result and refuses operands that don't fit;
//!   [`Graph::verify`] checks a whole graph again (a graph that was rewritten or decoded).
//! - [`differentiate`] appends the backward nodes. The result names one gradient per parameter, in
//!   *gradient-ready order*: the order in which the nodes that finish them stand in the graph, so
//!   that a reduction of the first ones can go on while later ones are computed. The gradient is
//!   that of `loss_scale * loss`, where `loss_scale` is a scalar given at run time.
//! - Conventions of operators, parameters and their names are those of PyTorch, so that exported
//!   weights are drop-in: [`op::Dense::Affine`] is `x · Wᵀ + b` with `W` of `[outputs, inputs]`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shape`] | [`DType`], [`Dim`], [`Shape`], [`TensorType`] |
//! | [`op`] | [`Op`]: every operator, its formula, operands, type rule and gradient |
//! | [`graph`] | [`Graph`] and its parts; building |
//! | `infer`, `verify` | what type rules are said with; the check of a whole graph |
//! | `dump` | the stable text form: `Display` of [`Graph`] |
//! | [`autodiff`] | [`differentiate`] |
//! | [`pass`] | rewritings that leave a graph's meaning: [`pass::optimise`] |
//! | [`cost`] | [`cost::flops`]: what a node costs |
//! | [`compose`] | functions composed of operators |
//! | [`init`] | [`Initialiser`]: initial values as a pure function of seed, name, element |
//! | [`job`] | a job's network: what is checked at submission and built by every rank |
//! | [`layers`] | pieces of models that are more than one operator |
//! | `orthogonal` | random orthogonal matrices |
//! | [`models`] | built-in models: [`models::build`] |
//! | [`onnx`] | models of ONNX, in and out |
//! | [`error`] | [`GraphError`] |

pub mod autodiff;
pub mod compose;
pub mod cost;
pub mod dump;
pub mod error;
pub mod graph;
mod infer;
pub mod init;
pub mod job;
pub mod layers;
pub mod models;
pub mod onnx;
pub mod op;
mod orthogonal;
pub mod pass;
pub mod shape;
mod verify;

pub use autodiff::differentiate;
pub use error::GraphError;
pub use graph::{
    Constant, ConstantData, Gradient, Graph, Input, Node, NodeId, Origin, Output, OutputRole,
    Parameter, ParameterId, State, StateId, Update, Value, ValueId,
};
pub use init::{Initialiser, InitialiserScheme};
pub use models::Activation;
pub use op::Op;
pub use pass::Mode;
pub use shape::{DType, Dim, Shape, TensorType};
