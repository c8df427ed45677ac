mod convolutions;
mod gradients;
mod networks;
mod passes;
mod runs;
