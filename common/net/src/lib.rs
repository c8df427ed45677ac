//! Channel and server builders, shutdown, telemetry.
