//! End to end: the `ringfold` command as users run it, in real processes, over real sockets, with
//! real signals.
//!
//! | module | what it tests |
//! |---|---|
//! | [`support`] | the harness: processes that end with their test, clusters, bounded polls |
//! | [`train`] | `ringfold train` with 1 to 4 workers |
//! | [`cluster`] | coordinator, agents, `submit`, `jobs`, `job`, `nodes`, `watch`, `cancel` |
//! | [`queue`] | who waits for what, and tokens |
//! | [`faults`] | killed, stopped and silent processes |
//! | [`elastic`] | jobs that go on when ranks are lost |
//! | [`signals`] | Ctrl-C and SIGKILL of `ringfold train` |
//! | [`restart`] | a coordinator that comes back |
//! | [`errors`] | wrong input: one clear line and the right exit code |
//! | [`submission`] | jobs that can't be trained, refused at their line before they are queued |
//! | [`api`] | the gRPC API, with a client that isn't ours |
//! | [`bench`] | `ringfold bench` |
//! | [`models`] | `predict`, `evaluate`, and the weights in Python |
//! | [`sequences`] | sequences of numbers, and values with their spread |
//! | [`generate`] | training on text, and text from the model |
//! | [`onnx`] | models from ONNX files, and models written as ONNX |
//! | [`fashion_mnist`] | a data set of 70,000 images |
//!
//! What a machine lacks is said in a line `skipped: reason`.

mod api;
mod bench;
mod cluster;
mod elastic;
mod errors;
mod fashion_mnist;
mod faults;
mod generate;
mod models;
mod onnx;
mod queue;
mod restart;
mod sequences;
mod signals;
mod submission;
mod support;
mod train;
