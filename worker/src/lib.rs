//! The worker's shell: the agent, its slots, and their sessions with the coordinator.
