//! `CompressionSpec` both ways.

use ringfold_common::job::{CompressionMethod, CompressionSpec};

use crate::error::{FieldError, required};
use crate::v1;
use crate::v1::compression_spec::Method;

impl From<CompressionSpec> for v1::CompressionSpec {
    fn from(spec: CompressionSpec) -> Self {
        let method = match spec.method {
            CompressionMethod::Bf16 => Method::Bf16(v1::Unit {}),
            CompressionMethod::F16 => Method::F16(v1::Unit {}),
            CompressionMethod::Int8 { block } => Method::Int8(v1::Int8Compression { block }),
            CompressionMethod::TopK { fraction } => Method::TopK(v1::TopKCompression { fraction }),
            CompressionMethod::PowerSgd { rank } => {
                Method::PowerSgd(v1::PowerSgdCompression { rank })
            }
        };
        Self {
            method: Some(method),
            start_step: spec.start_step,
        }
    }
}

impl TryFrom<v1::CompressionSpec> for CompressionSpec {
    type Error = FieldError;

    fn try_from(spec: v1::CompressionSpec) -> Result<Self, FieldError> {
        let or = |value: u32, default: u32| match value {
            0 => default,
            value => value,
        };
        let method = match required(spec.method, "spec.cluster.compression.method")? {
            Method::Bf16(_) => CompressionMethod::Bf16,
            Method::F16(_) => CompressionMethod::F16,
            Method::Int8(int8) => CompressionMethod::Int8 {
                block: or(int8.block, 256),
            },
            Method::TopK(top_k) => CompressionMethod::TopK {
                fraction: top_k.fraction,
            },
            Method::PowerSgd(sgd) => CompressionMethod::PowerSgd {
                rank: or(sgd.rank, 4),
            },
        };
        let start_step = spec.start_step.max(1);
        Ok(Self { method, start_step })
    }
}
