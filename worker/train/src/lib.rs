//! The step loop: optimizers, schedules, metrics and evaluation on one rank.
