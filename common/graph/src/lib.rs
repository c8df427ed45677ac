//! The tensor-graph IR: shapes, verifier, text dump, reverse-mode autodiff.
