//! Growing waits between attempts.

use std::time::Duration;

use uuid::Uuid;

/// Waits that double from `first` to `max`, each drawn from the upper half of its range so that
/// many clients don't come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Waits from `first` to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            next: first,
            max,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        // Not for security: any spread will do.
        let share = f64::from(Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX);
        full.mul_f64(0.5 + 0.5 * share)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for full in [100, 200, 400, 400] {
            let wait = backoff.next_wait().as_millis();
            assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
