mod convolutions;
mod gradients;
mod networks;
mod runs;
