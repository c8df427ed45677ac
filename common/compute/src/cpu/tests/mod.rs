mod attention;
mod gradients;
mod networks;
mod runs;
