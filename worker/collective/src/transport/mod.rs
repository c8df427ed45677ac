//! How bytes move between neighbours. A transport carries out the
//! [`Verbs`](crate::algorithm::Verbs) of an algorithm on one operand.
//!
//! | module | medium |
//! |---|---|
//! | [`tcp`] | two TCP connections, one thread |
//! | [`shared`] | memory that all ranks of a host see; no ring |

pub mod shared;
pub mod tcp;
