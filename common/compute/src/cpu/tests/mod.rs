mod gradients;
mod networks;
mod runs;
