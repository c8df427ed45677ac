//! One module a command.

pub mod bench;
pub mod check;
pub mod coordinator;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod jobs;
pub mod model;
pub mod nodes;
pub mod predict;
pub mod submit;
pub mod train;
pub mod worker;
