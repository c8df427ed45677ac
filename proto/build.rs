//! Compiles the `.proto` files with a pure-Rust compiler, and keeps the descriptor set for server
//! reflection.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const FILES: [&str; 6] = [
    "ringfold/v1/unit.proto",
    "ringfold/v1/cluster_spec.proto",
    "ringfold/v1/spec.proto",
    "ringfold/v1/job.proto",
    "ringfold/v1/cluster.proto",
    "ringfold/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=ringfold");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by protox itself: it keeps options that prost's types would drop.
    fs::write(
        out_dir.join("descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
