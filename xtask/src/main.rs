//! Man pages and shell completions, made from the definition of the command line.
fn main() {}
