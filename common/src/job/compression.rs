//! How a job's gradients are compressed on their way between ranks.

use serde::{Deserialize, Serialize};

use super::spec::{ClusterSpec, FoldMode};
use super::validate::{SpecError, check, check_count, limits};

/// `[cluster.compression]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompressionSpec {
    /// What is sent in place of 32-bit floats.
    pub method: CompressionMethod,
    /// The first step whose gradient is compressed; steps count from 1.
    pub start_step: u64,
}

/// `cluster.compression.kind`, with the numbers of each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressionMethod {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Bytes with a scale a block.
    Int8 {
        /// Elements of a block.
        block: u32,
    },
    /// The elements of greatest absolute value.
    TopK {
        /// The share of elements that a rank sends.
        fraction: f64,
    },
    /// Matrices as products of thin ones.
    PowerSgd {
        /// The columns of those.
        rank: u32,
    },
}

impl CompressionMethod {
    /// The name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 { .. } => "int8",
            Self::TopK { .. } => "topk",
            Self::PowerSgd { .. } => "powersgd",
        }
    }

    /// True if a sum can be taken in the order of replicas, whatever ranks hold them: if it keeps
    /// nothing at a rank from one step to the next.
    #[must_use]
    pub fn is_reproducible(self) -> bool {
        matches!(self, Self::Bf16 | Self::F16)
    }
}

/// Checks `cluster.compression` and its place beside `cluster.mode`.
pub(super) fn validate(cluster: &ClusterSpec) -> Result<(), SpecError> {
    let Some(compression) = cluster.compression else {
        return Ok(());
    };
    let method = compression.method;
    check(
        method.is_reproducible() || cluster.mode != FoldMode::Reproducible,
        "cluster.compression.kind",
        format!("{:?}", method.name()),
        "\"bf16\" or \"f16\" with cluster.mode \"reproducible\", since what the others send depends \
         on which rank holds which replicas",
    )?;
    match method {
        CompressionMethod::Bf16 | CompressionMethod::F16 => {}
        CompressionMethod::Int8 { block } => check_count(
            "cluster.compression.block",
            block.into(),
            limits::COMPRESSION_BLOCK_MIN.into(),
            limits::COMPRESSION_BLOCK_MAX.into(),
        )?,
        CompressionMethod::TopK { fraction } => check(
            fraction > 0.0 && fraction <= 1.0,
            "cluster.compression.fraction",
            fraction,
            "a number above 0, up to 1",
        )?,
        CompressionMethod::PowerSgd { rank } => check_count(
            "cluster.compression.rank",
            rank.into(),
            1,
            limits::COMPRESSION_RANK_MAX.into(),
        )?,
    }
    check_count(
        "cluster.compression.start_step",
        compression.start_step,
        1,
        limits::STEPS_MAX,
    )
}
