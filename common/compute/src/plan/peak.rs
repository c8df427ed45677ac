//! When a run needs the most memory, and what for.

use super::chain::Chains;
use crate::element::Element;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Values; the first of them is a result of this call.
    Values,
    /// The gradient of the parameter at this position in the layout, from its first part on.
    Gradient(usize),
    /// A kernel's own room during this call.
    Scratch,
}

/// A buffer that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// What it is for.
    pub role: Role,
    /// The call (position in [`super::Program::calls`]) that it begins with.
    pub first: usize,
    /// The last call that reads it; the number of calls if it is read after the run.
    pub last: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The call during which the most bytes are alive, in the workspace and the gradient arena together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// The position in [`super::Program::calls`].
    pub call: usize,
    /// What is alive, the largest first.
    pub alive: Vec<Alive>,
}

impl Peak {
    pub(super) fn new<T: Element>(chains: &Chains, scratch: &[usize], call: usize) -> Self {
        let size = T::DTYPE.size_bytes();
        let values = chains.buffers.iter().map(|chain| Alive {
            role: chain.gradient_of.map_or(Role::Values, Role::Gradient),
            first: chain.lifetime.first,
            // A gradient is read after the run.
            last: match chain.gradient_of {
                Some(_) => scratch.len(),
                None => chain.lifetime.last,
            },
            bytes: chain.lifetime.len * size,
        });
        let scratch = scratch.iter().enumerate().map(|(call, len)| Alive {
            role: Role::Scratch,
            first: call,
            last: call,
            bytes: len * size,
        });
        let all = values.chain(scratch);
        let here = all.filter(|one| one.bytes > 0 && (one.first..=one.last).contains(&call));
        let mut alive: Vec<Alive> = here.collect();
        alive.sort_by_key(|one| (usize::MAX - one.bytes, one.first));
        Self { call, alive }
    }

    /// Bytes of all that is alive.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.alive.iter().map(|one| one.bytes).sum()
    }
}
