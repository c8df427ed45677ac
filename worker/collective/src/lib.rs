//! Ring all-reduce between ranks: algorithms over verbs, transports below them.
