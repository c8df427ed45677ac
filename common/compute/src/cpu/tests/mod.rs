mod attention;
mod composed;
mod gradients;
mod networks;
mod recurrent;
mod runs;
