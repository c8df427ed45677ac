mod convolutions;
mod gradients;
mod networks;
mod pooling;
mod runs;
