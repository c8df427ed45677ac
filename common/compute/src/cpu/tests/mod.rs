mod attention;
mod composed;
mod convolutions;
mod gradients;
mod networks;
mod passes;
mod recurrent;
mod runs;
