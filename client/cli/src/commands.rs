//! One module a command.

pub mod coordinator;
pub mod evaluate;
pub mod generate;
pub mod jobs;
pub mod nodes;
pub mod predict;
pub mod submit;
pub mod train;
pub mod worker;
