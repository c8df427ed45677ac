//! Tests that cross crates: simulation, goldens, conformance.
