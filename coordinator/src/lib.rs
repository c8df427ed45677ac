//! The coordinator's shell: gRPC services and the leader loop.
