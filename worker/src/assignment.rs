//! An assignment, checked on receive.

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
}

impl TryFrom<v1::Assign> for Assignment {
    type Error = FieldError;

    fn try_from(assign: v1::Assign) -> Result<Self, FieldError> {
        let fence = required_fence(assign.fence)?;
        let range = |field: &str, from: u64, to: u64, max: u64| {
            if from <= to && to <= max {
                return Ok(from..to);
            }
            Err(FieldError {
                field: field.to_owned(),
                expected: format!("a range within 0..{max}"),
                got: format!("{from}..{to}"),
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
        let part = RankPart {
            batch_positions: range(
                "batch",
                assign.batch_from,
                assign.batch_to,
                spec.train.global_batch.into(),
            )?,
            test_records: range(
                "test",
                assign.test_from,
                assign.test_to,
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
        })
    }
}
