//! The last events of one job.

use std::collections::VecDeque;

use ringfold_common::job::JobEvent;

use crate::view::JobEvents;

/// A ring buffer of events with consecutive numbers.
#[derive(Clone, Debug)]
pub(crate) struct EventLog {
    events: VecDeque<JobEvent>,
    events_max: usize,
    next_sequence: u64,
}

impl EventLog {
    /// A log whose first event gets the number `next_sequence`, and that keeps `events_max`
    /// events, but at least one.
    pub(crate) fn new(next_sequence: u64, events_max: usize) -> Self {
        Self {
            events: VecDeque::new(),
            events_max: events_max.max(1),
            next_sequence,
        }
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Appends the event that `make` makes of its number.
    pub(crate) fn push(&mut self, make: impl FnOnce(u64) -> JobEvent) -> JobEvent {
        let event = make(self.next_sequence);
        self.next_sequence += 1;
        if self.events.len() == self.events_max {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    /// Events with numbers above `after`.
    pub(crate) fn after(&self, after: u64) -> JobEvents<'_> {
        let oldest = self.next_sequence - self.events.len() as u64;
        let skip = after.saturating_add(1).saturating_sub(oldest);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        JobEvents {
            oldest_sequence: oldest,
            next_sequence: self.next_sequence,
            missed: after.saturating_add(1) < oldest,
            events: self.events.iter().skip(skip).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfold_common::clock::UnixMillis;
    use ringfold_common::ids::{JobId, MembershipEpoch};
    use ringfold_common::job::{JobEventKind, JobState, Reason};

    use super::*;

    fn log(events: u64, events_max: usize) -> EventLog {
        let mut log = EventLog::new(1, events_max);
        for _ in 0..events {
            log.push(|sequence| JobEvent {
                job: JobId(1),
                sequence,
                at: UnixMillis(0),
                membership_epoch: MembershipEpoch(0),
                kind: JobEventKind::State {
                    state: JobState::Queued,
                    reason: Reason::Training,
                    summary: None,
                },
            });
        }
        log
    }

    fn after(log: &EventLog, after: u64) -> (bool, Vec<u64>) {
        let found = log.after(after);
        let numbers = found.events.iter().map(|event| event.sequence);
        (found.missed, numbers.collect())
    }

    #[test]
    fn a_full_log_drops_the_oldest_and_says_so() {
        let log = log(5, 3);
        assert_eq!(log.after(0).oldest_sequence, 3);
        assert_eq!(after(&log, 0), (true, vec![3, 4, 5]));
        assert_eq!(after(&log, 1), (true, vec![3, 4, 5]));
        assert_eq!(after(&log, 2), (false, vec![3, 4, 5]));
        assert_eq!(after(&log, 4), (false, vec![5]));
        assert_eq!(after(&log, 5), (false, vec![]));
        assert_eq!(after(&log, u64::MAX), (false, vec![]));
    }

    #[test]
    fn an_empty_log_has_missed_nothing_unless_numbers_were_skipped() {
        assert_eq!(after(&log(0, 3), 0), (false, vec![]));
        assert_eq!(after(&EventLog::new(9, 3), 3), (true, vec![]));
        assert_eq!(after(&EventLog::new(9, 3), 8), (false, vec![]));
    }
}
