//! Any bytes are an ONNX model or an error: no panic, no memory beyond the reader's caps.
//!
//! CONTRIBUTING.md says how to run it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold_graph::onnx::{ReadOptions, inputs, read, read_tensor};

fuzz_target!(|bytes: &[u8]| {
    let _ = inputs(bytes);
    let _ = read_tensor(bytes);
    if let Ok(model) = read(bytes, &ReadOptions::default()) {
        model.graph.verify().expect("a graph that was read verifies");
    }
});
