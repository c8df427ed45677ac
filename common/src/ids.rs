//! Newtype ids. Distinct things have distinct types.
//!
//! ```compile_fail
//! use ringfold_common::ids::{Rank, Step};
//! fn takes_a_rank(_: Rank) {}
//! takes_a_rank(Step(3)); // a step is not a rank
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $display:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $display, self.0)
            }
        }

        impl $name {
            /// The id after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number_id!(
    /// One submitted unit of work. Shown as `job-17`; never used again after the job is gone.
    JobId(u64),
    "job-{}"
);
number_id!(
    /// One worker process that offers a slot, as the coordinator knows it since it registered.
    /// A process that registers again gets a new id.
    SlotId(u64),
    "slot-{}"
);
number_id!(
    /// A position in a world, `0..world`.
    Rank(u32),
    "{}"
);
number_id!(
    /// A logical data-parallel worker, `0..replicas`. A rank hosts one or more.
    Replica(u32),
    "{}"
);
number_id!(
    /// The monotonic number of a job's world. Every frame and RPC about a running job carries it;
    /// what is older is dropped and counted.
    MembershipEpoch(u64),
    "{}"
);
number_id!(
    /// One optimizer update. Step 1 is the first; 0 means that none has been taken.
    Step(u64),
    "{}"
);
number_id!(
    /// One pass over the training data, from 0.
    Epoch(u64),
    "{}"
);
number_id!(
    /// The version of the coordinator's store: it grows by one with every commit.
    Revision(u64),
    "{}"
);

/// An id that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a job id: expected `job-` and a number, as in `job-17`")]
pub struct ParseJobIdError {
    text: String,
}

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("job-").unwrap_or(text);
        match digits.parse() {
            Ok(number) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(number)),
            _ => Err(ParseJobIdError {
                text: text.to_owned(),
            }),
        }
    }
}

/// The name of a node: one agent on one host. Set by `--node`, by default the host's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The BLAKE3 hash of a job's spec and of the dataset's description. Ranks of one ring must agree
/// on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(pub [u8; 32]);

impl fmt::Display for SpecHash {
    /// The first eight bytes, in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpecHash({self})")
    }
}

/// What other ranks know a rank's end of a connection by: the public half, an Ed25519 key, of the pair
/// that the rank made for one membership epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingKey(pub [u8; 32]);

impl fmt::Display for RingKey {
    /// The first eight bytes, in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingKey({self})")
    }
}

/// What every frame and RPC about a running job carries. A receiver drops, and counts, what does
/// not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The job.
    pub job: JobId,
    /// The number of its world.
    pub membership_epoch: MembershipEpoch,
    /// The rank in that world.
    pub rank: Rank,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} membership epoch {} rank {}",
            self.job, self.membership_epoch, self.rank
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_round_trip_as_text() {
        assert_eq!("job-17".parse(), Ok(JobId(17)));
        assert_eq!("17".parse(), Ok(JobId(17)));
        assert_eq!(JobId(17).to_string(), "job-17");
    }

    #[test]
    fn a_bad_job_id_says_what_was_expected() {
        for text in [
            "",
            "job-",
            "job-x",
            "slot-3",
            "job-+3",
            "job-99999999999999999999999",
        ] {
            let error = text.parse::<JobId>().unwrap_err();
            assert!(
                error.to_string().contains("expected `job-` and a number"),
                "{error}"
            );
        }
    }
}
