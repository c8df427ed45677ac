//! An assignment, checked on receive.

use std::ops::Range;

use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::{DatasetInfo, RankPart};
use ringfold_common::ids::{Fence, SpecHash};
use ringfold_common::job::JobSpec;
use ringfold_proto::{FieldError, required_fence, required_field, required_hash, v1};

/// What the coordinator asks of a slot.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub fence: Fence,
    pub world: u32,
    pub spec: JobSpec,
    pub dataset: DatasetInfo,
    pub part: RankPart,
    pub spec_hash: SpecHash,
    pub submitted: UnixMillis,
}

impl TryFrom<v1::Assign> for Assignment {
    type Error = FieldError;

    fn try_from(assign: v1::Assign) -> Result<Self, FieldError> {
        let fence = required_fence(assign.fence)?;
        let range = |field: &str, range: Range<u64>, max: u64| {
            if range.start <= range.end && range.end <= max {
                return Ok(range);
            }
            Err(FieldError {
                field: field.to_owned(),
                expected: format!("a range within 0..{max}"),
                got: format!("{}..{}", range.start, range.end),
            })
        };
        if fence.rank.0 >= assign.world {
            return Err(FieldError {
                field: "fence.rank".into(),
                expected: format!("a rank below the world of {}", assign.world),
                got: fence.rank.to_string(),
            });
        }
        let spec = JobSpec::try_from(required_field(assign.spec, "spec")?)?;
        let dataset = DatasetInfo::try_from(required_field(assign.dataset, "dataset")?)?;
        let (from, to) = (assign.replica_from, assign.replica_to);
        range(
            "replicas",
            from.into()..to.into(),
            spec.cluster.replicas.into(),
        )?;
        let part = RankPart {
            replicas: from..to,
            test_records: range(
                "test",
                assign.test_from..assign.test_to,
                dataset.test_records,
            )?,
        };
        Ok(Self {
            fence,
            world: assign.world,
            spec,
            dataset,
            part,
            spec_hash: SpecHash(required_hash(&assign.spec_hash, "spec_hash")?),
            submitted: UnixMillis(assign.submitted_unix_ms),
        })
    }
}
