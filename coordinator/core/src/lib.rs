//! The coordinator's state machine: event in, effects out.
