//! A worker that keeps to the protocol: what it may say next.

use ringfold_common::ids::{JobId, SlotId, Step};
use ringfold_common::job::{Cause, Phase};
use ringfold_coordinator_core::{Command, Event, Fence, Held};

use crate::draw::Draw;
use crate::rig;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub node: &'static str,
    pub pid: u32,
    pub rank: Option<RankModel>,
    /// The job whose data it loads.
    pub preparing: Option<JobId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankModel {
    pub fence: Fence,
    pub stage: Stage,
    pub aborted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Loading,
    Listening,
    RingStarted,
    Training,
    /// It has said that it is done.
    Finished,
}

impl Worker {
    /// Obeys a command.
    pub fn receive(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Assign(assignment) => {
                let busy = |rank: &RankModel| rank.stage != Stage::Finished;
                if let Some(rank) = self.rank.filter(busy) {
                    return Err(format!("{} while {rank:?}", assignment.fence));
                }
                self.preparing = None;
                self.rank = Some(RankModel {
                    fence: assignment.fence,
                    stage: Stage::Loading,
                    aborted: false,
                });
            }
            Command::Prepare(preparation) => {
                if self.preparing.is_some() {
                    return Err(format!("{} while it prepares", preparation.job));
                }
                self.preparing = Some(preparation.job);
            }
            Command::StartRing { fence, peers, .. } => {
                let rank = self.expect(*fence, Stage::Listening)?;
                rank.stage = Stage::RingStarted;
                if peers.get(fence.rank.0 as usize).is_none() {
                    return Err(format!("{fence} is not among its peers {peers:?}"));
                }
            }
            Command::Abort { fence, .. } => {
                if let Some(rank) = self.rank.as_mut().filter(|rank| rank.fence == *fence) {
                    rank.aborted = true;
                }
            }
        }
        Ok(())
    }

    fn expect(&mut self, fence: Fence, stage: Stage) -> Result<&mut RankModel, String> {
        match self.rank.as_mut() {
            Some(rank) if rank.fence == fence && rank.stage == stage => Ok(rank),
            other => Err(format!("{fence} expected at {stage:?}, is {other:?}")),
        }
    }

    /// How its rank stands when it comes back: one that trains goes on, or has ended meanwhile; any other
    /// has stopped.
    pub fn held(&mut self, draw: &mut Draw) -> Option<(Fence, Held)> {
        self.preparing = None;
        let rank = self.rank.filter(|rank| rank.stage >= Stage::Training);
        let Some(rank) = rank else {
            self.rank = None;
            return None;
        };
        let first = rank.fence.rank.0 == 0;
        let held = match (rank.stage, draw.below(4)) {
            (Stage::Finished, _) | (_, 0) => Held::Finished(first.then(rig::summary)),
            (_, 1) => Held::Failed {
                cause: Cause::PeerLost("a neighbour".into()),
                phase: Phase::Saving,
                log_tail: Vec::new(),
            },
            _ => Held::Training(Phase::Training(Step(1))),
        };
        if !matches!(held, Held::Training(_)) {
            self.rank = None;
        }
        Some((rank.fence, held))
    }

    /// The next thing that it says of its rank, with no fault of its own. `None` if it waits.
    pub fn next(&mut self, slot: SlotId, draw: &mut Draw) -> Option<Event> {
        if let Some(job) = self.preparing
            && !draw.once_in(3)
        {
            self.preparing = None;
            return Some(match draw.once_in(4) {
                true => Event::PrepareFailed { slot, job },
                false => Event::Prepared { slot, job },
            });
        }
        let rank = self.rank.as_mut()?;
        let fence = rank.fence;
        // An abort takes a while to arrive.
        if rank.aborted && rank.stage != Stage::Finished && !draw.once_in(3) {
            self.rank = None;
            return Some(Event::RankStopped { slot, fence });
        }
        match rank.stage {
            Stage::Loading => {
                if draw.once_in(4) {
                    let phase = Phase::LoadingData;
                    return Some(Event::PhaseChanged { slot, fence, phase });
                }
                rank.stage = Stage::Listening;
                let address = format!("{slot}:1");
                Some(Event::RankListening {
                    slot,
                    fence,
                    address,
                    key: None,
                })
            }
            Stage::RingStarted => {
                rank.stage = Stage::Training;
                Some(Event::RankTraining { slot, fence })
            }
            Stage::Training => Some(Self::train(rank, slot, draw)),
            Stage::Listening | Stage::Finished => None,
        }
    }

    fn train(rank: &mut RankModel, slot: SlotId, draw: &mut Draw) -> Event {
        let fence = rank.fence;
        let first = fence.rank.0 == 0;
        match draw.below(8) {
            0 if first => Event::Progress {
                slot,
                fence,
                progress: rig::progress(draw.below(100)),
            },
            1 if first => Event::Evaluation {
                slot,
                fence,
                evaluation: rig::evaluation(draw.below(100)),
            },
            2..6 => Event::PhaseChanged {
                slot,
                fence,
                phase: Phase::Training(Step(draw.below(100))),
            },
            _ => {
                rank.stage = Stage::Finished;
                let summary = first.then(rig::summary);
                Event::RankFinished {
                    slot,
                    fence,
                    summary,
                }
            }
        }
    }

    /// Its rank fails, if it has one that has not finished.
    pub fn fail(&mut self, slot: SlotId, draw: &mut Draw) -> Option<Event> {
        let rank = self.rank.filter(|rank| rank.stage != Stage::Finished)?;
        self.rank = None;
        let causes = [
            Cause::Error("disk full".into()),
            Cause::PeerLost("a neighbour".into()),
            Cause::PeerLost("a neighbour".into()),
            Cause::WeightsDiffer("step 3".into()),
        ];
        let cause = causes[draw.below(4) as usize].clone();
        Some(Event::RankFailed {
            slot,
            fence: rank.fence,
            cause,
            phase: Phase::Saving,
            log_tail: vec!["a line".into()],
        })
    }
}
