//! Dataset readers in, model files out.
