//! Plans a graph once for static shapes and runs the plan on CPU cores.
