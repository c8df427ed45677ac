//! The random numbers of one seed, one after the other.

use ringfold_common::random::Stream;

pub struct Draw {
    stream: Stream,
    next: u64,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self {
            stream: Stream::new(seed, 0),
            next: 0,
        }
    }

    /// A number in `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        let word = self.stream.word(self.next);
        self.next += 1;
        // The bias of the remainder does not matter here.
        u64::from(word) % end.max(1)
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at).copied()
    }
}
