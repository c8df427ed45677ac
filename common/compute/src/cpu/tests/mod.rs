mod gradients;
mod runs;
