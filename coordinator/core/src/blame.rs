//! Which of the causes at hand ended a job.
//!
//! A fault shows itself in many ways at once: the rank's stream ends, its parent reaps it, its
//! neighbours lose a peer. The suspects are what has been said so far; the verdict is the
//! strongest of them, and of equals the first.

use std::time::Duration;

use ringfold_common::ids::{NodeName, Rank, SlotId};
use ringfold_common::job::{Cause, Failure, Phase};

/// The most bytes of a message in a [`Cause`]; the rest is cut off.
pub(crate) const CAUSE_BYTES_MAX: usize = 4096;

/// A rank at which something went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) slot: SlotId,
    pub(crate) rank: Rank,
    pub(crate) node: NodeName,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) phase: Phase,
    pub(crate) cause: Cause,
    pub(crate) log_tail: Vec<String>,
}

impl Suspect {
    /// What the job's reason says if this is the verdict. Texts are cut to their limits.
    pub(crate) fn failure(&self) -> Failure {
        Failure {
            rank: Some(self.rank),
            node: Some(self.node.clone()),
            host: Some(self.host.clone()),
            phase: self.phase,
            cause: cut_cause(&self.cause),
            log_tail: cut_log(&self.log_tail),
        }
    }

    fn weight(&self) -> Weight {
        Weight::of(&self.cause)
    }
}

/// How well a cause explains a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Another rank is likely at fault.
    Secondary,
    /// This rank is, and nobody knows why.
    Vague,
    /// Its process ended on its own and called that a success: a worker that was told to stop
    /// may still be about to say so.
    CleanExit,
    /// Nothing explains it better.
    Primary,
}

impl Weight {
    fn of(cause: &Cause) -> Self {
        match cause {
            cause if cause.is_secondary() => Self::Secondary,
            Cause::ConnectionLost => Self::Vague,
            Cause::Exited(0) => Self::CleanExit,
            _ => Self::Primary,
        }
    }
}

/// The search for the first cause of one job's fault.
#[derive(Clone, Debug)]
pub(crate) struct Blame {
    /// When the best suspect so far is taken, on the monotonic clock.
    pub(crate) deadline: Duration,
    /// In the order in which they were heard of.
    suspects: Vec<Suspect>,
}

impl Blame {
    pub(crate) fn new(deadline: Duration, first: Suspect) -> Self {
        Self {
            deadline,
            suspects: vec![first],
        }
    }

    /// Hears of another suspect.
    pub(crate) fn add(&mut self, suspect: Suspect) {
        self.suspects.push(suspect);
    }

    /// A better cause for suspects that `matches`: taken where it outweighs the present one.
    pub(crate) fn refine(
        &mut self,
        cause: &Cause,
        log_tail: &[String],
        matches: impl Fn(&Suspect) -> bool,
    ) {
        for suspect in self.suspects.iter_mut().filter(|suspect| matches(suspect)) {
            if suspect.weight() < Weight::of(cause) {
                suspect.cause = cause.clone();
                if !log_tail.is_empty() {
                    suspect.log_tail = log_tail.to_vec();
                }
            }
        }
    }

    /// The verdict, once no better one can come or `now` is past the deadline.
    pub(crate) fn verdict(&self, now: Duration) -> Option<&Suspect> {
        // `max_by_key` would take the last of equals.
        let best = self.suspects.iter().rev().max_by_key(|s| s.weight())?;
        (best.weight() == Weight::Primary || now >= self.deadline).then_some(best)
    }
}

fn cut_cause(cause: &Cause) -> Cause {
    let cut = |text: &String| text[..text.floor_char_boundary(CAUSE_BYTES_MAX)].to_owned();
    match cause {
        Cause::Error(message) => Cause::Error(cut(message)),
        Cause::PeerLost(message) => Cause::PeerLost(cut(message)),
        Cause::WeightsDiffer(message) => Cause::WeightsDiffer(cut(message)),
        other => other.clone(),
    }
}

fn cut_log(lines: &[String]) -> Vec<String> {
    let kept = &lines[lines.len().saturating_sub(Failure::LOG_LINES_MAX)..];
    let cut = |line: &String| {
        let end = line.floor_char_boundary(Failure::LOG_LINE_BYTES_MAX);
        line[..end].to_owned()
    };
    kept.iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(9);

    fn suspect(rank: u32, cause: Cause) -> Suspect {
        Suspect {
            slot: SlotId(u64::from(rank)),
            rank: Rank(rank),
            node: NodeName("n".into()),
            host: "h".into(),
            pid: rank,
            phase: Phase::LoadingData,
            cause,
            log_tail: Vec::new(),
        }
    }

    fn verdict_of(causes: &[Cause]) -> (u32, Cause) {
        let mut ranked = causes.iter().zip(0..);
        let (first, rank) = ranked.next().unwrap();
        let mut blame = Blame::new(LATER, suspect(rank, first.clone()));
        ranked.for_each(|(cause, rank)| blame.add(suspect(rank, cause.clone())));
        let best = blame.verdict(LATER).unwrap();
        (best.rank.0, best.cause.clone())
    }

    #[test]
    fn the_strongest_cause_wins_and_of_equals_the_first() {
        let lost = Cause::PeerLost("rank 2".into());
        let error = Cause::Error("disk".into());
        assert_eq!(verdict_of(&[lost.clone(), lost.clone()]), (0, lost.clone()));
        assert_eq!(
            verdict_of(&[lost.clone(), Cause::ConnectionLost, Cause::ConnectionLost]),
            (1, Cause::ConnectionLost)
        );
        assert_eq!(
            verdict_of(&[Cause::ConnectionLost, lost.clone(), Cause::Exited(0)]),
            (2, Cause::Exited(0))
        );
        assert_eq!(
            verdict_of(&[lost, error.clone(), Cause::Exited(1)]),
            (1, error)
        );
    }

    #[test]
    fn only_a_primary_cause_ends_the_wait() {
        let mut blame = Blame::new(LATER, suspect(0, Cause::ConnectionLost));
        assert_eq!(blame.verdict(Duration::ZERO), None);
        blame.refine(&Cause::Signalled(9), &["last".into()], |s| s.pid == 0);
        let best = blame.verdict(Duration::ZERO).unwrap();
        assert_eq!(best.failure().cause, Cause::Signalled(9));
        assert_eq!(best.failure().log_tail, ["last"]);
    }

    #[test]
    fn texts_are_cut_to_their_limits_on_character_boundaries() {
        let mut long = suspect(0, Cause::Error("é".repeat(CAUSE_BYTES_MAX)));
        long.log_tail = (0..50)
            .map(|i| format!("{i:02}{}", "ü".repeat(999)))
            .collect();
        let failure = long.failure();
        assert_eq!(failure.log_tail.len(), Failure::LOG_LINES_MAX);
        assert!(failure.log_tail[19].starts_with("49ü"));
        assert!(failure.log_tail[0].len() <= Failure::LOG_LINE_BYTES_MAX);
        let Cause::Error(message) = failure.cause else {
            panic!("{failure:?}");
        };
        assert_eq!(message.len(), CAUSE_BYTES_MAX);
    }
}
