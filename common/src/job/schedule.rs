//! `[train.schedule]`: how the learning rate moves.

use serde::{Deserialize, Serialize};

/// `[train.schedule]`: a linear warm-up, then a decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// Steps in which the rate rises linearly; the first step of n runs at 1/n of the rate. Zero
    /// with [`Decay::OneCycle`], which has a rise of its own.
    pub warmup_steps: u64,
    /// What follows.
    pub decay: Decay,
}

impl ScheduleSpec {
    /// The rate stays as it is.
    #[must_use]
    pub fn constant() -> Self {
        Self {
            warmup_steps: 0,
            decay: Decay::Constant,
        }
    }
}

/// `train.schedule.kind`. Steps and epochs of the variants count from the end of the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// The rate stays.
    Constant,
    /// The rate is multiplied by `gamma` once a period.
    Step {
        /// Between two drops.
        every: Period,
        /// The factor, in (0, 1].
        gamma: f64,
    },
    /// The rate is multiplied by `gamma` at each milestone.
    MultiStep {
        /// When.
        milestones: Milestones,
        /// The factor, in (0, 1].
        gamma: f64,
    },
    /// The rate falls by `gamma` over a period, a little each step.
    Exponential {
        /// The time of one factor.
        every: Period,
        /// The factor, in (0, 1].
        gamma: f64,
    },
    /// Half a cosine from the rate down to `min_rate` at the job's end
    /// (Loshchilov and Hutter, 2017, equation 5, no restarts).
    Cosine {
        /// Where it ends.
        min_rate: f64,
    },
    /// Half a cosine a round, and back to the rate (ibid., equation 5).
    CosineRestarts {
        /// The length of the first round, T₀.
        first: Period,
        /// How many times longer each round is than the one before.
        factor: u32,
        /// Where each round ends.
        min_rate: f64,
    },
    /// Up to the rate and far down over the job (Smith and Topin, 2019).
    OneCycle(OneCycle),
    /// The rate times (1 − *t* / *n*)^`power` in *n* steps.
    Polynomial {
        /// How long; unset for the rest of the job.
        over: Option<Period>,
        /// The exponent.
        power: f64,
    },
    /// A line from `start_factor` to `end_factor` times the rate.
    Linear {
        /// How long; unset for the rest of the job.
        over: Option<Period>,
        /// Where it starts.
        start_factor: f64,
        /// Where it ends and stays.
        end_factor: f64,
    },
}

/// The options of one cycle. The rate of the job is the greatest of the cycle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneCycle {
    /// The share of the steps in which the rate rises, in (0, 1).
    pub pct_start: f64,
    /// The first rate is the greatest one divided by this.
    pub div_factor: f64,
    /// The last rate is the first one divided by this.
    pub final_div_factor: f64,
    /// The curve.
    pub anneal: Anneal,
}

/// `train.schedule.anneal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Half a cosine.
    Cosine,
    /// A line.
    Linear,
}

/// A time between two events, in steps or in epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// This many steps.
    Steps(u64),
    /// This many epochs.
    Epochs(u64),
}

/// Points in time, in steps or in epochs, each later than the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestones {
    /// After so many steps.
    Steps(Vec<u64>),
    /// After so many epochs.
    Epochs(Vec<u64>),
}
