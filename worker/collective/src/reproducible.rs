//! A sum over replicas whose bits depend on nothing but the replicas' values.

use std::marker::PhantomData;
use std::ops::{DerefMut, Range};

use ringfold_common::ids::Rank;

use crate::algorithm::{Kind, Replicas};
use crate::element::{bytes_of, bytes_of_mut, fold_of};
use crate::identity::check_elements;
use crate::over_tcp::{self, Tree};
use crate::ring::Link;
use crate::transport::shared::Terms;
use crate::{CollectiveError, Element, Reduce, Ring};

/// The gradients of the replicas that a rank holds, folded as they come.
///
/// [`push`](Self::push) takes one replica's vector after the other, in ascending order of their
/// numbers, and adds up whatever is complete of the tree ([`Replicas`]). For `m` replicas at a
/// rank it holds at most `log2(m) + 1` vectors while they come, and [`Replicas::nodes`] at the
/// end. A vector is whatever its owner keeps floats in; those that are free again come back by
/// [`reuse`](Self::reuse).
pub struct ReplicaBuffers<T, V = Vec<T>> {
    replicas: Replicas,
    held: Range<u32>,
    elements: usize,
    nodes: Vec<(Range<u32>, V)>,
    free: Vec<V>,
    /// The replica that is due.
    next: u32,
    element: PhantomData<T>,
}

impl<T: Element, V: DerefMut<Target = [T]>> ReplicaBuffers<T, V> {
    /// Nothing yet of the replicas of `rank`, each with a vector of `elements`.
    ///
    /// # Errors
    /// [`RankOutsideWorld`](CollectiveError::RankOutsideWorld).
    pub fn new(replicas: &Replicas, rank: Rank, elements: usize) -> Result<Self, CollectiveError> {
        let world = replicas.world();
        if rank.0 >= world {
            return Err(CollectiveError::RankOutsideWorld { rank, world });
        }
        let held = replicas.of(rank);
        Ok(Self {
            replicas: replicas.clone(),
            next: held.start,
            held,
            elements,
            nodes: Vec::new(),
            free: Vec::new(),
            element: PhantomData,
        })
    }

    /// The replica whose vector is due, or `None` when all are in.
    #[must_use]
    pub fn due(&self) -> Option<u32> {
        self.held.contains(&self.next).then_some(self.next)
    }

    /// Takes the vector of the replica that is [`due`](Self::due).
    ///
    /// # Errors
    /// [`ReplicaLength`](CollectiveError::ReplicaLength) if the vector has another length than the
    /// others, [`ReplicaCount`](CollectiveError::ReplicaCount) if none is due. Nothing was taken.
    pub fn push(&mut self, vector: V) -> Result<(), CollectiveError> {
        self.push_with(vector, |sums, terms| {
            fold_of::<T>(Reduce::Sum)(bytes_of_mut(sums), bytes_of(terms));
        })
    }

    /// [`push`](Self::push) with an addition of the caller's, such as one on several threads: `add`
    /// must add the second slice to the first, element by element.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_with(
        &mut self,
        vector: V,
        mut add: impl FnMut(&mut [T], &[T]),
    ) -> Result<(), CollectiveError> {
        if vector.len() != self.elements {
            return Err(CollectiveError::ReplicaLength {
                expected: self.elements,
                got: vector.len(),
            });
        }
        if self.due().is_none() {
            return Err(self.wrong_count(self.held.len() + 1));
        }
        self.nodes.push((self.next..self.next + 1, vector));
        self.next += 1;
        while let [.., (left, _), (right, _)] = &self.nodes[..]
            && let Some(parent) = self.replicas.parent(left, right)
        {
            self.merge(parent, &mut add);
        }
        Ok(())
    }

    /// Adds up what is left of this rank's tree, so that one vector remains: for a sum in another
    /// order than that of the tree.
    ///
    /// # Errors
    /// [`ReplicaCount`](CollectiveError::ReplicaCount) if not all replicas are in.
    pub fn add_up(&mut self) -> Result<&mut V, CollectiveError> {
        self.add_up_with(|sums, terms| {
            fold_of::<T>(Reduce::Sum)(bytes_of_mut(sums), bytes_of(terms));
        })
    }

    /// [`add_up`](Self::add_up) with an addition of the caller's, as in [`push_with`](Self::push_with).
    ///
    /// # Errors
    /// As [`add_up`](Self::add_up).
    pub fn add_up_with(
        &mut self,
        mut add: impl FnMut(&mut [T], &[T]),
    ) -> Result<&mut V, CollectiveError> {
        self.check_complete()?;
        while self.nodes.len() > 1 {
            let end = self.held.end;
            let start = self.nodes[self.nodes.len() - 2].0.start;
            self.merge(start..end, &mut add);
        }
        self.sum()
    }

    /// What is in so far, cut into parts that end before the elements `ends`, in ascending order and
    /// the last of them the number of elements: each takes the parts of the replicas that are still
    /// due, and adds up the same. Whoever then pushes whole vectors, whose parts the parts took, with
    /// an addition that does nothing, has the sum of all parts in [`sum`](Self::sum).
    ///
    /// # Errors
    /// [`ReplicaLength`](CollectiveError::ReplicaLength) if the parts aren't all of the vector.
    pub fn parts(
        &mut self,
        ends: &[usize],
    ) -> Result<Vec<ReplicaBuffers<T, &mut [T]>>, CollectiveError> {
        let covered = ends.last().copied().unwrap_or(0);
        if covered != self.elements || !ends.is_sorted() {
            return Err(CollectiveError::ReplicaLength {
                expected: self.elements,
                got: covered,
            });
        }
        let starts = std::iter::once(&0).chain(ends);
        let part = |(start, end): (&usize, &usize)| ReplicaBuffers {
            replicas: self.replicas.clone(),
            held: self.held.clone(),
            elements: end - start,
            nodes: Vec::new(),
            free: Vec::new(),
            next: self.next,
            element: PhantomData,
        };
        let mut parts: Vec<_> = starts.zip(ends).map(part).collect();
        for (range, vector) in &mut self.nodes {
            let mut rest: &mut [T] = vector;
            for part in &mut parts {
                let (piece, after) = rest.split_at_mut(part.elements);
                part.nodes.push((range.clone(), piece));
                rest = after;
            }
        }
        Ok(parts)
    }

    /// The first vector: the sum, after [`add_up`](Self::add_up) or
    /// [`Ring::reproducible_all_reduce`].
    ///
    /// # Errors
    /// [`ReplicaCount`](CollectiveError::ReplicaCount) if not all replicas are in.
    pub fn sum(&mut self) -> Result<&mut V, CollectiveError> {
        self.check_complete()?;
        Ok(&mut self.nodes[0].1)
    }

    /// The length of every vector.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Elements of all vectors, free ones included.
    #[must_use]
    pub fn held_elements(&self) -> usize {
        (self.nodes.len() + self.free.len()) * self.elements
    }

    /// A vector that is free again, with unspecified values.
    pub fn reuse(&mut self) -> Option<V> {
        self.free.pop()
    }

    /// Forgets all vectors, for the next step.
    pub fn clear(&mut self) {
        self.free
            .extend(self.nodes.drain(..).map(|(_, vector)| vector));
        self.next = self.held.start;
    }

    /// Adds the last vector to the one before, which becomes `node`.
    fn merge(&mut self, node: Range<u32>, add: &mut impl FnMut(&mut [T], &[T])) {
        if let Some((_, terms)) = self.nodes.pop()
            && let Some((range, sums)) = self.nodes.last_mut()
        {
            add(sums, &terms);
            *range = node;
            self.free.push(terms);
        }
    }

    /// Checks that these are the buffers of `rank` of `world`, and that all its replicas are in.
    pub(crate) fn check(&self, rank: Rank, world: u32) -> Result<(), CollectiveError> {
        if self.replicas.world() != world || self.replicas.of(rank) != self.held {
            return Err(CollectiveError::ReplicaWorld {
                rank,
                world,
                buffers: self.replicas.world(),
            });
        }
        check_elements(self.elements)?;
        self.check_complete()
    }

    fn check_complete(&self) -> Result<(), CollectiveError> {
        match self.due() {
            None => Ok(()),
            Some(due) => Err(self.wrong_count((due - self.held.start) as usize)),
        }
    }

    fn wrong_count(&self, got: usize) -> CollectiveError {
        CollectiveError::ReplicaCount {
            expected: self.held.len(),
            got,
        }
    }
}

impl<T: Element> ReplicaBuffers<T> {
    /// Holds what `other` holds in place of what it held: each of its vectors as `convert` writes
    /// it to an empty one.
    pub(crate) fn refill<U, W>(
        &mut self,
        other: &ReplicaBuffers<U, W>,
        mut convert: impl FnMut(&W, &mut Vec<T>),
    ) {
        self.clear();
        (self.replicas, self.held) = (other.replicas.clone(), other.held.clone());
        self.next = other.next;
        for (node, from) in &other.nodes {
            let mut to = self.free.pop().unwrap_or_default();
            to.clear();
            convert(from, &mut to);
            self.nodes.push((node.clone(), to));
        }
    }
}

impl Ring {
    /// Sums over all replicas of all ranks in one fixed tree, and returns the sum: the same bits at
    /// every rank, for every world size from 1 to the number of replicas, transport and segment
    /// size. `buffers` must have been [pushed](ReplicaBuffers::push) all replicas of this rank; the
    /// sum is held in them until they are cleared, and all else of them is unspecified.
    ///
    /// In shared memory a rank folds its slice straight from its peers' memory, and reads
    /// `nodes - 1` slices more than a fast sum for a peer that contributes several nodes
    /// ([`Replicas::nodes`]). Over TCP nodes go straight to the owners of their slices, which sends
    /// [`Replicas::extra_elements`] more than a fast sum: none if the world divides the number of
    /// replicas and both are powers of two. Nodes of short vectors go to every rank. Where ranks have
    /// no [direct connections](crate::RingOptions::direct), or are more than
    /// [`DIRECT_WORLD_MAX`](crate::algorithm::direct::DIRECT_WORLD_MAX), nodes travel around the ring,
    /// which costs `w/2` times the bytes of a direct exchange in the first half of the operation.
    ///
    /// # Errors
    /// Also [`ReplicaCount`](CollectiveError::ReplicaCount) if not all replicas are in, and
    /// [`ReplicaWorld`](CollectiveError::ReplicaWorld) if the buffers are for another rank or
    /// world, having done nothing.
    pub fn reproducible_all_reduce<'a, T: Element, V: DerefMut<Target = [T]>>(
        &mut self,
        buffers: &'a mut ReplicaBuffers<T, V>,
    ) -> Result<&'a mut [T], CollectiveError> {
        buffers.check(self.rank(), self.world())?;
        let replicas = buffers.replicas.clone();
        let bytes = buffers.elements * size_of::<T>();
        let kind = Kind::Reproducible(T::TYPE, replicas.count());
        let mut nodes: Vec<&mut [u8]> = buffers
            .nodes
            .iter_mut()
            .map(|(_, vector)| bytes_of_mut::<T>(vector))
            .collect();
        self.operate(kind, bytes, |ring, link, call| match link {
            Link::Alone => Ok(()),
            Link::Shared(board) => {
                let terms = Terms {
                    counts: replicas.node_counts(),
                    steps: replicas.steps(),
                    fold: fold_of::<T>(Reduce::Sum),
                    element_bytes: size_of::<T>(),
                };
                board.begin(call)?;
                board.all_reduce(&mut nodes, &terms)
            }
            Link::Tcp(link) => {
                let tree = Tree {
                    replicas: &replicas,
                    fold: fold_of::<T>(Reduce::Sum),
                    element_bytes: size_of::<T>(),
                };
                over_tcp::reproducible(ring, link, call, &mut nodes, &tree)
            }
        })?;
        Ok(&mut buffers.nodes[0].1)
    }
}
