mod attention;
mod gradients;
mod networks;
mod recurrent;
mod runs;
