//! What the core does about each event, seen from the shell.

#[path = "../rig/mod.rs"]
mod rig;

mod cancel;
mod elastic;
mod faults;
mod growth;
mod limits;
mod restart;
mod returns;
mod starts;
mod submits;
