//! The wire: `ringfold.v1` messages and services, and their conversions to the types of
//! `ringfold-common`.
//!
//! Validation happens once, on receive: `TryFrom<v1::X>` checks that everything required is there
//! and in range, and its error names the field. Below that line nothing required is an `Option`.

mod error;
mod job;
mod spec;
mod worker;

pub use error::FieldError;
pub use job::{failure_to_wire, timestamp};
pub use worker::{required_fence, required_field, required_hash};

/// The generated code of `ringfold.v1`.
#[allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("ringfold.v1");
}

/// The version of the worker session. It grows with every change that an older peer would
/// misunderstand.
pub const PROTOCOL_VERSION: u32 = 1;

/// The encoded `FileDescriptorSet` of all services, comments included, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));
