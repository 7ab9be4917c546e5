//! The program: parses its arguments, runs them, and maps the result to an exit status.
fn main() {}
